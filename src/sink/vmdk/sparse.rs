//! Writes images in `monolithicSparse`.
//!
//! ```text
//! header | descriptor | redundant directory | its tables | directory | its tables | grains
//! ```

use std::path::PathBuf;

use uuid::Uuid;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::super::blocks::{BlockFormat, Geometry, Piece};
use super::super::error::Error;
use super::super::output::Output;
use super::format::{
    ENTRIES_PER_TABLE, FLAG_NEWLINE_TEST, FLAG_REDUNDANT, GRAIN_SECTORS, Header, MAGIC, MAX_SIZE,
    SECTOR,
};
use super::{Options, capacity, descriptor};

/// Bytes of a grain table.
const TABLE_BYTES: u64 = ENTRIES_PER_TABLE as u64 * 4;

/// An image whose grains are ready to be changed in place.
pub(crate) struct Sparse {
    options: Options,
    capacity: u64,
    tables: u64,
    geometry: Geometry,
    target: PathBuf,
    seed: Uuid,
}

impl Sparse {
    pub fn new(
        output: &Output,
        options: Options,
        length: u64,
        seed: &Uuid,
    ) -> Result<Sparse, Error> {
        let capacity = capacity(length)?;
        let per_table = GRAIN_SECTORS * u64::from(ENTRIES_PER_TABLE);
        let tables = capacity.div_ceil(per_table);
        let mut sparse = Sparse {
            options,
            capacity,
            tables,
            geometry: Geometry {
                block_size: GRAIN_SECTORS * SECTOR,
                first: 0,
                stride: GRAIN_SECTORS * SECTOR,
            },
            target: output.target().to_owned(),
            seed: *seed,
        };
        let end = sparse.directory(1) + sparse.directory_length();
        sparse.geometry.first = end.next_multiple_of(sparse.geometry.block_size);
        Ok(sparse)
    }

    /// Bytes of a directory in whole sectors and of its tables.
    fn directory_length(&self) -> u64 {
        (self.tables * 4).next_multiple_of(SECTOR) + self.tables * TABLE_BYTES
    }

    /// Offset of the redundant (0) or the main directory (1).
    fn directory(&self, which: u64) -> u64 {
        (descriptor::OFFSET + descriptor::SECTORS) * SECTOR + which * self.directory_length()
    }

    fn error(&self) -> Error {
        Error::TooLargeForFormat {
            format: "vmdk",
            length: self.capacity.saturating_mul(SECTOR),
            limit: MAX_SIZE,
        }
    }

    fn sector(&self, offset: u64) -> Result<u32, Error> {
        u32::try_from(offset / SECTOR).map_err(|_| self.error())
    }
}

impl BlockFormat for Sparse {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn finish(&self, blocks: &[u32]) -> Result<(Vec<Piece>, u64), Error> {
        let header = Header {
            magic: MAGIC.into(),
            version: 1.into(),
            flags: (FLAG_NEWLINE_TEST | FLAG_REDUNDANT).into(),
            capacity: self.capacity.into(),
            grain_size: GRAIN_SECTORS.into(),
            descriptor_offset: descriptor::OFFSET.into(),
            descriptor_size: descriptor::SECTORS.into(),
            num_gtes_per_gt: ENTRIES_PER_TABLE.into(),
            rgd_offset: (self.directory(0) / SECTOR).into(),
            gd_offset: (self.directory(1) / SECTOR).into(),
            over_head: (self.geometry.first / SECTOR).into(),
            single_end_line_char: b'\n',
            non_end_line_char: b' ',
            double_end_line_char1: b'\r',
            double_end_line_char2: b'\n',
            ..Header::new_zeroed()
        };
        let mut head = header.as_bytes().to_vec();
        head.extend(descriptor::bytes(
            &self.options,
            self.capacity,
            &self.target,
            &self.seed,
        ));
        let mut pieces = vec![Piece {
            offset: 0,
            bytes: head,
        }];
        // Tables without grains are holes.
        let mut tables: Vec<(u64, Vec<u8>)> = Vec::new();
        for (place, &grain) in (0..).zip(blocks) {
            let table = u64::from(grain / ENTRIES_PER_TABLE);
            if tables.last().is_none_or(|(last, _)| *last != table) {
                tables.push((table, vec![0; TABLE_BYTES as usize]));
            }
            let offset = self.geometry.offset(place).ok_or_else(|| self.error())?;
            let entry = self.sector(offset)?.to_le_bytes();
            let slot = (grain % ENTRIES_PER_TABLE) as usize * 4;
            if let Some((_, bytes)) = tables.last_mut() {
                bytes[slot..slot + 4].copy_from_slice(&entry);
            }
        }
        for which in 0..2 {
            let directory = self.directory(which);
            let first = directory + (self.tables * 4).next_multiple_of(SECTOR);
            let mut bytes = Vec::new();
            for table in 0..self.tables {
                let entry = self.sector(first + table * TABLE_BYTES)?;
                bytes.extend_from_slice(&entry.to_le_bytes());
            }
            pieces.push(Piece {
                offset: directory,
                bytes,
            });
            pieces.extend(tables.iter().map(|(table, bytes)| Piece {
                offset: first + table * TABLE_BYTES,
                bytes: bytes.clone(),
            }));
        }
        let end = self.geometry.offset(blocks.len() as u64);
        Ok((pieces, end.ok_or_else(|| self.error())?))
    }
}
