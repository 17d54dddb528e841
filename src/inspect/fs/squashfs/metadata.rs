//! Metadata: streams of bytes in compressed blocks of 8 KiB.

use std::cell::RefCell;
use std::rc::Rc;

use zerocopy::FromBytes;

use super::super::Error;
use super::corrupt;
use crate::inspect::Volume;
use crate::inspect::decompress::{Decompressor, Method};
use crate::sink::squashfs::format::{METADATA_PLAIN, METADATA_SIZE};

/// Blocks that are kept; each has one place, by where it is stored.
const KEPT: usize = 256;

/// Reads blocks of metadata.
pub(super) struct Blocks {
    method: Method,
    /// End of the filesystem.
    end: u64,
    decompressor: RefCell<Decompressor>,
    kept: RefCell<Vec<Option<Rc<Block>>>>,
}

struct Block {
    at: u64,
    /// Where the next one is stored.
    next: u64,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocks")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

impl Blocks {
    pub(super) fn new(method: Method, end: u64) -> Blocks {
        Blocks {
            method,
            end,
            decompressor: RefCell::default(),
            kept: RefCell::new((0..KEPT).map(|_| None).collect()),
        }
    }

    fn get(&self, volume: &Volume<'_>, at: u64) -> Result<Rc<Block>, Error> {
        let place = || format!("byte {at}");
        // Blocks are close to each other, and of any length.
        let slot = usize::try_from((at ^ at >> 8) % KEPT as u64).unwrap_or(0);
        let mut kept = self.kept.borrow_mut();
        if let Some(block) = &kept[slot]
            && block.at == at
        {
            return Ok(Rc::clone(block));
        }
        if at >= self.end {
            return corrupt(place(), "metadata leaves the filesystem");
        }
        let head = u16::from_le_bytes(volume.structure(at)?);
        let length = u64::from(head & !METADATA_PLAIN);
        let next = at + 2 + length;
        if length == 0 || length > METADATA_SIZE as u64 || next > self.end {
            return corrupt(place(), "a block of metadata has an impossible length");
        }
        let mut bytes = volume.bytes(at + 2, length)?;
        if head & METADATA_PLAIN == 0 {
            let stored = std::mem::replace(&mut bytes, vec![0; METADATA_SIZE]);
            let mut decompressor = self.decompressor.borrow_mut();
            let filled = decompressor.decompress(self.method, &stored, &mut bytes);
            match filled {
                Some(filled) if filled > 0 => bytes.truncate(filled),
                _ => return corrupt(place(), "metadata cannot be decompressed"),
            }
        }
        let block = Rc::new(Block { at, next, bytes });
        kept[slot] = Some(Rc::clone(&block));
        Ok(block)
    }
}

/// A place in metadata from which on it is read.
pub(super) struct Cursor<'a, 'd> {
    blocks: &'a Blocks,
    volume: &'a Volume<'d>,
    /// Where the block is stored.
    pub block: u64,
    /// The next byte in it.
    pub offset: usize,
}

impl<'a, 'd> Cursor<'a, 'd> {
    /// At a reference, which counts from a table's start.
    pub(super) fn new(
        blocks: &'a Blocks,
        volume: &'a Volume<'d>,
        table: u64,
        reference: u64,
    ) -> Result<Cursor<'a, 'd>, Error> {
        let offset = usize::try_from(reference & 0xFFFF).unwrap_or(usize::MAX);
        match table.checked_add(reference >> 16) {
            Some(block) if offset <= METADATA_SIZE => Ok(Cursor {
                blocks,
                volume,
                block,
                offset,
            }),
            _ => corrupt(format!("byte {table}"), "a reference leaves its table"),
        }
    }

    /// The next bytes, through as many blocks as that takes.
    pub(super) fn bytes(&mut self, mut count: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while count > 0 {
            let block = self.blocks.get(self.volume, self.block)?;
            let Some(rest) = block.bytes.get(self.offset..) else {
                let place = format!("byte {}", self.block);
                return corrupt(place, "a reference leaves its block of metadata");
            };
            let part = rest.len().min(count);
            bytes.extend_from_slice(&rest[..part]);
            count -= part;
            self.offset += part;
            if self.offset == block.bytes.len() && count > 0 {
                self.block = block.next;
                self.offset = 0;
            }
        }
        Ok(bytes)
    }

    pub(super) fn structure<T: FromBytes>(&mut self) -> Result<T, Error> {
        let bytes = self.bytes(size_of::<T>())?;
        match T::read_from_bytes(&bytes) {
            Ok(structure) => Ok(structure),
            Err(_) => corrupt(format!("byte {}", self.block), "metadata is cut off"),
        }
    }
}
