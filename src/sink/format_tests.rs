//! The formats of other virtual machines, with `qemu-img` as the judge.

use std::io::Read as _;
use std::process::Command;

use super::source::Memory;
use super::tests::{have, run, spec, write};
use super::*;

/// Every variant of every format, with QEMU's name of it.
pub(crate) fn variants() -> Vec<(&'static str, Format)> {
    let vmdk = |subformat, level| {
        Format::Vmdk(vmdk::Options {
            subformat,
            level,
            ..vmdk::Options::default()
        })
    };
    vec![
        ("vmdk", vmdk(vmdk::Subformat::StreamOptimized, None)),
        ("vmdk", vmdk(vmdk::Subformat::StreamOptimized, Some(9))),
        ("vmdk", vmdk(vmdk::Subformat::MonolithicSparse, None)),
        ("vpc", Format::Vhd(vhd::Subformat::Dynamic)),
        ("vpc", Format::Vhd(vhd::Subformat::Fixed)),
        ("vhdx", Format::Vhdx(vhdx::Options::default())),
        (
            "vhdx",
            Format::Vhdx(vhdx::Options {
                subformat: vhdx::Subformat::Fixed,
                block_size: Some(4 << 20),
                log_size: 3 << 20,
                zero_state: false,
            }),
        ),
        (
            "vhdx",
            Format::Vhdx(vhdx::Options {
                zero_state: true,
                ..vhdx::Options::default()
            }),
        ),
        ("vdi", Format::Vdi(vdi::Subformat::Dynamic)),
        ("vdi", Format::Vdi(vdi::Subformat::Static)),
    ]
}

#[test]
fn qemu_reads_every_format_as_the_raw_image() {
    if !have("qemu-img") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    for (length, seed) in [(9_437_184, 1), (70_000_128, 5), (5_000_001, 2), (1, 4)] {
        let disk = Memory::sample(length, seed);
        let raw = place.path().join("a.raw");
        let mut specs = vec![spec(Format::Raw, &raw)];
        for (at, (name, format)) in variants().into_iter().enumerate() {
            specs.push(spec(format, place.path().join(format!("{at}.{name}"))));
        }
        let written = write(&disk, &specs, 3).unwrap();
        for ((name, format), written) in variants().into_iter().zip(&written[1..]) {
            let path = &written.path;
            let what = format!("{length} {format:?}");
            let info = run(Command::new("qemu-img")
                .args(["info", "-f", name])
                .arg(path));
            let size = format.virtual_size(length).max(1).next_multiple_of(512);
            assert!(info.contains(&format!("({size} bytes)")), "{what}: {info}");
            if let Format::Vmdk(options) = format {
                let subformat = vmdk::Subformat::NAMES
                    .iter()
                    .find(|(_, known)| *known == options.subformat)
                    .unwrap()
                    .0;
                assert!(
                    info.contains(&format!("create type: {subformat}")),
                    "{info}"
                );
            }
            // QEMU has no check for vpc.
            if name != "vpc" {
                let check = run(Command::new("qemu-img")
                    .args(["check", "-f", name])
                    .arg(path));
                assert!(check.contains("No errors were found"), "{what}: {check}");
            }
            let mut compare = Command::new("qemu-img");
            compare
                .args(["compare", "-f", "raw", "-F", name])
                .arg(&raw)
                .arg(path);
            assert!(run(&mut compare).contains("identical"), "{what}");
        }
    }
}

#[test]
fn other_formats_have_the_same_bytes_at_any_number_of_threads() {
    let disk = Memory::sample(20_000_000, 5);
    let mut first: Option<Vec<Vec<u8>>> = None;
    for threads in [1, 2, 16] {
        let place = tempfile::tempdir().unwrap();
        let mut specs: Vec<_> = variants()
            .iter()
            .enumerate()
            .map(|(at, (_, format))| spec(*format, place.path().join(format!("{at}"))))
            .collect();
        if threads == 2 {
            // Alone or with others in a pass with larger chunks.
            specs.push(spec(
                Format::Qcow2(qcow2::Options {
                    cluster_size: 2 << 20,
                    ..qcow2::Options::default()
                }),
                place.path().join("other"),
            ));
        }
        write(&disk, &specs, threads).unwrap();
        let files: Vec<_> = specs[..variants().len()]
            .iter()
            .map(|spec| std::fs::read(&spec.path).unwrap())
            .collect();
        match &first {
            None => first = Some(files),
            Some(first) => assert!(*first == files, "{threads} threads"),
        }
    }
}

#[test]
fn ids_come_from_the_seed() {
    let place = tempfile::tempdir().unwrap();
    let disk = Memory::sample(3_000_000, 6);
    for (_, format) in variants() {
        let path = place.path().join("image");
        let mut files = Vec::new();
        for seed in [1, 1, 2] {
            let seed = uuid::Uuid::from_u128(seed);
            let spec = Spec {
                seed,
                ..spec(format, &path)
            };
            write(&disk, &[spec], 2).unwrap();
            files.push(std::fs::read(&path).unwrap());
        }
        assert!(files[0] == files[1], "{format:?}");
        assert!(files[0] != files[2], "{format:?}");
    }
}

#[test]
fn a_large_sparse_disk_makes_small_files() {
    let place = tempfile::tempdir().unwrap();
    let length = 2 << 40;
    let disk = Memory {
        length,
        pieces: vec![
            (0, vec![1; 10]),
            (1 << 40, vec![2; 100_000]),
            (length - 512, vec![3; 512]),
        ],
        broken_from: None,
    };
    for (name, format) in variants() {
        let path = place.path().join(format!("large.{name}"));
        let result = write(&disk, &[spec(format, &path)], 2);
        if name == "vpc" {
            let error = result.unwrap_err();
            assert_eq!(
                error.to_string(),
                "a disk of 2 TiB does not fit into vhd, whose limit is 1.9 TiB"
            );
            assert!(error.hint().unwrap().contains("qcow2"));
            continue;
        }
        let written = result.unwrap();
        assert!(written[0].disk_size < 20 << 20, "{written:?}");
        if have("qemu-img") && name != "vpc" {
            run(Command::new("qemu-img")
                .args(["check", "-f", name])
                .arg(&path));
        }
    }
}

#[test]
fn disks_that_are_too_large_are_refused() {
    let place = tempfile::tempdir().unwrap();
    for (length, names) in [
        (65 << 40, vec!["vmdk", "vpc", "vhdx"]),
        (1 << 60, vec!["vdi"]),
    ] {
        let disk = Memory {
            length,
            ..Memory::default()
        };
        for (name, format) in variants() {
            if names.contains(&name) {
                let error = write(&disk, &[spec(format, place.path().join("a"))], 1).unwrap_err();
                assert!(matches!(error, Error::TooLargeForFormat { .. }), "{error}");
            }
        }
    }
}

#[test]
fn a_fixed_vhd_has_whole_mebibytes_and_a_footer() {
    use zerocopy::FromBytes as _;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("azure.vhd");
    let disk = Memory::sample(3_000_000, 8);
    let fixed = Format::Vhd(vhd::Subformat::Fixed);
    let written = write(&disk, &[spec(fixed, &path)], 2).unwrap();
    assert_eq!(written[0].virtual_size, 3 << 20);
    assert_eq!(written[0].file_size, (3 << 20) + 512);
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.starts_with(&disk.bytes()));
    let footer = vhd::format::Footer::ref_from_bytes(&bytes[3 << 20..]).unwrap();
    assert_eq!(footer.current_size.get(), 3 << 20);
    assert_eq!(footer.checksum.get(), footer.expected_checksum());
}

#[test]
fn a_tgz_is_the_tar_compressed() {
    let place = tempfile::tempdir().unwrap();
    let tar = place.path().join("a.tar");
    let tgz = place.path().join("a.tgz");
    let compressed = Spec {
        checksums: Checksums {
            md5: true,
            sha256: true,
        },
        ..spec(Format::Tgz, &tgz)
    };
    let disk = Memory::default();
    let written = write(&disk, &[spec(Format::Tar, &tar), compressed], 2).unwrap();
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(&tgz).unwrap())
        .read_to_end(&mut plain)
        .unwrap();
    assert!(plain == std::fs::read(&tar).unwrap());
    let read_back = checksum::of_file(
        &std::fs::File::open(&tgz).unwrap(),
        Checksums {
            md5: true,
            sha256: true,
        },
    );
    assert_eq!(written[1].digests, read_back.unwrap());
}
