use proptest::prelude::*;

use super::*;
use crate::disk::gpt::tests::{tool, write};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn primary(size: Size) -> Request {
    Request {
        name: "p".to_owned(),
        primary: true,
        active: false,
        partition_type: 0x83,
        size,
    }
}

fn logical(size: Size) -> Request {
    Request {
        primary: false,
        ..primary(size)
    }
}

fn active(request: Request) -> Request {
    Request {
        active: true,
        ..request
    }
}

fn ten() -> Size {
    Size::Bytes(10 * MIB)
}

const ALL: Size = Size::Percent(100.0);

/// What `partx` shows: number, first and last sector, type, flags.
type Row = (u32, u64, u64, u8, u8);

/// Container and partitions as `partx` lists them.
fn rows(mbr: &Mbr) -> Vec<Row> {
    let mut rows: Vec<Row> = mbr
        .partitions
        .iter()
        .map(|partition| {
            let flags = if partition.active { 0x80 } else { 0 };
            let (start, end) = (u64::from(partition.start), partition.end() - 1);
            (
                partition.number,
                start,
                end,
                partition.partition_type,
                flags,
            )
        })
        .collect();
    if let Some(container) = mbr.container {
        let end = u64::from(container.start) + u64::from(container.sectors) - 1;
        rows.push((container.number, container.start.into(), end, 0x0F, 0));
    }
    rows.sort_unstable();
    rows
}

fn placed(disk: u64, align: u64, requests: &[Request]) -> Vec<Row> {
    rows(&place(disk, align, requests).unwrap())
}

/// Reads the tables back as Linux does, following the chain.
fn read_back(pieces: &[(u64, Vec<u8>)]) -> Vec<Row> {
    let field = |bytes: &[u8]| u64::from(u32::from_le_bytes(bytes.try_into().unwrap()));
    let record = |sector: u64| {
        let at = sector * SECTOR + 440;
        let tail = &pieces.iter().find(|(offset, _)| *offset == at).unwrap().1;
        assert_eq!(tail.len(), 72);
        assert_eq!(tail[70..], [0x55, 0xAA]);
        let entries = tail[6..70].chunks(16);
        entries
            .map(|entry| {
                (
                    entry[0],
                    entry[4],
                    field(&entry[8..12]),
                    field(&entry[12..16]),
                )
            })
            .collect::<Vec<_>>()
    };
    let mut rows = Vec::new();
    let mut next = None;
    for (number, (status, kind, start, length)) in (1..).zip(record(0)) {
        if kind == 0 {
            continue;
        }
        rows.push((number, start, start + length - 1, kind, status));
        if kind == 0x0F {
            next = Some((start, start));
        }
    }
    let mut number = 5;
    while let Some((base, ebr)) = next {
        let entries = record(ebr);
        let (status, kind, start, length) = entries[0];
        rows.push((number, ebr + start, ebr + start + length - 1, kind, status));
        number += 1;
        assert_eq!(entries[2..], [(0, 0, 0, 0); 2]);
        next = match entries[1] {
            (0, 0, 0, 0) => None,
            (0, 0x05, start, _) => Some((base, base + start)),
            other => panic!("{other:?}"),
        };
    }
    rows.sort_unstable();
    rows
}

#[test]
fn primary_partitions_lie_where_upstream_puts_them() {
    let one = |request| placed(GIB, 2048, &[request]);
    assert_eq!(placed(GIB, 2048, &[]), []);
    // Then there are an id and the signature, and nothing else.
    let mut empty = vec![0; 72];
    empty[..4].copy_from_slice(&7u32.to_le_bytes());
    empty[70..].copy_from_slice(&[0x55, 0xAA]);
    assert_eq!(place(GIB, 2048, &[]).unwrap().render(7), [(440, empty)]);
    assert_eq!(one(primary(ten())), [(1, 2048, 22527, 0x83, 0)]);
    let fat = Request {
        partition_type: 0x0C,
        ..primary(ten())
    };
    assert_eq!(one(fat), [(1, 2048, 22527, 0x0C, 0)]);
    assert_eq!(
        placed(GIB, 2048, &[primary(ten()), primary(ten()), primary(ten())]),
        [
            (1, 2048, 22527, 0x83, 0),
            (2, 22528, 43007, 0x83, 0),
            (3, 43008, 63487, 0x83, 0)
        ]
    );
    assert_eq!(
        one(active(primary(ALL))),
        [(1, 2048, 2_095_103, 0x83, 0x80)]
    );
    assert_eq!(
        placed(20 * GIB, 2048, &[primary(ALL)]),
        [(1, 2048, 41_940_991, 0x83, 0)]
    );
    // mbr ppc64el
    let prep = Request {
        partition_type: 0x41,
        ..active(primary(Size::Bytes(8 * MIB)))
    };
    assert_eq!(
        placed(GIB, 2048, &[prep, primary(ALL)]),
        [
            (1, 2048, 18431, 0x41, 0x80),
            (2, 18432, 18432 + 2_076_672 - 1, 0x83, 0)
        ]
    );
    let sizes = [3_000_000_000, 1_000_000_000, 1_000_000_000]
        .map(Size::Bytes)
        .map(primary);
    assert_eq!(
        placed(8 * GIB, 2048, &sizes),
        [
            (1, 2048, 2048 + 5_859_375 - 1, 0x83, 0),
            (2, 5_863_424, 5_863_424 + 1_953_125 - 1, 0x83, 0),
            (3, 7_817_216, 7_817_216 + 1_953_125 - 1, 0x83, 0),
        ]
    );
}

#[test]
fn logical_partitions_lie_where_upstream_puts_them() {
    assert_eq!(
        placed(GIB, 2048, &[logical(ten())]),
        [(1, 2048, 2_097_151, 0x0F, 0), (5, 4096, 24575, 0x83, 0)]
    );
    let many = placed(GIB, 2048, &vec![logical(ten()); 64]);
    assert_eq!(many[0], (1, 2048, 2_097_151, 0x0F, 0));
    for (k, row) in (0..).zip(&many[1..]) {
        let start = 4096 + 22528 * u64::from(k);
        assert_eq!(*row, (5 + k, start, start + 20480 - 1, 0x83, 0));
    }
    let mut requests = vec![primary(ten()); 3];
    requests.extend(vec![logical(ten()); 7]);
    let mixed = placed(GIB, 2048, &requests);
    assert_eq!(mixed[3], (4, 63488, 2_097_151, 0x0F, 0));
    for (k, row) in (0..).zip(&mixed[4..]) {
        let start = 65536 + 22528 * u64::from(k);
        assert_eq!(*row, (5 + k, start, start + 20480 - 1, 0x83, 0));
    }
    assert_eq!(
        placed(
            GIB,
            2048,
            &[
                primary(Size::Bytes(3_000_000)),
                primary(Size::Bytes(5_000_000)),
                logical(Size::Bytes(7_000_000)),
                active(logical(ALL)),
            ]
        ),
        [
            (1, 2048, 7906, 0x83, 0),
            (2, 8192, 17956, 0x83, 0),
            (3, 18432, 2_097_151, 0x0F, 0),
            (5, 20480, 34150, 0x83, 0),
            (6, 36864, 2_097_151, 0x83, 0x80),
        ]
    );
    assert_eq!(
        placed(
            GIB,
            2048,
            &[33.0, 50.0, 100.0].map(Size::Percent).map(logical)
        ),
        [
            (1, 2048, 2_097_151, 0x0F, 0),
            (5, 4096, 694_803, 0x83, 0),
            (6, 698_368, 1_397_759, 0x83, 0),
            (7, 1_400_832, 2_097_151, 0x83, 0),
        ]
    );
    assert_eq!(
        placed(
            4 * GIB,
            2048,
            &[active(logical(Size::Bytes(GIB))), logical(ALL)]
        ),
        [
            (1, 2048, 8_388_607, 0x0F, 0),
            (5, 4096, 2_101_247, 0x83, 0x80),
            (6, 2_103_296, 8_388_607, 0x83, 0),
        ]
    );
    // multiple_partitions
    assert_eq!(
        placed(
            GIB,
            2048,
            &[
                active(primary(Size::Percent(54.0))),
                logical(Size::Percent(40.0)),
                logical(Size::Percent(5.0)),
                logical(Size::Percent(1.0)),
            ]
        )
        .iter()
        .map(|&(number, start, end, ..)| (number, start, end - start + 1))
        .collect::<Vec<_>>(),
        [
            (1, 2048, 1_130_250),
            (2, 1_132_544, 964_608),
            (5, 1_134_592, 385_024),
            (6, 1_521_664, 28_774),
            (7, 1_554_432, 5_427),
        ]
    );
}

#[test]
fn another_alignment_moves_records_and_data() {
    assert_eq!(
        placed(GIB, 8192, &[primary(ten()), logical(ten())]),
        [
            (1, 8192, 28671, 0x83, 0),
            (2, 32768, 2_097_151, 0x0F, 0),
            (5, 40960, 61439, 0x83, 0),
        ]
    );
    let small = Size::Bytes(100 << 10);
    assert_eq!(
        placed(GIB, 64, &[primary(small), logical(small)]),
        [
            (1, 64, 263, 0x83, 0),
            (2, 320, 2_097_151, 0x0F, 0),
            (5, 384, 583, 0x83, 0)
        ]
    );
}

#[test]
fn an_entry_has_the_bytes_that_real_tools_write() {
    let mbr = place(
        GIB,
        2048,
        &[active(primary(Size::Bytes(2_093_056 * SECTOR)))],
    )
    .unwrap();
    let pieces = mbr.render(0x1234_5678);
    assert_eq!(pieces.len(), 1);
    let (offset, tail) = &pieces[0];
    assert_eq!(*offset, 440);
    assert_eq!(tail[..6], [0x78, 0x56, 0x34, 0x12, 0, 0]);
    assert_eq!(
        tail[6..22],
        [
            0x80, 0x20, 0x21, 0, 0x83, 0x69, 0x27, 0x82, 0, 8, 0, 0, 0, 0xF0, 0x1F, 0
        ]
    );
    assert_eq!(format::chs(u64::from(u32::MAX)), [0xFE, 0xFF, 0xFF]);
    assert_eq!(format::chs(0), [0, 1, 0]);
    // Cylinder 1023 = 0x3FF: its upper bits are in the sector byte.
    assert_eq!(format::chs(1023 * 255 * 63 + 63), [1, 0xC1, 0xFF]);
}

#[test]
fn the_chain_links_as_upstream_links_it() {
    let mut requests = vec![primary(ten()); 3];
    requests.extend(vec![logical(ten()); 7]);
    let mbr = place(GIB, 2048, &requests).unwrap();
    let pieces = mbr.render(1);
    assert_eq!(read_back(&pieces), rows(&mbr));
    let link = |sector: u64, entry: usize| {
        let tail = &pieces
            .iter()
            .find(|(at, _)| *at == sector * 512 + 440)
            .unwrap()
            .1;
        let entry = &tail[6 + 16 * entry..22 + 16 * entry];
        let field = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        (entry[4], field(8), field(12))
    };
    assert_eq!(link(63488, 0), (0x83, 2048, 20480));
    assert_eq!(link(63488, 1), (0x05, 22528, 22528));
    assert_eq!(link(86016, 1), (0x05, 45056, 22528));
    assert_eq!(link(108_544, 1), (0x05, 67584, 22528));
    assert_eq!(link(63488 + 6 * 22528, 1), (0, 0, 0));
    assert_eq!(pieces.len(), 8);
}

#[test]
fn what_an_mbr_cannot_hold_says_why() {
    let message = |disk, requests: &[Request]| place(disk, 2048, requests).unwrap_err().to_string();
    let error = message(GIB, &[logical(ten()), primary(ten())]);
    assert!(
        error.starts_with("All primary partitions must be given first: `p`"),
        "{error}"
    );
    let five = message(GIB, &vec![primary(ten()); 5]);
    assert!(
        five.contains("an mbr holds four primary partitions"),
        "{five}"
    );
    let mut requests = vec![primary(ten()); 4];
    requests.push(logical(ten()));
    assert_eq!(message(GIB, &requests), five);
    assert_eq!(
        message(10 * MIB, &[primary(ten())]),
        "partition `p` needs sectors 2048 to 22528, but the disk has 20480: make the image larger \
         or the partition smaller"
    );
    let error = message(10 * MIB, &[logical(ten())]);
    assert!(
        error.starts_with("partition `p` needs sectors 4096 to 24576"),
        "{error}"
    );
    let error = message(3 << 40, &[primary(ALL)]);
    assert!(
        error.contains("an mbr counts only to 4294967295: use label `gpt`"),
        "{error}"
    );
    let error = message(GIB, &[primary(Size::Bytes(511))]);
    assert_eq!(error, "partition `p` has no sector: its size is 511 bytes");
    for partition_type in [0x05, 0x0F, 0x85] {
        let error = message(
            GIB,
            &[Request {
                partition_type,
                ..primary(ten())
            }],
        );
        let start = format!("partition `p` has type 0x{partition_type:02x}, which is that of a");
        assert!(error.starts_with(&start), "{error}");
    }
    assert!(place(GIB + 1, 2048, &[]).is_err());
    assert!(place(0, 2048, &[primary(ALL)]).is_err());
    assert!(place(GIB, u64::MAX, &[logical(ten())]).is_err());
    assert!(place(GIB, 2048, &[logical(Size::Bytes(u64::MAX))]).is_err());
}

#[test]
fn sfdisk_reads_what_is_written() {
    let mut requests = vec![primary(ten()), active(primary(ten()))];
    requests.extend(vec![logical(Size::Bytes(3_000_000)); 5]);
    let mbr = place(GIB, 2048, &requests).unwrap();
    let file = write(GIB, &mbr.render(0xCAFE_0001));
    let output = tool("sfdisk").arg("--dump").arg(file.path()).output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return println!("SKIP: no sfdisk: {error}"),
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}",
        output = text
    );
    assert!(
        text.contains("label: dos\nlabel-id: 0xcafe0001\n"),
        "{text}"
    );
    for (number, start, end, kind, flags) in rows(&mbr) {
        let boot = if flags == 0x80 { ", bootable" } else { "" };
        let size = end - start + 1;
        let wanted =
            format!("{number} : start={start:>12}, size={size:>12}, type={kind:x}{boot}\n");
        assert!(text.contains(&wanted), "{wanted}\n{text}");
    }
}

fn any_request() -> impl Strategy<Value = Request> {
    let size = prop_oneof![
        (0..2 * GIB).prop_map(Size::Bytes),
        (-10.0..150.0).prop_map(Size::Percent),
        Just(ALL),
    ];
    (any::<bool>(), any::<bool>(), 1u8.., size).prop_map(
        |(primary, active, partition_type, size)| Request {
            name: "p".to_owned(),
            primary,
            active,
            partition_type,
            size,
        },
    )
}

proptest! {
    #[test]
    fn layouts_never_overlap_and_stay_inside(
        disk_mib in 1..4096u64,
        align in 1..5000u64,
        requests in prop::collection::vec(any_request(), 0..8),
    ) {
        let disk = disk_mib * MIB;
        if let Ok(mbr) = place(disk, align, &requests) {
            let mut used: Vec<(u64, u64)> = vec![(0, 1)];
            for partition in &mbr.partitions {
                if let Some(ebr) = partition.ebr {
                    used.push((ebr.into(), u64::from(ebr) + 1));
                }
                used.push((partition.start.into(), partition.end()));
            }
            used.sort_unstable();
            prop_assert!(used.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{used:?}");
            prop_assert!(used.last().unwrap().1 * SECTOR <= disk);
            prop_assert_eq!(read_back(&mbr.render(7)), rows(&mbr));
            prop_assert!(mbr.partitions.iter().all(|p| p.start.is_multiple_of(align as u32)));
        }
    }
}
