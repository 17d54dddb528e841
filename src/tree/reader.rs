//! Reads the bytes of files.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Content, DataRange, Error, InodeId, Kind, NodeId, Origin, Tree};

/// An open file that holds the data of many files of a tree.
///
/// Two are equal only if they are the same open file.
#[derive(Debug)]
pub struct Packed {
    file: File,
    path: PathBuf,
}

impl Packed {
    /// Takes an open file; `path` is for messages.
    pub fn new(file: File, path: PathBuf) -> Packed {
        Packed { file, path }
    }

    /// The open file; only its positional operations are of use.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` from `offset` of a file with these data ranges, of which
    /// each begins where `starts` says in this one.
    fn read(
        &self,
        ranges: &[DataRange],
        starts: &[u64],
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        buffer.fill(0);
        let end = offset.saturating_add(buffer.len() as u64);
        let first = ranges.partition_point(|range| range.offset + range.length <= offset);
        for (range, start) in ranges.iter().zip(starts).skip(first) {
            let (from, to) = (
                range.offset.max(offset),
                (range.offset + range.length).min(end),
            );
            if from >= to {
                break;
            }
            let place = |byte: u64| usize::try_from(byte - offset).unwrap_or(usize::MAX);
            let piece = &mut buffer[place(from)..place(to)];
            self.file
                .read_exact_at(piece, start.saturating_add(from - range.offset))?;
        }
        Ok(())
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Packed) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Packed {}

/// Reads files of a tree. Each thread has its own.
///
/// It keeps the last directory (as an `O_PATH` descriptor) and the last file
/// open, so reading a tree in order costs one `open` a file.
#[derive(Debug)]
pub struct Reader {
    tree: Arc<Tree>,
    directory: Option<(NodeId, OwnedFd)>,
    file: Option<(InodeId, File)>,
    /// Where the data ranges of the last packed sparse file begin.
    starts: Option<(InodeId, Box<[u64]>)>,
    /// The packed file that was lent out last.
    whole: Option<Arc<Packed>>,
}

impl Tree {
    /// The bytes of a small file, whole.
    ///
    /// # Errors
    /// If it is not a regular file or cannot be read.
    pub fn read_small(self: &Arc<Self>, node: NodeId) -> Result<Vec<u8>, Error> {
        let inode = self.node(node).inode;
        let mut bytes = vec![0; usize::try_from(self.content(inode)?.size).unwrap_or(usize::MAX)];
        let count = self.reader().read_at(inode, 0, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// A reader of this tree's files, for use by one thread.
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader {
            tree: Arc::clone(self),
            directory: None,
            file: None,
            starts: None,
            whole: None,
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
            Origin::Packed {
                file,
                offset: start,
            } => {
                let read = match &content.data {
                    None => file
                        .file
                        .read_exact_at(buffer, start.saturating_add(offset)),
                    Some(ranges) => {
                        let starts = self.starts(inode, ranges, *start);
                        file.read(ranges, starts, offset, buffer)
                    }
                };
                return read.map(|()| wanted).map_err(|source| Error::Io {
                    action: "read",
                    path: file.path.clone(),
                    source: match source.kind() {
                        io::ErrorKind::UnexpectedEof => io::Error::new(
                            source.kind(),
                            "it ends before it did when it was opened",
                        ),
                        _ => source,
                    },
                });
            }
            Origin::Live(node) => *node,
        };
        let file = self.open(inode, node)?;
        let mut filled = 0;
        while filled < wanted {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => {
                    // It may end well before what this reader was to read.
                    let read = offset + filled as u64;
                    let end = file.metadata().map_or(read, |now| now.len().min(read));
                    return Err(Error::Shrunk {
                        path: tree.path_of_inode(inode),
                        expected: content.size,
                        end,
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
        let tree = Arc::clone(&self.tree);
        let content = tree.content(inode)?;
        let node = match &content.origin {
            Origin::Bytes(_) => return Ok(None),
            // Its offsets are others, unless it is the whole of the open file.
            Origin::Packed { file, offset } => {
                if *offset != 0 || content.data.is_some() {
                    return Ok(None);
                }
                self.file = None;
                self.whole = Some(Arc::clone(file));
                return Ok(self.whole.as_ref().map(|packed| packed.file.as_fd()));
            }
            Origin::Live(node) => *node,
        };
        Ok(Some(self.open(inode, node)?.as_fd()))
    }

    /// Where the ranges of a packed file begin, the first at `start`.
    fn starts(&mut self, inode: InodeId, ranges: &[DataRange], start: u64) -> &[u64] {
        if self.starts.as_ref().is_none_or(|(of, _)| *of != inode) {
            let mut at = start;
            let starts = ranges.iter().map(|range| {
                let start = at;
                at = at.saturating_add(range.length);
                start
            });
            self.starts = Some((inode, starts.collect()));
        }
        self.starts.as_ref().map_or(&[], |(_, starts)| starts)
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
