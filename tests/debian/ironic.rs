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
        ("grow/install.d/60-grow", GROW),
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
             marker keep grow",
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
    grows_a_thousandfold(&world);
    ramdisk::boots(&world, "debian.kernel", "debian.initramfs");
    ramdisk::boots(&world, "debian.kernel", "debian.dracut");
}

/// Has the root filesystem grown at each start, before there is a prompt, as
/// cloud-init does it.
const GROW: &str = r#"#!/bin/bash
set -eu
cat >/usr/local/sbin/grow <<'END'
#!/bin/sh
exec >/dev/console 2>&1
resize2fs "$(findmnt -no SOURCE /)" && sync
echo "KILN-GROWN $(df -BM --output=size / | tail -n 1), $(dmesg | grep -c 'EXT4-fs error') errors"
END
chmod 755 /usr/local/sbin/grow
cat >/etc/systemd/system/grow.service <<'END'
[Unit]
Before=serial-getty@ttyS0.service
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/grow
END
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -s ../grow.service /etc/systemd/system/multi-user.target.wants/
"#;

/// Boots as Ironic boots what it has written into a partition, one that is a thousand
/// times as large as the image; the kernel has to find no errors on what it made of it.
fn grows_a_thousandfold(world: &World) {
    let about = run(world, "qemu-img", "info --output json debian.qcow2").success();
    let about: Value = serde_json::from_str(&about).expect("JSON");
    let bytes = about["virtual-size"].as_u64().expect("a number") * 1000;
    let overlay = format!("create -q -f qcow2 -b debian.qcow2 -F qcow2 grown.qcow2 {bytes}");
    run(world, "qemu-img", &overlay).success();
    let kernel = Kernel {
        kernel: "read-vmlinuz",
        ramdisk: "read-initrd",
        parameters: "root=LABEL=cloudimg-rootfs ro console=ttyS0",
    };
    let console = boot_kernel(world, kernel, Some("grown.qcow2"), "login:");
    let (_, said) = console.split_once("KILN-GROWN ").expect(&console);
    let (size, errors) = said.split_once("M, ").expect(&console);
    let size: u64 = size.trim().parse().expect(&console);
    assert!(errors.starts_with("0 errors"), "{console}");
    // Less than a tenth goes to metadata.
    assert!(size << 20 > bytes / 10 * 9, "{console}");
}
