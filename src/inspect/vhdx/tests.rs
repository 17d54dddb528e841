use std::path::Path;
use std::process::Command;

use zerocopy::FromZeros as _;

use super::*;
use crate::inspect::tests::{bytes, exercise, write};
use crate::inspect::{Error, Format, open};
use crate::sink;
use crate::sink::source::Memory;
use crate::sink::tests::{have, run};
use crate::sink::vhdx::format::{
    DATA_DESCRIPTOR, DATA_SECTOR, DataDescriptor, DataSector, LOG_SECTOR, LOG_SIGNATURE,
    LogEntryHeader, ZERO_DESCRIPTOR, ZeroDescriptor,
};

/// Where [`write_image`] has the log and the table, and how long the log is; in bytes.
const LOG: usize = 1 << 20;
const LOG_LENGTH: usize = 1 << 20;
const TABLE: usize = 3 << 20;
const GUID: [u8; 16] = [7; 16];

fn write_image(disk: &Memory, path: &Path) -> Vec<u8> {
    let format = sink::Format::Vhdx(sink::vhdx::Options::default());
    write(disk, format, path);
    std::fs::read(path).unwrap()
}

/// An item of a VHDX's metadata: id, offset from the start of the region, length, flags.
fn metadata_entry(id: uuid::Uuid, offset: u32, length: u32) -> Vec<u8> {
    let numbers = [offset, length, 4, 0].map(u32::to_le_bytes).concat();
    [&id.to_bytes_le()[..], &numbers].concat()
}

#[test]
fn the_parent_of_a_vhdx_is_named_wherever_its_locator_stands() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let whole = write_image(&Memory::sample(1 << 20, 15), &path);
    let region = whole
        .windows(8)
        .position(|bytes| bytes == METADATA_SIGNATURE)
        .unwrap();
    let count = usize::from(whole[region + 10]);
    let utf16 =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let (key, value) = (utf16("relative_path"), utf16(r"..\the base.vhdx"));
    let locator = [
        &[0; 18][..],
        &1_u16.to_le_bytes(),
        &32_u32.to_le_bytes(),
        &(32 + key.len() as u32).to_le_bytes(),
        &(key.len() as u16).to_le_bytes(),
        &(value.len() as u16).to_le_bytes(),
        &key,
        &value,
    ]
    .concat();
    for (is_first, length, name) in [
        (true, locator.len(), r"..\\the base.vhdx"),
        (false, locator.len(), r"..\\the base.vhdx"),
        (false, 40, "without a name"),
    ] {
        let mut image = whole.clone();
        let at = region + (128 << 10);
        image[at..at + locator.len()].copy_from_slice(&locator);
        let mut entries = image[region + 32..][..32 * count].to_vec();
        let new = metadata_entry(PARENT_LOCATOR, 128 << 10, length as u32);
        let before = if is_first { 0 } else { entries.len() };
        entries.splice(before..before, new);
        image[region + 10] += 1;
        image[region + 32..][..entries.len()].copy_from_slice(&entries);
        std::fs::write(&path, image).unwrap();
        let error = open(&path, None).unwrap_err();
        assert!(matches!(error, Error::Backing { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        // QEMU would not merge them.
        assert!(error.hint().unwrap().contains("Hyper-V"));
    }
}

/// An entry of the log, in sectors of it.
struct Logged {
    at: usize,
    tail: usize,
    sequence: u64,
    /// What it changes: a sector of the file, or so many bytes that become zeros.
    changes: Vec<(usize, Result<Vec<u8>, u64>)>,
}

impl Logged {
    /// Its bytes, in an image of this length.
    fn bytes(&self, file_length: usize) -> Vec<u8> {
        let (mut descriptors, mut data) = (Vec::new(), Vec::new());
        for (offset, content) in &self.changes {
            let file_offset = (*offset as u64).into();
            let sequence_number = self.sequence.into();
            match content {
                Ok(sector) => {
                    let descriptor = DataDescriptor {
                        signature: DATA_DESCRIPTOR,
                        trailing: *sector.last_chunk().unwrap(),
                        leading: *sector.first_chunk().unwrap(),
                        file_offset,
                        sequence_number,
                    };
                    descriptors.extend_from_slice(descriptor.as_bytes());
                    let sector = DataSector {
                        signature: DATA_SECTOR,
                        sequence_high: ((self.sequence >> 32) as u32).into(),
                        data: *sector[8..].first_chunk().unwrap(),
                        sequence_low: (self.sequence as u32).into(),
                    };
                    data.extend_from_slice(sector.as_bytes());
                }
                Err(length) => {
                    let descriptor = ZeroDescriptor {
                        signature: ZERO_DESCRIPTOR,
                        reserved: 0.into(),
                        length: (*length).into(),
                        file_offset,
                        sequence_number,
                    };
                    descriptors.extend_from_slice(descriptor.as_bytes());
                }
            }
        }
        let first = (64 + descriptors.len()).next_multiple_of(LOG_SECTOR);
        let header = LogEntryHeader {
            signature: LOG_SIGNATURE,
            entry_length: ((first + data.len()) as u32).into(),
            tail: ((self.tail * LOG_SECTOR) as u32).into(),
            sequence_number: self.sequence.into(),
            descriptor_count: (self.changes.len() as u32).into(),
            log_guid: GUID,
            flushed_file_offset: (file_length as u64).into(),
            last_file_offset: (file_length as u64).into(),
            ..LogEntryHeader::new_zeroed()
        };
        let mut entry = [header.as_bytes(), &descriptors].concat();
        entry.resize(first, 0);
        entry.extend(data);
        let sum = checksum(&entry);
        entry[4..8].copy_from_slice(&sum.to_le_bytes());
        entry
    }

    /// Puts it into the log of an image, which goes on at its start.
    fn put(&self, image: &mut [u8]) {
        let bytes = self.bytes(image.len());
        for (number, sector) in bytes.chunks(LOG_SECTOR).enumerate() {
            let at = LOG + (self.at + number) * LOG_SECTOR % LOG_LENGTH;
            image[at..][..LOG_SECTOR].copy_from_slice(sector);
        }
    }
}

/// Has the headers name the log, as they do while an image is open.
fn name_log(image: &mut [u8]) {
    for at in HEADERS {
        image[at as usize + 0x30..][..16].copy_from_slice(&GUID);
    }
    repair_checksums(image);
}

/// An image as it is while it is open.
fn write_open(disk: &Memory, path: &Path) -> Vec<u8> {
    let mut image = write_image(disk, path);
    name_log(&mut image);
    image
}

#[test]
fn what_the_log_changes_is_read_as_if_it_was_done() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let disk = Memory::sample(5 << 20, 14);
    let whole = write_image(&disk, &path);
    let table = whole[TABLE..][..LOG_SECTOR].to_vec();
    let wrong = vec![0xFF; LOG_SECTOR];
    let entry = |at, tail, sequence, sector: &[u8]| Logged {
        at,
        tail,
        sequence,
        changes: vec![(TABLE, Ok(sector.to_vec()))],
    };
    let zeros = |at, tail, sequence| Logged {
        changes: vec![(TABLE, Err(1 << 17))],
        ..entry(at, tail, sequence, &table)
    };
    let last = LOG_LENGTH / LOG_SECTOR - 1;
    // What the entries are, whether the table is as it was (it is empty otherwise), and whether
    // QEMU does the same: it does not look whether the tail can be reached.
    for (entries, is_whole, qemu) in [
        (vec![entry(3, 3, 9, &table)], true, true),
        (vec![zeros(3, 3, 9)], false, true),
        // The later one counts, wherever it stands.
        (
            vec![entry(3, 3, 9, &wrong), entry(5, 3, 10, &table)],
            true,
            true,
        ),
        (vec![entry(3, 3, 9, &table), zeros(5, 3, 10)], false, true),
        (
            vec![entry(last, last, 9, &wrong), entry(1, last, 10, &table)],
            true,
            true,
        ),
        // What was done before does not.
        (
            vec![entry(3, 3, 9, &wrong), entry(5, 5, 10, &table)],
            true,
            true,
        ),
        // The one between was still being written, so the last does not count either.
        (
            vec![entry(3, 3, 9, &table), entry(7, 3, 11, &wrong)],
            true,
            false,
        ),
    ] {
        let mut image = whole.clone();
        image[TABLE..][..LOG_SECTOR].fill(0);
        name_log(&mut image);
        for entry in &entries {
            entry.put(&mut image);
        }
        std::fs::write(&path, &image).unwrap();
        let read = bytes(&open(&path, None).unwrap(), 1 << 20).unwrap();
        let expected = if is_whole {
            disk.bytes()
        } else {
            vec![0; 5 << 20]
        };
        assert!(read == expected, "{}", entries.len());
        assert!(
            std::fs::read(&path).unwrap() == image,
            "the image is as it was"
        );
        if qemu && have("qemu-img") {
            let raw = place.path().join("raw");
            run(Command::new("qemu-img")
                .args(["check", "-q", "-r", "all"])
                .arg(&path));
            run(Command::new("qemu-img")
                .args(["convert", "-O", "raw"])
                .args([&path, &raw]));
            assert!(
                std::fs::read(raw).unwrap() == expected,
                "QEMU does the same"
            );
        }
    }
}

#[test]
fn a_log_that_was_not_begun_says_nothing() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let disk = Memory::sample(1 << 20, 14);
    let image = write_open(&disk, &path);
    let zeros = Logged {
        at: 3,
        tail: 3,
        sequence: 1,
        changes: vec![(TABLE, Err(4096))],
    };
    let untouched = image.clone();
    let mut torn = image.clone();
    zeros.put(&mut torn);
    torn[LOG + 3 * LOG_SECTOR + 100] ^= 1;
    let mut of_another_time = image;
    zeros.put(&mut of_another_time);
    for at in HEADERS {
        of_another_time[at as usize + 0x30] = 8;
    }
    repair_checksums(&mut of_another_time);
    for image in [untouched, torn, of_another_time] {
        std::fs::write(&path, image).unwrap();
        assert!(bytes(&open(&path, None).unwrap(), 1 << 20).unwrap() == disk.bytes());
    }
}

#[test]
fn a_log_that_cannot_be_right_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let image = write_open(&Memory::sample(1 << 20, 14), &path);
    let sector = |offset| (offset, Ok(vec![1; LOG_SECTOR]));
    let logged = |change| Logged {
        at: 0,
        tail: 0,
        sequence: 1,
        changes: vec![change],
    };
    type Damage = fn(&mut [u8]);
    let two_descriptors: Damage = |entry| {
        entry[0x18] = 2;
        entry.copy_within(64..96, 96);
    };
    let cases: [(_, Damage, _); 8] = [
        (
            sector(4 << 20),
            |_| (),
            "a log that changes more than tables",
        ),
        (sector(TABLE + 1), |_| (), "a part of a sector"),
        (sector(1 << 40), |_| (), "the file ends before this"),
        (
            (TABLE, Err(u64::MAX - 4095)),
            |_| (),
            "the file ends before this",
        ),
        (
            sector(TABLE),
            |entry| entry[64] = 0,
            "an unknown descriptor",
        ),
        (sector(TABLE), two_descriptors, "lacks data"),
        (sector(TABLE), |entry| entry[4096] = 0, "of another entry"),
        (
            sector(TABLE),
            |entry| entry[0x3D] = 1,
            "shorter than its log says",
        ),
    ];
    for (change, damage, text) in cases {
        let mut image = image.clone();
        logged(change).put(&mut image);
        let entry = &mut image[LOG..][..2 * LOG_SECTOR];
        damage(entry);
        let length = u32::from_le_bytes(*entry[8..].first_chunk().unwrap()) as usize;
        let sum = checksum(&entry[..length]);
        entry[4..8].copy_from_slice(&sum.to_le_bytes());
        std::fs::write(&path, image).unwrap();
        let error = open(&path, None).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn damaged_logs_never_cause_a_panic() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let mut image = write_open(&Memory::sample(1 << 20, 14), &path);
    let table = image[TABLE..][..LOG_SECTOR].to_vec();
    for number in 0..3 {
        let entry = Logged {
            at: 2 * number,
            tail: 0,
            sequence: number as u64 + 1,
            changes: vec![(TABLE, Ok(table.clone())), (TABLE + 4096, Err(4096))],
        };
        entry.put(&mut image);
    }
    let mut state = 1_u32;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for _ in 0..60 {
        let mut damaged = image.clone();
        let entry = LOG + 2 * LOG_SECTOR * next(3);
        for _ in 0..=next(3) {
            damaged[entry + next(136)] = [0, 1, 0x10, 0xFF, next(256) as u8][next(5)];
        }
        let length = u32::from_le_bytes(*damaged[entry + 8..].first_chunk().unwrap()) as usize;
        if let Some(bytes) = damaged.get_mut(entry..entry + length.min(LOG_LENGTH)) {
            let sum = checksum(bytes);
            if let Some(place) = bytes.get_mut(4..8) {
                place.copy_from_slice(&sum.to_le_bytes());
            }
        }
        std::fs::write(&path, &damaged).unwrap();
        exercise(&path, Format::Vhdx);
    }
}

/// Otherwise nearly every damage of a VHDX ends at its checksums.
pub(crate) fn repair_checksums(image: &mut [u8]) {
    let structures = HEADERS
        .map(|at| (at as usize, 4096))
        .into_iter()
        .chain(REGION_TABLES.map(|at| (at as usize, TABLE_LENGTH)));
    for (at, length) in structures {
        if let Some(bytes) = image.get_mut(at..at + length) {
            let sum = checksum(bytes);
            bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        }
    }
}
