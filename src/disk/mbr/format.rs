//! The master boot record and extended boot records.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Signature in the last two bytes of the first 512.
pub const SIGNATURE: [u8; 2] = [0x55, 0xAA];
/// Length of the record in bytes, whatever the sector size.
pub const RECORD_SIZE: usize = 512;
/// Bytes at the start that belong to boot code.
pub const CODE_SIZE: usize = 440;
/// Status of the partition that a boot sector starts.
pub const ACTIVE: u8 = 0x80;
/// Type of the container of logical partitions that upstream writes (LBA).
pub const TYPE_EXTENDED_LBA: u8 = 0x0F;
/// Type of the link to the next extended boot record.
pub const TYPE_EXTENDED_LINK: u8 = 0x05;
/// Types in whose partitions systems look for extended boot records.
pub const CONTAINER_TYPES: [u8; 3] = [TYPE_EXTENDED_LINK, TYPE_EXTENDED_LBA, 0x85];
/// Type of the entry that guards a GPT.
pub const TYPE_GPT_PROTECTIVE: u8 = 0xEE;

/// A partition of 16 bytes.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Entry {
    /// 0x0: [`ACTIVE`] or zero.
    pub status: u8,
    /// 0x1: head, sector, cylinder of the first sector.
    pub first_chs: [u8; 3],
    /// 0x4: type; zero where the entry is free.
    pub partition_type: u8,
    /// 0x5: head, sector, cylinder of the last sector.
    pub last_chs: [u8; 3],
    /// 0x8: first sector, relative to whatever the record counts from.
    pub first_lba: U32,
    /// 0xC: number of sectors.
    pub sectors: U32,
}

/// What follows the boot code, from byte [`CODE_SIZE`] on.
///
/// Extended boot records have the same form, with two entries in use and
/// without a disk id.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tail {
    /// 0x1B8: disk id.
    pub disk_id: U32,
    /// 0x1BC: zero (or copy protection, which nobody uses).
    pub reserved: U16,
    /// 0x1BE: primary partitions.
    pub entries: [Entry; 4],
    /// 0x1FE: [`SIGNATURE`].
    pub signature: [u8; 2],
}

const _: () = assert!(size_of::<Entry>() == 16);
const _: () = assert!(CODE_SIZE + size_of::<Tail>() == RECORD_SIZE);

/// Cylinder, head and sector of an LBA for 255 heads and 63 sectors, saturated.
pub fn chs(lba: u64) -> [u8; 3] {
    const HEADS: u64 = 255;
    const SECTORS: u64 = 63;
    let (cylinder, head, sector) = match lba / (HEADS * SECTORS) {
        cylinder if cylinder > 1023 => (1023, HEADS - 1, SECTORS),
        cylinder => (cylinder, lba / SECTORS % HEADS, lba % SECTORS + 1),
    };
    // All three are in range by construction: 0..=1023, 0..=254, 1..=63.
    let [cylinder_low, cylinder_high, ..] = cylinder.to_le_bytes();
    let [head, ..] = head.to_le_bytes();
    let [sector, ..] = sector.to_le_bytes();
    [head, sector | (cylinder_high << 6), cylinder_low]
}
