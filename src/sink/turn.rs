//! One set of outputs at a time gets its names.
//!
//! Two builds of the same name that replace what is there would else take turns file by
//! file, and leave the raw image of one beside the archive of the other. The lock is on
//! the directories themselves, so that nothing has to be made for it or can be left.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::at::{lock, open_at};

/// How long others are waited for. They rename a few files; who holds the lock for longer
/// is no build that gives names, and must not keep this one from its own.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// The right to give names in some directories, as long as it lives.
#[derive(Debug)]
pub(super) struct Turn {
    _locked: Vec<File>,
}

impl Turn {
    /// Waits for the directories, each of which may come several times.
    ///
    /// Directories that cannot be locked, such as some on NFS, are used without: then only
    /// who builds the same name twice at once is worse off.
    pub(super) fn take<'a>(directories: impl IntoIterator<Item = &'a OwnedFd>) -> Turn {
        let mut found: Vec<(u64, u64, File)> = directories
            .into_iter()
            .filter_map(|directory| {
                // Opened anew: a lock belongs to what was opened, not to the descriptor.
                let opened = open_at(directory, OsStr::new("."), libc::O_RDONLY).ok()?;
                let about = opened.metadata().ok()?;
                Some((about.dev(), about.ino(), opened))
            })
            .collect();
        // In one order, or two sets could wait for each other.
        found.sort_by_key(|(device, inode, _)| (*device, *inode));
        found.dedup_by_key(|(device, inode, _)| (*device, *inode));
        let end = Instant::now() + PATIENCE;
        let locked = found.into_iter().filter_map(|(_, _, directory)| {
            wait_for(&directory, end).ok()?;
            Some(directory)
        });
        Turn {
            _locked: locked.collect(),
        }
    }
}

/// Locks a directory as soon as nobody else holds it.
fn wait_for(directory: &File, end: Instant) -> io::Result<()> {
    loop {
        match lock(directory) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) && Instant::now() < end =>
            {
                sleep(PAUSE);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::at::open_directory;

    #[test]
    fn two_sets_in_one_directory_take_turns() {
        let directory = tempfile::tempdir().unwrap();
        let open = || open_directory(directory.path()).unwrap();
        let (ours, again, theirs) = (open(), open(), open());
        let first = Turn::take([&ours, &again]);
        assert_eq!(first._locked.len(), 1);
        let started = Instant::now();
        let waited = Duration::from_millis(200);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let second = Turn::take([&theirs]);
                (second._locked.len(), started.elapsed())
            });
            sleep(waited);
            drop(first);
            let (locked, elapsed) = second.join().unwrap();
            assert_eq!(locked, 1);
            assert!(elapsed >= waited, "{elapsed:?}");
        });
    }
}
