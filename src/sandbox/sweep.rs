//! The build's directory on disk: made, locked, and removed whatever happens.
//!
//! A directory is in use as long as somebody holds its lock (`flock(2)`, which
//! the kernel gives back when the last holder dies). One that nobody holds is
//! left over from a power cut or from several `kill -9` at once, and the next
//! build removes it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, renameat};

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
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // It keeps a descriptor open for each level.
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            flatten(path)?;
            std::fs::remove_dir_all(path)
        }
        removed => removed,
    }
}

/// Directories below one another after [`flatten`], the first included.
const LEVELS: usize = 64;

/// Moves what lies deep in a tree to its top, under names of its own, so that what is
/// left can be walked with few descriptors. Only for trees that are removed then.
fn flatten(top: &Path) -> io::Result<()> {
    let top = open_directory(nix::fcntl::AT_FDCWD, top)?;
    let mut moved = 0_u64;
    let mut waiting = directories(&top)?;
    while let Some(name) = waiting.pop() {
        // Each with the directories in it that are still to be visited.
        let mut open = vec![(top.try_clone()?, vec![name])];
        loop {
            let levels = open.len();
            let Some((directory, names)) = open.last_mut() else {
                break;
            };
            let Some(name) = names.pop() else {
                open.pop();
                continue;
            };
            if levels < LEVELS {
                let below = open_directory(&*directory, name.as_c_str())?;
                let names = directories(&below)?;
                open.push((below, names));
                continue;
            }
            let place = loop {
                let place = CString::new(format!("kiln-deep-{moved}"))?;
                moved += 1;
                match renameat(&*directory, name.as_c_str(), &top, place.as_c_str()) {
                    // The tree has that name itself.
                    Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                    result => break result.map(|()| place)?,
                }
            };
            waiting.push(place);
        }
    }
    Ok(())
}

fn open_directory<P: nix::NixPath + ?Sized>(at: impl AsFd, path: &P) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(at, path, flags, nix::sys::stat::Mode::empty())
}

/// Names of the directories in a directory.
fn directories(directory: &OwnedFd) -> nix::Result<Vec<CString>> {
    let mut found = Vec::new();
    for entry in nix::dir::Dir::openat(
        directory,
        ".",
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?
    .iter()
    {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_directory = match entry.file_type() {
            Some(kind) => kind == nix::dir::Type::Directory,
            // Some filesystems do not say.
            None => {
                let stat = nix::sys::stat::fstatat(
                    directory,
                    name,
                    nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
                )?;
                stat.st_mode & libc::S_IFMT == libc::S_IFDIR
            }
        };
        if is_directory {
            found.push(name.to_owned());
        }
    }
    Ok(found)
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

    /// A directory with so many below one another in it, and a link out of the lowest.
    fn deep(parent: &Path, levels: usize, outside: &Path) -> PathBuf {
        let mode = nix::sys::stat::Mode::S_IRWXU;
        let mut directory = open_directory(nix::fcntl::AT_FDCWD, parent).expect("there");
        for _ in 0..levels {
            nix::sys::stat::mkdirat(&directory, "d", mode).expect("made");
            directory = open_directory(&directory, "d").expect("there");
        }
        nix::unistd::symlinkat(outside, &directory, "out").expect("linked");
        parent.join("d")
    }

    #[test]
    fn a_tree_that_is_deeper_than_descriptors_may_be_open_is_removed() {
        let parent = tempfile::tempdir().expect("a directory");
        let outside = tempfile::tempdir().expect("a directory");
        std::fs::write(outside.path().join("kept"), "x").expect("written");
        let tree = deep(parent.path(), 1000, outside.path());
        std::fs::create_dir(tree.join("kiln-deep-0")).expect("made");
        flatten(&tree).expect("flattened");
        let mut levels = 0;
        let mut below = vec![(tree.clone(), 1)];
        while let Some((directory, depth)) = below.pop() {
            levels = levels.max(depth);
            for name in
                directories(&open_directory(nix::fcntl::AT_FDCWD, &directory).expect("there"))
                    .expect("listed")
            {
                let name = name.into_string().expect("text");
                below.push((directory.join(name), depth + 1));
            }
        }
        assert_eq!(levels, LEVELS);
        remove_tree(&tree).expect("removed");
        // As deep as a limit that is often met.
        let (descriptors, _) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
                .expect("a limit");
        let levels = usize::try_from(descriptors.min(1500)).expect("a number");
        remove_tree(&deep(parent.path(), levels, outside.path())).expect("removed");
        assert_eq!(std::fs::read_dir(parent.path()).expect("there").count(), 0);
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn removing_what_is_gone_is_no_error() {
        let parent = tempfile::tempdir().expect("a directory");
        assert!(remove_tree(&parent.path().join("nothing")).is_ok());
    }
}
