//! Reads VHDX images, also such as were not closed properly.

mod log;

use uuid::Uuid;
use zerocopy::{FromBytes, IntoBytes as _};

use crate::inspect::error::Problem;
use crate::inspect::file::{Change, Source};
use crate::inspect::map::{Map, Piece, Place};
use crate::sink::vhdx::format::{
    BLOCK_FULLY_PRESENT, BLOCK_NOT_PRESENT, BLOCK_SIZES, BLOCK_UNDEFINED, BLOCK_UNMAPPED,
    BLOCK_ZERO, FILE_PARAMETERS, FileParameters, HAS_PARENT, HEADER_SIGNATURE, HEADERS, Header,
    IS_REQUIRED, LOGICAL_SECTOR_SIZE, LocatorEntry, LocatorHeader, MAX_ENTRIES, MAX_SIZE,
    METADATA_SIGNATURE, MIB, MetadataEntry, MetadataTableHeader, OFFSET_MASK, PAGE_83_DATA,
    PARENT_LOCATOR, PHYSICAL_SECTOR_SIZE, REGION_BAT, REGION_METADATA, REGION_SIGNATURE,
    REGION_TABLES, RegionEntry, RegionTableHeader, STATE_MASK, TABLE_LENGTH, VIRTUAL_DISK_SIZE,
    checksum, chunk_ratio,
};

/// Where a region lies.
#[derive(Debug, Clone, Copy)]
struct Region {
    offset: u64,
    length: u64,
}

/// Where the disk is in the image.
pub(super) fn read(source: &mut Source) -> Result<Map, Problem> {
    let header = header(source)?;
    if header.version.get() != 1 {
        return Problem::unsupported(format!("has version {}", header.version));
    }
    source.changes = log::changes(source, &header)?;
    let source = &*source;
    let (bat, metadata) = regions(source)?;
    check_changes(source, &[bat, metadata])?;
    let disk = metadata_items(source, metadata)?;
    let mut map = Map::new(disk.size);
    let Some(ratio) = chunk_ratio(disk.block_size, disk.sector).filter(|&ratio| ratio > 0) else {
        return Problem::corrupt(metadata.offset, "the block size is impossible");
    };
    let blocks = disk.size.div_ceil(disk.block_size);
    let entries = blocks + blocks.saturating_sub(1) / ratio;
    if entries * 8 > bat.length {
        return Problem::corrupt(bat.offset, "the table is too small for the disk");
    }
    let table = source.table_le64(bat.offset, entries)?;
    for block in 0..blocks {
        let index = block + block / ratio;
        let at = bat.offset + index * 8;
        let entry = usize::try_from(index)
            .ok()
            .and_then(|index| table.get(index));
        let Some(&entry) = entry else {
            return Problem::corrupt(at, "the table is too small for the disk");
        };
        match entry & STATE_MASK {
            BLOCK_NOT_PRESENT | BLOCK_UNDEFINED | BLOCK_ZERO | BLOCK_UNMAPPED => {}
            BLOCK_FULLY_PRESENT => {
                let offset = entry & OFFSET_MASK;
                if offset < MIB {
                    return Problem::corrupt(at, "a block lies within the headers");
                }
                let start = block * disk.block_size;
                source.check_block(offset, start, disk.block_size, disk.size)?;
                let piece = Piece {
                    start,
                    length: disk.block_size,
                    place: Place::Plain(offset),
                };
                map.push(piece, at)?;
            }
            _ => return Problem::corrupt(at, "a block has an impossible state"),
        }
    }
    Ok(map)
}

/// That the log changes tables only: the disk's blocks are read from their places.
fn check_changes(source: &Source, tables: &[Region]) -> Result<(), Problem> {
    let headers = Region {
        offset: 0,
        length: MIB,
    };
    let is_within = |change: &Change, region: &Region| {
        let start = change.offset.checked_sub(region.offset);
        let end = start.and_then(|start| start.checked_add(change.length()));
        end.is_some_and(|end| end <= region.length)
    };
    let regions = tables.iter().chain([&headers]);
    for change in &source.changes {
        if !regions.clone().any(|region| is_within(change, region)) {
            return Err(log::unfinished("has a log that changes more than tables"));
        }
    }
    Ok(())
}

/// The header that counts.
fn header(source: &Source) -> Result<Header, Problem> {
    let mut newest: Option<Header> = None;
    for offset in HEADERS {
        let header: Header = source.structure(offset)?;
        let valid = header.signature == HEADER_SIGNATURE
            && header.checksum.get() == checksum(header.as_bytes());
        let newer = newest
            .as_ref()
            .is_none_or(|other| header.sequence_number > other.sequence_number);
        if valid && newer {
            newest = Some(header);
        }
    }
    match newest {
        Some(header) => Ok(header),
        None => Problem::corrupt(HEADERS[0], "no header has a right checksum"),
    }
}

/// Reads a structure out of bytes.
fn part<T: FromBytes>(bytes: &[u8], at: usize) -> Option<T> {
    let end = at.checked_add(size_of::<T>())?;
    T::read_from_bytes(bytes.get(at..end)?).ok()
}

/// The regions of the table and of the metadata.
fn regions(source: &Source) -> Result<(Region, Region), Problem> {
    for offset in REGION_TABLES {
        let bytes = source.bytes(offset, TABLE_LENGTH as u64)?;
        let Some(header) = part::<RegionTableHeader>(&bytes, 0) else {
            continue;
        };
        if header.signature != REGION_SIGNATURE
            || header.checksum.get() != checksum(&bytes)
            || header.entry_count.get() > MAX_ENTRIES
        {
            continue;
        }
        let (mut bat, mut metadata) = (None, None);
        let mut at = size_of::<RegionTableHeader>();
        for _ in 0..header.entry_count.get() {
            let Some(entry) = part::<RegionEntry>(&bytes, at) else {
                break;
            };
            at += size_of::<RegionEntry>();
            let region = Region {
                offset: entry.file_offset.get(),
                length: u64::from(entry.length.get()),
            };
            let guid = Uuid::from_bytes_le(entry.guid);
            if guid == REGION_BAT {
                bat = Some(region);
            } else if guid == REGION_METADATA {
                metadata = Some(region);
            } else if entry.required.get() & 1 != 0 {
                return Problem::unsupported(format!("needs the region {guid}"));
            }
        }
        return match (bat, metadata) {
            (Some(bat), Some(metadata)) => Ok((bat, metadata)),
            _ => Problem::corrupt(offset, "a region is missing"),
        };
    }
    Problem::corrupt(REGION_TABLES[0], "no region table has a right checksum")
}

/// What the metadata says of the disk, in bytes.
struct Disk {
    size: u64,
    block_size: u64,
    sector: u64,
}

fn metadata_items(source: &Source, region: Region) -> Result<Disk, Problem> {
    let bytes = source.bytes(region.offset, TABLE_LENGTH as u64)?;
    let header = part::<MetadataTableHeader>(&bytes, 0);
    let Some(header) = header.filter(|header| header.signature == METADATA_SIGNATURE) else {
        return Problem::corrupt(region.offset, "the metadata has not its mark");
    };
    let (mut size, mut parameters, mut sector, mut locator) = (None, None, None, None);
    let mut at = size_of::<MetadataTableHeader>();
    for _ in 0..header.entry_count.get() {
        let Some(entry) = part::<MetadataEntry>(&bytes, at) else {
            return Problem::corrupt(region.offset, "the metadata has too many items");
        };
        at += size_of::<MetadataEntry>();
        let offset = region.offset.checked_add(u64::from(entry.offset.get()));
        let Some(offset) = offset else {
            return Problem::corrupt(region.offset, "an item lies past the end");
        };
        let id = Uuid::from_bytes_le(entry.item_id);
        if id == FILE_PARAMETERS {
            parameters = Some(source.structure::<FileParameters>(offset)?);
        } else if id == VIRTUAL_DISK_SIZE {
            size = source.table_le64(offset, 1)?.first().copied();
        } else if id == LOGICAL_SECTOR_SIZE {
            sector = source.table_le32(offset, 1)?.first().copied();
        } else if id == PARENT_LOCATOR {
            locator = Some((offset, u64::from(entry.length.get())));
        } else if id != PAGE_83_DATA
            && id != PHYSICAL_SECTOR_SIZE
            && entry.flags.get() & IS_REQUIRED != 0
        {
            return Problem::unsupported(format!("needs the metadata {id}"));
        }
    }
    let (Some(size), Some(parameters), Some(sector)) = (size, parameters, sector) else {
        return Problem::corrupt(region.offset, "an item of the metadata is missing");
    };
    if parameters.flags.get() & HAS_PARENT != 0 || locator.is_some() {
        let name = locator.and_then(|(offset, length)| parent_name(source, offset, length));
        let name = name.unwrap_or_else(|| "without a name".to_owned());
        return Err(Problem::Backing(name));
    }
    let block_size = u64::from(parameters.block_size.get());
    if !BLOCK_SIZES.contains(&block_size) || !block_size.is_power_of_two() {
        return Problem::corrupt(region.offset, "the block size is impossible");
    }
    if size > MAX_SIZE || !matches!(sector, 512 | 4096) {
        return Problem::corrupt(
            region.offset,
            "the size of the disk or of its sectors is impossible",
        );
    }
    Ok(Disk {
        size,
        block_size,
        sector: u64::from(sector),
    })
}

/// Keys of a locator whose values are names of the parent's file, the best first.
const PARENT_NAMES: [&str; 3] = ["relative_path", "absolute_win32_path", "volume_path"];

/// The parent's name, as the locator of `length` bytes at `offset` has it.
fn parent_name(source: &Source, offset: u64, length: u64) -> Option<String> {
    let bytes = source.bytes(offset, length.min(MIB)).ok()?;
    let header: LocatorHeader = part(&bytes, 0)?;
    let text = |offset: u32, length: u16| {
        let start = usize::try_from(offset).ok()?;
        let units = bytes.get(start..start.checked_add(usize::from(length))?)?;
        let (units, _) = units.as_chunks();
        let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
        Some(String::from_utf16_lossy(&units))
    };
    let entries = (0..usize::from(header.entry_count.get())).map_while(|number| {
        let at = size_of::<LocatorHeader>() + number * size_of::<LocatorEntry>();
        part::<LocatorEntry>(&bytes, at)
    });
    PARENT_NAMES.iter().find_map(|wanted| {
        let mut named = entries.clone().filter(|entry| {
            let length = entry.key_length.get();
            usize::from(length) == 2 * wanted.len()
                && text(entry.key_offset.get(), length).as_deref() == Some(wanted)
        });
        let entry = named.next()?;
        text(entry.value_offset.get(), entry.value_length.get())
    })
}

#[cfg(test)]
pub(super) mod tests;
