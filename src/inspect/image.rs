//! A disk image that is open for reading.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use super::decompress::Decompressor;
use super::map::{Map, Piece, Place};
use crate::sink::{Cause, FileRange, ReadAt, Reader};

/// File ranges shorter than this are not worth sharing.
const MIN_SHARED: u64 = 128 << 10;

/// A disk image: its bytes can be read in any order by many threads.
#[derive(Debug)]
pub struct Image {
    pub(super) file: File,
    /// Length of the file when it was opened, in bytes.
    pub(super) file_length: u64,
    pub(super) format: &'static str,
    pub(super) map: Map,
}

/// A compressed part of an image is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("the image is damaged at byte {offset}: what is compressed there cannot be decompressed")]
pub struct BadCompression {
    /// Where in the file.
    pub offset: u64,
}

/// An image has fewer bytes than when it was opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "the image shrank from {expected} to {end} bytes while it was read; keep it unchanged until it has been read"
)]
pub struct Shrunk {
    /// Its length when it was opened, in bytes.
    pub expected: u64,
    /// Where it ends now, in bytes.
    pub end: u64,
}

impl Image {
    /// Name of its format.
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// Reads until the buffer is full or the file ends; the rest stays as it is.
    ///
    /// # Errors
    /// The file cannot be read, or ends before where it ended when it was opened: what
    /// is gone would pass for zeros.
    fn fill(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<(), Cause> {
        while !buffer.is_empty() {
            match self.file.read_at(buffer, offset) {
                Ok(0) if offset < self.file_length => {
                    return Err(Box::new(Shrunk {
                        expected: self.file_length,
                        end: self.file.metadata()?.len(),
                    }));
                }
                Ok(0) => return Ok(()),
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl ReadAt for Image {
    fn length(&self) -> u64 {
        self.map.length
    }

    fn data_ranges(&self) -> Vec<Range<u64>> {
        self.map.ranges()
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(ImageReader {
            image: self,
            decompressor: Decompressor::default(),
            stored: Vec::new(),
            unit: Vec::new(),
            unit_at: None,
        })
    }

    fn file_ranges(&self) -> Vec<FileRange> {
        let pieces = self.map.pieces().iter();
        pieces
            .filter_map(|piece| match piece.place {
                Place::Plain(file_offset) if piece.length >= MIN_SHARED => Some(FileRange {
                    offset: piece.start,
                    length: piece.length,
                    file_offset,
                    file: 0,
                }),
                _ => None,
            })
            .collect()
    }

    fn open(&self, _range: &FileRange) -> io::Result<File> {
        self.file.try_clone()
    }
}

/// Reads an image on behalf of one thread.
struct ImageReader<'a> {
    image: &'a Image,
    decompressor: Decompressor,
    stored: Vec<u8>,
    /// The unit that was decompressed last, and where it begins on the disk.
    unit: Vec<u8>,
    unit_at: Option<u64>,
}

impl ImageReader<'_> {
    /// Decompresses the unit of a piece.
    fn load(&mut self, piece: &Piece, offset: u64, stored: u32) -> Result<(), Cause> {
        if self.unit_at == Some(piece.start) {
            return Ok(());
        }
        self.unit_at = None;
        let map = &self.image.map;
        let bad = || Box::new(BadCompression { offset });
        self.stored.resize(usize::try_from(stored)?, 0);
        self.unit.resize(usize::try_from(map.unit)?, 0);
        self.image.fill(&mut self.stored, offset)?;
        // QEMU stores of a VMDK's last grain what lies on the disk. Pieces end there too.
        let least = usize::try_from(piece.length)?;
        self.decompressor
            .decompress(map.method, &self.stored, &mut self.unit)
            .filter(|&length| length >= least)
            .ok_or_else(bad)?;
        self.unit_at = Some(piece.start);
        Ok(())
    }
}

impl Reader for ImageReader<'_> {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Cause> {
        buffer.fill(0);
        let end = offset.saturating_add(buffer.len() as u64);
        let image = self.image;
        for piece in image.map.from(offset) {
            if piece.start >= end {
                break;
            }
            let start = offset.max(piece.start);
            let stop = end.min(piece.start + piece.length);
            let within = start - piece.start;
            let part =
                &mut buffer[usize::try_from(start - offset)?..usize::try_from(stop - offset)?];
            match piece.place {
                Place::Plain(at) => image.fill(part, at.saturating_add(within))?,
                Place::Compressed { offset, stored } => {
                    self.load(piece, offset, stored)?;
                    let from = usize::try_from(within)?;
                    part.copy_from_slice(&self.unit[from..from + part.len()]);
                }
            }
        }
        Ok(())
    }
}

/// Ranges of a file that are not holes.
pub(super) fn data_ranges(file: &File, length: u64) -> Vec<Range<u64>> {
    let seek = |from: u64, whence| -> io::Result<u64> {
        let from = libc::off_t::try_from(from).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open; lseek touches no memory.
        let found = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
        u64::try_from(found).map_err(|_| io::Error::last_os_error())
    };
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match seek(at, libc::SEEK_DATA) {
            Ok(start) => start,
            // A hole up to the end.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => break,
            // No filesystem that knows holes: all is data.
            Err(_) => at,
        };
        let end = seek(start, libc::SEEK_HOLE).unwrap_or(length).min(length);
        if start >= end {
            break;
        }
        ranges.push(start..end);
        at = end;
    }
    ranges
}
