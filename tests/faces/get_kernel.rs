//! `disk-image-get-kernel`: kernel and ramdisk out of images.

use std::fs;
use std::process::Command;

use crate::common::image::missing;
use crate::common::toy::{GPT, Toy};
use crate::common::{Run as _, World};
use crate::skip;

/// A toy image with kernels in its `/boot`.
fn toy() -> Toy {
    let mut toy = Toy::basic();
    toy.world.set("DIB_BLOCK_DEVICE_CONFIG", GPT);
    toy.hook(
        "install",
        "50-kernel",
        "mkdir /boot\nprintf '12\\n' >/etc/debian_version\nfor v in 6.1.0-9-amd64 6.1.0-12-amd64; do\n\
         printf 'kernel %s\\n' $v >/boot/vmlinuz-$v\nprintf 'ramdisk %s\\n' $v >/boot/initrd.img-$v\ndone\n\
         head -c 300000 /dev/urandom >>/boot/initrd.img-6.1.0-12-amd64\n\
         cp /boot/initrd.img-6.1.0-12-amd64 /opt-ramdisk",
    );
    toy
}

fn get(world: &World, line: &str) -> crate::common::Outcome {
    let mut command: Command = world.face("disk-image-get-kernel");
    command.words(line)
}

#[test]
fn the_newest_pair_is_copied_out_of_every_format() {
    let toy = toy();
    toy.build("-t qcow2,raw,tar").success();
    let world = &toy.world;
    fs::create_dir(world.work().join("out")).expect("it can be made");
    let whole = world
        .command("tar")
        .words("-xf toy.tar ./opt-ramdisk ./boot")
        .code();
    assert_eq!(whole, 0);
    let expected = fs::read(world.work().join("opt-ramdisk")).expect("it was unpacked");
    for (line, base) in [("-d out -o a -i toy.qcow2", "out/a"), ("-x toy.raw", "toy")] {
        let outcome = get(world, line);
        assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
        assert_eq!(
            outcome
                .stdout
                .trim_start_matches("./")
                .replace("\n./", "\n"),
            format!("{base}-vmlinuz\n{base}-initrd\n")
        );
        let kernel = fs::read(world.work().join(format!("{base}-vmlinuz")));
        assert_eq!(kernel.expect("it was written"), b"kernel 6.1.0-12-amd64\n");
        let ramdisk = fs::read(world.work().join(format!("{base}-initrd")));
        assert!(ramdisk.expect("it was written") == expected);
    }
    let outcome = get(world, "-x toy.raw");
    assert_eq!(
        outcome.stderr,
        "partition 2: /boot/vmlinuz-6.1.0-12-amd64 and /boot/initrd.img-6.1.0-12-amd64\n"
    );
    let mut named = world.face("disk-image-get-kernel");
    named
        .env("DIB_BAREMETAL_KERNEL_PATTERN", "vmlinuz-*-9-*")
        .env("DIB_BAREMETAL_INITRD_PATTERN", "initrd*-9-*");
    named.words("-o named -i toy.raw").success();
    let kernel = fs::read(world.work().join("named-vmlinuz")).expect("it was written");
    assert_eq!(kernel, b"kernel 6.1.0-9-amd64\n");
}

const ESP: &str = "- local_loop: {name: image0}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - {name: ESP, type: EF00, size: 40MiB, mkfs: {type: vfat, mount: {mount_point: /boot/efi}}}
";

const XFS_BOOT: &str =
    "      - {name: boot, size: 320MiB, mkfs: {type: xfs, mount: {mount_point: /boot}}}
      - {name: root, size: 320MiB, mkfs: {type: xfs, mount: {mount_point: /}}}
";

/// The volume with the root lies on both partitions.
const XFS_ON_LVM: &str = "      - {name: one, size: 300MiB}
      - {name: two, size: 420MiB}
- lvm:
    name: lvm
    pvs: [{name: pv1, base: one}, {name: pv2, base: two}]
    vgs: [{name: vg-0, base: [pv1, pv2]}]
    lvs: [{name: lv_var, base: vg-0, size: 320MiB}, {name: lv-root, base: vg-0, size: 320MiB}]
- mkfs: {name: fs_root, base: lv-root, type: xfs, label: img-rootfs, mount: {mount_point: /}}
- mkfs: {name: fs_var, base: lv_var, type: xfs, mount: {mount_point: /var}}
";

const THIN: &str = "      - {name: one, size: 60MiB}
      - {name: two, size: 60MiB}
- lvm:
    name: lvm
    pvs: [{name: pv1, base: one}, {name: pv2, base: two}]
    vgs: [{name: vg, base: [pv1, pv2]}]
    lvs:
      - {name: pool, base: vg, extents: 90%VG, type: thin-pool}
      - {name: lv_root, base: vg, size: 3GiB, type: thin, thin-pool: pool}
      - {name: lv_var, base: vg, size: 400MiB, type: thin, thin-pool: pool}
- mkfs: {name: fs_root, base: lv_root, type: ext4, label: img-rootfs, mount: {mount_point: /}}
- mkfs: {name: fs_var, base: lv_var, type: xfs, mount: {mount_point: /var}}
";

#[test]
fn xfs_and_logical_volumes_are_looked_through() {
    if let Some(tool) = missing(&["mkfs.xfs", "diff"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    world.write("tree/etc/debian_version", "12\n");
    world.write("tree/etc/os-release", "ID=toy\nPRETTY_NAME=\"A toy 1\"\n");
    world.write("tree/var/log/large", &"log ".repeat(700_000));
    for version in ["6.1.0-9-amd64", "6.1.0-12-amd64"] {
        let ramdisk = format!("ramdisk {version}\n").repeat(20_000);
        world.write(&format!("tree/boot/initrd.img-{version}"), &ramdisk);
        let kernel = format!("kernel {version}\n");
        world.write(&format!("tree/boot/vmlinuz-{version}"), &kernel);
    }
    for (name, layout, place, var) in [
        ("xfs-boot", XFS_BOOT, "partition 2: ", None),
        (
            "lvm",
            XFS_ON_LVM,
            "logical volume vg-0/lv-root: /boot",
            Some(("vg-0/lv_var", 320_u64 << 20)),
        ),
        (
            "thin",
            THIN,
            "logical volume vg/lv_root: /boot",
            Some(("vg/lv_var", 400 << 20)),
        ),
    ] {
        world.write("layout.yaml", &format!("{ESP}{layout}"));
        let line = format!("pack tree --layout ./layout.yaml --fstab -o {name} -t qcow2");
        world.kiln().words(&line).success();
        let outcome = get(&world, &format!("-x -o {name} {name}.qcow2"));
        assert_eq!(outcome.code(), 0, "{name}: {}", outcome.stderr);
        let files = "/vmlinuz-6.1.0-12-amd64 and ";
        assert!(
            outcome.stderr.contains(&format!("{place}{files}")),
            "{name}: {}",
            outcome.stderr
        );
        for (suffix, file) in [("vmlinuz", "vmlinuz"), ("initrd", "initrd.img")] {
            let read = |path: String| fs::read(world.work().join(path)).expect("it is there");
            let got = read(format!("{name}-{suffix}"));
            assert!(
                got == read(format!("tree/boot/{file}-6.1.0-12-amd64")),
                "{name}"
            );
        }
        let Some((volume, bytes)) = var else { continue };
        let report = world.kiln().words(&format!("inspect --json {name}.qcow2"));
        let report: serde_json::Value = serde_json::from_str(&report.success()).expect("JSON");
        let parts = report["partitions"].as_array().expect("a list");
        let part = parts.iter().find(|part| part["logical_volume"] == volume);
        let part = part.expect("it is listed");
        assert_eq!(part["filesystem"], "xfs", "{name}");
        assert_eq!(part["size"], bytes, "{name}");
        assert!(part.get("start").is_none() && part.get("number").is_none());
        assert_eq!(report["system"]["name"], "A toy 1", "{name}");
        // The partitions themselves have no files.
        let outcome = world.kiln().words(&format!("ls {name}.qcow2:one"));
        assert_eq!(outcome.code(), 1, "{name}");
        let expected = format!(
            "error: {name}.qcow2: partition 2 is a physical volume of LVM\n\
             hint: choose a logical volume: "
        );
        assert!(outcome.stderr.starts_with(&expected), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(volume), "{}", outcome.stderr);
        let copy = format!("cp -r {name}.qcow2:{volume} / {name}-var");
        world.kiln().words(&copy).success();
        let same = world
            .command("diff")
            .words(&format!("-r tree/var {name}-var"));
        assert_eq!(same.code(), 0, "{name}: {}", same.stdout);
    }
}

#[test]
fn a_root_of_btrfs_is_read_too() {
    let mut toy = toy();
    let config = GPT.replace("type: ext4", "type: btrfs");
    assert_ne!(config, GPT);
    toy.world.set("DIB_BLOCK_DEVICE_CONFIG", config);
    // Without it the options are those of ext4.
    toy.world.set("FS_TYPE", "btrfs");
    toy.world.set("DIB_IMAGE_SIZE", "1");
    toy.build("-t qcow2").success();
    let outcome = get(&toy.world, "-x -o a -i toy.qcow2");
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    assert_eq!(
        outcome.stderr,
        "partition 2: /boot/vmlinuz-6.1.0-12-amd64 and /boot/initrd.img-6.1.0-12-amd64\n"
    );
    let read = |name: &str| fs::read(toy.world.work().join(name)).expect("it was written");
    assert_eq!(read("a-vmlinuz"), b"kernel 6.1.0-12-amd64\n");
    let ramdisk = read("a-initrd");
    assert!(ramdisk.starts_with(b"ramdisk 6.1.0-12-amd64\n") && ramdisk.len() > 300_000);
    let report = toy.world.kiln().words("inspect toy.qcow2").success();
    assert!(report.contains("btrfs"), "{report}");
}

#[test]
fn what_has_no_kernel_says_what_it_has() {
    let toy = Toy::basic();
    toy.build("-t raw").success();
    let world = &toy.world;
    world.write("nothing.raw", &"\0".repeat(4096));
    for (line, message, hint) in [
        ("", "error: no image is named\n", "-i IMAGE"),
        ("-q", "error: unknown option `-q`\n", "--help"),
        ("-i absent", "error: cannot read image", "check the name"),
        (
            "toy.raw",
            "the whole disk has no kernel with a ramdisk in `/boot` or `/`",
            "kernels are looked for",
        ),
        (
            "nothing.raw",
            "the whole disk holds no filesystem that is known",
            "ext2 to ext4, XFS, btrfs, squashfs and FAT",
        ),
    ] {
        let outcome = get(world, line);
        assert_eq!(outcome.code(), 1, "{line}");
        assert!(
            outcome.stderr.contains(message),
            "{line}: {}",
            outcome.stderr
        );
        assert!(outcome.stderr.contains(hint), "{line}: {}", outcome.stderr);
    }
    assert!(!world.work().join("toy-vmlinuz").exists());
}
