//! btrfs, written whole: one device, one subvolume, all chunks `single`.
//!
//! Every tree is a sorted list of items that is cut into blocks ([`nodes`]). The
//! tree of extents lists the blocks of all trees, its own too; its size is found
//! by trying. Data has checksums, so files are read when the filesystem is
//! planned; they must not change until it is written.
//!
//! ```text
//! 0      64 KiB  superblock (copies at 64 MiB and 256 GiB)
//! 1 MiB  system  the tree of chunks
//! 5 MiB  data    files over 2 KiB, in chunks of up to 1 GiB
//!        metadata   all other trees
//!        free for further chunks
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;
use zerocopy::IntoBytes as _;

use crate::disk::Volume;
use crate::threads::at_once;
use crate::tree::{Timestamp, Tree};

mod error;
mod files;
pub(crate) mod format;
mod nodes;
mod planner;
mod space;
#[cfg(test)]
mod tests;

pub use error::Error;

use files::Piece;
use format::{
    CSUM_TREE, DATA, DATA_RELOC_TREE, EXTENT_CSUM, EXTENT_CSUM_ITEM, FIRST, FS_TREE, GENERATION,
    INODE_ITEM, INODE_REF, InodeItem, Key, NODE_SIZE, SECTOR, Timespec,
};
use nodes::{Entry, Identity};
use planner::Planner;
use space::Data;

/// Checksums in one item.
const SUMS_PER_ITEM: usize = 4000;
/// Files that a thread takes at once to compute checksums.
const BATCH: usize = 16;

/// What a filesystem has besides its files.
#[derive(Debug, Clone)]
pub struct Options {
    /// Label, at most 255 bytes.
    pub label: String,
    /// UUID; those of device and trees derive from it.
    pub uuid: Uuid,
    /// When it is made.
    pub timestamp: Timestamp,
}

impl Options {
    /// Reads options in the notation of mkfs.btrfs.
    ///
    /// # Errors
    /// The first that is not understood.
    pub fn check_mkfs(words: &[String]) -> Result<(), Error> {
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let (option, value) = match word {
                "-f" | "--force" | "-q" | "--quiet" | "-K" | "--nodiscard" => continue,
                "-n" | "--nodesize" | "-s" | "--sectorsize" | "-d" | "--data" | "-m"
                | "--metadata" => (word, words.next().unwrap_or_default()),
                _ => {
                    return Err(Error::Option {
                        option: word.to_owned(),
                    });
                }
            };
            let good = match option {
                "-n" | "--nodesize" => ["16384", "16k", "16K"].contains(&value),
                "-s" | "--sectorsize" => ["4096", "4k", "4K"].contains(&value),
                _ => value == "single",
            };
            if !good {
                return Err(Error::Option {
                    option: format!("{option} {value}"),
                });
            }
        }
        Ok(())
    }
}

/// Plans a filesystem of `bytes` with the files of a tree.
///
/// # Errors
/// See [`Error`].
pub fn plan(tree: &Arc<Tree>, options: &Options, bytes: u64) -> Result<Volume, Error> {
    if options.label.len() > 255 || options.label.contains(['\n', '\0']) {
        return Err(Error::Label {
            label: options.label.clone(),
        });
    }
    let mut data = Data::new();
    let (files, pieces) = files::items(tree, options.timestamp, &mut data)?;
    let sums = checksums(tree, &pieces)?;
    let plan = Planner {
        options,
        device: Uuid::new_v5(&options.uuid, b"device").into_bytes(),
        identity: Identity {
            fsid: options.uuid.into_bytes(),
            chunk_tree_uuid: Uuid::new_v5(&options.uuid, b"chunk tree").into_bytes(),
        },
        length: bytes / SECTOR * SECTOR,
        trees: vec![
            (FS_TREE, files),
            (CSUM_TREE, csum_items(&pieces, &sums)),
            (DATA_RELOC_TREE, plan_reloc(options)),
        ],
        pieces,
        chunks: data.chunks(DATA),
    };
    plan.volume(tree)
}

/// The empty directory of the tree that moves data.
fn plan_reloc(options: &Options) -> Vec<Entry> {
    top_directory(FIRST, options)
}

/// A directory with nothing in it.
fn top_directory(object: u64, options: &Options) -> Vec<Entry> {
    let key = |kind, offset| Key {
        object,
        kind,
        offset,
    };
    let mut reference = 0u64.to_le_bytes().to_vec();
    reference.extend_from_slice(&2u16.to_le_bytes());
    reference.extend_from_slice(b"..");
    vec![
        Entry {
            key: key(INODE_ITEM, 0),
            data: directory_inode(options.timestamp, 0).as_bytes().to_vec(),
        },
        Entry {
            key: key(INODE_REF, object),
            data: reference,
        },
    ]
}

fn directory_inode(made: Timestamp, flags: u64) -> InodeItem {
    let time: Timespec = made.into();
    InodeItem {
        generation: GENERATION.into(),
        transid: 0.into(),
        size: 0.into(),
        nbytes: (NODE_SIZE as u64).into(),
        block_group: 0.into(),
        nlink: 1.into(),
        uid: 0.into(),
        gid: 0.into(),
        mode: 0o40755.into(),
        rdev: 0.into(),
        flags: flags.into(),
        sequence: 0.into(),
        reserved: [0; 32],
        atime: time,
        ctime: time,
        mtime: time,
        otime: time,
    }
}

/// Checksums of all blocks of data, piece by piece, computed on all processors.
fn checksums(tree: &Arc<Tree>, pieces: &[Piece]) -> Result<Vec<Vec<u32>>, Error> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || -> Result<Vec<(usize, Vec<u32>)>, Error> {
        let mut reader = tree.reader();
        let mut buffer = vec![0; 1 << 20];
        let mut done = Vec::new();
        loop {
            let start = next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(batch) = pieces.get(start..(start + BATCH).min(pieces.len())) else {
                return Ok(done);
            };
            if batch.is_empty() {
                return Ok(done);
            }
            for (at, piece) in batch.iter().enumerate() {
                let mut sums = Vec::new();
                let mut offset = 0;
                while offset < piece.length {
                    let left = piece.length - offset;
                    let count = buffer
                        .len()
                        .min(usize::try_from(left).unwrap_or(usize::MAX));
                    let padded = count.next_multiple_of(SECTOR as usize);
                    let read =
                        reader.read_at(piece.inode, piece.offset + offset, &mut buffer[..count])?;
                    buffer[read..padded].fill(0);
                    sums.extend(
                        buffer[..padded]
                            .chunks_exact(SECTOR as usize)
                            .map(crc32c::crc32c),
                    );
                    offset += count as u64;
                }
                done.push((start + at, sums));
            }
        }
    };
    let results: Vec<_> = at_once(0..threads, |_| work());
    let mut all = vec![Vec::new(); pieces.len()];
    for result in results {
        for (at, sums) in result? {
            all[at] = sums;
        }
    }
    Ok(all)
}

/// Items of checksums: runs of data that touch share items.
fn csum_items(pieces: &[Piece], sums: &[Vec<u32>]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut next = 0;
    for (piece, sums) in pieces.iter().zip(sums) {
        let mut at = piece.address;
        for &sum in sums {
            let fits = entries
                .last()
                .is_some_and(|last| next == at && last.data.len() < 4 * SUMS_PER_ITEM);
            if !fits {
                entries.push(Entry {
                    key: Key {
                        object: EXTENT_CSUM,
                        kind: EXTENT_CSUM_ITEM,
                        offset: at,
                    },
                    data: Vec::new(),
                });
            }
            if let Some(last) = entries.last_mut() {
                last.data.extend_from_slice(&sum.to_le_bytes());
            }
            at += SECTOR;
            next = at;
        }
    }
    entries
}
