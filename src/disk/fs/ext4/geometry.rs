//! Groups, and where their metadata is.
//!
//! ```text
//! group 0: │ superblock │ descriptors │ reserved descriptors │ bitmaps and inode tables of a flex group │ …
//! group 1: │ backups of the same      │ …
//! ```

use std::ops::Range;

use super::Error;
use super::format::{Compat, Incompat, RoCompat};
use super::options::{JournalSize, MIN_GROUP, Options};
use super::units::{FsBlock, GroupNo, count, index};

/// Filesystems with fewer blocks than this have the smallest journal, or none.
pub(super) const SMALL: u64 = 32 << 10;
/// mke2fs leaves out a last group with fewer blocks than this for data.
const MIN_LAST_GROUP_DATA: u64 = 50;
/// Why there can be no more inodes.
const ALL_INODES: &str = "an ext4 filesystem has at most 4294967295 inodes";

/// Dimensions of a filesystem.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub(super) block_size: u32,
    /// First block of group 0: 1 where the boot sector has a block of its own.
    pub(super) first_data_block: u64,
    /// Blocks in the filesystem, from block 0.
    pub(super) blocks: u64,
    pub(super) blocks_per_group: u32,
    pub(super) inodes_per_group: u32,
    /// Blocks of each group's inode table.
    pub(super) table_blocks: u32,
    /// Blocks of group descriptors.
    pub(super) descriptor_blocks: u32,
    /// Blocks kept for further group descriptors.
    pub(super) reserved_descriptor_blocks: u32,
    pub(super) descriptor_size: u16,
    pub(super) groups_per_flex: u32,
    pub(super) places: Vec<GroupPlaces>,
    /// Ranges that file data and directories must avoid, sorted, not touching.
    pub(super) reserved: Vec<BlockRange>,
    sparse_super: bool,
}

/// Where a group's metadata is.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupPlaces {
    pub(super) block_bitmap: FsBlock,
    pub(super) inode_bitmap: FsBlock,
    pub(super) inode_table: FsBlock,
}

/// Blocks from `start` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockRange {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Geometry {
    /// For a filesystem of `blocks` blocks with at least `inodes` inodes.
    pub(super) fn new(options: &Options, blocks: u64, inodes: u64) -> Result<Self, Error> {
        let block_size = options.block();
        let incompat = options.features.incompat;
        let first_data_block = u64::from(options.block_size == 1024);
        let descriptor_size: u16 = if incompat.contains(Incompat::BIT64) {
            64
        } else {
            32
        };
        let limit = if incompat.contains(Incompat::BIT64) {
            // Descriptors must fit into the first group.
            (u64::from(u32::MAX) + 1) * 4
        } else {
            u64::from(u32::MAX)
        };
        let too_large = || Error::TooLarge {
            given: blocks.saturating_mul(block_size),
            limit: limit.saturating_mul(block_size),
            block_size: options.block_size,
        };
        if blocks > limit {
            return Err(too_large());
        }
        let mut geometry = Self {
            block_size: options.block_size,
            first_data_block,
            blocks: blocks.max(first_data_block + 1),
            blocks_per_group: options.blocks_per_group.unwrap_or(8 * options.block_size),
            inodes_per_group: 0,
            table_blocks: 0,
            descriptor_blocks: 0,
            reserved_descriptor_blocks: 0,
            descriptor_size,
            groups_per_flex: if incompat.contains(Incompat::FLEX_BG) {
                options.groups_per_flex
            } else {
                1
            },
            places: Vec::new(),
            reserved: Vec::new(),
            sparse_super: options.features.ro_compat.contains(RoCompat::SPARSE_SUPER),
        };
        let asked = geometry.inodes_asked(options)?;
        // Small groups have no room for all that growth may need.
        let mut most_reserved = u32::MAX;
        loop {
            let groups = geometry.groups();
            let per_block = block_size / u64::from(descriptor_size);
            geometry.descriptor_blocks =
                u32::try_from(u64::from(groups).div_ceil(per_block)).map_err(|_| too_large())?;
            geometry.reserved_descriptor_blocks = geometry.growth(options).min(most_reserved);
            // A group's inodes have one block of bitmap, so that for many there must be
            // many groups; mke2fs looks for their size in the same way.
            if asked.div_ceil(u64::from(groups)) > 8 * u64::from(options.block_size) {
                if geometry.blocks_per_group < MIN_GROUP + 8 {
                    return Err(geometry.too_many_inodes(options));
                }
                geometry.blocks_per_group -= 8;
                geometry.blocks = blocks.max(first_data_block + 1);
                continue;
            }
            geometry.set_inodes(options, inodes)?;
            // A last group without room for its own metadata is left out.
            let last = GroupNo(groups - 1);
            let overhead = geometry.super_blocks(last) + 2 + u64::from(geometry.table_blocks);
            if groups > 1 && geometry.group_len(last) < overhead + MIN_LAST_GROUP_DATA {
                geometry.blocks = geometry.group_start(last);
                continue;
            }
            let overhead = geometry.super_blocks(GroupNo(0)) + 2 + u64::from(geometry.table_blocks);
            let excess = overhead.saturating_sub(geometry.blocks_per_group.into());
            let reserved = geometry.reserved_descriptor_blocks;
            if excess > 0 && excess <= reserved.into() && options.max_online_resize.is_none() {
                most_reserved = reserved - u32::try_from(excess).unwrap_or(reserved);
                geometry.blocks = blocks.max(first_data_block + 1);
                continue;
            }
            if excess > 0 {
                return Err(match options.blocks_per_group {
                    Some(blocks) => Error::BadOption {
                        option: format!("-g {blocks}"),
                        reason: "groups of so few blocks have no room for their own metadata"
                            .to_owned(),
                    },
                    None if geometry.blocks_per_group < 8 * options.block_size => {
                        geometry.too_many_inodes(options)
                    }
                    None => too_large(),
                });
            }
            break;
        }
        geometry.place();
        Ok(geometry)
    }

    /// Blocks to keep for descriptors of groups that growth will add.
    fn growth(&self, options: &Options) -> u32 {
        if !options.features.compat.contains(Compat::RESIZE_INODE) {
            return 0;
        }
        let limit = u64::from(u32::MAX);
        let target = match options.max_online_resize {
            Some(blocks) => blocks.max(self.blocks),
            None => self.blocks.saturating_mul(1024).min(limit.max(self.blocks)),
        };
        let groups = target
            .saturating_sub(self.first_data_block)
            .div_ceil(u64::from(self.blocks_per_group));
        let per_block = u64::from(self.block_size) / u64::from(self.descriptor_size);
        let wanted = groups
            .div_ceil(per_block)
            .saturating_sub(u64::from(self.descriptor_blocks));
        // The resize inode's one double-indirect block lists them.
        let most = u64::from(self.block_size / 4);
        u32::try_from(wanted.min(most)).unwrap_or(0)
    }

    /// The number of inodes that the options ask for.
    fn inodes_asked(&self, options: &Options) -> Result<u64, Error> {
        let bytes = self.blocks.saturating_mul(options.block());
        let asked = match options.inodes {
            Some(inodes) => u64::from(inodes),
            None => bytes / u64::from(options.bytes_per_inode),
        };
        if asked.saturating_mul(u64::from(options.inode_size)) >= bytes {
            return Err(self.too_many_inodes(options));
        }
        Ok(asked)
    }

    fn too_many_inodes(&self, options: &Options) -> Error {
        let given = self.blocks.saturating_mul(options.block());
        let (option, inodes) = match options.inodes {
            Some(inodes) => (format!("-N {inodes}"), u64::from(inodes)),
            None => (
                format!("-i {}", options.bytes_per_inode),
                given / u64::from(options.bytes_per_inode),
            ),
        };
        Error::TooManyInodes {
            option,
            inodes,
            needed: None,
            given,
        }
    }

    /// Inodes of each group: `needed` at least, and whole blocks of them.
    fn set_inodes(&mut self, options: &Options, needed: u64) -> Result<(), Error> {
        let groups = u64::from(self.groups());
        let size = u64::from(options.inode_size);
        let block = options.block();
        let wanted = match options.inodes {
            Some(inodes) if u64::from(inodes) < needed => {
                return Err(Error::TooFewInodes {
                    needed,
                    given: u64::from(inodes),
                });
            }
            Some(inodes) => u64::from(inodes),
            None => {
                (self.blocks.saturating_mul(block) / u64::from(options.bytes_per_inode)).max(needed)
            }
        };
        let most = (8 * block).min(65528);
        let per_group = wanted.max(16).div_ceil(groups);
        // Whole blocks of them and, so that the bitmap ends with a byte, a multiple of 8:
        // the lower one, as mke2fs has it, where that is enough.
        let step = (block / size).max(8);
        let lower = per_group.next_multiple_of((block / size).max(1)) / 8 * 8;
        let per_group = if lower > 0 && lower * groups >= needed {
            lower
        } else {
            per_group.next_multiple_of(step)
        };
        let per_group = per_group.min(most - most % step);
        let total = per_group * groups;
        if total > u64::from(u32::MAX) {
            return Err(match options.inodes {
                Some(inodes) => Error::BadOption {
                    option: format!("-N {inodes}"),
                    reason: ALL_INODES.to_owned(),
                },
                None => Error::BadOption {
                    option: format!("-i {}", options.bytes_per_inode),
                    reason: format!("{ALL_INODES}, and this size would have {total}"),
                },
            });
        }
        if total < needed {
            return Err(Error::TooFewInodes {
                needed,
                given: total,
            });
        }
        self.inodes_per_group = u32::try_from(per_group).unwrap_or(u32::MAX);
        self.table_blocks = u32::try_from((per_group * size).div_ceil(block)).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Places bitmaps and inode tables: those of a flex group one after the
    /// other from the flex group's start on, avoiding backups.
    fn place(&mut self) {
        let groups = self.groups();
        let table = u64::from(self.table_blocks);
        let mut reserved: Vec<BlockRange> = (0..groups)
            .map(GroupNo)
            .filter(|&group| self.has_super(group))
            .map(|group| {
                let start = self.group_start(group);
                BlockRange {
                    start,
                    end: start + self.super_blocks(group),
                }
            })
            .collect();
        let backups = reserved.clone();
        // The next place of `length` blocks from `at` on that meets no backup.
        let clear = &|mut at: u64, length: u64| {
            let mut next = backups.partition_point(|range| range.end <= at);
            while let Some(range) = backups.get(next).filter(|range| range.start < at + length) {
                at = range.end;
                next += 1;
            }
            at
        };
        let mut places = Vec::with_capacity(index(groups));
        for first in (0..groups).step_by(index(self.groups_per_flex)) {
            let next = first.saturating_add(self.groups_per_flex).min(groups);
            let end = if next < groups {
                self.group_start(GroupNo(next))
            } else {
                self.blocks
            };
            // Tables that are nearly as long as a group fit between few backups; what
            // would then run into the next flex group stays in its own group.
            let together = self.place_together(first..next, clear);
            let of_flex = if together.1 <= end {
                together.0
            } else {
                (first..next)
                    .map(|group| self.place_alone(GroupNo(group)))
                    .collect()
            };
            for member in &of_flex {
                for (at, length) in [
                    (member.block_bitmap, 1),
                    (member.inode_bitmap, 1),
                    (member.inode_table, table),
                ] {
                    reserved.push(BlockRange {
                        start: at.0,
                        end: at.0 + length,
                    });
                }
            }
            places.extend(of_flex);
        }
        reserved.sort_unstable_by_key(|range| range.start);
        reserved.dedup_by(|next, last| {
            let touches = next.start == last.end;
            if touches {
                last.end = next.end;
            }
            touches
        });
        self.places = places;
        self.reserved = reserved;
    }

    /// Places for the groups of a flex group from its start on, and where they end.
    fn place_together(
        &self,
        groups: Range<u32>,
        clear: &impl Fn(u64, u64) -> u64,
    ) -> (Vec<GroupPlaces>, u64) {
        let table = u64::from(self.table_blocks);
        let bitmaps = count(groups.len());
        let block_bitmaps = clear(self.group_start(GroupNo(groups.start)), bitmaps);
        let inode_bitmaps = clear(block_bitmaps + bitmaps, bitmaps);
        let mut at = inode_bitmaps + bitmaps;
        let places = (0..bitmaps)
            .map(|member| {
                let inode_table = clear(at, table);
                at = inode_table + table;
                GroupPlaces {
                    block_bitmap: FsBlock(block_bitmaps + member),
                    inode_bitmap: FsBlock(inode_bitmaps + member),
                    inode_table: FsBlock(inode_table),
                }
            })
            .collect();
        (places, at)
    }

    /// Places for a group within itself, where there always is room for them.
    fn place_alone(&self, group: GroupNo) -> GroupPlaces {
        let at = self.group_start(group) + self.super_blocks(group);
        GroupPlaces {
            block_bitmap: FsBlock(at),
            inode_bitmap: FsBlock(at + 1),
            inode_table: FsBlock(at + 2),
        }
    }

    /// Number of groups.
    pub(super) fn groups(&self) -> u32 {
        let groups =
            (self.blocks - self.first_data_block).div_ceil(u64::from(self.blocks_per_group));
        u32::try_from(groups).unwrap_or(u32::MAX)
    }

    /// First block of a group.
    pub(super) fn group_start(&self, group: GroupNo) -> u64 {
        self.first_data_block + u64::from(group.0) * u64::from(self.blocks_per_group)
    }

    /// Blocks of a group.
    pub(super) fn group_len(&self, group: GroupNo) -> u64 {
        (self.blocks - self.group_start(group)).min(u64::from(self.blocks_per_group))
    }

    /// Whether a group has superblock and descriptors: all have, or (sparse)
    /// groups 0, 1 and the powers of 3, 5 and 7.
    pub(super) fn has_super(&self, group: GroupNo) -> bool {
        let power_of = |base: u32| {
            let mut power = base;
            while power < group.0 {
                power = power.saturating_mul(base);
            }
            power == group.0
        };
        !self.sparse_super || group.0 <= 1 || power_of(3) || power_of(5) || power_of(7)
    }

    /// Blocks that superblock and descriptors take at the start of a group.
    pub(super) fn super_blocks(&self, group: GroupNo) -> u64 {
        if self.has_super(group) {
            1 + u64::from(self.descriptor_blocks) + u64::from(self.reserved_descriptor_blocks)
        } else {
            0
        }
    }

    /// Groups that have backups, without group 0.
    pub(super) fn backups(&self) -> impl Iterator<Item = GroupNo> + '_ {
        (1..self.groups())
            .map(GroupNo)
            .filter(|&group| self.has_super(group))
    }

    /// Blocks that no file can ever have.
    pub(super) fn overhead(&self) -> u64 {
        self.reserved
            .iter()
            .fold(self.first_data_block, |sum, range| {
                sum + range.end - range.start
            })
    }

    /// Number of inodes.
    pub(super) fn inodes(&self) -> u64 {
        u64::from(self.inodes_per_group) * u64::from(self.groups())
    }

    /// Whether the last group was left out for want of room: then the size at
    /// which it would come back, in blocks.
    pub(super) fn next_size(&self) -> u64 {
        let next = GroupNo(self.groups());
        self.group_start(next)
            + if self.has_super(next) {
                self.super_blocks(GroupNo(0)) + 1
            } else {
                0
            }
            + 2
            + u64::from(self.table_blocks)
            + MIN_LAST_GROUP_DATA
    }
}

/// Blocks of the journal of a filesystem of so many blocks; `None` for none.
pub(super) fn journal_blocks(options: &Options, blocks: u64) -> Result<Option<u64>, Error> {
    if !options.features.compat.contains(Compat::HAS_JOURNAL) {
        return Ok(None);
    }
    match options.journal {
        JournalSize::Mebibytes(0) => Ok(None),
        JournalSize::Mebibytes(size) => {
            let wanted = (u64::from(size) << 20) / options.block();
            // The limits of e2fsprogs.
            if (1024..=10_240_000).contains(&wanted) {
                Ok(Some(wanted))
            } else {
                Err(Error::BadOption {
                    option: format!("-J size={size}"),
                    reason: "the journal has 1024 to 10240000 blocks".to_owned(),
                })
            }
        }
        JournalSize::Automatic => {
            const STEPS: [(u64, u64); 8] = [
                (SMALL, 1 << 10),
                (256 << 10, 4 << 10),
                (512 << 10, 8 << 10),
                (4096 << 10, 16 << 10),
                (8192 << 10, 32 << 10),
                (16384 << 10, 64 << 10),
                (32768 << 10, 128 << 10),
                (u64::MAX, 256 << 10),
            ];
            if blocks < 2048 {
                return Ok(None);
            }
            Ok(STEPS
                .iter()
                .find(|(below, _)| blocks < *below)
                .map(|&(_, journal)| journal))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every group's bitmaps and inode table, by where they start.
    fn metadata(geometry: &Geometry) -> Vec<BlockRange> {
        let table = u64::from(geometry.table_blocks);
        let of_group = |places: &GroupPlaces| {
            [
                (places.block_bitmap, 1),
                (places.inode_bitmap, 1),
                (places.inode_table, table),
            ]
            .map(|(at, length)| BlockRange {
                start: at.0,
                end: at.0 + length,
            })
        };
        let mut all: Vec<BlockRange> = geometry.places.iter().flat_map(of_group).collect();
        for group in std::iter::once(GroupNo(0)).chain(geometry.backups()) {
            let start = geometry.group_start(group);
            all.push(BlockRange {
                start,
                end: start + geometry.super_blocks(group),
            });
        }
        all.sort_unstable_by_key(|range| range.start);
        all
    }

    #[test]
    fn metadata_never_overlaps_however_many_inodes_there_are() {
        for (block_size, mebibytes, inodes) in [
            (4096, 275, 1_000_000),
            (4096, 1099, 4_000_000),
            (4096, 5489, 20_000_000),
            (1024, 275, 1_000_000),
            (4096, 275, 10_000),
        ] {
            let mut options = Options::new([1; 16]);
            options.block_size = block_size;
            options.inodes = Some(inodes);
            let blocks = (mebibytes << 20) / u64::from(block_size);
            let geometry = Geometry::new(&options, blocks, 12).unwrap();
            let all = metadata(&geometry);
            for pair in all.windows(2) {
                assert!(pair[0].end <= pair[1].start, "{inodes}: {pair:?}");
            }
            assert!(all.last().unwrap().end <= geometry.blocks, "{inodes}");
        }
    }
}
