//! The bytes of directories.

use zerocopy::IntoBytes as _;

use super::format::{
    ATTR_ARCHIVE, ATTR_DIRECTORY, ATTR_LONG_NAME, ATTR_VOLUME_ID, DirectoryEntry, LAST_LONG_ENTRY,
    LONG_NAME_UNITS, LongNameEntry, short_name_checksum,
};
use super::names::StoredName;
use super::{Directory, Run};
use crate::tree::{Inode, Kind, NodeId, Timestamp, Tree};

/// 1980-01-01T00:00:00Z, the first time that FAT knows.
const FIRST_SECOND: i64 = 315_532_800;
/// 2107-12-31T23:59:58Z, the last one.
const LAST_SECOND: i64 = 4_354_819_198;

/// A time as FAT stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DosTime {
    /// Hours, minutes and pairs of seconds: 5, 6 and 5 bits.
    time: u16,
    /// Years from 1980, month, day: 7, 4 and 5 bits.
    date: u16,
    /// Units of 10 ms past `time`, up to 199.
    fine: u8,
}

impl From<Timestamp> for DosTime {
    /// As UTC; times outside of what FAT knows become its first or last one.
    fn from(timestamp: Timestamp) -> DosTime {
        let seconds = timestamp.seconds.clamp(FIRST_SECOND, LAST_SECOND);
        let inside = seconds == timestamp.seconds;
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let fine = if inside {
            (second % 2) * 100 + i64::from(timestamp.nanoseconds) / 10_000_000
        } else {
            0
        };
        let field = |value: i64| u16::try_from(value).unwrap_or(0);
        DosTime {
            time: field((second / 3600) << 11 | (second / 60 % 60) << 5 | (second % 60 / 2)),
            date: field((year - 1980) << 9 | month << 5 | day),
            fine: u8::try_from(fine).unwrap_or(0),
        }
    }
}

/// Year, month and day of a day counted from 1970-01-01, from 1980 on.
fn civil(days: i64) -> (i64, i64, i64) {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut left = days;
    let mut year = 1970;
    while left >= 365 + i64::from(leap(year)) {
        left -= 365 + i64::from(leap(year));
        year += 1;
    }
    let february = 28 + i64::from(leap(year));
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in months {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

/// The entries of a directory, without those that are unused.
pub(super) fn directory_bytes(
    tree: &Tree,
    directory: &Directory,
    runs: &[Run],
    label: Option<[u8; 11]>,
) -> Vec<u8> {
    let time_of = |inode: &Inode| DosTime::from(inode.mtime);
    let mut bytes = Vec::new();
    let id = directory.node;
    let own_time = time_of(tree.inode_of(id));
    if id == NodeId::ROOT {
        if let Some(label) = label {
            bytes.extend_from_slice(entry(label, ATTR_VOLUME_ID, 0, own_time, 0, 0).as_bytes());
        }
    } else {
        let parent = tree.node(id).parent;
        // The root is cluster 0 here, on FAT32 too.
        let up = if parent == NodeId::ROOT {
            0
        } else {
            runs[parent.index()].first
        };
        let here = runs[id.index()].first;
        for (name, cluster, node) in [(b".          ", here, id), (b"..         ", up, parent)] {
            let time = time_of(tree.inode_of(node));
            bytes.extend_from_slice(entry(*name, ATTR_DIRECTORY, 0, time, cluster, 0).as_bytes());
        }
    }
    for (&child, name) in tree.children(id).iter().zip(&directory.names) {
        let inode = tree.inode_of(child);
        let (attributes, size) = match &inode.kind {
            // Checked before: no file is larger.
            Kind::File(content) => (
                ATTR_ARCHIVE,
                u32::try_from(content.size).unwrap_or(u32::MAX),
            ),
            _ => (ATTR_DIRECTORY, 0),
        };
        long_name(&mut bytes, name);
        let cluster = runs[child.index()].first;
        let entry = entry(
            name.short,
            attributes,
            name.case,
            time_of(inode),
            cluster,
            size,
        );
        bytes.extend_from_slice(entry.as_bytes());
    }
    bytes
}

fn entry(
    name: [u8; 11],
    attributes: u8,
    case: u8,
    time: DosTime,
    cluster: u32,
    size: u32,
) -> DirectoryEntry {
    DirectoryEntry {
        name,
        attributes,
        nt_reserved: case,
        creation_10ms: time.fine,
        creation_time: time.time.into(),
        creation_date: time.date.into(),
        access_date: time.date.into(),
        cluster_high: ((cluster >> 16) as u16).into(),
        write_time: time.time.into(),
        write_date: time.date.into(),
        cluster_low: ((cluster & 0xFFFF) as u16).into(),
        size: size.into(),
    }
}

/// Appends the parts of a long name, last one first.
fn long_name(bytes: &mut Vec<u8>, name: &StoredName) {
    let checksum = short_name_checksum(&name.short);
    let parts = name.long.chunks(LONG_NAME_UNITS);
    let last = parts.len();
    for (at, part) in parts.enumerate().rev() {
        let number = at + 1;
        // A zero ends the name where its last part is not full; then all ones.
        let mut units = [0xFFFF_u16; LONG_NAME_UNITS];
        units[..part.len()].copy_from_slice(part);
        if let Some(end) = units.get_mut(part.len()) {
            *end = 0;
        }
        let unit = |at: usize| units[at].into();
        let flag = if number == last { LAST_LONG_ENTRY } else { 0 };
        let entry = LongNameEntry {
            // At most 20 parts of 13 units make 255.
            order: u8::try_from(number).unwrap_or(0) | flag,
            name_1: std::array::from_fn(unit),
            attributes: ATTR_LONG_NAME,
            kind: 0,
            checksum,
            name_2: std::array::from_fn(|at| unit(5 + at)),
            cluster_low: 0.into(),
            name_3: std::array::from_fn(|at| unit(11 + at)),
        };
        bytes.extend_from_slice(entry.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_in_two_seconds_and_stay_within_the_range() {
        let at = |seconds, nanoseconds| {
            DosTime::from(Timestamp {
                seconds,
                nanoseconds,
            })
        };
        let dos = |(year, month, day): (u16, u16, u16),
                   (hour, minute, second): (u16, u16, u16),
                   fine| DosTime {
            time: hour << 11 | minute << 5 | (second / 2),
            date: (year - 1980) << 9 | month << 5 | day,
            fine,
        };
        // 2023-11-14T22:13:21.987654321Z
        assert_eq!(
            at(1_700_000_001, 987_654_321),
            dos((2023, 11, 14), (22, 13, 20), 198)
        );
        assert_eq!(at(951_782_400, 0), dos((2000, 2, 29), (0, 0, 0), 0));
        assert_eq!(at(951_868_799, 0), dos((2000, 2, 29), (23, 59, 58), 100));
        assert_eq!(at(0, 5), dos((1980, 1, 1), (0, 0, 0), 0));
        assert_eq!(at(i64::MIN, 0), dos((1980, 1, 1), (0, 0, 0), 0));
        assert_eq!(at(i64::MAX, 0), dos((2107, 12, 31), (23, 59, 58), 0));
    }
}
