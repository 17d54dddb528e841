use std::process::Command;
use std::sync::Arc;

use super::*;
use crate::sink::format_tests::variants;
use crate::sink::qcow2::{Compression, CompressionType, Options, Version};
use crate::sink::source::Memory;
use crate::sink::tests::{have, run, spec};
use crate::sink::{self, ReadAt as _, write_all};
use crate::tree::TreeBuilder;

/// All bytes, read in steps that are aligned to nothing.
pub(super) fn bytes(image: &Image, step: u64) -> Result<Vec<u8>, sink::Cause> {
    let mut all = vec![0xEE; usize::try_from(image.length())?];
    let mut reader = image.reader();
    let mut at = 0;
    for part in all.chunks_mut(usize::try_from(step)?) {
        reader.read_at(at, part)?;
        at += step;
    }
    Ok(all)
}

pub(super) fn write(disk: &Memory, format: sink::Format, path: &Path) {
    let tree = Arc::new(TreeBuilder::new().build().unwrap());
    write_all(&[disk], &tree, &[spec(format, path)], 2, &|_, _, _| {}).unwrap();
}

/// Every format and variant that kiln writes.
fn all_formats() -> Vec<sink::Format> {
    let mut formats: Vec<_> = variants().into_iter().map(|(_, format)| format).collect();
    formats.push(sink::Format::Raw);
    for cluster_size in [512, 65536, 2 << 20] {
        for (version, compression_type) in [
            (Version::V2, CompressionType::Zlib),
            (Version::V3, CompressionType::Zlib),
            (Version::V3, CompressionType::Zstd),
        ] {
            for compression in [Compression::Level(None), Compression::None] {
                formats.push(sink::Format::Qcow2(Options {
                    version,
                    cluster_size,
                    compression_type,
                    compression,
                    ..Options::default()
                }));
            }
        }
    }
    formats
}

#[test]
fn what_kiln_writes_it_reads_back() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let disk = Memory::sample(5_000_001, 11);
    let expected = disk.bytes();
    for format in all_formats() {
        write(&disk, format, &path);
        let image = open(&path, None).unwrap();
        assert_eq!(image.format(), format.name());
        for step in [1 << 20, 70_001] {
            let read = bytes(&image, step).unwrap();
            let (data, rest) = read.split_at(expected.len());
            assert!(data == expected, "{format:?}");
            assert!(rest.len() < 1 << 20 && rest.iter().all(|&byte| byte == 0));
        }
        // What is outside of the ranges is zeros.
        let mut outside = bytes(&image, 1 << 20).unwrap();
        for range in image.data_ranges() {
            outside[range.start as usize..range.end as usize].fill(0);
        }
        assert!(outside.iter().all(|&byte| byte == 0), "{format:?}");
    }
}

#[test]
fn what_qemu_writes_is_read() {
    if !have("qemu-img") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let raw = place.path().join("a.raw");
    let disk = Memory::sample(9 << 20, 12);
    write(&disk, sink::Format::Raw, &raw);
    let expected = disk.bytes();
    for (format, arguments) in [
        ("qcow2", vec![]),
        ("qcow2", vec!["-c"]),
        ("qcow2", vec!["-c", "-o", "compression_type=zstd"]),
        ("qcow2", vec!["-o", "compat=0.10"]),
        ("qcow2", vec!["-o", "extended_l2=on"]),
        (
            "qcow2",
            vec!["-c", "-o", "extended_l2=on,cluster_size=128k"],
        ),
        ("qcow2", vec!["-o", "preallocation=metadata"]),
        ("qcow2", vec!["-o", "refcount_bits=1,lazy_refcounts=on"]),
        ("vmdk", vec![]),
        ("vmdk", vec!["-o", "zeroed_grain=on"]),
        ("vmdk", vec!["-o", "subformat=streamOptimized"]),
        ("vpc", vec!["-o", "force_size=on"]),
        ("vpc", vec![]),
        ("vpc", vec!["-o", "subformat=fixed,force_size=on"]),
        ("vhdx", vec![]),
        ("vhdx", vec!["-o", "subformat=fixed"]),
        ("vhdx", vec!["-o", "block_size=1M"]),
        ("vdi", vec![]),
        ("vdi", vec!["-o", "static=on"]),
    ] {
        let path = place.path().join("image");
        run(Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", format])
            .args(&arguments)
            .arg(&raw)
            .arg(&path));
        let image = open(&path, None).unwrap();
        assert_eq!(
            Some(image.format()),
            Format::from_name(format).map(Format::name)
        );
        let read = bytes(&image, 300_000).unwrap();
        assert!(read.starts_with(&expected), "{format} {arguments:?}");
        assert!(read[expected.len()..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn the_last_grain_of_a_vmdk_may_be_short_and_no_other() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    if have("qemu-img") {
        let raw = place.path().join("a.raw");
        for length in [100 << 10, (9 << 20) + 1536] {
            let disk = Memory::sample(length, 17);
            write(&disk, sink::Format::Raw, &raw);
            run(Command::new("qemu-img")
                .args(["convert", "-f", "raw", "-O", "vmdk"])
                .args(["-o", "subformat=streamOptimized"])
                .arg(&raw)
                .arg(&path));
            let read = bytes(&open(&path, None).unwrap(), 300_000).unwrap();
            assert!(read == disk.bytes(), "{length}");
        }
    }
    let disk = Memory::sample(1 << 20, 18);
    let format = sink::Format::Vmdk(sink::vmdk::Options {
        subformat: sink::vmdk::Subformat::StreamOptimized,
        ..sink::vmdk::Options::default()
    });
    write(&disk, format, &path);
    let mut image = std::fs::read(&path).unwrap();
    // A marker: sector of the disk, size, a zlib stream.
    let first = image
        .chunks(512)
        .position(|sector| sector[..8] == [0; 8] && sector[8..12] != [0; 4] && sector[12] == 0x78)
        .unwrap()
        * 512;
    let mut short = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut short, &[7; 1000]).unwrap();
    let short = short.finish().unwrap();
    let size = u32::try_from(short.len()).unwrap().to_le_bytes();
    image[first + 8..first + 12].copy_from_slice(&size);
    image[first + 12..first + 12 + short.len()].copy_from_slice(&short);
    std::fs::write(&path, image).unwrap();
    let error = bytes(&open(&path, None).unwrap(), 300_000).unwrap_err();
    assert!(
        error.to_string().contains("cannot be decompressed"),
        "{error}"
    );
}

#[test]
fn what_is_known_to_be_no_raw_disk_is_none_unless_it_is_said_to_be() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let compressed = COMPRESSED.map(|(magic, by, _)| (magic, by));
    for (magic, what) in FOREIGN.into_iter().chain(compressed) {
        std::fs::write(&path, [magic, &[0; 4096]].concat()).unwrap();
        let error = open(&path, None).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.hint().is_some());
        let disk = open(&path, Some(Format::Raw)).unwrap();
        assert_eq!(disk.format(), "raw");
    }
}

/// A fixed image is as long as its disk, and mostly a hole where that is empty. What is
/// taken for data has to be read, and a raw image gets its space beforehand.
#[test]
fn holes_of_an_image_are_holes_of_its_disk() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let disk = Memory {
        length: 1 << 30,
        pieces: vec![(300 << 20, vec![7; 100_000]), ((1 << 30) - 5, vec![8; 5])],
        broken_from: None,
    };
    let formats = [
        sink::Format::Raw,
        sink::Format::Vhd(sink::vhd::Subformat::Fixed),
        sink::Format::Vhdx(sink::vhdx::Options {
            subformat: sink::vhdx::Subformat::Fixed,
            ..Default::default()
        }),
        sink::Format::Vdi(sink::vdi::Subformat::Static),
    ];
    let check = |name: &str| {
        let image = open(&path, Format::from_name(name)).unwrap();
        let ranges = image.data_ranges();
        let data: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        assert!(data < 1 << 20, "{name}: {ranges:?}");
        let mut reader = image.reader();
        for (start, bytes) in &disk.pieces {
            let mut read = vec![0; bytes.len() + 10];
            reader.read_at(start - 10, &mut read).unwrap();
            assert!(read[..10] == [0; 10] && read[10..] == *bytes, "{name}");
        }
    };
    for format in formats {
        write(&disk, format, &path);
        check(format.name());
    }
    if have("qemu-img") {
        let raw = place.path().join("a.raw");
        write(&disk, sink::Format::Raw, &raw);
        // As a server of virtual machines makes them.
        run(Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .args(["-o", "preallocation=metadata"])
            .args([&raw, &path]));
        check("qcow2");
    }
}

#[test]
fn images_that_stand_on_others_are_refused() {
    if !have("qemu-img") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    for format in ["qcow2", "vmdk"] {
        let base = place.path().join(format!("base.{format}"));
        let over = place.path().join(format!("over.{format}"));
        run(Command::new("qemu-img")
            .args(["create", "-f", format])
            .arg(&base)
            .arg("1M"));
        run(Command::new("qemu-img")
            .args(["create", "-f", format, "-F", format, "-b"])
            .arg(&base)
            .arg(&over));
        let error = open(&over, None).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("an image could name any file of yours"),
            "{text}"
        );
        assert!(text.contains(&format!("base.{format}")), "{text}");
        assert!(error.hint().unwrap().contains("qemu-img convert"));
    }
}

#[test]
fn what_is_not_read_is_named() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let disk = Memory::sample(1 << 20, 13);
    let qcow2 = sink::Format::Qcow2(Options::default());
    for (format, at, value, text) in [
        (qcow2, 7, vec![4], "has version 4"),
        (qcow2, 35, vec![2], "is encrypted by LUKS"),
        (qcow2, 79, vec![4], "needs the feature “external data file”"),
        (qcow2, 72, vec![0x80], "needs the feature with bit 63"),
        (qcow2, 79, vec![2], "is marked as corrupt"),
        (
            qcow2,
            20,
            vec![0, 0, 0, 40],
            "damaged at byte 20: the cluster size is impossible",
        ),
        (
            sink::Format::Vdi(sink::vdi::Subformat::Dynamic),
            0x4C,
            vec![5],
            "has image type 5",
        ),
        (
            sink::Format::Vdi(sink::vdi::Subformat::Dynamic),
            0x4C,
            vec![4],
            "stands on another image",
        ),
        (
            sink::Format::Vdi(sink::vdi::Subformat::Dynamic),
            0x1B8,
            vec![0xAB, 0xCD],
            "stands on another image (\"0000cdab-",
        ),
        (
            sink::Format::Vdi(sink::vdi::Subformat::Dynamic),
            0x1A8,
            vec![4],
            "stands on another image",
        ),
        (
            sink::Format::Vhdx(sink::vhdx::Options::default()),
            0x10030,
            vec![1],
            "no header",
        ),
    ] {
        write(&disk, format, &path);
        let mut image = std::fs::read(&path).unwrap();
        image[at..at + value.len()].copy_from_slice(&value);
        if matches!(format, sink::Format::Vhdx(_)) {
            // Both headers, neither with a right checksum.
            image[0x20030] = 1;
        }
        std::fs::write(&path, image).unwrap();
        let error = open(&path, None).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    std::fs::write(&path, "# Disk DescriptorFile\nversion=1\n".repeat(30)).unwrap();
    let error = open(&path, None).unwrap_err();
    assert!(error.to_string().contains("only a description"), "{error}");
    assert!(matches!(
        open(place.path(), None),
        Err(Error::NotAFile { .. })
    ));
    let missing = open(&place.path().join("none"), None).unwrap_err();
    assert_eq!(missing.hint().as_deref(), Some("check the name"));
}

#[test]
fn a_table_that_is_used_twice_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let disk = Memory {
        length: 1 << 30,
        pieces: vec![(0, vec![1; 512]), (600 << 20, vec![2; 512])],
        broken_from: None,
    };
    write(&disk, sink::Format::Qcow2(Options::default()), &path);
    let mut image = std::fs::read(&path).unwrap();
    let l1 = u64::from_be_bytes(image[40..48].try_into().unwrap()) as usize;
    image.copy_within(l1..l1 + 8, l1 + 8);
    std::fs::write(&path, image).unwrap();
    let error = open(&path, None).unwrap_err();
    assert!(
        error.to_string().contains("one table serves two parts"),
        "{error}"
    );
}

/// Opens and reads a mutated image; whatever it says, nothing may panic.
pub(super) fn exercise(path: &Path, format: Format) {
    let Ok(image) = open(path, Some(format)) else {
        return;
    };
    let ranges = image.data_ranges();
    assert!(
        ranges
            .iter()
            .all(|range| range.start < range.end && range.end <= image.length())
    );
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
    let mut reader = image.reader();
    let mut buffer = vec![0; 100_000];
    for range in ranges.iter().take(50) {
        let length = (range.end - range.start).min(buffer.len() as u64);
        let _ = reader.read_at(range.start, &mut buffer[..length as usize]);
        let _ = reader.read_at(range.end - length, &mut buffer[..length as usize]);
    }
}

#[test]
fn damaged_images_never_cause_a_panic() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let disk = Memory {
        length: 3 << 20,
        pieces: vec![
            (0, (0..60_000_u32).map(|n| (n / 7) as u8).collect()),
            (2 << 20, vec![2; 9000]),
        ],
        broken_from: None,
    };
    let mut state = 0x1234_5678_9ABC_DEF1_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for format in all_formats() {
        write(&disk, format, &path);
        let image = std::fs::read(&path).unwrap();
        let kind = Format::from_name(format.name()).unwrap();
        // Where numbers are: everything that is not zero, so headers and tables.
        let places: Vec<usize> = (0..image.len()).filter(|&at| image[at] != 0).collect();
        for round in 0..40 {
            let mut damaged = image.clone();
            for _ in 0..=next(3) {
                let at = match next(3) {
                    0 => next(512.min(damaged.len())),
                    1 => places[next(places.len())],
                    _ => places[next(places.len().min(600))],
                };
                let end = (at + 1 + next(8)).min(damaged.len());
                let value = [0, 0xFF, 1, 0x80, next(256) as u8][next(5)];
                damaged[at..end].fill(value);
            }
            if round % 10 == 0 {
                damaged.truncate(next(image.len()));
            }
            if matches!(format, sink::Format::Vhdx(_)) {
                super::vhdx::tests::repair_checksums(&mut damaged);
            }
            std::fs::write(&path, &damaged).unwrap();
            exercise(&path, kind);
        }
    }
}

#[test]
fn an_image_that_shrinks_while_it_is_read_is_not_taken_for_zeros() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let disk = Memory::sample(5 << 20, 21);
    let qcow2 = |compression| {
        sink::Format::Qcow2(Options {
            compression,
            ..Options::default()
        })
    };
    for format in [
        sink::Format::Raw,
        qcow2(Compression::None),
        qcow2(Compression::Level(None)),
    ] {
        write(&disk, format, &path);
        let image = open(&path, None).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(image.file_length / 2).unwrap();
        let error = bytes(&image, 1 << 20).unwrap_err().to_string();
        assert!(error.starts_with("the image shrank from "), "{error}");
        // What was appended is none of its business.
        write(&disk, format, &path);
        let image = open(&path, None).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(image.file_length * 2).unwrap();
        assert!(bytes(&image, 1 << 20).unwrap() == disk.bytes());
    }
}

#[test]
fn an_image_that_ends_within_a_block_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let disk = Memory {
        length: 9 << 20,
        pieces: vec![(8 << 20, vec![7; 1 << 20])],
        broken_from: None,
    };
    for format in [
        sink::Format::Vhd(sink::vhd::Subformat::Dynamic),
        sink::Format::Vhdx(sink::vhdx::Options::default()),
        sink::Format::Vdi(sink::vdi::Subformat::Dynamic),
    ] {
        write(&disk, format, &path);
        let file = File::options().write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        // The second block of a VHD is half beyond the disk.
        let cut = if format.name() == "vhd" {
            (3 << 19) + 512
        } else {
            1 << 19
        };
        file.set_len(length - cut).unwrap();
        let error = open(&path, None).unwrap_err().to_string();
        assert!(error.contains("the file ends within a block"), "{error}");
    }
}

#[test]
fn a_vhd_may_lack_the_last_byte_of_its_footer() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    let disk = Memory::sample(2 << 20, 22);
    for format in [
        sink::Format::Vhd(sink::vhd::Subformat::Dynamic),
        sink::Format::Vhd(sink::vhd::Subformat::Fixed),
    ] {
        write(&disk, format, &path);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        let image = open(&path, None).unwrap();
        assert_eq!(image.format(), "vhd");
        assert!(bytes(&image, 300_000).unwrap() == disk.bytes());
    }
}
