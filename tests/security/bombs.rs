//! Packages, indices and notes of hooks whose contents grow without bounds.

use std::fs;

use crate::archive::{deb, gzip, header, paragraph, serve_to};
use crate::common::toy::Toy;

/// A package whose only file has so many bytes, all zero.
fn package(control: &str, zeroes: usize) -> Vec<u8> {
    let data = gzip(&header("./bomb", zeroes as u64), zeroes + (1 << 20));
    deb(control, data)
}

/// Builds from an archive that is signed as it should be; what kiln said.
#[track_caller]
fn refused(index: &[u8], packed: Vec<u8>, deb: Vec<u8>) -> String {
    let toy = Toy::empty();
    serve_to(&toy, index, packed, deb);
    let cache = toy.world.home().join("image-cache");
    let built = toy.build(&format!("-t tar --image-cache '{}'", cache.display()));
    let (message, _, _) = built.failure();
    assert!(message.contains("root.d/10-bootstrap"), "{message}");
    assert_eq!(toy.outputs(), ["keyring.asc"]);
    let mut kept = vec![cache];
    while let Some(directory) = kept.pop() {
        for entry in fs::read_dir(directory).expect("readable") {
            let entry = entry.expect("readable");
            let meta = entry.metadata().expect("it is there");
            if meta.is_dir() {
                kept.push(entry.path());
            } else {
                let path = entry.path();
                assert!(meta.len() < 32 << 20, "{} is kept", path.display());
                assert_ne!(entry.file_name(), "bomb", "{} is kept", path.display());
            }
        }
    }
    toy.assert_swept();
    let said = built.lines().join("\n");
    assert!(said.contains("error: "), "{message}\n{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// Every root gets apt.
const CONTROL: &str = "Package: apt\nVersion: 1\nArchitecture: amd64\nEssential: yes\n\
    Installed-Size: 8\nMaintainer: Nobody <nobody@example.org>\nDescription: none\n";

#[test]
fn a_package_that_unpacks_to_far_more_than_it_declares_is_refused() {
    let deb = package(CONTROL, 300 << 20);
    assert!(deb.len() < 8 << 20);
    let index = paragraph(CONTROL, &deb);
    let said = refused(index.as_bytes(), gzip(index.as_bytes(), 0), deb);
    assert!(
        said.contains("apt") && said.contains("far beyond its declared size"),
        "{said}"
    );
}

#[test]
fn an_index_that_unpacks_to_more_than_the_release_says_is_refused() {
    let deb = package(CONTROL, 0);
    let index = paragraph(CONTROL, &deb);
    let said = refused(index.as_bytes(), gzip(index.as_bytes(), 300 << 20), deb);
    assert!(
        said.contains("Packages.gz") && said.contains("Release"),
        "{said}"
    );
}

#[test]
fn boot_code_that_a_hook_notes_many_times_is_read_once() {
    let toy = Toy::basic();
    // No limit of a hook's time holds any more when kiln reads them.
    toy.hook(
        "finalise",
        "50-note",
        "truncate -s 60M /core\ntruncate -s 512 /boot.img\n\
         for n in {1..10000}; do\n\
            echo '{\"target\":\"i386-pc\",\"core\":\"/core\",\"boot_image\":\"/boot.img\"}'\n\
         done >\"$KILN_RECORD/grub-install.jsonl\"",
    );
    let built = toy.build("-t raw --build-timeout 60s");
    let (message, _, status) = built.failure();
    assert_ne!(status, 124, "{message}");
    assert!(
        message.contains("no room for grub's core image"),
        "{message}"
    );
}
