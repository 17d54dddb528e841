//! Partition tables before their disk has a length: numbers, types and identities.

use uuid::Uuid;

use super::{LayoutError, Names, PlanParameters};
use crate::disk::config::{self, Config, ConfigError, Partition, Partitioning, TableKind};
use crate::disk::{gpt, mbr};

/// Type of an EFI system partition on an MBR.
const EFI_SYSTEM: u8 = 0xEF;

/// A planned partition table.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Table {
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

impl Table {
    /// Its name as `blkid` and GRUB have it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Table::Mbr { .. } => "msdos",
            Table::Gpt { .. } => "gpt",
        }
    }

    /// Number of a partition, from 1.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        match self {
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
    pub(super) fn uuid(&self, name: &str) -> Option<String> {
        match self {
            Table::Mbr { disk_id, .. } => Some(format!("{disk_id:08x}-{:02x}", self.number(name)?)),
            Table::Gpt { requests, .. } => {
                let request = requests.iter().find(|request| request.name == name)?;
                Some(request.guid.to_string())
            }
        }
    }

    /// Whether there is room for BIOS boot code: before the first partition of an
    /// MBR, or in a BIOS boot partition of a GPT.
    pub(super) fn has_boot_space(&self) -> bool {
        match self {
            Table::Mbr { .. } => true,
            Table::Gpt { requests, .. } => requests
                .iter()
                .any(|request| request.type_guid == gpt::types::BIOS_BOOT),
        }
    }

    /// Names of its EFI system partitions.
    pub(super) fn efi_system_partitions(&self) -> Vec<&str> {
        match self {
            Table::Mbr { requests, .. } => requests
                .iter()
                .filter(|request| request.partition_type == EFI_SYSTEM)
                .map(|request| request.name.as_str())
                .collect(),
            Table::Gpt { requests, .. } => requests
                .iter()
                .filter(|request| request.type_guid == gpt::types::ESP)
                .map(|request| request.name.as_str())
                .collect(),
        }
    }

    /// Bytes that its partitions of fixed size need at least.
    pub(super) fn minimum_size(&self) -> u64 {
        let fixed = |size: mbr::Size| match size {
            mbr::Size::Bytes(bytes) => bytes,
            mbr::Size::Percent(_) => 0,
        };
        match self {
            Table::Mbr {
                align, requests, ..
            } => {
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
            Table::Gpt { requests, .. } => requests.iter().fold(2 * gpt::ALIGN, |sum, request| {
                sum.saturating_add(fixed(request.size).max(gpt::ALIGN))
            }),
        }
    }
}

/// Plans the table of a disk.
pub(super) fn plan_table(
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
    let mounted_at = mount.map(config::Mount::path).unwrap_or_default();
    let used_for = match mkfs {
        Some(mkfs) if mkfs.is_swap() => "swap",
        _ => mounted_at.as_str(),
    };
    gpt::discoverable(used_for, arch).ok_or_else(|| {
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
