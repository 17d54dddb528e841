//! On-disk structures of btrfs: everything little endian, no padding.
//!
//! Names and layout: the kernel's `include/uapi/linux/btrfs_tree.h` and
//! <https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html>.

use zerocopy::byteorder::{LE, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::tree::Timestamp;

/// Bytes of a block of a tree.
pub(crate) const NODE_SIZE: usize = 16384;
/// Bytes of a block of data.
pub(crate) const SECTOR: u64 = 4096;
/// Everything is written in this transaction.
pub(crate) const GENERATION: u64 = 1;

/// Where superblocks are.
pub(crate) const SUPER_OFFSETS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
/// What is kept free around a copy of the superblock.
pub(crate) const SUPER_STRIPE: u64 = 64 << 10;
/// Length of a superblock.
pub(crate) const SUPER_SIZE: usize = 4096;
/// `_BHRfS_M`
pub(crate) const MAGIC: [u8; 8] = *b"_BHRfS_M";
/// Back references, large blocks, extended references, short keys, no hole items.
pub(crate) const INCOMPAT: u64 = 0x1 | 0x20 | 0x40 | 0x100 | 0x200;

/// Ids of trees.
pub(crate) const ROOT_TREE: u64 = 1;
pub(crate) const EXTENT_TREE: u64 = 2;
pub(crate) const CHUNK_TREE: u64 = 3;
pub(crate) const DEV_TREE: u64 = 4;
pub(crate) const FS_TREE: u64 = 5;
pub(crate) const ROOT_TREE_DIR: u64 = 6;
pub(crate) const CSUM_TREE: u64 = 7;
pub(crate) const DATA_RELOC_TREE: u64 = 9_u64.wrapping_neg();
/// Object of checksums.
pub(crate) const EXTENT_CSUM: u64 = 10_u64.wrapping_neg();
/// Object of chunks, and inode of a tree's top directory.
pub(crate) const FIRST: u64 = 256;

/// Types of items.
pub(crate) const INODE_ITEM: u8 = 1;
pub(crate) const INODE_REF: u8 = 12;
pub(crate) const INODE_EXTREF: u8 = 13;
pub(crate) const XATTR_ITEM: u8 = 24;
pub(crate) const DIR_ITEM: u8 = 84;
pub(crate) const DIR_INDEX: u8 = 96;
pub(crate) const EXTENT_DATA: u8 = 108;
pub(crate) const EXTENT_CSUM_ITEM: u8 = 128;
pub(crate) const ROOT_ITEM: u8 = 132;
/// From a subvolume to the one that it is in, and back.
pub(crate) const ROOT_BACKREF: u8 = 144;
pub(crate) const ROOT_REF: u8 = 156;
pub(crate) const EXTENT_ITEM: u8 = 168;
pub(crate) const METADATA_ITEM: u8 = 169;
pub(crate) const TREE_BLOCK_REF: u8 = 176;
pub(crate) const EXTENT_DATA_REF: u8 = 178;
pub(crate) const BLOCK_GROUP_ITEM: u8 = 192;
pub(crate) const DEV_EXTENT: u8 = 204;
pub(crate) const DEV_ITEM: u8 = 216;
pub(crate) const CHUNK_ITEM: u8 = 228;

/// Types of chunks.
pub(crate) const DATA: u64 = 1;
pub(crate) const SYSTEM: u64 = 2;
pub(crate) const METADATA: u64 = 4;
/// Each byte is on the device twice.
pub(crate) const DUP: u64 = 1 << 5;
/// Striped over devices, of which there may be one.
pub(crate) const RAID0: u64 = 1 << 3;
/// All ways to use several devices.
pub(crate) const RAID: u64 = RAID0 | 1 << 4 | 0x7C0;

/// In how many bytes a compressed extent results, at most.
pub(crate) const MAX_COMPRESSED: u32 = 128 << 10;

/// A key; trees are sorted by its parts in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub object: u64,
    pub kind: u8,
    pub offset: u64,
}

/// The same on disk.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DiskKey {
    pub objectid: U64<LE>,
    pub kind: u8,
    pub offset: U64<LE>,
}

impl From<Key> for DiskKey {
    fn from(key: Key) -> DiskKey {
        DiskKey {
            objectid: key.object.into(),
            kind: key.kind,
            offset: key.offset.into(),
        }
    }
}

impl From<DiskKey> for Key {
    fn from(key: DiskKey) -> Key {
        Key {
            object: key.objectid.get(),
            kind: key.kind,
            offset: key.offset.get(),
        }
    }
}

/// Head of a block of a tree.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub csum: [u8; 32],
    pub fsid: [u8; 16],
    pub bytenr: U64<LE>,
    pub flags: U64<LE>,
    pub chunk_tree_uuid: [u8; 16],
    pub generation: U64<LE>,
    pub owner: U64<LE>,
    pub nritems: U32<LE>,
    pub level: u8,
}

const _: () = assert!(size_of::<Header>() == 101);
/// Written, with mixed back references.
pub(crate) const HEADER_FLAGS: u64 = 1 | 1 << 56;

/// An item of a leaf; its data is at `offset` behind the header.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Item {
    pub key: DiskKey,
    pub offset: U32<LE>,
    pub size: U32<LE>,
}

const _: () = assert!(size_of::<Item>() == 25);

/// A pointer of an inner block.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Pointer {
    pub key: DiskKey,
    pub blockptr: U64<LE>,
    pub generation: U64<LE>,
}

const _: () = assert!(size_of::<Pointer>() == 33);

/// A point in time.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Timespec {
    pub sec: U64<LE>,
    pub nsec: U32<LE>,
}

impl From<Timestamp> for Timespec {
    fn from(time: Timestamp) -> Timespec {
        Timespec {
            sec: time.seconds.cast_unsigned().into(),
            nsec: time.nanoseconds.into(),
        }
    }
}

/// An inode.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct InodeItem {
    pub generation: U64<LE>,
    pub transid: U64<LE>,
    pub size: U64<LE>,
    pub nbytes: U64<LE>,
    pub block_group: U64<LE>,
    pub nlink: U32<LE>,
    pub uid: U32<LE>,
    pub gid: U32<LE>,
    pub mode: U32<LE>,
    pub rdev: U64<LE>,
    pub flags: U64<LE>,
    pub sequence: U64<LE>,
    pub reserved: [u8; 32],
    pub atime: Timespec,
    pub ctime: Timespec,
    pub mtime: Timespec,
    pub otime: Timespec,
}

const _: () = assert!(size_of::<InodeItem>() == 160);

/// A tree, in the root tree.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RootItem {
    pub inode: InodeItem,
    pub generation: U64<LE>,
    pub root_dirid: U64<LE>,
    pub bytenr: U64<LE>,
    pub byte_limit: U64<LE>,
    pub bytes_used: U64<LE>,
    pub last_snapshot: U64<LE>,
    pub flags: U64<LE>,
    pub refs: U32<LE>,
    pub drop_progress: DiskKey,
    pub drop_level: u8,
    pub level: u8,
    pub generation_v2: U64<LE>,
    pub uuid: [u8; 16],
    pub parent_uuid: [u8; 16],
    pub received_uuid: [u8; 16],
    pub ctransid: U64<LE>,
    pub otransid: U64<LE>,
    pub stransid: U64<LE>,
    pub rtransid: U64<LE>,
    pub ctime: Timespec,
    pub otime: Timespec,
    pub stime: Timespec,
    pub rtime: Timespec,
    pub reserved: [u8; 64],
}

const _: () = assert!(size_of::<RootItem>() == 439);

/// Head of an entry of a directory, or of an attribute; its name follows.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DirItem {
    pub location: DiskKey,
    pub transid: U64<LE>,
    pub data_len: U16<LE>,
    pub name_len: U16<LE>,
    pub kind: u8,
}

const _: () = assert!(size_of::<DirItem>() == 30);

/// Head of data of a file; inline data, or [`FileExtent`], follows.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct FileData {
    pub generation: U64<LE>,
    pub ram_bytes: U64<LE>,
    pub compression: u8,
    pub encryption: u8,
    pub other_encoding: U16<LE>,
    /// 0 in the item, 1 in an extent.
    pub kind: u8,
}

const _: () = assert!(size_of::<FileData>() == 21);

/// Where data of a file is.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct FileExtent {
    pub disk_bytenr: U64<LE>,
    pub disk_num_bytes: U64<LE>,
    pub offset: U64<LE>,
    pub num_bytes: U64<LE>,
}

/// An extent in the extent tree; a reference follows.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ExtentItem {
    pub refs: U64<LE>,
    pub generation: U64<LE>,
    /// 1 for data, 2 for a block of a tree.
    pub flags: U64<LE>,
}

/// Who uses an extent of data.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DataRef {
    pub kind: u8,
    pub root: U64<LE>,
    pub objectid: U64<LE>,
    pub offset: U64<LE>,
    pub count: U32<LE>,
}

const _: () = assert!(size_of::<DataRef>() == 29);

/// Which tree uses a block.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BlockRef {
    pub kind: u8,
    pub root: U64<LE>,
}

/// How full a chunk is.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BlockGroup {
    pub used: U64<LE>,
    pub chunk_objectid: U64<LE>,
    pub flags: U64<LE>,
}

/// A chunk with its only stripe.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Chunk {
    pub length: U64<LE>,
    pub owner: U64<LE>,
    pub stripe_len: U64<LE>,
    pub kind: U64<LE>,
    pub io_align: U32<LE>,
    pub io_width: U32<LE>,
    pub sector_size: U32<LE>,
    pub num_stripes: U16<LE>,
    pub sub_stripes: U16<LE>,
    pub devid: U64<LE>,
    pub offset: U64<LE>,
    pub dev_uuid: [u8; 16],
}

const _: () = assert!(size_of::<Chunk>() == 80);

/// A copy of a chunk beyond its first.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Stripe {
    pub devid: U64<LE>,
    pub offset: U64<LE>,
    pub dev_uuid: [u8; 16],
}

/// Where a subvolume has its name; that follows.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RootRef {
    pub dirid: U64<LE>,
    pub sequence: U64<LE>,
    pub name_len: U16<LE>,
}

const _: () = assert!(size_of::<RootRef>() == 18);

/// Bytes of a stripe.
pub(crate) const STRIPE_LEN: u32 = 64 << 10;

/// A piece of the device in use.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DevExtent {
    pub chunk_tree: U64<LE>,
    pub chunk_objectid: U64<LE>,
    pub chunk_offset: U64<LE>,
    pub length: U64<LE>,
    pub chunk_tree_uuid: [u8; 16],
}

/// A device.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Device {
    pub devid: U64<LE>,
    pub total_bytes: U64<LE>,
    pub bytes_used: U64<LE>,
    pub io_align: U32<LE>,
    pub io_width: U32<LE>,
    pub sector_size: U32<LE>,
    pub kind: U64<LE>,
    pub generation: U64<LE>,
    pub start_offset: U64<LE>,
    pub dev_group: U32<LE>,
    pub seek_speed: u8,
    pub bandwidth: u8,
    pub uuid: [u8; 16],
    pub fsid: [u8; 16],
}

const _: () = assert!(size_of::<Device>() == 98);

/// The superblock as far as it is not zero.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Superblock {
    pub csum: [u8; 32],
    pub fsid: [u8; 16],
    pub bytenr: U64<LE>,
    pub flags: U64<LE>,
    pub magic: [u8; 8],
    pub generation: U64<LE>,
    pub root: U64<LE>,
    pub chunk_root: U64<LE>,
    pub log_root: U64<LE>,
    pub log_root_transid: U64<LE>,
    pub total_bytes: U64<LE>,
    pub bytes_used: U64<LE>,
    pub root_dir_objectid: U64<LE>,
    pub num_devices: U64<LE>,
    pub sectorsize: U32<LE>,
    pub nodesize: U32<LE>,
    pub leafsize: U32<LE>,
    pub stripesize: U32<LE>,
    pub sys_chunk_array_size: U32<LE>,
    pub chunk_root_generation: U64<LE>,
    pub compat_flags: U64<LE>,
    pub compat_ro_flags: U64<LE>,
    pub incompat_flags: U64<LE>,
    pub csum_type: U16<LE>,
    pub root_level: u8,
    pub chunk_root_level: u8,
    pub log_root_level: u8,
    pub dev_item: Device,
    pub label: [u8; 256],
    pub cache_generation: U64<LE>,
    pub uuid_tree_generation: U64<LE>,
    pub metadata_uuid: [u8; 16],
    pub reserved: [u8; 224],
    pub sys_chunk_array: [u8; 2048],
}

const _: () = assert!(size_of::<Superblock>() == 811 + 2048);

/// Hash of a name in a directory, and of an attribute's.
pub(crate) fn name_hash(name: &[u8]) -> u64 {
    seeded(!1, name)
}

/// Hash of a name in a directory, for extended references.
pub(crate) fn extref_hash(parent: u64, name: &[u8]) -> u64 {
    let [a, b, c, d, ..] = parent.to_le_bytes();
    seeded(u32::from_le_bytes([a, b, c, d]), name)
}

/// CRC-32C from a seed, without the usual inversions.
fn seeded(seed: u32, bytes: &[u8]) -> u64 {
    u64::from(!crc32c::crc32c_append(!seed, bytes))
}

/// Writes the checksum of a block into it.
pub(crate) fn seal(block: &mut [u8]) {
    let crc = crc32c::crc32c(&block[32..]);
    block[..4].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_hashes_that_btrfs_gives_them() {
        // As `btrfs inspect-internal dump-tree` shows them in any filesystem.
        assert_eq!(name_hash(b"default"), 2_378_154_706);
    }
}
