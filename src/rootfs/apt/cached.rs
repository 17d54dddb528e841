//! Finished roots in the image cache, ready to be the lowest layer of a target.
//!
//! ```text
//! DIB_IMAGE_CACHE/kiln/roots/
//!   <key>/          a finished root; never changed again
//!   <key>.owners    its set-id bits and capabilities, and its owners where only one id is
//!                   mapped ([`owners`])
//!   <key>.seal      which directory was finished, and in which boot if it may not be on the
//!                   disk yet: a copy of it is not used, nor what a crash may have emptied
//!   .new-<key>/     being made by whoever holds <key>.lock
//!   <key>.lock
//! ```
//!
//! A cache may be packed and unpacked somewhere else, as CI systems do between jobs. Files
//! that are downloads are verified when they are used; a root cannot be, and has lost
//! owners if whoever unpacked it was not its root.
//!
//! No file of a kept root has set-id bits or capabilities, which are listed beside it: on the
//! host it would run as whoever built it. So a root is made in the directory of the build, where
//! scripts of packages may set them, and copied.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::error::Error;
use super::index::Package;
use crate::fetch::{Cache, Digest, Lock};
use crate::rootfs::{copy, owners};
use crate::sandbox::identity::{self, Ownership, devices_are_refused, owners_are_recorded};

/// Grows whenever the same packages give another tree.
const FORMAT: u32 = 2;

/// What decides the content of a root.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The architecture.
    pub arch: &'a str,
    /// The packages, in order.
    pub packages: &'a [&'a Package],
    /// Fingerprints of the keys that were trusted.
    pub keys: &'a [String],
    /// `SOURCE_DATE_EPOCH`, which scripts may use.
    pub epoch: Option<&'a str>,
    /// `/proc/self/uid_map` and `gid_map`: owners on disk depend on them.
    pub id_maps: &'a str,
}

impl Identity<'_> {
    /// Computes the key.
    pub fn key(&self) -> Digest {
        let mut text = format!("kiln apt root {FORMAT}\narch {}\n", self.arch);
        for package in self.packages {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "package {}={} {} {}",
                package.name, package.version, package.arch, package.sha256
            );
        }
        for key in self.keys {
            let _ = writeln!(text, "key {key}");
        }
        let _ = writeln!(text, "epoch {}", self.epoch.unwrap_or("-"));
        for line in self.id_maps.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let _ = writeln!(text, "map {}", words.join(" "));
        }
        Digest::of(text.as_bytes())
    }
}

/// Returns the id maps of this process, as the kernel shows them.
pub fn id_maps() -> Result<String, Error> {
    let mut maps = String::new();
    for name in ["/proc/self/uid_map", "/proc/self/gid_map"] {
        let text = fs_err::read_to_string(name).map_err(|source| Error::File {
            action: "read",
            path: name.into(),
            source,
        })?;
        maps.push_str(&text);
    }
    if owners_are_recorded() {
        // The same ids may be on disk elsewhere.
        maps.push_str("recorded\n");
    }
    Ok(maps)
}

/// Whether roots can be kept in a cache: their files have many owners, which not every
/// filesystem takes from every user, as NFS.
pub fn can_keep(cache: &Cache) -> bool {
    let roots = cache.root().join("roots");
    // Where nothing can be made, whoever makes a root says so.
    fs_err::create_dir_all(&roots).is_err() || identity::ownership(&roots) == Ownership::Anybody
}

/// Gives the root of a key, letting `make` fill an empty directory if there is none yet: one
/// of this name, if it is not to be made in the cache.
///
/// Returns where it is, and whether it was there already.
pub fn root(
    cache: &Cache,
    key: Digest,
    aside: Option<&Path>,
    make: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(PathBuf, bool), Error> {
    let roots = cache.root().join("roots");
    let path = roots.join(key.to_string());
    let _lock = Lock::acquire(&roots.join(format!("{key}.lock")))?;
    if path.is_dir() {
        if is_sealed(&path)? {
            return Ok((path, true));
        }
        remove(&path)?;
    }
    sweep(&roots)?;
    let new = roots.join(format!(".new-{key}"));
    let first = aside.unwrap_or(&new);
    let fail = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File {
            action,
            path,
            source,
        }
    };
    for directory in [Some(&*new), aside].into_iter().flatten() {
        remove(directory)?;
        fs_err::create_dir(directory).map_err(fail("create", directory))?;
    }
    let finish = || {
        save_owners(first, &path, aside.is_some())?;
        if let Some(aside) = aside {
            copy::copy_tree_without_privileges(aside, &new).map_err(|error| {
                let to = new.join(error.path);
                fail("copy the root to", &to)(error.source)
            })?;
        }
        let to = seal_of(&path);
        fs_err::write(&to, seal(&new)? + &this_boot()).map_err(fail("write", &to))
    };
    let finished = make(first).and_then(|()| finish());
    if let Some(aside) = aside {
        let _ = remove(aside);
    }
    match finished {
        Ok(()) => {
            fs_err::rename(&new, &path).map_err(fail("rename", &new))?;
            Ok((path, false))
        }
        Err(error) => {
            // The error that stopped us matters more than one from cleaning up.
            let _ = remove(&new);
            Err(error)
        }
    }
}

/// Where the owners of a root are listed, if they are not its files' own.
pub fn owners_of(root: &Path) -> PathBuf {
    root.with_extension("owners")
}

fn seal_of(root: &Path) -> PathBuf {
    root.with_extension("seal")
}

/// What a copy of a directory does not share with it, and a renamed one does.
fn seal(root: &Path) -> Result<String, Error> {
    let found = fs_err::metadata(root).map_err(|source| Error::File {
        action: "examine",
        path: root.to_owned(),
        source,
    })?;
    // Not every filesystem has it.
    let born = found.created().ok();
    let born = born.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok(format!(
        "inode {} born {}\n",
        found.ino(),
        born.unwrap_or_default().as_nanos()
    ))
}

/// What a seal says of this boot of the machine (`random(4)`).
fn this_boot() -> String {
    let id = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("boot {}\n", id.trim())
}

/// Whether a directory is the one that was finished, and whole. To wait for the disk when it is
/// made would cost the first build seconds; when it is used again, most is there already.
fn is_sealed(root: &Path) -> Result<bool, Error> {
    let to = seal_of(root);
    let sealed = fs_err::read_to_string(&to).unwrap_or_default();
    let own = seal(root)?;
    let Some(boot) = sealed.strip_prefix(&own) else {
        return Ok(false);
    };
    if boot == this_boot() {
        let synced =
            fs_err::File::open(root).is_ok_and(|directory| nix::unistd::syncfs(directory).is_ok());
        if synced {
            // Otherwise it is known the next time.
            let _ = fs_err::write(&to, &own);
        }
        return Ok(true);
    }
    Ok(boot.is_empty())
}

fn save_owners(new: &Path, root: &Path, is_aside: bool) -> Result<(), Error> {
    let owned = owners_are_recorded();
    if !is_aside && !owned && !devices_are_refused(new) {
        return Ok(());
    }
    let list = owners_of(root);
    owners::save(new, &list, owned).map_err(|source| Error::File {
        action: "write",
        path: list,
        source,
    })
}

/// Removes unfinished roots that nobody is working on any more.
fn sweep(roots: &Path) -> Result<(), Error> {
    let Ok(entries) = fs_err::read_dir(roots) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(key) = name.to_str().and_then(|name| name.strip_prefix(".new-")) else {
            continue;
        };
        // Where nothing can be mounted, the root's own `/dev` waits beside it.
        let key = key.strip_suffix(".dev").unwrap_or(key);
        if let Some(_lock) = Lock::try_acquire(&roots.join(format!("{key}.lock")))? {
            // A root of other ids may not be ours to remove; it harms nobody.
            let _ = remove(&entry.path());
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs_err::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::File {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_made_once_and_leftovers_are_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Cache::new(dir.path());
        let roots = cache.root().join("roots");
        fs_err::create_dir_all(roots.join(".new-dead/usr")).expect("made");
        let key = Digest::of(b"x");
        let make = |path: &Path| {
            fs_err::write(path.join("file"), "1").expect("written");
            Ok(())
        };
        let (path, cached) = root(&cache, key, None, make).expect("made");
        assert!(!cached && path.join("file").exists());
        assert!(!roots.join(".new-dead").exists());
        let (again, cached) = root(&cache, key, None, |_| unreachable!("cached")).expect("found");
        assert!(cached && again == path);
    }

    #[test]
    fn a_root_that_was_copied_is_made_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Cache::new(dir.path());
        let key = Digest::of(b"x");
        let (path, _) = root(&cache, key, None, |_| Ok(())).expect("made");
        let aside = path.with_extension("aside");
        fs_err::rename(&path, &aside).expect("renamed");
        fs_err::create_dir(&path).expect("made");
        fs_err::write(path.join("file"), "without its owner").expect("written");
        let (path, cached) = root(&cache, key, None, |_| Ok(())).expect("made");
        assert!(!cached && !path.join("file").exists());
        // One that was only moved away and back is the same.
        fs_err::rename(&path, path.with_extension("moved")).expect("renamed");
        fs_err::rename(path.with_extension("moved"), &path).expect("renamed");
        let (_, cached) = root(&cache, key, None, |_| unreachable!("cached")).expect("found");
        assert!(cached);
    }

    #[test]
    fn a_root_that_may_not_have_come_to_the_disk_is_made_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Cache::new(dir.path());
        let key = Digest::of(b"x");
        let (path, _) = root(&cache, key, None, |_| Ok(())).expect("made");
        let before = fs_err::read_to_string(seal_of(&path)).expect("read");
        assert!(before.ends_with(&this_boot()), "{before}");
        let another = before.replace(&this_boot(), "boot another\n");
        fs_err::write(seal_of(&path), &another).expect("written");
        let (_, cached) = root(&cache, key, None, |_| Ok(())).expect("made");
        assert!(!cached);
        // One that was used again in the boot that made it is on the disk.
        let (_, cached) = root(&cache, key, None, |_| unreachable!("cached")).expect("found");
        assert!(cached);
        let after = fs_err::read_to_string(seal_of(&path)).expect("read");
        assert_eq!(after, seal(&path).expect("there"));
        let (_, cached) = root(&cache, key, None, |_| unreachable!("cached")).expect("found");
        assert!(cached);
    }

    #[test]
    fn a_failed_root_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = Cache::new(dir.path());
        let key = Digest::of(b"x");
        let error = root(&cache, key, None, |_| {
            Err(Error::Unconfigured {
                packages: vec!["a".into()],
            })
        });
        assert!(error.is_err());
        let left: Vec<_> = fs_err::read_dir(cache.root().join("roots"))
            .expect("there")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(left, [std::ffi::OsString::from(format!("{key}.lock"))]);
    }

    #[test]
    fn the_key_depends_on_the_id_maps() {
        let identity = |id_maps| Identity {
            arch: "amd64",
            packages: &[],
            keys: &[],
            epoch: None,
            id_maps,
        };
        assert_eq!(identity("  0 0 1\n").key(), identity("0    0 1").key());
        assert_ne!(identity("0 0 1").key(), identity("0 1000 1").key());
    }
}
