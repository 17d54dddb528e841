//! `kiln convert` between all formats, judged by `qemu-img`; and layouts, by firmware.
//!
//! One program, so that the firmware keeps one processor busy and the formats the other.

#[path = "formats/boot.rs"]
mod boot;
mod common;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use common::{Run as _, World, tool};

/// Name of a file, QEMU's name of its format, and arguments that make it.
const VARIANTS: [(&str, &str, &str); 9] = [
    ("a.raw", "raw", ""),
    ("zlib.qcow2", "qcow2", ""),
    (
        "zstd.qcow2",
        "qcow2",
        "-o compression_type=zstd,cluster_size=1M",
    ),
    ("old.qcow2", "qcow2", "-u -o compat=0.10"),
    ("stream.vmdk", "vmdk", "-c"),
    (
        "sparse.vmdk",
        "vmdk",
        "-o subformat=monolithicSparse,adapter_type=ide",
    ),
    ("dynamic.vhd", "vpc", ""),
    ("fixed.vhd", "vpc", "-o subformat=fixed"),
    ("a.vdi", "vdi", ""),
];

/// What else options make of formats; each is written and read once.
const MORE: [(&str, &str, &str); 3] = [
    ("static.vdi", "vdi", "-o static=on"),
    (
        "fixed.vhdx",
        "vhdx",
        "-o subformat=fixed,block_size=2M,log_size=2M,block_state_zero=on",
    ),
    (
        "wide.qcow2",
        "qcow2",
        "-o refcount_bits=64,lazy_refcounts=on,extended_l2=off",
    ),
];

/// A disk with text, noise, and holes.
fn disk(path: &Path) {
    let file = fs::File::create(path).expect("created");
    file.set_len(6 << 20).expect("sized");
    let mut state = 7_u32;
    let noise: Vec<u8> = (0..300_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect();
    file.write_all_at(&noise, 0).expect("written");
    let text = b"all work and no play ".repeat(20_000);
    file.write_all_at(&text, 3_000_001).expect("written");
    file.write_all_at(b"end", (6 << 20) - 3).expect("written");
}

#[test]
fn every_format_is_converted_to_every_other() {
    let Some(qemu) = tool("qemu-img") else {
        skip!("`qemu-img` is not installed");
    };
    let world = World::new();
    disk(&world.work().join("source.raw"));
    let mut variants = VARIANTS.to_vec();
    variants.push(("a.vhdx", "vhdx", ""));
    for (name, format, options) in variants.iter().chain(&MORE) {
        let line = format!("convert {options} source.raw {name}");
        world.kiln().words(&line).success();
        let line = format!("compare -f raw -F {format} source.raw {name}");
        world.command(&qemu).words(&line).success();
        // QEMU has no check for these two.
        if !matches!(*format, "raw" | "vpc") {
            let line = format!("check -f {format} {name}");
            world.command(&qemu).words(&line).success();
        }
    }
    let info = world
        .command(&qemu)
        .words("info -f qcow2 wide.qcow2")
        .success();
    for said in ["lazy refcounts: true", "refcount bits: 64"] {
        assert!(info.contains(said), "{info}");
    }
    for (name, _, _) in MORE {
        let line = format!("convert --overwrite {name} back.raw");
        world.kiln().words(&line).success();
        let line = "compare -f raw -F raw source.raw back.raw";
        world.command(&qemu).words(line).success();
    }
    // The names that QEMU has for formats are names here.
    let line = "convert --overwrite -f vpc -O vpc fixed.vhd from-vpc";
    world.kiln().words(line).success();
    for (from, _, _) in &variants {
        for (to, format, options) in &variants {
            let target = format!("from-{to}");
            let line = format!("convert --overwrite {options} {from} {target}");
            world.kiln().words(&line).success();
            let line = format!("compare -f raw -F {format} source.raw {target}");
            world.command(&qemu).words(&line).success();
            // The way does not show, but for the file's own name within a vmdk.
            if *format != "vmdk" {
                let direct = fs::read(world.work().join(to)).expect("there");
                let way = fs::read(world.work().join(&target)).expect("there");
                assert!(direct == way, "{from} to {to}");
            }
        }
    }
}

/// Opens, converts, and never writes a target or a backtrace for what is broken.
#[track_caller]
fn assert_refused(world: &World, name: &str) {
    let outcome = world
        .kiln()
        .words(&format!("convert --overwrite {name} target.raw"));
    assert_eq!(outcome.code(), 1, "{name}: {}", outcome.stderr);
    assert!(outcome.stderr.contains(name), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    assert!(!world.work().join("target.raw").exists(), "{name}");
}

#[test]
fn what_is_cut_off_or_damaged_is_refused_in_every_format() {
    let world = World::new();
    disk(&world.work().join("source.raw"));
    let mut variants = VARIANTS.to_vec();
    variants.push(("a.vhdx", "vhdx", ""));
    for (name, format, options) in variants.iter().filter(|(_, format, _)| *format != "raw") {
        let line = format!("convert {options} source.raw {name}");
        world.kiln().words(&line).success();
        let whole = fs::read(world.work().join(name)).expect("there");
        let cut = format!("cut-{name}");
        let path = world.work().join(&cut);
        for length in [whole.len() / 2, whole.len() / 8, 1000, 100] {
            fs::write(&path, &whole[..length]).expect("written");
            let known = format!("convert --overwrite -f {format} {cut} target.raw");
            // Half of a fixed vhd is a raw disk, unless it is said what it is.
            let known = known.replace("-f vpc", "-f vhd");
            let outcome = world.kiln().words(&known);
            assert_eq!(outcome.code(), 1, "{cut} of {length}: {}", outcome.stderr);
            assert!(outcome.stderr.contains(&cut), "{}", outcome.stderr);
            assert!(!world.work().join("target.raw").exists(), "{cut}");
        }
        // Where the tables are, and what they refer to.
        for at in [8, 24, 60, 520, 1030, 65_540, whole.len() / 3] {
            if at + 8 > whole.len() {
                continue;
            }
            let mut broken = whole.clone();
            for byte in &mut broken[at..at + 8] {
                *byte ^= 0xA5;
            }
            fs::write(&path, &broken).expect("written");
            let outcome = world
                .kiln()
                .words(&format!("convert --overwrite {cut} target.raw"));
            assert!(outcome.code() <= 1, "{cut} at {at}: {}", outcome.stderr);
            assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
            let target = world.work().join("target.raw");
            // A byte of data may well be another.
            assert_eq!(outcome.code() == 0, target.exists(), "{cut} at {at}");
            let _ = fs::remove_file(target);
        }
    }
    // What says that it is an image and is none.
    for (name, bytes) in [
        ("magic.qcow2", &b"QFI\xfb\0\0\0\x03"[..]),
        ("magic.vmdk", b"KDMV\x01\0\0\0"),
        ("magic.vhdx", b"vhdxfile"),
    ] {
        fs::write(world.work().join(name), bytes).expect("written");
        assert_refused(&world, name);
    }
}

#[test]
fn disks_of_odd_lengths_are_rounded_up_where_a_format_needs_it() {
    let Some(qemu) = tool("qemu-img") else {
        skip!("`qemu-img` is not installed");
    };
    let world = World::new();
    let odd = (6 << 20) + 3 * 512;
    disk(&world.work().join("source.raw"));
    let file = fs::OpenOptions::new()
        .write(true)
        .open(world.work().join("source.raw"))
        .expect("there");
    file.set_len(odd).expect("sized");
    let source = fs::read(world.work().join("source.raw")).expect("there");
    let mut variants = VARIANTS.to_vec();
    variants.push(("a.vhdx", "vhdx", ""));
    for (name, format, options) in &variants {
        let line = format!("convert {options} source.raw {name}");
        world.kiln().words(&line).success();
        let line = format!("info --output=json -f {format} {name}");
        let json = world.command(&qemu).words(&line).success();
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let length = json["virtual-size"].as_u64().expect("a number");
        // Azure takes whole mebibytes only.
        let expected = if *format == "vpc" { 7 << 20 } else { odd };
        assert_eq!(length, expected, "{name}");
        if *name == "fixed.vhd" {
            let file = fs::metadata(world.work().join(name)).expect("there");
            assert_eq!(file.len(), (7 << 20) + 512);
        }
        let line = format!("convert --overwrite {name} back.raw");
        world.kiln().words(&line).success();
        let back = fs::read(world.work().join("back.raw")).expect("there");
        let (data, rest) = back.split_at(source.len());
        assert!(
            data == source && rest.iter().all(|&byte| byte == 0),
            "{name}"
        );
    }
}

#[test]
fn an_older_target_is_kept_unless_it_is_to_be_replaced() {
    let world = World::new();
    world.write("a.raw", &"text".repeat(1000));
    let line = "convert -u a.raw b.qcow2";
    world.kiln().words(line).success();
    let kept = world.kiln().words(line);
    assert!(
        kept.stderr.starts_with("kept the older image as `"),
        "{}",
        kept.stderr
    );
    assert!(
        kept.stdout.starts_with("b.qcow2: qcow2, virtual "),
        "{}",
        kept.stdout
    );
    let count = || fs::read_dir(world.work()).expect("readable").count();
    assert_eq!(count(), 3);
    let replaced = world.kiln().words("convert --overwrite a.raw b.qcow2");
    assert_eq!(replaced.stderr, "");
    assert_eq!(count(), 3);
}

#[test]
fn what_cannot_be_converted_is_explained_and_leaves_nothing() {
    let world = World::new();
    world.write("a.raw", "text");
    world.write("bad.qcow2", "QFI\u{fb}");
    for (line, code, error) in [
        (
            "convert a.raw b",
            2,
            "error: the name `b` does not say which format to write\n\
             hint: name one with `-O`: raw, qcow2, vmdk, vhd, vhdx, vdi\n",
        ),
        (
            "convert -o subformat=flat a.raw b.vhd",
            2,
            "error: vhd option `subformat` cannot be `flat`\nhint: it is `dynamic`, `fixed`\n",
        ),
        (
            "convert - b.raw",
            2,
            "error: an image cannot be read from standard input\n\
             hint: name a file; one that is called `-` is `./-`\n",
        ),
        (
            "convert -O raw a.raw -",
            2,
            "error: an image cannot be written to standard output\n\
             hint: name a file; one that is called `-` is `./-`\n",
        ),
        (
            "convert -o compat a.raw b.qcow2",
            2,
            "error: option `compat` has no value\nhint: options have the form `key=value`\n",
        ),
    ] {
        let outcome = world.kiln().words(line);
        assert_eq!(outcome.code(), code, "{line}: {}", outcome.stderr);
        assert_eq!(outcome.stderr, error, "{line}");
    }
    let outcome = world.kiln().words("convert -f qcow2 bad.qcow2 b.raw");
    assert_eq!(outcome.code(), 1);
    assert!(
        outcome.stderr.contains("is damaged at byte 0"),
        "{}",
        outcome.stderr
    );
    let missing = world.kiln().words("convert none.raw b.raw");
    assert!(missing.stderr.contains("none.raw"), "{}", missing.stderr);
    assert_eq!(fs::read_dir(world.work()).expect("readable").count(), 2);
}
