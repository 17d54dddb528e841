//! Boot code of every layout, started by firmware.
//!
//! GRUB is enough of a guest: what it prints comes from a configuration in the
//! root filesystem, so firmware, boot code, core image, partition table and
//! filesystem are all in order when it does. Whole systems boot in
//! `tests/debian.rs`.

use std::fs;

use crate::common::image::{missing, run};
use crate::common::qemu::{Firmware, boot_from, ovmf};
use crate::common::{Run as _, World};
use crate::skip;

const MARKER: &str = "KILN-BOOTED";
/// What the core image looks for; `kiln pack` gives it to the filesystem.
const UUID: &str = "6e3c1a52-94a0-4f7f-9f0e-0b5a1c2d3e4f";
/// What it takes to read any of the layouts, and to say so.
const MODULES: &str = "part_msdos part_gpt lvm ext2 fat xfs btrfs search_fs_uuid normal configfile \
                       echo serial terminal test sleep";

/// A tree with GRUB in `/boot/grub`, whose path in its filesystem is `prefix`.
fn tree(world: &World, name: &str, prefix: &str) {
    let grub = format!("{name}/boot/grub");
    world.write(
        &format!("{grub}/grub.cfg"),
        &format!(
            "serial --unit=0 --speed=115200\nterminal_output serial\n\
             echo \"{MARKER} from $root in $prefix\"\nsleep 60\n"
        ),
    );
    let load = format!("search.fs_uuid {UUID} root\nset prefix=($root){prefix}\n");
    world.write(&format!("{grub}/i386-pc/load.cfg"), &load);
    fs::create_dir_all(world.work().join(format!("{name}/boot/efi/EFI/BOOT"))).expect("made");
    for (platform, extra, output) in [
        ("i386-pc", "biosdisk", format!("{grub}/i386-pc/core.img")),
        (
            "x86_64-efi",
            "",
            format!("{name}/boot/efi/EFI/BOOT/BOOTX64.EFI"),
        ),
    ] {
        let line = format!(
            "-O {platform} -p {prefix} -c {grub}/i386-pc/load.cfg -o {output} {MODULES} {extra}"
        );
        run(world, "grub-mkimage", &line).success();
    }
    let boot_image = "/usr/lib/grub/i386-pc/boot.img";
    let copy = world.work().join(format!("{grub}/i386-pc/boot.img"));
    fs::copy(boot_image, copy).expect("copied");
}

/// A layout with partitions in a table of this kind.
fn layout(label: &str, rest: &str) -> String {
    format!(
        "- local_loop: {{name: image0}}\n- partitioning:\n    base: image0\n    label: {label}\n    partitions:\n{rest}"
    )
}

const ESP: &str = "mkfs: {type: vfat, mount: {mount_point: /boot/efi}}";
const ROOT: &str = "mkfs: {type: ext4, mount: {mount_point: /}}";

#[test]
fn every_layout_starts_by_the_firmware_that_it_is_for() {
    if let Some(name) = missing(&["grub-mkimage", "qemu-system-x86_64"]) {
        skip!("{name} is not installed");
    }
    for platform in ["i386-pc", "x86_64-efi"] {
        if !fs::exists(format!("/usr/lib/grub/{platform}/moddep.lst")).unwrap_or(false) {
            skip!("grub's modules for {platform} are not installed");
        }
    }
    if ovmf().is_none() {
        skip!("OVMF is not installed (package ovmf)");
    }
    let world = World::new();
    tree(&world, "whole", "/boot/grub");
    tree(&world, "apart", "/grub");
    let layouts = [
        (
            "efi-mbr",
            layout(
                "mbr",
                &format!(
                    "      - {{name: ESP, type: '0xEF', flags: [primary], size: 64MiB, {ESP}}}\n      - {{name: root, flags: [boot, primary], size: 100%, {ROOT}}}\n"
                ),
            ),
        ),
        (
            "boot-apart",
            layout(
                "mbr",
                "      - {name: swap, type: '82', flags: [primary], size: 5MiB, mkfs: {type: swap}}\n      \
                 - {name: boot, flags: [boot], size: 40MiB, mkfs: {type: ext3, mount: {mount_point: /boot}}}\n      \
                 - {name: root, size: 100%, mkfs: {type: ext4, mount: {mount_point: /}}}\n",
            ),
        ),
        (
            "lvm",
            layout(
                "gpt",
                &format!(
                    "      - {{name: ESP, type: EF00, size: 64MiB, {ESP}}}\n      - {{name: BSP, type: EF02, size: 2MiB}}\n      - {{name: one, size: 48MiB}}\n      - {{name: two, size: 100%}}\n"
                ),
            ) + "- lvm:\n    name: lvm\n    pvs: [{name: pv1, base: one}, {name: pv2, base: two}]\n    vgs: [{name: vg-0, base: [pv1, pv2]}]\n    lvs: [{name: lv_first, base: vg-0, extents: 5%VG}, {name: lv_root, base: vg-0, extents: 90%VG}]\n\
                 - mkfs: {name: fs_root, base: lv_root, type: ext4, mount: {mount_point: /}}\n",
        ),
        (
            "xfs",
            layout(
                "gpt",
                "      - {name: BSP, type: EF02, size: 2MiB}\n      - {name: root, size: 100%, mkfs: {type: xfs, mount: {mount_point: /}}}\n",
            ),
        ),
        (
            "btrfs",
            layout(
                "mbr",
                "      - {name: root, flags: [boot, primary], size: 100%, mkfs: {type: btrfs, mount: {mount_point: /}}}\n",
            ),
        ),
    ];
    for (name, text) in &layouts {
        world.write(&format!("{name}.yaml"), text);
    }
    let mut cases = vec![
        ("mbr", "mbr", "whole", vec![Firmware::Bios]),
        ("gpt", "gpt", "whole", vec![Firmware::Bios]),
        ("efi", "efi", "whole", vec![Firmware::Bios, Firmware::Uefi]),
        ("efi-4k", "efi-4k", "whole", vec![Firmware::Uefi]),
        (
            "efi-mbr",
            "./efi-mbr.yaml",
            "whole",
            vec![Firmware::Bios, Firmware::Uefi],
        ),
        (
            "boot-apart",
            "./boot-apart.yaml",
            "apart",
            vec![Firmware::Bios],
        ),
        ("lvm", "./lvm.yaml", "whole", vec![Firmware::Bios]),
        ("btrfs", "./btrfs.yaml", "whole", vec![Firmware::Bios]),
    ];
    if missing(&["mkfs.xfs"]).is_none() {
        cases.push(("xfs", "./xfs.yaml", "whole", vec![Firmware::Bios]));
    }
    for (name, layout, tree, firmwares) in cases {
        world
            .kiln()
            .words(&format!("pack {tree} -o {name} -t qcow2 --layout {layout}"))
            .success();
        for firmware in firmwares {
            let sector_size = if name == "efi-4k" { 4096 } else { 512 };
            let image = format!("{name}.qcow2");
            let console = boot_from(&world, &image, firmware, sector_size, MARKER);
            let said = console.lines().find(|line| line.contains(MARKER));
            println!("{name}: {}", said.unwrap_or_default());
        }
    }
}
