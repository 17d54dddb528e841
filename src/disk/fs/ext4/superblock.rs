//! Superblocks and group descriptors.

use zerocopy::byteorder::U32;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::checksum::crc32c;
use super::format::{
    BASE_INODE_SIZE, CHECKSUM_CRC32C, Compat, DYNAMIC_REVISION, EXTRA_ISIZE, FIRST_INODE,
    GROUP_QUOTA_INODE, GroupDescriptor, GroupFlags, HASH_HALF_MD4, Incompat, JOURNAL_64BIT,
    JOURNAL_BACKUP_BLOCKS, JOURNAL_CRC32C, JOURNAL_CSUM_V3, JOURNAL_INODE, JOURNAL_MAGIC,
    JOURNAL_SUPERBLOCK_V2, JournalSuperblock, MAGIC, MOUNT_XATTR_ACL, NO_MOUNT_LIMIT, RoCompat,
    SIGNED_DIRECTORY_HASH, STATE_CLEAN, Superblock, USER_QUOTA_INODE,
};
use super::layout::Layout;
use super::units::{GroupNo, InodeNo, high16, index, low16, low32};

/// What the descriptors add up to.
#[derive(Debug)]
pub(super) struct Groups {
    /// All descriptors, whole blocks.
    pub(super) table: Vec<u8>,
    pub(super) flags: Vec<GroupFlags>,
    pub(super) free_blocks: u64,
}

/// Describes all groups.
pub(super) fn groups(layout: &Layout) -> Groups {
    let geometry = &layout.geometry;
    let block_size = index(geometry.block_size);
    let size = usize::from(geometry.descriptor_size);
    let mut table = vec![0; index(geometry.descriptor_blocks) * block_size];
    let mut flags = Vec::with_capacity(index(geometry.groups()));
    let mut free_blocks = 0;
    let mut bitmap = vec![0; block_size];
    let directories = layout.directories_by_group();
    for (number, bytes) in (0..geometry.groups()).zip(table.chunks_exact_mut(size)) {
        let group = GroupNo(number);
        let used_inodes = layout.used_inodes(group);
        let mut state = GroupFlags::empty();
        if layout.checksums.is_some() {
            state |= GroupFlags::INODE_ZEROED;
            if used_inodes == 0 {
                state |= GroupFlags::INODE_UNINIT;
            }
            if layout.is_untouched(group) {
                state |= GroupFlags::BLOCK_UNINIT;
            }
        }
        bitmap.fill(0);
        layout.block_bitmap(group, &mut bitmap);
        // What is beyond the group's blocks counts as used.
        let free = bitmap
            .iter()
            .fold(0, |sum, byte| sum + u64::from(byte.count_zeros()));
        free_blocks += free;
        let (mut block_sum, mut inode_sum) = (0, 0);
        if let Some(checksums) = layout.checksums {
            if !state.contains(GroupFlags::BLOCK_UNINIT) {
                // Only the part that stands for blocks.
                let part = index(geometry.blocks_per_group) / 8;
                block_sum = checksums.bitmap(&bitmap[..part]);
            }
            if !state.contains(GroupFlags::INODE_UNINIT) {
                bitmap.fill(0);
                layout.inode_bitmap(group, &mut bitmap);
                // Only the part that stands for inodes.
                let part = index(geometry.inodes_per_group) / 8;
                inode_sum = checksums.bitmap(&bitmap[..part]);
            }
        }
        let places = geometry.places[index(number)];
        let unused = if layout.checksums.is_some() {
            geometry.inodes_per_group - used_inodes
        } else {
            0
        };
        let free_inodes = geometry.inodes_per_group - used_inodes;
        let free = low32(free);
        let used_directories = directories.get(index(number)).copied().unwrap_or(0);
        let mut descriptor = GroupDescriptor {
            bg_block_bitmap_lo: places.block_bitmap.low().into(),
            bg_inode_bitmap_lo: places.inode_bitmap.low().into(),
            bg_inode_table_lo: places.inode_table.low().into(),
            bg_free_blocks_count_lo: low16(free).into(),
            bg_free_inodes_count_lo: low16(free_inodes).into(),
            bg_used_dirs_count_lo: low16(used_directories).into(),
            bg_flags: state.bits().into(),
            bg_exclude_bitmap_lo: 0.into(),
            bg_block_bitmap_csum_lo: low16(block_sum).into(),
            bg_inode_bitmap_csum_lo: low16(inode_sum).into(),
            bg_itable_unused_lo: low16(unused).into(),
            bg_checksum: 0.into(),
            bg_block_bitmap_hi: places.block_bitmap.high().into(),
            bg_inode_bitmap_hi: places.inode_bitmap.high().into(),
            bg_inode_table_hi: places.inode_table.high().into(),
            bg_free_blocks_count_hi: high16(free).into(),
            bg_free_inodes_count_hi: high16(free_inodes).into(),
            bg_used_dirs_count_hi: high16(used_directories).into(),
            bg_itable_unused_hi: high16(unused).into(),
            bg_exclude_bitmap_hi: 0.into(),
            bg_block_bitmap_csum_hi: high16(block_sum).into(),
            bg_inode_bitmap_csum_hi: high16(inode_sum).into(),
            bg_reserved: 0.into(),
        };
        if let Some(checksums) = layout.checksums {
            let sum = checksums.group(group, &descriptor.as_bytes()[..size]);
            descriptor.bg_checksum = low16(sum).into();
        }
        bytes.copy_from_slice(&descriptor.as_bytes()[..size]);
        flags.push(state);
    }
    Groups {
        table,
        flags,
        free_blocks,
    }
}

impl Layout {
    /// Whether nothing but backups is in a group. The first group's and the
    /// last group's bitmaps are always written.
    fn is_untouched(&self, group: GroupNo) -> bool {
        let geometry = &self.geometry;
        let start = geometry.group_start(group);
        let data = start + geometry.super_blocks(group);
        let end = start + geometry.group_len(group);
        if group.0 == 0 || group.0 + 1 == geometry.groups() || self.end > start {
            return false;
        }
        let next = geometry.reserved.partition_point(|range| range.end <= data);
        geometry
            .reserved
            .get(next)
            .is_none_or(|range| range.start >= end)
    }

    /// Number of directories whose inodes are in each group.
    fn directories_by_group(&self) -> Vec<u32> {
        let mut counts = vec![0u32; index(self.geometry.groups())];
        let per_group = self.geometry.inodes_per_group;
        let mut add = |number: InodeNo| {
            if let Some(count) = counts.get_mut(index((number.0 - 1) / per_group)) {
                *count += 1;
            }
        };
        for (id, inode) in self.tree.inodes() {
            if inode.is_directory() {
                add(self.numbers[id.index()]);
            }
        }
        if self.lost_found.is_none() {
            add(InodeNo(FIRST_INODE));
        }
        counts
    }
}

/// The superblock of one group (0 is the primary).
pub(super) fn superblock(layout: &Layout, groups: &Groups, group: GroupNo) -> Superblock {
    let geometry = &layout.geometry;
    let options = &layout.options;
    let features = options.features;
    let blocks = geometry.blocks;
    let reserved =
        u64::try_from(u128::from(blocks) * u128::from(options.reserved) / 10000).unwrap_or(0);
    let seconds = options
        .timestamp
        .seconds
        .clamp(0, (1 << 40) - 1)
        .unsigned_abs();
    let (time, time_high) = (
        low32(seconds),
        u8::try_from(seconds >> 32).unwrap_or(u8::MAX),
    );
    let has_journal = features.compat.contains(Compat::HAS_JOURNAL);
    let flex = features.incompat.contains(Incompat::FLEX_BG);
    let large_inodes = options.inode_size > BASE_INODE_SIZE;
    let block_log = options.block_size.trailing_zeros() - 10;
    let free_inodes = geometry.inodes() - layout.inodes_in_use();

    let mut sb = Superblock::new_zeroed();
    sb.s_inodes_count = low32(geometry.inodes()).into();
    sb.s_blocks_count_lo = low32(blocks).into();
    sb.s_blocks_count_hi = low32(blocks >> 32).into();
    sb.s_r_blocks_count_lo = low32(reserved).into();
    sb.s_r_blocks_count_hi = low32(reserved >> 32).into();
    sb.s_free_blocks_count_lo = low32(groups.free_blocks).into();
    sb.s_free_blocks_count_hi = low32(groups.free_blocks >> 32).into();
    sb.s_free_inodes_count = low32(free_inodes).into();
    sb.s_first_data_block = low32(geometry.first_data_block).into();
    sb.s_log_block_size = block_log.into();
    sb.s_log_cluster_size = block_log.into();
    sb.s_blocks_per_group = geometry.blocks_per_group.into();
    sb.s_clusters_per_group = geometry.blocks_per_group.into();
    sb.s_inodes_per_group = geometry.inodes_per_group.into();
    sb.s_wtime = time.into();
    sb.s_wtime_hi = time_high;
    sb.s_max_mnt_count = NO_MOUNT_LIMIT.into();
    sb.s_magic = MAGIC.into();
    sb.s_state = STATE_CLEAN.into();
    sb.s_errors = (options.on_errors as u16).into();
    sb.s_lastcheck = time.into();
    sb.s_lastcheck_hi = time_high;
    sb.s_rev_level = DYNAMIC_REVISION.into();
    sb.s_first_ino = FIRST_INODE.into();
    sb.s_inode_size = options.inode_size.into();
    sb.s_block_group_nr = low16(group.0).into();
    sb.s_feature_compat = features.compat.bits().into();
    sb.s_feature_incompat = features.incompat.bits().into();
    sb.s_feature_ro_compat = features.ro_compat.bits().into();
    sb.s_uuid = options.uuid;
    sb.s_volume_name[..options.label.len()].copy_from_slice(options.label.as_bytes());
    let text = options.last_mounted.as_bytes();
    sb.s_last_mounted[..text.len()].copy_from_slice(text);
    let text = options.mount_options.as_bytes();
    sb.s_mount_opts[..text.len()].copy_from_slice(text);
    sb.s_raid_stride = options.stride.into();
    sb.s_raid_stripe_width = options.stripe_width.into();
    sb.s_orphan_file_inum = layout.orphan_inode().map_or(0, |inode| inode.0).into();
    let quota = |number| layout.quota_file(number).map_or(0, |file| file.number.0);
    sb.s_usr_quota_inum = quota(InodeNo(USER_QUOTA_INODE)).into();
    sb.s_grp_quota_inum = quota(InodeNo(GROUP_QUOTA_INODE)).into();
    sb.s_prj_quota_inum = quota(layout.last_extra()).into();
    sb.s_reserved_gdt_blocks = low16(geometry.reserved_descriptor_blocks).into();
    sb.s_hash_seed = options.hash_seed;
    sb.s_def_hash_version = HASH_HALF_MD4;
    if features.incompat.contains(Incompat::BIT64) {
        sb.s_desc_size = geometry.descriptor_size.into();
    }
    sb.s_default_mount_opts = MOUNT_XATTR_ACL.into();
    sb.s_mkfs_time = time.into();
    sb.s_mkfs_time_hi = time_high;
    if has_journal {
        sb.s_journal_inum = JOURNAL_INODE.into();
        sb.s_jnl_backup_type = JOURNAL_BACKUP_BLOCKS;
        let map = layout.map_root(InodeNo(JOURNAL_INODE), &layout.journal);
        let size = layout.journal_length * options.block();
        let words = map
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes));
        let all = words.chain([low32(size >> 32), low32(size)]);
        for (slot, word) in sb.s_jnl_blocks.iter_mut().zip(all) {
            *slot = U32::new(word);
        }
    }
    if large_inodes && features.ro_compat.contains(RoCompat::EXTRA_ISIZE) {
        sb.s_min_extra_isize = EXTRA_ISIZE.into();
        sb.s_want_extra_isize = EXTRA_ISIZE.into();
    }
    sb.s_flags = SIGNED_DIRECTORY_HASH.into();
    if flex {
        sb.s_log_groups_per_flex =
            u8::try_from(geometry.groups_per_flex.trailing_zeros()).unwrap_or_default();
    }
    sb.s_overhead_clusters = low32(geometry.overhead() + layout.journal_length).into();
    if layout.checksums.is_some() {
        sb.s_checksum_type = CHECKSUM_CRC32C;
        if let Some(checksums) = layout
            .checksums
            .filter(|_| features.incompat.contains(Incompat::CSUM_SEED))
        {
            sb.s_checksum_seed = checksums.seed().into();
        }
        let sum = crc32c(!0, &sb.as_bytes()[..0x3FC]);
        sb.s_checksum = sum.into();
    }
    sb
}

/// The journal's superblock: an empty journal. The rest of it may be anything,
/// since nothing in it is valid.
pub(super) fn journal_superblock(layout: &Layout) -> JournalSuperblock {
    let mut sb = JournalSuperblock::new_zeroed();
    sb.h_magic = JOURNAL_MAGIC.into();
    sb.h_blocktype = JOURNAL_SUPERBLOCK_V2.into();
    sb.s_blocksize = layout.options.block_size.into();
    sb.s_maxlen = low32(layout.journal_length).into();
    sb.s_first = 1.into();
    sb.s_sequence = 1.into();
    sb.s_uuid = layout.options.uuid;
    sb.s_nr_users = 1.into();
    if layout.options.journal_checksums {
        let mut incompat = JOURNAL_CSUM_V3;
        if layout.options.features.incompat.contains(Incompat::BIT64) {
            incompat |= JOURNAL_64BIT;
        }
        sb.s_feature_incompat = incompat.into();
        sb.s_checksum_type = JOURNAL_CRC32C;
        sb.s_checksum = crc32c(!0, sb.as_bytes()).into();
    }
    sb
}
