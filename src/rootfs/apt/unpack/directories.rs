//! Directories of a root while packages are unpacked into it.
//!
//! Below a supervisor a call that it answers takes ten times as long as one that is
//! left to the kernel. `openat2` and `fchown` are among those, a plain `openat` of one name
//! and [`direct`] calls are not. So directories are opened name by name, stay
//! open while the next path goes through them, and what is known of them is not asked
//! again.
//!
//! Unpacking only adds names: nothing is removed or replaced before it ends, so what
//! was found stays so. Whoever changes the tree meanwhile changes nothing about where
//! files go: each step is a single name that is no link, below a directory that
//! is open and in the root; links are left to [`Root`].

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{io, iter};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;

use super::lock;
use crate::rootfs::beneath::{Place, Root};
use crate::sandbox::direct;

/// Directories that stay open: fewer than a process may have. Deeper ones are found
/// from the top each time.
const DEPTH: usize = 32;

#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    /// It was made here, and not there before.
    made: bool,
    /// Owner and group that new entries get by themselves, once known: the group may be
    /// ours or the directory's.
    makes: Option<(u32, u32)>,
}

/// What is known of directories that exist, by path. All threads share it.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<PathBuf, Facts>>);

impl Known {
    fn has(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || lock(&self.0).contains_key(path)
    }

    fn note(&self, path: &Path, change: impl FnOnce(&mut Facts)) {
        change(lock(&self.0).entry(path.to_owned()).or_default());
    }

    fn facts(&self, path: &Path) -> Facts {
        lock(&self.0).get(path).copied().unwrap_or_default()
    }

    /// Whether a directory has this owner since it was made, and needs not be given it.
    pub(super) fn was_made_for(&self, path: &Path, owner: (u32, u32)) -> bool {
        let above = path.parent().unwrap_or(Path::new(""));
        self.facts(path).made && self.facts(above).makes == Some(owner)
    }
}

/// The directories of the last path, open: archives are sorted.
pub(super) struct Chain<'a> {
    root: &'a Root,
    known: &'a Known,
    open: Vec<(PathBuf, OwnedFd)>,
}

/// As a mere name, and never through a link.
const NAME: OFlag = OFlag::O_PATH
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

impl<'a> Chain<'a> {
    pub(super) fn new(root: &'a Root, known: &'a Known) -> Chain<'a> {
        Chain {
            root,
            known,
            open: Vec::new(),
        }
    }

    /// Opens a directory as a mere name, following links within the root.
    fn open(&mut self, path: &Path) -> io::Result<OwnedFd> {
        if path.components().count() > DEPTH {
            return self.root.open_dir(path);
        }
        while let Some((held, _)) = self.open.last()
            && !path.starts_with(held)
        {
            self.open.pop();
        }
        let held = self.open.last().map(|(held, _)| held.clone());
        let mut at = held.unwrap_or_default();
        let rest = path.strip_prefix(&at).unwrap_or(path).to_owned();
        for name in &rest {
            let above = match self.open.last() {
                Some((_, directory)) => directory.as_fd(),
                None => self.root.as_fd(),
            };
            at.push(name);
            let below = match nix::fcntl::openat(above, name, NAME, Mode::empty()) {
                Ok(below) => below,
                // A link perhaps, which leads where only the root can tell.
                Err(Errno::ENOTDIR | Errno::ELOOP) => self.root.open_dir(&at)?,
                Err(errno) => return Err(errno.into()),
            };
            self.open.push((at.clone(), below));
        }
        match self.open.last() {
            Some((_, directory)) => directory.try_clone(),
            None => self.root.as_fd().try_clone_to_owned(),
        }
    }

    /// The directory that an entry is in. Archives may leave directories out.
    pub(super) fn place<'p>(&mut self, path: &'p Path) -> io::Result<Place<'p>> {
        let above = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = match self.open(above) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make(above)?;
                self.open(above)?
            }
            result => result?,
        };
        Ok(Place { parent, name })
    }

    /// Makes a directory and what is missing above it, with mode 0755; existing ones are
    /// left as they are.
    pub(super) fn make(&mut self, path: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = iter::successors(Some(path), |path| path.parent())
            .take_while(|path| !self.known.has(path))
            .collect();
        missing.reverse();
        for path in missing {
            let above = path.parent().unwrap_or(Path::new(""));
            let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            let place = Place {
                parent: self.open(above)?,
                name,
            };
            let mode = Mode::from_bits_truncate(0o755);
            match direct::mkdirat(&place.parent, name, mode) {
                Ok(()) => {
                    // Whatever the umask says.
                    let flags = NAME - OFlag::O_PATH;
                    let made = nix::fcntl::openat(&place.parent, name, flags, Mode::empty())?;
                    nix::sys::stat::fchmod(&made, mode)?;
                    self.makes(above, &place)?;
                    self.known.note(path, |facts| facts.made = true);
                }
                Err(Errno::EEXIST) => {
                    self.open(path)?;
                    self.known.note(path, |_| {});
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Owner and group that new entries of a directory get by themselves, seen at one
    /// that a [`direct`] call made a moment ago: then all of a directory get the same.
    pub(super) fn makes(&self, above: &Path, place: &Place<'_>) -> io::Result<(u32, u32)> {
        if let Some(makes) = self.known.facts(above).makes {
            return Ok(makes);
        }
        let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
        let made = direct::fstatat(&place.parent, place.name, nofollow)?;
        let makes = (made.st_uid, made.st_gid);
        self.known.note(above, |facts| facts.makes = Some(makes));
        Ok(makes)
    }

    /// Whether a directory, and no link to one, is at a path.
    pub(super) fn is_directory(&mut self, path: &Path) -> io::Result<bool> {
        let above = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = match self.open(above) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result?,
        };
        match nix::fcntl::openat(&parent, name, NAME, Mode::empty()) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}
