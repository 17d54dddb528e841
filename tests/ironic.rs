//! The layouts of images that Ironic deploys, as docs/ironic.md has them; partition
//! images and ramdisks boot here, whole disks in tests/debian.rs.

mod common;
#[path = "push/cloud.rs"]
#[allow(dead_code)]
mod service;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::image::{assert_clean, missing, run};
use common::qemu::{Kernel, boot_kernel};
use common::toy::{GPT, Toy};
use common::{Run as _, World, cache, has_network, ramdisk};
use serde_json::{Value, json};
use service::Cloud;

/// A toy with a kernel and a RAM disk, as Debian names them.
fn toy() -> Toy {
    let toy = Toy::basic();
    toy.hook(
        "install",
        "50-kernel",
        "mkdir -p /boot
        echo 12.0 >/etc/debian_version
        echo old >/boot/vmlinuz-6.1.0-9-amd64
        echo old >/boot/initrd.img-6.1.0-9-amd64
        echo kernel >/boot/vmlinuz-6.1.0-38-amd64
        echo ramdisk >/boot/initrd.img-6.1.0-38-amd64",
    );
    toy
}

fn inspect(world: &World, image: &str) -> Value {
    let text = world.kiln().args(["inspect", "--json", image]).run();
    serde_json::from_str(&text.success()).expect("JSON")
}

#[test]
fn a_partition_image_is_a_bare_filesystem_with_kernel_and_ramdisk_beside_it() {
    if let Some(tool) = missing(&["e2fsck", "blkid", "sfdisk"]) {
        skip!("`{tool}` is not installed");
    }
    let toy = toy();
    let world = &toy.world;
    toy.build("-t qcow2,raw --checksum").success();
    // No table: the first sector is empty, and the superblock is where it begins.
    let raw = fs::read(world.work().join("toy.raw")).expect("there");
    assert!(raw[..1024].iter().all(|&byte| byte == 0));
    assert_eq!(raw[1080..1082], [0x53, 0xEF]);
    assert_ne!(run(world, "sfdisk", "--json toy.raw").code(), 0);
    assert_clean(world, "toy.raw");
    let found = run(world, "blkid", "-p -s TYPE -s LABEL -o export toy.raw").success();
    assert!(found.contains("TYPE=ext4"), "{found}");
    assert!(found.contains("LABEL=cloudimg-rootfs"), "{found}");
    let report = inspect(world, "toy.qcow2");
    assert_eq!(report["table"], Value::Null);
    assert_eq!(report["partitions"][0]["filesystem"], "ext4");

    let mut get = world.face("disk-image-get-kernel");
    let printed = get.words("-o toy -i toy.qcow2").success();
    assert_eq!(printed, "./toy-vmlinuz\n./toy-initrd\n");
    let content = |name: &str| fs::read_to_string(world.work().join(name)).expect("there");
    assert_eq!(content("toy-vmlinuz"), "kernel\n");
    assert_eq!(content("toy-initrd"), "ramdisk\n");

    // What Ironic reads from the image service.
    let cloud = Cloud::start();
    let mut push = world.kiln();
    push.env("OS_AUTH_URL", format!("{}/identity", cloud.url))
        .env("OS_TOKEN", "right")
        .env("http_proxy", "");
    let line = "push glance:toy toy.qcow2 --kernel toy-vmlinuz --ramdisk toy-initrd --pause 1";
    push.words(line).success();
    let images = cloud.images();
    let record = |at: usize| &images[at].record;
    assert_eq!(record(0)["disk_format"], "aki");
    assert_eq!(record(1)["disk_format"], "ari");
    assert_eq!(record(2)["kernel_id"], record(0)["id"]);
    assert_eq!(record(2)["ramdisk_id"], record(1)["id"]);
    assert_eq!(record(2)["disk_format"], "qcow2");
}

#[test]
fn an_element_may_leave_kernel_and_ramdisk_beside_the_image() {
    let toy = toy();
    // What diskimage-builder's element `baremetal` does, with its core's functions.
    toy.hook(
        "cleanup",
        "99-boot-files",
        r#"source "$_LIB/img-functions"
        select_boot_kernel_initrd "$TARGET_ROOT"
        sudo cp "$BOOTDIR/$KERNEL" "$IMAGE_NAME.vmlinuz"
        sudo cp "$BOOTDIR/$RAMDISK" "$IMAGE_NAME.initrd"
        sudo chmod a+r "$IMAGE_NAME.vmlinuz" "$IMAGE_NAME.initrd""#,
    );
    toy.build("-t qcow2").success();
    let content = |name: &str| fs::read_to_string(toy.world.work().join(name)).expect("there");
    assert_eq!(content("toy.vmlinuz"), "kernel\n");
    assert_eq!(content("toy.initrd"), "ramdisk\n");
}

#[test]
fn a_whole_disk_image_has_a_table_and_names_no_kernel() {
    if let Some(tool) = missing(&["sfdisk"]) {
        skip!("`{tool}` is not installed");
    }
    let mut toy = toy();
    toy.world.set("DIB_BLOCK_DEVICE_CONFIG", GPT);
    toy.build("-t raw").success();
    let world = &toy.world;
    let (table, partitions) = common::image::partitions(world, "toy.raw");
    assert_eq!(table, "gpt");
    let report = inspect(world, "toy.raw");
    assert_eq!(report["table"]["kind"], "gpt");
    assert_eq!(report["partitions"][1]["start"], json!(partitions[1].start));
    assert_eq!(report["partitions"][1]["filesystem"], "ext4");
    let mut plan = world.kiln();
    plan.env("OS_AUTH_URL", "http://keystone.invalid")
        .env("OS_TOKEN", "t");
    let plan = plan.words("push glance:x toy.raw --plan --json").success();
    let plan: Value = serde_json::from_str(&plan).expect("JSON");
    let record = &plan["images"][0]["record"];
    assert_eq!(record["disk_format"], "raw");
    assert_eq!(record["kernel_id"], Value::Null);
}

#[test]
fn partition_images_and_ramdisks_of_debian_boot() {
    if nix::unistd::geteuid().is_root() {
        skip!("this is built as a normal user");
    }
    if let Some(name) = missing(&["qemu-img", "qemu-system-x86_64"]) {
        skip!("{name} is not installed");
    }
    if !has_network() {
        skip!("this machine has no network");
    }
    let mut world = World::new();
    let own = world.home().join("elements");
    ramdisk::few_modules(&own);
    ramdisk::marker(&own);
    // Both kinds of ramdisk in one build: the one of dracut is kept aside before the
    // one of busybox takes its place.
    for (path, text) in [
        (
            "keep/post-install.d/99-build-k",
            "#!/bin/bash\nmv /tmp/ramdisk /tmp/kept\n",
        ),
        (
            "keep/cleanup.d/90-keep",
            "#!/bin/bash\ncp \"$TARGET_ROOT/tmp/kept\" \"$IMAGE_NAME.dracut\"\n",
        ),
    ] {
        let path = own.join(path);
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("made");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    }
    world.set("ELEMENTS_PATH", &own);
    let temporary = world.tmp();
    world.set("TMP_DIR", temporary);
    let mut build = world.kiln();
    build
        .env("DIB_RELEASE", "bookworm")
        .args(["build", "--skip-base", "--image-cache"])
        .arg(cache());
    build
        .words(
            "-u -o debian -t qcow2 baremetal ramdisk dracut-ramdisk debian-minimal few-modules \
             marker keep",
        )
        .success();
    world
        .face("disk-image-get-kernel")
        .words("-o read -i debian.qcow2")
        .success();
    let content = |name: &str| fs::read(world.work().join(name)).expect("there");
    for (read, left) in [
        ("read-vmlinuz", "debian.vmlinuz"),
        ("read-initrd", "debian.initrd"),
    ] {
        assert!(content(read) == content(left), "{read} is not {left}");
    }
    // As Ironic boots what it has written into a partition.
    let kernel = Kernel {
        kernel: "read-vmlinuz",
        ramdisk: "read-initrd",
        parameters: "root=LABEL=cloudimg-rootfs ro console=ttyS0",
    };
    boot_kernel(&world, kernel, Some("debian.qcow2"), "login:");
    grows_a_thousandfold(&world, kernel);
    ramdisk::boots(&world, "debian.kernel", "debian.initramfs");
    ramdisk::boots(&world, "debian.kernel", "debian.dracut");
}

/// Grows the mounted root filesystem of the image on a disk a thousand times as
/// large, as cloud-init does, and looks for errors that the kernel found on it.
fn grows_a_thousandfold(world: &World, kernel: Kernel<'_>) {
    let about = run(world, "qemu-img", "info --output json debian.qcow2").success();
    let about: Value = serde_json::from_str(&about).expect("JSON");
    let bytes = about["virtual-size"].as_u64().expect("a number") * 1000;
    let overlay = format!("create -q -f qcow2 -b debian.qcow2 -F qcow2 grown.qcow2 {bytes}");
    run(world, "qemu-img", &overlay).success();
    // The words are put together there: the kernel shows its parameters too.
    let script = "resize2fs /dev/vda && sync && echo KILN-$((40+2)) $(df -BM / | tail -n 1); \
                  echo KILN-$((40+3)) $(dmesg | grep -c [E]XT4-fs.error) errors; sleep 60";
    let parameters =
        format!("root=LABEL=cloudimg-rootfs rw console=ttyS0 init=/bin/sh -- -c \"{script}\"");
    let kernel = Kernel {
        parameters: &parameters,
        ..kernel
    };
    let console = boot_kernel(world, kernel, Some("grown.qcow2"), "KILN-43 0 errors");
    let line = console.lines().find(|line| line.contains("KILN-42"));
    let words: Vec<&str> = line.unwrap_or(&console).split_whitespace().collect();
    // Source, size, used: less than a tenth goes to metadata.
    let size = words.get(2).and_then(|size| size.strip_suffix('M'));
    let size: u64 = size.and_then(|size| size.parse().ok()).unwrap_or(0);
    assert!(size << 20 > bytes / 10 * 9, "{console}");
}

#[test]
fn the_recipes_name_commands_that_are_there() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ironic.md"));
    let text = text.expect("there");
    let world = World::new();
    let mut seen = 0;
    let code = text.split("```").skip(1).step_by(2);
    for line in code.flat_map(str::lines) {
        let words = shlex::split(line).unwrap_or_default();
        match words.first().map(String::as_str) {
            Some("kiln") => {
                let elements: Vec<&String> = words[2..]
                    .iter()
                    .take_while(|word| !word.starts_with('-'))
                    .collect();
                if words[1] == "build" {
                    for element in elements {
                        let outcome = world.kiln().args(["elements", "show", element]).run();
                        assert_eq!(outcome.code(), 0, "{line}: {}", outcome.stderr);
                    }
                }
                let help = world.kiln().args([words[1].as_str(), "--help"]).run();
                let help = help.success();
                for option in words.iter().filter(|word| word.starts_with("--")) {
                    assert!(help.contains(option.as_str()), "{line}: {option}");
                }
                seen += 1;
            }
            Some(name @ ("disk-image-get-kernel" | "ramdisk-image-create")) => {
                let help = world.face(name).args(["--help"]).run().success();
                for option in words.iter().filter(|word| word.starts_with('-')) {
                    assert!(help.contains(option.as_str()), "{line}: {option}");
                }
                seen += 1;
            }
            _ => {}
        }
    }
    assert!(seen >= 6, "{seen}");
}
