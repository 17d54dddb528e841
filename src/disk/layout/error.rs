//! Why a layout cannot be planned or assembled.

use crate::disk::boot::BootError;
use crate::disk::config::ConfigError;
use crate::disk::gpt::GptError;
use crate::disk::lvm::LvmError;
use crate::disk::map::DiskError;
use crate::disk::mbr::MbrError;

/// Errors of filesystem planners.
pub type PlannerError = Box<dyn std::error::Error + Send + Sync>;

/// Why a layout cannot be planned or assembled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No disk to put anything on.
    #[error("the block device configuration has no `local_loop`, so there is no disk")]
    NoDisk,
    /// An MBR on a disk with large sectors.
    #[error(
        "`{node}` is an mbr on a disk with sectors of {sector_size} bytes: use label `gpt` or a \
         block size of 512"
    )]
    MbrSectorSize {
        /// The partitioning node.
        node: String,
        /// In bytes.
        sector_size: u32,
    },
    /// A sector size that disks do not have.
    #[error("`DIB_BLOCK_SIZE` is {sector_size}, but only 512 and 4096 are possible")]
    SectorSize {
        /// In bytes.
        sector_size: u32,
    },
    /// Physical volumes on disks that do not go together.
    #[error(
        "volume group `{vg}` is on disks with sectors of 512 and of 4096 bytes, which LVM refuses: \
         give them the same `block_size`"
    )]
    MixedSectors {
        /// The volume group.
        vg: String,
    },
    /// What GRUB starts from is in a thin volume.
    #[error(
        "`{node}` holds /boot and is on the thin volume `{volume}`, which GRUB cannot read: put \
         /boot on a partition or on an ordinary logical volume"
    )]
    BootOnThin {
        /// The mkfs node.
        node: String,
        /// The logical volume.
        volume: String,
    },
    /// What GRUB starts from has a feature that it does not know.
    #[error(
        "`{node}` holds /boot, and no GRUB reads its feature `{feature}`: leave it out, or put \
         /boot on another filesystem"
    )]
    BootUnreadable {
        /// The mkfs node.
        node: String,
        /// The feature.
        feature: String,
    },
    /// A UUID that is none.
    #[error("uuid `{uuid}` of `{node}` is not {wanted}")]
    FilesystemUuid {
        /// The mkfs node.
        node: String,
        /// What was written.
        uuid: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// The disk is not a whole number of sectors.
    #[error(
        "the image size of {bytes} bytes (`{disk}`) is not a whole number of sectors of \
         {sector_size} bytes"
    )]
    DiskSize {
        /// Name of the disk.
        disk: String,
        /// Its length.
        bytes: u64,
        /// Its sector size.
        sector_size: u32,
    },
    /// Partitions do not fit an MBR.
    #[error(transparent)]
    Mbr(#[from] MbrError),
    /// Partitions do not fit a GPT.
    #[error(transparent)]
    Gpt(#[from] GptError),
    /// Logical volumes do not fit.
    #[error(transparent)]
    Lvm(#[from] LvmError),
    /// A filesystem cannot be made.
    #[error("cannot make the {fstype} filesystem `{node}` of {bytes} bytes")]
    Filesystem {
        /// The mkfs node.
        node: String,
        /// Its type.
        fstype: String,
        /// The space it has.
        bytes: u64,
        /// The partition or logical volume that it is on, if that has a size of its own: more
        /// of the disk is not more for it.
        fixed: Option<String>,
        /// Why.
        #[source]
        source: PlannerError,
    },
    /// A filesystem that is larger than its space.
    #[error("filesystem `{node}` was planned with {planned} bytes, but has space for {bytes}")]
    FilesystemTooLarge {
        /// The mkfs node.
        node: String,
        /// Its length.
        planned: u64,
        /// The space it has.
        bytes: u64,
    },
    /// A mount point without content.
    #[error("there is no tree of files for mount point `{mount_point}` of `{node}`")]
    MissingTree {
        /// The mkfs node.
        node: String,
        /// Where it is mounted.
        mount_point: String,
    },
    /// The tree cannot be divided into filesystems.
    #[error("cannot divide the tree at the mount points")]
    Tree(#[from] crate::tree::Error),
    /// Boot code cannot be placed.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The parts do not make a disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
}
