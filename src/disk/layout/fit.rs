//! From one tree to disks that are large enough for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{LayoutError, NativePlanner, Plan};
use crate::disk::Disk;
use crate::disk::boot::BiosBoot;
use crate::disk::fs::{btrfs, ext4, fat, swap, xfs};
use crate::disk::gpt::GptError;
use crate::disk::mbr::MbrError;
use crate::tree::{Kind, Timestamp, Tree};

/// How often a disk may turn out too small for its filesystems.
const ATTEMPTS: u64 = 16;

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
        for attempt in 1..=ATTEMPTS {
            let result = self.assemble(bytes, &trees, boot, &mut |filesystem, tree, space| {
                planner.plan(filesystem, tree, space)
            });
            let error = match result {
                Ok(disks) => return Ok(disks),
                Err(error) => error,
            };
            let larger = missing_bytes(&error)
                .filter(|_| length.grow && self.may_grow(&error))
                // A filesystem may get only a part of what is added.
                .and_then(|missing| {
                    bytes
                        .checked_add(missing.checked_mul(attempt)?)?
                        .checked_next_multiple_of(1 << 20)
                });
            bytes = larger.ok_or(error)?;
        }
        self.assemble(bytes, &trees, boot, &mut |filesystem, tree, space| {
            planner.plan(filesystem, tree, space)
        })
    }
}

impl Plan {
    /// Whether the filesystem that an error is of is on a disk whose length is open.
    fn may_grow(&self, error: &LayoutError) -> bool {
        let LayoutError::Filesystem { node, .. } = error else {
            return false;
        };
        let mut filesystems = self.filesystems.iter();
        let found = filesystems.find(|filesystem| filesystem.name == *node);
        found.is_some_and(|filesystem| {
            let mut on = self.disks_of(&filesystem.base).into_iter();
            on.any(|disk| self.disks[disk].size.is_none())
        })
    }
}

impl LayoutError {
    /// Whether a larger image would do.
    pub fn is_too_small(&self) -> bool {
        let source = match self {
            LayoutError::Filesystem { source, .. } => source,
            // What is left of a disk for its last partition may be nothing.
            LayoutError::Mbr(error) => {
                return matches!(error, MbrError::TooSmall { .. } | MbrError::Empty { .. });
            }
            LayoutError::Gpt(error) => {
                return matches!(error, GptError::TooSmall { .. } | GptError::DiskSize { .. });
            }
            _ => return false,
        };
        missing_bytes(self).is_some()
            || matches!(
                source.downcast_ref(),
                Some(ext4::Error::TooFewInodes { .. } | ext4::Error::TooManyInodes { .. })
            )
            || matches!(
                source.downcast_ref(),
                Some(
                    fat::Error::Size { .. } | fat::Error::Type { .. } | fat::Error::NoSpace { .. }
                )
            )
            || matches!(source.downcast_ref(), Some(swap::Error::TooSmall { .. }))
    }
}

/// What a filesystem lacks for its files, and a tenth of it to write to.
fn missing_bytes(error: &LayoutError) -> Option<u64> {
    let LayoutError::Filesystem { source, .. } = error else {
        return None;
    };
    if let Some(xfs::Error::TooSmall { needed, given }) = source.downcast_ref() {
        return needed.checked_sub(*given);
    }
    if let Some(btrfs::Error::TooSmall { needed, given }) = source.downcast_ref() {
        return needed.checked_add(needed / 10)?.checked_sub(*given);
    }
    match source.downcast_ref()? {
        ext4::Error::TooSmall { needed, given } => {
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
