//! Writes VDI images.

use uuid::Uuid;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::super::blocks::{BlockFormat, Geometry, Piece, table};
use super::super::error::Error;
use super::super::identity;
use super::Subformat;
use super::format::{
    BLOCK_SIZE, HEADER_SIZE, Header, MAX_BLOCKS, SIGNATURE, TYPE_DYNAMIC, TYPE_STATIC, UNUSED,
    VERSION,
};

/// What people see who look into the file.
const TEXT: &[u8] = b"<<< kiln VirtualBox disk image >>>\n";
/// Where the map begins.
const MAP: u64 = 512;

/// An image.
pub(crate) struct Vdi {
    size: u64,
    entries: u32,
    subformat: Subformat,
    geometry: Geometry,
    image: Uuid,
    snapshot: Uuid,
}

impl Vdi {
    pub fn new(length: u64, subformat: Subformat, seed: &Uuid) -> Result<Vdi, Error> {
        let block_size = u64::from(BLOCK_SIZE);
        let entries = u32::try_from(length.div_ceil(block_size)).ok();
        let entries = entries.filter(|&entries| entries <= MAX_BLOCKS);
        let entries = entries.ok_or_else(|| too_large(length))?;
        let map_end = MAP + u64::from(entries) * 4;
        Ok(Vdi {
            // Fits: the blocks do.
            size: length.next_multiple_of(512),
            entries,
            subformat,
            geometry: Geometry {
                block_size,
                first: map_end.next_multiple_of(block_size),
                stride: block_size,
            },
            image: identity::id(seed, "vdi"),
            snapshot: identity::id(seed, "vdi/snapshot"),
        })
    }
}

fn too_large(length: u64) -> Error {
    Error::TooLargeForFormat {
        format: "vdi",
        length,
        limit: u64::from(MAX_BLOCKS) * u64::from(BLOCK_SIZE),
    }
}

impl BlockFormat for Vdi {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn fixed_blocks(&self) -> Option<u32> {
        (self.subformat == Subformat::Static).then_some(self.entries)
    }

    fn finish(&self, blocks: &[u32]) -> Result<(Vec<Piece>, u64), Error> {
        let error = || too_large(self.size);
        let small = |value: u64| u32::try_from(value).map_err(|_| error());
        let mut header = Header {
            signature: SIGNATURE.into(),
            version: VERSION.into(),
            header_size: HEADER_SIZE.into(),
            image_type: match self.subformat {
                Subformat::Dynamic => TYPE_DYNAMIC,
                Subformat::Static => TYPE_STATIC,
            }
            .into(),
            offset_bmap: small(MAP)?.into(),
            offset_data: small(self.geometry.first)?.into(),
            sector_size: 512.into(),
            disk_size: self.size.into(),
            block_size: BLOCK_SIZE.into(),
            blocks_in_image: self.entries.into(),
            blocks_allocated: small(blocks.len() as u64)?.into(),
            // The on-disk form of ids has its first three numbers in little-endian.
            uuid_image: self.image.to_bytes_le(),
            uuid_last_snapshot: self.snapshot.to_bytes_le(),
            ..Header::new_zeroed()
        };
        header.text[..TEXT.len()].copy_from_slice(TEXT);
        let mut head = header.as_bytes().to_vec();
        let entries = usize::try_from(self.entries).map_err(|_| error())?;
        let map = table(entries, blocks, UNUSED, |place| u32::try_from(place).ok());
        for entry in map.ok_or_else(error)? {
            head.extend_from_slice(&entry.to_le_bytes());
        }
        let end = self.geometry.offset(blocks.len() as u64);
        Ok((
            vec![Piece {
                offset: 0,
                bytes: head,
            }],
            end.ok_or_else(error)?,
        ))
    }
}
