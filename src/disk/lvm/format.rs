//! LVM2 on disk: the label and headers of a physical volume.
//!
//! Offsets are from the start of the physical volume; see
//! [`lib/format_text/layout.h`](https://sourceware.org/git/?p=lvm2.git;a=blob;f=lib/format_text/layout.h)
//! of LVM2.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Sectors of the metadata, whatever the disk's.
pub const SECTOR: u64 = 512;
/// Where the label is: the second of the four sectors that LVM searches.
pub const LABEL_OFFSET: u64 = 512;
/// Where the metadata area begins.
pub const MDA_OFFSET: u64 = 4096;
/// Where extents begin, and the metadata area ends.
pub const DATA_OFFSET: u64 = 1 << 20;
/// Length of the metadata area.
pub const MDA_SIZE: u64 = DATA_OFFSET - MDA_OFFSET;
/// Where the text is in the metadata area: behind its header.
pub const TEXT_OFFSET: u64 = 512;
/// Length of an extent in bytes.
pub const EXTENT_SIZE: u64 = 4 << 20;

/// Signature of a label.
pub const LABEL_ID: [u8; 8] = *b"LABELONE";
/// Type of a label.
pub const LABEL_TYPE: [u8; 8] = *b"LVM2 001";
/// Signature of a metadata area.
pub const MDA_MAGIC: [u8; 16] = *b" LVM2 x[5A%r0N*>";

/// Start value of LVM's CRC-32.
const CRC_START: u32 = 0xF597_A6CF;

/// The label sector.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LabelSector {
    /// 0x00: [`LABEL_ID`].
    pub id: [u8; 8],
    /// 0x08: number of this sector.
    pub sector: U64,
    /// 0x10: CRC of everything behind this field.
    pub crc: U32,
    /// 0x14: where the next structure begins, from the label.
    pub offset: U32,
    /// 0x18: [`LABEL_TYPE`].
    pub label_type: [u8; 8],
    /// 0x20: the physical volume.
    pub pv: PvHeader,
    /// To the end of the sector.
    pub unused: [u8; 352],
}

/// What a physical volume consists of, with one area of each kind.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PvHeader {
    /// Identity without dashes.
    pub pv_uuid: [u8; 32],
    /// Length in bytes.
    pub device_size: U64,
    /// Where extents are; length 0 means up to the end. Then a terminator.
    pub data_areas: [DiskLocation; 2],
    /// Where the metadata is, then a terminator.
    pub metadata_areas: [DiskLocation; 2],
    /// 2: the extension below is there.
    pub extension_version: U32,
    /// 1: in use by a volume group.
    pub extension_flags: U32,
    /// No boot loader area: only the terminator.
    pub bootloader_areas: DiskLocation,
}

/// A range in bytes; both zero ends a list.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiskLocation {
    /// First byte.
    pub offset: U64,
    /// Length.
    pub size: U64,
}

/// Header of a metadata area.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MdaHeader {
    /// 0x00: CRC of everything behind this field.
    pub checksum: U32,
    /// 0x04: [`MDA_MAGIC`].
    pub magic: [u8; 16],
    /// 0x14: 1.
    pub version: U32,
    /// 0x18: where the area begins.
    pub start: U64,
    /// 0x20: its length.
    pub size: U64,
    /// 0x28: the text in use.
    pub raw_location: RawLocation,
    /// To the end of the sector: unused locations.
    pub unused: [u8; 448],
}

/// Where a text is in its area.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawLocation {
    /// From the start of the area.
    pub offset: U64,
    /// Length with the final NUL.
    pub size: U64,
    /// CRC of the text.
    pub checksum: U32,
    /// 0.
    pub flags: U32,
}

const _: () = assert!(size_of::<LabelSector>() == 512);
const _: () = assert!(size_of::<MdaHeader>() == 512);

/// LVM's checksum: the reflected CRC-32 with a start value of its own and without
/// inversion.
pub fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(CRC_START, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            }
        })
    })
}
