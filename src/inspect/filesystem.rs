//! Filesystems in an image: what a partition holds, and files of ext2, 3 and 4.

use std::collections::VecDeque;
use std::sync::Arc;

use super::image::Image;
use crate::sink::{Cause, ReadAt};

/// Bytes that are read at once: compressed images are decompressed in units of
/// this order anyway.
const CHUNK: u64 = 256 << 10;
/// Chunks that are kept: file data and the metadata around it.
const KEPT: usize = 16;

/// Where a kind of content shows: offset, bytes, name.
const SIGNATURES: [(u64, &[u8], &str); 13] = [
    (1080, b"\x53\xef", EXT),
    (0, b"XFSB", "xfs"),
    (65600, b"_BHRfS_M", "btrfs"),
    (82, b"FAT32   ", "fat"),
    (54, b"FAT16   ", "fat"),
    (54, b"FAT12   ", "fat"),
    (512, b"LABELONE", "a volume of LVM"),
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (0, b"hsqs", "squashfs"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (4086, b"SWAPSPACE2", "swap space"),
    (32769, b"CD001", "a CD (ISO 9660)"),
    (1040, b"\x10\x20\xf5\xf2", "f2fs"),
];

/// Name of the filesystems that are read.
pub const EXT: &str = "ext2, ext3 or ext4";

/// What a range of the disk holds, by its signature; `None` if it is not known.
///
/// # Errors
/// The disk cannot be read.
pub fn identify(disk: &dyn ReadAt, start: u64, length: u64) -> Result<Option<&'static str>, Cause> {
    let mut reader = disk.reader();
    for (offset, expected, name) in SIGNATURES {
        let end = offset + expected.len() as u64;
        let inside = start
            .checked_add(end)
            .is_some_and(|end| end <= disk.length());
        if !inside || end > length {
            continue;
        }
        let mut found = vec![0; expected.len()];
        reader.read_at(start + offset, &mut found)?;
        if found == expected {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// An ext2, ext3 or ext4 filesystem, read only.
pub struct Ext {
    inner: ext4_view::Ext4,
}

impl std::fmt::Debug for Ext {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ext").finish_non_exhaustive()
    }
}

/// A filesystem or a file of one cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ExtError {
    /// The filesystem itself.
    #[error("the filesystem cannot be read")]
    Filesystem(#[source] ext4_view::Ext4Error),
    /// A file or directory in it.
    #[error("cannot read `{path}` of the image")]
    File {
        /// Its path.
        path: String,
        /// Why.
        source: ext4_view::Ext4Error,
    },
}

impl ExtError {
    fn file(path: &str) -> impl FnOnce(ext4_view::Ext4Error) -> ExtError {
        let path = path.to_owned();
        move |source| ExtError::File { path, source }
    }
}

impl Ext {
    /// Opens the filesystem in a range of the disk.
    ///
    /// # Errors
    /// It is damaged, or has features that are not read.
    pub fn open(image: &Arc<Image>, start: u64, length: u64) -> Result<Ext, ExtError> {
        let view = View {
            image: Arc::clone(image),
            start,
            length,
            chunks: VecDeque::new(),
        };
        let inner = ext4_view::Ext4::load(Box::new(view)).map_err(ExtError::Filesystem)?;
        Ok(Ext { inner })
    }

    /// Names in a directory, sorted; none if there is no such directory.
    ///
    /// # Errors
    /// The directory is there but cannot be read.
    pub fn names(&self, path: &str) -> Result<Vec<String>, ExtError> {
        let read = match self.inner.read_dir(path) {
            Err(ext4_view::Ext4Error::NotFound | ext4_view::Ext4Error::NotADirectory) => {
                return Ok(Vec::new());
            }
            other => other.map_err(ExtError::file(path))?,
        };
        let mut names = Vec::new();
        for entry in read {
            let entry = entry.map_err(ExtError::file(path))?;
            // What is not text is nothing that kiln looks for.
            if let Ok(name) = entry.file_name().as_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether a path leads to anything.
    ///
    /// # Errors
    /// The filesystem cannot be read.
    pub fn exists(&self, path: &str) -> Result<bool, ExtError> {
        self.inner.exists(path).map_err(ExtError::file(path))
    }

    /// The target of a symbolic link; `None` for anything else.
    ///
    /// # Errors
    /// The filesystem cannot be read.
    pub fn link(&self, path: &str) -> Result<Option<String>, ExtError> {
        match self.inner.symlink_metadata(path) {
            Ok(about) if about.is_symlink() => {}
            Ok(_) | Err(ext4_view::Ext4Error::NotFound) => return Ok(None),
            Err(error) => return Err(ExtError::file(path)(error)),
        }
        let target = self.inner.read_link(path).map_err(ExtError::file(path))?;
        Ok(target.to_str().ok().map(str::to_owned))
    }

    /// Length of a file in bytes; links are followed within the filesystem.
    ///
    /// # Errors
    /// There is no such file.
    pub fn length(&self, path: &str) -> Result<u64, ExtError> {
        let about = self.inner.metadata(path).map_err(ExtError::file(path))?;
        Ok(about.len())
    }

    /// Gives the bytes of a file in order to `take`.
    ///
    /// # Errors
    /// The file cannot be read, or what `take` returns.
    pub fn read<E: From<ExtError>>(
        &self,
        path: &str,
        take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |source| E::from(ExtError::file(path)(source));
        let mut file = self.inner.open(path).map_err(failed)?;
        let mut buffer = vec![0; 64 << 10];
        let mut filled = 0;
        loop {
            // A read ends with its block, which may be as small as 1 KiB.
            let count = file.read_bytes(&mut buffer[filled..]).map_err(failed)?;
            filled += count;
            if filled == buffer.len() || (count == 0 && filled > 0) {
                take(&buffer[..filled])?;
                filled = 0;
            }
            if count == 0 {
                return Ok(());
            }
        }
    }
}

/// A range of an image as the reader of the filesystem sees it.
struct View {
    image: Arc<Image>,
    start: u64,
    length: u64,
    /// Chunks that were read last, the newest first.
    chunks: VecDeque<(u64, Vec<u8>)>,
}

/// The filesystem points outside of its partition.
#[derive(Debug, thiserror::Error)]
#[error("the filesystem ends before byte {end}, which it points to")]
struct Outside {
    end: u64,
}

impl View {
    /// The chunk of this number, at the front of those that are kept.
    fn load(&mut self, number: u64) -> Result<(), Cause> {
        if let Some(at) = self.chunks.iter().position(|(have, _)| *have == number) {
            if at > 0
                && let Some(chunk) = self.chunks.remove(at)
            {
                self.chunks.push_front(chunk);
            }
            return Ok(());
        }
        let offset = number * CHUNK;
        let length = CHUNK.min(self.length.saturating_sub(offset));
        let mut bytes = vec![0; usize::try_from(length)?];
        self.image
            .reader()
            .read_at(self.start + offset, &mut bytes)?;
        self.chunks.truncate(KEPT - 1);
        self.chunks.push_front((number, bytes));
        Ok(())
    }
}

impl ext4_view::Ext4Read for View {
    fn read(&mut self, start_byte: u64, dst: &mut [u8]) -> Result<(), Cause> {
        let end = start_byte.saturating_add(dst.len() as u64);
        if end > self.length {
            return Err(Box::new(Outside { end }));
        }
        let mut at = start_byte;
        let mut rest = dst;
        while !rest.is_empty() {
            self.load(at / CHUNK)?;
            let Some((_, chunk)) = self.chunks.front() else {
                return Err(Box::new(Outside { end }));
            };
            let from = usize::try_from(at % CHUNK)?;
            let part = rest.len().min(chunk.len() - from);
            let (now, later) = rest.split_at_mut(part);
            now.copy_from_slice(&chunk[from..from + part]);
            at += part as u64;
            rest = later;
        }
        Ok(())
    }
}
