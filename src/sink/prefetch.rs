//! Reads files ahead where they are not in memory yet.
//!
//! Small files one after the other leave a disk idle most of the time. Here the
//! kernel is asked for all of them some time before they are read, and puts the
//! requests in the order of their places. Where files are in memory this would
//! only cost, so a sample of them is looked at first.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::source::Prefetch;
use crate::disk::{Disk, Source};
use crate::tree;
use crate::tree::ahead::{is_in_memory, read_ahead};

/// Files that are looked at.
const SAMPLE: usize = 32;
/// So many of them not in memory make reading ahead worth its cost.
const FEW: usize = 2;

/// Bytes of the disk by which reading ahead may be before reading.
pub(super) const DISTANCE: u64 = 256 << 20;

/// Reads files of a disk ahead.
pub(super) struct DiskPrefetch<'a> {
    disk: &'a Disk,
    /// The next extent.
    at: usize,
    readers: Vec<tree::Reader>,
}

impl<'a> DiskPrefetch<'a> {
    /// For a disk with files that are not in memory.
    pub(super) fn new(disk: &'a Disk) -> Option<DiskPrefetch<'a>> {
        let mut prefetch = DiskPrefetch {
            disk,
            at: 0,
            readers: Vec::new(),
        };
        let extents = disk.extents();
        let files: Vec<usize> = (0..SAMPLE)
            .map(|number| number * extents.len() / SAMPLE)
            .filter_map(|from| {
                let near = extents.get(from..)?.iter().take(extents.len() / SAMPLE + 1);
                let file = near
                    .clone()
                    .position(|one| matches!(one.source, Source::File { .. }));
                Some(from + file?)
            })
            .collect();
        let absent = files
            .into_iter()
            .filter(|&at| {
                prefetch
                    .with_file(at, |file, offset, _| !is_in_memory(file, offset))
                    .unwrap_or(false)
            })
            .take(FEW)
            .count();
        prefetch.readers.clear();
        (absent >= FEW).then_some(prefetch)
    }

    /// Opens the file of an extent.
    fn with_file<T>(
        &mut self,
        at: usize,
        act: impl FnOnce(BorrowedFd<'_>, u64, u64) -> T,
    ) -> Option<T> {
        let extent = self.disk.extents().get(at)?;
        let Source::File {
            tree,
            inode,
            offset,
        } = &extent.source
        else {
            return None;
        };
        let known = self
            .readers
            .iter()
            .position(|reader| Arc::ptr_eq(reader.tree(), tree));
        let known = known.unwrap_or_else(|| {
            self.readers.push(tree.reader());
            self.readers.len() - 1
        });
        let file = self.readers[known].file(*inode).ok()??;
        Some(act(file, *offset, extent.length))
    }
}

impl Prefetch for DiskPrefetch<'_> {
    fn start(&mut self, range: Range<u64>) {
        let extents = self.disk.extents();
        while let Some(extent) = extents
            .get(self.at)
            .filter(|extent| extent.offset < range.end)
        {
            let (first, end) = (
                range.start.max(extent.offset),
                range.end.min(extent.offset + extent.length),
            );
            if first < end {
                let skip = first - extent.offset;
                self.with_file(self.at, |file, offset, _| {
                    read_ahead(file, offset + skip, end - first)
                });
            }
            if extent.offset + extent.length > range.end {
                break;
            }
            self.at += 1;
        }
    }
}
