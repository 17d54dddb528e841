//! Reads VHD images, fixed and dynamic.

use zerocopy::FromBytes as _;

use super::error::Problem;
use super::file::Source;
use super::map::{Map, Piece, Place};
use crate::sink::vhd::format::{
    DynamicHeader, EXACT_CREATORS, FOOTER_COOKIE, FOOTER_LENGTH, Footer, HEADER_COOKIE, MAX_SIZE,
    SECTOR, TYPE_DIFFERENCING, TYPE_DYNAMIC, TYPE_FIXED, UNUSED, VERSION, bitmap_length,
};

/// Cylinders, heads and sectors of the largest geometry, which says nothing.
const LARGEST_GEOMETRY: (u16, u8, u8) = (65535, 16, 255);
/// Largest block that is read, in bytes.
const MAX_BLOCK: u32 = 256 << 20;

/// Whether the file has a footer, at its end or (a copy) at its start.
pub(super) fn is_vhd(source: &Source) -> bool {
    footer(source).is_ok_and(|footer| footer.is_some())
}

/// The footer at the end, else its copy at the start; none if neither is one.
fn footer(source: &Source) -> Result<Option<Footer>, Problem> {
    let Some(last) = source.length.checked_sub(FOOTER_LENGTH - 1) else {
        return Ok(None);
    };
    // Virtual PC before 2004 left out the last byte, which is zero.
    let at_end = if source.length % SECTOR == FOOTER_LENGTH - 1 {
        let mut bytes = source.bytes(last, FOOTER_LENGTH - 1)?;
        bytes.push(0);
        Footer::read_from_bytes(&bytes).ok()
    } else {
        source
            .structure(source.length.saturating_sub(FOOTER_LENGTH))
            .ok()
    };
    let at_start = source.structure(0).ok();
    Ok([at_end, at_start]
        .into_iter()
        .flatten()
        .find(|footer: &Footer| {
            footer.cookie == FOOTER_COOKIE && footer.checksum.get() == footer.expected_checksum()
        }))
}

/// Where the disk is in the image.
pub(super) fn read(source: &Source) -> Result<Map, Problem> {
    let Some(footer) = footer(source)? else {
        let last = source.length.saturating_sub(FOOTER_LENGTH);
        return Problem::corrupt(last, "there is no footer with a right checksum");
    };
    if footer.file_format_version.get() >> 16 != VERSION >> 16 {
        return Problem::unsupported(format!("has version {:#x}", footer.file_format_version));
    }
    let size = virtual_size(&footer);
    if size > MAX_SIZE {
        return Problem::corrupt(0x30, "the disk is impossibly large");
    }
    let mut map = Map::new(size);
    match footer.disk_type.get() {
        TYPE_FIXED => {
            source.check(0, size)?;
            let piece = Piece {
                start: 0,
                length: size,
                place: Place::Plain(0),
            };
            map.push(piece, 0)?;
        }
        TYPE_DYNAMIC => dynamic(source, &footer, &mut map)?,
        TYPE_DIFFERENCING => return Err(parent(source, &footer)),
        other => return Problem::unsupported(format!("has disk type {other}")),
    }
    Ok(map)
}

/// QEMU's rule: some creators mean the size, others the geometry.
fn virtual_size(footer: &Footer) -> u64 {
    let geometry = (
        footer.cylinders.get(),
        footer.heads,
        footer.sectors_per_track,
    );
    if EXACT_CREATORS.contains(&footer.creator_application) || geometry == LARGEST_GEOMETRY {
        return footer.current_size.get();
    }
    let (cylinders, heads, track) = geometry;
    u64::from(cylinders) * u64::from(heads) * u64::from(track) * SECTOR
}

fn header(source: &Source, footer: &Footer) -> Result<DynamicHeader, Problem> {
    let offset = footer.data_offset.get();
    let header: DynamicHeader = source.structure(offset)?;
    if header.cookie != HEADER_COOKIE || header.checksum.get() != header.expected_checksum() {
        return Problem::corrupt(offset, "the header has not its mark or checksum");
    }
    Ok(header)
}

fn parent(source: &Source, footer: &Footer) -> Problem {
    let name = match header(source, footer) {
        Ok(header) => header.parent_unicode_name,
        Err(problem) => return problem,
    };
    let (units, _) = name.as_chunks();
    let units: Vec<u16> = units
        .iter()
        .map(|unit| u16::from_be_bytes(*unit))
        .take_while(|unit| *unit != 0)
        .collect();
    Problem::Backing(String::from_utf16_lossy(&units))
}

fn dynamic(source: &Source, footer: &Footer, map: &mut Map) -> Result<(), Problem> {
    let header = header(source, footer)?;
    let at = footer.data_offset.get();
    let block_size = header.block_size.get();
    if !block_size.is_power_of_two() || u64::from(block_size) < SECTOR || block_size > MAX_BLOCK {
        return Problem::corrupt(at, "the block size is impossible");
    }
    let block_size = u64::from(block_size);
    let blocks = map.length.div_ceil(block_size);
    if u64::from(header.max_table_entries.get()) < blocks {
        return Problem::corrupt(at, "the table is too small for the disk");
    }
    let table_at = header.table_offset.get();
    let table = source.table_be32(table_at, blocks)?;
    for (number, entry) in (0_u64..).zip(table) {
        if entry == UNUSED {
            continue;
        }
        // The bitmap is not looked at, as in QEMU: sectors that are not marked
        // in a disk without a parent are zeros.
        let offset = u64::from(entry) * SECTOR + bitmap_length(block_size);
        let start = number * block_size;
        source.check_block(offset, start, block_size, map.length)?;
        let piece = Piece {
            start,
            length: block_size,
            place: Place::Plain(offset),
        };
        map.push(piece, table_at + number * 4)?;
    }
    Ok(())
}
