//! On-disk structures of XFS version 5 that the fix-up reads and changes.
//!
//! Everything is big endian but checksums (CRC-32C), which are little endian.
//! Names are those of the kernel's `fs/xfs/libxfs/xfs_format.h` and
//! `xfs_da_format.h`, where the layout is documented.

use zerocopy::byteorder::{BE, LE, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `XFSB`
pub(super) const SB_MAGIC: u32 = 0x5846_5342;
/// `XAGI`
pub(super) const AGI_MAGIC: u32 = 0x5841_4749;
/// `IAB3`: inodes of an allocation group.
pub(super) const INOBT_MAGIC: u32 = 0x4941_4233;
/// `FIB3`: chunks of inodes of which some are free.
pub(super) const FINOBT_MAGIC: u32 = 0x4649_4233;
/// `IN`
pub(super) const DINODE_MAGIC: u16 = 0x494E;
/// `XDB3`: a directory of one block.
pub(super) const DIR_BLOCK_MAGIC: u32 = 0x5844_4233;
/// `XDD3`: entries of a larger directory.
pub(super) const DIR_DATA_MAGIC: u32 = 0x5844_4433;
/// `BMA3`: extents of a file.
pub(super) const BMAP_MAGIC: u32 = 0x424D_4133;

/// Low bits of `sb_versionnum`.
pub(super) const VERSION_MASK: u16 = 0x000F;
/// Some files have extended attributes.
pub(super) const VERSION_ATTR: u16 = 0x0010;
/// Records of inode chunks may describe part of a chunk.
pub(super) const INCOMPAT_SPINODES: u32 = 2;
/// Times are unsigned nanoseconds.
pub(super) const DIFLAG2_BIGTIME: u64 = 1 << 3;
/// Numbers of extents have 64 bits.
pub(super) const DIFLAG2_NREXT64: u64 = 1 << 4;
/// Second 0 of such times, in seconds before 1970.
pub(super) const BIGTIME_OFFSET: i64 = 1 << 31;
/// Inodes come in chunks of this many.
pub(super) const INODES_PER_CHUNK: u32 = 64;

/// Contents of a fork, `di_format` and `di_aformat`.
pub(super) const FORMAT_LOCAL: u8 = 1;
/// A list of extents in the inode.
pub(super) const FORMAT_EXTENTS: u8 = 2;
/// The root of a tree of extents.
pub(super) const FORMAT_BTREE: u8 = 3;

/// The superblock as far as it is needed (`xfs_dsb`).
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Superblock {
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
pub(super) const SB_CRC: usize = 224;

/// The inodes of an allocation group (`xfs_agi`), in its third sector.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Agi {
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
pub(super) const AGI_CRC: usize = 312;
/// In which sector of its group it is.
pub(super) const AGI_SECTOR: u64 = 2;

/// Head of a block of a tree within a group (`xfs_btree_block`, short form).
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ShortBlock {
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
pub(super) const SHORT_CRC: usize = 52;

/// Length of the head of a block of a file's tree (long form).
pub(super) const LONG_BLOCK: usize = 72;

/// A chunk of inodes (`xfs_inobt_rec`, with sparse inodes).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct InobtRecord {
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
pub(super) struct Dinode {
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
pub(super) const INODE_CORE: usize = 176;
/// Where an inode's checksum is.
pub(super) const INODE_CRC: usize = 100;

/// Length of the head of a block of directory entries (`xfs_dir3_data_hdr`).
pub(super) const DIR_DATA_HEADER: usize = 64;
/// Where its checksum is.
pub(super) const DIR_CRC: usize = 4;
/// First word of unused space between entries.
pub(super) const DIR_FREE_TAG: u16 = 0xFFFF;
/// Directory blocks from this byte on have hashes and not entries.
pub(super) const DIR_LEAF_OFFSET: u64 = 32 << 30;

/// `XSLM`
pub(super) const SYMLINK_MAGIC: u32 = 0x5853_4C4D;
/// Longest target of a symbolic link, in bytes.
pub(super) const SYMLINK_MAX: usize = 1024;

/// Head of a block with the target of a symbolic link (`xfs_dsymlink_hdr`).
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SymlinkHeader {
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
pub(super) const SYMLINK_CRC: usize = 12;

/// Writes the CRC-32C of a structure into it.
pub(super) fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let crc = crc32c::crc32c(bytes);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// An extent of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BmapExtent {
    /// First block in the file.
    pub offset: u64,
    /// First block in the filesystem, as group and block.
    pub block: u64,
    /// Length in blocks.
    pub count: u64,
}

impl BmapExtent {
    /// Reads a packed extent (`xfs_bmbt_rec`).
    pub(super) fn unpack(bytes: [u8; 16]) -> BmapExtent {
        let value = u128::from_be_bytes(bytes);
        let bits = |from: u32, length: u32| {
            u64::try_from(value >> from & ((1 << length) - 1)).unwrap_or(u64::MAX)
        };
        BmapExtent {
            offset: bits(73, 54),
            block: bits(21, 52),
            count: bits(0, 21),
        }
    }
}
