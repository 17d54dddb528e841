//! GUID partition tables, byte for byte as `sgdisk` writes them.
//!
//! ```text
//! LBA 0      protective MBR (behind the boot code)
//! LBA 1      primary header
//! LBA 2..    128 entries of 128 bytes: 32 sectors of 512 bytes or 4 of 4096
//! …          partitions, aligned to 1 MiB
//! N-1-T..    entries again (T = their sectors)
//! N-1        backup header
//! ```

use uuid::Uuid;
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U16, U32, U64};

use super::mbr;
pub use discoverable::discoverable;
pub use mbr::Size;

mod discoverable;
pub mod format;
pub mod types;

use format::{ENTRIES, Entry, Header, NAME_UNITS, TABLE_SIZE};

/// Alignment of partitions, and their unit of size, in bytes.
pub const ALIGN: u64 = 1 << 20;

/// What DIB keeps back for both tables before it counts percentages, in bytes.
const RESERVED: u64 = 2 * ALIGN;

/// Why a layout cannot be written as a GPT.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GptError {
    /// More than fits.
    #[error(
        "partition `{name}` asks for {bytes} bytes, but only {free} of the disk's {disk_bytes} are \
         left: the requested size of the image is smaller than the block device configuration; \
         make the image larger or the partition smaller"
    )]
    TooSmall {
        /// The partition.
        name: String,
        /// What it asks for, rounded up to 1 MiB if less.
        bytes: u64,
        /// Bytes that are left.
        free: u64,
        /// Length of the disk in bytes.
        disk_bytes: u64,
    },
    /// Nothing at all.
    #[error("partition `{name}` has a size of 0 bytes: give it at least 1MiB")]
    Empty {
        /// The partition.
        name: String,
    },
    /// More entries than the table has.
    #[error("a gpt holds {ENTRIES} partitions, and `{name}` is one more")]
    TooMany {
        /// The partition.
        name: String,
    },
    /// A name that is too long for an entry.
    #[error(
        "the name of partition `{name}` is too long for a gpt: {units} > {NAME_UNITS} UTF-16 units"
    )]
    NameTooLong {
        /// The partition.
        name: String,
        /// Its length.
        units: usize,
    },
    /// A type that sgdisk would not take either.
    #[error(
        "`{code}` of partition `{name}` is no gpt type: use four hexadecimal digits as sgdisk does \
         (8300, EF00, …) or a guid"
    )]
    Type {
        /// The partition.
        name: String,
        /// What was written.
        code: String,
    },
    /// A disk too small for two tables, or not a whole number of sectors.
    #[error("a disk of {disk_bytes} bytes with sectors of {sector_size} cannot hold a gpt")]
    DiskSize {
        /// Its length in bytes.
        disk_bytes: u64,
        /// Its sector size in bytes.
        sector_size: u32,
    },
}

/// A wanted partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Name, which the entry holds.
    pub name: String,
    /// Size; whole MiB are used, and at least one.
    pub size: Size,
    /// Type.
    pub type_guid: Uuid,
    /// GUID of this partition.
    pub guid: Uuid,
    /// Attribute bits of the entry.
    pub attributes: u64,
}

/// A partition with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Name.
    pub name: String,
    /// First LBA.
    pub start: u64,
    /// Sectors.
    pub sectors: u64,
    /// Type.
    pub type_guid: Uuid,
    /// GUID of this partition.
    pub guid: Uuid,
    /// Attribute bits of the entry.
    pub attributes: u64,
}

/// A complete table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    /// Sector size in bytes.
    pub sector_size: u32,
    /// Sectors of the disk.
    pub disk_sectors: u64,
    /// Partitions; the first has number 1.
    pub partitions: Vec<Partition>,
}

/// What a type in a configuration means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeCode {
    /// A type.
    Known(Uuid),
    /// A code that sgdisk does not know, which it takes for [`types::LINUX_FILESYSTEM`].
    Unknown,
}

/// Reads a type as `sgdisk -t` does: four hexadecimal digits or a GUID.
///
/// # Errors
/// [`GptError::Type`] where sgdisk fails: text that is neither, empty text, `0000`.
pub fn parse_type(name: &str, code: &str) -> Result<TypeCode, GptError> {
    let error = || GptError::Type {
        name: name.to_owned(),
        code: code.to_owned(),
    };
    if let Ok(guid) = Uuid::try_parse(code)
        && code.len() == 36
    {
        return Ok(TypeCode::Known(guid));
    }
    let digits = code.strip_prefix("0x").unwrap_or(code);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(error());
    }
    if digits.bytes().all(|byte| byte == b'0') {
        return Err(error());
    }
    let known = if digits.len() == 4 {
        u16::from_str_radix(digits, 16).ok()
    } else {
        None
    };
    Ok(known
        .and_then(types::by_code)
        .map_or(TypeCode::Unknown, TypeCode::Known))
}

/// Places partitions one after the other from 1 MiB on.
///
/// # Errors
/// See [`GptError`].
pub fn place(disk_bytes: u64, sector_size: u32, requests: &[Request]) -> Result<Gpt, GptError> {
    let sector = u64::from(sector_size);
    let size_error = GptError::DiskSize {
        disk_bytes,
        sector_size,
    };
    let fits = matches!(sector_size, 512 | 4096) && disk_bytes.is_multiple_of(sector);
    if !fits || disk_bytes < RESERVED {
        return Err(size_error);
    }
    let mut free = disk_bytes - RESERVED;
    let mut next = ALIGN;
    let mut partitions = Vec::with_capacity(requests.len());
    for request in requests {
        let name = || request.name.clone();
        if partitions.len() == ENTRIES {
            return Err(GptError::TooMany { name: name() });
        }
        let units = request.name.encode_utf16().count();
        if units > NAME_UNITS {
            return Err(GptError::NameTooLong {
                name: name(),
                units,
            });
        }
        let wanted = request.size.of(free);
        if wanted == 0 {
            return Err(GptError::Empty { name: name() });
        }
        // DIB passes whole MiB to sgdisk, but counts what was asked for. Less
        // than one would give the partition the whole rest of the disk there.
        let wanted = wanted.max(ALIGN);
        if wanted > free {
            return Err(GptError::TooSmall {
                name: name(),
                bytes: wanted,
                free,
                disk_bytes,
            });
        }
        free -= wanted;
        let length = wanted / ALIGN * ALIGN;
        partitions.push(Partition {
            name: name(),
            start: next / sector,
            sectors: length / sector,
            type_guid: request.type_guid,
            guid: request.guid,
            attributes: request.attributes,
        });
        next += length;
    }
    Ok(Gpt {
        sector_size,
        disk_sectors: disk_bytes / sector,
        partitions,
    })
}

impl Gpt {
    /// Sectors of a table of entries.
    fn table_sectors(&self) -> u64 {
        (TABLE_SIZE as u64).div_ceil(u64::from(self.sector_size))
    }

    /// First LBA that partitions may use.
    pub fn first_usable(&self) -> u64 {
        2 + self.table_sectors()
    }

    /// Last LBA that partitions may use.
    pub fn last_usable(&self) -> u64 {
        self.disk_sectors.saturating_sub(2 + self.table_sectors())
    }

    /// Protective MBR and both tables: byte offset and bytes.
    pub fn render(&self, disk_guid: Uuid) -> Vec<(u64, Vec<u8>)> {
        let sector = u64::from(self.sector_size);
        let mut table = Vec::with_capacity(TABLE_SIZE);
        for partition in self.partitions.iter().take(ENTRIES) {
            table.extend_from_slice(entry(partition).as_bytes());
        }
        table.resize(TABLE_SIZE, 0);
        let table_crc = crc32fast::hash(&table);

        let last = self.disk_sectors.saturating_sub(1);
        let backup_table = last.saturating_sub(self.table_sectors());
        let header = |my_lba: u64, alternate_lba: u64, table_lba: u64| {
            let mut header = Header {
                signature: format::SIGNATURE,
                revision: U32::new(format::REVISION),
                header_size: U32::new(format::HEADER_SIZE as u32),
                header_crc32: U32::ZERO,
                reserved: U32::ZERO,
                my_lba: U64::new(my_lba),
                alternate_lba: U64::new(alternate_lba),
                first_usable_lba: U64::new(self.first_usable()),
                last_usable_lba: U64::new(self.last_usable()),
                disk_guid: disk_guid.to_bytes_le(),
                partition_entry_lba: U64::new(table_lba),
                number_of_partition_entries: U32::new(ENTRIES as u32),
                size_of_partition_entry: U32::new(format::ENTRY_SIZE as u32),
                partition_entry_array_crc32: U32::new(table_crc),
            };
            header.header_crc32 = U32::new(crc32fast::hash(header.as_bytes()));
            header.as_bytes().to_vec()
        };
        vec![
            (mbr::format::CODE_SIZE as u64, self.protective_mbr()),
            (sector, header(1, last, 2)),
            (2 * sector, table.clone()),
            (backup_table * sector, table),
            (last * sector, header(last, 1, backup_table)),
        ]
    }

    /// Keeps tools that know only MBRs from taking the disk for empty.
    fn protective_mbr(&self) -> Vec<u8> {
        let last = self.disk_sectors.saturating_sub(1);
        let guard = mbr::format::Entry {
            status: 0,
            first_chs: [0x00, 0x02, 0x00],
            partition_type: mbr::format::TYPE_GPT_PROTECTIVE,
            last_chs: protective_chs(last),
            first_lba: U32::new(1),
            sectors: U32::new(u32::try_from(last).unwrap_or(u32::MAX)),
        };
        let mut tail = mbr::format::Tail {
            signature: mbr::format::SIGNATURE,
            ..mbr::format::Tail::default()
        };
        tail.entries[0] = guard;
        tail.as_bytes().to_vec()
    }
}

/// The last sector as the UEFI specification wants it: `FF FF FF` where it cannot be said.
fn protective_chs(last: u64) -> [u8; 3] {
    match mbr::format::chs(last) {
        [0xFE, 0xFF, 0xFF] => [0xFF; 3],
        chs => chs,
    }
}

fn entry(partition: &Partition) -> Entry {
    let mut name = [U16::ZERO; NAME_UNITS];
    for (slot, unit) in name.iter_mut().zip(partition.name.encode_utf16()) {
        *slot = U16::new(unit);
    }
    Entry {
        partition_type_guid: partition.type_guid.to_bytes_le(),
        unique_partition_guid: partition.guid.to_bytes_le(),
        starting_lba: U64::new(partition.start),
        ending_lba: U64::new((partition.start + partition.sectors).saturating_sub(1)),
        attributes: U64::new(partition.attributes),
        partition_name: name,
    }
}

#[cfg(test)]
pub(crate) mod tests;
