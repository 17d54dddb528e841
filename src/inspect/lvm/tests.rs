//! Volume groups that kiln's writer made, and ones that are written out here.

use proptest::prelude::*;
use uuid::{Uuid, uuid};
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U32, U64};

use super::*;
use crate::disk::config::LvSize;
use crate::disk::lvm::format::{EXTENT_SIZE, LABEL_OFFSET, LabelSector, MDA_OFFSET};
use crate::disk::lvm::{self as writer, Kind, Lv, Pv, Vg};
use crate::disk::{Disk, Extent, Source, Volume as Planned};
use crate::inspect::Contents;
use crate::sink::source::Memory;

const SEED: Uuid = uuid!("b8c0e9a2-1d2e-4f7c-9c57-00112233aabb");
const MIB: u64 = 1 << 20;
/// Physical volumes of five and seven extents: first bytes and lengths.
const RANGES: [(u64, u64); 2] = [(MIB, 21 * MIB), (30 * MIB, 29 * MIB)];

fn lv(name: &str, extents: u64, kind: Kind) -> Lv {
    Lv {
        name: name.to_owned(),
        uuid: Uuid::new_v5(&SEED, name.as_bytes()),
        size: LvSize::Bytes(extents * EXTENT_SIZE),
        kind,
        options: writer::options::LvOptions::default(),
    }
}

fn group(ranges: &[(u64, u64)], lvs: Vec<Lv>) -> Vg {
    let pvs = ranges.iter().enumerate().map(|(at, (_, bytes))| Pv {
        name: format!("pv{at}"),
        id: Uuid::new_v5(&SEED, &[u8::try_from(at).unwrap()]).into(),
        bytes: *bytes,
        device: String::new(),
        options: writer::options::PvOptions::default(),
    });
    Vg {
        name: "vg-a".to_owned(),
        uuid: SEED,
        pvs: pvs.collect(),
        lvs,
        creation_time: 0,
        options: writer::options::VgOptions::default(),
    }
}

/// The volume of a name.
fn mapping(found: &Found, name: &str) -> Result<Arc<Mapping>, String> {
    let volume = found.volumes.iter().find(|(own, _)| own.name == name);
    volume.expect("it is there").1.clone()
}

#[test]
fn what_the_writer_placed_is_found_there() {
    let lvs = vec![lv("root", 2, Kind::Linear), lv("data", 8, Kind::Linear)];
    let plan = writer::plan(&group(&RANGES, lvs)).unwrap();
    let mut disk = Disk::builder(64 * MIB, 512);
    for ((start, _), header) in RANGES.iter().zip(&plan.headers) {
        disk.bytes("header", *start, header.clone());
    }
    // Each extent begins and ends with its own number.
    for (number, place) in plan.places.iter().enumerate() {
        let writer::Place::Linear(segments) = place else {
            panic!("{place:?}");
        };
        let mut extent = 0_u8;
        for segment in segments {
            for at in (0..segment.length).step_by(EXTENT_SIZE as usize) {
                let first = RANGES[segment.pv].0 + segment.offset + at;
                let mark = vec![u8::try_from(number).unwrap() * 16 + extent; 8];
                disk.bytes("mark", first, mark.clone());
                disk.bytes("mark", first + EXTENT_SIZE - 8, mark);
                extent += 1;
            }
        }
    }
    let disk = disk.build().unwrap();
    let found = find(&disk, &RANGES);
    assert_eq!(found.problems, [None, None]);
    let names: Vec<String> = found
        .volumes
        .iter()
        .map(|(name, _)| format!("{name} {}", name.mapper_name()))
        .collect();
    assert_eq!(names, ["vg-a/root vg--a-root", "vg-a/data vg--a-data"]);
    for (number, name, extents) in [(0, "root", 2_u8), (1, "data", 8)] {
        let mapping = mapping(&found, name).unwrap();
        assert_eq!(mapping.length(), u64::from(extents) * EXTENT_SIZE);
        let volume = Volume::mapped(&disk, mapping);
        for extent in 0..extents {
            let mark = number * 16 + extent;
            let at = u64::from(extent) * EXTENT_SIZE;
            assert_eq!(volume.bytes(at, 8).unwrap(), [mark; 8]);
            if extent > 0 {
                // Over the border, in one read and in one that is not cached.
                let expected = [[mark - 1; 8], [mark; 8]].concat();
                assert_eq!(volume.bytes(at - 8, 16).unwrap(), expected);
                let large = volume.bytes(at - 5000, 10_000).unwrap();
                assert_eq!(large[4992..5008], expected);
            }
        }
        assert!(volume.bytes(volume.length() - 4, 8).is_err());
    }
    // Without the second physical volume one of them is whole.
    let found = find(&disk, &RANGES[..1]);
    assert!(mapping(&found, "root").is_ok());
    assert_eq!(
        mapping(&found, "data").unwrap_err(),
        "physical volume `pv1` of group `vg-a` is not on this disk"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However volumes are spread, every extent of each is where the writer put it.
    #[test]
    fn any_layout_is_read_as_it_was_placed(
        pvs in prop::collection::vec(1_u64..20, 1..5),
        lvs in prop::collection::vec(1_u64..8, 1..8),
    ) {
        let mut next = 0;
        let ranges: Vec<(u64, u64)> = pvs
            .iter()
            .map(|extents| {
                let start = next;
                let length = MIB + extents * EXTENT_SIZE + 512;
                next += length + 4096;
                (start, length)
            })
            .collect();
        let lvs = lvs.iter().enumerate();
        let lvs: Vec<Lv> = lvs
            .map(|(at, &extents)| lv(&format!("lv{at}"), extents, Kind::Linear))
            .collect();
        let vg = group(&ranges, lvs);
        // What does not fit is refused.
        let Ok(plan) = writer::plan(&vg) else {
            return Ok(());
        };
        let mut disk = Disk::builder(next.next_multiple_of(512), 512);
        for ((start, _), header) in ranges.iter().zip(&plan.headers) {
            disk.bytes("header", *start, header.clone());
        }
        let disk = disk.build().unwrap();
        let found = find(&disk, &ranges);
        prop_assert_eq!(found.volumes.len(), vg.lvs.len());
        for (place, (name, mapping)) in plan.places.iter().zip(&found.volumes) {
            let writer::Place::Linear(segments) = place else {
                return Err(TestCaseError::fail("it is linear"));
            };
            let mapping = mapping.as_ref().unwrap();
            let mut at = 0;
            for segment in segments {
                let first = ranges[segment.pv].0 + segment.offset;
                for within in [0, segment.length / 2, segment.length - 1] {
                    let (place, _) = mapping.at(at + within);
                    prop_assert_eq!(place, Some(first + within), "{}", name);
                }
                at += segment.length;
            }
            prop_assert_eq!(mapping.length(), at);
        }
    }
}

#[test]
fn a_disk_may_be_a_physical_volume_itself() {
    let ranges = [(0, 21 * MIB)];
    let plan = writer::plan(&group(&ranges, vec![lv("root", 2, Kind::Linear)])).unwrap();
    let mut disk = Disk::builder(21 * MIB, 512);
    disk.bytes("header", 0, plan.headers[0].clone());
    let disk = disk.build().unwrap();
    let contents = Contents::read(&disk).unwrap();
    assert!(contents.table.is_none());
    let titles: Vec<String> = contents.parts.iter().map(|part| part.title()).collect();
    assert_eq!(titles, ["the disk", "logical volume vg-a/root"]);
    assert!(contents.parts[0].is_physical());
    assert_eq!(contents.parts[1].start(), None);
    for name in ["vg-a/root", "/dev/vg-a/root", "/dev/mapper/vg--a-root"] {
        assert_eq!(contents.find(name).unwrap(), &contents.parts[1], "{name}");
    }
    assert!(contents.find("/dev/mapper/vg-a-root").is_err());
}

/// A volume with data in these ranges, each byte the number of its chunk.
fn planned(length: u64, chunk: u64, ranges: &[(u64, u64)]) -> Planned {
    let extents = ranges.iter().map(|&(offset, length)| {
        let bytes: Vec<u8> = (offset..offset + length)
            .map(|at| u8::try_from(at / chunk % 251 + 1).unwrap())
            .collect();
        Extent {
            offset,
            length,
            source: Source::Bytes {
                bytes: bytes.into(),
                start: 0,
            },
        }
    });
    Planned {
        length,
        extents: extents.collect(),
    }
}

/// A disk with a pool of which two volumes take space.
fn thin_disk() -> (Disk, u64) {
    let kind = || Kind::Thin("pool".to_owned());
    let lvs = vec![
        lv("pool", 6, Kind::ThinPool),
        lv("one", 100, kind()),
        lv("two", 50, kind()),
    ];
    let plan = writer::plan(&group(&RANGES, lvs)).unwrap();
    let pool = &plan.pools[0];
    let chunk = pool.chunk;
    let volumes = vec![
        planned(
            100 * EXTENT_SIZE,
            chunk,
            &[(0, 300_000), (40 * MIB, 70_000), (300 * MIB + 5, 100)],
        ),
        planned(50 * EXTENT_SIZE, chunk, &[(chunk, 2 * chunk)]),
    ];
    let (data, metadata) = writer::thin::fill(pool, volumes).unwrap();
    let mut disk = Disk::builder(64 * MIB, 512);
    for ((start, _), header) in RANGES.iter().zip(&plan.headers) {
        disk.bytes("header", *start, header.clone());
    }
    for (volume, segments) in [(data, &pool.data), (metadata, &pool.metadata)] {
        let lengths: Vec<u64> = segments.iter().map(|own| own.length).collect();
        let pieces = writer::scatter(volume, &lengths);
        for (own, piece) in segments.iter().zip(pieces) {
            disk.volume("pool", RANGES[own.pv].0 + own.offset, piece);
        }
    }
    (disk.build().unwrap(), chunk)
}

#[test]
fn thin_volumes_have_their_chunks_and_zeros() {
    let (disk, chunk) = thin_disk();
    let found = find(&disk, &RANGES);
    let names: Vec<&str> = found.volumes.iter().map(|(own, _)| &*own.name).collect();
    assert_eq!(names, ["one", "two"], "the pool is none that can be read");
    for (name, length, ranges) in [
        (
            "one",
            100 * EXTENT_SIZE,
            &[(0, 300_000), (40 * MIB, 70_000), (300 * MIB + 5, 100)][..],
        ),
        ("two", 50 * EXTENT_SIZE, &[(chunk, 2 * chunk)]),
    ] {
        let volume = Volume::mapped(&disk, mapping(&found, name).unwrap());
        assert_eq!(volume.length(), length);
        for &(offset, length) in ranges {
            for at in [offset, offset + length / 2, offset + length - 1] {
                let expected = u8::try_from(at / chunk % 251 + 1).unwrap();
                assert_eq!(volume.bytes(at, 1).unwrap(), [expected], "{name} {at}");
            }
            let after = offset + length;
            assert_eq!(volume.bytes(after, 9000).unwrap(), [0; 9000]);
        }
    }
}

/// The start of a physical volume whose area ends at byte 12288 and has a text at an
/// offset; what does not fit goes on behind the area's header.
fn physical(number: u8, text: &str, offset: u64) -> Vec<u8> {
    let size = 8192;
    let text = [text.as_bytes(), b"\0"].concat();
    let vg = group(&[(0, 100 * MIB)], Vec::new());
    let mut bytes = writer::orphan_header(&vg.pvs[0]).unwrap();
    bytes.resize(12288, 0);
    let at = LABEL_OFFSET as usize;
    let (mut label, _) = LabelSector::read_from_prefix(&bytes[at..]).unwrap();
    label.pv.pv_uuid = [b'0' + number; 32];
    label.pv.metadata_areas[0].size = U64::new(size);
    label.crc = U32::new(crc(&label.as_bytes()[20..]));
    bytes[at..at + 512].copy_from_slice(label.as_bytes());
    let at = MDA_OFFSET as usize;
    let (mut header, _) = MdaHeader::read_from_prefix(&bytes[at..]).unwrap();
    header.size = U64::new(size);
    header.raw_location = RawLocation {
        offset: U64::new(offset),
        size: U64::new(text.len() as u64),
        checksum: U32::new(crc(&text)),
        flags: U32::ZERO,
    };
    header.checksum = U32::new(crc(&header.as_bytes()[4..]));
    bytes[at..at + 512].copy_from_slice(header.as_bytes());
    let (start, end) = (at + offset as usize, at + size as usize);
    let first = text.len().min(end - start);
    bytes[start..start + first].copy_from_slice(&text[..first]);
    let rest = &text[first..];
    bytes[at + 512..at + 512 + rest.len()].copy_from_slice(rest);
    bytes
}

/// A group with two physical volumes of 100 extents of 1 MiB.
fn text(seqno: u32, lvs: &str) -> String {
    let pv = |number: u8| {
        let id = char::from(b'0' + number).to_string().repeat(32);
        format!("pv{number} {{ id = \"{id}\" pe_start = 2048 }}\n")
    };
    format!(
        "vg {{ id = \"VG\"\nseqno = {seqno}\nextent_size = 2048\nphysical_volumes {{ {}{} }}\n\
         logical_volumes {{ {lvs} }}\n}}\n",
        pv(0),
        pv(1)
    )
}

/// A volume with one segment.
fn volume(name: &str, extents: u32, rest: &str) -> String {
    format!(
        "{name} {{ status = [\"READ\", \"VISIBLE\"]\nsegment1 {{ start_extent = 0\n\
         extent_count = {extents}\n{rest} }} }}\n"
    )
}

const PAIR: [(u64, u64); 2] = [(0, 101 * MIB), (200 * MIB, 101 * MIB)];

fn pair(first: Vec<u8>, second: Vec<u8>) -> Memory {
    Memory {
        length: 301 * MIB,
        pieces: vec![(0, first), (PAIR[1].0, second)],
        broken_from: None,
    }
}

#[test]
fn the_newest_text_with_a_right_checksum_counts_wherever_it_is_in_its_ring() {
    let linear = |name: &str| {
        let lv = volume(name, 3, "type = \"striped\" stripes = [\"pv1\", 7]");
        lv + &"# filling\n".repeat(300)
    };
    let (old, new) = (text(9, &linear("old")), text(10, &linear("new")));
    for offset in [512, 4000, 8191] {
        let disk = pair(physical(0, &old, 512), physical(1, &new, offset));
        let found = find(&disk, &PAIR);
        assert_eq!(found.problems, [None, None]);
        assert_eq!(found.volumes.len(), 1, "{offset}");
        let mapping = mapping(&found, "new").unwrap();
        assert_eq!(mapping.at(0), (Some(208 * MIB), 3 * MIB), "{offset}");
        // One wrong byte, and the older one is what is left.
        let mut disk = disk;
        let within = if offset == 8191 { 600 } else { offset + 10 };
        disk.pieces[1].1[4096 + within as usize] ^= 1;
        let found = find(&disk, &PAIR);
        assert_eq!(
            found.problems,
            [None, Some("its metadata has a wrong checksum".to_owned())]
        );
        assert_eq!(found.volumes[0].0.name, "old", "{offset}");
    }
}

#[test]
fn stripes_are_put_together() {
    let lvs = volume(
        "x",
        8,
        "type = \"striped\" stripe_size = 128 stripes = [\"pv0\", 1, \"pv1\", 50]",
    );
    let text = text(1, &lvs);
    let found = find(
        &pair(physical(0, &text, 512), physical(1, &text, 512)),
        &PAIR,
    );
    let mapping = mapping(&found, "x").unwrap();
    let stripe = 64 << 10;
    assert_eq!(mapping.length(), 8 * MIB);
    assert_eq!(mapping.at(0), (Some(2 * MIB), stripe));
    assert_eq!(mapping.at(stripe), (Some(251 * MIB), stripe));
    assert_eq!(
        mapping.at(2 * stripe + 1),
        (Some(2 * MIB + stripe + 1), stripe - 1)
    );
}

#[test]
fn what_cannot_be_put_together_says_why() {
    let over = |of: &str| format!("type = \"striped\" stripes = [\"{of}\", 0]");
    for (lvs, expected) in [
        (
            volume("x", 3, "type = \"raid1\""),
            "its type is `raid1`, which kiln does not read",
        ),
        (
            volume("x", 3, "type = \"thin\" thin_pool = \"p\" device_id = 1"),
            "its pool `p` is none",
        ),
        (
            volume("x", 3, &over("y")) + &volume("y", 3, &over("x")),
            "`x` consists of itself",
        ),
        (
            volume("x", 3, &over("none")),
            "its group has no volume `none`",
        ),
        (
            volume("x", 101, &over("pv0")),
            "it leaves physical volume `pv0`",
        ),
        (
            volume("x", 4_000_000_000, &over("pv0")),
            "it leaves physical volume `pv0`",
        ),
        (
            volume("x", 0, &over("pv0")),
            "its segments overlap or leave gaps",
        ),
        (
            volume("x", 3, &over("y")) + &volume("y", 2, &over("pv0")),
            "it leaves volume `y`",
        ),
        (
            volume(
                "x",
                3,
                "type = \"striped\" stripe_size = 8 stripes = [\"pv0\", 0, \"pv1\", 0]",
            ),
            "its stripes are not of one length",
        ),
        (
            "x { status = [\"VISIBLE\"] }".to_owned(),
            "it has no segments",
        ),
    ] {
        let text = text(1, &lvs);
        let found = find(&pair(physical(0, &text, 512), Vec::new()), &PAIR[..1]);
        assert_eq!(found.problems, [None]);
        assert_eq!(mapping(&found, "x").unwrap_err(), expected, "{lvs}");
    }
    // A label alone, and one whose text is none.
    let mut damaged = physical(0, &text(1, ""), 512);
    damaged[LABEL_OFFSET as usize + 40] ^= 1;
    let odd = physical(1, "vg {", 512);
    let found = find(&pair(damaged, odd), &PAIR);
    let problems: Vec<&str> = found
        .problems
        .iter()
        .flatten()
        .map(|text| &**text)
        .collect();
    assert_eq!(
        problems,
        [
            "its label is damaged",
            "line 1 of its description is not understood"
        ]
    );
    assert!(found.volumes.is_empty());
}

#[test]
fn texts_of_forged_disks_take_neither_the_stack_nor_the_memory() {
    let over = |of: &str| format!("type = \"striped\" stripes = [\"{of}\", 0]");
    // Each consists of the next one; the last is in a physical volume.
    let chain = |length: usize| {
        let volumes =
            (0..length).map(|at| volume(&format!("v{at}"), 1, &over(&format!("v{}", at + 1))));
        volumes.collect::<String>() + &volume(&format!("v{length}"), 1, &over("pv0"))
    };
    let long = |lvs: &str| {
        let text = text(1, lvs);
        let mut bytes = physical(0, "", 512);
        let at = MDA_OFFSET as usize;
        let (mut header, _) = MdaHeader::read_from_prefix(&bytes[at..]).unwrap();
        header.size = U64::new(100 * MIB);
        header.raw_location.size = U64::new(text.len() as u64);
        header.raw_location.checksum = U32::new(crc(text.as_bytes()));
        header.checksum = U32::new(crc(&header.as_bytes()[4..]));
        bytes[at..at + 512].copy_from_slice(header.as_bytes());
        bytes.truncate(at + 512);
        bytes.extend(text.as_bytes());
        bytes
    };
    for (length, expected) in [
        (10, None),
        (20_000, Some("volumes consist of volumes too often")),
    ] {
        let found = find(&pair(long(&chain(length)), Vec::new()), &PAIR[..1]);
        assert_eq!(found.problems, [None]);
        assert_eq!(mapping(&found, "v0").err().as_deref(), expected);
    }
    let blank = " ".repeat(usize::try_from(MAX_TEXTS).unwrap());
    let found = find(&pair(long(&blank), Vec::new()), &PAIR[..1]);
    let problem = "its metadata is longer than any that LVM writes";
    assert_eq!(found.problems, [Some(problem.to_owned())]);
}

#[test]
fn damage_anywhere_gives_errors_at_worst() {
    let lvs = volume("x", 8, "type = \"striped\" stripes = [\"pv0\", 1]")
        + &volume("p", 4, "type = \"thin-pool\" metadata = \"x\" pool = \"x\"")
        + &volume("t", 4, "type = \"thin\" thin_pool = \"p\" device_id = 1");
    let good = text(1, &lvs);
    for at in 0..good.len() {
        for byte in [b'0', b'9', b'}', b'"'] {
            let mut text = good.clone().into_bytes();
            text[at] = byte;
            let text = String::from_utf8(text).unwrap();
            let found = find(&pair(physical(0, &text, 512), Vec::new()), &PAIR[..1]);
            for (_, mapping) in found.volumes {
                let Ok(mapping) = mapping else { continue };
                let disk = pair(Vec::new(), Vec::new());
                let _ = Volume::mapped(&disk, mapping).bytes(0, 512);
            }
        }
    }
    // The metadata of a pool, with checksums that are right.
    let (disk, _) = thin_disk();
    let mut reader = crate::sink::ReadAt::reader(&disk);
    let mut bytes = vec![0; (64 * MIB) as usize];
    reader.read_at(0, &mut bytes).unwrap();
    let magic = 27_022_010_u64.to_le_bytes();
    let start = (0..bytes.len()).step_by(4096);
    let start = start
        .into_iter()
        .find(|at| bytes[at + 32..at + 40] == magic)
        .expect("there is a pool");
    for block in 0..8 {
        for at in (4..400).step_by(3) {
            let range = start + block * 4096..start + (block + 1) * 4096;
            let kept = bytes[range.clone()].to_vec();
            let own = &mut bytes[range.clone()];
            own[at] ^= 0x81;
            let kind = if block == 0 { 160_774 } else { 121_107 };
            let sum = !crc32c::crc32c(&own[4..]) ^ kind;
            own[..4].copy_from_slice(&sum.to_le_bytes());
            let found = find(&bytes, &RANGES);
            assert_eq!(found.volumes.len(), 2);
            bytes[range].copy_from_slice(&kept);
        }
    }
}
