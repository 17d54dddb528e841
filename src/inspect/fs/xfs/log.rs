//! Whether the log holds changes that are nowhere else yet.
//!
//! The log is a ring of blocks of 512 bytes, each of which begins with the number
//! of the round in which it was written. The last record is the one before the
//! first block of an earlier round; if all that it says is that the filesystem was
//! unmounted, nothing is left to do.

use zerocopy::FromBytes as _;

use super::Xfs;
use crate::disk::fs::xfs::format::{
    LOG_BLOCK, LOG_CYCLE_SIZE, LOG_MAGIC, LOG_OP_FLAGS, LOG_UNMOUNT, LogRecord, Superblock,
};
use crate::inspect::Volume;
use crate::inspect::fs::Error;

/// How far the last record's head may be from its end, in blocks: the largest
/// record with its head, filled up to the largest stripe.
const MAX_RECORD: u64 = 2 * (256 << 10) / LOG_BLOCK + 16;

/// The log within its volume.
struct Log<'v, 'd> {
    volume: &'v Volume<'d>,
    at: u64,
    blocks: u64,
}

/// Whether there are changes in the log, or it cannot be read. A log on a device of
/// its own is not known, and taken for clean.
pub(super) fn is_dirty(xfs: &Xfs, volume: &Volume<'_>, superblock: &Superblock) -> bool {
    let first = superblock.sb_logstart.get();
    let count = superblock.sb_logblocks.get();
    if first == 0 || count == 0 {
        return false;
    }
    let Ok(at) = xfs.blocks_at(first, count.into(), String::new) else {
        return true;
    };
    let log = Log {
        volume,
        at,
        blocks: u64::from(count) * xfs.block_size / LOG_BLOCK,
    };
    !log.is_clean().unwrap_or(false)
}

impl Log<'_, '_> {
    fn block(&self, block: u64) -> Result<[u8; LOG_BLOCK as usize], Error> {
        let mut bytes = [0; LOG_BLOCK as usize];
        let at = self.at + block % self.blocks * LOG_BLOCK;
        self.volume.read_at(at, &mut bytes)?;
        Ok(bytes)
    }

    /// The round in which a block was written; heads of records have it behind
    /// their signature.
    fn round(&self, block: u64) -> Result<u32, Error> {
        let bytes = self.block(block)?;
        let word = |at: usize| {
            let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0, |word| u32::from_be_bytes(*word))
        };
        Ok(match word(0) {
            LOG_MAGIC => word(4),
            round => round,
        })
    }

    fn is_clean(&self) -> Result<bool, Error> {
        let round = self.round(0)?;
        if round == 0 {
            // Nothing was ever written.
            return Ok(true);
        }
        // The first block of an earlier round; all may be of the same.
        let (mut low, mut high) = (0, self.blocks);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.round(middle)? == round {
                low = middle;
            } else {
                high = middle;
            }
        }
        let head = high;
        for back in 1..=MAX_RECORD.min(self.blocks) {
            let at = (head + self.blocks - back) % self.blocks;
            let block = self.block(at)?;
            let Ok((record, _)) = LogRecord::read_from_prefix(&block) else {
                return Ok(false);
            };
            if record.h_magicno.get() != LOG_MAGIC {
                continue;
            }
            let size = record.h_size.get();
            let heads = if record.h_version.get() & 2 != 0 && size > LOG_CYCLE_SIZE {
                size.div_ceil(LOG_CYCLE_SIZE).into()
            } else {
                1
            };
            let body = u64::from(record.h_len.get()).div_ceil(LOG_BLOCK);
            let operation = self.block(at + heads)?;
            return Ok(heads + body == back
                && record.h_num_logops.get() == 1
                && operation[LOG_OP_FLAGS] & LOG_UNMOUNT != 0);
        }
        Ok(false)
    }
}
