//! Options of pvcreate, vgcreate and lvcreate.

use super::super::options::{
    Discards, OptionError, PoolOptions, group as group_options, logical, physical,
};
use super::super::text::dashed;
use super::*;

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
