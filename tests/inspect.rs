//! `kiln inspect`, `ls`, `cat` and `cp` over images that others made; and what the
//! fuzzers know of inputs that nobody should make.

mod common;

#[path = "inspect/btrfs.rs"]
mod btrfs;
#[path = "inspect/fuzz.rs"]
mod fuzz;
#[path = "inspect/squashfs.rs"]
mod squashfs;
#[path = "inspect/xfs.rs"]
mod xfs;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use common::image::{missing, run};
use common::{Run as _, World, kiln};
use serde_json::Value;

/// Files of all shapes below `tree`.
fn tree(world: &World) {
    let work = world.work();
    world.write("tree/etc/os-release", "ID=toy\nPRETTY_NAME=\"A toy 1\"\n");
    world.write("tree/boot/vmlinuz-6.1", &"kernel".repeat(30_000));
    world.write("tree/empty", "");
    world.write("tree/small", "fits into an inode\n");
    world.write("tree/Mixed Case/tab\there.txt", "odd name\n");
    for number in 0..400 {
        let path = format!("tree/many/with-a-name-of-some-length-{number:04}");
        world.write(&path, &number.to_string());
    }
    symlink("vmlinuz-6.1", work.join("tree/boot/vmlinuz")).expect("linked");
    symlink("y".repeat(300), work.join("tree/long-link")).expect("linked");
    let sparse = fs::File::create(work.join("tree/sparse")).expect("created");
    // mke2fs forgets a hole at the end where data may be in inodes.
    sparse.write_all_at(b"end", 9 << 20).expect("written");
    for at in (0..40).map(|n| n * 200_000) {
        sparse.write_all_at(b"island", at).expect("written");
    }
    fs::hard_link(work.join("tree/small"), work.join("tree/second")).expect("linked");
}

/// `kiln ls -R --json`, by path.
fn listing(world: &World, image: &str) -> BTreeMap<String, Value> {
    let text = world
        .kiln()
        .args(["ls", "-R", "--json", image])
        .run()
        .success();
    text.lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line).expect("JSON");
            let path = value["path"].as_str().expect("a path").to_owned();
            (path, value)
        })
        .collect()
}

/// Compares a directory with a copy of it.
fn assert_same(world: &World, copy: &str) {
    let line = "-r --no-dereference --exclude=lost+found tree";
    let outcome = run(world, "diff", &format!("{line} {copy}"));
    assert_eq!(outcome.stdout, "", "{copy}: {}", outcome.stderr);
}

#[test]
fn every_kind_of_ext_filesystem_is_read() {
    if let Some(tool) = missing(&["mke2fs", "diff"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    tree(&world);
    for (number, options) in [
        "-t ext2 -b 1024 -I 128",
        "-t ext2 -b 4096 -O ^filetype",
        "-t ext3",
        "-t ext4",
        "-t ext4 -b 1024 -O ^64bit,^flex_bg",
        "-t ext4 -O inline_data",
        "-t ext4 -b 1024 -O meta_bg,^resize_inode -I 512",
        "-t ext4 -O bigalloc,metadata_csum_seed,ea_inode,large_dir",
        "-t ext4 -b 65536",
    ]
    .into_iter()
    .enumerate()
    {
        let image = format!("{number}.img");
        let line = format!("-q -F {options} -d tree {image} 64M");
        let made = run(&world, "mke2fs", &line);
        assert_eq!(made.code(), 0, "{options}: {}", made.stderr);
        let found = listing(&world, &image);
        let small = &found["small"];
        assert_eq!(small["links"], 2, "{options}");
        assert_eq!(small["size"], 19, "{options}");
        let host = fs::metadata(world.work().join("tree/small")).expect("there");
        assert_eq!(small["mtime"], host.mtime(), "{options}");
        assert_eq!(small["uid"], host.uid(), "{options}");
        assert_eq!(found["boot/vmlinuz"]["target"], "vmlinuz-6.1", "{options}");
        // 400 of them, and what else the tree has with `lost+found`.
        assert_eq!(found.len(), 414, "{options}: {:?}", found.keys());
        let copy = format!("{number}.copy");
        world
            .kiln()
            .args(["cp", "-r", &image, "/", &copy])
            .run()
            .success();
        assert_same(&world, &copy);
        let sparse = fs::metadata(world.work().join(&copy).join("sparse")).expect("there");
        assert!(sparse.blocks() * 512 < 6 << 20, "{options}: holes are kept");
    }
}

#[test]
fn attributes_are_listed_whether_in_the_inode_or_beside_it() {
    if let Some(tool) = missing(&["mke2fs", "debugfs"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    world.write("tree/file", "x");
    let long = world.write("long", &"v".repeat(3000));
    run(
        &world,
        "mke2fs",
        "-q -F -t ext4 -b 4096 -O ea_inode -d tree a.img 16M",
    )
    .success();
    for command in [
        "ea_set file user.short v".to_owned(),
        format!("ea_set -f {} file user.long", long.display()),
        "ea_set file security.capability cap".to_owned(),
    ] {
        let program = common::tool("debugfs").expect("installed");
        let outcome = world
            .command(program)
            .args(["-w", "-R", &command, "a.img"])
            .run();
        assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    }
    let found = listing(&world, "a.img");
    let xattrs = &found["file"]["xattrs"];
    assert_eq!(xattrs["user.short"], "76");
    assert_eq!(xattrs["user.long"], "76".repeat(3000));
    assert_eq!(xattrs["security.capability"], "636170");
}

#[test]
fn every_width_of_fat_is_read() {
    if let Some(tool) = missing(&["mkfs.fat", "mcopy", "diff"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    tree(&world);
    fs::remove_file(world.work().join("tree/long-link")).expect("removed");
    fs::remove_file(world.work().join("tree/boot/vmlinuz")).expect("removed");
    fs::remove_dir_all(world.work().join("tree/Mixed Case")).expect("removed");
    world.write("tree/Mixed Case/Ünïcode näme.txt", "odd name\n");
    world.write("tree/UPPER.TXT", "short name\n");
    for (width, size, options) in [(12, 12, "-s 8"), (16, 40, "-s 4"), (32, 40, "-s 1 -S 512")] {
        let image = format!("fat{width}.img");
        let file = fs::File::create(world.work().join(&image)).expect("created");
        file.set_len(size << 20).expect("sized");
        let line = format!("-F {width} {options} -n LABEL {image}");
        run(&world, "mkfs.fat", &line).success();
        for entry in fs::read_dir(world.work().join("tree")).expect("readable") {
            let path = entry.expect("readable").path();
            let program = common::tool("mcopy").expect("installed");
            let mut copy = world.command(program);
            copy.env("LC_ALL", "C.UTF-8");
            copy.args(["-s", "-m", "-i", &image]).arg(path).arg("::/");
            copy.run().success();
        }
        let copy = format!("{width}.copy");
        world
            .kiln()
            .args(["cp", "-r", &image, "/", &copy])
            .run()
            .success();
        assert_same(&world, &copy);
        let text = world.kiln().args(["cat", &image, "/upper.txt"]).run();
        assert_eq!(text.success(), "short name\n");
        let report = world.kiln().args(["inspect", "--json", &image]).run();
        let report: Value = serde_json::from_str(&report.success()).expect("JSON");
        assert_eq!(report["partitions"][0]["filesystem"], "vfat");
        assert_eq!(report["partitions"][0]["label"], "LABEL");
    }
}

/// Makes a disk with sfdisk and copies files into it: (first byte, file).
fn disk(world: &World, name: &str, size: u64, script: &str, parts: &[(u64, &str)]) {
    let path = world.work().join(name);
    let file = fs::File::create(&path).expect("created");
    file.set_len(size).expect("sized");
    let script = world.write("script", script);
    let program = common::tool("sfdisk").expect("installed");
    let mut command = world.command(program);
    command.args(["-q", name]);
    command.stdin(fs::File::open(script).expect("there"));
    let outcome = command.run();
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    for (at, part) in parts {
        let bytes = fs::read(world.work().join(part)).expect("there");
        file.write_all_at(&bytes, *at).expect("written");
    }
}

#[test]
fn partitions_are_found_by_number_name_and_label_and_the_root_by_itself() {
    if let Some(tool) = missing(&["mke2fs", "sfdisk", "qemu-img"]) {
        skip!("`{tool}` is not installed");
    }
    const MIB: u64 = 1 << 20;
    let world = World::new();
    tree(&world);
    fs::remove_file(world.work().join("tree/sparse")).expect("removed");
    world.write("other/note", "not the root\n");
    run(
        &world,
        "mke2fs",
        "-q -F -t ext4 -L system -d tree root.img 16M",
    )
    .success();
    run(
        &world,
        "mke2fs",
        "-q -F -t ext4 -L data -d other data.img 24M",
    )
    .success();
    let gpt = "label: gpt\nstart=2048,size=24M,name=stuff\nsize=16M,name=root\n";
    disk(
        &world,
        "gpt.raw",
        64 * MIB,
        gpt,
        &[(MIB, "data.img"), (25 * MIB, "root.img")],
    );
    let mbr = "label: dos\nstart=2048,size=2M,type=82\nstart=6144,size=50M,type=5\n\
               start=8192,size=24M\nstart=59392,size=16M\n";
    disk(
        &world,
        "mbr.raw",
        64 * MIB,
        mbr,
        &[(4 * MIB, "data.img"), (29 * MIB, "root.img")],
    );
    let line = "convert -O qcow2 -c gpt.raw gpt.qcow2";
    run(&world, "qemu-img", line).success();
    for (image, root, data) in [("gpt.raw", 2, 1), ("gpt.qcow2", 2, 1), ("mbr.raw", 6, 5)] {
        let cat = |part: &str, path: &str| {
            let outcome = world
                .kiln()
                .args(["cat", &format!("{image}{part}"), path])
                .run();
            outcome.success()
        };
        assert_eq!(cat("", "/small"), "fits into an inode\n", "{image}");
        for part in [format!(":{root}"), ":system".to_owned()] {
            assert_eq!(cat(&part, "/boot/vmlinuz").len(), 180_000, "{image}{part}");
        }
        for part in [format!(":{data}"), ":data".to_owned()] {
            assert_eq!(cat(&part, "note"), "not the root\n", "{image}{part}");
        }
        let report = world.kiln().args(["inspect", "--json", image]).run();
        let report: Value = serde_json::from_str(&report.success()).expect("JSON");
        assert_eq!(report["system"]["partition"], root, "{image}");
        assert_eq!(report["system"]["name"], "A toy 1", "{image}");
        assert_eq!(report["system"]["kernels"][0], "vmlinuz-6.1", "{image}");
        let text = world.kiln().args(["inspect", image]).run().success();
        assert!(text.contains("system: A toy 1\n"), "{text}");
    }
    assert_eq!(
        world
            .kiln()
            .args(["cat", "gpt.raw:stuff", "/note"])
            .run()
            .success(),
        "not the root\n"
    );

    // The table at the start is gone: the one at the end serves.
    let file = fs::File::options()
        .write(true)
        .open(world.work().join("gpt.raw"))
        .expect("there");
    file.write_all_at(&[0xAA; 92], 512).expect("written");
    let text = world.kiln().args(["inspect", "gpt.raw"]).run().success();
    assert!(
        text.contains("read from the copy at the disk's end"),
        "{text}"
    );
    let text = world.kiln().args(["cat", "gpt.raw:2", "/small"]).run();
    assert_eq!(text.success(), "fits into an inode\n");
    file.write_all_at(&[0xAA; 92], 64 * MIB - 512)
        .expect("written");
    let outcome = world.kiln().args(["ls", "gpt.raw"]).run();
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome.stderr.contains("neither can be used"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn what_is_not_there_is_explained() {
    if let Some(tool) = missing(&["mke2fs", "sfdisk", "mkswap"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    world.write("tree/dir/file", "x");
    run(&world, "mke2fs", "-q -F -t ext4 -d tree a.img 8M").success();
    let gpt = "label: gpt\nstart=2048,size=8M,name=root\nsize=4M,name=swap\n";
    disk(&world, "disk.raw", 24 << 20, gpt, &[(1 << 20, "a.img")]);
    fs::write(world.work().join("blank.raw"), vec![0; 4 << 20]).expect("written");
    let swap = fs::File::create(world.work().join("swap.raw")).expect("created");
    swap.set_len(4 << 20).expect("sized");
    run(&world, "mkswap", "swap.raw").success();
    // Images and targets are shown as they were named.
    for (line, message) in [
        (
            "cat a.img /dir/none",
            "error: a.img: there is no `/dir/none`\n\
             hint: see what is there with `kiln ls IMAGE DIRECTORY`\n",
        ),
        (
            "cat tree/../a.img /dir",
            "error: tree/../a.img: `/dir` is a directory, not a file\n",
        ),
        (
            "cat ./none.img /dir",
            "error: cannot read image `./none.img`: No such file or directory (os error 2)\n\
             hint: check the name\n",
        ),
        (
            "ls disk.raw:home",
            "error: disk.raw: the image has no partition `home`\n\
             hint: it has 1 root (ext4), 2 swap\n",
        ),
        (
            "ls swap.raw",
            "error: swap.raw: the image has no filesystem that kiln reads\n\
             hint: it has swap; ext2 to ext4, XFS, btrfs, squashfs and FAT are read\n",
        ),
        (
            "ls disk.raw:2",
            "error: disk.raw: there is no filesystem that is known\n\
             hint: choose another partition with `IMAGE:NUMBER` (`kiln inspect IMAGE` lists them)\n",
        ),
        (
            "cp a.img /dir copy",
            "error: a.img: `/dir` in the image is a directory\n\
             hint: `-r` copies directories with what is in them\n",
        ),
        (
            "cp a.img / tree",
            "error: a.img: `/` in the image is a directory\n\
             hint: `-r` copies directories with what is in them\n",
        ),
        (
            "cp a.img /dir/file none/file",
            "error: a.img: cannot write `none/file`: No such file or directory (os error 2)\n\
             hint: make the directory that it goes into first\n",
        ),
        (
            "cp a.img /dir/file /dir/file none",
            "error: `none` is not a directory\n\
             hint: several files can only be copied into a directory that is there\n",
        ),
    ] {
        let outcome = world.kiln().words(line);
        assert_ne!(outcome.code(), 0, "{line}");
        assert_eq!(outcome.stderr, message, "{line}");
        assert_eq!(outcome.stdout, "", "{line}");
    }
    let outcome = world.kiln().words("ls none.raw:1");
    assert!(outcome.stderr.contains("none.raw"), "{}", outcome.stderr);
    let outcome = world.kiln().words("ls blank.raw");
    assert!(
        outcome.stderr.contains("no filesystem"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn copying_out_follows_no_link_that_is_there_already() {
    if let Some(tool) = missing(&["mke2fs"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    world.write("tree/dir/file", "from the image");
    world.write("victim/file", "precious");
    symlink("/etc", world.work().join("tree/link")).expect("linked");
    run(&world, "mke2fs", "-q -F -t ext4 -d tree a.img 8M").success();
    let work = world.work();
    fs::create_dir(work.join("out")).expect("made");
    symlink(work.join("victim/file"), work.join("out/file")).expect("linked");
    let outcome = world.kiln().args(["cp", "a.img", "/dir/file", "out"]).run();
    assert_eq!(outcome.stderr, "copied 1 file, 14 B\n");
    let precious = || fs::read_to_string(work.join("victim/file")).expect("there");
    assert_eq!(precious(), "precious");
    let copied = fs::symlink_metadata(work.join("out/file")).expect("there");
    assert!(copied.is_file());

    symlink(work.join("victim"), work.join("out/dir")).expect("linked");
    let outcome = world
        .kiln()
        .args(["cp", "-r", "a.img", "/dir", "out"])
        .run();
    assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("something else has this name"),
        "{}",
        outcome.stderr
    );
    assert_eq!(precious(), "precious");

    let outcome = world.kiln().args(["cp", "-r", "a.img", "/", "all"]).run();
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    let link = fs::read_link(work.join("all/link")).expect("a link");
    assert_eq!(link, Path::new("/etc"));
    let left: Vec<_> = fs::read_dir(work.join("out"))
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().contains("kiln")),
        "{left:?}"
    );
}

#[test]
fn copying_out_leaves_directories_that_were_there_as_they_were() {
    if let Some(tool) = missing(&["mke2fs", "sh"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    let work = world.work();
    world.write("tree/sub/file", "from the image");
    world.write("tree/new/file", "from the image");
    let set = |path: &str, mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(work.join(path), mode).expect("its own");
    };
    let mode = |path: &str| {
        let metadata = fs::metadata(work.join(path)).expect("there");
        metadata.mode() & 0o7777
    };
    for path in ["tree", "tree/sub", "tree/new"] {
        set(path, 0o777);
        // Long ago, to be told from any time of this test.
        run(&world, "touch", &format!("-d @1000000000 {path}")).success();
    }
    set("tree/new/file", 0o666);
    run(&world, "mke2fs", "-q -F -t ext4 -d tree a.img 8M").success();
    for path in ["p", "p/sub"] {
        fs::create_dir(work.join(path)).expect("made");
        set(path, 0o700);
    }
    let mut command = world.command("/bin/sh");
    command.args(["-c", "umask 027; exec \"$@\"", "sh"]);
    command.arg(kiln()).args(["cp", "-r", "a.img", "/", "p"]);
    let outcome = command.run();
    assert_eq!(outcome.code(), 0, "{}", outcome.stderr);
    for path in ["p", "p/sub"] {
        assert_eq!(mode(path), 0o700, "{path}");
        let metadata = fs::metadata(work.join(path)).expect("there");
        assert_ne!(metadata.mtime(), 1_000_000_000, "{path}");
    }
    // What is new has what the image says, as far as the user lets files have it.
    assert_eq!(mode("p/new"), 0o750);
    assert_eq!(mode("p/new/file"), 0o640);
    let metadata = fs::metadata(work.join("p/new")).expect("there");
    assert_eq!(metadata.mtime(), 1_000_000_000);
}

#[test]
fn the_root_fills_a_directory_however_it_is_named() {
    if let Some(tool) = missing(&["mke2fs"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    world.write("tree/dir/file", "x");
    run(&world, "mke2fs", "-q -F -t ext4 -d tree a.img 8M").success();
    let work = world.work();
    let image = work.join("a.img");
    for (number, target) in ["..", "../", ".", "../other/.", "../link"]
        .into_iter()
        .enumerate()
    {
        let place = work.join(format!("place{number}"));
        fs::create_dir_all(place.join("here")).expect("made");
        fs::create_dir_all(place.join("other")).expect("made");
        symlink("other", place.join("link")).expect("linked");
        let mut command = world.kiln();
        command.current_dir(place.join("here"));
        let outcome = command.args(["cp", "-r"]).arg(&image).args(["/", target]);
        let outcome = outcome.run();
        assert_eq!(outcome.code(), 0, "{target}: {}", outcome.stderr);
        let filled = place.join("here").join(target).join("dir/file");
        assert_eq!(fs::read_to_string(filled).expect("there"), "x", "{target}");
        let link = fs::symlink_metadata(place.join("link")).expect("there");
        assert!(link.is_symlink(), "{target}");
    }
}

#[test]
fn directories_with_two_names_are_damage() {
    if let Some(tool) = missing(&["mke2fs"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    world.write("tree/dir/first-name/file", "x");
    world.write("tree/dir/other-name/file", "x");
    run(&world, "mke2fs", "-q -F -t ext4 -d tree a.img 8M").success();
    let path = world.work().join("a.img");
    let mut image = fs::read(&path).expect("there");
    let entry = |name: &[u8]| {
        let at = image.windows(name.len()).position(|window| window == name);
        at.expect("the name is there") - 8
    };
    let (first, other) = (entry(b"first-name"), entry(b"other-name"));
    image.copy_within(first..first + 4, other);
    fs::write(&path, image).expect("written");
    for line in ["cp -r a.img / out", "ls -R a.img"] {
        let outcome = world.kiln().words(line);
        assert_eq!(outcome.code(), 1, "{line}");
        assert!(
            outcome
                .stderr
                .contains("the ext4 filesystem is damaged at inode")
                && outcome.stderr.contains("another directory's"),
            "{line}: {}",
            outcome.stderr
        );
        // Named as it is in the image, and not as it would be here.
        let named = "cannot read `/dir/other-name` in the image: ";
        assert_eq!(
            outcome.stderr.contains(named),
            line.starts_with("cp"),
            "{line}"
        );
    }
    assert!(!world.work().join("out/dir/other-name/file").exists());
}

#[test]
fn names_that_lead_out_of_a_directory_are_damage() {
    if let Some(tool) = missing(&["mke2fs"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    world.write("tree/dir/abcdef", "x");
    run(
        &world,
        "mke2fs",
        "-q -F -t ext4 -O ^metadata_csum -d tree a.img 8M",
    )
    .success();
    let path = world.work().join("a.img");
    let image = fs::read(&path).expect("there");
    let at = image
        .windows(6)
        .position(|window| window == b"abcdef")
        .expect("the name is there");
    for name in [b"../xyz", b"a/bcde", b"ab\0cde"] {
        let mut bad = image.clone();
        bad[at..at + 6].copy_from_slice(name);
        fs::write(&path, bad).expect("written");
        let outcome = world
            .kiln()
            .args(["cp", "-r", "a.img", "/dir", "out"])
            .run();
        assert_eq!(outcome.code(), 1);
        assert!(
            outcome.stderr.contains("is damaged at inode"),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn a_reader_that_goes_away_ends_cat_quietly() {
    if let Some(tool) = missing(&["mke2fs", "head", "bash"]) {
        skip!("`{tool}` is not installed");
    }
    let world = World::new();
    world.write("tree/large", &"line\n".repeat(1_000_000));
    run(&world, "mke2fs", "-q -F -t ext4 -d tree a.img 32M").success();
    let line = format!(
        "set -o pipefail; {} cat a.img /large | head -n 1",
        kiln().display()
    );
    let outcome = world.command("bash").args(["-c", &line]).run();
    assert_eq!(outcome.success(), "line\n");
}
