//! What can be wrong with a tar archive.

use std::io;
use std::path::PathBuf;

use crate::tree;

/// An archive that cannot be made a tree of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The archive cannot be opened or read.
    #[error("cannot read archive `{}`", path.display())]
    Read {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Data of a compressed archive cannot be kept.
    #[error("cannot keep the files of archive `{}` in `{}`", path.display(), directory.display())]
    Spool {
        /// The archive.
        path: PathBuf,
        /// Where its files are kept.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A compression that kiln does not undo.
    #[error("archive `{}` is compressed by {compression}, which is not supported", path.display())]
    Compression {
        /// The archive.
        path: PathBuf,
        /// The name of what compressed it.
        compression: &'static str,
    },
    /// Bytes that are no tar archive, or a broken one.
    #[error("archive `{}` is damaged at byte {offset}: {problem}", path.display())]
    Damaged {
        /// The archive.
        path: PathBuf,
        /// Where, in bytes of the uncompressed archive.
        offset: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// A member that no tree can hold.
    #[error("archive `{}` has member `{}`, {problem}", path.display(), member.display())]
    Unsupported {
        /// The archive.
        path: PathBuf,
        /// The member's name.
        member: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A member's name or place is impossible.
    #[error("archive `{}` has member `{}`, which cannot be put into a tree", path.display(), member.display())]
    Misplaced {
        /// The archive.
        path: PathBuf,
        /// The member's name.
        member: PathBuf,
        /// Why.
        #[source]
        source: tree::Error,
    },
    /// All members together make no tree.
    #[error("archive `{}` cannot be made a tree of", path.display())]
    Tree {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: tree::Error,
    },
}

/// What to do about an archive that ends too early.
const CUT_OFF: &str = "the archive may be cut off: compare its size or checksum";

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Compression { .. } => "uncompress it first: tar, gzip, xz and zstd are read",
            Error::Damaged { offset: 0, .. } => {
                "a tree is a directory, or a tar archive: plain or by gzip, xz or zstd"
            }
            Error::Damaged { .. } => CUT_OFF,
            Error::Read { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => CUT_OFF,
            Error::Spool { .. } => {
                "the files of a compressed archive lie beside the output while it is written"
            }
            Error::Misplaced { source, .. } => match source {
                tree::Error::Missing { .. } => {
                    "a hard link comes after the file that it names: make the archive again with that file"
                }
                tree::Error::NotADirectory { .. } => {
                    "links of the archive are not followed: unpack it, and pack the directory"
                }
                tree::Error::NotEmpty { .. } => {
                    "tar would refuse it, too: make the archive again without the directory's files"
                }
                tree::Error::BadPath { .. } => {
                    "make the archive again from within the tree, as by `tar -C TREE -cf NAME .`"
                }
                _ => "unpack it, and pack the directory",
            },
            Error::Unsupported { .. } | Error::Tree { .. } => {
                "make the archive again with `tar --format=pax`"
            }
            // Not the kernel says so, but what undoes the compression.
            Error::Read { source, .. } if source.raw_os_error().is_none() => {
                "uncompress it with its own program, which tells damage, and pack what that gives"
            }
            Error::Read { .. } => return None,
        };
        Some(text.to_owned())
    }
}
