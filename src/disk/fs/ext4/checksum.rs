//! CRC-32C as ext4 uses it: not inverted at the end, chained through seeds.

use super::units::{FsBlock, GroupNo, InodeNo};

/// The checksum of `data`, continued from another one.
pub fn crc32c(seed: u32, data: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, data)
}

/// Seeds of one filesystem's checksums.
#[derive(Debug, Clone, Copy)]
pub struct Checksums {
    seed: u32,
}

impl Checksums {
    /// For the filesystem with this UUID.
    pub fn new(uuid: &[u8; 16]) -> Self {
        Self {
            seed: crc32c(!0, uuid),
        }
    }

    /// The seed itself, for `s_checksum_seed`.
    pub fn seed(self) -> u32 {
        self.seed
    }

    /// Of the value of an attribute that is an inode of its own.
    pub fn value(self, bytes: &[u8]) -> u32 {
        crc32c(self.seed, bytes)
    }

    /// Of a block of the orphan file without its tail.
    pub fn orphan_block(self, inode: InodeNo, block: FsBlock, bytes: &[u8]) -> u32 {
        crc32c(crc32c(self.inode(inode), &block.0.to_le_bytes()), bytes)
    }

    /// Of a bitmap.
    pub fn bitmap(self, bytes: &[u8]) -> u32 {
        crc32c(self.seed, bytes)
    }

    /// Of a group descriptor whose checksum field is zero.
    pub fn group(self, group: GroupNo, descriptor: &[u8]) -> u32 {
        crc32c(crc32c(self.seed, &group.0.to_le_bytes()), descriptor)
    }

    /// Of an attribute block whose checksum field is zero.
    pub fn xattr_block(self, block: FsBlock, bytes: &[u8]) -> u32 {
        crc32c(crc32c(self.seed, &block.0.to_le_bytes()), bytes)
    }

    /// The seed for what belongs to an inode (of generation 0).
    pub fn inode(self, inode: InodeNo) -> u32 {
        crc32c(crc32c(self.seed, &inode.0.to_le_bytes()), &[0; 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_chained_and_not_inverted() {
        // RFC 3720, B.4: 32 bytes of zeros give 0x8A9136AA after inversion.
        assert_eq!(crc32c(!0, &[0; 32]), !0x8A91_36AAu32);
        assert_eq!(crc32c(crc32c(!0, &[0; 10]), &[0; 22]), crc32c(!0, &[0; 32]));
    }
}
