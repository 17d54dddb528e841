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
//! the program might, and what it makes or changes for one has to be in the target. Modes and
//! times, about which Landlock has no rules, it changes in the place of programs.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::cred::CAP_CHOWN;
use super::files::{Target, c_string, open_at, statx_of};
use super::refused::Refused;
use super::roots::RootId;
use super::table::Handler;
use super::walk::{is_kernels, read_link_of, same_file};
use super::{Answer, Call, Outcome, memory};
use crate::sandbox::capability::CAP_SYS_CHROOT;
use crate::sandbox::landlock;

/// How often a file's name is looked for, which may be given another meanwhile.
const NAMES: usize = 3;

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
        found: OwnedFd,
        path: &[u8],
        (flags, mode): (i32, u32),
    ) -> Result<OwnedFd, Errno> {
        let target = Target::File(found.try_clone().map_err(|_| Errno::EMFILE)?);
        let opened = self.fenced(|| target.reopen(flags, mode));
        match (opened, self.own_descriptor(path)?) {
            // Such as a terminal, or `/dev/null`, that it was started with.
            (Err(Errno::EACCES), Some(descriptor)) => {
                self.require_opened(descriptor, &found, flags)?;
                target.reopen(flags, mode)
            }
            (opened, _) => opened,
        }
    }

    /// Does something under the rules about files that the task, which is in a target, has.
    pub(super) fn fenced<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, Errno> + Send,
    ) -> Result<T, Errno> {
        let root = open_at(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        let own = self.worker.shared.own_files.as_ref().ok_or(Errno::ENOENT)?;
        let kernels = [self.worker.view.proc(), own.sys()];
        let Some(fence) = landlock::fence(&root, &kernels).map_err(|_| Errno::EMFILE)? else {
            return work();
        };
        // A thread of its own, because it stays restricted. It has this one's directories.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                landlock::restrict(&fence).map_err(|_| Errno::EACCES)?;
                work()
            });
            let thread = thread.map_err(|_| Errno::EAGAIN)?;
            thread.join().unwrap_or(Err(Errno::EIO))
        })
    }

    /// Whether the task is in a target, and held there by its root directory alone.
    pub(super) fn is_confined(&mut self) -> Result<bool, Errno> {
        Ok(self.worker.shared.own_files.is_some() && self.enters_other_root()?)
    }

    /// Fails if a file that a program in a target named is not in there: it has no name from
    /// the root directory of the task.
    pub(super) fn require_beneath(&mut self, file: &OwnedFd) -> Result<(), Errno> {
        if !self.is_confined()? {
            return Ok(());
        }
        for _ in 0..NAMES {
            let text = match read_link_of(self.worker.view.proc(), file) {
                // Nothing outside is that deep.
                Err(Errno::ENAMETOOLONG) => return Ok(()),
                text => c_string(text?)?,
            };
            let named = open_at(libc::AT_FDCWD, &text, libc::O_PATH | libc::O_NOFOLLOW, 0);
            let is_there = named
                .and_then(|named| Ok(same_file(&statx_of(&named)?, &statx_of(file)?)))
                .unwrap_or(false);
            if is_there {
                return Ok(());
            }
        }
        Err(Errno::EACCES)
    }

    /// Fails if a program may not change a file, which is neither in its target nor one
    /// without a name that it has open (`descriptor`), such as a pipe.
    pub(super) fn require_changeable(
        &mut self,
        file: &OwnedFd,
        descriptor: Option<i32>,
    ) -> Result<(), Errno> {
        let (errno, descriptor) = match (self.require_beneath(file), descriptor) {
            (Err(errno), Some(descriptor)) => (errno, descriptor),
            (result, _) => return result,
        };
        let had = self.worker.view.flags_of(self.pid, descriptor, file)?;
        let kind = u32::from(statx_of(file)?.stx_mode) & libc::S_IFMT;
        // Those of the container that it was started with, or that were opened for it.
        let is_of_container = matches!(kind, libc::S_IFCHR | libc::S_IFBLK) || is_kernels(file)?;
        if had & libc::O_PATH != 0 || is_of_container {
            return Err(errno);
        }
        Ok(())
    }

    /// The descriptor of the task whose link is at a path below `/proc`.
    pub(super) fn own_descriptor(&self, path: &[u8]) -> Result<Option<i32>, Errno> {
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

    /// Fails unless the task has a file open for all that it wants with these flags.
    fn require_opened(&self, descriptor: i32, file: &OwnedFd, flags: i32) -> Result<(), Errno> {
        let had = self.worker.view.flags_of(self.pid, descriptor, file)?;
        let has = had & libc::O_ACCMODE;
        let wanted = flags & libc::O_ACCMODE;
        let writes = matches!(has, libc::O_RDWR | libc::O_WRONLY);
        let is_enough = has == libc::O_RDWR || has == wanted;
        if had & libc::O_PATH != 0 || !is_enough || flags & libc::O_TRUNC != 0 && !writes {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// `fchdir`. Of all that is looked at here, this is never to lead out: whoever is outside
    /// reaches everything by its working directory. So nobody may exchange the descriptor
    /// before the kernel takes it, as threads could.
    pub(super) fn change_directory(&mut self) -> Outcome {
        if self.enters_other_root()? && !self.worker.view.is_single_threaded(self.pid)? {
            return Err(Errno::EACCES);
        }
        self.require_inside(self.int(0))?;
        Ok(Answer::Continue)
    }

    /// `clone`: descriptors are shared by threads alone, which can be counted.
    pub(super) fn clone_old(&mut self) -> Outcome {
        let has = |flag: i32| self.word(0) & flag.cast_unsigned() != 0;
        if has(libc::CLONE_FILES) && !has(libc::CLONE_THREAD) {
            return Err(Errno::EPERM);
        }
        if has(libc::CLONE_NEWNS) {
            return self.change_root();
        }
        Ok(Answer::Continue)
    }

    /// Fails if a directory is not in the target of a program that is in one.
    fn require_inside(&mut self, directory: i32) -> Result<(), Errno> {
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
