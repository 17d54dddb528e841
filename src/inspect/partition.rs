//! Partition tables of a disk: MBR with logical partitions, and GPT.
//!
//! The definitions of what is on disk are those of the writers
//! ([`crate::disk::mbr::format`], [`crate::disk::gpt::format`]). A table is
//! untrusted: what leaves the disk is dropped, chains and counts are bounded.

use zerocopy::FromBytes as _;

use crate::disk::gpt::format as gpt;
use crate::disk::mbr::format as mbr;
use crate::sink::{Cause, ReadAt, Reader};

/// Sector sizes that disks have.
const SECTOR_SIZES: [u64; 2] = [512, 4096];
/// Largest table of a GPT that is read, in bytes.
const MAX_TABLE: u64 = 1 << 20;
/// Most logical partitions that are followed.
const MAX_LOGICAL: u32 = 256;

/// A partition of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1; logical ones of an MBR from 5.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes, at least 1.
    pub length: u64,
    /// Its name, which only a GPT has.
    pub name: Option<String>,
}

/// Partitions of the disk in the order of their numbers; none where there is
/// no table.
///
/// # Errors
/// The disk cannot be read.
pub fn partitions(disk: &dyn ReadAt) -> Result<Vec<Partition>, Cause> {
    let mut table = Table {
        reader: disk.reader(),
        length: disk.length(),
    };
    let Some(tail) = table.record(0)? else {
        return Ok(Vec::new());
    };
    let guarded = tail
        .entries
        .iter()
        .any(|entry| entry.partition_type == mbr::TYPE_GPT_PROTECTIVE);
    if guarded && let Some(found) = table.gpt()? {
        return Ok(found);
    }
    table.mbr(&tail)
}

struct Table<'a> {
    reader: Box<dyn Reader + 'a>,
    length: u64,
}

impl Table<'_> {
    /// Bytes of the disk; `None` where it has no such range.
    fn bytes(&mut self, offset: u64, length: u64) -> Result<Option<Vec<u8>>, Cause> {
        let inside = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.length);
        if !inside {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(length)?];
        self.reader.read_at(offset, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// A boot record, if the sector holds one: a FAT filesystem has the same
    /// signature, but its entries make no sense.
    fn record(&mut self, offset: u64) -> Result<Option<mbr::Tail>, Cause> {
        let record = self.bytes(offset, mbr::RECORD_SIZE as u64)?;
        let tail = record
            .as_deref()
            .and_then(|bytes| bytes.get(mbr::CODE_SIZE..))
            .and_then(|bytes| mbr::Tail::read_from_bytes(bytes).ok());
        Ok(tail.filter(|tail| {
            tail.signature == mbr::SIGNATURE
                && tail
                    .entries
                    .iter()
                    .all(|entry| entry.status & !mbr::ACTIVE == 0)
        }))
    }

    fn partition(&self, number: u32, first: u64, sectors: u64, unit: u64) -> Option<Partition> {
        let start = first.checked_mul(unit)?;
        let length = sectors.checked_mul(unit)?;
        let inside = start.checked_add(length)? <= self.length;
        (inside && start > 0 && length > 0).then_some(Partition {
            number,
            start,
            length,
            name: None,
        })
    }

    fn mbr(&mut self, tail: &mbr::Tail) -> Result<Vec<Partition>, Cause> {
        const SECTOR: u64 = crate::disk::mbr::SECTOR;
        let mut found = Vec::new();
        let mut container = None;
        for (number, entry) in (1..).zip(&tail.entries) {
            let (first, sectors) = (entry.first_lba.get(), entry.sectors.get());
            if entry.partition_type == 0 {
                continue;
            }
            if mbr::CONTAINER_TYPES.contains(&entry.partition_type) {
                container = Some(u64::from(first));
                continue;
            }
            found.extend(self.partition(number, first.into(), sectors.into(), SECTOR));
        }
        let Some(base) = container else {
            return Ok(found);
        };
        let mut record = base;
        for number in (5..).take(MAX_LOGICAL as usize) {
            let Some(tail) = self.record(record.saturating_mul(SECTOR))? else {
                break;
            };
            let [data, link, ..] = tail.entries;
            if data.partition_type != 0 {
                let first = record.saturating_add(data.first_lba.get().into());
                found.extend(self.partition(number, first, data.sectors.get().into(), SECTOR));
            }
            let next = base.saturating_add(link.first_lba.get().into());
            // Records come in order, so a chain that does not go on goes around.
            if link.partition_type == 0 || next <= record {
                break;
            }
            record = next;
        }
        Ok(found)
    }

    /// The GPT at the start of the disk, else the one at its end.
    fn gpt(&mut self) -> Result<Option<Vec<Partition>>, Cause> {
        for unit in SECTOR_SIZES {
            for header in [Some(unit), self.length.checked_sub(unit)]
                .into_iter()
                .flatten()
            {
                if let Some(found) = self.gpt_at(header, unit)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    fn gpt_at(&mut self, offset: u64, unit: u64) -> Result<Option<Vec<Partition>>, Cause> {
        let Some(bytes) = self.bytes(offset, gpt::HEADER_SIZE as u64)? else {
            return Ok(None);
        };
        let Ok(header) = gpt::Header::read_from_bytes(&bytes) else {
            return Ok(None);
        };
        let mut unsigned = bytes;
        unsigned[16..20].fill(0);
        if header.signature != gpt::SIGNATURE
            || header.header_crc32.get() != crc32fast::hash(&unsigned)
        {
            return Ok(None);
        }
        let size = u64::from(header.size_of_partition_entry.get());
        let count = u64::from(header.number_of_partition_entries.get());
        let total = size.saturating_mul(count);
        if size < gpt::ENTRY_SIZE as u64 || total > MAX_TABLE {
            return Ok(None);
        }
        let at = header.partition_entry_lba.get().saturating_mul(unit);
        let Some(table) = self.bytes(at, total)? else {
            return Ok(None);
        };
        if header.partition_entry_array_crc32.get() != crc32fast::hash(&table) {
            return Ok(None);
        }
        let mut found = Vec::new();
        for (number, bytes) in (1..).zip(table.chunks_exact(usize::try_from(size)?)) {
            let Ok((entry, _)) = gpt::Entry::read_from_prefix(bytes) else {
                continue;
            };
            if entry.partition_type_guid == [0; 16] {
                continue;
            }
            let first = entry.starting_lba.get();
            let sectors = entry
                .ending_lba
                .get()
                .checked_sub(first)
                .and_then(|rest| rest.checked_add(1));
            let units: Vec<u16> = entry.partition_name.iter().map(|unit| unit.get()).collect();
            let name = String::from_utf16_lossy(&units);
            let partition =
                sectors.and_then(|sectors| self.partition(number, first, sectors, unit));
            found.extend(partition.map(|partition| Partition {
                name: Some(name.trim_end_matches('\0').to_owned()),
                ..partition
            }));
        }
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::disk::mbr::{Request, Size, place};
    use crate::disk::{Disk, gpt as gpt_writer};

    fn disk(length: u64, sector: u32, pieces: Vec<(u64, Vec<u8>)>) -> Disk {
        let mut builder = Disk::builder(length, sector);
        for (offset, bytes) in pieces {
            builder.bytes("table", offset, bytes);
        }
        builder.build().expect("the pieces do not overlap")
    }

    #[test]
    fn partitions_of_an_mbr_are_those_that_were_placed() {
        let request = |name: &str, primary, size| Request {
            name: name.to_owned(),
            primary,
            active: false,
            partition_type: 0x83,
            size,
        };
        let length = 256 << 20;
        let table = place(
            length,
            2048,
            &[
                request("a", true, Size::Bytes(10 << 20)),
                request("b", false, Size::Bytes(20 << 20)),
                request("c", false, Size::Bytes(30 << 20)),
            ],
        )
        .expect("they fit");
        let found = partitions(&disk(length, 512, table.render(7))).expect("it can be read");
        let expected: Vec<(u32, u64, u64)> = table
            .partitions
            .iter()
            .map(|one| {
                (
                    one.number,
                    u64::from(one.start) * 512,
                    u64::from(one.sectors) * 512,
                )
            })
            .collect();
        let found: Vec<(u32, u64, u64)> = found
            .iter()
            .map(|one| (one.number, one.start, one.length))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(found.iter().map(|one| one.0).collect::<Vec<_>>(), [1, 5, 6]);
    }

    fn gpt(sector: u32) -> (u64, Vec<(u64, Vec<u8>)>) {
        let length = 64 << 20;
        let request = |name: &str, mib: u64| gpt_writer::Request {
            name: name.to_owned(),
            size: gpt_writer::Size::Bytes(mib << 20),
            type_guid: Uuid::from_u128(1),
            guid: Uuid::from_u128(u128::from(mib)),
            attributes: 0,
        };
        let table = gpt_writer::place(length, sector, &[request("boot", 8), request("root", 40)])
            .expect("they fit");
        (length, table.render(Uuid::from_u128(9)))
    }

    #[test]
    fn a_gpt_is_read_in_both_sector_sizes_and_from_its_copy() {
        for sector in [512, 4096] {
            let (length, pieces) = gpt(sector);
            let mut damaged = pieces.clone();
            for (offset, bytes) in &mut damaged {
                let header = u64::from(sector).checked_sub(*offset);
                if let Some(byte) = header.and_then(|at| bytes.get_mut(at as usize + 24)) {
                    *byte ^= 1;
                }
            }
            for pieces in [pieces, damaged] {
                let found = partitions(&disk(length, sector, pieces)).expect("it can be read");
                let names: Vec<_> = found.iter().map(|one| one.name.as_deref()).collect();
                assert_eq!(names, [Some("boot"), Some("root")]);
                assert_eq!((found[0].start, found[1].length), (1 << 20, 40 << 20));
            }
        }
    }

    #[test]
    fn anything_else_has_no_partitions() {
        let mut fat = vec![0xF0; 512];
        fat[510..].copy_from_slice(&[0x55, 0xAA]);
        for bytes in [vec![0; 512], vec![0xFF; 512], fat] {
            let found = partitions(&disk(1 << 20, 512, vec![(0, bytes)]));
            assert_eq!(found.expect("it can be read"), []);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_table_makes_partitions_that_leave_the_disk(
            code in proptest::collection::vec(proptest::prelude::any::<u8>(), 66),
            sparse in proptest::collection::vec((0usize..2048, proptest::prelude::any::<u8>()), 0..20),
        ) {
            let mut bytes = vec![0; 2048];
            bytes[446..512].copy_from_slice(&code);
            bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
            for at in [446, 462, 478, 494] {
                bytes[at] &= 0x80;
            }
            for (at, byte) in sparse {
                bytes[at] = byte;
            }
            let disk = disk(1 << 20, 512, vec![(0, bytes)]);
            for partition in partitions(&disk).expect("it can be read") {
                proptest::prop_assert!(partition.start + partition.length <= 1 << 20);
            }
        }
    }
}
