//! Readers of filesystems: one interface, whatever the filesystem is.
//!
//! All of it is untrusted input: structures are checked before they are used,
//! walks are bounded by the size of the volume, and names that could lead out of
//! a directory are errors.

use std::cell::RefCell;

use crate::tree::{Device, Timestamp, Xattrs};

mod btrfs;
mod content;
mod detect;
mod error;
mod ext4;
mod fat;
mod inode;
mod lookup;
mod squashfs;
mod subvolume;
mod walk;
mod xfs;

pub use content::File;
pub use detect::{Identity, identify};
pub use error::Error;
pub use subvolume::Subvolume;
pub use walk::Walk;

use super::Volume;
use content::Units;

/// What is read, for people.
pub const KINDS: &str = "ext2 to ext4, XFS, btrfs, squashfs and FAT";

/// Largest directory that is read, in bytes.
const MAX_DIRECTORY: u64 = 512 << 20;
/// Most ranges of data in one file.
const MAX_RUNS: usize = 4 << 20;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileKind {
    /// What the upper bits of a mode say (`S_IFMT`, `inode(7)`).
    fn of_mode(mode: u32) -> Option<FileKind> {
        Some(match mode >> 12 {
            0o10 => FileKind::File,
            0o04 => FileKind::Directory,
            0o12 => FileKind::Symlink,
            0o02 => FileKind::CharDevice,
            0o06 => FileKind::BlockDevice,
            0o01 => FileKind::Fifo,
            0o14 => FileKind::Socket,
            _ => return None,
        })
    }

    /// Its name in a sentence, with article.
    pub fn phrase(self) -> &'static str {
        match self {
            FileKind::File => "a file",
            FileKind::Directory => "a directory",
            FileKind::Symlink => "a symbolic link",
            FileKind::CharDevice => "a character device",
            FileKind::BlockDevice => "a block device",
            FileKind::Fifo => "a named pipe",
            FileKind::Socket => "a socket",
        }
    }

    /// Its name in data.
    pub fn name(self) -> &'static str {
        match self {
            FileKind::File => "file",
            FileKind::Directory => "directory",
            FileKind::Symlink => "symlink",
            FileKind::CharDevice => "char",
            FileKind::BlockDevice => "block",
            FileKind::Fifo => "fifo",
            FileKind::Socket => "socket",
        }
    }

    /// The letter that `ls -l` begins a line with.
    pub fn letter(self) -> char {
        match self {
            FileKind::File => '-',
            FileKind::Directory => 'd',
            FileKind::Symlink => 'l',
            FileKind::CharDevice => 'c',
            FileKind::BlockDevice => 'b',
            FileKind::Fifo => 'p',
            FileKind::Socket => 's',
        }
    }
}

/// A file within its filesystem: ext4's or XFS's inode number, or where FAT keeps the
/// file's directory entry; of btrfs, the inode number with its subvolume's place
/// among those that were met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

/// What is known of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits (07777). On FAT, those that Linux shows by default.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Number of names.
    pub links: u32,
    /// The number of a device.
    pub device: Option<Device>,
}

impl Metadata {
    /// A directory of which nothing more is known.
    fn nobodys_directory() -> Metadata {
        Metadata {
            kind: FileKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp::default(),
            links: 1,
            device: None,
        }
    }
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Neither empty nor `.` nor `..`, without slashes and zeros.
    pub name: Vec<u8>,
    /// What it stands for.
    pub file: FileId,
}

/// A range of a file and where its bytes are; what no run covers is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// First byte in the file.
    offset: u64,
    length: u64,
    /// First byte on the volume.
    at: u64,
}

/// A filesystem that is open for reading.
#[derive(Debug)]
pub struct FileSystem<'a> {
    volume: Volume<'a>,
    format: Format,
    root: FileId,
    units: RefCell<Units>,
}

#[derive(Debug)]
enum Format {
    SquashFs(squashfs::SquashFs),
    Btrfs(btrfs::Btrfs),
    Ext4(ext4::Ext4),
    Fat(fat::Fat),
    Xfs(xfs::Xfs),
}

impl<'a> FileSystem<'a> {
    /// Opens the filesystem of a volume.
    ///
    /// # Errors
    /// There is none, or none that kiln reads; it is damaged.
    pub fn open(volume: Volume<'a>) -> Result<FileSystem<'a>, Error> {
        let format = if ext4::is_ext4(&volume) {
            Format::Ext4(ext4::Ext4::open(&volume)?)
        } else if xfs::is_xfs(&volume) {
            Format::Xfs(xfs::Xfs::open(&volume)?)
        } else if btrfs::is_btrfs(&volume) {
            Format::Btrfs(btrfs::Btrfs::open(&volume)?)
        } else if squashfs::is_squashfs(&volume) {
            Format::SquashFs(squashfs::SquashFs::open(&volume)?)
        } else if fat::is_fat(&volume) {
            Format::Fat(fat::Fat::open(&volume)?)
        } else {
            return Err(match identify(&volume) {
                Some(identity) => Error::Unsupported {
                    what: format!("is {}", identity.kind),
                },
                None => Error::Unknown,
            });
        };
        let root = match &format {
            Format::Ext4(_) => FileId(ext4::ROOT),
            Format::Fat(_) => FileId(fat::ROOT),
            Format::Xfs(xfs) => FileId(xfs.root()),
            Format::Btrfs(btrfs) => btrfs.root(),
            Format::SquashFs(squashfs) => squashfs.root(),
        };
        Ok(FileSystem {
            volume,
            format,
            root,
            units: RefCell::default(),
        })
    }

    /// The root directory: of btrfs, that of the subvolume that is mounted unless
    /// another is named, or of the one that was entered.
    pub fn root(&self) -> FileId {
        self.root
    }

    /// Bytes of all its blocks, and of those that are free, if it keeps count.
    pub fn space(&self) -> (u64, Option<u64>) {
        match &self.format {
            Format::Ext4(ext4) => ext4.space(),
            Format::Btrfs(btrfs) => btrfs.space(),
            Format::SquashFs(squashfs) => squashfs.space(),
            Format::Fat(fat) => (fat.size(), None),
            Format::Xfs(xfs) => xfs.space(),
        }
    }

    /// What a reader should know: that it was not unmounted cleanly, so that its
    /// journal may hold changes which are not seen here.
    pub fn is_dirty(&self) -> bool {
        match &self.format {
            Format::Ext4(ext4) => ext4.needs_recovery(),
            Format::Btrfs(btrfs) => btrfs.needs_recovery(),
            Format::Fat(_) | Format::SquashFs(_) => false,
            Format::Xfs(xfs) => xfs.is_dirty(),
        }
    }

    /// What is known of a file.
    ///
    /// # Errors
    /// As all that follow: the filesystem is damaged or cannot be read.
    pub fn metadata(&self, file: FileId) -> Result<Metadata, Error> {
        match &self.format {
            Format::Ext4(ext4) => ext4.metadata(&self.volume, file),
            Format::Btrfs(btrfs) => btrfs.metadata(&self.volume, file),
            Format::SquashFs(squashfs) => squashfs.metadata(&self.volume, file),
            Format::Fat(fat) => fat.metadata(&self.volume, file),
            Format::Xfs(xfs) => xfs.metadata(&self.volume, file),
        }
    }

    /// The names in a directory, in the order of their bytes. A [`Walk`] gives
    /// those of many directories.
    ///
    /// # Errors
    /// It is no directory.
    pub fn entries(&self, directory: FileId) -> Result<Vec<Entry>, Error> {
        let mut entries = self.unsorted_entries(directory)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.dedup_by(|a, b| a.name == b.name);
        Ok(entries)
    }

    fn unsorted_entries(&self, directory: FileId) -> Result<Vec<Entry>, Error> {
        match &self.format {
            Format::Ext4(ext4) => ext4.entries(&self.volume, directory),
            Format::Btrfs(btrfs) => btrfs.entries(&self.volume, directory),
            Format::SquashFs(squashfs) => squashfs.entries(&self.volume, directory),
            Format::Fat(fat) => fat.entries(&self.volume, directory),
            Format::Xfs(xfs) => xfs.entries(&self.volume, directory),
        }
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// It is no link.
    pub fn link_target(&self, link: FileId) -> Result<Vec<u8>, Error> {
        match &self.format {
            Format::Ext4(ext4) => ext4.link_target(&self.volume, link),
            Format::Xfs(xfs) => xfs.link_target(&self.volume, link),
            Format::Btrfs(btrfs) => btrfs.link_target(&self.volume, link),
            Format::SquashFs(squashfs) => squashfs.link_target(&self.volume, link),
            Format::Fat(fat) => Err(Error::NotALink {
                path: fat::Fat::place(link),
                what: fat.metadata(&self.volume, link)?.kind.phrase(),
            }),
        }
    }

    /// Extended attributes by their full names.
    ///
    /// # Errors
    /// The filesystem is damaged or cannot be read.
    pub fn xattrs(&self, file: FileId) -> Result<Xattrs, Error> {
        match &self.format {
            Format::Ext4(ext4) => ext4.xattrs(&self.volume, file),
            Format::Btrfs(btrfs) => btrfs.xattrs(&self.volume, file),
            Format::SquashFs(squashfs) => squashfs.xattrs(&self.volume, file),
            Format::Fat(_) => Ok(Xattrs::new()),
            Format::Xfs(xfs) => xfs.xattrs(&self.volume, file),
        }
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// It is no regular file, or is stored in a way that is not read (encrypted).
    pub fn file(&self, file: FileId) -> Result<File, Error> {
        match &self.format {
            Format::Ext4(ext4) => ext4.file(&self.volume, file),
            Format::Btrfs(btrfs) => btrfs.file(&self.volume, file),
            Format::SquashFs(squashfs) => squashfs.file(&self.volume, file),
            Format::Fat(fat) => fat.file(&self.volume, file),
            Format::Xfs(xfs) => xfs.file(&self.volume, file),
        }
    }

    /// A whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`FileSystem::file`]; a larger file is not read.
    pub fn read(&self, file: FileId, limit: u64) -> Result<Vec<u8>, Error> {
        let open = self.file(file)?;
        if open.size > limit {
            return Err(Error::Unsupported {
                what: format!("has {} bytes where at most {limit} are expected", open.size),
            });
        }
        let mut bytes = vec![0; usize::try_from(open.size).unwrap_or(0)];
        self.read_at(&open, 0, &mut bytes)?;
        Ok(bytes)
    }
}

/// Whether a name from an image may be the name of a file.
fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

#[cfg(test)]
mod tests;
