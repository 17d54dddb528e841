//! Writes images in `streamOptimized`.
//!
//! ```text
//! header | descriptor | (grains, their table) … | directory | footer | end
//! ```
//!
//! Threads compress grains on their own; only offsets are given in order, so the
//! file is the same for any number of threads.

use std::sync::{Mutex, PoisonError};

use uuid::Uuid;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::super::blocks::Piece;
use super::super::error::Error;
use super::super::order::InOrder;
use super::super::output::Output;
use super::super::pass::{Chunk, Worker, Writer, is_zero, lock};
use super::format::{
    COMPRESSION_DEFLATE, ENTRIES_PER_TABLE, FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINE_TEST,
    GD_AT_END, GRAIN_SECTORS, GrainMarker, Header, MAGIC, MARKER_DIRECTORY, MARKER_END,
    MARKER_FOOTER, MARKER_TABLE, MAX_SIZE, MetadataMarker, SECTOR,
};
use super::{Options, capacity, descriptor};

/// Chunks that may wait for an earlier one, for each thread.
const WINDOW_PER_THREAD: usize = 4;
/// Bytes of a grain.
const GRAIN: usize = (GRAIN_SECTORS * SECTOR) as usize;
/// Level of libdeflate that is four times as fast as zlib at the same size.
const DEFAULT_LEVEL: i32 = 1;
/// Where the first grain is, as VMware's tools have it.
const OVERHEAD: u64 = 128;

/// An image being written.
pub(crate) struct Stream<'a> {
    output: &'a Output,
    options: Options,
    capacity: u64,
    head: Vec<u8>,
    placer: Mutex<Placer>,
    order: InOrder<Grains>,
    /// Buffers to use again.
    spare: Mutex<Vec<Grains>>,
}

/// The grains of a chunk.
#[derive(Debug, Default)]
struct Grains {
    /// Number of the grain and length in `bytes`, in order.
    grains: Vec<(u64, usize)>,
    /// Markers and compressed bytes, padded to sectors.
    bytes: Vec<u8>,
}

/// The image outgrew 32-bit numbers of sectors.
struct TooLarge;

/// Assigns places. Nothing here does I/O.
#[derive(Debug)]
struct Placer {
    /// First byte that is free.
    end: u64,
    directory: Vec<u32>,
    /// The table in work, with its number.
    table: Option<(usize, Vec<u32>)>,
}

impl Placer {
    /// Takes `length` bytes and returns their sector.
    fn allocate(&mut self, length: usize) -> Result<u32, TooLarge> {
        let sector = u32::try_from(self.end / SECTOR).map_err(|_| TooLarge)?;
        self.end = self.end.checked_add(length as u64).ok_or(TooLarge)?;
        Ok(sector)
    }

    /// Places numbers behind a marker.
    fn metadata(&mut self, kind: u32, numbers: &[u32]) -> Result<(u32, Piece), TooLarge> {
        let mut body: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        body.resize(body.len().next_multiple_of(SECTOR as usize), 0);
        let mut bytes = marker(kind, body.len()).as_bytes().to_vec();
        bytes.extend(body);
        let offset = self.end;
        let sector = self.allocate(bytes.len())?;
        Ok((sector + 1, Piece { offset, bytes }))
    }

    /// Places a grain. Returns its sector and perhaps a table that is complete.
    fn grain(&mut self, grain: u64, length: usize) -> Result<(u32, Option<Piece>), TooLarge> {
        let per_table = u64::from(ENTRIES_PER_TABLE);
        let number = usize::try_from(grain / per_table).map_err(|_| TooLarge)?;
        let slot = usize::try_from(grain % per_table).map_err(|_| TooLarge)?;
        let mut complete = None;
        if self.table.as_ref().is_none_or(|(at, _)| *at != number) {
            complete = self.finish_table()?;
            self.table = Some((number, vec![0; ENTRIES_PER_TABLE as usize]));
        }
        let sector = self.allocate(length)?;
        if let Some((_, entries)) = &mut self.table {
            entries[slot] = sector;
        }
        Ok((sector, complete))
    }

    fn finish_table(&mut self) -> Result<Option<Piece>, TooLarge> {
        let Some((number, entries)) = self.table.take() else {
            return Ok(None);
        };
        let (sector, piece) = self.metadata(MARKER_TABLE, &entries)?;
        *self.directory.get_mut(number).ok_or(TooLarge)? = sector;
        Ok(Some(piece))
    }
}

fn marker(kind: u32, length: usize) -> MetadataMarker {
    MetadataMarker {
        sectors: (length as u64 / SECTOR).into(),
        kind: kind.into(),
        ..MetadataMarker::new_zeroed()
    }
}

fn header(capacity: u64, gd_offset: u64) -> Header {
    Header {
        magic: MAGIC.into(),
        version: 3.into(),
        flags: (FLAG_NEWLINE_TEST | FLAG_COMPRESSED | FLAG_MARKERS).into(),
        capacity: capacity.into(),
        grain_size: GRAIN_SECTORS.into(),
        descriptor_offset: descriptor::OFFSET.into(),
        descriptor_size: descriptor::SECTORS.into(),
        num_gtes_per_gt: ENTRIES_PER_TABLE.into(),
        gd_offset: gd_offset.into(),
        over_head: OVERHEAD.into(),
        single_end_line_char: b'\n',
        non_end_line_char: b' ',
        double_end_line_char1: b'\r',
        double_end_line_char2: b'\n',
        compress_algorithm: COMPRESSION_DEFLATE.into(),
        ..Header::new_zeroed()
    }
}

impl<'a> Stream<'a> {
    pub fn create(
        output: &'a Output,
        options: Options,
        length: u64,
        seed: &Uuid,
        threads: usize,
    ) -> Result<Stream<'a>, Error> {
        let capacity = capacity(length)?;
        let tables = capacity.div_ceil(GRAIN_SECTORS * u64::from(ENTRIES_PER_TABLE));
        let mut head = header(capacity, GD_AT_END).as_bytes().to_vec();
        head.extend(descriptor::bytes(&options, capacity, output.target(), seed));
        Ok(Stream {
            output,
            options,
            capacity,
            head,
            placer: Mutex::new(Placer {
                end: OVERHEAD * SECTOR,
                // Up to 2 TiB in tables of 32 MiB.
                directory: vec![0; usize::try_from(tables).unwrap_or(0)],
                table: None,
            }),
            order: InOrder::new(threads.saturating_mul(WINDOW_PER_THREAD)),
            spare: Mutex::default(),
        })
    }

    fn error(&self, TooLarge: TooLarge) -> Error {
        Error::TooLargeForFormat {
            format: "vmdk",
            length: self.capacity.saturating_mul(SECTOR),
            limit: MAX_SIZE,
        }
    }

    /// Assigns places to the grains of a chunk; called in order.
    fn place(&self, grains: Grains) -> Result<(Grains, Vec<u64>, Vec<Piece>), TooLarge> {
        let mut placer = lock(&self.placer);
        let mut offsets = Vec::with_capacity(grains.grains.len());
        let mut tables = Vec::new();
        for &(grain, length) in &grains.grains {
            let (sector, table) = placer.grain(grain, length)?;
            offsets.push(u64::from(sector) * SECTOR);
            tables.extend(table);
        }
        Ok((grains, offsets, tables))
    }

    /// Writes the grains of a chunk; called in any order.
    fn write(&self, placed: (Grains, Vec<u64>, Vec<Piece>)) -> Result<(), Error> {
        let (grains, offsets, tables) = placed;
        let mut bytes = &grains.bytes[..];
        let mut runs: Vec<(u64, usize)> = Vec::new();
        for (&(_, length), offset) in grains.grains.iter().zip(offsets) {
            match runs.last_mut() {
                Some((start, so_far)) if *start + *so_far as u64 == offset => *so_far += length,
                _ => runs.push((offset, length)),
            }
        }
        for (offset, length) in runs {
            let (run, rest) = bytes.split_at(length);
            self.output.write_at(run, offset)?;
            bytes = rest;
        }
        for table in tables {
            self.output.write_at(&table.bytes, table.offset)?;
        }
        lock(&self.spare).push(grains);
        Ok(())
    }
}

impl Writer for Stream<'_> {
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Error> {
        let level = self.options.level.unwrap_or(DEFAULT_LEVEL);
        let valid = libdeflater::CompressionLvl::new(level).map_err(|_| Error::Compressor {
            compressor: "zlib",
            level,
        })?;
        Ok(Box::new(Encoder {
            image: self,
            zlib: libdeflater::Compressor::new(valid),
        }))
    }

    fn stop(&self) {
        self.order.stop();
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        let mut placer = std::mem::replace(
            &mut *self.placer.lock().unwrap_or_else(PoisonError::into_inner),
            Placer {
                end: 0,
                directory: Vec::new(),
                table: None,
            },
        );
        let error = |too_large| self.error(too_large);
        let mut pieces: Vec<Piece> = Vec::new();
        pieces.extend(placer.finish_table().map_err(error)?);
        let directory = std::mem::take(&mut placer.directory);
        let (sector, piece) = placer
            .metadata(MARKER_DIRECTORY, &directory)
            .map_err(error)?;
        pieces.push(piece);
        let mut tail = marker(MARKER_FOOTER, SECTOR as usize).as_bytes().to_vec();
        tail.extend_from_slice(header(self.capacity, u64::from(sector)).as_bytes());
        tail.extend_from_slice(marker(MARKER_END, 0).as_bytes());
        pieces.push(Piece {
            offset: placer.end,
            bytes: tail,
        });
        for piece in pieces {
            self.output.write_at(&piece.bytes, piece.offset)?;
        }
        self.output.write_at(&self.head, 0)
    }
}

/// One thread's part.
struct Encoder<'a> {
    image: &'a Stream<'a>,
    zlib: libdeflater::Compressor,
}

impl Worker for Encoder<'_> {
    fn take(&mut self, chunk: Chunk<'_>) -> Result<(), Error> {
        let image = self.image;
        let mut grains = lock(&image.spare).pop().unwrap_or_default();
        grains.grains.clear();
        grains.bytes.clear();
        for (number, grain) in (chunk.offset / GRAIN as u64..).zip(chunk.bytes.chunks(GRAIN)) {
            if is_zero(grain) {
                continue;
            }
            let start = grains.bytes.len();
            let data = start + size_of::<GrainMarker>();
            let bound = self.zlib.zlib_compress_bound(grain.len());
            grains.bytes.resize(data + bound, 0);
            let length = self
                .zlib
                .zlib_compress(grain, &mut grains.bytes[data..])
                // It cannot be larger than the bound.
                .map_err(|_| image.error(TooLarge))?;
            let marker = GrainMarker {
                lba: (number * GRAIN_SECTORS).into(),
                size: u32::try_from(length)
                    .map_err(|_| image.error(TooLarge))?
                    .into(),
            };
            grains.bytes[start..data].copy_from_slice(marker.as_bytes());
            let end = (data + length - start).next_multiple_of(SECTOR as usize) + start;
            grains.bytes.truncate(data + length);
            grains.bytes.resize(end, 0);
            grains.grains.push((number, end - start));
        }
        image.order.submit(
            chunk.sequence,
            grains,
            |grains| image.place(grains).map_err(|error| image.error(error)),
            |placed| image.write(placed),
        )
    }
}
