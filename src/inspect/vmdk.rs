//! Reads VMDK images of one sparse file: `monolithicSparse`, `streamOptimized`.

use super::error::Problem;
use super::file::Source;
use super::map::{MAX_COMPRESSED_UNIT, Map, Method, Piece, Place, TablesSeen};
use crate::sink::vmdk::format::{
    COMPRESSION_DEFLATE, ENTRIES_PER_TABLE, FLAG_COMPRESSED, FLAG_MARKERS, FLAG_ZEROED_GRAIN,
    GD_AT_END, GrainMarker, Header, MAGIC, SECTOR,
};

/// Start of a descriptor, alone or within a file.
pub(super) const DESCRIPTOR: &[u8] = b"# Disk DescriptorFile";
/// Magic of the sparse files of old ESX servers.
pub(super) const MAGIC_ESX: &[u8] = b"COWD";
/// Largest descriptor that is read, in sectors.
const MAX_DESCRIPTOR: u64 = 128;
/// Versions that are read.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=3;

/// Where the disk is in the image.
pub(super) fn read(source: &Source) -> Result<Map, Problem> {
    let first: Header = source.structure(0)?;
    if first.magic.get() != MAGIC {
        return Problem::unsupported("is only a description of other files");
    }
    descriptor(source, &first)?;
    let mut header = first;
    if first.gd_offset.get() == GD_AT_END {
        // Before the last sector, which marks the end.
        let at = source.length.saturating_sub(2 * SECTOR);
        header = source.structure(at)?;
        if header.magic.get() != MAGIC || header.gd_offset.get() == GD_AT_END {
            return Problem::corrupt(at, "the footer is missing");
        }
    }
    if !VERSIONS.contains(&header.version.get()) {
        return Problem::unsupported(format!("has version {}", header.version));
    }
    let flags = header.flags.get();
    let compressed = flags & FLAG_COMPRESSED != 0;
    if compressed && header.compress_algorithm.get() != COMPRESSION_DEFLATE {
        return Problem::unsupported(format!("has compression {}", header.compress_algorithm));
    }
    if compressed && flags & FLAG_MARKERS == 0 {
        return Problem::unsupported("has compressed grains without markers");
    }
    let grain = header.grain_size.get();
    if !grain.is_power_of_two() || grain > MAX_COMPRESSED_UNIT / SECTOR {
        return Problem::corrupt(0x14, "the grain size is impossible");
    }
    let grain = grain * SECTOR;
    let per_table = u64::from(header.num_gtes_per_gt.get());
    if per_table == 0 || per_table > u64::from(ENTRIES_PER_TABLE) {
        return Problem::corrupt(0x2C, "the length of the grain tables is impossible");
    }
    let Some(length) = header.capacity.get().checked_mul(SECTOR) else {
        return Problem::corrupt(0x0C, "the disk is impossibly large");
    };
    let mut map = Map::new(length);
    map.method = Method::Zlib;
    map.unit = grain;
    let Some(directory_at) = header.gd_offset.get().checked_mul(SECTOR) else {
        return Problem::corrupt(0x38, "the directory is past the end");
    };
    let tables = length.div_ceil(grain * per_table);
    let directory = source.table_le32(directory_at, tables)?;
    let mut seen = TablesSeen::default();
    for (number, sector) in (0_u64..).zip(directory) {
        if sector == 0 {
            continue;
        }
        let table_at = u64::from(sector) * SECTOR;
        seen.add(table_at)?;
        let table = source.table_le32(table_at, per_table)?;
        for (slot, entry) in (0_u64..).zip(table) {
            let start = (number * per_table + slot) * grain;
            if start >= length {
                break;
            }
            if entry == 0 || (entry == 1 && flags & FLAG_ZEROED_GRAIN != 0) {
                continue;
            }
            let offset = u64::from(entry) * SECTOR;
            let place = if compressed {
                compressed_grain(source, offset, start / SECTOR, grain)?
            } else {
                source.check(offset, 1)?;
                Place::Plain(offset)
            };
            let piece = Piece {
                start,
                length: grain,
                place,
            };
            map.push(piece, table_at + slot * 4)?;
        }
    }
    Ok(map)
}

fn compressed_grain(source: &Source, at: u64, lba: u64, grain: u64) -> Result<Place, Problem> {
    let marker: GrainMarker = source.structure(at)?;
    let stored = marker.size.get();
    if marker.lba.get() != lba {
        return Problem::corrupt(at, "a grain belongs to another part of the disk");
    }
    if stored == 0 || u64::from(stored) > grain * 2 {
        return Problem::corrupt(at, "a compressed grain has an impossible length");
    }
    let offset = at + size_of::<GrainMarker>() as u64;
    source.check(offset, u64::from(stored))?;
    Ok(Place::Compressed { offset, stored })
}

/// Refuses what stands on other files.
fn descriptor(source: &Source, header: &Header) -> Result<(), Problem> {
    let sectors = header.descriptor_size.get();
    let at = header.descriptor_offset.get().checked_mul(SECTOR);
    let Some(at) = at.filter(|_| sectors <= MAX_DESCRIPTOR) else {
        return Problem::corrupt(0x1C, "the descriptor has an impossible place");
    };
    if sectors == 0 {
        return Problem::unsupported("is a part of an image of several files");
    }
    let bytes = source.bytes(at, sectors * SECTOR)?;
    let text = String::from_utf8_lossy(&bytes);
    let value = |wanted: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(key, _)| key.trim() == wanted)
            .map(|(_, value)| value.trim().trim_matches(['"', '\0']).to_owned())
    };
    if let Some(parent) = value("parentCID")
        && !parent.eq_ignore_ascii_case("ffffffff")
    {
        let name = value("parentFileNameHint").unwrap_or(parent);
        return Err(Problem::Backing(name));
    }
    match value("createType").as_deref() {
        Some("monolithicSparse" | "streamOptimized") => Ok(()),
        Some(other) => {
            let other = other.escape_default();
            Problem::unsupported(format!("has the type `{other}`"))
        }
        None => Problem::corrupt(at, "the descriptor does not say its type"),
    }
}
