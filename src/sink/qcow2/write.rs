//! Writes a qcow2 file from chunks that come in any order.
//!
//! Threads compress on their own; only the assignment of offsets happens in
//! order, so the file is the same for any number of threads.

use std::sync::Mutex;

use super::super::error::Error;
use super::super::order::InOrder;
use super::super::output::Output;
use super::super::pass::{Chunk, Worker, Writer, is_zero, lock};
use super::compress::Compressor;
use super::options::Options;
use super::place::{Placer, Stored, Table, TooLarge};

/// Chunks that may wait for an earlier one, for each thread.
const WINDOW_PER_THREAD: usize = 4;

/// A qcow2 image being written.
pub(crate) struct Qcow2<'a> {
    output: &'a Output,
    options: Options,
    length: u64,
    placer: Mutex<Placer>,
    order: InOrder<Encoded>,
    /// Buffers to use again.
    spare: Mutex<Vec<Encoded>>,
}

/// The clusters of a chunk, ready to be written.
#[derive(Debug, Default)]
struct Encoded {
    /// Guest cluster number and length in `bytes`, in order.
    clusters: Vec<(u64, Stored)>,
    /// What is stored of all of them, one after the other, up to `used`. The rest
    /// stays for the next chunk: to clear it for each takes a tenth of the time.
    bytes: Vec<u8>,
    used: usize,
}

/// A chunk whose clusters have places.
struct Placed {
    encoded: Encoded,
    /// Offset in the file and length of runs of `encoded.bytes`.
    runs: Vec<(u64, usize)>,
    tables: Vec<Table>,
}

impl<'a> Qcow2<'a> {
    /// For a disk of `length` bytes, written by `threads` threads.
    pub fn create(
        output: &'a Output,
        options: Options,
        length: u64,
        threads: usize,
    ) -> Result<Qcow2<'a>, Error> {
        let placer =
            Placer::new(options, length).map_err(|TooLarge| too_large(&options, length))?;
        Ok(Qcow2 {
            output,
            options,
            length,
            placer: Mutex::new(placer),
            order: InOrder::new(threads.saturating_mul(WINDOW_PER_THREAD)),
            spare: Mutex::new(Vec::new()),
        })
    }

    /// Assigns places to the clusters of a chunk; called in order.
    fn place(&self, encoded: Encoded) -> Result<Placed, TooLarge> {
        let mut placer = lock(&self.placer);
        let mut runs: Vec<(u64, usize)> = Vec::new();
        let mut tables = Vec::new();
        for &(cluster, stored) in &encoded.clusters {
            let (offset, table) = placer.place(cluster, stored)?;
            tables.extend(table);
            let length = match stored {
                Stored::Plain => self.options.cluster_size as usize,
                Stored::Compressed(length) => usize::try_from(length).map_err(|_| TooLarge)?,
            };
            match runs.last_mut() {
                Some((start, so_far)) if *start + *so_far as u64 == offset => *so_far += length,
                _ => runs.push((offset, length)),
            }
        }
        Ok(Placed {
            encoded,
            runs,
            tables,
        })
    }

    /// Writes the clusters of a chunk; called in any order.
    fn write(&self, placed: Placed) -> Result<(), Error> {
        let mut bytes = &placed.encoded.bytes[..placed.encoded.used];
        for (offset, length) in placed.runs {
            let (run, rest) = bytes.split_at(length);
            self.output.write_at(run, offset)?;
            bytes = rest;
        }
        for table in placed.tables {
            self.output.write_at(&table.bytes, table.offset)?;
        }
        lock(&self.spare).push(placed.encoded);
        Ok(())
    }
}

impl Writer for Qcow2<'_> {
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Error> {
        Ok(Box::new(Encoder {
            image: self,
            compressor: Compressor::new(&self.options)?,
        }))
    }

    fn stop(&self) {
        self.order.stop();
    }

    /// The header comes last.
    fn finish(self: Box<Self>) -> Result<(), Error> {
        let Qcow2 {
            output,
            options,
            length,
            placer,
            ..
        } = *self;
        let placer = placer
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (tables, header, end) = placer
            .finish()
            .map_err(|TooLarge| too_large(&options, length))?;
        for table in tables {
            output.write_at(&table.bytes, table.offset)?;
        }
        // Readers round compressed clusters up to sectors and tables to clusters.
        output.set_length(end)?;
        output.write_at(&header.bytes, header.offset)
    }
}

/// One thread's part.
struct Encoder<'a> {
    image: &'a Qcow2<'a>,
    compressor: Compressor,
}

impl Worker for Encoder<'_> {
    fn take(&mut self, chunk: Chunk<'_>) -> Result<(), Error> {
        let image = self.image;
        let cluster_size = u64::from(image.options.cluster_size);
        let mut encoded = lock(&image.spare).pop().unwrap_or_default();
        encoded.clusters.clear();
        encoded.used = 0;
        // Nothing is stored longer than it is.
        if encoded.bytes.len() < chunk.bytes.len() {
            encoded.bytes.resize(chunk.bytes.len(), 0);
        }
        let first = chunk.offset / cluster_size;
        let clusters = chunk.bytes.chunks(image.options.cluster_size as usize);
        for (number, cluster) in (first..).zip(clusters) {
            if is_zero(cluster) {
                continue;
            }
            let space = &mut encoded.bytes[encoded.used..];
            let stored = match self.compressor.compress(cluster, space) {
                Some(length) => {
                    encoded.used += length;
                    Stored::Compressed(length as u64)
                }
                None => {
                    space[..cluster.len()].copy_from_slice(cluster);
                    encoded.used += cluster.len();
                    Stored::Plain
                }
            };
            encoded.clusters.push((number, stored));
        }
        image.order.submit(
            chunk.sequence,
            encoded,
            |encoded| {
                image
                    .place(encoded)
                    .map_err(|TooLarge| too_large(&image.options, image.length))
            },
            |placed| image.write(placed),
        )
    }
}

fn too_large(options: &Options, length: u64) -> Error {
    Error::DiskTooLarge {
        length,
        cluster_size: u64::from(options.cluster_size),
    }
}
