//! From a filesystem of the layout to the writer of its type.

use std::sync::Arc;

use super::{ext4, fat, swap};
use crate::disk::Volume;
use crate::disk::layout::{FilesystemId, FilesystemPlan, PlannerError};
use crate::tree::{Timestamp, Tree, TreeBuilder};

/// Where time stamps of new filesystems come from.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Fixed, in seconds since 1970 (`SOURCE_DATE_EPOCH`); without it the newest
    /// file of the tree is the time, so that the image is a function of the tree.
    pub epoch: Option<i64>,
}

impl Clock {
    fn now(self, tree: &Tree) -> Timestamp {
        let newest = || tree.inodes().map(|(_, inode)| inode.mtime.seconds).max().unwrap_or(0);
        Timestamp { seconds: self.epoch.unwrap_or_else(newest), nanoseconds: 0 }
    }
}

/// A type of filesystem that no writer makes.
#[derive(Debug, thiserror::Error)]
#[error("`{fstype}` cannot be written (the filesystem `{name}`); ext4, ext3, ext2, vfat and swap can")]
struct UnknownType {
    fstype: String,
    name: String,
}

/// An option that the writer of the type does not know.
#[derive(Debug, thiserror::Error)]
#[error("the option `{option}` of the filesystem `{name}` means nothing for {fstype}")]
struct UnknownOption {
    option: String,
    name: String,
    fstype: String,
}

/// Plans a filesystem of `length` bytes with the files of `tree`.
///
/// # Errors
/// What the writer of the type says: too small, options or files that it cannot
/// have; or that there is no writer for the type.
pub fn plan(
    filesystem: &FilesystemPlan,
    tree: Option<&Arc<Tree>>,
    length: u64,
    clock: Clock,
) -> Result<Volume, PlannerError> {
    let empty;
    let tree = match tree {
        Some(tree) => tree,
        None => {
            empty = Arc::new(TreeBuilder::new().build()?);
            &empty
        }
    };
    match filesystem.fstype.as_str() {
        "ext4" | "ext3" | "ext2" => plan_ext(filesystem, tree, length, clock),
        "vfat" | "fat" => plan_fat(filesystem, tree, length),
        "swap" => {
            no_options(filesystem)?;
            let options = swap::Options {
                uuid: filesystem.uuid(),
                label: filesystem.label.clone(),
                page_size: swap::Options::PAGE_SIZE,
            };
            Ok(swap::plan(&options, length)?)
        }
        _ => Err(Box::new(UnknownType { fstype: filesystem.fstype.clone(), name: filesystem.name.clone() })),
    }
}

fn plan_ext(filesystem: &FilesystemPlan, tree: &Arc<Tree>, length: u64, clock: Clock) -> Result<Volume, PlannerError> {
    let mut options = ext4::Options::new(filesystem.uuid().into_bytes());
    match filesystem.fstype.as_str() {
        "ext3" => options.features = ext4::Features::ext3(),
        "ext2" => options.features = ext4::Features::ext2(),
        _ => {}
    }
    options.label.clone_from(&filesystem.label);
    options.timestamp = clock.now(tree);
    options.parse_mkfs(&filesystem.opts.join(" "))?;
    options.block_size = options.block_size.max(filesystem.sector_size);
    Ok(ext4::plan(tree, &options, length)?)
}

fn plan_fat(filesystem: &FilesystemPlan, tree: &Arc<Tree>, length: u64) -> Result<Volume, PlannerError> {
    no_options(filesystem)?;
    let volume_id = match filesystem.id {
        FilesystemId::Fat(id) => id,
        FilesystemId::Uuid(uuid) => uuid.as_fields().0,
    };
    let options = fat::Options {
        label: Some(filesystem.label.clone()).filter(|label| !label.is_empty()),
        volume_id,
        bytes_per_sector: filesystem.sector_size,
        times: fat::Times::Tree,
        fat_type: None,
    };
    Ok(fat::plan(tree, &options, length)?)
}

fn no_options(filesystem: &FilesystemPlan) -> Result<(), PlannerError> {
    match filesystem.opts.first() {
        None => Ok(()),
        Some(option) => Err(Box::new(UnknownOption {
            option: option.clone(),
            name: filesystem.name.clone(),
            fstype: filesystem.fstype.clone(),
        })),
    }
}
