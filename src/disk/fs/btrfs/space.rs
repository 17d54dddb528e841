//! Where chunks and what is in them lie. Addresses are those of the device.

use super::format::{SECTOR, SUPER_OFFSETS, SUPER_STRIPE};

/// What comes before everything: firmware and the first superblock.
pub(super) const RESERVED: u64 = 1 << 20;
/// Length of the chunk with the tree of chunks.
pub(super) const SYSTEM_LENGTH: u64 = 4 << 20;
/// Where data begins.
const DATA_START: u64 = RESERVED + SYSTEM_LENGTH;
/// Largest chunk of data.
const DATA_CHUNK: u64 = 1 << 30;
/// Chunks are whole multiples of this.
pub(super) const CHUNK_UNIT: u64 = 1 << 20;

/// A chunk: a range of addresses for one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkRange {
    pub kind: u64,
    pub start: u64,
    pub length: u64,
    pub used: u64,
}

/// Where `at` may go on, and how far: copies of the superblock are left out.
fn around_supers(at: u64) -> (u64, u64) {
    let mut at = at;
    for super_at in SUPER_OFFSETS {
        if at >= super_at && at < super_at + SUPER_STRIPE {
            at = super_at + SUPER_STRIPE;
        }
    }
    let next = SUPER_OFFSETS.into_iter().find(|&super_at| super_at >= at);
    (at, next.map_or(u64::MAX, |next| next - at))
}

/// Gives out addresses for data, one after the other.
#[derive(Debug)]
pub(super) struct Data {
    next: u64,
    /// Bytes given out in each chunk.
    used: Vec<u64>,
}

impl Data {
    pub(super) fn new() -> Data {
        Data {
            next: DATA_START,
            used: Vec::new(),
        }
    }

    /// An address with room for at most `wanted` bytes, a multiple of a block.
    pub(super) fn take(&mut self, wanted: u64) -> (u64, u64) {
        let (at, until_super) = around_supers(self.next);
        let in_chunk = DATA_CHUNK - (at - DATA_START) % DATA_CHUNK;
        let room = wanted.min(until_super).min(in_chunk).max(SECTOR);
        let chunk = usize::try_from((at - DATA_START) / DATA_CHUNK).unwrap_or(usize::MAX);
        if self.used.len() <= chunk {
            self.used.resize(chunk + 1, 0);
        }
        self.used[chunk] += room;
        self.next = at + room;
        (at, room)
    }

    /// The chunks that hold it; there is at least one.
    pub(super) fn chunks(&self, kind: u64) -> Vec<ChunkRange> {
        let count = self.used.len().max(1);
        (0..count)
            .map(|at| {
                let start = DATA_START + at as u64 * DATA_CHUNK;
                let last = at + 1 == count;
                let length = if last {
                    // Some room to write to from the start.
                    let used = self.next - start.min(self.next);
                    (used + (8 << 20))
                        .next_multiple_of(CHUNK_UNIT)
                        .min(DATA_CHUNK)
                } else {
                    DATA_CHUNK
                };
                ChunkRange {
                    kind,
                    start,
                    length,
                    used: self.used.get(at).copied().unwrap_or(0),
                }
            })
            .collect()
    }
}

/// Addresses of `count` blocks of trees from `start` on; none straddles a unit of
/// 64 KiB or lies on a copy of the superblock.
pub(super) fn blocks(start: u64, size: u64) -> impl Iterator<Item = u64> {
    let mut next = start;
    std::iter::from_fn(move || {
        let (at, _) = around_supers(next);
        next = at + size;
        Some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_lies_beside_superblocks_and_within_chunks() {
        let mut data = Data::new();
        let mut total = 0;
        let mut last = 0;
        while total < 3 << 30 {
            let (at, room) = data.take((128 << 20) + 4096);
            assert!(at >= last && room > 0 && room % SECTOR == 0);
            let end = at + room;
            for super_at in SUPER_OFFSETS {
                assert!(
                    end <= super_at || at >= super_at + SUPER_STRIPE,
                    "{at} {room}"
                );
            }
            let chunk = |byte: u64| (byte - DATA_START) / DATA_CHUNK;
            assert_eq!(chunk(at), chunk(end - 1));
            (last, total) = (end, total + room);
        }
        let chunks = data.chunks(1);
        assert_eq!(chunks.iter().map(|chunk| chunk.used).sum::<u64>(), total);
        assert!(chunks.iter().all(|chunk| chunk.used <= chunk.length));
    }
}
