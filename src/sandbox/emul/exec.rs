//! `execve(2)`: ids of set-id programs, and saved ids.

use std::os::fd::{AsRawFd as _, OwnedFd};

use super::cred::Credentials;
use super::tracee::{Glance, statx_of};
use super::{Answer, Call, Errno, Outcome};
use crate::sandbox::store::Key;

/// Bits of a mode.
const SET_UID: u16 = libc::S_ISUID as u16;
const SET_GID: u16 = libc::S_ISGID as u16;
const GROUP_EXECUTE: u16 = libc::S_IXGRP as u16;

impl Call<'_> {
    /// Prepares the ids that the program will have, then lets the kernel start
    /// it. If that fails, the process keeps the new ids; programs exit then.
    pub(super) fn execute(&mut self, directory: i32, path: usize, flags: i32) -> Outcome {
        let old = self.credentials()?;
        let found = self.set_ids(directory, path, flags);
        // No such program: the kernel says so.
        let Ok((uid, gid)) = found else {
            return Ok(Answer::Continue);
        };
        let mut new = Credentials::clone(&old);
        new.execute(uid, gid);
        if new != *old {
            self.give(new)?;
        }
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
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        match self.glance(directory, &path, follow) {
            // Shells try all directories of `PATH`, and hardly a program has set-id bits.
            Glance::Nothing => return Err(Errno::ENOENT),
            Glance::File(found) if found.stx_mode & (SET_UID | SET_GID) == 0 => {
                return plain_program(&found);
            }
            Glance::File(_) | Glance::Unsure => {}
        }
        let target = self.target(directory, &path, follow)?;
        let found = target.statx(0)?;
        let sets_group = found.stx_mode & SET_GID != 0 && found.stx_mode & GROUP_EXECUTE != 0;
        if found.stx_mode & SET_UID == 0 && !sets_group {
            return plain_program(&found);
        }
        if found.stx_mode & 0o111 == 0 {
            return Err(Errno::EACCES);
        }
        // Files of the host act as nobody else than who runs them.
        if found.stx_uid != 0 || self.gains_nothing()? {
            return Ok((None, None));
        }
        let file = target.reopen(libc::O_RDONLY | libc::O_NONBLOCK, 0)?;
        if Key::of(&statx_of(&file)?) != Key::of(&found) || is_script(&file) {
            return Ok((None, None));
        }
        let record = self.record_of(&found).unwrap_or_default();
        let uid = (found.stx_mode & SET_UID != 0).then_some(record.uid);
        Ok((uid, sets_group.then_some(record.gid)))
    }
}

impl Call<'_> {
    /// Whether the program has wished that set-id bits do not count (`no_new_privs`).
    fn gains_nothing(&self) -> Result<bool, Errno> {
        let asks = self.worker.shared.powers.grants;
        Ok(asks && self.worker.view.status(self.pid)?.no_new_privileges)
    }
}

/// What a file without set-id bits changes, if the kernel starts it at all.
fn plain_program(found: &libc::statx) -> Result<(Option<u32>, Option<u32>), Errno> {
    if found.stx_mode & 0o111 == 0 {
        Err(Errno::EACCES)
    } else {
        Ok((None, None))
    }
}

/// Whether the kernel would start an interpreter, for which set-id bits of the
/// script do not count.
fn is_script(file: &OwnedFd) -> bool {
    let mut start = [0; 2];
    // SAFETY: the buffer has the length given and lives across the call.
    let count = unsafe { libc::pread(file.as_raw_fd(), start.as_mut_ptr().cast(), 2, 0) };
    count == 2 && start == *b"#!"
}
