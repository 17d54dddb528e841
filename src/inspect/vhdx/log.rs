//! The log of a VHDX: changes of its tables that may not be at their places yet.
//!
//! Specification: \[MS-VHDX\] 2.3, and "log replay" in 2.3.3.

use zerocopy::FromBytes as _;

use super::part;
use crate::inspect::error::Problem;
use crate::inspect::file::{Change, Content, Source};
use crate::sink::vhdx::format::{
    DATA_DESCRIPTOR, DATA_SECTOR, DataDescriptor, DataSector, Header, LOG_SECTOR, LOG_SIGNATURE,
    LogEntryHeader, MIB, ZERO_DESCRIPTOR, ZeroDescriptor, checksum,
};

const SECTOR: u64 = LOG_SECTOR as u64;
const DESCRIPTOR: usize = size_of::<DataDescriptor>();
/// How often the whole log may be summed up. Entries lie side by side, apart from what is left
/// of the lap before; in an image that means harm, each sector begins one that goes to the end.
const MAX_LAPS: u64 = 4;
/// Most that the entries which count may have, in bytes: it bounds the memory that an image
/// can make kiln use. What writes images leaves a few sectors.
const MAX_ACTIVE: u64 = 128 << 20;

/// What the log changes, in the order in which it does. The file stays as it is.
pub(super) fn changes(source: &Source, header: &Header) -> Result<Vec<Change>, Problem> {
    if header.log_guid == [0; 16] {
        return Ok(Vec::new());
    }
    let log = Log {
        source,
        start: header.log_offset.get(),
        length: u64::from(header.log_length.get()),
        guid: header.log_guid,
    };
    source.check(log.start, log.length)?;
    if header.log_version.get() != 0 {
        return Problem::unsupported(format!("has version {} of the log", header.log_version));
    }
    if log.start < MIB || !log.length.is_multiple_of(MIB) {
        return Problem::corrupt(log.start, "the log has an impossible place");
    }
    let entries = log.entries()?;
    let mut changes = Vec::new();
    let mut length = 0;
    for entry in active(&entries, log.length) {
        length += entry.length;
        if length > MAX_ACTIVE {
            return Err(unfinished("has more than 128 MiB of changes in its log"));
        }
        log.replay(entry, &mut changes)?;
    }
    Ok(changes)
}

/// A log that is not replayed here.
pub(super) fn unfinished(what: &str) -> Problem {
    Problem::Unsupported {
        what: format!("{what}, because it was not closed properly"),
        hint: Some("have it mended with `qemu-img check -r all`, or attach it once in Hyper-V"),
    }
}

/// Reads a log, which is a ring.
struct Log<'s> {
    source: &'s Source,
    /// Offset in the file, in bytes.
    start: u64,
    /// Length in bytes.
    length: u64,
    /// Entries with another id are left over.
    guid: [u8; 16],
}

/// An entry whose checksum is right; all in bytes, within the log.
#[derive(Debug, Clone, Copy)]
struct Entry {
    at: u64,
    length: u64,
    /// Where the oldest entry was whose changes were not at their places yet.
    tail: u64,
    sequence: u64,
    descriptors: u32,
    /// Length that the file had.
    file_length: u64,
}

impl Log<'_> {
    /// The entries that are whole, by their place. One that is not was being written when the
    /// machine stopped: nothing of it had been done.
    fn entries(&self) -> Result<Vec<Entry>, Problem> {
        let mut entries = Vec::new();
        let (mut done, mut summed) = (0, 0);
        while done < self.length {
            let bytes = self.source.bytes(self.start + done, MIB)?;
            for (sector, at) in bytes.chunks(LOG_SECTOR).zip((done..).step_by(LOG_SECTOR)) {
                let Some(entry) = self.header(sector, at) else {
                    continue;
                };
                summed += entry.length;
                if summed > MAX_LAPS * self.length {
                    return Problem::corrupt(self.start + at, "entries of the log share places");
                }
                let whole = self.bytes(at, entry.length)?;
                let header = part::<LogEntryHeader>(sector, 0);
                if header.is_some_and(|header| header.checksum.get() == checksum(&whole)) {
                    entries.push(entry);
                }
            }
            done += MIB;
        }
        Ok(entries)
    }

    /// What a sector begins with, if it begins an entry of this log.
    fn header(&self, sector: &[u8], at: u64) -> Option<Entry> {
        let header: LogEntryHeader = part(sector, 0)?;
        let length = u64::from(header.entry_length.get());
        let tail = u64::from(header.tail.get());
        let is_entry = header.signature == LOG_SIGNATURE
            && header.log_guid == self.guid
            && (SECTOR..=self.length).contains(&length)
            && length.is_multiple_of(SECTOR)
            && tail < self.length
            && tail.is_multiple_of(SECTOR)
            && header.sequence_number.get() > 0;
        is_entry.then(|| Entry {
            at,
            length,
            tail,
            sequence: header.sequence_number.get(),
            descriptors: header.descriptor_count.get(),
            file_length: header.last_file_offset.get(),
        })
    }

    /// `length` bytes, which may go on at the log's start.
    fn bytes(&self, at: u64, length: u64) -> Result<Vec<u8>, Problem> {
        let before = length.min(self.length - at);
        let mut bytes = self.source.bytes(self.start + at, before)?;
        bytes.extend(self.source.bytes(self.start, length - before)?);
        Ok(bytes)
    }

    /// Appends what an entry changes: its descriptors come first, in as many sectors as they
    /// need, and then a sector for each that has data.
    fn replay(&self, entry: Entry, changes: &mut Vec<Change>) -> Result<(), Problem> {
        let corrupt = |what| Problem::corrupt(self.start + entry.at, what);
        if entry.file_length > self.source.length {
            return Err(unfinished("is shorter than its log says"));
        }
        let bytes = self.bytes(entry.at, entry.length)?;
        let first = size_of::<LogEntryHeader>();
        let end = first + DESCRIPTOR * entry.descriptors as usize;
        let Some(descriptors) = bytes.get(first..end) else {
            return corrupt("an entry of the log is too short");
        };
        let mut data = bytes[end.next_multiple_of(LOG_SECTOR)..].chunks_exact(LOG_SECTOR);
        for descriptor in descriptors.chunks_exact(DESCRIPTOR) {
            let change = if let Some(zeros) = part::<ZeroDescriptor>(descriptor, 0)
                .filter(|zeros| zeros.signature == ZERO_DESCRIPTOR)
            {
                Change {
                    offset: zeros.file_offset.get(),
                    content: Content::Zeros(zeros.length.get()),
                }
            } else if let Some(sector) = part::<DataDescriptor>(descriptor, 0)
                .filter(|sector| sector.signature == DATA_DESCRIPTOR)
            {
                let Some(data) = data
                    .next()
                    .and_then(|data| DataSector::read_from_bytes(data).ok())
                else {
                    return corrupt("an entry of the log lacks data");
                };
                let sequence =
                    u64::from(data.sequence_high.get()) << 32 | u64::from(data.sequence_low.get());
                if data.signature != DATA_SECTOR || sequence != entry.sequence {
                    return corrupt("data of the log is of another entry");
                }
                // The ends gave their place to the sector's mark and number.
                let bytes = [&sector.leading[..], &data.data, &sector.trailing].concat();
                Change {
                    offset: sector.file_offset.get(),
                    content: Content::Bytes(bytes),
                }
            } else {
                return corrupt("an entry of the log has an unknown descriptor");
            };
            if !change.offset.is_multiple_of(SECTOR) || !change.length().is_multiple_of(SECTOR) {
                return corrupt("the log changes a part of a sector");
            }
            self.source.check(change.offset, change.length())?;
            changes.push(change);
        }
        Ok(())
    }
}

/// The entries that count, the oldest first: the newest that can be reached from the tail it
/// names, and those between. Newer ones may be whole and yet count for nothing, because one
/// before them was still being written.
fn active(entries: &[Entry], log_length: u64) -> Vec<Entry> {
    let at = |place: u64| entries.binary_search_by_key(&place, |entry| entry.at).ok();
    let following = |index: usize| {
        let entry = entries[index];
        at((entry.at + entry.length) % log_length)
            .filter(|&next| entries[next].sequence.checked_sub(1) == Some(entry.sequence))
    };
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&index| entries[index].sequence);
    // By the first entry of their unbroken run: a walk for each would take a hostile log's
    // length squared.
    let mut first: Vec<Option<usize>> = vec![None; entries.len()];
    for &index in &order {
        let run = *first[index].get_or_insert(index);
        if let Some(next) = following(index) {
            first[next].get_or_insert(run);
        }
    }
    let reached = order.iter().rev().find_map(|&head| {
        let tail = at(entries[head].tail)?;
        let is_before = entries[tail].sequence <= entries[head].sequence;
        (is_before && first[tail] == first[head]).then_some((tail, head))
    });
    let Some((tail, head)) = reached else {
        return Vec::new();
    };
    std::iter::successors(Some(tail), |&index| {
        (index != head).then(|| following(index))?
    })
    .map(|index| entries[index])
    .collect()
}
