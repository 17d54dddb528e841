//! Reads the bytes of files.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::{Content, Error, InodeId, Kind, NodeId, Origin, Tree};

/// Reads files of a tree. Each thread has its own.
///
/// It keeps the last directory (as an `O_PATH` descriptor) and the last file
/// open, so reading a tree in order costs one `open` a file.
#[derive(Debug)]
pub struct Reader {
    tree: Arc<Tree>,
    directory: Option<(NodeId, OwnedFd)>,
    file: Option<(InodeId, File)>,
}

impl Tree {
    /// A reader of this tree's files, for use by one thread.
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader {
            tree: Arc::clone(self),
            directory: None,
            file: None,
        }
    }

    fn content(&self, inode: InodeId) -> Result<&Content, Error> {
        match &self.inode(inode).kind {
            Kind::File(content) => Ok(content),
            _ => Err(Error::NotAFile {
                path: self.path_of_inode(inode),
            }),
        }
    }
}

impl Reader {
    /// The tree it reads.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// Reads from `offset` until the buffer is full or the file ends, and
    /// returns how many bytes were read. Holes read as zeros.
    ///
    /// # Errors
    ///
    /// [`Error::Shrunk`] if the file is shorter than it was when the tree was
    /// scanned; what was read is in the buffer, the rest of it is unchanged.
    pub fn read_at(
        &mut self,
        inode: InodeId,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, Error> {
        let tree = Arc::clone(&self.tree);
        let content = tree.content(inode)?;
        let left = usize::try_from(content.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let Some(buffer) = buffer.get_mut(..wanted).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        let node = match &content.origin {
            Origin::Bytes(bytes) => {
                // `wanted > 0`, so the offset is inside; content of an image's
                // own files has the size of its bytes.
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(wanted);
                match bytes.get(start..end) {
                    Some(bytes) => buffer.copy_from_slice(bytes),
                    None => {
                        return Err(Error::Shrunk {
                            path: tree.path_of_inode(inode),
                            expected: content.size,
                            end: bytes.len() as u64,
                            filled: 0,
                        });
                    }
                }
                return Ok(wanted);
            }
            Origin::Live(node) => *node,
        };
        let file = self.open(inode, node)?;
        let mut filled = 0;
        while filled < wanted {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => {
                    return Err(Error::Shrunk {
                        path: tree.path_of_inode(inode),
                        expected: content.size,
                        end: offset + filled as u64,
                        filled,
                    });
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Io {
                        action: "read",
                        path: tree.path_of_inode(inode),
                        source,
                    });
                }
            }
        }
        Ok(filled)
    }

    /// The open file, so that a sink can let the kernel copy or clone from it;
    /// `None` if the bytes are in memory. Its position is not meaningful.
    pub fn file(&mut self, inode: InodeId) -> Result<Option<BorrowedFd<'_>>, Error> {
        let node = match &self.tree.content(inode)?.origin {
            Origin::Bytes(_) => return Ok(None),
            Origin::Live(node) => *node,
        };
        Ok(Some(self.open(inode, node)?.as_fd()))
    }

    fn open(&mut self, inode: InodeId, node: NodeId) -> Result<&File, Error> {
        if self.file.as_ref().is_none_or(|(open, _)| *open != inode) {
            // The old one goes first, so that two are never open at once.
            self.file = None;
            let Some(source) = self.tree.source.as_ref() else {
                return Err(Error::Missing {
                    path: self.tree.path_of_inode(inode),
                });
            };
            let parent = source.parent(node);
            if self
                .directory
                .as_ref()
                .is_none_or(|(open, _)| *open != parent)
            {
                self.directory = None;
                self.directory = Some((parent, source.open_directory(parent)?));
            }
            if let Some((_, directory)) = &self.directory {
                let file = source.open_file(directory.as_fd(), node)?;
                self.file = Some((inode, File::from(file)));
            }
        }
        match &self.file {
            Some((_, file)) => Ok(file),
            None => Err(Error::Missing {
                path: self.tree.path_of_inode(inode),
            }),
        }
    }
}
