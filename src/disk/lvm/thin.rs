//! Thin pools: which parts of thin volumes are where, in the form of device-mapper.
//!
//! A volume takes chunks of the pool where it has data, in order, so that a pool's
//! data begins with all that is in its first volume. The metadata is
//!
//! ```text
//! 0        superblock
//! 1 …      one tree a volume: chunk of the volume -> chunk of the pool
//!          the tree of volumes -> their trees, and one with details of volumes
//!          which chunks of the pool are in use: bitmaps, and a tree of these
//!          which blocks of the metadata are in use: bitmaps, and a list of these
//! ```
//!
//! in blocks of 4096 bytes, without a free one in between.
//!
//! Specification: `drivers/md/dm-thin-metadata.c` and
//! `drivers/md/persistent-data/dm-{btree-internal,space-map-common}.h` of Linux.

use std::sync::Arc;

use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U32, U64};

use super::options::PoolOptions;
use super::{LvmError, Pool, length_of};
use crate::disk::{Extent, Source, Volume};

pub(crate) mod format;

use format::{
    BITMAP_XOR, BLOCK, BitmapHeader, Details, INDEX_XOR, INTERNAL, IndexEntry, LEAF,
    MAX_METADATA_BITMAPS, MetadataIndexHeader, NODE_XOR, NodeHeader, PER_BITMAP, SUPERBLOCK_XOR,
    SpaceMapRoot, Superblock,
};

/// Smallest chunk of a pool in bytes, and what LVM takes for pools of usual size.
const MIN_CHUNK: u64 = 64 << 10;
/// Largest metadata for which larger chunks would be no better, as LVM has it.
const MAX_METADATA: u64 = 128 << 20;
/// Smallest metadata.
const MIN_METADATA: u64 = 2 << 20;
/// Bytes that LVM reckons for each chunk.
const PER_CHUNK: u64 = 64;

/// Chunk and length of the metadata of a pool; bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// What a volume takes at a time.
    pub chunk: u64,
    /// Length of the metadata.
    pub metadata: u64,
}

/// Those of a pool with as many bytes of data, as far as its options leave them open.
pub fn sizes(data: u64, options: &PoolOptions) -> Sizes {
    let mut chunk = options.chunk.unwrap_or(MIN_CHUNK);
    while options.chunk.is_none()
        && data.div_ceil(chunk).saturating_mul(PER_CHUNK) > MAX_METADATA
        && chunk < 1 << 30
    {
        chunk *= 2;
    }
    let metadata = data.div_ceil(chunk).saturating_mul(PER_CHUNK);
    Sizes {
        chunk,
        metadata: options
            .metadata
            .unwrap_or(metadata.clamp(MIN_METADATA, MAX_METADATA)),
    }
}

/// Chunks that a volume has one after the other in the pool too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// First chunk in the volume.
    from: u64,
    /// First chunk in the pool.
    to: u64,
    count: u64,
}

/// Data and metadata of a pool with what is in its volumes, in their order.
///
/// # Errors
/// If there is more than fits.
pub fn fill(pool: &Pool, volumes: Vec<Volume>) -> Result<(Volume, Volume), LvmError> {
    let chunk = pool.chunk;
    let chunks = pool.bytes() / chunk;
    let mut next = 0;
    let mut data = Vec::new();
    let mut mappings = Vec::with_capacity(volumes.len());
    for volume in volumes {
        let mut runs: Vec<Run> = Vec::new();
        for mut extent in volume.extents {
            if extent.length == 0 {
                continue;
            }
            let first = extent.offset / chunk;
            let end = (extent.offset + extent.length).div_ceil(chunk);
            let run = match runs.last_mut() {
                Some(last) if first <= last.from + last.count => last,
                _ => {
                    runs.push(Run {
                        from: first,
                        to: next,
                        count: 0,
                    });
                    let at = runs.len() - 1;
                    &mut runs[at]
                }
            };
            run.count = run.count.max(end - run.from);
            next = run.to + run.count;
            extent.offset = run.to * chunk + (extent.offset - run.from * chunk);
            data.push(extent);
        }
        mappings.push(runs);
    }
    if next > chunks {
        return Err(LvmError::PoolTooSmall {
            pool: pool.name.clone(),
            bytes: pool.bytes(),
            needed: next * chunk,
        });
    }
    let blocks = length_of(&pool.metadata) / BLOCK as u64;
    let metadata = Metadata::default().render(&mappings, chunk, chunks, blocks);
    let metadata = metadata.ok_or_else(|| LvmError::PoolTooSmall {
        pool: pool.name.clone(),
        bytes: pool.bytes(),
        needed: pool.bytes().saturating_mul(2),
    })?;
    let length = metadata.len() as u64;
    let bytes: Arc<[u8]> = metadata.into();
    Ok((
        Volume {
            length: pool.bytes(),
            extents: data,
        },
        Volume {
            length: length_of(&pool.metadata),
            extents: vec![Extent {
                offset: 0,
                length,
                source: Source::Bytes { bytes, start: 0 },
            }],
        },
    ))
}

/// Metadata in work: blocks from the first on.
#[derive(Default)]
struct Metadata {
    bytes: Vec<u8>,
}

impl Metadata {
    /// All of it; `None` if there are too few blocks.
    fn render(
        mut self,
        volumes: &[Vec<Run>],
        chunk: u64,
        chunks: u64,
        blocks: u64,
    ) -> Option<Vec<u8>> {
        // The superblock, which needs the places of all others.
        self.reserve();
        let mut roots = Vec::with_capacity(volumes.len());
        let mut details = Vec::with_capacity(volumes.len());
        for (at, runs) in volumes.iter().enumerate() {
            let device = at as u64 + 1;
            let mapped = runs.iter().map(|run| run.count).sum();
            let pairs = runs.iter().flat_map(|run| {
                // The lower bits are the time of the last snapshot.
                (0..run.count).map(|at| (run.from + at, U64::new((run.to + at) << 24)))
            });
            roots.push((device, U64::new(self.tree(pairs.collect()))));
            details.push((
                device,
                Details {
                    mapped_blocks: U64::new(mapped),
                    transaction_id: U64::new(at as u64),
                    creation_time: U32::ZERO,
                    snapshotted_time: U32::ZERO,
                },
            ));
        }
        let data_mapping_root = self.tree(roots);
        let device_details_root = self.tree(details);

        let used = volumes.iter().flatten().map(|run| run.count).sum();
        let index = self.bitmaps(chunks, used);
        let data_space_map = SpaceMapRoot {
            nr_blocks: U64::new(chunks),
            nr_allocated: U64::new(used),
            bitmap_root: U64::new(self.tree(index)),
            ref_count_root: U64::new(self.tree::<U32>(Vec::new())),
        };

        // The last blocks count themselves.
        let ref_count_root = self.tree::<U32>(Vec::new());
        let bitmap_root = self.reserve();
        let bitmaps = blocks.div_ceil(PER_BITMAP);
        let used = self.next() + bitmaps;
        if used > blocks || bitmaps > MAX_METADATA_BITMAPS as u64 {
            return None;
        }
        let index = self.bitmaps(blocks, used);
        let mut body = Vec::with_capacity(BLOCK);
        body.extend_from_slice(
            MetadataIndexHeader {
                csum: U32::ZERO,
                padding: U32::ZERO,
                blocknr: U64::new(bitmap_root),
            }
            .as_bytes(),
        );
        for (_, entry) in &index {
            body.extend_from_slice(entry.as_bytes());
        }
        self.put(bitmap_root, body, INDEX_XOR);
        let metadata_space_map = SpaceMapRoot {
            nr_blocks: U64::new(blocks),
            nr_allocated: U64::new(used),
            bitmap_root: U64::new(bitmap_root),
            ref_count_root: U64::new(ref_count_root),
        };

        let superblock = Superblock {
            csum: U32::ZERO,
            flags: U32::ZERO,
            blocknr: U64::ZERO,
            uuid: [0; 16],
            magic: U64::new(format::MAGIC),
            version: U32::new(2),
            time: U32::ZERO,
            trans_id: U64::new(volumes.len() as u64),
            held_root: U64::ZERO,
            data_space_map_root: data_space_map.padded(),
            metadata_space_map_root: metadata_space_map.padded(),
            data_mapping_root: U64::new(data_mapping_root),
            device_details_root: U64::new(device_details_root),
            data_block_size: U32::new(u32::try_from(chunk / super::SECTOR).ok()?),
            metadata_block_size: U32::new((BLOCK as u64 / super::SECTOR) as u32),
            metadata_nr_blocks: U64::new(blocks),
            compat_flags: U32::ZERO,
            compat_ro_flags: U32::ZERO,
            incompat_flags: U32::ZERO,
        };
        self.put(0, superblock.as_bytes().to_vec(), SUPERBLOCK_XOR);
        Some(self.bytes)
    }

    /// The number of the next block.
    fn next(&self) -> u64 {
        (self.bytes.len() / BLOCK) as u64
    }

    /// Takes a block that is written later.
    fn reserve(&mut self) -> u64 {
        let number = self.next();
        self.bytes.resize(self.bytes.len() + BLOCK, 0);
        number
    }

    /// Writes a block, with the checksum in its first four bytes.
    fn put(&mut self, number: u64, mut block: Vec<u8>, xor: u32) {
        block.resize(BLOCK, 0);
        // The kernel's checksum is not inverted at the end.
        let sum = !crc32c::crc32c(&block[4..]) ^ xor;
        block[..4].copy_from_slice(&sum.to_le_bytes());
        let at = usize::try_from(number)
            .unwrap_or(usize::MAX)
            .saturating_mul(BLOCK);
        if let Some(place) = self.bytes.get_mut(at..at + BLOCK) {
            place.copy_from_slice(&block);
        }
    }

    /// Writes bitmaps of `count` things of which the first `used` are in use, and
    /// returns the entries that refer to them.
    fn bitmaps(&mut self, count: u64, used: u64) -> Vec<(u64, IndexEntry)> {
        (0..count.div_ceil(PER_BITMAP))
            .map(|at| {
                let start = at * PER_BITMAP;
                let here = (count - start).min(PER_BITMAP);
                let taken = used.saturating_sub(start).min(here);
                let number = self.reserve();
                let header = BitmapHeader {
                    csum: U32::ZERO,
                    not_used: U32::ZERO,
                    blocknr: U64::new(number),
                };
                let mut block = header.as_bytes().to_vec();
                // Two bits each, the upper one of the number first: 1 is binary 10.
                block.resize(block.len() + usize::try_from(taken / 4).unwrap_or(0), 0xAA);
                if !taken.is_multiple_of(4) {
                    block.push(0xAA & ((1u16 << (2 * (taken % 4))) - 1) as u8);
                }
                self.put(number, block, BITMAP_XOR);
                let small = |number: u64| U32::new(u32::try_from(number).unwrap_or(u32::MAX));
                let entry = IndexEntry {
                    blocknr: U64::new(number),
                    nr_free: small(here - taken),
                    none_free_before: small(taken),
                };
                (at, entry)
            })
            .collect()
    }

    /// Writes a tree of pairs that are sorted by their keys, and returns its root.
    fn tree<V: zerocopy::IntoBytes + zerocopy::Immutable>(&mut self, pairs: Vec<(u64, V)>) -> u64 {
        let mut level = self.nodes(&pairs, LEAF);
        while level.len() > 1 {
            level = self.nodes(&level, INTERNAL);
        }
        level.first().map_or(0, |(_, root)| root.get())
    }

    /// Writes one level of a tree: nodes that are about equally full. Returns first
    /// keys and places of the nodes.
    fn nodes<V: zerocopy::IntoBytes + zerocopy::Immutable>(
        &mut self,
        pairs: &[(u64, V)],
        flags: u32,
    ) -> Vec<(u64, U64)> {
        let most = (BLOCK - size_of::<NodeHeader>()) / (8 + size_of::<V>()) / 3 * 3;
        let nodes = pairs.len().div_ceil(most).max(1);
        (0..nodes)
            .map(|node| {
                let part = &pairs[pairs.len() * node / nodes..pairs.len() * (node + 1) / nodes];
                let number = self.reserve();
                let small = |number: usize| U32::new(number as u32);
                let header = NodeHeader {
                    csum: U32::ZERO,
                    flags: U32::new(flags),
                    blocknr: U64::new(number),
                    nr_entries: small(part.len()),
                    max_entries: small(most),
                    value_size: small(size_of::<V>()),
                    padding: U32::ZERO,
                };
                let mut block = header.as_bytes().to_vec();
                for (key, _) in part {
                    block.extend_from_slice(&key.to_le_bytes());
                }
                block.resize(size_of::<NodeHeader>() + 8 * most, 0);
                for (_, value) in part {
                    block.extend_from_slice(value.as_bytes());
                }
                self.put(number, block, NODE_XOR);
                (part.first().map_or(0, |(key, _)| *key), U64::new(number))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
