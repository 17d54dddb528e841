//! The build's directory on disk: made, locked, and removed whatever happens.
//!
//! A directory is in use as long as somebody holds its lock (`flock(2)`, which
//! the kernel gives back when the last holder dies). One that nobody holds is
//! left over from a power cut or from several `kill -9` at once, and the next
//! build removes it.
//!
//! Others may name their directories alike. So each has a mark in it from the moment that
//! it is locked until all else in it is gone: a link that leads nowhere but to the
//! directory's own name. A link and not a file, as it is there with what it says or not at
//! all, whenever the power fails. What has the name and no mark is removed only if it is
//! empty, as a build leaves it that is killed between making and marking it.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, readlinkat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use super::Error;
use super::identity::Identity;

/// How the name of a build directory begins.
pub const PREFIX: &str = "kiln_build.";

/// ASCII letters and digits that follow.
const RANDOM: usize = 8;

/// The mark in a build directory.
const MARK: &CStr = c".kiln-build";

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
                .rand_bytes(RANDOM)
                // Whatever the umask leaves to others.
                .permissions(std::fs::Permissions::from_mode(0o700))
                .tempdir_in(&parent)
                .map_err(Error::system(format!(
                    "making a build directory in `{}`",
                    parent.display()
                )))?
                .keep();
            match claim(&path) {
                Ok(Some(lock)) => {
                    let work = WorkDir { path, _lock: lock };
                    return match mark(&*work._lock, &work.path) {
                        Ok(()) => Ok(work),
                        Err(error) => {
                            let _ = std::fs::remove_dir(&work.path);
                            let what = format!("marking `{}` as a build's", work.path.display());
                            Err(Error::system(what)(error))
                        }
                    };
                }
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

    /// Makes a directory in it for a build on disk. Hooks may give that any mode, and not the
    /// one around it, which nobody else can enter.
    pub fn within(&self) -> Result<PathBuf, Error> {
        let path = self.path.join("build");
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(Error::system(format!("making `{}`", path.display())))?;
        Ok(path)
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

/// Leaves the mark in a directory that is locked.
fn mark(directory: impl AsFd, path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default();
    match symlinkat(name, directory, MARK) {
        // A filesystem without links serves a build in memory, whose directory is empty
        // on disk.
        Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        marked => Ok(marked?),
    }
}

/// Whether a directory has the mark that [`mark`] leaves under this name.
fn is_marked(directory: impl AsFd, name: &OsStr) -> bool {
    readlinkat(directory, MARK).is_ok_and(|marked| marked == name)
}

/// The directory in which a build has its own, by a path in there.
pub fn parent_of(work: &Path) -> &Path {
    let own = work
        .ancestors()
        .find(|path| path.file_name().is_some_and(is_name));
    own.and_then(Path::parent).unwrap_or(work)
}

/// Whether [`WorkDir::create`] gives such names.
fn is_name(name: &OsStr) -> bool {
    name.as_encoded_bytes()
        .strip_prefix(PREFIX.as_bytes())
        .is_some_and(|random| {
            random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric)
        })
}

fn lock(path: &Path) -> io::Result<Flock<OwnedFd>> {
    let directory = nix::fcntl::open(
        path,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}

/// Directories below one another that are open at once while a tree is removed.
const LEVELS: usize = 64;

/// Removes a directory with all that is in it, never following a link. Nothing happens
/// if it is not there.
///
/// Neither descriptors nor the stack limit how deep it may be.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open_directory(nix::fcntl::AT_FDCWD, path) {
        Err(Errno::ENOENT) => return Ok(()),
        top => top?,
    };
    empty(&top)?;
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The same for whatever has a name in a directory.
pub(super) fn remove_below(directory: &OwnedFd, name: &CStr) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    empty(&open_directory(directory, name)?)?;
    Ok(unlinkat(directory, name, UnlinkatFlags::RemoveDir)?)
}

/// A directory that is being emptied.
struct Level {
    directory: OwnedFd,
    /// In the directory above.
    name: CString,
    /// What is left in it.
    directories: Vec<CString>,
}

impl Level {
    /// Opens a directory, and removes all but directories.
    fn open(above: &OwnedFd, name: CString) -> nix::Result<Level> {
        let directory = open_directory(above, name.as_c_str())?;
        Ok(Level {
            directories: unlink_files(&directory, None)?,
            directory,
            name,
        })
    }
}

/// Removes what is in a directory. What lies deep in it is moved to its top, under names
/// of its own, and is removed from there.
///
/// A build's mark goes last, so that the next build knows what is left by one that is
/// killed meanwhile.
fn empty(top: &OwnedFd) -> io::Result<()> {
    let mut moved = 0;
    let mut waiting = unlink_files(top, Some(MARK))?;
    while let Some(name) = waiting.pop() {
        let mut open = vec![Level::open(top, name)?];
        while let Some(mut level) = open.pop() {
            if let Some(name) = level.directories.pop() {
                if open.len() + 1 < LEVELS {
                    let below = Level::open(&level.directory, name)?;
                    open.extend([level, below]);
                } else {
                    waiting.push(move_up(&level.directory, &name, top, &mut moved)?);
                    open.push(level);
                }
            } else {
                let above = open.last().map_or(top, |above| &above.directory);
                unlinkat(above, level.name.as_c_str(), UnlinkatFlags::RemoveDir)?;
            }
        }
    }
    match unlinkat(top, MARK, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        removed => Ok(removed?),
    }
}

/// Moves a directory to the top of a tree, under a name that it returns.
fn move_up(above: &OwnedFd, name: &CString, top: &OwnedFd, moved: &mut u64) -> io::Result<CString> {
    loop {
        let place = CString::new(format!("kiln-deep-{moved}"))?;
        *moved += 1;
        // The tree may have that name itself. An empty directory would be replaced, and
        // not all filesystems know `RENAME_NOREPLACE`.
        let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
        if nix::sys::stat::fstatat(top, place.as_c_str(), nofollow) == Err(Errno::ENOENT) {
            renameat(above, name.as_c_str(), top, place.as_c_str())?;
            return Ok(place);
        }
    }
}

fn open_directory<P: nix::NixPath + ?Sized>(at: impl AsFd, path: &P) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(at, path, flags, Mode::empty())
}

/// Removes all but directories, and but the file `spared`, from a directory, and returns
/// the names of those directories.
fn unlink_files(directory: &OwnedFd, spared: Option<&CStr>) -> nix::Result<Vec<CString>> {
    let (mut directories, mut others) = (Vec::new(), Vec::new());
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let mut list = nix::dir::Dir::openat(directory, ".", flags, Mode::empty())?;
    for entry in list.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_directory = match entry.file_type() {
            Some(kind) => kind == nix::dir::Type::Directory,
            // Some filesystems do not say.
            None => {
                let stat = nix::sys::stat::fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                stat.st_mode & libc::S_IFMT == libc::S_IFDIR
            }
        };
        let names = if is_directory {
            &mut directories
        } else {
            &mut others
        };
        names.push(name.to_owned());
    }
    // Not while the list is read: filesystems may then leave entries out.
    for name in others {
        if spared == Some(name.as_c_str()) {
            continue;
        }
        match unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => {}
            removed => removed?,
        }
    }
    Ok(directories)
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

/// Removes the caller's build directories below `parent` that nobody uses, except what
/// holds one of `kept`. Returns their paths; what cannot be removed is left for the next
/// time.
pub fn stale(parent: &Path, kept: &[PathBuf], identity: &Identity) -> Vec<PathBuf> {
    let own = nix::unistd::geteuid().as_raw();
    // Of what is not there yet, where it will be.
    let real = |path: &PathBuf| path.ancestors().find_map(|path| path.canonicalize().ok());
    let kept: Vec<PathBuf> = kept.iter().filter_map(real).collect();
    let Ok(entries) = parent.canonicalize().and_then(std::fs::read_dir) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| is_name(&entry.file_name()))
        .map(|entry| entry.path())
        .filter(|path| !kept.iter().any(|kept| kept.starts_with(path)))
        .filter(|path| {
            std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == own)
        })
        .filter(|path| sweep(path, identity))
        .collect()
}

/// Removes a directory of that name if it is a build's that nobody uses, or empty; whether
/// it did.
fn sweep(path: &Path, identity: &Identity) -> bool {
    // Held while removing, so that two builds do not sweep the same one.
    let Ok(held) = lock(path) else { return false };
    if is_marked(&*held, path.file_name().unwrap_or_default()) {
        return remove(path, identity).is_ok();
    }
    std::fs::remove_dir(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::idmap::Maps;

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
        let mode = Mode::S_IRWXU;
        let mut directory = open_directory(nix::fcntl::AT_FDCWD, parent).expect("there");
        for _ in 0..levels {
            nix::sys::stat::mkdirat(&directory, "d", mode).expect("made");
            directory = open_directory(&directory, "d").expect("there");
        }
        nix::unistd::symlinkat(outside, &directory, "out").expect("linked");
        parent.join("d")
    }

    #[test]
    fn a_tree_of_any_depth_is_removed_and_what_links_lead_to_is_not() {
        let parent = tempfile::tempdir().expect("a directory");
        let outside = tempfile::tempdir().expect("a directory");
        std::fs::write(outside.path().join("kept"), "x").expect("written");
        // Deeper than descriptors may be open and than a thread's stack lasts.
        let tree = deep(parent.path(), 20_000, outside.path());
        // Names that removal would use itself.
        std::fs::create_dir_all(tree.join("kiln-deep-0/full")).expect("made");
        std::fs::create_dir(tree.join("kiln-deep-2")).expect("made");
        std::fs::write(tree.join("kiln-deep-1"), "x").expect("written");
        std::os::unix::fs::symlink(outside.path(), tree.join("link")).expect("linked");
        remove_tree(&tree).expect("removed");
        assert_eq!(std::fs::read_dir(parent.path()).expect("there").count(), 0);
        assert!(outside.path().join("kept").exists());
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(outside.path(), &link).expect("linked");
        assert!(remove_tree(&link).is_err() && outside.path().join("kept").exists());
    }

    /// Makes a build directory that nobody uses, with a file in it.
    fn left_over(parent: &Path) -> PathBuf {
        let work = WorkDir::create(parent).expect("a build directory");
        std::fs::create_dir(work.path().join("built")).expect("made");
        std::fs::write(work.path().join("built/file"), "x").expect("written");
        work.path().canonicalize().expect("there")
    }

    /// What [`stale`] removes that would be kept for nothing else.
    fn swept(parent: &Path, kept: &[PathBuf]) -> Vec<PathBuf> {
        let identity = Identity::Root(Maps {
            users: Vec::new(),
            groups: Vec::new(),
            by_tool: false,
        });
        stale(parent, kept, &identity)
    }

    #[test]
    fn directories_that_others_name_like_a_build_s_are_kept() {
        let parent = tempfile::tempdir().expect("a directory");
        let make = |name: &str| {
            let path = parent.path().join(name);
            std::fs::create_dir(&path).expect("made");
            path
        };
        let fill = |path: &Path| std::fs::write(path.join("file"), "x").expect("written");
        let link = |path: &Path, to: &str| {
            std::os::unix::fs::symlink(to, path.join(".kiln-build")).expect("linked");
        };
        let mut kept = Vec::new();
        for name in [
            "kiln_build.images",
            "kiln_build.abcdefg",
            "kiln_build.a-cdefgh",
            "kiln_build.",
        ] {
            // Not even the mark makes them a build's.
            let path = make(name);
            link(&path, name);
            kept.push(path);
        }
        kept.push(make("kiln_build.abcdefghi"));
        let own = make("kiln_build.abcdefgh");
        fill(&own);
        let of_another = make("kiln_build.copycopy");
        link(&of_another, "kiln_build.original");
        let file = make("kiln_build.filefile");
        std::fs::write(file.join(".kiln-build"), "kiln_build.filefile").expect("written");
        kept.extend([own, of_another, file]);
        let left = left_over(parent.path());
        // As a build leaves it that is killed before it marks its directory.
        let empty = make("kiln_build.emptyEM9");
        let mut removed = swept(parent.path(), &[]);
        removed.sort();
        let mut expected = [left, empty].map(|path| parent.path().join(path));
        expected.sort();
        assert_eq!(removed, expected);
        for path in kept {
            assert!(path.is_dir(), "`{}` is gone", path.display());
        }
    }

    #[test]
    fn what_a_build_stands_in_or_writes_into_is_kept() {
        let parent = tempfile::tempdir().expect("a directory");
        let left = left_over(parent.path());
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&left, &link).expect("linked");
        for kept in [left.clone(), left.join("built"), link.join("new/image.raw")] {
            assert!(swept(parent.path(), &[kept]).is_empty());
            assert!(left.join("built/file").exists());
        }
        assert_eq!(swept(parent.path(), &[parent.path().to_owned()]), [left]);
    }

    #[test]
    fn a_build_directory_is_marked_until_all_else_in_it_is_gone() {
        let parent = tempfile::tempdir().expect("a directory");
        let left = left_over(parent.path());
        let top = open_directory(nix::fcntl::AT_FDCWD, &left).expect("there");
        let name = left.file_name().expect("a name");
        unlink_files(&top, Some(MARK)).expect("removed");
        assert!(is_marked(&top, name));
        empty(&top).expect("removed");
        assert!(!is_marked(&top, name));
    }

    #[test]
    fn removing_what_is_gone_is_no_error() {
        let parent = tempfile::tempdir().expect("a directory");
        assert!(remove_tree(&parent.path().join("nothing")).is_ok());
    }
}
