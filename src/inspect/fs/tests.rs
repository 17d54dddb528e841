//! The readers over filesystems that kiln's writers made, and over damaged ones.

use std::sync::Arc;

use super::*;
use crate::disk::fs::{btrfs as btrfs_writer, ext4 as ext4_writer, fat as fat_writer};
use crate::disk::{Disk, Volume as Planned};
use crate::inspect::Contents;
use crate::sink::ReadAt;
use crate::tree::{Content, DataRange, Inode, Kind, Origin, Tree, TreeBuilder};

fn tree() -> Arc<Tree> {
    everything(700)
}

/// A tree with something of everything, with an attribute of so many bytes.
pub(super) fn everything(attribute: usize) -> Arc<Tree> {
    let mut tree = TreeBuilder::new();
    let time = Timestamp {
        seconds: 5_000_000_000,
        nanoseconds: 987_654_321,
    };
    let file = |bytes: &[u8]| Inode::file(bytes.to_vec(), 0o4755).owned_by(70_000, 80_000);
    tree.insert("/etc/os-release", Inode::file(*b"ID=toy\n", 0o644))
        .unwrap();
    tree.insert("/large", file(&b"kiln".repeat(100_000)))
        .unwrap();
    tree.insert("/late", file(b"x").modified(time)).unwrap();
    tree.insert("/empty", file(b"")).unwrap();
    for number in 0..300 {
        let path = format!("/many/file-with-a-long-name-{number:04}");
        tree.insert(path, Inode::file(number.to_string().into_bytes(), 0o600))
            .unwrap();
    }
    let mut sparse = vec![7; 300_000];
    sparse[4096..200_704].fill(0);
    let sparse: Arc<[u8]> = sparse.into();
    let holes = Content {
        size: 300_000,
        origin: Origin::Bytes(sparse),
        data: Some(
            [
                DataRange {
                    offset: 0,
                    length: 4096,
                },
                DataRange {
                    offset: 200_704,
                    length: 99_296,
                },
            ]
            .into(),
        ),
    };
    tree.insert("/sparse", Inode::new(Kind::File(holes), 0o644))
        .unwrap();
    tree.insert("/short", Inode::symlink("etc/os-release"))
        .unwrap();
    tree.insert("/a/up", Inode::symlink("../../../short"))
        .unwrap();
    tree.insert("/a/long", Inode::symlink("x/".repeat(400)))
        .unwrap();
    tree.insert("/loop", Inode::symlink("/a/loop")).unwrap();
    tree.insert("/a/loop", Inode::symlink("../loop")).unwrap();
    let device = Device {
        major: 259,
        minor: 70_000,
    };
    tree.insert("/dev/big", Inode::new(Kind::BlockDevice(device), 0o660))
        .unwrap();
    let device = Device { major: 1, minor: 3 };
    tree.insert("/dev/null", Inode::new(Kind::CharDevice(device), 0o666))
        .unwrap();
    tree.insert("/dev/pipe", Inode::new(Kind::Fifo, 0o600))
        .unwrap();
    tree.insert("/dev/socket", Inode::new(Kind::Socket, 0o600))
        .unwrap();
    let acl = [
        &[2, 0, 0, 0][..],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[2, 0, 5, 0, 33, 0, 0, 0],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[16, 0, 5, 0, 255, 255, 255, 255],
        &[32, 0, 4, 0, 255, 255, 255, 255],
    ]
    .concat();
    let attributes = Inode::file(*b"attributes", 0o644)
        .with_xattr("security.capability", [1, 0, 0, 2, 0, 32])
        .with_xattr("system.posix_acl_access", acl)
        .with_xattr("user.long", vec![9; attribute])
        .with_xattr("user.empty", b"");
    tree.insert("/attributes", attributes).unwrap();
    tree.hard_link("/linked", "/large").unwrap();
    Arc::new(tree.build().unwrap())
}

/// A disk of its own, with the volume at byte 0.
pub(super) fn disk(planned: Planned) -> Disk {
    let mut builder = Disk::builder(planned.length, 512);
    builder.volume("filesystem", 0, planned);
    builder.build().unwrap()
}

pub(super) fn open(disk: &dyn ReadAt) -> FileSystem<'_> {
    FileSystem::open(Volume::whole(disk)).unwrap()
}

/// Everything below a directory of an image is what the tree has there.
pub(super) fn assert_equal(files: &FileSystem<'_>, tree: &Arc<Tree>) {
    let mut reader = tree.reader();
    let mut seen = 0;
    for (id, node) in tree.nodes() {
        let path = tree.path(id).display().to_string();
        let inode = tree.inode(node.inode);
        let file = files.lookup(path.as_bytes(), false).unwrap();
        let metadata = files.metadata(file).unwrap();
        assert_eq!(metadata.mode, inode.mode, "{path}");
        assert_eq!(
            (metadata.uid, metadata.gid),
            (inode.uid, inode.gid),
            "{path}"
        );
        assert_eq!(metadata.mtime, inode.mtime, "{path}");
        let xattrs = inode.xattrs.as_deref().cloned().unwrap_or_default();
        assert_eq!(files.xattrs(file).unwrap(), xattrs, "{path}");
        match &inode.kind {
            Kind::Directory => {
                let names: Vec<Vec<u8>> = tree
                    .children(id)
                    .iter()
                    .map(|&child| tree.name(child).to_vec())
                    .collect();
                let mut have: Vec<Vec<u8>> = files
                    .entries(file)
                    .unwrap()
                    .into_iter()
                    .map(|entry| entry.name)
                    .collect();
                have.retain(|name| name != b"lost+found");
                assert_eq!(have, names, "{path}");
            }
            Kind::File(content) => {
                let mut expected = vec![0; usize::try_from(content.size).unwrap()];
                for range in content.ranges() {
                    let from = usize::try_from(range.offset).unwrap();
                    let to = from + usize::try_from(range.length).unwrap();
                    let part = &mut expected[from..to];
                    reader.read_at(node.inode, range.offset, part).unwrap();
                }
                assert!(files.read(file, 1 << 20).unwrap() == expected, "{path}");
                assert_eq!(metadata.links, inode.links, "{path}");
            }
            Kind::Symlink(target) => {
                assert_eq!(files.link_target(file).unwrap(), **target, "{path}");
            }
            Kind::CharDevice(device) | Kind::BlockDevice(device) => {
                assert_eq!(metadata.device, Some(*device), "{path}");
            }
            Kind::Fifo => assert_eq!(metadata.kind, FileKind::Fifo),
            Kind::Socket => assert_eq!(metadata.kind, FileKind::Socket),
        }
        seen += 1;
    }
    assert!(seen > 100);
}

fn ext4(tree: &Arc<Tree>, block_size: u32) -> Disk {
    let mut options = ext4_writer::Options::new(*b"kiln inspect fs!");
    options.block_size = block_size;
    disk(ext4_writer::plan(tree, &options, 24 << 20).unwrap())
}

#[test]
fn what_the_ext4_writer_wrote_is_read_back() {
    let tree = tree();
    for block_size in [1024, 4096] {
        let disk = ext4(&tree, block_size);
        let files = open(&disk);
        assert_equal(&files, &tree);
        assert!(!files.is_dirty());
        let (size, free) = files.space();
        assert_eq!(size, 24 << 20);
        assert!(free.unwrap() < size);
    }
}

/// Less than this the writer does not make.
const BTRFS_SIZE: u64 = 48 << 20;

fn btrfs(tree: &Arc<Tree>) -> Disk {
    let options = btrfs_writer::Options {
        label: "toy".to_owned(),
        uuid: uuid::Uuid::from_bytes(*b"kiln inspect fs!"),
        timestamp: Timestamp::default(),
    };
    disk(btrfs_writer::plan(tree, &options, BTRFS_SIZE).unwrap())
}

#[test]
fn what_the_btrfs_writer_wrote_is_read_back() {
    let tree = tree();
    let disk = btrfs(&tree);
    let files = open(&disk);
    assert_equal(&files, &tree);
    assert!(!files.is_dirty());
    assert_eq!(files.space().0, BTRFS_SIZE);
    let sparse = files.lookup(b"sparse", true).unwrap();
    let ranges = files.file(sparse).unwrap().data_ranges();
    assert_eq!(ranges, [0..4096, 200_704..300_000]);
    let identity = identify(&Volume::whole(&disk)).unwrap();
    assert_eq!(identity.kind, "btrfs");
    assert_eq!(identity.label.as_deref(), Some("toy"));
}

#[test]
fn holes_are_known() {
    let disk = ext4(&tree(), 4096);
    let files = open(&disk);
    let sparse = files.lookup(b"sparse", true).unwrap();
    let ranges = files.file(sparse).unwrap().data_ranges();
    assert_eq!(ranges, [0..4096, 200_704..300_000]);
}

#[test]
fn links_are_followed_within_the_filesystem() {
    let disk = ext4(&tree(), 4096);
    let files = open(&disk);
    let release = files.lookup(b"/etc/os-release", false).unwrap();
    for path in ["/short", "a/up", "/a/../a/./up", "/../../etc//os-release/"] {
        assert_eq!(
            files.lookup(path.as_bytes(), true).unwrap(),
            release,
            "{path}"
        );
    }
    for (path, message) in [
        ("/loop", "`/loop` leads through too many symbolic links"),
        ("/a/none/x", "there is no `/a/none`"),
        ("/short/x", "`/etc/os-release` is not a directory"),
    ] {
        let error = files.lookup(path.as_bytes(), true).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let link = files.lookup(b"/a/up", false).unwrap();
    assert_eq!(files.link_target(link).unwrap(), b"../../../short");
    assert!(matches!(
        files.file(link).unwrap_err(),
        Error::NotAFile {
            what: "a symbolic link",
            ..
        }
    ));
    assert!(files.entries(release).is_err());
}

#[test]
fn what_the_fat_writer_wrote_is_read_back() {
    let mut tree = TreeBuilder::new();
    tree.insert(
        "/EFI/BOOT/BOOTX64.EFI",
        Inode::file(b"efi".repeat(40_000), 0o644),
    )
    .unwrap();
    for number in 0..300 {
        let path = format!("/many/Ein längerer Name {number}.txt");
        tree.insert(path, Inode::file(number.to_string().into_bytes(), 0o644))
            .unwrap();
    }
    let tree = Arc::new(tree.build().unwrap());
    for size in [4 << 20, 32 << 20, 600 << 20] {
        let options = fat_writer::Options {
            label: Some("ESP".to_owned()),
            volume_id: 0x1234_ABCD,
            bytes_per_sector: 512,
            fat_type: None,
        };
        let disk = disk(fat_writer::plan(&tree, &options, size).unwrap());
        let files = open(&disk);
        let identity = identify(&Volume::whole(&disk)).unwrap();
        assert_eq!(identity.kind, "vfat");
        assert_eq!(identity.label.as_deref(), Some("ESP"));
        assert_eq!(identity.uuid.as_deref(), Some("1234-ABCD"));
        let many = files.lookup(b"/MANY", true).unwrap();
        assert_eq!(files.entries(many).unwrap().len(), 300);
        for (path, bytes) in [
            ("/efi/boot/bootx64.efi", b"efi".repeat(40_000)),
            ("/many/Ein längerer Name 217.txt", b"217".to_vec()),
        ] {
            let file = files.lookup(path.as_bytes(), true).unwrap();
            assert!(files.read(file, 1 << 20).unwrap() == bytes, "{path}");
        }
    }
}

/// The bytes of a disk.
fn bytes(disk: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.length()).unwrap()];
    disk.reader().read_at(0, &mut bytes).unwrap();
    bytes
}

/// Where a name stands on a disk.
fn place_of(disk: &[u8], name: &[u8]) -> usize {
    let found = disk.windows(name.len()).position(|part| part == name);
    found.unwrap()
}

/// Walks over all of a disk; how many names that gave.
pub(super) fn walk(disk: &dyn ReadAt) -> Result<usize, Error> {
    fn below(files: &FileSystem<'_>, walk: &mut Walk, at: FileId) -> Result<usize, Error> {
        let mut names = 0;
        for entry in walk.enter(files, at)? {
            names += 1;
            if files.metadata(entry.file)?.kind == FileKind::Directory {
                names += below(files, walk, entry.file)?;
            }
        }
        walk.leave();
        Ok(names)
    }
    let files = open(disk);
    below(&files, &mut Walk::default(), files.root())
}

#[test]
fn a_walk_enters_every_directory_once() {
    let mut tree = TreeBuilder::new();
    for name in ["FIRST", "SECOND"] {
        let path = format!("/{name}/FILE");
        tree.insert(path, Inode::file(*b"x", 0o644)).unwrap();
    }
    let tree = Arc::new(tree.build().unwrap());
    let fat_options = fat_writer::Options {
        label: None,
        volume_id: 1,
        bytes_per_sector: 512,
        fat_type: None,
    };
    let fat = bytes(&disk(
        fat_writer::plan(&tree, &fat_options, 4 << 20).unwrap(),
    ));
    let ext4 = bytes(&ext4(&tree, 1024));
    let (first, second) = (place_of(&fat, b"FIRST "), place_of(&fat, b"SECOND "));
    let cluster = first + 26..first + 28;
    let own_place = usize::try_from(open(&fat).lookup(b"FIRST/FILE", false).unwrap().0).unwrap();
    let (ext4_first, ext4_second) = (
        place_of(&ext4, b"FIRST") - 8,
        place_of(&ext4, b"SECOND") - 8,
    );
    type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: [(&str, &Vec<u8>, Damage<'_>); 4] = [
        ("a directory of FAT has two names", &fat, &|disk| {
            disk.copy_within(cluster.clone(), second + 26);
        }),
        ("a directory of FAT names itself", &fat, &|disk| {
            disk.copy_within(cluster.clone(), own_place + 26);
            disk[own_place + 11] |= 0x10;
        }),
        ("a directory of ext4 has two names", &ext4, &|disk| {
            disk.copy_within(ext4_first..ext4_first + 4, ext4_second);
        }),
        ("two inodes of ext4 share a block", &ext4, &|disk| {
            let files = open(&*disk);
            let place = |name: &[u8]| {
                let file = files.lookup(name, false).unwrap();
                let extents = files.directory_extents(file).unwrap();
                usize::try_from(extents[0].at).unwrap()
            };
            let (from, to) = (place(b"FIRST"), place(b"SECOND"));
            drop(files);
            disk.copy_within(from + 0x28..from + 0x64, to + 0x28);
        }),
    ];
    for (what, good, damage) in cases {
        // What is in the tree, and ext4's `lost+found`.
        assert!((4..=5).contains(&walk(good).unwrap()), "{what}");
        let mut bad = good.clone();
        damage(&mut bad);
        let error = walk(&bad).unwrap_err();
        assert!(
            error.to_string().contains("another directory's"),
            "{what}: {error}"
        );
        let files = open(&bad);
        let directory = tempfile::tempdir().unwrap();
        let mut collector = crate::inspect::Collector::new(directory.path()).unwrap();
        let root = std::path::Path::new("/");
        assert!(collector.mount(&files, root).is_err(), "{what}");
    }
}

/// Reads all of a disk, however damaged it is.
pub(super) fn read_all(disk: &dyn ReadAt) {
    let Ok(contents) = Contents::read(disk) else {
        return;
    };
    let Ok(files) = contents.choose(None) else {
        return;
    };
    let mut next = vec![(files.root(), 0)];
    while let Some((directory, depth)) = next.pop() {
        for entry in files.entries(directory).unwrap_or_default() {
            let _ = files.xattrs(entry.file);
            let _ = files.link_target(entry.file);
            let _ = files.read(entry.file, 1 << 16);
            let metadata = files.metadata(entry.file);
            if depth < 3 && metadata.is_ok_and(|data| data.kind == FileKind::Directory) {
                next.push((entry.file, depth + 1));
            }
        }
    }
}

/// One of everything that filesystems store in ways of its own; the length is that of
/// the file whose data is in blocks.
fn few_files(length: usize) -> TreeBuilder<'static> {
    let mut tree = TreeBuilder::new();
    tree.insert("/d/link", Inode::symlink("file")).unwrap();
    let file = Inode::file(vec![1; length], 0o644).with_xattr("user.x", b"y");
    tree.insert("/d/file", file).unwrap();
    tree.insert("/f", Inode::file(vec![1; 30], 0o644)).unwrap();
    tree
}

#[test]
fn damage_anywhere_in_the_tables_gives_errors_at_worst() {
    let tree = Arc::new(few_files(3000).build().unwrap());
    let mut options = ext4_writer::Options::new(*b"kiln inspect fs!");
    options.block_size = 1024;
    options.journal = ext4_writer::JournalSize::Mebibytes(0);
    options.inodes = Some(16);
    let size = ext4_writer::minimum_size(&tree, &options).unwrap();
    let good = bytes(&disk(ext4_writer::plan(&tree, &options, size).unwrap()));
    let mut bad = good.clone();
    // Where the structures are: what is zero is damaged now and then only.
    let mut tried = 0;
    for at in 1024..good.len() {
        if good[at] == 0 && at % 61 != 0 {
            continue;
        }
        for value in [0xFF, good[at].wrapping_add(1)] {
            bad[at] = value;
            read_all(&bad);
        }
        bad[at] = good[at];
        tried += 1;
    }
    assert!(tried > 300, "{tried}");
    for end in (0..good.len()).step_by(509) {
        read_all(&good[..end].to_vec());
    }
}

#[test]
fn damage_anywhere_in_the_blocks_of_btrfs_gives_errors_at_worst() {
    use crate::disk::fs::btrfs::format;
    let mut tree = few_files(3000);
    tree.insert("/etc/os-release", Inode::file(*b"ID=toy", 0o644))
        .unwrap();
    let mut bad = bytes(&btrfs(&Arc::new(tree.build().unwrap())));
    let fsid = bad[(64 << 10) + 32..][..16].to_vec();
    let mut blocks = vec![(64 << 10, format::SUPER_SIZE)];
    for at in (1 << 20..bad.len()).step_by(format::NODE_SIZE) {
        if bad[at + 32..].starts_with(&fsid) {
            blocks.push((at, format::NODE_SIZE));
        }
    }
    assert!(blocks.len() > 5);
    let mut tried = 0;
    for (start, length) in blocks {
        let good = bad[start..start + length].to_vec();
        for at in 32..length {
            // What is zero is damaged now and then only.
            if at % (if good[at] == 0 { 211 } else { 3 }) != 0 {
                continue;
            }
            let values = [0xFF, good[at].wrapping_add(1)];
            bad[start + at] = values[at % 2];
            format::seal(&mut bad[start..start + length]);
            read_all(&bad);
            bad[start..start + length].copy_from_slice(&good);
            tried += 1;
        }
    }
    assert!(tried > 500, "{tried}");
}

#[test]
fn damage_anywhere_in_squashfs_gives_errors_at_worst() {
    use crate::sink::{Existing, Output, squashfs};
    let tree = Arc::new(few_files(300_000).build().unwrap());
    let place = tempfile::tempdir().unwrap();
    for (name, compression) in squashfs::Compression::NAMES {
        let path = place.path().join(name);
        let output = Output::create(&path, 0).unwrap();
        let time = Timestamp::default();
        squashfs::write(&tree, &output, compression, time, 1, &mut |_| {}).unwrap();
        output.commit(&Existing::Replace, false).unwrap();
        let good = std::fs::read(&path).unwrap();
        let files = open(&good);
        let file = files.lookup(b"d/file", true).unwrap();
        assert!(files.read(file, 1 << 20).unwrap() == vec![1; 300_000]);
        assert_eq!(&*files.xattrs(file).unwrap()[&b"user.x"[..]], b"y");
        let mut bad = good.clone();
        let padding = good.iter().rev().take_while(|&&byte| byte == 0).count();
        for at in 4..good.len() - padding {
            for value in [0xFF, good[at].wrapping_add(1)] {
                bad[at] = value;
                read_all(&bad);
            }
            bad[at] = good[at];
        }
    }
}
