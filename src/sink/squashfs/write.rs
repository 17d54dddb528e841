//! The writer: data blocks in one parallel pass, then inodes, listings and tables.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use zerocopy::IntoBytes as _;

use super::format::{self, BLOCK_SIZE, DATA_PLAIN, NO_TABLE};
use super::metadata::{Place, table};
use super::tables::Tables;
use super::xattrs::XattrSets;
use super::{Compression, Compressor};
use crate::sink::error::Error;
use crate::sink::output::Output;
use crate::sink::pass::{is_zero, lock};
use crate::threads::begin;
use crate::tree::{Content, InodeId, Kind, Reader, Timestamp, Tree};

/// Blocks that each thread gets at once; what is compressed waits for those before it.
const BATCH: usize = 8;
/// Blocks of all files together, those of holes too: 8 TiB. Each takes 4 bytes of memory and of the
/// table of inodes, however little is in it, so that a few bytes of an archive could ask for any
/// amount.
const MAX_BLOCKS: u64 = 1 << 26;
/// The file is padded to this, so that a loop device shows all of it.
const PADDING: u64 = 4096;

/// A range of a file.
#[derive(Debug, Clone, Copy)]
struct Piece {
    inode: InodeId,
    offset: u64,
    length: usize,
}

/// What is compressed as one block.
#[derive(Debug)]
enum Job {
    /// A block of a file.
    Block(Piece),
    /// The ends of several files.
    Fragment(Vec<Piece>),
}

/// Where the data of an inode is.
#[derive(Debug, Clone, Default)]
pub(super) struct Place64 {
    /// Where the first block with data is; nothing of a hole is written.
    pub(super) start: Option<u64>,
    /// Sizes as the tables give them; 0 is a hole.
    pub(super) blocks: Vec<u32>,
    /// Bytes in holes.
    pub(super) sparse: u64,
    /// Number of the fragment and the offset in it.
    pub(super) fragment: Option<(u32, u32)>,
}

/// A block, ready to be written.
struct Ready {
    bytes: Vec<u8>,
    /// As the tables give it; 0 is a hole.
    size: u32,
}

/// Writes the tree to the output. `progress` gets bytes of file data so far.
/// Returns what the image does not hold as the tree does.
pub(crate) fn write(
    tree: &Arc<Tree>,
    output: &Output,
    compression: Compression,
    time: Timestamp,
    threads: usize,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<String>, Error> {
    let (jobs, mut places) = plan(tree)?;
    let mut offset = size_of::<format::SuperBlock>() as u64;
    let fragments = data(
        tree,
        output,
        compression,
        threads,
        &jobs,
        &mut places,
        &mut offset,
        progress,
    )?;
    let mut compressor = Compressor::new(compression)?;
    let mut warnings = Vec::new();
    let xattrs = XattrSets::collect(tree, &mut warnings);
    let mut writer = Tables {
        tree,
        places,
        xattrs: &xattrs,
        ids: BTreeMap::new(),
        inode_places: vec![Place::default(); tree.inodes().len()],
    };
    let (inodes, listings, root) = writer.inodes(compression)?;
    let mut at = |bytes: &[u8]| -> Result<u64, Error> {
        let start = offset;
        output.write_at(bytes, start)?;
        offset += bytes.len() as u64;
        Ok(start)
    };
    let inode_table_start = at(&inodes)?;
    let directory_table_start = at(&listings)?;
    let end = directory_table_start + listings.len() as u64;
    let entries: Vec<u8> = fragments
        .iter()
        .flat_map(|entry| entry.as_bytes().to_vec())
        .collect();
    let (bytes, index) = table(&mut compressor, &entries, end);
    let fragment_table_start = at(&bytes)? + index;
    let end = end + bytes.len() as u64;
    let ids = writer.id_table();
    let (bytes, index) = table(&mut compressor, &ids, end);
    let id_table_start = at(&bytes)? + index;
    let end = end + bytes.len() as u64;
    let xattr_id_table_start = match xattrs.table(&mut compressor, end) {
        Some((bytes, header)) => at(&bytes)? + header,
        None => NO_TABLE,
    };
    let superblock = format::SuperBlock {
        s_magic: format::MAGIC.into(),
        inodes: small(tree.inodes().len()).into(),
        mkfs_time: seconds(time).into(),
        block_size: small(BLOCK_SIZE).into(),
        fragments: small(fragments.len()).into(),
        compression: compression.id().into(),
        block_log: format::BLOCK_LOG.into(),
        flags: if xattr_id_table_start == NO_TABLE {
            format::FLAG_NO_XATTRS.into()
        } else {
            0.into()
        },
        no_ids: u16::try_from(writer.ids.len()).unwrap_or(u16::MAX).into(),
        s_major: 4.into(),
        s_minor: 0.into(),
        root_inode: root.reference().into(),
        bytes_used: offset.into(),
        id_table_start: id_table_start.into(),
        xattr_id_table_start: xattr_id_table_start.into(),
        inode_table_start: inode_table_start.into(),
        directory_table_start: directory_table_start.into(),
        fragment_table_start: fragment_table_start.into(),
        lookup_table_start: NO_TABLE.into(),
    };
    output.write_at(superblock.as_bytes(), 0)?;
    output.set_length(offset.next_multiple_of(PADDING))?;
    Ok(warnings)
}

/// Numbers and sizes here are bounded by the tree's 32-bit indices.
pub(super) fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Seconds of a time; what the format cannot tell is its nearest end.
pub(super) fn seconds(time: Timestamp) -> u32 {
    u32::try_from(time.seconds.max(0)).unwrap_or(u32::MAX)
}

/// Decides where the data of every file goes.
fn plan(tree: &Tree) -> Result<(Vec<Job>, Vec<Place64>), Error> {
    let mut jobs = Vec::new();
    let mut places = vec![Place64::default(); tree.inodes().len()];
    let mut open: Vec<Piece> = Vec::new();
    let mut filled = 0;
    let mut number = 0u32;
    let mut blocks = 0u64;
    for (id, inode) in tree.inodes() {
        let Kind::File(content) = &inode.kind else {
            continue;
        };
        let (size, block) = (content.size, BLOCK_SIZE as u64);
        if size >= block {
            let count = size.div_ceil(block);
            blocks = blocks.saturating_add(count);
            if blocks > MAX_BLOCKS {
                return Err(Error::Unarchivable {
                    path: tree.path_of_inode(id),
                    why: "squashfs keeps a list of the blocks of files, holes too, and with this \
                          one there are more than 8 TiB of them",
                });
            }
            let place = &mut places[id.index()];
            place.blocks = vec![0; usize::try_from(count).unwrap_or(0)];
            place.sparse = size;
            for at in blocks_with_data(content) {
                let offset = at * block;
                let length = BLOCK_SIZE.min(usize::try_from(size - offset).unwrap_or(BLOCK_SIZE));
                place.sparse -= length as u64;
                jobs.push(Job::Block(Piece {
                    inode: id,
                    offset,
                    length,
                }));
            }
        } else if size > 0 {
            let length = usize::try_from(size).unwrap_or(BLOCK_SIZE);
            if filled + length > BLOCK_SIZE {
                jobs.push(Job::Fragment(std::mem::take(&mut open)));
                number += 1;
                filled = 0;
            }
            places[id.index()].fragment = Some((number, small(filled)));
            open.push(Piece {
                inode: id,
                offset: 0,
                length,
            });
            filled += length;
        }
    }
    if !open.is_empty() {
        jobs.push(Job::Fragment(open));
    }
    Ok((jobs, places))
}

/// Numbers of the blocks of a file that are not all hole, in order.
fn blocks_with_data(content: &Content) -> impl Iterator<Item = u64> + '_ {
    let block = BLOCK_SIZE as u64;
    let mut next = 0;
    content.ranges().flat_map(move |range| {
        let end = range.offset.saturating_add(range.length).min(content.size);
        let first = next.max(range.offset / block);
        next = next.max(end.div_ceil(block));
        first..next
    })
}

/// A thread's own tools.
struct Worker {
    reader: Reader,
    compressor: Compressor,
    buffer: Vec<u8>,
}

impl Worker {
    fn run(&mut self, job: &Job) -> Result<Ready, Error> {
        let pieces = match job {
            Job::Block(piece) => std::slice::from_ref(piece),
            Job::Fragment(pieces) => pieces,
        };
        self.buffer.clear();
        for piece in pieces {
            let start = self.buffer.len();
            self.buffer.resize(start + piece.length, 0);
            let space = &mut self.buffer[start..];
            match self.reader.read_at(piece.inode, piece.offset, space) {
                Ok(read) => space[read..].fill(0),
                Err(error) => {
                    return Err(Error::Tree {
                        path: self.reader.tree().path_of_inode(piece.inode),
                        source: Box::new(error),
                    });
                }
            }
        }
        if matches!(job, Job::Block(_)) && is_zero(&self.buffer) {
            return Ok(Ready {
                bytes: Vec::new(),
                size: 0,
            });
        }
        Ok(match self.compressor.compress(&self.buffer) {
            Some(bytes) => Ready {
                size: small(bytes.len()),
                bytes,
            },
            None => Ready {
                size: small(self.buffer.len()) | DATA_PLAIN,
                bytes: self.buffer.clone(),
            },
        })
    }
}

/// Writes all file data in order and returns the fragment table.
#[expect(
    clippy::too_many_arguments,
    reason = "the one step of the writer that does I/O"
)]
fn data(
    tree: &Arc<Tree>,
    output: &Output,
    compression: Compression,
    threads: usize,
    jobs: &[Job],
    places: &mut [Place64],
    offset: &mut u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<format::FragmentEntry>, Error> {
    let mut workers = (0..threads.clamp(1, jobs.len().max(1)))
        .map(|_| {
            Ok(Worker {
                reader: tree.reader(),
                compressor: Compressor::new(compression)?,
                buffer: Vec::with_capacity(BLOCK_SIZE),
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let mut fragments = Vec::new();
    // Holes need no work.
    let mut done = places.iter().map(|place| place.sparse).sum();
    for batch in jobs.chunks(BATCH * workers.len()) {
        let next = AtomicUsize::new(0);
        let results: Vec<Mutex<Option<Result<Ready, Error>>>> =
            batch.iter().map(|_| Mutex::new(None)).collect();
        std::thread::scope(|scope| {
            for worker in &mut workers {
                begin(scope, || {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(job) = batch.get(at) else { break };
                        let result = worker.run(job);
                        *lock(&results[at]) = Some(result);
                    }
                });
            }
        });
        for (job, result) in batch.iter().zip(results) {
            let result = result.into_inner().unwrap_or_default();
            let ready = result.unwrap_or(Err(Error::Stopped))?;
            output.write_at(&ready.bytes, *offset)?;
            match job {
                Job::Block(piece) => {
                    let place = &mut places[piece.inode.index()];
                    place.start.get_or_insert(*offset);
                    if ready.size == 0 {
                        place.sparse += piece.length as u64;
                    }
                    let at =
                        usize::try_from(piece.offset / BLOCK_SIZE as u64).unwrap_or(usize::MAX);
                    if let Some(size) = place.blocks.get_mut(at) {
                        *size = ready.size;
                    }
                    done += piece.length as u64;
                }
                Job::Fragment(pieces) => {
                    fragments.push(format::FragmentEntry {
                        start_block: (*offset).into(),
                        size: ready.size.into(),
                        unused: 0.into(),
                    });
                    done += pieces.iter().map(|piece| piece.length as u64).sum::<u64>();
                }
            }
            *offset += ready.bytes.len() as u64;
        }
        progress(done);
    }
    Ok(fragments)
}
