//! Writes gzip ([RFC 1952]) on all processors.
//!
//! The data is cut into pieces, which are compressed each on its own and make one
//! deflate stream together: all but the last end with an empty stored block, which
//! fills the last byte (RFC 1951, 3.2.4). So there is one member, as kernels want an
//! initramfs, and the bytes do not depend on the number of threads.
//!
//! [RFC 1952]: https://www.rfc-editor.org/rfc/rfc1952

use std::io::{self, Write};
use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::{Compress, Compression, FlushCompress};

/// Bytes that are compressed together.
const PIECE: usize = 1 << 20;
/// Bytes before a piece that matches may reach back to.
const WINDOW: usize = 1 << 15;
/// Pieces that are collected for each thread before all of them start.
const PIECES_PER_THREAD: usize = 2;
/// Magic number, deflate, no flags, no time, no hint at the level, Unix.
const HEADER: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3];

/// Compresses what is written to it. Nothing is complete before
/// [`finish`](GzipWriter::finish).
pub struct GzipWriter<W> {
    out: W,
    level: Compression,
    threads: usize,
    /// Not compressed yet; all but the last have [`PIECE`] bytes.
    pieces: Vec<Vec<u8>>,
    /// The end of the piece before them.
    before: Vec<u8>,
    has_header: bool,
    checksum: crc32fast::Hasher,
    /// Bytes so far, modulo 2^32.
    length: u32,
}

/// A piece that is compressed.
struct Done {
    bytes: Vec<u8>,
    checksum: crc32fast::Hasher,
    /// Bytes that it was before.
    length: usize,
}

impl<W: Write> GzipWriter<W> {
    /// Compresses with a level from 0 (not at all) to 9, as those of gzip.
    pub fn new(out: W, level: u32) -> GzipWriter<W> {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        GzipWriter::with_threads(out, level, threads)
    }

    /// The same on so many threads, at least one.
    pub fn with_threads(out: W, level: u32, threads: usize) -> GzipWriter<W> {
        GzipWriter {
            out,
            level: Compression::new(level.min(9)),
            threads: threads.max(1),
            pieces: Vec::new(),
            before: Vec::new(),
            has_header: false,
            checksum: crc32fast::Hasher::new(),
            length: 0,
        }
    }

    /// What the compressed data goes to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Writes all that is left.
    ///
    /// # Errors
    /// Writing failed.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.pieces.is_empty() {
            self.pieces.push(Vec::new());
        }
        self.compress(true)?;
        let checksum = std::mem::take(&mut self.checksum).finalize();
        self.out.write_all(&checksum.to_le_bytes())?;
        self.out.write_all(&self.length.to_le_bytes())?;
        self.out.flush()
    }

    /// Compresses and writes all pieces, the last of which may end the stream.
    fn compress(&mut self, is_end: bool) -> io::Result<()> {
        if !self.has_header {
            self.out.write_all(&HEADER)?;
            self.has_header = true;
        }
        let (level, count) = (self.level, self.pieces.len());
        let (pieces, before) = (&self.pieces, &self.before);
        let results: Vec<OnceLock<io::Result<Done>>> =
            pieces.iter().map(|_| OnceLock::new()).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let (Some(piece), Some(result)) = (pieces.get(at), results.get(at)) else {
                    return;
                };
                let before = match at.checked_sub(1) {
                    Some(at) => window(&pieces[at]),
                    None => before,
                };
                result.get_or_init(|| deflate(before, piece, level, is_end && at + 1 == count));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.min(count) {
                // Without it this thread does all that there is.
                let _ = std::thread::Builder::new()
                    .name("gzip".to_owned())
                    .spawn_scoped(scope, work);
            }
            work();
        });
        for done in results.into_iter().filter_map(OnceLock::into_inner) {
            let done = done?;
            self.out.write_all(&done.bytes)?;
            self.checksum.combine(&done.checksum);
            self.length = self.length.wrapping_add(done.length as u32);
        }
        if let Some(last) = self.pieces.drain(..).next_back() {
            self.before = window(&last).to_vec();
        }
        Ok(())
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_full = |piece: &Vec<u8>| piece.len() == PIECE;
        if self.pieces.last().is_none_or(is_full) {
            if self.pieces.len() == self.threads * PIECES_PER_THREAD {
                self.compress(false)?;
            }
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let Some(piece) = self.pieces.last_mut() else {
            return Ok(0);
        };
        let part = bytes.len().min(PIECE - piece.len());
        piece.extend_from_slice(&bytes[..part]);
        Ok(part)
    }

    /// Does nothing: a piece that ended early would make the bytes depend on it.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The part of a piece that the next one can refer to.
fn window(piece: &[u8]) -> &[u8] {
    &piece[piece.len().saturating_sub(WINDOW)..]
}

/// Compresses a piece that comes after others; unless it is the last, to whole bytes
/// and without an end.
fn deflate(before: &[u8], piece: &[u8], level: Compression, is_last: bool) -> io::Result<Done> {
    let mut compressor = Compress::new(level, false);
    if !before.is_empty() {
        compressor
            .set_dictionary(before)
            .map_err(io::Error::other)?;
    }
    let flush = if is_last {
        FlushCompress::Finish
    } else {
        FlushCompress::Sync
    };
    let mut bytes = Vec::with_capacity(piece.len() / 2);
    loop {
        // It only ever writes into room that is there.
        bytes.reserve(64 << 10);
        let read = usize::try_from(compressor.total_in()).unwrap_or(piece.len());
        let room = bytes.capacity() - bytes.len();
        let before = bytes.len();
        let status = compressor
            .compress_vec(&piece[read..], &mut bytes, flush)
            .map_err(io::Error::other)?;
        let is_done = match flush {
            FlushCompress::Finish => status == flate2::Status::StreamEnd,
            _ => bytes.len() - before < room,
        };
        if is_done {
            break;
        }
    }
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(piece);
    Ok(Done {
        bytes,
        checksum,
        length: piece.len(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn compressed(data: &[u8], level: u32, threads: usize) -> Vec<u8> {
        let mut writer = GzipWriter::with_threads(Vec::new(), level, threads);
        for part in data.chunks(70_001) {
            writer.write_all(part).unwrap();
        }
        writer.finish().unwrap();
        writer.out
    }

    /// Bytes of which some repeat.
    fn data(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 44
        };
        let words = std::iter::from_fn(|| Some(format!("{:x} ", next() % 5000).into_bytes()));
        words.flatten().take(length).collect()
    }

    #[test]
    fn one_member_comes_back_whatever_the_length_and_the_threads() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 4 * PIECE, 5 * PIECE + 7] {
            let data = data(length);
            let mut once = None;
            for threads in [1, 2, 5] {
                let bytes = compressed(&data, 6, threads);
                let mut read = Vec::new();
                // Of several members it would only read the first.
                let mut decoder = flate2::bufread::GzDecoder::new(bytes.as_slice());
                decoder.read_to_end(&mut read).unwrap();
                assert!(read == data, "{length} bytes, {threads} threads");
                assert!(decoder.into_inner().is_empty());
                assert!(*once.get_or_insert_with(|| bytes.clone()) == bytes);
            }
        }
    }

    #[test]
    fn levels_are_those_of_gzip() {
        let data = data(200_000);
        let [none, fast, best] = [0, 1, 9].map(|level| compressed(&data, level, 1).len());
        assert!(best < fast && fast < none && none > data.len());
    }

    #[test]
    fn errors_of_the_output_are_handed_on() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writer = GzipWriter::with_threads(Full, 6, 2);
        let written = writer.write_all(&data(6 * PIECE));
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
        let finished = GzipWriter::with_threads(Full, 6, 2).finish();
        assert_eq!(finished.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
