//! Packages: their names, lists and managers.

use super::*;

#[test]
fn pkg_map_prints_a_line_for_each_mapped_name() {
    let bench = Bench::new();
    let map = bench.file(
        "map",
        r#"{"default": {"a": "b c", "none": ""}, "family": {"debian": {"d": "e"}}}"#,
    );
    let pkg_map = |line: &str| {
        run(bench
            .helper("pkg-map")
            .env("DISTRO_NAME", "debian")
            .arg("--pkg-map")
            .arg(&map)
            .args(words(line)))
    };
    let output = pkg_map("--prefix - a none d");
    assert_eq!(
        (stdout(&output).as_str(), output.status.code()),
        ("-b c\n-e\n", Some(0))
    );
    assert!(
        stderr(&output).starts_with("INFO:root:Mapping for "),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        stdout(&pkg_map("--missing-ok --prefix=x unknown --odd")),
        "xunknown\nx--odd\n"
    );
    let output = pkg_map("a unknown");
    assert_eq!(
        (stdout(&output).as_str(), output.status.code()),
        ("", Some(1))
    );
    assert!(
        stderr(&output).contains("for unknown\nhint: add them to a section"),
        "{}",
        stderr(&output)
    );
    let output = run(bench
        .helper("pkg-map")
        .args(["--pkg-map", "/nowhere", "--distro", "x", "a"]));
    assert_eq!(output.status.code(), Some(2));
    let output = run(bench.helper("pkg-map").arg("a"));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("exactly one of `--element` and `--pkg-map` is needed"));
}

#[test]
fn package_lists_are_squashed_and_installed() {
    let bench = Bench::new();
    bench.file(
        "lib/one/package-installs.yaml",
        "a:\nb:\n  phase: pre-install.d\nc:\n  build-only: true\n",
    );
    bench.file(
        "lib/two/package-installs.json",
        r#"{"a": null, "d": {"when": "WANTED = yes"}}"#,
    );
    bench.file("lib/two/package-installs.yaml", "e:\n  arch: arm64\n");
    let out = bench.path("out.json");
    let squash = || {
        let mut command = bench.helper("package-installs-squash");
        command
            .args(["--elements", "one two", "--path"])
            .arg(bench.path("lib"))
            .arg(&out)
            .env("ARCH", "amd64");
        command
    };
    let output = run(&mut squash());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("The variable <WANTED> is not set\nhint: package `d` in `"),
        "{}",
        stderr(&output)
    );
    let output = run(squash().env("WANTED", "yes"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        fs::read_to_string(&out).unwrap(),
        "{\n \"install.d\": {\n  \"install\": [\n   [\n    \"a\",\n    \"one\"\n   ],\n   [\n    \"c\",\n    \"one\"\n   ],\n   [\n    \"a\",\n    \"two\"\n   ],\n   [\n    \"d\",\n    \"two\"\n   ]\n  ],\n  \"uninstall\": [\n   [\n    \"c\",\n    \"one\"\n   ]\n  ]\n },\n \"pre-install.d\": {\n  \"install\": [\n   [\n    \"b\",\n    \"one\"\n   ]\n  ]\n }\n}"
    );

    let install = |line: &str| {
        run(bench
            .helper("package-installs-v2")
            .env("DISTRO_NAME", "debian")
            .args(words(line))
            .arg(&out))
    };
    assert_eq!(
        stdout(&install("--phase post-install.d")),
        "Nothing to install\n"
    );
    assert_eq!(
        stdout(&install("--phase pre-install.d --uninstall")),
        "Nothing to uninstall\n"
    );
    assert_eq!(
        stdout(&install("--phase install.d -n")),
        "Map install for one: a, c\nMap install for two: a, d\ninstall-packages a c d\n"
    );
    assert_eq!(
        stdout(&install("--phase install.d --uninstall --noop")),
        "Map uninstall for one: c\ninstall-packages -e c\n"
    );
    // The element's own program is used when it comes first.
    fs::remove_file(bench.path(".kiln/bin/install-packages")).unwrap();
    bench.script(
        "stub/install-packages",
        "#!/bin/sh\necho \"got $*\"; echo oops >&2; exit 3\n",
    );
    let output = install("--phase install.d");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).ends_with("> got a c d\n> oops\n"),
        "{}",
        stdout(&output)
    );
    assert!(
        stderr(&output).contains("install-packages failed with returncode 3"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn textual_package_lists_are_installed_and_removed() {
    let bench = Bench::new();
    bench.file("install.d/package-installs-x", "a # comment\n-b\n");
    fs::remove_file(bench.path(".kiln/bin/install-packages")).unwrap();
    bench.script("stub/install-packages", "#!/bin/sh\necho \"$*\"\n");
    assert_eq!(
        stdout(&run(bench
            .helper("package-installs")
            .args(["-d", "install.d"]))),
        "a b\n"
    );
    assert_eq!(
        stdout(&run(bench
            .helper("package-uninstalls")
            .args(["-d", "install.d"]))),
        "-e b\n"
    );
    let output = run(&mut bench.helper("package-installs"));
    assert!(
        stderr(&output).contains("hint: package-installs -d DIRECTORY"),
        "{}",
        stderr(&output)
    );
}

/// Every request for every package manager, and the commands that come of it.
#[test]
fn install_packages_drives_each_package_manager() {
    let all = "dnf yum dnf5 yumdownloader zypper emerge emerge-webrsync etc-update eselect apk rpm";
    let emerge = "emerge --binpkg-respect-use --rebuilt-binaries=y --usepkg=y --with-bdeps=y \
                  --binpkg-changed-deps=y --jobs=2 --verbose --autounmask=n";
    for (present, variable, line, expected) in [
        (
            "dnf",
            "",
            "a b",
            "dnf -y -v install a b|dnf -y mark install a b",
        ),
        ("dnf dnf5", "", "a", "dnf -y install a|dnf -y mark user a"),
        (
            "dnf",
            "YUM_FLAGS=-y --nogpgcheck",
            "a",
            "dnf -y --nogpgcheck install a|dnf -y mark install a",
        ),
        (
            "dnf",
            "DIB_OFFLINE=1",
            "a",
            "dnf -y -v -C install a|dnf -y mark install a",
        ),
        (
            "dnf",
            "",
            "libssl-dev x-dev",
            "dnf -y -v install openssl-devel x-devel|dnf -y mark install openssl-devel x-devel",
        ),
        ("dnf", "", "-e a", "dnf -y -v remove a"),
        ("dnf", "", "-u", "dnf -y update"),
        ("dnf", "", "-d store a", "dnf download --destdir=store a"),
        ("yum dnf", "YUM=yum", "a", "yum -y -v install a"),
        (
            "yum yumdownloader",
            "",
            "-d store a",
            "yumdownloader --destdir=store a",
        ),
        ("yum", "", "snmp-mibs-downloader", ""),
        (
            "zypper",
            "",
            "a b",
            "zypper --non-interactive --gpg-auto-import-keys install --no-recommends a b",
        ),
        (
            "zypper",
            "",
            "-e a",
            "zypper --non-interactive --gpg-auto-import-keys remove --clean-deps a",
        ),
        (
            "zypper",
            "",
            "-u",
            "zypper --non-interactive --gpg-auto-import-keys dist-upgrade --no-recommends",
        ),
        (
            "zypper",
            "",
            "-d a",
            "zypper --non-interactive --gpg-auto-import-keys install --no-recommends --download-only a",
        ),
        (
            "zypper",
            "DIB_OFFLINE=1",
            "a",
            "zypper --non-interactive --gpg-auto-import-keys --no-refresh install --no-recommends a",
        ),
        (
            "emerge emerge-webrsync",
            "GENTOO_EMERGE_DEFAULT_OPTS=--quiet --jobs=2",
            "a/b",
            "emerge-webrsync -q|emerge --quiet --jobs=2 --noreplace --changed-use a/b",
        ),
        (
            "emerge",
            "DIB_OFFLINE=1",
            "-e a/b c/d",
            &format!("{emerge} --deselect a/b|{emerge} --deselect c/d|{emerge} --depclean"),
        ),
        (
            "emerge emerge-webrsync etc-update eselect",
            "",
            "-u",
            &format!(
                "emerge-webrsync -q|{emerge} --update --deep --changed-use @world|\
                 {emerge} --verbose=n --depclean|{emerge} --usepkg=n @preserved-rebuild|\
                 etc-update --automode -5|eselect news read new"
            ),
        ),
        ("apk", "", "a b", "apk add --no-progress a b"),
        (
            "apk",
            "DIB_OFFLINE=1",
            "a",
            "apk add --no-progress --no-network a",
        ),
        ("apk", "", "-e a", "apk del --no-progress a"),
        ("apk", "", "-u", "apk upgrade --no-progress"),
        ("apk", "", "", ""),
    ] {
        let bench = Bench::new();
        for name in all
            .split(' ')
            .filter(|name| present.split(' ').any(|one| one == *name))
        {
            bench.script(&format!("stub/{name}"), "#!/bin/sh\necho \"${0##*/} $*\"\n");
        }
        let mut command = bench.helper("install-packages");
        // Nothing of the host but the shell that the stubs need.
        command.env("PATH", bench.path("stub")).args(words(line));
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
        let output = run(&mut command);
        let expected: String = expected
            .split('|')
            .filter(|line| !line.is_empty())
            .flat_map(|line| [line, "\n"])
            .collect();
        assert_eq!(stdout(&output), expected, "{present} {variable} {line}");
    }
}

#[test]
fn install_packages_stops_at_the_first_command_that_fails() {
    let bench = Bench::new();
    bench.script("stub/dnf", "#!/bin/sh\necho \"$*\"\nexit 7\n");
    let mut command = bench.helper("install-packages");
    command.env("PATH", bench.path("stub")).arg("a");
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "-y -v install a\n");
}

#[test]
fn map_packages_prints_one_line_for_each_name() {
    let bench = Bench::new();
    let output = run(bench
        .helper("map-packages")
        .args(["apache2", "vim", "z-dev"]));
    assert_eq!(stdout(&output), "httpd\nvim\nz-devel\n");
    assert!(stderr(&output).contains("`apache2` is a name of Debian's"));
}

#[test]
fn install_packages_explains_what_it_cannot_do() {
    let bench = Bench::new();
    let mut command = bench.helper("install-packages");
    command.env("PATH", bench.path("stub")).arg("a");
    let output = run(&mut command);
    if !Path::new("/usr/local/bin/install-packages").exists() {
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains("this root has no package manager that is known\nhint: "),
            "{}",
            stderr(&output)
        );
    }
    bench.script(
        "stub/apt-get",
        "#!/bin/sh\necho \"$DEBIAN_FRONTEND\" \"$@\"\n",
    );
    let apt = |line: &str| stdout(&run(bench.helper("install-packages").args(words(line))));
    let line = apt("a b");
    assert!(
        line.starts_with("noninteractive --assume-yes -o "),
        "{line}"
    );
    assert!(
        line.contains(" -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-confdef "),
        "{line}"
    );
    assert!(
        line.contains(" -o DPkg::Path=/tmp/in_target.d/.kiln/bin:"),
        "{line}"
    );
    assert!(line.ends_with(" install a b\n"), "{line}");
    assert!(apt("-e a").ends_with(" remove a\n"));
    assert!(apt("-u a").ends_with(" dist-upgrade\n"));
    assert!(apt("-- -t x-backports a").ends_with(" install -t x-backports a\n"));
    let output = run(&mut bench.helper("install-packages"));
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(0), "")
    );
    let output = run(bench.helper("install-packages").args(["-d", "a"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("unsupported option `-d`"));
}

#[test]
fn offline_builds_list_the_archives_they_miss() {
    let bench = Bench::new();
    bench.script(
        "stub/apt-get",
        "#!/bin/sh\ncase \"$*\" in *--print-uris*) echo \"'http://m/a_1.deb' a_1.deb 12 SHA256:0\";; *) echo \"$@\";; esac\n",
    );
    let output = run(bench
        .helper("install-packages")
        .env("DIB_OFFLINE", "1")
        .arg("a"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "install-packages: error: offline, and these archives are not in the cache:\n  a_1.deb (12 bytes) from http://m/a_1.deb\nhint: build once without --offline (DIB_OFFLINE), which fills the cache\n"
    );
    bench.script(
        "stub/apt-get",
        "#!/bin/sh\ncase \"$*\" in *--print-uris*) ;; *) echo \"$@\";; esac\n",
    );
    let output = run(bench
        .helper("install-packages")
        .env("DIB_OFFLINE", "1")
        .arg("a"));
    assert!(
        stdout(&output).contains(" -q --no-download install a\n"),
        "{}",
        stdout(&output)
    );
}
