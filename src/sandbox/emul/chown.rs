//! The `chown(2)` family.

use std::os::fd::{AsRawFd as _, OwnedFd};

use super::cred::CAP_CHOWN;
use super::files::{Target, statx_of};
use super::{Answer, Call, Errno, Outcome};
use crate::sandbox::store::{Key, Record};

/// "Leave it as it is".
const KEEP: u32 = u32::MAX;

impl Call<'_> {
    pub(super) fn chown_path(&mut self, follow: bool) -> Outcome {
        let path = self.path(0)?;
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let target = self.target(libc::AT_FDCWD, &path, follow)?;
        let file = target.into_file()?;
        self.require_beneath(&file)?;
        self.chown(file, self.id(1), self.id(2))
    }

    pub(super) fn chown_descriptor(&mut self) -> Outcome {
        let file = self.target_of_open(self.int(0))?.into_file()?;
        self.require_changeable(&file, Some(self.int(0)))?;
        self.chown(file, self.id(1), self.id(2))
    }

    pub(super) fn chown_at(&mut self) -> Outcome {
        let flags = self.int(4);
        if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
            return Err(Errno::EINVAL);
        }
        let directory = self.int(0);
        let (path, follow) = self.path_at(1, flags)?;
        let file = self
            .target(directory, &path, follow)
            .and_then(Target::into_file);
        match file {
            Ok(file) => {
                self.require_changeable(&file, path.is_empty().then_some(directory))?;
                self.chown(file, self.id(2), self.id(3))
            }
            // There is no such name, or no directory for it.
            Err(Errno::ENOENT) if directory >= 0 && path.first() != Some(&b'/') => {
                let view = &self.worker.view;
                view.require_descriptor(self.pid, directory)?;
                Err(Errno::ENOENT)
            }
            Err(errno) => Err(errno),
        }
    }

    fn chown(&mut self, file: OwnedFd, uid: u32, gid: u32) -> Outcome {
        let credentials = self.credentials()?;
        let to_root = |id| id == 0 || id == KEEP;
        let record = self.record_of(&statx_of(&file)?);
        let is_plain = record.is_none() && to_root(uid) && to_root(gid);
        // The kernel would look for the file once more: a descriptor may be another's by then.
        if is_plain && credentials.has(CAP_CHOWN) && !self.is_confined()? {
            return Ok(Answer::Continue);
        }
        let record = record.unwrap_or_default();
        if !credentials.has(CAP_CHOWN) {
            let owner = record.uid == credentials.user.filesystem;
            let keeps_owner = uid == KEEP || uid == record.uid;
            let own_group = gid == KEEP || gid == record.gid || credentials.in_group(gid);
            if !(owner && keeps_owner && own_group) {
                return Err(Errno::EPERM);
            }
        }
        self.still_there()?;
        // For its effects: a read-only filesystem refuses it, a program loses
        // its set-id bits and capabilities, the time of change is now.
        let real = |id| if id == KEEP { KEEP } else { 0 };
        // SAFETY: the descriptor is open, and the path is an empty string.
        Errno::result(unsafe {
            libc::fchownat(
                file.as_raw_fd(),
                c"".as_ptr(),
                real(uid),
                real(gid),
                libc::AT_EMPTY_PATH,
            )
        })?;
        if is_plain {
            return Ok(Answer::Value(0));
        }
        // Anew, because overlayfs has another inode once the owner was set.
        let found = statx_of(&file)?;
        self.store().update(Key::of(&found), |now| {
            // What the file had before it was copied up.
            if *now == Record::default() {
                *now = record;
            }
            if uid != KEEP {
                now.uid = uid;
            }
            if gid != KEEP {
                now.gid = gid;
            }
        });
        self.worker.shared.young.hold(&found, || Ok(file));
        Ok(Answer::Value(0))
    }
}
