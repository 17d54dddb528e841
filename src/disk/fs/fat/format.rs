//! On-disk structures of FAT12, FAT16 and FAT32. All numbers are little-endian.
//!
//! Specification: “Microsoft Extensible Firmware Initiative FAT32 File System
//! Specification”, version 1.03, whose field names are used here.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Media type of everything that is not a floppy disk.
pub const MEDIA_FIXED: u8 = 0xF8;
/// Number of a hard disk in BIOS calls.
pub const DRIVE_FIXED: u8 = 0x80;
/// Says that volume number, label and type follow.
pub const EXTENDED_SIGNATURE: u8 = 0x29;
/// Last two bytes of boot and FSInfo sectors, at offset 510 whatever the sector size.
pub const SECTOR_SIGNATURE: [u8; 2] = [0x55, 0xAA];
/// Offset of [`SECTOR_SIGNATURE`].
pub const SIGNATURE_OFFSET: usize = 510;
/// First cluster of the data area.
pub const FIRST_CLUSTER: u32 = 2;
/// Attribute: the entry is the volume's label.
pub const ATTR_VOLUME_ID: u8 = 0x08;
/// Attribute: a directory.
pub const ATTR_DIRECTORY: u8 = 0x10;
/// Attribute: changed since the last backup; every file is, as in Linux.
pub const ATTR_ARCHIVE: u8 = 0x20;
/// Attributes that mark a part of a long name.
pub const ATTR_LONG_NAME: u8 = 0x0F;
/// [`DirectoryEntry::nt_reserved`]: the name before the dot is lower case.
pub const CASE_LOWER_BASE: u8 = 0x08;
/// [`DirectoryEntry::nt_reserved`]: the suffix is lower case.
pub const CASE_LOWER_EXTENSION: u8 = 0x10;
/// [`LongNameEntry::order`]: the last part, which is stored first.
pub const LAST_LONG_ENTRY: u8 = 0x40;
/// UTF-16 units in one part of a long name.
pub const LONG_NAME_UNITS: usize = 13;
/// Bytes of a directory entry.
pub const ENTRY_SIZE: usize = 32;
/// Most bytes of a directory: 65,536 entries.
pub const MAX_DIRECTORY: u64 = 65_536 * ENTRY_SIZE as u64;

/// Start of the boot sector, the same for all types.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BootSector {
    /// 0x00: jump over the structure.
    pub jump: [u8; 3],
    /// 0x03: who made it.
    pub oem_name: [u8; 8],
    /// 0x0B: bytes in a sector.
    pub bytes_per_sector: U16,
    /// 0x0D: sectors in a cluster, a power of two.
    pub sectors_per_cluster: u8,
    /// 0x0E: sectors before the first FAT.
    pub reserved_sectors: U16,
    /// 0x10: copies of the FAT.
    pub fats: u8,
    /// 0x11: entries of the root directory; 0 for FAT32.
    pub root_entries: U16,
    /// 0x13: all sectors, where they fit and the type is not FAT32; else 0.
    pub total_sectors_16: U16,
    /// 0x15: [`MEDIA_FIXED`].
    pub media: u8,
    /// 0x16: sectors in a FAT; 0 for FAT32.
    pub fat_size_16: U16,
    /// 0x18: geometry for old BIOSes.
    pub sectors_per_track: U16,
    /// 0x1A: geometry for old BIOSes.
    pub heads: U16,
    /// 0x1C: sectors before the partition.
    pub hidden_sectors: U32,
    /// 0x20: all sectors, where they are not in `total_sectors_16`.
    pub total_sectors_32: U32,
}

const _: () = assert!(size_of::<BootSector>() == 0x24);

/// What follows [`BootSector`] on FAT32 only, at 0x24.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BootSector32 {
    /// 0x24: sectors in a FAT.
    pub fat_size_32: U32,
    /// 0x28: 0, all FATs are kept equal.
    pub flags: U16,
    /// 0x2A: 0.
    pub version: U16,
    /// 0x2C: first cluster of the root directory.
    pub root_cluster: U32,
    /// 0x30: sector of [`FsInfo`].
    pub fs_info: U16,
    /// 0x32: sector of the copy of the boot sector.
    pub backup_boot: U16,
    /// 0x34: 0.
    pub reserved: [u8; 12],
}

const _: () = assert!(size_of::<BootSector32>() == 0x1C);

/// What follows at 0x24 (FAT12, FAT16) or 0x40 (FAT32).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BootSectorEnd {
    /// 0x00: [`DRIVE_FIXED`].
    pub drive: u8,
    /// 0x01: 0; Linux notes here that the volume is in use.
    pub state: u8,
    /// 0x02: [`EXTENDED_SIGNATURE`].
    pub signature: u8,
    /// 0x03: number of the volume.
    pub volume_id: U32,
    /// 0x07: label, padded with spaces.
    pub label: [u8; 11],
    /// 0x12: name of the type, for people only.
    pub kind: [u8; 8],
}

const _: () = assert!(size_of::<BootSectorEnd>() == 0x1A);

/// Counts that save a driver from reading the whole FAT (FAT32).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FsInfo {
    /// 0x000: `RRaA`.
    pub lead_signature: [u8; 4],
    /// 0x004: 0.
    pub reserved_1: [u8; 480],
    /// 0x1E4: `rrAa`.
    pub structure_signature: [u8; 4],
    /// 0x1E8: free clusters.
    pub free_clusters: U32,
    /// 0x1EC: where to look for a free one.
    pub next_free: U32,
    /// 0x1F0: 0.
    pub reserved_2: [u8; 14],
    /// 0x1FE: [`SECTOR_SIGNATURE`].
    pub signature: [u8; 2],
}

const _: () = assert!(size_of::<FsInfo>() == 512);

/// An entry of a directory.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DirectoryEntry {
    /// 0x00: eight characters and a suffix of three, padded with spaces.
    pub name: [u8; 11],
    /// 0x0B: attributes.
    pub attributes: u8,
    /// 0x0C: which parts of the name are lower case.
    pub nt_reserved: u8,
    /// 0x0D: creation time, units of 10 ms past `creation_time`.
    pub creation_10ms: u8,
    /// 0x0E: creation time.
    pub creation_time: U16,
    /// 0x10: creation date.
    pub creation_date: U16,
    /// 0x12: date of last access.
    pub access_date: U16,
    /// 0x14: upper half of the first cluster; 0 but for FAT32.
    pub cluster_high: U16,
    /// 0x16: time of last modification.
    pub write_time: U16,
    /// 0x18: date of last modification.
    pub write_date: U16,
    /// 0x1A: lower half of the first cluster; 0 for an empty file.
    pub cluster_low: U16,
    /// 0x1C: length in bytes; 0 for directories.
    pub size: U32,
}

const _: () = assert!(size_of::<DirectoryEntry>() == ENTRY_SIZE);

/// A part of a long name; parts precede the entry that they name, last part first.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LongNameEntry {
    /// 0x00: number of the part from 1, with [`LAST_LONG_ENTRY`].
    pub order: u8,
    /// 0x01: units 0 to 4.
    pub name_1: [U16; 5],
    /// 0x0B: [`ATTR_LONG_NAME`].
    pub attributes: u8,
    /// 0x0C: 0.
    pub kind: u8,
    /// 0x0D: [`short_name_checksum`] of the entry's name.
    pub checksum: u8,
    /// 0x0E: units 5 to 10.
    pub name_2: [U16; 6],
    /// 0x1A: 0.
    pub cluster_low: U16,
    /// 0x1C: units 11 and 12.
    pub name_3: [U16; 2],
}

const _: () = assert!(size_of::<LongNameEntry>() == ENTRY_SIZE);

/// Ties the parts of a long name to the entry that follows them.
pub fn short_name_checksum(name: &[u8; 11]) -> u8 {
    name.iter()
        .fold(0, |sum: u8, &byte| sum.rotate_right(1).wrapping_add(byte))
}
