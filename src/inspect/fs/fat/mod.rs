//! Reads FAT12, FAT16 and FAT32, with long names.
//!
//! Specification: see [`crate::disk::fs::fat::format`].

use super::{
    Entry, Error, File, FileId, FileKind, Identity, MAX_DIRECTORY, MAX_RUNS, Metadata, Run,
};
use crate::disk::fs::fat::format::{
    ATTR_DIRECTORY, ATTR_VOLUME_ID, BootSector, BootSector32, BootSectorEnd, DirectoryEntry,
    ENTRY_SIZE, EXTENDED_SIGNATURE, FIRST_CLUSTER, SECTOR_SIGNATURE, SIGNATURE_OFFSET,
};
use crate::inspect::Volume;
use crate::tree::Timestamp;

mod directory;

/// What stands for the root directory, which has no entry; no entry can be there.
pub(super) const ROOT: u64 = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Bits12,
    Bits16,
    Bits32,
}

/// Areas of a volume, in bytes unless named otherwise.
#[derive(Debug)]
pub(super) struct Fat {
    width: Width,
    fat_at: u64,
    cluster_size: u64,
    /// Of cluster 2.
    data_at: u64,
    /// Number of clusters.
    clusters: u32,
    root: Root,
}

#[derive(Debug)]
enum Root {
    /// FAT12 and FAT16: a place and a length.
    Fixed(u64, u64),
    /// FAT32: its first cluster.
    Cluster(u32),
}

fn corrupt<T>(place: impl Into<String>, what: &'static str) -> Result<T, Error> {
    Err(Error::Corrupt {
        kind: "FAT",
        place: place.into(),
        what,
    })
}

/// Whether a volume begins with a boot sector that describes a FAT filesystem.
pub(super) fn is_fat(volume: &Volume<'_>) -> bool {
    if !volume.has(SIGNATURE_OFFSET as u64, &SECTOR_SIGNATURE) {
        return false;
    }
    let Ok(boot) = volume.structure::<BootSector>(0) else {
        return false;
    };
    let jump = boot.jump[0] == 0xEB || boot.jump[0] == 0xE9;
    jump && boot.media >= 0xF0
        && matches!(boot.bytes_per_sector.get(), 512 | 1024 | 2048 | 4096)
        && boot.sectors_per_cluster.is_power_of_two()
        && boot.reserved_sectors.get() != 0
        && (1..=4).contains(&boot.fats)
}

/// Label and number.
pub(super) fn identity(volume: &Volume<'_>) -> Option<Identity> {
    let fat = Fat::open(volume).ok()?;
    let at = if fat.width == Width::Bits32 {
        0x40
    } else {
        0x24
    };
    let end: BootSectorEnd = volume.structure(at).ok()?;
    let known = end.signature == EXTENDED_SIGNATURE;
    let label = match fat.label(volume) {
        Some(label) => Some(label),
        None if known && &end.label != b"NO NAME    " => super::detect::text(&end.label),
        None => None,
    };
    let id = end.volume_id.get();
    Some(Identity {
        kind: "vfat",
        label,
        uuid: known.then(|| format!("{:04X}-{:04X}", id >> 16, id & 0xFFFF)),
    })
}

impl Fat {
    pub(super) fn open(volume: &Volume<'_>) -> Result<Fat, Error> {
        let place = "its boot sector";
        let boot: BootSector = volume.structure(0)?;
        let boot32: BootSector32 = volume.structure(0x24)?;
        let sector = u64::from(boot.bytes_per_sector.get());
        let per_cluster = u64::from(boot.sectors_per_cluster);
        let is_32 = boot.fat_size_16.get() == 0;
        let fat_size = if is_32 {
            u64::from(boot32.fat_size_32.get())
        } else {
            u64::from(boot.fat_size_16.get())
        };
        let total = match boot.total_sectors_16.get() {
            0 => u64::from(boot.total_sectors_32.get()),
            small => u64::from(small),
        };
        if sector == 0 || per_cluster == 0 || fat_size == 0 {
            return corrupt(place, "an area is empty");
        }
        let reserved = u64::from(boot.reserved_sectors.get());
        let root_bytes = u64::from(boot.root_entries.get()) * (ENTRY_SIZE as u64);
        let root_sectors = root_bytes.div_ceil(sector);
        let root_at = reserved + u64::from(boot.fats) * fat_size;
        let data = root_at + root_sectors;
        let Some(sectors) = total.checked_sub(data) else {
            return corrupt(place, "its areas are larger than the volume");
        };
        let clusters = sectors / per_cluster;
        let width = match clusters {
            _ if is_32 => Width::Bits32,
            0..=4084 => Width::Bits12,
            _ => Width::Bits16,
        };
        let bits = match width {
            Width::Bits12 => 12,
            Width::Bits16 => 16,
            Width::Bits32 => 32,
        };
        // Clusters that the FAT has no entries for do not exist.
        let entries = (fat_size * sector * 8 / bits).saturating_sub(FIRST_CLUSTER.into());
        let Ok(clusters) = u32::try_from(clusters.min(entries).min(0x0FFF_FFF5)) else {
            return corrupt(place, "it has too many clusters");
        };
        Ok(Fat {
            width,
            fat_at: reserved * sector,
            cluster_size: per_cluster * sector,
            data_at: data * sector,
            clusters,
            root: if is_32 {
                Root::Cluster(boot32.root_cluster.get() & 0x0FFF_FFFF)
            } else {
                Root::Fixed(root_at * sector, root_bytes)
            },
        })
    }

    /// What a message calls a file.
    pub(super) fn place(file: FileId) -> String {
        match file.0 {
            ROOT => "the root directory".to_owned(),
            at => format!("the entry at byte {at}"),
        }
    }

    pub(super) fn size(&self) -> u64 {
        u64::from(self.clusters) * self.cluster_size
    }

    /// The cluster after another; `None` at the end of a chain.
    fn next(&self, volume: &Volume<'_>, cluster: u32) -> Result<Option<u32>, Error> {
        let number = u64::from(cluster);
        let (value, last) = match self.width {
            Width::Bits12 => {
                let pair: [u8; 2] = volume.structure(self.fat_at + number + number / 2)?;
                let pair = u32::from(u16::from_le_bytes(pair));
                let value = if cluster.is_multiple_of(2) {
                    pair & 0xFFF
                } else {
                    pair >> 4
                };
                (value, 0xFF8)
            }
            Width::Bits16 => {
                let bytes: [u8; 2] = volume.structure(self.fat_at + number * 2)?;
                (u32::from(u16::from_le_bytes(bytes)), 0xFFF8)
            }
            Width::Bits32 => {
                let bytes: [u8; 4] = volume.structure(self.fat_at + number * 4)?;
                (u32::from_le_bytes(bytes) & 0x0FFF_FFFF, 0x0FFF_FFF8)
            }
        };
        Ok((value < last).then_some(value))
    }

    /// The runs of the chain that begins with a cluster; at most `limit` bytes.
    fn chain(&self, volume: &Volume<'_>, first: u32, limit: u64) -> Result<Vec<Run>, Error> {
        let mut runs: Vec<Run> = Vec::new();
        let mut offset = 0;
        let mut next = Some(first);
        let mut seen = 0;
        while let Some(cluster) = next
            && offset < limit
        {
            let place = || format!("cluster {cluster}");
            let Some(index) = cluster
                .checked_sub(FIRST_CLUSTER)
                .filter(|&index| index < self.clusters)
            else {
                return corrupt(place(), "a chain leads out of the volume");
            };
            seen += 1;
            if seen > self.clusters {
                return corrupt(place(), "a chain leads in circles");
            }
            let at = self.data_at + u64::from(index) * self.cluster_size;
            let pieces = runs.len();
            match runs.last_mut() {
                Some(last) if last.at + last.length == at => last.length += self.cluster_size,
                _ if pieces >= MAX_RUNS => {
                    return corrupt(place(), "a file is in too many pieces");
                }
                _ => runs.push(Run {
                    offset,
                    length: self.cluster_size,
                    at,
                }),
            }
            offset += self.cluster_size;
            next = self.next(volume, cluster)?;
        }
        Ok(runs)
    }

    /// The entry of a file.
    fn entry(&self, volume: &Volume<'_>, file: FileId) -> Result<DirectoryEntry, Error> {
        volume.structure(file.0)
    }

    fn first_cluster(&self, entry: &DirectoryEntry) -> u32 {
        let high = match self.width {
            Width::Bits32 => u32::from(entry.cluster_high.get()),
            _ => 0,
        };
        (high << 16 | u32::from(entry.cluster_low.get())) & 0x0FFF_FFFF
    }

    /// The runs of a directory.
    pub(super) fn directory(
        &self,
        volume: &Volume<'_>,
        directory: FileId,
    ) -> Result<Vec<Run>, Error> {
        let first = if directory.0 == ROOT {
            match self.root {
                Root::Fixed(at, length) => {
                    return Ok(vec![Run::whole(at, length)]);
                }
                Root::Cluster(first) => first,
            }
        } else {
            let entry = self.entry(volume, directory)?;
            if entry.attributes & ATTR_DIRECTORY == 0 {
                return Err(Error::NotADirectory {
                    path: Fat::place(directory),
                });
            }
            self.first_cluster(&entry)
        };
        self.chain(volume, first, MAX_DIRECTORY)
    }

    pub(super) fn entries(&self, volume: &Volume<'_>, file: FileId) -> Result<Vec<Entry>, Error> {
        let runs = self.directory(volume, file)?;
        directory::read(volume, &runs)
    }

    /// The label in the root directory.
    fn label(&self, volume: &Volume<'_>) -> Option<String> {
        let runs = self.directory(volume, FileId(ROOT)).ok()?;
        directory::find(volume, &runs, |entry| {
            entry.attributes & (ATTR_VOLUME_ID | ATTR_DIRECTORY) == ATTR_VOLUME_ID
                && entry.attributes & directory::LONG_NAME_MASK
                    != crate::disk::fs::fat::format::ATTR_LONG_NAME
        })
        .ok()?
        .and_then(|entry| super::detect::text(&entry.name))
    }

    pub(super) fn metadata(&self, volume: &Volume<'_>, file: FileId) -> Result<Metadata, Error> {
        let directory = Metadata::nobodys_directory();
        if file.0 == ROOT {
            return Ok(directory);
        }
        let entry = self.entry(volume, file)?;
        let mtime = time(entry.write_date.get(), entry.write_time.get());
        Ok(if entry.attributes & ATTR_DIRECTORY != 0 {
            Metadata { mtime, ..directory }
        } else {
            Metadata {
                kind: FileKind::File,
                size: entry.size.get().into(),
                mtime,
                ..directory
            }
        })
    }

    pub(super) fn file(&self, volume: &Volume<'_>, file: FileId) -> Result<File, Error> {
        let metadata = self.metadata(volume, file)?;
        if metadata.kind != FileKind::File {
            return Err(Error::NotAFile {
                path: Fat::place(file),
                what: metadata.kind.phrase(),
            });
        }
        if metadata.size == 0 {
            return Ok(File::new(0, Vec::new()));
        }
        let first = self.first_cluster(&self.entry(volume, file)?);
        let runs = self.chain(volume, first, metadata.size)?;
        let stored: u64 = runs.iter().map(|run| run.length).sum();
        if stored < metadata.size {
            return corrupt(format!("cluster {first}"), "a file is cut off");
        }
        Ok(File::new(metadata.size, runs))
    }
}

/// A date and time of FAT, which has no time zone; taken as UTC.
fn time(date: u16, time: u16) -> Timestamp {
    let (year, month, day) = (date >> 9, (date >> 5 & 15).clamp(1, 12), (date & 31).max(1));
    let clock = [time >> 11, time >> 5 & 63, (time & 31) * 2].map(i64::from);
    // Days since 1970-03-01, with years that begin in March.
    let (year, month) = if month > 2 {
        (i64::from(year) + 10, i64::from(month) - 3)
    } else {
        (i64::from(year) + 9, i64::from(month) + 9)
    };
    // Between 1980 and 2107 every fourth year is a leap year but 2100.
    let leap = (year + 2) / 4 - i64::from(year >= 130);
    let days = year * 365 + leap + (153 * month + 2) / 5 + i64::from(day) - 1 + 59;
    Timestamp {
        seconds: days * 86_400 + clock[0] * 3600 + clock[1] * 60 + clock[2],
        nanoseconds: 0,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_agree_with_date() {
        // `date -u -d TIME +%s`
        for (year, month, day, hour, minute, second, expected) in [
            (1980, 1, 1, 0, 0, 0, 315_532_800),
            (1999, 12, 31, 23, 59, 58, 946_684_798),
            (2000, 2, 29, 12, 0, 0, 951_825_600),
            (2024, 3, 1, 0, 0, 2, 1_709_251_202),
            (2026, 11, 27, 23, 30, 0, 1_795_822_200),
            (2100, 3, 1, 0, 0, 0, 4_107_542_400),
            (2107, 12, 31, 23, 59, 58, 4_354_819_198),
        ] {
            let date = ((year - 1980) << 9) | (month << 5) | day;
            let time = (hour << 11) | (minute << 5) | (second / 2);
            assert_eq!(super::time(date, time).seconds, expected, "{year}");
        }
    }
}
