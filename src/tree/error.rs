//! What can go wrong with a tree.

use std::io;
use std::path::PathBuf;

/// A failure to scan, edit or read a tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a file of the tree failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried, as a verb phrase (`open`, `read the attributes of`, …).
        action: &'static str,
        /// The file, relative to the root of the tree where it is inside it.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file has fewer bytes than when the tree was scanned.
    #[error("`{}` shrank from {expected} to {end} bytes while it was read; keep the tree unchanged until the image is written", path.display())]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// Its length when the tree was scanned, in bytes.
        expected: u64,
        /// Where it ends now, in bytes.
        end: u64,
        /// How many bytes at the start of the caller's buffer are valid.
        filled: usize,
    },
    /// Something that is not a directory is covered by another mount.
    #[error("`{}` is covered by a mount, so the file below it cannot be seen; unmount it before the tree is scanned", path.display())]
    MountedFile {
        /// The file.
        path: PathBuf,
    },
    /// The kernel reports a file type that no image can hold.
    #[error("`{}` has the unknown file type {mode:#o}", path.display())]
    UnknownType {
        /// The file.
        path: PathBuf,
        /// Type bits of its mode.
        mode: u32,
    },
    /// More names, or more bytes of names, than a tree can number.
    #[error(
        "the tree has too many files: at most 4294967295 names with 4 GiB of text are supported"
    )]
    TooLarge,
    /// A path cannot be put into a tree.
    #[error("`{}` is not a usable path: {reason}", path.display())]
    BadPath {
        /// The path as given.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A path that must exist does not.
    #[error("`{}` is not in the tree", path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// A path component that must be a directory is something else.
    #[error("`{}` is not a directory", path.display())]
    NotADirectory {
        /// The path up to the offending component.
        path: PathBuf,
    },
    /// Something else would take the place of a directory and of all that is in it.
    #[error("`{}` is a directory that has files, and only a directory can take its place", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A directory cannot have a second name.
    #[error("`{}` is a directory, so it cannot be hard-linked", path.display())]
    DirectoryLink {
        /// The directory.
        path: PathBuf,
    },
    /// A thread could not be started.
    #[error("cannot start a thread to scan the tree")]
    Thread {
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The contents of something other than a regular file were asked for.
    #[error("`{}` is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
}

/// What to do about files that change while they are read.
const CHANGED: &str = "it changed meanwhile: keep the tree unchanged until the image is written";

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        let Error::Io { source, .. } = self else {
            return None;
        };
        // An archive that is shorter than it was.
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return Some(CHANGED);
        }
        match source.raw_os_error()? {
            libc::EACCES | libc::EPERM => {
                Some("run as the owner of the files or as root, or pack a tar archive of the tree")
            }
            // It was a regular file, or a directory, when its name was read.
            libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EISDIR | libc::ESPIPE => {
                Some(CHANGED)
            }
            libc::EIO => Some(
                "its device or filesystem fails: see the kernel's messages (`dmesg`), and copy the file from elsewhere",
            ),
            _ => None,
        }
    }

    /// The failure of a tree that another error came from.
    pub fn behind<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}
