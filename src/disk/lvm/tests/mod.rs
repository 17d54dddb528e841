use proptest::prelude::*;
use uuid::uuid;

use super::options::{
    Discards, OptionError, PoolOptions, group as group_options, logical, physical,
};
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

fn extents_all() -> LvSize {
    extents("100%FREE")
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn extents_begin_where_pvcreate_lets_them() {
    // What pvcreate 2.03.16 made on a loop device.
    for (line, start) in [
        ("", 1_048_576),
        ("--dataalignment 4m", 4_194_304),
        ("--metadatasize 4m", 5_242_880),
        ("--metadatasize 4", 5_242_880),
        ("--metadatasize=250k", 1_048_576),
        ("--dataalignment 64k", 1_048_576),
        ("--dataalignment 64K --dataalignmentoffset 32", 1_081_344),
        ("--metadatasize 2m --dataalignment 3m", 3_145_728),
        ("--dataalignment 1m --dataalignmentoffset 512k", 1_572_864),
        ("--metadatasize 100k --dataalignment 256k", 262_144),
        ("-ff -y --zero y --norestorefile", 1_048_576),
    ] {
        let options = physical("pv", &words(line)).unwrap();
        assert_eq!(options.data_start, start, "{line}");
    }
    let id = "AbCdEf-0123-4567-89ab-cdef-0123-4567#!";
    let options = physical(
        "pv",
        &words(&format!("-u {id} --setphysicalvolumesize 1.5g")),
    )
    .unwrap();
    assert_eq!(options.bytes, Some(3 << 29));
    assert_eq!(dashed(options.id.unwrap()), id);
}

#[test]
fn options_that_matter_are_in_the_metadata() {
    let mut pvs = vec![pv("a", 300 * MIB), pv("b", 200 * MIB)];
    pvs[0].options = physical(
        "a",
        &words("--metadatasize 2m --setphysicalvolumesize 100m"),
    )
    .unwrap();
    let mut lvs = vec![
        lv("striped", extents("51")),
        lv("ro", extents("5")),
        lv("shy", extents("5")),
        lv("rest", extents("100%FREE")),
    ];
    lvs[0].options = logical("striped", &words("-i2 --stripesize 32k -W y -Zy -an")).unwrap();
    lvs[1].options = logical(
        "ro",
        &words("-pr --addtag @t1 --addtag t2 -r 256 --alloc cling"),
    )
    .unwrap();
    lvs[2].options = logical("shy", &words("-ky --setautoactivation n -r none -Cn")).unwrap();
    lvs[3].options = logical("rest", &words("--type linear --stripes 1 --alloc inherit")).unwrap();
    let mut group = vg(pvs, lvs);
    let line = "-s 1 -l 10 -p 5 --addtag a1 --addtag b2 --alloc anywhere --zero n";
    group.options = group_options("vg", &words(line)).unwrap();
    let plan = plan(&group).unwrap();
    assert_eq!(
        plan.places[0],
        Place::Striped {
            parts: vec![
                Segment {
                    pv: 0,
                    offset: 3 * MIB,
                    length: 26 * MIB
                },
                Segment {
                    pv: 1,
                    offset: MIB,
                    length: 26 * MIB
                },
            ],
            size: 32 << 10,
        }
    );
    // 100 MiB and 200 MiB without metadata, one extent a MiB.
    let rest = segments_of(&plan.places[3])
        .iter()
        .map(|part| part.length / MIB);
    assert_eq!(rest.collect::<Vec<_>>(), [97 - 36, 199 - 26]);
    let text = &plan.headers[0][4096 + 512..];
    let text = String::from_utf8_lossy(text).into_owned();
    for part in [
        "tags = [\"a1\", \"b2\"]\nextent_size = 2048\nmax_lv = 10\nmax_pv = 5\nallocation_policy = \"anywhere\"\n",
        "dev_size = 204800\npe_start = 6144\npe_count = 97\n",
        "dev_size = 409600\npe_start = 2048\npe_count = 199\n",
        "extent_count = 52\ntype = \"striped\"\nstripe_count = 2\nstripe_size = 64\nstripes = [\n\"pv0\", 0,\n\"pv1\", 0\n]\n",
        "status = [\"READ\", \"VISIBLE\"]\nflags = []\ntags = [\"t1\", \"t2\"]\n",
        "allocation_policy = \"cling\"\nread_ahead = 256\n",
        "flags = [\"ACTIVATION_SKIP\", \"NOAUTOACTIVATE\"]\n",
        "read_ahead = -1\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let file = write(300 * MIB, &[(0, plan.headers[0].clone())]);
    match tool("pvck")
        .args(["--dump", "headers"])
        .arg(file.path())
        .output()
    {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{said}");
            for part in [
                "device_size 104857600",
                "disk_locn[0].offset 3145728",
                "mda_header_1.size 3141632",
            ] {
                assert!(said.contains(part), "{part}\n{said}");
            }
            assert!(!said.contains("CHECK"), "{said}");
        }
        Err(error) => println!("SKIP: no pvck: {error}"),
    }
}

#[test]
fn pools_are_as_their_options_say() {
    let mut lvs = vec![
        lv("pool", extents("10")),
        lv("thin", LvSize::Bytes(1 << 30)),
    ];
    let line =
        "--type thin-pool -c 256 --poolmetadatasize 8m --poolmetadataspare n --discards ignore -Zn";
    lvs[0].options = logical("pool", &words(line)).unwrap();
    assert!(lvs[0].options.thin_pool);
    assert_eq!(
        lvs[0].options.pool,
        PoolOptions {
            chunk: Some(256 << 10),
            metadata: Some(8 << 20),
            spare: false,
            discards: Discards::Ignore,
            zero: false,
        }
    );
    lvs[0].kind = Kind::ThinPool;
    lvs[1].kind = Kind::Thin("pool".to_owned());
    let group = vg(vec![pv("a", MIB + 12 * EXTENT_SIZE)], lvs);
    let plan = plan(&group).unwrap();
    assert_eq!(plan.pools[0].chunk, 256 << 10);
    assert_eq!(length_of(&plan.pools[0].metadata), 8 << 20);
    let text = String::from_utf8_lossy(&plan.headers[0]).into_owned();
    assert!(text.contains("chunk_size = 512"), "{text}");
    assert!(text.contains("discards = \"ignore\""), "{text}");
    assert!(
        !text.contains("zero_new_blocks") && !text.contains("pmspare"),
        "{text}"
    );
}

#[test]
fn sizes_are_whole_extents_of_any_length() {
    let length = |extent: &str, size: u64| {
        let mut group = vg(vec![pv("a", 1 << 30)], vec![lv("lv", LvSize::Bytes(size))]);
        group.options = group_options("vg", &words(&format!("-s {extent}"))).unwrap();
        lengths(&group)[0] / MIB
    };
    // As upstream, which cuts down to 4 MiB, and then LVM, which rounds up.
    assert_eq!(length("4m", 11 * MIB), 8);
    assert_eq!(length("1m", 11 * MIB), 8);
    assert_eq!(length("32m", 40 * MIB), 64);
    assert_eq!(length("384k", 4 * MIB), 4);
}

#[test]
fn options_that_cannot_be_honoured_say_so() {
    let said = |result: Result<(), OptionError>| result.unwrap_err().to_string();
    let pv_error = |line: &str| said(physical("pv", &words(line)).map(drop));
    let vg_error = |line: &str| said(group_options("vg", &words(line)).map(drop));
    let lv_error = |line: &str| said(logical("lv", &words(line)).map(drop));
    for (message, expected) in [
        (
            pv_error("--bootloaderareasize 1m"),
            "option `--bootloaderareasize` of `pv` is not supported: of pvcreate kiln knows --uuid, ",
        ),
        (
            pv_error("--metadatacopies 2"),
            "option `metadatacopies` of `pv` is `2`, but must be 1",
        ),
        (
            pv_error("--uuid 1-2"),
            "option `uuid` of `pv` is `1-2`, but must be an id of LVM",
        ),
        (
            pv_error("--dataalignment"),
            "option `dataalignment` of `pv` has no value",
        ),
        (
            pv_error("--dataalignment 4x"),
            "option `dataalignment` of `pv` is `4x`, but must be a size",
        ),
        (
            vg_error("--shared"),
            "option `--shared` of `vg` is not supported: of vgcreate",
        ),
        (
            vg_error("-s 5k"),
            "option `physicalextentsize` of `vg` is `5k`, but must be a power of two",
        ),
        (
            vg_error("--alloc contiguous"),
            "option `alloc` of `vg` is `contiguous`, but must be",
        ),
        (
            vg_error("--addtag a,b"),
            "option `addtag` of `vg` is `a,b`, but must be letters",
        ),
        (
            lv_error("--type raid1"),
            "option `type` of `lv` is `raid1`, but must be linear, striped",
        ),
        (
            lv_error("-m1"),
            "option `-m1` of `lv` is not supported: of lvcreate",
        ),
        (
            lv_error("-L 5g"),
            "option `--size` of `lv` says again what the key `size` says",
        ),
        (lv_error("name"), "option `name` of `lv` is not supported"),
        (
            lv_error("--force=1"),
            "option `--force=1` of `lv` is not supported",
        ),
    ] {
        assert!(
            message.starts_with(expected),
            "{message}\n  not: {expected}"
        );
    }
    let failed_at = |size: &str, pvs, line: &str, options: &str| {
        let mut one = lv("lv", extents(size));
        one.options = logical("lv", &words(line)).unwrap();
        let mut group = vg(pvs, vec![one]);
        group.options = group_options("vg", &words(options)).unwrap();
        plan(&group).unwrap_err().to_string()
    };
    let failed = |pvs, line: &str, options: &str| failed_at("60", pvs, line, options);
    let two = || vec![pv("a", 300 * MIB), pv("b", 100 * MIB)];
    assert_eq!(
        failed(two(), "-i2", ""),
        "logical volume `lv` needs 30 extents on each of 2 physical volumes, but only 1 of volume \
         group `vg` have as many left"
    );
    assert_eq!(
        failed(two(), "-i2 -I 8m", ""),
        "stripes of 8MiB of `lv` are longer than extents of 4MiB"
    );
    assert_eq!(
        failed(two(), "", "-p 1"),
        "volume group `vg` has 2 physical volumes, but its options allow 1"
    );
    let most = u64::MAX.to_string();
    assert!(failed_at(&most, two(), "-i2", "").starts_with("logical volume `lv` needs 1844"));
    let mut long = two();
    long[0].options = physical("a", &words("--setphysicalvolumesize 1g")).unwrap();
    assert!(failed(long, "", "").starts_with("physical volume `a` is to have 1073741824 bytes"));
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
