//! The FAT12, FAT16 and FAT32 writer.
//!
//! One pass over the tree places everything: each directory and file is one run
//! of clusters, in path order. Names keep their case and any length (as UTF-16);
//! the 8.3 aliases depend on nothing but the names of the directory.
//!
//! What FAT has no place for: links and devices are errors; owners, modes and
//! extended attributes are dropped and counted in [`Report`]; further names of a
//! file become copies.

use std::path::PathBuf;
use std::sync::Arc;

use zerocopy::IntoBytes as _;

use self::directory::directory_bytes;
use self::format::{
    BootSector, BootSector32, BootSectorEnd, DRIVE_FIXED, ENTRY_SIZE, EXTENDED_SIGNATURE,
    FIRST_CLUSTER, FsInfo, MAX_DIRECTORY, MEDIA_FIXED, SECTOR_SIGNATURE, SIGNATURE_OFFSET,
};
use self::geometry::{FATS, Geometry};
use self::names::{StoredName, store_names};
use super::super::{Extent, Source, Volume};
use crate::tree::{InodeId, Kind, NodeId, Tree};

mod directory;
pub mod format;
mod geometry;
mod names;

pub use geometry::FatType;
pub use names::NameProblem;

/// Sector of [`FsInfo`].
const FS_INFO_SECTOR: u16 = 1;
/// Sector of the copy of the boot sector.
const BACKUP_SECTOR: u16 = 6;
/// Who made it, in the boot sector.
const OEM_NAME: [u8; 8] = *b"kiln    ";
/// What a BIOS runs that boots this volume: ask it for the next device (INT 18h),
/// and stop if it returns.
const BOOT_CODE: [u8; 5] = [0xCD, 0x18, 0xF4, 0xEB, 0xFD];
/// Label where none is asked for.
const NO_LABEL: [u8; 11] = *b"NO NAME    ";

/// What a filesystem looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Label, at most 11 characters of ASCII; written in upper case.
    pub label: Option<String>,
    /// Number of the volume, which Linux shows as its UUID (`1234-ABCD`).
    pub volume_id: u32,
    /// Bytes in a sector, 512 or 4096: the disk's, or drivers refuse it.
    pub bytes_per_sector: u32,
    /// The type; `None` chooses by size, as mkfs.fat does.
    pub fat_type: Option<FatType>,
}

/// What was dropped because FAT has no place for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Files and directories that do not belong to root.
    pub owners: u64,
    /// Files whose permission bits are not those that a mount shows (0755).
    pub modes: u64,
    /// Files and directories with extended attributes.
    pub xattrs: u64,
    /// Names of files that are stored once more.
    pub copies: u64,
}

/// A tree cannot become a FAT filesystem.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A sector size that disks do not have.
    #[error("a FAT filesystem cannot have sectors of {bytes} bytes: use 512 or 4096")]
    SectorSize {
        /// In bytes.
        bytes: u32,
    },
    /// The label has characters (or is of a length) that FAT does not allow.
    #[error(
        "`{label}` cannot be the label of a FAT filesystem: use up to 11 ASCII letters, digits, spaces and `_-`"
    )]
    Label {
        /// As given.
        label: String,
    },
    /// No FAT filesystem has this size.
    #[error("no FAT filesystem fits into {size} bytes")]
    Size {
        /// Bytes of the volume.
        size: u64,
    },
    /// The type is not possible at this size.
    #[error("{fat_type} is not possible in {size} bytes; leave the type to be chosen by size")]
    Type {
        /// What was asked for.
        fat_type: FatType,
        /// Bytes of the volume.
        size: u64,
    },
    /// A link, device, pipe or socket.
    #[error("`{}` is a {kind}, which FAT cannot hold; remove it or move it to another filesystem", path.display())]
    Kind {
        /// Its path in the filesystem.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A name that FAT cannot hold.
    #[error("`{}` cannot be on a FAT filesystem: {problem}", path.display())]
    Name {
        /// Its path in the filesystem.
        path: PathBuf,
        /// What is wrong with it.
        problem: NameProblem,
    },
    /// A file of 4 GiB or more.
    #[error("`{}` has {size} bytes, but a file on FAT has at most 4294967295", path.display())]
    FileTooLarge {
        /// Its path in the filesystem.
        path: PathBuf,
        /// Its length in bytes.
        size: u64,
    },
    /// More names than a directory holds.
    #[error("`{}` has too many names: {entries} entries are needed, and it has room for {limit}", path.display())]
    DirectoryFull {
        /// Its path in the filesystem.
        path: PathBuf,
        /// Entries that its names take (one, and one more for each 13 characters of a long name).
        entries: u64,
        /// Entries that it can have.
        limit: u64,
    },
    /// The files do not fit.
    #[error(
        "the files need {needed} bytes, but the FAT filesystem of {size} bytes has room for {available}"
    )]
    NoSpace {
        /// Bytes in whole clusters.
        needed: u64,
        /// Bytes in clusters that there are.
        available: u64,
        /// Bytes of the volume.
        size: u64,
    },
}

/// Plans a filesystem of `size` bytes that holds the tree.
///
/// # Errors
/// If the tree cannot be on it or does not fit; see [`Error`].
pub fn plan(tree: &Arc<Tree>, options: &Options, size: u64) -> Result<Volume, Error> {
    plan_with_report(tree, options, size).map(|(volume, _)| volume)
}

/// As [`plan`], and tells what was dropped.
///
/// # Errors
/// If the tree cannot be on it or does not fit; see [`Error`].
pub fn plan_with_report(
    tree: &Arc<Tree>,
    options: &Options,
    size: u64,
) -> Result<(Volume, Report), Error> {
    if !matches!(options.bytes_per_sector, 512 | 4096) {
        return Err(Error::SectorSize {
            bytes: options.bytes_per_sector,
        });
    }
    let label = options.label.as_deref().map(stored_label).transpose()?;
    let geometry = Geometry::plan(size, options.bytes_per_sector, options.fat_type).ok_or(
        match options.fat_type {
            Some(fat_type) => Error::Type { fat_type, size },
            None => Error::Size { size },
        },
    )?;
    let report = examine(tree)?;
    let layout = Layout::new(tree, &geometry, label.is_some(), size)?;
    let mut extents = Vec::new();
    let mut put = |offset: u64, bytes: Vec<u8>| {
        if !bytes.is_empty() {
            let length = bytes.len() as u64;
            extents.push(Extent {
                offset,
                length,
                source: Source::Bytes {
                    bytes: bytes.into(),
                    start: 0,
                },
            });
        }
    };
    put(
        0,
        reserved_area(&geometry, options, label.unwrap_or(NO_LABEL), &layout),
    );
    let fat = layout.fat(&geometry);
    for copy in 0..FATS {
        put(geometry.fat_offset(copy), fat.clone());
    }
    layout.place_files(tree, &geometry, label, &mut extents);
    Ok((
        Volume {
            length: size,
            extents,
        },
        report,
    ))
}

/// The label in its field.
fn stored_label(label: &str) -> Result<[u8; 11], Error> {
    let valid = |c: char| (' '..='~').contains(&c) && !"\"*+,./:;<=>?[\\]|".contains(c);
    if label.trim_ascii().is_empty()
        || label.len() > 11
        || label.starts_with(' ')
        || !label.chars().all(valid)
    {
        return Err(Error::Label {
            label: label.to_owned(),
        });
    }
    let mut stored = [b' '; 11];
    for (to, from) in stored.iter_mut().zip(label.bytes()) {
        *to = from.to_ascii_uppercase();
    }
    Ok(stored)
}

/// Refuses what FAT cannot hold and counts what it drops.
fn examine(tree: &Tree) -> Result<Report, Error> {
    let mut report = Report::default();
    for (id, node) in tree.nodes() {
        let inode = tree.inode(node.inode);
        let kind = match &inode.kind {
            Kind::Directory => None,
            Kind::File(content) if content.size > u64::from(u32::MAX) => {
                return Err(Error::FileTooLarge {
                    path: tree.path(id),
                    size: content.size,
                });
            }
            Kind::File(_) => None,
            Kind::Symlink(_) => Some("symbolic link"),
            Kind::CharDevice(_) => Some("character device"),
            Kind::BlockDevice(_) => Some("block device"),
            Kind::Fifo => Some("named pipe"),
            Kind::Socket => Some("socket"),
        };
        if let Some(kind) = kind {
            return Err(Error::Kind {
                path: tree.path(id),
                kind,
            });
        }
        report.owners += u64::from(inode.uid != 0 || inode.gid != 0);
        report.modes += u64::from(inode.mode != 0o755);
        report.xattrs += u64::from(inode.xattrs.as_ref().is_some_and(|set| !set.is_empty()));
    }
    let names = tree.nodes().len() as u64;
    report.copies = names.saturating_sub(tree.inodes().len() as u64);
    Ok(report)
}

/// A run of clusters.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// First cluster; 0 where there is none.
    first: u32,
    /// Number of clusters.
    count: u32,
}

/// A directory with the names of its entries, in the order of its children.
struct Directory {
    node: NodeId,
    names: Vec<StoredName>,
}

/// Where everything is.
struct Layout {
    /// Directories in path order.
    directories: Vec<Directory>,
    /// By node.
    runs: Vec<Run>,
    /// The first cluster after all in use.
    next: u32,
}

impl Layout {
    fn new(tree: &Tree, geometry: &Geometry, labelled: bool, size: u64) -> Result<Layout, Error> {
        let cluster_size = geometry.cluster_size();
        let mut layout = Layout {
            directories: Vec::new(),
            runs: vec![Run::default(); tree.nodes().len()],
            next: FIRST_CLUSTER,
        };
        // Counted to the end even where it is too much, so that the error can tell.
        let mut needed = 0_u64;
        for (id, node) in tree.nodes() {
            let inode = tree.inode(node.inode);
            let bytes = match &inode.kind {
                Kind::File(content) => content.size,
                _ => {
                    let names = directory_names(tree, id)?;
                    let bytes = directory_size(tree, id, &names, geometry, labelled)?;
                    layout.directories.push(Directory { node: id, names });
                    if id == NodeId::ROOT && geometry.kind != FatType::Fat32 {
                        0
                    } else {
                        bytes
                    }
                }
            };
            let count = bytes.div_ceil(cluster_size);
            needed = needed.saturating_add(count);
            if let (1.., Ok(count), true) = (
                count,
                u32::try_from(count),
                needed <= u64::from(geometry.clusters),
            ) {
                layout.runs[id.index()] = Run {
                    first: layout.next,
                    count,
                };
                layout.next += count;
            }
        }
        if needed > u64::from(geometry.clusters) {
            return Err(Error::NoSpace {
                needed: needed.saturating_mul(cluster_size),
                available: u64::from(geometry.clusters) * cluster_size,
                size,
            });
        }
        Ok(layout)
    }

    /// The FAT up to the last cluster in use; the rest of it is zeros.
    fn fat(&self, geometry: &Geometry) -> Vec<u8> {
        // Entry 0 repeats the media type, entry 1 says that the volume is clean.
        let mut entries = vec![0x0FFF_FF00 | u32::from(MEDIA_FIXED), 0x0FFF_FFFF];
        entries.resize(self.next as usize, 0);
        for run in self.runs.iter().filter(|run| run.count > 0) {
            let last = run.first + run.count - 1;
            for cluster in run.first..last {
                entries[cluster as usize] = cluster + 1;
            }
            entries[last as usize] = 0x0FFF_FFFF;
        }
        match geometry.kind {
            FatType::Fat32 => entries
                .iter()
                .flat_map(|entry| entry.to_le_bytes())
                .collect(),
            FatType::Fat16 => entries
                .iter()
                .flat_map(|&entry| ((entry & 0xFFFF) as u16).to_le_bytes())
                .collect(),
            FatType::Fat12 => entries
                .chunks(2)
                .flat_map(|pair| {
                    let both = (pair[0] & 0xFFF) | (pair.get(1).unwrap_or(&0) & 0xFFF) << 12;
                    let [low, middle, high, _] = both.to_le_bytes();
                    [low, middle, high]
                })
                .collect(),
        }
    }

    /// Adds the extents of directories and files, in the order of clusters.
    fn place_files(
        &self,
        tree: &Arc<Tree>,
        geometry: &Geometry,
        label: Option<[u8; 11]>,
        extents: &mut Vec<Extent>,
    ) {
        let mut directories = self.directories.iter();
        for (id, node) in tree.nodes() {
            let run = self.runs[id.index()];
            let offset = match run.first {
                0 if id == NodeId::ROOT => geometry.root_offset(),
                0 => continue,
                first => geometry.cluster_offset(first),
            };
            match &tree.inode(node.inode).kind {
                Kind::File(content) => {
                    for range in content.ranges() {
                        extents.push(file_extent(
                            tree,
                            node.inode,
                            offset,
                            range.offset,
                            range.length,
                        ));
                    }
                }
                _ => {
                    let Some(directory) = directories.next() else {
                        continue;
                    };
                    let bytes = directory_bytes(tree, directory, &self.runs, label);
                    if !bytes.is_empty() {
                        let length = bytes.len() as u64;
                        let source = Source::Bytes {
                            bytes: bytes.into(),
                            start: 0,
                        };
                        extents.push(Extent {
                            offset,
                            length,
                            source,
                        });
                    }
                }
            }
        }
    }
}

fn file_extent(tree: &Arc<Tree>, inode: InodeId, start: u64, offset: u64, length: u64) -> Extent {
    let source = Source::File {
        tree: Arc::clone(tree),
        inode,
        offset,
    };
    Extent {
        offset: start + offset,
        length,
        source,
    }
}

fn directory_names(tree: &Tree, id: NodeId) -> Result<Vec<StoredName>, Error> {
    let children = tree.children(id);
    let names: Vec<_> = children.iter().map(|&child| tree.name(child)).collect();
    store_names(&names).map_err(|(at, problem)| Error::Name {
        path: tree.path(children[at]),
        problem,
    })
}

/// Bytes of a directory, at least one entry more than its names take.
fn directory_size(
    tree: &Tree,
    id: NodeId,
    names: &[StoredName],
    geometry: &Geometry,
    labelled: bool,
) -> Result<u64, Error> {
    let root = id == NodeId::ROOT;
    let own = if root { usize::from(labelled) } else { 2 };
    let entries = (own + names.iter().map(StoredName::entries).sum::<usize>()) as u64;
    let limit = match geometry.kind {
        FatType::Fat12 | FatType::Fat16 if root => u64::from(geometry.root_entries),
        _ => MAX_DIRECTORY / ENTRY_SIZE as u64,
    };
    if entries > limit {
        return Err(Error::DirectoryFull {
            path: tree.path(id),
            entries,
            limit,
        });
    }
    // The root of FAT32 has a cluster even if it is empty.
    Ok(entries.max(1) * ENTRY_SIZE as u64)
}

/// Boot sector, FSInfo and their copies.
fn reserved_area(
    geometry: &Geometry,
    options: &Options,
    label: [u8; 11],
    layout: &Layout,
) -> Vec<u8> {
    let boot = boot_sector(geometry, options, label);
    if geometry.kind != FatType::Fat32 {
        return boot;
    }
    let sector = options.bytes_per_sector as usize;
    let used = layout.next - FIRST_CLUSTER;
    let info = FsInfo {
        lead_signature: *b"RRaA",
        reserved_1: [0; 480],
        structure_signature: *b"rrAa",
        free_clusters: (geometry.clusters - used).into(),
        // Drivers search from the cluster after this one.
        next_free: (layout.next - 1).into(),
        reserved_2: [0; 14],
        signature: SECTOR_SIGNATURE,
    };
    let mut area = vec![0; (usize::from(BACKUP_SECTOR) + 2) * sector];
    for first in [0, usize::from(BACKUP_SECTOR)] {
        area[first * sector..][..boot.len()].copy_from_slice(&boot);
        area[(first + usize::from(FS_INFO_SECTOR)) * sector..][..size_of::<FsInfo>()]
            .copy_from_slice(info.as_bytes());
    }
    area
}

fn boot_sector(geometry: &Geometry, options: &Options, label: [u8; 11]) -> Vec<u8> {
    // Both fit: `Geometry` chose them so, or the other field is used.
    let small = |value: u32| u16::try_from(value).unwrap_or(0);
    let fat32 = geometry.kind == FatType::Fat32;
    let total_16 = if fat32 { 0 } else { small(geometry.total) };
    let code_offset: u8 = if fat32 { 0x5A } else { 0x3E };
    let head = BootSector {
        jump: [0xEB, code_offset - 2, 0x90],
        oem_name: OEM_NAME,
        bytes_per_sector: small(geometry.sector_size).into(),
        sectors_per_cluster: u8::try_from(geometry.sectors_per_cluster).unwrap_or(0),
        reserved_sectors: small(geometry.reserved).into(),
        fats: FATS as u8,
        root_entries: small(geometry.root_entries).into(),
        total_sectors_16: total_16.into(),
        media: MEDIA_FIXED,
        fat_size_16: if fat32 { 0 } else { small(geometry.fat_size) }.into(),
        sectors_per_track: small(geometry.sectors_per_track).into(),
        heads: small(geometry.heads).into(),
        hidden_sectors: 0.into(),
        total_sectors_32: if total_16 == 0 { geometry.total } else { 0 }.into(),
    };
    let middle = BootSector32 {
        fat_size_32: geometry.fat_size.into(),
        flags: 0.into(),
        version: 0.into(),
        root_cluster: FIRST_CLUSTER.into(),
        fs_info: FS_INFO_SECTOR.into(),
        backup_boot: BACKUP_SECTOR.into(),
        reserved: [0; 12],
    };
    let end = BootSectorEnd {
        drive: DRIVE_FIXED,
        state: 0,
        signature: EXTENDED_SIGNATURE,
        volume_id: options.volume_id.into(),
        label,
        kind: match geometry.kind {
            FatType::Fat12 => *b"FAT12   ",
            FatType::Fat16 => *b"FAT16   ",
            FatType::Fat32 => *b"FAT32   ",
        },
    };
    let mut sector = head.as_bytes().to_vec();
    if fat32 {
        sector.extend_from_slice(middle.as_bytes());
    }
    sector.extend_from_slice(end.as_bytes());
    sector.extend_from_slice(&BOOT_CODE);
    sector.resize(SIGNATURE_OFFSET, 0);
    sector.extend_from_slice(&SECTOR_SIGNATURE);
    sector
}

#[cfg(test)]
mod tests;
