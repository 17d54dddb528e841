//! Modes and times of files that a program which is held by its root directory alone has open,
//! or names by `/proc`: those of the container are not its to change. In the target the
//! kernel does it.

use std::os::fd::OwnedFd;

use super::files::{Target, by_descriptor};
use super::place::Place;
use super::{Answer, Call, Errno, Outcome, memory};

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

    /// A file of a descriptor that a program may change, if the program is in a target.
    fn changeable(
        &mut self,
        descriptor: i32,
        target: Result<Target, Errno>,
    ) -> Result<Option<OwnedFd>, Errno> {
        if !self.enters_other_root()? {
            return Ok(None);
        }
        let found = target?.into_file()?;
        self.require_changeable(&found, Some(descriptor))?;
        Ok(Some(found))
    }

    /// `fchmod`.
    pub(super) fn change_mode_of_descriptor(&mut self) -> Outcome {
        let target = self.target_of_open(self.int(0));
        match self.changeable(self.int(0), target)? {
            Some(file) => self.set_mode(&file, self.word(1) & 0o7777),
            None => Ok(Answer::Continue),
        }
    }

    /// `fchmodat2`.
    pub(super) fn change_mode_at(&mut self) -> Outcome {
        match self.changeable_itself(3)? {
            Some(file) => self.set_mode(&file, self.word(2) & 0o7777),
            None => Ok(Answer::Continue),
        }
    }

    /// `utimensat`.
    pub(super) fn change_times(&mut self) -> Outcome {
        let found = if self.arguments[1] == 0 && self.int(3) == 0 {
            // Without a path it is about an open file.
            let target = self.target_of_open(self.int(0));
            self.changeable(self.int(0), target)?
        } else {
            self.changeable_itself(3)?
        };
        match found {
            Some(file) => self.set_times(&file, 2),
            None => Ok(Answer::Continue),
        }
    }

    /// The same for a call with a directory, a path and flags, of which the path is empty.
    fn changeable_itself(&mut self, flags: usize) -> Result<Option<OwnedFd>, Errno> {
        let allowed = self.int(flags) & libc::AT_EMPTY_PATH != 0;
        let (path, _) = match self.path_at(1, self.int(flags)) {
            Ok(found) if allowed => found,
            // The kernel has its own errors.
            _ => return Ok(None),
        };
        if !path.is_empty() {
            return Ok(None);
        }
        let target = self.target(self.int(0), b"", true);
        self.changeable(self.int(0), target)
    }

    pub(super) fn set_mode(&self, file: &OwnedFd, mode: u32) -> Outcome {
        let path = by_descriptor(file)?;
        self.still_there()?;
        // SAFETY: the path is terminated and lives across the call.
        Errno::result(unsafe { libc::chmod(path.as_ptr(), mode) })?;
        Ok(Answer::Value(0))
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
