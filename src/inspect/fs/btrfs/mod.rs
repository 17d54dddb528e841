//! Reads btrfs on one device.
//!
//! All that mkfs.btrfs and Linux write there is read: blocks of every size, single
//! and duplicated chunks, mixed block groups, all checksums (blocks of trees are
//! checked, data is not), compressed data, subvolumes and snapshots. The log of
//! what was synced last is not replayed. Specification:
//! <https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html>.

use std::cell::RefCell;
use std::collections::BTreeMap;

use zerocopy::FromBytes as _;

use super::content::{File, Source};
use super::inode::Inode;
use super::{Entry, Error, FileId, FileKind, MAX_DIRECTORY, Metadata, Run, is_plain_name};
use crate::disk::fs::btrfs::format::{
    CHUNK_ITEM, DIR_INDEX, DIR_ITEM, DirItem, FIRST, FS_TREE, INODE_ITEM, InodeItem, Key, MAGIC,
    ROOT_BACKREF, ROOT_ITEM, ROOT_REF, RootItem, RootRef, SUPER_OFFSETS, SUPER_SIZE, Superblock,
    XATTR_ITEM, name_hash,
};
use crate::inspect::Volume;
use crate::tree::{Device, Timestamp, Xattrs};

mod checksum;
mod chunks;
mod data;
mod tree;

use checksum::Checksum;
use chunks::Chunks;
use tree::{Blocks, Span, Top};

/// Bits of a [`FileId`] that are the number in its subvolume.
const NUMBER_BITS: u32 = 48;
/// Stands for directories where a subvolume is not that had its name there when a
/// snapshot was made. Linux shows them empty.
const ABSENT: FileId = FileId(0xFFFF << NUMBER_BITS);
/// Subvolumes that are opened, at most.
const MAX_SUBVOLUMES: usize = 0xFFFE;
/// In place of a subvolume: the number is a place in the list of [`Large`].
const LARGE: u64 = 0xFFFE;
/// Longest target of a link.
const MAX_TARGET: u64 = 64 << 10;
/// Subvolumes within subvolumes.
const MAX_DEPTH: usize = 256;

/// Features by their bits; those that a reader has to know, and does not, are
/// named in the error.
const FEATURES: [(u64, bool, &str); 17] = [
    (1 << 0, true, "mixed back references"),
    (1 << 1, true, "default subvolume"),
    (1 << 2, true, "mixed block groups"),
    (1 << 3, true, "lzo"),
    (1 << 4, true, "zstd"),
    (1 << 5, true, "big metadata"),
    (1 << 6, true, "extended references"),
    (1 << 7, true, "RAID5 and RAID6"),
    (1 << 8, true, "skinny metadata"),
    (1 << 9, true, "no holes"),
    (1 << 10, true, "metadata UUID"),
    (1 << 11, true, "RAID1 with 3 or 4 copies"),
    (1 << 12, false, "zoned"),
    (1 << 13, false, "extent tree v2"),
    (1 << 14, false, "RAID stripe tree"),
    (1 << 16, true, "simple quotas"),
    (1 << 17, false, "remap tree"),
];
/// The bit of `metadata UUID`.
const METADATA_UUID: u64 = 1 << 10;

/// What is known of a filesystem.
#[derive(Debug)]
pub(super) struct Btrfs {
    blocks: Blocks,
    sector: u32,
    total: u64,
    used: u64,
    log: bool,
    roots: Top,
    /// Subvolumes that were met; a [`FileId`] has the number of its own in here.
    subvolumes: RefCell<Subvolumes>,
    large: RefCell<Large>,
    default: FileId,
}

/// Inode numbers that do not fit into a [`FileId`], with the places of their
/// subvolumes: mkfs.btrfs takes them from the host, and overlayfs makes them large.
#[derive(Debug, Default)]
struct Large {
    list: Vec<(usize, u64)>,
    places: BTreeMap<(usize, u64), usize>,
}

/// The subvolumes that were met.
#[derive(Debug, Default)]
struct Subvolumes {
    list: Vec<Subvolume>,
    /// Their places in the list, by their ids.
    indices: BTreeMap<u64, usize>,
}

/// A subvolume.
#[derive(Debug, Clone, Copy)]
struct Subvolume {
    id: u64,
    top: Top,
    /// Its top directory.
    directory: u64,
}

/// An inode.
#[derive(Debug)]
struct Node {
    tree: Subvolume,
    number: u64,
    fields: InodeItem,
}

fn corrupt<T>(place: impl Into<String>, what: &'static str) -> Result<T, Error> {
    Err(Error::Corrupt {
        kind: "btrfs",
        place: place.into(),
        what,
    })
}

pub(super) fn is_btrfs(volume: &Volume<'_>) -> bool {
    volume.has(SUPER_OFFSETS[0] + 0x40, &MAGIC)
}

/// The first sound superblock.
fn superblock(volume: &Volume<'_>) -> Result<(Superblock, Checksum), Error> {
    let place = "its superblock";
    let mut problem = corrupt(place, "it is damaged, and so are its copies");
    for at in SUPER_OFFSETS {
        let Ok(bytes) = volume.bytes(at, SUPER_SIZE as u64) else {
            continue;
        };
        let Ok((superblock, _)) = Superblock::read_from_prefix(&bytes) else {
            continue;
        };
        if superblock.magic != MAGIC || superblock.bytenr.get() != at {
            continue;
        }
        match Checksum::from_number(superblock.csum_type.get()) {
            Some(checksum) if checksum.holds(&bytes) => return Ok((superblock, checksum)),
            Some(_) => {}
            None => {
                problem = Err(Error::Unsupported {
                    what: format!("has the btrfs checksum {}", superblock.csum_type),
                });
            }
        }
    }
    problem
}

/// The features that kiln cannot read over, by name.
fn unreadable(incompat: u64) -> Vec<String> {
    let known = FEATURES.iter().fold(0, |all, (bit, _, _)| all | bit);
    let mut names: Vec<String> = FEATURES
        .iter()
        .filter(|(bit, readable, _)| incompat & bit != 0 && !readable)
        .map(|(_, _, name)| (*name).to_owned())
        .collect();
    if incompat & !known != 0 {
        names.push(format!("{:#x}", incompat & !known));
    }
    names
}

impl Btrfs {
    pub(super) fn open(volume: &Volume<'_>) -> Result<Btrfs, Error> {
        let (superblock, checksum) = superblock(volume)?;
        let incompat = superblock.incompat_flags.get();
        let unreadable = unreadable(incompat);
        if !unreadable.is_empty() {
            return Err(Error::Unsupported {
                what: format!("has the btrfs features {}", unreadable.join(", ")),
            });
        }
        let devices = superblock.num_devices.get();
        if devices != 1 {
            return Err(Error::Unsupported {
                what: format!("is btrfs on {devices} devices, of which this is one"),
            });
        }
        let (node, sector) = (superblock.nodesize.get(), superblock.sectorsize.get());
        let sound = |size: u32| size.is_power_of_two() && (2048..=65536).contains(&size);
        if !sound(node) || !sound(sector) || node < sector {
            return corrupt("its superblock", "the size of blocks is impossible");
        }
        let array = usize::try_from(superblock.sys_chunk_array_size.get()).unwrap_or(usize::MAX);
        let Some(array) = superblock.sys_chunk_array.get(..array) else {
            return corrupt("its superblock", "its list of chunks is too long");
        };
        let fsid = if incompat & METADATA_UUID != 0 {
            superblock.metadata_uuid
        } else {
            superblock.fsid
        };
        let device = superblock.dev_item.devid.get();
        let chunks = Chunks::of_superblock(array, device)?;
        let mut blocks = Blocks::new(node, checksum, fsid, chunks);
        let chunk_tree = Top {
            address: superblock.chunk_root.get(),
            level: superblock.chunk_root_level,
            generation: superblock.chunk_root_generation.get(),
        };
        let mut items = Vec::new();
        blocks.scan(
            volume,
            chunk_tree,
            Span::of(FIRST, CHUNK_ITEM),
            &mut |key, item| {
                items.push((key, item.to_vec()));
                Ok(true)
            },
        )?;
        for (key, item) in items {
            blocks.chunks.add(key, &item, device)?;
        }
        let mut btrfs = Btrfs {
            blocks,
            sector,
            total: superblock.total_bytes.get(),
            used: superblock.bytes_used.get(),
            log: superblock.log_root.get() != 0,
            roots: Top {
                address: superblock.root.get(),
                level: superblock.root_level,
                generation: superblock.generation.get(),
            },
            subvolumes: RefCell::default(),
            large: RefCell::default(),
            default: ABSENT,
        };
        let default = btrfs.default_subvolume(volume, superblock.root_dir_objectid.get())?;
        btrfs.default = match btrfs.subvolume(volume, default)? {
            Some(root) => root,
            None => return corrupt(format!("subvolume {default}"), "it is not there"),
        };
        Ok(btrfs)
    }

    /// The subvolume that is mounted unless another is named.
    fn default_subvolume(&self, volume: &Volume<'_>, directory: u64) -> Result<u64, Error> {
        let key = Key {
            object: directory,
            kind: DIR_ITEM,
            offset: name_hash(b"default"),
        };
        let Some(item) = self.blocks.find(volume, self.roots, key)? else {
            return Ok(FS_TREE);
        };
        let entries = named(&item, || "the default subvolume".to_owned())?;
        let found = entries.iter().find(|(_, name, _)| *name == b"default");
        Ok(found.map_or(FS_TREE, |(head, _, _)| head.location.objectid.get()))
    }

    /// The top directory of a subvolume; `None` if there is none of this id.
    pub(super) fn subvolume(&self, volume: &Volume<'_>, id: u64) -> Result<Option<FileId>, Error> {
        let known = self.subvolumes.borrow().indices.get(&id).copied();
        if let Some(index) = known {
            let directory = self.subvolumes.borrow().list[index].directory;
            return self.file_id(index, directory).map(Some);
        }
        let Some(subvolume) = self.find_subvolume(volume, id)? else {
            return Ok(None);
        };
        let mut subvolumes = self.subvolumes.borrow_mut();
        let index = subvolumes.list.len();
        if index >= MAX_SUBVOLUMES {
            return Err(Error::Unsupported {
                what: format!("has more than {MAX_SUBVOLUMES} subvolumes"),
            });
        }
        subvolumes.list.push(subvolume);
        subvolumes.indices.insert(id, index);
        drop(subvolumes);
        self.file_id(index, subvolume.directory).map(Some)
    }

    fn find_subvolume(&self, volume: &Volume<'_>, id: u64) -> Result<Option<Subvolume>, Error> {
        let mut found = None;
        // A snapshot's key has the time when it was made; the last one counts.
        let span = Span::of(id, ROOT_ITEM);
        self.blocks.scan(volume, self.roots, span, &mut |_, item| {
            let mut item = item.to_vec();
            // Old ones are shorter.
            item.resize(item.len().max(size_of::<RootItem>()), 0);
            found = RootItem::read_from_prefix(&item).ok().map(|(root, _)| root);
            Ok(true)
        })?;
        Ok(found
            .filter(|root| root.refs.get() > 0)
            .map(|root| Subvolume {
                id,
                top: Top {
                    address: root.bytenr.get(),
                    level: root.level,
                    generation: root.generation.get(),
                },
                directory: root.root_dirid.get(),
            }))
    }

    /// The default subvolume's top directory.
    pub(super) fn root(&self) -> FileId {
        self.default
    }

    /// The top directory of the subvolume that all others are in.
    pub(super) fn top(&self, volume: &Volume<'_>) -> Result<FileId, Error> {
        match self.subvolume(volume, FS_TREE)? {
            Some(top) => Ok(top),
            None => corrupt("subvolume 5", "it is not there"),
        }
    }

    /// Whether a directory is the top of a subvolume.
    pub(super) fn is_subvolume(&self, file: FileId) -> bool {
        let number = self.split(file).1;
        self.own(file).is_ok_and(|own| own.directory == number)
    }

    /// The id of a file's subvolume.
    pub(super) fn subvolume_id(&self, file: FileId) -> Option<u64> {
        self.own(file).ok().map(|own| own.id)
    }

    /// Whether a subvolume is this one, or somewhere in it.
    pub(super) fn is_within(
        &self,
        volume: &Volume<'_>,
        inner: u64,
        outer: u64,
    ) -> Result<bool, Error> {
        let mut id = inner;
        for _ in 0..MAX_DEPTH {
            if id == outer {
                return Ok(true);
            }
            let mut parent = None;
            let span = Span::of(id, ROOT_BACKREF);
            self.blocks.scan(volume, self.roots, span, &mut |key, _| {
                parent = Some(key.offset);
                Ok(false)
            })?;
            match parent {
                Some(parent) => id = parent,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    pub(super) fn space(&self) -> (u64, Option<u64>) {
        (self.total, Some(self.total.saturating_sub(self.used)))
    }

    pub(super) fn needs_recovery(&self) -> bool {
        self.log
    }

    /// The number of a file in all subvolumes that were met.
    fn file_id(&self, index: usize, number: u64) -> Result<FileId, Error> {
        let short = u64::try_from(index).ok();
        if let Some(index) = short.filter(|_| number >> NUMBER_BITS == 0) {
            return Ok(FileId(index << NUMBER_BITS | number));
        }
        let mut large = self.large.borrow_mut();
        let next = large.list.len();
        let place = *large.places.entry((index, number)).or_insert(next);
        if place == next {
            large.list.push((index, number));
        }
        match u64::try_from(place) {
            Ok(place) if place >> NUMBER_BITS == 0 => Ok(FileId(LARGE << NUMBER_BITS | place)),
            _ => corrupt(format!("inode {number}"), "there are too many files"),
        }
    }

    /// The place of a file's subvolume in the list, and its number there.
    fn split(&self, file: FileId) -> (usize, u64) {
        let (index, number) = (file.0 >> NUMBER_BITS, file.0 & ((1 << NUMBER_BITS) - 1));
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if file.0 >> NUMBER_BITS != LARGE {
            return (index, number);
        }
        let large = self.large.borrow();
        let known = usize::try_from(number)
            .ok()
            .and_then(|at| large.list.get(at));
        known.copied().unwrap_or((usize::MAX, 0))
    }

    /// The subvolume of a file.
    fn own(&self, file: FileId) -> Result<Subvolume, Error> {
        match self.subvolumes.borrow().list.get(self.split(file).0) {
            Some(subvolume) => Ok(*subvolume),
            None => corrupt("a subvolume", "it is not there"),
        }
    }

    /// What a message calls a file.
    pub(super) fn place(&self, file: FileId) -> String {
        let number = self.split(file).1;
        match self.own(file) {
            Ok(own) if own.id != FS_TREE => format!("inode {number} of subvolume {}", own.id),
            _ => format!("inode {number}"),
        }
    }

    fn node(&self, volume: &Volume<'_>, file: FileId) -> Result<Node, Error> {
        let tree = self.own(file)?;
        let number = self.split(file).1;
        let key = Key {
            object: number,
            kind: INODE_ITEM,
            offset: 0,
        };
        let item = self.blocks.find(volume, tree.top, key)?.unwrap_or_default();
        match InodeItem::read_from_prefix(&item) {
            Ok((fields, _)) => Ok(Node {
                tree,
                number,
                fields,
            }),
            Err(_) => corrupt(self.place(file), "there is no inode of this number"),
        }
    }

    pub(super) fn metadata(&self, volume: &Volume<'_>, file: FileId) -> Result<Metadata, Error> {
        if file == ABSENT {
            return Ok(Metadata::nobodys_directory());
        }
        let node = self.node(volume, file)?;
        let kind = node.kind()?;
        let fields = &node.fields;
        let device = fields.rdev.get();
        // The kernel's own form.
        let device = Device {
            major: u32::try_from(device >> 20).unwrap_or(u32::MAX),
            minor: u32::try_from(device & 0xF_FFFF).unwrap_or(0),
        };
        Ok(Metadata {
            kind,
            mode: u16::try_from(fields.mode.get() & 0o7777).unwrap_or(0),
            uid: fields.uid.get(),
            gid: fields.gid.get(),
            size: fields.size.get(),
            mtime: Timestamp {
                seconds: fields.mtime.sec.get().cast_signed(),
                nanoseconds: fields.mtime.nsec.get().min(999_999_999),
            },
            links: fields.nlink.get(),
            device: matches!(kind, FileKind::CharDevice | FileKind::BlockDevice).then_some(device),
        })
    }

    /// What tells a directory from all others: its number.
    pub(super) fn directory_extents(&self, file: FileId) -> Vec<Run> {
        if file == ABSENT {
            Vec::new()
        } else {
            vec![Run::whole(file.0, 1)]
        }
    }

    pub(super) fn entries(&self, volume: &Volume<'_>, file: FileId) -> Result<Vec<Entry>, Error> {
        if file == ABSENT {
            return Ok(Vec::new());
        }
        let node = self.node(volume, file)?;
        node.require_directory()?;
        let mut found = Vec::new();
        let mut room = MAX_DIRECTORY;
        let span = Span::of(node.number, DIR_INDEX);
        self.blocks
            .scan(volume, node.tree.top, span, &mut |_, item| {
                for (head, name, _) in named(item, || node.place())? {
                    if !is_plain_name(name) {
                        let what = "a name is empty or has a slash or a zero byte";
                        return corrupt(node.place(), what);
                    }
                    room = room.saturating_sub(item.len() as u64);
                    if room == 0 {
                        return corrupt(node.place(), "a directory is too large");
                    }
                    found.push((Key::from(head.location), name.to_vec()));
                }
                Ok(true)
            })?;
        let index = self.split(file).0;
        let mut entries = Vec::with_capacity(found.len());
        for (location, name) in found {
            let file = match location.kind {
                INODE_ITEM => self.file_id(index, location.object)?,
                ROOT_ITEM => self.below(volume, &node, location.object, &name)?,
                _ => return corrupt(node.place(), "a name stands for nothing that is known"),
            };
            entries.push(Entry { name, file });
        }
        Ok(entries)
    }

    /// The subvolume of a name in a directory. A snapshot has the names of those in
    /// what it was made of, but not themselves.
    fn below(
        &self,
        volume: &Volume<'_>,
        node: &Node,
        id: u64,
        name: &[u8],
    ) -> Result<FileId, Error> {
        let key = Key {
            object: node.tree.id,
            kind: ROOT_REF,
            offset: id,
        };
        let item = self.blocks.find(volume, self.roots, key)?;
        let is_here = item.is_some_and(|item| {
            RootRef::read_from_prefix(&item).is_ok_and(|(reference, rest)| {
                let length = usize::from(reference.name_len.get());
                reference.dirid.get() == node.number && rest.get(..length) == Some(name)
            })
        });
        if !is_here {
            return Ok(ABSENT);
        }
        Ok(self.subvolume(volume, id)?.unwrap_or(ABSENT))
    }

    pub(super) fn link_target(&self, volume: &Volume<'_>, file: FileId) -> Result<Vec<u8>, Error> {
        let node = self.node(volume, file)?;
        node.require_link()?;
        if node.size() > MAX_TARGET {
            return corrupt(node.place(), "the target of a link is too long");
        }
        let target = match self.data(volume, &node)?.only_piece() {
            Some(Source::Bytes(bytes)) => bytes,
            _ => return corrupt(node.place(), "the target of a link is not in its item"),
        };
        // Some versions of mkfs.btrfs store the zero at the end of a C string too.
        let mut target: Vec<u8> = target.into_iter().take_while(|&byte| byte != 0).collect();
        target.truncate(usize::try_from(node.size()).unwrap_or(usize::MAX));
        if target.is_empty() {
            return corrupt(node.place(), "a link leads nowhere");
        }
        Ok(target)
    }

    pub(super) fn xattrs(&self, volume: &Volume<'_>, file: FileId) -> Result<Xattrs, Error> {
        let mut set = Xattrs::new();
        if file == ABSENT {
            return Ok(set);
        }
        let node = self.node(volume, file)?;
        let span = Span::of(node.number, XATTR_ITEM);
        self.blocks
            .scan(volume, node.tree.top, span, &mut |_, item| {
                for (_, name, value) in named(item, || node.place())? {
                    set.insert(name.into(), value.into());
                }
                Ok(true)
            })?;
        Ok(set)
    }

    pub(super) fn file(&self, volume: &Volume<'_>, file: FileId) -> Result<File, Error> {
        let node = self.node(volume, file)?;
        node.require_file()?;
        self.data(volume, &node)
    }
}

/// Directory entries or attributes of one item: head, name, value.
type Named<'i> = Vec<(DirItem, &'i [u8], &'i [u8])>;

fn named(item: &[u8], place: impl Fn() -> String) -> Result<Named<'_>, Error> {
    let mut all = Vec::new();
    let mut rest = item;
    while !rest.is_empty() {
        let parsed = DirItem::read_from_prefix(rest)
            .ok()
            .and_then(|(head, after)| {
                let (name, after) = after.split_at_checked(head.name_len.get().into())?;
                let (value, after) = after.split_at_checked(head.data_len.get().into())?;
                Some((head, name, value, after))
            });
        let Some((head, name, value, after)) = parsed else {
            return corrupt(place(), "a name in it is cut off");
        };
        all.push((head, name, value));
        rest = after;
    }
    Ok(all)
}

impl Inode for Node {
    fn place(&self) -> String {
        match self.tree.id {
            FS_TREE => format!("inode {}", self.number),
            id => format!("inode {} of subvolume {id}", self.number),
        }
    }

    fn kind(&self) -> Result<FileKind, Error> {
        match FileKind::of_mode(self.fields.mode.get()) {
            Some(kind) => Ok(kind),
            None => corrupt(self.place(), "it is no kind of file"),
        }
    }
}

impl Node {
    fn size(&self) -> u64 {
        self.fields.size.get()
    }
}
