//! The second step: lengths and places, and everything that fills them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::table::Table;
use super::{DiskPlan, FilesystemPlan, LayoutError, Plan, PlannerError};
use crate::disk::boot::{BiosBoot, BootSpace, embed};
use crate::disk::config::LvSize;
use crate::disk::lvm::{self, Segment};
use crate::disk::{Disk, DiskBuilder, Volume, gpt, mbr};
use crate::tree::Tree;

/// Plans one filesystem: what it is, the files for it (`None` for swap and
/// filesystems that are not mounted) and its space in bytes.
pub type FilesystemPlanner<'a> =
    dyn FnMut(&FilesystemPlan, Option<&Arc<Tree>>, u64) -> Result<Volume, PlannerError> + 'a;

/// A range of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Index of the disk.
    disk: usize,
    /// First byte.
    offset: u64,
    /// In bytes.
    length: u64,
}

/// Where a node's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Space {
    /// In pieces in order.
    Pieces(Vec<Piece>),
    /// In turns in these pieces.
    Striped {
        /// One of each physical volume.
        pieces: Vec<Piece>,
        /// Bytes of a turn.
        size: u64,
    },
    /// In a thin pool.
    Thin {
        /// Index of the pool.
        pool: usize,
        /// Index among the pool's volumes.
        volume: usize,
        /// Length in bytes.
        bytes: u64,
    },
}

impl Space {
    fn one(disk: usize, offset: u64, length: u64) -> Self {
        Space::Pieces(vec![Piece {
            disk,
            offset,
            length,
        }])
    }

    fn length(&self) -> u64 {
        match self {
            Space::Pieces(pieces) | Space::Striped { pieces, .. } => {
                pieces.iter().map(|piece| piece.length).sum()
            }
            Space::Thin { bytes, .. } => *bytes,
        }
    }

    /// The piece of a space that has one alone.
    fn piece(&self) -> Option<Piece> {
        match self {
            Space::Pieces(pieces) => pieces.first().copied(),
            Space::Striped { .. } | Space::Thin { .. } => None,
        }
    }
}

/// Puts a volume into pieces of disks.
fn put(what: &str, volume: Volume, pieces: &[Piece], disks: &mut [DiskBuilder]) {
    if let [piece] = pieces {
        disks[piece.disk].volume(what, piece.offset, volume);
        return;
    }
    let lengths: Vec<u64> = pieces.iter().map(|piece| piece.length).collect();
    for (piece, part) in pieces.iter().zip(lvm::scatter(volume, &lengths)) {
        disks[piece.disk].volume(what, piece.offset, part);
    }
}

/// Disks with everything in its place but the filesystems.
pub(super) struct Placed {
    disks: Vec<DiskBuilder>,
    spaces: BTreeMap<String, Space>,
    pools: Vec<ThinPool>,
}

impl Placed {
    /// Bytes that a node has; `None` if there is no such node.
    pub(super) fn bytes(&self, node: &str) -> Option<u64> {
        self.spaces.get(node).map(Space::length)
    }
}

/// A thin pool, and what is in its volumes so far.
struct ThinPool {
    plan: lvm::Pool,
    /// Where the physical volumes of its group are.
    pvs: Vec<Piece>,
    volumes: Vec<Volume>,
}

impl ThinPool {
    /// Puts data and metadata in their places.
    fn place(self, disks: &mut [DiskBuilder]) -> Result<(), LayoutError> {
        let (data, metadata) = lvm::thin::fill(&self.plan, self.volumes)?;
        for (what, volume, segments) in [
            ("the data", data, &self.plan.data),
            ("the metadata", metadata, &self.plan.metadata),
        ] {
            let what = format!("{what} of thin pool {}", self.plan.name);
            put(&what, volume, &pieces(segments, &self.pvs), disks);
        }
        Ok(())
    }
}

/// Segments of physical volumes as pieces of disks.
fn pieces(segments: &[Segment], pvs: &[Piece]) -> Vec<Piece> {
    let place = |segment: &Segment| Piece {
        disk: pvs[segment.pv].disk,
        offset: pvs[segment.pv].offset + segment.offset,
        length: segment.length,
    };
    segments.iter().map(place).collect()
}

impl Plan {
    /// The length of a disk in bytes: what the configuration fixes, else `image_size`,
    /// which is also DIB's default for every disk.
    ///
    /// # Errors
    /// If it is not a whole number of sectors.
    pub fn disk_size(&self, disk: &DiskPlan, image_size: u64) -> Result<u64, LayoutError> {
        let bytes = disk.size.unwrap_or(image_size);
        let sector_size = disk.sector_size;
        if bytes == 0 || !bytes.is_multiple_of(u64::from(sector_size)) {
            return Err(LayoutError::DiskSize {
                disk: disk.name.clone(),
                bytes,
                sector_size,
            });
        }
        Ok(bytes)
    }

    /// The length in bytes that disks need at least for their partitions of fixed size,
    /// where their own length is not fixed.
    ///
    /// Useful where an image's length is computed from its content: layouts with
    /// large fixed partitions may need more.
    pub fn minimum_size(&self) -> u64 {
        let open = self.disks.iter().filter(|disk| disk.size.is_none());
        let tables = open.filter_map(|disk| disk.table.as_ref());
        tables.map(Table::minimum_size).max().unwrap_or(0)
    }

    /// Makes the disks, in the order of [`Plan::disks`].
    ///
    /// `trees` has the files of each mount point of [`Plan::mount_points`].
    /// `boot` is what a BIOS must find, if the first disk should start on one.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn assemble(
        &self,
        image_size: u64,
        trees: &BTreeMap<String, Arc<Tree>>,
        boot: Option<&BiosBoot>,
        planner: &mut FilesystemPlanner<'_>,
    ) -> Result<Vec<Disk>, LayoutError> {
        let Placed {
            mut disks,
            spaces,
            mut pools,
        } = self.placed(image_size, boot)?;
        for filesystem in &self.filesystems {
            // Bases are checked when the configuration is read.
            let Some(space) = spaces.get(&filesystem.base) else {
                continue;
            };
            place_filesystem(filesystem, space, trees, planner, &mut disks, &mut pools)
                .map_err(|error| self.with_fixed(filesystem, error))?;
        }
        pools
            .into_iter()
            .try_for_each(|pool| pool.place(&mut disks))?;
        let disks = disks.into_iter().map(DiskBuilder::build);
        Ok(disks.collect::<Result<_, _>>()?)
    }

    /// Placed all but the filesystems: partitions, logical volumes, tables and boot code.
    pub(super) fn placed(
        &self,
        image_size: u64,
        mut boot: Option<&BiosBoot>,
    ) -> Result<Placed, LayoutError> {
        let mut disks = Vec::with_capacity(self.disks.len());
        let mut spaces = BTreeMap::new();
        for (at, plan) in self.disks.iter().enumerate() {
            let length = self.disk_size(plan, image_size)?;
            let mut disk = Disk::builder(length, plan.sector_size);
            spaces.insert(plan.name.clone(), Space::one(at, 0, length));
            let boot_space = place_table(plan, at, length, &mut disk, &mut spaces)?;
            // A BIOS starts the first disk.
            if let Some(boot) = boot.take() {
                let [(code_at, code), (core_at, core)] = embed(boot, boot_space)?;
                disk.bytes("grub's boot code", code_at, code);
                disk.bytes("grub's core image", core_at, core);
            }
            disks.push(disk);
        }
        let pools = self.place_groups(&mut disks, &mut spaces)?;
        Ok(Placed {
            disks,
            spaces,
            pools,
        })
    }

    /// Notes in an error whether its filesystem is on something of a fixed size.
    pub(super) fn with_fixed(
        &self,
        filesystem: &FilesystemPlan,
        mut error: LayoutError,
    ) -> LayoutError {
        if let LayoutError::Filesystem { fixed, .. } = &mut error
            && self.has_fixed_size(&filesystem.base)
        {
            *fixed = Some(filesystem.base.clone());
        }
        error
    }

    /// Whether a partition or logical volume has a size of its own, whatever its disk has.
    pub(super) fn has_fixed_size(&self, node: &str) -> bool {
        let mut partitions = self
            .config
            .tables
            .iter()
            .flat_map(|table| &table.partitions);
        let mut volumes = self.config.lvms.iter().flat_map(|lvm| &lvm.lvs);
        partitions.any(|one| one.name == node && matches!(one.size, mbr::Size::Bytes(_)))
            || volumes.any(|one| one.name == node && matches!(one.size, LvSize::Bytes(_)))
    }

    /// Placed logical volumes and writes the headers of physical ones. Returns the
    /// thin pools, still empty.
    fn place_groups(
        &self,
        disks: &mut [DiskBuilder],
        spaces: &mut BTreeMap<String, Space>,
    ) -> Result<Vec<ThinPool>, LayoutError> {
        let base_of = |pv: &str| {
            let mut pvs = self.config.lvms.iter().flat_map(|item| &item.pvs);
            let space = pvs
                .find(|have| have.name == pv)
                .and_then(|pv| spaces.get(&pv.base));
            // Bases are checked when the configuration is read.
            space.and_then(Space::piece).unwrap_or(Piece {
                disk: 0,
                offset: 0,
                length: 0,
            })
        };
        let mut found = BTreeMap::new();
        let mut pools = Vec::new();
        for group in &self.groups {
            let mut group = group.clone();
            let mut places = Vec::with_capacity(group.pvs.len());
            for pv in &mut group.pvs {
                let place = base_of(&pv.name);
                places.push(place);
                pv.bytes = place.length;
            }
            let plan = lvm::plan(&group)?;
            for ((pv, place), header) in group.pvs.iter().zip(&places).zip(plan.headers) {
                disks[place.disk].bytes(
                    format!("the metadata of physical volume {}", pv.name),
                    place.offset,
                    header,
                );
            }
            let first = pools.len();
            for (lv, place) in group.lvs.iter().zip(plan.places) {
                let space = match place {
                    lvm::Place::Linear(segments) => Space::Pieces(pieces(&segments, &places)),
                    lvm::Place::Striped { parts, size } => Space::Striped {
                        pieces: pieces(&parts, &places),
                        size,
                    },
                    lvm::Place::Pool(_) => continue,
                    lvm::Place::Thin {
                        pool,
                        volume,
                        bytes,
                    } => Space::Thin {
                        pool: first + pool,
                        volume,
                        bytes,
                    },
                };
                found.insert(lv.name.clone(), space);
            }
            pools.extend(plan.pools.into_iter().map(|pool| ThinPool {
                pvs: places.clone(),
                volumes: vec![Volume::default(); pool.volumes],
                plan: pool,
            }));
        }
        for pv in &self.orphans {
            let place = base_of(&pv.name);
            let header = lvm::orphan_header(&lvm::Pv {
                bytes: place.length,
                ..pv.clone()
            })?;
            disks[place.disk].bytes(
                format!("the metadata of physical volume {}", pv.name),
                place.offset,
                header,
            );
        }
        spaces.append(&mut found);
        Ok(pools)
    }
}

/// Placed partitions and the table, and finds room for boot code.
fn place_table(
    plan: &DiskPlan,
    at: usize,
    length: u64,
    disk: &mut DiskBuilder,
    spaces: &mut BTreeMap<String, Space>,
) -> Result<BootSpace, LayoutError> {
    match &plan.table {
        None => Ok(BootSpace::NoTable),
        Some(Table::Mbr {
            disk_id,
            align,
            requests,
            ..
        }) => {
            let table = mbr::place(length, *align, requests)?;
            for (number, (offset, bytes)) in table.render(*disk_id).into_iter().enumerate() {
                let what = match number {
                    0 => "the partition table".to_owned(),
                    number => format!("the record of logical partition {}", number + 4),
                };
                disk.bytes(what, offset, bytes);
            }
            for partition in &table.partitions {
                let offset = u64::from(partition.start) * mbr::SECTOR;
                let space = Space::one(at, offset, u64::from(partition.sectors) * mbr::SECTOR);
                spaces.insert(partition.name.clone(), space);
            }
            Ok(BootSpace::Gap {
                sectors: table.gap_sectors(),
            })
        }
        Some(Table::Gpt {
            disk_guid,
            requests,
        }) => {
            let table = gpt::place(length, plan.sector_size, requests)?;
            let parts = [
                "the protective mbr",
                "the primary gpt header",
                "the primary gpt entries",
                "the backup gpt entries",
                "the backup gpt header",
            ];
            for (what, (offset, bytes)) in parts.into_iter().zip(table.render(*disk_guid)) {
                disk.bytes(what, offset, bytes);
            }
            let sector = u64::from(plan.sector_size);
            let mut boot_space = BootSpace::GptWithoutPartition;
            for partition in &table.partitions {
                let offset = partition.start * sector;
                let length = partition.sectors * sector;
                spaces.insert(partition.name.clone(), Space::one(at, offset, length));
                if partition.type_guid == gpt::types::BIOS_BOOT
                    && boot_space == BootSpace::GptWithoutPartition
                {
                    boot_space = BootSpace::Partition { offset, length };
                }
            }
            Ok(boot_space)
        }
    }
}

/// Plans a filesystem and puts it in its place.
fn place_filesystem(
    filesystem: &FilesystemPlan,
    space: &Space,
    trees: &BTreeMap<String, Arc<Tree>>,
    planner: &mut FilesystemPlanner<'_>,
    disks: &mut [DiskBuilder],
    pools: &mut [ThinPool],
) -> Result<(), LayoutError> {
    let node = || filesystem.name.clone();
    let tree = match &filesystem.mount_point {
        None => None,
        Some(mount_point) => {
            Some(
                trees
                    .get(mount_point)
                    .ok_or_else(|| LayoutError::MissingTree {
                        node: node(),
                        mount_point: mount_point.clone(),
                    })?,
            )
        }
    };
    let bytes = space.length();
    let volume = planner(filesystem, tree, bytes).map_err(|source| LayoutError::Filesystem {
        node: node(),
        fstype: filesystem.fstype.clone(),
        bytes,
        fixed: None,
        source,
    })?;
    if volume.length > bytes {
        return Err(LayoutError::FilesystemTooLarge {
            node: node(),
            planned: volume.length,
            bytes,
        });
    }
    let what = format!("filesystem {}", filesystem.name);
    match space {
        Space::Thin {
            pool, volume: at, ..
        } => pools[*pool].volumes[*at] = volume,
        Space::Pieces(pieces) => put(&what, volume, pieces, disks),
        Space::Striped { pieces, size } => {
            let parts = lvm::stripe(&volume, pieces.len(), *size);
            for (piece, part) in pieces.iter().zip(parts) {
                disks[piece.disk].volume(what.clone(), piece.offset, part);
            }
        }
    }
    Ok(())
}
