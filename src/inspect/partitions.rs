//! Reads partition tables: GPT (the copy at the disk's end if the first is
//! damaged) and MBR with logical partitions.

use uuid::Uuid;
use zerocopy::FromBytes as _;

use super::Volume;
use super::fs::{self, Error};
use crate::disk::gpt::format as gpt;
use crate::disk::mbr::format as mbr;
use crate::sink::ReadAt;

/// Most entries of a GPT that are read.
const MAX_ENTRIES: u32 = 1024;
/// Most logical partitions that are followed.
const MAX_LOGICAL: usize = 128;

/// What divides a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// GUID partition table.
    Gpt,
    /// Master boot record.
    Mbr,
}

impl TableKind {
    /// Its name, as `kiln` and `sfdisk` options have it.
    pub fn name(self) -> &'static str {
        match self {
            TableKind::Gpt => "gpt",
            TableKind::Mbr => "mbr",
        }
    }
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its kind.
    pub kind: TableKind,
    /// The disk's GUID, or the MBR's number as eight hexadecimal digits.
    pub id: String,
    /// Bytes of a sector, which GPTs depend on.
    pub sector_size: u64,
    /// The table at the disk's start is damaged; this is its copy at the end.
    pub from_backup: bool,
    /// In the order of their numbers.
    pub partitions: Vec<Partition>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as Linux counts: from 1, logical ones from 5.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// Its type: a GUID, or two hexadecimal digits.
    pub kind: String,
    /// GPT: its own GUID.
    pub guid: Option<String>,
    /// GPT: its name.
    pub name: Option<String>,
    /// MBR: it is the active one. GPT: firmware may boot it in the old way.
    pub active: bool,
}

impl Table {
    /// Reads the table of a disk; `None` if it has none.
    ///
    /// # Errors
    /// The disk cannot be read, or a table is damaged beyond use.
    pub fn read(disk: &dyn ReadAt) -> Result<Option<Table>, Error> {
        let volume = Volume::whole(disk);
        for sector in [512, 4096] {
            if let Some(table) = read_gpt(&volume, sector, sector)? {
                return Ok(Some(table));
            }
        }
        let Some(table) = read_mbr(&volume)? else {
            return Ok(None);
        };
        let protective = format!("{:02X}", mbr::TYPE_GPT_PROTECTIVE);
        if table.partitions.iter().any(|part| part.kind == protective) {
            for sector in [512, 4096] {
                let last = (volume.length() / sector).saturating_sub(1) * sector;
                if let Some(table) = read_gpt(&volume, sector, last)? {
                    return Ok(Some(Table {
                        from_backup: true,
                        ..table
                    }));
                }
            }
            return Err(Error::Corrupt {
                kind: "GPT",
                place: "both of its tables".to_owned(),
                what: "neither can be used",
            });
        }
        Ok(Some(table))
    }
}

/// A GUID of a GPT, whose first three fields are little-endian.
fn guid(bytes: [u8; 16]) -> String {
    Uuid::from_bytes_le(bytes).to_string().to_uppercase()
}

/// The GPT whose header is at a byte; `None` if there is none, or it is damaged.
fn read_gpt(volume: &Volume<'_>, sector: u64, at: u64) -> Result<Option<Table>, Error> {
    if !volume.has(at, &gpt::SIGNATURE) {
        return Ok(None);
    }
    let header: gpt::Header = volume.structure(at)?;
    let size = u64::from(header.header_size.get());
    if !(gpt::HEADER_SIZE as u64..=sector).contains(&size) {
        return Ok(None);
    }
    let Ok(mut bytes) = volume.bytes(at, size) else {
        return Ok(None);
    };
    bytes[0x10..0x14].fill(0);
    let entries = header.number_of_partition_entries.get();
    let entry_size = header.size_of_partition_entry.get();
    if crc32fast::hash(&bytes) != header.header_crc32.get()
        || header.my_lba.get().checked_mul(sector) != Some(at)
        || entries > MAX_ENTRIES
        || !(gpt::ENTRY_SIZE as u64..=4096).contains(&entry_size.into())
    {
        return Ok(None);
    }
    let table_at = header.partition_entry_lba.get().checked_mul(sector);
    let length = u64::from(entries) * u64::from(entry_size);
    let Some(Ok(bytes)) = table_at.map(|at| volume.bytes(at, length)) else {
        return Ok(None);
    };
    if crc32fast::hash(&bytes) != header.partition_entry_array_crc32.get() {
        return Ok(None);
    }
    let mut partitions = Vec::new();
    let chunks = bytes.chunks_exact(usize::try_from(entry_size).unwrap_or(gpt::ENTRY_SIZE));
    for (entry, number) in chunks.zip(1..) {
        let Ok((entry, _)) = gpt::Entry::read_from_prefix(entry) else {
            continue;
        };
        if entry.partition_type_guid == [0; 16] {
            continue;
        }
        let (first, last) = (entry.starting_lba.get(), entry.ending_lba.get());
        let place = || format!("partition {number}");
        let sectors = last.checked_sub(first).and_then(|span| span.checked_add(1));
        let (Some(start), Some(length)) = (
            first.checked_mul(sector),
            sectors.and_then(|count| count.checked_mul(sector)),
        ) else {
            return Err(Error::Corrupt {
                kind: "GPT",
                place: place(),
                what: "it ends before it begins",
            });
        };
        let units: Vec<u16> = entry
            .partition_name
            .iter()
            .map(|unit| unit.get())
            .take_while(|&unit| unit != 0)
            .collect();
        partitions.push(Partition {
            number,
            start,
            length,
            kind: guid(entry.partition_type_guid),
            guid: Some(guid(entry.unique_partition_guid)),
            name: (!units.is_empty()).then(|| String::from_utf16_lossy(&units)),
            active: entry.attributes.get() & 4 != 0,
        });
    }
    Ok(Some(Table {
        kind: TableKind::Gpt,
        id: guid(header.disk_guid),
        sector_size: sector,
        from_backup: false,
        partitions,
    }))
}

/// The partitions of a boot record, if it is one.
fn record(volume: &Volume<'_>, at: u64) -> Result<Option<mbr::Tail>, Error> {
    let at = at.saturating_add(mbr::CODE_SIZE as u64);
    if at.saturating_add(size_of::<mbr::Tail>() as u64) > volume.length() {
        return Ok(None);
    }
    let tail: mbr::Tail = volume.structure(at)?;
    Ok((tail.signature == mbr::SIGNATURE).then_some(tail))
}

fn read_mbr(volume: &Volume<'_>) -> Result<Option<Table>, Error> {
    let Some(tail) = record(volume, 0)? else {
        return Ok(None);
    };
    // Boot sectors of filesystems have the same signature.
    let plausible = tail.entries.iter().all(|entry| {
        entry.status & 0x7F == 0 && (entry.partition_type == 0 || entry.sectors.get() != 0)
    });
    let used = tail.entries.iter().any(|entry| entry.partition_type != 0);
    if !plausible || !used || fs::identify(volume).is_some_and(|found| found.kind == "vfat") {
        return Ok(None);
    }
    let sector = crate::disk::mbr::SECTOR;
    let mut partitions = Vec::new();
    let mut container = None;
    for (entry, number) in tail.entries.iter().zip(1..) {
        if entry.partition_type == 0 {
            continue;
        }
        partitions.push(partition(entry, number, 0));
        if mbr::CONTAINER_TYPES.contains(&entry.partition_type) {
            container.get_or_insert(u64::from(entry.first_lba.get()));
        }
    }
    if let Some(container) = container {
        let mut at = container;
        let mut seen = vec![at];
        let mut number = 5;
        while let Some(tail) = record(volume, at.saturating_mul(sector))? {
            let [entry, link, ..] = tail.entries;
            if entry.partition_type != 0 {
                partitions.push(partition(&entry, number, at));
                number += 1;
            }
            at = container + u64::from(link.first_lba.get());
            if !mbr::CONTAINER_TYPES.contains(&link.partition_type)
                || seen.contains(&at)
                || seen.len() >= MAX_LOGICAL
            {
                break;
            }
            seen.push(at);
        }
    }
    Ok(Some(Table {
        kind: TableKind::Mbr,
        id: format!("{:08x}", tail.disk_id.get()),
        sector_size: sector,
        from_backup: false,
        partitions,
    }))
}

/// A partition of an MBR whose first sector is counted from `base`.
fn partition(entry: &mbr::Entry, number: u32, base: u64) -> Partition {
    let sector = crate::disk::mbr::SECTOR;
    Partition {
        number,
        start: (base + u64::from(entry.first_lba.get())) * sector,
        length: u64::from(entry.sectors.get()) * sector,
        kind: format!("{:02X}", entry.partition_type),
        guid: None,
        name: None,
        active: entry.status == mbr::ACTIVE,
    }
}
