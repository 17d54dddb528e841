//! What programs are, so that not each of a thousand starts of a shell opens it first.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// Programs that are remembered.
const MOST: usize = 256;

/// Seconds that a file must not have changed for: two changes may get the same time where
/// the kernel's clock moves by ticks.
const SETTLED: i64 = 2;

/// What is known of programs that one thread has looked at.
#[derive(Debug, Default)]
pub(super) struct Programs {
    known: HashMap<Version, Option<Box<[u8]>>>,
}

/// A file as it was when it was looked at: whoever changes it changes its time of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Version {
    device: (u32, u32),
    inode: u64,
    size: u64,
    changed: (i64, u32),
}

impl Version {
    /// `None` if what was found does not tell.
    fn of(found: &libc::statx) -> Option<Version> {
        const TELLING: u32 = libc::STATX_INO | libc::STATX_SIZE | libc::STATX_CTIME;
        (found.stx_mask & TELLING == TELLING).then_some(Version {
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            size: found.stx_size,
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        })
    }
}

impl Programs {
    /// The interpreter of a file if that is a script, `Some(None)` if it is known to be
    /// none.
    pub(super) fn interpreter(&self, found: &libc::statx) -> Option<Option<Vec<u8>>> {
        let known = self.known.get(&Version::of(found)?)?;
        Some(known.as_ref().map(|interpreter| interpreter.to_vec()))
    }

    /// Remembers what was read of a file after it was found to be this.
    pub(super) fn remember(&mut self, found: &libc::statx, interpreter: Option<&[u8]>) {
        self.remember_at(now(), found, interpreter);
    }

    fn remember_at(&mut self, now: i64, found: &libc::statx, interpreter: Option<&[u8]>) {
        let Some(version) =
            Version::of(found).filter(|version| now.saturating_sub(version.changed.0) >= SETTLED)
        else {
            return;
        };
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(version, interpreter.map(Box::from));
    }
}

/// Seconds since the epoch.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64, changed: i64) -> libc::statx {
        // SAFETY: all fields are integers.
        let mut found: libc::statx = unsafe { std::mem::zeroed() };
        found.stx_mask = libc::STATX_BASIC_STATS;
        found.stx_ino = inode;
        found.stx_ctime.tv_sec = changed;
        found
    }

    #[test]
    fn a_program_is_known_until_it_changes() {
        let mut programs = Programs::default();
        programs.remember_at(1000, &file(1, 900), Some(b"/bin/sh"));
        programs.remember_at(1000, &file(2, 900), None);
        let known =
            |programs: &Programs, inode, changed| programs.interpreter(&file(inode, changed));
        assert_eq!(known(&programs, 1, 900), Some(Some(b"/bin/sh".to_vec())));
        assert_eq!(known(&programs, 2, 900), Some(None));
        assert_eq!(known(&programs, 1, 901), None);
        assert_eq!(known(&programs, 3, 900), None);
        // It may change again within the same tick, or the clock was set back.
        for changed in [999, 1000, 2000] {
            programs.remember_at(1000, &file(4, changed), None);
            assert_eq!(known(&programs, 4, changed), None, "{changed}");
        }
        for inode in 10..2000 {
            programs.remember_at(1000, &file(inode, 900), None);
            assert!(programs.known.len() <= MOST);
        }
        assert_eq!(known(&programs, 1999, 900), Some(None));
    }

    #[test]
    fn what_does_not_tell_when_it_changed_is_not_remembered() {
        let mut programs = Programs::default();
        let mut found = file(1, 0);
        found.stx_mask &= !libc::STATX_CTIME;
        programs.remember_at(1000, &found, None);
        assert!(programs.known.is_empty());
        found.stx_mask |= libc::STATX_CTIME;
        programs.remember_at(1000, &found, None);
        assert_eq!(programs.known.len(), 1);
    }
}
