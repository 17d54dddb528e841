//! Which root directories programs have, and when nobody needs to look.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;

use super::files::statx;

/// What identifies a root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RootId(u32, u32, u64, pub(super) u64);

impl RootId {
    /// That of the calling thread.
    pub(super) fn own() -> Result<RootId, Errno> {
        let found = statx(libc::AT_FDCWD, c"/", 0, libc::STATX_MNT_ID)?;
        Ok(RootId::of(&found))
    }

    /// That of a directory, of which the mount is known too.
    pub(super) fn of(found: &libc::statx) -> RootId {
        RootId(
            found.stx_dev_major,
            found.stx_dev_minor,
            found.stx_ino,
            found.stx_mnt_id,
        )
    }
}

/// Whether all programs of a filter have the root directory, and the mounts,
/// that the first one had: then nobody needs to look. They have until one makes
/// a call that changes either.
#[derive(Debug, Default)]
pub struct Roots {
    pub(super) first: OnceLock<RootId>,
    /// How many such calls there were, and pivots that have ended.
    pub(super) changes: AtomicU64,
    /// Whether some of `pivoting` may still move roots.
    pub(super) moving: AtomicBool,
    /// Tasks that were let into `pivot_root(2)` or its like and made no call since.
    pivoting: Mutex<Vec<u32>>,
}

impl Roots {
    /// From now on each program has to be looked at.
    pub fn differ(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// A task is let into `pivot_root(2)`, which changes the root of all programs that have
    /// the task's, and ours too, or into `chroot(2)`, which changes that of all its threads.
    /// Nobody is told when it has.
    pub fn move_about(&self, pid: u32) {
        let mut pivoting = self.pivoting();
        if !pivoting.contains(&pid) {
            pivoting.push(pid);
        }
        self.moving.store(true, Ordering::Release);
        self.differ();
    }

    /// A task makes a call: what it did before is done.
    pub fn settle(&self, pid: u32) {
        if !self.moving.load(Ordering::Acquire) {
            return;
        }
        let mut pivoting = self.pivoting();
        pivoting.retain(|&task| task != pid && is_there(task));
        if pivoting.is_empty() {
            // Whoever sees this looks at its root once more.
            self.differ();
            self.moving.store(false, Ordering::Release);
        }
    }

    fn pivoting(&self) -> MutexGuard<'_, Vec<u32>> {
        self.pivoting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there still is a task of this number.
fn is_there(task: u32) -> bool {
    let Ok(task) = libc::pid_t::try_from(task) else {
        return false;
    };
    // SAFETY: it sends nothing.
    let sent = Errno::result(unsafe { libc::kill(task, 0) });
    sent != Err(Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_move_until_all_who_change_them_make_another_call() {
        let roots = Roots::default();
        let moving = || roots.moving.load(Ordering::Acquire);
        let changes = || roots.changes.load(Ordering::Acquire);
        roots.settle(5);
        assert_eq!((moving(), changes()), (false, 0));
        for pid in [5, 6, 5] {
            roots.move_about(pid);
        }
        assert_eq!((moving(), changes()), (true, 3));
        roots.settle(7);
        roots.settle(5);
        assert_eq!((moving(), changes()), (true, 3));
        roots.settle(6);
        assert_eq!((moving(), changes()), (false, 4));
    }
}
