//! Where volumes are, and what LVM's own tools say of it.

mod options;

use proptest::prelude::*;
use uuid::uuid;

use super::text::dashed;
use super::*;
use crate::disk::gpt::tests::{tool, write};
use crate::disk::{Extent, Source, Volume};

const SEED: Uuid = uuid!("b8c0e9a2-1d2e-4f7c-9c57-00112233aabb");
const MIB: u64 = 1 << 20;

fn pv(name: &str, bytes: u64) -> Pv {
    let device = format!("/dev/mapper/image0-{name}");
    Pv {
        name: name.to_owned(),
        id: Uuid::new_v5(&SEED, name.as_bytes()).into(),
        bytes,
        device,
        options: PvOptions::default(),
    }
}

fn lv(name: &str, size: LvSize) -> Lv {
    Lv {
        name: name.to_owned(),
        uuid: Uuid::new_v5(&SEED, name.as_bytes()),
        size,
        kind: Kind::Linear,
        options: LvOptions::default(),
    }
}

/// Where an ordinary volume is.
fn segments_of(place: &Place) -> &[Segment] {
    match place {
        Place::Linear(segments) => segments,
        other => panic!("{other:?}"),
    }
}

fn extents(text: &str) -> LvSize {
    LvSize::Extents(text.to_owned())
}

fn extents_all() -> LvSize {
    extents("100%FREE")
}

fn vg(pvs: Vec<Pv>, lvs: Vec<Lv>) -> Vg {
    Vg {
        name: "vg".to_owned(),
        uuid: SEED,
        pvs,
        lvs,
        creation_time: 1_700_000_000,
        options: VgOptions::default(),
    }
}

fn lengths(vg: &Vg) -> Vec<u64> {
    let plan = plan(vg).unwrap();
    plan.places
        .iter()
        .map(|place| length_of(segments_of(place)))
        .collect()
}

#[test]
fn sizes_are_cut_down_to_extents_as_upstream_does() {
    let sizes: Vec<Lv> = [1800, 100, 500, 100, 100, 200]
        .iter()
        .enumerate()
        .map(|(at, mb)| lv(&format!("lv{at}"), LvSize::Bytes(mb * 1_000_000)))
        .collect();
    assert_eq!(
        lengths(&vg(
            vec![pv("root", 3_000_000_000), pv("data", 1_000_000_000)],
            sizes
        )),
        [
            1_799_356_416,
            96_468_992,
            499_122_176,
            96_468_992,
            96_468_992,
            197_132_288
        ]
    );
}

#[test]
fn percentages_are_of_the_group_or_of_what_is_free() {
    // 49 extents
    let group = |lvs| vg(vec![pv("a", MIB + 49 * EXTENT_SIZE)], lvs);
    let counts = |lvs| -> Vec<u64> {
        lengths(&group(lvs))
            .iter()
            .map(|length| length / EXTENT_SIZE)
            .collect()
    };
    assert_eq!(counts(vec![lv("a", extents("20%VG"))]), [9]);
    assert_eq!(
        counts(vec![
            lv("a", extents("10")),
            lv("b", extents("50%FREE")),
            lv("c", extents("100%FREE"))
        ]),
        [10, 19, 20]
    );
    let shares = ["28%VG", "4%VG", "40%VG", "23%VG", "4%VG", "1%VG"];
    let shares = shares
        .iter()
        .enumerate()
        .map(|(at, share)| lv(&format!("l{at}"), extents(share)));
    let group = vg(vec![pv("a", MIB + 1000 * EXTENT_SIZE)], shares.collect());
    assert_eq!(lengths(&group).iter().sum::<u64>(), 1000 * EXTENT_SIZE);
}

#[test]
fn a_volume_may_span_physical_volumes() {
    let pvs = vec![pv("data1", 1_000_000_000), pv("data2", 1_000_000_000)];
    let group = vg(pvs, vec![lv("lv_data", LvSize::Bytes(2_000_000_000))]);
    let plan = plan(&group).unwrap();
    let half = 238 * EXTENT_SIZE;
    assert_eq!(
        segments_of(&plan.places[0]),
        [
            Segment {
                pv: 0,
                offset: MIB,
                length: half
            },
            Segment {
                pv: 1,
                offset: MIB,
                length: half
            },
        ]
    );
    let bytes: std::sync::Arc<[u8]> = vec![1; 1 << 16].into();
    let extent = |offset, start| Extent {
        offset,
        length: 1 << 15,
        source: Source::Bytes {
            bytes: bytes.clone(),
            start,
        },
    };
    // The second extent lies on both halves.
    let volume = Volume {
        length: 2 * half,
        extents: vec![extent(0, 0), extent(half - 100, 1 << 15)],
    };
    let pieces = scatter(volume, &[half, half]);
    let summary: Vec<_> = pieces
        .iter()
        .map(|volume| {
            let extents: Vec<_> = volume
                .extents
                .iter()
                .map(|extent| match extent.source {
                    Source::Bytes { start, .. } => (extent.offset, extent.length, start),
                    _ => panic!("{extent:?}"),
                })
                .collect();
            (volume.length, extents)
        })
        .collect();
    assert_eq!(
        summary,
        [
            (half, vec![(0, 1 << 15, 0), (half - 100, 100, 1 << 15)]),
            (half, vec![(0, (1 << 15) - 100, (1 << 15) + 100)]),
        ]
    );
}

#[test]
fn what_does_not_fit_says_why() {
    let message = |size: LvSize| {
        let pvs = vec![pv("pv", MIB + 10 * EXTENT_SIZE)];
        plan(&vg(pvs, vec![lv("lv", size)]))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message(LvSize::Bytes(11 * EXTENT_SIZE)),
        "logical volume `lv` needs 11 extents of 4MiB, but volume group `vg` has only 10 left: \
         make the image or the partition larger"
    );
    assert_eq!(
        message(LvSize::Bytes(EXTENT_SIZE - 1)),
        "logical volume `lv` is smaller than one extent of 4MiB"
    );
    for text in [
        "",
        "x",
        "10%",
        "10%X",
        "-1",
        "99999999999999999999",
        "18446744073709551615%VG",
    ] {
        let error = message(extents(text));
        assert!(
            error.starts_with(&format!("extents `{text}` of logical volume `lv`")),
            "{error}"
        );
    }
    let small = vg(vec![pv("pv", 5 * MIB - 1)], vec![]);
    assert!(
        plan(&small)
            .unwrap_err()
            .to_string()
            .contains("`pv` of 5242879 bytes is too small")
    );
    let named = vg(vec![], vec![lv("a b", LvSize::Bytes(1))]);
    assert!(
        plan(&named)
            .unwrap_err()
            .to_string()
            .starts_with("`a b` is no name for LVM")
    );
}

#[test]
fn the_checksum_is_that_of_lvm() {
    assert_eq!(format::crc(b""), 0xF597_A6CF);
    // The same polynomial as zlib's: undoing its inversions gives the same register.
    let theirs = crc32fast::Hasher::new_with_initial(!0xF597_A6CF);
    let mut theirs = theirs;
    theirs.update(b"kiln");
    assert_eq!(format::crc(b"kiln"), !theirs.finalize());
}

/// The group that a tool of LVM2 is asked about.
fn group() -> Vg {
    vg(
        vec![pv("pv0", 64 * MIB), pv("pv1", 32 * MIB)],
        vec![
            lv("lv_root", extents("16")),
            lv("lv_var", extents("100%FREE")),
        ],
    )
}

#[test]
fn pvck_accepts_headers_and_metadata() {
    let group = group();
    let plan = plan(&group).unwrap();
    let file = write(64 * MIB, &[(0, plan.headers[0].clone())]);
    for what in ["headers", "metadata"] {
        let output = tool("pvck")
            .args(["--driverloaded", "n", "--dump", what])
            .arg(file.path())
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => return println!("SKIP: no pvck: {error}"),
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(output.status.success(), "{text}{errors}");
        for word in ["bad", "invalid", "incorrect", "mismatch"] {
            assert!(
                !errors.contains(word) && !text.to_lowercase().contains(word),
                "{text}{errors}"
            );
        }
        if what == "metadata" {
            assert!(
                text.contains("lv_var") && text.contains("segment_count = 1"),
                "{text}"
            );
        }
    }
}

#[test]
fn blkid_recognises_a_physical_volume() {
    let plan = plan(&group()).unwrap();
    for header in [
        plan.headers[0].clone(),
        orphan_header(&pv("pv0", 64 * MIB)).unwrap(),
    ] {
        let file = write(64 * MIB, &[(0, header)]);
        let output = tool("blkid")
            .args(["-p", "-o", "export"])
            .arg(file.path())
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => return println!("SKIP: no blkid: {error}"),
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let uuid = dashed(Uuid::new_v5(&SEED, b"pv0"));
        assert!(text.contains("TYPE=LVM2_member"), "{text}");
        assert!(text.contains(&format!("UUID={uuid}")), "{text}");
    }
}

proptest! {
    #[test]
    fn volumes_never_share_an_extent(
        pvs in prop::collection::vec(5 * MIB..400 * MIB, 1..4),
        lvs in prop::collection::vec(0..200 * MIB, 0..6),
    ) {
        let pvs: Vec<Pv> = pvs.iter().enumerate().map(|(at, &b)| pv(&format!("p{at}"), b)).collect();
        let lvs = lvs.iter().enumerate();
        let lvs = lvs.map(|(at, &bytes)| lv(&format!("l{at}"), LvSize::Bytes(bytes))).collect();
        if let Ok(found) = plan(&vg(pvs.clone(), lvs)) {
            let mut used: Vec<(usize, u64, u64)> = found
                .places
                .iter()
                .flat_map(segments_of)
                .map(|part| (part.pv, part.offset, part.offset + part.length))
                .collect();
            used.sort_unstable();
            prop_assert!(used.windows(2).all(|w| w[0].0 < w[1].0 || w[0].2 <= w[1].1));
            for (pv, start, end) in used {
                prop_assert!(start >= MIB && end <= pvs[pv].bytes);
            }
        }
    }
}

#[test]
fn several_groups_take_each_their_own_volumes() {
    // The vector multi_pv_vg: a group on 3 GB, another on 1 GB.
    let sizes = |sizes: &[(&str, u64)]| {
        let lv = |(name, mb): &(&str, u64)| lv(name, LvSize::Bytes(mb * 1_000_000));
        sizes.iter().map(lv).collect::<Vec<_>>()
    };
    let vg1 = vg(
        vec![pv("root", 3_000_000_000)],
        sizes(&[("lv_root", 1800), ("lv_tmp", 100)]),
    );
    let vg2 = vg(
        vec![pv("data", 1_000_000_000)],
        sizes(&[
            ("lv_var", 500),
            ("lv_log", 100),
            ("lv_audit", 100),
            ("lv_home", 200),
        ]),
    );
    assert_eq!(lengths(&vg1), [1_799_356_416, 96_468_992]);
    assert_eq!(
        lengths(&vg2),
        [499_122_176, 96_468_992, 96_468_992, 197_132_288]
    );
}

#[test]
fn thin_volumes_have_the_sizes_of_upstream_and_a_pool_has_its_parts() {
    let thin = |name: &str, mb: u64| Lv {
        kind: Kind::Thin("lv_thinpool".to_owned()),
        ..lv(name, LvSize::Bytes(mb * 1_000_000))
    };
    let mut lvs = vec![Lv {
        kind: Kind::ThinPool,
        ..lv("lv_thinpool", LvSize::Bytes(2_940_000_000))
    }];
    lvs.extend([1890, 105, 525, 105, 105, 210].map(|mb| thin(&format!("lv{mb}"), mb)));
    let group = vg(vec![pv("pv", 3_500_000_000)], lvs.clone());
    let found = plan(&group).unwrap();
    let bytes: Vec<u64> = found
        .places
        .iter()
        .map(|place| match place {
            Place::Thin { bytes, .. } => *bytes,
            Place::Pool(0) => found.pools[0].bytes(),
            other => panic!("{other:?}"),
        })
        .collect();
    // Those of the vector `thin`, in extents: 700, 450, 25, 125, 25, 25, 50.
    let extents: Vec<u64> = bytes.iter().map(|bytes| bytes / EXTENT_SIZE).collect();
    assert_eq!(extents, [700, 450, 25, 125, 25, 25, 50]);
    assert_eq!(found.pools[0].volumes, 6);
    let text = String::from_utf8_lossy(&found.headers[0]).into_owned();
    for part in [
        "lv_thinpool_tmeta {",
        "lv_thinpool_tdata {",
        "lvol0_pmspare {",
        "type = \"thin-pool\"",
        "transaction_id = 6",
        "chunk_size = 128",
        "device_id = 6",
    ] {
        assert!(text.contains(part), "{part}");
    }
    // All of a group, with what belongs to the pool.
    lvs[0].size = extents_all();
    let whole = plan(&vg(vec![pv("pv", MIB + 100 * EXTENT_SIZE)], lvs.clone())).unwrap();
    assert_eq!(whole.pools[0].bytes(), 98 * EXTENT_SIZE);
    let message = |lvs: Vec<Lv>| {
        let group = vg(vec![pv("pv", MIB + 10 * EXTENT_SIZE)], lvs);
        plan(&group).unwrap_err().to_string()
    };
    assert_eq!(
        message(lvs[1..].to_vec()),
        "`lv_thinpool`, which thin volume `lv1890` names, is no thin pool of volume group `vg`"
    );
    lvs[0].size = LvSize::Bytes(10 * EXTENT_SIZE);
    assert!(message(lvs).contains("needs 1 extents of 4MiB, but volume group `vg` has only 0"));
}

#[test]
fn stripes_hold_the_bytes_in_turns() {
    let bytes: std::sync::Arc<[u8]> = (0..=255).collect::<Vec<u8>>().into();
    let volume = Volume {
        length: 400,
        extents: vec![Extent {
            offset: 50,
            length: 256,
            source: Source::Bytes { bytes, start: 0 },
        }],
    };
    let parts = stripe(&volume, 3, 64);
    let lengths: Vec<u64> = parts.iter().map(|part| part.length).collect();
    assert_eq!(lengths, [128 + 16, 128, 128]);
    let mut whole = vec![0u8; 400];
    for (at, part) in parts.iter().enumerate() {
        for extent in &part.extents {
            let Source::Bytes { bytes, start } = &extent.source else {
                panic!("{extent:?}");
            };
            for offset in 0..extent.length {
                let (turn, within) = ((extent.offset + offset) / 64, (extent.offset + offset) % 64);
                let place = (turn * 3 + at as u64) * 64 + within;
                whole[usize::try_from(place).unwrap()] =
                    bytes[start + usize::try_from(offset).unwrap()];
            }
        }
    }
    let expected: Vec<u8> = (0..50)
        .map(|_| 0)
        .chain(0..=255)
        .chain((0..94).map(|_| 0))
        .collect();
    assert!(whole == expected);
}
