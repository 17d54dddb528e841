//! Numbers that must not be confused, and conversions that cannot fail.

// Sizes of files and filesystems are used as lengths of buffers and indices.
const _: () = assert!(usize::BITS == 64, "kiln needs a 64-bit target");

/// A block of the filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FsBlock(pub u64);

/// A block group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNo(pub u32);

/// An inode number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeNo(pub u32);

impl FsBlock {
    /// Bits 0 to 31.
    pub fn low(self) -> u32 {
        low32(self.0)
    }

    /// Bits 32 to 63.
    pub fn high(self) -> u32 {
        low32(self.0 >> 32)
    }

    /// Bits 32 to 47, which is all that inodes and extents have room for.
    pub fn high16(self) -> u16 {
        low16(self.high())
    }

    /// The block so many blocks further.
    pub fn plus(self, blocks: u64) -> Self {
        Self(self.0 + blocks)
    }
}

/// A count as an index.
pub fn index(value: impl Into<u64>) -> usize {
    // Lossless: see the assertion above.
    value.into() as usize
}

/// A length as a count.
pub fn count(value: usize) -> u64 {
    value as u64
}

/// The low 32 bits; what is above them is stored elsewhere or known to be zero.
pub fn low32(value: u64) -> u32 {
    (value & 0xFFFF_FFFF) as u32
}

/// The low 16 bits.
pub fn low16(value: u32) -> u16 {
    (value & 0xFFFF) as u16
}

/// The high 16 bits.
pub fn high16(value: u32) -> u16 {
    (value >> 16) as u16
}
