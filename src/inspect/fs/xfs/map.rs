//! Where the blocks of a fork are: lists of extents, and trees of them.

use zerocopy::FromBytes as _;

use super::super::inode::Inode as _;
use super::super::{MAX_RUNS, Run};
use super::{Error, Node, Xfs, corrupt};
use crate::disk::fs::xfs::format::{
    BMAP_MAGIC, BMAP4_MAGIC, BmapExtent, BmapRoot, FORMAT_BTREE, LONG_BLOCK, LONG4_BLOCK, LongBlock,
};
use crate::inspect::Volume;

/// Levels of a tree of extents, as the kernel has it.
const MAX_LEVELS: u16 = 10;
/// Length of a record, and of a key with its pointer.
const RECORD: usize = 16;

/// One of the two things that an inode has blocks for.
#[derive(Debug)]
pub(super) struct Fork<'n> {
    pub format: u8,
    /// How many extents it has, as a list.
    pub extents: u64,
    /// What is of it in the inode.
    pub bytes: &'n [u8],
    /// Its blocks may be those of others, and each other's.
    pub may_share: bool,
}

impl Xfs {
    /// The runs of a fork, sorted; in whole blocks. What was never written is not
    /// among them.
    pub(super) fn runs(
        &self,
        volume: &Volume<'_>,
        node: &Node,
        fork: &Fork<'_>,
    ) -> Result<Vec<Run>, Error> {
        let mut runs = Runs {
            xfs: self,
            place: node.place(),
            may_share: fork.may_share,
            list: Vec::new(),
            next: 0,
            mapped: 0,
        };
        if fork.format == FORMAT_BTREE {
            runs.tree(volume, fork.bytes)?;
        } else if super::has_extents(fork.format) {
            let (records, _) = fork.bytes.as_chunks();
            let count = usize::try_from(fork.extents).unwrap_or(usize::MAX);
            let Some(records) = records.get(..count) else {
                return corrupt(node.place(), "it has more extents than fit into it");
            };
            runs.records(records)?;
        } else {
            return corrupt(node.place(), "its data is kept in an impossible way");
        }
        Ok(runs.list)
    }
}

struct Runs<'a> {
    xfs: &'a Xfs,
    place: String,
    may_share: bool,
    list: Vec<Run>,
    /// First block of the file that may come next: extents are sorted, so a tree
    /// that leads to one block twice is found out.
    next: u64,
    /// Blocks mapped so far, which cannot be more than there are unless they are
    /// shared.
    mapped: u64,
}

impl Runs<'_> {
    fn records(&mut self, records: &[[u8; RECORD]]) -> Result<(), Error> {
        for record in records {
            self.push(BmapExtent::unpack(*record))?;
        }
        Ok(())
    }

    fn push(&mut self, extent: BmapExtent) -> Result<(), Error> {
        let xfs = self.xfs;
        if extent.offset < self.next || extent.count == 0 {
            return corrupt(
                &self.place,
                "its extents are empty, overlap or are out of order",
            );
        }
        self.next = extent.offset + extent.count;
        let bytes = |blocks: u64| blocks.checked_mul(xfs.block_size);
        let (Some(offset), Some(length), Some(_)) =
            (bytes(extent.offset), bytes(extent.count), bytes(self.next))
        else {
            return corrupt(&self.place, "it has an extent behind the end of all files");
        };
        let at = xfs.blocks_at(extent.block, extent.count, || self.place.clone())?;
        self.mapped = self.mapped.saturating_add(extent.count);
        if self.mapped > xfs.blocks && !self.may_share {
            return corrupt(&self.place, "it leads to more blocks than there are");
        }
        if extent.unwritten {
            return Ok(());
        }
        if self.list.len() >= MAX_RUNS {
            return Err(Error::Unsupported {
                what: format!("has its {} in too many pieces", self.place),
            });
        }
        self.list.push(Run { offset, length, at });
        Ok(())
    }

    /// Walks a tree from its root, which is in the inode.
    fn tree(&mut self, volume: &Volume<'_>, fork: &[u8]) -> Result<(), Error> {
        let Ok((root, rest)) = BmapRoot::read_from_prefix(fork) else {
            return corrupt(&self.place, "its tree of extents is cut off");
        };
        let level = root.bb_level.get();
        if level == 0 || level > MAX_LEVELS {
            return corrupt(&self.place, "the root of its tree of extents is not one");
        }
        self.children(volume, rest, root.bb_numrecs.get(), level)
    }

    /// Walks what a node leads to. Its keys come first, then as many pointers, with
    /// room for as many of both as fit.
    fn children(
        &mut self,
        volume: &Volume<'_>,
        pairs: &[u8],
        count: u16,
        level: u16,
    ) -> Result<(), Error> {
        let (words, _) = pairs.as_chunks::<8>();
        let room = pairs.len() / RECORD;
        let pointers = words.get(room..).unwrap_or_default();
        let Some(pointers) = pointers
            .get(..count.into())
            .filter(|_| usize::from(count) <= room)
        else {
            return corrupt(&self.place, "a node of its tree of extents is overfull");
        };
        for pointer in pointers {
            let before = self.next;
            self.block(volume, u64::from_be_bytes(*pointer), level - 1)?;
            if self.next == before {
                // Nothing came of it: a tree of empty nodes could be walked for ever.
                return corrupt(&self.place, "a node of its tree of extents is empty");
            }
        }
        Ok(())
    }

    fn block(&mut self, volume: &Volume<'_>, block: u64, level: u16) -> Result<(), Error> {
        let xfs = self.xfs;
        let at = xfs.blocks_at(block, 1, || self.place.clone())?;
        let bytes = volume.bytes(at, xfs.block_size)?;
        let (magic, header) = if xfs.v5 {
            (BMAP_MAGIC, LONG_BLOCK)
        } else {
            (BMAP4_MAGIC, LONG4_BLOCK)
        };
        let head = LongBlock::read_from_prefix(&bytes);
        let (Ok((head, _)), Some(rest)) = (head, bytes.get(header..)) else {
            return corrupt(&self.place, "its tree of extents is cut off");
        };
        if head.bb_magic.get() != magic || head.bb_level.get() != level {
            return corrupt(&self.place, "a node of its tree of extents is not one");
        }
        if level > 0 {
            return self.children(volume, rest, head.bb_numrecs.get(), level);
        }
        let (records, _) = rest.as_chunks();
        match records.get(..head.bb_numrecs.get().into()) {
            Some(records) => self.records(records),
            None => corrupt(&self.place, "a leaf of its tree of extents is overfull"),
        }
    }
}
