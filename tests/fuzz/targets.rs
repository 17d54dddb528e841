//! What is fuzzed: each function takes any bytes, and only has to return.
//!
//! Included by `fuzz_targets/*.rs`, which search for inputs, and by `tests/inspect/fuzz.rs`,
//! which runs a small corpus so that all of this keeps compiling.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use kiln::disk::config::{Config, RootParameters};
use kiln::element::Library;
use kiln::helpers::pkg_map::PackageMap;
use kiln::helpers::squash::{Merged, SourceFile};
use kiln::inspect;
use kiln::inspect::fs::{FileId, FileKind, FileSystem};
use kiln::inspect::{Contents, os_release};
use kiln::rootfs::apt::{self, Deb, Keyring, Release, Universe, Version};
use kiln::sink::{Cause, ReadAt, Reader};

/// A target.
pub type Target = fn(&[u8]);

/// All of them, by their names.
pub const TARGETS: &[(&str, Target)] = &[
    ("in_release", in_release),
    ("release", release),
    ("keyring", keyring),
    ("control", control),
    ("packages", packages),
    ("relation", relation),
    ("version", version),
    ("deb", deb),
    ("block_device", block_device),
    ("element_metadata", element_metadata),
    ("package_installs", package_installs),
    ("pkg_map", pkg_map),
    ("journal", journal),
    ("tar", tar),
    ("raw", raw),
    ("qcow2", qcow2),
    ("vmdk", vmdk),
    ("vhd", vhd),
    ("vhdx", vhdx),
    ("vdi", vdi),
    ("disk_files", disk_files),
    ("xfs_image", xfs_image),
    ("btrfs_image", btrfs_image),
    ("squashfs_image", squashfs_image),
    ("lvm_metadata", lvm_metadata),
];

/// A signed index of an archive.
pub fn in_release(bytes: &[u8]) {
    let now = UNIX_EPOCH + Duration::from_secs(1_772_366_400);
    let keyring = Keyring::debian().expect("the embedded keyring is valid");
    if let Ok(verified) = keyring.verify(bytes, now) {
        let _ = Release::parse(&verified.text);
    }
}

/// The text that was signed.
pub fn release(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(release) = Release::parse(&text) {
        let now = UNIX_EPOCH + Duration::from_secs(1_772_366_400);
        let _ = release.check("stable", now, true);
    }
}

/// Keys that a user adds.
pub fn keyring(bytes: &[u8]) {
    if let Ok(keyring) = Keyring::parse("fuzz", bytes) {
        let _ = keyring.fingerprints();
    }
}

/// Paragraphs of fields.
pub fn control(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for paragraph in apt::paragraphs(&text).map_while(Result::ok) {
        for (name, _) in paragraph.fields() {
            let _ = paragraph.lines(name).count();
        }
    }
}

/// An index of packages.
pub fn packages(bytes: &[u8]) {
    let mut universe = Universe::default();
    let text = String::from_utf8_lossy(bytes);
    if universe.add(&text, "amd64", 0).is_ok() {
        universe.seal();
        for package in universe.packages() {
            let _ = package.cache_name();
        }
    }
}

/// Relations between packages.
pub fn relation(bytes: &[u8]) {
    if let Ok(clauses) = apt::parse_clauses(&String::from_utf8_lossy(bytes)) {
        let version = Version::parse("1.0-1").expect("it is valid");
        for relation in clauses.iter().flatten() {
            let _ = relation.accepts(&version);
        }
    }
}

/// Two versions, a line each; their order is one.
pub fn version(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut versions = text.lines().filter_map(|line| Version::parse(line).ok());
    if let (Some(a), Some(b)) = (versions.next(), versions.next()) {
        assert_eq!(a.cmp(&b), b.cmp(&a).reverse(), "{a} and {b}");
        assert_eq!(a.cmp(&a), std::cmp::Ordering::Equal, "{a}");
    }
}

/// A package: ar, then compressed tar archives.
pub fn deb(bytes: &[u8]) {
    with_file("package.deb", bytes, |path| {
        if let Ok(deb) = Deb::open(path) {
            let _ = deb.control();
            if let Ok(data) = deb.data() {
                // Bounded here; the unpacker has limits of its own.
                let mut data = std::io::Read::take(data, 16 << 20);
                let _ = std::io::copy(&mut data, &mut std::io::sink());
            }
        }
    });
}

/// A layout of disks.
pub fn block_device(bytes: &[u8]) {
    let root = RootParameters {
        defaults: None,
        fstype: "ext4".to_owned(),
        opts: None,
        label: None,
    };
    if let Ok(config) = Config::parse(&String::from_utf8_lossy(bytes), &root) {
        let _ = (
            config.root_label().is_ok(),
            config.mount_points(),
            config.fstab(),
        );
    }
}

/// `element.yaml`.
pub fn element_metadata(bytes: &[u8]) {
    with_file("library/fuzz/element.yaml", bytes, |path| {
        let directory = path
            .ancestors()
            .nth(2)
            .expect("it was made three deep")
            .to_owned();
        if let Ok(library) = Library::with_directories(&[directory])
            && let Some(element) = library.get("fuzz")
        {
            let _ = element.metadata();
        }
    });
}

/// `package-installs.yaml` and `.json`.
pub fn package_installs(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    for location in ["fuzz/package-installs.yaml", "fuzz/package-installs.json"] {
        let file = SourceFile {
            location: location.to_owned(),
            text: text.clone(),
        };
        let mut merged = Merged::default();
        if merged.add("fuzz", &file, &Default::default()).is_ok() {
            let _ = merged.to_json();
        }
    }
}

/// A map of package names.
pub fn pkg_map(bytes: &[u8]) {
    with_file("pkg-map", bytes, |path| {
        if let Ok(map) = PackageMap::read(path) {
            let _ = map.get("python3", "debian", "trixie");
        }
    });
}

/// Records of owners that an earlier build left.
pub fn journal(bytes: &[u8]) {
    let (entries, sound) = kiln::sandbox::journal::read(bytes, 7);
    assert!(sound <= bytes.len());
    // What is believed can be written again, and is then believed again.
    let mut again = bytes[..sound.min(16)].to_vec();
    for (key, record) in &entries {
        again.extend(kiln::sandbox::journal::entry(key, record));
    }
    assert_eq!(kiln::sandbox::journal::read(&again, 7).0, entries);
}

/// A tree in a tar archive, plain or compressed.
pub fn tar(bytes: &[u8]) {
    with_file("tree.tar", bytes, |path| {
        let directory = path.parent().expect("it is in a directory");
        if let Ok(archived) = kiln::tree::tar::read(path, directory) {
            let tree = std::sync::Arc::new(archived.tree);
            let mut reader = tree.reader();
            for (id, inode) in tree.inodes() {
                if let kiln::tree::Kind::File(content) = &inode.kind {
                    let mut buffer = [0; 600];
                    for at in [0, 511, content.size.saturating_sub(1)] {
                        let _ = reader.read_at(id, at, &mut buffer);
                    }
                }
            }
        }
    });
}

/// A disk's bytes as they are.
pub fn raw(bytes: &[u8]) {
    image(bytes, inspect::Format::Raw);
}

/// A qcow2 image.
pub fn qcow2(bytes: &[u8]) {
    image(bytes, inspect::Format::Qcow2);
}

/// A vmdk image.
pub fn vmdk(bytes: &[u8]) {
    image(bytes, inspect::Format::Vmdk);
}

/// A vhd image.
pub fn vhd(bytes: &[u8]) {
    image(bytes, inspect::Format::Vhd);
}

/// A vhdx image.
pub fn vhdx(bytes: &[u8]) {
    image(bytes, inspect::Format::Vhdx);
}

/// A vdi image.
pub fn vdi(bytes: &[u8]) {
    image(bytes, inspect::Format::Vdi);
}

/// A disk of its blocks that are not empty, so that inputs are small: its length in
/// blocks of 512 bytes, then for each block its number, how many bytes it has, and
/// these.
struct SparseDisk {
    blocks: u64,
    data: BTreeMap<u64, [u8; 512]>,
}

impl SparseDisk {
    fn new(bytes: &[u8]) -> SparseDisk {
        let (length, mut rest) = bytes.split_first_chunk().unwrap_or((&[0; 4], &[]));
        let mut data = BTreeMap::new();
        while let Some(([a, b, c, d, e, f], after)) = rest.split_first_chunk() {
            let number = u32::from_le_bytes([*a, *b, *c, *d]);
            let wanted = usize::from(u16::from_le_bytes([*e, *f])).min(512);
            let (own, after) = after.split_at(wanted.min(after.len()));
            let mut block = [0; 512];
            block[..own.len()].copy_from_slice(own);
            data.insert(number.into(), block);
            rest = after;
        }
        SparseDisk {
            blocks: u32::from_le_bytes(*length).into(),
            data,
        }
    }
}

impl ReadAt for SparseDisk {
    fn length(&self) -> u64 {
        self.blocks * 512
    }

    fn data_ranges(&self) -> Vec<std::ops::Range<u64>> {
        let blocks = self.data.range(..self.blocks);
        blocks.map(|(&at, _)| at * 512..at * 512 + 512).collect()
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(self)
    }
}

impl Reader for &SparseDisk {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Cause> {
        buffer.fill(0);
        let end = offset + buffer.len() as u64;
        for (block, data) in self.data.range(offset / 512..end.div_ceil(512)) {
            let start = block * 512;
            let (from, to) = (start.max(offset), (start + 512).min(end));
            let within = usize::try_from(from - start)?..usize::try_from(to - start)?;
            let place = usize::try_from(from - offset)?..usize::try_from(to - offset)?;
            buffer[place].copy_from_slice(&data[within]);
        }
        Ok(())
    }
}

/// The same as a file, if it is not too long.
fn sparse_file(bytes: &[u8]) -> Vec<u8> {
    const MOST: u64 = 16 << 20;
    let disk = SparseDisk::new(bytes);
    let length = disk.length().min(MOST);
    let mut file = vec![0; usize::try_from(length).expect("it is small")];
    (&disk).read_at(0, &mut file).expect("it is in memory");
    file
}

/// Opens an image, by its content and as this format, and reads some of it.
fn image(bytes: &[u8], format: inspect::Format) {
    with_file("image", &sparse_file(bytes), |path| {
        for known in [None, Some(format)] {
            let Ok(image) = inspect::open(path, known) else {
                continue;
            };
            let mut reader = image.reader();
            let mut buffer = vec![0; 4096];
            for range in image.data_ranges().into_iter().take(20) {
                for at in [range.start, range.end.saturating_sub(4096)] {
                    let length = image.length().saturating_sub(at).min(4096);
                    let length = usize::try_from(length).expect("it is small");
                    let _ = reader.read_at(at, &mut buffer[..length]);
                }
            }
        }
    });
}

/// A disk: its partitions, and all files of all filesystems in them.
pub fn disk_files(bytes: &[u8]) {
    read_disk(&bytes.to_vec());
}

/// The blocks of an XFS filesystem that are not zero, since the whole has at least
/// 300 MB.
pub fn xfs_image(bytes: &[u8]) {
    read_disk(&SparseDisk::new(bytes));
}

/// The blocks of a btrfs that are not zero, with blocks of trees of 4 KiB; all their
/// checksums are made right.
pub fn btrfs_image(bytes: &[u8]) {
    const BLOCK: usize = 4096;
    let mut disk = sparse_file(bytes);
    let own = disk
        .get((64 << 10) + 32..(64 << 10) + 48)
        .map(<[u8]>::to_vec);
    for block in disk.chunks_exact_mut(BLOCK) {
        // The UUID of the filesystem is in the same place of all.
        if own.as_deref() == Some(&block[32..48]) && own != Some(vec![0; 16]) {
            let sum = crc32c::crc32c(&block[32..]);
            block[..4].copy_from_slice(&sum.to_le_bytes());
        }
    }
    read_disk(&disk);
}

/// A squashfs as it is.
pub fn squashfs_image(bytes: &[u8]) {
    read_disk(&bytes.to_vec());
}

/// The text of a volume group, on a disk that is its physical volume. The checksums
/// are made right, and behind the metadata is a filesystem's superblock.
pub fn lvm_metadata(bytes: &[u8]) {
    use kiln::disk::lvm::format;
    let text = &bytes[..bytes.len().min(64 << 10)];
    let mut disk = vec![0; 2 << 20];
    let mut put = |at: u64, bytes: &[u8]| {
        let at = usize::try_from(at).expect("it is small");
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let number = |number: u64| number.to_le_bytes();
    let area = [number(format::MDA_OFFSET), number(format::MDA_SIZE)].concat();
    let label = [
        &32_u32.to_le_bytes()[..],
        &format::LABEL_TYPE,
        &[b'P'; 32],
        &number(2 << 20),
        &number(format::DATA_OFFSET),
        &[0; 24],
        &area,
        &[0; 16],
    ];
    let mut label = label.concat();
    label.resize(512 - 20, 0);
    put(512, &format::LABEL_ID);
    put(520, &number(1));
    put(528, &format::crc(&label).to_le_bytes());
    put(532, &label);
    let header = [
        &format::MDA_MAGIC[..],
        &1_u32.to_le_bytes(),
        &area,
        &number(format::TEXT_OFFSET),
        &number(text.len() as u64),
        &format::crc(text).to_le_bytes(),
    ];
    let mut header = header.concat();
    header.resize(512 - 4, 0);
    put(format::MDA_OFFSET, &format::crc(&header).to_le_bytes());
    put(format::MDA_OFFSET + 4, &header);
    put(format::MDA_OFFSET + format::TEXT_OFFSET, text);
    put(format::DATA_OFFSET, b"XFSB\0\0\x10\0");
    read_disk(&disk);
}

/// Reads all that is on a disk.
fn read_disk(disk: &dyn ReadAt) {
    let Ok(contents) = Contents::read(disk) else {
        return;
    };
    let _ = contents.root();
    for part in &contents.parts {
        if let Ok(files) = contents.open(part) {
            let _ = (os_release(&files), files.lookup(b"/dir/link", true).is_ok());
            walk(&files, files.root(), 8);
        }
    }
}

/// Reads what is in a directory, some levels down.
fn walk(files: &FileSystem<'_>, directory: FileId, depth: usize) {
    let Ok(entries) = files.entries(directory) else {
        return;
    };
    // Few enough that directories within themselves come to an end soon.
    for entry in entries.iter().take(16) {
        let _ = files.xattrs(entry.file);
        match files.metadata(entry.file).map(|metadata| metadata.kind) {
            Ok(FileKind::Directory) if depth > 0 && entries.len() < 16 => {
                walk(files, entry.file, depth / 2);
            }
            Ok(FileKind::Symlink) => drop(files.link_target(entry.file)),
            Ok(FileKind::File) => drop(files.read(entry.file, 1 << 20)),
            _ => {}
        }
    }
}

/// For what is read by its path: a file in a directory of its own.
fn with_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join(OsString::from(name));
    std::fs::create_dir_all(path.parent().expect("it is in a directory"))
        .and_then(|()| std::fs::write(&path, bytes))
        .expect("a file can be written");
    read(&path);
}
