//! Reads a [`Disk`] without writing it anywhere.

use std::sync::Arc;

use super::{Disk, Extent, Source};
use crate::tree::{self, Tree};

/// Why bytes of a disk cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The range leaves the disk.
    #[error("cannot read {length} bytes at byte {offset}: the disk ends at byte {disk_length}")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        length: u64,
        /// Length of the disk in bytes.
        disk_length: u64,
    },
    /// A file cannot be read.
    #[error("cannot read a file that byte {offset} of the disk comes from")]
    File {
        /// Where on the disk its data begins.
        offset: u64,
        /// Why.
        #[source]
        source: tree::Error,
    },
}

/// Reads a disk. Each thread has its own, since it keeps files open.
#[derive(Debug)]
pub struct DiskReader {
    disk: Disk,
    /// One a tree: there are as many as filesystems.
    trees: Vec<tree::Reader>,
}

impl Disk {
    /// A reader for one thread.
    pub fn reader(&self) -> DiskReader {
        DiskReader {
            disk: self.clone(),
            trees: Vec::new(),
        }
    }
}

impl DiskReader {
    /// Fills `buffer` with the bytes from `offset` on; holes are zeros.
    ///
    /// # Errors
    /// If the range leaves the disk, or a file cannot be read or has become
    /// shorter since it was scanned.
    pub fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let length = buffer.len() as u64;
        let disk_length = self.disk.length();
        let end = offset
            .checked_add(length)
            .filter(|&end| end <= disk_length)
            .ok_or(ReadError::OutOfRange {
                offset,
                length,
                disk_length,
            })?;
        // Keeps the extents alive while readers are borrowed mutably.
        let disk = self.disk.clone();
        let mut at = offset;
        let mut rest = buffer;
        for extent in &disk.extents()[disk.first_extent_at(offset)..] {
            if extent.offset >= end {
                break;
            }
            let hole = to_usize(extent.offset.saturating_sub(at));
            let (zeros, data) = rest.split_at_mut(hole);
            zeros.fill(0);
            at += hole as u64;
            let wanted = to_usize((extent.offset + extent.length).min(end) - at);
            let (data, behind) = data.split_at_mut(wanted);
            self.read_extent(extent, at - extent.offset, data)?;
            at += wanted as u64;
            rest = behind;
        }
        rest.fill(0);
        Ok(())
    }

    /// Fills `buffer` with the bytes from `skip` of an extent on.
    fn read_extent(
        &mut self,
        extent: &Extent,
        skip: u64,
        buffer: &mut [u8],
    ) -> Result<(), ReadError> {
        match &extent.source {
            Source::Bytes { bytes, start } => {
                let from = start.saturating_add(to_usize(skip)).min(bytes.len());
                let have = buffer.len().min(bytes.len() - from);
                let (data, zeros) = buffer.split_at_mut(have);
                data.copy_from_slice(&bytes[from..from + have]);
                zeros.fill(0);
            }
            Source::Rendered { by, offset } => by.render(offset + skip, buffer),
            Source::File {
                tree,
                inode,
                offset,
            } => {
                let read = self
                    .tree_reader(tree)
                    .read_at(*inode, offset + skip, buffer)
                    .map_err(|source| ReadError::File {
                        offset: extent.offset,
                        source,
                    })?;
                buffer[read..].fill(0);
            }
        }
        Ok(())
    }

    fn tree_reader(&mut self, tree: &Arc<Tree>) -> &mut tree::Reader {
        let at = self
            .trees
            .iter()
            .position(|reader| Arc::ptr_eq(reader.tree(), tree))
            .unwrap_or_else(|| {
                self.trees.push(tree.reader());
                self.trees.len() - 1
            });
        &mut self.trees[at]
    }
}

/// Lengths inside of a buffer.
fn to_usize(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::{DiskError, Render, Volume};
    use crate::tree::Inode;

    /// Byte `n` of the object is `n` modulo 251.
    #[derive(Debug)]
    struct Counter;

    impl Render for Counter {
        fn render(&self, offset: u64, buffer: &mut [u8]) {
            for (at, byte) in buffer.iter_mut().enumerate() {
                *byte = u8::try_from((offset + at as u64) % 251).unwrap();
            }
        }
    }

    /// 2048 bytes: a file of 5 at 10 (in an extent of 8), rendered ones at 18
    /// and at 1024, bytes at 100.
    fn disk() -> Disk {
        let mut tree = crate::tree::TreeBuilder::new();
        tree.insert("/file", Inode::file(*b"hello", 0o644)).unwrap();
        let tree = Arc::new(tree.build().unwrap());
        let inode = tree.node(tree.find("/file").unwrap()).inode;
        let mut builder = Disk::builder(2048, 512);
        builder.bytes("bytes", 100, vec![7; 10]);
        let rendered = |offset| Source::Rendered {
            by: Arc::new(Counter),
            offset,
        };
        let extents = vec![
            Extent {
                offset: 0,
                length: 8,
                source: Source::File {
                    tree,
                    inode,
                    offset: 0,
                },
            },
            Extent {
                offset: 8,
                length: 4,
                source: rendered(3),
            },
        ];
        builder.volume(
            "volume",
            10,
            Volume {
                length: 12,
                extents,
            },
        );
        builder.volume(
            "tail",
            1024,
            Volume {
                length: 1024,
                extents: vec![Extent {
                    offset: 0,
                    length: 1024,
                    source: rendered(0),
                }],
            },
        );
        builder.build().unwrap()
    }

    fn expected() -> Vec<u8> {
        let mut bytes = vec![0; 2048];
        bytes[10..15].copy_from_slice(b"hello");
        bytes[18..22].copy_from_slice(&[3, 4, 5, 6]);
        bytes[100..110].fill(7);
        for at in 0..1024 {
            bytes[1024 + at] = u8::try_from(at % 251).unwrap();
        }
        bytes
    }

    #[test]
    fn all_kinds_of_sources_are_read_and_holes_are_zeros() {
        let mut bytes = vec![0xFF; 2048];
        disk().reader().read_at(0, &mut bytes).unwrap();
        assert!(bytes == expected());
    }

    #[test]
    fn touching_extents_make_one_data_range() {
        let ranges: Vec<(u64, u64)> = disk()
            .data_ranges()
            .map(|range| (range.offset, range.length))
            .collect();
        assert_eq!(ranges, [(10, 12), (100, 10), (1024, 1024)]);
    }

    #[test]
    fn reading_beyond_the_end_is_an_error() {
        let disk = disk();
        let error = disk.reader().read_at(2040, &mut [0; 9]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read 9 bytes at byte 2040: the disk ends at byte 2048"
        );
        assert!(disk.reader().read_at(u64::MAX, &mut [0; 9]).is_err());
        disk.reader().read_at(2048, &mut []).unwrap();
    }

    #[test]
    fn what_overlaps_or_leaves_the_disk_is_named() {
        let message = |fill: fn(&mut crate::disk::DiskBuilder)| {
            let mut builder = Disk::builder(4096, 512);
            fill(&mut builder);
            builder.build().unwrap_err().to_string()
        };
        assert_eq!(
            message(|disk| {
                disk.bytes("the second", 512, vec![1; 8])
                    .bytes("the first", 0, vec![1; 513]);
            }),
            "the second at bytes 512 to 520 overlaps the first, which ends at byte 513"
        );
        assert_eq!(
            message(|disk| {
                disk.bytes("core image", 4000, vec![1; 97]);
            }),
            "core image needs 97 bytes at byte 4000, but the disk ends at byte 4096"
        );
        assert_eq!(
            message(|disk| {
                let source = Source::Rendered {
                    by: Arc::new(Counter),
                    offset: 0,
                };
                let extents = vec![Extent {
                    offset: 8,
                    length: 9,
                    source,
                }];
                disk.volume(
                    "mkfs_root",
                    0,
                    Volume {
                        length: 16,
                        extents,
                    },
                );
            }),
            "mkfs_root has an extent at byte 8 that is out of order or outside of it"
        );
        assert!(matches!(
            Disk::builder(4096, 520).build(),
            Err(DiskError::SectorSize { sector_size: 520 })
        ));
        assert!(matches!(
            Disk::builder(512, 4096).build(),
            Err(DiskError::Length { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_window_equals_that_part_of_the_whole(start in 0usize..=2048, length in 0usize..2048) {
            let end = (start + length).min(2048);
            let mut window = vec![0xAA; end - start];
            disk().reader().read_at(start as u64, &mut window).unwrap();
            prop_assert!(window == expected()[start..end]);
        }
    }
}
