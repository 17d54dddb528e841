//! From the tree form of a configuration to a flat list of named items.

use std::fmt;

use super::error::ConfigError;
use crate::disk::yaml::{Map, Value};

/// The kinds of items there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plugin {
    /// An image file.
    LocalLoop,
    /// A partition table.
    Partitioning,
    /// Physical volumes, volume groups and logical volumes.
    Lvm,
    /// A filesystem or swap area.
    Mkfs,
    /// Where a filesystem is mounted.
    Mount,
    /// A line of `/etc/fstab`.
    Fstab,
}

impl Plugin {
    /// The plugin that a key of the configuration names.
    pub fn from_key(key: &str) -> Option<Plugin> {
        Some(match key {
            "local_loop" => Plugin::LocalLoop,
            "partitioning" => Plugin::Partitioning,
            "lvm" => Plugin::Lvm,
            "mkfs" => Plugin::Mkfs,
            "mount" => Plugin::Mount,
            "fstab" => Plugin::Fstab,
            _ => return None,
        })
    }

    /// Its key in a configuration.
    pub fn key(self) -> &'static str {
        match self {
            Plugin::LocalLoop => "local_loop",
            Plugin::Partitioning => "partitioning",
            Plugin::Lvm => "lvm",
            Plugin::Mkfs => "mkfs",
            Plugin::Mount => "mount",
            Plugin::Fstab => "fstab",
        }
    }
}

impl fmt::Display for Plugin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.key())
    }
}

/// An item of the flat (graph) form: no plugin is nested in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub plugin: Plugin,
    /// Its name, which is also in the settings.
    pub name: String,
    /// Its settings, with `name` and, except for the first ones, `base`.
    pub settings: Map,
}

/// Flattens a document. Children come before the item that they were nested in.
///
/// # Errors
/// If the document is not a list of single-key mappings named after plugins, or
/// an item has neither a name nor a base.
pub fn flatten(document: &Value) -> Result<Vec<Item>, ConfigError> {
    let entries = match document {
        Value::Null => return Err(ConfigError::Empty),
        Value::List(entries) if entries.is_empty() => return Err(ConfigError::Empty),
        Value::List(entries) => entries,
        other => {
            return Err(ConfigError::NotADict {
                entry: other.to_string(),
            });
        }
    };
    let mut items = Vec::new();
    for entry in entries {
        let Value::Map(map) = entry else {
            return Err(ConfigError::NotADict {
                entry: entry.to_string(),
            });
        };
        let mut pairs = map.iter();
        let (Some((key, value)), None) = (pairs.next(), pairs.next()) else {
            return Err(ConfigError::NotASingleDict {
                entry: entry.to_string(),
            });
        };
        let plugin = Plugin::from_key(key).ok_or_else(|| ConfigError::NotAPlugin {
            entry: entry.to_string(),
        })?;
        flatten_item(plugin, value, None, &mut items)?;
    }
    Ok(items)
}

fn flatten_item(
    plugin: Plugin,
    value: &Value,
    parent: Option<&str>,
    items: &mut Vec<Item>,
) -> Result<(), ConfigError> {
    let Value::Map(values) = value else {
        return Err(ConfigError::SettingsNotADict {
            plugin: plugin.to_string(),
            found: value.kind_name().to_owned(),
        });
    };
    let text = |key: &str| match values.get(key) {
        None => Ok(None),
        Some(value) => value
            .as_text()
            .map(Some)
            .ok_or_else(|| ConfigError::NotText {
                node: plugin.to_string(),
                key: key.to_owned(),
                found: value.kind_name().to_owned(),
            }),
    };
    // Of an lvm item it has no meaning: its physical volumes name their bases. Where one is
    // given it may be a list of them.
    let bases = match (plugin, values.get("base")) {
        (Plugin::Lvm, Some(list @ Value::List(_))) => Some(list),
        _ => None,
    };
    let base = match bases {
        Some(_) => None,
        None => text("base")?.or(parent).map(str::to_owned),
    };
    let name = match (text("name")?, &base) {
        (Some(name), _) => name.to_owned(),
        (None, Some(base)) => format!("{plugin}_{base}"),
        (None, None) => {
            return Err(ConfigError::NoName {
                plugin: plugin.to_string(),
            });
        }
    };
    let mut settings = Map::default();
    settings.set("name", Value::text(&name));
    if let Some(base) = &base {
        settings.set("base", Value::text(base));
    } else if let Some(bases) = bases {
        settings.set("base", bases.clone());
    }
    for (key, value) in values.iter() {
        if key == "partitions" {
            let records = partitions(&name, base.as_deref(), value, items)?;
            settings.set(key, Value::List(records));
        } else if let Some(child) = Plugin::from_key(key) {
            flatten_item(child, value, Some(&name), items)?;
        } else if !matches!(key, "name" | "base") {
            settings.set(key, value.clone());
        }
    }
    items.push(Item {
        plugin,
        name,
        settings,
    });
    Ok(())
}

/// Takes the plugins out of a list of partitions.
fn partitions(
    node: &str,
    base: Option<&str>,
    value: &Value,
    items: &mut Vec<Item>,
) -> Result<Vec<Value>, ConfigError> {
    let Value::List(partitions) = value else {
        return Err(ConfigError::NotAList {
            node: node.to_owned(),
            key: "partitions".to_owned(),
            found: value.kind_name().to_owned(),
        });
    };
    let mut records = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let Value::Map(map) = partition else {
            return Err(ConfigError::NotADict {
                entry: partition.to_string(),
            });
        };
        let name = map.get("name").and_then(Value::as_text).ok_or_else(|| {
            ConfigError::PartitionWithoutName {
                partitioning: node.to_owned(),
            }
        })?;
        let mut record = Map::default();
        for (key, value) in map.iter() {
            match Plugin::from_key(key) {
                Some(child) => flatten_item(child, value, Some(name), items)?,
                None => record.set(key, value.clone()),
            }
        }
        if let Some(base) = base {
            record.set("base", Value::text(base));
        }
        records.push(Value::Map(record));
    }
    Ok(records)
}
