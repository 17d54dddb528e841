//! Metadata of device-mapper's thin pools on disk.
//!
//! See `drivers/md/dm-thin-metadata.c` and
//! [`drivers/md/persistent-data/`](https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/drivers/md/persistent-data)
//! of Linux. Every block begins with a checksum of what follows, which is
//! combined with a number for its kind.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a block in bytes.
pub(crate) const BLOCK: usize = 4096;

/// Signature of a superblock.
pub(crate) const MAGIC: u64 = 27_022_010;

/// Combined with the checksum of a superblock.
pub(crate) const SUPERBLOCK_XOR: u32 = 160_774;
/// Combined with the checksum of a tree's node.
pub(crate) const NODE_XOR: u32 = 121_107;
/// Combined with the checksum of a bitmap.
pub(crate) const BITMAP_XOR: u32 = 240_779;
/// Combined with the checksum of the list of the metadata's bitmaps.
pub(crate) const INDEX_XOR: u32 = 160_478;

/// A node whose values are numbers of nodes.
pub(crate) const INTERNAL: u32 = 1;
/// A node with values.
pub(crate) const LEAF: u32 = 2;

/// Things that a bitmap counts, two bits each.
pub(crate) const PER_BITMAP: u64 = ((BLOCK - size_of::<BitmapHeader>()) * 4) as u64;
/// Most bitmaps of the metadata itself.
pub(crate) const MAX_METADATA_BITMAPS: usize = 255;

/// `struct thin_disk_superblock`
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Superblock {
    pub csum: U32,
    pub flags: U32,
    /// Where it is: 0.
    pub blocknr: U64,
    /// Never set.
    pub uuid: [u8; 16],
    pub magic: U64,
    pub version: U32,
    /// Number of snapshots that were taken.
    pub time: U32,
    /// Number of changes that LVM made; its text has the same.
    pub trans_id: U64,
    /// Metadata that a program looks at: none.
    pub held_root: U64,
    pub data_space_map_root: [u8; 128],
    pub metadata_space_map_root: [u8; 128],
    /// From volumes to trees from chunks of the volume to those of the pool.
    pub data_mapping_root: U64,
    /// From volumes to [`Details`].
    pub device_details_root: U64,
    /// In sectors of 512 bytes.
    pub data_block_size: U32,
    /// In sectors of 512 bytes.
    pub metadata_block_size: U32,
    pub metadata_nr_blocks: U64,
    pub compat_flags: U32,
    pub compat_ro_flags: U32,
    pub incompat_flags: U32,
}

/// `struct disk_device_details`
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Details {
    pub mapped_blocks: U64,
    /// The transaction in which it was made.
    pub transaction_id: U64,
    pub creation_time: U32,
    pub snapshotted_time: U32,
}

/// `struct disk_sm_root`
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SpaceMapRoot {
    pub nr_blocks: U64,
    pub nr_allocated: U64,
    /// Of data a tree of [`IndexEntry`], of metadata a block with all of them.
    pub bitmap_root: U64,
    /// What is used more than twice; nothing is.
    pub ref_count_root: U64,
}

impl SpaceMapRoot {
    /// As superblocks have it.
    pub(crate) fn padded(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[..size_of::<SpaceMapRoot>()].copy_from_slice(self.as_bytes());
        bytes
    }
}

/// `struct disk_index_entry`
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct IndexEntry {
    pub blocknr: U64,
    pub nr_free: U32,
    pub none_free_before: U32,
}

/// The start of `struct disk_metadata_index`, before its entries.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct MetadataIndexHeader {
    pub csum: U32,
    pub padding: U32,
    pub blocknr: U64,
}

/// `struct disk_bitmap_header`
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BitmapHeader {
    pub csum: U32,
    pub not_used: U32,
    pub blocknr: U64,
}

/// `struct node_header`
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct NodeHeader {
    pub csum: U32,
    pub flags: U32,
    pub blocknr: U64,
    pub nr_entries: U32,
    /// As many as fit, a multiple of three.
    pub max_entries: U32,
    pub value_size: U32,
    pub padding: U32,
}

const _: () = assert!(size_of::<Superblock>() == 364);
const _: () = assert!(size_of::<Details>() == 24);
const _: () = assert!(size_of::<SpaceMapRoot>() == 32);
const _: () = assert!(size_of::<IndexEntry>() == 16);
const _: () = assert!(size_of::<MetadataIndexHeader>() == 16);
const _: () = assert!(size_of::<BitmapHeader>() == 16);
const _: () = assert!(size_of::<NodeHeader>() == 32);
