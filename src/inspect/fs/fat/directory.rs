//! Directories of FAT: entries of 32 bytes, long names in parts before the entry
//! that they name.

use zerocopy::FromBytes as _;

use super::super::{Entry, FileId, Run, is_plain_name};
use super::{ATTR_DIRECTORY, ATTR_VOLUME_ID, Error};
use crate::disk::fs::fat::format::{
    ATTR_LONG_NAME, CASE_LOWER_BASE, CASE_LOWER_EXTENSION, DirectoryEntry, ENTRY_SIZE,
    LAST_LONG_ENTRY, LONG_NAME_UNITS, LongNameEntry, short_name_checksum,
};
use crate::inspect::Volume;

/// Bits of the attributes that tell parts of long names.
pub(super) const LONG_NAME_MASK: u8 = 0x3F;
/// First byte of an entry that was deleted.
const DELETED: u8 = 0xE5;
/// First byte that stands for 0xE5.
const NOT_DELETED: u8 = 0x05;
/// Most parts of a long name.
const MAX_PARTS: u8 = 20;

/// A long name whose parts are being read, last part first.
#[derive(Default)]
struct LongName {
    units: Vec<u16>,
    /// Number of the part that was read last; 1 when all are there.
    part: u8,
    checksum: u8,
}

impl LongName {
    fn add(&mut self, entry: &LongNameEntry) {
        let number = entry.order & !LAST_LONG_ENTRY;
        if entry.order & LAST_LONG_ENTRY != 0 {
            *self = LongName {
                units: Vec::new(),
                part: number.saturating_add(1),
                checksum: entry.checksum,
            };
        }
        let follows =
            number != 0 && number <= MAX_PARTS && number.checked_add(1) == Some(self.part);
        if !follows || entry.checksum != self.checksum {
            *self = LongName::default();
            return;
        }
        self.part = number;
        let parts = entry
            .name_1
            .iter()
            .chain(&entry.name_2)
            .chain(&entry.name_3);
        let mut units: Vec<u16> = Vec::with_capacity(LONG_NAME_UNITS);
        units.extend(parts.map(|unit| unit.get()));
        units.append(&mut self.units);
        self.units = units;
    }

    /// The name, if it belongs to an entry of this short name.
    fn take(&mut self, short: &[u8; 11]) -> Option<Vec<u8>> {
        let name = std::mem::take(self);
        if name.part != 1 || name.checksum != short_name_checksum(short) {
            return None;
        }
        let end = name.units.iter().position(|&unit| unit == 0);
        let units = &name.units[..end.unwrap_or(name.units.len())];
        let name = String::from_utf16_lossy(units).into_bytes();
        is_plain_name(&name).then_some(name)
    }
}

/// Calls a function with every entry in use and its place, until it returns true.
fn each(
    volume: &Volume<'_>,
    runs: &[Run],
    mut visit: impl FnMut(u64, [u8; ENTRY_SIZE]) -> bool,
) -> Result<(), Error> {
    for run in runs {
        let mut at = run.at;
        while at < run.at + run.length {
            let bytes: [u8; ENTRY_SIZE] = volume.structure(at)?;
            if bytes[0] == 0 || visit(at, bytes) {
                return Ok(());
            }
            at += ENTRY_SIZE as u64;
        }
    }
    Ok(())
}

/// The first entry of which something is true.
pub(super) fn find(
    volume: &Volume<'_>,
    runs: &[Run],
    is_it: impl Fn(&DirectoryEntry) -> bool,
) -> Result<Option<DirectoryEntry>, Error> {
    let mut found = None;
    each(volume, runs, |_, bytes| {
        if bytes[0] != DELETED
            && let Ok(entry) = DirectoryEntry::read_from_bytes(&bytes)
            && is_it(&entry)
        {
            found = Some(entry);
        }
        found.is_some()
    })?;
    Ok(found)
}

/// All files, but `.` and `..`.
pub(super) fn read(volume: &Volume<'_>, runs: &[Run]) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    let mut long = LongName::default();
    each(volume, runs, |at, bytes| {
        if bytes[0] == DELETED {
            long = LongName::default();
            return false;
        }
        if bytes[0x0B] & LONG_NAME_MASK == ATTR_LONG_NAME {
            if let Ok(part) = LongNameEntry::read_from_bytes(&bytes) {
                long.add(&part);
            }
            return false;
        }
        let Ok(entry) = DirectoryEntry::read_from_bytes(&bytes) else {
            return false;
        };
        let name = long.take(&entry.name);
        if entry.attributes & (ATTR_VOLUME_ID | ATTR_DIRECTORY) == ATTR_VOLUME_ID {
            return false;
        }
        let name = name.unwrap_or_else(|| short_name(&entry));
        if is_plain_name(&name) {
            entries.push(Entry {
                name,
                file: FileId(at),
            });
        }
        false
    })?;
    Ok(entries)
}

/// A name of eight characters and a suffix of three, as Linux shows it.
fn short_name(entry: &DirectoryEntry) -> Vec<u8> {
    let mut bytes = entry.name;
    if bytes[0] == NOT_DELETED {
        bytes[0] = DELETED;
    }
    let part = |bytes: &[u8], lower: bool| {
        let end = bytes.iter().rposition(|&byte| byte != b' ');
        let used = &bytes[..end.map_or(0, |last| last + 1)];
        let text: String = used
            .iter()
            .map(|&byte| match byte {
                // The code page that other bytes are of is not known.
                0x80.. => char::REPLACEMENT_CHARACTER,
                byte if lower => char::from(byte.to_ascii_lowercase()),
                byte => char::from(byte),
            })
            .collect();
        text
    };
    let mut name = part(&bytes[..8], entry.nt_reserved & CASE_LOWER_BASE != 0);
    let suffix = part(&bytes[8..], entry.nt_reserved & CASE_LOWER_EXTENSION != 0);
    if !suffix.is_empty() {
        name.push('.');
        name.push_str(&suffix);
    }
    name.into_bytes()
}
