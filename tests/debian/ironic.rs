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
/// cloud-init does it; and another one, which can be checked when it is done.
const GROW: &str = r#"#!/bin/bash
set -eu
cat >/usr/local/sbin/grow <<'END'
#!/bin/bash
exec >/dev/console 2>&1
grows() {
    resize2fs "$1" && sync
    echo "KILN-GROWN $2: $(df -BM --output=size "$2" | tail -n 1), $(dmesg | grep -c 'EXT4-fs error') errors"
    dumpe2fs -h "$1" | grep '^Filesystem features:'
}
grows "$(findmnt -no SOURCE /)" /
data=$(findfs LABEL=data)
mount "$data" /mnt
grows "$data" /mnt
# Each goes to groups of its own.
for number in {1..20}; do
    mkdir "/mnt/$number"
    cp /mnt/file "/mnt/$number"
done
umount /mnt
e2fsck -fn "$data"
echo "KILN-CHECKED $?"
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
/// Nor has e2fsck on a small filesystem, which grows as much.
fn grows_a_thousandfold(world: &World) {
    world.write("data/file", &"kiln\n".repeat(10_000));
    world
        .kiln()
        .words("pack data -o data -t qcow2 --size 64MiB --label data")
        .success();
    let [root, data] = ["debian", "data"].map(|name| {
        let about = format!("info --output json {name}.qcow2");
        let about = run(world, "qemu-img", &about).success();
        let about: Value = serde_json::from_str(&about).expect("JSON");
        let bytes = about["virtual-size"].as_u64().expect("a number") * 1000;
        let overlay =
            format!("create -q -f qcow2 -b {name}.qcow2 -F qcow2 {name}-grown.qcow2 {bytes}");
        run(world, "qemu-img", &overlay).success();
        bytes
    });
    let kernel = Kernel {
        kernel: "read-vmlinuz",
        ramdisk: "read-initrd",
        parameters: "root=LABEL=cloudimg-rootfs ro console=ttyS0",
    };
    let images = ["debian-grown.qcow2", "data-grown.qcow2"];
    let console = boot_kernel(world, kernel, &images, "login:");
    for (mounted, bytes) in [("/", root), ("/mnt", data)] {
        let (_, said) = console
            .split_once(&format!("KILN-GROWN {mounted}: "))
            .expect(&console);
        let (size, rest) = said.split_once("M, ").expect(&console);
        let size: u64 = size.trim().parse().expect(&console);
        assert!(rest.starts_with("0 errors"), "{console}");
        // Less than a tenth goes to metadata.
        assert!(size << 20 > bytes / 10 * 9, "{console}");
        // By what was kept for it: the kernel turns to meta_bg where that is not enough.
        let features = rest
            .lines()
            .find(|line| line.contains("Filesystem features:"))
            .expect(&console);
        assert!(features.contains("resize_inode"), "{console}");
        assert!(!features.contains("meta_bg"), "{console}");
    }
    assert!(console.contains("KILN-CHECKED 0"), "{console}");
}
