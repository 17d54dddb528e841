//! Regular metadata that is computed while it is written.

use std::sync::Arc;

use super::directory::Entry;
use super::layout::Layout;
use super::resize;
use super::units::{GroupNo, InodeNo, count, index, low32};
use crate::disk::Render;

/// Which metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All inode tables, one after the other.
    InodeTables,
    /// Directories of one block, in the order of their blocks.
    SmallDirectories,
    /// All groups' block bitmaps.
    BlockBitmaps,
    /// All groups' inode bitmaps.
    InodeBitmaps,
    /// The blocks of group 0 that the resize inode owns, then its own block.
    Resize,
}

/// Renders one part of a layout.
#[derive(Debug)]
pub(super) struct Generated {
    pub(super) layout: Arc<Layout>,
    pub(super) part: Part,
}

impl Render for Generated {
    fn render(&self, offset: u64, buffer: &mut [u8]) {
        let block_size = index(self.layout.options.block_size);
        let size = count(block_size);
        let mut scratch = Vec::new();
        let (mut number, mut skip) = (offset / size, index(offset % size));
        let mut rest = buffer;
        while !rest.is_empty() {
            let length = (block_size - skip).min(rest.len());
            let (piece, after) = rest.split_at_mut(length);
            if length == block_size {
                piece.fill(0);
                self.block(number, piece);
            } else {
                scratch.clear();
                scratch.resize(block_size, 0);
                self.block(number, &mut scratch);
                piece.copy_from_slice(&scratch[skip..skip + length]);
            }
            rest = after;
            skip = 0;
            number += 1;
        }
    }
}

impl Generated {
    /// Writes one block into a zeroed buffer.
    fn block(&self, number: u64, block: &mut [u8]) {
        let layout = &*self.layout;
        match self.part {
            Part::InodeTables => {
                let size = usize::from(layout.options.inode_size);
                let first = number * count(block.len() / size) + 1;
                for (inode, bytes) in (first..).zip(block.chunks_exact_mut(size)) {
                    layout.write_inode(InodeNo(low32(inode)), bytes);
                }
            }
            Part::SmallDirectories => {
                if let Some(&node) = layout.small_directories.get(index(number)) {
                    let entries: &mut dyn Iterator<Item = Entry<'_>> = &mut layout.entries(node);
                    layout.directory_of(node).one_block(entries, block);
                }
            }
            Part::BlockBitmaps => layout.block_bitmap(GroupNo(low32(number)), block),
            Part::InodeBitmaps => layout.inode_bitmap(GroupNo(low32(number)), block),
            Part::Resize => {
                if number < u64::from(layout.geometry.reserved_descriptor_blocks) {
                    resize::write_kept(layout, number, block);
                } else {
                    resize::write_double_indirect(layout, block);
                }
            }
        }
    }
}

impl Layout {
    /// Writes a group's block bitmap into a zeroed buffer.
    pub(super) fn block_bitmap(&self, group: GroupNo, bitmap: &mut [u8]) {
        let geometry = &self.geometry;
        let start = geometry.group_start(group);
        let end = start + geometry.group_len(group);
        let mut mark = |from: u64, to: u64| {
            let (from, to) = (from.max(start), to.min(end));
            if from < to {
                set_bits(bitmap, index(from - start), index(to - start));
            }
        };
        mark(start, self.end);
        let first = geometry
            .reserved
            .partition_point(|range| range.end <= start);
        for range in geometry
            .reserved
            .iter()
            .skip(first)
            .take_while(|range| range.start < end)
        {
            mark(range.start, range.end);
        }
        // Blocks beyond the end of the filesystem count as used.
        let blocks = index(end - start);
        let bits = bitmap.len() * 8;
        set_bits(bitmap, blocks, bits);
    }

    /// Writes a group's inode bitmap into a zeroed buffer.
    pub(super) fn inode_bitmap(&self, group: GroupNo, bitmap: &mut [u8]) {
        let per_group = index(self.geometry.inodes_per_group);
        set_bits(bitmap, 0, index(self.used_inodes(group)));
        let bits = bitmap.len() * 8;
        set_bits(bitmap, per_group, bits);
    }

    /// Inodes in use in a group; they are its first ones.
    pub(super) fn used_inodes(&self, group: GroupNo) -> u32 {
        let per_group = self.geometry.inodes_per_group;
        let before = u64::from(group.0) * u64::from(per_group);
        let used = self.inodes_in_use().saturating_sub(before);
        u32::try_from(used).unwrap_or(u32::MAX).min(per_group)
    }

    /// Inodes in use, with the reserved ones.
    pub(super) fn inodes_in_use(&self) -> u64 {
        let extras = self.values.inodes(&self.options);
        u64::from(super::format::FIRST_INODE) + count(self.order.len()) + extras
    }
}

/// Sets the bits from `from` up to, not including, `to`.
fn set_bits(bitmap: &mut [u8], from: usize, to: usize) {
    let (first, last) = (from.div_ceil(8), to / 8);
    if first <= last {
        for bit in from..first * 8 {
            bitmap[bit / 8] |= 1 << (bit % 8);
        }
        bitmap[first..last].fill(0xFF);
        for bit in last * 8..to {
            bitmap[bit / 8] |= 1 << (bit % 8);
        }
    } else {
        for bit in from..to {
            bitmap[bit / 8] |= 1 << (bit % 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_from_first_to_before_last() {
        for from in 0..40 {
            for to in from..=40 {
                let mut bitmap = [0u8; 5];
                set_bits(&mut bitmap, from, to);
                for bit in 0..40 {
                    let is_set = bitmap[bit / 8] >> (bit % 8) & 1 == 1;
                    assert_eq!(is_set, (from..to).contains(&bit), "{from}..{to} bit {bit}");
                }
            }
        }
    }
}
