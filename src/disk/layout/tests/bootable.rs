//! What a tree lacks to start from a layout.

use super::*;
use crate::tree::Inode;

/// A tree with empty files at these paths.
fn with(paths: &[&str]) -> Tree {
    let mut builder = TreeBuilder::new();
    for path in paths {
        builder.insert(path, Inode::file(*b"", 0o755)).unwrap();
    }
    builder.build().unwrap()
}

#[test]
fn an_efi_system_partition_without_a_boot_loader_is_told_of() {
    let on_mbr = MBR.replace(
        "      - name: root\n",
        "      - {name: ESP, type: '0xEF', flags: [primary], size: 64MiB, mkfs: {type: vfat, mount: {mount_point: /efi}}}\n      - name: root\n",
    );
    let bare = EFI.replace(
        "        mkfs: {type: vfat, mount: {mount_point: /boot/efi, fstab: {options: defaults, fsck-passno: 2}}}\n",
        "",
    );
    let cases = [
        (MBR, "", None),
        (EFI, "/boot/efi/EFI/BOOT/BOOTX64.EFI", None),
        (EFI, "/boot/efi/efi/Boot/bootaa64.efi", None),
        (EFI_LVM, "/boot/efi/EFI/BOOT/BOOTX64.EFI", None),
        (on_mbr.as_str(), "/efi/EFI/BOOT/BOOTX64.EFI", None),
        (EFI, "", Some("in `/boot/efi/EFI/BOOT`")),
        // A firmware that has not been told looks there alone.
        (
            EFI,
            "/boot/efi/EFI/debian/grubx64.efi",
            Some("in `/boot/efi/EFI/BOOT`"),
        ),
        // What is elsewhere in the tree is not on the partition.
        (
            on_mbr.as_str(),
            "/boot/efi/EFI/BOOT/BOOTX64.EFI",
            Some("in `/efi/EFI/BOOT`"),
        ),
        (
            bare.as_str(),
            "/boot/efi/EFI/BOOT/BOOTX64.EFI",
            Some("nothing is put into its EFI system partition `ESP`"),
        ),
    ];
    for (layout, file, expected) in cases {
        let files: Vec<&str> = Some(file)
            .filter(|file| !file.is_empty())
            .into_iter()
            .collect();
        let tree = with(&files);
        let told = plan(layout).efi_without_loader(&tree);
        match (&told, expected) {
            (None, None) => {}
            (Some(text), Some(part)) if text.ends_with(part) => {}
            _ => panic!("{layout}{file}: {told:?}"),
        }
    }
}

#[test]
fn filesystems_on_logical_volumes_need_lvm() {
    assert_eq!(plan(EFI).volumes_without_lvm(&with(&[])), None);
    let plan = plan(EFI_LVM);
    assert_eq!(
        plan.volumes_without_lvm(&with(&["/etc/fstab"])).as_deref(),
        Some(
            "the system does not start: `fs_root` is on a logical volume, but the program `lvm` is \
             not there to find it (package lvm2)"
        )
    );
    for place in ["/usr/sbin/lvm", "/usr/bin/lvm", "/sbin/lvm"] {
        assert_eq!(plan.volumes_without_lvm(&with(&[place])), None, "{place}");
    }
}
