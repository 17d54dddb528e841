//! What a disk holds: its partitions, and which of them is meant.

use super::Volume;
use super::fs::{Error as FsError, FileSystem, Identity, identify};
use super::partitions::{Partition, Table};
use crate::sink::ReadAt;

/// Where systems say what they are.
const OS_RELEASE: [&[u8]; 2] = [b"/etc/os-release", b"/usr/lib/os-release"];
/// Longest `os-release` that is read.
const MAX_OS_RELEASE: u64 = 64 << 10;

/// A disk's partitions, or the one volume that it is.
pub struct Contents<'a> {
    disk: &'a dyn ReadAt,
    /// The partition table, if there is one.
    pub table: Option<Table>,
    /// What can be opened, in the order of the numbers.
    pub parts: Vec<Part>,
}

/// A partition, or a whole disk without any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its entry in the table; `None` for a whole disk.
    pub partition: Option<Partition>,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// What it says it holds.
    pub identity: Option<Identity>,
}

/// Why a partition cannot be chosen.
#[derive(Debug, thiserror::Error)]
pub enum ChooseError {
    /// None is named so.
    #[error("the image has no partition `{name}`")]
    NoPartition {
        /// The number, name or label that was asked for.
        name: String,
        /// What there is.
        have: Vec<String>,
    },
    /// None has a filesystem that kiln reads.
    #[error("the image has no filesystem that kiln reads")]
    NoFileSystem {
        /// What there is.
        have: Vec<String>,
    },
    /// The chosen one cannot be opened.
    #[error(transparent)]
    FileSystem(#[from] FsError),
}

impl ChooseError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ChooseError::NoPartition { have, .. } if have.is_empty() => {
                Some("it has no partitions at all: leave off `:PARTITION`".to_owned())
            }
            ChooseError::NoPartition { have, .. } => Some(format!("it has {}", have.join(", "))),
            ChooseError::NoFileSystem { have } if have.is_empty() => Some(
                "if it is an image of a format that is not recognised, convert it first".to_owned(),
            ),
            ChooseError::NoFileSystem { have } => Some(format!(
                "it has {}; ext2 to ext4 and FAT are read",
                have.join(", ")
            )),
            ChooseError::FileSystem(error) => error.hint(),
        }
    }
}

impl std::fmt::Debug for Contents<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents")
            .field("table", &self.table)
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

impl<'a> Contents<'a> {
    /// Looks at a disk.
    ///
    /// # Errors
    /// It cannot be read, or its partition table is damaged beyond use.
    pub fn read(disk: &'a dyn ReadAt) -> Result<Contents<'a>, FsError> {
        let table = Table::read(disk)?;
        let part = |partition: Option<&Partition>, start, length| Part {
            partition: partition.cloned(),
            start,
            length,
            identity: identify(&Volume::new(disk, start, length)),
        };
        let parts = match &table {
            None => vec![part(None, 0, disk.length())],
            Some(table) => table
                .partitions
                .iter()
                .map(|partition| part(Some(partition), partition.start, partition.length))
                .collect(),
        };
        Ok(Contents { disk, table, parts })
    }

    /// Opens the filesystem of a part.
    ///
    /// # Errors
    /// It has none that kiln reads.
    pub fn open(&self, part: &Part) -> Result<FileSystem<'a>, FsError> {
        FileSystem::open(Volume::new(self.disk, part.start, part.length))
    }

    /// The part of a number, of a name in the partition table, or of a label.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<&Part, ChooseError> {
        let number = name.parse().ok();
        let numbered = |part: &&Part| {
            let own = part.partition.as_ref().map(|partition| partition.number);
            own.is_some() && own == number
        };
        let named = |part: &&Part| {
            let partition = part.partition.as_ref();
            partition.and_then(|partition| partition.name.as_deref()) == Some(name)
        };
        let labelled = |part: &&Part| {
            let identity = part.identity.as_ref();
            identity.and_then(|identity| identity.label.as_deref()) == Some(name)
        };
        let parts = || self.parts.iter();
        let found = parts()
            .find(numbered)
            .or_else(|| parts().find(named))
            .or_else(|| parts().find(labelled));
        found.ok_or_else(|| ChooseError::NoPartition {
            name: name.to_owned(),
            have: self.names(),
        })
    }

    /// The part with the system's root: the first that says which system it is,
    /// else the largest with a filesystem that kiln reads.
    ///
    /// # Errors
    /// None has one.
    pub fn root(&self) -> Result<&Part, ChooseError> {
        let mut largest: Option<&Part> = None;
        let mut failed = None;
        for part in &self.parts {
            match self.open(part) {
                Ok(files) => {
                    let is_root = OS_RELEASE
                        .iter()
                        .any(|path| files.lookup(path, false).is_ok());
                    if is_root {
                        return Ok(part);
                    }
                    if largest.is_none_or(|largest| part.length > largest.length) {
                        largest = Some(part);
                    }
                }
                Err(error @ FsError::Unsupported { .. }) => drop(error),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match (largest, failed) {
            (Some(part), _) => Ok(part),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(ChooseError::NoFileSystem { have: self.names() }),
        }
    }

    /// The filesystem of the part of this name, or of the root.
    ///
    /// # Errors
    /// As [`Contents::find`], [`Contents::root`] and [`Contents::open`].
    pub fn choose(&self, name: Option<&str>) -> Result<FileSystem<'a>, ChooseError> {
        let part = match name {
            Some(name) => self.find(name)?,
            None => self.root()?,
        };
        Ok(self.open(part)?)
    }

    /// `1 (vfat)`, `2 root (ext4)`: what a user can name.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.parts.iter().filter_map(|part| {
            let kind = part.identity.as_ref().map(|identity| identity.kind);
            let Some(partition) = &part.partition else {
                return kind.map(str::to_owned);
            };
            let mut text = partition.number.to_string();
            if let Some(name) = &partition.name {
                text.push(' ');
                text.push_str(name);
            }
            if let Some(kind) = kind {
                text.push_str(&format!(" ({kind})"));
            }
            Some(text)
        });
        names.collect()
    }
}

/// `os-release` of a root: its keys and values.
pub fn os_release(files: &FileSystem<'_>) -> Vec<(String, String)> {
    let text = OS_RELEASE.iter().find_map(|path| {
        let file = files.lookup(path, true).ok()?;
        files.read(file, MAX_OS_RELEASE).ok()
    });
    let text = text.unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            let (key, value) = line.trim().split_once('=')?;
            if key.starts_with('#') {
                return None;
            }
            // Values are quoted as in a shell.
            let words = shlex::split(value)?;
            Some((key.to_owned(), words.into_iter().next().unwrap_or_default()))
        })
        .collect()
}
