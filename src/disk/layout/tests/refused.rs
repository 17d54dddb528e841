//! What cannot be done says why.

use super::*;

#[test]
fn what_cannot_be_planned_says_why() {
    let message = |text: &str| try_plan(text, &parameters()).unwrap_err().to_string();
    let cases = [
        (
            MBR.replace("image0}", "image0, block_size: 4096}"),
            "`partitioning_image0` is an mbr on a disk with sectors of 4096 bytes: use label `gpt`",
        ),
        (
            MBR.replace("size: 100%", "size: 100%\n        type: EF02"),
            "type `EF02` of partition `root` is no mbr type",
        ),
        (
            MBR.replace("size: 100%", "size: 100%\n        type: '0'"),
            "type `0` of partition `root` is no mbr type",
        ),
        (
            EFI.replace("8300", "linux"),
            "`linux` of partition `root` is no gpt type",
        ),
        (
            EFI.replace("EF02", "dps"),
            "partition `BSP` has type `dps`, but there is no discoverable type for a partition that is not mounted",
        ),
        (
            MBR.replace("mkfs: {", "mkfs: {uuid: root-uuid-1234, "),
            "uuid `root-uuid-1234` of `mkfs_root` is not a uuid like",
        ),
        (
            EFI.replace("type: vfat", "type: vfat, uuid: 12345"),
            "uuid `12345` of `mkfs_ESP` is not a FAT volume id like 1234-ABCD",
        ),
        (
            EFI_LVM.replace("extents: 20%VG", "extents: 20%VG, type: thin-pool"),
            "`lv_home` is a thin pool, which cannot hold `fs_home`: make a thin volume in it",
        ),
        (
            EFI_LVM.replace("extents: 20%VG", "extents: 20%VG, type: thin"),
            "thin volume `lv_home` needs `thin-pool`: the name of a thin pool of volume group `vg`",
        ),
        (
            EFI_LVM.replace("lv_home", "-home"),
            "`-home` is no name for LVM",
        ),
        (
            EFI_LVM.replace("lv_home", "lv_tdata"),
            "`lv_tdata` is no name for a logical volume: LVM keeps `_tdata` for volumes of its own",
        ),
        (
            EFI_LVM.replace("lv_home", "snapshot1"),
            "`snapshot1` is no name for a logical volume: LVM keeps `snapshot` for volumes",
        ),
        (
            "- mkfs: {name: a, base: b, type: ext4}".to_owned(),
            "Edge not defined: b->a",
        ),
    ];
    for (text, expected) in cases {
        let message = message(&text);
        assert!(
            message.starts_with(expected),
            "{message}\n  not: {expected}"
        );
    }
    let odd = PlanParameters {
        block_size: Some(1024),
        ..parameters()
    };
    assert_eq!(
        try_plan(MBR, &odd).unwrap_err().to_string(),
        "`DIB_BLOCK_SIZE` is 1024, but only 512 and 4096 are possible"
    );
    let unknown = plan(&EFI.replace("8300", "FFFF"));
    assert_eq!(
        unknown.warnings(),
        ["type `FFFF` of partition `root` is unknown; it becomes 8300, as with sgdisk"]
    );
    for opts in ["-I 128", "-I128"] {
        let old = plan(&EFI.replace("type: ext4", &format!("type: ext4, opts: {opts}")));
        assert_eq!(
            old.warnings(),
            [
                "`mkfs_root` has inodes of 128 bytes, which hold no times after 2038 and no parts of seconds"
            ]
        );
    }
}

#[test]
fn what_grub_cannot_read_is_no_place_for_boot() {
    let check = |text: &str| plan(text).check_bootable();
    for text in [MBR, EFI, EFI_LVM, TWO_DISKS] {
        assert_eq!(check(text).unwrap(), Vec::<String>::new());
    }
    let thin = EFI_LVM
        .replace(
            "{name: lv_root, base: vg, extents: 23%VG}",
            "{name: pool, base: vg, extents: 20%VG, type: thin-pool}\n      - {name: lv_root, base: vg, size: 4GiB, type: thin, thin-pool: pool}",
        )
        .replace("57%VG", "30%VG");
    assert_eq!(
        check(&thin).unwrap_err().to_string(),
        "`fs_root` holds /boot and is on the thin volume `lv_root`, which GRUB cannot read: put \
         /boot on a partition or on an ordinary logical volume"
    );
    let apart = thin.replace(
        "      - {name: root, flags",
        "      - {name: boot, size: 300MiB, mkfs: {type: ext4, mount: {mount_point: /boot}}}\n      - {name: root, flags",
    );
    assert!(check(&apart).is_ok());
    let with = |opts: &str| MBR.replace("mkfs: {", &format!("mkfs: {{opts: '{opts}', "));
    let error = check(&with("-O large_dir,ea_inode"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no GRUB reads its feature `ea_inode`"),
        "{error}"
    );
    assert!(check(&with("-Oea_inode -O ^ea_inode")).unwrap().is_empty());
    let warnings = check(&with("-O metadata_csum_seed")).unwrap();
    assert!(
        warnings[0].contains("`metadata_csum_seed`, which GRUB before 2.12"),
        "{warnings:?}"
    );
}

#[test]
fn what_cannot_be_assembled_says_why() {
    let mbr = plan(MBR);
    let empty = BTreeMap::new();
    let error = mbr
        .assemble(GIB, &empty, None, &mut |_, _, _| unreachable!())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no tree of files for mount point `/` of `mkfs_root`"
    );
    let failing = &mut |_: &FilesystemPlan, _: Option<&Arc<Tree>>, _| Err("too many files".into());
    let error = mbr.assemble(GIB, &trees(&mbr), None, failing).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot make the ext4 filesystem `mkfs_root` of 1071644672 bytes"
    );
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "too many files"
    );
    let large = &mut |_: &FilesystemPlan, _: Option<&Arc<Tree>>, bytes| {
        Ok(Volume {
            length: bytes + 1,
            extents: Vec::new(),
        })
    };
    let error = mbr
        .assemble(GIB, &trees(&mbr), None, large)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("filesystem `mkfs_root` was planned with 1071644673 bytes"),
        "{error}"
    );
    let without = plan(&EFI.replace("EF02", "8300"));
    let error = assemble(&without, GIB, Some(&grub()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("add a partition of 1MiB with type EF02"),
        "{error}"
    );
    let tight = plan(&MBR.replace("label: mbr", "label: mbr\n    align: 16KiB"));
    let error = assemble(&tight, GIB, Some(&grub()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("core image of 27136 bytes does not fit the 15872 bytes"),
        "{error}"
    );
}
