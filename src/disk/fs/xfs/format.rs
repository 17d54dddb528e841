//! On-disk structures of XFS: what the fix-up of a made filesystem changes
//! (version 5), and what the reader needs (versions 4 and 5).
//!
//! Everything is big endian but checksums (CRC-32C), which are little endian.
//! Names are those of the kernel's `fs/xfs/libxfs/xfs_format.h` and
//! `xfs_da_format.h`, where the layout is documented.

use zerocopy::byteorder::{BE, LE, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `XFSB`
pub(crate) const SB_MAGIC: u32 = 0x5846_5342;
/// `XAGI`
pub(crate) const AGI_MAGIC: u32 = 0x5841_4749;
/// `IAB3`: inodes of an allocation group.
pub(crate) const INOBT_MAGIC: u32 = 0x4941_4233;
/// `FIB3`: chunks of inodes of which some are free.
pub(crate) const FINOBT_MAGIC: u32 = 0x4649_4233;
/// `IN`
pub(crate) const DINODE_MAGIC: u16 = 0x494E;
/// `XDB3`: a directory of one block.
pub(crate) const DIR_BLOCK_MAGIC: u32 = 0x5844_4233;
/// `XDD3`: entries of a larger directory.
pub(crate) const DIR_DATA_MAGIC: u32 = 0x5844_4433;
/// `BMA3`: extents of a file.
pub(crate) const BMAP_MAGIC: u32 = 0x424D_4133;

/// `XD2B`, version 4: a directory of one block.
pub(crate) const DIR2_BLOCK_MAGIC: u32 = 0x5844_3242;
/// `XD2D`, version 4: entries of a larger directory.
pub(crate) const DIR2_DATA_MAGIC: u32 = 0x5844_3244;
/// `BMAP`, version 4: extents of a file.
pub(crate) const BMAP4_MAGIC: u32 = 0x424D_4150;

/// Low bits of `sb_versionnum`.
pub(crate) const VERSION_MASK: u16 = 0x000F;
/// Some files have extended attributes.
pub(crate) const VERSION_ATTR: u16 = 0x0010;
/// Directories are of version 2; always so in a filesystem of version 5.
pub(crate) const VERSION_DIRV2: u16 = 0x2000;
/// `sb_features2`: entries of directories have the type of what they name.
pub(crate) const FEATURES2_FTYPE: u32 = 0x200;

bitflags::bitflags! {
    /// `sb_features_incompat`: whoever does not know one cannot read anything.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct Incompat: u32 {
        /// Entries of directories have the type of what they name.
        const FTYPE = 1 << 0;
        /// Records of inode chunks may describe part of a chunk.
        const SPINODES = 1 << 1;
        /// Structures have another UUID than the superblock shows.
        const META_UUID = 1 << 2;
        /// Times of some inodes are unsigned nanoseconds.
        const BIGTIME = 1 << 3;
        /// Nobody but `xfs_repair` should touch it.
        const NEEDSREPAIR = 1 << 4;
        /// Numbers of extents of some inodes have 64 bits.
        const NREXT64 = 1 << 5;
        /// Files may have exchanged their contents.
        const EXCHRANGE = 1 << 6;
        /// Attributes say in which directories a file is.
        const PARENT = 1 << 7;
        /// What belongs to the filesystem itself has a directory tree of its own.
        const METADIR = 1 << 8;
        /// Data is on a zoned device.
        const ZONED = 1 << 9;
        /// Zones have gaps.
        const ZONE_GAPS = 1 << 10;
    }
}

/// Records of inode chunks may describe part of a chunk.
pub(crate) const INCOMPAT_SPINODES: u32 = Incompat::SPINODES.bits();
/// `di_flags`: data is on the realtime device.
pub(crate) const DIFLAG_REALTIME: u16 = 1 << 0;
/// `di_flags2`: other files may have some of its blocks too.
pub(crate) const DIFLAG2_REFLINK: u64 = 1 << 1;
/// Times are unsigned nanoseconds.
pub(crate) const DIFLAG2_BIGTIME: u64 = 1 << 3;
/// Numbers of extents have 64 bits.
pub(crate) const DIFLAG2_NREXT64: u64 = 1 << 4;
/// Second 0 of such times, in seconds before 1970.
pub(crate) const BIGTIME_OFFSET: i64 = 1 << 31;
/// Inodes come in chunks of this many.
pub(crate) const INODES_PER_CHUNK: u32 = 64;

/// Contents of a fork, `di_format` and `di_aformat`: a device number.
pub(crate) const FORMAT_DEV: u8 = 0;
/// What the fork is about, in the inode.
pub(crate) const FORMAT_LOCAL: u8 = 1;
/// A list of extents in the inode.
pub(crate) const FORMAT_EXTENTS: u8 = 2;
/// The root of a tree of extents.
pub(crate) const FORMAT_BTREE: u8 = 3;

/// The superblock as far as it is needed (`xfs_dsb`).
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Superblock {
    pub sb_magicnum: U32<BE>,
    pub sb_blocksize: U32<BE>,
    pub sb_dblocks: U64<BE>,
    pub sb_rblocks: U64<BE>,
    pub sb_rextents: U64<BE>,
    pub sb_uuid: [u8; 16],
    pub sb_logstart: U64<BE>,
    pub sb_rootino: U64<BE>,
    pub sb_rbmino: U64<BE>,
    pub sb_rsumino: U64<BE>,
    pub sb_rextsize: U32<BE>,
    pub sb_agblocks: U32<BE>,
    pub sb_agcount: U32<BE>,
    pub sb_rbmblocks: U32<BE>,
    pub sb_logblocks: U32<BE>,
    pub sb_versionnum: U16<BE>,
    pub sb_sectsize: U16<BE>,
    pub sb_inodesize: U16<BE>,
    pub sb_inopblock: U16<BE>,
    pub sb_fname: [u8; 12],
    pub sb_blocklog: u8,
    pub sb_sectlog: u8,
    pub sb_inodelog: u8,
    pub sb_inopblog: u8,
    pub sb_agblklog: u8,
    pub sb_rextslog: u8,
    pub sb_inprogress: u8,
    pub sb_imax_pct: u8,
    pub sb_icount: U64<BE>,
    pub sb_ifree: U64<BE>,
    pub sb_fdblocks: U64<BE>,
    pub sb_frextents: U64<BE>,
    pub sb_uquotino: U64<BE>,
    pub sb_gquotino: U64<BE>,
    pub sb_qflags: U16<BE>,
    pub sb_flags: u8,
    pub sb_shared_vn: u8,
    pub sb_inoalignmt: U32<BE>,
    pub sb_unit: U32<BE>,
    pub sb_width: U32<BE>,
    pub sb_dirblklog: u8,
    pub sb_logsectlog: u8,
    pub sb_logsectsize: U16<BE>,
    pub sb_logsunit: U32<BE>,
    pub sb_features2: U32<BE>,
    pub sb_bad_features2: U32<BE>,
    pub sb_features_compat: U32<BE>,
    pub sb_features_ro_compat: U32<BE>,
    pub sb_features_incompat: U32<BE>,
    pub sb_features_log_incompat: U32<BE>,
    pub sb_crc: U32<LE>,
}

const _: () = assert!(size_of::<Superblock>() == 228);
/// Where its checksum is.
pub(crate) const SB_CRC: usize = 224;

/// The inodes of an allocation group (`xfs_agi`), in its third sector.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Agi {
    pub agi_magicnum: U32<BE>,
    pub agi_versionnum: U32<BE>,
    pub agi_seqno: U32<BE>,
    pub agi_length: U32<BE>,
    pub agi_count: U32<BE>,
    pub agi_root: U32<BE>,
    pub agi_level: U32<BE>,
    pub agi_freecount: U32<BE>,
    pub agi_newino: U32<BE>,
    pub agi_dirino: U32<BE>,
    pub agi_unlinked: [U32<BE>; 64],
    pub agi_uuid: [u8; 16],
    pub agi_crc: U32<LE>,
    pub agi_pad32: U32<BE>,
    pub agi_lsn: U64<BE>,
    pub agi_free_root: U32<BE>,
    pub agi_free_level: U32<BE>,
}

const _: () = assert!(size_of::<Agi>() == 336);
/// Where its checksum is.
pub(crate) const AGI_CRC: usize = 312;
/// In which sector of its group it is.
pub(crate) const AGI_SECTOR: u64 = 2;

/// Head of a block of a tree within a group (`xfs_btree_block`, short form).
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ShortBlock {
    pub bb_magic: U32<BE>,
    pub bb_level: U16<BE>,
    pub bb_numrecs: U16<BE>,
    pub bb_leftsib: U32<BE>,
    pub bb_rightsib: U32<BE>,
    pub bb_blkno: U64<BE>,
    pub bb_lsn: U64<BE>,
    pub bb_uuid: [u8; 16],
    pub bb_owner: U32<BE>,
    pub bb_crc: U32<LE>,
}

const _: () = assert!(size_of::<ShortBlock>() == 56);
/// Where its checksum is.
pub(crate) const SHORT_CRC: usize = 52;

/// Length of the head of a block of a file's tree (long form).
pub(crate) const LONG_BLOCK: usize = 72;
/// The same in version 4, which it begins with.
pub(crate) const LONG4_BLOCK: usize = size_of::<LongBlock>();

/// Begin of the head of a block of a file's tree (`xfs_btree_block`, long form).
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct LongBlock {
    pub bb_magic: U32<BE>,
    pub bb_level: U16<BE>,
    pub bb_numrecs: U16<BE>,
    pub bb_leftsib: U64<BE>,
    pub bb_rightsib: U64<BE>,
}

const _: () = assert!(LONG4_BLOCK == 24);

/// Head of a tree's root in an inode (`xfs_bmdr_block`).
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BmapRoot {
    pub bb_level: U16<BE>,
    pub bb_numrecs: U16<BE>,
}

const _: () = assert!(size_of::<BmapRoot>() == 4);

/// A chunk of inodes (`xfs_inobt_rec`, with sparse inodes).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct InobtRecord {
    pub ir_startino: U32<BE>,
    pub ir_holemask: U16<BE>,
    pub ir_count: u8,
    pub ir_freecount: u8,
    pub ir_free: U64<BE>,
}

const _: () = assert!(size_of::<InobtRecord>() == 16);

/// An inode without its forks (`xfs_dinode`).
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Dinode {
    pub di_magic: U16<BE>,
    pub di_mode: U16<BE>,
    pub di_version: u8,
    pub di_format: u8,
    pub di_onlink: U16<BE>,
    pub di_uid: U32<BE>,
    pub di_gid: U32<BE>,
    pub di_nlink: U32<BE>,
    pub di_projid_lo: U16<BE>,
    pub di_projid_hi: U16<BE>,
    /// With 64-bit numbers of extents; otherwise unused.
    pub di_big_nextents: U64<BE>,
    pub di_atime: U64<BE>,
    pub di_mtime: U64<BE>,
    pub di_ctime: U64<BE>,
    pub di_size: U64<BE>,
    pub di_nblocks: U64<BE>,
    pub di_extsize: U32<BE>,
    /// With 64-bit numbers of extents, those of attributes.
    pub di_nextents: U32<BE>,
    pub di_anextents: U16<BE>,
    pub di_forkoff: u8,
    pub di_aformat: u8,
    pub di_dmevmask: U32<BE>,
    pub di_dmstate: U16<BE>,
    pub di_flags: U16<BE>,
    pub di_gen: U32<BE>,
    pub di_next_unlinked: U32<BE>,
    pub di_crc: U32<LE>,
    pub di_changecount: U64<BE>,
    pub di_lsn: U64<BE>,
    pub di_flags2: U64<BE>,
    pub di_cowextsize: U32<BE>,
    pub di_pad2: [u8; 12],
    pub di_crtime: U64<BE>,
    pub di_ino: U64<BE>,
    pub di_uuid: [u8; 16],
}

const _: () = assert!(size_of::<Dinode>() == INODE_CORE);
/// Where the forks begin.
pub(crate) const INODE_CORE: usize = 176;
/// The same in versions before 3.
pub(crate) const INODE2_CORE: usize = 100;
/// Where an inode's checksum is.
pub(crate) const INODE_CRC: usize = 100;

/// Length of the head of a block of directory entries (`xfs_dir3_data_hdr`).
pub(crate) const DIR_DATA_HEADER: usize = 64;
/// The same in version 4 (`xfs_dir2_data_hdr`).
pub(crate) const DIR2_DATA_HEADER: usize = 16;
/// Where its owner is (`xfs_dir3_blk_hdr`).
pub(crate) const DIR_OWNER: usize = 40;
/// Where its checksum is.
pub(crate) const DIR_CRC: usize = 4;
/// First word of unused space between entries.
pub(crate) const DIR_FREE_TAG: u16 = 0xFFFF;
/// Directory blocks from this byte on have hashes and not entries.
pub(crate) const DIR_LEAF_OFFSET: u64 = 32 << 30;

/// `XSLM`
pub(crate) const SYMLINK_MAGIC: u32 = 0x5853_4C4D;
/// Longest target of a symbolic link, in bytes.
pub(crate) const SYMLINK_MAX: usize = 1024;

/// Head of a block with the target of a symbolic link (`xfs_dsymlink_hdr`).
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SymlinkHeader {
    pub sl_magic: U32<BE>,
    pub sl_offset: U32<BE>,
    pub sl_bytes: U32<BE>,
    pub sl_crc: U32<LE>,
    pub sl_uuid: [u8; 16],
    pub sl_owner: U64<BE>,
    /// In units of 512 bytes.
    pub sl_blkno: U64<BE>,
    pub sl_lsn: U64<BE>,
}

const _: () = assert!(size_of::<SymlinkHeader>() == 56);
/// Where its checksum is.
pub(crate) const SYMLINK_CRC: usize = 12;

/// Writes the CRC-32C of a structure into it.
pub(crate) fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let crc = crc32c::crc32c(bytes);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// An extent of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BmapExtent {
    /// First block in the file.
    pub offset: u64,
    /// First block in the filesystem, as group and block.
    pub block: u64,
    /// Length in blocks.
    pub count: u64,
    /// It is allocated only: it reads as zeros.
    pub unwritten: bool,
}

impl BmapExtent {
    /// Reads a packed extent (`xfs_bmbt_rec`).
    pub(crate) fn unpack(bytes: [u8; 16]) -> BmapExtent {
        let value = u128::from_be_bytes(bytes);
        let bits = |from: u32, length: u32| {
            u64::try_from(value >> from & ((1 << length) - 1)).unwrap_or(u64::MAX)
        };
        BmapExtent {
            offset: bits(73, 54),
            block: bits(21, 52),
            count: bits(0, 21),
            unwritten: value >> 127 != 0,
        }
    }
}

/// Flag of an attribute: its value is beside its name.
pub(crate) const ATTR_LOCAL: u8 = 1 << 0;
/// Namespace `trusted`.
pub(crate) const ATTR_ROOT: u8 = 1 << 1;
/// Namespace `security`.
pub(crate) const ATTR_SECURE: u8 = 1 << 2;
/// It says in which directory the file is.
pub(crate) const ATTR_PARENT: u8 = 1 << 3;
/// It is being made or removed.
pub(crate) const ATTR_INCOMPLETE: u8 = 1 << 7;
/// Name of an access control list, in namespace `trusted`.
pub(crate) const ACL_ACCESS: &[u8] = b"SGI_ACL_FILE";
/// Name of a directory's list for what is made in it.
pub(crate) const ACL_DEFAULT: &[u8] = b"SGI_ACL_DEFAULT";
/// Length of the head of attributes in an inode (`xfs_attr_sf_hdr`).
pub(crate) const ATTR_SHORT_HEADER: usize = 4;

/// A leaf of attributes (`xfs_attr3_leaf_hdr`).
pub(crate) const ATTR_LEAF_MAGIC: u16 = 0x3BEE;
/// The same in version 4.
pub(crate) const ATTR4_LEAF_MAGIC: u16 = 0xFBEE;
/// A node above leaves (`xfs_da3_node_hdr`).
pub(crate) const DA_NODE_MAGIC: u16 = 0x3EBE;
/// The same in version 4.
pub(crate) const DA4_NODE_MAGIC: u16 = 0xFEBE;

/// Begin of a block of attributes or of a directory's index (`xfs_da_blkinfo`).
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DaBlockInfo {
    /// The next block of the same level; 0 for none.
    pub forw: U32<BE>,
    pub back: U32<BE>,
    pub magic: U16<BE>,
    pub pad: U16<BE>,
}

const _: () = assert!(size_of::<DaBlockInfo>() == 12);
/// Length of the same in version 5 (`xfs_da3_blkinfo`).
pub(crate) const DA3_BLOCK_INFO: usize = 56;
/// Length of a leaf's head behind that: numbers, and what is free.
pub(crate) const ATTR_LEAF_REST: usize = 20;
/// The same in version 5.
pub(crate) const ATTR3_LEAF_REST: usize = 24;
/// Length of a node's head behind that: number of entries and level.
pub(crate) const DA_NODE_REST: usize = 4;
/// The same in version 5.
pub(crate) const DA3_NODE_REST: usize = 8;

/// An entry of a leaf of attributes (`xfs_attr_leaf_entry`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct AttrLeafEntry {
    pub hashval: U32<BE>,
    /// Where name and value are, from the block's start.
    pub nameidx: U16<BE>,
    pub flags: u8,
    pub pad2: u8,
}

const _: () = assert!(size_of::<AttrLeafEntry>() == 8);

/// What precedes the name of a value that is elsewhere
/// (`xfs_attr_leaf_name_remote`).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct AttrRemoteName {
    /// First block of the value, in the fork.
    pub valueblk: U32<BE>,
    pub valuelen: U32<BE>,
    pub namelen: u8,
}

const _: () = assert!(size_of::<AttrRemoteName>() == 9);

/// `XARM`: a block of a value.
pub(crate) const ATTR_REMOTE_MAGIC: u32 = 0x5841_524D;
/// Length of the head of such a block; version 4 has none.
pub(crate) const ATTR_REMOTE_HEADER: usize = 56;

/// Blocks of the log, whatever those of the filesystem.
pub(crate) const LOG_BLOCK: u64 = 512;
/// First word of a record of the log.
pub(crate) const LOG_MAGIC: u32 = 0xFEED_BABE;
/// Blocks of a record that one block of its head describes, in bytes.
pub(crate) const LOG_CYCLE_SIZE: u32 = 32 << 10;
/// Flag of an operation: the filesystem was unmounted.
pub(crate) const LOG_UNMOUNT: u8 = 0x20;
/// Where an operation has its flags (`xlog_op_header`).
pub(crate) const LOG_OP_FLAGS: usize = 9;

/// Begin of a record of the log (`xlog_rec_header`).
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct LogRecord {
    pub h_magicno: U32<BE>,
    pub h_cycle: U32<BE>,
    pub h_version: U32<BE>,
    /// Length of what follows the head, in bytes.
    pub h_len: U32<BE>,
    pub h_lsn: U64<BE>,
    pub h_tail_lsn: U64<BE>,
    pub h_crc: U32<LE>,
    pub h_prev_block: U32<BE>,
    pub h_num_logops: U32<BE>,
    /// First words of the blocks, which have the cycle in their place.
    pub h_cycle_data: [U32<BE>; 64],
    pub h_fmt: U32<BE>,
    pub h_fs_uuid: [u8; 16],
    /// Largest record that is written, in bytes.
    pub h_size: U32<BE>,
}

const _: () = assert!(size_of::<LogRecord>() == 324);
