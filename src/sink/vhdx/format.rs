//! On-disk structures of VHDX. All numbers are little-endian.
//!
//! Specification: \[MS-VHDX\],
//! <https://learn.microsoft.com/en-us/openspecs/windows_protocols/ms-vhdx/>

use uuid::{Uuid, uuid};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Unit of everything that has an offset: regions, the log, blocks.
pub const MIB: u64 = 1 << 20;
/// [`FileTypeIdentifier::signature`], at offset 0.
pub const FILE_SIGNATURE: [u8; 8] = *b"vhdxfile";
/// Offsets of the two copies of [`Header`].
pub const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
/// [`Header::signature`].
pub const HEADER_SIGNATURE: [u8; 4] = *b"head";
/// Offsets of the two copies of [`RegionTableHeader`] and its entries.
pub const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
/// [`RegionTableHeader::signature`].
pub const REGION_SIGNATURE: [u8; 4] = *b"regi";
/// Length of a region table and of the metadata table.
pub const TABLE_LENGTH: usize = 64 << 10;
/// Most entries of a region table and of the metadata table.
pub const MAX_ENTRIES: u32 = 2047;
/// Region: the block allocation table.
pub const REGION_BAT: Uuid = uuid!("2DC27766-F623-4200-9D64-115E9BFD4A08");
/// Region: the metadata.
pub const REGION_METADATA: Uuid = uuid!("8B7CA206-4790-4B9A-B8FE-575F050F886E");
/// [`MetadataTableHeader::signature`].
pub const METADATA_SIGNATURE: [u8; 8] = *b"metadata";
/// Metadata: [`FileParameters`].
pub const FILE_PARAMETERS: Uuid = uuid!("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
/// Metadata: size of the disk in bytes, a `U64`.
pub const VIRTUAL_DISK_SIZE: Uuid = uuid!("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
/// Metadata: id of the disk for SCSI's page 83.
pub const PAGE_83_DATA: Uuid = uuid!("BECA12AB-B2E6-4523-93EF-C309E000C746");
/// Metadata: length of a logical sector, a `U32`.
pub const LOGICAL_SECTOR_SIZE: Uuid = uuid!("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
/// Metadata: length of a physical sector, a `U32`.
pub const PHYSICAL_SECTOR_SIZE: Uuid = uuid!("CDA348C7-445D-4471-9CC9-E9885251C556");
/// Metadata: where the parent may be found, a [`LocatorHeader`] with its entries.
pub const PARENT_LOCATOR: Uuid = uuid!("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C");
/// [`MetadataEntry::flags`]: about the disk, not the file.
pub const IS_VIRTUAL_DISK: u32 = 2;
/// [`MetadataEntry::flags`], [`RegionEntry::required`] has its own bit: a reader must know it.
pub const IS_REQUIRED: u32 = 4;
/// [`FileParameters::flags`]: every block has a place and keeps it.
pub const LEAVE_BLOCKS_ALLOCATED: u32 = 1;
/// [`FileParameters::flags`]: the image stands on a parent.
pub const HAS_PARENT: u32 = 2;
/// Smallest and largest block, in bytes.
pub const BLOCK_SIZES: std::ops::RangeInclusive<u64> = MIB..=256 * MIB;
/// Smallest and largest log, in bytes; the largest is what QEMU takes.
pub const LOG_SIZES: std::ops::RangeInclusive<u64> = MIB..=1024 * MIB;
/// Largest disk: 64 TiB.
pub const MAX_SIZE: u64 = 64 << 40;
/// State in an entry of the table (bits 0 to 2): not stored, zeros.
pub const BLOCK_NOT_PRESENT: u64 = 0;
/// State: content does not matter.
pub const BLOCK_UNDEFINED: u64 = 1;
/// State: zeros.
pub const BLOCK_ZERO: u64 = 2;
/// State: discarded.
pub const BLOCK_UNMAPPED: u64 = 3;
/// State: stored.
pub const BLOCK_FULLY_PRESENT: u64 = 6;
/// State: some sectors are stored, others come from the parent.
pub const BLOCK_PARTIALLY_PRESENT: u64 = 7;
/// Bits of the state.
pub const STATE_MASK: u64 = 7;
/// Bits of the offset, which is a multiple of a MiB.
pub const OFFSET_MASK: u64 = !(MIB - 1);

/// At offset 0.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FileTypeIdentifier {
    /// 0x00: [`FILE_SIGNATURE`].
    pub signature: [u8; 8],
    /// 0x08: who made it, in UTF-16.
    pub creator: [u8; 512],
}

/// The header; the copy with the larger sequence number counts.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// 0x00: [`HEADER_SIGNATURE`].
    pub signature: [u8; 4],
    /// 0x04: CRC-32C of the structure with this field zero.
    pub checksum: U32,
    /// 0x08: which copy is newer.
    pub sequence_number: U64,
    /// 0x10: changes with the file.
    pub file_write_guid: [u8; 16],
    /// 0x20: changes with the disk's content.
    pub data_write_guid: [u8; 16],
    /// 0x30: id of the log's entries to replay; zeros if there are none.
    pub log_guid: [u8; 16],
    /// 0x40: 0.
    pub log_version: U16,
    /// 0x42: 1.
    pub version: U16,
    /// 0x44: length of the log in bytes, a multiple of a MiB.
    pub log_length: U32,
    /// 0x48: offset of the log in bytes, a multiple of a MiB.
    pub log_offset: U64,
    /// 0x50: zeros.
    pub reserved: [u8; 4016],
}

const _: () = assert!(size_of::<Header>() == 4096);

/// Unit of the log: an entry begins at a multiple of it.
pub const LOG_SECTOR: usize = 4096;
/// [`LogEntryHeader::signature`].
pub const LOG_SIGNATURE: [u8; 4] = *b"loge";

/// Start of an entry of the log.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LogEntryHeader {
    /// 0x00: [`LOG_SIGNATURE`].
    pub signature: [u8; 4],
    /// 0x04: CRC-32C of the whole entry with this field zero.
    pub checksum: U32,
    /// 0x08: length of the entry in bytes.
    pub entry_length: U32,
    /// 0x0C: offset in the log of the oldest entry that counts.
    pub tail: U32,
    /// 0x10: which of two entries is newer.
    pub sequence_number: U64,
    /// 0x18: how many descriptors follow.
    pub descriptor_count: U32,
    /// 0x1C: zero.
    pub reserved: U32,
    /// 0x20: [`Header::log_guid`] when it was written; others do not count.
    pub log_guid: [u8; 16],
    /// 0x30: the file's length in bytes that was safe on its device.
    pub flushed_file_offset: U64,
    /// 0x38: the file's length in bytes that all structures lie within.
    pub last_file_offset: U64,
}

const _: () = assert!(size_of::<LogEntryHeader>() == 64);

/// [`DataDescriptor::signature`].
pub const DATA_DESCRIPTOR: [u8; 4] = *b"desc";
/// [`ZeroDescriptor::signature`].
pub const ZERO_DESCRIPTOR: [u8; 4] = *b"zero";
/// [`DataSector::signature`].
pub const DATA_SECTOR: [u8; 4] = *b"data";

/// In an entry of the log: a sector of the file, whose bytes are in a [`DataSector`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DataDescriptor {
    /// 0x00: [`DATA_DESCRIPTOR`].
    pub signature: [u8; 4],
    /// 0x04: the sector's last bytes.
    pub trailing: [u8; 4],
    /// 0x08: the sector's first bytes.
    pub leading: [u8; 8],
    /// 0x10: offset in the file, a multiple of [`LOG_SECTOR`].
    pub file_offset: U64,
    /// 0x18: that of the entry.
    pub sequence_number: U64,
}

/// In an entry of the log: a range of the file that becomes zeros.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ZeroDescriptor {
    /// 0x00: [`ZERO_DESCRIPTOR`].
    pub signature: [u8; 4],
    /// 0x04: zero.
    pub reserved: U32,
    /// 0x08: length in bytes, a multiple of [`LOG_SECTOR`].
    pub length: U64,
    /// 0x10: offset in the file, a multiple of [`LOG_SECTOR`].
    pub file_offset: U64,
    /// 0x18: that of the entry.
    pub sequence_number: U64,
}

const _: () = assert!(size_of::<DataDescriptor>() == 32 && size_of::<ZeroDescriptor>() == 32);

/// A sector of data in the log: all of it but its ends, which tell what it is.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DataSector {
    /// 0x0000: [`DATA_SECTOR`].
    pub signature: [u8; 4],
    /// 0x0004: upper half of the entry's sequence number.
    pub sequence_high: U32,
    /// 0x0008: the sector's bytes from 8 on.
    pub data: [u8; 4084],
    /// 0x0FFC: lower half of the entry's sequence number.
    pub sequence_low: U32,
}

const _: () = assert!(size_of::<DataSector>() == LOG_SECTOR);

/// Start of a region table.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegionTableHeader {
    /// 0x00: [`REGION_SIGNATURE`].
    pub signature: [u8; 4],
    /// 0x04: CRC-32C of the whole table with this field zero.
    pub checksum: U32,
    /// 0x08: how many entries follow.
    pub entry_count: U32,
    /// 0x0C: zero.
    pub reserved: U32,
}

const _: () = assert!(size_of::<RegionTableHeader>() == 16);

/// A region of the file.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegionEntry {
    /// 0x00: what it holds.
    pub guid: [u8; 16],
    /// 0x10: offset in bytes, a multiple of a MiB.
    pub file_offset: U64,
    /// 0x18: length in bytes, a multiple of a MiB.
    pub length: U32,
    /// 0x1C: bit 0: a reader must know it.
    pub required: U32,
}

const _: () = assert!(size_of::<RegionEntry>() == 32);

/// Start of the metadata region.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MetadataTableHeader {
    /// 0x00: [`METADATA_SIGNATURE`].
    pub signature: [u8; 8],
    /// 0x08: zero.
    pub reserved: U16,
    /// 0x0A: how many entries follow.
    pub entry_count: U16,
    /// 0x0C: zeros.
    pub reserved2: [u8; 20],
}

const _: () = assert!(size_of::<MetadataTableHeader>() == 32);

/// An item of metadata.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MetadataEntry {
    /// 0x00: what it is.
    pub item_id: [u8; 16],
    /// 0x10: offset from the start of the region, at least 64 KiB.
    pub offset: U32,
    /// 0x14: length in bytes.
    pub length: U32,
    /// 0x18: [`IS_VIRTUAL_DISK`], [`IS_REQUIRED`].
    pub flags: U32,
    /// 0x1C: zero.
    pub reserved: U32,
}

const _: () = assert!(size_of::<MetadataEntry>() == 32);

/// The item [`FILE_PARAMETERS`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FileParameters {
    /// 0x00: length of a block in bytes.
    pub block_size: U32,
    /// 0x04: [`LEAVE_BLOCKS_ALLOCATED`], [`HAS_PARENT`].
    pub flags: U32,
}

/// Start of the item [`PARENT_LOCATOR`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LocatorHeader {
    /// 0x00: what kind of parent it is.
    pub kind: [u8; 16],
    /// 0x10: zero.
    pub reserved: U16,
    /// 0x12: how many entries follow.
    pub entry_count: U16,
}

const _: () = assert!(size_of::<LocatorHeader>() == 20);

/// A key and its value, in UTF-16; offsets are from the start of the item.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LocatorEntry {
    /// 0x00: offset of the key.
    pub key_offset: U32,
    /// 0x04: offset of the value.
    pub value_offset: U32,
    /// 0x08: length of the key in bytes.
    pub key_length: U16,
    /// 0x0A: length of the value in bytes.
    pub value_length: U16,
}

const _: () = assert!(size_of::<LocatorEntry>() == 12);

/// Blocks that share a sector bitmap, whose entry in the table follows theirs.
pub fn chunk_ratio(block_size: u64, logical_sector: u64) -> Option<u64> {
    (logical_sector << 23).checked_div(block_size)
}

/// CRC-32C of a structure whose checksum is at bytes 4 to 7, as if it were zero.
pub fn checksum(bytes: &[u8]) -> u32 {
    let (before, rest) = bytes.split_at(bytes.len().min(4));
    let rest = rest.get(4..).unwrap_or_default();
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(sum, rest)
}
