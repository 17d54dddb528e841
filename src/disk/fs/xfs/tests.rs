//! Filesystems, judged by xfs_repair and the kernel.

use std::process::Command;

use uuid::uuid;

use super::*;
use crate::disk::fs::testing::{Mounted, assert_kernel_sees, everything, write};
use crate::tree::{Content, DataRange, Inode, Kind, TreeBuilder};

fn options() -> Options {
    Options {
        label: "img-rootfs".to_owned(),
        uuid: uuid!("0b6d3c8e-9c6a-4a60-8d52-1f5b1d6f0002"),
        sector_size: 512,
        arguments: Vec::new(),
        for_grub: false,
        timestamp: Timestamp {
            seconds: 1_700_000_000,
            nanoseconds: 0,
        },
    }
}

fn has_programs() -> bool {
    for name in ["mkfs.xfs", "xfs_repair"] {
        if find_program(name).is_none() {
            println!("SKIP: {name} is not installed");
            return false;
        }
    }
    true
}

fn assert_clean(image: &Path) {
    let program = find_program("xfs_repair").unwrap();
    let output = Command::new(program).arg("-n").arg(image).output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    for bad in ["would ", "bad ", "mismatch", "out of order"] {
        let known = ["Repair may fail if", "No modify flag set"];
        let lines = said.lines().filter(|line| line.contains(bad));
        let odd: Vec<&str> = lines
            .filter(|line| !known.iter().any(|known| line.contains(known)))
            .collect();
        assert!(odd.is_empty(), "{odd:?}\n{said}");
    }
    // It does not look for blocks that nobody has; this does, and says only what is wrong.
    let Some(program) = find_program("xfs_db") else {
        return println!("SKIP: xfs_db is not installed");
    };
    let mut command = Command::new(program);
    let output = command
        .args(["-r", "-c", "blockget"])
        .arg(image)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains("host filesystem") && !line.contains("sector size mismatch"))
        .collect();
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn the_filesystem_holds_the_tree_exactly_and_is_the_same_each_time() {
    if !has_programs() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let tree = everything();
    let mut images = Vec::new();
    for (name, options) in [
        ("a", options()),
        ("b", options()),
        (
            "small-blocks",
            Options {
                arguments: vec![
                    "-b".into(),
                    "size=1024".into(),
                    "-i".into(),
                    "size=512".into(),
                ],
                ..options()
            },
        ),
        (
            "large-sectors",
            Options {
                sector_size: 4096,
                arguments: vec![
                    "-n".into(),
                    "size=8192".into(),
                    "-m".into(),
                    "finobt=0,bigtime=0".into(),
                ],
                ..options()
            },
        ),
    ] {
        let volume = plan(&tree, &options, 320 << 20, scratch.path()).unwrap();
        let path = scratch.path().join(name);
        write(volume, &path);
        assert_clean(&path);
        if name != "large-sectors" {
            assert_kernel_sees(&path, "xfs", &tree);
        }
        images.push(path);
    }
    let bytes = |at: usize| std::fs::read(&images[at]).unwrap();
    assert!(bytes(0) == bytes(1), "two runs differ");
    // Nothing but the images is left.
    let left = std::fs::read_dir(scratch.path()).unwrap().count();
    assert_eq!(left, images.len());
}

#[test]
fn what_cannot_be_made_says_why() {
    let scratch = tempfile::tempdir().unwrap();
    if !has_programs() {
        return;
    }
    let make = |inode: Inode, path: &str, bytes: u64, argument: &str| {
        let mut tree = TreeBuilder::new();
        tree.insert(path, inode).unwrap();
        let tree = Arc::new(tree.build().unwrap());
        let arguments = argument.split_whitespace().map(str::to_owned).collect();
        let options = Options {
            arguments,
            ..options()
        };
        plan(&tree, &options, bytes, scratch.path())
            .unwrap_err()
            .to_string()
    };
    let file = || Inode::file(*b"x", 0o644);
    assert_eq!(
        make(file(), "/a", 100 << 20, ""),
        "an xfs filesystem needs 314572800 bytes, but has 104857600"
    );
    assert_eq!(
        make(file(), "/dir/$", 300 << 20, ""),
        "`/dir/$` cannot be put into an xfs filesystem: mkfs.xfs cannot read its name"
    );
    let long = file().with_xattr("user.long", "v".repeat(300));
    assert_eq!(
        make(long, "/a", 300 << 20, ""),
        "`/a` cannot be put into an xfs filesystem: it has an extended attribute of more than the 255 bytes that fit into an inode"
    );
    let odd = file().with_xattr("other.name", "v");
    assert!(make(odd, "/a", 300 << 20, "").contains("xfs has no namespace"));
    assert!(make(file(), "/a", 300 << 20, "-q -Z").starts_with("`mkfs.xfs` failed: "));
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn files_have_their_size_or_there_is_none() {
    let scratch = tempfile::tempdir().unwrap();
    if !has_programs() {
        return;
    }
    let tree = |length: usize, size: u64| {
        let mut content = Content::bytes(vec![7; length]);
        content.size = size;
        content.data = Some(
            [DataRange {
                offset: 0,
                length: length as u64,
            }]
            .into(),
        );
        let mut tree = TreeBuilder::new();
        tree.insert("/file", Inode::new(Kind::File(content), 0o644))
            .unwrap();
        Arc::new(tree.build().unwrap())
    };
    let protofile = proto::write(&tree(5000, 5000), scratch.path(), MAX_READ).unwrap();
    let path = scratch.path().join("image");
    for (length, size, fits) in [
        (5000, 5000, true),
        // As mkfs.xfs 6.13.0 leaves a file that ends with a hole.
        (5000, 1 << 33, true),
        (5001, 5001, false),
        (4999, 4999, false),
    ] {
        let image = std::fs::File::options();
        let image = image
            .clone()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        let image = image.unwrap();
        image.set_len(MIN_BYTES).unwrap();
        let mut command = Command::new(check().unwrap());
        command
            .args(["-q", "-f", "-K", "-p"])
            .arg(&protofile)
            .arg(&path);
        made::run(&mut command).unwrap();
        let tree = tree(length, size);
        let fixed = fix::fix(&image, &path, &tree, options().timestamp);
        if !fits {
            assert_eq!(
                fixed.unwrap_err().to_string(),
                "`/file` cannot be put into an xfs filesystem: it changed while mkfs.xfs read it"
            );
            continue;
        }
        fixed.unwrap();
        assert_clean(&path);
        if let Some(mounted) = Mounted::new(&path, "xfs", "loop,ro,nouuid") {
            let found = mounted.path().join("file").metadata().unwrap();
            assert_eq!(found.len(), size);
        }
    }
    let large = tree(1, MAX_READ + 1);
    let error = proto::write(&large, scratch.path(), MAX_READ).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`/file` cannot be put into an xfs filesystem: mkfs.xfs before 6.13 takes no files of \
         more than 2 GiB"
    );
}

#[test]
fn what_grub_starts_from_has_no_features_that_it_does_not_know() {
    let given = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let none: Vec<String> = Vec::new();
    for (said, arguments, expected) in [
        ("mkfs.xfs version 5.18.0", vec![], vec![]),
        ("mkfs.xfs version 6.1.0\n", vec![], vec!["-i", "nrext64=0"]),
        (
            "mkfs.xfs version 6.13.0-rc1",
            vec![],
            vec!["-i", "nrext64=0", "-i", "exchange=0", "-n", "parent=0"],
        ),
        (
            "mkfs.xfs version 6.1.0",
            vec!["-i", "size=1024,nrext64=1"],
            vec![],
        ),
        ("", vec![], vec![]),
    ] {
        let found = cautious(version_in(said), &given(&arguments));
        assert_eq!(found, given(&expected), "{said}");
    }
    assert_eq!(cautious((0, 0), &none), none);
}
