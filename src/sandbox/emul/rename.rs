//! Renames where programs of a target are held by their root directory alone.
//!
//! A directory that moves out of that takes along who is in it, and `..` leads on from there. What
//! stays in, or comes in, is renamed; to what would go out the kernel's answer is told for another
//! filesystem (`EXDEV`), which a target has of its own in the other modes. Whoever moves a file
//! there copies it, as `mv` does.
//!
//! Only hooks outside can name both places. A program of the target may put a link in the place of
//! a directory of a path between a look at it and the kernel's own, so the directories are opened,
//! and what they have is renamed here.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

use super::create::split;
use super::files::{c_string, open_at, statx_of};
use super::set_id::{CAP_DAC_OVERRIDE, CAP_FOWNER};
use super::{Answer, Call, Outcome};

/// Which directory one is, wherever it is mounted: the major and minor number of its device, and
/// its own.
type Directory = (u32, u32, u64);

fn directory(file: &OwnedFd) -> Result<Directory, Errno> {
    let found = statx_of(file)?;
    Ok((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))
}

/// A directory and all that it is in.
fn with_those_above(directory_of: &OwnedFd) -> Result<Vec<Directory>, Errno> {
    let above = |file: &OwnedFd| {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        open_at(file.as_raw_fd(), c"..", flags, 0)
    };
    let mut found = vec![directory(directory_of)?];
    let mut here = above(directory_of)?;
    loop {
        let next = directory(&here)?;
        // The uppermost is above itself.
        if found.last() == Some(&next) {
            return Ok(found);
        }
        found.push(next);
        here = above(&here)?;
    }
}

/// Root directories that programs took by `chroot(2)`, since a sandbox began.
#[derive(Debug, Default)]
pub(super) struct Cells(Mutex<Vec<Directory>>);

impl Cells {
    fn add(&self, root: Directory) {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !cells.contains(&root) {
            cells.push(root);
        }
    }

    /// Whether what moves from one directory to another leaves one of these. Each comes with those
    /// that it is in.
    fn are_left(&self, from: &[Directory], to: &[Directory]) -> bool {
        let cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_left = |cell| from.contains(cell) && !to.contains(cell);
        cells.iter().any(is_left)
    }
}

/// A directory that is open, and a name there.
struct Entry {
    parent: OwnedFd,
    name: Vec<u8>,
}

impl Call<'_> {
    /// A task is let into `chroot(2)` to this path.
    pub(super) fn note_cell(&mut self, path: &[u8]) -> Result<(), Errno> {
        if self.worker.shared.own_files.is_none() {
            return Ok(());
        }
        let root = self.target(libc::AT_FDCWD, path, true)?.into_file()?;
        self.worker.shared.cells.add(directory(&root)?);
        Ok(())
    }

    /// Where a path leads, but for its last name; none if that is no proper one.
    fn entry(&mut self, directory: i32, argument: usize) -> Result<Option<Entry>, Errno> {
        let path = self.path(argument)?;
        let Some((parent, name)) = split(&path) else {
            return Ok(None);
        };
        let mut name = name.to_vec();
        if path.ends_with(b"/") {
            name.push(b'/');
        }
        let parent = self.target(directory, parent, true)?.into_file()?;
        Ok(Some(Entry { parent, name }))
    }

    /// `rename`.
    pub(super) fn rename_path(&mut self) -> Outcome {
        self.rename((libc::AT_FDCWD, 0), (libc::AT_FDCWD, 1), 0)
    }

    /// `renameat`, which has no flags, and `renameat2`.
    pub(super) fn rename_at(&mut self, flags: u32) -> Outcome {
        self.rename((self.int(0), 1), (self.int(2), 3), flags)
    }

    /// Places are a directory, and which argument the path is that starts there.
    fn rename(&mut self, old: (i32, usize), new: (i32, usize), flags: u32) -> Outcome {
        // Who is in a target names nothing else.
        if self.is_confined()? {
            return Ok(Answer::Continue);
        }
        let (Some(old), Some(new)) = (self.entry(old.0, old.1)?, self.entry(new.0, new.1)?) else {
            return Ok(Answer::Continue);
        };
        let (from, to) = (
            with_those_above(&old.parent)?,
            with_those_above(&new.parent)?,
        );
        let cells = &self.worker.shared.cells;
        let is_exchange = flags & libc::RENAME_EXCHANGE != 0;
        if cells.are_left(&from, &to) || is_exchange && cells.are_left(&to, &from) {
            return Err(Errno::EXDEV);
        }
        // What only the kernel can judge is left to it.
        if !self.renames_as_here(flags)? {
            return Ok(Answer::Continue);
        }
        let (old_name, new_name) = (c_string(old.name)?, c_string(new.name)?);
        self.still_there()?;
        // SAFETY: the names are terminated and live across the call.
        Errno::result(unsafe {
            libc::syscall(
                libc::SYS_renameat2,
                old.parent.as_raw_fd(),
                old_name.as_ptr(),
                new.parent.as_raw_fd(),
                new_name.as_ptr(),
                flags,
            )
        })?;
        Ok(Answer::Value(0))
    }

    /// Whether the task may rename whatever this process may. A device that takes the place of
    /// what goes (`RENAME_WHITEOUT`) hooks cannot make.
    fn renames_as_here(&mut self, flags: u32) -> Result<bool, Errno> {
        const PLAIN: u32 = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE;
        if flags & !PLAIN != 0 {
            return Ok(false);
        }
        for capability in [CAP_DAC_OVERRIDE, CAP_FOWNER] {
            if !self.may(capability)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_moves_out_of_a_root_directory_leaves_it() {
        let cells = Cells::default();
        let [top, build, target, sub, other] = [1, 2, 3, 4, 5].map(|number| (0, 0, number));
        let (outside, inside, below) = (
            vec![build, top],
            vec![target, build, top],
            vec![sub, target, build, top],
        );
        assert!(!cells.are_left(&inside, &outside), "there is none");
        cells.add(target);
        cells.add(target);
        for (from, to, expected) in [
            (&inside, &outside, true),
            (&below, &outside, true),
            (&below, &vec![other, top], true),
            (&below, &inside, false),
            (&inside, &below, false),
            (&outside, &below, false),
            (&outside, &outside, false),
        ] {
            assert_eq!(cells.are_left(from, to), expected, "{from:?} {to:?}");
        }
        cells.add(sub);
        assert!(cells.are_left(&below, &inside), "out of the inner one");
    }

    #[test]
    fn a_directory_is_in_all_those_above() {
        let above = tempfile::tempdir().expect("a directory");
        let path = above.path().join("a/b");
        std::fs::create_dir_all(&path).expect("made");
        let open = |path: &std::path::Path| OwnedFd::from(std::fs::File::open(path).expect("open"));
        let found = with_those_above(&open(&path)).expect("looked at");
        let expected: Vec<Directory> = path
            .ancestors()
            .map(|path| directory(&open(path)).expect("looked at"))
            .collect();
        assert_eq!(found, expected);
    }
}
