//! Typed items of a configuration.

use std::path::PathBuf;

use crate::disk::mbr::Size;

/// An image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalLoop {
    /// Name; the image is called after it.
    pub name: String,
    /// Length in bytes, if the configuration fixes it.
    pub size: Option<u64>,
    /// Sector size in bytes, if the configuration fixes it: 512 or 4096.
    pub block_size: Option<u32>,
    /// Directory of its image, if the configuration fixes it.
    pub directory: Option<PathBuf>,
}

/// A kind of partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// `mbr`
    Mbr,
    /// `gpt`
    Gpt,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq)]
pub struct Partitioning {
    /// Name; it takes no part in the graph.
    pub name: String,
    /// The disk that it is on.
    pub base: String,
    /// Its kind.
    pub label: TableKind,
    /// Alignment in bytes, a multiple of 512; only MBRs have regard to it.
    pub align: u64,
    /// Partitions in order.
    pub partitions: Vec<Partition>,
}

/// A partition.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// Name.
    pub name: String,
    /// Size.
    pub size: Size,
    /// Flag `boot`.
    pub boot: bool,
    /// Flag `primary`.
    pub primary: bool,
    /// Type as it was written; its meaning depends on the table.
    pub type_code: Option<String>,
}

/// LVM on one or more disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lvm {
    /// Name; the last node of the item.
    pub name: String,
    /// Physical volumes.
    pub pvs: Vec<Pv>,
    /// Volume groups.
    pub vgs: Vec<Vg>,
    /// Logical volumes.
    pub lvs: Vec<Lv>,
}

/// A physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pv {
    /// Name.
    pub name: String,
    /// The partition or disk that it is on.
    pub base: String,
    /// Further arguments of `pvcreate`.
    pub options: Vec<String>,
}

/// A volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vg {
    /// Name.
    pub name: String,
    /// Its physical volumes.
    pub base: Vec<String>,
    /// Further arguments of `vgcreate`.
    pub options: Vec<String>,
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lv {
    /// Name.
    pub name: String,
    /// Its volume group.
    pub base: String,
    /// How large it is.
    pub size: LvSize,
    /// Its type.
    pub kind: LvKind,
    /// The pool of a thin volume.
    pub thin_pool: Option<String>,
    /// Further arguments of `lvcreate`.
    pub options: Vec<String>,
}

/// How large a logical volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LvSize {
    /// In bytes, cut down to whole extents of 4 MiB.
    Bytes(u64),
    /// As `lvcreate -l` reads it: `100`, `28%VG`, `100%FREE`.
    Extents(String),
}

/// A type of logical volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LvKind {
    /// Ordinary.
    Linear,
    /// In a thin pool.
    Thin,
    /// A thin pool.
    ThinPool,
}

/// A filesystem or swap area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mkfs {
    /// Name.
    pub name: String,
    /// What it is on.
    pub base: String,
    /// `ext4`, `vfat`, `swap`, …
    pub fstype: String,
    /// Label as it is written (upper case on FAT).
    pub label: String,
    /// UUID as the configuration gives it.
    pub uuid: Option<String>,
    /// Options of mkfs, word by word.
    pub opts: Vec<String>,
}

impl Mkfs {
    /// Whether it is a swap area.
    pub fn is_swap(&self) -> bool {
        self.fstype == "swap"
    }
}

/// A mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Name.
    pub name: String,
    /// The filesystem.
    pub base: String,
    /// Absolute path, or anything for swap.
    pub mount_point: String,
}

impl Mount {
    /// The mount point with one slash in front of each name and none at the end, as
    /// paths are compared. `/etc/fstab` has it as it was written.
    pub fn path(&self) -> String {
        let names = self.mount_point.split('/').filter(|name| !name.is_empty());
        let path: String = names.flat_map(|name| ["/", name]).collect();
        if path.is_empty() {
            "/".to_owned()
        } else {
            path
        }
    }
}

/// A line of `/etc/fstab`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fstab {
    /// Name.
    pub name: String,
    /// The mount that it is about.
    pub base: String,
    /// Fourth field.
    pub options: String,
    /// Fifth field.
    pub dump_freq: u32,
    /// Sixth field.
    pub fsck_passno: u32,
}
