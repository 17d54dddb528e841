//! Writes VHDX images.
//!
//! ```text
//! 0      file type, headers and region tables, each twice
//! 1 MiB  log (empty), of 1 MiB unless asked otherwise
//! 2 MiB  metadata
//! 3 MiB  block allocation table, then blocks
//! ```

use uuid::Uuid;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::super::blocks::{BlockFormat, Geometry, Piece};
use super::super::error::Error;
use super::super::identity;
use super::format::{
    BLOCK_FULLY_PRESENT, BLOCK_ZERO, FILE_PARAMETERS, FILE_SIGNATURE, FileParameters,
    FileTypeIdentifier, HEADER_SIGNATURE, HEADERS, Header, IS_REQUIRED, IS_VIRTUAL_DISK,
    LEAVE_BLOCKS_ALLOCATED, LOGICAL_SECTOR_SIZE, MAX_SIZE, METADATA_SIGNATURE, MIB, MetadataEntry,
    MetadataTableHeader, PAGE_83_DATA, PHYSICAL_SECTOR_SIZE, REGION_BAT, REGION_METADATA,
    REGION_SIGNATURE, REGION_TABLES, RegionEntry, RegionTableHeader, TABLE_LENGTH,
    VIRTUAL_DISK_SIZE, checksum, chunk_ratio,
};
use super::{Options, Subformat};

const LOG: u64 = MIB;
/// Disks in kiln have such sectors whatever their filesystem's blocks are.
const LOGICAL_SECTOR: u32 = 512;
/// What the writer of a block should aim at.
const PHYSICAL_SECTOR: u32 = 4096;
/// Blocks of small disks: ext4 spreads its metadata, so that larger ones would
/// be used for little (Microsoft's advice for Linux guests).
const SMALL_BLOCK: u64 = MIB;
/// Blocks of disks over [`LARGE_DISK`], so that the table stays small.
const LARGE_BLOCK: u64 = 32 * MIB;
const LARGE_DISK: u64 = 2 << 40;

/// An image.
pub(crate) struct Vhdx {
    size: u64,
    entries: u64,
    /// Payload entries between two entries for sector bitmaps.
    chunk_ratio: u64,
    geometry: Geometry,
    options: Options,
    seed: Uuid,
}

fn too_large(length: u64) -> Error {
    Error::TooLargeForFormat {
        format: "vhdx",
        length,
        limit: MAX_SIZE,
    }
}

impl Vhdx {
    pub fn new(length: u64, options: Options, seed: &Uuid) -> Result<Vhdx, Error> {
        if length > MAX_SIZE {
            return Err(too_large(length));
        }
        let size = length.max(1).next_multiple_of(u64::from(LOGICAL_SECTOR));
        let block_size = match options.block_size {
            Some(block_size) => block_size,
            None if size > LARGE_DISK => LARGE_BLOCK,
            None => SMALL_BLOCK,
        };
        let chunk_ratio = chunk_ratio(block_size, u64::from(LOGICAL_SECTOR))
            .filter(|&ratio| ratio > 0)
            .ok_or_else(|| too_large(length))?;
        let blocks = size.div_ceil(block_size);
        let entries = blocks + (blocks - 1) / chunk_ratio;
        let table = LOG + options.log_size + MIB;
        let table_end = table + (entries * 8).next_multiple_of(MIB);
        Ok(Vhdx {
            size,
            entries,
            chunk_ratio,
            geometry: Geometry {
                block_size,
                first: table_end,
                stride: block_size,
            },
            options,
            seed: *seed,
        })
    }

    /// Where the metadata is.
    fn metadata_offset(&self) -> u64 {
        LOG + self.options.log_size
    }

    /// Where the block allocation table is.
    fn table_offset(&self) -> u64 {
        self.metadata_offset() + MIB
    }

    fn header(&self, sequence: u64) -> Result<Header, Error> {
        let log_length = u32::try_from(self.options.log_size).map_err(|_| too_large(self.size))?;
        let id = |what| identity::id(&self.seed, what).to_bytes_le();
        let mut header = Header {
            signature: HEADER_SIGNATURE,
            sequence_number: sequence.into(),
            file_write_guid: id("vhdx/file"),
            data_write_guid: id("vhdx/data"),
            version: 1.into(),
            log_length: log_length.into(),
            log_offset: LOG.into(),
            ..Header::new_zeroed()
        };
        header.checksum = checksum(header.as_bytes()).into();
        Ok(header)
    }

    fn region_table(&self) -> Result<Vec<u8>, Error> {
        let length = |bytes: u64| u32::try_from(bytes).map_err(|_| too_large(self.size));
        let regions = [
            (
                REGION_BAT,
                self.table_offset(),
                length(self.geometry.first - self.table_offset())?,
            ),
            (REGION_METADATA, self.metadata_offset(), length(MIB)?),
        ];
        let mut table = vec![0; TABLE_LENGTH];
        let header = RegionTableHeader {
            signature: REGION_SIGNATURE,
            entry_count: 2.into(),
            ..RegionTableHeader::new_zeroed()
        };
        let mut at = put(&mut table, 0, header.as_bytes());
        for (guid, offset, length) in regions {
            let entry = RegionEntry {
                guid: guid.to_bytes_le(),
                file_offset: offset.into(),
                length: length.into(),
                required: 1.into(),
            };
            at = put(&mut table, at, entry.as_bytes());
        }
        let sum = checksum(&table);
        put(&mut table, 4, &sum.to_le_bytes());
        Ok(table)
    }

    fn metadata(&self) -> Result<Vec<u8>, Error> {
        let block_size = u32::try_from(self.geometry.block_size);
        let parameters = FileParameters {
            block_size: block_size.map_err(|_| too_large(self.size))?.into(),
            flags: match self.options.subformat {
                Subformat::Dynamic => 0,
                Subformat::Fixed => LEAVE_BLOCKS_ALLOCATED,
            }
            .into(),
        };
        let page_83 = identity::id(&self.seed, "vhdx/disk").to_bytes_le();
        let items: [(Uuid, u32, &[u8]); 5] = [
            (FILE_PARAMETERS, IS_REQUIRED, parameters.as_bytes()),
            (
                VIRTUAL_DISK_SIZE,
                IS_REQUIRED | IS_VIRTUAL_DISK,
                &self.size.to_le_bytes(),
            ),
            (PAGE_83_DATA, IS_REQUIRED | IS_VIRTUAL_DISK, &page_83),
            (
                LOGICAL_SECTOR_SIZE,
                IS_REQUIRED | IS_VIRTUAL_DISK,
                &LOGICAL_SECTOR.to_le_bytes(),
            ),
            (
                PHYSICAL_SECTOR_SIZE,
                IS_REQUIRED | IS_VIRTUAL_DISK,
                &PHYSICAL_SECTOR.to_le_bytes(),
            ),
        ];
        let mut region = vec![0; TABLE_LENGTH];
        let header = MetadataTableHeader {
            signature: METADATA_SIGNATURE,
            entry_count: (items.len() as u16).into(),
            ..MetadataTableHeader::new_zeroed()
        };
        let mut at = put(&mut region, 0, header.as_bytes());
        for (id, flags, bytes) in items {
            let entry = MetadataEntry {
                item_id: id.to_bytes_le(),
                offset: (region.len() as u32).into(),
                length: (bytes.len() as u32).into(),
                flags: flags.into(),
                reserved: 0.into(),
            };
            region.extend_from_slice(bytes);
            at = put(&mut region, at, entry.as_bytes());
        }
        Ok(region)
    }
}

/// Copies `part` to `at` and returns where it ends.
fn put(bytes: &mut [u8], at: usize, part: &[u8]) -> usize {
    let end = at + part.len();
    bytes[at..end].copy_from_slice(part);
    end
}

impl BlockFormat for Vhdx {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn fixed_blocks(&self) -> Option<u32> {
        let blocks = self.size.div_ceil(self.geometry.block_size);
        (self.options.subformat == Subformat::Fixed)
            .then(|| u32::try_from(blocks).ok())
            .flatten()
    }

    fn finish(&self, blocks: &[u32]) -> Result<(Vec<Piece>, u64), Error> {
        let error = || too_large(self.size);
        let mut file_type = FileTypeIdentifier {
            signature: FILE_SIGNATURE,
            ..FileTypeIdentifier::new_zeroed()
        };
        for (at, unit) in "kiln".encode_utf16().enumerate() {
            put(&mut file_type.creator, 2 * at, &unit.to_le_bytes());
        }
        let mut pieces = vec![Piece {
            offset: self.metadata_offset(),
            bytes: self.metadata()?,
        }];
        // What is not stored has state 0 and is a hole in the table, unless asked
        // otherwise.
        let length = usize::try_from(self.entries * 8).map_err(|_| error())?;
        let mut table = vec![0; length];
        if self.options.zero_state {
            for (index, entry) in (1..).zip(table.chunks_exact_mut(8)) {
                // Those of sector bitmaps, after each chunk, stay 0.
                if index % (self.chunk_ratio + 1) != 0 {
                    entry.copy_from_slice(&BLOCK_ZERO.to_le_bytes());
                }
            }
        }
        for (place, &block) in (0..).zip(blocks) {
            let block = u64::from(block);
            let index = block + block / self.chunk_ratio;
            let at = usize::try_from(index * 8).map_err(|_| error())?;
            let offset = self.geometry.offset(place).ok_or_else(error)?;
            if at + 8 > table.len() {
                return Err(error());
            }
            put(
                &mut table,
                at,
                &(offset | BLOCK_FULLY_PRESENT).to_le_bytes(),
            );
        }
        pieces.push(Piece {
            offset: self.table_offset(),
            bytes: table,
        });
        let regions = self.region_table()?;
        for offset in REGION_TABLES {
            pieces.push(Piece {
                offset,
                bytes: regions.clone(),
            });
        }
        for (sequence, offset) in (0..).zip(HEADERS) {
            pieces.push(Piece {
                offset,
                bytes: self.header(sequence)?.as_bytes().to_vec(),
            });
        }
        pieces.push(Piece {
            offset: 0,
            bytes: file_type.as_bytes().to_vec(),
        });
        let end = self.geometry.offset(blocks.len() as u64);
        Ok((pieces, end.ok_or_else(error)?))
    }
}
