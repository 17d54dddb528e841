//! Elements that nobody here wrote: diskimage-builder's own, from its wheel, in
//! place of the bundled ones.

#[path = "../common/functions.rs"]
mod functions;
#[path = "third_party/helpers.rs"]
mod helpers;
#[path = "third_party/scripts.rs"]
mod scripts;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln::build::event::Event;
use kiln::element::replaced::ELSEWHERE;
use kiln::rootfs::apt::sources::{HOST_APT, Mirrors};

use crate::common;
use crate::common::image::missing;
use crate::common::listing::listing_of;
use crate::common::online::{has_pip, upstream, wheels};
use crate::common::qemu::{Firmware, boot};
use crate::common::toy::Built;
use crate::common::{Run as _, World, cache, has_network, ramdisk, tool};
use crate::skip;

/// What is built in one image. All are diskimage-builder's.
const ELEMENTS: &str = "vm debian-minimal block-device-mbr base bootloader cloud-init \
    cloud-init-datasources cloud-init-growpart cloud-init-disable-resizefs growroot devuser \
    dhcp-all-interfaces simple-init source-repositories pip-and-virtualenv pip-cache ensure-venv \
    openssh-server runtime-ssh-host-keys local-config sysctl modprobe svc-map install-types \
    element-manifest enable-serial-console journal-to-console fail2ban stable-interface-names \
    dkms posix dynamic-login disable-nouveau apt-conf baremetal cleanup-kernel-initrd \
    deploy-baremetal growvols ramdisk apt-preferences apt-sources selinux-permissive \
    disable-selinux selinux-fixfiles-restore grub2 ilo select-boot-kernel-initrd uboot \
    nm-dhcp-ib-interfaces";

/// Looks at the finished root and leaves what it misses beside the image.
const PROBE: &str = r#"#!/bin/bash
set -eu -o pipefail
cd "$TARGET_ROOT"
out=$PROBE_OUTPUT
: >"$out"
has() { [ -e "$1" ] || [ -L "$1" ] || echo "no $1" >>"$out"; }
says() { grep -qse "$2" "$1" || echo "$1 does not say $2" >>"$out"; }
# base, debian-minimal, bootloader, block-device-mbr
says etc/os-release 'VERSION_CODENAME=bookworm'
says boot/grub/grub.cfg 'root=LABEL=cloudimg-rootfs.*console=ttyS0'
says etc/fstab 'LABEL=cloudimg-rootfs / ext4'
# cloud-init and its like
has usr/bin/cloud-init
says etc/cloud/cloud.cfg.d/91-dib-cloud-init-datasources.cfg None
has usr/local/sbin/growroot
has etc/systemd/system/multi-user.target.wants/growroot.service
# devuser, openssh-server, local-config, runtime-ssh-host-keys
says etc/passwd '^ops:'
has usr/sbin/sshd
has usr/local/sbin/runtime-ssh-host-keys.sh
# dhcp-all-interfaces, simple-init, source-repositories, pip-and-virtualenv, ensure-venv
has usr/local/sbin/dhcp-all-interfaces.sh
has usr/glean/bin/glean-install
has usr/local/bin/glean
says etc/dib-source-repositories /tmp/glean.git
says etc/dib-manifests/dib-manifest-git-image 'glean'
has usr/bin/pip3
says var/lib/dpkg/status '^Package: python3-venv$'
# sysctl, modprobe, disable-nouveau, svc-map, element-manifest, dkms, fail2ban, journal-to-console
has usr/local/bin/sysctl-write-value
says etc/modprobe.d/blacklist.conf 'blacklist floppy'
says etc/modprobe.d/disable-nouveau.conf nouveau
has usr/share/svc-map/services
says etc/dib-manifests/dib-element-manifest 'journal-to-console'
has usr/sbin/dkms
has etc/systemd/system/multi-user.target.wants/fail2ban.service
says etc/systemd/journald.conf.d/log-to-console.conf 'ForwardToConsole=true'
# disable-selinux after selinux-permissive, nm-dhcp-ib-interfaces, select-boot-kernel-initrd
says etc/selinux/config '^SELINUX=disabled$'
has etc/NetworkManager/system-connections/infiniband.nmconnection
has usr/local/bin/select-boot-kernel-initrd
# growvols
has usr/local/sbin/growvols
has etc/systemd/system/multi-user.target.wants/growvols.service
# dynamic-login, posix
has usr/local/bin/dynamic-login
says var/lib/dpkg/status '^Package: rsync$'
# Nothing of kiln's stays, and nothing of the build.
for name in mount umount sudo systemctl modprobe sysctl service udevadm start-stop-daemon; do
    for file in usr/local/{sbin,bin}/$name; do
        if [ -e "$file" ]; then echo "$file is in the image" >>"$out"; fi
    done
done
if find usr/bin usr/sbin usr/local -type f -size +30M -exec grep -lq 'KILN_RECORD' {} \; -print | grep -q .; then
    echo "kiln is in the image" >>"$out"
fi
for file in etc/apt/apt.conf.d/60img-build-proxy usr/sbin/policy-rc.d sbin/start-stop-daemon.REAL; do
    if [ -e "$file" ]; then echo "$file is in the image" >>"$out"; fi
done
"#;

/// Makes a file that hooks can run.
fn script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("it is in a directory")).expect("it can be made");
    fs::write(path, text).expect("it can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
}

/// A repository with one commit, in place of one that is far away.
fn repository(world: &World, name: &str) -> String {
    let path = world.home().join(name);
    let lines = [
        format!("init -q -b master {}", path.display()),
        format!(
            "-C {} -c user.name=test -c user.email=test@localhost commit -q --allow-empty -m first",
            path.display()
        ),
    ];
    for line in lines {
        let git = tool("git").expect("looked for before");
        let status = world
            .command(git)
            .args(line.split(' '))
            .status()
            .expect("git can be started");
        assert!(status.success(), "git {line}");
    }
    path.display().to_string()
}

/// A cache apart: diskimage-builder's elements empty the one of Debian's packages
/// (`apt-get clean` with the cache mounted), under builds that run meanwhile.
fn own_cache() -> PathBuf {
    let path = cache().join("of-diskimage-builder");
    fs::create_dir_all(&path).expect("it can be made");
    path
}

#[test]
fn elements_of_diskimage_builder_build_an_image_that_boots() {
    if nix::unistd::geteuid().is_root() {
        skip!("this is built as a normal user");
    }
    if let Some(name) = missing(&["qemu-system-x86_64", "git", "python3"]) {
        skip!("{name} is not installed");
    }
    if !has_pip() {
        skip!("Python has no pip (package python3-pip)");
    }
    if !has_network() {
        skip!("this machine has no network");
    }
    let mut world = World::new();
    let library = upstream(false).join("diskimage_builder/elements");
    let own = world.home().join("elements");
    script(
        &own.join("local-wheels/extra-data.d/10-local-wheels"),
        "#!/bin/bash\nset -eu\nsudo cp -r \"$LOCAL_WHEELS\" \"$TMP_MOUNT_PATH/tmp/wheels\"\n",
    );
    script(&own.join("probe/cleanup.d/99-probe"), PROBE);
    ramdisk::few_modules(&own);
    ramdisk::marker(&own);
    let mirrors = Mirrors::choose(&|_| None, Path::new(HOST_APT));
    let probe = world.work().join("probe.txt");
    let apt_conf = world.write("apt.conf", "APT::Install-Recommends \"false\";\n");
    let settings: [(&str, OsString); 17] = [
        ("DIB_RELEASE", "bookworm".into()),
        ("DIB_DISTRIBUTION_MIRROR", mirrors.main.into()),
        ("DIB_DEBIAN_SECURITY_MIRROR", mirrors.security.into()),
        // Its default for Debian is 2, which no release has any more.
        ("DIB_PYTHON_VERSION", "3".into()),
        // Its source is a script from a server that need not be there.
        ("DIB_INSTALLTYPE_pip_and_virtualenv", "package".into()),
        ("PIP_NO_INDEX", "1".into()),
        ("PIP_FIND_LINKS", "/tmp/wheels".into()),
        ("DIB_DEV_USER_USERNAME", "ops".into()),
        ("DIB_GROWVOLS_TRIGGER", "systemd".into()),
        ("DIB_DEV_USER_PASSWORD", "not a secret".into()),
        ("DIB_MODPROBE_BLACKLIST", "floppy".into()),
        ("DIB_CLOUD_INIT_GROWPART_DEVICES", "[\"/\"]".into()),
        ("PROBE_OUTPUT", probe.clone().into()),
        ("DIB_APT_CONF", apt_conf.into()),
        ("TMP_DIR", world.tmp().into()),
        (
            "LOCAL_WHEELS",
            wheels("glean-wheels", &["glean", "pbr", "setuptools"]).into(),
        ),
        ("DIB_REPOLOCATION_glean", repository(&world, "glean").into()),
    ];
    for (name, value) in settings {
        world.set(name, value);
    }
    let search = std::env::join_paths([&own, &library]).expect("paths without colons");
    world.set("ELEMENTS_PATH", search);

    let mut command: Command = world.kiln();
    command
        .arg("build")
        .args(ELEMENTS.split_whitespace())
        .args([
            "local-wheels",
            "probe",
            "few-modules",
            "marker",
            "-o",
            "image",
            "-t",
            "qcow2",
            "--json",
            "--image-cache",
        ])
        .arg(own_cache());
    let built = Built::run(&mut command).success();
    let replaced: Vec<&str> = built
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Warning { text } => text.strip_prefix("kiln's own element `"),
            _ => None,
        })
        .filter_map(|text| text.split('`').next())
        .collect();
    // All that is not upstream's, each with its reason in docs/elements.md.
    assert_eq!(
        replaced,
        [
            "debootstrap",
            "install-bin",
            "package-installs",
            "stable-interface-names",
            "svc-map",
            "sysprep"
        ]
    );
    assert_eq!(fs::read_to_string(&probe).expect("the probe ran"), "");
    let manifests = common::toy::names(&world.work().join("image.d"));
    assert!(!manifests.is_empty(), "no manifests beside the image");
    assert_eq!(common::toy::names(&world.tmp()), Vec::<String>::new());
    let console = boot(&world, "image.qcow2", Firmware::Bios, "login:");
    assert!(console.contains("Linux version"), "{console}");
    // Its element `ramdisk`, by kiln's functions in the place of those it sources.
    ramdisk::boots(&world, "image.kernel", "image.initramfs");
}

/// Debian's archive in the place of Ubuntu's, which need not be in reach: the element
/// asks for nothing that only Ubuntu has, but for its kernel.
#[test]
fn ubuntu_minimal_of_diskimage_builder_builds_a_root() {
    if nix::unistd::geteuid().is_root() {
        skip!("this is built as a normal user");
    }
    if let Some(name) = missing(&["python3"]) {
        skip!("{name} is not installed");
    }
    if !has_pip() {
        skip!("Python has no pip (package python3-pip)");
    }
    if !has_network() {
        skip!("this machine has no network");
    }
    let world = World::new();
    let mirrors = Mirrors::choose(&|_| None, Path::new(HOST_APT));
    let keyring = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/rootfs/apt/keys/debian-archive-keyring.pgp");
    let library = upstream(false).join("diskimage_builder/elements");
    let build = |name: &str, arguments: &str| {
        let mut command: Command = world.kiln();
        command
            .args([
                "build",
                "--skip-base",
                "ubuntu-minimal",
                "-t",
                "tar",
                "--json",
            ])
            .args(["-o", name, "--image-cache"])
            .arg(cache())
            .env("ELEMENTS_PATH", &library)
            .env("TMP_DIR", world.tmp())
            .env("DIB_RELEASE", "bookworm")
            .env("DIB_DISTRIBUTION_MIRROR", &mirrors.main)
            .env("DIB_DEBIAN_COMPONENTS", "main")
            .env("DIB_UBUNTU_MIRROR_DISTS", "updates")
            .env("DIB_UBUNTU_KERNEL", "none")
            .env("DIB_DEBOOTSTRAP_EXTRA_ARGS", arguments);
        Built::run(&mut command)
    };
    // Without a keyring Ubuntu's keys count, and no other's.
    let (_, _, status) = build("refused", "").failure();
    assert_ne!(status, 0);
    build("ubuntu", &format!("--keyring={}", keyring.display())).success();
    let listing = listing_of(&world.work().join("ubuntu.tar"));
    for path in [
        "./etc/apt/sources.list",
        "./etc/sysctl.d/99-cloudimg-ipv6.conf",
        "./usr/bin/sudo",
        "./usr/bin/busybox",
        "./usr/lib/systemd/systemd",
    ] {
        assert!(listing.contains_key(path), "{path}");
    }
    let kernels = listing
        .keys()
        .filter(|path| path.starts_with("./boot/vmlinu"));
    assert_eq!(kernels.count(), 0);
}

/// What [`functions::FUNCTIONS`] says is what the wheel has.
#[test]
fn the_functions_of_diskimage_builder_are_those_that_are_tested() {
    if missing(&["python3"]).is_some() || !has_pip() || !has_network() {
        skip!("Python, its pip and a network are needed to have diskimage-builder");
    }
    let library = upstream(false).join("diskimage_builder/lib");
    for (file, expected) in functions::FUNCTIONS {
        let text = fs::read_to_string(library.join(file)).expect("it is in the wheel");
        let mut names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("function "))
            .map(|line| {
                let end = line.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
                &line[..end.unwrap_or(line.len())]
            })
            .collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{file}");
    }
}

/// Deps, hooks, package lists and disks of all of them make sense to kiln.
#[test]
fn a_build_of_every_element_of_diskimage_builder_can_be_planned() {
    if missing(&["python3"]).is_some() || !has_pip() || !has_network() {
        skip!("Python, its pip and a network are needed to have diskimage-builder");
    }
    let library = upstream(false).join("diskimage_builder/elements");
    let mut world = World::new();
    world.set("ELEMENTS_PATH", &library);
    let mut failed = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(&library).expect("it is there") {
        let name = entry.expect("readable").file_name();
        let name = name.to_str().expect("names are plain");
        if name == "__pycache__" || !library.join(name).is_dir() {
            continue;
        }
        count += 1;
        let plan = |system: &[&str]| world.kiln().arg("plan").args(system).arg(name).run();
        let systems: [&[&str]; 4] = [
            &[],
            &["debian-minimal"],
            &["fedora-minimal"],
            &["opensuse-minimal"],
        ];
        if systems.iter().all(|system| plan(system).code() != 0) {
            failed.push((name.to_owned(), plan(&["debian-minimal"]).stderr));
        }
    }
    // What passes `dib-lint` there passes it here. Its Python is flake8's, whose rules change.
    world.write("tox.ini", "[dib-lint]\nignore = flake8\n");
    world.set("ELEMENTS_DIR", &library);
    assert_eq!(world.face("dib-lint").run().success(), "PASS\n");
    failed.sort();
    assert!(count > 120, "{count}");
    // It depends on an element that diskimage-builder took out years ago.
    let names: Vec<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["deploy-kexec"], "{failed:#?}");
    assert!(
        failed[0].1.contains("element `deploy` not found"),
        "{failed:?}"
    );
}

#[test]
fn elements_that_are_only_elsewhere_are_known_by_name() {
    if missing(&["python3"]).is_some() || !has_pip() || !has_network() {
        skip!("Python, its pip and a network are needed to have diskimage-builder");
    }
    let directory = upstream(false).join("diskimage_builder/elements");
    let bundled = kiln::element::Library::new(&[]).expect("it is embedded");
    let mut names: Vec<String> = fs::read_dir(directory)
        .expect("it is there")
        .map(|entry| entry.expect("readable"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != "__pycache__" && bundled.get(name).is_none())
        .collect();
    names.sort();
    assert_eq!(names, ELSEWHERE);
    let world = World::new();
    let outcome = world.kiln().args(["plan", "fedora-minimal"]).run();
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome
            .stderr
            .contains("`diskimage_builder/elements` in ELEMENTS_PATH"),
        "{}",
        outcome.stderr
    );
}
