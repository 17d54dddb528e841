//! The layouts of images that Ironic deploys, as docs/ironic.md has them; they boot
//! in tests/debian/.

mod common;
#[path = "push/cloud.rs"]
#[allow(dead_code)]
mod service;

use std::fs;
use std::path::Path;

use common::image::{assert_clean, missing, run};
use common::toy::{GPT, Toy};
use common::{Run as _, World};
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
