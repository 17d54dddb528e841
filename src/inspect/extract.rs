//! Copies files and directories out of a filesystem.
//!
//! Names and links come from the image and are not trusted: everything is made
//! below a directory that is open, no link there is followed, and a file gets its
//! name when it is complete. Owners, set-id bits and devices stay behind. Modes are
//! subject to the umask, and directories that were there before keep theirs: an
//! image does not open the user's files to others.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::unistd::UnlinkatFlags;

use super::fs::{Error as FsError, FileId, FileKind, FileSystem, Metadata, Walk};

/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Files, directories and links.
    pub files: u64,
    /// Bytes of files, without holes.
    pub bytes: u64,
    /// Devices, pipes and sockets that were left out: path and kind.
    pub skipped: Vec<(PathBuf, FileKind)>,
}

/// Why copying stopped.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The image's side.
    #[error("cannot read `{}` in the image", path.display())]
    Image {
        /// The path below what is copied.
        path: PathBuf,
        /// Why.
        source: FsError,
    },
    /// A directory, without leave to copy what is in it.
    #[error("`{}` is a directory", path.display())]
    Directory {
        /// The path.
        path: PathBuf,
    },
    /// The host's side.
    #[error("cannot write `{}`", path.display())]
    Host {
        /// The path as the user named it, and below.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ExtractError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ExtractError::Image { source, .. } => source.hint(),
            ExtractError::Directory { .. } => {
                Some("`-r` copies directories with what is in them".to_owned())
            }
            ExtractError::Host { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("free some space there, or choose another place".to_owned())
                }
                io::ErrorKind::PermissionDenied => {
                    Some("choose a directory that you may write to".to_owned())
                }
                io::ErrorKind::NotFound => {
                    Some("make the directory that it goes into first".to_owned())
                }
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => Some(
                    "something else has this name there; remove it, or choose another".to_owned(),
                ),
                _ => None,
            },
        }
    }
}

/// Where files go.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// What `path` begins at if it is relative.
    pub current_dir: &'a Path,
    /// The path as the user named it, for messages too.
    pub path: &'a Path,
    /// Whether `path` is a directory that is to be filled, not a name to be made.
    pub fill: bool,
}

/// Copies a file, or a directory if `recursive` is set, to a target.
///
/// An older file of that name is replaced; a directory that is there is filled.
///
/// # Errors
/// See [`ExtractError`].
pub fn extract(
    files: &FileSystem<'_>,
    file: FileId,
    target: Target<'_>,
    recursive: bool,
) -> Result<Extracted, ExtractError> {
    let mut extractor = Extractor {
        files,
        recursive,
        done: Extracted::default(),
        walk: Walk::default(),
        buffer: vec![0; CHUNK],
    };
    let path = target.path;
    // The user's own path may lead through links.
    let open = |path: &Path| {
        let path = target.current_dir.join(path);
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        nix::fcntl::openat(AT_FDCWD, &path, flags, Mode::empty())
    };
    match path.file_name() {
        Some(name) if !target.fill => {
            let parent = path.parent().unwrap_or(Path::new(""));
            let into = open(parent).map_err(|errno| host(path, errno))?;
            extractor.copy(file, into.as_fd(), name, path)?;
        }
        _ => {
            extractor.may_copy(path)?;
            let own = open(path).map_err(|errno| host(path, errno))?;
            extractor.fill(file, own.as_fd(), path)?;
            extractor.done.files += 1;
        }
    }
    Ok(extractor.done)
}

struct Extractor<'a, 'd> {
    files: &'a FileSystem<'d>,
    recursive: bool,
    done: Extracted,
    walk: Walk,
    buffer: Vec<u8>,
}

impl Extractor<'_, '_> {
    fn copy(
        &mut self,
        file: FileId,
        into: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ExtractError> {
        let metadata = self.image(path, self.files.metadata(file))?;
        match metadata.kind {
            FileKind::Directory => self.directory(file, &metadata, into, name, path)?,
            FileKind::File => self.file(file, &metadata, into, name, path)?,
            FileKind::Symlink => {
                let link = self.image(path, self.files.link_target(file))?;
                let link = OsStr::from_bytes(&link);
                let temporary = temporary(name);
                let host = |errno: Errno| host(path, errno);
                let _ = nix::unistd::unlinkat(into, &*temporary, UnlinkatFlags::NoRemoveDir);
                nix::unistd::symlinkat(link, into, &*temporary).map_err(host)?;
                rename(into, &temporary, name).map_err(host)?;
            }
            kind => {
                self.done.skipped.push((path.to_owned(), kind));
                return Ok(());
            }
        }
        self.done.files += 1;
        Ok(())
    }

    fn directory(
        &mut self,
        directory: FileId,
        metadata: &Metadata,
        into: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ExtractError> {
        self.may_copy(path)?;
        let mode = Mode::from_bits_truncate(u32::from(metadata.mode & 0o777));
        let host = |errno: Errno| host(path, errno);
        // The kernel applies the umask. While it is filled the owner may do all.
        let is_new = match nix::sys::stat::mkdirat(into, name, mode | Mode::S_IRWXU) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(host(errno)),
        };
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let own = nix::fcntl::openat(into, name, flags, Mode::empty()).map_err(host)?;
        self.fill(directory, own.as_fd(), path)?;
        if !is_new {
            return Ok(());
        }
        if !mode.contains(Mode::S_IRWXU) {
            let stat = nix::sys::stat::fstat(&own).map_err(host)?;
            let has = Mode::from_bits_truncate(stat.st_mode);
            let too_much = Mode::S_IRWXU - mode;
            nix::sys::stat::fchmod(&own, has - too_much).map_err(host)?;
        }
        set_time(&own, metadata).map_err(host)
    }

    /// Directories are only copied if the user said so.
    fn may_copy(&self, path: &Path) -> Result<(), ExtractError> {
        if self.recursive {
            return Ok(());
        }
        Err(ExtractError::Directory {
            path: path.to_owned(),
        })
    }

    /// Copies what is in a directory.
    fn fill(
        &mut self,
        directory: FileId,
        own: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<(), ExtractError> {
        let entries = self.walk.enter(self.files, directory);
        for entry in self.image(path, entries)? {
            let name = OsStr::from_bytes(&entry.name);
            self.copy(entry.file, own, name, &path.join(name))?;
        }
        self.walk.leave();
        Ok(())
    }

    fn file(
        &mut self,
        file: FileId,
        metadata: &Metadata,
        into: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ExtractError> {
        let open = self.image(path, self.files.file(file))?;
        let temporary = temporary(name);
        let host = |errno: Errno| host(path, errno);
        let _ = nix::unistd::unlinkat(into, &*temporary, UnlinkatFlags::NoRemoveDir);
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        // The kernel applies the umask; what is open stays writable.
        let mode = Mode::from_bits_truncate(u32::from(metadata.mode & 0o777));
        let fd = nix::fcntl::openat(into, &*temporary, flags, mode).map_err(host)?;
        let written = self.data(&open, File::from(fd), metadata, path);
        match written {
            Ok(()) => rename(into, &temporary, name).map_err(host),
            Err(error) => {
                // Nothing better can be done about a file that cannot be removed.
                let _ = nix::unistd::unlinkat(into, &*temporary, UnlinkatFlags::NoRemoveDir);
                Err(error)
            }
        }
    }

    fn data(
        &mut self,
        open: &super::fs::File,
        to: File,
        metadata: &Metadata,
        path: &Path,
    ) -> Result<(), ExtractError> {
        let host = |source| ExtractError::Host {
            path: path.to_owned(),
            source,
        };
        to.set_len(open.size).map_err(host)?;
        for range in open.data_ranges() {
            let mut at = range.start;
            while at < range.end {
                let left = usize::try_from(range.end - at).unwrap_or(CHUNK);
                let part = &mut self.buffer[..left.min(CHUNK)];
                let read = self.files.read_at(open, at, part);
                let read = read.map_err(|source| ExtractError::Image {
                    path: path.to_owned(),
                    source,
                })?;
                to.write_all_at(&part[..read], at).map_err(host)?;
                at += read as u64;
                self.done.bytes += read as u64;
                if read == 0 {
                    break;
                }
            }
        }
        set_time(&to.into(), metadata).map_err(|errno| host(errno.into()))
    }

    fn image<T>(&self, path: &Path, result: Result<T, FsError>) -> Result<T, ExtractError> {
        result.map_err(|source| ExtractError::Image {
            path: path.to_owned(),
            source,
        })
    }
}

fn host(path: &Path, errno: Errno) -> ExtractError {
    ExtractError::Host {
        path: path.to_owned(),
        source: errno.into(),
    }
}

/// The name of a file that is not complete, beside its final one.
fn temporary(name: &OsStr) -> OsString {
    // A name may have 255 bytes, and its beginning tells enough.
    let start = &name.as_bytes()[..name.len().min(200)];
    let mut temporary = OsString::from(format!(".kiln-{}-", std::process::id()));
    temporary.push(OsStr::from_bytes(start));
    temporary
}

fn rename(directory: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
    nix::fcntl::renameat(directory, from, directory, to)
}

/// Gives a file or directory its time.
fn set_time(fd: &OwnedFd, metadata: &Metadata) -> Result<(), Errno> {
    let nanoseconds = i64::from(metadata.mtime.nanoseconds);
    let time = TimeSpec::new(metadata.mtime.seconds, nanoseconds);
    nix::sys::stat::futimens(fd, &time, &time)
}
