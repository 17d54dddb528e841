//! Modes and times of files that a program which is held by its root directory alone has open,
//! or names by `/proc`: those of the container are not its to change. In the target the
//! kernel does it, unless the call may be about a descriptor: that and an empty path can be
//! others by the time the kernel looks, so then it is done here, to the file that was looked at.

use std::os::fd::OwnedFd;

use super::files::{Target, by_descriptor};
use super::place::Place;
use super::{Answer, Call, Errno, Outcome, memory};
use crate::sandbox::bpf::SET_ID;

/// What two times that a call sets are in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    /// `struct timespec`, with numbers of 64 bits.
    Wide,
    /// The same with 32 bits.
    Narrow,
    /// `struct timeval`, with numbers of 64 bits.
    WideMicro,
    /// The same with 32 bits.
    NarrowMicro,
}

impl Times {
    fn size(self) -> usize {
        match self {
            Times::Wide | Times::WideMicro => 32,
            Times::Narrow | Times::NarrowMicro => 16,
        }
    }

    fn parse(self, bytes: &[u8]) -> Result<[libc::timespec; 2], Errno> {
        let number = |at: usize| match self {
            Times::Wide | Times::WideMicro => i64::from_ne_bytes(bytes.as_chunks().0[at]),
            Times::Narrow | Times::NarrowMicro => {
                i32::from_ne_bytes(bytes.as_chunks().0[at]).into()
            }
        };
        let fraction = |at: usize| match (self, number(at)) {
            (Times::Wide | Times::Narrow, nanoseconds) => Ok(nanoseconds),
            // More nanoseconds have a meaning of their own (`UTIME_NOW`).
            (_, microseconds @ 0..1_000_000) => Ok(microseconds * 1000),
            _ => Err(Errno::EINVAL),
        };
        let time = |at: usize| -> Result<libc::timespec, Errno> {
            Ok(libc::timespec {
                tv_sec: number(at),
                tv_nsec: fraction(at + 1)?,
            })
        };
        Ok([time(0)?, time(2)?])
    }
}

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
        if self.word(1) & SET_ID != 0 && self.keeps_set_id() {
            return self.change_set_id_of_descriptor();
        }
        let target = self.target_of_open(self.int(0));
        match self.changeable(self.int(0), target)? {
            Some(file) => self.set_mode(&file, self.word(1) & 0o7777),
            None => Ok(Answer::Continue),
        }
    }

    /// `fchmodat2`.
    pub(super) fn change_mode_at(&mut self) -> Outcome {
        if self.word(2) & SET_ID != 0 && self.keeps_set_id() {
            return self.change_set_id_at();
        }
        match self.changeable_itself(3)? {
            Some(file) => self.set_mode(&file, self.word(2) & 0o7777),
            None => Ok(Answer::Continue),
        }
    }

    /// `utimensat`.
    pub(super) fn change_times(&mut self, times: Times) -> Outcome {
        if self.arguments[1] == 0 && self.int(3) == 0 {
            return self.change_times_of_descriptor(times);
        }
        match self.changeable_itself(3)? {
            Some(file) => self.set_times(&file, 2, times),
            None => Ok(Answer::Continue),
        }
    }

    /// Of `utimensat` and `futimesat` without a path, which are about an open file.
    pub(super) fn change_times_of_descriptor(&mut self, times: Times) -> Outcome {
        // The filter sees half of the address.
        if self.arguments[1] != 0 {
            return Ok(Answer::Continue);
        }
        let target = self.target_of_open(self.int(0));
        match self.changeable(self.int(0), target)? {
            Some(file) => self.set_times(&file, 2, times),
            None => Ok(Answer::Continue),
        }
    }

    /// `ioctl` that changes flags of a file (`ioctl_iflags(2)`). A program in a target has none to
    /// change: no image has them, and by the time the kernel looks the descriptor may be that of
    /// a file which was given to be read.
    pub(super) fn change_flags(&mut self) -> Outcome {
        if self.is_confined()? {
            return Err(Errno::ENOTTY);
        }
        Ok(Answer::Continue)
    }

    /// The same for a call with a directory, a path and flags, of which the path may be empty.
    fn changeable_itself(&mut self, flags: usize) -> Result<Option<OwnedFd>, Errno> {
        let flags = self.int(flags);
        if flags & libc::AT_EMPTY_PATH == 0 || !self.enters_other_root()? {
            return Ok(None);
        }
        let (path, follow) = self.path_at(1, flags)?;
        let found = self.target(self.int(0), &path, follow)?.into_file()?;
        let descriptor = path.is_empty().then(|| self.int(0));
        self.require_changeable(&found, descriptor)?;
        Ok(Some(found))
    }

    pub(super) fn set_mode(&self, file: &OwnedFd, mode: u32) -> Outcome {
        let path = by_descriptor(file)?;
        self.still_there()?;
        // SAFETY: the path is terminated and lives across the call.
        Errno::result(unsafe { libc::chmod(path.as_ptr(), mode) })?;
        Ok(Answer::Value(0))
    }

    /// `argument` is the one with two times.
    pub(super) fn set_times(&mut self, file: &OwnedFd, argument: usize, times: Times) -> Outcome {
        let path = by_descriptor(file)?;
        let address = self.arguments[argument];
        let times = if address == 0 {
            None
        } else {
            let bytes = memory::read(self.pid, address, times.size())?;
            Some(times.parse(&bytes)?)
        };
        let pointer = times
            .as_ref()
            .map_or(std::ptr::null(), |times| times.as_ptr());
        self.still_there()?;
        // SAFETY: the path is terminated; there are two times, or none.
        Errno::result(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), pointer, 0) })?;
        Ok(Answer::Value(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_each_call_has_them() {
        let wide = |numbers: [i64; 4]| numbers.map(i64::to_ne_bytes).concat();
        let narrow = |numbers: [i32; 4]| numbers.map(i32::to_ne_bytes).concat();
        let now = libc::UTIME_NOW;
        for (times, bytes, expected) in [
            (Times::Wide, wide([1, 2, -3, now]), Some([1, 2, -3, now])),
            (Times::Narrow, narrow([1, 2, -3, 4]), Some([1, 2, -3, 4])),
            (
                Times::WideMicro,
                wide([1, 2, 3, 999_999]),
                Some([1, 2000, 3, 999_999_000]),
            ),
            (
                Times::NarrowMicro,
                narrow([1, 2, -3, 4]),
                Some([1, 2000, -3, 4000]),
            ),
            (Times::WideMicro, wide([1, 2, 3, now]), None),
            (Times::NarrowMicro, narrow([1, -1, 3, 4]), None),
        ] {
            assert_eq!(bytes.len(), times.size());
            let found = times
                .parse(&bytes)
                .map(|[first, second]| [first.tv_sec, first.tv_nsec, second.tv_sec, second.tv_nsec])
                .ok();
            assert_eq!(found, expected, "{times:?}");
        }
    }
}
