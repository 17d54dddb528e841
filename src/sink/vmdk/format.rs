//! On-disk structures of VMDK's sparse extents. All numbers are little-endian.
//!
//! Specification: “Virtual Disk Format 5.0”, VMware,
//! <https://www.vmware.com/app/vmdk/?src=vmdk>

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Unit of all offsets and sizes.
pub const SECTOR: u64 = 512;
/// [`Header::magic`], `KDMV`.
pub const MAGIC: u32 = 0x564D_444B;
/// [`Header::flags`]: the characters for detecting broken line ends are valid.
pub const FLAG_NEWLINE_TEST: u32 = 1;
/// [`Header::flags`]: there is a redundant grain directory.
pub const FLAG_REDUNDANT: u32 = 2;
/// [`Header::flags`]: entries of grain tables that are 1 mean grains of zeros.
pub const FLAG_ZEROED_GRAIN: u32 = 4;
/// [`Header::flags`]: grains are compressed.
pub const FLAG_COMPRESSED: u32 = 1 << 16;
/// [`Header::flags`]: grains and tables have markers.
pub const FLAG_MARKERS: u32 = 1 << 17;
/// [`Header::compress_algorithm`]: zlib streams (RFC 1950).
pub const COMPRESSION_DEFLATE: u16 = 1;
/// [`Header::gd_offset`]: the footer has it.
pub const GD_AT_END: u64 = u64::MAX;
/// Entries of a grain table, always.
pub const ENTRIES_PER_TABLE: u32 = 512;
/// Length of a grain in sectors: 64 KiB.
pub const GRAIN_SECTORS: u64 = 128;
/// Largest disk: offsets are 32-bit numbers of sectors.
pub const MAX_SIZE: u64 = (1 << 32) * SECTOR;
/// Marker: nothing follows.
pub const MARKER_END: u32 = 0;
/// Marker: a grain table follows.
pub const MARKER_TABLE: u32 = 1;
/// Marker: the grain directory follows.
pub const MARKER_DIRECTORY: u32 = 2;
/// Marker: the footer follows.
pub const MARKER_FOOTER: u32 = 3;

/// Header of a sparse extent, and footer of a streamed one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// 0x00: [`MAGIC`].
    pub magic: U32,
    /// 0x04: 1; 3 with markers.
    pub version: U32,
    /// 0x08: `FLAG_…`.
    pub flags: U32,
    /// 0x0C: size of the disk.
    pub capacity: U64,
    /// 0x14: length of a grain: a power of two, more than 8.
    pub grain_size: U64,
    /// 0x1C: where the descriptor is.
    pub descriptor_offset: U64,
    /// 0x24: its length.
    pub descriptor_size: U64,
    /// 0x2C: [`ENTRIES_PER_TABLE`].
    pub num_gtes_per_gt: U32,
    /// 0x30: the redundant grain directory.
    pub rgd_offset: U64,
    /// 0x38: the grain directory, or [`GD_AT_END`].
    pub gd_offset: U64,
    /// 0x40: where grains may begin.
    pub over_head: U64,
    /// 0x48: 1 while it is open for writing.
    pub unclean_shutdown: u8,
    /// 0x49: newline.
    pub single_end_line_char: u8,
    /// 0x4A: space.
    pub non_end_line_char: u8,
    /// 0x4B: carriage return.
    pub double_end_line_char1: u8,
    /// 0x4C: newline.
    pub double_end_line_char2: u8,
    /// 0x4D: 0 or [`COMPRESSION_DEFLATE`].
    pub compress_algorithm: U16,
    /// 0x4F: zeros.
    pub pad: [u8; 433],
}

const _: () = assert!(size_of::<Header>() == 512);

/// Marker before a table, the directory, the footer, and at the end.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MetadataMarker {
    /// 0x00: sectors that follow.
    pub sectors: U64,
    /// 0x08: 0, no grain.
    pub size: U32,
    /// 0x0C: `MARKER_…`.
    pub kind: U32,
    /// 0x10: zeros.
    pub pad: [u8; 496],
}

const _: () = assert!(size_of::<MetadataMarker>() == 512);

/// Marker before a compressed grain, whose bytes follow it immediately.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GrainMarker {
    /// 0x00: first sector of the grain on the disk.
    pub lba: U64,
    /// 0x08: length of the compressed bytes.
    pub size: U32,
}

const _: () = assert!(size_of::<GrainMarker>() == 12);
