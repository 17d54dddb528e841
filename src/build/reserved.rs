//! What root may read of the host and nobody else: homes of others, keys and data of services.
//!
//! A normal user's hooks cannot read it either, so elements do not expect it. Where root
//! builds the kernel asks nobody, and only a cover is between them and all secrets of the host.

use std::fs::{DirEntry, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::sandbox::hide::first_of_each;
use crate::sandbox::silent::is_silent;

/// Directories of the host's root that are searched, and how deep.
const PLACES: [(&str, usize); 9] = [
    ("etc", 8),
    ("home", 2),
    ("opt", 4),
    ("run", 3),
    ("srv", 3),
    ("tmp", 1),
    ("usr/local", 6),
    ("var", 6),
    ("var/tmp", 1),
];

/// How deep others are.
const DEPTH: usize = 2;

/// What is large and everybody's, or not files at all.
const PUBLIC: [&str; 13] = [
    "bin",
    "dev",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "nix",
    "proc",
    "sbin",
    "snap",
    "sys",
    "usr",
    "var/lib/dpkg/info",
];

/// Where root keeps files of its own that it may want to give to a build.
const SHARED: [&str; 2] = ["tmp", "var/tmp"];

/// So many files of a directory are not a few.
const FEW: usize = 256;

/// More than this many paths are not covered one by one.
const MOST: usize = 4096;

/// Paths below `root` that others than root can neither read nor enter. What is below `kept`
/// was given to the build, or is for somebody else to judge.
pub fn to_root(root: &Path, kept: &[PathBuf]) -> Vec<PathBuf> {
    let mut search = Search {
        root,
        kept,
        found: Vec::new(),
    };
    search.directory(root, 1);
    for (name, depth) in PLACES {
        let directory = root.join(name);
        if !is_silent(&directory) {
            search.directory(&directory, depth);
        }
    }
    for entry in entries(root) {
        let path = entry.path();
        if !search.is_place(&path)
            && !is_silent(&path)
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            search.directory(&path, DEPTH);
        }
    }
    let found = search.found;
    if found.len() > MOST {
        tracing::warn!(
            "this host has {} paths that only root may read, of which {MOST} are covered",
            found.len()
        );
    }
    first_of_each(found, MOST)
}

/// The directory that a path is replaced in by its service, which writes a new file and gives
/// it the old name. `None` where that is not usual, or there is more than a few files in it.
pub fn where_replaced(path: &Path) -> Option<PathBuf> {
    let is_file =
        !is_silent(path) && std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let parent = path.parent().filter(|_| is_file)?;
    (entries(parent).take(FEW).count() < FEW).then(|| parent.to_owned())
}

fn entries(directory: &Path) -> impl Iterator<Item = DirEntry> {
    let read = std::fs::read_dir(directory);
    read.into_iter().flatten().flatten()
}

struct Search<'a> {
    root: &'a Path,
    kept: &'a [PathBuf],
    /// With their owners.
    found: Vec<(u32, PathBuf)>,
}

impl Search<'_> {
    fn directory(&mut self, directory: &Path, depth: usize) {
        let is_shared = SHARED.iter().any(|name| self.root.join(name) == directory);
        for entry in entries(directory) {
            let path = entry.path();
            if is_silent(&path) {
                continue;
            }
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let is_own = is_shared && metadata.uid() == 0;
            if is_own || self.kept.iter().any(|kept| path.starts_with(kept)) {
                continue;
            }
            if is_reserved(&metadata) {
                self.found.push((metadata.uid(), path));
            } else if depth > 1 && metadata.is_dir() && !self.is_place(&path) {
                self.directory(&path, depth - 1);
            }
        }
    }

    /// Whether a directory is searched as deep as it says itself, or not at all.
    fn is_place(&self, path: &Path) -> bool {
        let mut names = PLACES.iter().map(|(name, _)| name).chain(&PUBLIC);
        names.any(|name| self.root.join(name) == path)
    }
}

/// Whether others cannot read a file, or enter a directory. Sockets and the like are not
/// covered for their modes.
fn is_reserved(metadata: &Metadata) -> bool {
    let needed = if metadata.is_dir() {
        0o001
    } else if metadata.is_file() {
        0o004
    } else {
        return false;
    };
    metadata.mode() & needed == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn what_others_cannot_read_is_found_but_for_what_was_given() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path();
        let make = |name: &str, mode: u32| {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            if name.ends_with('/') {
                std::fs::create_dir(&path).expect("made");
            } else {
                std::fs::write(&path, "").expect("written");
            }
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).expect("changed");
        };
        for (name, mode) in [
            ("etc/ssl/private/", 0o700),
            ("etc/ssl/private/key", 0o600),
            ("etc/passwd", 0o644),
            ("etc/shadow", 0o640),
            ("home/alice/", 0o700),
            ("home/alice/project/", 0o755),
            ("home/bob/", 0o755),
            ("home/bob/notes", 0o600),
            ("home/bob/open/", 0o711),
            ("root/", 0o700),
            ("data/", 0o755),
            ("data/secret", 0o600),
            ("data/deep/secret", 0o600),
            ("data/deep/deeper/secret", 0o600),
            ("usr/bin/odd", 0o700),
            ("usr/local/etc/secret", 0o600),
            ("srv/build/", 0o755),
            ("srv/build/input", 0o600),
            ("var/lib/cloud/instances/i/user-data", 0o600),
            ("var/lib/dpkg/info/odd", 0o600),
        ] {
            make(name, mode);
        }
        symlink("missing", root.join("etc/link")).expect("made");
        let kept = ["srv/build", "home/alice/project"].map(|name| root.join(name));
        let mut found = to_root(root, &kept);
        found.sort();
        let expected = [
            "data/deep/secret",
            "data/secret",
            "etc/shadow",
            "etc/ssl/private",
            "home/alice",
            "home/bob/notes",
            "root",
            "usr/local/etc/secret",
            "var/lib/cloud/instances/i/user-data",
        ];
        assert_eq!(found, expected.map(|name| root.join(name)));
    }

    #[test]
    fn files_of_roots_own_in_shared_directories_are_no_secrets() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path();
        let file = root.join("tmp/input");
        std::fs::create_dir(root.join("tmp")).expect("made");
        std::fs::write(&file, "").expect("written");
        let closed = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&file, closed).expect("changed");
        let is_root = nix::unistd::geteuid().is_root();
        let expected: &[PathBuf] = if is_root { &[] } else { &[file] };
        assert_eq!(to_root(root, &[]), expected);
    }
}
