//! Where the blocks of a file are: extent trees, and the block maps of ext2/3.

use std::collections::BTreeMap;

use zerocopy::IntoBytes as _;

use super::alloc::{Allocator, Arena};
use super::checksum::{Checksums, crc32c};
use super::format::{EXTENT_MAGIC, EXTENT_MAX_LEN, Extent, ExtentHeader, ExtentIndex};
use super::units::{FsBlock, InodeNo, count, index, low16};

/// `i_block` of an inode.
pub(super) type MapRoot = [u8; 60];

/// Consecutive blocks of a file that are consecutive on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// First block, counted from the start of the file.
    pub(super) logical: u32,
    /// Number of blocks.
    pub(super) length: u32,
    /// First block on disk.
    pub(super) physical: FsBlock,
}

const ROOT_ENTRIES: usize = 4;
const ENTRY: usize = size_of::<Extent>();

/// The extents of runs: no extent is longer than the format allows.
fn extents(runs: &[Run]) -> impl Iterator<Item = Extent> + '_ {
    runs.iter().flat_map(|run| {
        (0..run.length)
            .step_by(index(EXTENT_MAX_LEN))
            .map(move |done| {
                let physical = run.physical.plus(u64::from(done));
                Extent {
                    ee_block: (run.logical + done).into(),
                    ee_len: low16((run.length - done).min(EXTENT_MAX_LEN)).into(),
                    ee_start_hi: physical.high16().into(),
                    ee_start_lo: physical.low().into(),
                }
            })
    })
}

fn header(entries: usize, max: usize, depth: u16) -> ExtentHeader {
    ExtentHeader {
        eh_magic: EXTENT_MAGIC.into(),
        eh_entries: u16::try_from(entries).unwrap_or(u16::MAX).into(),
        eh_max: u16::try_from(max).unwrap_or(u16::MAX).into(),
        eh_depth: depth.into(),
        eh_generation: 0.into(),
    }
}

fn root(depth: u16, entries: &[u8]) -> MapRoot {
    let mut root = [0; 60];
    root[..ENTRY].copy_from_slice(header(entries.len() / ENTRY, ROOT_ENTRIES, depth).as_bytes());
    root[ENTRY..ENTRY + entries.len()].copy_from_slice(entries);
    root
}

/// The extent tree of few runs, which needs no block; `None` if there are more.
pub(super) fn inline_extents(runs: &[Run]) -> Option<MapRoot> {
    let mut entries = [0; ROOT_ENTRIES * ENTRY];
    let mut used = 0;
    for extent in extents(runs) {
        entries
            .get_mut(used..used + ENTRY)?
            .copy_from_slice(extent.as_bytes());
        used += ENTRY;
    }
    Some(root(0, &entries[..used]))
}

/// The extent tree of many runs: puts its blocks into the arena.
pub(super) fn extent_tree(
    runs: &[Run],
    inode: InodeNo,
    checksums: Option<Checksums>,
    arena: &mut Arena,
    allocator: &mut Allocator,
) -> MapRoot {
    let max = (arena.block_size() - size_of::<ExtentHeader>()) / ENTRY;
    // Entries of the level above the blocks written last, with the first file
    // block that each covers.
    let mut level: Vec<(u32, [u8; ENTRY])> = extents(runs)
        .map(|extent| {
            let mut bytes = [0; ENTRY];
            bytes.copy_from_slice(extent.as_bytes());
            (extent.ee_block.get(), bytes)
        })
        .collect();
    let mut depth = 0;
    while level.len() > ROOT_ENTRIES {
        let mut above = Vec::with_capacity(level.len() / max + 1);
        for entries in level.chunks(max) {
            let place = arena.block(allocator);
            let block = arena.bytes_mut(place.slot);
            block[..ENTRY].copy_from_slice(header(entries.len(), max, depth).as_bytes());
            for (slot, (_, entry)) in block[ENTRY..].chunks_exact_mut(ENTRY).zip(entries) {
                slot.copy_from_slice(entry);
            }
            if let Some(checksums) = checksums {
                let tail = ENTRY + max * ENTRY;
                let sum = crc32c(checksums.inode(inode), &block[..tail]);
                block[tail..tail + 4].copy_from_slice(&sum.to_le_bytes());
            }
            let first = entries.first().map_or(0, |(first, _)| *first);
            let entry = ExtentIndex {
                ei_block: first.into(),
                ei_leaf_lo: place.block.low().into(),
                ei_leaf_hi: place.block.high16().into(),
                ei_unused: 0.into(),
            };
            let mut bytes = [0; ENTRY];
            bytes.copy_from_slice(entry.as_bytes());
            above.push((first, bytes));
        }
        level = above;
        depth += 1;
    }
    let entries: Vec<u8> = level.iter().flat_map(|(_, entry)| *entry).collect();
    root(depth, &entries)
}

const DIRECT: u64 = 12;

/// Blocks that a block map can address.
pub(super) fn block_map_limit(block_size: u64) -> u64 {
    let per_block = block_size / 4;
    (DIRECT + per_block + per_block.pow(2) + per_block.pow(3)).min(u64::from(u32::MAX))
}

/// The block map of ext2 and ext3: 12 direct blocks, then trees of one, two and
/// three levels. Puts its blocks into the arena.
pub(super) fn block_map(runs: &[Run], arena: &mut Arena, allocator: &mut Allocator) -> MapRoot {
    let mut slots = [0u32; 15];
    let per_block = count(arena.block_size() / 4);
    // Slots of the blocks that are being filled, by level and position.
    let mut open: BTreeMap<(usize, u64), usize> = BTreeMap::new();
    for run in runs {
        for step in 0..run.length {
            let physical = run.physical.plus(u64::from(step)).low();
            let logical = u64::from(run.logical + step);
            if logical < DIRECT {
                slots[index(logical)] = physical;
                continue;
            }
            let mut rest = logical - DIRECT;
            let mut tree = 0;
            let mut span = per_block;
            while rest >= span && tree < 2 {
                rest -= span;
                tree += 1;
                span *= per_block;
            }
            // From the root of this tree down to the block with the entry.
            let mut parent: Option<(usize, u64)> = None;
            let mut remaining = span;
            for level in 0..=tree {
                let position = rest / remaining;
                let slot = match open.get(&(tree * 3 + level, position)) {
                    Some(&slot) => slot,
                    None => {
                        let place = arena.block(allocator);
                        match parent {
                            None => slots[12 + tree] = place.block.low(),
                            Some((parent, at)) => {
                                set(arena.bytes_mut(parent), at, place.block.low())
                            }
                        }
                        open.insert((tree * 3 + level, position), place.slot);
                        place.slot
                    }
                };
                remaining /= per_block;
                parent = Some((slot, rest / remaining % per_block));
            }
            if let Some((slot, at)) = parent {
                set(arena.bytes_mut(slot), at, physical);
            }
        }
    }
    let mut root = [0; 60];
    for (bytes, slot) in root.chunks_exact_mut(4).zip(slots) {
        bytes.copy_from_slice(&slot.to_le_bytes());
    }
    root
}

fn set(block: &mut [u8], at: u64, value: u32) {
    let at = index(at) * 4;
    block[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// A block map that needs no further block; `None` if it does.
pub(super) fn direct_map(runs: &[Run]) -> Option<MapRoot> {
    let mut root = [0; 60];
    for run in runs {
        for step in 0..run.length {
            let logical = u64::from(run.logical) + u64::from(step);
            if logical >= DIRECT {
                return None;
            }
            set(&mut root, logical, run.physical.plus(u64::from(step)).low());
        }
    }
    Some(root)
}
