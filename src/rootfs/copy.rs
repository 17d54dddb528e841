//! Copies a tree with everything that belongs to it, for where no overlay is to be had.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};

use super::beneath::kind;
use super::owners::{CAPABILITY, Special};
use crate::sandbox::direct;
use crate::sandbox::xattr::{self, On};
use crate::tree::live::read_directory;

/// Directories may be nested this deep.
const DEPTH: usize = 512;
/// Bytes of a directory that are read at once.
const LIST: usize = 32 * 1024;
/// Bytes that are copied at once.
const BUFFER: usize = 256 * 1024;

/// What could not be copied, and why.
#[derive(Debug)]
pub struct CopyError {
    /// The path below the tree.
    pub path: PathBuf,
    /// The system's reason.
    pub source: io::Error,
}

/// Copies the content and attributes of a directory into another, which exists and is empty.
///
/// Owners, modes, times, extended attributes, links (hard and symbolic), holes
/// and devices are kept; links are never followed. Names are taken in order, so
/// that the copy is the same each time.
pub fn copy_tree(from: &Path, to: &Path) -> Result<(), CopyError> {
    copy_tree_without(from, to, &[])
}

/// The same, but for set-id bits of files and capabilities.
pub fn copy_tree_without_privileges(from: &Path, to: &Path) -> Result<(), CopyError> {
    copy(from, to, &[], false)
}

/// The same as [`copy_tree`], without entries of these names at the top.
pub fn copy_tree_without(from: &Path, to: &Path, without: &[&str]) -> Result<(), CopyError> {
    copy(from, to, without, true)
}

fn copy(from: &Path, to: &Path, without: &[&str], privileges: bool) -> Result<(), CopyError> {
    let open = |path: &Path| {
        fs_err::File::open(path)
            .map(|file| OwnedFd::from(file.into_parts().0))
            .map_err(|source| CopyError {
                path: PathBuf::new(),
                source,
            })
    };
    let mut copier = Copier {
        without,
        privileges,
        links: HashMap::new(),
        top: open(to)?,
        buffer: vec![0; BUFFER],
        attributes: vec![0; xattr::LARGEST],
    };
    let from = open(from)?;
    let stat = nix::sys::stat::fstat(&from).map_err(|errno| CopyError {
        path: PathBuf::new(),
        source: errno.into(),
    })?;
    let top = Pair {
        from,
        to: open(to)?,
        stat,
        plain: false,
        // It is not of our making.
        owner: Some((Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))),
    };
    copier.directory(top, &mut PathBuf::new(), 0)
}

/// Whether a name is one of these.
fn is_among(name: &OsStr, names: &[&str]) -> bool {
    names.iter().any(|other| name == *other)
}

/// A directory and its copy.
struct Pair {
    from: OwnedFd,
    to: OwnedFd,
    /// Facts of the original.
    stat: FileStat,
    /// It is known to have no attributes.
    plain: bool,
    /// What the copy has to be given.
    owner: Option<(Uid, Gid)>,
}

/// A directory that is being filled.
struct Filled {
    directory: OwnedFd,
    /// Owner and group that new files of this directory get by themselves, once known:
    /// the group may be ours or the directory's.
    makes: Option<(u32, u32)>,
}

impl Filled {
    /// The owner that a new entry has to be given. Nearly all have it already, and each
    /// call costs several microseconds below a supervisor. The entry must be made by a
    /// [`direct`] call: then all of a directory get the same.
    fn lacks_owner(&mut self, name: &OsStr, like: &FileStat) -> io::Result<Option<(Uid, Gid)>> {
        let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
        let makes = match self.makes {
            Some(makes) => makes,
            None => {
                let made = direct::fstatat(&self.directory, name, nofollow)?;
                *self.makes.insert((made.st_uid, made.st_gid))
            }
        };
        let wanted = (like.st_uid, like.st_gid);
        Ok((makes != wanted).then(|| (Uid::from_raw(wanted.0), Gid::from_raw(wanted.1))))
    }

    /// Gives a new file the owner of the original if it lacks that.
    fn give_owner(&mut self, name: &OsStr, like: &FileStat) -> io::Result<()> {
        match self.lacks_owner(name, like)? {
            Some(_) => self.set_owner(name, like),
            None => Ok(()),
        }
    }

    /// Gives a new file the owner of the original.
    fn set_owner(&self, name: &OsStr, like: &FileStat) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
        let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
        nix::unistd::fchownat(&self.directory, name, Some(uid), Some(gid), nofollow)?;
        Ok(())
    }
}

/// What is copied next.
#[derive(Clone, Copy)]
struct Entry<'a> {
    name: &'a OsStr,
    /// It is known to have no attributes.
    plain: bool,
}

impl Entry<'_> {
    /// What it is.
    fn look(self, directory: &OwnedFd) -> io::Result<FileStat> {
        let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
        if self.plain {
            let found = direct::fstatat(directory, self.name, nofollow)?;
            // Those of the host's other users are shown as root's.
            if (found.st_uid, found.st_gid) == (0, 0) {
                return Ok(found);
            }
        }
        Ok(nix::sys::stat::fstatat(directory, self.name, nofollow)?)
    }
}

struct Copier<'a> {
    /// What is left out at the top.
    without: &'a [&'a str],
    /// Files keep set-id bits and capabilities.
    privileges: bool,
    /// Where the first name of a file with several went, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    top: OwnedFd,
    /// For file data.
    buffer: Vec<u8>,
    /// For the names of attributes.
    attributes: Vec<u8>,
}

impl Copier<'_> {
    fn directory(&mut self, pair: Pair, path: &mut PathBuf, depth: usize) -> Result<(), CopyError> {
        let Pair {
            from,
            to,
            stat,
            plain,
            owner,
        } = pair;
        let fail = |path: &Path, source: io::Error| CopyError {
            path: path.to_owned(),
            source,
        };
        if depth > DEPTH {
            return Err(fail(path, io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        let mut into = Filled {
            directory: to,
            makes: None,
        };
        let special = Special::of(&from).map_err(|source| fail(path, source))?;
        for (name, _) in entries(&from).map_err(|source| fail(path, source))? {
            if depth == 0 && is_among(&name, self.without) {
                continue;
            }
            path.push(&name);
            let entry = Entry {
                name: &name,
                plain: special.excludes(&name),
            };
            self.entry(&from, &mut into, entry, path, depth)?;
            path.pop();
        }
        let to = into.directory;
        // Last, since making entries changes the time.
        let mut attributes = || -> io::Result<()> {
            if !plain {
                self.copy_xattrs(&from, &to)?;
            }
            if let Some((uid, gid)) = owner {
                nix::unistd::fchown(&to, Some(uid), Some(gid))?;
            }
            nix::sys::stat::fchmod(&to, Mode::from_bits_truncate(stat.st_mode))?;
            let (atime, mtime) = times(&stat);
            nix::sys::stat::futimens(&to, &atime, &mtime)?;
            Ok(())
        };
        attributes().map_err(|source| fail(path, source))
    }

    fn entry(
        &mut self,
        from: &OwnedFd,
        into: &mut Filled,
        entry: Entry<'_>,
        path: &mut PathBuf,
        depth: usize,
    ) -> Result<(), CopyError> {
        let name = entry.name;
        let stat = entry.look(from).map_err(|source| CopyError {
            path: path.clone(),
            source,
        })?;
        if kind(&stat) == SFlag::S_IFDIR {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut pair = || -> io::Result<Pair> {
                let from = nix::fcntl::openat(from, name, flags, Mode::empty())?;
                let above = &into.directory;
                direct::mkdirat(above, name, Mode::from_bits_truncate(0o700))?;
                let to = nix::fcntl::openat(above, name, flags, Mode::empty())?;
                let owner = into.lacks_owner(name, &stat)?;
                Ok(Pair {
                    from,
                    to,
                    stat,
                    plain: entry.plain,
                    owner,
                })
            };
            let pair = pair().map_err(|source| CopyError {
                path: path.clone(),
                source,
            })?;
            return self.directory(pair, path, depth + 1);
        }
        self.leaf(from, into, entry, path, &stat)
            .map_err(|source| CopyError {
                path: path.clone(),
                source,
            })
    }

    fn leaf(
        &mut self,
        from: &OwnedFd,
        into: &mut Filled,
        entry: Entry<'_>,
        path: &Path,
        stat: &FileStat,
    ) -> io::Result<()> {
        let name = entry.name;
        let to = &into.directory;
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                // The first name was made by us a moment ago, of directories only.
                nix::unistd::linkat(&self.top, first.as_path(), to, name, AtFlags::empty())?;
                return Ok(());
            }
            self.links
                .insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        match kind(stat) {
            SFlag::S_IFREG => {
                let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let source =
                    nix::fcntl::openat(from, name, flags | OFlag::O_RDONLY, Mode::empty())?;
                let target = direct::openat(
                    to,
                    name,
                    flags | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL,
                    Mode::from_bits_truncate(0o600),
                )?;
                let (source, target) = (File::from(source), File::from(target));
                copy_data(&source, &target, stat.st_size, &mut self.buffer)?;
                let (source, target) = (OwnedFd::from(source), OwnedFd::from(target));
                into.give_owner(name, stat)?;
                nix::sys::stat::fchmod(&target, self.mode_of(stat))?;
                // After the owner: changing it drops capabilities.
                if !entry.plain {
                    self.copy_xattrs(&source, &target)?;
                }
                let (atime, mtime) = times(stat);
                nix::sys::stat::futimens(&target, &atime, &mtime)?;
                return Ok(());
            }
            SFlag::S_IFLNK => {
                let link = nix::fcntl::readlinkat(from, name)?;
                direct::symlinkat(link.as_os_str(), to, name)?;
                into.give_owner(name, stat)?;
            }
            special => {
                nix::sys::stat::mknodat(
                    to,
                    name,
                    special,
                    Mode::from_bits_truncate(stat.st_mode),
                    stat.st_rdev,
                )?;
                into.set_owner(name, stat)?;
            }
        }
        let to = &into.directory;
        if kind(stat) != SFlag::S_IFLNK {
            nix::sys::stat::fchmodat(
                to,
                name,
                self.mode_of(stat),
                nix::sys::stat::FchmodatFlags::FollowSymlink,
            )?;
        }
        let (atime, mtime) = times(stat);
        nix::sys::stat::utimensat(to, name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)?;
        Ok(())
    }

    /// The mode that a copy gets that is no directory.
    fn mode_of(&self, stat: &FileStat) -> Mode {
        let mode = Mode::from_bits_truncate(stat.st_mode);
        if self.privileges {
            return mode;
        }
        mode - Mode::S_ISUID - Mode::S_ISGID
    }

    /// One call says that there are none, as nearly always.
    fn copy_xattrs(&mut self, from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
        let (from, to) = (On::Open(from.as_fd()), On::Open(to.as_fd()));
        let list = &mut self.attributes;
        let size = match xattr::list(from, list) {
            Err(Errno::ENOTSUP) => return Ok(()),
            size => size?,
        };
        for name in xattr::names(&list[..size.min(list.len())]) {
            let name = CString::new(name)?;
            if self.privileges || *name != *CAPABILITY {
                xattr::set(to, &name, &xattr::value(from, &name)?, 0)?;
            }
        }
        Ok(())
    }
}

fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (
        TimeSpec::new(stat.st_atime, stat.st_atime_nsec),
        TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec),
    )
}

/// Names in a directory that was just opened, sorted, and what they are if the
/// filesystem says so.
pub(super) fn entries(directory: &OwnedFd) -> io::Result<Vec<(OsString, Option<SFlag>)>> {
    let mut entries = Vec::new();
    // Not on the stack: who asks goes down the tree by recursion.
    let mut list = vec![0; LIST];
    read_directory(directory.as_fd(), &mut list, |name, kind| {
        let kind = match kind {
            libc::DT_UNKNOWN => None,
            // The upper bits of a mode.
            kind => Some(SFlag::from_bits_truncate(u32::from(kind) << 12)),
        };
        entries.push((OsStr::from_bytes(name.to_bytes()).to_owned(), kind));
        Ok(())
    })?;
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(entries)
}

/// Copies the data ranges of a file, sharing blocks where the filesystem can.
fn copy_data(source: &File, target: &File, length: i64, buffer: &mut [u8]) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    // SAFETY: FICLONE takes a descriptor by value; both are open.
    let cloned = unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONE, source.as_raw_fd()) };
    if cloned == 0 {
        return Ok(());
    }
    let mut at = 0;
    while at < length {
        let begin = match nix::unistd::lseek(source, at, nix::unistd::Whence::SeekData) {
            Ok(begin) => begin,
            Err(Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let stop = nix::unistd::lseek(source, begin, nix::unistd::Whence::SeekHole)?.min(length);
        copy_range(source, target, begin, stop, buffer)?;
        at = stop;
    }
    // A hole at the end.
    nix::unistd::ftruncate(target, length)?;
    Ok(())
}

fn copy_range(
    source: &File,
    target: &File,
    begin: i64,
    end: i64,
    buffer: &mut [u8],
) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let (mut at, end) = (
        u64::try_from(begin).unwrap_or(0),
        u64::try_from(end).unwrap_or(0),
    );
    while at < end {
        let length = usize::try_from(end - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = source.read_at(&mut buffer[..length], at)?;
        if count == 0 {
            return Ok(());
        }
        target.write_all_at(&buffer[..count], at)?;
        at += u64::try_from(count).unwrap_or(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_copy_has_everything_of_the_original() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs_err::create_dir_all(from.join("d/e")).expect("made");
        fs_err::create_dir(&to).expect("made");
        fs_err::write(from.join("d/file"), "text").expect("written");
        fs_err::set_permissions(
            from.join("d/file"),
            std::os::unix::fs::PermissionsExt::from_mode(0o4711),
        )
        .expect("set");
        fs_err::hard_link(from.join("d/file"), from.join("d/e/twin")).expect("linked");
        fs_err::write(from.join("d/own"), "").expect("written");
        // Only root may, and new files get the group of a directory such as `to`.
        let _ = std::os::unix::fs::chown(from.join("d/file"), Some(5), Some(6));
        let _ = std::os::unix::fs::chown(&to, None, Some(7));
        let setgid = std::os::unix::fs::PermissionsExt::from_mode(0o2755);
        fs_err::set_permissions(&to, setgid).expect("set");
        std::os::unix::fs::symlink("/nowhere", from.join("link")).expect("linked");
        nix::unistd::mkfifo(&from.join("fifo"), Mode::from_bits_truncate(0o640)).expect("made");
        let sparse = fs_err::File::create(from.join("sparse")).expect("made");
        sparse.set_len(1 << 30).expect("set");
        std::os::unix::fs::FileExt::write_all_at(sparse.file(), b"x", 1 << 29).expect("written");
        fs_err::set_permissions(
            from.join("d"),
            std::os::unix::fs::PermissionsExt::from_mode(0o1750),
        )
        .expect("set");

        copy_tree(&from, &to).expect("copied");

        for name in ["", "d", "d/e", "d/file", "d/own", "link", "fifo", "sparse"] {
            let (a, b) = (
                fs_err::symlink_metadata(from.join(name)).expect("there"),
                fs_err::symlink_metadata(to.join(name)).expect("there"),
            );
            let facts = |m: &std::fs::Metadata| {
                let size = if m.is_dir() { 0 } else { m.len() };
                (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec(), size)
            };
            assert_eq!(facts(&a), facts(&b), "{name}");
        }
        let (file, twin) = (
            fs_err::metadata(to.join("d/file")).expect("there"),
            fs_err::metadata(to.join("d/e/twin")).expect("there"),
        );
        assert_eq!(file.ino(), twin.ino());
        assert_eq!(
            fs_err::read_link(to.join("link")).expect("there"),
            Path::new("/nowhere")
        );
        assert!(fs_err::metadata(to.join("sparse")).expect("there").blocks() < 1000);
    }
}
