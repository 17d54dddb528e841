//! Metadata: a stream of bytes in compressed blocks of 8 KiB.

use super::Compressor;
use super::format::{METADATA_PLAIN, METADATA_SIZE};

/// A place in a metadata stream: the block (its offset as stored) and the byte in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Offset of the block from the stream's start.
    pub block: u64,
    /// Byte in the uncompressed block.
    pub offset: u16,
}

impl Place {
    /// As inodes are referred to.
    pub fn reference(self) -> u64 {
        self.block << 16 | u64::from(self.offset)
    }
}

/// A metadata stream in work.
pub struct Metadata<'a> {
    compressor: &'a mut Compressor,
    stored: Vec<u8>,
    block: Vec<u8>,
    /// Where each block begins.
    starts: Vec<u64>,
}

impl<'a> Metadata<'a> {
    pub fn new(compressor: &'a mut Compressor) -> Metadata<'a> {
        Metadata {
            compressor,
            stored: Vec::new(),
            block: Vec::with_capacity(METADATA_SIZE),
            starts: Vec::new(),
        }
    }

    /// Where the next byte goes.
    pub fn place(&self) -> Place {
        Place {
            block: self.stored.len() as u64,
            // A full block is written at once, so this is below 8192.
            offset: u16::try_from(self.block.len()).unwrap_or(0),
        }
    }

    pub fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let part = bytes.len().min(METADATA_SIZE - self.block.len());
            self.block.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if self.block.len() == METADATA_SIZE {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        if self.block.is_empty() {
            return;
        }
        self.starts.push(self.stored.len() as u64);
        let compressed = self.compressor.compress(&self.block);
        let (bytes, flag) = match &compressed {
            Some(bytes) => (bytes, 0),
            None => (&self.block, METADATA_PLAIN),
        };
        let length = u16::try_from(bytes.len()).unwrap_or(0) | flag;
        self.stored.extend_from_slice(&length.to_le_bytes());
        self.stored.extend_from_slice(bytes);
        self.block.clear();
    }

    /// The stored bytes, and where in them each block begins.
    pub fn finish(mut self) -> (Vec<u8>, Vec<u64>) {
        self.flush();
        (self.stored, self.starts)
    }
}

/// A table with an index: its blocks, then where each is. Returns the bytes and
/// where in them the index begins.
pub fn table(compressor: &mut Compressor, bytes: &[u8], start: u64) -> (Vec<u8>, u64) {
    let mut metadata = Metadata::new(compressor);
    metadata.write(bytes);
    let (mut stored, starts) = metadata.finish();
    let index = stored.len() as u64;
    for block in starts {
        stored.extend_from_slice(&(start + block).to_le_bytes());
    }
    (stored, index)
}
