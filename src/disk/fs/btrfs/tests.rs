//! Filesystems, judged by `btrfs check` and the kernel.

use std::path::Path;
use std::process::Command;

use uuid::uuid;

use super::*;
use crate::disk::fs::made::find_program;
use crate::disk::fs::testing::{Mounted, assert_kernel_sees, everything, write};
use crate::tree::{Content, DataRange, Inode, Kind, TreeBuilder};

fn options() -> Options {
    Options {
        label: "btrfs root".to_owned(),
        uuid: uuid!("0b6d3c8e-9c6a-4a60-8d52-1f5b1d6f0003"),
        timestamp: Timestamp {
            seconds: 1_700_000_000,
            nanoseconds: 0,
        },
    }
}

fn assert_clean(image: &Path) {
    let Some(program) = find_program("btrfs") else {
        println!("SKIP: btrfs is not installed");
        return;
    };
    let output = Command::new(program)
        .args(["check", "--check-data-csum"])
        .arg(image)
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    assert!(said.contains("no error found"), "{said}");
}

/// Files of 3 GB, mostly holes, and enough of them for deep trees.
fn large() -> Arc<Tree> {
    let mut tree = TreeBuilder::new();
    for number in 0..30_000u32 {
        let data = vec![u8::try_from(number % 251).unwrap(); 3000];
        let path = format!("/many/{}/{number}", number / 1000);
        tree.insert(path, Inode::file(data, 0o644)).unwrap();
    }
    let bytes: Arc<[u8]> = vec![5; 100 << 20].into();
    let mut content = Content::bytes(bytes);
    content.data = Some(
        [
            DataRange {
                offset: 100,
                length: 5000,
            },
            DataRange {
                offset: 6000,
                length: 10_000,
            },
            DataRange {
                offset: 90 << 20,
                length: 10 << 20,
            },
        ]
        .into(),
    );
    tree.insert("/sparse", Inode::new(Kind::File(content), 0o600))
        .unwrap();
    for number in 0..500 {
        let name = format!("/many/link number {number} of a file with many names");
        tree.hard_link(name, "/many/0/0").unwrap();
    }
    Arc::new(tree.build().unwrap())
}

#[test]
fn the_filesystem_holds_the_tree_exactly_and_is_the_same_each_time() {
    let scratch = tempfile::tempdir().unwrap();
    let tree = everything();
    let mut images = Vec::new();
    for name in ["a", "b"] {
        let volume = plan(&tree, &options(), 200 << 20).unwrap();
        let path = scratch.path().join(name);
        write(volume, &path);
        images.push(std::fs::read(&path).unwrap());
    }
    assert!(images[0] == images[1], "two runs differ");
    assert_clean(&scratch.path().join("a"));
    assert_kernel_sees(&scratch.path().join("a"), "btrfs", &tree);
}

#[test]
fn ranges_that_share_a_block_all_keep_their_data() {
    let mut bytes = vec![0; 40_000];
    // Several in a block, one over its end, and one in the next one.
    let data = [
        (0, 10),
        (600, 10),
        (4000, 100),
        (4500, 1),
        (20_000, 9000),
        (29_500, 5),
    ]
    .map(|(offset, length)| DataRange { offset, length });
    for range in &data {
        let place = |byte: u64| usize::try_from(byte).unwrap();
        bytes[place(range.offset)..place(range.offset + range.length)].fill(7);
    }
    let mut content = Content::bytes(bytes.clone());
    content.data = Some(data.into());
    let mut tree = TreeBuilder::new();
    tree.insert("/sparse", Inode::new(Kind::File(content), 0o600))
        .unwrap();
    let tree = Arc::new(tree.build().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("image");
    write(plan(&tree, &options(), 100 << 20).unwrap(), &path);
    assert_clean(&path);
    if let Some(mounted) = Mounted::new(&path, "btrfs", "loop,ro") {
        let read = std::fs::read(mounted.path().join("sparse")).unwrap();
        assert!(read == bytes);
    }
}

#[test]
fn many_files_and_an_empty_tree_are_no_different() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("image");
    write(plan(&large(), &options(), 1 << 30).unwrap(), &path);
    assert_clean(&path);
    let empty = Arc::new(TreeBuilder::new().build().unwrap());
    write(plan(&empty, &options(), 100 << 20).unwrap(), &path);
    assert_clean(&path);
    assert_kernel_sees(&path, "btrfs", &empty);
}

#[test]
fn what_cannot_be_made_says_why() {
    let empty = Arc::new(TreeBuilder::new().build().unwrap());
    let error = plan(&empty, &options(), 10 << 20).unwrap_err().to_string();
    assert!(error.contains("but has 10485760"), "{error}");
    let label = "l".repeat(256);
    let long = Options { label, ..options() };
    assert!(matches!(
        plan(&empty, &long, 1 << 30),
        Err(Error::Label { .. })
    ));
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    Options::check_mkfs(&words("-f -n 16k -m single")).unwrap();
    let error = Options::check_mkfs(&words("-m dup"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("option `-m dup` of mkfs.btrfs is not supported"),
        "{error}"
    );
    let mut tree = TreeBuilder::new();
    let value = vec![b'v'; 20_000];
    let inode = Inode::file(*b"x", 0o644).with_xattr("user.long", value);
    tree.insert("/a", inode).unwrap();
    let tree = Arc::new(tree.build().unwrap());
    let error = plan(&tree, &options(), 1 << 30).unwrap_err().to_string();
    assert_eq!(
        error,
        "`/a` cannot be put into a btrfs filesystem: its extended attributes are too long"
    );
}
