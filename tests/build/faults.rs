//! Disks that fail or are full during a build: there is an error that says so, and what
//! had the image's name before has it still.

use std::fs;

use nix::mount::MsFlags;

use crate::common::filter::{confine, failing_from, refusing};
use crate::common::host::Host;
use crate::common::toy::{Built, Toy};
use crate::skip;

/// A toy whose root has 2 MB that do not compress.
fn toy() -> Toy {
    let toy = Toy::basic();
    let noise = "head -c 2000000 /dev/urandom >\"$TARGET_ROOT/large\"";
    toy.hook("root", "90-noise", noise);
    toy
}

/// Builds with a filter, and with an older image there.
fn build(toy: &Toy, arguments: &str, filter: Vec<libc::sock_filter>) -> Built {
    let mut command = toy.command(&format!("{arguments} --overwrite --json"));
    confine(&mut command, filter);
    Built::run(&mut command)
}

/// The build failed with a message that has these texts; returns its hints.
#[track_caller]
fn assert_failed(toy: &Toy, built: &Built, expected: &[&str], old: &str) -> String {
    let (message, hints, status) = built.failure();
    assert_eq!(status, 1, "{message}");
    for text in expected {
        assert!(message.contains(text), "{text}: {message}");
    }
    assert_eq!(toy.outputs(), [format!("toy.{old}")]);
    let text = fs::read_to_string(toy.output(old)).expect("the older image is there");
    assert_eq!(text, "old");
    toy.assert_swept();
    hints.join("\n")
}

#[test]
fn writing_that_fails_keeps_the_old_image() {
    let toy = toy();
    for (errno, suffix, expected, hint) in [
        (
            libc::EDQUOT,
            "raw",
            "the disk quota leaves no space for output `",
            "quota -s",
        ),
        (
            libc::ENOSPC,
            "qcow2",
            "no space left for output `",
            "free some space there",
        ),
        (libc::EIO, "tar", "cannot write output `", ""),
        (libc::ENOSPC, "tgz", "no space left for output `", "free"),
        (libc::EDQUOT, "squash", "the disk quota leaves no", "quota"),
    ] {
        let format = if suffix == "squash" {
            "squashfs"
        } else {
            suffix
        };
        fs::write(toy.output(suffix), "old").expect("an older image can be written");
        let fault = failing_from(libc::SYS_pwrite64, 256 << 10, errno);
        let built = build(&toy, &format!("-t {format}"), fault);
        let name = format!("toy.{suffix}");
        let hints = assert_failed(&toy, &built, &[expected, &name], suffix);
        assert!(hints.contains(hint), "{hints}");
        fs::remove_file(toy.output(suffix)).expect("it can be removed");
    }
}

#[test]
fn a_file_of_the_target_that_cannot_be_read_is_named() {
    let toy = toy();
    for suffix in ["raw", "tar"] {
        fs::write(toy.output(suffix), "old").expect("an older image can be written");
        let fault = failing_from(libc::SYS_pread64, 1 << 20, libc::EIO);
        let built = build(&toy, &format!("-t {suffix}"), fault);
        let hints = assert_failed(&toy, &built, &["large`", "Input/output error"], suffix);
        assert!(hints.contains("its device or filesystem fails"), "{hints}");
        fs::remove_file(toy.output(suffix)).expect("it can be removed");
    }
}

#[test]
fn a_late_fault_of_the_disk_is_found_by_fsync() {
    let toy = Toy::basic();
    let late = || refusing(&[libc::SYS_fsync], libc::EIO);
    fs::write(toy.output("raw"), "old").expect("an older image can be written");
    let built = build(&toy, "-t raw,tar --fsync --checksum", late());
    let expected = ["cannot write output `", "toy.raw", "Input/output error"];
    assert_failed(&toy, &built, &expected, "raw");
    build(&toy, "-t raw,tar", late()).success();
    toy.build("-t raw --overwrite --fsync").success();
}

/// A real disk without the space that the image takes.
#[test]
fn a_disk_that_is_too_small_is_told_with_its_place() {
    if !nix::unistd::geteuid().is_root() {
        skip!("only root mounts a small filesystem");
    }
    let toy = toy();
    let small = toy.world.work().join("small");
    fs::create_dir(&small).expect("a directory can be made");
    let host = Host::new().memory(&small, MsFlags::empty(), "size=1m,mode=777");
    for format in ["raw", "qcow2", "tar", "tgz"] {
        let built = host.build(&toy, &format!("-o small/toy -t {format}"));
        let (message, hints, status) = built.failure();
        assert_eq!(status, 1, "{message}");
        let place = format!("small/toy.{format}");
        assert!(message.contains(&place), "{message}");
        let told = message.contains("no space left") || message.contains("1 MiB are free");
        assert!(told, "{message}");
        assert!(hints.join(" ").contains("free some space"), "{hints:?}");
        toy.assert_swept();
    }
}
