//! What an archive is written to, from start to end.

use std::io::{self, Write as _};

use super::{BLOCK, Form};
use crate::sink::checksum::{Checksums, Digests, Hasher};
use crate::sink::error::Error;
use crate::sink::gzip::GzipWriter;
use crate::sink::output::{Output, WRITE_SIZE};

/// Level of gzip. DIB's `gzip -9` takes three times as long for 1 % less.
const GZIP_LEVEL: u32 = 6;

/// Writes in order, in units that the page cache takes best.
pub(super) struct Stream<'a> {
    target: Target<'a>,
    /// Bytes so far, those in the buffer too.
    pub(super) offset: u64,
    buffer: Box<[u8]>,
    /// Bytes of the buffer that are not written yet.
    used: usize,
}

/// Where an archive goes.
enum Target<'a> {
    Plain(Box<Sequential<'a>>),
    Gzip(Box<GzipWriter<Sequential<'a>>>),
}

/// An output that is written from start to end.
struct Sequential<'a> {
    output: &'a Output,
    offset: u64,
    hasher: Hasher,
    /// What failed, which the compressor cannot hand on.
    error: Option<Error>,
}

impl io::Write for Sequential<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        if let Err(error) = self.output.write_at(bytes, self.offset) {
            self.error = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sequential<'_> {
    /// The error behind a failure of the compressor's.
    fn failure(&mut self, source: io::Error) -> Error {
        let error = self.error.take();
        error.unwrap_or_else(|| self.output.write_error(source))
    }
}

impl<'a> Stream<'a> {
    pub(super) fn new(output: &'a Output, form: Form, checksums: Checksums, at: u64) -> Stream<'a> {
        let buffer = vec![0; WRITE_SIZE].into();
        let sequential = Sequential {
            output,
            offset: at,
            hasher: Hasher::new(checksums),
            error: None,
        };
        let target = match form {
            Form::Plain => Target::Plain(Box::new(sequential)),
            Form::Gzip => Target::Gzip(Box::new(GzipWriter::new(sequential, GZIP_LEVEL))),
        };
        Stream {
            target,
            offset: 0,
            buffer,
            used: 0,
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let bytes = &self.buffer[..self.used];
        let result = match &mut self.target {
            Target::Plain(file) => file.write_all(bytes),
            Target::Gzip(encoder) => encoder.write_all(bytes),
        };
        result.map_err(|source| {
            let file = match &mut self.target {
                Target::Plain(file) => file,
                Target::Gzip(encoder) => encoder.get_mut(),
            };
            file.failure(source)
        })?;
        self.used = 0;
        Ok(())
    }

    /// Writes what is left and returns the digests of the file.
    pub(super) fn finish(mut self) -> Result<Digests, Error> {
        self.flush()?;
        match self.target {
            Target::Plain(file) => Ok(file.hasher.finish()),
            Target::Gzip(mut encoder) => {
                encoder
                    .finish()
                    .map_err(|source| encoder.get_mut().failure(source))?;
                let hasher = std::mem::take(&mut encoder.get_mut().hasher);
                Ok(hasher.finish())
            }
        }
    }

    /// Room for the next bytes, never empty; they count after [`Stream::wrote`].
    pub(super) fn space(&mut self) -> Result<&mut [u8], Error> {
        if self.used == self.buffer.len() {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.used..])
    }

    /// Counts bytes that were put into [`Stream::space`].
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.used += bytes;
        self.offset += bytes as u64;
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let part = space.len().min(bytes.len());
            space[..part].copy_from_slice(&bytes[..part]);
            self.wrote(part);
            bytes = &bytes[part..];
        }
        Ok(())
    }

    pub(super) fn zeros(&mut self, count: u64) -> Result<(), Error> {
        let mut left = count;
        while left > 0 {
            let space = self.space()?;
            let part = usize::try_from(left).map_or(space.len(), |left| left.min(space.len()));
            space[..part].fill(0);
            self.wrote(part);
            left -= part as u64;
        }
        Ok(())
    }

    pub(super) fn pad(&mut self) -> Result<(), Error> {
        self.zeros(self.offset.next_multiple_of(BLOCK) - self.offset)
    }
}
