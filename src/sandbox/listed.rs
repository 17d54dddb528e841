//! Directories with secrets that may be replaced while a build runs.
//!
//! A cover is on a file and not on a name. Most programs write a new file and give it the name
//! of the old one, as `git` does with what it stores of passwords, and `passwd` with
//! `/etc/shadow`: the kernel then takes away what was mounted on the old one, in all mount
//! namespaces, and the new one is there for all to see. So hooks get such a directory as it was
//! when the build began: a directory in memory on which its entries are mounted one by one.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::hide::in_memory;
use super::mounts::{self, unless_gone};

/// A directory with more entries stays as it is.
const MOST: usize = 1 << 14;

/// What a directory is made to show.
struct Entries {
    /// Those that are mounted.
    names: Vec<OsString>,
    /// The directory on which they will be.
    listed: PathBuf,
}

/// Makes a directory show what is in it now and not hidden, or hidden by a cover that is on it
/// already; false if it has too many entries. One that has gone meanwhile shows nothing.
/// `scratch` is an empty directory that nobody else uses.
pub(super) fn keep(directory: &Path, hidden: &HashSet<&OsStr>, scratch: &Path) -> io::Result<bool> {
    let Some(original) = unless_gone(mounts::clone_mount(directory, true))? else {
        return Ok(true);
    };
    in_memory(scratch, || keep_from(&original, directory, hidden, scratch))?
}

fn keep_from(
    original: &OwnedFd,
    directory: &Path,
    hidden: &HashSet<&OsStr>,
    scratch: &Path,
) -> io::Result<bool> {
    let there = scratch.join("there");
    std::fs::create_dir(&there)?;
    // The kernel mounts no directory that is removed.
    if !mounts::attach_unless_gone(original, &there)? {
        return Ok(true);
    }
    // One that we may not look into stays as it is.
    if std::fs::read_dir(&there).is_err() || nix::unistd::chdir(&there).is_err() {
        return Ok(true);
    }
    let Some(entries) = list(&there, hidden, scratch)? else {
        return Ok(false);
    };
    let listed = mounts::clone_mount(&entries.listed, false)?;
    mounts::attach_unless_gone(&listed, directory)?;
    for name in entries.names {
        let entry = unless_gone(mounts::clone_mount(&Path::new(".").join(&name), true))?;
        if let Some(entry) = entry {
            mounts::attach_unless_gone(&entry, &directory.join(name))?;
        }
    }
    Ok(true)
}

/// Makes a directory with the links of another, and with mount points for the rest.
fn list(there: &Path, hidden: &HashSet<&OsStr>, scratch: &Path) -> io::Result<Option<Entries>> {
    let own = std::fs::metadata(there)?;
    let Ok(found) = std::fs::read_dir(there) else {
        return Ok(None);
    };
    let listed = scratch.join("listed");
    std::fs::create_dir(&listed)?;
    let mut names = Vec::new();
    for entry in found {
        let Ok(entry) = entry else { return Ok(None) };
        let (name, path) = (entry.file_name(), entry.path());
        let Ok(meta) = entry.metadata() else { continue };
        let point = listed.join(&name);
        if meta.is_symlink() {
            if let Ok(text) = std::fs::read_link(&path) {
                std::os::unix::fs::symlink(text, point)?;
            }
            continue;
        }
        // A cover is on another filesystem.
        if hidden.contains(&*name) && meta.st_dev() == own.st_dev() {
            continue;
        }
        if meta.is_dir() {
            std::fs::create_dir(point)?;
        } else {
            std::fs::write(point, "")?;
        }
        names.push(name);
        if names.len() > MOST {
            return Ok(None);
        }
    }
    std::fs::set_permissions(&listed, own.permissions())?;
    Ok(Some(Entries { names, listed }))
}
