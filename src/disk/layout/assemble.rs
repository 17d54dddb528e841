//! The second step: lengths and places, and everything that fills them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{FilesystemPlan, LayoutError, Plan, PlannerError, Table};
use crate::disk::boot::{BiosBoot, BootSpace, embed};
use crate::disk::lvm::{self, Segment};
use crate::disk::{Disk, DiskBuilder, Volume, gpt, mbr};
use crate::tree::Tree;

/// Plans one filesystem: what it is, the files for it (`None` for swap and
/// filesystems that are not mounted) and its space in bytes.
pub type FilesystemPlanner<'a> =
    dyn FnMut(&FilesystemPlan, Option<&Arc<Tree>>, u64) -> Result<Volume, PlannerError> + 'a;

/// Where a node's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Space {
    /// In pieces in order, as byte offset and length.
    Pieces(Vec<(u64, u64)>),
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
    fn one(offset: u64, length: u64) -> Self {
        Space::Pieces(vec![(offset, length)])
    }

    fn length(&self) -> u64 {
        match self {
            Space::Pieces(pieces) => pieces.iter().map(|(_, length)| length).sum(),
            Space::Thin { bytes, .. } => *bytes,
        }
    }

    /// First byte, for spaces of one piece.
    fn start(&self) -> u64 {
        match self {
            Space::Pieces(pieces) => pieces.first().map_or(0, |&(offset, _)| offset),
            Space::Thin { .. } => 0,
        }
    }
}

/// A thin pool, and what is in its volumes so far.
struct ThinPool {
    plan: lvm::Pool,
    /// Where the physical volumes of its group begin.
    starts: Vec<u64>,
    volumes: Vec<Volume>,
}

impl ThinPool {
    /// Puts data and metadata in their places.
    fn place(self, disk: &mut DiskBuilder) -> Result<(), LayoutError> {
        let (data, metadata) = lvm::thin::fill(&self.plan, self.volumes)?;
        for (what, volume, segments) in [
            ("the data", data, &self.plan.data),
            ("the metadata", metadata, &self.plan.metadata),
        ] {
            let what = format!("{what} of thin pool {}", self.plan.name);
            for (offset, piece) in lvm::scatter(volume, &pieces(segments, &self.starts)) {
                disk.volume(what.clone(), offset, piece);
            }
        }
        Ok(())
    }
}

/// Segments as byte offsets on the disk and lengths.
fn pieces(segments: &[Segment], starts: &[u64]) -> Vec<(u64, u64)> {
    let place = |segment: &Segment| (starts[segment.pv] + segment.offset, segment.length);
    segments.iter().map(place).collect()
}

impl Plan {
    /// The length of the image in bytes: what the configuration fixes, else `image_size`.
    ///
    /// # Errors
    /// If it is not a whole number of sectors.
    pub fn disk_size(&self, image_size: u64) -> Result<u64, LayoutError> {
        let bytes = self.fixed_size().unwrap_or(image_size);
        let sector_size = self.sector_size;
        if bytes == 0 || !bytes.is_multiple_of(u64::from(sector_size)) {
            return Err(LayoutError::DiskSize {
                disk: self.disk.clone(),
                bytes,
                sector_size,
            });
        }
        Ok(bytes)
    }

    /// The length in bytes that partitions of fixed size need at least.
    ///
    /// Useful where an image's length is computed from its content: layouts with
    /// large fixed partitions may need more.
    pub fn minimum_size(&self) -> u64 {
        let fixed = |size: mbr::Size| match size {
            mbr::Size::Bytes(bytes) => bytes,
            mbr::Size::Percent(_) => 0,
        };
        match &self.table {
            None => 0,
            Some(Table::Mbr {
                align, requests, ..
            }) => {
                let unit = align.saturating_mul(mbr::SECTOR).max(1);
                let up = |bytes: u64| bytes.div_ceil(unit).saturating_mul(unit);
                requests
                    .iter()
                    .fold(unit.saturating_mul(2), |sum, request| {
                        let record = if request.primary { 0 } else { unit };
                        sum.saturating_add(up(fixed(request.size)))
                            .saturating_add(record)
                    })
            }
            Some(Table::Gpt { requests, .. }) => {
                requests.iter().fold(2 * gpt::ALIGN, |sum, request| {
                    sum.saturating_add(fixed(request.size).max(gpt::ALIGN))
                })
            }
        }
    }

    /// Makes the disk.
    ///
    /// `trees` has the files of each mount point of [`Plan::mount_points`].
    /// `boot` is what a BIOS must find, if the image should start on one.
    ///
    /// # Errors
    /// See [`LayoutError`].
    pub fn assemble(
        &self,
        image_size: u64,
        trees: &BTreeMap<String, Arc<Tree>>,
        boot: Option<&BiosBoot>,
        planner: &mut FilesystemPlanner<'_>,
    ) -> Result<Disk, LayoutError> {
        let length = self.disk_size(image_size)?;
        let mut disk = Disk::builder(length, self.sector_size);
        let mut spaces = BTreeMap::from([(self.disk.clone(), Space::one(0, length))]);
        let boot_space = self.place_table(length, &mut disk, &mut spaces)?;
        let mut pools = self.place_groups(&mut disk, &mut spaces)?;
        if let Some(boot) = boot {
            let [(code_at, code), (core_at, core)] = embed(boot, boot_space)?;
            disk.bytes("grub's boot code", code_at, code);
            disk.bytes("grub's core image", core_at, core);
        }
        for filesystem in &self.filesystems {
            // Bases are checked when the configuration is read.
            let Some(space) = spaces.get(&filesystem.base) else {
                continue;
            };
            place_filesystem(filesystem, space, trees, planner, &mut disk, &mut pools)?;
        }
        pools
            .into_iter()
            .try_for_each(|pool| pool.place(&mut disk))?;
        Ok(disk.build()?)
    }

    /// Places partitions and the table, and finds room for boot code.
    fn place_table(
        &self,
        length: u64,
        disk: &mut DiskBuilder,
        spaces: &mut BTreeMap<String, Space>,
    ) -> Result<BootSpace, LayoutError> {
        match &self.table {
            None => Ok(BootSpace::NoTable),
            Some(Table::Mbr {
                disk_id,
                align,
                requests,
                ..
            }) => {
                let table = mbr::place(length, *align, requests)?;
                for (at, (offset, bytes)) in table.render(*disk_id).into_iter().enumerate() {
                    let what = match at {
                        0 => "the partition table".to_owned(),
                        at => format!("the record of logical partition {}", at + 4),
                    };
                    disk.bytes(what, offset, bytes);
                }
                for partition in &table.partitions {
                    let offset = u64::from(partition.start) * mbr::SECTOR;
                    let space = Space::one(offset, u64::from(partition.sectors) * mbr::SECTOR);
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
                let table = gpt::place(length, self.sector_size, requests)?;
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
                let sector = u64::from(self.sector_size);
                let mut boot_space = BootSpace::GptWithoutPartition;
                for partition in &table.partitions {
                    let offset = partition.start * sector;
                    let length = partition.sectors * sector;
                    spaces.insert(partition.name.clone(), Space::one(offset, length));
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

    /// Places logical volumes and writes the headers of physical ones. Returns the
    /// thin pools, still empty.
    fn place_groups(
        &self,
        disk: &mut DiskBuilder,
        spaces: &mut BTreeMap<String, Space>,
    ) -> Result<Vec<ThinPool>, LayoutError> {
        let base_of = |pv: &str| {
            let mut pvs = self.config.lvms.iter().flat_map(|item| &item.pvs);
            let space = pvs
                .find(|have| have.name == pv)
                .and_then(|pv| spaces.get(&pv.base));
            space.map_or((0, 0), |space| (space.start(), space.length()))
        };
        let mut found = BTreeMap::new();
        let mut pools = Vec::new();
        for group in &self.groups {
            let mut group = group.clone();
            let mut starts = Vec::with_capacity(group.pvs.len());
            for pv in &mut group.pvs {
                let (start, length) = base_of(&pv.name);
                starts.push(start);
                pv.bytes = length;
            }
            let plan = lvm::plan(&group)?;
            for ((pv, start), header) in group.pvs.iter().zip(&starts).zip(plan.headers) {
                disk.bytes(
                    format!("the metadata of physical volume {}", pv.name),
                    *start,
                    header,
                );
            }
            let first = pools.len();
            for (lv, place) in group.lvs.iter().zip(plan.places) {
                let space = match place {
                    lvm::Place::Linear(segments) => Space::Pieces(pieces(&segments, &starts)),
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
                starts: starts.clone(),
                volumes: vec![Volume::default(); pool.volumes],
                plan: pool,
            }));
        }
        for pv in &self.orphans {
            let (start, bytes) = base_of(&pv.name);
            let header = lvm::orphan_header(&lvm::Pv {
                bytes,
                ..pv.clone()
            });
            disk.bytes(
                format!("the metadata of physical volume {}", pv.name),
                start,
                header,
            );
        }
        spaces.append(&mut found);
        Ok(pools)
    }
}

/// Plans a filesystem and puts it in its place.
fn place_filesystem(
    filesystem: &FilesystemPlan,
    space: &Space,
    trees: &BTreeMap<String, Arc<Tree>>,
    planner: &mut FilesystemPlanner<'_>,
    disk: &mut DiskBuilder,
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
        Space::Pieces(pieces) => match pieces.as_slice() {
            &[(offset, _)] => {
                disk.volume(what, offset, volume);
            }
            pieces => {
                for (offset, piece) in lvm::scatter(volume, pieces) {
                    disk.volume(what.clone(), offset, piece);
                }
            }
        },
    }
    Ok(())
}
