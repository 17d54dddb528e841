//! From a block-device configuration and trees to a disk, in two steps.
//!
//! [`Plan::new`] runs before anything is built. It fixes all names, labels and
//! UUIDs, so that hooks can use them ([`Plan::facts`], [`Plan::fstab`]).
//! [`Plan::assemble`] runs when the trees are complete and the length of the
//! image is known. It places partitions and logical volumes, lets planners fill
//! them with filesystems, and adds partition tables and boot code.
//!
//! All identities derive from a seed: the same seed and configuration give the
//! same bytes.

use uuid::Uuid;

use super::config::{Config, ConfigError, LvKind, Mkfs, Partition, Partitioning, TableKind};
use super::facts::{Facts, Filesystem};
use super::{gpt, lvm, mbr};

mod assemble;
mod error;
pub mod fit;
mod planner;
mod size;

pub use assemble::FilesystemPlanner;
pub use error::{LayoutError, PlannerError};
pub use planner::{NativePlanner, PlanError};
pub use size::{SizeRule, SizeRuleError};

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

/// A planned disk whose length is not known yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    config: Config,
    disk: String,
    sector_size: u32,
    table: Option<Table>,
    groups: Vec<lvm::Vg>,
    orphans: Vec<lvm::Pv>,
    filesystems: Vec<FilesystemPlan>,
    warnings: Vec<String>,
}

/// A planned partition table.
#[derive(Debug, Clone, PartialEq)]
enum Table {
    Mbr {
        disk_id: u32,
        align: u64,
        requests: Vec<mbr::Request>,
        numbers: Vec<u32>,
    },
    Gpt {
        disk_guid: Uuid,
        requests: Vec<gpt::Request>,
    },
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
        let image = match config.loops.as_slice() {
            [image] => image,
            [] => return Err(LayoutError::NoDisk),
            [first, second, ..] => {
                return Err(LayoutError::Unsupported {
                    what: format!(
                        "several disks in one configuration (`{}` and `{}`); build one image each",
                        first.name, second.name
                    ),
                });
            }
        };
        let sector_size = parameters.block_size.or(image.block_size).unwrap_or(512);
        if !matches!(sector_size, 512 | 4096) {
            return Err(LayoutError::SectorSize { sector_size });
        }
        let disk = image.name.clone();
        let mut warnings = config.warnings.clone();
        let names = Names {
            seed: parameters.seed,
        };
        let table = match config.tables.as_slice() {
            [] => None,
            // Bases are checked, so there is one table for one disk.
            [table, ..] if table.partitions.is_empty() => None,
            [table, ..] => Some(plan_table(
                table,
                &config,
                &names,
                parameters,
                sector_size,
                &mut warnings,
            )?),
        };
        let filesystems = config
            .mkfs
            .iter()
            .map(|mkfs| plan_filesystem(mkfs, &config, &names, sector_size, &mut warnings))
            .collect::<Result<_, _>>()?;
        let mut plan = Plan {
            disk,
            sector_size,
            table,
            groups: Vec::new(),
            orphans: Vec::new(),
            filesystems,
            warnings,
            config,
        };
        let mut warnings = Vec::new();
        (plan.groups, plan.orphans) =
            plan.plan_lvm(&names, parameters.creation_time, &mut warnings)?;
        plan.warnings.append(&mut warnings);
        Ok(plan)
    }

    /// Plans volume groups, and physical volumes outside of them. Their lengths
    /// come later.
    fn plan_lvm(
        &self,
        names: &Names,
        creation_time: u64,
        warnings: &mut Vec<String>,
    ) -> Result<(Vec<lvm::Vg>, Vec<lvm::Pv>), LayoutError> {
        let (mut groups, mut orphans) = (Vec::new(), Vec::new());
        for item in &self.config.lvms {
            let options = item
                .pvs
                .iter()
                .map(|pv| (&pv.name, &pv.options))
                .chain(item.vgs.iter().map(|vg| (&vg.name, &vg.options)))
                .chain(item.lvs.iter().map(|lv| (&lv.name, &lv.options)));
            for (name, options) in options {
                // These only silence questions of LVM's programs.
                let idle = ["--force", "-f", "-ff", "--yes", "-y", "--quiet", "-q"];
                for option in options
                    .iter()
                    .filter(|option| !idle.contains(&option.as_str()))
                {
                    warnings.push(format!("lvm option `{option}` of `{name}` is ignored"));
                }
            }
            let pv = |pv: &super::config::Pv| lvm::Pv {
                name: pv.name.clone(),
                uuid: names.uuid("pv", &pv.name),
                bytes: 0,
                device: self.device(&pv.base),
            };
            for group in &item.vgs {
                let pvs = item.pvs.iter();
                let pvs = group
                    .base
                    .iter()
                    .filter_map(|name| pvs.clone().find(|pv| pv.name == *name))
                    .map(pv)
                    .collect();
                let mut lvs = Vec::new();
                for lv in item.lvs.iter().filter(|lv| lv.base == group.name) {
                    let kind = match (lv.kind, &lv.thin_pool) {
                        (LvKind::Linear, _) => lvm::Kind::Linear,
                        (LvKind::ThinPool, _) => lvm::Kind::ThinPool,
                        (LvKind::Thin, Some(pool)) => lvm::Kind::Thin(pool.clone()),
                        (LvKind::Thin, None) => {
                            return Err(lvm::LvmError::NoPool {
                                lv: lv.name.clone(),
                                vg: group.name.clone(),
                            }
                            .into());
                        }
                    };
                    let holder = self.config.mkfs.iter().find(|mkfs| mkfs.base == lv.name);
                    if let (LvKind::ThinPool, Some(mkfs)) = (lv.kind, holder) {
                        return Err(lvm::LvmError::PoolAsBase {
                            pool: lv.name.clone(),
                            node: mkfs.name.clone(),
                        }
                        .into());
                    }
                    lvs.push(lvm::Lv {
                        name: lv.name.clone(),
                        uuid: names.uuid("lv", &lv.name),
                        size: lv.size.clone(),
                        kind,
                    });
                }
                let uuid = names.uuid("vg", &group.name);
                let name = group.name.clone();
                for name in [&name].into_iter().chain(lvs.iter().map(|lv| &lv.name)) {
                    if !lvm::is_valid_name(name) {
                        return Err(lvm::LvmError::Name { name: name.clone() }.into());
                    }
                }
                groups.push(lvm::Vg {
                    name,
                    uuid,
                    pvs,
                    lvs,
                    creation_time,
                });
            }
            let used = |name: &String| item.vgs.iter().any(|vg| vg.base.contains(name));
            orphans.extend(item.pvs.iter().filter(|pv| !used(&pv.name)).map(pv));
        }
        Ok((groups, orphans))
    }

    /// The configuration that was planned.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Logical sector size in bytes.
    pub fn sector_size(&self) -> u32 {
        self.sector_size
    }

    /// What is odd but allowed: one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Filesystems and swap areas in the order of the configuration.
    pub fn filesystems(&self) -> &[FilesystemPlan] {
        &self.filesystems
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

    /// The length of the image in bytes if the configuration fixes it.
    pub fn fixed_size(&self) -> Option<u64> {
        self.config.loops.first().and_then(|image| image.size)
    }

    /// A path for hooks that stands for a node. Nothing is there: programs that
    /// would use it are answered from [`Facts`].
    fn device(&self, node: &str) -> String {
        if node == self.disk {
            return format!("/dev/{node}");
        }
        if let Some(number) = self.partition_number(node) {
            return format!("/dev/mapper/{}p{number}", self.disk);
        }
        let mut volumes = self.config.lvms.iter().flat_map(|lvm| &lvm.lvs);
        match volumes.find(|lv| lv.name == node) {
            Some(lv) => format!("/dev/mapper/{}-{}", lv.base, lv.name),
            None => String::new(),
        }
    }

    /// `IMAGE_BLOCK_DEVICE`: the path that stands for the whole disk.
    pub fn image_block_device(&self) -> String {
        self.device(&self.disk)
    }

    /// `IMAGE_BLOCK_DEVICES`: names of disk, partitions and logical volumes with
    /// the paths that stand for them, in the order of creation.
    pub fn image_block_devices(&self) -> Vec<(String, String)> {
        let names = self.config.order.iter();
        names
            .map(|name| (name.clone(), self.device(name)))
            .filter(|(_, device)| !device.is_empty())
            .collect()
    }

    /// Number of a partition in the table, from 1.
    fn partition_number(&self, name: &str) -> Option<u32> {
        match self.table.as_ref()? {
            Table::Mbr {
                requests, numbers, ..
            } => {
                let at = requests.iter().position(|request| request.name == name)?;
                numbers.get(at).copied()
            }
            Table::Gpt { requests, .. } => {
                let at = requests.iter().position(|request| request.name == name)?;
                u32::try_from(at + 1).ok()
            }
        }
    }

    /// UUID of a partition as `blkid` gives it.
    fn partition_uuid(&self, name: &str) -> Option<String> {
        match self.table.as_ref()? {
            Table::Mbr { disk_id, .. } => Some(format!(
                "{disk_id:08x}-{:02x}",
                self.partition_number(name)?
            )),
            Table::Gpt { requests, .. } => {
                let request = requests.iter().find(|request| request.name == name)?;
                Some(request.guid.to_string())
            }
        }
    }

    /// Whether there is room for BIOS boot code: before the first partition of an
    /// MBR, or in a BIOS boot partition of a GPT.
    pub fn has_boot_space(&self) -> bool {
        match &self.table {
            None => false,
            Some(Table::Mbr { .. }) => true,
            Some(Table::Gpt { requests, .. }) => requests
                .iter()
                .any(|request| request.type_guid == gpt::types::BIOS_BOOT),
        }
    }

    /// What hooks may know.
    pub fn facts(&self) -> Facts {
        let partition_table = match &self.table {
            None => "",
            Some(Table::Mbr { .. }) => "msdos",
            Some(Table::Gpt { .. }) => "gpt",
        };
        let filesystems = self.filesystems.iter().map(|filesystem| Filesystem {
            name: filesystem.name.clone(),
            device: self.device(&filesystem.base),
            mount_point: filesystem.mount_point.clone(),
            fstype: filesystem.fstype.clone(),
            label: filesystem.label.clone(),
            uuid: filesystem.id.to_string(),
            partition: self.partition_number(&filesystem.base),
            partuuid: self.partition_uuid(&filesystem.base).unwrap_or_default(),
        });
        Facts {
            partition_table: partition_table.to_owned(),
            sector_size: self.sector_size,
            device: self.image_block_device(),
            filesystems: filesystems.collect(),
        }
    }
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

fn plan_table(
    table: &Partitioning,
    config: &Config,
    names: &Names,
    parameters: &PlanParameters,
    sector_size: u32,
    warnings: &mut Vec<String>,
) -> Result<Table, LayoutError> {
    match table.label {
        TableKind::Mbr => {
            if sector_size != 512 {
                let node = table.name.clone();
                return Err(LayoutError::MbrSectorSize { node, sector_size });
            }
            let mut requests = Vec::with_capacity(table.partitions.len());
            let mut numbers = Vec::with_capacity(table.partitions.len());
            let (mut primary, mut logical) = (0, 4);
            for partition in &table.partitions {
                let counter = if partition.primary {
                    &mut primary
                } else {
                    &mut logical
                };
                *counter += 1;
                numbers.push(*counter);
                requests.push(mbr::Request {
                    name: partition.name.clone(),
                    primary: partition.primary,
                    active: partition.boot,
                    partition_type: mbr_type(partition, config)?,
                    size: partition.size,
                });
            }
            Ok(Table::Mbr {
                disk_id: names.id32("disk", &table.base),
                align: table.align / mbr::SECTOR,
                requests,
                numbers,
            })
        }
        TableKind::Gpt => {
            let mut requests = Vec::with_capacity(table.partitions.len());
            for partition in &table.partitions {
                requests.push(gpt::Request {
                    name: partition.name.clone(),
                    size: partition.size,
                    type_guid: gpt_type(partition, config, &parameters.arch, warnings)?,
                    guid: names.uuid("partition", &partition.name),
                    attributes: 0,
                });
            }
            Ok(Table::Gpt {
                disk_guid: names.uuid("disk", &table.base),
                requests,
            })
        }
    }
}

/// Whether a partition holds a physical volume.
fn is_pv(partition: &Partition, config: &Config) -> bool {
    config
        .lvms
        .iter()
        .flat_map(|lvm| &lvm.pvs)
        .any(|pv| pv.base == partition.name)
}

fn mbr_type(partition: &Partition, config: &Config) -> Result<u8, LayoutError> {
    const LINUX: u8 = 0x83;
    const LINUX_LVM: u8 = 0x8E;
    let Some(code) = &partition.type_code else {
        return Ok(if is_pv(partition, config) {
            LINUX_LVM
        } else {
            LINUX
        });
    };
    let digits = code
        .strip_prefix("0x")
        .or(code.strip_prefix("0X"))
        .unwrap_or(code);
    // Zero would make the entry a free one.
    let byte = u8::from_str_radix(digits, 16)
        .ok()
        .filter(|&byte| byte != 0);
    match byte {
        Some(byte) if !digits.starts_with('+') => Ok(byte),
        _ => Err(ConfigError::MbrType {
            partition: partition.name.clone(),
            found: code.clone(),
        }
        .into()),
    }
}

fn gpt_type(
    partition: &Partition,
    config: &Config,
    arch: &str,
    warnings: &mut Vec<String>,
) -> Result<Uuid, LayoutError> {
    let name = &partition.name;
    let Some(code) = &partition.type_code else {
        let lvm = is_pv(partition, config);
        return Ok(if lvm {
            gpt::types::LINUX_LVM
        } else {
            gpt::types::LINUX_FILESYSTEM
        });
    };
    if code == "dps" {
        return discoverable_type(partition, config, arch);
    }
    match gpt::parse_type(name, code).map_err(|error| ConfigError::Gpt(Box::new(error)))? {
        gpt::TypeCode::Known(guid) => Ok(guid),
        gpt::TypeCode::Unknown => {
            warnings.push(format!(
                "type `{code}` of partition `{name}` is unknown; it becomes 8300, as with sgdisk"
            ));
            Ok(gpt::types::LINUX_FILESYSTEM)
        }
    }
}

/// The type by which systemd finds what a partition is for.
fn discoverable_type(
    partition: &Partition,
    config: &Config,
    arch: &str,
) -> Result<Uuid, LayoutError> {
    let mkfs = config.mkfs.iter().find(|mkfs| mkfs.base == partition.name);
    let mount = mkfs.and_then(|mkfs| config.mounts.iter().find(|m| m.base == mkfs.name));
    let used_for = match (mkfs, mount) {
        (Some(mkfs), _) if mkfs.is_swap() => "swap",
        (_, Some(mount)) => &mount.mount_point,
        _ => "",
    };
    gpt::types::discoverable(used_for, arch).ok_or_else(|| {
        let what = match used_for {
            "" => "a partition that is not mounted".to_owned(),
            used_for => format!("`{used_for}` on {arch}"),
        };
        ConfigError::NoDiscoverableType {
            partition: partition.name.clone(),
            what,
        }
        .into()
    })
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
