mod bootable;
mod check;
mod refused;

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use uuid::uuid;

use super::*;
use crate::disk::boot::BiosBoot;
use crate::disk::config::RootParameters;
use crate::disk::fs::swap;
use crate::disk::gpt;
use crate::disk::gpt::tests::{tool, write};
use crate::disk::{Disk, Extent, Source, Volume};
use crate::tree::{Tree, TreeBuilder};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const MBR: &str = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - name: root
        flags: [boot, primary]
        size: 100%
        mkfs: {mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}}
";

const EFI: &str = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - name: ESP
        type: EF00
        size: 550MiB
        mkfs: {type: vfat, mount: {mount_point: /boot/efi, fstab: {options: defaults, fsck-passno: 2}}}
      - {name: BSP, type: EF02, size: 8MiB}
      - name: root
        type: 8300
        size: 100%
        mkfs: {type: ext4, mount: {mount_point: /, fstab: {options: defaults, fsck-passno: 1}}}
";

const EFI_LVM: &str = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - name: ESP
        type: EF00
        size: 550MiB
        mkfs: {type: vfat, mount: {mount_point: /boot/efi, fstab: {options: defaults, fsck-passno: 2}}}
      - {name: BSP, type: EF02, size: 8MiB}
      - {name: root, flags: [boot], size: 40G}
- lvm:
    name: lvm
    pvs: [{name: pv, base: root, options: [--force]}]
    vgs: [{name: vg, base: [pv], options: [--force]}]
    lvs:
      - {name: lv_root, base: vg, extents: 23%VG}
      - {name: lv_var, base: vg, extents: 57%VG}
      - {name: lv_home, base: vg, extents: 20%VG}
- mkfs: {name: fs_root, base: lv_root, type: xfs, label: img-rootfs, mount: {mount_point: /, fstab: {options: 'rw,relatime', fsck-passno: 1}}}
- mkfs: {name: fs_var, base: lv_var, type: xfs, mount: {mount_point: /var, fstab: {options: 'rw,relatime'}}}
- mkfs: {name: fs_home, base: lv_home, type: xfs, mount: {mount_point: /home, fstab: {options: 'rw,nodev,relatime'}}}
";

const LOGICAL: &str = "
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: root, flags: [boot, primary], size: 54%, mkfs: {mount: {mount_point: /}}}
      - {name: var, size: 40%, mkfs: {type: ext4, mount: {mount_point: /var}}}
      - {name: swap, size: 100%, mkfs: {type: swap, mount: {mount_point: none, fstab: {}}}}
";

fn parameters() -> PlanParameters {
    PlanParameters {
        seed: uuid!("0b6d3c8e-9c6a-4a60-8d52-1f5b1d6f0001"),
        arch: "amd64".to_owned(),
        block_size: None,
        creation_time: 1_700_000_000,
    }
}

fn try_plan(text: &str, parameters: &PlanParameters) -> Result<Plan, LayoutError> {
    Plan::new(Config::parse(text, &RootParameters::default())?, parameters)
}

fn plan(text: &str) -> Plan {
    try_plan(text, &parameters()).unwrap()
}

fn trees(plan: &Plan) -> BTreeMap<String, Arc<Tree>> {
    let tree = Arc::new(TreeBuilder::new().build().unwrap());
    plan.mount_points()
        .into_iter()
        .map(|path| (path.to_owned(), tree.clone()))
        .collect()
}

/// A volume that says its name at both of its ends.
fn marked(filesystem: &FilesystemPlan, bytes: u64) -> Volume {
    if filesystem.fstype == "swap" {
        let options = swap::Options {
            uuid: filesystem.uuid(),
            label: filesystem.label.clone(),
            page_size: 4096,
        };
        return swap::plan(&options, bytes).unwrap();
    }
    let mut mark = filesystem.name.clone().into_bytes();
    mark.resize(512, b'.');
    let mark: Arc<[u8]> = mark.into();
    let extent = |offset| Extent {
        offset,
        length: 512,
        source: Source::Bytes {
            bytes: mark.clone(),
            start: 0,
        },
    };
    Volume {
        length: bytes,
        extents: vec![extent(0), extent(bytes - 512)],
    }
}

/// Assembles with [`marked`] volumes; also the space that each filesystem got.
fn assemble(
    plan: &Plan,
    size: u64,
    boot: Option<&BiosBoot>,
) -> Result<(Disk, Vec<(String, u64)>), LayoutError> {
    let mut sizes = Vec::new();
    let disks = plan.assemble(size, &trees(plan), boot, &mut |filesystem, tree, bytes| {
        assert_eq!(tree.is_some(), filesystem.mount_point.is_some());
        sizes.push((filesystem.name.clone(), bytes));
        Ok(marked(filesystem, bytes))
    })?;
    Ok((disks.into_iter().next().unwrap(), sizes))
}

fn read(disk: &Disk, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    disk.reader().read_at(offset, &mut bytes).unwrap();
    bytes
}

fn file_of(disk: &Disk) -> tempfile::NamedTempFile {
    let pieces: Vec<(u64, Vec<u8>)> = disk
        .data_ranges()
        .map(|range| {
            (
                range.offset,
                read(disk, range.offset, range.length as usize),
            )
        })
        .collect();
    write(disk.length(), &pieces)
}

fn grub() -> BiosBoot {
    let mut boot = vec![0xCC; 512];
    boot[510..].copy_from_slice(&[0x55, 0xAA]);
    let mut core = vec![0xDD; 53 * 512];
    core[0x1FC..0x1FE].copy_from_slice(&[52, 0]);
    BiosBoot { boot, core }
}

#[test]
fn a_bios_disk_has_boot_code_table_core_and_filesystem() {
    let plan = plan(MBR);
    assert_eq!(plan.fstab(), "LABEL=cloudimg-rootfs / ext4 defaults 0 1\n");
    let (disk, sizes) = assemble(&plan, GIB, Some(&grub())).unwrap();
    assert_eq!(sizes, [("mkfs_root".to_owned(), 1_071_644_672)]);
    let mbr = read(&disk, 0, 512);
    assert_eq!(mbr[0x66..0x68], [0x90, 0x90]);
    assert!(mbr[0x70..440].iter().all(|&byte| byte == 0xCC));
    assert_eq!(
        mbr[446..454],
        [0x80, 0x20, 0x21, 0x00, 0x83, 0x69, 0x27, 0x82][..8]
    );
    assert_eq!(mbr[510..], [0x55, 0xAA]);
    assert_eq!(read(&disk, 1024, 4), [0xDD; 4]);
    assert!(read(&disk, MIB, 512).starts_with(b"mkfs_root."));

    let facts = plan.facts();
    assert_eq!((facts.partition_table(), facts.sector_size), ("msdos", 512));
    assert_eq!(facts.device(), "/dev/image0");
    let root = &facts.filesystems[0];
    assert_eq!(root.device, "/dev/mapper/image0p1");
    assert_eq!(root.mount_point.as_deref(), Some("/"));
    assert_eq!(
        (root.fstype.as_str(), root.label.as_str()),
        ("ext4", "cloudimg-rootfs")
    );
    let id = u32::from_le_bytes(mbr[440..444].try_into().unwrap());
    assert_eq!(root.partuuid, format!("{id:08x}-01"));
    assert_eq!(root.partition, Some(1));
}

#[test]
fn an_efi_disk_is_a_hybrid_with_512_byte_sectors() {
    let plan = plan(EFI);
    let (disk, sizes) = assemble(&plan, GIB, Some(&grub())).unwrap();
    let mkfs = |name: &str, mib: u64| (name.to_owned(), mib * MIB);
    assert_eq!(sizes, [mkfs("mkfs_ESP", 550), mkfs("mkfs_root", 464)]);
    // BSP begins at sector 1128448.
    let mbr = read(&disk, 0, 512);
    assert_eq!(mbr[0x5C..0x64], 1_128_448u64.to_le_bytes());
    assert_eq!(read(&disk, 1_128_448 * 512, 2), [0xDD; 2]);
    assert_eq!(plan.mount_points(), ["/", "/boot/efi"]);
    let facts = plan.facts();
    let esp = &facts.filesystems[0];
    assert_eq!((facts.partition_table(), esp.partition), ("gpt", Some(1)));
    assert_eq!(esp.label, "MKFS_ESP");
    assert_eq!((esp.uuid.len(), esp.uuid.as_bytes()[4]), (9, b'-'));
    assert_eq!(
        plan.image_block_devices(),
        [("image0", ""), ("ESP", "p1"), ("BSP", "p2"), ("root", "p3")].map(|(name, suffix)| {
            let device = match suffix {
                "" => "/dev/image0".to_owned(),
                suffix => format!("/dev/mapper/image0{suffix}"),
            };
            (name.to_owned(), device)
        })
    );
    let file = file_of(&disk);
    match tool("sgdisk").arg("-v").arg(file.path()).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("No problems found"), "{text}");
        }
        Err(error) => println!("SKIP: no sgdisk: {error}"),
    }
    match tool("sfdisk").args(["-J"]).arg(file.path()).output() {
        Ok(output) => {
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let root = &json["partitiontable"]["partitions"][2];
            assert_eq!(root["uuid"], facts.filesystems[1].partuuid.to_uppercase());
        }
        Err(error) => println!("SKIP: no sfdisk: {error}"),
    }
}

#[test]
fn an_efi_disk_may_have_4096_byte_sectors() {
    let text = EFI
        .replace("image0}", "image0, block_size: 4096}")
        .replace("550MiB", "500MiB");
    let from_config = plan(&text);
    let small = PlanParameters {
        block_size: Some(512),
        ..parameters()
    };
    assert_eq!(try_plan(&text, &small).unwrap().sector_size(), 512);
    let (disk, sizes) = assemble(&from_config, GIB, None).unwrap();
    assert_eq!(disk.sector_size(), 4096);
    assert_eq!(sizes[1].1, 131_584 * 4096);
    assert!(read(&disk, 256 * 4096, 512).starts_with(b"mkfs_ESP."));
    assert!(read(&disk, 4096, 8).starts_with(b"EFI PART"));
    assert!(
        from_config
            .filesystems()
            .iter()
            .all(|filesystem| filesystem.sector_size == 4096)
    );
}

#[test]
fn logical_partitions_and_swap_are_in_place() {
    let plan = plan(LOGICAL);
    assert_eq!(plan.fstab(), "LABEL=mkfs_swap none swap sw 0 0\n");
    let (disk, _) = assemble(&plan, GIB, Some(&grub())).unwrap();
    let numbers: Vec<Option<u32>> = plan
        .facts()
        .filesystems
        .iter()
        .map(|filesystem| filesystem.partition)
        .collect();
    assert_eq!(numbers, [Some(1), Some(5), Some(6)]);
    let file = file_of(&disk);
    match tool("sfdisk").arg("--verify").arg(file.path()).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => println!("SKIP: no sfdisk: {error}"),
    }
    let table = crate::disk::mbr::place(
        GIB,
        2048,
        &[54.0, 40.0, 100.0].map(|percent| crate::disk::mbr::Request {
            name: String::new(),
            primary: percent > 50.0 && percent < 60.0,
            active: false,
            partition_type: 0x83,
            size: crate::disk::mbr::Size::Percent(percent),
        }),
    );
    let swap = u64::from(table.unwrap().partitions[2].start) * 512;
    assert_eq!(read(&disk, swap + 4086, 10), b"SWAPSPACE2");
}

#[test]
fn logical_volumes_are_in_place_and_their_group_is_described() {
    let text = EFI_LVM
        .replace("550MiB", "64MiB")
        .replace("size: 40G", "size: 100%");
    let plan = plan(&text);
    assert_eq!(plan.facts().filesystems[1].device, "/dev/mapper/vg-lv_root");
    assert_eq!(plan.facts().filesystems[1].partuuid, "");
    let (disk, sizes) = assemble(&plan, GIB, Some(&grub())).unwrap();
    // 1024 - 2 - 64 - 8 = 950 MiB: 237 extents.
    let extents: Vec<u64> = sizes[1..]
        .iter()
        .map(|(_, bytes)| bytes / (4 * MIB))
        .collect();
    assert_eq!(extents, [54, 135, 47]);
    let pv = (1 + 64 + 8) * MIB;
    assert_eq!(read(&disk, pv + 512, 8), b"LABELONE");
    assert!(read(&disk, pv + 4096 + 512, 4).starts_with(b"vg {"));
    assert!(read(&disk, pv + MIB, 512).starts_with(b"fs_root."));
    assert!(read(&disk, pv + MIB + 54 * 4 * MIB, 512).starts_with(b"fs_var."));
    // The partition is marked as a physical volume, though nothing says so.
    let entry = read(&disk, 1024 + 2 * 128, 16);
    assert_eq!(entry, gpt::types::LINUX_LVM.to_bytes_le());
}

/// The system on one disk, data on another, and a group over both of them.
const TWO_DISKS: &str = "
- local_loop: {name: data, size: 256MiB}
- local_loop: {name: image0}
- partitioning:
    base: image0
    label: mbr
    partitions:
      - {name: root, flags: [boot, primary], size: 200MiB, mkfs: {mount: {mount_point: /, fstab: {fsck-passno: 1}}}}
      - {name: one, flags: [primary], size: 100%}
- partitioning:
    base: data
    label: gpt
    partitions:
      - {name: srv, size: 64MiB, mkfs: {type: ext4, mount: {mount_point: /srv, fstab: {}}}}
      - {name: two, size: 100%}
- lvm:
    name: lvm
    pvs: [{name: pv1, base: one}, {name: pv2, base: two}]
    vgs: [{name: vg, base: [pv1, pv2]}]
    lvs: [{name: lv_var, base: vg, extents: 100%FREE}]
- mkfs: {name: var, base: lv_var, type: ext4, mount: {mount_point: /var, fstab: {}}}
- local_loop: {name: bare, size: 32MiB, block_size: 4096, directory: /elsewhere}
- mkfs: {name: opt, base: bare, type: ext4, mount: {mount_point: /opt, fstab: {}}}
";

#[test]
fn several_disks_share_a_group_and_one_fstab() {
    let plan = plan(TWO_DISKS);
    let facts = plan.facts();
    let names: Vec<&str> = plan.disks().iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["image0", "data", "bare"]);
    assert_eq!(
        (facts.device(), facts.partition_table()),
        ("/dev/image0", "msdos")
    );
    let places: Vec<_> = facts
        .filesystems
        .iter()
        .map(|fs| (fs.device.as_str(), fs.disk, fs.partition))
        .collect();
    assert_eq!(
        places,
        [
            ("/dev/mapper/image0p1", Some(0), Some(1)),
            ("/dev/mapper/datap1", Some(1), Some(1)),
            ("/dev/mapper/vg-lv_var", None, None),
            ("/dev/bare", Some(2), None),
        ]
    );
    assert_eq!(
        plan.fstab(),
        "LABEL=cloudimg-rootfs / ext4 defaults 0 1\nLABEL=opt /opt ext4 defaults 0 2\n\
         LABEL=mkfs_srv /srv ext4 defaults 0 2\nLABEL=var /var ext4 defaults 0 2\n"
    );
    let sizes: Vec<u32> = plan.filesystems().iter().map(|fs| fs.sector_size).collect();
    assert_eq!(sizes, [512, 512, 512, 4096]);

    let mut spaces = Vec::new();
    let disks = plan
        .assemble(
            400 * MIB,
            &trees(&plan),
            Some(&grub()),
            &mut |filesystem, _, bytes| {
                spaces.push(bytes / MIB);
                Ok(marked(filesystem, bytes))
            },
        )
        .unwrap();
    let lengths: Vec<u64> = disks.iter().map(|disk| disk.length() / MIB).collect();
    assert_eq!(lengths, [400, 256, 32]);
    // 198 and 190 MiB, each without the first MiB, in extents of 4.
    assert_eq!(spaces, [200, 64, 4 * (49 + 47), 32]);
    let extent = |disk: usize, start: u64, count: u64| {
        let place = (start + 1) * MIB + count * 4 * MIB;
        read(&disks[disk], place, 8)
    };
    assert!(extent(0, 201, 0).starts_with(b"var."));
    assert_eq!(read(&disks[1], 66 * MIB + 47 * 4 * MIB - 512, 4), b"var.");
    assert_eq!(read(&disks[2], 0, 4), b"opt.");
    assert_eq!(
        read(&disks[0], 1024, 4),
        [0xDD; 4],
        "boot code is on the first disk"
    );
    for (disk, start) in [(0, 201), (1, 65)] {
        let text = read(&disks[disk], start * MIB + 4096 + 512, 2000);
        let text = String::from_utf8_lossy(&text).into_owned();
        for part in [
            "device = \"/dev/mapper/image0p2\"",
            "device = \"/dev/mapper/datap2\"",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    let mixed = TWO_DISKS.replace("256MiB}", "256MiB, block_size: 4096}");
    assert_eq!(
        try_plan(&mixed, &parameters()).unwrap_err().to_string(),
        "volume group `vg` is on disks with sectors of 512 and of 4096 bytes, which LVM refuses: \
         give them the same `block_size`"
    );
}

#[test]
fn every_disk_without_a_size_is_as_long_as_the_image() {
    let text = TWO_DISKS
        .replace(", size: 256MiB", "")
        .replace("64MiB", "900MiB");
    let plan = plan(&text);
    // What the second disk needs counts as well.
    assert!(plan.minimum_size() > 900 * MIB);
    let mut planner =
        |filesystem: &FilesystemPlan, _: Option<&Arc<Tree>>, bytes| Ok(marked(filesystem, bytes));
    let disks = plan
        .assemble(GIB, &trees(&plan), None, &mut planner)
        .unwrap();
    assert_eq!([disks[0].length(), disks[1].length()], [GIB, GIB]);
    assert_eq!(disks[2].length(), 32 * MIB);
}

#[test]
fn fixed_partitions_need_a_minimum_size() {
    let lvm = plan(EFI_LVM);
    assert!(lvm.minimum_size() > 40_000_000_000 + 558 * MIB);
    let minimum = lvm.minimum_size().next_multiple_of(MIB);
    assert!(assemble(&lvm, minimum, None).is_ok());
    let error = assemble(&lvm, GIB, None).unwrap_err().to_string();
    assert!(
        error.starts_with("partition `root` asks for 40000000000 bytes, but only"),
        "{error}"
    );
    assert_eq!(plan(crate::disk::config::FALLBACK).minimum_size(), 0);
}

#[test]
fn without_a_table_the_filesystem_is_the_disk() {
    let plan = plan(crate::disk::config::FALLBACK);
    let (disk, sizes) = assemble(&plan, 64 * MIB, None).unwrap();
    assert_eq!(sizes, [("mkfs_root".to_owned(), 64 * MIB)]);
    assert!(read(&disk, 0, 512).starts_with(b"mkfs_root."));
    let facts = plan.facts();
    assert_eq!(facts.partition_table(), "");
    assert_eq!(facts.filesystems[0].device, "/dev/image0");
    assert_eq!(facts.filesystems[0].partition, None);
    let error = assemble(&plan, 64 * MIB, Some(&grub()))
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("there is no partition table"), "{error}");
}

#[test]
fn the_configuration_may_fix_the_size() {
    let plan = plan(&MBR.replace("image0}", "image0, size: 32MiB}"));
    assert_eq!(plan.fixed_size(), Some(32 * MIB));
    assert_eq!(assemble(&plan, GIB, None).unwrap().0.length(), 32 * MIB);
    let error = assemble(&self::plan(MBR), GIB + 1, None)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "the image size of 1073741825 bytes (`image0`) is not a whole number of sectors of 512 \
         bytes"
    );
}

#[test]
fn the_seed_decides_every_identity() {
    let ids = |seed: Uuid| {
        let plan = try_plan(
            EFI,
            &PlanParameters {
                seed,
                ..parameters()
            },
        )
        .unwrap();
        let (disk, _) = assemble(&plan, GIB, None).unwrap();
        (plan.facts(), read(&disk, 0, 34 * 512))
    };
    let (a, b) = (
        parameters().seed,
        uuid!("0b6d3c8e-9c6a-4a60-8d52-1f5b1d6f0002"),
    );
    assert_eq!(ids(a), ids(a));
    assert_ne!(ids(a).1, ids(b).1);
    for (one, other) in ids(a).0.filesystems.iter().zip(&ids(b).0.filesystems) {
        assert_ne!((&one.uuid, &one.partuuid), (&other.uuid, &other.partuuid));
    }
    let wanted = "01234567-89ab-cdef-0123-456789abcdef";
    let text = EFI.replace("type: ext4,", &format!("type: ext4, uuid: {wanted},"));
    let text = text.replace("type: vfat,", "type: vfat, uuid: 1234-abcd,");
    let facts = plan(&text).facts();
    assert_eq!(
        (
            facts.filesystems[0].uuid.as_str(),
            facts.filesystems[1].uuid.as_str()
        ),
        ("1234-ABCD", wanted)
    );
}

#[test]
fn partitions_may_be_discoverable() {
    let text = EFI.replace("8300", "dps").replace("EF00", "dps");
    for arch in ["amd64", "arm64", "riscv64", "ppc64el"] {
        let with = PlanParameters {
            arch: arch.to_owned(),
            ..parameters()
        };
        let plan = try_plan(&text, &with).unwrap();
        let (disk, _) = assemble(&plan, GIB, None).unwrap();
        let kind = |number: u64| {
            Uuid::from_bytes_le(read(&disk, 1024 + number * 128, 16).try_into().unwrap())
        };
        assert_eq!(kind(0), gpt::types::ESP);
        assert_eq!(Some(kind(2)), gpt::discoverable("/", arch));
    }
}

#[test]
fn options_of_mkfs_may_be_quoted() {
    let with = |opts: &str| MBR.replace("mkfs: {", &format!("mkfs: {{opts: {opts}, "));
    let plan = plan(&with(r#""-E 'mount_opts=a b' -M \"/a b\"  -i 4096""#));
    assert_eq!(
        plan.filesystems()[0].opts,
        ["-E", "mount_opts=a b", "-M", "/a b", "-i", "4096"]
    );
    let planner = NativePlanner {
        timestamp: crate::tree::Timestamp::default(),
        scratch: std::env::temp_dir(),
        lost_found: BTreeMap::new(),
    };
    let options = planner.ext4_options(&plan.filesystems()[0]).unwrap();
    assert_eq!(
        (
            options.mount_options.as_str(),
            options.last_mounted.as_str()
        ),
        ("a b", "/a b")
    );
    assert_eq!(
        try_plan(&with(r#""-L 'a""#), &parameters())
            .unwrap_err()
            .to_string(),
        "the quotes of the mkfs options `-L 'a` of `mkfs_root` are not closed"
    );
}

proptest! {
    #[test]
    fn any_layout_is_refused_or_makes_a_valid_disk(
        gpt in any::<bool>(),
        mib in 1u64..3000,
        parts in prop::collection::vec((any::<bool>(), 0u32..120, 0u64..900), 0..6),
    ) {
        let label = if gpt { "gpt" } else { "mbr" };
        let mut text = format!(
            "- local_loop: {{name: image0}}\n- partitioning:\n    base: image0\n    label: {label}\n    partitions:\n"
        );
        for (at, (primary, percent, mib)) in parts.iter().enumerate() {
            let flags = if *primary && !gpt { "[primary]" } else { "[]" };
            let size = if *mib % 2 == 0 { format!("{percent}%") } else { format!("{mib}MiB") };
            text.push_str(&format!(
                "      - {{name: p{at}, flags: {flags}, size: '{size}', mkfs: {{type: ext4, mount: {{mount_point: /p{at}}}}}}}\n"
            ));
        }
        if parts.is_empty() {
            text.push_str("      []\n");
        }
        let plan = plan(&text);
        if let Ok((disk, sizes)) = assemble(&plan, mib * MIB, None) {
            // `build` has checked overlaps; every filesystem must be there, whole.
            prop_assert_eq!(sizes.len(), parts.len());
            let ends = disk.extents().iter().filter(|extent| extent.length == 512);
            prop_assert!(ends.count() >= 2 * parts.len());
            prop_assert!(disk.extents().windows(2).all(|w| w[0].offset + w[0].length <= w[1].offset));
            let mut table = vec![0; 512];
            disk.reader().read_at(0, &mut table).unwrap();
            if !parts.is_empty() {
                prop_assert_eq!(&table[510..], &[0x55, 0xAA]);
            }
        }
    }
}
