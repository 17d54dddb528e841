//! What a disk writer needs of a disk.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::error::Cause;
use super::prefetch::DiskPrefetch;
use crate::disk::{Disk, DiskReader, Source};

/// A disk that can be read in any order by many threads.
pub trait ReadAt: Sync {
    /// Length in bytes.
    fn length(&self) -> u64;

    /// Byte ranges that can hold anything but zeros: sorted, not empty, not overlapping.
    fn data_ranges(&self) -> Vec<Range<u64>>;

    /// A reader for one thread; it keeps what makes reading on cheap (open files).
    fn reader(&self) -> Box<dyn Reader + '_>;

    /// Ranges that are the bytes of a file as it is, so that a filesystem which
    /// can share blocks need not copy them; sorted. Short ones may be left out.
    fn file_ranges(&self) -> Vec<FileRange> {
        Vec::new()
    }

    /// Something that reads files ahead; `None` if there is nothing to gain, for
    /// instance because they are in memory already.
    fn prefetch(&self) -> Option<Box<dyn Prefetch + Send + '_>> {
        None
    }

    /// Opens the file of a range that [`ReadAt::file_ranges`] returned.
    fn open(&self, _range: &FileRange) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Asks the kernel for file data before it is read.
pub trait Prefetch {
    /// Starts to read what lies in `range` of the disk from files, without waiting
    /// for it; ranges come in order. What cannot be is left to who reads.
    fn start(&mut self, range: Range<u64>);
}

/// Reads a disk on behalf of one thread.
pub trait Reader {
    /// Fills `buffer` with the bytes from `offset`; the range lies within the disk.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Cause>;
}

/// A range of a disk that equals a range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRange {
    /// First byte on the disk.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// First byte in the file.
    pub file_offset: u64,
    /// Which file, in the terms of the disk.
    pub file: usize,
}

/// A disk that is in memory.
impl ReadAt for Vec<u8> {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn data_ranges(&self) -> Vec<Range<u64>> {
        let whole = (!self.is_empty()).then(|| 0..ReadAt::length(self));
        whole.into_iter().collect()
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(self.as_slice())
    }
}

impl Reader for &[u8] {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Cause> {
        let from = usize::try_from(offset)?;
        let part = self.get(from..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(
            part.ok_or(io::ErrorKind::UnexpectedEof)
                .map_err(io::Error::from)?,
        );
        Ok(())
    }
}

impl ReadAt for Disk {
    fn length(&self) -> u64 {
        Disk::length(self)
    }

    fn data_ranges(&self) -> Vec<Range<u64>> {
        Disk::data_ranges(self)
            .map(|range| range.offset..range.offset + range.length)
            .collect()
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(Disk::reader(self))
    }

    fn file_ranges(&self) -> Vec<FileRange> {
        let extents = self.extents().iter().enumerate();
        extents
            .filter_map(|(file, extent)| match extent.source {
                Source::File {
                    offset: file_offset,
                    ..
                } if extent.length >= super::raw::MIN_CLONE => Some(FileRange {
                    offset: extent.offset,
                    length: extent.length,
                    file_offset,
                    file,
                }),
                _ => None,
            })
            .collect()
    }

    fn prefetch(&self) -> Option<Box<dyn Prefetch + Send + '_>> {
        let prefetch = DiskPrefetch::new(self)?;
        Some(Box::new(prefetch))
    }

    fn open(&self, range: &FileRange) -> io::Result<File> {
        let extent = self.extents().get(range.file);
        let Some(Source::File { tree, inode, .. }) = extent.map(|extent| &extent.source) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut reader = tree.reader();
        match reader.file(*inode).map_err(io::Error::other)? {
            Some(file) => Ok(File::from(file.try_clone_to_owned()?)),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Reader for DiskReader {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Cause> {
        Ok(DiskReader::read_at(self, offset, buffer)?)
    }
}

/// A disk in memory, for tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub length: u64,
    /// Sorted, not overlapping.
    pub pieces: Vec<(u64, Vec<u8>)>,
    /// Reading at or past this offset fails with EIO.
    pub broken_from: Option<u64>,
}

#[cfg(test)]
impl ReadAt for Memory {
    fn length(&self) -> u64 {
        self.length
    }

    fn data_ranges(&self) -> Vec<Range<u64>> {
        self.pieces
            .iter()
            .map(|(at, bytes)| *at..*at + bytes.len() as u64)
            .collect()
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(self)
    }
}

#[cfg(test)]
impl Reader for &Memory {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Cause> {
        let end = offset + buffer.len() as u64;
        assert!(end <= self.length, "read past the end");
        if self.broken_from.is_some_and(|from| end > from) {
            return Err(Box::new(io::Error::from_raw_os_error(libc::EIO)));
        }
        buffer.fill(0);
        for (at, bytes) in &self.pieces {
            let piece_end = at + bytes.len() as u64;
            let (from, to) = (offset.max(*at), end.min(piece_end));
            if from < to {
                buffer[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Memory {
    /// A disk with every kind of content: text, zeros inside data, noise, holes,
    /// and ends that are aligned to nothing. The same seed gives the same disk.
    pub fn sample(length: u64, seed: u64) -> Memory {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut pieces = Vec::new();
        let mut at = next() % 5000;
        while at < length {
            let size = (1 + next() % 300_000).min(length - at) as usize;
            let kind = next() % 4;
            let bytes: Vec<u8> = (0..size)
                .map(|i| match kind {
                    0 => b"the quick brown fox "[i % 20],
                    1 => next() as u8,
                    2 if i % 50_000 < 45_000 => 0,
                    2 => (i % 251) as u8,
                    _ => (next() as u8) & 0x0F,
                })
                .collect();
            pieces.push((at, bytes));
            at += size as u64;
            if next() % 2 == 0 {
                at += next() % 1_500_000;
            }
        }
        Memory {
            length,
            pieces,
            broken_from: None,
        }
    }

    /// All bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = vec![0; self.length as usize];
        let mut reader = self;
        Reader::read_at(&mut reader, 0, &mut all).unwrap();
        all
    }
}
