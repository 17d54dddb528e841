//! Why a btrfs filesystem cannot be made.

use std::path::PathBuf;

/// Why a btrfs filesystem cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The space is too small.
    #[error("a btrfs filesystem of these files needs {needed} bytes, but has {given}")]
    TooSmall {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that it has.
        given: u64,
    },
    /// A label that is too long.
    #[error("label `{label}` is no label of btrfs: at most 255 bytes without line breaks")]
    Label {
        /// The label.
        label: String,
    },
    /// An option that is not understood.
    #[error(
        "option `{option}` of mkfs.btrfs is not supported: only `-n 16384`, `-s 4096`, `-d single`, `-m single`, `-f`, `-q` and `-K` are"
    )]
    Option {
        /// The option.
        option: String,
    },
    /// Something that btrfs cannot hold.
    #[error("`{}` cannot be put into a btrfs filesystem: {problem}", path.display())]
    Unsupported {
        /// The file in the tree.
        path: PathBuf,
        /// Why.
        problem: &'static str,
    },
    /// A file of the tree cannot be read.
    #[error("cannot read a file for the btrfs filesystem")]
    Tree(#[from] crate::tree::Error),
}
