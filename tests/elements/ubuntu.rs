//! The elements of the group `ubuntu`.

use std::fs;
use std::process::Command;

use crate::scratch::{Scratch, error_text};

const MIRROR: &str = "http://mirror.example/ubuntu";

#[test]
pub fn the_archive_goes_with_the_architecture() {
    let Some(mut scratch) = Scratch::new(&["ubuntu-common"]) else {
        return;
    };
    scratch.stub(&["apt-get"]);
    scratch.run("post-install.d/99-autoremove");
    assert_eq!(scratch.calls(), ["apt-get --assume-yes autoremove"]);
    scratch.run("install.d/80-disable-rfc3041");
    assert_eq!(
        scratch.read("etc/sysctl.d/99-cloudimg-ipv6.conf"),
        "net.ipv6.conf.all.use_tempaddr=0\nnet.ipv6.conf.default.use_tempaddr=0\n"
    );
    scratch.hook(
        "print",
        "#!/bin/sh\necho \"$DISTRO_NAME $DIB_RELEASE $DIB_DISTRIBUTION_MIRROR\" >/said\n",
    );
    for (name, value, expected) in [
        (
            "ARCH",
            "amd64",
            "ubuntu noble http://archive.ubuntu.com/ubuntu",
        ),
        (
            "ARCH",
            "arm64",
            "ubuntu noble http://ports.ubuntu.com/ubuntu-ports",
        ),
        (
            "DIB_DISTRIBUTION_MIRROR",
            MIRROR,
            "ubuntu noble http://mirror.example/ubuntu",
        ),
        (
            "DIB_RELEASE",
            "jammy",
            "ubuntu jammy http://mirror.example/ubuntu",
        ),
    ] {
        scratch.set(name, value);
        scratch.run("print");
        assert_eq!(scratch.read("said").trim_end(), expected);
    }
}

#[test]
pub fn the_bootstrap_takes_what_the_sources_name() {
    let elements = ["ubuntu-minimal", "ubuntu-common", "debootstrap", "dpkg"];
    let Some(mut scratch) = Scratch::new(&elements) else {
        return;
    };
    scratch.stub_bootstrap(&format!("echo \"MIRROR='{MIRROR}'\""));
    scratch.write("var/lib/apt/lists/mirror_InRelease", "");
    scratch.set("DIB_DISTRIBUTION_MIRROR", MIRROR);
    scratch.set("DIB_UBUNTU_MIRROR_DISTS", "updates,security");
    scratch.run_outside("root.d/08-debootstrap");
    let root = scratch.root().display().to_string();
    assert_eq!(
        scratch.calls(),
        [format!(
            "<apt><--suite><noble><--components><main,universe><--arch><amd64><--mirror><{MIRROR}>\
             <--extra-suite><noble-updates><--extra-suite><noble-security><--distribution><ubuntu>\
             <--include><systemd-sysv,busybox,sudo,python3,adduser,ca-certificates,locales><{root}>"
        )]
    );
    let write_sources = "root.d/75-ubuntu-minimal-baseinstall";
    scratch.run_outside(write_sources);
    let line = |suite: &str| format!("deb {MIRROR} {suite} main universe\n");
    let release = line("noble") + &line("noble-updates") + &line("noble-security");
    assert_eq!(scratch.read("etc/apt/sources.list"), release);
    // The bootstrap's lists are those of these sources, and everything is there.
    scratch.script("dpkg-query", "echo installed");
    scratch.run("pre-install.d/00-finish-baseinstall");
    assert!(scratch.calls().is_empty());

    // Backports are nothing for the bootstrap, and their lists are missing.
    scratch.set("DIB_UBUNTU_MIRROR_DISTS", "updates,security,backports");
    scratch.run_outside("root.d/08-debootstrap");
    assert!(!scratch.calls()[0].contains("backports"));
    scratch.run_outside(write_sources);
    assert_eq!(
        scratch.read("etc/apt/sources.list"),
        release + &line("noble-backports")
    );
    scratch.run("pre-install.d/00-finish-baseinstall");
    assert_eq!(scratch.calls(), ["apt-get update", "install-packages -u"]);
}

#[test]
pub fn cloud_images_are_checked_and_take_the_users_archive() {
    let Some(mut scratch) = Scratch::new(&["ubuntu", "ubuntu-common", "sysprep"]) else {
        return;
    };
    let server = scratch.outside().join("server");
    fs::create_dir_all(server.join("tree/etc/apt/sources.list.d")).unwrap();
    fs::write(server.join("tree/etc/os-release"), "ID=ubuntu\n").unwrap();
    fs::write(
        server.join("tree/etc/apt/sources.list.d/ubuntu.sources"),
        "Types: deb\nURIs: http://archive.ubuntu.com/ubuntu/\nSuites: noble\n\
         Signed-By: /usr/share/keyrings/a.gpg\n\n\
         Types: deb\nURIs: http://security.ubuntu.com/ubuntu/\nSuites: kept\n",
    )
    .unwrap();
    // Sums are looked up by the whole name, in binary mode too.
    let publish = format!(
        "cd '{}' && tar --owner=0 --group=0 -czf noble.tar.gz -C tree . && \
         {{ echo '0000  other-noble.tar.gz'; sha256sum -b noble.tar.gz; }} >SHA256SUMS",
        server.display()
    );
    let status = Command::new("bash").args(["-ec", &publish]).status();
    assert!(status.unwrap().success());
    scratch.helpers(&["cache-url", "extract-image"]);
    let cache = scratch.outside().join("cache");
    for directory in [&cache, &scratch.outside().join("locks")] {
        fs::create_dir_all(directory).unwrap();
    }
    let locks = scratch.outside().join("locks");
    for (name, value) in [
        ("DIB_CLOUD_IMAGES", format!("file://{}", server.display())),
        ("BASE_IMAGE_FILE", "noble.tar.gz".to_owned()),
        ("DIB_IMAGE_CACHE", cache.display().to_string()),
        ("DIB_LOCKFILES", locks.display().to_string()),
        ("DIB_OFFLINE", String::new()),
        ("DIB_DISTRIBUTION_MIRROR", format!("{MIRROR}/")),
        (
            "DIB_DISTRIBUTION_MIRROR_UBUNTU_IGNORE",
            "^URIs:.*security".to_owned(),
        ),
        ("SIGNED_BY", "/mine.gpg".to_owned()),
    ] {
        scratch.set(name, &value);
    }
    let fetch = "root.d/10-cache-ubuntu-tarball";
    scratch.run_outside(fetch);
    assert_eq!(scratch.read("etc/os-release"), "ID=ubuntu\n");
    scratch.run("pre-install.d/01-set-ubuntu-mirror");
    assert_eq!(
        scratch.read("etc/apt/sources.list.d/ubuntu.sources"),
        "Types: deb\nURIs: http://mirror.example/ubuntu//\nSuites: noble\n\
         Signed-By: /mine.gpg\n\n\
         Types: deb\nURIs: http://security.ubuntu.com/ubuntu/\nSuites: kept\n"
    );
    assert!(!scratch.exists("etc/apt/apt.conf.d/95allow-unauthenticated"));

    // What is not what was published is not used, but offline the cache is all there is.
    fs::write(server.join("noble.tar.gz"), "another").unwrap();
    let output = scratch.outside_hook(fetch);
    assert!(!output.status.success());
    let text = error_text(&output);
    assert!(text.contains("does not have the SHA-256 sum"), "{text}");
    fs::write(server.join("SHA256SUMS"), "").unwrap();
    let text = error_text(&scratch.outside_hook(fetch));
    assert!(text.contains("has no sum of noble.tar.gz"), "{text}");
    let publish = format!(
        "cd '{}' && tar --owner=0 --group=0 -czf '{}/noble.tar.gz' -C tree .",
        server.display(),
        cache.display()
    );
    let status = Command::new("bash").args(["-ec", &publish]).status();
    assert!(status.unwrap().success());
    scratch.set("DIB_OFFLINE", "1");
    scratch.run_outside(fetch);
    scratch.set("DIB_LOCAL_IMAGE", "/nowhere/x.squashfs");
    assert!(!scratch.outside_hook(fetch).status.success());
}
