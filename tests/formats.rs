//! `kiln convert` between all formats, judged by `qemu-img`.

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
    for (name, format, options) in &variants {
        let line = format!("convert {options} source.raw {name}");
        world.kiln().words(&line).success();
        let line = format!("compare -f raw -F {format} source.raw {name}");
        world.command(&qemu).words(&line).success();
    }
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
