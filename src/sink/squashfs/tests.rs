use std::path::Path;
use std::process::Command;

use super::super::output::{Existing, Output};
use super::super::tests::{have, run};
use super::format::BLOCK_SIZE;
use super::*;
use crate::tree::{Content, DataRange, Device, Inode, Kind, Origin, Timestamp, Tree, TreeBuilder};
use std::sync::Arc;

/// Bytes that do not compress, the same for the same seed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// Every kind of file, files around a block's length, and a directory whose
/// listing and inodes take several metadata blocks.
fn sample() -> Tree {
    let mut tree = TreeBuilder::new();
    let mut put = |path: &str, inode: Inode| {
        let time = Timestamp {
            seconds: 1_700_000_000,
            nanoseconds: 5,
        };
        tree.insert(path, inode.modified(time)).expect("a new path");
    };
    put("empty", Inode::directory(0o700));
    put(
        "etc/shadow",
        Inode::file(*b"secret\n", 0o640).owned_by(0, 42),
    );
    put("etc/nothing", Inode::file(*b"", 0o644));
    put(
        "su",
        Inode::file(noise(10, 1), 0o4755).owned_by(70_000, 4_000_000_000),
    );
    for (at, length) in [
        1,
        BLOCK_SIZE - 1,
        BLOCK_SIZE,
        BLOCK_SIZE + 1,
        3 * BLOCK_SIZE + 77,
    ]
    .into_iter()
    .enumerate()
    {
        put(&format!("noise-{at}"), Inode::file(noise(length, 7), 0o644));
        put(
            &format!("text-{at}"),
            Inode::file(vec![b'k'; length], 0o644),
        );
    }
    let mut holes = vec![0; 5 * BLOCK_SIZE];
    holes[2 * BLOCK_SIZE + 9] = 1;
    put("holes", Inode::file(holes, 0o644));
    put("all-hole", Inode::file(vec![0; 2 * BLOCK_SIZE], 0o644));
    put("link", Inode::symlink("etc/shadow"));
    put("pipe", Inode::new(Kind::Fifo, 0o600));
    put("socket", Inode::new(Kind::Socket, 0o755));
    let device = |major, minor| Device { major, minor };
    put(
        "disk",
        Inode::new(Kind::BlockDevice(device(259, 70_000)), 0o660),
    );
    put("null", Inode::new(Kind::CharDevice(device(1, 3)), 0o666));
    put(
        "capable",
        Inode::file(*b"x", 0o755).with_xattr("security.capability", [1, 0, 0, 2, 0, 32, 0, 0]),
    );
    put(
        "attributes",
        Inode::directory(0o755)
            .with_xattr("user.a", "one")
            .with_xattr("user.b", vec![b'v'; 300]),
    );
    put(
        "acl",
        Inode::file(*b"", 0o644).with_xattr("system.posix_acl_access", [2, 0, 0, 0]),
    );
    for number in 0..3000 {
        put(
            &format!("many/entry-{number:05}-of-some-length"),
            Inode::file(number.to_string().into_bytes(), 0o600),
        );
    }
    tree.insert("deep/a/first", Inode::file(*b"linked", 0o644))
        .expect("new");
    tree.hard_link("deep/second", "deep/a/first")
        .expect("it is there");
    tree.build().expect("a tree")
}

fn image(tree: &Arc<Tree>, compression: Compression, threads: usize, path: &Path) -> Vec<String> {
    let output = Output::create(path, 0).expect("it can be made");
    let time = Timestamp {
        seconds: 1_700_000_001,
        nanoseconds: 0,
    };
    let warnings =
        write(tree, &output, compression, time, threads, &mut |_| {}).expect("it can be written");
    output
        .commit(&Existing::Replace, false)
        .expect("it gets its name");
    warnings
}

#[test]
fn every_compression_gives_back_the_tree() {
    let place = tempfile::tempdir().expect("a directory");
    let tree = Arc::new(sample());
    let mut listings = Vec::new();
    for (name, compression) in Compression::NAMES {
        let path = place.path().join(name);
        let warnings = image(&tree, compression, 2, &path);
        assert_eq!(
            warnings,
            ["`/acl` has the attribute `system.posix_acl_access`, which squashfs does not hold"]
        );
        let length = std::fs::metadata(&path).expect("it is there").len();
        assert_eq!(length % 4096, 0);
        if !have("unsquashfs") {
            return;
        }
        let listing = run(Command::new("unsquashfs").args(["-lln"]).arg(&path));
        listings.push(listing.replace(&*path.to_string_lossy(), ""));
        let root = place.path().join(format!("{name}.root"));
        // Devices and foreign owners need root; the listing shows them.
        let unpack = Command::new("unsquashfs")
            .args(["-q", "-n", "-no-xattrs", "-ignore-errors", "-d"])
            .arg(&root)
            .arg(&path)
            .output()
            .expect("it runs");
        let mut reader = tree.reader();
        for (id, node) in tree.nodes() {
            let Kind::File(content) = &tree.inode(node.inode).kind else {
                continue;
            };
            let mut expected = vec![0; content.size as usize];
            reader
                .read_at(node.inode, 0, &mut expected)
                .expect("it is in memory");
            let file = root.join(tree.path(id).strip_prefix("/").expect("absolute"));
            let found = std::fs::read(&file).unwrap_or_else(|error| {
                panic!(
                    "{}: {error}\n{}",
                    file.display(),
                    String::from_utf8_lossy(&unpack.stderr)
                )
            });
            assert!(found == expected, "{name}: {}", file.display());
        }
    }
    assert!(listings.windows(2).all(|pair| pair[0] == pair[1]));
    for line in [
        "drwx------ 0/0",
        "-rw-r----- 0/42",
        "-rwsr-xr-x 70000/4000000000",
        // 259,70000 as unsquashfs shows it: it knows no minor numbers above 255.
        "brw-rw---- 0/0                 1118467,112",
        "crw-rw-rw- 0/0                   1,  3",
        "prw-------",
        "srwxr-xr-x",
        "/link -> etc/shadow",
        "2023-11-14 22:13",
    ] {
        assert!(
            listings[0].contains(line),
            "{line} is not in\n{}",
            &listings[0][..3000]
        );
    }
    let count = listings[0]
        .lines()
        .filter(|line| line.contains("/many/entry-"))
        .count();
    assert_eq!(count, 3000);
}

#[test]
fn attributes_and_holes_are_kept() {
    if !have("unsquashfs") {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("image");
    image(&Arc::new(sample()), Compression::Zstd, 3, &path);
    let about = run(Command::new("unsquashfs").arg("-s").arg(&path));
    assert!(about.contains("Compression zstd"), "{about}");
    assert!(about.contains("Number of xattr ids 2"), "{about}");
    // Of the seven blocks of `holes` and `all-hole` one is stored.
    let length = std::fs::metadata(&path).expect("it is there").len();
    let noise = 5 * BLOCK_SIZE as u64 + 78;
    assert!(length < noise + 200_000, "{length}");
}

#[test]
fn the_number_of_threads_never_changes_a_byte() {
    let place = tempfile::tempdir().expect("a directory");
    let tree = Arc::new(sample());
    let images: Vec<Vec<u8>> = [1, 2, 5]
        .into_iter()
        .map(|threads| {
            let path = place.path().join(threads.to_string());
            image(&tree, Compression::Gzip, threads, &path);
            std::fs::read(path).expect("it is there")
        })
        .collect();
    assert!(images[0] == images[1] && images[1] == images[2]);
}

#[test]
fn an_empty_tree_is_an_image() {
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("empty");
    image(
        &Arc::new(TreeBuilder::new().build().expect("a tree")),
        Compression::Xz,
        1,
        &path,
    );
    if have("unsquashfs") {
        let listing = run(Command::new("unsquashfs").arg("-lls").arg(&path));
        assert!(listing.contains("squashfs-root"), "{listing}");
    }
}

#[test]
fn a_file_that_shrank_is_an_error() {
    let place = tempfile::tempdir().expect("a directory");
    let mut tree = TreeBuilder::new();
    let content = Content {
        size: 10,
        origin: Origin::Bytes((*b"short").into()),
        data: Some(Box::new([DataRange {
            offset: 0,
            length: 10,
        }])),
    };
    tree.insert("file", Inode::new(Kind::File(content), 0o644))
        .expect("new");
    let tree = Arc::new(tree.build().expect("a tree"));
    let output = Output::create(&place.path().join("image"), 0).expect("created");
    let time = Timestamp::default();
    let error = write(&tree, &output, Compression::Gzip, time, 1, &mut |_| {});
    let error = error.expect_err("it is too short");
    assert_eq!(error.to_string(), "cannot read the tree");
    let cause = std::error::Error::source(&error).expect("there is one");
    assert!(cause.to_string().contains("`/file`"), "{cause}");
}
