//! `dib-block-device`: a disk step by step.

use std::fs;

use crate::common::image::{assert_clean, debugfs, extract, missing, partitions};
use crate::common::toy::GPT;
use crate::common::{Run as _, World};
use crate::skip;

fn world() -> World {
    let mut world = World::new();
    world.write("config.yaml", GPT);
    let here = world.work().display().to_string();
    world.write(
        "params.yaml",
        &format!(
            "config: {here}/config.yaml\nimage-dir: {here}\nmount-base: {here}/mnt\n\
             build-dir: {here}/build\nroot-fs-type: ext4\nroot-label: mine\n"
        ),
    );
    world.set("DIB_BLOCK_DEVICE_PARAMS_YAML", "params.yaml");
    world
}

#[test]
fn the_steps_make_an_image_of_what_is_in_the_mount_points() {
    let world = world();
    let step = |line: &str| world.face("dib-block-device").words(line);
    step("init").success();
    assert_eq!(step("getval root-fstype").success(), "ext4\n");
    assert_eq!(step("getval mount-points").success(), "/\n");
    let early = step("getval image-path");
    assert_eq!(early.code(), 1);
    assert!(
        early.stderr.contains("there is no image yet"),
        "{}",
        early.stderr
    );
    assert!(
        step("create")
            .stderr
            .contains("the size of the image is not known")
    );

    let params = world.work().join("params.yaml");
    let text = fs::read_to_string(&params).expect("it was written");
    fs::write(&params, format!("{text}image-size: 131072KiB\n")).expect("it can be written");
    step("create").success();
    let image = world.work().join("image0.raw");
    assert_eq!(
        step("getval image-path").success(),
        format!("{}\n", image.display())
    );
    assert_eq!(step("getval image-block-device").success(), "/dev/image0\n");
    fs::create_dir(world.work().join("mnt/etc")).expect("the mount point is there");
    fs::write(world.work().join("mnt/etc/motd"), "hello\n").expect("it can be written");
    step("writefstab").success();
    for place in ["build/states/block-device/fstab", "build/built/etc/fstab"] {
        let fstab = fs::read_to_string(world.work().join(place)).expect("it was written");
        assert!(fstab.contains(" / ext4 defaults 0 1\n"), "{place}: {fstab}");
    }
    step("umount").success();
    assert_eq!(fs::metadata(&image).expect("it is there").len(), 128 << 20);
    if let Some(tool) = missing(&["sfdisk", "debugfs", "e2fsck"]) {
        skip!("{tool} is not installed");
    }
    let (label, parts) = partitions(&world, "image0.raw");
    assert_eq!(label, "gpt");
    extract(&world, &image, &parts[1], "root.ext4");
    assert_clean(&world, "root.ext4");
    assert_eq!(debugfs(&world, "root.ext4", "cat /etc/motd"), "hello\n");
    step("cleanup").success();
    assert!(image.exists() && !world.work().join("build/states/block-device").exists());
    step("create").success();
    step("delete").success();
    assert!(!image.exists());
}

#[test]
fn every_disk_of_a_configuration_is_made_filled_and_deleted() {
    let world = world();
    fs::create_dir(world.work().join("elsewhere")).expect("made");
    let here = world.work().display().to_string();
    let data = format!(
        "- local_loop: {{name: data, size: 16MiB, directory: {here}/elsewhere}}\n\
         - mkfs: {{name: srv, base: data, type: ext4, mount: {{mount_point: /srv, fstab: {{}}}}}}\n"
    );
    world.write("config.yaml", &format!("{GPT}{data}"));
    let params = world.work().join("params.yaml");
    let text = fs::read_to_string(&params).expect("it was written");
    fs::write(&params, format!("{text}image-size: 131072KiB\n")).expect("it can be written");
    let step = |line: &str| world.face("dib-block-device").words(line);
    step("init").success();
    step("create").success();
    let images = [
        (world.work().join("image0.raw"), 128 << 20),
        (world.work().join("elsewhere/data.raw"), 16 << 20),
    ];
    for (image, length) in &images {
        assert_eq!(fs::metadata(image).expect("it is there").len(), *length);
    }
    let path = step("getval image-path").success();
    assert_eq!(path, format!("{}\n", images[0].0.display()));
    let devices = step("getval image-block-devices").success();
    assert!(devices.contains(" [data]=/dev/data "), "{devices}");
    fs::write(world.work().join("mnt/srv/page"), "served\n").expect("it can be written");
    step("umount").success();
    if let Some(tool) = missing(&["debugfs", "e2fsck"]) {
        skip!("{tool} is not installed");
    }
    assert_clean(&world, "elsewhere/data.raw");
    let page = debugfs(&world, "elsewhere/data.raw", "cat /page");
    assert_eq!(page, "served\n");
    step("delete").success();
    assert!(images.iter().all(|(image, _)| !image.exists()));
}

#[test]
fn mistakes_of_the_caller_and_of_the_configuration_have_their_own_status() {
    let world = world();
    for (line, code, message, hint) in [
        ("", 2, "no step is named", "one of init, getval"),
        ("creat", 2, "unknown step `creat`", "did you mean `create`?"),
        ("getval", 2, "`getval` needs a symbol", "getval root-label"),
        ("init more", 2, "`init` takes no more arguments", "--help"),
        (
            "--parms x init",
            2,
            "unknown option `--parms`",
            "`--params`?",
        ),
        (
            "--par absent init",
            1,
            "cannot read the parameters",
            "--params",
        ),
        (
            "getval rot-label",
            1,
            "unknown symbol `rot-label`",
            "root-label, root-fstype",
        ),
        (
            "--params absent init",
            1,
            "cannot read the parameters in",
            "--params",
        ),
    ] {
        let outcome = world.face("dib-block-device").words(line);
        assert_eq!(outcome.code(), code, "{line}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains(message),
            "{line}: {}",
            outcome.stderr
        );
        assert!(outcome.stderr.contains(hint), "{line}: {}", outcome.stderr);
    }
}

#[test]
fn sizes_that_cannot_be_are_told_by_the_first_step() {
    let world = world();
    let params = world.work().join("params.yaml");
    let text = fs::read_to_string(&params).expect("it was written");
    fs::write(&params, format!("{text}image-size: 1024KiB\n")).expect("it can be written");
    for step in ["init", "create"] {
        let outcome = world.face("dib-block-device").words(step);
        assert_eq!(outcome.code(), 1, "{step}");
        for part in [
            "cannot hold a gpt",
            "hint: `image-size` in the parameters makes the image larger",
        ] {
            assert!(outcome.stderr.contains(part), "{step}: {}", outcome.stderr);
        }
    }
}
