//! What Ironic deploys boots: partition images, and ramdisks of both kinds.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::common::image::{missing, run};
use crate::common::qemu::{Kernel, boot_kernel};
use crate::common::{Run as _, World, cache, has_network, ramdisk};
use crate::skip;

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
