//! `execve(2)`: ids of set-id programs, and saved ids.
//!
//! Of a script the set-id bits of what runs it count, and its own do not. Those of files on
//! a mount with `nosuid` count for nothing, unless the root directory is on such a mount
//! itself: then that was not wished for the target, but is how the host mounts the
//! directory that builds are in.

use std::os::fd::{AsRawFd as _, OwnedFd};

use super::files::{Target, by_descriptor, open_at};
use super::tracee::{Glance, Named};
use super::{Answer, Call, Errno, Outcome};

/// Bits of a mode.
const SET_UID: u16 = libc::S_ISUID as u16;
const SET_GID: u16 = libc::S_ISGID as u16;
const GROUP_EXECUTE: u16 = libc::S_IXGRP as u16;
/// What the kernel reads of a file to know what it is (`BINPRM_BUF_SIZE`).
const START: usize = 256;
/// `AT_EXECVE_CHECK`, from `linux/fcntl.h`.
const EXECVE_CHECK: i32 = 0x10000;
/// Scripts that may be run by one another.
const MOST_SCRIPTS: usize = 5;

impl Call<'_> {
    /// Prepares the ids that the program will have, then lets the kernel start
    /// it. If that fails, the process keeps the new ids; programs exit then.
    pub(super) fn execute(&mut self, directory: i32, path: usize, flags: i32) -> Outcome {
        // It only asks whether the program may be started (Linux 6.14).
        if flags & EXECVE_CHECK != 0 {
            return Ok(Answer::Continue);
        }
        let found = self.set_ids(directory, path, flags);
        // No such program: the kernel says so.
        let Ok((uid, gid)) = found else {
            return Ok(Answer::Continue);
        };
        self.alter(|credentials| {
            credentials.execute(uid, gid);
            Ok(())
        })?;
        Ok(Answer::Continue)
    }

    pub(super) fn execute_at(&mut self) -> Outcome {
        self.execute(self.int(0), 1, self.int(4))
    }

    /// Owner and group that a program is to act as, if it is a set-id program.
    fn set_ids(
        &mut self,
        directory: i32,
        path: usize,
        flags: i32,
    ) -> Result<(Option<u32>, Option<u32>), Errno> {
        let path = self.path(path)?;
        if path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
            return Err(Errno::ENOENT);
        }
        let mut named = Named {
            directory,
            path: &path,
            follow: flags & libc::AT_SYMLINK_NOFOLLOW == 0,
        };
        let mut seen = None;
        let mut interpreter;
        for _ in 0..MOST_SCRIPTS {
            let (script, found) = self.interpreter(named)?;
            let Some(script) = script else {
                seen = Some(found);
                break;
            };
            interpreter = script;
            named = Named {
                directory: libc::AT_FDCWD,
                path: &interpreter,
                follow: true,
            };
        }
        self.set_ids_of(named, seen)
    }

    /// What the kernel starts in place of a program, if that is a script, and what the
    /// program is.
    fn interpreter(&mut self, named: Named<'_>) -> Result<(Option<Vec<u8>>, libc::statx), Errno> {
        match self.glance(named.directory, named.path, named.follow) {
            // Shells try all directories of `PATH`.
            Glance::Nothing => return Err(Errno::ENOENT),
            Glance::File(found) if is_program(&found) => {
                if let Some(known) = self.worker.programs.interpreter(&found) {
                    return Ok((known, found));
                }
            }
            Glance::File(_) | Glance::Unsure => {}
        }
        let (file, found) = self.program(named)?;
        let interpreter = interpreter_of(&file);
        let programs = &mut self.worker.programs;
        programs.remember(&found, interpreter.as_deref());
        Ok((interpreter, found))
    }

    /// Opens a program as a mere name; fails if the kernel would not start it.
    fn program(&mut self, named: Named<'_>) -> Result<(OwnedFd, libc::statx), Errno> {
        let file = self
            .target(named.directory, named.path, named.follow)?
            .into_file()?;
        let target = Target::File(file);
        // The time of the last change is only told to those who ask for it (Linux 6.13).
        let found = target.statx(libc::STATX_BASIC_STATS)?;
        if is_program(&found) {
            Ok((target.into_file()?, found))
        } else {
            Err(Errno::EACCES)
        }
    }

    /// Ids that a program gives to who starts it; `seen` is what a look at it found.
    fn set_ids_of(
        &mut self,
        named: Named<'_>,
        seen: Option<libc::statx>,
    ) -> Result<(Option<u32>, Option<u32>), Errno> {
        // Hardly a program has set-id bits.
        if !self.notes_refusals()
            && let Some(found) = seen
            && is_program(&found)
            && sets(&found) == (false, false)
        {
            return Ok((None, None));
        }
        let (file, found) = self.program(named)?;
        self.note_refusal(&file, named.path);
        let (sets_user, sets_group) = sets(&found);
        if !sets_user && !sets_group {
            return Ok((None, None));
        }
        // Files of the host act as nobody else than who runs them.
        if found.stx_uid != 0 || self.gains_nothing()? || self.is_on_plain_mount(&file)? {
            return Ok((None, None));
        }
        let record = self.record_of(&found).unwrap_or_default();
        let uid = sets_user.then_some(record.uid);
        Ok((uid, sets_group.then_some(record.gid)))
    }

    /// Whether the program has wished that set-id bits do not count (`no_new_privs`).
    fn gains_nothing(&self) -> Result<bool, Errno> {
        let asks = self.worker.shared.powers.grants;
        Ok(asks && self.worker.view.status(self.pid)?.no_new_privileges)
    }

    /// Whether they do not count on the mount of a file.
    fn is_on_plain_mount(&mut self, file: &OwnedFd) -> Result<bool, Errno> {
        if !is_without_set_ids(file)? {
            return Ok(false);
        }
        self.worker
            .view
            .enter_root(self.pid, &self.listener.roots)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let root = open_at(libc::AT_FDCWD, c"/", flags, 0)?;
        Ok(!is_without_set_ids(&root)?)
    }
}

/// Whether the kernel would start a file.
fn is_program(found: &libc::statx) -> bool {
    let mode = u32::from(found.stx_mode);
    mode & libc::S_IFMT == libc::S_IFREG && mode & 0o111 != 0
}

/// Whether a program acts as its file's owner, and as its group.
fn sets(found: &libc::statx) -> (bool, bool) {
    let has = |bits| found.stx_mode & bits == bits;
    (has(SET_UID), has(SET_GID | GROUP_EXECUTE))
}

/// Whether a file is on a mount with `nosuid`.
fn is_without_set_ids(file: &OwnedFd) -> Result<bool, Errno> {
    let found = nix::sys::statvfs::fstatvfs(file)?;
    Ok(found
        .flags()
        .contains(nix::sys::statvfs::FsFlags::ST_NOSUID))
}

/// What the kernel starts in place of a file, if that is a script. A file that cannot be
/// read is none.
fn interpreter_of(file: &OwnedFd) -> Option<Vec<u8>> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let opened = open_at(libc::AT_FDCWD, &by_descriptor(file).ok()?, flags, 0).ok()?;
    let mut start = [0; START];
    // SAFETY: the buffer has the length given and lives across the call.
    let count = unsafe { libc::pread(opened.as_raw_fd(), start.as_mut_ptr().cast(), START, 0) };
    interpreter_in(start.get(..usize::try_from(count).ok()?)?)
}

/// The interpreter that the start of a file names.
fn interpreter_in(start: &[u8]) -> Option<Vec<u8>> {
    let text = start.strip_prefix(b"#!")?;
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let (line, is_whole) = match text.iter().position(|&byte| byte == b'\n') {
        Some(end) => (&text[..end], true),
        // Zeroes follow a file that is shorter.
        None => (text, start.len() < START),
    };
    let from = line.iter().position(|byte| !is_space(byte))?;
    let name = line[from..]
        .split(|byte| is_space(byte) || *byte == 0)
        .next()
        .filter(|name| !name.is_empty())?;
    // One that may go on is not taken.
    (is_whole || from + name.len() < line.len()).then(|| name.to_vec())
}

#[cfg(test)]
mod tests {
    use super::interpreter_in;

    #[test]
    fn interpreters_are_named_in_the_first_line() {
        let long = ["#!/", &"x".repeat(300)].concat();
        let spaced = ["#!/bin/sh ", &"x".repeat(300)].concat();
        for (text, expected) in [
            ("#!/bin/sh\necho", Some("/bin/sh")),
            ("#! \t/bin/sh -e x\n", Some("/bin/sh")),
            ("#!sh", Some("sh")),
            ("#!/bin/sh\t-e", Some("/bin/sh")),
            (&spaced[..256], Some("/bin/sh")),
            (&long[..256], None),
            ("#!\n/bin/sh", None),
            ("#!  \n", None),
            ("#", None),
            ("\x7fELF", None),
            ("", None),
        ] {
            let found = interpreter_in(text.as_bytes());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{text}");
        }
    }
}
