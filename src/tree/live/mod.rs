//! Reads a tree from a directory.
//!
//! Everything is done relative to descriptors below the root, and no path is
//! resolved through a symbolic link or into another mount, so nothing in the
//! directory can lead the scan out of it.

use std::ffi::CString;
use std::fmt::Debug;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use nix::fcntl::OFlag;

use super::{Error, Index, Inode, NodeId, Timestamp};

mod merge;
mod sys;
mod walk;
mod xattrs;

pub use sys::read_directory;
pub use walk::scan;

/// What to scan and how.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// Threads that scan; 0 picks a number. It never changes the result.
    pub threads: usize,
    /// Directories (from the root) that are kept but appear empty.
    pub prune: Vec<PathBuf>,
    /// Times later than this become this (`SOURCE_DATE_EPOCH`).
    pub clamp_mtime: Option<Timestamp>,
    /// Who knows the owners that files should have, where the kernel does not.
    pub owners: Option<Arc<dyn Owners>>,
}

/// What identifies a file while the tree is scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// Device number of the filesystem, as `stat` gives it.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Time of birth in seconds and nanoseconds, 0 where the filesystem has none:
    /// numbers of removed files are used again.
    pub born: (i64, u32),
}

/// Knows the owner, mode, device number and attributes that a file must have in
/// the image, where they could not be given to it in the sandbox.
///
/// Called once for each name, from several threads and in no order.
pub trait Owners: Debug + Send + Sync {
    /// Changes what the kernel reported to what the image must have.
    fn correct(&self, key: FileKey, inode: &mut Inode);
}

/// The directory that a tree was scanned from.
#[derive(Debug)]
pub struct Source {
    root: OwnedFd,
    /// Where the root was, for messages.
    path: PathBuf,
    index: Arc<Index>,
}

impl Source {
    /// The directory that holds a name.
    pub(super) fn parent(&self, node: NodeId) -> NodeId {
        self.index.nodes[node.index()].parent
    }

    /// Opens a directory as a place to open files in.
    pub(super) fn open_directory(&self, node: NodeId) -> Result<OwnedFd, Error> {
        let path = self.index.path(node);
        sys::open_below(self.root.as_fd(), &path, OFlag::O_PATH | OFlag::O_DIRECTORY)
            .map_err(|error| self.failed("open", node, error))
    }

    /// Opens a file in its directory for reading.
    pub(super) fn open_file(
        &self,
        directory: BorrowedFd<'_>,
        node: NodeId,
    ) -> Result<OwnedFd, Error> {
        CString::new(self.index.name(node))
            .map_err(|_| nix::errno::Errno::EINVAL)
            .and_then(|name| sys::open_data(directory, &name))
            .map_err(|error| self.failed("open", node, error))
    }

    /// The path of a name.
    pub(super) fn path(&self, node: NodeId) -> PathBuf {
        self.path.join(super::display_path(&self.index.path(node)))
    }

    fn failed(&self, action: &'static str, node: NodeId, error: nix::errno::Errno) -> Error {
        Error::Io {
            action,
            path: self.path(node),
            source: error.into(),
        }
    }
}
