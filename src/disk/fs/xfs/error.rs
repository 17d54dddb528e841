//! Why an XFS filesystem cannot be made.

use std::io;
use std::path::PathBuf;

/// Why an XFS filesystem cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The program is not there.
    #[error("`mkfs.xfs` is not installed: install it on this host (package xfsprogs)")]
    NoProgram,
    /// The program refused.
    #[error("`mkfs.xfs` failed: {message}")]
    Program {
        /// What it said.
        message: String,
    },
    /// What mkfs.xfs does not make.
    #[error("an xfs filesystem needs {needed} bytes, but has {given}")]
    TooSmall {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that it has.
        given: u64,
    },
    /// Something that XFS, or its mkfs, cannot hold.
    #[error("`{}` cannot be put into an xfs filesystem: {problem}", path.display())]
    Unsupported {
        /// The file in the tree.
        path: PathBuf,
        /// Why.
        problem: &'static str,
    },
    /// A working file cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file of the tree cannot be read.
    #[error("cannot read a file for the xfs filesystem")]
    Tree(#[from] crate::tree::Error),
    /// What mkfs.xfs wrote is not what is expected.
    #[error("what `mkfs.xfs` made at byte {offset} is not understood: {problem}")]
    Foreign {
        /// Where, in bytes of the filesystem.
        offset: u64,
        /// What is not understood.
        problem: &'static str,
    },
}
