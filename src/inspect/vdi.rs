//! Reads VDI images, dynamic and static.

use super::error::Problem;
use super::file::Source;
use super::map::{Map, Piece, Place};
use crate::sink::vdi::format::{
    BLOCK_SIZE, FIRST_UNUSED, Header, SIGNATURE, TYPE_DIFFERENCING, TYPE_DYNAMIC, TYPE_STATIC,
    TYPE_UNDO, VERSION,
};

/// Where the signature is.
const SIGNATURE_AT: u64 = 0x40;

/// Whether the file has the signature.
pub(super) fn is_vdi(source: &Source) -> bool {
    source
        .table_le32(SIGNATURE_AT, 1)
        .is_ok_and(|found| found == [SIGNATURE])
}

/// Where the disk is in the image.
pub(super) fn read(source: &Source) -> Result<Map, Problem> {
    let header: Header = source.structure(0)?;
    if header.version.get() != VERSION {
        return Problem::unsupported(format!("has version {:#x}", header.version));
    }
    // The second is the state of the parent that this one was made from.
    let parents = [header.uuid_link, header.uuid_parent];
    let parent = parents.into_iter().find(|id| *id != [0; 16]);
    match (header.image_type.get(), parent) {
        (TYPE_DYNAMIC | TYPE_STATIC, None) => {}
        (TYPE_DYNAMIC | TYPE_STATIC | TYPE_UNDO | TYPE_DIFFERENCING, parent) => {
            let parent = uuid::Uuid::from_bytes_le(parent.unwrap_or_default());
            return Err(Problem::Backing(parent.to_string()));
        }
        (other, _) => return Problem::unsupported(format!("has image type {other}")),
    }
    if header.sector_size.get() != 512 {
        return Problem::corrupt(0x168, "the sector size is impossible");
    }
    if header.block_size.get() != BLOCK_SIZE || header.block_extra.get() != 0 {
        return Problem::unsupported(format!(
            "has blocks of {} and {} bytes",
            header.block_size, header.block_extra
        ));
    }
    let block_size = u64::from(BLOCK_SIZE);
    let mut map = Map::new(header.disk_size.get());
    let blocks = map.length.div_ceil(block_size);
    if u64::from(header.blocks_in_image.get()) < blocks {
        return Problem::corrupt(0x180, "the map is too small for the disk");
    }
    let table_at = u64::from(header.offset_bmap.get());
    let table = source.table_le32(table_at, blocks)?;
    for (number, entry) in (0_u64..).zip(table) {
        if entry >= FIRST_UNUSED {
            continue;
        }
        let offset = u64::from(header.offset_data.get()) + u64::from(entry) * block_size;
        let start = number * block_size;
        source.check_block(offset, start, block_size, map.length)?;
        let piece = Piece {
            start,
            length: block_size,
            place: Place::Plain(offset),
        };
        map.push(piece, table_at + number * 4)?;
    }
    Ok(map)
}
