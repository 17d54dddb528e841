//! [`Disk`]: a map from offsets to sources, checked when it is built.

use std::sync::Arc;

use super::{Extent, Source, Volume};
use crate::tree::DataRange;

/// Why extents do not make a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The sector size is not one that disks have.
    #[error("a disk cannot have sectors of {sector_size} bytes: use 512 or 4096")]
    SectorSize {
        /// In bytes.
        sector_size: u32,
    },
    /// The length is no whole number of sectors.
    #[error("a disk of {length} bytes is not a whole number of sectors of {sector_size} bytes")]
    Length {
        /// In bytes.
        length: u64,
        /// In bytes.
        sector_size: u32,
    },
    /// Two things want the same bytes.
    #[error(
        "{second} at bytes {second_start} to {second_end} overlaps {first}, which ends at byte \
         {first_end}"
    )]
    Overlap {
        /// What comes first.
        first: String,
        /// First byte after it.
        first_end: u64,
        /// What overlaps it.
        second: String,
        /// Its first byte.
        second_start: u64,
        /// First byte after it.
        second_end: u64,
    },
    /// Something lies beyond the end.
    #[error(
        "{what} needs {length} bytes at byte {offset}, but the disk ends at byte {disk_length}"
    )]
    OutOfRange {
        /// What it is.
        what: String,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        length: u64,
        /// Length of the disk in bytes.
        disk_length: u64,
    },
    /// A volume's own extents are not sorted, overlap, are empty or leave it.
    #[error("{what} has an extent at byte {offset} that is out of order or outside of it")]
    Extent {
        /// What it is.
        what: String,
        /// Offset in the volume in bytes.
        offset: u64,
    },
}

/// A disk image: sorted extents that do not overlap, and holes between them.
#[derive(Debug, Clone)]
pub struct Disk {
    length: u64,
    sector_size: u32,
    // Not a slice, which would be a copy of up to one extent a file.
    extents: Arc<Vec<Extent>>,
}

impl Disk {
    /// Starts a disk of `length` bytes with sectors of 512 or 4096 bytes.
    pub fn builder(length: u64, sector_size: u32) -> DiskBuilder {
        DiskBuilder {
            length,
            sector_size,
            regions: Vec::new(),
        }
    }

    /// Length in bytes, a multiple of the sector size.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Logical sector size in bytes: 512 or 4096.
    pub fn sector_size(&self) -> u32 {
        self.sector_size
    }

    /// What is not a hole, by offset.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Index of the first extent that ends after byte `offset`.
    pub(super) fn first_extent_at(&self, offset: u64) -> usize {
        self.extents
            .partition_point(|extent| extent.offset + extent.length <= offset)
    }

    /// The ranges that extents cover, sorted and not touching.
    pub fn data_ranges(&self) -> impl Iterator<Item = DataRange> + '_ {
        let mut extents = self.extents.iter().peekable();
        std::iter::from_fn(move || {
            let first = extents.next()?;
            let mut end = first.offset + first.length;
            while let Some(next) = extents.next_if(|next| next.offset == end) {
                end += next.length;
            }
            Some(DataRange {
                offset: first.offset,
                length: end - first.offset,
            })
        })
    }
}

/// Collects what a [`Disk`] holds, in any order.
#[derive(Debug)]
pub struct DiskBuilder {
    length: u64,
    sector_size: u32,
    regions: Vec<Region>,
}

/// A range that belongs to one thing.
#[derive(Debug)]
struct Region {
    what: String,
    offset: u64,
    length: u64,
    /// With offsets relative to the region.
    extents: Vec<Extent>,
}

impl DiskBuilder {
    /// Places bytes; `what` names them in errors. Empty ones are left out.
    pub fn bytes(&mut self, what: impl Into<String>, offset: u64, bytes: Vec<u8>) -> &mut Self {
        let length = bytes.len() as u64;
        if length > 0 {
            let source = Source::Bytes {
                bytes: bytes.into(),
                start: 0,
            };
            let extents = vec![Extent {
                offset: 0,
                length,
                source,
            }];
            self.regions.push(Region {
                what: what.into(),
                offset,
                length,
                extents,
            });
        }
        self
    }

    /// Places a volume, which then owns all of its length, holes included.
    pub fn volume(&mut self, what: impl Into<String>, offset: u64, volume: Volume) -> &mut Self {
        self.regions.push(Region {
            what: what.into(),
            offset,
            length: volume.length,
            extents: volume.extents,
        });
        self
    }

    /// Checks that everything is inside and nothing overlaps.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn build(self) -> Result<Disk, DiskError> {
        let DiskBuilder {
            length,
            sector_size,
            mut regions,
        } = self;
        if !matches!(sector_size, 512 | 4096) {
            return Err(DiskError::SectorSize { sector_size });
        }
        if !length.is_multiple_of(u64::from(sector_size)) {
            return Err(DiskError::Length {
                length,
                sector_size,
            });
        }
        // The order of equal offsets matters only for which of two is blamed.
        regions.sort_by_key(|region| region.offset);
        let mut extents = Vec::new();
        let mut before: Option<(String, u64)> = None;
        for region in regions {
            let end = region
                .offset
                .checked_add(region.length)
                .filter(|&end| end <= length)
                .ok_or_else(|| DiskError::OutOfRange {
                    what: region.what.clone(),
                    offset: region.offset,
                    length: region.length,
                    disk_length: length,
                })?;
            if let Some((first, first_end)) = &before
                && *first_end > region.offset
            {
                return Err(DiskError::Overlap {
                    first: first.clone(),
                    first_end: *first_end,
                    second: region.what,
                    second_start: region.offset,
                    second_end: end,
                });
            }
            let mut placed = region.extents;
            let mut at = 0;
            for extent in &mut placed {
                let extent_end = extent.offset.checked_add(extent.length);
                match extent_end {
                    Some(extent_end)
                        if extent.offset >= at
                            && extent.length > 0
                            && extent_end <= region.length =>
                    {
                        at = extent_end;
                    }
                    _ => {
                        return Err(DiskError::Extent {
                            what: region.what,
                            offset: extent.offset,
                        });
                    }
                }
                extent.offset += region.offset;
            }
            if extents.is_empty() {
                // Most disks have one large region, which need not be copied.
                extents = placed;
            } else {
                extents.append(&mut placed);
            }
            before = Some((region.what, end));
        }
        Ok(Disk {
            length,
            sector_size,
            extents: Arc::new(extents),
        })
    }
}
