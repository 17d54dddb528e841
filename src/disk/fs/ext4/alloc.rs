//! Hands out blocks, and keeps the bytes of metadata blocks.

use super::geometry::{BlockRange, Geometry};
use super::units::{FsBlock, count};

/// Hands out blocks in ascending order.
///
/// It never goes back, so everything below its cursor is in use: that, with the
/// reserved ranges, is all there is to know for the bitmaps. It goes on beyond
/// the end of the filesystem; whoever uses it looks at [`Allocator::end`].
#[derive(Debug, Clone)]
pub(super) struct Allocator {
    cursor: u64,
    next: usize,
    reserved: Vec<BlockRange>,
}

impl Allocator {
    pub(super) fn new(geometry: &Geometry) -> Self {
        Self {
            cursor: geometry.first_data_block,
            next: 0,
            reserved: geometry.reserved.clone(),
        }
    }

    /// Up to `wanted` blocks in one piece.
    pub(super) fn take(&mut self, wanted: u64) -> (FsBlock, u64) {
        let mut limit = u64::MAX;
        while let Some(range) = self.reserved.get(self.next) {
            if self.cursor < range.start {
                limit = range.start;
                break;
            }
            self.cursor = self.cursor.max(range.end);
            self.next += 1;
        }
        let start = self.cursor;
        let length = wanted.min(limit - start);
        self.cursor = start.saturating_add(length);
        (FsBlock(start), length)
    }

    /// One block.
    pub(super) fn one(&mut self) -> FsBlock {
        self.take(1).0
    }

    /// Where the blocks in use end, but for reserved ones.
    pub(super) fn end(&self) -> u64 {
        self.cursor
    }
}

/// The bytes of metadata blocks, and where each goes.
#[derive(Debug)]
pub(super) struct Arena {
    block_size: usize,
    bytes: Vec<u8>,
    blocks: Vec<FsBlock>,
}

/// A block in an arena.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArenaBlock {
    /// Its place in the arena.
    pub(super) slot: usize,
    /// Its place on disk.
    pub(super) block: FsBlock,
}

impl Arena {
    pub(super) fn new(block_size: usize) -> Self {
        Self {
            block_size,
            bytes: Vec::new(),
            blocks: Vec::new(),
        }
    }

    pub(super) fn block_size(&self) -> usize {
        self.block_size
    }

    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// A new block of zeros.
    pub(super) fn block(&mut self, allocator: &mut Allocator) -> ArenaBlock {
        let block = allocator.one();
        self.blocks.push(block);
        self.bytes.resize(self.bytes.len() + self.block_size, 0);
        ArenaBlock {
            slot: self.blocks.len() - 1,
            block,
        }
    }

    /// The bytes of a block.
    pub(super) fn bytes_mut(&mut self, slot: usize) -> &mut [u8] {
        let start = slot * self.block_size;
        &mut self.bytes[start..start + self.block_size]
    }

    /// All bytes; for each piece that is contiguous on disk: its first block,
    /// first byte in the arena, and length in bytes.
    pub(super) fn into_pieces(self) -> (Vec<u8>, Vec<(FsBlock, usize, u64)>) {
        let mut pieces: Vec<(FsBlock, usize, u64)> = Vec::new();
        let size = count(self.block_size);
        for (slot, &block) in self.blocks.iter().enumerate() {
            match pieces.last_mut() {
                Some((first, _, length)) if first.0 + *length / size == block.0 => *length += size,
                _ => pieces.push((block, slot * self.block_size, size)),
            }
        }
        (self.bytes, pieces)
    }
}
