//! The bytes of an archive, in order.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::path::Path;

use super::Error;
use super::header::{BLOCK, BLOCK_SIZE};

/// Longest extended header, and longest name in GNU's form, in bytes.
const MAX_EXTENDED: u64 = 16 << 20;

/// The archive's bytes, in order.
pub(super) struct Input<'a> {
    pub(super) path: &'a Path,
    /// Bytes that were read or skipped, of the uncompressed archive.
    pub(super) at: u64,
    pub(super) bytes: Bytes<'a>,
}

pub(super) enum Bytes<'a> {
    /// Data is used where it is.
    File {
        reader: BufReader<File>,
        length: u64,
    },
    /// Data is copied.
    Stream {
        stream: Stream,
        spool: File,
        spooled: u64,
        directory: &'a Path,
    },
}

/// A stream that takes back the block that was read last.
pub(super) struct Stream {
    stream: Box<dyn Read>,
    /// What is at its end tells whether all of it was right.
    has_checksum: bool,
    back: Vec<u8>,
    /// Bytes at the end of `back` that come before those of the stream.
    left: usize,
}

impl Stream {
    pub(super) fn new(stream: Box<dyn Read>, has_checksum: bool) -> Stream {
        Stream {
            stream,
            has_checksum,
            back: Vec::new(),
            left: 0,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return self.stream.read(buffer);
        }
        let count = (&self.back[self.back.len() - self.left..]).read(buffer)?;
        self.left -= count;
        Ok(count)
    }
}

/// The members of a gzip file, one after the other.
///
/// What follows the last one and is none is not looked at, as gzip does: tapes and block
/// devices fill their last block.
pub(super) struct Gzip<R> {
    member: Option<flate2::bufread::GzDecoder<R>>,
}

impl<R: BufRead> Gzip<R> {
    pub(super) fn new(file: R) -> Gzip<R> {
        Gzip {
            member: Some(flate2::bufread::GzDecoder::new(file)),
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            // The member ended, and its checksum was right.
            let ended = self.member.take();
            if let Some(mut rest) = ended.map(flate2::bufread::GzDecoder::into_inner)
                && matches!(rest.fill_buf()?, [0x1F] | [0x1F, 0x8B, ..])
            {
                self.member = Some(flate2::bufread::GzDecoder::new(rest));
            }
        }
        Ok(0)
    }
}

impl Input<'_> {
    /// Reads what compressed bytes are left behind the archive's end, so that damage
    /// within it does not go unnoticed: checksums come last.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        let Bytes::Stream { stream, .. } = &mut self.bytes else {
            return Ok(());
        };
        if !stream.has_checksum {
            return Ok(());
        }
        let read = io::copy(stream, &mut io::sink());
        read.map(drop).map_err(|error| self.failed(error))
    }

    pub(super) fn damaged(&self, problem: &'static str) -> Error {
        Error::Damaged {
            path: self.path.to_owned(),
            offset: self.at,
            problem,
        }
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Read {
            path: self.path.to_owned(),
            source,
        }
    }

    /// Reads as much as there is, up to the buffer's length.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            let read = match &mut self.bytes {
                Bytes::File { reader, .. } => reader.read(&mut buffer[filled..]),
                Bytes::Stream { stream, .. } => stream.read(&mut buffer[filled..]),
            };
            match read {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.at += filled as u64;
        Ok(filled)
    }

    /// The next block; `None` at the archive's end.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK_SIZE]>, Error> {
        let mut block = [0; BLOCK_SIZE];
        match self.fill(&mut block)? {
            0 => Ok(None),
            BLOCK_SIZE => Ok(Some(block)),
            count => {
                self.at -= count as u64;
                Err(self.damaged("it ends within a block"))
            }
        }
    }

    /// The block that comes next, which is read again then.
    pub(super) fn peek(&mut self) -> Result<Option<[u8; BLOCK_SIZE]>, Error> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        self.at -= BLOCK;
        match &mut self.bytes {
            Bytes::File { reader, .. } => {
                let back = reader.seek_relative(-(BLOCK_SIZE as i64));
                back.map_err(|error| self.failed(error))?;
            }
            Bytes::Stream { stream, .. } => {
                stream.back = block.to_vec();
                stream.left = BLOCK_SIZE;
            }
        }
        Ok(Some(block))
    }

    /// Reads `length` bytes and the padding that follows.
    pub(super) fn extended(&mut self, length: u64) -> Result<Vec<u8>, Error> {
        if length > MAX_EXTENDED {
            return Err(self.damaged("an extended header is larger than 16 MiB"));
        }
        let padded = length.next_multiple_of(BLOCK);
        let mut bytes = Vec::new();
        // Grows with what is there, not with what a header claims.
        while (bytes.len() as u64) < padded {
            let block = self.block()?;
            let block = block.ok_or_else(|| self.damaged("it ends within an extended header"))?;
            bytes.extend_from_slice(&block);
        }
        bytes.truncate(usize::try_from(length).unwrap_or(0));
        Ok(bytes)
    }

    /// Passes `length` bytes of data and the padding that follows; returns where
    /// they can be read.
    pub(super) fn data(&mut self, length: u64) -> Result<u64, Error> {
        let cut_off = "it ends within a file";
        let padded = length
            .checked_next_multiple_of(BLOCK)
            .filter(|padded| self.at.checked_add(*padded).is_some());
        let Some(padded) = padded else {
            return Err(self.damaged("a file is larger than any can be"));
        };
        match &mut self.bytes {
            Bytes::File {
                reader,
                length: end,
            } => {
                let start = self.at;
                // The last file's padding may be missing.
                if start + length > *end {
                    return Err(self.damaged(cut_off));
                }
                let skipped = i64::try_from(padded).map_err(|_| io::ErrorKind::InvalidInput.into());
                let skipped = skipped.and_then(|padded| reader.seek_relative(padded));
                skipped.map_err(|error| self.failed(error))?;
                self.at += padded;
                Ok(start)
            }
            Bytes::Stream {
                stream,
                spool,
                spooled,
                directory,
            } => {
                let start = *spooled;
                let mut left = length;
                let mut buffer = vec![0; 128 << 10];
                while left > 0 {
                    let wanted = buffer
                        .len()
                        .min(usize::try_from(left).unwrap_or(usize::MAX));
                    let count = match stream.read(&mut buffer[..wanted]) {
                        Ok(0) => return Err(self.damaged(cut_off)),
                        Ok(count) => count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => return Err(self.failed(error)),
                    };
                    let written = spool.write_all(&buffer[..count]);
                    written.map_err(|source| Error::Spool {
                        path: self.path.to_owned(),
                        directory: directory.to_owned(),
                        source,
                    })?;
                    *spooled += count as u64;
                    self.at += count as u64;
                    left -= count as u64;
                }
                let mut padding = [0; BLOCK_SIZE];
                let padding = &mut padding[..usize::try_from(padded - length).unwrap_or(0)];
                self.fill(padding)?;
                Ok(start)
            }
        }
    }
}
