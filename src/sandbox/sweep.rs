//! The build's directory on disk: made, locked, and removed whatever happens.
//!
//! A directory is in use as long as somebody holds its lock (`flock(2)`, which
//! the kernel gives back when the last holder dies). One that nobody holds is
//! left over from a power cut or from several `kill -9` at once, and the next
//! build removes it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag};

use super::Error;
use super::identity::Identity;

/// How the name of a build directory begins.
pub const PREFIX: &str = "kiln_build.";

/// A build directory, locked by whoever holds this.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    /// Kept open for the lock, which forks share.
    _lock: Flock<OwnedFd>,
}

impl WorkDir {
    /// Makes a new directory, mode 0700, below `parent`.
    pub fn create(parent: &Path) -> Result<WorkDir, Error> {
        // Absolute, because the sandbox's processes change directories.
        let parent = fs_err::canonicalize(parent)
            .map_err(Error::system("finding the temporary directory"))?;
        // A build that starts at the same time may take a directory that is not locked
        // yet for one that is left over.
        loop {
            let path = tempfile::Builder::new()
                .prefix(PREFIX)
                .rand_bytes(8)
                .tempdir_in(&parent)
                .map_err(Error::system(format!(
                    "making a build directory in `{}`",
                    parent.display()
                )))?
                .keep();
            match claim(&path) {
                Ok(Some(lock)) => return Ok(WorkDir { path, _lock: lock }),
                Ok(None) => {}
                Err(error) => {
                    let _ = std::fs::remove_dir(&path);
                    return Err(Error::system(format!("locking `{}`", path.display()))(
                        error,
                    ));
                }
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it from outside the sandbox; nothing happens if it is gone.
    pub fn remove(&self, identity: &Identity) -> Result<(), Error> {
        remove(&self.path, identity)
    }

    /// Removes it as root of the user namespace that its files belong to.
    pub fn remove_as_root(&self) -> Result<(), Error> {
        remove_tree(&self.path).map_err(Error::system(format!(
            "removing the build directory `{}`",
            self.path.display()
        )))
    }
}

/// Locks a directory that was just made; `None` if another build removes it.
fn claim(path: &Path) -> io::Result<Option<Flock<OwnedFd>>> {
    let gone = |error: &io::Error| {
        [io::ErrorKind::NotFound, io::ErrorKind::WouldBlock].contains(&error.kind())
    };
    let locked = match lock(path) {
        Err(error) if gone(&error) => return Ok(None),
        locked => locked?,
    };
    let ours = nix::sys::stat::fstat(&*locked)?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => {
            Ok(((there.dev(), there.ino()) == (ours.st_dev, ours.st_ino)).then_some(locked))
        }
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn lock(path: &Path) -> io::Result<Flock<OwnedFd>> {
    let directory = nix::fcntl::open(
        path,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}

/// Removes a tree, never following a link. Nothing happens if it is not there.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a tree that may hold files of mapped ids.
pub fn remove(path: &Path, identity: &Identity) -> Result<(), Error> {
    if remove_tree(path).is_ok() {
        return Ok(());
    }
    let owned = path.to_owned();
    let status =
        super::userns::run_mapped(identity, move || u8::from(remove_tree(&owned).is_err()))?;
    if status == 0 {
        return Ok(());
    }
    remove_tree(path).map_err(Error::system(format!("removing `{}`", path.display())))
}

/// Removes the caller's build directories below `parent` that nobody uses.
/// Returns their paths; what cannot be removed is left for the next time.
pub fn stale(parent: &Path, identity: &Identity) -> Vec<PathBuf> {
    let own = nix::unistd::geteuid().as_raw();
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(PREFIX.as_bytes())
        })
        .map(|entry| entry.path())
        .filter(|path| {
            std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == own)
        })
        .filter(|path| {
            // Held while removing, so that two builds do not sweep the same one.
            lock(path).is_ok_and(|held| {
                let swept = remove(path, identity).is_ok();
                let _ = held.as_fd();
                swept
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_another_build_takes_while_it_is_made_is_made_again() {
        let parent = tempfile::tempdir().expect("a directory");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for entry in std::fs::read_dir(parent.path()).expect("listed").flatten() {
                        if let Ok(_held) = lock(&entry.path()) {
                            let _ = remove_tree(&entry.path());
                        }
                    }
                }
            });
            for _ in 0..500 {
                let work = WorkDir::create(parent.path()).expect("a build directory");
                let there = std::fs::symlink_metadata(work.path()).is_ok();
                let locked = lock(work.path()).is_err();
                if !(there && locked) {
                    done.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                assert!(there && locked, "it was taken away");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        // By what was a link or another directory meanwhile.
        let path = parent.path().join("gone");
        assert!(claim(&path).expect("no error").is_none());
    }

    #[test]
    fn a_locked_directory_is_in_use_and_an_unlocked_one_is_not() {
        let parent = tempfile::tempdir().expect("a directory");
        let work = WorkDir::create(parent.path()).expect("a build directory");
        assert!(lock(work.path()).is_err(), "a second lock was given");
        let path = work.path().to_owned();
        drop(work);
        assert!(lock(&path).is_ok(), "the lock outlived its holder");
    }

    #[test]
    fn removing_what_is_gone_is_no_error() {
        let parent = tempfile::tempdir().expect("a directory");
        assert!(remove_tree(&parent.path().join("nothing")).is_ok());
    }
}
