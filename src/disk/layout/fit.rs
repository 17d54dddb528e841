//! From one tree to disks that are large enough for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{LayoutError, NativePlanner, Plan, PlannerError};
use crate::disk::Disk;
use crate::disk::boot::BiosBoot;
use crate::disk::fs::{btrfs, ext4, fat, swap, xfs};
use crate::disk::gpt::GptError;
use crate::disk::lvm::LvmError;
use crate::disk::mbr::{self, MbrError};
use crate::tree::{Kind, Timestamp, Tree};

/// How often a disk may turn out too small for its filesystems.
const ATTEMPTS: u32 = 16;

/// How often in turn one of them may get nothing of what was added. Each time twice as
/// much is.
const IN_VAIN: u32 = 8;

/// What a partition lacks that is to be a share of what is left, where nothing is: itself
/// and the alignment of two.
const SHARE: u64 = 3 << 20;

/// Length of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// In bytes.
    pub bytes: u64,
    /// Whether the disk may become larger, if its files need that.
    pub grow: bool,
}

/// Space that a tree takes in 4 KiB blocks, in KiB. Counted from the tree and
/// not from the blocks of the filesystem that it happens to lie on, so that the
/// same tree gives the same image.
#[must_use]
pub fn content_kib(tree: &Tree) -> u64 {
    let blocks: u64 = tree
        .inodes()
        .map(|(_, inode)| match &inode.kind {
            Kind::Directory => 1,
            Kind::File(content) => content
                .ranges()
                .map(|range| range.length.div_ceil(4096))
                .sum(),
            Kind::Symlink(target) => u64::from(target.len() >= 60),
            _ => 0,
        })
        .sum();
    blocks * 4
}

/// The time at which the image counts as made: `SOURCE_DATE_EPOCH`, else that of
/// the newest file, so that the image is a function of the tree.
#[must_use]
pub fn made_at(tree: &Tree, epoch: Option<i64>) -> Timestamp {
    let newest = || {
        tree.inodes()
            .map(|(_, inode)| inode.mtime.seconds)
            .max()
            .unwrap_or(0)
    };
    Timestamp {
        seconds: epoch.unwrap_or_else(newest),
        nanoseconds: 0,
    }
}

impl Plan {
    /// Makes the disks of one tree, divided at the mount points of the plan. A tree
    /// that nobody else has is gone as soon as it is divided.
    ///
    /// DIB's rule for sizes leaves too little to trees of a few files, whose
    /// filesystem is mostly inode tables; `length.grow` lets it become larger.
    ///
    /// # Errors
    /// See [`Plan::assemble`].
    pub fn assemble_tree(
        &self,
        length: Length,
        tree: Arc<Tree>,
        boot: Option<&BiosBoot>,
        planner: &NativePlanner,
    ) -> Result<Vec<Disk>, LayoutError> {
        let mut points = self.mount_points();
        // The root first: what is below a mount point goes to the deeper one.
        points.sort_unstable();
        let parts = if points == ["/"] {
            vec![tree]
        } else {
            let paths: Vec<&[u8]> = points.iter().map(|point| point.as_bytes()).collect();
            tree.split(&paths)?
        };
        let trees: BTreeMap<String, Arc<Tree>> =
            points.iter().map(ToString::to_string).zip(parts).collect();
        let mut bytes = length.bytes;
        let mut growth = Growth::default();
        loop {
            let result = self.assemble(bytes, &trees, boot, &mut |filesystem, tree, space| {
                planner.plan(filesystem, tree, space)
            });
            bytes = match result {
                Ok(disks) => return Ok(disks),
                Err(error) if length.grow => self.larger(bytes, error, &mut growth)?,
                Err(error) => return Err(error),
            };
        }
    }

    /// The next length to try after `bytes`.
    ///
    /// # Errors
    /// What failed, if nothing larger helps.
    pub(super) fn larger(
        &self,
        bytes: u64,
        error: LayoutError,
        growth: &mut Growth,
    ) -> Result<u64, LayoutError> {
        let lack = lack(&error).filter(|_| error.is_too_small());
        let lack = lack.filter(|lack| self.may_grow(&lack.node));
        let larger = lack.and_then(|lack| growth.beyond(bytes, lack));
        larger.ok_or(error)
    }

    /// What would have to be larger than it is, where an error says that space is lacking.
    pub fn too_small(&self, error: &LayoutError) -> Option<TooSmall> {
        if let Some(node) = error.too_small_itself() {
            return Some(TooSmall::Node(node.to_owned()));
        }
        if !error.is_too_small() {
            return None;
        }
        let main = || self.main().map(|disk| disk.name.clone());
        let node = match error {
            LayoutError::Filesystem { node, .. } => node.clone(),
            // Of what lacks space, only a disk as a whole has no name here.
            _ => lack(error).map(|lack| lack.node).or_else(main)?,
        };
        let base = self.filesystem(&node).map_or(&node, |found| &found.base);
        let empty = matches!(
            error,
            LayoutError::Gpt(GptError::Empty { .. }) | LayoutError::Mbr(MbrError::Empty { .. })
        );
        if empty && self.has_fixed_size(&node) {
            return Some(TooSmall::Node(node));
        }
        if empty {
            return Some(TooSmall::Rest(node));
        }
        let mut disks = self.disks_of(base).into_iter().map(|at| &self.disks[at]);
        let fixed = disks.clone().all(|disk| disk.size.is_some());
        Some(match disks.next().filter(|_| fixed) {
            Some(disk) => TooSmall::Disk(disk.name.clone()),
            None => TooSmall::Image,
        })
    }

    /// Whether the length of a disk that a node is on is open.
    fn may_grow(&self, node: &str) -> bool {
        let filesystem = self.filesystem(node);
        let node = filesystem.map_or(node, |filesystem| &filesystem.base);
        let mut disks = self.disks_of(node).into_iter();
        disks.any(|disk| self.disks[disk].size.is_none())
    }
}

/// What has too little space, where the remedy depends on that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TooSmall {
    /// The image: its size is not in the configuration.
    Image,
    /// The disk of this name, whose size the configuration fixes.
    Disk(String),
    /// A partition or logical volume that has a size of its own.
    Node(String),
    /// A partition that is to have a share of what is left, where nothing is.
    Rest(String),
}

impl TooSmall {
    /// What to do about it, where `image` says how an image becomes larger.
    pub fn remedy(&self, image: &str) -> String {
        match self {
            TooSmall::Image => image.to_owned(),
            TooSmall::Disk(node) | TooSmall::Node(node) => {
                format!("the `size` of `{node}` in the block device configuration makes it larger")
            }
            TooSmall::Rest(node) => format!(
                "the partitions before `{node}` take all of the disk: leave something to it, or \
                 make the disk larger"
            ),
        }
    }
}

/// How a disk became larger so far.
#[derive(Debug, Default)]
pub(super) struct Growth {
    /// How often.
    attempts: u32,
    /// What had too little the last time.
    last: Option<Lack>,
    /// How often in turn that got nothing of what was added.
    in_vain: u32,
}

impl Growth {
    /// The next length after `bytes`, with which something lacks space; `None` if there is
    /// no use in going on.
    fn beyond(&mut self, bytes: u64, lack: Lack) -> Option<u64> {
        // What is behind all of the rest, or has a fixed size, gets nothing of more. But
        // what is too little for one more extent of a volume counts as well.
        self.in_vain = match &self.last {
            Some(last) if last.node == lack.node && last.has >= lack.has => self.in_vain + 1,
            _ => 0,
        };
        if self.attempts == ATTEMPTS || self.in_vain == IN_VAIN {
            return None;
        }
        // Who lacks space may get only a part of what is added.
        let more = lack.bytes.checked_mul(1 << self.attempts)?;
        self.attempts += 1;
        self.last = Some(lack);
        bytes.checked_add(more)?.checked_next_multiple_of(1 << 20)
    }
}

impl LayoutError {
    /// Whether a larger image would do.
    pub fn is_too_small(&self) -> bool {
        self.lacks_space() && self.fixed().is_none()
    }

    /// The partition or logical volume whose own size is too small, if it has one.
    pub fn too_small_itself(&self) -> Option<&str> {
        self.fixed().filter(|_| self.lacks_space())
    }

    fn fixed(&self) -> Option<&str> {
        match self {
            LayoutError::Filesystem { fixed, .. } => fixed.as_deref(),
            _ => None,
        }
    }

    fn lacks_space(&self) -> bool {
        let source = match self {
            _ if lack(self).is_some() => return true,
            LayoutError::Filesystem { source, .. } => source,
            LayoutError::Gpt(error) => return matches!(error, GptError::DiskSize { .. }),
            _ => return false,
        };
        matches!(
            source.downcast_ref(),
            Some(ext4::Error::TooFewInodes { .. } | ext4::Error::TooManyInodes { .. })
        ) || matches!(
            source.downcast_ref(),
            Some(fat::Error::Size { .. } | fat::Error::Type { .. } | fat::Error::NoSpace { .. })
        ) || matches!(source.downcast_ref(), Some(swap::Error::TooSmall { .. }))
    }
}

/// What has too little space. Lengths are in bytes.
#[derive(Debug)]
struct Lack {
    /// The filesystem, partition or logical volume.
    node: String,
    /// What it has.
    has: u64,
    /// What it lacks.
    bytes: u64,
}

/// What of a disk has too little space, if more would help.
fn lack(error: &LayoutError) -> Option<Lack> {
    let (node, has, bytes) = match error {
        LayoutError::Filesystem {
            node,
            bytes,
            source,
            ..
        } => (node, *bytes, missing_bytes(source)?),
        LayoutError::Gpt(GptError::TooSmall {
            name, bytes, free, ..
        }) => (name, *free, bytes.checked_sub(*free)?),
        LayoutError::Mbr(MbrError::TooSmall {
            name,
            start,
            end,
            sectors,
        }) => (
            name,
            sectors.saturating_sub(*start).checked_mul(mbr::SECTOR)?,
            end.checked_sub(*sectors)?.checked_mul(mbr::SECTOR)?,
        ),
        // A share of nothing.
        LayoutError::Gpt(GptError::Empty { name })
        | LayoutError::Mbr(MbrError::Empty { name, .. }) => (name, 0, SHARE),
        LayoutError::Lvm(LvmError::NoSpace {
            lv,
            wanted,
            free,
            extent,
            ..
        }) => (
            lv,
            free.checked_mul(*extent)?,
            wanted.checked_sub(*free)?.checked_mul(*extent)?,
        ),
        _ => return None,
    };
    let node = node.clone();
    Some(Lack { node, has, bytes })
}

/// What a filesystem lacks for its files, and a tenth of it to write to.
fn missing_bytes(source: &PlannerError) -> Option<u64> {
    if let Some(xfs::Error::TooSmall { needed, given }) = source.downcast_ref() {
        return needed.checked_sub(*given);
    }
    if let Some(btrfs::Error::TooSmall { needed, given }) = source.downcast_ref() {
        return needed.checked_add(needed / 10)?.checked_sub(*given);
    }
    match source.downcast_ref()? {
        ext4::Error::TooSmall { needed, given, .. } => {
            needed.checked_add(needed / 10)?.checked_sub(*given)
        }
        ext4::Error::TooManyInodes {
            needed: Some(needed),
            given,
            ..
        } => needed.checked_sub(*given),
        _ => None,
    }
}
