//! Reads typed items from their settings.

use std::path::PathBuf;

use super::error::ConfigError;
use super::flatten::Item;
use super::nodes::{
    Fstab, LocalLoop, Lv, LvKind, LvSize, Lvm, Mkfs, Mount, Partition, Partitioning, Pv, TableKind,
    Vg,
};
use super::size;
use crate::disk::yaml::{Map, Value};

/// Settings of one node, with its name for errors.
struct Settings<'a> {
    node: &'a str,
    map: &'a Map,
}

impl<'a> Settings<'a> {
    fn of(item: &'a Item) -> Self {
        Settings {
            node: &item.name,
            map: &item.settings,
        }
    }

    fn not_text(&self, key: &str, found: &Value) -> ConfigError {
        ConfigError::NotText {
            node: self.node.to_owned(),
            key: key.to_owned(),
            found: found.kind_name().to_owned(),
        }
    }

    fn not_a_list(&self, key: &str, found: &Value) -> ConfigError {
        ConfigError::NotAList {
            node: self.node.to_owned(),
            key: key.to_owned(),
            found: found.kind_name().to_owned(),
        }
    }

    /// A scalar; null counts as absent.
    fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_text() {
                Some(text) => Ok(Some(text)),
                None => Err(self.not_text(key, value)),
            },
        }
    }

    fn owned(&self, key: &str) -> Result<Option<String>, ConfigError> {
        Ok(self.text(key)?.map(str::to_owned))
    }

    fn list(&self, key: &str) -> Result<Option<&'a [Value]>, ConfigError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::List(items)) => Ok(Some(items)),
            Some(value) => Err(self.not_a_list(key, value)),
        }
    }

    fn texts(&self, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(items) = self.list(key)? else {
            return Ok(None);
        };
        items
            .iter()
            .map(|item| match item.as_text() {
                Some(text) => Ok(text.to_owned()),
                None => Err(self.not_text(key, item)),
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn number(&self, key: &'static str, default: u32) -> Result<u32, ConfigError> {
        match self.text(key)? {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| ConfigError::Number {
                node: self.node.to_owned(),
                key,
                found: text.to_owned(),
            }),
        }
    }

    fn absolute(&self, key: &'static str) -> Result<Option<u64>, ConfigError> {
        self.text(key)?
            .map(|text| {
                size::absolute(text).map_err(|source| ConfigError::Size {
                    node: self.node.to_owned(),
                    key,
                    source,
                })
            })
            .transpose()
    }

    /// Warns of keys that no plugin reads; a misspelt one would be lost without a trace.
    fn warn_unknown(&self, what: &str, known: &[&str], warnings: &mut Vec<String>) {
        for (key, _) in self.map.iter() {
            if !known.contains(&key) {
                warnings.push(format!(
                    "`{key}` of {what} `{}` is unknown and ignored",
                    self.node
                ));
            }
        }
    }
}

pub(super) fn local_loop(
    item: &Item,
    warnings: &mut Vec<String>,
) -> Result<LocalLoop, ConfigError> {
    let settings = Settings::of(item);
    let known = ["name", "base", "size", "directory", "block_size"];
    settings.warn_unknown("local_loop", &known, warnings);
    if item.name.contains(['/', '\0']) || matches!(item.name.as_str(), "" | "." | "..") {
        return Err(ConfigError::DiskName {
            node: item.name.clone(),
        });
    }
    let block_size = match settings.text("block_size")? {
        None => None,
        Some("512") => Some(512),
        Some("4096") => Some(4096),
        Some(found) => {
            return Err(ConfigError::BlockSize {
                node: item.name.clone(),
                found: found.to_owned(),
            });
        }
    };
    Ok(LocalLoop {
        name: item.name.clone(),
        size: settings.absolute("size")?,
        block_size,
        directory: settings.text("directory")?.map(PathBuf::from),
    })
}

pub(super) fn partitioning(
    item: &Item,
    warnings: &mut Vec<String>,
) -> Result<Partitioning, ConfigError> {
    let settings = Settings::of(item);
    let known = ["name", "base", "label", "align", "partitions"];
    settings.warn_unknown("partitioning", &known, warnings);
    let needs = |key| ConfigError::PartitioningNeeds {
        node: item.name.clone(),
        key,
    };
    let base = settings.owned("base")?.ok_or_else(|| needs("base"))?;
    let label = match settings.text("label")?.ok_or_else(|| needs("label"))? {
        "mbr" => TableKind::Mbr,
        "gpt" => TableKind::Gpt,
        other => {
            return Err(ConfigError::PartitionLabel {
                node: item.name.clone(),
                label: other.to_owned(),
            });
        }
    };
    let align = settings.absolute("align")?.unwrap_or(1 << 20);
    if align == 0 || !align.is_multiple_of(512) {
        return Err(ConfigError::Align {
            node: item.name.clone(),
            bytes: align,
        });
    }
    let partitions = settings
        .list("partitions")?
        .ok_or_else(|| needs("partitions"))?
        .iter()
        .map(|value| partition(item, label, value, warnings))
        .collect::<Result<_, _>>()?;
    Ok(Partitioning {
        name: item.name.clone(),
        base,
        label,
        align,
        partitions,
    })
}

fn partition(
    item: &Item,
    label: TableKind,
    value: &Value,
    warnings: &mut Vec<String>,
) -> Result<Partition, ConfigError> {
    let Value::Map(map) = value else {
        return Err(ConfigError::NotADict {
            entry: value.to_string(),
        });
    };
    let without_name = || ConfigError::PartitionWithoutName {
        partitioning: item.name.clone(),
    };
    let name = Settings {
        node: &item.name,
        map,
    }
    .text("name")?
    .ok_or_else(without_name)?;
    let settings = Settings { node: name, map };
    settings.warn_unknown(
        "partition",
        &["name", "base", "size", "flags", "type"],
        warnings,
    );
    let text = settings.text("size")?.ok_or_else(|| ConfigError::NoSize {
        partition: name.to_owned(),
    })?;
    let size = size::absolute_or_percent(text).map_err(|source| ConfigError::Size {
        node: name.to_owned(),
        key: "size",
        source,
    })?;
    let (mut boot, mut primary) = (false, false);
    for flag in settings.texts("flags")?.unwrap_or_default() {
        match flag.as_str() {
            "boot" => boot = true,
            "primary" if label == TableKind::Gpt => {
                return Err(ConfigError::PrimaryOnGpt {
                    partition: name.to_owned(),
                });
            }
            "primary" => primary = true,
            _ => {
                return Err(ConfigError::UnknownFlag {
                    partition: name.to_owned(),
                    flag,
                });
            }
        }
    }
    let type_code = settings.owned("type")?;
    Ok(Partition {
        name: name.to_owned(),
        size,
        boot,
        primary,
        type_code,
    })
}

pub(super) fn lvm(item: &Item, warnings: &mut Vec<String>) -> Result<Lvm, ConfigError> {
    let settings = Settings::of(item);
    settings.warn_unknown("lvm", &["name", "base", "pvs", "vgs", "lvs"], warnings);
    let list = |key, message| {
        let list = settings.list(key)?;
        list.ok_or_else(|| lvm_needs(&item.name, message))
    };
    let pvs = list("pvs", "Lvm config requires a 'pvs'")?;
    let vgs = list("vgs", "Lvm config needs 'vgs'")?;
    let lvs = list("lvs", "Lvm config needs 'lvs'")?;

    let mut entries = Entries {
        lvm: &item.name,
        warnings,
    };
    let pvs: Vec<_> = pvs
        .iter()
        .map(|value| entries.pv(value))
        .collect::<Result<_, _>>()?;
    let vgs: Vec<_> = vgs
        .iter()
        .map(|value| entries.vg(value, &pvs))
        .collect::<Result<_, _>>()?;
    let lvs = lvs
        .iter()
        .map(|value| entries.lv(value, &vgs))
        .collect::<Result<_, _>>()?;
    Ok(Lvm {
        name: item.name.clone(),
        pvs,
        vgs,
        lvs,
    })
}

/// Keys of physical volumes and volume groups.
const LVM_KEYS: [&str; 3] = ["name", "base", "options"];

fn lvm_needs(lvm: &str, message: &'static str) -> ConfigError {
    ConfigError::LvmNeeds {
        node: lvm.to_owned(),
        message,
    }
}

/// Reads entries of `pvs`, `vgs` and `lvs`.
struct Entries<'a> {
    /// The item that has them.
    lvm: &'a str,
    warnings: &'a mut Vec<String>,
}

impl<'a> Entries<'a> {
    /// The settings of an entry. One without a name is the item's fault.
    fn named(
        &mut self,
        value: &'a Value,
        what: &str,
        known: &[&str],
        without_name: &'static str,
    ) -> Result<Settings<'a>, ConfigError> {
        let Value::Map(map) = value else {
            return Err(ConfigError::NotADict {
                entry: value.to_string(),
            });
        };
        let item = Settings {
            node: self.lvm,
            map,
        };
        let node = item.text("name")?.ok_or_else(|| self.needs(without_name))?;
        let settings = Settings { node, map };
        settings.warn_unknown(what, known, self.warnings);
        Ok(settings)
    }

    fn needs(&self, message: &'static str) -> ConfigError {
        lvm_needs(self.lvm, message)
    }

    fn pv(&mut self, value: &'a Value) -> Result<Pv, ConfigError> {
        let settings = self.named(value, "pv", &LVM_KEYS, "Missing 'name' in pvs config")?;
        let base = settings.owned("base")?;
        Ok(Pv {
            name: settings.node.to_owned(),
            base: base.ok_or_else(|| self.needs("Missing 'base' in pvs_config"))?,
            options: settings.texts("options")?.unwrap_or_default(),
        })
    }

    fn vg(&mut self, value: &'a Value, pvs: &[Pv]) -> Result<Vg, ConfigError> {
        let settings = self.named(value, "vg", &LVM_KEYS, "Missing 'name' in vgs config")?;
        let base = settings.texts("base")?;
        let base = base.ok_or_else(|| self.needs("Missing 'base' in vgs config"))?;
        let is_known = |name: &String| pvs.iter().any(|pv| pv.name == *name);
        if let Some(unknown) = base.iter().find(|name| !is_known(name)) {
            return Err(ConfigError::UnknownPv {
                base: unknown.clone(),
            });
        }
        Ok(Vg {
            name: settings.node.to_owned(),
            base,
            options: settings.texts("options")?.unwrap_or_default(),
        })
    }

    fn lv(&mut self, value: &'a Value, vgs: &[Vg]) -> Result<Lv, ConfigError> {
        let known = [
            "name",
            "base",
            "options",
            "size",
            "extents",
            "type",
            "thin-pool",
        ];
        let settings = self.named(value, "lv", &known, "Missing 'name' in lvs config")?;
        let base = settings.map.get("base");
        let base = base.ok_or_else(|| self.needs("Missing 'base' in lvs config"))?;
        let base = match base.as_text() {
            Some(base) if vgs.iter().any(|vg| vg.name == base) => base.to_owned(),
            other => {
                return Err(ConfigError::UnknownVg {
                    base: other.map_or_else(|| base.to_string(), str::to_owned),
                });
            }
        };
        let size = match (settings.absolute("size")?, settings.owned("extents")?) {
            (Some(bytes), _) => LvSize::Bytes(bytes),
            (None, Some(extents)) => LvSize::Extents(extents),
            (None, None) => return Err(self.needs("Missing 'size' or 'extents' in lvs config")),
        };
        let kind = match settings.text("type")? {
            None => LvKind::Linear,
            Some("thin") => LvKind::Thin,
            Some("thin-pool") => LvKind::ThinPool,
            Some(found) => {
                return Err(ConfigError::LvType {
                    found: found.to_owned(),
                });
            }
        };
        Ok(Lv {
            name: settings.node.to_owned(),
            base,
            size,
            kind,
            thin_pool: settings.owned("thin-pool")?,
            options: settings.texts("options")?.unwrap_or_default(),
        })
    }
}

/// Bytes that a label may have on filesystems of a type.
pub fn label_limit(fstype: &str) -> Option<usize> {
    match fstype {
        "ext2" | "ext3" | "ext4" | "swap" => Some(16),
        "xfs" => Some(12),
        "vfat" | "fat" => Some(11),
        "btrfs" => Some(255),
        _ => None,
    }
}

pub(super) fn mkfs(item: &Item, warnings: &mut Vec<String>) -> Result<Mkfs, ConfigError> {
    let settings = Settings::of(item);
    settings.warn_unknown(
        "mkfs",
        &["name", "base", "type", "label", "opts", "uuid"],
        warnings,
    );
    let needs = |key| ConfigError::MkfsNeeds {
        node: item.name.clone(),
        key,
    };
    let base = settings.owned("base")?.ok_or_else(|| needs("base"))?;
    let fstype = settings
        .owned("type")?
        .filter(|fstype| !fstype.is_empty())
        .ok_or_else(|| needs("type"))?;
    let label = settings.text("label")?.unwrap_or(&item.name);
    let label = match fstype.as_str() {
        "vfat" | "fat" => label.to_uppercase(),
        _ => label.to_owned(),
    };
    // Filesystems count bytes; for the ASCII that labels are in practice,
    // DIB's characters are the same.
    if let Some(limit) = label_limit(&fstype)
        && label.len() > limit
    {
        let length = label.len();
        return Err(ConfigError::LabelTooLong {
            node: item.name.clone(),
            label,
            fstype,
            length,
            limit,
        });
    }
    let opts = settings.text("opts")?.unwrap_or_default();
    // DIB splits at spaces and knows no quotes; a quote could mean nothing else.
    let opts = shlex::split(opts).ok_or_else(|| ConfigError::Quotes {
        node: item.name.clone(),
        opts: opts.to_owned(),
    })?;
    let uuid = settings.owned("uuid")?;
    Ok(Mkfs {
        name: item.name.clone(),
        base,
        fstype,
        label,
        uuid,
        opts,
    })
}

pub(super) fn mount(item: &Item, warnings: &mut Vec<String>) -> Result<Mount, ConfigError> {
    let settings = Settings::of(item);
    settings.warn_unknown("mount", &["name", "base", "mount_point"], warnings);
    let needs = |key| ConfigError::MountNeeds {
        node: item.name.clone(),
        key,
    };
    Ok(Mount {
        name: item.name.clone(),
        base: settings.owned("base")?.ok_or_else(|| needs("base"))?,
        mount_point: settings
            .owned("mount_point")?
            .ok_or_else(|| needs("mount_point"))?,
    })
}

pub(super) fn fstab(item: &Item, warnings: &mut Vec<String>) -> Result<Fstab, ConfigError> {
    let settings = Settings::of(item);
    let known = ["name", "base", "options", "dump-freq", "fsck-passno"];
    settings.warn_unknown("fstab", &known, warnings);
    let needs = |key| ConfigError::FstabNeeds {
        node: item.name.clone(),
        key,
    };
    Ok(Fstab {
        name: item.name.clone(),
        base: settings.owned("base")?.ok_or_else(|| needs("base"))?,
        options: settings
            .owned("options")?
            .unwrap_or_else(|| "defaults".to_owned()),
        dump_freq: settings.number("dump-freq", 0)?,
        fsck_passno: settings.number("fsck-passno", 2)?,
    })
}
