//! The elements of the group `debian`.

use crate::scratch::{Scratch, error_text};

/// What a host's apt might be configured with.
const PRIVATE: &str = "http://mirror.example/debian";
const PUBLIC: &str = "http://ftp.debian.org/debian";
const SECURITY: &str = "http://security.debian.org/debian-security";

/// A root made by a bootstrap that found its packages on a mirror of the host.
fn bootstrapped() -> Option<Scratch> {
    let scratch = Scratch::new(&["debian-minimal", "debootstrap", "dpkg"])?;
    scratch.stub_bootstrap(&format!(
        "echo \"MIRROR='{PRIVATE}'\"; echo \"SECURITY_MIRROR='{PRIVATE}-security/'\""
    ));
    scratch.write("etc/apt/sources.list", "deb http://leftover/ x y\n");
    // What the bootstrap does besides, of which these hooks make use.
    scratch.write("var/lib/apt/lists/mirror_InRelease", "");
    Some(scratch.with("DIB_RELEASE", "bookworm"))
}

#[test]
pub fn bootstrap_gets_exactly_what_the_variables_say() {
    let Some(mut scratch) = bootstrapped() else {
        return;
    };
    let include = "systemd-sysv,busybox,sudo,gnupg,python3,netbase,adduser,ca-certificates,locales";
    let root = scratch.root().display().to_string();
    scratch.run_outside("root.d/08-debootstrap");
    assert_eq!(
        scratch.calls(),
        [format!(
            "<apt><--suite><bookworm><--components><main><--arch><amd64>\
             <--extra-suite><bookworm-updates><--security-suite><bookworm-security>\
             <--include><{include}><{root}>"
        )]
    );
    assert!(!scratch.exists("etc/apt/sources.list"));

    for (name, value) in [
        ("ARCH", "x86_64"),
        ("DIB_RELEASE", "sid"),
        ("DIB_DEBIAN_COMPONENTS", "main,contrib"),
        ("DIB_DISTRIBUTION_MIRROR", PUBLIC),
        ("DIB_APT_KEYRING", "/a key.gpg"),
        (
            "DIB_DEBOOTSTRAP_EXTRA_ARGS",
            "--include=vim,less --variant=minbase",
        ),
    ] {
        scratch.set(name, value);
    }
    scratch.run_outside("root.d/08-debootstrap");
    assert_eq!(
        scratch.calls(),
        [format!(
            "<apt><--suite><sid><--components><main,contrib><--arch><amd64>\
             <--mirror><{PUBLIC}><--include><{include},vim,less><--keyring></a key.gpg><{root}>"
        )],
        "a mirror that the user names is used even if it is the default"
    );

    scratch.set("DIB_RELEASE", "bookworm");
    scratch.set("DIB_DEBIAN_SECURITY_MIRROR", "http://s/");
    scratch.set("DIB_DEBIAN_SECURITY_SUBPATH", "/updates");
    scratch.run_outside("root.d/08-debootstrap");
    let calls = scratch.calls();
    assert!(
        calls[0].contains(
            "<--security-suite><bookworm-security/updates><--security-mirror><http://s/>"
        ),
        "{calls:?}"
    );

    scratch.set("DIB_DEBOOTSTRAP_EXTRA_ARGS", "--include=one");
    scratch.set("DIB_MMDEBSTRAP_EXTRA_ARGS", "--include=two=2");
    scratch.run_outside("root.d/08-debootstrap");
    let calls = scratch.calls();
    assert!(calls[0].contains(",one,two=2>"), "{calls:?}");
    scratch.set("DIB_DEBOOTSTRAP_EXTRA_ARGS", "");
    for (variable, arguments, message) in [
        (
            "DIB_MMDEBSTRAP_EXTRA_ARGS",
            "--hook-dir=/x",
            "EXTRA_ARGS has '--hook-dir=/x'",
        ),
        (
            "DIB_MMDEBSTRAP_EXTRA_ARGS",
            "--aptopt=Acquire::Check-Valid-Until \"false\"",
            "KILN_APT_CHECK_VALID_UNTIL=no",
        ),
        // The one that is read first.
        (
            "DIB_DEBOOTSTRAP_EXTRA_ARGS",
            "--no-check-gpg",
            "kiln always checks",
        ),
        ("DIB_DEBOOTSTRAP_EXTRA_ARGS", "--foreign", "'--foreign'"),
    ] {
        scratch.set(variable, arguments);
        let output = scratch.outside_hook("root.d/08-debootstrap");
        assert!(!output.status.success());
        assert!(
            error_text(&output).contains(message),
            "{}",
            error_text(&output)
        );
    }
}

#[test]
fn settings_of_earlier_root_hooks_are_read_and_removed() {
    let Some(scratch) = bootstrapped() else {
        return;
    };
    scratch.write(
        ".extra_settings",
        "export DIB_DEBIAN_COMPONENTS=main,extra\n",
    );
    scratch.run_outside("root.d/08-debootstrap");
    assert!(scratch.calls()[0].contains("<main,extra>"));
    assert!(!scratch.exists(".extra_settings"));
}

#[test]
pub fn no_mirror_of_the_host_stays_in_the_image() {
    let Some(scratch) = bootstrapped() else {
        return;
    };
    scratch.run_outside("root.d/08-debootstrap");
    scratch.run_outside("root.d/75-debian-minimal-baseinstall");
    assert_eq!(
        scratch.list("etc/apt/sources.list.d"),
        ["default.list", "security.list", "updates.list"]
    );
    let line = |path: &str| scratch.read(&format!("etc/apt/sources.list.d/{path}.list"));
    assert_eq!(line("default"), format!("deb {PRIVATE} bookworm main\n"));
    assert_eq!(
        line("updates"),
        format!("deb {PRIVATE} bookworm-updates main\n")
    );
    assert_eq!(
        line("security"),
        format!("deb {PRIVATE}-security bookworm-security main\n")
    );

    // The lists that the bootstrap placed are good, and everything is installed.
    scratch.calls();
    scratch.script("dpkg-query", "echo installed");
    scratch.run("pre-install.d/00-finish-baseinstall");
    scratch.run("pre-install.d/99-apt-get-update");
    assert!(scratch.calls().is_empty());

    scratch.write(
        "etc/apt/sources.list.d/element.sources",
        &format!("Types: deb\nURIs: {PRIVATE}/ http://other/\nSuites: x\n"),
    );
    scratch.write("var/cache/apt/pkgcache.bin", PRIVATE);
    scratch.run_outside("cleanup.d/90-debian-minimal-sources");
    assert_eq!(line("default"), format!("deb {PUBLIC} bookworm main\n"));
    assert_eq!(
        line("updates"),
        format!("deb {PUBLIC} bookworm-updates main\n")
    );
    assert_eq!(
        line("security"),
        format!("deb {SECURITY} bookworm-security main\n")
    );
    assert_eq!(
        scratch.read("etc/apt/sources.list.d/element.sources"),
        format!("Types: deb\nURIs: {PUBLIC} http://other/\nSuites: x\n")
    );
    assert!(!scratch.exists("var/cache/apt/pkgcache.bin"));
}

#[test]
fn a_mirror_that_the_user_names_stays_in_the_image() {
    let Some(scratch) = bootstrapped() else {
        return;
    };
    let scratch = scratch.with("DIB_DEBIAN_DISTRIBUTION_MIRROR", PRIVATE);
    scratch.run_outside("root.d/08-debootstrap");
    scratch.run_outside("root.d/75-debian-minimal-baseinstall");
    scratch.run_outside("cleanup.d/90-debian-minimal-sources");
    assert_eq!(
        scratch.read("etc/apt/sources.list.d/default.list"),
        format!("deb {PRIVATE} bookworm main\n")
    );
    assert_eq!(
        scratch.read("etc/apt/sources.list.d/security.list"),
        format!("deb {SECURITY} bookworm-security main\n")
    );
}

#[test]
fn sources_of_the_users_own_are_used_as_they_are() {
    let Some(mut scratch) = bootstrapped() else {
        return;
    };
    scratch.set(
        "DIB_APT_SOURCES_CONF",
        "main:deb http://a/ x y\nmore:deb http://b/ x y\nmain:deb-src http://a/ x y\n\n",
    );
    scratch.run_outside("root.d/08-debootstrap");
    assert!(!scratch.calls()[0].contains("suite><bookworm-updates>"));
    scratch.run_outside("root.d/75-debian-minimal-baseinstall");
    assert_eq!(
        scratch.list("etc/apt/sources.list.d"),
        ["main.list", "more.list"]
    );
    assert_eq!(
        scratch.read("etc/apt/sources.list.d/main.list"),
        "deb http://a/ x y\ndeb-src http://a/ x y\n"
    );
    scratch.script("dpkg-query", "[ \"$4\" = sudo ] || echo installed");
    scratch.run("pre-install.d/00-finish-baseinstall");
    assert_eq!(
        scratch.calls(),
        [
            "apt-get update",
            "install-packages -u",
            "install-packages sudo"
        ]
    );

    for bad in ["../x:deb http://a/ x y", "no colon"] {
        scratch.set("DIB_APT_SOURCES_CONF", bad);
        let output = scratch.outside_hook("root.d/75-debian-minimal-baseinstall");
        assert!(!output.status.success(), "{bad}");
        assert!(
            error_text(&output).contains("is not 'NAME:APT LINE'"),
            "{}",
            error_text(&output)
        );
    }
}

#[test]
fn suites_past_their_end_are_taken_where_the_user_says_so() {
    let Some(mut scratch) = bootstrapped() else {
        return;
    };
    let mut bootstrap = |set: &[(&str, &str)]| {
        for name in ["KILN_APT_CHECK_VALID_UNTIL", "DIB_APT_SOURCES_CONF"] {
            scratch.set(name, "");
        }
        for (name, value) in set {
            scratch.set(name, value);
        }
        scratch.run_outside("root.d/08-debootstrap");
        scratch.run_outside("root.d/75-debian-minimal-baseinstall");
        let line = match scratch.list("etc/apt/sources.list.d").first() {
            Some(name) => scratch.read(&format!("etc/apt/sources.list.d/{name}")),
            None => String::new(),
        };
        (
            scratch.calls()[0].contains("<--no-check-valid-until>"),
            line,
        )
    };
    let plain = format!("deb {PRIVATE} bookworm main\n");
    let marked = format!("deb [check-valid-until=no] {PRIVATE} bookworm main\n");
    let variable = "KILN_APT_CHECK_VALID_UNTIL";
    assert_eq!(bootstrap(&[]), (false, plain.clone()));
    assert_eq!(bootstrap(&[(variable, "yes")]), (false, plain));
    assert_eq!(bootstrap(&[(variable, "no")]), (true, marked.clone()));
    assert_eq!(bootstrap(&[(variable, "0")]), (true, marked));
    // By the user's own sources, of the mirror and the suite that are bootstrapped.
    let mirror = ("DIB_DISTRIBUTION_MIRROR", "http://snapshot/debian/");
    for (line, unchecked) in [
        (
            "deb [check-valid-until=no] http://snapshot/debian bookworm main",
            true,
        ),
        (
            "deb [ arch=amd64 check-valid-until=false ] http://snapshot/debian/ bookworm main",
            true,
        ),
        (
            "deb [check-valid-until=yes] http://snapshot/debian bookworm main",
            false,
        ),
        (
            "deb [trusted=yes] http://snapshot/debian bookworm main",
            false,
        ),
        (
            "deb [check-valid-until=no] http://other/debian bookworm main",
            false,
        ),
        (
            "deb [check-valid-until=no] http://snapshot/debian sid main",
            false,
        ),
        ("deb http://snapshot/debian bookworm main", false),
    ] {
        let sources = format!("default:{line}");
        let set = [mirror, ("DIB_APT_SOURCES_CONF", sources.as_str())];
        assert_eq!(bootstrap(&set), (unchecked, format!("{line}\n")));
    }
    scratch.set(variable, "perhaps");
    let output = scratch.outside_hook("root.d/08-debootstrap");
    assert!(!output.status.success());
    let text = error_text(&output);
    assert!(
        text.contains("'perhaps', which is neither yes nor no"),
        "{text}"
    );
    // What the image keeps names the public mirrors, with the option.
    scratch.set(variable, "no");
    scratch.set("DIB_APT_SOURCES_CONF", "");
    scratch.set("DIB_DISTRIBUTION_MIRROR", "");
    scratch.run_outside("root.d/08-debootstrap");
    scratch.run_outside("root.d/75-debian-minimal-baseinstall");
    scratch.run_outside("cleanup.d/90-debian-minimal-sources");
    assert_eq!(
        scratch.read("etc/apt/sources.list.d/security.list"),
        format!("deb [check-valid-until=no] {SECURITY} bookworm-security main\n")
    );
}

#[test]
fn mirrors_that_are_directories_are_shown_to_apt_and_leave_no_trace() {
    let Some(mut scratch) = bootstrapped() else {
        return;
    };
    let mirror = scratch.outside().join("my mirror");
    std::fs::create_dir_all(mirror.join("dists")).unwrap();
    let path = mirror.to_str().unwrap().to_owned();
    let quoted = path.replace(' ', "%20");
    std::fs::create_dir(scratch.outside().join("build.1")).unwrap();
    scratch.set(
        "DIB_APT_SOURCES_CONF",
        &format!(
            "a:deb [arch=amd64] file://{quoted}/ x y\nb:deb-src copy:{quoted} x y\nb:deb http://a{quoted} x y\n"
        ),
    );
    scratch.script(
        "mount",
        "printf '<%s>' \"$@\" >>\"$STUB_LOG\"; echo >>\"$STUB_LOG\"",
    );
    scratch.run_outside("root.d/75-debian-minimal-baseinstall");
    let root = scratch.root().display().to_string();
    let mounted = format!("<--bind><-r><--><{path}><{root}{path}>");
    assert_eq!(scratch.calls(), [mounted.as_str()]);
    assert!(scratch.exists(&path[1..]));
    scratch.run_outside("pre-finalise.d/51-show-local-mirrors");
    assert_eq!(scratch.calls(), [mounted.as_str()]);
    scratch.run_outside("cleanup.d/31-hide-local-mirrors");
    let top = path[1..].split('/').next().unwrap();
    // The tests' own root has a `tmp`.
    assert!(!scratch.exists(&path[1..]));
    assert_eq!(scratch.exists(top), top == "tmp");

    // Where nothing can be mounted there is another way to the packages.
    scratch.script("mount", "exit 32");
    let output = scratch.outside_hook("root.d/75-debian-minimal-baseinstall");
    assert!(output.status.success());
    let text = error_text(&output);
    assert!(text.contains(&format!("will not find `{path}`")), "{text}");
    assert!(text.contains("http.server"), "{text}");

    scratch.set("DIB_APT_SOURCES_CONF", "a:deb file:/no/such/mirror x y");
    let output = scratch.outside_hook("root.d/75-debian-minimal-baseinstall");
    assert!(!output.status.success());
    let text = error_text(&output);
    assert!(
        text.contains("the mirror file:/no/such/mirror is not a directory of this host"),
        "{text}"
    );
}

#[test]
fn a_keyring_of_the_users_own_is_trusted_by_the_image() {
    let Some(mut scratch) = bootstrapped() else {
        return;
    };
    for (text, name) in [
        ("\u{1}binary", "gpg"),
        ("-----BEGIN PGP PUBLIC KEY BLOCK-----\n", "asc"),
    ] {
        let key = scratch.outside().join("my key");
        std::fs::write(&key, text).unwrap();
        scratch.set("DIB_DEBIAN_KEYRING", key.to_str().unwrap());
        scratch.run_outside("root.d/75-debian-minimal-baseinstall");
        assert_eq!(
            scratch.read(&format!("etc/apt/trusted.gpg.d/dib-apt-keyring.{name}")),
            text
        );
    }
}

#[test]
fn the_machine_has_a_name_interfaces_and_a_locale() {
    let Some(mut scratch) = Scratch::new(&["debootstrap"]) else {
        return;
    };
    scratch.stub(&["debconf-set-selections", "dpkg-reconfigure"]);
    scratch.set("DIB_NETWORK_INTERFACE_NAMES", "eth0 ens3");
    for _ in 0..2 {
        scratch.run("install.d/10-debian-networking");
    }
    assert_eq!(scratch.read("etc/hostname"), "debian\n");
    assert_eq!(
        scratch.read("etc/hosts"),
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tdebian\n"
    );
    assert_eq!(
        scratch.read("etc/network/interfaces"),
        "source /etc/network/interfaces.d/*\n"
    );
    assert_eq!(scratch.list("etc/network/interfaces.d"), ["ens3", "eth0"]);
    assert_eq!(
        scratch.read("etc/network/interfaces.d/eth0"),
        "auto eth0\niface eth0 inet dhcp\n"
    );

    scratch.write("etc/default/locale", "");
    scratch.run("install.d/12-debian-locale-gen");
    assert_eq!(
        scratch.read("etc/default/locale"),
        "LANG=C.UTF-8\nLC_ALL=C.UTF-8\n"
    );
    scratch.run("install.d/15-cleanup-debootstrap");
    assert_eq!(scratch.mode("etc/sudoers.d"), 0o755);
    scratch.write("var/lib/apt/lists/x_InRelease", "");
    scratch.run_outside("cleanup.d/99-clean-up-cache");
    assert!(scratch.list("var/lib/apt/lists").is_empty());
}

#[test]
pub fn debian_sets_up_a_cloud_image() {
    let Some(mut scratch) = Scratch::new(&["debian"]) else {
        return;
    };
    scratch.stub(&["install-packages", "dpkg", "adduser"]);
    scratch.script("dpkg-query", "exit 1");
    for (release, netplan) in [
        ("bullseye", false),
        ("bookworm", true),
        ("trixie", true),
        ("stable", true),
    ] {
        scratch.set("DIB_RELEASE", release);
        scratch.run("install.d/10-cloud-opinions");
        let calls = scratch.calls();
        assert_eq!(calls[0], "install-packages systemd-sysv");
        assert_eq!(
            calls.contains(&"install-packages netplan.io".to_owned()),
            netplan,
            "{release}"
        );
    }
    assert!(
        scratch
            .read("etc/apt/preferences.d/sysvinit")
            .contains("Pin-Priority: -1")
    );
    assert!(!scratch.exists("etc/sudoers.d"));

    scratch.set("DIB_DEBIAN_CLOUD_INIT_HELPER", "true");
    scratch.script("dpkg-query", "echo installed");
    scratch.run("install.d/10-cloud-opinions");
    let calls = scratch.calls();
    assert!(
        calls[0].starts_with("adduser --disabled-password"),
        "{calls:?}"
    );
    assert!(calls[0].ends_with(" debian"), "{calls:?}");
    assert_eq!(calls[1], "dpkg --force-remove-essential --purge sysvinit");
    assert_eq!(scratch.mode("etc/sudoers.d/debian-cloud-init"), 0o440);
}
