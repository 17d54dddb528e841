//! SquashFS 4.0 on disk.
//!
//! Specification: <https://dr-emann.github.io/squashfs/squashfs.html> and
//! `fs/squashfs/squashfs_fs.h` of Linux, whose names these are. All numbers are
//! little-endian.

use zerocopy::little_endian::{I16, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First four bytes.
pub const MAGIC: u32 = 0x7371_7368;
/// Bytes of file data that are compressed as one block.
pub const BLOCK_SIZE: usize = 128 << 10;
/// Binary logarithm of [`BLOCK_SIZE`].
pub const BLOCK_LOG: u16 = 17;
/// Bytes of metadata that are compressed as one block.
pub const METADATA_SIZE: usize = 8 << 10;
/// Set in the length of a metadata block that is stored as it is.
pub const METADATA_PLAIN: u16 = 1 << 15;
/// Set in the length of a data block that is stored as it is.
pub const DATA_PLAIN: u32 = 1 << 24;
/// A table that is not there.
pub const NO_TABLE: u64 = u64::MAX;
/// No fragment.
pub const NO_FRAGMENT: u32 = u32::MAX;
/// No extended attributes.
pub const NO_XATTRS: u32 = u32::MAX;
/// Entries that share a header in a directory, at most.
pub const ENTRIES_OF_HEADER: usize = 256;
/// Bytes that a listing counts for `.` and `..`, which are not in it.
pub const LISTING_EXTRA: usize = 3;
/// Flag of the superblock: there are no extended attributes.
pub const FLAG_NO_XATTRS: u16 = 0x200;

/// Numbers of compressors.
pub mod compressor {
    /// zlib.
    pub const GZIP: u16 = 1;
    /// LZMA without a container; no Linux reads it.
    pub const LZMA: u16 = 2;
    /// LZO1X.
    pub const LZO: u16 = 3;
    /// xz.
    pub const XZ: u16 = 4;
    /// LZ4.
    pub const LZ4: u16 = 5;
    /// Zstandard.
    pub const ZSTD: u16 = 6;
}

/// The superblock, at byte 0.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SuperBlock {
    /// 0x00: [`MAGIC`].
    pub s_magic: U32,
    /// 0x04: number of inodes.
    pub inodes: U32,
    /// 0x08: time of the image, in seconds since 1970.
    pub mkfs_time: U32,
    /// 0x0C: [`BLOCK_SIZE`].
    pub block_size: U32,
    /// 0x10: number of fragment blocks.
    pub fragments: U32,
    /// 0x14: compressor.
    pub compression: U16,
    /// 0x16: [`BLOCK_LOG`].
    pub block_log: U16,
    /// 0x18: flags.
    pub flags: U16,
    /// 0x1A: number of owner and group ids.
    pub no_ids: U16,
    /// 0x1C: 4.
    pub s_major: U16,
    /// 0x1E: 0.
    pub s_minor: U16,
    /// 0x20: reference of the root's inode.
    pub root_inode: U64,
    /// 0x28: length without padding.
    pub bytes_used: U64,
    /// 0x30: index of the id table.
    pub id_table_start: U64,
    /// 0x38: header of the table of extended attributes.
    pub xattr_id_table_start: U64,
    /// 0x40: inodes.
    pub inode_table_start: U64,
    /// 0x48: listings of directories.
    pub directory_table_start: U64,
    /// 0x50: index of the fragment table.
    pub fragment_table_start: U64,
    /// 0x58: index of the export table.
    pub lookup_table_start: U64,
}

/// What every inode begins with.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InodeHeader {
    /// 0x00: one of [`kind`], plus [`kind::EXTENDED`].
    pub inode_type: U16,
    /// 0x02: permission bits.
    pub mode: U16,
    /// 0x04: index of the owner in the id table.
    pub uid: U16,
    /// 0x06: index of the group in the id table.
    pub guid: U16,
    /// 0x08: seconds since 1970.
    pub mtime: U32,
    /// 0x0C: number from 1.
    pub inode_number: U32,
}

/// Types of inodes.
pub mod kind {
    /// Directory.
    pub const DIRECTORY: u16 = 1;
    /// Regular file.
    pub const FILE: u16 = 2;
    /// Symbolic link.
    pub const SYMLINK: u16 = 3;
    /// Block device.
    pub const BLOCK_DEVICE: u16 = 4;
    /// Character device.
    pub const CHAR_DEVICE: u16 = 5;
    /// Named pipe.
    pub const FIFO: u16 = 6;
    /// Socket.
    pub const SOCKET: u16 = 7;
    /// Added to a type whose inode has the extended form.
    pub const EXTENDED: u16 = 7;
}

/// A directory, after the header.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Directory {
    /// 0x00: block of its listing.
    pub start_block: U32,
    /// 0x04: links.
    pub nlink: U32,
    /// 0x08: length of its listing, plus [`LISTING_EXTRA`].
    pub file_size: U16,
    /// 0x0A: where in the block its listing begins.
    pub offset: U16,
    /// 0x0C: number of its parent's inode.
    pub parent_inode: U32,
}

/// A directory in the extended form, after the header.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LongDirectory {
    /// 0x00: links.
    pub nlink: U32,
    /// 0x04: length of its listing, plus [`LISTING_EXTRA`].
    pub file_size: U32,
    /// 0x08: block of its listing.
    pub start_block: U32,
    /// 0x0C: number of its parent's inode.
    pub parent_inode: U32,
    /// 0x10: entries of an index of the listing that follows.
    pub i_count: U16,
    /// 0x12: where in the block its listing begins.
    pub offset: U16,
    /// 0x14: extended attributes.
    pub xattr: U32,
}

/// A file, after the header; lengths of its blocks follow.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct File {
    /// 0x00: where its blocks begin.
    pub start_block: U32,
    /// 0x04: number of the fragment that holds its end.
    pub fragment: U32,
    /// 0x08: where in the fragment.
    pub offset: U32,
    /// 0x0C: length in bytes.
    pub file_size: U32,
}

/// A file in the extended form, after the header; lengths of its blocks follow.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct LongFile {
    /// 0x00: where its blocks begin.
    pub start_block: U64,
    /// 0x08: length in bytes.
    pub file_size: U64,
    /// 0x10: bytes in holes.
    pub sparse: U64,
    /// 0x18: links.
    pub nlink: U32,
    /// 0x1C: number of the fragment that holds its end.
    pub fragment: U32,
    /// 0x20: where in the fragment.
    pub offset: U32,
    /// 0x24: extended attributes.
    pub xattr: U32,
}

/// A symbolic link, after the header; its target follows.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Symlink {
    /// 0x00: links.
    pub nlink: U32,
    /// 0x04: length of its target.
    pub symlink_size: U32,
}

/// A device, after the header.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DeviceNode {
    /// 0x00: links.
    pub nlink: U32,
    /// 0x04: number of the device, 12 bits of it the major one.
    pub rdev: U32,
}

/// What a listing has before up to [`ENTRIES_OF_HEADER`] entries.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DirectoryHeader {
    /// 0x00: entries that follow, minus one.
    pub count: U32,
    /// 0x04: block of their inodes.
    pub start_block: U32,
    /// 0x08: number that theirs are relative to.
    pub inode_number: U32,
}

/// An entry of a directory; its name follows.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DirectoryEntry {
    /// 0x00: where in its block the inode begins.
    pub offset: U16,
    /// 0x02: number of the inode, relative to the header's.
    pub inode_number: I16,
    /// 0x04: type in the basic form.
    pub entry_type: U16,
    /// 0x06: length of the name, minus one.
    pub size: U16,
}

/// A block of fragments.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FragmentEntry {
    /// 0x00: where it is.
    pub start_block: U64,
    /// 0x08: its length as stored.
    pub size: U32,
    /// 0x0C: zero.
    pub unused: U32,
}

/// A set of extended attributes.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct XattrId {
    /// 0x00: reference of its names and values.
    pub xattr: U64,
    /// 0x08: how many.
    pub count: U32,
    /// 0x0C: their length in bytes.
    pub size: U32,
}

/// Header of the table of extended attributes; its index follows.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct XattrTable {
    /// 0x00: where names and values begin.
    pub xattr_table_start: U64,
    /// 0x08: number of sets.
    pub xattr_ids: U32,
    /// 0x0C: zero.
    pub unused: U32,
}

const _: () = assert!(size_of::<SuperBlock>() == 96);
const _: () = assert!(size_of::<InodeHeader>() == 16);
const _: () = assert!(size_of::<Directory>() == 16);
const _: () = assert!(size_of::<LongDirectory>() == 24);
const _: () = assert!(size_of::<File>() == 16);
const _: () = assert!(size_of::<LongFile>() == 40);
const _: () = assert!(size_of::<Symlink>() == 8);
const _: () = assert!(size_of::<DeviceNode>() == 8);
const _: () = assert!(size_of::<DirectoryHeader>() == 12);
const _: () = assert!(size_of::<DirectoryEntry>() == 8);
const _: () = assert!(size_of::<FragmentEntry>() == 16);
const _: () = assert!(size_of::<XattrId>() == 16);
const _: () = assert!(size_of::<XattrTable>() == 16);
