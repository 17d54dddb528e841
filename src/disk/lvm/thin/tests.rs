use std::collections::BTreeMap;

use proptest::prelude::*;
use zerocopy::FromBytes as _;

use super::super::Segment;
use super::super::format::EXTENT_SIZE;
use super::*;
use crate::disk::gpt::tests::{tool, write};

fn pool(data: u64) -> Pool {
    let sizes = sizes(data, &PoolOptions::default());
    let segment = |length: u64| Segment {
        pv: 0,
        offset: 0,
        length: length.next_multiple_of(EXTENT_SIZE),
    };
    Pool {
        name: "pool".to_owned(),
        data: vec![segment(data)],
        metadata: vec![segment(sizes.metadata)],
        chunk: sizes.chunk,
        volumes: 0,
        options: PoolOptions::default(),
    }
}

/// A volume with data in these ranges.
fn volume(ranges: &[(u64, u64)]) -> Volume {
    let bytes: Arc<[u8]> = vec![7; 1 << 20].into();
    let extent = |&(offset, length)| Extent {
        offset,
        length,
        source: Source::Bytes {
            bytes: bytes.clone(),
            start: 0,
        },
    };
    Volume {
        length: 1 << 40,
        extents: ranges.iter().map(extent).collect(),
    }
}

fn bytes_of(metadata: &Volume) -> &[u8] {
    match &metadata.extents[0].source {
        Source::Bytes { bytes, .. } => bytes,
        other => panic!("{other:?}"),
    }
}

/// All pairs of a tree of numbers, read as the kernel reads it.
fn pairs(metadata: &[u8], root: u64) -> BTreeMap<u64, u64> {
    let block = block(metadata, root, NODE_XOR);
    let (header, rest) = NodeHeader::ref_from_prefix(block).unwrap();
    assert_eq!((header.blocknr.get(), header.value_size.get()), (root, 8));
    let (count, most) = (header.nr_entries.get() as usize, header.max_entries.get());
    assert!(most == 252 && count <= 252);
    let number = |at: usize| u64::from_le_bytes(rest[8 * at..8 * at + 8].try_into().unwrap());
    let own = (0..count).map(|at| (number(at), number(252 + at)));
    if header.flags.get() == LEAF {
        return own.collect();
    }
    let mut all = BTreeMap::new();
    for (first, child) in own {
        let below = pairs(metadata, child);
        assert_eq!(below.keys().next(), Some(&first));
        assert!(below.len() >= 252 / 3);
        all.extend(below);
    }
    all
}

/// A block whose checksum is right.
fn block(metadata: &[u8], number: u64, xor: u32) -> &[u8] {
    let at = usize::try_from(number).unwrap() * BLOCK;
    let block = &metadata[at..at + BLOCK];
    let sum = u32::from_le_bytes(block[..4].try_into().unwrap());
    assert_eq!(sum, !crc32c::crc32c(&block[4..]) ^ xor, "block {number}");
    block
}

fn superblock(metadata: &[u8]) -> Superblock {
    let block = block(metadata, 0, SUPERBLOCK_XOR);
    Superblock::read_from_prefix(block).unwrap().0
}

#[test]
fn larger_pools_have_larger_chunks() {
    for (data, chunk, metadata) in [
        (1u64 << 30, 64 << 10, 2 << 20),
        (100 << 30, 64 << 10, 100 << 20),
        (1 << 40, 512 << 10, 128 << 20),
        (u64::MAX, 1 << 30, 128 << 20),
    ] {
        assert_eq!(
            sizes(data, &PoolOptions::default()),
            Sizes { chunk, metadata },
            "{data}"
        );
    }
}

#[test]
fn volumes_take_chunks_one_after_the_other() {
    const CHUNK: u64 = 64 << 10;
    let volumes = vec![
        volume(&[
            (0, 10),
            (100, CHUNK),
            (5 * CHUNK + 7, 1),
            (1 << 39, 3 * CHUNK),
        ]),
        volume(&[]),
        volume(&[(CHUNK - 1, 2)]),
    ];
    let (data, metadata) = fill(&pool(1 << 30), volumes).unwrap();
    let places: Vec<(u64, u64)> = data
        .extents
        .iter()
        .map(|extent| (extent.offset, extent.length))
        .collect();
    assert_eq!(
        places,
        [
            (0, 10),
            (100, CHUNK),
            (2 * CHUNK + 7, 1),
            (3 * CHUNK, 3 * CHUNK),
            (7 * CHUNK - 1, 2),
        ]
    );
    let metadata = bytes_of(&metadata);
    let root = superblock(metadata).data_mapping_root.get();
    let trees = pairs(metadata, root);
    assert_eq!(trees.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    let at = (1u64 << 39) / CHUNK;
    let mapped = |device: u64| {
        let pairs = pairs(metadata, trees[&device]);
        pairs
            .into_iter()
            .map(|(from, to)| (from, to >> 24))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        mapped(1),
        [(0, 0), (1, 1), (5, 2), (at, 3), (at + 1, 4), (at + 2, 5)]
    );
    assert_eq!(mapped(2), []);
    assert_eq!(mapped(3), [(0, 6), (1, 7)]);
}

#[test]
fn what_does_not_fit_says_how_much_it_needs() {
    let error = fill(
        &pool(EXTENT_SIZE),
        vec![volume(&[(0, EXTENT_SIZE), (1 << 30, 1)])],
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "thin pool `pool` of 4194304 bytes is too small: what is in its volumes needs 4259840 bytes"
    );
}

#[test]
fn thin_check_finds_no_fault() {
    // Trees of three levels, and several bitmaps.
    let many: Vec<(u64, u64)> = (0..70_000).map(|at| (at * (3 << 16), 1000)).collect();
    let volumes = vec![volume(&many), volume(&[]), volume(&[(1 << 30, 1 << 20)])];
    let mut pool = pool(64 << 30);
    pool.volumes = volumes.len();
    let (_, metadata) = fill(&pool, volumes).unwrap();
    let file = write(metadata.length, &[(0, bytes_of(&metadata).to_vec())]);
    let check = |program: &str, options: &[&str]| {
        let output = tool(program).args(options).arg(file.path()).output();
        match output {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{text}{errors}");
                Some(text)
            }
            Err(error) => {
                println!("SKIP: no {program}: {error}");
                None
            }
        }
    };
    check("thin_check", &[]);
    if let Some(text) = check("thin_dump", &[]) {
        for part in [
            "transaction=\"3\"",
            "data_block_size=\"128\"",
            "nr_data_blocks=\"1048576\"",
            "<device dev_id=\"1\" mapped_blocks=\"70000\" transaction=\"0\"",
            "<device dev_id=\"2\" mapped_blocks=\"0\"",
            "<range_mapping origin_begin=\"16384\" data_begin=\"70000\" length=\"16\"",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }
}

proptest! {
    #[test]
    fn every_extent_is_where_the_trees_say(
        gaps in proptest::collection::vec((0u64..400_000, 1u64..200_000), 0..60),
        split in 0usize..60,
    ) {
        let mut at = 0;
        let ranges: Vec<(u64, u64)> = gaps
            .iter()
            .map(|(gap, length)| {
                let range = (at + gap, *length);
                at += gap + length;
                range
            })
            .collect();
        let (one, two) = ranges.split_at(split.min(ranges.len()));
        let pool = pool(1 << 30);
        let (data, metadata) = fill(&pool, vec![volume(one), volume(two)]).unwrap();
        prop_assert!(data.extents.windows(2).all(|w| w[0].offset + w[0].length <= w[1].offset));
        let metadata = bytes_of(&metadata);
        let trees = pairs(metadata, superblock(metadata).data_mapping_root.get());
        let mut placed = data.extents.iter();
        for (device, ranges) in [(1, one), (2, two)] {
            let mapped = pairs(metadata, trees[&device]);
            for (offset, length) in ranges {
                let extent = placed.next().unwrap();
                prop_assert_eq!(extent.length, *length);
                for byte in [*offset, offset + length - 1] {
                    let chunk = mapped[&(byte / pool.chunk)] >> 24;
                    let expected = chunk * pool.chunk + byte % pool.chunk;
                    prop_assert_eq!(extent.offset + (byte - offset), expected);
                }
            }
        }
    }
}
