//! The bytes of files: ranges of the volume, and what is stored in another form.

use std::ops::Range;

use super::{Error, FileSystem, Format, Run};
use crate::inspect::Volume;
use crate::inspect::decompress::{Decompressor, Method};

/// Longest unit that is compressed as a whole, in bytes: a block of squashfs.
pub(super) const MAX_UNIT: u32 = 1 << 20;
/// Decompressed units that are kept: files that share one are often read in turn.
const KEPT: usize = 8;

/// A regular file that is open for reading.
#[derive(Debug)]
pub struct File {
    /// Length in bytes.
    pub size: u64,
    /// Sorted; none reaches beyond the file's end.
    pub(super) runs: Vec<Run>,
    /// Likewise, and between the runs.
    pieces: Vec<Piece>,
}

/// A range of a file whose bytes are not a range of the volume.
#[derive(Debug)]
pub(super) struct Piece {
    /// First byte in the file.
    pub offset: u64,
    pub length: u64,
    pub source: Source,
}

/// Where the bytes of a [`Piece`] come from.
#[derive(Debug)]
pub(super) enum Source {
    /// They are these, then zeros.
    Bytes(Vec<u8>),
    /// They begin at this byte of a decompressed unit.
    Unit(Unit, u64),
}

/// Bytes that are compressed as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit {
    /// First byte on the volume.
    pub at: u64,
    /// Bytes there.
    pub stored: u32,
    /// Bytes that it may become, at most [`MAX_UNIT`].
    pub length: u32,
    /// Bytes that it has to become; what is missing from there on is zeros.
    pub least: u32,
    pub method: Method,
}

impl Unit {
    /// Whether another one is made from the same bytes in the same way.
    fn is_stored_as(&self, other: &Unit) -> bool {
        let key = |unit: &Unit| (unit.at, unit.stored, unit.length, unit.method);
        key(self) == key(other)
    }

    fn corrupt(&self, kind: &'static str, what: &'static str) -> Error {
        let place = format!("byte {}", self.at);
        Error::Corrupt { kind, place, what }
    }
}

impl File {
    /// A file of these runs, which may reach beyond its end.
    pub(super) fn new(size: u64, runs: Vec<Run>) -> File {
        File::with_pieces(size, runs, Vec::new())
    }

    /// A file that is stored within its inode.
    pub(super) fn inline(bytes: Vec<u8>) -> File {
        let size = bytes.len() as u64;
        let piece = Piece {
            offset: 0,
            length: size,
            source: Source::Bytes(bytes),
        };
        File::with_pieces(size, Vec::new(), vec![piece])
    }

    /// A file of runs and pieces, each sorted, which may reach beyond its end.
    pub(super) fn with_pieces(size: u64, mut runs: Vec<Run>, mut pieces: Vec<Piece>) -> File {
        runs.retain(|run| run.offset < size);
        for run in &mut runs {
            run.length = run.length.min(size - run.offset);
        }
        pieces.retain(|piece| piece.offset < size);
        for piece in &mut pieces {
            piece.length = piece.length.min(size - piece.offset);
        }
        File { size, runs, pieces }
    }

    /// Where the bytes of a file come from that is one piece.
    pub(super) fn only_piece(self) -> Option<Source> {
        let mut pieces = self.pieces.into_iter();
        let first = pieces.next().filter(|_| self.runs.is_empty())?;
        pieces.next().is_none().then_some(first.source)
    }

    /// Ranges that may hold anything but zeros: sorted, not overlapping.
    pub fn data_ranges(&self) -> Vec<Range<u64>> {
        let runs = self.runs.iter().map(|run| (run.offset, run.length));
        let pieces = self.pieces.iter().map(|piece| (piece.offset, piece.length));
        let mut all: Vec<(u64, u64)> = runs.chain(pieces).collect();
        all.sort_unstable();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (offset, length) in all {
            let end = offset + length;
            match ranges.last_mut() {
                Some(last) if last.end == offset => last.end = end,
                _ => ranges.push(offset..end),
            }
        }
        ranges
    }
}

impl FileSystem<'_> {
    /// Reads from `offset` until the buffer is full or the file ends; returns how
    /// many bytes that are.
    ///
    /// # Errors
    /// The image cannot be read, or what is compressed in it is damaged.
    pub fn read_at(&self, file: &File, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let left = usize::try_from(file.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let buffer = &mut buffer[..wanted];
        buffer.fill(0);
        let end = offset.saturating_add(wanted as u64);
        let within = |at: u64| usize::try_from(at - offset).unwrap_or(wanted);
        let first = file
            .runs
            .partition_point(|run| run.offset + run.length <= offset);
        for run in &file.runs[first..] {
            if run.offset >= end {
                break;
            }
            let start = offset.max(run.offset);
            let stop = end.min(run.offset + run.length);
            self.volume.read_at(
                run.at + (start - run.offset),
                &mut buffer[within(start)..within(stop)],
            )?;
        }
        let first = file
            .pieces
            .partition_point(|piece| piece.offset + piece.length <= offset);
        for piece in &file.pieces[first..] {
            if piece.offset >= end {
                break;
            }
            let start = offset.max(piece.offset);
            let stop = end.min(piece.offset + piece.length);
            let part = &mut buffer[within(start)..within(stop)];
            match &piece.source {
                Source::Bytes(bytes) => copy(bytes, start - piece.offset, part),
                Source::Unit(unit, skip) => {
                    let from = skip.saturating_add(start - piece.offset);
                    let mut units = self.units.borrow_mut();
                    copy(units.get(&self.volume, self.kind(), unit)?, from, part);
                }
            }
        }
        Ok(wanted)
    }

    /// What it is called in messages about damage.
    pub(super) fn kind(&self) -> &'static str {
        match &self.format {
            Format::Ext4(_) => "ext4",
            Format::Fat(_) => "FAT",
            Format::Xfs(_) => "XFS",
            Format::Btrfs(_) => "btrfs",
            Format::SquashFs(_) => "squashfs",
        }
    }
}

/// Copies bytes from `from` on, as far as there are any.
fn copy(bytes: &[u8], from: u64, to: &mut [u8]) {
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let have = bytes.get(from..).unwrap_or_default();
    let length = have.len().min(to.len());
    to[..length].copy_from_slice(&have[..length]);
}

/// Decompresses units, and keeps the last few.
#[derive(Default)]
pub(super) struct Units {
    decompressor: Decompressor,
    stored: Vec<u8>,
    /// The one used last comes last.
    kept: Vec<(Unit, Vec<u8>)>,
}

impl std::fmt::Debug for Units {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Units")
            .field("kept", &self.kept.len())
            .finish_non_exhaustive()
    }
}

impl Units {
    /// The bytes of a unit.
    pub(super) fn get(
        &mut self,
        volume: &Volume<'_>,
        kind: &'static str,
        unit: &Unit,
    ) -> Result<&[u8], Error> {
        let found = self
            .kept
            .iter()
            .position(|(kept, _)| kept.is_stored_as(unit));
        let bytes = match found {
            Some(at) => self.kept.remove(at).1,
            None => {
                let mut bytes = match self.kept.len() {
                    KEPT => self.kept.remove(0).1,
                    _ => Vec::new(),
                };
                self.load(volume, kind, unit, &mut bytes)?;
                bytes
            }
        };
        let is_short = bytes.len() < unit.least as usize;
        self.kept.push((*unit, bytes));
        if is_short {
            return Err(unit.corrupt(kind, "what is compressed there is too short"));
        }
        Ok(self.kept.last().map_or(&[], |(_, bytes)| bytes))
    }

    fn load(
        &mut self,
        volume: &Volume<'_>,
        kind: &'static str,
        unit: &Unit,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if unit.length > MAX_UNIT || unit.stored > 2 * MAX_UNIT {
            return Err(unit.corrupt(kind, "what is compressed there is too long"));
        }
        self.stored.resize(unit.stored as usize, 0);
        volume.read_at(unit.at, &mut self.stored)?;
        bytes.clear();
        bytes.resize(unit.length as usize, 0);
        let length = self
            .decompressor
            .decompress(unit.method, &self.stored, bytes)
            .ok_or_else(|| unit.corrupt(kind, "what is compressed there cannot be decompressed"))?;
        bytes.truncate(length);
        Ok(())
    }
}
