//! GPT on disk. [UEFI specification 2.10, chapter 5](https://uefi.org/specs/UEFI/2.10/05_GUID_Partition_Table_Format.html).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Signature of a header.
pub const SIGNATURE: [u8; 8] = *b"EFI PART";
/// Revision 1.0.
pub const REVISION: u32 = 0x0001_0000;
/// Length of a header in bytes.
pub const HEADER_SIZE: usize = 92;
/// Entries in a table; everybody uses 128.
pub const ENTRIES: usize = 128;
/// Length of an entry in bytes.
pub const ENTRY_SIZE: usize = 128;
/// Length of a table in bytes.
pub const TABLE_SIZE: usize = ENTRIES * ENTRY_SIZE;
/// Longest name of a partition in UTF-16 units.
pub const NAME_UNITS: usize = 36;

/// The header, at LBA 1 and at the last LBA.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// 0x00: [`SIGNATURE`].
    pub signature: [u8; 8],
    /// 0x08: [`REVISION`].
    pub revision: U32,
    /// 0x0C: [`HEADER_SIZE`].
    pub header_size: U32,
    /// 0x10: CRC-32 of the header with this field zero.
    pub header_crc32: U32,
    /// 0x14: zero.
    pub reserved: U32,
    /// 0x18: where this header is.
    pub my_lba: U64,
    /// 0x20: where the other header is.
    pub alternate_lba: U64,
    /// 0x28: first LBA that a partition may use.
    pub first_usable_lba: U64,
    /// 0x30: last LBA that a partition may use.
    pub last_usable_lba: U64,
    /// 0x38: GUID of the disk (mixed endian).
    pub disk_guid: [u8; 16],
    /// 0x48: first LBA of the entries that belong to this header.
    pub partition_entry_lba: U64,
    /// 0x50: [`ENTRIES`].
    pub number_of_partition_entries: U32,
    /// 0x54: [`ENTRY_SIZE`].
    pub size_of_partition_entry: U32,
    /// 0x58: CRC-32 of all entries.
    pub partition_entry_array_crc32: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_SIZE);

/// A partition.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Entry {
    /// 0x00: type (mixed endian); zero where the entry is free.
    pub partition_type_guid: [u8; 16],
    /// 0x10: GUID of the partition (mixed endian).
    pub unique_partition_guid: [u8; 16],
    /// 0x20: first LBA.
    pub starting_lba: U64,
    /// 0x28: last LBA, inclusive.
    pub ending_lba: U64,
    /// 0x30: attribute bits.
    pub attributes: U64,
    /// 0x38: name in UTF-16LE, filled up with zeros.
    pub partition_name: [U16; NAME_UNITS],
}

const _: () = assert!(size_of::<Entry>() == ENTRY_SIZE);
