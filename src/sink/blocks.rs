//! Formats that keep a disk in blocks of one size and a table of where they are.
//!
//! A block gets its place when its first byte that is not zero comes, and chunks
//! come in order, so the n-th block in use is the n-th in the file. Where all blocks
//! have places, those are in order too. Holes stay holes. What remains for a format is its header and its table.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::error::Error;
use super::order::InOrder;
use super::output::{Output, WRITE_SIZE};
use super::pass::{Chunk, Worker, Writer, is_zero, lock};

/// Chunks that may wait for an earlier one, for each thread.
const WINDOW_PER_THREAD: usize = 4;

/// Unit of holes within a block, which is that of common filesystems.
const HOLE: usize = 4096;

/// Where blocks lie in the file, all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Length of a block: a power of two.
    pub block_size: u64,
    /// Where the data of the first block in use begins.
    pub first: u64,
    /// From the data of one block in use to that of the next.
    pub stride: u64,
}

impl Geometry {
    /// Where the data of the `place`-th block in use begins.
    pub fn offset(&self, place: u64) -> Option<u64> {
        self.stride.checked_mul(place)?.checked_add(self.first)
    }
}

/// Numbers of the blocks in use, in order: the n-th has the n-th place.
pub(crate) type BlocksInUse = Vec<u32>;

/// A header or table and its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First byte in the file.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What is particular to a format of this kind.
pub(crate) trait BlockFormat: Sync {
    /// Where blocks lie.
    fn geometry(&self) -> Geometry;

    /// The number of blocks, if every one has a place, also where it is a hole.
    fn fixed_blocks(&self) -> Option<u32> {
        None
    }

    /// Headers and tables, and the length of the file.
    fn finish(&self, blocks: &[u32]) -> Result<(Vec<Piece>, u64), Error>;
}

/// An image of blocks being written.
pub(crate) struct Blocks<'a, F> {
    output: &'a Output,
    format: F,
    geometry: Geometry,
    in_use: Mutex<BlocksInUse>,
    order: InOrder<Parts>,
    /// Buffers to use again.
    spare: Mutex<Vec<Parts>>,
}

/// What of a chunk has to be stored.
#[derive(Debug, Default)]
struct Parts {
    /// Block, offset within it, and length in `bytes`.
    parts: Vec<(u32, u64, usize)>,
    bytes: Vec<u8>,
}

impl<'a, F: BlockFormat> Blocks<'a, F> {
    /// For an image written by `threads` threads.
    pub fn create(output: &'a Output, format: F, threads: usize) -> Blocks<'a, F> {
        Blocks {
            output,
            geometry: format.geometry(),
            format,
            in_use: Mutex::default(),
            order: InOrder::new(threads.saturating_mul(WINDOW_PER_THREAD)),
            spare: Mutex::default(),
        }
    }

    /// Gives the blocks of a chunk their places; called in order.
    fn place(&self, parts: Parts) -> Result<(Parts, Vec<u64>), Error> {
        let mut in_use = lock(&self.in_use);
        let mut offsets = Vec::with_capacity(parts.parts.len());
        let is_fixed = self.format.fixed_blocks().is_some();
        for &(block, within, _) in &parts.parts {
            let place = if is_fixed {
                u64::from(block)
            } else {
                if in_use.last() != Some(&block) {
                    in_use.push(block);
                }
                in_use.len() as u64 - 1
            };
            let offset = self.geometry.offset(place);
            let offset = offset.and_then(|offset| offset.checked_add(within));
            offsets.push(offset.ok_or_else(|| {
                self.output
                    .write_error(std::io::Error::from_raw_os_error(libc::EFBIG))
            })?);
        }
        Ok((parts, offsets))
    }

    /// Writes the blocks of a chunk; called in any order.
    fn write(&self, (parts, offsets): (Parts, Vec<u64>)) -> Result<(), Error> {
        let mut bytes = &parts.bytes[..];
        for (&(_, _, length), offset) in parts.parts.iter().zip(offsets) {
            let (part, rest) = bytes.split_at(length);
            write_data(self.output, part, offset)?;
            bytes = rest;
        }
        lock(&self.spare).push(parts);
        Ok(())
    }
}

impl<F: BlockFormat> Writer for Blocks<'_, F> {
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Error> {
        Ok(Box::new(self))
    }

    fn stop(&self) {
        self.order.stop();
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        let Blocks {
            output,
            format,
            in_use,
            ..
        } = *self;
        let in_use = match format.fixed_blocks() {
            Some(blocks) => (0..blocks).collect(),
            None => in_use.into_inner().unwrap_or_else(PoisonError::into_inner),
        };
        let (pieces, length) = format.finish(&in_use)?;
        output.set_length(length)?;
        pieces
            .iter()
            .try_for_each(|piece| output.write_at(&piece.bytes, piece.offset))
    }
}

impl<F: BlockFormat> Worker for &Blocks<'_, F> {
    fn take(&mut self, chunk: Chunk<'_>) -> Result<(), Error> {
        let size = self.geometry.block_size;
        let mut parts = lock(&self.spare).pop().unwrap_or_default();
        parts.parts.clear();
        parts.bytes.clear();
        // Chunks and blocks are both aligned powers of two, so either holds the other.
        let unit = usize::try_from(size).map_or(chunk.bytes.len(), |n| n.min(chunk.bytes.len()));
        let mut at = chunk.offset;
        for bytes in chunk.bytes.chunks(unit) {
            if !is_zero(bytes) {
                // Formats refuse disks with more blocks when they are created.
                let block = u32::try_from(at / size).unwrap_or(u32::MAX);
                parts.parts.push((block, at % size, bytes.len()));
                parts.bytes.extend_from_slice(bytes);
            }
            at += bytes.len() as u64;
        }
        self.order.submit(
            chunk.sequence,
            parts,
            |parts| self.place(parts),
            |placed| self.write(placed),
        )
    }
}

/// Writes `bytes` but for their zeros.
fn write_data(output: &Output, bytes: &[u8], offset: u64) -> Result<(), Error> {
    let mut run: Range<usize> = 0..0;
    for (number, block) in bytes.chunks(HOLE).enumerate() {
        let start = number * HOLE;
        if is_zero(block) {
            continue;
        }
        if run.end != start || run.len() >= WRITE_SIZE {
            output.write_at(&bytes[run.clone()], offset + run.start as u64)?;
            run = start..start;
        }
        run.end = start + block.len();
    }
    output.write_at(&bytes[run.clone()], offset + run.start as u64)
}

/// A table of `entries` numbers for blocks 0, 1, 2, …: `used` of the place of
/// those in use, `unused` for the others.
pub(crate) fn table<T: Copy>(
    entries: usize,
    blocks: &[u32],
    unused: T,
    used: impl Fn(u64) -> Option<T>,
) -> Option<Vec<T>> {
    let mut table = vec![unused; entries];
    for (place, &block) in (0..).zip(blocks) {
        *table.get_mut(usize::try_from(block).ok()?)? = used(place)?;
    }
    Some(table)
}
