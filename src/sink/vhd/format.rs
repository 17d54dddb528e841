//! On-disk structures of VHD. All numbers are big-endian.
//!
//! Specification: “Virtual Hard Disk Image Format Specification”, version 1.0,
//! <https://learn.microsoft.com/en-us/windows/win32/vstor/about-vhd>

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Unit of offsets in the block allocation table.
pub const SECTOR: u64 = 512;
/// Length of [`Footer`], which is the last sector of the file.
pub const FOOTER_LENGTH: u64 = 512;
/// Length of [`DynamicHeader`].
pub const HEADER_LENGTH: u64 = 1024;
/// [`Footer::cookie`].
pub const FOOTER_COOKIE: [u8; 8] = *b"conectix";
/// [`DynamicHeader::cookie`].
pub const HEADER_COOKIE: [u8; 8] = *b"cxsparse";
/// [`Footer::file_format_version`] and [`DynamicHeader::header_version`]: 1.0.
pub const VERSION: u32 = 0x0001_0000;
/// [`Footer::features`]: the bit that is always set.
pub const FEATURES_RESERVED: u32 = 2;
/// [`Footer::disk_type`]: the disk's bytes, then the footer.
pub const TYPE_FIXED: u32 = 2;
/// [`Footer::disk_type`]: blocks in a table.
pub const TYPE_DYNAMIC: u32 = 3;
/// [`Footer::disk_type`]: blocks over a parent.
pub const TYPE_DIFFERENCING: u32 = 4;
/// Entry of the table: the block is not stored and holds zeros.
pub const UNUSED: u32 = 0xFFFF_FFFF;
/// Length of a block, the one that every reader takes.
pub const BLOCK_SIZE: u32 = 2 << 20;
/// Largest disk: offsets in the table are 32-bit numbers of sectors, and Windows
/// and QEMU take up to 2040 GiB.
pub const MAX_SIZE: u64 = 2040 << 30;
/// Azure takes disks of whole MiB only.
pub const ALIGNMENT: u64 = 1 << 20;
/// [`Footer::creator_application`] by which readers know that the size is
/// [`Footer::current_size`] and not the (rounded) product of the geometry.
pub const CREATOR: [u8; 4] = *b"qem2";
/// Other creators whose size is [`Footer::current_size`]: Hyper-V and the like.
pub const EXACT_CREATORS: [[u8; 4]; 6] =
    [CREATOR, *b"win ", *b"d2v ", *b"tap\0", *b"vs  ", *b"wa\0\0"];

/// The footer; dynamic disks have a copy at the start.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Footer {
    /// 0x00: [`FOOTER_COOKIE`].
    pub cookie: [u8; 8],
    /// 0x08: [`FEATURES_RESERVED`].
    pub features: U32,
    /// 0x0C: [`VERSION`].
    pub file_format_version: U32,
    /// 0x10: offset of [`DynamicHeader`], or all ones in a fixed disk.
    pub data_offset: U64,
    /// 0x18: seconds since 2000-01-01 UTC.
    pub time_stamp: U32,
    /// 0x1C: [`CREATOR`].
    pub creator_application: [u8; 4],
    /// 0x20: its version.
    pub creator_version: U32,
    /// 0x24: `Wi2k`, Windows.
    pub creator_host_os: [u8; 4],
    /// 0x28: size when created, in bytes.
    pub original_size: U64,
    /// 0x30: size now, in bytes.
    pub current_size: U64,
    /// 0x38: cylinders of the geometry.
    pub cylinders: U16,
    /// 0x3A: heads of the geometry.
    pub heads: u8,
    /// 0x3B: sectors per track of the geometry.
    pub sectors_per_track: u8,
    /// 0x3C: [`TYPE_FIXED`], [`TYPE_DYNAMIC`] or [`TYPE_DIFFERENCING`].
    pub disk_type: U32,
    /// 0x40: [`checksum`] of the structure with this field zero.
    pub checksum: U32,
    /// 0x44: id of the disk.
    pub unique_id: [u8; 16],
    /// 0x54: 1 if it holds a suspended machine.
    pub saved_state: u8,
    /// 0x55: zeros.
    pub reserved: [u8; 427],
}

const _: () = assert!(size_of::<Footer>() == 512);

/// Header of a dynamic disk.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct DynamicHeader {
    /// 0x00: [`HEADER_COOKIE`].
    pub cookie: [u8; 8],
    /// 0x08: all ones.
    pub data_offset: U64,
    /// 0x10: offset of the block allocation table in bytes.
    pub table_offset: U64,
    /// 0x18: [`VERSION`].
    pub header_version: U32,
    /// 0x1C: entries of the table.
    pub max_table_entries: U32,
    /// 0x20: length of a block in bytes, without its bitmap.
    pub block_size: U32,
    /// 0x24: [`checksum`] of the structure with this field zero.
    pub checksum: U32,
    /// 0x28: id of the parent.
    pub parent_unique_id: [u8; 16],
    /// 0x38: time stamp of the parent.
    pub parent_time_stamp: U32,
    /// 0x3C: zero.
    pub reserved: U32,
    /// 0x40: name of the parent in UTF-16.
    pub parent_unicode_name: [u8; 512],
    /// 0x240: where the parent may be found.
    pub parent_locators: [u8; 192],
    /// 0x300: zeros.
    pub reserved2: [u8; 256],
}

const _: () = assert!(size_of::<DynamicHeader>() == 1024);

/// The ones' complement of the sum of all bytes.
pub fn checksum(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(0_u32, |sum, &byte| sum.wrapping_add(u32::from(byte)))
}

impl Footer {
    /// The checksum that it must have.
    pub fn expected_checksum(&self) -> u32 {
        let mut copy = *self;
        copy.checksum = 0.into();
        checksum(copy.as_bytes())
    }
}

impl DynamicHeader {
    /// The checksum that it must have.
    pub fn expected_checksum(&self) -> u32 {
        let mut copy = *self;
        copy.checksum = 0.into();
        checksum(copy.as_bytes())
    }
}

/// Length of the bitmap before a block: one bit a sector, in whole sectors.
pub fn bitmap_length(block_size: u64) -> u64 {
    (block_size / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
}

/// Cylinders, heads and sectors per track of a disk of `sectors` sectors, by the
/// specification's appendix “CHS Calculation”.
pub fn geometry(sectors: u64) -> (u16, u8, u8) {
    const MAX_SECTORS: u64 = 65535 * 16 * 255;
    let total = sectors.min(MAX_SECTORS);
    let (per_track, heads, cylinder_heads);
    if total >= 65535 * 16 * 63 {
        (per_track, heads) = (255, 16);
        cylinder_heads = total / per_track;
    } else {
        let mut track = 17;
        let mut times_heads = total / track;
        let mut wanted = times_heads.div_ceil(1024).max(4);
        if times_heads >= wanted * 1024 || wanted > 16 {
            (track, wanted) = (31, 16);
            times_heads = total / track;
        }
        if times_heads >= wanted * 1024 {
            (track, wanted) = (63, 16);
            times_heads = total / track;
        }
        (per_track, heads, cylinder_heads) = (track, wanted, times_heads);
    }
    (
        u16::try_from(cylinder_heads / heads).unwrap_or(u16::MAX),
        u8::try_from(heads).unwrap_or(u8::MAX),
        u8::try_from(per_track).unwrap_or(u8::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_are_those_of_the_specification() {
        for (mib, expected) in [
            (1_u64, (30, 4, 17)),
            (100, (1003, 12, 17)),
            (1024, (2080, 16, 63)),
            (40 << 10, (20560, 16, 255)),
            (2040 << 10, (65535, 16, 255)),
        ] {
            assert_eq!(geometry(mib * 2048), expected, "{mib} MiB");
        }
    }

    #[test]
    fn checksums_are_complements_of_sums() {
        assert_eq!(checksum(&[]), 0xFFFF_FFFF);
        assert_eq!(checksum(&[1, 2, 255]), !258);
        assert_eq!(bitmap_length(u64::from(BLOCK_SIZE)), 512);
    }
}
