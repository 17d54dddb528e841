//! Filesystems that `mkfs.xfs` made, and damaged ones. The integration tests compare
//! with what Linux shows.

use std::sync::Arc;

use uuid::uuid;

use super::super::tests::{assert_equal, disk, everything, open, read_all, walk};
use super::*;
use crate::disk::Disk;
use crate::disk::fs::xfs as writer;
use crate::inspect::fs::FileSystem;
use crate::sink::ReadAt;
use crate::sink::source::Memory;
use crate::tree::{Inode, TreeBuilder};

/// Bytes that are damaged at a time and kept if they are not zero.
const GRAIN: usize = 512;

/// A filesystem with a tree; `None` if there is no `mkfs.xfs`.
fn made(tree: &Arc<crate::tree::Tree>, arguments: &str) -> Option<Disk> {
    if writer::check().is_err() {
        println!("SKIP: mkfs.xfs is not installed");
        return None;
    }
    let scratch = tempfile::tempdir().unwrap();
    let options = writer::Options {
        label: "xfs".to_owned(),
        for_grub: false,
        uuid: uuid!("0b6d3c8e-9c6a-4a60-8d52-1f5b1d6f0002"),
        sector_size: 512,
        arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        timestamp: Timestamp {
            seconds: 1_700_000_000,
            nanoseconds: 0,
        },
    };
    let planned = writer::plan(tree, &options, 320 << 20, scratch.path()).unwrap();
    Some(disk(planned))
}

/// What is not zero of a disk, so that it can be changed.
fn memory(disk: &Disk) -> Memory {
    let mut reader = disk.reader();
    let mut pieces = Vec::new();
    for range in ReadAt::data_ranges(disk) {
        let mut at = range.start - range.start % GRAIN as u64;
        while at < range.end {
            let mut bytes = vec![0; GRAIN];
            reader.read_at(at, &mut bytes).unwrap();
            if bytes.iter().any(|&byte| byte != 0) {
                pieces.push((at, bytes));
            }
            at += GRAIN as u64;
        }
    }
    pieces.dedup_by_key(|(at, _)| *at);
    Memory {
        length: disk.length(),
        pieces,
        broken_from: None,
    }
}

/// A small tree: every form of an inode, and two directories.
fn small() -> Arc<crate::tree::Tree> {
    let mut tree = TreeBuilder::new();
    let file = |bytes: Vec<u8>| Inode::file(bytes, 0o644);
    tree.insert("/a/file", file(vec![7; 9000]).with_xattr("user.x", b"y"))
        .unwrap();
    tree.insert("/a/link", Inode::symlink("file")).unwrap();
    tree.insert("/b/long", Inode::symlink("x/".repeat(450)))
        .unwrap();
    for number in 0..40 {
        let path = format!("/b/name-that-needs-some-room-{number}");
        tree.insert(path, file(Vec::new())).unwrap();
    }
    Arc::new(tree.build().unwrap())
}

#[test]
fn what_the_writer_made_is_read_back() {
    let tree = everything(200);
    for arguments in [
        "",
        "-b size=2048 -i size=1024 -m bigtime=1",
        "-b size=16384 -n size=65536 -i nrext64=1",
    ] {
        let Some(disk) = made(&tree, arguments) else {
            return;
        };
        let files = open(&disk);
        assert_equal(&files, &tree);
        assert!(!files.is_dirty(), "{arguments}");
        let (size, free) = files.space();
        assert_eq!(size, 320 << 20, "{arguments}");
        assert!(free.is_some_and(|free| free > 200 << 20 && free < size));
    }
}

/// Where the inode of a path is.
fn inode_at(disk: &Memory, path: &str) -> u64 {
    let files = open(disk);
    let id = files.lookup(path.as_bytes(), false).unwrap();
    let volume = Volume::whole(disk);
    let xfs = Xfs::open(&volume).unwrap();
    xfs.node(&volume, id).unwrap().at
}

/// Changes bytes.
fn write(disk: &mut Memory, at: u64, bytes: &[u8]) {
    let start = at - at % GRAIN as u64;
    if let Err(index) = disk.pieces.binary_search_by_key(&start, |(at, _)| *at) {
        disk.pieces.insert(index, (start, vec![0; GRAIN]));
    }
    let index = disk.pieces.partition_point(|(own, _)| *own < start);
    let from = usize::try_from(at - start).unwrap();
    disk.pieces[index].1[from..from + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn what_is_not_read_or_damaged_is_named() {
    let Some(disk) = made(&small(), "") else {
        return;
    };
    let incompat = 216;
    for (at, bytes, expected) in [
        (
            incompat,
            &[0, 1, 2, 3][..],
            "the filesystem has the XFS features zoned, 0x10000, which kiln does not read",
        ),
        (incompat, &[0, 0, 0, 0x13], "needs `xfs_repair` first"),
        (100, &[0xB4, 3], "is XFS version 3"),
        (100, &[0x94, 4], "XFS directories of version 1"),
        (100, &[0xB4, 6], "its version is impossible"),
        (4, &[0, 0, 0x10, 1], "the size of blocks is impossible"),
        (4, &[0, 0, 0, 0], "the size of blocks is impossible"),
        (104, &[0, 3], "the size of inodes is impossible"),
        (102, &[0, 0], "the size of sectors is impossible"),
        (84, &[0, 0, 0, 0], "its allocation groups are impossible"),
        (124, &[63], "its allocation groups are impossible"),
        (192, &[9], "the size of directory blocks is impossible"),
        (126, &[1], "`mkfs.xfs` did not finish it"),
    ] {
        let mut disk = memory(&disk);
        write(&mut disk, at, bytes);
        let error = FileSystem::open(Volume::whole(&disk)).unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
    let good = memory(&disk);
    let file = inode_at(&good, "/a/file");
    let link = inode_at(&good, "/b/long");
    let read = |path: &str, at: u64, bytes: &[u8]| {
        let mut disk = memory(&disk);
        write(&mut disk, at, bytes);
        let files = open(&disk);
        let id = files.lookup(path.as_bytes(), false)?;
        files.metadata(id)?;
        files.xattrs(id)?;
        if path == "/b/long" {
            return files.link_target(id).map(drop);
        }
        files.read(id, 1 << 20).map(drop)
    };
    read("/a/file", file + 250, &[]).unwrap();
    for (path, at, bytes, expected) in [
        (
            "/a/file",
            file,
            &[0][..],
            "there is no inode of this number",
        ),
        (
            "/a/file",
            file + 159,
            &[0],
            "there is no inode of this number",
        ),
        ("/a/file", file + 2, &[0, 0], "it is free, and no file's"),
        ("/a/file", file + 2, &[0x31, 0xA4], "it is no kind of file"),
        ("/a/file", file + 5, &[9], "kept in an impossible way"),
        ("/a/file", file + 5, &[3], "the root of its tree of extents"),
        ("/a/file", file + 76, &[0, 1], "more extents than fit"),
        ("/a/file", file + 56, &[0x80], "its length is impossible"),
        ("/a/file", file + 91, &[1], "on a realtime device"),
        ("/a/file", file + 82, &[200], "do not begin within it"),
        (
            "/a/file",
            file + 176 + 6,
            &[0xFF; 8],
            "blocks behind the filesystem's end",
        ),
        ("/b/long", link + 62, &[0, 0], "too long or empty"),
        (
            "/b/long",
            link + 62,
            &[3, 0xFF],
            "the target of a link is cut off",
        ),
        ("/b/long", link + 62, &[0x40], "too long or empty"),
    ] {
        let error = read(path, at, bytes).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    // A block that is another directory's, and a walk that meets one twice.
    let mut forged = memory(&disk);
    let block = forged
        .pieces
        .iter()
        .find(|(_, bytes)| bytes.starts_with(b"XDB3"))
        .expect("a directory has a block")
        .0;
    write(&mut forged, block + 47, &[0xEE]);
    let error = walk(&forged).unwrap_err().to_string();
    assert!(
        error.contains("a block of the directory is another's"),
        "{error}"
    );
    assert_eq!(walk(&good).unwrap(), 45);
}

/// The log of a filesystem: first byte and number of its blocks.
fn log_of(disk: &Memory) -> (u64, u64) {
    let volume = Volume::whole(disk);
    let superblock: Superblock = volume.structure(0).unwrap();
    let xfs = Xfs::open(&volume).unwrap();
    let first = superblock.sb_logstart.get();
    let blocks = superblock.sb_logblocks.get();
    let at = xfs.blocks_at(first, blocks.into(), String::new).unwrap();
    (at, u64::from(blocks) * xfs.block_size / 512)
}

#[test]
fn a_log_with_changes_is_noticed_wherever_its_last_record_is() {
    let Some(disk) = made(&small(), "") else {
        return;
    };
    let disk = memory(&disk);
    let (at, blocks) = log_of(&disk);
    let record = |round: u32, blocks: u32, operations: u32| {
        let mut block = [0; 512];
        block[..4].copy_from_slice(&0xFEED_BABE_u32.to_be_bytes());
        block[4..8].copy_from_slice(&round.to_be_bytes());
        block[11] = 2;
        block[12..16].copy_from_slice(&(blocks * 512).to_be_bytes());
        block[40..44].copy_from_slice(&operations.to_be_bytes());
        block[320..324].copy_from_slice(&(32_u32 << 10).to_be_bytes());
        block
    };
    let unmount = |round: u32| {
        let mut block = [0; 512];
        block[..4].copy_from_slice(&round.to_be_bytes());
        block[9] = 0x20;
        block
    };
    // The rounds of all blocks, then the last record: where, its head, its body.
    for (head, first, at_record, second, is_dirty) in [
        (1000, record(3, 1, 1), 998, unmount(3), false),
        (1000, record(3, 1, 1), 996, unmount(3), true),
        (1000, record(3, 1, 2), 998, unmount(3), true),
        (1000, record(3, 1, 1), 998, record(3, 0, 0), true),
        (blocks, record(3, 1, 1), blocks - 2, unmount(3), false),
        // A record that goes on at the log's begin.
        (1, record(2, 1, 1), blocks - 1, unmount(3), false),
        (1, record(2, 2, 1), blocks - 1, unmount(3), true),
    ] {
        let mut log = Vec::new();
        for block in 0..blocks {
            let round: u32 = if block < head { 3 } else { 2 };
            let mut bytes = [0; 512];
            bytes[..4].copy_from_slice(&round.to_be_bytes());
            log.extend_from_slice(&bytes);
        }
        for (block, bytes) in [(at_record, first), ((at_record + 1) % blocks, second)] {
            let from = usize::try_from(block * 512).unwrap();
            log[from..from + 512].copy_from_slice(&bytes);
        }
        let mut pieces = disk.pieces.clone();
        // Later pieces cover earlier ones.
        pieces.push((at, log));
        let disk = Memory {
            length: disk.length,
            pieces,
            broken_from: None,
        };
        assert_eq!(open(&disk).is_dirty(), is_dirty, "{head} {at_record}");
    }
}

#[test]
fn damage_anywhere_gives_errors_at_worst() {
    let Some(disk) = made(&small(), "-i size=512") else {
        return;
    };
    let mut disk = memory(&disk);
    read_all(&disk);
    let (log, blocks) = log_of(&disk);
    // Only what a reader looks at, not the trees of free space.
    let is_read = |at: u64, bytes: &[u8]| {
        let magic = &bytes[..4];
        let in_log = (log..log + blocks * 512).contains(&at);
        !in_log && (at == 0 || magic.starts_with(b"IN") || magic == b"XDB3" || magic == b"XSLM")
    };
    let mut tried = 0;
    for piece in 0..disk.pieces.len() {
        let (at, bytes) = disk.pieces[piece].clone();
        // Inodes that are free say nothing.
        if !is_read(at, &bytes) || bytes.starts_with(&[b'I', b'N', 0, 0]) {
            continue;
        }
        for (at, &byte) in bytes.iter().enumerate() {
            // Of many equal inodes some are enough.
            if byte == 0 && at % 61 != 0 || piece % 4 != 0 && at % 5 != 0 {
                continue;
            }
            for value in [0xFF, byte.wrapping_add(1)] {
                disk.pieces[piece].1[at] = value;
                read_all(&disk);
                tried += 1;
            }
            disk.pieces[piece].1[at] = byte;
        }
    }
    assert!(tried > 1000, "{tried}");
}
