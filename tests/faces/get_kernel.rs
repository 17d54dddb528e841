//! `disk-image-get-kernel`: kernel and ramdisk out of images.

use std::fs;
use std::process::Command;

use crate::common::toy::{GPT, Toy};
use crate::common::{Run as _, World};

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
            "the whole disk is none that is known",
            "ext2, ext3, ext4 and FAT",
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
