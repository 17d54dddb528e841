//! Quota files: what every user, group and project has in use, and its limits
//! (none yet).
//!
//! ```text
//! block 0: │ header │
//! block 1: │ root of a tree of four levels, by the id's bytes, the highest first │
//! others:  │ nodes of the tree: 256 block numbers │ or blocks of up to 14 entries │
//! ```
//!
//! The format is that of Linux's `fs/quota/quota_tree.c` with entries of
//! `quotaio_v2.h`, revision 1. Ids are inserted in ascending order, as e2fsprogs
//! do it, so that both write the same bytes.

use std::collections::BTreeMap;

use zerocopy::{FromZeros as _, IntoBytes as _};

use super::Error;
use super::alloc::Allocator;
use super::format::{
    FIRST_INODE, GROUP_QUOTA_INODE, QUOTA_BLOCK_SIZE, QUOTA_GRACE, QUOTA_VERSION, QuotaBlockHeader,
    QuotaEntry, QuotaHeader, QuotaInfo, RoCompat, USER_QUOTA_INODE,
};
use super::layout::Layout;
use super::mapping::Run;
use super::options::{Options, QuotaTypes};
use super::units::{InodeNo, count, index};

/// Types and the `dqh_magic` of their files.
const MAGICS: [(QuotaTypes, u32); 3] = [
    (QuotaTypes::USER, 0xD9C0_1F11),
    (QuotaTypes::GROUP, 0xD9C0_1927),
    (QuotaTypes::PROJECT, 0xD9C0_3F14),
];

/// Levels of the tree: each takes 8 bits of an id.
const DEPTH: u32 = 4;
/// Entries of a block.
const ENTRIES: usize = (QUOTA_BLOCK_SIZE - size_of::<QuotaBlockHeader>()) / size_of::<QuotaEntry>();
/// The block in which the tree has its root.
const ROOT: u32 = 1;
/// Most blocks of a quota file: e2fsck refuses those of more than 2 GiB.
const MOST_BLOCKS: usize = (2 << 30) / QUOTA_BLOCK_SIZE;

/// What is to be counted.
fn wanted(options: &Options) -> QuotaTypes {
    let features = options.features.ro_compat;
    if !features.contains(RoCompat::QUOTA) {
        return QuotaTypes::empty();
    }
    let both = QuotaTypes::USER | QuotaTypes::GROUP;
    let mut types = options.quota_types.unwrap_or(both);
    // As mke2fs does it.
    types.set(QuotaTypes::PROJECT, features.contains(RoCompat::PROJECT));
    types
}

/// Whether there is a quota file for projects, which has an inode as other files
/// have.
pub(super) fn has_project_file(options: &Options) -> bool {
    wanted(options).contains(QuotaTypes::PROJECT)
}

/// A quota file that is placed.
#[derive(Debug)]
pub(super) struct QuotaFile {
    pub(super) number: InodeNo,
    pub(super) runs: Vec<Run>,
    /// Bytes.
    pub(super) size: u64,
}

/// What an id has in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes of blocks.
    pub(super) space: u64,
    pub(super) inodes: u64,
}

/// By id.
type Usages = BTreeMap<u32, Usage>;

impl Layout {
    /// The quota file with this inode number.
    pub(super) fn quota_file(&self, number: InodeNo) -> Option<&QuotaFile> {
        self.quotas.iter().find(|file| file.number == number)
    }

    /// Writes and places quota files; all else must be placed, for it is counted.
    pub(super) fn place_quotas(&mut self, allocator: &mut Allocator) -> Result<(), Error> {
        let wanted = wanted(&self.options);
        if wanted.is_empty() {
            return Ok(());
        }
        let (users, groups, projects) = self.usages();
        for (kind, number, usages) in [
            (QuotaTypes::USER, InodeNo(USER_QUOTA_INODE), users),
            (QuotaTypes::GROUP, InodeNo(GROUP_QUOTA_INODE), groups),
            (QuotaTypes::PROJECT, self.last_extra(), projects),
        ] {
            if !wanted.contains(kind) {
                continue;
            }
            let bytes = encode(kind, &usages).ok_or_else(|| Error::BadOption {
                option: "-O quota".to_owned(),
                reason: format!(
                    "the files have {} owners, more than a quota file of 2 GiB holds",
                    usages.len()
                ),
            })?;
            let runs = self.store(&bytes, allocator);
            self.map(number, &runs, allocator);
            self.quotas.push(QuotaFile {
                number,
                runs,
                size: count(bytes.len()),
            });
        }
        Ok(())
    }

    /// What users, groups and projects have in use. The inodes that the filesystem
    /// itself needs are nobody's, but for its root and `lost+found`; a value with
    /// an inode of its own counts for everyone who refers to it.
    fn usages(&self) -> (Usages, Usages, Usages) {
        let (mut users, mut groups) = (Usages::new(), Usages::new());
        let mut all = Usage::default();
        let made = self.lost_found.is_none().then_some(InodeNo(FIRST_INODE));
        for number in self.numbers.iter().copied().chain(made) {
            let Some((uid, gid, usage)) = self.usage(number) else {
                continue;
            };
            let (user, group) = (users.entry(uid), groups.entry(gid));
            for total in [user.or_default(), group.or_default(), &mut all] {
                total.space += usage.space;
                total.inodes += usage.inodes;
            }
        }
        // No file has another project than 0.
        (users, groups, Usages::from([(0, all)]))
    }
}

/// A quota file's blocks.
struct Blocks(Vec<u8>);

impl Blocks {
    /// Adds a block of zeros; returns its number.
    fn add(&mut self) -> Option<u32> {
        let number = self.0.len() / QUOTA_BLOCK_SIZE;
        if number >= MOST_BLOCKS {
            return None;
        }
        self.0.resize((number + 1) * QUOTA_BLOCK_SIZE, 0);
        u32::try_from(number).ok()
    }

    fn put(&mut self, block: u32, at: usize, bytes: &[u8]) {
        let start = index(block) * QUOTA_BLOCK_SIZE + at;
        self.0[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// The number that a node of the tree has in a slot; 0 if it is free.
    fn child(&self, node: u32, slot: usize) -> u32 {
        let start = index(node) * QUOTA_BLOCK_SIZE + slot * 4;
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[start..start + 4]);
        u32::from_le_bytes(bytes)
    }
}

/// The bytes of a quota file; `None` if it would be too large.
fn encode(kind: QuotaTypes, usages: &Usages) -> Option<Vec<u8>> {
    let mut blocks = Blocks(vec![0; 2 * QUOTA_BLOCK_SIZE]);
    // The block that has room for entries, and how many it has.
    let mut open: Option<(u32, usize)> = None;
    for (&id, usage) in usages {
        let slot = |depth| index(id >> (8 * (DEPTH - 1 - depth)) & 0xFF);
        let mut node = ROOT;
        for depth in 0..DEPTH - 1 {
            let mut child = blocks.child(node, slot(depth));
            if child == 0 {
                child = blocks.add()?;
                blocks.put(node, slot(depth) * 4, &child.to_le_bytes());
            }
            node = child;
        }
        let (leaf, used) = match open {
            Some(open) => open,
            None => (blocks.add()?, 0),
        };
        blocks.put(node, slot(DEPTH - 1) * 4, &leaf.to_le_bytes());
        let mut entry = QuotaEntry::new_zeroed();
        entry.dqb_id = id.into();
        entry.dqb_curspace = usage.space.into();
        entry.dqb_curinodes = usage.inodes.into();
        let at = size_of::<QuotaBlockHeader>() + used * size_of::<QuotaEntry>();
        blocks.put(leaf, at, entry.as_bytes());
        let mut header = QuotaBlockHeader::new_zeroed();
        header.dqdh_entries = u16::try_from(used + 1).ok()?.into();
        blocks.put(leaf, 0, header.as_bytes());
        open = Some((leaf, used + 1)).filter(|&(_, used)| used < ENTRIES);
    }
    let magic = MAGICS.iter().find(|(known, _)| *known == kind);
    let header = QuotaHeader {
        dqh_magic: magic.map_or(0, |&(_, magic)| magic).into(),
        dqh_version: QUOTA_VERSION.into(),
    };
    let info = QuotaInfo {
        dqi_bgrace: QUOTA_GRACE.into(),
        dqi_igrace: QUOTA_GRACE.into(),
        dqi_flags: 0.into(),
        dqi_blocks: u32::try_from(blocks.0.len() / QUOTA_BLOCK_SIZE)
            .ok()?
            .into(),
        dqi_free_blk: 0.into(),
        dqi_free_entry: open.map_or(0, |(block, _)| block).into(),
    };
    blocks.put(0, size_of::<QuotaHeader>(), info.as_bytes());
    blocks.put(0, 0, header.as_bytes());
    Some(blocks.0)
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes as _;

    use super::*;

    /// Follows the tree to every entry; the entry must have the id of its path.
    fn decode(bytes: &[u8]) -> Usages {
        fn walk(bytes: &[u8], block: usize, depth: u32, prefix: u32, found: &mut Usages) {
            let node = &bytes[block * QUOTA_BLOCK_SIZE..(block + 1) * QUOTA_BLOCK_SIZE];
            for (slot, number) in (0..).zip(node.as_chunks::<4>().0) {
                let child = u32::from_le_bytes(*number) as usize;
                let id = prefix << 8 | slot;
                if child == 0 {
                    continue;
                }
                if depth < DEPTH {
                    walk(bytes, child, depth + 1, id, found);
                    continue;
                }
                let leaf = &bytes[child * QUOTA_BLOCK_SIZE..(child + 1) * QUOTA_BLOCK_SIZE];
                let (header, entries) = QuotaBlockHeader::ref_from_prefix(leaf).unwrap();
                let mut entries = entries
                    .chunks_exact(size_of::<QuotaEntry>())
                    .take(header.dqdh_entries.get().into())
                    .map(|entry| QuotaEntry::ref_from_bytes(entry).unwrap());
                let entry = entries.find(|entry| entry.dqb_id.get() == id).unwrap();
                let usage = Usage {
                    space: entry.dqb_curspace.get(),
                    inodes: entry.dqb_curinodes.get(),
                };
                assert_eq!(found.insert(id, usage), None);
            }
        }
        let mut found = Usages::new();
        walk(bytes, ROOT as usize, 1, 0, &mut found);
        found
    }

    fn usages(ids: impl Iterator<Item = u32>) -> Usages {
        let usage = |id| Usage {
            space: u64::from(id) << 12,
            inodes: u64::from(id) + 1,
        };
        ids.map(|id| (id, usage(id))).collect()
    }

    #[test]
    fn every_id_is_found_by_its_bytes() {
        let apart = [0, 255, 256, 65_535, 65_536, u32::MAX - 1];
        for (ids, blocks, open) in [
            (usages(0..1), 6, 5),
            // A full block is not open any more.
            (usages(0..14), 6, 0),
            (usages(0..15), 7, 6),
            (usages([u32::MAX].into_iter()), 6, 5),
            (usages(apart.into_iter()), 2 + 2 + 3 + 5 + 1, 5),
            (usages(100_000..105_000), 2 + 1 + 1 + 21 + 358, 382),
            (
                usages((0..4000).map(|n| n << 20)),
                2 + 250 + 4000 + 4000 + 286,
                8519,
            ),
        ] {
            let bytes = encode(QuotaTypes::GROUP, &ids).unwrap();
            assert_eq!(decode(&bytes), ids);
            let (header, rest) = QuotaHeader::ref_from_prefix(&bytes).unwrap();
            let (info, _) = QuotaInfo::ref_from_prefix(rest).unwrap();
            assert_eq!(header.dqh_magic.get(), 0xD9C0_1927);
            assert_eq!(header.dqh_version.get(), 1);
            assert_eq!(info.dqi_bgrace.get(), 604_800);
            assert_eq!(
                bytes.len(),
                info.dqi_blocks.get() as usize * QUOTA_BLOCK_SIZE
            );
            assert_eq!(info.dqi_blocks.get(), blocks);
            assert_eq!(info.dqi_free_entry.get(), open);
        }
    }
}
