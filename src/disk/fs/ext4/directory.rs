//! Directories: blocks of entries, and the index of large ones.
//!
//! A directory of one block is a list in the order of its names. Where hashed
//! directories are wanted, a larger one becomes an index (`dx_root`, for very
//! large ones a level of `dx_node`s) over leaves that are sorted by hash.

use zerocopy::IntoBytes as _;

use super::checksum::{Checksums, crc32c};
use super::format::{
    DIR_TAIL_FILE_TYPE, DirEntry, DirEntryTail, DxCountLimit, DxEntry, DxRootInfo, DxTail,
    FileType, HASH_HALF_MD4,
};
use super::hash::{NameHash, half_md4};
use super::units::{InodeNo, index};

/// A name to put into a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) inode: InodeNo,
    pub(super) file_type: FileType,
}

/// What all blocks of one directory have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory {
    pub(super) block_size: usize,
    /// `None` where metadata has no checksums.
    pub(super) checksums: Option<Checksums>,
    /// Whether entries carry file types.
    pub(super) file_types: bool,
    pub(super) inode: InodeNo,
    pub(super) parent: InodeNo,
}

const TAIL: usize = size_of::<DirEntryTail>();
/// Room that `.` and `..` take.
const DOTS: usize = 24;

/// Bytes that an entry takes at least.
pub(super) fn record_len(name_len: usize) -> usize {
    (size_of::<DirEntry>() + name_len).next_multiple_of(4)
}

/// Bytes of entries that a block holds.
fn capacity(block_size: usize, checksums: bool) -> usize {
    block_size - if checksums { TAIL } else { 0 }
}

/// Whether names of these lengths fit into one block.
pub(super) fn fits_one_block(
    names: impl Iterator<Item = usize>,
    block_size: usize,
    checksums: bool,
) -> bool {
    let capacity = capacity(block_size, checksums);
    let mut used = DOTS;
    for name_len in names {
        used += record_len(name_len);
        if used > capacity {
            return false;
        }
    }
    true
}

/// Fills a block with entries.
struct BlockWriter<'b> {
    block: &'b mut [u8],
    /// Where the next entry goes.
    at: usize,
    /// Where the last one is.
    last: usize,
    capacity: usize,
}

impl Directory {
    fn writer<'b>(&self, block: &'b mut [u8]) -> BlockWriter<'b> {
        let capacity = capacity(block.len(), self.checksums.is_some());
        BlockWriter {
            block,
            at: 0,
            last: 0,
            capacity,
        }
    }

    /// Puts an entry of this length, which may be more than it needs.
    fn put_entry(&self, block: &mut [u8], at: usize, entry: &Entry<'_>, length: usize) {
        let header = DirEntry {
            inode: entry.inode.0.into(),
            rec_len: short(length).into(),
            name_len: u8::try_from(entry.name.len()).unwrap_or(u8::MAX),
            file_type: if self.file_types {
                entry.file_type as u8
            } else {
                0
            },
        };
        put(block, at, header.as_bytes());
        put(block, at + size_of::<DirEntry>(), entry.name);
    }

    fn push(&self, writer: &mut BlockWriter<'_>, entry: Entry<'_>) -> bool {
        let length = record_len(entry.name.len());
        let (at, end) = (writer.at, writer.at + length);
        if end > writer.capacity {
            return false;
        }
        self.put_entry(writer.block, at, &entry, length);
        writer.last = at;
        writer.at = end;
        true
    }

    fn dots(&self) -> [Entry<'static>; 2] {
        [(&b"."[..], self.inode), (&b".."[..], self.parent)].map(|(name, inode)| Entry {
            name,
            inode,
            file_type: FileType::Directory,
        })
    }

    /// Gives the rest of the block to the last entry and seals the block.
    fn finish(&self, writer: BlockWriter<'_>) {
        let BlockWriter {
            block,
            at,
            last,
            capacity,
        } = writer;
        if at == 0 {
            let unused = DirEntry {
                inode: 0.into(),
                rec_len: short(capacity).into(),
                name_len: 0,
                file_type: 0,
            };
            put(block, 0, unused.as_bytes());
        } else {
            put(block, last + 4, &short(capacity - last).to_le_bytes());
        }
        if let Some(checksums) = self.checksums {
            let (entries, _) = block.split_at(capacity);
            let tail = DirEntryTail {
                det_reserved_zero1: 0.into(),
                det_rec_len: short(TAIL).into(),
                det_reserved_zero2: 0,
                det_reserved_ft: DIR_TAIL_FILE_TYPE,
                det_checksum: crc32c(checksums.inode(self.inode), entries).into(),
            };
            put(block, capacity, tail.as_bytes());
        }
    }

    /// Writes the only block of a small directory into a zeroed buffer. What
    /// does not fit is left out: ask [`fits_one_block`] first.
    pub(super) fn one_block<'a>(&self, entries: impl Iterator<Item = Entry<'a>>, block: &mut [u8]) {
        let mut writer = self.writer(block);
        for entry in self.dots().into_iter().chain(entries) {
            if !self.push(&mut writer, entry) {
                break;
            }
        }
        self.finish(writer);
    }

    /// A block without entries.
    pub(super) fn empty_block(&self, block: &mut [u8]) {
        let writer = self.writer(block);
        self.finish(writer);
    }

    /// All blocks of a directory that is not indexed.
    pub(super) fn linear(&self, entries: &[Entry<'_>]) -> Vec<u8> {
        let mut blocks = Vec::new();
        let mut rest = self.dots().to_vec();
        rest.extend_from_slice(entries);
        let mut rest = rest.as_slice();
        while !rest.is_empty() {
            rest = self.leaf(&mut blocks, rest);
        }
        blocks
    }

    /// Appends a block with as many of the entries as fit; returns the others.
    fn leaf<'a, 'e>(&self, blocks: &mut Vec<u8>, entries: &'e [Entry<'a>]) -> &'e [Entry<'a>] {
        let start = blocks.len();
        blocks.resize(start + self.block_size, 0);
        let mut writer = self.writer(&mut blocks[start..]);
        let fitting = entries
            .iter()
            .take_while(|entry| self.push(&mut writer, **entry))
            .count();
        self.finish(writer);
        // Even the longest name fits into an empty block.
        entries.get(fitting.max(1)..).unwrap_or_default()
    }

    /// All blocks of an indexed directory; `None` if so many levels of the index
    /// (that of the root included) are not enough.
    pub(super) fn hashed(
        &self,
        entries: Vec<Entry<'_>>,
        seed: &[u8; 16],
        levels: usize,
    ) -> Option<Vec<u8>> {
        let mut order: Vec<(NameHash, u32)> = Vec::with_capacity(entries.len());
        for (number, entry) in (0..).zip(&entries) {
            order.push((half_md4(entry.name, seed), number));
        }
        // Entries are in the order of their names, which decides between equals.
        order.sort_unstable();
        let names: Vec<Entry<'_>> = order
            .iter()
            .filter_map(|(_, number)| entries.get(index(*number)).copied())
            .collect();
        drop(entries);

        let checksum_room = if self.checksums.is_some() {
            size_of::<DxTail>()
        } else {
            0
        };
        let limit = |start: usize| (self.block_size - start - checksum_room) / size_of::<DxEntry>();
        const ROOT_ENTRIES: usize = DOTS + size_of::<DxRootInfo>();
        const NODE_ENTRIES: usize = size_of::<DirEntry>();
        let (root_limit, node_limit) = (limit(ROOT_ENTRIES), limit(NODE_ENTRIES));

        // First entry of each leaf, and from it the first hash. A leaf that begins
        // with the hash that the one before ends with is marked by the lowest bit.
        let mut hashes: Vec<u32> = Vec::new();
        let mut at = 0;
        while at < names.len() {
            let hash = order[at].0.major;
            let continued = at > 0 && order[at - 1].0.major == hash;
            hashes.push(if continued { hash | 1 } else { hash });
            at += self.fitting(&names[at..]);
        }
        drop(order);

        // Sizes of the levels of nodes, from the one above the leaves upwards.
        let mut sizes = Vec::new();
        let mut children = hashes.len();
        while children > root_limit {
            children = children.div_ceil(node_limit);
            sizes.push(children);
        }
        if sizes.len() >= levels {
            return None;
        }
        let nodes: usize = sizes.iter().sum();
        let mut blocks = Vec::with_capacity((1 + nodes + hashes.len()) * self.block_size);
        blocks.resize((1 + nodes) * self.block_size, 0);

        // The root is followed by its level, and so on down to the leaves.
        let numbered =
            |first: usize, hashes: &mut dyn Iterator<Item = u32>| -> Option<Vec<DxEntry>> {
                let first = u32::try_from(first).ok()?;
                let entries = hashes.zip(first..).map(|(hash, block)| DxEntry {
                    hash: hash.into(),
                    block: block.into(),
                });
                Some(entries.collect())
            };
        let mut below = 1 + nodes;
        let mut step = 1;
        for &size in &sizes {
            let first = below - size;
            let entries = numbered(below, &mut hashes.iter().copied().step_by(step))?;
            let level = &mut blocks[first * self.block_size..below * self.block_size];
            for (node, entries) in level
                .chunks_mut(self.block_size)
                .zip(entries.chunks(node_limit))
            {
                let unused = DirEntry {
                    inode: 0.into(),
                    rec_len: short(self.block_size).into(),
                    name_len: 0,
                    file_type: 0,
                };
                put(node, 0, unused.as_bytes());
                self.index_entries(node, NODE_ENTRIES, node_limit, entries);
            }
            below = first;
            step *= node_limit;
        }
        let entries = numbered(below, &mut hashes.iter().copied().step_by(step))?;
        let root = &mut blocks[..self.block_size];
        self.root_block(root, u8::try_from(sizes.len()).ok()?);
        self.index_entries(root, ROOT_ENTRIES, root_limit, &entries);
        drop(hashes);

        let mut rest = names.as_slice();
        while !rest.is_empty() {
            rest = self.leaf(&mut blocks, rest);
        }
        Some(blocks)
    }

    /// How many of the entries a block holds: at least one.
    fn fitting(&self, entries: &[Entry<'_>]) -> usize {
        let mut room = capacity(self.block_size, self.checksums.is_some());
        let fitting = entries.iter().take_while(|entry| {
            let length = record_len(entry.name.len());
            let fits = length <= room;
            room = room.saturating_sub(length);
            fits
        });
        // Even the longest name fits into an empty block.
        fitting.count().max(1)
    }

    /// The part of `dx_root` before its entries: to a kernel without hashed
    /// directories it looks like a block with only `.` and `..`.
    fn root_block(&self, block: &mut [u8], indirect_levels: u8) {
        let mut at = 0;
        for (entry, length) in self.dots().into_iter().zip([12, self.block_size - 12]) {
            self.put_entry(block, at, &entry, length);
            at += 12;
        }
        let info = DxRootInfo {
            reserved_zero: 0.into(),
            hash_version: HASH_HALF_MD4,
            info_length: 8,
            indirect_levels,
            unused_flags: 0,
        };
        put(block, DOTS, info.as_bytes());
    }

    /// Writes index entries from `start` on, and the block's checksum.
    fn index_entries(&self, block: &mut [u8], start: usize, limit: usize, entries: &[DxEntry]) {
        put(block, start, entries.as_bytes());
        // The first entry stands for all lower hashes; its place is taken.
        let head = DxCountLimit {
            limit: short(limit).into(),
            count: short(entries.len()).into(),
        };
        put(block, start, head.as_bytes());
        if let Some(checksums) = self.checksums {
            let used = start + size_of_val(entries);
            let (used, _) = block.split_at(used);
            let reserved_and_self = [0; size_of::<DxTail>()];
            let checksum = crc32c(
                crc32c(checksums.inode(self.inode), used),
                &reserved_and_self,
            );
            let tail = DxTail {
                dt_reserved: 0.into(),
                dt_checksum: checksum.into(),
            };
            put(block, start + limit * size_of::<DxEntry>(), tail.as_bytes());
        }
    }
}

/// A length within a block.
fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}
