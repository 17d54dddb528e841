//! On-disk structures of VirtualBox's VDI. All numbers are little-endian.
//!
//! There is no specification; the layout is that of VirtualBox's own sources
//! (`src/VBox/Storage/VDICore.h`) and of QEMU's `block/vdi.c`.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// [`Header::signature`].
pub const SIGNATURE: u32 = 0xBEDA_107F;
/// [`Header::version`]: 1.1.
pub const VERSION: u32 = 0x0001_0001;
/// [`Header::header_size`] of version 1.1.
pub const HEADER_SIZE: u32 = 400;
/// [`Header::image_type`]: only blocks in use are stored.
pub const TYPE_DYNAMIC: u32 = 1;
/// [`Header::image_type`]: all blocks are stored.
pub const TYPE_STATIC: u32 = 2;
/// [`Header::image_type`]: what is undone on a parent when a machine stops.
pub const TYPE_UNDO: u32 = 3;
/// [`Header::image_type`]: changes of a parent, as snapshots make them.
pub const TYPE_DIFFERENCING: u32 = 4;
/// Length of a block, the only one that QEMU takes.
pub const BLOCK_SIZE: u32 = 1 << 20;
/// Entries of the map from here up are blocks that are not stored and hold zeros.
pub const FIRST_UNUSED: u32 = 0xFFFF_FFFE;
/// Entry of the map: the block is not stored.
pub const UNUSED: u32 = 0xFFFF_FFFF;
/// Most blocks that QEMU takes: its map has to fit into 2 GiB.
pub const MAX_BLOCKS: u32 = 0x1FFF_FF80;

/// The header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// 0x00: what the file is, for people.
    pub text: [u8; 64],
    /// 0x40: [`SIGNATURE`].
    pub signature: U32,
    /// 0x44: [`VERSION`].
    pub version: U32,
    /// 0x48: [`HEADER_SIZE`], counted from here.
    pub header_size: U32,
    /// 0x4C: [`TYPE_DYNAMIC`] or [`TYPE_STATIC`].
    pub image_type: U32,
    /// 0x50: zero.
    pub image_flags: U32,
    /// 0x54: a comment.
    pub description: [u8; 256],
    /// 0x154: offset of the map of blocks in bytes.
    pub offset_bmap: U32,
    /// 0x158: offset of the first block in bytes.
    pub offset_data: U32,
    /// 0x15C: cylinders (unused).
    pub cylinders: U32,
    /// 0x160: heads (unused).
    pub heads: U32,
    /// 0x164: sectors per track (unused).
    pub sectors: U32,
    /// 0x168: 512.
    pub sector_size: U32,
    /// 0x16C: unused.
    pub unused: U32,
    /// 0x170: size of the disk in bytes.
    pub disk_size: U64,
    /// 0x178: [`BLOCK_SIZE`].
    pub block_size: U32,
    /// 0x17C: bytes before each block: 0.
    pub block_extra: U32,
    /// 0x180: entries of the map.
    pub blocks_in_image: U32,
    /// 0x184: blocks that are stored.
    pub blocks_allocated: U32,
    /// 0x188: id of the image.
    pub uuid_image: [u8; 16],
    /// 0x198: id of the last snapshot.
    pub uuid_last_snapshot: [u8; 16],
    /// 0x1A8: id of the image that this one stands on, or zeros.
    pub uuid_link: [u8; 16],
    /// 0x1B8: id of the parent, or zeros.
    pub uuid_parent: [u8; 16],
    /// 0x1C8: logical geometry (unused) and zeros up to a sector.
    pub reserved: [u8; 56],
}

const _: () = assert!(size_of::<Header>() == 512);
const _: () = assert!(std::mem::offset_of!(Header, disk_size) == 0x170);
