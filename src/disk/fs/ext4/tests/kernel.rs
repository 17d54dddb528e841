//! Mounts images and lets the kernel read and change them.

use super::*;
use crate::disk::fs::testing::Mounted;
use crate::tree::{ScanOptions, scan};

/// A tree as text, without `/lost+found`.
fn text(tree: &Tree) -> String {
    tree.dump()
        .lines()
        .filter(|line| !line.starts_with("/lost+found "))
        .collect::<Vec<_>>()
        .join("\n")
}

fn assert_same_text(found: &str, expected: &str) {
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert!(
            found == expected,
            "found    {found:.400}\nexpected {expected:.400}"
        );
    }
    assert_eq!(found.lines().count(), expected.lines().count());
}

pub(super) fn compare(image: &Path, tree: &Arc<Tree>) {
    let Some(mounted) = Mounted::new(image, "ext4", "loop,ro") else {
        return;
    };
    let found = Arc::new(scan(mounted.path(), &ScanOptions::default()).unwrap());
    assert_same_text(&text(&found), &text(tree));
    for (id, node) in tree.nodes() {
        if let Kind::File(_) = tree.inode(node.inode).kind {
            let path = tree.path(id);
            let same = found
                .find(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
                .unwrap();
            let bytes = bytes_of(&found, found.node(same).inode);
            assert!(
                bytes == bytes_of(tree, node.inode),
                "{} differs",
                path.display()
            );
        }
    }
}

#[test]
fn the_kernel_reads_what_was_in_the_tree() {
    let tree = images::nasty();
    let image = Image::new(&tree, &options(), 512 * MIB);
    compare(&image.path(), &tree);
}

#[test]
fn the_kernel_reads_block_maps() {
    let tree = images::nasty();
    let mut options = options();
    options.features = Features::ext3();
    let image = Image::new(&tree, &options, 512 * MIB);
    compare(&image.path(), &tree);
}

#[test]
fn the_kernel_reads_an_image_of_the_smallest_size() {
    let tree = images::nasty();
    let image = Image::new(&tree, &options(), minimum_size(&tree, &options()).unwrap());
    compare(&image.path(), &tree);
}

#[test]
fn the_kernel_may_change_everything_and_e2fsck_stays_silent() {
    let image = Image::new(&images::nasty(), &options(), 512 * MIB);
    {
        let Some(mounted) = Mounted::new(&image.path(), "ext4", "loop") else {
            return;
        };
        for number in 0..2000 {
            std::fs::write(
                mounted.path().join(format!("three-thousand/new-{number}")),
                [1; 5000],
            )
            .unwrap();
        }
        for number in 0..3000 {
            std::fs::remove_file(
                mounted
                    .path()
                    .join(format!("three-thousand/entry-{number:05}")),
            )
            .unwrap();
        }
        std::fs::remove_file(mounted.path().join("swiss")).unwrap();
        std::fs::remove_file(mounted.path().join("xattr/shared0")).unwrap();
        std::fs::write(mounted.path().join("hole"), [3; 1 << 20]).unwrap();
    }
    image.check();
}
