//! Where the bytes of a disk are in an image file. Pure data.

use std::collections::BTreeSet;
use std::ops::Range;

pub(super) use super::decompress::Method;
use super::error::Problem;

/// Most pieces that an image may consist of: 2 TiB in clusters of 64 KiB that
/// are all compressed. It bounds the memory that an image can make kiln use.
const MAX_PIECES: usize = 1 << 25;

/// Largest unit that is compressed as a whole, in bytes.
pub(super) const MAX_COMPRESSED_UNIT: u64 = 2 << 20;

/// What a piece of the disk is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The bytes from this offset of the file.
    Plain(u64),
    /// Up to `stored` bytes from `offset` of the file are decompressed; the piece
    /// is what the first `length` of the result are.
    Compressed { offset: u64, stored: u32 },
}

/// A range of the disk that is in the file; everything else is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// Where it is.
    pub place: Place,
}

/// The disk of an image.
#[derive(Debug)]
pub(super) struct Map {
    /// Length of the disk in bytes.
    pub length: u64,
    /// How compressed pieces are compressed.
    pub method: Method,
    /// Length of what a compressed piece decompresses to, in bytes.
    pub unit: u64,
    pieces: Vec<Piece>,
}

impl Map {
    /// An empty disk of `length` bytes.
    pub fn new(length: u64) -> Map {
        Map {
            length,
            method: Method::Deflate,
            unit: 0,
            pieces: Vec::new(),
        }
    }

    /// Appends a piece; what is past the end of the disk is cut off.
    ///
    /// # Errors
    /// It does not begin at or after the end of the last.
    pub fn push(&mut self, piece: Piece, table_at: u64) -> Result<(), Problem> {
        let length = piece.length.min(self.length.saturating_sub(piece.start));
        if length == 0 {
            return Ok(());
        }
        if let Some(last) = self.pieces.last_mut() {
            // Cannot overflow: no piece ends after the disk.
            let end = last.start + last.length;
            if piece.start < end {
                return Problem::corrupt(table_at, "two places for one part of the disk");
            }
            if let (Place::Plain(before), Place::Plain(here)) = (last.place, piece.place)
                && piece.start == end
                && before.checked_add(last.length) == Some(here)
            {
                last.length += length;
                return Ok(());
            }
        }
        if self.pieces.len() >= MAX_PIECES {
            return Problem::unsupported("consists of too many pieces");
        }
        self.pieces.push(Piece { length, ..piece });
        Ok(())
    }

    /// The first piece that ends after `offset`, and those after it.
    pub fn from(&self, offset: u64) -> &[Piece] {
        let first = self
            .pieces
            .partition_point(|piece| piece.start + piece.length <= offset);
        &self.pieces[first..]
    }

    /// Ranges that have pieces, joined where they touch.
    pub fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for piece in &self.pieces {
            let end = piece.start + piece.length;
            match ranges.last_mut() {
                Some(last) if last.end == piece.start => last.end = end,
                _ => ranges.push(piece.start..end),
            }
        }
        ranges
    }

    /// Leaves out what is in holes of the file: it is zeros, as everything without a piece
    /// is. `data` are the sorted ranges of the file that are not holes.
    ///
    /// Space is taken for pieces and their bytes are read, which an image with all of its
    /// blocks allocated, and few of them written, would otherwise pay for.
    pub fn leave_out_holes(&mut self, data: &[Range<u64>]) {
        let mut kept = Vec::new();
        for piece in &self.pieces {
            let Place::Plain(offset) = piece.place else {
                kept.push(*piece);
                continue;
            };
            let end = offset.saturating_add(piece.length);
            let first = data.partition_point(|range| range.end <= offset);
            for range in data[first..].iter().take_while(|range| range.start < end) {
                let from = range.start.max(offset);
                kept.push(Piece {
                    start: piece.start + (from - offset),
                    length: range.end.min(end) - from,
                    place: Place::Plain(from),
                });
            }
            // So many holes are not worth their memory: all stays as it is.
            if kept.len() > MAX_PIECES {
                return;
            }
        }
        self.pieces = kept;
    }

    /// All pieces, sorted.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

/// Tables that were read: none may be used twice, so that a small file cannot
/// name a huge number of pieces.
#[derive(Debug, Default)]
pub(super) struct TablesSeen(BTreeSet<u64>);

impl TablesSeen {
    pub fn add(&mut self, offset: u64) -> Result<(), Problem> {
        if self.0.insert(offset) {
            Ok(())
        } else {
            Problem::corrupt(offset, "one table serves two parts of the disk")
        }
    }
}
