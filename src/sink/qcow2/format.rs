//! On-disk structures of qcow2. All numbers are big-endian.
//!
//! Specification: <https://www.qemu.org/docs/master/interop/qcow2.html>

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `QFI\xfb`.
pub const MAGIC: u32 = 0x5146_49FB;
/// Length of the header of version 2.
pub const HEADER_LENGTH_V2: usize = 72;
/// Length of the header of version 3 with the compression type, padded to 8 bytes.
pub const HEADER_LENGTH_V3: usize = 112;
/// Incompatible feature: reference counts may be wrong.
pub const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
/// Incompatible feature: the image is known to be damaged.
pub const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
/// Incompatible feature: entries of L2 tables have sub-clusters.
pub const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
/// Incompatible feature: [`Header::compression_type`] is not zlib.
pub const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
/// Compatible feature: reference counts may be behind, as the dirty bit says.
pub const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1;
/// [`Header::compression_type`] of raw deflate.
pub const COMPRESSION_ZLIB: u8 = 0;
/// [`Header::compression_type`] of zstd.
pub const COMPRESSION_ZSTD: u8 = 1;
/// Entry of an L1 or L2 table: the cluster has exactly one reference.
pub const FLAG_COPIED: u64 = 1 << 63;
/// Entry of an L2 table: the cluster is compressed.
pub const FLAG_COMPRESSED: u64 = 1 << 62;
/// Entry of an L2 table: the cluster reads as zeros (version 3).
pub const FLAG_ZERO: u64 = 1;
/// Entry of an L1 or L2 table: bits of the offset.
pub const OFFSET_MASK: u64 = 0x00FF_FFFF_FFFF_FE00;
/// Units in which the length of a compressed cluster is counted.
pub const SECTOR: u64 = 512;
/// Largest L1 table that QEMU opens, in bytes.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// Largest table of refcount blocks that QEMU opens, in bytes.
pub const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Smallest and largest cluster size, as powers of two.
pub const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Header extension: names of feature bits.
pub const EXTENSION_FEATURE_NAMES: u32 = 0x6803_F857;

/// The header; version 2 ends before `incompatible_features`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// 0x00: [`MAGIC`].
    pub magic: U32,
    /// 0x04: 2 or 3.
    pub version: U32,
    /// 0x08: 0, no backing file.
    pub backing_file_offset: U64,
    /// 0x10: 0, no backing file.
    pub backing_file_size: U32,
    /// 0x14: binary logarithm of the cluster size.
    pub cluster_bits: U32,
    /// 0x18: virtual size in bytes.
    pub size: U64,
    /// 0x20: 0, not encrypted.
    pub crypt_method: U32,
    /// 0x24: entries of the L1 table.
    pub l1_size: U32,
    /// 0x28: byte offset of the L1 table, a multiple of the cluster size.
    pub l1_table_offset: U64,
    /// 0x30: byte offset of the refcount table, a multiple of the cluster size.
    pub refcount_table_offset: U64,
    /// 0x38: length of the refcount table in clusters.
    pub refcount_table_clusters: U32,
    /// 0x3C: 0.
    pub nb_snapshots: U32,
    /// 0x40: 0.
    pub snapshots_offset: U64,
    /// 0x48: bits that a reader must know.
    pub incompatible_features: U64,
    /// 0x50: bits that a reader may ignore.
    pub compatible_features: U64,
    /// 0x58: bits that a writer must clear if it does not know them.
    pub autoclear_features: U64,
    /// 0x60: binary logarithm of the bits of a reference count; 4 in version 2.
    pub refcount_order: U32,
    /// 0x64: [`HEADER_LENGTH_V3`].
    pub header_length: U32,
    /// 0x68: how compressed clusters are compressed.
    pub compression_type: u8,
    /// 0x69: zero.
    pub padding: [u8; 7],
}

const _: () = assert!(size_of::<Header>() == HEADER_LENGTH_V3);
const _: () = assert!(std::mem::offset_of!(Header, incompatible_features) == HEADER_LENGTH_V2);

/// Start of a header extension; its data is padded to 8 bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExtensionHeader {
    /// 0x00: what it is.
    pub kind: U32,
    /// 0x04: length of its data in bytes, without padding.
    pub length: U32,
}

/// Name of one feature bit, for readers that do not know the bit.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FeatureName {
    /// 0x00: 0 incompatible, 1 compatible, 2 autoclear.
    pub kind: u8,
    /// 0x01: which bit.
    pub bit: u8,
    /// 0x02: its name, padded with zeros.
    pub name: [u8; 46],
}

const _: () = assert!(size_of::<FeatureName>() == 48);

/// Feature bits and their names, as QEMU words them.
pub const FEATURES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// The extension that names feature bits, with the mark of the last extension.
pub fn feature_names() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + FEATURES.len() * size_of::<FeatureName>() + 8);
    let length = (FEATURES.len() * size_of::<FeatureName>()) as u32;
    let header = ExtensionHeader {
        kind: EXTENSION_FEATURE_NAMES.into(),
        length: length.into(),
    };
    bytes.extend_from_slice(header.as_bytes());
    for (kind, bit, text) in FEATURES {
        let mut name = [0; 46];
        name[..text.len()].copy_from_slice(text.as_bytes());
        bytes.extend_from_slice(FeatureName { kind, bit, name }.as_bytes());
    }
    let end = ExtensionHeader {
        kind: 0.into(),
        length: 0.into(),
    };
    bytes.extend_from_slice(end.as_bytes());
    bytes
}

/// The L2 entry of a compressed cluster of `length` bytes at byte `offset`.
///
/// Bits: 62 set; from `62 - (cluster_bits - 8)` up, how many sectors follow the
/// one in which it starts; below, the offset. `None` where the offset is too large.
pub fn compressed_entry(offset: u64, length: u64, cluster_bits: u32) -> Option<u64> {
    let shift = 62 - (cluster_bits - 8);
    let last = offset.checked_add(length.checked_sub(1)?)?;
    let sectors = last / SECTOR - offset / SECTOR;
    let fits = offset >> shift == 0 && sectors >> (cluster_bits - 8) == 0;
    fits.then_some(FLAG_COMPRESSED | sectors << shift | offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_entries_count_the_sectors_after_the_first() {
        assert_eq!(compressed_entry(0x50000, 512, 16), Some(1 << 62 | 0x50000));
        assert_eq!(
            compressed_entry(0x50001, 512, 16),
            Some(1 << 62 | 1 << 54 | 0x50001)
        );
        assert_eq!(compressed_entry(0x501FF, 1, 16), Some(1 << 62 | 0x501FF));
        assert_eq!(
            compressed_entry(0x50000, 65535, 16),
            Some(1 << 62 | 127 << 54 | 0x50000)
        );
        assert_eq!(
            compressed_entry(0x20100, 511, 9),
            Some(1 << 62 | 1 << 61 | 0x20100)
        );
        assert_eq!(compressed_entry(1 << 54, 1, 16), None);
        assert_eq!(compressed_entry(0, 0, 16), None);
    }

    #[test]
    fn feature_names_fit_behind_the_header_of_the_smallest_cluster() {
        assert_eq!(HEADER_LENGTH_V3 + feature_names().len(), 512);
    }
}
