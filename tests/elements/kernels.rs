//! Elements about which kernel an image boots.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use kiln::inspect::kernel::{Boot, Family, select};

use crate::library::element;
use crate::scratch::{Scratch, error_text};

/// A root with two kernels and leftovers of a third.
fn with_kernels(elements: &[&str]) -> Option<Scratch> {
    let scratch = Scratch::new(elements)?;
    for name in [
        "vmlinuz-6.1.0-9-amd64",
        "initrd.img-6.1.0-9-amd64",
        "config-6.1.0-9-amd64",
        "vmlinuz-6.1.0-10-amd64",
        "initrd.img-6.1.0-10-amd64",
        "vmlinuz-6.1.0-11-amd64",
        "vmlinuz-6.1.0-12-debug",
        "initrd.img-6.1.0-12-debug",
        "grub.cfg",
    ] {
        scratch.write(&format!("boot/{name}"), name);
    }
    Some(scratch)
}

const SELECT: &str = "bin/select-boot-kernel-initrd";

#[test]
pub fn the_newest_kernel_with_a_ramdisk_is_named() {
    let Some(mut scratch) = with_kernels(&["select-boot-kernel-initrd"]) else {
        return;
    };
    let said = |scratch: &Scratch| String::from_utf8(scratch.inside(SELECT).stdout).unwrap();
    assert_eq!(
        said(&scratch),
        "vmlinuz-6.1.0-10-amd64:initrd.img-6.1.0-10-amd64\n"
    );
    scratch.set("DIB_BAREMETAL_KERNEL_PATTERN", "vmlinuz-*-9-*");
    scratch.set("DIB_BAREMETAL_INITRD_PATTERN", "initrd*-9-*");
    assert_eq!(
        said(&scratch),
        "vmlinuz-6.1.0-9-amd64:initrd.img-6.1.0-9-amd64\n"
    );
    scratch.set("DIB_BAREMETAL_KERNEL_PATTERN", "bzImage*");
    let output = scratch.inside(SELECT);
    assert!(error_text(&output).contains("no pair of 'bzImage*'"));
    fs::remove_dir_all(scratch.root().join("boot")).unwrap();
    assert!(error_text(&scratch.inside(SELECT)).contains("there is no directory '/boot'"));
}

#[test]
pub fn kernel_and_ramdisk_lie_beside_the_image() {
    let Some(scratch) = with_kernels(&["select-boot-kernel-initrd", "baremetal"]) else {
        return;
    };
    let scratch = scratch.with("IMAGE_NAME", "an image");
    scratch.run_outside("cleanup.d/99-extract-kernel-and-ramdisk");
    for (suffix, content) in [
        ("vmlinuz", "vmlinuz-6.1.0-10-amd64"),
        ("initrd", "initrd.img-6.1.0-10-amd64"),
    ] {
        let left = scratch.beside(suffix);
        assert_eq!(
            fs::read_to_string(left.join("to")).unwrap(),
            format!("an image.{suffix}\n")
        );
        assert_eq!(fs::read_to_string(left.join("what")).unwrap(), content);
    }
}

#[test]
pub fn only_files_of_the_kernel_that_boots_stay() {
    let Some(scratch) = with_kernels(&["select-boot-kernel-initrd", "cleanup-kernel-initrd"])
    else {
        return;
    };
    scratch.run_outside("cleanup.d/99-cleanup-kernel-initrd");
    assert_eq!(
        scratch.list("boot"),
        [
            "grub.cfg",
            "initrd.img-6.1.0-10-amd64",
            "vmlinuz-6.1.0-10-amd64"
        ]
    );
}

/// A root's marker in `/etc`, names in `/boot`, patterns, and what boots.
type Case<'a> = (
    Family,
    &'a [&'a str],
    Option<(&'a str, &'a str)>,
    Option<(&'a str, &'a str)>,
);

const CASES: &[Case<'_>] = &[
    (
        Family::Debian,
        &[
            "vmlinuz-6.1.0-9-amd64",
            "initrd.img-6.1.0-9-amd64",
            "vmlinuz-6.1.0-38-amd64",
            "initrd.img-6.1.0-38-amd64",
            "initrd.img-6.1.0-38-amd64.bak",
            "vmlinuz-6.1.0-40-amd64",
        ],
        None,
        Some(("vmlinuz-6.1.0-38-amd64", "initrd.img-6.1.0-38-amd64")),
    ),
    (
        Family::Debian,
        &[
            "vmlinuz-5.15.0-1-kvm",
            "initrd.img-5.15.0-1-kvm",
            "vmlinuz-5.4.0-10-generic",
            "initrd.img-5.4.0-10-generic",
        ],
        None,
        Some(("vmlinuz-5.4.0-10-generic", "initrd.img-5.4.0-10-generic")),
    ),
    (
        Family::Debian,
        &["linux-1", "linux-12", "rd-1", "rd-2", "rd-10"],
        Some(("linux-*", "rd-?")),
        Some(("linux-12", "rd-2")),
    ),
    (
        Family::RedHat,
        &[
            "vmlinuz-5.14.0-1.el9",
            "initramfs-5.14.0-1.el9.img",
            "vmlinuz-0-rescue-abc",
            "initramfs-0-rescue-abc.img",
            "vmlinuz-5.14.0-2.el9+debug",
            "initramfs-5.14.0-2.el9+debug.img",
            "vmlinuz-5.14.0-3.el9",
        ],
        None,
        Some(("vmlinuz-5.14.0-1.el9", "initramfs-5.14.0-1.el9.img")),
    ),
    (
        Family::RedHat,
        &[
            "vmlinuz-2.6.32-2",
            "initramfs-2.6.32-2.img",
            "vmlinuz-2.6.32-1.PAE",
            "initramfs-2.6.32-1.PAE.img",
        ],
        None,
        Some(("vmlinuz-2.6.32-1.PAE", "initramfs-2.6.32-1.PAE.img")),
    ),
    (
        Family::Suse,
        &[
            "vmlinuz-6-default",
            "initrd-6-default",
            "vmlinuz-7-default",
            "initrd-7-default",
        ],
        None,
        Some(("vmlinuz-6-default", "initrd-6-default")),
    ),
    (
        Family::Gentoo,
        &[
            "vmlinuz-6.6.1",
            "vmlinuz-6.6.10",
            "initramfs-6.6.1",
            "initramfs-6.6.10",
        ],
        None,
        Some(("vmlinuz-6.6.10", "initramfs-6.6.10")),
    ),
    (
        Family::Unknown,
        &["vmlinuz-virt", "initramfs-virt", "System.map-virt"],
        None,
        Some(("vmlinuz-virt", "initramfs-virt")),
    ),
    (Family::Debian, &["vmlinuz-6.1"], None, None),
    (Family::RedHat, &["initramfs-6.1.img"], None, None),
];

/// Three programs have the rule: kiln as it reads images, the shell function that
/// elements source, and the program that lies in images.
#[test]
fn every_place_that_selects_a_kernel_selects_the_same() {
    for (number, (family, names, patterns, expected)) in CASES.iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let shell_root = root.join("a root");
        let boot = shell_root.join("boot");
        fs::create_dir_all(&boot).unwrap();
        fs::create_dir(shell_root.join("etc")).unwrap();
        for name in *names {
            fs::write(boot.join(name), "").unwrap();
        }
        let marker = match family {
            Family::Debian => "debian_version",
            Family::RedHat => "redhat-release",
            Family::Suse => "SuSE-release",
            Family::Gentoo => "gentoo-release",
            Family::Unknown => "os-release",
        };
        fs::write(shell_root.join("etc").join(marker), "").unwrap();
        let mut given = Boot {
            names: names.iter().map(ToString::to_string).collect(),
            family: *family,
            patterns: patterns.map(|(kernel, ramdisk)| (kernel.into(), ramdisk.into())),
            ..Boot::default()
        };
        if *family == Family::Suse {
            symlink(names[0], boot.join("vmlinuz")).unwrap();
            symlink(names[1], boot.join("initrd")).unwrap();
            given.links = Some((names[0].into(), names[1].into()));
        }
        let expected = expected.map(|(kernel, ramdisk)| format!("{kernel}:{ramdisk}\n"));
        let selected = select(&given).map(|pair| format!("{}:{}\n", pair.kernel, pair.ramdisk));
        assert_eq!(selected, expected, "case {number}, kiln");

        let library = root.join("img-functions");
        let (_, text) = kiln::helpers::lib::FILES
            .into_iter()
            .find(|(name, _)| *name == "img-functions")
            .unwrap();
        fs::write(&library, text).unwrap();
        let said = |mut command: Command| {
            if let Some((kernel, ramdisk)) = patterns {
                command
                    .env("DIB_BAREMETAL_KERNEL_PATTERN", kernel)
                    .env("DIB_BAREMETAL_INITRD_PATTERN", ramdisk);
            }
            let output = command.arg(&shell_root).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(
                output.status.success(),
                !text.is_empty(),
                "case {number}: {output:?}"
            );
            output.status.success().then_some(text)
        };
        let mut function = Command::new("bash");
        let script = "set -eu -o pipefail; source \"$0\"; select_boot_kernel_initrd \"$1\"
            echo \"$KERNEL:$RAMDISK\"";
        function.args(["-c", script]).arg(&library);
        assert_eq!(said(function), expected, "case {number}, function");
        // The program knows no links: its images have none.
        if *family != Family::Suse {
            let mut program = Command::new("bash");
            program.arg(element("select-boot-kernel-initrd").path.join(SELECT));
            assert_eq!(said(program), expected, "case {number}, program");
        }
    }
}
