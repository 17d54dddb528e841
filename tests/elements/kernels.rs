//! Elements about which kernel an image boots.

use std::fs;

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
    let image = scratch.outside().join("an image");
    let scratch = scratch.with("IMAGE_NAME", &image.display().to_string());
    scratch.run_outside("cleanup.d/99-extract-kernel-and-ramdisk");
    for (suffix, content) in [
        ("vmlinuz", "vmlinuz-6.1.0-10-amd64"),
        ("initrd", "initrd.img-6.1.0-10-amd64"),
    ] {
        let path = scratch.outside().join(format!("an image.{suffix}"));
        assert_eq!(fs::read_to_string(path).unwrap(), content);
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
