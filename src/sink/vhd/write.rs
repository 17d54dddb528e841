//! Writes VHD images.

use std::ops::Range;

use uuid::Uuid;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::super::blocks::{BlockFormat, Geometry, Piece, table};
use super::super::error::Error;
use super::super::identity;
use super::super::output::Output;
use super::super::pass::{Worker, Writer};
use super::super::raw::Raw;
use super::super::source::ReadAt;
use super::format::{
    BLOCK_SIZE, CREATOR, DynamicHeader, FEATURES_RESERVED, FOOTER_COOKIE, FOOTER_LENGTH, Footer,
    HEADER_COOKIE, HEADER_LENGTH, MAX_SIZE, SECTOR, TYPE_DYNAMIC, TYPE_FIXED, UNUSED, VERSION,
    bitmap_length, geometry,
};
use super::virtual_size;

/// Blocks begin at multiples of this, so that holes in them are holes in the file.
const ALIGNMENT: u64 = 4096;

fn checked_size(length: u64) -> Result<u64, Error> {
    let size = virtual_size(length);
    if size > MAX_SIZE {
        return Err(Error::TooLargeForFormat {
            format: "vhd",
            length,
            limit: MAX_SIZE,
        });
    }
    Ok(size)
}

fn footer(seed: &Uuid, size: u64, disk_type: u32, data_offset: u64) -> Footer {
    let (cylinders, heads, sectors_per_track) = geometry(size / SECTOR);
    let mut footer = Footer {
        cookie: FOOTER_COOKIE,
        features: FEATURES_RESERVED.into(),
        file_format_version: VERSION.into(),
        data_offset: data_offset.into(),
        creator_application: CREATOR,
        creator_version: VERSION.into(),
        creator_host_os: *b"Wi2k",
        original_size: size.into(),
        current_size: size.into(),
        cylinders: cylinders.into(),
        heads,
        sectors_per_track,
        disk_type: disk_type.into(),
        unique_id: identity::id(seed, "vhd").into_bytes(),
        ..Footer::new_zeroed()
    };
    footer.checksum = footer.expected_checksum().into();
    footer
}

/// A fixed image: a raw one with a footer.
pub(crate) struct Fixed<'a> {
    raw: Raw<'a>,
    output: &'a Output,
    size: u64,
    footer: Footer,
}

impl<'a> Fixed<'a> {
    pub fn create(disk: &dyn ReadAt, output: &'a Output, seed: &Uuid) -> Result<Fixed<'a>, Error> {
        let size = checked_size(disk.length())?;
        Ok(Fixed {
            raw: Raw::create(disk, output)?,
            output,
            size,
            footer: footer(seed, size, TYPE_FIXED, u64::MAX),
        })
    }
}

impl Writer for Fixed<'_> {
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Error> {
        self.raw.worker()
    }

    fn stop(&self) {}

    fn complete(&self) -> &[Range<u64>] {
        self.raw.complete()
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        self.raw.punch();
        self.output.write_at(self.footer.as_bytes(), self.size)
    }
}

/// A dynamic image.
pub(crate) struct Dynamic {
    size: u64,
    entries: u32,
    geometry: Geometry,
    footer: Footer,
}

impl Dynamic {
    /// The table follows footer and header.
    const TABLE: u64 = FOOTER_LENGTH + HEADER_LENGTH;

    pub fn new(length: u64, seed: &Uuid) -> Result<Dynamic, Error> {
        let size = checked_size(length)?;
        let block_size = u64::from(BLOCK_SIZE);
        // At most 2040 GiB in blocks of 2 MiB.
        let entries = u32::try_from(size.div_ceil(block_size)).unwrap_or(u32::MAX);
        let table_end = Self::TABLE + u64::from(entries) * 4;
        let first = (table_end + bitmap_length(block_size)).next_multiple_of(ALIGNMENT);
        Ok(Dynamic {
            size,
            entries,
            geometry: Geometry {
                block_size,
                first,
                stride: block_size + ALIGNMENT,
            },
            footer: footer(seed, size, TYPE_DYNAMIC, FOOTER_LENGTH),
        })
    }

    fn too_large(&self) -> Error {
        Error::TooLargeForFormat {
            format: "vhd",
            length: self.size,
            limit: MAX_SIZE,
        }
    }
}

impl BlockFormat for Dynamic {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn finish(&self, blocks: &[u32]) -> Result<(Vec<Piece>, u64), Error> {
        let bitmap = bitmap_length(self.geometry.block_size);
        let bitmap_at = |place| Some(self.geometry.offset(place)? - bitmap);
        let mut header = DynamicHeader {
            cookie: HEADER_COOKIE,
            data_offset: u64::MAX.into(),
            table_offset: Self::TABLE.into(),
            header_version: VERSION.into(),
            max_table_entries: self.entries.into(),
            block_size: BLOCK_SIZE.into(),
            ..DynamicHeader::new_zeroed()
        };
        header.checksum = header.expected_checksum().into();

        let mut head = self.footer.as_bytes().to_vec();
        head.extend_from_slice(header.as_bytes());
        let entries = usize::try_from(self.entries).map_err(|_| self.too_large())?;
        let table = table(entries, blocks, UNUSED, |place| {
            u32::try_from(bitmap_at(place)? / SECTOR).ok()
        });
        for entry in table.ok_or_else(|| self.too_large())? {
            head.extend_from_slice(&entry.to_be_bytes());
        }
        // What follows the table up to a sector is never used.
        head.resize(head.len().next_multiple_of(512), 0xFF);
        let mut pieces = vec![Piece {
            offset: 0,
            bytes: head,
        }];
        let full = vec![0xFF; usize::try_from(bitmap).map_err(|_| self.too_large())?];
        for place in 0..blocks.len() as u64 {
            pieces.push(Piece {
                offset: bitmap_at(place).ok_or_else(|| self.too_large())?,
                bytes: full.clone(),
            });
        }
        let end = self
            .geometry
            .offset(blocks.len() as u64)
            .ok_or_else(|| self.too_large())?;
        // The footer follows the last block.
        let footer_at = if blocks.is_empty() {
            Self::TABLE + (u64::from(self.entries) * 4).next_multiple_of(SECTOR)
        } else {
            end - ALIGNMENT
        };
        pieces.push(Piece {
            offset: footer_at,
            bytes: self.footer.as_bytes().to_vec(),
        });
        Ok((pieces, footer_at + FOOTER_LENGTH))
    }
}
