//! What the inodes of all readers have in common.

use super::{Error, FileKind, Run};

/// An inode as its reader keeps it.
pub(super) trait Inode {
    /// What messages call it.
    fn place(&self) -> String;

    /// What it is.
    fn kind(&self) -> Result<FileKind, Error>;

    /// Refuses all that is no regular file.
    fn require_file(&self) -> Result<(), Error> {
        self.require(FileKind::File, |path, what| Error::NotAFile { path, what })
    }

    /// Refuses all that is no symbolic link.
    fn require_link(&self) -> Result<(), Error> {
        self.require(FileKind::Symlink, |path, what| Error::NotALink {
            path,
            what,
        })
    }

    /// Refuses all that is no directory.
    fn require_directory(&self) -> Result<(), Error> {
        self.require(FileKind::Directory, |path, _| Error::NotADirectory { path })
    }

    /// Refuses all that is not of a kind.
    fn require(
        &self,
        wanted: FileKind,
        refusal: impl FnOnce(String, &'static str) -> Error,
    ) -> Result<(), Error> {
        match self.kind()? {
            kind if kind == wanted => Ok(()),
            kind => Err(refusal(self.place(), kind.phrase())),
        }
    }
}

impl Run {
    /// What is in one place on the volume.
    pub(super) fn whole(at: u64, length: u64) -> Run {
        Run {
            offset: 0,
            length,
            at,
        }
    }
}
