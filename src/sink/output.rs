//! A file that appears under its name only when it is complete.
//!
//! Where the filesystem allows, the file has no name at all while it is written
//! (`O_TMPFILE`), so that nothing can be left behind even by SIGKILL. Elsewhere it
//! is `.NAME.kiln-N` beside its target, locked, removed on failure, and swept by
//! the next run if this one was killed.

mod existing;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::at::{
    free_bytes, link, lock, open_at, open_directory, rename, reports_late, same_file, status,
    unlink,
};
use super::error::Error;

use existing::may_be_replaced;
pub use existing::{Existing, local_stamp};

/// Largest unit of one write. Larger ones are several times slower where the
/// page cache then allocates large folios.
pub(crate) const WRITE_SIZE: usize = 128 << 10;

/// Bytes that are sent to the device at once while an output that has to be there in the
/// end is still being written.
const SEND_SIZE: u64 = 16 << 20;

/// Space that an output which grows takes ahead of what is written.
const SPACE_AHEAD: u64 = 64 << 20;

/// How often another temporary or backup name is tried.
const ATTEMPTS: u32 = 1000;

/// An output while it is written. Dropping it without [`Output::commit`] leaves nothing.
#[derive(Debug)]
pub struct Output {
    target: PathBuf,
    name: OsString,
    directory: OwnedFd,
    file: File,
    /// Name in `directory`; `None` for a file without one.
    temporary: Option<OsString>,
    /// Bytes that it can take at most.
    needed: u64,
    /// Bytes that were free when it was created.
    free: u64,
    /// Held while writing. Filesystems let one writer at a time into a file, and
    /// in the kernel the others burn processor time until it is their turn.
    writing: Mutex<Writing>,
    /// Whether it is sent to its device while it is written, and not only at the end.
    sends_early: bool,
}

/// What is known of an output while it is written.
#[derive(Debug, Default)]
struct Writing {
    unsent: Unsent,
    /// Up to where space was taken ahead; `None` where that is not done.
    space: Option<u64>,
}

/// What was written since the device got something last.
#[derive(Debug, Default)]
struct Unsent {
    range: Range<u64>,
    bytes: u64,
}

impl Unsent {
    /// Adds what was just written; returns a range that is worth being sent.
    fn add(&mut self, offset: u64, length: u64) -> Option<Range<u64>> {
        let end = offset.saturating_add(length);
        if self.bytes == 0 {
            self.range = offset..end;
        }
        self.range = self.range.start.min(offset)..self.range.end.max(end);
        self.bytes += length;
        if self.bytes < SEND_SIZE {
            return None;
        }
        Some(std::mem::take(self).range)
    }
}

/// The right to write to an output.
pub(super) struct Turn<'a> {
    output: &'a Output,
    state: MutexGuard<'a, Writing>,
}

impl Turn<'_> {
    /// Writes `bytes` at `offset`, in units that the page cache takes best.
    pub(super) fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.take_space(offset.saturating_add(bytes.len() as u64));
        let mut at = offset;
        for piece in bytes.chunks(WRITE_SIZE) {
            self.output
                .file
                .write_all_at(piece, at)
                .map_err(|source| self.output.write_error(source))?;
            at += piece.len() as u64;
        }
        if self.output.sends_early
            && let Some(range) = self.state.unsent.add(offset, bytes.len() as u64)
        {
            start_sending(&self.output.file, range);
        }
        Ok(())
    }

    /// Takes space for what is written next, if there is none up to `end`. That there is
    /// too little, or that it cannot be taken, is for the writes themselves to find.
    fn take_space(&mut self, end: u64) {
        let Some(start) = self.state.space.filter(|&taken| taken < end) else {
            return;
        };
        let file = &self.output.file;
        let until = end.saturating_add(SPACE_AHEAD);
        // Not the last there is, which other outputs and programs may need.
        let is_taken = free_bytes(file) > 4 * SPACE_AHEAD && reserve(file, start..until).is_ok();
        self.state.space = Some(if is_taken { until } else { u64::MAX });
    }
}

/// Takes the space of a range, which stays beyond the file's end if it is.
fn reserve(file: &File, range: Range<u64>) -> Result<(), Errno> {
    let start = i64::try_from(range.start).map_err(|_| Errno::EFBIG)?;
    let length = i64::try_from(range.end - range.start).map_err(|_| Errno::EFBIG)?;
    fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, start, length)
}

/// Has the kernel write pages to the device, without waiting for it. What fails is told
/// by the sync at the end.
fn start_sending(file: &File, range: Range<u64>) {
    let length = range.end - range.start;
    if let (Ok(start), Ok(length)) = (i64::try_from(range.start), i64::try_from(length)) {
        let flags = libc::SYNC_FILE_RANGE_WRITE;
        // SAFETY: the descriptor is open; all is passed by value.
        unsafe { libc::sync_file_range(file.as_raw_fd(), start, length, flags) };
    }
}

/// What [`Output::commit`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The new name of the file that was there before, where it was kept.
    pub renamed: Option<PathBuf>,
}

impl Output {
    /// Creates the file for `target`, which will take at most `needed` bytes
    /// (used in messages only).
    pub fn create(target: &Path, needed: u64) -> Result<Output, Error> {
        let name = target
            .file_name()
            .ok_or_else(|| Error::NoName {
                target: target.to_owned(),
            })?
            .to_owned();
        let directory_path = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = open_directory(directory_path).map_err(|source| Error::Directory {
            target: target.to_owned(),
            directory: directory_path.to_owned(),
            source,
        })?;
        match status(&directory, &name) {
            Ok(found) if !may_be_replaced(&directory, &name, &found) => {
                return Err(Error::NotAFile {
                    target: target.to_owned(),
                });
            }
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => {
                return Err(Error::NameTooLong {
                    target: target.to_owned(),
                });
            }
            _ => {}
        }
        let free = free_bytes(&directory);
        let (file, temporary) = create_file(&directory, &name).map_err(|source| Error::Create {
            target: target.to_owned(),
            source,
        })?;
        Ok(Output {
            target: target.to_owned(),
            name,
            directory,
            file,
            temporary,
            needed,
            free,
            writing: Mutex::default(),
            sends_early: false,
        })
    }

    /// Will have no holes and is written from its start to its end, so that its space is
    /// taken before it is needed, where that makes writing cheaper: ext4 then has no books
    /// to keep for each block that is written. [`Output::trim`] gives back what is too much.
    pub(super) fn filled_in_order(self) -> Output {
        if takes_space(&self.file) {
            super::pass::lock(&self.writing).space = Some(0);
        }
        self
    }

    /// Gives back the space beyond the file's end.
    pub(super) fn trim(&self) -> Result<(), Error> {
        if super::pass::lock(&self.writing).space.take().is_none() {
            return Ok(());
        }
        let length = self.file.metadata();
        let length = length.map_err(|source| self.write_error(source))?.len();
        self.set_length(length)
    }

    /// Will be synced in the end, so its device can begin while it is written.
    pub(super) fn sending_early(mut self, wanted: bool) -> Output {
        self.sends_early = wanted;
        self
    }

    /// Where it will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The directory that it will be in.
    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// The open file, for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes `bytes` at `offset`, in units that the page cache takes best.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.turn().write_at(bytes, offset)
    }

    /// Waits for the right to write.
    pub(super) fn turn(&self) -> Turn<'_> {
        Turn {
            output: self,
            state: super::pass::lock(&self.writing),
        }
    }

    /// Makes the file `length` bytes long; what was not written is a hole.
    pub fn set_length(&self, length: u64) -> Result<(), Error> {
        self.file
            .set_len(length)
            .map_err(|source| self.write_error(source))
    }

    /// Makes sure that all writes have succeeded. Network filesystems say only when
    /// they have sent what was written whether there was space for it.
    pub fn settle(&self) -> Result<(), Error> {
        if reports_late(&self.file) {
            self.sync()?;
        }
        Ok(())
    }

    /// Waits until the file is on its device.
    pub fn sync(&self) -> Result<(), Error> {
        self.file
            .sync_all()
            .map_err(|source| self.write_error(source))
    }

    /// An error of writing in the terms of this output.
    pub fn write_error(&self, source: io::Error) -> Error {
        let target = self.target.clone();
        match source.raw_os_error() {
            Some(libc::ENOSPC) => Error::NoSpace {
                target,
                needed: self.needed,
                free: self.free,
                source,
            },
            Some(libc::EDQUOT) => Error::Quota {
                target,
                needed: self.needed,
                source,
            },
            // It is the length that counts here, holes and all, and not what it needs.
            Some(libc::EFBIG) => Error::TooLarge { target, source },
            _ => Error::Write { target, source },
        }
    }

    /// Puts the complete file under its name, after whatever has this name now
    /// was moved aside (with its checksum files) or to be replaced.
    ///
    /// `durable` also waits until the directory is on its device.
    pub fn commit(mut self, existing: &Existing, durable: bool) -> Result<Committed, Error> {
        let renamed = match existing {
            Existing::Rename { stamp } => self.rename_old(stamp)?,
            Existing::Replace => None,
        };
        if let Err(source) = self.give_name() {
            if let Some(kept) = &renamed {
                self.put_back(kept);
            }
            return Err(Error::Commit {
                target: self.target.clone(),
                source,
            });
        }
        if durable {
            self.sync_directory()?;
        }
        Ok(Committed { renamed })
    }

    /// Links or renames the file to its name, replacing what has it.
    fn give_name(&mut self) -> io::Result<()> {
        if self.temporary.is_none() {
            match link(&self.file, &self.directory, &self.name) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            // A link never replaces: take a temporary name, then rename.
            let file = &self.file;
            let directory = &self.directory;
            self.temporary = Some(first_free(&self.name, |name| link(file, directory, name))?);
        }
        if let Some(temporary) = &self.temporary {
            rename(&self.directory, temporary, &self.name, 0)?;
            self.temporary = None;
        }
        Ok(())
    }

    fn sync_directory(&self) -> Result<(), Error> {
        // SAFETY: fsync takes any open descriptor and touches no memory.
        if unsafe { libc::fsync(self.directory.as_raw_fd()) } == 0 {
            return Ok(());
        }
        let source = io::Error::last_os_error();
        // Some filesystems (FUSE, vfat on old kernels) cannot sync a directory.
        match source.raw_os_error() {
            Some(libc::EINVAL | libc::EBADF | libc::ENOSYS | libc::EOPNOTSUPP) => Ok(()),
            _ => Err(Error::Commit {
                target: self.target.clone(),
                source,
            }),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = unlink(&self.directory, temporary);
        }
    }
}

/// Whether writing to a file is cheaper where its space was taken before.
pub(super) fn takes_space(file: &File) -> bool {
    nix::sys::statfs::fstatfs(file)
        .is_ok_and(|about| about.filesystem_type() == nix::sys::statfs::EXT4_SUPER_MAGIC)
}

/// A file to write in, without a name where that is possible.
fn create_file(directory: &OwnedFd, name: &OsStr) -> io::Result<(File, Option<OsString>)> {
    match open_at(directory, OsStr::new("."), libc::O_RDWR | libc::O_TMPFILE) {
        Ok(file) => return Ok((file, None)),
        // What filesystems (or kernels) without unnamed files answer.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT | libc::EINVAL | libc::ENOSYS)
            ) => {}
        Err(error) => return Err(error),
    }
    create_named(directory, name)
}

/// A locked file with a temporary name; sweeps those of runs that were killed.
fn create_named(directory: &OwnedFd, name: &OsStr) -> io::Result<(File, Option<OsString>)> {
    let mut created = None;
    let temporary = first_free(name, |candidate| {
        match open_at(
            directory,
            candidate,
            libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
        ) {
            Ok(file) => {
                // Without locks (some network filesystems) it is just never swept.
                let _ = lock(&file);
                created = Some(file);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let stale = open_at(directory, candidate, libc::O_RDWR)?;
                if lock(&stale).is_ok() && same_file(directory, candidate, &stale) {
                    unlink(directory, candidate)?;
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    })?;
    let file = created.ok_or(io::ErrorKind::AlreadyExists)?;
    Ok((file, Some(temporary)))
}

/// Calls `make` with `.NAME.kiln-0`, `.NAME.kiln-1`, … until one does not exist.
fn first_free(
    name: &OsStr,
    mut make: impl FnMut(&OsStr) -> io::Result<()>,
) -> io::Result<OsString> {
    for attempt in 0..ATTEMPTS {
        let mut candidate = OsString::from(".");
        candidate.push(name);
        candidate.push(format!(".kiln-{attempt}"));
        match make(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::tests::names;

    #[test]
    fn what_was_written_is_sent_in_large_parts() {
        let mut unsent = Unsent::default();
        assert_eq!(unsent.add(8, 2), None);
        assert_eq!(unsent.add(4, 1), None);
        assert_eq!(unsent.add(100, SEND_SIZE - 4), None);
        assert_eq!(unsent.add(9, 1), Some(4..96 + SEND_SIZE));
        // And then from the beginning.
        assert_eq!(unsent.add(200, SEND_SIZE), Some(200..200 + SEND_SIZE));
    }

    #[test]
    fn space_taken_ahead_is_given_back() {
        use std::os::unix::fs::MetadataExt as _;
        // `/tmp` may be in memory, where nothing is taken ahead.
        let place = tempfile::tempdir_in("/var/tmp").unwrap();
        let target = place.path().join("a.qcow2");
        let output = Output::create(&target, 5).unwrap().filled_in_order();
        let has_room = free_bytes(output.file()) > 8 * SPACE_AHEAD;
        let ahead = if has_room && takes_space(output.file()) {
            SPACE_AHEAD
        } else {
            0
        };
        let used = || output.file().metadata().unwrap().blocks() * 512;
        output.write_at(&[1; 100], 0).unwrap();
        assert!(used() >= ahead);
        output.write_at(&[2; 100], SPACE_AHEAD + 100).unwrap();
        assert!(used() >= 2 * ahead);
        output.set_length(5000).unwrap();
        output.write_at(&[3; 10], 4990).unwrap();
        output.trim().unwrap();
        assert_eq!(output.file().metadata().unwrap().len(), 5000);
        assert!(used() <= 3 * 4096, "{}", used());
    }

    #[test]
    fn nothing_appears_before_the_commit_and_nothing_stays_after_a_drop() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a.raw");
        let output = Output::create(&target, 5).unwrap();
        output.write_at(b"bytes", 0).unwrap();
        assert!(!target.exists());
        drop(output);
        assert!(names(place.path()).is_empty());

        let output = Output::create(&target, 5).unwrap();
        output.write_at(b"bytes", 0).unwrap();
        assert_eq!(
            output.commit(&Existing::Replace, true).unwrap().renamed,
            None
        );
        assert_eq!(std::fs::read(&target).unwrap(), b"bytes");
        assert_eq!(names(place.path()), ["a.raw"]);
    }

    #[test]
    fn an_old_output_is_replaced_when_asked() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("a.raw");
        std::fs::write(&target, "old").unwrap();
        let output = Output::create(&target, 3).unwrap();
        output.write_at(b"new", 0).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        output.commit(&Existing::Replace, false).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(names(place.path()), ["a.raw"]);
    }

    #[test]
    fn a_named_temporary_is_locked_while_used_and_swept_afterwards() {
        let place = tempfile::tempdir().unwrap();
        let directory = open_directory(place.path()).unwrap();
        let name = OsStr::new("a.raw");
        let (first, first_name) = create_named(&directory, name).unwrap();
        let (_second, second_name) = create_named(&directory, name).unwrap();
        assert_eq!(first_name.unwrap(), ".a.raw.kiln-0");
        assert_eq!(second_name.unwrap(), ".a.raw.kiln-1");
        // As after SIGKILL: the lock is gone, the name is not.
        drop(first);
        let (_third, third_name) = create_named(&directory, name).unwrap();
        assert_eq!(third_name.unwrap(), ".a.raw.kiln-2");
        assert_eq!(names(place.path()), [".a.raw.kiln-1", ".a.raw.kiln-2"]);
    }

    #[test]
    fn places_where_no_file_can_be_made_are_named() {
        let place = tempfile::tempdir().unwrap();
        let missing = Output::create(&place.path().join("none/a.raw"), 0).unwrap_err();
        assert!(missing.to_string().contains("none` of output"), "{missing}");
        assert!(missing.hint().is_some());
        let directory = Output::create(place.path(), 0).unwrap_err();
        assert!(matches!(directory, Error::NotAFile { .. }), "{directory}");
        for to in ["/dev/null", "/proc/self/fd/1", ".", "/proc/self/exe"] {
            let link = place.path().join("link");
            std::os::unix::fs::symlink(to, &link).unwrap();
            let refused = Output::create(&link, 0).unwrap_err();
            assert!(matches!(refused, Error::NotAFile { .. }), "{to}: {refused}");
            std::fs::remove_file(link).unwrap();
        }
        let dangling = place.path().join("dangling");
        std::os::unix::fs::symlink("nothing", &dangling).unwrap();
        assert!(Output::create(&dangling, 0).is_ok());
        let long = Output::create(&place.path().join("n".repeat(300)), 0).unwrap_err();
        assert!(matches!(long, Error::NameTooLong { .. }), "{long}");
        assert!(matches!(
            Output::create(Path::new("/"), 0),
            Err(Error::NoName { .. })
        ));
    }
}
