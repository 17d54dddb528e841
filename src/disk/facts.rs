//! What hooks may know about the disk before it exists.
//!
//! There is no block device during a build, so helpers such as the `grub-probe`
//! shim answer from these facts, which the plan fixes. They are written as JSON
//! to the file that `KILN_LAYOUT` names.

use serde::{Deserialize, Serialize};

/// The planned disks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Logical sector size of the first disk in bytes.
    pub sector_size: u32,
    /// The disks; the one that the system starts from is the first.
    pub disks: Vec<Disk>,
    /// Filesystems in the order of the configuration.
    pub filesystems: Vec<Filesystem>,
}

impl Facts {
    /// Device path that hooks see as `IMAGE_BLOCK_DEVICE`; empty without disks.
    pub fn device(&self) -> &str {
        self.disks.first().map_or("", |disk| &disk.device)
    }

    /// `gpt`, `msdos`, or empty where the first disk has no partition table.
    pub fn partition_table(&self) -> &str {
        self.disks.first().map_or("", |disk| &disk.partition_table)
    }
}

/// A planned disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Disk {
    /// Device path that hooks see in `IMAGE_BLOCK_DEVICES` (it does not exist).
    pub device: String,
    /// `gpt`, `msdos` or empty where there is no partition table.
    pub partition_table: String,
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
    /// Index of the disk that it is on; `None` for a logical volume.
    pub disk: Option<usize>,
    /// Number in the partition table, from 1; `None` on a bare disk.
    pub partition: Option<u32>,
    /// UUID of the GPT entry, or `<disk id>-<number>` on MBR; empty otherwise.
    pub partuuid: String,
}
