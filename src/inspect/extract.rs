//! Copies files and directories out of a filesystem.
//!
//! Names and links come from the image and are not trusted: everything is made
//! below a directory that is open, no link there is followed, and a file gets its
//! name when it is complete. Owners, set-id bits and devices stay behind. Modes are
//! subject to the umask, and directories that were there before keep theirs: an
//! image does not open the user's files to others. Zeros become holes. Files that
//! would fill the disk are refused before anything is written.

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
use crate::sink::{Bytes, free_bytes, is_zero};

/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;
/// Unit of holes, which is that of common filesystems.
const HOLE: usize = 4096;

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Files, directories and links.
    pub files: u64,
    /// Bytes of files, without holes.
    pub bytes: u64,
    /// Devices, pipes and sockets that were left out: path in the image, and kind.
    pub skipped: Vec<(PathBuf, FileKind)>,
}

/// Why copying stopped.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The image's side.
    #[error("cannot read `{}` in the image", path.display())]
    Image {
        /// The path in the image.
        path: PathBuf,
        /// Why.
        source: FsError,
    },
    /// A directory, without leave to copy what is in it.
    #[error("`{}` in the image is a directory", path.display())]
    Directory {
        /// The path in the image.
        path: PathBuf,
    },
    /// More than there is room for.
    #[error(
        "no space for `{}`: it needs up to {}, and {} are free there",
        path.display(), Bytes(*needed), Bytes(*free)
    )]
    NoSpace {
        /// The path as the user named it.
        path: PathBuf,
        /// Bytes of its files, without holes.
        needed: u64,
        /// Bytes that this user can still write there.
        free: u64,
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
            ExtractError::NoSpace { .. } => Some(FREE_SPACE.to_owned()),
            ExtractError::Host { .. } if self.is_full() => Some(FREE_SPACE.to_owned()),
            ExtractError::Host { source, .. } => match source.kind() {
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

    /// Whether it is about space on the host.
    fn is_full(&self) -> bool {
        matches!(self, ExtractError::Host { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ))
    }
}

const FREE_SPACE: &str = "free some space there, or choose another place";

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

/// A file or directory of an image.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// Which.
    pub file: FileId,
    /// Its path as the user named it, for messages.
    pub path: &'a Path,
}

/// Copies a file, or a directory if `recursive` is set, to a target.
///
/// An older file of that name is replaced; a directory that is there is filled. A
/// directory that was not there and does not fit is removed again.
///
/// # Errors
/// See [`ExtractError`].
pub fn extract(
    files: &FileSystem<'_>,
    source: Named<'_>,
    target: Target<'_>,
    recursive: bool,
) -> Result<Extracted, ExtractError> {
    let file = source.file;
    let mut extractor = Extractor {
        files,
        source: source.path.to_owned(),
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
            extractor.check_space(file, &into, path)?;
            extractor.copy(file, into.as_fd(), name, path)?;
        }
        _ => {
            extractor.may_copy()?;
            let own = open(path).map_err(|errno| host(path, errno))?;
            extractor.check_space(file, &own, path)?;
            extractor.fill(file, own.as_fd(), path)?;
            extractor.done.files += 1;
        }
    }
    Ok(extractor.done)
}

struct Extractor<'a, 'd> {
    files: &'a FileSystem<'d>,
    /// The path in the image of what is being copied.
    source: PathBuf,
    recursive: bool,
    done: Extracted,
    walk: Walk,
    buffer: Vec<u8>,
}

impl Extractor<'_, '_> {
    /// Refuses what is larger than the space that is free. What compresses well may
    /// be many times larger than its image.
    fn check_space(&self, file: FileId, into: &OwnedFd, path: &Path) -> Result<(), ExtractError> {
        let free = free_bytes(into);
        let needed = self.data_below(file, &mut Walk::default());
        // 0 is also what a filesystem says that does not know.
        if free > 0 && needed > free {
            return Err(ExtractError::NoSpace {
                path: path.to_owned(),
                needed,
                free,
            });
        }
        Ok(())
    }

    /// Bytes of a file, or of all below a directory, without holes. What cannot be
    /// read counts as nothing: copying comes to it and says so.
    fn data_below(&self, file: FileId, walk: &mut Walk) -> u64 {
        let Ok(metadata) = self.files.metadata(file) else {
            return 0;
        };
        match metadata.kind {
            FileKind::File => self.files.file(file).map_or(0, |open| {
                let lengths = open.data_ranges().into_iter();
                lengths.fold(0, |sum, range| {
                    sum.saturating_add(range.end.saturating_sub(range.start))
                })
            }),
            FileKind::Directory if self.recursive => {
                let Ok(entries) = walk.enter(self.files, file) else {
                    return 0;
                };
                let sum = entries.into_iter().fold(0u64, |sum, entry| {
                    sum.saturating_add(self.data_below(entry.file, walk))
                });
                walk.leave();
                sum
            }
            _ => 0,
        }
    }

    fn copy(
        &mut self,
        file: FileId,
        into: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ExtractError> {
        let metadata = self.image(self.files.metadata(file))?;
        match metadata.kind {
            FileKind::Directory => self.directory(file, &metadata, into, name, path)?,
            FileKind::File => self.file(file, &metadata, into, name, path)?,
            FileKind::Symlink => {
                let link = self.image(self.files.link_target(file))?;
                let link = OsStr::from_bytes(&link);
                let temporary = temporary(name);
                let host = |errno: Errno| host(path, errno);
                let _ = nix::unistd::unlinkat(into, &*temporary, UnlinkatFlags::NoRemoveDir);
                nix::unistd::symlinkat(link, into, &*temporary).map_err(host)?;
                rename(into, &temporary, name).map_err(host)?;
            }
            kind => {
                self.done.skipped.push((self.source.clone(), kind));
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
        self.may_copy()?;
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
        let filled = self.fill(directory, own.as_fd(), path);
        if let Err(error) = &filled
            && is_new
            && error.is_full()
        {
            // The error is what counts; what stays is seen.
            let _ = empty(own.as_fd());
            let _ = nix::unistd::unlinkat(into, name, UnlinkatFlags::RemoveDir);
        }
        filled?;
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
    fn may_copy(&self) -> Result<(), ExtractError> {
        if self.recursive {
            return Ok(());
        }
        Err(ExtractError::Directory {
            path: self.source.clone(),
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
        for entry in self.image(entries)? {
            let name = OsStr::from_bytes(&entry.name);
            self.source.push(name);
            self.copy(entry.file, own, name, &path.join(name))?;
            self.source.pop();
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
        let open = self.image(self.files.file(file))?;
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
                    path: self.source.clone(),
                    source,
                })?;
                write_data(&to, &part[..read], at).map_err(host)?;
                at += read as u64;
                self.done.bytes += read as u64;
                if read == 0 {
                    break;
                }
            }
        }
        set_time(&to.into(), metadata).map_err(|errno| host(errno.into()))
    }

    fn image<T>(&self, result: Result<T, FsError>) -> Result<T, ExtractError> {
        result.map_err(|source| ExtractError::Image {
            path: self.source.clone(),
            source,
        })
    }
}

/// Writes `bytes` but for blocks of zeros, which the file has there already.
fn write_data(to: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    let mut start = 0;
    while start < bytes.len() {
        let block = |at: usize| &bytes[at..bytes.len().min(at + HOLE)];
        let mut end = start;
        while end < bytes.len() && !is_zero(block(end)) {
            end += block(end).len();
        }
        to.write_all_at(&bytes[start..end], at + start as u64)?;
        start = end + HOLE;
    }
    Ok(())
}

/// Removes what is in a directory that was made here.
fn empty(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut listing = nix::dir::Dir::openat(directory, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    for name in names {
        let name = name.as_c_str();
        if nix::unistd::unlinkat(directory, name, UnlinkatFlags::NoRemoveDir).is_err() {
            let inner = nix::fcntl::openat(directory, name, flags, Mode::empty())?;
            empty(inner.as_fd())?;
            nix::unistd::unlinkat(directory, name, UnlinkatFlags::RemoveDir)?;
        }
    }
    Ok(())
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
