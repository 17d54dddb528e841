//! What hooks may know about the disk before it exists.
//!
//! There is no block device during a build, so helpers such as the `grub-probe`
//! shim answer from these facts, which the plan fixes. They are written as JSON
//! to the file that `KILN_LAYOUT` names.

use serde::{Deserialize, Serialize};

/// The planned disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// `gpt`, `msdos` or empty where there is no partition table.
    pub partition_table: String,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    /// Device path that hooks see as `IMAGE_BLOCK_DEVICE` (it does not exist).
    pub device: String,
    /// Filesystems in the order of the configuration.
    pub filesystems: Vec<Filesystem>,
}

/// A planned filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Filesystem {
    /// Name of the configuration's mkfs node, such as `mkfs_root`.
    pub name: String,
    /// Device path that hooks see in `IMAGE_BLOCK_DEVICES`.
    pub device: String,
    /// Where it is mounted; `None` for swap and unmounted ones.
    pub mount_point: Option<String>,
    /// `ext4`, `vfat`, …
    pub fstype: String,
    /// Label.
    pub label: String,
    /// UUID in lower case (vfat: `ABCD-1234`).
    pub uuid: String,
    /// Number in the partition table, from 1; `None` on the bare disk.
    pub partition: Option<u32>,
    /// UUID of the GPT entry, or `<disk id>-<number>` on MBR; empty otherwise.
    pub partuuid: String,
}
