//! On-disk structures of ext4 and of its journal.
//!
//! Fields carry the kernel's names and offsets. Specification:
//! <https://docs.kernel.org/filesystems/ext4/> (the journal's, big-endian:
//! <https://docs.kernel.org/filesystems/ext4/journal.html>).

use bitflags::bitflags;
use zerocopy::byteorder::{BE, LE, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

type Le16 = U16<LE>;
type Le32 = U32<LE>;
type Le64 = U64<LE>;
type Be32 = U32<BE>;

/// `s_magic`.
pub const MAGIC: u16 = 0xEF53;
/// Byte offset of the primary superblock.
pub const SUPERBLOCK_OFFSET: u64 = 1024;
/// Bytes of an inode before `i_extra_isize`.
pub const BASE_INODE_SIZE: u16 = 128;
/// `i_extra_isize` of the fields that [`Inode`] has beyond 128 bytes.
pub const EXTRA_ISIZE: u16 = 32;

/// The root directory's inode number.
pub const ROOT_INODE: u32 = 2;
/// The inode of the users' quota file.
pub const USER_QUOTA_INODE: u32 = 3;
/// The inode of the groups' quota file.
pub const GROUP_QUOTA_INODE: u32 = 4;
/// Inode that owns the reserved descriptor blocks.
pub const RESIZE_INODE: u32 = 7;
/// The journal's inode number.
pub const JOURNAL_INODE: u32 = 8;
/// First number that is not reserved; `lost+found` by convention.
pub const FIRST_INODE: u32 = 11;

bitflags! {
    /// `s_feature_compat`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Compat: u32 {
        /// Has a journal.
        const HAS_JOURNAL = 0x4;
        /// Extended attributes.
        const EXT_ATTR = 0x8;
        /// Descriptor blocks are reserved for growth.
        const RESIZE_INODE = 0x10;
        /// Hashed directories.
        const DIR_INDEX = 0x20;
        /// Only two groups have backups of superblock and descriptors.
        const SPARSE_SUPER2 = 0x200;
        /// A file lists inodes that are to be removed.
        const ORPHAN_FILE = 0x1000;
    }

    /// `s_feature_incompat`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Incompat: u32 {
        /// Directory entries carry the file type.
        const FILETYPE = 0x2;
        /// The journal has to be replayed.
        const RECOVER = 0x4;
        /// Descriptors are spread over the groups that they describe.
        const META_BG = 0x10;
        /// Files are mapped by extents.
        const EXTENTS = 0x40;
        /// Block numbers have 64 bits and descriptors 64 bytes.
        const BIT64 = 0x80;
        /// Hosts that share the device keep each other from mounting it twice.
        const MMP = 0x100;
        /// Metadata of several groups is stored together.
        const FLEX_BG = 0x200;
        /// Large attributes are stored in inodes.
        const EA_INODE = 0x400;
        /// The seed of checksums is stored, so that the UUID may change.
        const CSUM_SEED = 0x2000;
        /// Directories may be larger than 2 GiB or have three levels of index.
        const LARGEDIR = 0x4000;
        /// Small files are stored in their inodes.
        const INLINE_DATA = 0x8000;
        /// Some files are encrypted.
        const ENCRYPT = 0x10000;
        /// Some directories ignore the case of names.
        const CASEFOLD = 0x20000;
    }

    /// `s_feature_ro_compat`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct RoCompat: u32 {
        /// Only some groups have backups of superblock and descriptors.
        const SPARSE_SUPER = 0x1;
        /// Files may be larger than 2 GiB.
        const LARGE_FILE = 0x2;
        /// `i_blocks` has 48 bits.
        const HUGE_FILE = 0x8;
        /// Directories may have more than 64,999 subdirectories.
        const DIR_NLINK = 0x20;
        /// Inodes have fields beyond 128 bytes.
        const EXTRA_ISIZE = 0x40;
        /// Hidden inodes say how much each user and group uses.
        const QUOTA = 0x100;
        /// All metadata has CRC-32C checksums.
        const METADATA_CSUM = 0x400;
        /// Inodes have project ids.
        const PROJECT = 0x2000;
    }

    /// `bg_flags`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct GroupFlags: u16 {
        /// No inode is in use; the inode bitmap is not initialised.
        const INODE_UNINIT = 0x1;
        /// No block is in use but for backups; the block bitmap is not initialised.
        const BLOCK_UNINIT = 0x2;
        /// The inode table is zeroed: the kernel need not do it after mounting.
        const INODE_ZEROED = 0x4;
    }

    /// `i_flags`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct InodeFlags: u32 {
        /// The file cannot be changed.
        const IMMUTABLE = 0x10;
        /// The file is encrypted.
        const ENCRYPT = 0x800;
        /// The directory is hashed.
        const INDEX = 0x1000;
        /// `i_block` holds an extent tree.
        const EXTENTS = 0x80000;
        /// The inode holds the value of an attribute.
        const EA_INODE = 0x200000;
        /// The inode holds the file's data.
        const INLINE_DATA = 0x10000000;
    }
}

/// `s_flags`: directory hashes take names as signed characters.
pub const SIGNED_DIRECTORY_HASH: u32 = 0x1;
/// `s_default_mount_opts`: `user_xattr` and `acl`.
pub const MOUNT_XATTR_ACL: u32 = 0xC;
/// `s_checksum_type`: CRC-32C.
pub const CHECKSUM_CRC32C: u8 = 1;
/// `s_def_hash_version` and `hash_version` of a directory: half MD4.
pub const HASH_HALF_MD4: u8 = 1;
/// `s_jnl_backup_type`: `s_jnl_blocks` holds the journal inode's map and size.
pub const JOURNAL_BACKUP_BLOCKS: u8 = 1;
/// `s_state`: cleanly unmounted.
pub const STATE_CLEAN: u16 = 1;
/// `ob_magic` of [`OrphanBlockTail`].
pub const ORPHAN_BLOCK_MAGIC: u32 = 0x0B10_CA04;
/// `s_max_mnt_count`: never check because of the number of mounts.
pub const NO_MOUNT_LIMIT: u16 = 0xFFFF;
/// `s_rev_level`: variable inode sizes and features.
pub const DYNAMIC_REVISION: u32 = 1;

/// `struct ext4_super_block`.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Superblock {
    /* 0x000 */ pub s_inodes_count: Le32,
    /* 0x004 */ pub s_blocks_count_lo: Le32,
    /* 0x008 */ pub s_r_blocks_count_lo: Le32,
    /* 0x00C */ pub s_free_blocks_count_lo: Le32,
    /* 0x010 */ pub s_free_inodes_count: Le32,
    /* 0x014 */ pub s_first_data_block: Le32,
    /* 0x018 */ pub s_log_block_size: Le32,
    /* 0x01C */ pub s_log_cluster_size: Le32,
    /* 0x020 */ pub s_blocks_per_group: Le32,
    /* 0x024 */ pub s_clusters_per_group: Le32,
    /* 0x028 */ pub s_inodes_per_group: Le32,
    /* 0x02C */ pub s_mtime: Le32,
    /* 0x030 */ pub s_wtime: Le32,
    /* 0x034 */ pub s_mnt_count: Le16,
    /* 0x036 */ pub s_max_mnt_count: Le16,
    /* 0x038 */ pub s_magic: Le16,
    /* 0x03A */ pub s_state: Le16,
    /* 0x03C */ pub s_errors: Le16,
    /* 0x03E */ pub s_minor_rev_level: Le16,
    /* 0x040 */ pub s_lastcheck: Le32,
    /* 0x044 */ pub s_checkinterval: Le32,
    /* 0x048 */ pub s_creator_os: Le32,
    /* 0x04C */ pub s_rev_level: Le32,
    /* 0x050 */ pub s_def_resuid: Le16,
    /* 0x052 */ pub s_def_resgid: Le16,
    /* 0x054 */ pub s_first_ino: Le32,
    /* 0x058 */ pub s_inode_size: Le16,
    /* 0x05A */ pub s_block_group_nr: Le16,
    /* 0x05C */ pub s_feature_compat: Le32,
    /* 0x060 */ pub s_feature_incompat: Le32,
    /* 0x064 */ pub s_feature_ro_compat: Le32,
    /* 0x068 */ pub s_uuid: [u8; 16],
    /* 0x078 */ pub s_volume_name: [u8; 16],
    /* 0x088 */ pub s_last_mounted: [u8; 64],
    /* 0x0C8 */ pub s_algorithm_usage_bitmap: Le32,
    /* 0x0CC */ pub s_prealloc_blocks: u8,
    /* 0x0CD */ pub s_prealloc_dir_blocks: u8,
    /* 0x0CE */ pub s_reserved_gdt_blocks: Le16,
    /* 0x0D0 */ pub s_journal_uuid: [u8; 16],
    /* 0x0E0 */ pub s_journal_inum: Le32,
    /* 0x0E4 */ pub s_journal_dev: Le32,
    /* 0x0E8 */ pub s_last_orphan: Le32,
    /* 0x0EC */ pub s_hash_seed: [u8; 16],
    /* 0x0FC */ pub s_def_hash_version: u8,
    /* 0x0FD */ pub s_jnl_backup_type: u8,
    /* 0x0FE */ pub s_desc_size: Le16,
    /* 0x100 */ pub s_default_mount_opts: Le32,
    /* 0x104 */ pub s_first_meta_bg: Le32,
    /* 0x108 */ pub s_mkfs_time: Le32,
    /* 0x10C */ pub s_jnl_blocks: [Le32; 17],
    /* 0x150 */ pub s_blocks_count_hi: Le32,
    /* 0x154 */ pub s_r_blocks_count_hi: Le32,
    /* 0x158 */ pub s_free_blocks_count_hi: Le32,
    /* 0x15C */ pub s_min_extra_isize: Le16,
    /* 0x15E */ pub s_want_extra_isize: Le16,
    /* 0x160 */ pub s_flags: Le32,
    /* 0x164 */ pub s_raid_stride: Le16,
    /* 0x166 */ pub s_mmp_update_interval: Le16,
    /* 0x168 */ pub s_mmp_block: Le64,
    /* 0x170 */ pub s_raid_stripe_width: Le32,
    /* 0x174 */ pub s_log_groups_per_flex: u8,
    /* 0x175 */ pub s_checksum_type: u8,
    /* 0x176 */ pub s_reserved_pad: Le16,
    /* 0x178 */ pub s_kbytes_written: Le64,
    /* 0x180 */ pub s_snapshot: [u8; 20],
    /* 0x194 */ pub s_error_records: [u8; 108],
    /* 0x200 */ pub s_mount_opts: [u8; 64],
    /* 0x240 */ pub s_usr_quota_inum: Le32,
    /* 0x244 */ pub s_grp_quota_inum: Le32,
    /* 0x248 */ pub s_overhead_clusters: Le32,
    /* 0x24C */ pub s_backup_bgs: [Le32; 2],
    /* 0x254 */ pub s_encrypt_algos: [u8; 4],
    /* 0x258 */ pub s_encrypt_pw_salt: [u8; 16],
    /* 0x268 */ pub s_lpf_ino: Le32,
    /* 0x26C */ pub s_prj_quota_inum: Le32,
    /* 0x270 */ pub s_checksum_seed: Le32,
    /* 0x274 */ pub s_wtime_hi: u8,
    /* 0x275 */ pub s_mtime_hi: u8,
    /* 0x276 */ pub s_mkfs_time_hi: u8,
    /* 0x277 */ pub s_lastcheck_hi: u8,
    /* 0x278 */ pub s_first_error_time_hi: u8,
    /* 0x279 */ pub s_last_error_time_hi: u8,
    /* 0x27A */ pub s_first_error_errcode: u8,
    /* 0x27B */ pub s_last_error_errcode: u8,
    /* 0x27C */ pub s_encoding: Le16,
    /* 0x27E */ pub s_encoding_flags: Le16,
    /* 0x280 */ pub s_orphan_file_inum: Le32,
    /* 0x284 */ pub s_reserved: [u8; 376],
    /* 0x3FC */ pub s_checksum: Le32,
}
const _: () = assert!(size_of::<Superblock>() == 1024);

/// `struct ext4_group_desc`; without the 64bit feature only the first 32 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct GroupDescriptor {
    /* 0x00 */ pub bg_block_bitmap_lo: Le32,
    /* 0x04 */ pub bg_inode_bitmap_lo: Le32,
    /* 0x08 */ pub bg_inode_table_lo: Le32,
    /* 0x0C */ pub bg_free_blocks_count_lo: Le16,
    /* 0x0E */ pub bg_free_inodes_count_lo: Le16,
    /* 0x10 */ pub bg_used_dirs_count_lo: Le16,
    /* 0x12 */ pub bg_flags: Le16,
    /* 0x14 */ pub bg_exclude_bitmap_lo: Le32,
    /* 0x18 */ pub bg_block_bitmap_csum_lo: Le16,
    /* 0x1A */ pub bg_inode_bitmap_csum_lo: Le16,
    /* 0x1C */ pub bg_itable_unused_lo: Le16,
    /* 0x1E */ pub bg_checksum: Le16,
    /* 0x20 */ pub bg_block_bitmap_hi: Le32,
    /* 0x24 */ pub bg_inode_bitmap_hi: Le32,
    /* 0x28 */ pub bg_inode_table_hi: Le32,
    /* 0x2C */ pub bg_free_blocks_count_hi: Le16,
    /* 0x2E */ pub bg_free_inodes_count_hi: Le16,
    /* 0x30 */ pub bg_used_dirs_count_hi: Le16,
    /* 0x32 */ pub bg_itable_unused_hi: Le16,
    /* 0x34 */ pub bg_exclude_bitmap_hi: Le32,
    /* 0x38 */ pub bg_block_bitmap_csum_hi: Le16,
    /* 0x3A */ pub bg_inode_bitmap_csum_hi: Le16,
    /* 0x3C */ pub bg_reserved: Le32,
}
const _: () = assert!(size_of::<GroupDescriptor>() == 64);

/// `struct ext4_inode`; with 128-byte inodes it ends before `i_extra_isize`.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Inode {
    /* 0x00 */ pub i_mode: Le16,
    /* 0x02 */ pub i_uid: Le16,
    /* 0x04 */ pub i_size_lo: Le32,
    /* 0x08 */ pub i_atime: Le32,
    /* 0x0C */ pub i_ctime: Le32,
    /* 0x10 */ pub i_mtime: Le32,
    /* 0x14 */ pub i_dtime: Le32,
    /* 0x18 */ pub i_gid: Le16,
    /* 0x1A */ pub i_links_count: Le16,
    /* 0x1C */ pub i_blocks_lo: Le32,
    /* 0x20 */ pub i_flags: Le32,
    /* 0x24 */ pub l_i_version: Le32,
    /* 0x28 */ pub i_block: [u8; 60],
    /* 0x64 */ pub i_generation: Le32,
    /* 0x68 */ pub i_file_acl_lo: Le32,
    /* 0x6C */ pub i_size_high: Le32,
    /* 0x70 */ pub i_obso_faddr: Le32,
    /* 0x74 */ pub l_i_blocks_high: Le16,
    /* 0x76 */ pub l_i_file_acl_high: Le16,
    /* 0x78 */ pub l_i_uid_high: Le16,
    /* 0x7A */ pub l_i_gid_high: Le16,
    /* 0x7C */ pub l_i_checksum_lo: Le16,
    /* 0x7E */ pub l_i_reserved: Le16,
    /* 0x80 */ pub i_extra_isize: Le16,
    /* 0x82 */ pub i_checksum_hi: Le16,
    /* 0x84 */ pub i_ctime_extra: Le32,
    /* 0x88 */ pub i_mtime_extra: Le32,
    /* 0x8C */ pub i_atime_extra: Le32,
    /* 0x90 */ pub i_crtime: Le32,
    /* 0x94 */ pub i_crtime_extra: Le32,
    /* 0x98 */ pub i_version_hi: Le32,
    /* 0x9C */ pub i_projid: Le32,
}
const _: () = assert!(size_of::<Inode>() == 160);

/// `eh_magic`.
pub const EXTENT_MAGIC: u16 = 0xF30A;
/// Most blocks that one initialised extent covers.
pub const EXTENT_MAX_LEN: u32 = 32768;

/// `struct ext4_extent_header`.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ExtentHeader {
    /* 0x0 */ pub eh_magic: Le16,
    /* 0x2 */ pub eh_entries: Le16,
    /* 0x4 */ pub eh_max: Le16,
    /* 0x6 */ pub eh_depth: Le16,
    /* 0x8 */ pub eh_generation: Le32,
}
const _: () = assert!(size_of::<ExtentHeader>() == 12);

/// `struct ext4_extent`.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Extent {
    /* 0x0 */ pub ee_block: Le32,
    /* 0x4 */ pub ee_len: Le16,
    /* 0x6 */ pub ee_start_hi: Le16,
    /* 0x8 */ pub ee_start_lo: Le32,
}
const _: () = assert!(size_of::<Extent>() == 12);

/// `struct ext4_extent_idx`.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ExtentIndex {
    /* 0x0 */ pub ei_block: Le32,
    /* 0x4 */ pub ei_leaf_lo: Le32,
    /* 0x8 */ pub ei_leaf_hi: Le16,
    /* 0xA */ pub ei_unused: Le16,
}
const _: () = assert!(size_of::<ExtentIndex>() == 12);

/// `file_type` of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum FileType {
    Regular = 1,
    Directory = 2,
    CharDevice = 3,
    BlockDevice = 4,
    Fifo = 5,
    Socket = 6,
    Symlink = 7,
}

/// `struct ext4_dir_entry_2` without the name.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct DirEntry {
    /* 0x0 */ pub inode: Le32,
    /* 0x4 */ pub rec_len: Le16,
    /* 0x6 */ pub name_len: u8,
    /* 0x7 */ pub file_type: u8,
}
const _: () = assert!(size_of::<DirEntry>() == 8);

/// `det_reserved_ft` of [`DirEntryTail`].
pub const DIR_TAIL_FILE_TYPE: u8 = 0xDE;

/// `struct ext4_dir_entry_tail`: the checksum, disguised as an unused entry.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct DirEntryTail {
    /* 0x0 */ pub det_reserved_zero1: Le32,
    /* 0x4 */ pub det_rec_len: Le16,
    /* 0x6 */ pub det_reserved_zero2: u8,
    /* 0x7 */ pub det_reserved_ft: u8,
    /* 0x8 */ pub det_checksum: Le32,
}
const _: () = assert!(size_of::<DirEntryTail>() == 12);

/// `struct dx_root_info`, at byte 24 of a hashed directory.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct DxRootInfo {
    /* 0x0 */ pub reserved_zero: Le32,
    /* 0x4 */ pub hash_version: u8,
    /* 0x5 */ pub info_length: u8,
    /* 0x6 */ pub indirect_levels: u8,
    /* 0x7 */ pub unused_flags: u8,
}
const _: () = assert!(size_of::<DxRootInfo>() == 8);

/// `struct dx_entry`. The first of a block holds `limit` and `count` in place of
/// the hash ([`DxCountLimit`]).
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct DxEntry {
    /* 0x0 */ pub hash: Le32,
    /* 0x4 */ pub block: Le32,
}
const _: () = assert!(size_of::<DxEntry>() == 8);

/// `struct dx_countlimit`.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct DxCountLimit {
    /* 0x0 */ pub limit: Le16,
    /* 0x2 */ pub count: Le16,
}
const _: () = assert!(size_of::<DxCountLimit>() == 4);

/// `struct dx_tail`, after the last possible [`DxEntry`].
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct DxTail {
    /* 0x0 */ pub dt_reserved: Le32,
    /* 0x4 */ pub dt_checksum: Le32,
}
const _: () = assert!(size_of::<DxTail>() == 8);

/// `h_magic` of attributes in an inode and in a block.
pub const XATTR_MAGIC: u32 = 0xEA02_0000;
/// Most inodes that may share a block of attributes.
pub const XATTR_MAX_REFCOUNT: u32 = 1024;

/// `struct ext4_xattr_header` of a block.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct XattrHeader {
    /* 0x00 */ pub h_magic: Le32,
    /* 0x04 */ pub h_refcount: Le32,
    /* 0x08 */ pub h_blocks: Le32,
    /* 0x0C */ pub h_hash: Le32,
    /* 0x10 */ pub h_checksum: Le32,
    /* 0x14 */ pub h_reserved: [Le32; 3],
}
const _: () = assert!(size_of::<XattrHeader>() == 32);

/// `struct ext4_xattr_entry` without the name.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct XattrEntry {
    /* 0x0 */ pub e_name_len: u8,
    /* 0x1 */ pub e_name_index: u8,
    /* 0x2 */ pub e_value_offs: Le16,
    /* 0x4 */ pub e_value_inum: Le32,
    /* 0x8 */ pub e_value_size: Le32,
    /* 0xC */ pub e_hash: Le32,
}
const _: () = assert!(size_of::<XattrEntry>() == 16);

/// `struct ext4_orphan_block_tail`, at the end of each block of the orphan file.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct OrphanBlockTail {
    /* 0x0 */ pub ob_magic: Le32,
    /* 0x4 */ pub ob_checksum: Le32,
}
const _: () = assert!(size_of::<OrphanBlockTail>() == 8);

/// Bytes in a block of a quota file.
pub const QUOTA_BLOCK_SIZE: usize = 1024;
/// `dqh_version`: 64-bit numbers.
pub const QUOTA_VERSION: u32 = 1;
/// `dqi_bgrace` and `dqi_igrace`: for how long a soft limit may be exceeded by
/// default, in seconds.
pub const QUOTA_GRACE: u32 = 7 * 24 * 60 * 60;

/// `struct v2_disk_dqheader`, at the start of a quota file.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct QuotaHeader {
    /* 0x0 */ pub dqh_magic: Le32,
    /* 0x4 */ pub dqh_version: Le32,
}
const _: () = assert!(size_of::<QuotaHeader>() == 8);

/// `struct v2_disk_dqinfo`, after the header.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct QuotaInfo {
    /* 0x00 */ pub dqi_bgrace: Le32,
    /* 0x04 */ pub dqi_igrace: Le32,
    /* 0x08 */ pub dqi_flags: Le32,
    /* 0x0C */ pub dqi_blocks: Le32,
    /* 0x10 */ pub dqi_free_blk: Le32,
    /* 0x14 */ pub dqi_free_entry: Le32,
}
const _: () = assert!(size_of::<QuotaInfo>() == 24);

/// `struct qt_disk_dqdbheader`, at the start of a block of entries.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct QuotaBlockHeader {
    /* 0x0 */ pub dqdh_next_free: Le32,
    /* 0x4 */ pub dqdh_prev_free: Le32,
    /* 0x8 */ pub dqdh_entries: Le16,
    /* 0xA */ pub dqdh_pad1: Le16,
    /* 0xC */ pub dqdh_pad2: Le32,
}
const _: () = assert!(size_of::<QuotaBlockHeader>() == 16);

/// `struct v2r1_disk_dqblk`: limits and usage of one id.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct QuotaEntry {
    /* 0x00 */ pub dqb_id: Le32,
    /* 0x04 */ pub dqb_pad: Le32,
    /* 0x08 */ pub dqb_ihardlimit: Le64,
    /* 0x10 */ pub dqb_isoftlimit: Le64,
    /* 0x18 */ pub dqb_curinodes: Le64,
    /* 0x20 */ pub dqb_bhardlimit: Le64,
    /* 0x28 */ pub dqb_bsoftlimit: Le64,
    /* 0x30 */ pub dqb_curspace: Le64,
    /* 0x38 */ pub dqb_btime: Le64,
    /* 0x40 */ pub dqb_itime: Le64,
}
const _: () = assert!(size_of::<QuotaEntry>() == 72);

/// `s_feature_incompat` of the journal: 64-bit block numbers.
pub const JOURNAL_64BIT: u32 = 0x2;
/// `s_feature_incompat` of the journal: checksums of version 3.
pub const JOURNAL_CSUM_V3: u32 = 0x10;
/// `s_checksum_type` of the journal: CRC-32C.
pub const JOURNAL_CRC32C: u8 = 4;

/// `h_magic` of the journal.
pub const JOURNAL_MAGIC: u32 = 0xC03B_3998;
/// `h_blocktype`: superblock, version 2.
pub const JOURNAL_SUPERBLOCK_V2: u32 = 4;

/// `journal_superblock_t`, big-endian.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs)]
pub struct JournalSuperblock {
    /* 0x000 */ pub h_magic: Be32,
    /* 0x004 */ pub h_blocktype: Be32,
    /* 0x008 */ pub h_sequence: Be32,
    /* 0x00C */ pub s_blocksize: Be32,
    /* 0x010 */ pub s_maxlen: Be32,
    /* 0x014 */ pub s_first: Be32,
    /* 0x018 */ pub s_sequence: Be32,
    /* 0x01C */ pub s_start: Be32,
    /* 0x020 */ pub s_errno: Be32,
    /* 0x024 */ pub s_feature_compat: Be32,
    /* 0x028 */ pub s_feature_incompat: Be32,
    /* 0x02C */ pub s_feature_ro_compat: Be32,
    /* 0x030 */ pub s_uuid: [u8; 16],
    /* 0x040 */ pub s_nr_users: Be32,
    /* 0x044 */ pub s_dynsuper: Be32,
    /* 0x048 */ pub s_max_transaction: Be32,
    /* 0x04C */ pub s_max_trans_data: Be32,
    /* 0x050 */ pub s_checksum_type: u8,
    /* 0x051 */ pub s_padding2: [u8; 3],
    /* 0x054 */ pub s_num_fc_blocks: Be32,
    /* 0x058 */ pub s_head: Be32,
    /* 0x05C */ pub s_padding: [u8; 160],
    /* 0x0FC */ pub s_checksum: Be32,
    /* 0x100 */ pub s_users: [u8; 768],
}
const _: () = assert!(size_of::<JournalSuperblock>() == 1024);
