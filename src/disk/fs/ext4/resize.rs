//! The resize inode: it owns the blocks that are kept for further group
//! descriptors, so that a mounted filesystem can grow into them.
//!
//! Its double-indirect block lists the kept blocks after the primary
//! descriptors; each of those lists its own copies in the groups with backups.

use super::layout::Layout;
use super::mapping::MapRoot;
use super::units::{FsBlock, count, index, low32};

/// What the inode says.
pub(super) struct ResizeMap {
    pub(super) size: u64,
    pub(super) blocks: u64,
    pub(super) root: MapRoot,
}

/// The resize inode's size in bytes: it reaches to the end of the double-indirect
/// tree.
pub(super) fn size(block_size: u64) -> u64 {
    let per_block = block_size / 4;
    (per_block * per_block + per_block + 12) * block_size
}

/// The resize inode's map; `None` if there is none.
pub(super) fn owned(layout: &Layout) -> Option<ResizeMap> {
    let double_indirect = layout.resize_block?;
    let geometry = &layout.geometry;
    let mut root = [0; 60];
    root[13 * 4..14 * 4].copy_from_slice(&double_indirect.low().to_le_bytes());
    let kept = u64::from(geometry.reserved_descriptor_blocks);
    Some(ResizeMap {
        size: size(layout.options.block()),
        blocks: 1 + kept * (1 + count(geometry.backups().count())),
        root,
    })
}

/// First of the kept blocks in group 0.
pub(super) fn first_kept(layout: &Layout) -> FsBlock {
    let geometry = &layout.geometry;
    FsBlock(geometry.first_data_block + 1 + u64::from(geometry.descriptor_blocks))
}

/// Writes the double-indirect block into a zeroed buffer.
pub(super) fn write_double_indirect(layout: &Layout, block: &mut [u8]) {
    let per_block = layout.options.block_size / 4;
    let first = first_kept(layout);
    for number in 0..layout.geometry.reserved_descriptor_blocks {
        let slot = (layout.geometry.descriptor_blocks + number) % per_block;
        set(block, slot, first.plus(u64::from(number)));
    }
}

/// Writes a kept block of group 0 into a zeroed buffer.
pub(super) fn write_kept(layout: &Layout, number: u64, block: &mut [u8]) {
    let geometry = &layout.geometry;
    let own = first_kept(layout).plus(number);
    for (slot, group) in (0..).zip(geometry.backups()) {
        let distance = geometry.group_start(group) - geometry.first_data_block;
        set(block, slot, own.plus(distance));
    }
}

fn set(block: &mut [u8], slot: u32, value: FsBlock) {
    // The resize inode has 32-bit block numbers; groups beyond them have no
    // copies that it could list.
    let at = index(slot) * 4;
    if let Some(bytes) = block.get_mut(at..at + 4) {
        bytes.copy_from_slice(&low32(value.0).to_le_bytes());
    }
}
