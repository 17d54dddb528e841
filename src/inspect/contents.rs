//! What a disk holds: its partitions and logical volumes, and which of them is meant.

use std::sync::Arc;

use super::fs::{self, Error as FsError, FileSystem, Identity, identify};
use super::lvm::{self, Logical};
use super::mapping::Mapping;
use super::partitions::{Partition, Table};
use super::{Volume, device};
use crate::sink::ReadAt;

/// Where systems say what they are.
const OS_RELEASE: [&[u8]; 2] = [b"/etc/os-release", b"/usr/lib/os-release"];
/// Longest `os-release` that is read.
const MAX_OS_RELEASE: u64 = 64 << 10;

/// A disk's partitions, or the one volume that it is, and its logical volumes.
pub struct Contents<'a> {
    disk: &'a dyn ReadAt,
    /// The partition table, if there is one.
    pub table: Option<Table>,
    /// What can be opened: partitions in the order of their numbers, then logical
    /// volumes.
    pub parts: Vec<Part>,
}

/// Kind of a physical volume of LVM, as `blkid` has it.
pub(super) const PHYSICAL: &str = "LVM2_member";

/// A partition, a whole disk without any, or a logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its entry in the table, if it is a partition.
    pub partition: Option<Partition>,
    /// Its names, if it is a logical volume.
    pub logical: Option<Logical>,
    /// Length in bytes; 0 if it is not known where it is.
    pub length: u64,
    /// What it says it holds.
    pub identity: Option<Identity>,
    place: Place,
}

/// Where a part is on its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// In one range, from this byte on.
    Range(u64),
    /// All over it.
    Mapped(Arc<Mapping>),
    /// In no place that can be read: a clause says why.
    Unknown(String),
}

impl Part {
    /// First byte on the disk; `None` for a logical volume, which may be all over it.
    pub fn start(&self) -> Option<u64> {
        match self.place {
            Place::Range(start) if self.logical.is_none() => Some(start),
            _ => None,
        }
    }

    /// Whether it is a physical volume of LVM, whose logical volumes are parts of
    /// their own.
    pub fn is_physical(&self) -> bool {
        let kind = self.identity.as_ref().map(|identity| identity.kind);
        self.logical.is_none() && kind == Some(PHYSICAL)
    }

    /// What it is, for people: `partition 2`, `logical volume vg/root`, `the disk`.
    pub fn title(&self) -> String {
        match (&self.logical, &self.partition) {
            (Some(logical), _) => format!("logical volume {logical}"),
            (None, Some(partition)) => format!("partition {}", partition.number),
            (None, None) => "the disk".to_owned(),
        }
    }
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
    /// The chosen one has no filesystem of its own.
    #[error("{part} is a physical volume of LVM")]
    Physical {
        /// What was chosen.
        part: String,
        /// Logical volumes of the disk.
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
                "it has {}; {} are read",
                have.join(", "),
                fs::KINDS
            )),
            ChooseError::Physical { have, .. } if have.is_empty() => {
                Some("its group has no logical volumes".to_owned())
            }
            ChooseError::Physical { have, .. } => {
                Some(format!("choose a logical volume: {}", have.join(", ")))
            }
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
            logical: None,
            length,
            identity: identify(&Volume::new(disk, start, length)),
            place: Place::Range(start),
        };
        let parts = match &table {
            None => vec![part(None, 0, disk.length())],
            Some(table) => table
                .partitions
                .iter()
                .map(|partition| part(Some(partition), partition.start, partition.length))
                .collect(),
        };
        let mut contents = Contents { disk, table, parts };
        contents.add_logical_volumes();
        Ok(contents)
    }

    fn add_logical_volumes(&mut self) {
        let (mut physical, mut ranges) = (Vec::new(), Vec::new());
        for part in &mut self.parts {
            if part.is_physical()
                && let Place::Range(start) = part.place
            {
                ranges.push((start, part.length));
                physical.push(part);
            }
        }
        if ranges.is_empty() {
            return;
        }
        let found = lvm::find(self.disk, &ranges);
        for (part, problem) in physical.into_iter().zip(found.problems) {
            if let Some(problem) = problem {
                part.place = Place::Unknown(problem);
            }
        }
        for (logical, mapping) in found.volumes {
            let (length, identity, place) = match mapping {
                Ok(mapping) => {
                    let volume = Volume::mapped(self.disk, Arc::clone(&mapping));
                    let identity = identify(&volume);
                    (mapping.length(), identity, Place::Mapped(mapping))
                }
                Err(problem) => (0, None, Place::Unknown(problem)),
            };
            self.parts.push(Part {
                partition: None,
                logical: Some(logical),
                length,
                identity,
                place,
            });
        }
    }

    /// Opens the filesystem of a part.
    ///
    /// # Errors
    /// It has none that kiln reads.
    pub fn open(&self, part: &Part) -> Result<FileSystem<'a>, FsError> {
        let volume = match &part.place {
            Place::Range(start) => Volume::new(self.disk, *start, part.length),
            Place::Mapped(mapping) => Volume::mapped(self.disk, Arc::clone(mapping)),
            Place::Unknown(problem) => {
                let name = match &part.logical {
                    Some(logical) => format!("logical volume `{logical}`"),
                    None => "the LVM physical volume".to_owned(),
                };
                let what = problem.clone();
                return Err(FsError::Volume { name, what });
            }
        };
        FileSystem::open(volume)
    }

    /// Opens the filesystem of a part at its system's root: a subvolume, where the
    /// one that is mounted by default has no system.
    ///
    /// # Errors
    /// As [`Contents::open`].
    pub fn open_system(&self, part: &Part) -> Result<FileSystem<'a>, FsError> {
        let mut files = self.open(part)?;
        files.enter_system(super::system::has_root)?;
        Ok(files)
    }

    /// The part of a number, of a name in the partition table, of a logical volume
    /// (`group/name`) or a device in its running system (`/dev/group/name`,
    /// `UUID=…`), or of a label.
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
            .or_else(|| parts().find(|part| device::is_logical(part, name)))
            .or_else(|| self.device(name))
            .or_else(|| parts().find(labelled));
        found.ok_or_else(|| ChooseError::NoPartition {
            name: name.to_owned(),
            have: self.names(),
        })
    }

    /// The part with the system's root: the first that says which system it is,
    /// else the largest with a filesystem that kiln reads, one that may be an EFI system
    /// partition last of all.
    ///
    /// # Errors
    /// None has one.
    pub fn root(&self) -> Result<&Part, ChooseError> {
        let rank = |part: &Part| {
            let identity = part.identity.as_ref();
            (identity.is_none_or(|own| own.kind != "vfat"), part.length)
        };
        let mut largest: Option<&Part> = None;
        let mut failed = None;
        for part in &self.parts {
            match self.open_system(part) {
                Ok(files) => {
                    let is_root = OS_RELEASE
                        .iter()
                        .any(|path| files.lookup(path, false).is_ok());
                    if is_root {
                        return Ok(part);
                    }
                    if largest.is_none_or(|largest| rank(part) > rank(largest)) {
                        largest = Some(part);
                    }
                }
                Err(FsError::Unknown) => {}
                Err(FsError::Unsupported { what }) => {
                    // What it is, is known; what else it has is said.
                    let kind = part.identity.as_ref().map(|own| format!("is {}", own.kind));
                    if kind.as_ref() != Some(&what) {
                        failed = failed.or(Some(FsError::Unsupported { what }));
                    }
                }
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
        // One that is damaged says so when it is opened.
        if part.is_physical() && matches!(part.place, Place::Range(_)) {
            let logical = self.parts.iter().filter_map(|part| part.logical.as_ref());
            return Err(ChooseError::Physical {
                part: part.title(),
                have: logical.map(ToString::to_string).collect(),
            });
        }
        Ok(match name {
            Some(_) => self.open(part)?,
            None => self.open_system(part)?,
        })
    }

    /// `1 (vfat)`, `2 root (ext4)`: what a user can name.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.parts.iter().filter_map(|part| {
            let kind = part.identity.as_ref().map(|identity| identity.kind);
            let mut text = match (&part.logical, &part.partition) {
                (Some(logical), _) => logical.to_string(),
                (None, Some(partition)) => partition.number.to_string(),
                (None, None) => return kind.map(str::to_owned),
            };
            if let Some(name) = part.partition.as_ref().and_then(|own| own.name.as_ref()) {
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
