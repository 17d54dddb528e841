//! From a block-device configuration and trees to disks, in two steps.
//!
//! [`Plan::new`] runs before anything is built. It fixes all names, labels and
//! UUIDs, so that hooks can use them ([`Plan::facts`], [`Plan::fstab`]).
//! [`Plan::check_sizes`] tells then what cannot fit, whatever the files will be.
//! [`Plan::assemble`] runs when the trees are complete and the length of the
//! image is known. It places partitions and logical volumes, lets planners fill
//! them with filesystems, and adds partition tables and boot code.
//!
//! All identities derive from a seed: the same seed and configuration give the
//! same bytes.

use std::path::PathBuf;

use uuid::Uuid;

use super::config::{Config, Mkfs, Partitioning};
use super::facts::{self, Facts, Filesystem};
use super::lvm;

mod assemble;
mod bootable;
mod check;
mod error;
pub mod fit;
mod planner;
mod size;
mod table;
mod volumes;

pub use assemble::FilesystemPlanner;
pub use error::{LayoutError, PlannerError};
pub use planner::{NativePlanner, PlanError};
pub use size::{SizeRule, SizeRuleError};

use table::{Table, plan_table};

/// What a plan depends on besides its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanParameters {
    /// All UUIDs, GUIDs and disk ids derive from this and the names of nodes.
    pub seed: Uuid,
    /// Debian's name of the target architecture, for types of partitions.
    pub arch: String,
    /// Sector size in bytes (`DIB_BLOCK_SIZE`); wins over the configuration.
    pub block_size: Option<u32>,
    /// Time stamp of LVM's metadata, in seconds since 1970.
    pub creation_time: u64,
}

/// Planned disks whose lengths are not known yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    config: Config,
    /// The one that the system starts from first.
    disks: Vec<DiskPlan>,
    groups: Vec<lvm::Vg>,
    orphans: Vec<lvm::Pv>,
    filesystems: Vec<FilesystemPlan>,
    warnings: Vec<String>,
}

/// One of the disks of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskPlan {
    /// Name of its `local_loop`.
    pub name: String,
    /// Directory that its image has to be in, if the configuration says so.
    pub directory: Option<PathBuf>,
    /// Length in bytes, if the configuration fixes it.
    pub size: Option<u64>,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    table: Option<Table>,
}

/// Identity of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesystemId {
    /// What most have.
    Uuid(Uuid),
    /// Volume id of FAT.
    Fat(u32),
}

impl std::fmt::Display for FilesystemId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FilesystemId::Uuid(uuid) => uuid.fmt(formatter),
            FilesystemId::Fat(id) => write!(formatter, "{:04X}-{:04X}", id >> 16, id & 0xFFFF),
        }
    }
}

/// A filesystem or swap area that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesystemPlan {
    /// Name of the mkfs node.
    pub name: String,
    /// Name of the node that it is on.
    pub base: String,
    /// `ext4`, `vfat`, `swap`, …
    pub fstype: String,
    /// Label (upper case on FAT), within the limit of the type.
    pub label: String,
    /// Identity.
    pub id: FilesystemId,
    /// Options in the notation of its mkfs, word by word.
    pub opts: Vec<String>,
    /// Where it is mounted; `None` for swap and unmounted ones.
    pub mount_point: Option<String>,
    /// Whether `/boot` is in it, so that boot loaders have to read it.
    pub holds_boot: bool,
    /// Sector size of the disk in bytes; blocks must not be smaller.
    pub sector_size: u32,
}

impl FilesystemPlan {
    /// The identity as 16 bytes; FAT's id comes first, then zeros.
    pub fn uuid(&self) -> Uuid {
        match self.id {
            FilesystemId::Uuid(uuid) => uuid,
            FilesystemId::Fat(id) => Uuid::from_u128(u128::from(id) << 96),
        }
    }
}

impl Plan {
    /// Plans a disk.
    ///
    /// # Errors
    /// See [`LayoutError`]: what can be known without the length of the image.
    pub fn new(config: Config, parameters: &PlanParameters) -> Result<Plan, LayoutError> {
        let mut warnings = config.warnings.clone();
        let names = Names {
            seed: parameters.seed,
        };
        let disks = plan_disks(&config, &names, parameters, &mut warnings)?;
        let filesystems = config
            .mkfs
            .iter()
            .map(|mkfs| {
                let on = holders(&config, &mkfs.base);
                let sizes = disks.iter().filter(|disk| on.contains(&disk.name.as_str()));
                let sector_size = sizes.map(|disk| disk.sector_size).max().unwrap_or(512);
                plan_filesystem(mkfs, &config, &names, sector_size, &mut warnings)
            })
            .collect::<Result<_, _>>()?;
        let mut plan = Plan {
            disks,
            groups: Vec::new(),
            orphans: Vec::new(),
            filesystems,
            warnings,
            config,
        };
        (plan.groups, plan.orphans) = plan.plan_lvm(&names, parameters.creation_time)?;
        Ok(plan)
    }

    /// The configuration that was planned.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The disks; the one that the system starts from is the first.
    pub fn disks(&self) -> &[DiskPlan] {
        &self.disks
    }

    /// Whose `sector_size`, length and boot code count where only one is asked for.
    fn main(&self) -> Option<&DiskPlan> {
        self.disks.first()
    }

    /// Logical sector size of the first disk in bytes.
    pub fn sector_size(&self) -> u32 {
        self.main().map_or(512, |disk| disk.sector_size)
    }

    /// Indices of the disks that a node is on: several below a volume group.
    fn disks_of(&self, node: &str) -> Vec<usize> {
        let names = holders(&self.config, node);
        let disks = self.disks.iter().enumerate();
        disks
            .filter(|(_, disk)| names.contains(&disk.name.as_str()))
            .map(|(at, _)| at)
            .collect()
    }

    /// What is odd but allowed: one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Filesystems and swap areas in the order of the configuration.
    pub fn filesystems(&self) -> &[FilesystemPlan] {
        &self.filesystems
    }

    /// The filesystem of a mkfs node.
    pub fn filesystem(&self, name: &str) -> Option<&FilesystemPlan> {
        let mut filesystems = self.filesystems.iter();
        filesystems.find(|filesystem| filesystem.name == name)
    }

    /// Mount points in the order in which they must be mounted; swap is left out.
    pub fn mount_points(&self) -> Vec<&str> {
        let mounts = self.config.sorted_mounts();
        let mounted = mounts.into_iter().filter(|mount| {
            self.config
                .mkfs_of(mount)
                .is_some_and(|mkfs| !mkfs.is_swap())
        });
        mounted.map(|mount| mount.mount_point.as_str()).collect()
    }

    /// The text of `/etc/fstab`.
    pub fn fstab(&self) -> String {
        self.config.fstab()
    }

    /// The length of the first disk in bytes if the configuration fixes it.
    pub fn fixed_size(&self) -> Option<u64> {
        self.main()?.size
    }

    /// A path for hooks that stands for a node. Nothing is there: programs that
    /// would use it are answered from [`Facts`].
    fn device(&self, node: &str) -> String {
        for disk in &self.disks {
            if node == disk.name {
                return format!("/dev/{node}");
            }
            if let Some(number) = disk.table.as_ref().and_then(|table| table.number(node)) {
                return format!("/dev/mapper/{}p{number}", disk.name);
            }
        }
        let mut volumes = self.config.lvms.iter().flat_map(|lvm| &lvm.lvs);
        match volumes.find(|lv| lv.name == node) {
            Some(lv) => format!("/dev/mapper/{}-{}", lv.base, lv.name),
            None => String::new(),
        }
    }

    /// `IMAGE_BLOCK_DEVICE`: the path that stands for the whole first disk.
    pub fn image_block_device(&self) -> String {
        self.main()
            .map_or_else(String::new, |disk| self.device(&disk.name))
    }

    /// `IMAGE_BLOCK_DEVICES`: names of disks, partitions and logical volumes with
    /// the paths that stand for them, in the order of creation.
    pub fn image_block_devices(&self) -> Vec<(String, String)> {
        let names = self.config.order.iter();
        names
            .map(|name| (name.clone(), self.device(name)))
            .filter(|(_, device)| !device.is_empty())
            .collect()
    }

    /// Whether the first disk has room for BIOS boot code: before the first partition
    /// of an MBR, or in a BIOS boot partition of a GPT.
    pub fn has_boot_space(&self) -> bool {
        let table = self.main().and_then(|disk| disk.table.as_ref());
        table.is_some_and(Table::has_boot_space)
    }

    /// What hooks may know.
    pub fn facts(&self) -> Facts {
        let filesystems = self.filesystems.iter().map(|filesystem| {
            let is_volume = self.is_volume(&filesystem.base);
            let at = self.disks_of(&filesystem.base).first().copied();
            let at = at.filter(|_| !is_volume);
            let table = at.and_then(|at| self.disks[at].table.as_ref());
            Filesystem {
                name: filesystem.name.clone(),
                device: self.device(&filesystem.base),
                mount_point: filesystem.mount_point.clone(),
                fstype: filesystem.fstype.clone(),
                label: filesystem.label.clone(),
                uuid: filesystem.id.to_string(),
                disk: at,
                partition: table.and_then(|table| table.number(&filesystem.base)),
                partuuid: table
                    .and_then(|table| table.uuid(&filesystem.base))
                    .unwrap_or_default(),
            }
        });
        Facts {
            sector_size: self.sector_size(),
            disks: self
                .disks
                .iter()
                .map(|disk| facts::Disk {
                    device: self.device(&disk.name),
                    partition_table: disk.table.as_ref().map_or("", Table::kind).to_owned(),
                })
                .collect(),
            filesystems: filesystems.collect(),
        }
    }

    /// Whether a node is a logical volume.
    fn is_volume(&self, node: &str) -> bool {
        let mut volumes = self.config.lvms.iter().flat_map(|lvm| &lvm.lvs);
        volumes.any(|lv| lv.name == node)
    }
}

/// Names of the disks that a node is on, in no order; the same may come twice.
fn holders<'a>(config: &'a Config, node: &str) -> Vec<&'a str> {
    if let Some(disk) = config.loops.iter().find(|disk| disk.name == node) {
        return vec![&disk.name];
    }
    let on = |table: &&Partitioning| table.partitions.iter().any(|part| part.name == node);
    if let Some(table) = config.tables.iter().find(on) {
        return vec![&table.base];
    }
    let mut names = Vec::new();
    for lvm in &config.lvms {
        let group = lvm.lvs.iter().find(|lv| lv.name == node);
        let group = group.and_then(|lv| lvm.vgs.iter().find(|vg| vg.name == lv.base));
        let pvs = group.map_or(&[][..], |group| &group.base);
        for pv in lvm.pvs.iter().filter(|pv| pvs.contains(&pv.name)) {
            // A physical volume lies on a disk or a partition, so this ends.
            names.extend(holders(config, &pv.base));
        }
    }
    names
}

/// Plans the disks, of which [`Config::main_loop`] is the first.
fn plan_disks(
    config: &Config,
    names: &Names,
    parameters: &PlanParameters,
    warnings: &mut Vec<String>,
) -> Result<Vec<DiskPlan>, LayoutError> {
    let mut disks = Vec::with_capacity(config.loops.len());
    for image in &config.loops {
        let sector_size = parameters.block_size.or(image.block_size).unwrap_or(512);
        if !matches!(sector_size, 512 | 4096) {
            return Err(LayoutError::SectorSize { sector_size });
        }
        // Bases are checked, so there is one table for one disk.
        let mut tables = config.tables.iter();
        let table = tables
            .find(|table| table.base == image.name)
            .filter(|table| !table.partitions.is_empty())
            .map(|table| plan_table(table, config, names, parameters, sector_size, warnings))
            .transpose()?;
        disks.push(DiskPlan {
            name: image.name.clone(),
            directory: image.directory.clone(),
            size: image.size,
            sector_size,
            table,
        });
    }
    if disks.is_empty() {
        return Err(LayoutError::NoDisk);
    }
    let main = config.main_loop();
    let at = disks
        .iter()
        .position(|disk| main.is_some_and(|main| main.name == disk.name));
    disks[..=at.unwrap_or(0)].rotate_right(1);
    Ok(disks)
}

/// Makes identities from names.
struct Names {
    seed: Uuid,
}

impl Names {
    fn uuid(&self, kind: &str, name: &str) -> Uuid {
        Uuid::new_v5(&self.seed, format!("{kind}/{name}").as_bytes())
    }

    /// 32 bits that are not zero.
    fn id32(&self, kind: &str, name: &str) -> u32 {
        let [a, b, c, d, ..] = self.uuid(kind, name).into_bytes();
        u32::from_be_bytes([a, b, c, d]).max(1)
    }
}

fn plan_filesystem(
    mkfs: &Mkfs,
    config: &Config,
    names: &Names,
    sector_size: u32,
    warnings: &mut Vec<String>,
) -> Result<FilesystemPlan, LayoutError> {
    let is_fat = matches!(mkfs.fstype.as_str(), "vfat" | "fat" | "msdos");
    let bad_uuid = |uuid: &str, wanted| LayoutError::FilesystemUuid {
        node: mkfs.name.clone(),
        uuid: uuid.to_owned(),
        wanted,
    };
    let is_ext = mkfs.fstype.starts_with("ext");
    let given_uuid = option(&mkfs.opts, "-U").and_then(|uuid| Uuid::try_parse(uuid).ok());
    let id = match &mkfs.uuid {
        None if is_fat => FilesystemId::Fat(names.id32("filesystem", &mkfs.name)),
        None => FilesystemId::Uuid(match given_uuid.filter(|_| is_ext) {
            Some(uuid) => uuid,
            None => names.uuid("filesystem", &mkfs.name),
        }),
        Some(uuid) if is_fat => {
            let digits = uuid.replacen('-', "", 1);
            let id = u32::from_str_radix(&digits, 16).ok();
            let id = id.filter(|_| digits.len() == 8 && !digits.starts_with('+'));
            FilesystemId::Fat(id.ok_or_else(|| bad_uuid(uuid, "a FAT volume id like 1234-ABCD"))?)
        }
        Some(uuid) => {
            let parsed = Uuid::try_parse(uuid).ok().filter(|_| uuid.len() == 36);
            let wanted = "a uuid like 01234567-89ab-cdef-0123-456789abcdef";
            FilesystemId::Uuid(parsed.ok_or_else(|| bad_uuid(uuid, wanted))?)
        }
    };
    let mut mounts = config.mounts.iter().filter(|mount| mount.base == mkfs.name);
    let mount = mounts.next().filter(|_| !mkfs.is_swap());
    if let (Some(first), Some(second)) = (mount, mounts.next()) {
        warnings.push(format!(
            "filesystem `{}` is mounted at `{}` and `{}`; it holds the files of the first",
            mkfs.name, first.mount_point, second.mount_point
        ));
    }
    if let Some(label) = option(&mkfs.opts, "-L").filter(|label| is_ext && *label != mkfs.label) {
        // As with DIB, whose label comes last.
        warnings.push(format!(
            "mkfs option `-L {label}` of `{}` has no effect: its label is `{}`",
            mkfs.name, mkfs.label
        ));
    }
    if is_ext && option(&mkfs.opts, "-I") == Some("128") {
        warnings.push(format!(
            "`{}` has inodes of 128 bytes, which hold no times after 2038 and no parts of seconds",
            mkfs.name
        ));
    }
    if mkfs.is_swap() && !mkfs.opts.is_empty() {
        warnings.push(format!("mkfs options of swap `{}` are ignored", mkfs.name));
    }
    Ok(FilesystemPlan {
        name: mkfs.name.clone(),
        base: mkfs.base.clone(),
        fstype: mkfs.fstype.clone(),
        label: mkfs.label.clone(),
        id,
        opts: mkfs.opts.clone(),
        mount_point: mount.map(|mount| mount.mount_point.clone()),
        holds_boot: config
            .mkfs_holding("/boot")
            .is_some_and(|holder| holder.name == mkfs.name),
        sector_size,
    })
}

/// The value of an option of mkfs, attached or in the next word.
fn option<'a>(opts: &'a [String], name: &str) -> Option<&'a str> {
    let at = opts.iter().position(|word| word.starts_with(name))?;
    match opts[at].strip_prefix(name) {
        Some("") => opts.get(at + 1).map(String::as_str),
        value => value,
    }
}

#[cfg(test)]
mod tests;
