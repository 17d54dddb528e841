//! What fails while an image is made: there is an error that says so, and what had
//! the image's name before has it still.
//!
//! The faults come from filters of system calls, which any user can load and which
//! fail at the same byte on every machine.

use std::fs;
use std::process::Command;

use nix::mount::MsFlags;

use crate::common::filter::{confine, failing_from, refusing};
use crate::common::host::Host;
use crate::common::image::{missing, run};
use crate::common::{Outcome, Run as _, World, kiln, tool};

/// Formats with the names of their files.
const FORMATS: [(&str, &str); 11] = [
    ("raw", "raw"),
    ("qcow2", "qcow2"),
    ("vmdk", "vmdk"),
    ("vhd", "vhd"),
    ("vhdx", "vhdx"),
    ("vdi", "vdi"),
    ("tar", "tar"),
    ("tgz", "tgz"),
    ("squashfs", "squash"),
    ("docker", "docker"),
    ("oci", "oci"),
];

/// A small file, and 2 MB that do not compress.
fn world() -> World {
    let world = World::new();
    world.write("tree/etc/hostname", "packed\n");
    let mut state = 7_u64;
    let noise: Vec<u8> = (0..2_000_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect();
    fs::write(world.work().join("tree/large"), noise).expect("written");
    world
}

/// Runs kiln with a filter.
fn filtered(world: &World, filter: Vec<libc::sock_filter>, line: &str) -> Outcome {
    let mut command = world.kiln();
    confine(&mut command, filter);
    command.words(line)
}

fn names(world: &World) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(world.work())
        .expect("readable")
        .map(|entry| entry.expect("an entry").file_name().into_string())
        .map(|name| name.expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// The outcome is this failure, and the old outputs are what they were.
#[track_caller]
fn assert_failed(world: &World, outcome: &Outcome, expected: &[&str], old: &[&str]) {
    assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
    for text in expected {
        assert!(outcome.stderr.contains(text), "{text}: {}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains("panic"), "{}", outcome.stderr);
    let mut left = old.to_vec();
    left.push("tree");
    left.sort_unstable();
    assert_eq!(names(world), left);
    for name in old {
        let text = fs::read_to_string(world.work().join(name)).expect("there");
        assert_eq!(text, "old", "{name}");
    }
}

#[test]
fn writing_that_fails_in_any_format_keeps_the_old_image() {
    let world = world();
    for (at, (format, suffix)) in FORMATS.into_iter().enumerate() {
        let (errno, expected) = [
            (
                libc::EDQUOT,
                [
                    "error: the disk quota leaves no space for output `",
                    "hint: see `quota -s`; remove files of yours there",
                ],
            ),
            (
                libc::ENOSPC,
                [
                    "error: no space left for output `",
                    "hint: free some space there, or choose another place",
                ],
            ),
            (
                libc::EIO,
                ["error: cannot write output `", "Input/output error"],
            ),
        ][at % 3];
        let old = format!("out.{suffix}");
        fs::write(world.work().join(&old), "old").expect("written");
        let outcome = filtered(
            &world,
            failing_from(libc::SYS_pwrite64, 256 << 10, errno),
            &format!("pack tree -o out -t {format} --owner 0:0"),
        );
        assert_failed(&world, &outcome, &expected, &[&old]);
        assert!(outcome.stderr.contains(&old), "{}", outcome.stderr);
        fs::remove_file(world.work().join(&old)).expect("removed");
    }
    under_a_quota_of_the_kernel();
}

/// Space that is taken beforehand is a help, and none for data that turns out to be zeros:
/// an image that fits is made. The kernel's own refusal is that of ext4; on other
/// filesystems nothing is taken.
#[test]
fn a_raw_image_needs_space_for_what_is_not_zeros_alone() {
    let world = world();
    fs::write(world.work().join("tree/zeros"), vec![0; 16 << 20]).expect("written");
    let line = "pack tree -o out -t raw --owner 0:0 --overwrite";
    world.kiln().words(line).success();
    let read = || fs::read(world.work().join("out.raw")).expect("there");
    let expected = read();
    for errno in [libc::ENOSPC, libc::EDQUOT] {
        let filter = refusing(&[libc::SYS_fallocate], errno);
        filtered(&world, filter, line).success();
        assert!(read() == expected);
        let path = world.work().join("out.raw");
        let about = fs::metadata(path).expect("there");
        let taken = std::os::unix::fs::MetadataExt::blocks(&about) * 512;
        assert!(taken < 8 << 20, "{taken}");
    }
}

/// A disk that fails only when what was written is sent to it is found out by `--fsync`,
/// and by nothing else.
#[test]
fn a_late_fault_of_the_disk_is_found_by_fsync() {
    let world = world();
    let late = || refusing(&[libc::SYS_fsync], libc::EIO);
    for (format, suffix) in FORMATS {
        let old = format!("out.{suffix}");
        fs::write(world.work().join(&old), "old").expect("written");
        let line = format!("pack tree -o out -t {format} --owner 0:0 --checksum --fsync");
        let outcome = filtered(&world, late(), &line);
        let expected = ["error: cannot write output `", &old, "Input/output error"];
        assert_failed(&world, &outcome, &expected, &[&old]);
        fs::remove_file(world.work().join(&old)).expect("removed");
    }
    filtered(&world, late(), "pack tree -o out -t raw --owner 0:0").success();
    fs::write(world.work().join("copy.qcow2"), "old").expect("written");
    let outcome = filtered(
        &world,
        late(),
        "convert out.raw copy.qcow2 --overwrite --fsync",
    );
    fs::remove_file(world.work().join("out.raw")).expect("removed");
    let expected = [
        "error: cannot write output `",
        "copy.qcow2",
        "Input/output error",
    ];
    assert_failed(&world, &outcome, &expected, &["copy.qcow2"]);
    // A disk that does what it is told.
    world
        .kiln()
        .words("pack tree -o out -t raw,tar --owner 0:0 --checksum --fsync")
        .success();
    assert!(world.work().join("out.raw.sha256").exists());
}

#[test]
fn one_output_of_several_that_fails_leaves_none() {
    let world = world();
    for name in ["out.raw", "out.qcow2"] {
        fs::write(world.work().join(name), "old").expect("written");
    }
    // The raw image is larger than all that compresses it.
    let outcome = filtered(
        &world,
        failing_from(libc::SYS_pwrite64, 2 << 20, libc::EDQUOT),
        "pack tree -o out -t tgz,raw,qcow2,tar --owner 0:0 --checksum",
    );
    let expected = ["error: the disk quota leaves no space for output `"];
    assert_failed(&world, &outcome, &expected, &["out.qcow2", "out.raw"]);
}

#[test]
fn what_does_not_fit_on_the_way_out_of_an_image_leaves_nothing() {
    let world = world();
    // Zeros that are there, and not a hole.
    fs::write(world.work().join("tree/zeros"), vec![0; 3 << 20]).expect("written");
    fs::create_dir(world.work().join("tree/some")).expect("made");
    world.write("tree/some/file", "text");
    world
        .kiln()
        .words("pack tree -o a -t raw --owner 0:0")
        .success();
    let line = "cp -r a.raw / out";
    // A disk that is full before it said so.
    let outcome = filtered(
        &world,
        failing_from(libc::SYS_pwrite64, 256 << 10, libc::ENOSPC),
        line,
    );
    let expected = [
        "a.raw: cannot write `out/large`: No space left on device (os error 28)",
        "hint: free some space there, or choose another place\n",
    ];
    assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
    for text in expected {
        assert!(outcome.stderr.contains(text), "{}", outcome.stderr);
    }
    assert_eq!(names(&world), ["a.raw", "tree"]);

    world.kiln().words(line).success();
    let blocks = |name: &str| {
        let path = world.work().join(name);
        std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).expect("there"))
    };
    let read = |name: &str| fs::read(world.work().join(name)).expect("there");
    for name in ["large", "zeros", "some/file"] {
        assert!(read(&format!("tree/{name}")) == read(&format!("out/{name}")));
    }
    assert_eq!(blocks("out/zeros"), 0);

    // A disk that is too small, and known to be. Only root makes one.
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    fs::create_dir(world.work().join("small")).expect("made");
    let small = world.work().join("small");
    let host = Host::new().memory(&small, MsFlags::empty(), "size=1m,mode=777");
    for (line, needed) in [
        ("cp -r a.raw / small/out", "4.9 MiB"),
        ("cp a.raw /large small", "1.9 MiB"),
    ] {
        let mut command = world.kiln();
        host.confine(&mut command);
        let outcome = command.words(line);
        let said = format!("it needs up to {needed}, and 1 MiB are free there");
        assert_eq!(outcome.code(), 1, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(&said), "{}", outcome.stderr);
    }
}

#[test]
fn a_source_that_cannot_be_read_is_named() {
    let world = world();
    for (format, suffix) in FORMATS {
        let old = format!("out.{suffix}");
        fs::write(world.work().join(&old), "old").expect("written");
        let outcome = filtered(
            &world,
            failing_from(libc::SYS_pread64, 1 << 20, libc::EIO),
            &format!("pack tree -o out -t {format} --owner 0:0"),
        );
        let expected = [
            "large`",
            "Input/output error",
            "hint: its device or filesystem fails: see the kernel's messages",
        ];
        assert_failed(&world, &outcome, &expected, &[&old]);
        let told = outcome.stderr.matches("large`").count();
        assert_eq!(told, 1, "{}", outcome.stderr);
        fs::remove_file(world.work().join(&old)).expect("removed");
    }
    for (call, expected) in [
        (libc::SYS_getdents64, "error: cannot list"),
        (libc::SYS_llistxattr, "extended attributes of"),
    ] {
        let outcome = filtered(
            &world,
            refusing(&[call], libc::EIO),
            "pack tree -o out -t raw,tar --owner 0:0",
        );
        assert_failed(&world, &outcome, &[expected, "Input/output error"], &[]);
    }
}

/// With a quota of the kernel's: a btrfs with a limit on all that is in it. Only root
/// can have one, and not on every kernel; then the filter alone proves it.
fn under_a_quota_of_the_kernel() {
    if let Some(name) = missing(&["mkfs.btrfs", "btrfs", "unshare"]) {
        return println!("no quota of the kernel's was tried: {name} is not installed");
    }
    let world = world();
    let image = world.tmp().join("quota");
    let file = fs::File::create(&image).expect("created");
    file.set_len(256 << 20).expect("sized");
    run(&world, "mkfs.btrfs", &format!("-q {}", image.display())).success();
    let mounted = world.tmp().join("mounted");
    fs::create_dir(&mounted).expect("made");
    // A mount namespace of its own, so that nothing is left mounted.
    let script = "PATH=$PATH:/usr/sbin:/sbin; mount -o loop \"$1\" \"$2\" || exit 99
        { btrfs quota enable \"$2\" && btrfs subvolume create \"$2/own\" &&
          btrfs qgroup limit 1M \"$2/own\"; } >&2 || exit 99
        echo old >\"$2/own/out.raw\"
        \"$3\" pack tree -o \"$2/own/out\" -t raw,qcow2 --owner 0:0; status=$?
        echo \"left: $(ls -A \"$2/own\") $(cat \"$2/own/out.raw\")\"; exit $status";
    let mut command: Command = world.command(tool("unshare").expect("it was found"));
    let outcome = command
        .args(["-m", "sh", "-c", script, "sh"])
        .args([&image, &mounted])
        .arg(kiln())
        .run();
    if matches!(outcome.code(), 1 | 99) && outcome.stdout.is_empty() {
        return println!("no quota of the kernel's was tried: {}", outcome.stderr);
    }
    assert_eq!(outcome.code(), 1, "{}{}", outcome.stdout, outcome.stderr);
    let expected = "error: the disk quota leaves no space for output `";
    assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    assert_eq!(outcome.stdout, "left: out.raw old\n");
}
