//! Times of birth, which tell a new file from a removed one that had its number.
//!
//! They have the grain of the kernel's clock, up to 10 ms. A file that is recorded, then
//! removed and replaced within one tick of it would leave its record to the new one. So a
//! file that got a record in the tick of its birth is kept open until that is over: as
//! long as it is, its number is nobody else's. Filesystems in memory give none twice.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Errno;
use crate::sandbox::store::Key;

/// Of `linux/magic.h`, filesystems that never give an inode number again: tmpfs, ramfs
/// and btrfs.
const COUNTING: [u64; 3] = [0x0102_1994, 0x8584_58F6, 0x9123_683E];
/// Files that are held at most; then one waits for the end of the tick.
const MOST: usize = 256;
/// How long a look at the clock lasts when waiting, and how many there are at most.
const LOOK: Duration = Duration::from_micros(300);
const LOOKS: usize = 50;

/// Seconds and nanoseconds.
type Time = (i64, u32);

/// Files that were born in this tick of the clock.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Young(Mutex<Vec<(Time, OwnedFd)>>);

impl Young {
    /// Holds a file that has just got a record, if it is young, by what `open` gives.
    pub(super) fn hold(&self, found: &libc::statx, open: impl FnOnce() -> Result<OwnedFd, Errno>) {
        let born = Key::of(found).born;
        if !is_now(born, clock()) {
            return;
        }
        // That it is gone already, or was never there, is no harm.
        let Ok(file) = open() else { return };
        if counts(&file) {
            return;
        }
        self.release();
        let mut held = self.lock();
        if held.len() < MOST {
            held.push((born, file));
            return;
        }
        drop(held);
        self.outlive();
    }

    /// Lets go of those that are not young any more.
    pub(in crate::sandbox) fn release(&self) {
        let mut held = self.lock();
        if !held.is_empty() {
            let now = clock();
            held.retain(|(born, _)| is_now(*born, now));
        }
    }

    /// Waits until none is young, since what they are on cannot be unmounted.
    pub(in crate::sandbox) fn outlive(&self) {
        for _ in 0..LOOKS {
            self.release();
            if self.lock().is_empty() {
                return;
            }
            std::thread::sleep(LOOK);
        }
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Time, OwnedFd)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a file that is made now may have this time of birth too. One that is far
/// ahead is a clock's that was set back.
fn is_now(born: Time, now: Time) -> bool {
    born >= now && born.0 <= now.0 + 1
}

/// Whether a file's filesystem gives no number again.
fn counts(file: &OwnedFd) -> bool {
    // SAFETY: integers, for which zeroes are a valid value.
    let mut filesystem: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the kernel fills the structure.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut filesystem) };
    let kind = u64::try_from(filesystem.f_type).unwrap_or_default();
    result == 0 && COUNTING.contains(&kind)
}

/// The clock by which files get their times.
fn clock() -> Time {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut now) };
    (now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_held_as_long_as_they_are_young() {
        let (now, old) = ((100, 5), (100, 4));
        for (born, expected) in [
            (now, true),
            ((100, 6), true),
            (old, false),
            ((200, 0), false),
        ] {
            assert_eq!(is_now(born, now), expected, "{born:?}");
        }
        let young = Young::default();
        let file: OwnedFd = std::fs::File::open("/proc/self/stat")
            .expect("there")
            .into();
        let (seconds, _) = clock();
        for born in [(seconds - 5, 0), (seconds + 60, 0)] {
            let copy = file.try_clone().expect("a copy");
            young.lock().push((born, copy));
        }
        young.release();
        assert!(young.lock().is_empty());
        young.lock().push((clock(), file));
        young.outlive();
        assert!(young.lock().is_empty());
    }
}
