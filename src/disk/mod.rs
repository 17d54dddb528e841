//! A disk image as a map from offsets to sources, and what fills it.
//!
//! A [`Disk`] is a sorted list of extents that do not overlap; everything
//! between them is a hole, which reads as zeros and costs nothing. Nothing here
//! writes: filesystems, partition tables and boot code only *plan*, which means
//! that they return extents. A [`crate::sink`] writes the result once.

use std::sync::Arc;

use crate::tree::{InodeId, Tree};

pub use map::{Disk, DiskBuilder, DiskError};
pub use reader::{DiskReader, ReadError};

pub mod boot;
pub mod config;
pub mod facts;
pub mod fs;
pub mod gpt;
pub mod layout;
pub mod lvm;
mod map;
pub mod mbr;
mod reader;
pub mod yaml;

/// Bytes that are computed when they are read.
///
/// Large regular structures (inode tables, bitmaps) implement this, so that they
/// cost memory only while a window of them is written.
pub trait Render: Send + Sync + std::fmt::Debug {
    /// Fills `buffer` with the bytes from `offset` of this object.
    ///
    /// Pure: the same offset gives the same bytes whoever asks and how often.
    fn render(&self, offset: u64, buffer: &mut [u8]);
}

/// Where the bytes of an extent come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// `bytes[start..]`, shared.
    Bytes {
        /// The buffer; usually the arena of one filesystem.
        bytes: Arc<[u8]>,
        /// First byte of the extent in it.
        start: usize,
    },
    /// Data of a regular file.
    File {
        /// The tree that knows how to open it.
        tree: Arc<Tree>,
        /// The file.
        inode: InodeId,
        /// First byte of the extent in the file.
        offset: u64,
    },
    /// Computed on demand.
    Rendered {
        /// What computes it.
        by: Arc<dyn Render>,
        /// First byte of the extent in the rendered object.
        offset: u64,
    },
}

/// A range of a disk or of a filesystem with a known source.
#[derive(Debug, Clone)]
pub struct Extent {
    /// First byte, from the start of the disk or filesystem.
    pub offset: u64,
    /// Length in bytes, at least 1. A file that turns out shorter than its
    /// extent reads as zeros from its end on; where a file's last block is not
    /// full, the extent ends with the file and the rest of the block is a hole.
    pub length: u64,
    /// Its bytes.
    pub source: Source,
}

/// A planned filesystem (or other partition content), before it is placed.
#[derive(Debug, Clone, Default)]
pub struct Volume {
    /// Length in bytes.
    pub length: u64,
    /// Extents relative to its start, sorted, not overlapping.
    pub extents: Vec<Extent>,
}
