//! MBR partition tables: primary partitions, and logical ones in a chain.
//!
//! ```text
//! LBA 0        the table: up to 4 entries, one of which may be the container
//! …            primary partitions, aligned
//! E            container = first extended boot record (EBR)
//! E + A        data of the first logical partition (A = alignment)
//! E'           next EBR, aligned behind that data, linked from the one before
//! ```
//!
//! [`place`] computes the sectors exactly as DIB does, so that images keep their
//! layout; what DIB writes wrongly (CHS, a fifth entry over the signature) is
//! right here or an error.

use zerocopy::IntoBytes as _;
use zerocopy::little_endian::U32;

pub mod format;

use format::{Entry, Tail};

/// An MBR counts in sectors of this size, whatever the disk's.
pub const SECTOR: u64 = 512;

/// Why a layout cannot be written as an MBR.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MbrError {
    /// A primary partition after a logical one.
    #[error(
        "All primary partitions must be given first: `{name}` is primary but follows a logical one"
    )]
    PrimaryAfterLogical {
        /// The partition.
        name: String,
    },
    /// More entries than the table has.
    #[error(
        "partition `{name}` does not fit the table: an mbr holds four primary partitions, or three \
         and any number of logical ones; leave out its `primary` flag or use label `gpt`"
    )]
    TooManyPrimary {
        /// The partition.
        name: String,
    },
    /// Beyond the end of the disk.
    #[error(
        "partition `{name}` needs sectors {start} to {end}, but the disk has {sectors}: make the \
         image larger or the partition smaller"
    )]
    TooSmall {
        /// The partition.
        name: String,
        /// First sector.
        start: u64,
        /// First sector behind it.
        end: u64,
        /// Sectors of the disk.
        sectors: u64,
    },
    /// Less than one sector.
    #[error("partition `{name}` has no sector: its size is {bytes} bytes")]
    Empty {
        /// The partition.
        name: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A partition of a type that systems take for a container.
    #[error(
        "partition `{name}` has type {partition_type:#04x}, which is that of a container of \
         logical partitions: the container is made by itself; give the partition the type of what \
         is on it"
    )]
    ContainerType {
        /// The partition.
        name: String,
        /// Its type.
        partition_type: u8,
    },
    /// Beyond what 32 bits count.
    #[error(
        "partition `{name}` ends at sector {end}, but an mbr counts only to {}: use label `gpt`",
        u32::MAX
    )]
    Beyond32Bits {
        /// The partition.
        name: String,
        /// First sector behind it.
        end: u64,
    },
    /// A disk that is not a whole number of sectors.
    #[error("a disk of {bytes} bytes is not a whole number of sectors of {SECTOR} bytes")]
    DiskSize {
        /// Its length in bytes.
        bytes: u64,
    },
}

/// How large a partition should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of what is free before it is placed.
    Percent(f64),
}

impl Size {
    /// The size in bytes where `free` bytes are left, rounded toward zero.
    pub fn of(self, free: u64) -> u64 {
        match self {
            Size::Bytes(bytes) => bytes,
            // DIB computes in double precision, and images must come out the same.
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
            #[allow(clippy::cast_sign_loss)]
            Size::Percent(percent) => (free as f64 * percent / 100.0) as u64,
        }
    }
}

/// A wanted partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Name, for errors.
    pub name: String,
    /// In the table itself, not in the container.
    pub primary: bool,
    /// Marked as active.
    pub active: bool,
    /// Type byte.
    pub partition_type: u8,
    /// Size.
    pub size: Size,
}

/// A partition with its place, in sectors of [`SECTOR`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Name.
    pub name: String,
    /// Number as Linux counts: primaries from 1, logical ones from 5.
    pub number: u32,
    /// First sector.
    pub start: u32,
    /// Sectors.
    pub sectors: u32,
    /// Type byte.
    pub partition_type: u8,
    /// Marked as active.
    pub active: bool,
    /// For a logical partition, the sector of its EBR.
    pub ebr: Option<u32>,
}

impl Partition {
    /// First sector behind it.
    pub fn end(&self) -> u64 {
        u64::from(self.start) + u64::from(self.sectors)
    }
}

/// A complete table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mbr {
    /// Sectors of the disk.
    pub disk_sectors: u64,
    /// Partitions in the order in which they were asked for.
    pub partitions: Vec<Partition>,
    /// The container of logical partitions: its number, first sector and sectors.
    pub container: Option<Container>,
    /// Sectors to which everything is aligned.
    pub align: u64,
}

/// The container of logical partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    /// Number in the table, from 1.
    pub number: u32,
    /// First sector, which is the first EBR's.
    pub start: u32,
    /// Sectors, to the end of the disk.
    pub sectors: u32,
}

/// Places partitions on a disk of `disk_bytes` with an alignment of `align` sectors.
///
/// # Errors
/// See [`MbrError`].
pub fn place(disk_bytes: u64, align: u64, requests: &[Request]) -> Result<Mbr, MbrError> {
    if !disk_bytes.is_multiple_of(SECTOR) {
        return Err(MbrError::DiskSize { bytes: disk_bytes });
    }
    let align = align.max(1);
    let disk_sectors = disk_bytes / SECTOR;
    let up = |sector: u64| sector.div_ceil(align).saturating_mul(align);
    let mut next = up(1);
    let mut primaries = 0;
    let mut container: Option<Container> = None;
    let mut partitions = Vec::with_capacity(requests.len());
    for request in requests {
        let name = &request.name;
        if format::CONTAINER_TYPES.contains(&request.partition_type) {
            return Err(MbrError::ContainerType {
                name: name.clone(),
                partition_type: request.partition_type,
            });
        }
        // DIB keeps one alignment unit back for an EBR, even for primaries.
        let free = disk_bytes.saturating_sub(next.saturating_add(up(1)).saturating_mul(SECTOR));
        let bytes = request.size.of(free);
        let sectors = bytes / SECTOR;
        if sectors == 0 {
            return Err(MbrError::Empty {
                name: name.clone(),
                bytes,
            });
        }
        let in_range = |start: u64| {
            let end = start.saturating_add(sectors);
            if end > disk_sectors {
                Err(MbrError::TooSmall {
                    name: name.clone(),
                    start,
                    end,
                    sectors: disk_sectors,
                })
            } else {
                narrow(name, start, end)
            }
        };
        let partition = if request.primary {
            if container.is_some() {
                return Err(MbrError::PrimaryAfterLogical { name: name.clone() });
            }
            if primaries == 4 {
                return Err(MbrError::TooManyPrimary { name: name.clone() });
            }
            primaries += 1;
            let (start, sectors) = in_range(up(next))?;
            (primaries, start, sectors, None)
        } else {
            if container.is_none() {
                if primaries == 4 {
                    return Err(MbrError::TooManyPrimary { name: name.clone() });
                }
                // Checks the data first, for the error that helps more.
                in_range(up(next.saturating_add(1)))?;
                let (start, sectors) = narrow("the container of logical ones", next, disk_sectors)?;
                container = Some(Container {
                    number: primaries + 1,
                    start,
                    sectors,
                });
            }
            let (start, sectors) = in_range(up(next.saturating_add(1)))?;
            // The EBR lies before its data, which is in range.
            let (ebr, _) = narrow(name, next, u64::from(start))?;
            let logical = partitions
                .iter()
                .filter(|p: &&Partition| p.ebr.is_some())
                .count();
            let number = u32::try_from(logical).unwrap_or(u32::MAX).saturating_add(5);
            (number, start, sectors, Some(ebr))
        };
        let (number, start, sectors, ebr) = partition;
        next = up(u64::from(start) + u64::from(sectors));
        partitions.push(Partition {
            name: name.clone(),
            number,
            start,
            sectors,
            partition_type: request.partition_type,
            active: request.active,
            ebr,
        });
    }
    Ok(Mbr {
        disk_sectors,
        partitions,
        container,
        align,
    })
}

/// `start..end` as what the table holds: first sector and sectors.
fn narrow(name: &str, start: u64, end: u64) -> Result<(u32, u32), MbrError> {
    match (
        u32::try_from(start),
        u32::try_from(end.saturating_sub(start)),
    ) {
        // Tools add the two in 32 bits.
        (Ok(first), Ok(sectors)) if u32::try_from(end).is_ok() => Ok((first, sectors)),
        _ => Err(MbrError::Beyond32Bits {
            name: name.to_owned(),
            end,
        }),
    }
}

impl Mbr {
    /// The table behind the boot code of LBA 0 and the EBRs: byte offset and bytes.
    pub fn render(&self, disk_id: u32) -> Vec<(u64, Vec<u8>)> {
        let mut tail = Tail {
            disk_id: U32::new(disk_id),
            signature: format::SIGNATURE,
            ..Tail::default()
        };
        let primaries = self
            .partitions
            .iter()
            .filter(|partition| partition.ebr.is_none());
        let mut slots = tail.entries.iter_mut();
        for (partition, slot) in primaries.zip(&mut slots) {
            *slot = entry(partition, 0);
        }
        if let (Some(container), Some(slot)) = (self.container, slots.next()) {
            *slot = link(
                format::TYPE_EXTENDED_LBA,
                0,
                container.start,
                container.sectors,
            );
        }
        let mut sectors = vec![(format::CODE_SIZE as u64, tail.as_bytes().to_vec())];

        let Some(container) = self.container else {
            return sectors;
        };
        let logical: Vec<(u32, &Partition)> = self
            .partitions
            .iter()
            .filter_map(|partition| partition.ebr.map(|ebr| (ebr, partition)))
            .collect();
        for (at, &(ebr, partition)) in logical.iter().enumerate() {
            let mut tail = Tail {
                signature: format::SIGNATURE,
                ..Tail::default()
            };
            tail.entries[0] = entry(partition, ebr);
            if let Some(&(next_ebr, next)) = logical.get(at + 1) {
                // Covers the next EBR and its data, filled up to the alignment.
                let padded = next.end().div_ceil(self.align).saturating_mul(self.align);
                let length = padded.min(self.disk_sectors) - u64::from(next_ebr);
                tail.entries[1] = link(
                    format::TYPE_EXTENDED_LINK,
                    container.start,
                    next_ebr,
                    u32::try_from(length).unwrap_or(u32::MAX),
                );
            }
            let offset = u64::from(ebr) * SECTOR + format::CODE_SIZE as u64;
            sectors.push((offset, tail.as_bytes().to_vec()));
        }
        sectors
    }

    /// Sectors between LBA 0 and the first partition or EBR.
    pub fn gap_sectors(&self) -> u64 {
        self.partitions
            .iter()
            .map(|partition| partition.ebr.unwrap_or(partition.start))
            .min()
            .map_or(self.disk_sectors, u64::from)
            .saturating_sub(1)
    }
}

/// The entry of a partition in a record that counts sectors from `base`.
fn entry(partition: &Partition, base: u32) -> Entry {
    Entry {
        status: if partition.active { format::ACTIVE } else { 0 },
        ..link(
            partition.partition_type,
            base,
            partition.start,
            partition.sectors,
        )
    }
}

fn link(partition_type: u8, base: u32, start: u32, sectors: u32) -> Entry {
    let last = (u64::from(start) + u64::from(sectors)).saturating_sub(1);
    Entry {
        status: 0,
        first_chs: format::chs(u64::from(start)),
        partition_type,
        last_chs: format::chs(last),
        first_lba: U32::new(start - base),
        sectors: U32::new(sectors),
    }
}

#[cfg(test)]
mod tests;
