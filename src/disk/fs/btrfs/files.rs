//! The items of the tree of files, and of their data.

use std::collections::BTreeMap;
use std::sync::Arc;

use zerocopy::IntoBytes as _;

use super::Error;
use super::format::{
    DIR_INDEX, DIR_ITEM, DirItem, DiskKey, EXTENT_DATA, FIRST, FileData, FileExtent, GENERATION,
    INODE_EXTREF, INODE_ITEM, INODE_REF, InodeItem, Key, SECTOR, XATTR_ITEM, extref_hash,
    name_hash,
};
use super::nodes::{Entry, MAX_ITEM};
use super::space::Data;
use crate::tree::{Content, Inode, InodeId, Kind, NodeId, Timestamp, Tree};

/// Files up to this size are in the tree itself.
pub(super) const MAX_INLINE: u64 = 2048;
/// Largest extent of data.
const MAX_EXTENT: u64 = 128 << 20;
/// References of one file in one directory that are kept in one item.
const MAX_REFS: usize = 4000;

/// A piece of a file on the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub inode: InodeId,
    /// Number of the inode in the filesystem.
    pub number: u64,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes in the file, not rounded up.
    pub length: u64,
    /// Address.
    pub address: u64,
}

impl Piece {
    /// Bytes on the disk.
    pub(super) fn blocks(&self) -> u64 {
        self.length.next_multiple_of(SECTOR)
    }
}

/// Number of an inode: the top directory is the first.
pub(super) fn number(inode: InodeId) -> u64 {
    FIRST + u64::from(inode.0)
}

/// Items of all files in order, and the pieces of their data by address.
pub(super) fn items(
    tree: &Arc<Tree>,
    made: Timestamp,
    data: &mut Data,
) -> Result<(Vec<Entry>, Vec<Piece>), Error> {
    let mut names: Vec<Vec<NodeId>> = vec![Vec::new(); tree.inodes().len()];
    let mut indices: Vec<u64> = vec![0; tree.nodes().len()];
    for (id, node) in tree.nodes() {
        if id != NodeId::ROOT {
            names[node.inode.index()].push(id);
        }
        // `.` and `..` have the first two.
        for (index, &child) in (2..).zip(tree.children(id)) {
            indices[child.index()] = index;
        }
    }
    let mut reader = tree.reader();
    let (mut entries, mut pieces) = (Vec::new(), Vec::new());
    for (id, inode) in tree.inodes() {
        let of = Of {
            tree,
            id,
            inode,
            number: number(id),
            // The top directory's inode is the first.
            path: names[id.index()].first().copied().unwrap_or(NodeId::ROOT),
        };
        let start = entries.len();
        entries.push(Entry {
            key: of.key(INODE_ITEM, 0),
            data: Vec::new(),
        });
        of.references(&names[id.index()], &indices, &mut entries);
        of.attributes(&mut entries)?;
        let (mut size, mut used) = (0, 0);
        match &inode.kind {
            Kind::Directory => size = of.directory(&indices, &mut entries)?,
            Kind::File(content) => {
                size = content.size;
                used = of.content(content, &mut reader, data, &mut entries, &mut pieces)?;
            }
            Kind::Symlink(target) => {
                size = target.len() as u64;
                used = size;
                entries.push(of.inline(target));
            }
            _ => {}
        }
        entries[start].data = of.inode(size, used, made).as_bytes().to_vec();
        // Within an inode they are made by kind; hashes come as they come.
        entries[start..].sort_by_key(|entry| entry.key);
    }
    Ok((entries, pieces))
}

/// An inode in work.
struct Of<'a> {
    tree: &'a Arc<Tree>,
    id: InodeId,
    inode: &'a Inode,
    number: u64,
    path: NodeId,
}

impl Of<'_> {
    fn key(&self, kind: u8, offset: u64) -> Key {
        Key {
            object: self.number,
            kind,
            offset,
        }
    }

    fn unsupported(&self, problem: &'static str) -> Error {
        Error::Unsupported {
            path: self.tree.path(self.path),
            problem,
        }
    }

    fn inode(&self, size: u64, used: u64, made: Timestamp) -> InodeItem {
        let device = match &self.inode.kind {
            Kind::CharDevice(device) | Kind::BlockDevice(device) => *device,
            _ => crate::tree::Device { major: 0, minor: 0 },
        };
        let time = self.inode.mtime.into();
        InodeItem {
            generation: GENERATION.into(),
            transid: GENERATION.into(),
            size: size.into(),
            nbytes: used.into(),
            block_group: 0.into(),
            nlink: self.inode.links.into(),
            uid: self.inode.uid.into(),
            gid: self.inode.gid.into(),
            mode: (type_bits(&self.inode.kind) | u32::from(self.inode.mode)).into(),
            // As the kernel has it in memory.
            rdev: (u64::from(device.major) << 20 | u64::from(device.minor)).into(),
            flags: 0.into(),
            sequence: 0.into(),
            reserved: [0; 32],
            atime: time,
            ctime: time,
            mtime: time,
            otime: made.into(),
        }
    }

    /// Back references to the directories that the names are in.
    fn references(&self, names: &[NodeId], indices: &[u64], entries: &mut Vec<Entry>) {
        if names.is_empty() {
            let mut data = 0u64.to_le_bytes().to_vec();
            data.extend_from_slice(&2u16.to_le_bytes());
            data.extend_from_slice(b"..");
            let key = self.key(INODE_REF, self.number);
            entries.push(Entry { key, data });
            return;
        }
        let mut plain: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut extended: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for &name in names {
            let parent = number(self.tree.node(self.tree.node(name).parent).inode);
            let index = indices[name.index()].to_le_bytes();
            let text = self.tree.name(name);
            let length = u16::try_from(text.len()).unwrap_or(0).to_le_bytes();
            let reference = [&index[..], &length, text].concat();
            let item = plain.entry(parent).or_default();
            if item.len() + reference.len() <= MAX_REFS {
                item.extend_from_slice(&reference);
            } else {
                let item = extended.entry(extref_hash(parent, text)).or_default();
                item.extend_from_slice(&parent.to_le_bytes());
                item.extend_from_slice(&reference);
            }
        }
        let kinds = [(INODE_REF, plain), (INODE_EXTREF, extended)];
        for (kind, items) in kinds {
            entries.extend(items.into_iter().map(|(offset, data)| Entry {
                key: self.key(kind, offset),
                data,
            }));
        }
    }

    fn attributes(&self, entries: &mut Vec<Entry>) -> Result<(), Error> {
        let mut by_hash: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (name, value) in self.inode.xattrs.iter().flat_map(|set| set.iter()) {
            let too_long = || self.unsupported("its extended attributes are too long");
            let head = DirItem {
                location: DiskKey {
                    objectid: 0.into(),
                    kind: 0,
                    offset: 0.into(),
                },
                transid: GENERATION.into(),
                data_len: u16::try_from(value.len()).map_err(|_| too_long())?.into(),
                name_len: u16::try_from(name.len()).map_err(|_| too_long())?.into(),
                kind: 8,
            };
            let item = by_hash.entry(name_hash(name)).or_default();
            item.extend_from_slice(head.as_bytes());
            item.extend_from_slice(name);
            item.extend_from_slice(value);
            if item.len() > MAX_ITEM {
                return Err(too_long());
            }
        }
        entries.extend(by_hash.into_iter().map(|(hash, data)| Entry {
            key: self.key(XATTR_ITEM, hash),
            data,
        }));
        Ok(())
    }

    /// Entries by the hash and by their order; returns the directory's size.
    fn directory(&self, indices: &[u64], entries: &mut Vec<Entry>) -> Result<u64, Error> {
        let mut by_hash: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut size = 0;
        for &child in self.tree.children(self.path) {
            let node = self.tree.node(child);
            let name = self.tree.name(child);
            let location = Key {
                object: number(node.inode),
                kind: INODE_ITEM,
                offset: 0,
            };
            let head = DirItem {
                location: location.into(),
                transid: GENERATION.into(),
                data_len: 0.into(),
                name_len: u16::try_from(name.len()).unwrap_or(0).into(),
                kind: entry_type(&self.tree.inode(node.inode).kind),
            };
            let item = [head.as_bytes(), name].concat();
            let same_hash = by_hash.entry(name_hash(name)).or_default();
            same_hash.extend_from_slice(&item);
            if same_hash.len() > MAX_ITEM {
                return Err(self.unsupported("too many of its names have the same hash"));
            }
            entries.push(Entry {
                key: self.key(DIR_INDEX, indices[child.index()]),
                data: item,
            });
            // Each name counts in both.
            size += 2 * name.len() as u64;
        }
        entries.extend(by_hash.into_iter().map(|(hash, data)| Entry {
            key: self.key(DIR_ITEM, hash),
            data,
        }));
        Ok(size)
    }

    /// Data in the item itself.
    fn inline(&self, bytes: &[u8]) -> Entry {
        let head = FileData {
            generation: GENERATION.into(),
            ram_bytes: (bytes.len() as u64).into(),
            compression: 0,
            encryption: 0,
            other_encoding: 0.into(),
            kind: 0,
        };
        Entry {
            key: self.key(EXTENT_DATA, 0),
            data: [head.as_bytes(), bytes].concat(),
        }
    }

    /// Data of a file; returns the bytes that it uses.
    fn content(
        &self,
        content: &Content,
        reader: &mut crate::tree::Reader,
        data: &mut Data,
        entries: &mut Vec<Entry>,
        pieces: &mut Vec<Piece>,
    ) -> Result<u64, Error> {
        if content.size == 0 {
            return Ok(0);
        }
        if content.size <= MAX_INLINE {
            let mut bytes = vec![0; usize::try_from(content.size).unwrap_or(0)];
            reader.read_at(self.id, 0, &mut bytes)?;
            entries.push(self.inline(&bytes));
            return Ok(content.size);
        }
        let mut used = 0;
        let mut ranges = content.ranges().peekable();
        while let Some(range) = ranges.next() {
            // Extents are whole blocks: what meets in a block is in one extent.
            let mut at = range.offset / SECTOR * SECTOR;
            let mut end = range.offset + range.length;
            while let Some(next) =
                ranges.next_if(|next| next.offset / SECTOR * SECTOR <= end.next_multiple_of(SECTOR))
            {
                end = next.offset + next.length;
            }
            let end = end.min(content.size);
            while at < end {
                let wanted = (end - at).min(MAX_EXTENT);
                let (address, room) = data.take(wanted.next_multiple_of(SECTOR));
                let length = wanted.min(room);
                let piece = Piece {
                    inode: self.id,
                    number: self.number,
                    offset: at,
                    length,
                    address,
                };
                let blocks = piece.blocks();
                let head = FileData {
                    generation: GENERATION.into(),
                    ram_bytes: blocks.into(),
                    compression: 0,
                    encryption: 0,
                    other_encoding: 0.into(),
                    kind: 1,
                };
                let extent = FileExtent {
                    disk_bytenr: address.into(),
                    disk_num_bytes: blocks.into(),
                    offset: 0.into(),
                    num_bytes: blocks.into(),
                };
                entries.push(Entry {
                    key: self.key(EXTENT_DATA, at),
                    data: [head.as_bytes(), extent.as_bytes()].concat(),
                });
                pieces.push(piece);
                used += blocks;
                at += blocks;
            }
        }
        Ok(used)
    }
}

fn type_bits(kind: &Kind) -> u32 {
    let bits = match kind {
        Kind::Fifo => 0o01,
        Kind::CharDevice(_) => 0o02,
        Kind::Directory => 0o04,
        Kind::BlockDevice(_) => 0o06,
        Kind::File(_) => 0o10,
        Kind::Symlink(_) => 0o12,
        Kind::Socket => 0o14,
    };
    bits << 12
}

fn entry_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 1,
        Kind::Directory => 2,
        Kind::CharDevice(_) => 3,
        Kind::BlockDevice(_) => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink(_) => 7,
    }
}
