//! Walks over directories that end, whatever the image says.
//!
//! In a sound filesystem directories are a tree: each has one name, and no byte of
//! the volume belongs to two of them. A damaged or forged one may lead to the same
//! directory on many paths, and in a few levels to more paths than anyone can
//! visit. So a walk remembers where the directories are that it has entered, and
//! what it visits is bounded by what the image holds.

use std::collections::BTreeMap;

use super::{Entry, Error, FileId, FileSystem, Format, Run, fat, squashfs};

/// Directories may be nested this deep. Longer paths than Linux opens at once.
const DEPTH: usize = 512;

/// The directories of one filesystem that a walk has entered.
#[derive(Debug, Default)]
pub struct Walk {
    /// Where they are on the volume: first byte and end.
    taken: BTreeMap<u64, u64>,
    depth: usize,
}

impl Walk {
    /// Enters a directory and gives its names, in the order of their bytes.
    ///
    /// # Errors
    /// As [`FileSystem::entries`]; the walk was there before, or in another
    /// directory that shares bytes with it; it is nested beyond all reason.
    pub fn enter(
        &mut self,
        files: &FileSystem<'_>,
        directory: FileId,
    ) -> Result<Vec<Entry>, Error> {
        if self.depth >= DEPTH {
            return Err(files.corrupt(directory, "directories are nested too deep"));
        }
        for run in files.directory_extents(directory)? {
            if !self.take(&run) {
                let what = "a directory has another directory's place";
                return Err(files.corrupt(directory, what));
            }
        }
        self.depth += 1;
        files.entries(directory)
    }

    /// Leaves the directory that was entered last and not yet left.
    pub fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// Takes a range; false if some of it was taken before.
    fn take(&mut self, run: &Run) -> bool {
        let end = run.at.saturating_add(run.length);
        let before = self.taken.range(..end).next_back();
        if before.is_some_and(|(_, taken)| *taken > run.at) {
            return false;
        }
        if end > run.at {
            self.taken.insert(run.at, end);
        }
        true
    }
}

impl FileSystem<'_> {
    /// Where on the volume a directory is: its names, and what makes it one. Of
    /// btrfs, whose blocks hold many directories, its number is its place.
    pub(super) fn directory_extents(&self, directory: FileId) -> Result<Vec<Run>, Error> {
        match &self.format {
            Format::Ext4(ext4) => ext4.directory_extents(&self.volume, directory),
            Format::Btrfs(btrfs) => Ok(btrfs.directory_extents(directory)),
            Format::SquashFs(squashfs) => squashfs.directory_extents(&self.volume, directory),
            Format::Fat(fat) => fat.directory(&self.volume, directory),
            Format::Xfs(xfs) => xfs.directory_extents(&self.volume, directory),
        }
    }

    fn corrupt(&self, directory: FileId, what: &'static str) -> Error {
        let kind = self.kind();
        let place = match &self.format {
            Format::Ext4(_) | Format::Xfs(_) => format!("inode {}", directory.0),
            Format::Btrfs(btrfs) => btrfs.place(directory),
            Format::SquashFs(_) => squashfs::SquashFs::place(directory),
            Format::Fat(_) => fat::Fat::place(directory),
        };
        Error::Corrupt { kind, place, what }
    }
}
