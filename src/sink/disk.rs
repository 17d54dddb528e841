//! A [`Disk`] as the writers of disk formats read it.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::error::Cause;
use super::source::{FileRange, ReadAt, Reader};
use crate::disk::{Disk, DiskReader, Source};

/// Shorter ranges of files are not worth a clone of their blocks.
const MIN_SHARED: u64 = 64 << 10;

impl ReadAt for Disk {
    fn length(&self) -> u64 {
        Disk::length(self)
    }

    fn data_ranges(&self) -> Vec<Range<u64>> {
        Disk::data_ranges(self).map(|range| range.offset..range.offset + range.length).collect()
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(Disk::reader(self))
    }

    fn file_ranges(&self) -> Vec<FileRange> {
        let files = self.extents().iter().enumerate();
        files
            .filter_map(|(at, extent)| match &extent.source {
                Source::File { offset, .. } if extent.length >= MIN_SHARED => Some(FileRange {
                    offset: extent.offset,
                    length: extent.length,
                    file_offset: *offset,
                    file: at,
                }),
                _ => None,
            })
            .collect()
    }

    fn open(&self, range: &FileRange) -> io::Result<File> {
        let extent = self.extents().get(range.file);
        let Some(Source::File { tree, inode, .. }) = extent.map(|extent| &extent.source) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let mut reader = tree.reader();
        match reader.file(*inode).map_err(io::Error::other)? {
            Some(file) => file.try_clone_to_owned().map(File::from),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Reader for DiskReader {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Cause> {
        DiskReader::read_at(self, offset, buffer).map_err(Cause::from)
    }
}
