//! The helpers as hooks meet them: the real binary under their names.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A directory of links to kiln that is first in `PATH`, as the engine makes it.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let bin = bench.path(".kiln/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir(bench.path("record")).unwrap();
        for name in kiln::helpers::NAMES {
            symlink(env!("CARGO_BIN_EXE_kiln"), bin.join(name)).unwrap();
        }
        bench
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn file(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn script(&self, path: &str, text: &str) -> PathBuf {
        let path = self.file(path, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A helper with nothing in its environment but `PATH`, in which `stub/`
    /// comes after kiln's own links and before the host's programs.
    fn helper(&self, name: &str) -> Command {
        let mut command = Command::new(self.path(".kiln/bin").join(name));
        let path = format!(
            "{}:{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.path(".kiln/bin").display(),
            self.path("stub").display()
        );
        command
            .env_clear()
            .env("PATH", path)
            .env("KILN_RECORD", self.path("record"))
            .current_dir(self.dir.path());
        command
    }
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn words(line: &str) -> Vec<&OsStr> {
    line.split(' ').map(OsStr::new).collect()
}

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

#[test]
fn svc_maps_are_merged_for_the_distribution() {
    let bench = Bench::new();
    bench.file("lib/one/svc-map", "ssh:\n  debian: ssh\n  default: sshd\n");
    bench.file("lib/two/svc-map", "cron:\n  redhat: crond\n");
    let output = run(bench
        .helper("svc-map-merge")
        .env("IMAGE_ELEMENT", "one two")
        .env("ELEMENTS_PATH", bench.path("lib"))
        .args(["--distro", "ubuntu", "services"]));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        fs::read_to_string(bench.path("services")).unwrap(),
        "\"cron\": \"cron\"\n\"ssh\": \"ssh\"\n"
    );
    assert_eq!(
        stdout(&run(bench.helper("svc-map").args(["no-such-service", "x"]))),
        "no-such-service\nx\n"
    );
}

#[test]
fn run_parts_sources_the_environment_and_runs_hooks_in_order() {
    if Command::new("bash").arg("--version").output().is_err() {
        println!("SKIP: no bash on this machine");
        return;
    }
    let bench = Bench::new();
    bench.file("hooks/environment.d/10-a", "export A=1\nB=unexported\n");
    bench.file("hooks/environment.d/9-b.bash", "C=$A$B\nexport C\n");
    bench.script(
        "hooks/install.d/9-first",
        "#!/bin/sh\necho first $A $C ${B:-none} $#\n",
    );
    bench.script(
        "hooks/install.d/10-second",
        "echo second \"${BASH_VERSION:+bash}\"\n",
    );
    bench.script("hooks/install.d/skipped.sh", "#!/bin/sh\nexit 9\n");
    let output = run(bench.helper("dib-run-parts").arg("hooks/install.d"));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "first 1 1unexported none 0\nsecond bash\n");
    let log = stderr(&output);
    let order = [
        "dib-run-parts Sourcing environment file hooks/install.d/../environment.d/10-a\n",
        "dib-run-parts Sourcing environment file hooks/install.d/../environment.d/9-b.bash\n",
        "dib-run-parts Running hooks/install.d/9-first\n",
        "dib-run-parts 9-first completed\n",
        "dib-run-parts Running hooks/install.d/10-second\n",
        "dib-run-parts Target: install.d\n",
        "dib-run-parts 10-second ",
        "dib-run-parts 9-first  ",
        "dib-run-parts --------------------- END PROFILING ---------------------\n",
    ];
    let mut rest = log.as_str();
    for line in order {
        let at = rest
            .find(line)
            .unwrap_or_else(|| panic!("{line:?} is not in its place in:\n{log}"));
        rest = &rest[at + line.len()..];
    }
    assert_eq!(
        stdout(&run(bench
            .helper("dib-run-parts")
            .args(["--list", "hooks/install.d"]))),
        "hooks/install.d/9-first\nhooks/install.d/10-second\n"
    );
}

#[test]
fn run_parts_fails_as_its_hook_or_environment_does() {
    let bench = Bench::new();
    bench.script("hooks/install.d/1-fails", "#!/bin/sh\nexit 7\n");
    bench.script("hooks/install.d/2-never", "#!/bin/sh\necho never\n");
    let output = run(bench.helper("dib-run-parts").arg("hooks/install.d"));
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(7), "")
    );
    assert!(!stderr(&output).contains("PROFILING"));
    bench.file("hooks/environment.d/1", "exit 3\n");
    let output = run(bench.helper("dib-run-parts").arg("hooks/install.d"));
    assert_eq!(output.status.code(), Some(3));
    assert!(!stderr(&output).contains("Running"));
    fs::write(
        bench.path("hooks/environment.d/1"),
        "echo $UNSET_VARIABLE\n",
    )
    .unwrap();
    assert!(
        !run(bench.helper("dib-run-parts").arg("hooks/install.d"))
            .status
            .success()
    );
    let output = run(bench.helper("dib-run-parts").arg("nowhere"));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output)
            .contains("`nowhere` is not a directory\nhint: dib-run-parts [--list] DIRECTORY")
    );
}

#[test]
fn sudo_runs_its_command_with_the_same_environment() {
    let bench = Bench::new();
    let sudo = |line: &str| run(bench.helper("sudo").env("KEPT", "yes").args(words(line)));
    assert_eq!(
        stdout(&sudo("-E -n -u root A=1 printenv KEPT A")),
        "yes\n1\n"
    );
    assert_eq!(stdout(&sudo("-H -- printenv HOME")), "/root\n");
    assert_eq!(
        run(bench.helper("sudo").args(["sh", "-c", "exit 5"]))
            .status
            .code(),
        Some(5)
    );
    assert_eq!(sudo("false").status.code(), Some(1));
    let output = sudo("no-such-command-here");
    assert_eq!(output.status.code(), Some(127));
    assert!(
        stderr(&output).starts_with("sudo: error: cannot run `no-such-command-here`: "),
        "{}",
        stderr(&output)
    );
    let output = sudo("-u no-such-user true");
    assert!(
        stderr(&output).contains("unknown user `no-such-user`"),
        "{}",
        stderr(&output)
    );
    let output = run(bench
        .helper("sudo")
        .env("SHELL", "/bin/sh")
        .args(["-s", "printf", "%s|", "a b", "c;d"]));
    assert_eq!(stdout(&output), "a b|c;d|");
}

#[test]
fn install_types_link_the_chosen_hooks() {
    let bench = Bench::new();
    bench.script("hooks/install.d/a-b-package-install/10-package", "");
    bench.script("hooks/install.d/a-b-source-install/10-source", "");
    bench.script("hooks/install.d/c-source-install/20-c", "");
    let output = run(bench
        .helper("install-types-enable")
        .env("TMP_HOOKS_PATH", bench.path("hooks"))
        .env("DIB_INSTALLTYPE_a_b", "package"));
    assert!(output.status.success(), "{}", stderr(&output));
    let list = run(bench
        .helper("dib-run-parts")
        .args(["--list", "hooks/install.d"]));
    assert_eq!(
        stdout(&list),
        "hooks/install.d/10-package\nhooks/install.d/20-c\n"
    );
    let output = run(&mut bench.helper("install-types-enable"));
    assert!(stderr(&output).contains("TMP_HOOKS_PATH is not set"));
}

#[test]
fn an_initramfs_is_deferred_within_dpkg_only() {
    let bench = Bench::new();
    let deferred = |line: &str, variable: &str| {
        run(bench
            .helper("update-initramfs")
            .env(variable, "postinst")
            .args(words(line)))
    };
    // dpkg's triggers leave only the script's name.
    for variable in ["DPKG_MAINTSCRIPT_PACKAGE", "DPKG_MAINTSCRIPT_NAME"] {
        for line in ["-c -k 6.1 -b /boot", "-u"] {
            let output = deferred(line, variable);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        }
    }
    let text = fs::read_to_string(bench.path("record/initramfs-pending")).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    // The version has no modules here, so nothing is to be done.
    let output = run(bench.helper("kiln-deferred").arg("run"));
    if Path::new("/lib/modules").exists() && !output.status.success() {
        println!("SKIP: this machine has kernels of its own");
        return;
    }
    assert_eq!(
        fs::read_to_string(bench.path("record/initramfs-pending")).unwrap(),
        ""
    );
    let output = run(bench.helper("kiln-deferred").arg("frob"));
    assert!(
        stderr(&output)
            .contains("unknown command `frob`\nhint: kiln-deferred run | kiln-deferred pending")
    );
    let output = run(bench
        .helper("kiln-deferred")
        .env_remove("KILN_RECORD")
        .arg("run"));
    assert!(stderr(&output).contains("KILN_RECORD is not set"));
}

/// Every request for every package manager, and the commands that come of it.
#[test]
fn install_packages_drives_each_package_manager() {
    let all = "dnf yum dnf5 yumdownloader zypper emerge etc-update apk rpm";
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
            "emerge",
            "GENTOO_EMERGE_DEFAULT_OPTS=--quiet --jobs=2",
            "a/b",
            "emerge --quiet --jobs=2 a/b",
        ),
        (
            "emerge",
            "",
            "-e a/b",
            "emerge --deselect a/b|emerge --depclean a/b",
        ),
        (
            "emerge etc-update",
            "",
            "-u",
            "emerge --sync|emerge --update --deep --newuse @world|emerge --depclean|emerge @preserved-rebuild|etc-update --automode -5",
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
    assert!(line.ends_with(" install -- a b\n"), "{line}");
    assert!(apt("-e a").ends_with(" remove -- a\n"));
    assert!(apt("-u a").ends_with(" dist-upgrade --\n"));
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
        stdout(&output).contains(" -q --no-download install -- a\n"),
        "{}",
        stdout(&output)
    );
}

/// The layout of `block-device-efi`, with the directory `boot` as its /boot.
fn layout(bench: &Bench) -> PathBuf {
    let root = bench.dir.path().canonicalize().unwrap();
    let text = serde_json::json!({
        "partition_table": "gpt", "sector_size": 512, "device": "/dev/loop0",
        "filesystems": [
            {"name": "mkfs_ESP", "device": "/dev/mapper/loop0p1", "mount_point": root.join("boot/efi"), "fstype": "vfat",
             "label": "MKFS_ESP", "uuid": "ABCD-1234", "partition": 1, "partuuid": "p1"},
            {"name": "mkfs_root", "device": "/dev/mapper/loop0p3", "mount_point": "/", "fstype": "ext4",
             "label": "cloudimg-rootfs", "uuid": "00000000-0000-4000-8000-000000000003", "partition": 3, "partuuid": "p3"},
        ],
    });
    bench.file("layout.json", &text.to_string())
}

#[test]
fn grub_probe_answers_what_grub_mkconfig_asks() {
    let bench = Bench::new();
    let layout = layout(&bench);
    let probe = |line: &str| {
        run(bench
            .helper("grub-probe")
            .env("KILN_LAYOUT", &layout)
            .args(words(line)))
    };
    for (line, expected) in [
        ("--target=device /", "/dev/mapper/loop0p3\n"),
        (
            "--device /dev/mapper/loop0p3 --target=fs_uuid",
            "00000000-0000-4000-8000-000000000003\n",
        ),
        ("--device /dev/mapper/loop0p1 --target=fs", "fat\n"),
        ("-t abstraction /", ""),
        (
            "--device /dev/mapper/loop0p3 --target=compatibility_hint",
            "hd0,gpt3\n",
        ),
        ("-0 -t drive /", "(hd0,gpt3)\0"),
    ] {
        let output = probe(line);
        assert_eq!(
            (stdout(&output).as_str(), output.status.code()),
            (expected, Some(0)),
            "{line}: {}",
            stderr(&output)
        );
    }
    let output = probe("--device /dev/sda --target=fs");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output)
            .contains("`/dev/sda` is not a device of the image\nhint: it has /dev/loop0 "),
        "{}",
        stderr(&output)
    );
    let output = run(bench.helper("grub-probe").arg("/"));
    assert!(
        stderr(&output).contains("KILN_LAYOUT is not set"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn grub_install_prepares_core_images_and_records_them() {
    let bench = Bench::new();
    let layout = layout(&bench);
    for name in [
        "moddep.lst",
        "ext2.mod",
        "boot.img",
        "config.h",
        "modinfo.sh",
    ] {
        bench.file(&format!("lib/{name}"), name);
    }
    bench.script(
        "stub/grub-mkimage",
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'grub-mkimage (GRUB) 2.06-13' && exit\n\
         while [ $# -gt 0 ]; do case $1 in -o) out=$2; shift;; -c) config=$2; shift;; -O|-p|-d) line=\"$line $1 $2\"; shift;; *) line=\"$line $1\";; esac; shift; done\n\
         { echo \"$line\"; cat \"$config\"; } >\"$out\"\n",
    );
    let install = |line: &str| {
        let mut command = bench.helper("grub-install");
        command
            .env("KILN_LAYOUT", &layout)
            .arg("--boot-directory")
            .arg(bench.path("boot"));
        run(command.arg("-d").arg(bench.path("lib")).args(words(line)))
    };
    let output = install("--modules=lvm --target=i386-pc --force /dev/loop0");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let grub = bench.dir.path().canonicalize().unwrap().join("boot/grub");
    let lib = bench.path("lib");
    let expected = format!(
        " -O i386-pc -p {0} -d {1} lvm biosdisk ext2 part_gpt search_fs_uuid\n\
         search.fs_uuid 00000000-0000-4000-8000-000000000003 root hd0,gpt3\nset prefix=($root)'{0}'\n",
        grub.display(),
        lib.display()
    );
    assert_eq!(
        fs::read_to_string(grub.join("i386-pc/core.img")).unwrap(),
        expected
    );
    let mut names: Vec<String> = fs::read_dir(grub.join("i386-pc"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "boot.img",
            "core.img",
            "ext2.mod",
            "load.cfg",
            "moddep.lst",
            "modinfo.sh"
        ]
    );
    assert_eq!(fs::metadata(grub.join("grubenv")).unwrap().len(), 1024);
    let record = fs::read_to_string(bench.path("record/grub-install.jsonl")).unwrap();
    assert_eq!(
        record,
        format!(
            "{{\"target\":\"i386-pc\",\"core\":\"{0}/i386-pc/core.img\",\"boot_image\":\"{0}/i386-pc/boot.img\"}}\n",
            grub.display()
        )
    );

    let output = install("--target=x86_64-efi --removable --force --no-nvram");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let program = fs::read_to_string(bench.path("boot/efi/EFI/BOOT/BOOTX64.EFI")).unwrap();
    assert!(program.starts_with(" -O x86_64-efi "), "{program}");
    assert!(!bench.path("boot/efi/EFI/grub").exists());

    assert_eq!(
        stdout(&run(bench.helper("grub-install").arg("--version"))),
        "grub-install (GRUB) 2.06-13\n"
    );
    for (line, message) in [
        ("--target=i386-pc", "no path or device is given"),
        (
            "--target=i386-pc /dev/sda",
            "`/dev/sda` is not a device of the image",
        ),
        (
            "--target=sparc64-ieee1275 /dev/loop0",
            "platform `sparc64-ieee1275` is not supported",
        ),
        (
            "--target=x86_64-efi --efi-directory=elsewhere",
            "no FAT filesystem of the image is mounted at `",
        ),
        (
            "--target=i386-pc -d /nowhere /dev/loop0",
            "GRUB's modules for `i386-pc` are not in this root: no `/nowhere/moddep.lst`\nhint: install `grub-pc-bin` (Debian)",
        ),
    ] {
        let output = install(line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(
            stderr(&output).contains(message),
            "{line}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn the_real_grub_mkimage_makes_images_that_fit() {
    let lib = Path::new("/usr/lib/grub");
    if Command::new("grub-mkimage")
        .arg("--version")
        .output()
        .is_err()
        || !lib.join("i386-pc/boot.img").exists()
    {
        println!("SKIP: no grub-mkimage with i386-pc modules on this machine");
        return;
    }
    let bench = Bench::new();
    let layout = layout(&bench);
    for (target, file) in [
        ("i386-pc", "boot/grub/i386-pc/core.img"),
        ("x86_64-efi", "boot/efi/EFI/BOOT/BOOTX64.EFI"),
    ] {
        if !lib.join(target).is_dir() {
            println!("SKIP: no {target} modules on this machine");
            continue;
        }
        let output = run(bench
            .helper("grub-install")
            .env("KILN_LAYOUT", &layout)
            .arg("--boot-directory")
            .arg(bench.path("boot"))
            .arg(format!("--target={target}"))
            .args(["--removable", "/dev/loop0"]));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let image = fs::read(bench.path(file)).unwrap();
        assert!(
            image.len() > 10_000 && image.len() < 2047 * 512,
            "{} bytes",
            image.len()
        );
    }
}

#[test]
fn dib_python_and_dib_init_system_answer_from_the_environment() {
    let bench = Bench::new();
    bench.script("stub/python3", "#!/bin/sh\necho python3 \"$@\"\n");
    let output = run(bench
        .helper("dib-python")
        .env("DIB_PYTHON_VERSION", "3")
        .args(["-c", "x"]));
    assert_eq!(stdout(&output), "python3 -c x\n");
    let output = run(bench
        .helper("dib-python")
        .env("PATH", bench.path(".kiln/bin"))
        .env("DIB_PYTHON_VERSION", "2"));
    assert_eq!(output.status.code(), Some(127));
    assert!(
        stderr(&output).contains("no Python in this root (looked for python2, python3, python)"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        stdout(&run(bench
            .helper("dib-init-system")
            .env("DIB_INIT_SYSTEM", "systemd"))),
        "systemd\n"
    );
    assert!(
        stderr(&run(&mut bench.helper("dib-init-system"))).contains("DIB_INIT_SYSTEM is not set")
    );
}

#[test]
fn a_closed_pipe_is_no_error() {
    let bench = Bench::new();
    let map = bench.file("map", r#"{"default": {"a": "b"}}"#);
    let line = format!(
        "pkg-map --distro x --pkg-map {} a; echo $? >status",
        map.display()
    );
    let helper = bench.helper("pkg-map");
    let path = helper
        .get_envs()
        .find(|(name, _)| *name == "PATH")
        .and_then(|(_, value)| value)
        .unwrap()
        .to_owned();
    let status = Command::new("sh")
        .env("PATH", path)
        .current_dir(bench.dir.path())
        .args(["-c", &format!("{{ sleep 0.2; {line}; }} | true")])
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(fs::read_to_string(bench.path("status")).unwrap(), "0\n");
}

/// `extract-image` of a file into `target/`.
fn extract_image(bench: &Bench, image: &str, variables: &[(&str, &str)]) -> Output {
    fs::create_dir_all(bench.path("target")).unwrap();
    let mut command = bench.helper("extract-image");
    command
        .env("DIB_IMAGE_CACHE", bench.path("cache"))
        .env("TARGET_ROOT", bench.path("target"))
        .envs(variables.iter().copied())
        .args(["image", "image.tgz"])
        .arg(format!("file://{}", bench.path(image).display()))
        .arg(bench.path("cache/image"));
    run(&mut command)
}

#[test]
fn extract_image_keeps_an_archive_until_the_image_is_another() {
    if Command::new("tar").arg("--version").output().is_err() {
        println!("SKIP: no tar on this machine");
        return;
    }
    let bench = Bench::new();
    let make = |text: &str| {
        bench.file("tree/etc/os-release", "ID=toy\n");
        bench.file("tree/which", text);
        let mut tar = Command::new("tar");
        tar.current_dir(bench.dir.path());
        let output = run(tar.args(["-C", "tree", "-czf", "image.tar.gz", "."]));
        assert!(output.status.success(), "{}", stderr(&output));
    };
    let extracted = || fs::read_to_string(bench.path("target/which")).unwrap();
    make("first");
    let output = extract_image(&bench, "image.tar.gz", &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(extracted(), "first");
    // Only what is kept can be meant.
    make("second");
    let offline = [("DIB_OFFLINE", "1")];
    let output = extract_image(&bench, "image.tar.gz", &offline);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stderr(&output).contains("reading"), "{}", stderr(&output));
    assert_eq!(extracted(), "first");
    // Another image, known by its time.
    let local = bench.path("image.tar.gz");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let file = fs::File::options().write(true).open(&local).unwrap();
    file.set_modified(later).unwrap();
    let local = [("DIB_LOCAL_IMAGE", local.to_str().unwrap())];
    for expected in [true, false] {
        let output = extract_image(&bench, "image.tar.gz", &local);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output).contains("reading"), expected);
        assert_eq!(extracted(), "second");
    }
}

#[test]
fn extract_image_says_what_it_cannot_read() {
    let bench = Bench::new();
    let mut page = b"<html>not found</html>".to_vec();
    page.resize(4096, b'\n');
    let mut xfs = vec![0; 1 << 20];
    xfs[..4].copy_from_slice(b"XFSB");
    let mut lvm = vec![0; 1 << 20];
    lvm[512..520].copy_from_slice(b"LABELONE");
    let mut btrfs = vec![0; 1 << 20];
    btrfs[0x1_0040..0x1_0048].copy_from_slice(b"_BHRfS_M");
    let cases: [(&str, &[u8], &str); 6] = [
        ("page", &page, "it is no image of a disk"),
        (
            "xfs",
            &xfs,
            "its root filesystem cannot be read: the disk is xfs",
        ),
        (
            "lvm",
            &lvm,
            "its root filesystem cannot be read: the disk is LVM2_member",
        ),
        (
            "btrfs",
            &btrfs,
            "its root filesystem cannot be read: the disk is btrfs",
        ),
        ("cut.xz", b"\xfd7zXZ\0\0\x04", "cannot decompress"),
        ("bz2", b"BZh91AY&SY", "is compressed by bzip2"),
    ];
    for (name, bytes, expected) in cases {
        fs::write(bench.path(name), bytes).unwrap();
        let output = extract_image(&bench, name, &[]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {text}");
        assert!(text.contains(expected), "{name}: {text}");
        assert!(text.contains("\nhint: "), "{name}: {text}");
        assert!(!bench.path("cache/image.tgz").exists(), "{name}");
    }
    let output = run(bench.helper("extract-image").arg("one"));
    assert!(
        stderr(&output).contains("four arguments"),
        "{}",
        stderr(&output)
    );
}
