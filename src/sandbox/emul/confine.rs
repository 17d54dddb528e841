//! Programs that are held by their root directory alone, because nothing can be mounted.
//!
//! Such a directory has two ways out (`chroot(2)`). One is to change it once more, for which
//! `inside` takes the capability from them. The other is a directory outside of it: those
//! below `/proc` and `/sys` that the supervisor opens in a program's place are such, and
//! `..` leads up from there as far as it likes. They are told by their mount, which is not
//! that of the target. A program may look at what is in them, but not go there, nor up from
//! there.
//!
//! The kernel reads paths and descriptors again after they were looked at here, so a
//! program with threads may get past; then Landlock (`landlock::fence`) keeps it from
//! opening, making and removing anything. The supervisor itself is under no such rules: what
//! it opens for a program because a link of `/proc` led there (`/proc/self/fd/N`), it opens as
//! the program might.
//!
//! Modes and times of what the supervisor opens there are the container's too, and those of
//! most files below `/proc` the whole machine's: programs do not change them.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;

use super::cred::CAP_CHOWN;
use super::files::{Target, open_at};
use super::refused::Refused;
use super::roots::RootId;
use super::table::Handler;
use super::{Answer, Call, Outcome, files, memory};
use crate::sandbox::capability::CAP_SYS_CHROOT;
use crate::sandbox::landlock;

/// Filesystems that the kernel fills (`statfs(2)`).
const KERNELS: [i64; 4] = [
    libc::PROC_SUPER_MAGIC,
    0x6265_6572, // sysfs
    libc::CGROUP_SUPER_MAGIC,
    libc::CGROUP2_SUPER_MAGIC,
];

/// Whether a path may lead up from where it starts.
pub(super) fn climbs(path: &[u8]) -> bool {
    path.first() != Some(&b'/') && path.split(|&byte| byte == b'/').any(|name| name == b"..")
}

impl Call<'_> {
    /// `chroot`. Who has to stay in its root directory can only take that once more.
    pub(super) fn chroot(&mut self) -> Outcome {
        if self.has_to_stay()? {
            let path = self.path(0)?;
            if self.is_own_root(&path).unwrap_or(false) {
                return Ok(Answer::Value(0));
            }
            self.worker.shared.note_refused(Refused::Root {
                path: String::from_utf8_lossy(&path).into_owned(),
            });
        }
        self.change_root()
    }

    /// Whether nothing but the capability for it, which nobody can get, keeps the task from
    /// changing its root directory.
    fn has_to_stay(&mut self) -> Result<bool, Errno> {
        let status = self.worker.view.status(self.pid)?;
        Ok(status.bounding & 1 << CAP_SYS_CHROOT == 0 && self.may(CAP_CHOWN)?)
    }

    /// Whether a path leads to the root directory of the task.
    fn is_own_root(&mut self, path: &[u8]) -> Result<bool, Errno> {
        let found = self.target(libc::AT_FDCWD, path, true)?;
        let found = RootId::of(&found.statx(libc::STATX_MNT_ID)?);
        self.enters_other_root()?;
        Ok(!path.is_empty() && RootId::own()? == found)
    }

    /// Hands a call on none of whose paths leads up from where nobody may. Those are the
    /// arguments with a directory to start from and with a path.
    pub(super) fn staying(&mut self, paths: &[(usize, usize)], otherwise: Handler) -> Outcome {
        for &(directory, path) in paths {
            // What cannot be read the kernel refuses.
            let path = memory::read_path(self.pid, self.arguments[path]).unwrap_or_default();
            self.require_staying(self.int(directory), &path)?;
        }
        otherwise(self)
    }

    /// Fails if a path leads up from a directory that is not in the target.
    pub(super) fn require_staying(&mut self, directory: i32, path: &[u8]) -> Result<(), Errno> {
        if climbs(path) {
            self.require_inside(directory)?;
        }
        Ok(())
    }

    /// Opens a file, that is none of `/proc`, to which a path below `/proc` led. Nothing is
    /// opened for a program that Landlock keeps from it, but for what it has open already.
    pub(super) fn open_fenced(
        &mut self,
        found: &Target,
        path: &[u8],
        (flags, mode): (i32, u32),
    ) -> Result<OwnedFd, Errno> {
        let root = open_at(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        let own = self.worker.shared.own_files.as_ref().ok_or(Errno::ENOENT)?;
        let kernels = [self.worker.view.proc(), own.sys()];
        let Some(fence) = landlock::fence(&root, &kernels).map_err(|_| Errno::EMFILE)? else {
            return found.reopen(flags, mode);
        };
        // A thread of its own, because it stays restricted. It has this one's directories.
        let opened = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                landlock::restrict(&fence).map_err(|_| Errno::EACCES)?;
                found.reopen(flags, mode)
            });
            let thread = thread.map_err(|_| Errno::EAGAIN)?;
            thread.join().unwrap_or(Err(Errno::EIO))
        });
        match (opened, self.own_descriptor(path)?) {
            // Such as a terminal, or `/dev/null`, that it was started with.
            (Err(Errno::EACCES), Some(descriptor)) => self.open_again(descriptor, flags, mode),
            (opened, _) => opened,
        }
    }

    /// The descriptor of the task whose link is at a path below `/proc`.
    fn own_descriptor(&self, path: &[u8]) -> Result<Option<i32>, Errno> {
        let process = self.worker.view.group(self.pid)?.to_string();
        let mut names = path.split(|&byte| byte == b'/');
        let is_own = matches!(names.next(), Some(b"self" | b"thread-self"))
            || path.starts_with(format!("{process}/").as_bytes());
        if !is_own || names.next() != Some(b"fd") {
            return Ok(None);
        }
        let number = names
            .next()
            .and_then(|name| std::str::from_utf8(name).ok()?.parse().ok());
        Ok(number.filter(|_| names.next().is_none()))
    }

    /// Opens once more what the task has open for all that is wanted now.
    fn open_again(&self, descriptor: i32, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
        let held = self.take_descriptor(descriptor)?;
        let had = nix::fcntl::fcntl(&held, nix::fcntl::FcntlArg::F_GETFL)?;
        let has = had & libc::O_ACCMODE;
        let wanted = flags & libc::O_ACCMODE;
        let writes = has == libc::O_RDWR || has == libc::O_WRONLY;
        let is_enough = has == libc::O_RDWR || has == wanted;
        if had & libc::O_PATH != 0 || !is_enough || flags & libc::O_TRUNC != 0 && !writes {
            return Err(Errno::EACCES);
        }
        Target::File(held).reopen(flags, mode)
    }

    /// `fchdir`.
    pub(super) fn change_directory(&mut self) -> Outcome {
        self.require_inside(self.int(0))?;
        Ok(Answer::Continue)
    }

    /// `fchmod`.
    pub(super) fn change_mode_of_open(&mut self) -> Outcome {
        if self.enters_other_root()?
            && let Ok(file) = self.target_of_descriptor(self.int(0))
        {
            self.require_own(&file.into_file()?)?;
        }
        Ok(Answer::Continue)
    }

    /// Fails if a file is the kernel's, or a device of the container.
    pub(super) fn require_own(&self, file: &OwnedFd) -> Result<(), Errno> {
        // SAFETY: integers, for which zeroes are a valid value.
        let mut filesystem: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open, and the kernel fills the structure.
        Errno::result(unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut filesystem) })?;
        if KERNELS.contains(&filesystem.f_type) {
            return Err(Errno::EROFS);
        }
        let more = libc::STATX_MNT_ID;
        let found = files::statx(file.as_raw_fd(), c"", libc::AT_EMPTY_PATH, more)?;
        if u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFCHR {
            let inside = self.worker.view.require_inside(&found);
            inside.map_err(|_| Errno::EROFS)?;
        }
        Ok(())
    }

    /// Fails if a directory is not in the target of a program that is in one.
    pub(super) fn require_inside(&mut self, directory: i32) -> Result<(), Errno> {
        if !self.enters_other_root()? {
            return Ok(());
        }
        let found = match self.target(directory, b"", true) {
            Ok(target) => target.statx(libc::STATX_MNT_ID)?,
            // What is no descriptor the kernel refuses.
            Err(_) => return Ok(()),
        };
        self.worker.view.require_inside(&found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_two_dots_lead_up() {
        for (path, expected) in [
            ("..", true),
            ("a/../b", true),
            ("a/..", true),
            ("/a/..", false),
            ("a/..b/...", false),
            ("", false),
        ] {
            assert_eq!(climbs(path.as_bytes()), expected, "{path}");
        }
    }
}
