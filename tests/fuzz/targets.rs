//! What is fuzzed: each function takes any bytes, and only has to return.
//!
//! Included by `fuzz_targets/*.rs`, which search for inputs, and by `tests/fuzz.rs`,
//! which runs a small corpus so that all of this keeps compiling.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use kiln::disk::config::{Config, RootParameters};
use kiln::element::Library;
use kiln::helpers::pkg_map::PackageMap;
use kiln::helpers::squash::{Merged, SourceFile};
use kiln::inspect::fs::{FileId, FileKind, FileSystem};
use kiln::inspect::{Contents, os_release};
use kiln::rootfs::apt::{self, Deb, Keyring, Release, Universe, Version};

/// A target.
pub type Target = fn(&[u8]);

/// All of them, by their names.
pub const TARGETS: [(&str, Target); 13] = [
    ("in_release", in_release),
    ("release", release),
    ("keyring", keyring),
    ("control", control),
    ("packages", packages),
    ("relation", relation),
    ("version", version),
    ("deb", deb),
    ("block_device", block_device),
    ("element_metadata", element_metadata),
    ("package_installs", package_installs),
    ("pkg_map", pkg_map),
    ("disk_files", disk_files),
];

/// A signed index of an archive.
pub fn in_release(bytes: &[u8]) {
    let now = UNIX_EPOCH + Duration::from_secs(1_772_366_400);
    let keyring = Keyring::debian().expect("the embedded keyring is valid");
    if let Ok(verified) = keyring.verify(bytes, now) {
        let _ = Release::parse(&verified.text);
    }
}

/// The text that was signed.
pub fn release(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(release) = Release::parse(&text) {
        let now = UNIX_EPOCH + Duration::from_secs(1_772_366_400);
        let _ = release.check("stable", now);
    }
}

/// Keys that a user adds.
pub fn keyring(bytes: &[u8]) {
    if let Ok(keyring) = Keyring::parse("fuzz", bytes) {
        let _ = keyring.fingerprints();
    }
}

/// Paragraphs of fields.
pub fn control(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for paragraph in apt::paragraphs(&text).map_while(Result::ok) {
        for (name, _) in paragraph.fields() {
            let _ = paragraph.lines(name).count();
        }
    }
}

/// An index of packages.
pub fn packages(bytes: &[u8]) {
    let mut universe = Universe::default();
    let text = String::from_utf8_lossy(bytes);
    if universe.add(&text, "amd64", 0).is_ok() {
        universe.seal();
        for package in universe.packages() {
            let _ = package.cache_name();
        }
    }
}

/// Relations between packages.
pub fn relation(bytes: &[u8]) {
    if let Ok(clauses) = apt::parse_clauses(&String::from_utf8_lossy(bytes)) {
        let version = Version::parse("1.0-1").expect("it is valid");
        for relation in clauses.iter().flatten() {
            let _ = relation.accepts(&version);
        }
    }
}

/// Two versions, a line each; their order is one.
pub fn version(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut versions = text.lines().filter_map(|line| Version::parse(line).ok());
    if let (Some(a), Some(b)) = (versions.next(), versions.next()) {
        assert_eq!(a.cmp(&b), b.cmp(&a).reverse(), "{a} and {b}");
        assert_eq!(a.cmp(&a), std::cmp::Ordering::Equal, "{a}");
    }
}

/// A package: ar, then compressed tar archives.
pub fn deb(bytes: &[u8]) {
    with_file("package.deb", bytes, |path| {
        if let Ok(deb) = Deb::open(path) {
            let _ = deb.control();
            if let Ok(data) = deb.data() {
                // Bounded here; the unpacker has limits of its own.
                let mut data = std::io::Read::take(data, 16 << 20);
                let _ = std::io::copy(&mut data, &mut std::io::sink());
            }
        }
    });
}

/// A layout of disks.
pub fn block_device(bytes: &[u8]) {
    let root = RootParameters {
        fstype: "ext4".to_owned(),
        opts: None,
        label: None,
    };
    if let Ok(config) = Config::parse(&String::from_utf8_lossy(bytes), &root) {
        let _ = (
            config.root_label().is_ok(),
            config.mount_points(),
            config.fstab(),
        );
    }
}

/// `element.yaml`.
pub fn element_metadata(bytes: &[u8]) {
    with_file("library/fuzz/element.yaml", bytes, |path| {
        let directory = path
            .ancestors()
            .nth(2)
            .expect("it was made three deep")
            .to_owned();
        if let Ok(library) = Library::with_directories(&[directory])
            && let Some(element) = library.get("fuzz")
        {
            let _ = element.metadata();
        }
    });
}

/// `package-installs.yaml` and `.json`.
pub fn package_installs(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    for location in ["fuzz/package-installs.yaml", "fuzz/package-installs.json"] {
        let file = SourceFile {
            location: location.to_owned(),
            text: text.clone(),
        };
        let mut merged = Merged::default();
        if merged.add("fuzz", &file, &Default::default()).is_ok() {
            let _ = merged.to_json();
        }
    }
}

/// A map of package names.
pub fn pkg_map(bytes: &[u8]) {
    with_file("pkg-map", bytes, |path| {
        if let Ok(map) = PackageMap::read(path) {
            let _ = map.get("python3", "debian", "trixie");
        }
    });
}

/// A disk: its partitions, and all files of all filesystems in them.
pub fn disk_files(bytes: &[u8]) {
    let disk = bytes.to_vec();
    let Ok(contents) = Contents::read(&disk) else {
        return;
    };
    let _ = contents.root();
    for part in &contents.parts {
        if let Ok(files) = contents.open(part) {
            let _ = (os_release(&files), files.lookup(b"/dir/link", true).is_ok());
            walk(&files, files.root(), 8);
        }
    }
}

/// Reads what is in a directory, some levels down.
fn walk(files: &FileSystem<'_>, directory: FileId, depth: usize) {
    let Ok(entries) = files.entries(directory) else {
        return;
    };
    // Few enough that directories within themselves come to an end soon.
    for entry in entries.iter().take(16) {
        let _ = files.xattrs(entry.file);
        match files.metadata(entry.file).map(|metadata| metadata.kind) {
            Ok(FileKind::Directory) if depth > 0 && entries.len() < 16 => {
                walk(files, entry.file, depth / 2);
            }
            Ok(FileKind::Symlink) => drop(files.link_target(entry.file)),
            Ok(FileKind::File) => drop(files.read(entry.file, 1 << 20)),
            _ => {}
        }
    }
}

/// For what is read by its path: a file in a directory of its own.
fn with_file(name: &str, bytes: &[u8], read: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join(OsString::from(name));
    std::fs::create_dir_all(path.parent().expect("it is in a directory"))
        .and_then(|()| std::fs::write(&path, bytes))
        .expect("a file can be written");
    read(&path);
}
