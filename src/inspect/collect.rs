//! The files of filesystems as a [`Tree`], with all that an archive can keep.
//!
//! What is read of an image is not trusted, but here it only becomes names and
//! numbers in memory. File data goes into one file without a name, which is gone
//! with the tree.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fs::{Error as FsError, FileId, FileKind, FileSystem, Walk};
use crate::tree::{
    self, Content, DataRange, Device, Inode, Kind, Origin, Packed, Tree, TreeBuilder,
};

/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;

/// Why the files of an image do not become a tree.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The image's side.
    #[error("cannot read `{}` in the image", path.display())]
    Image {
        /// The path in the tree.
        path: PathBuf,
        /// Why.
        source: FsError,
    },
    /// There is no room for the data.
    #[error("cannot keep the image's files in `{}`", directory.display())]
    Spool {
        /// Where they are kept.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name or a link that no tree can have.
    #[error(transparent)]
    Tree(#[from] tree::Error),
}

impl CollectError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            CollectError::Image { source, .. } => source.hint(),
            CollectError::Spool { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Some("free some space there, or choose another directory".to_owned())
                }
                _ => None,
            },
            CollectError::Tree(_) => None,
        }
    }
}

/// Puts filesystems together to one tree, as if they were mounted.
#[derive(Debug)]
pub struct Collector {
    builder: TreeBuilder<'static>,
    spool: Arc<Packed>,
    /// Bytes in the spool.
    spooled: u64,
    directory: PathBuf,
    buffer: Vec<u8>,
}

/// What is known while one filesystem is walked.
struct Source<'f, 'd> {
    files: &'f FileSystem<'d>,
    /// The first names of files with several.
    links: HashMap<FileId, PathBuf>,
    walk: Walk,
}

impl Collector {
    /// An empty tree; the data of its files will be kept in `directory`.
    ///
    /// # Errors
    /// No file can be made there.
    pub fn new(directory: &Path) -> Result<Collector, CollectError> {
        let spool = tempfile::tempfile_in(directory).map_err(|source| CollectError::Spool {
            directory: directory.to_owned(),
            source,
        })?;
        Ok(Collector {
            builder: TreeBuilder::new(),
            spool: Arc::new(Packed::new(spool, directory.to_owned())),
            spooled: 0,
            directory: directory.to_owned(),
            buffer: vec![0; CHUNK],
        })
    }

    /// Adds a filesystem at a path, which covers what was there.
    ///
    /// # Errors
    /// See [`CollectError`].
    pub fn mount(&mut self, files: &FileSystem<'_>, at: &Path) -> Result<(), CollectError> {
        if at != Path::new("/") {
            self.builder.remove(at.as_os_str().as_bytes())?;
        }
        let mut source = Source {
            files,
            links: HashMap::new(),
            walk: Walk::default(),
        };
        self.add(&mut source, files.root(), at)
    }

    /// The finished tree.
    ///
    /// # Errors
    /// It has more names than a tree can have.
    pub fn finish(self) -> Result<Tree, CollectError> {
        Ok(self.builder.build()?)
    }

    fn add(
        &mut self,
        source: &mut Source<'_, '_>,
        id: FileId,
        at: &Path,
    ) -> Result<(), CollectError> {
        let files = source.files;
        let image = |source| CollectError::Image {
            path: at.to_owned(),
            source,
        };
        let path = at.as_os_str().as_bytes();
        let metadata = files.metadata(id).map_err(image)?;
        let is_directory = metadata.kind == FileKind::Directory;
        if metadata.links > 1 && !is_directory {
            if let Some(first) = source.links.get(&id) {
                self.builder.hard_link(path, first.as_os_str().as_bytes())?;
                return Ok(());
            }
            source.links.insert(id, at.to_owned());
        }
        let device = metadata.device.unwrap_or(Device { major: 0, minor: 0 });
        let kind = match metadata.kind {
            FileKind::Directory => Kind::Directory,
            FileKind::File => Kind::File(self.content(files, id, at)?),
            FileKind::Symlink => Kind::Symlink(files.link_target(id).map_err(image)?.into()),
            FileKind::CharDevice => Kind::CharDevice(device),
            FileKind::BlockDevice => Kind::BlockDevice(device),
            FileKind::Fifo => Kind::Fifo,
            FileKind::Socket => Kind::Socket,
        };
        let mut inode = Inode::new(kind, metadata.mode)
            .owned_by(metadata.uid, metadata.gid)
            .modified(metadata.mtime);
        let mut xattrs = files.xattrs(id).map_err(image)?;
        // How btrfs keeps a file (`btrfs.compression`) means nothing elsewhere.
        xattrs.retain(|name, _| !name.starts_with(b"btrfs."));
        if !xattrs.is_empty() {
            inode.xattrs = Some(Arc::new(xattrs));
        }
        self.builder.insert(path, inode)?;
        if is_directory {
            for entry in source.walk.enter(files, id).map_err(image)? {
                let name = std::ffi::OsStr::from_bytes(&entry.name);
                self.add(source, entry.file, &at.join(name))?;
            }
            source.walk.leave();
        }
        Ok(())
    }

    /// Copies the data of a file.
    fn content(
        &mut self,
        files: &FileSystem<'_>,
        id: FileId,
        at: &Path,
    ) -> Result<Content, CollectError> {
        let image = |source| CollectError::Image {
            path: at.to_owned(),
            source,
        };
        let file = files.file(id).map_err(image)?;
        let offset = self.spooled;
        let mut data = Vec::new();
        for range in file.data_ranges() {
            let mut position = range.start;
            while position < range.end {
                let left = usize::try_from(range.end - position).unwrap_or(CHUNK);
                let part = &mut self.buffer[..left.min(CHUNK)];
                files.read_at(&file, position, part).map_err(image)?;
                let written = self.spool.file().write_all_at(part, self.spooled);
                written.map_err(|source| CollectError::Spool {
                    directory: self.directory.clone(),
                    source,
                })?;
                let length = part.len() as u64;
                self.spooled += length;
                position += length;
            }
            if range.end > range.start {
                data.push(DataRange {
                    offset: range.start,
                    length: range.end - range.start,
                });
            }
        }
        let whole = DataRange {
            offset: 0,
            length: file.size,
        };
        Ok(Content {
            size: file.size,
            origin: Origin::Packed {
                file: Arc::clone(&self.spool),
                offset,
            },
            data: (file.size > 0 && data != [whole]).then(|| data.into()),
        })
    }
}
