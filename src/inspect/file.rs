//! Reads structures and tables of an image file, with bounds.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use zerocopy::FromBytes;

use super::error::Problem;

/// Largest table that is read at once, in bytes: for qcow2 more than QEMU opens, for
/// VHDX a disk of 16 TiB in the smallest blocks.
const MAX_TABLE: u64 = 128 << 20;

/// An image file.
#[derive(Debug)]
pub(super) struct Source {
    pub file: File,
    /// Its length in bytes.
    pub length: u64,
    /// What a log of its format has not written to its place yet, in order: structures and
    /// tables are read as if it had.
    pub changes: Vec<Change>,
}

/// A change of a range of the file.
#[derive(Debug)]
pub(super) struct Change {
    /// First byte.
    pub offset: u64,
    pub content: Content,
}

/// What a range of the file becomes.
#[derive(Debug)]
pub(super) enum Content {
    /// So many zeros.
    Zeros(u64),
    Bytes(Vec<u8>),
}

impl Change {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        match &self.content {
            Content::Zeros(length) => *length,
            Content::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Makes it in `bytes`, which are those of the file from `offset` on, as far as it
    /// concerns them.
    fn apply(&self, offset: u64, bytes: &mut [u8]) {
        // How much of either lies before the other's beginning.
        let skipped = usize::try_from(offset.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let kept = usize::try_from(self.offset.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(bytes) = bytes.get_mut(kept..) else {
            return;
        };
        match &self.content {
            Content::Zeros(length) => {
                let length = usize::try_from(*length).unwrap_or(usize::MAX);
                let length = length.saturating_sub(skipped).min(bytes.len());
                bytes[..length].fill(0);
            }
            Content::Bytes(new) => {
                let new = new.get(skipped..).unwrap_or_default();
                for (byte, new) in bytes.iter_mut().zip(new) {
                    *byte = *new;
                }
            }
        }
    }
}

impl Source {
    /// A structure at `offset`.
    pub fn structure<T: FromBytes>(&self, offset: u64) -> Result<T, Problem> {
        let bytes = self.bytes(offset, size_of::<T>() as u64)?;
        match T::read_from_bytes(&bytes) {
            Ok(value) => Ok(value),
            Err(_) => Problem::corrupt(offset, "the structure is cut off"),
        }
    }

    /// `length` bytes at `offset`, which the file must have.
    pub fn bytes(&self, offset: u64, length: u64) -> Result<Vec<u8>, Problem> {
        self.check(offset, length)?;
        if length > MAX_TABLE {
            return Problem::unsupported("has a table of more than 128 MiB");
        }
        let Ok(size) = usize::try_from(length) else {
            return Problem::corrupt(offset, "a table is too large");
        };
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, offset)?;
        for change in &self.changes {
            change.apply(offset, &mut bytes);
        }
        Ok(bytes)
    }

    /// A table of big-endian 64-bit numbers.
    pub fn table_be64(&self, offset: u64, entries: u64) -> Result<Vec<u64>, Problem> {
        let bytes = self.entries(offset, entries, 8)?;
        let (entries, _) = bytes.as_chunks();
        Ok(entries
            .iter()
            .map(|entry| u64::from_be_bytes(*entry))
            .collect())
    }

    /// A table of little-endian 64-bit numbers.
    pub fn table_le64(&self, offset: u64, entries: u64) -> Result<Vec<u64>, Problem> {
        let bytes = self.entries(offset, entries, 8)?;
        let (entries, _) = bytes.as_chunks();
        Ok(entries
            .iter()
            .map(|entry| u64::from_le_bytes(*entry))
            .collect())
    }

    /// A table of big-endian 32-bit numbers.
    pub fn table_be32(&self, offset: u64, entries: u64) -> Result<Vec<u32>, Problem> {
        let bytes = self.entries(offset, entries, 4)?;
        let (entries, _) = bytes.as_chunks();
        Ok(entries
            .iter()
            .map(|entry| u32::from_be_bytes(*entry))
            .collect())
    }

    /// A table of little-endian 32-bit numbers.
    pub fn table_le32(&self, offset: u64, entries: u64) -> Result<Vec<u32>, Problem> {
        let bytes = self.entries(offset, entries, 4)?;
        let (entries, _) = bytes.as_chunks();
        Ok(entries
            .iter()
            .map(|entry| u32::from_le_bytes(*entry))
            .collect())
    }

    fn entries(&self, offset: u64, entries: u64, size: u64) -> Result<Vec<u8>, Problem> {
        match entries.checked_mul(size) {
            Some(length) => self.bytes(offset, length),
            None => Problem::corrupt(offset, "a table is too large"),
        }
    }

    /// That the file has a block of the disk at `offset`, as far as the disk goes. Whoever
    /// writes blocks writes them whole, so what ends before was cut off.
    pub fn check_block(
        &self,
        offset: u64,
        start: u64,
        block_size: u64,
        disk_size: u64,
    ) -> Result<(), Problem> {
        let needed = block_size.min(disk_size.saturating_sub(start));
        match self.check(offset, needed) {
            Err(_) if self.check(offset, 1).is_ok() => {
                Problem::corrupt(self.length, "the file ends within a block")
            }
            result => result,
        }
    }

    /// That the file has `length` bytes at `offset`.
    pub fn check(&self, offset: u64, length: u64) -> Result<(), Problem> {
        match offset.checked_add(length) {
            Some(end) if end <= self.length => Ok(()),
            _ => Problem::corrupt(offset, "the file ends before this"),
        }
    }
}
