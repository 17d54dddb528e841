//! Archives that mean harm.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::common::toy::names;
use crate::common::{self, Run as _, World};

/// A tar member with a name that no well-meaning writer would give.
fn member(name: &str, kind: tar::EntryType, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
    if kind.is_block_special() || kind.is_character_special() {
        header.set_device_major(8).expect("a number");
        header.set_device_minor(0).expect("a number");
    }
    header.set_cksum();
    let mut member = header.as_bytes().to_vec();
    member.extend(content);
    member.resize(member.len().next_multiple_of(512), 0);
    member
}

fn text_of(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

#[test]
fn archives_with_names_that_lead_out_write_nothing_outside() {
    use tar::EntryType;
    let regular = EntryType::Regular;
    let world = World::new();
    let aimed_at = world.home().join("kiln-escape");
    let (aimed_at, home) = (text_of(&aimed_at), text_of(&world.home()));
    for (what, members) in [
        (
            "parents",
            vec![member("../../../escape", regular, "", b"x")],
        ),
        ("absolute", vec![member(&aimed_at, regular, "", b"x")]),
        (
            "through a link",
            vec![
                member("way", EntryType::Symlink, "../../..", b""),
                member("way/escape", regular, "", b"x"),
            ],
        ),
        (
            "through an absolute link",
            vec![
                member("way", EntryType::Symlink, &home, b""),
                member("way/kiln-escape", regular, "", b"x"),
            ],
        ),
        (
            "a hard link out",
            vec![member(
                "stolen",
                EntryType::Link,
                "../../../etc/passwd",
                b"",
            )],
        ),
        (
            "an absolute hard link",
            vec![member("stolen", EntryType::Link, "/etc/passwd", b"")],
        ),
        (
            "a device",
            vec![member("dev/disk", EntryType::Block, "", b"")],
        ),
    ] {
        let mut archive = members.concat();
        archive.resize(archive.len() + 1024, 0);
        fs::write(world.work().join("evil.tar"), archive).expect("written");
        let outcome = world
            .kiln()
            .words("pack evil.tar -t tar -o packed --overwrite");
        assert!(
            outcome.status.success() || outcome.stderr.contains("error: "),
            "{what}: {}",
            outcome.stderr
        );
        assert!(!outcome.stderr.contains("panicked"), "{what}");
        for directory in [world.work(), world.home(), world.tmp()] {
            for name in names(&directory) {
                assert!(
                    ["evil.tar", "packed.tar"].contains(&name.as_str()),
                    "{what}: {name}"
                );
            }
        }
        if outcome.status.success() {
            let file = fs::File::open(world.work().join("packed.tar")).expect("written");
            let mut packed = tar::Archive::new(file);
            for entry in packed.entries().expect("a tar") {
                let entry = entry.expect("an entry");
                let path = entry.path().expect("a path").into_owned();
                let inside = path.is_relative()
                    && !path
                        .components()
                        .any(|part| part == std::path::Component::ParentDir);
                assert!(inside, "{what}: {}", path.display());
                assert!(entry.size() < 1000, "{what}: a file of the host was taken");
            }
        }
    }
}

#[test]
fn archives_that_grow_without_bounds_are_read_in_bounded_memory_or_refused() {
    // 128 MiB of zeroes in a few bytes, and a member that says it is larger than any disk.
    let world = World::new();
    let path = world.work().join("bomb.tar.gz");
    let file = fs::File::create(&path).expect("made");
    let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_path("large").expect("a name");
    header.set_size(128 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    packer.write_all(header.as_bytes()).expect("written");
    for _ in 0..128 {
        packer.write_all(&[0; 1 << 20]).expect("written");
    }
    packer.write_all(&[0; 1024]).expect("written");
    packer.finish().expect("written");
    let limited = |arguments: &str| {
        let mut command = world.command("/bin/sh");
        // 64 MB of memory for the program, half of the content.
        command.args(["-c", "ulimit -d 65536; exec \"$@\"", "sh"]);
        command.arg(common::kiln());
        command.words(arguments)
    };
    let outcome = limited("pack bomb.tar.gz -t tar -o packed");
    assert!(
        outcome.status.success() || outcome.stderr.contains("error: "),
        "{}",
        outcome.stderr
    );
    let _ = fs::remove_file(world.work().join("packed.tar"));
    let mut header = member("huge", tar::EntryType::Regular, "", b"");
    // Base 256, as GNU tar writes what octal digits cannot hold.
    header[124..136].copy_from_slice(&[
        0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ]);
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header[..512].iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    fs::write(world.work().join("huge.tar"), header).expect("written");
    let outcome = limited("pack huge.tar -t tar -o packed");
    assert_ne!(outcome.code(), 0);
    assert!(outcome.stderr.contains("error: "), "{}", outcome.stderr);
}

#[test]
fn holes_cost_a_squashfs_little_and_those_larger_than_any_disk_are_refused() {
    use std::os::unix::fs::FileExt as _;
    let world = World::new();
    let limited = |arguments: &str| {
        let mut command = world.command("/bin/sh");
        command.args(["-c", "ulimit -d 262144; exec \"$@\"", "sh"]);
        command.arg(common::kiln());
        command.words(arguments)
    };
    let length = 20 << 30;
    fs::create_dir(world.work().join("tree")).expect("made");
    let sparse = fs::File::create(world.work().join("tree/sparse")).expect("made");
    sparse.set_len(length).expect("its length");
    for at in [5 << 30, length - 3] {
        sparse.write_all_at(b"end", at).expect("written");
    }
    limited("pack tree -t squashfs -o packed").success();
    limited("cp packed.squashfs /sparse copy").success();
    let copy = fs::File::open(world.work().join("copy")).expect("copied");
    assert_eq!(copy.metadata().expect("there").len(), length);
    for (at, bytes) in [
        (5 << 30, b"end"),
        (length - 3, b"end"),
        (7 << 30, b"\0\0\0"),
    ] {
        let mut found = [1; 3];
        copy.read_exact_at(&mut found, at).expect("read");
        assert_eq!(&found, bytes, "{at}");
    }
    let archive = fs::File::create(world.work().join("holes.tar")).expect("made");
    let mut archive = tar::Builder::new(archive);
    let size = (1u64 << 62).to_string();
    let extensions: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"holes"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ];
    archive.append_pax_extensions(extensions).expect("written");
    let mut map = [0; 512];
    map[..2].copy_from_slice(b"0\n");
    let mut header = tar::Header::new_ustar();
    header.set_size(512);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "holes", &map[..])
        .and_then(|()| archive.finish())
        .expect("written");
    let outcome = limited("pack holes.tar -t squashfs -o packed --overwrite");
    assert_eq!(outcome.code(), 1);
    let said = "`/holes` cannot be archived: squashfs keeps a list of the blocks";
    assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("hint: "), "{}", outcome.stderr);
}
