//! squashfs by `mksquashfs` and by kiln.

use std::fs;
use std::path::Path;

use kiln::inspect::{self, Contents};

use super::{assert_same, listing, tree};
use crate::common::image::{missing, run};
use crate::common::{Run as _, World, tool};
use crate::skip;

#[test]
fn squashfs_is_read_in_every_form() {
    if let Some(tool) = missing(&["mksquashfs", "diff"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    tree(&world);
    let path = |name: &str| world.work().join(name);
    let mut made = 0;
    for arguments in [
        "-comp gzip",
        "-comp xz",
        "-comp xz -Xbcj x86 -b 1M",
        "-comp zstd -b 4096",
        "-comp lz4",
        "-comp lzo -b 64K",
        "-comp gzip -no-fragments -b 8K",
        "-comp zstd -always-use-fragments",
        "-comp gzip -noI -noD -noF -noX -noId",
    ] {
        let _ = fs::remove_file(path("a.squashfs"));
        let line = format!("tree a.squashfs -quiet -no-progress -processors 2 {arguments}");
        let outcome = run(&world, "mksquashfs", &line);
        if outcome.code() != 0 {
            println!("mksquashfs {arguments}: {}", outcome.stderr);
            continue;
        }
        made += 1;
        let _ = fs::remove_dir_all(path("copy"));
        world.kiln().words("cp -r a.squashfs / copy").success();
        assert_same(&world, "copy");
        assert_holes(&path("copy"), arguments);
    }
    assert!(made > 4, "mksquashfs made {made} filesystems");

    // Parts of files, devices, owners.
    let mut command = world.command(tool("mksquashfs").expect("installed"));
    command.args(["tree", "a.squashfs", "-quiet", "-no-progress", "-noappend"]);
    for device in [
        "null c 666 7 80000 1 3",
        "large b 660 0 0 259 70000",
        "dir d 1777 5 6",
    ] {
        command.args(["-p", device]);
    }
    command.run().success();
    let found = listing(&world, "a.squashfs");
    assert_eq!(found.len(), 416);
    assert_eq!(found["null"]["gid"], 80_000);
    assert_eq!(found["null"]["device"][1], 3);
    assert_eq!(found["large"]["device"][0], 259);
    assert_eq!(found["large"]["device"][1], 70_000);
    assert_eq!(found["dir"]["mode"], "1777");
    assert_eq!(found["small"]["links"], 2);
    assert_eq!(found["boot/vmlinuz"]["target"], "vmlinuz-6.1");

    // It is the root of a system, whatever its name.
    let image = inspect::open(&path("a.squashfs"), None).expect("opened");
    let contents = Contents::read(&image).expect("read");
    let system = inspect::system(&contents, world.work().as_path()).expect("a system");
    assert!(system.find("/boot/vmlinuz-6.1").is_some());
}

fn assert_holes(copy: &Path, arguments: &str) {
    let sparse = fs::metadata(copy.join("sparse")).expect("copied");
    let blocks = std::os::unix::fs::MetadataExt::blocks(&sparse);
    // With blocks of a mebibyte few are all zeros.
    let most = if arguments.contains("1M") { 10 } else { 6 };
    assert!(blocks * 512 < most << 20, "{arguments}: holes are kept");
}

#[test]
fn what_kiln_packs_as_squashfs_is_read_back() {
    let world = World::new();
    tree(&world);
    world.kiln().words("pack tree -o b -t squashfs").success();
    let image = "b.squashfs";
    world
        .kiln()
        .args(["cp", "-r", image, "/", "copy"])
        .run()
        .success();
    assert_same(&world, "copy");
    let mut bytes = fs::read(world.work().join(image)).expect("readable");
    bytes[20] = 2;
    fs::write(world.work().join("bad.squashfs"), &bytes).expect("written");
    let outcome = world.face("disk-image-get-kernel").words("bad.squashfs");
    let message = "is squashfs compressed by lzma, which kiln does not read";
    assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
}
