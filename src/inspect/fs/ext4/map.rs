//! Where a file's blocks are: extent trees, and the block maps of ext2.

use zerocopy::FromBytes;

use super::super::inode::Inode as _;
use super::super::{MAX_RUNS, Run};
use super::{Error, Ext4, Node, corrupt};
use crate::disk::fs::ext4::format::{
    EXTENT_MAGIC, EXTENT_MAX_LEN, Extent, ExtentHeader, ExtentIndex, InodeFlags,
};
use crate::inspect::Volume;

/// Levels of an extent tree below its root.
const MAX_DEPTH: u16 = 5;

impl Ext4 {
    /// The runs of a file's data, sorted; in whole blocks.
    pub(super) fn runs(&self, volume: &Volume<'_>, node: &Node) -> Result<Vec<Run>, Error> {
        let mut runs = Runs {
            ext4: self,
            place: node.place(),
            list: Vec::new(),
            next: 0,
            mapped: 0,
        };
        if node.flags().contains(InodeFlags::EXTENTS) {
            runs.extents(volume, &node.fields.i_block, None)?;
        } else {
            let limit = node.size().div_ceil(self.block_size);
            runs.block_map(volume, &node.fields.i_block, limit)?;
        }
        Ok(runs.list)
    }
}

struct Runs<'a> {
    ext4: &'a Ext4,
    place: String,
    list: Vec<Run>,
    /// First block of the file that may come next: extents are sorted, so a tree
    /// that leads to one block twice is found out.
    next: u64,
    /// Blocks mapped so far, which cannot be more than there are.
    mapped: u64,
}

impl Runs<'_> {
    fn push(&mut self, logical: u64, physical: u64, length: u64, data: bool) -> Result<(), Error> {
        let ext4 = self.ext4;
        if logical < self.next {
            return corrupt(&self.place, "its extents overlap or are out of order");
        }
        self.next = logical + length;
        if !data {
            return Ok(());
        }
        self.mapped += length;
        let inside = physical >= ext4.first_data_block
            && physical
                .checked_add(length)
                .is_some_and(|end| end <= ext4.blocks);
        if !inside || self.mapped > ext4.blocks {
            return corrupt(
                &self.place,
                "it leads to blocks behind the filesystem's end",
            );
        }
        let size = ext4.block_size;
        let run = Run {
            offset: logical * size,
            length: length * size,
            at: physical * size,
        };
        if let Some(last) = self.list.last_mut()
            && last.offset + last.length == run.offset
            && last.at + last.length == run.at
        {
            last.length += run.length;
            return Ok(());
        }
        if self.list.len() >= MAX_RUNS {
            return Err(Error::Unsupported {
                what: format!("has its {} in too many pieces", self.place),
            });
        }
        self.list.push(run);
        Ok(())
    }

    /// Walks a node of an extent tree; `above` is the depth of the one above it.
    fn extents(
        &mut self,
        volume: &Volume<'_>,
        bytes: &[u8],
        above: Option<u16>,
    ) -> Result<(), Error> {
        let Ok((header, rest)) = ExtentHeader::read_from_prefix(bytes) else {
            return corrupt(&self.place, "an extent tree is cut off");
        };
        let depth = header.eh_depth.get();
        let expected = match above {
            None => depth <= MAX_DEPTH,
            Some(above) => depth.checked_add(1) == Some(above),
        };
        let room = rest.len() / size_of::<Extent>();
        if header.eh_magic.get() != EXTENT_MAGIC
            || !expected
            || usize::from(header.eh_entries.get()) > room
        {
            return corrupt(&self.place, "a node of its extent tree is not one");
        }
        let entries = rest
            .chunks_exact(size_of::<Extent>())
            .take(header.eh_entries.get().into());
        for entry in entries {
            if depth == 0 {
                let extent: Extent = self.entry(entry)?;
                let length = u32::from(extent.ee_len.get());
                // More than the maximum: allocated, but not written yet; zeros.
                let data = length <= EXTENT_MAX_LEN;
                let length = if data {
                    length
                } else {
                    length - EXTENT_MAX_LEN
                };
                let physical =
                    super::pair(extent.ee_start_hi.get().into(), extent.ee_start_lo.get());
                self.push(extent.ee_block.get().into(), physical, length.into(), data)?;
            } else {
                let index: ExtentIndex = self.entry(entry)?;
                let leaf = super::pair(index.ei_leaf_hi.get().into(), index.ei_leaf_lo.get());
                let before = self.next;
                let at = self.ext4.block(leaf, || self.place.clone())?;
                let block = volume.bytes(at, self.ext4.block_size)?;
                self.extents(volume, &block, Some(depth))?;
                if self.next == before {
                    // Nothing came of it: a tree of empty nodes could be walked for ever.
                    return corrupt(&self.place, "a node of its extent tree is empty");
                }
            }
        }
        Ok(())
    }

    fn entry<T: FromBytes>(&self, bytes: &[u8]) -> Result<T, Error> {
        match T::read_from_bytes(bytes) {
            Ok(entry) => Ok(entry),
            Err(_) => corrupt(&self.place, "an extent tree is cut off"),
        }
    }

    /// Walks twelve direct blocks, then maps of one, two and three levels.
    fn block_map(&mut self, volume: &Volume<'_>, bytes: &[u8], limit: u64) -> Result<(), Error> {
        let (words, _) = bytes.as_chunks::<4>();
        let per_block = self.ext4.block_size / 4;
        let mut logical = 0;
        for (at, word) in words.iter().enumerate() {
            let level = u32::try_from(at.saturating_sub(11)).unwrap_or(0);
            let covers = per_block.pow(level);
            self.mapped_blocks(volume, u32::from_le_bytes(*word), level, logical, limit)?;
            logical += covers;
            if logical >= limit {
                break;
            }
        }
        Ok(())
    }

    fn mapped_blocks(
        &mut self,
        volume: &Volume<'_>,
        block: u32,
        level: u32,
        first: u64,
        limit: u64,
    ) -> Result<(), Error> {
        if block == 0 || first >= limit {
            return Ok(());
        }
        if level == 0 {
            return self.push(first, block.into(), 1, true);
        }
        // Maps take part in the count, so that one cannot be used without end.
        self.mapped += 1;
        if self.mapped > self.ext4.blocks {
            return corrupt(&self.place, "it leads to more blocks than there are");
        }
        let at = self.ext4.block(block.into(), || self.place.clone())?;
        let bytes = volume.bytes(at, self.ext4.block_size)?;
        let (words, _) = bytes.as_chunks::<4>();
        let covers = (self.ext4.block_size / 4).pow(level - 1);
        let mut logical = first;
        for word in words {
            self.mapped_blocks(volume, u32::from_le_bytes(*word), level - 1, logical, limit)?;
            logical += covers;
        }
        Ok(())
    }
}
