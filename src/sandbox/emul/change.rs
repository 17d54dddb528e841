//! `chmod(2)`, `utimensat(2)` and their siblings, for programs that are held by their root
//! directory alone.
//!
//! Landlock has no rules about modes and times, and the kernel looks for a file once more
//! after it was looked at here ([`confine`](super::confine)). So these calls are made in the
//! place of a program, whose root is root too: on the file that was found.

use std::os::fd::OwnedFd;

use super::files::by_descriptor;
use super::place::Place;
use super::{Answer, Call, Errno, Outcome, memory};

/// Flags that `fchmodat2(2)` and `utimensat(2)` take.
const CHANGING: i32 = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;

impl Call<'_> {
    /// A file of a place that a program may change.
    pub(super) fn changeable_at(&mut self, place: &Place, follow: bool) -> Result<OwnedFd, Errno> {
        let Place::Proc(rest) = place else {
            return Err(Errno::EROFS);
        };
        let found = self.target_of(place, follow)?.into_file()?;
        let descriptor = self.own_descriptor(rest)?;
        self.require_changeable(&found, descriptor)?;
        Ok(found)
    }

    /// A file of the target that a program may change. The kernel is not left to look for it
    /// once more, when it might find another.
    fn changeable_in_target(
        &mut self,
        directory: Option<usize>,
        argument: usize,
        flags: i32,
    ) -> Result<OwnedFd, Errno> {
        let directory = directory.map_or(libc::AT_FDCWD, |directory| self.int(directory));
        let (path, follow) = self.path_at(argument, flags)?;
        if directory != libc::AT_FDCWD && path.first() != Some(&b'/') {
            self.worker.view.require_descriptor(self.pid, directory)?;
        }
        let found = self.target(directory, &path, follow)?.into_file()?;
        self.require_changeable(&found, path.is_empty().then_some(directory))?;
        Ok(found)
    }

    /// A file that is open and that a program may change.
    fn changeable_open(&mut self, descriptor: i32) -> Result<OwnedFd, Errno> {
        let found = self.target_of_open(descriptor)?.into_file()?;
        self.require_changeable(&found, Some(descriptor))?;
        Ok(found)
    }

    /// `fchmod`.
    pub(super) fn change_mode_of_descriptor(&mut self) -> Outcome {
        if !self.enters_other_root()? {
            return Ok(Answer::Continue);
        }
        let file = self.changeable_open(self.int(0))?;
        self.set_mode(&file, self.word(1) & 0o7777)
    }

    /// `chmod` and its siblings, of whose arguments the mode follows the path.
    pub(super) fn change_mode(
        &mut self,
        directory: Option<usize>,
        argument: usize,
        flags: Option<usize>,
    ) -> Outcome {
        let flags = flags.map_or(0, |flags| self.int(flags));
        if flags & !CHANGING != 0 || !self.enters_other_root()? {
            return Ok(Answer::Continue);
        }
        let file = self.changeable_in_target(directory, argument, flags)?;
        self.set_mode(&file, self.word(argument + 1) & 0o7777)
    }

    pub(super) fn set_mode(&self, file: &OwnedFd, mode: u32) -> Outcome {
        let path = by_descriptor(file)?;
        self.still_there()?;
        // SAFETY: the path is terminated and lives across the call.
        Errno::result(unsafe { libc::chmod(path.as_ptr(), mode) })?;
        Ok(Answer::Value(0))
    }

    /// `utimensat`, by the argument with the path.
    pub(super) fn change_times(&mut self, argument: usize) -> Outcome {
        let flags = self.int(argument + 2);
        let directory = self.int(argument - 1);
        // Without a path it is about an open file.
        let is_open = self.arguments[argument] == 0;
        let is_taken = if is_open {
            flags == 0 && directory >= 0
        } else {
            flags & !CHANGING == 0
        };
        if !is_taken || !self.enters_other_root()? {
            return Ok(Answer::Continue);
        }
        let file = if is_open {
            self.changeable_open(directory)?
        } else {
            self.changeable_in_target(Some(argument - 1), argument, flags)?
        };
        self.set_times(&file, argument + 1)
    }

    /// `times` is the argument with two of them.
    pub(super) fn set_times(&mut self, file: &OwnedFd, times: usize) -> Outcome {
        let path = by_descriptor(file)?;
        let address = self.arguments[times];
        let given = if address == 0 {
            None
        } else {
            Some(memory::read(self.pid, address, 32)?)
        };
        let times = given.map(|bytes| {
            let (words, _) = bytes.as_chunks::<8>();
            let word = |at: usize| i64::from_ne_bytes(words[at]);
            [0, 2].map(|at| libc::timespec {
                tv_sec: word(at),
                tv_nsec: word(at + 1),
            })
        });
        let pointer = times
            .as_ref()
            .map_or(std::ptr::null(), |times| times.as_ptr());
        self.still_there()?;
        // SAFETY: the path is terminated; there are two times, or none.
        Errno::result(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), pointer, 0) })?;
        Ok(Answer::Value(0))
    }
}
