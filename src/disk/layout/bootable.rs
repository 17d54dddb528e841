//! What GRUB can read of what it starts a system from.

use super::{FilesystemPlan, LayoutError, Plan};
use crate::disk::lvm;

/// Features of ext4 that no GRUB reads.
const UNREADABLE: [&str; 1] = ["ea_inode"];
/// Features of ext4 that GRUB reads since 2.12, and earlier only where a distribution
/// has added it.
const RECENT: [&str; 2] = ["metadata_csum_seed", "large_dir"];

impl Plan {
    /// Fails if GRUB could not read the filesystem with `/boot`, for systems that are
    /// started by GRUB. Returns what depends on the version of GRUB, one sentence each.
    ///
    /// # Errors
    /// [`LayoutError::BootOnThin`], [`LayoutError::BootUnreadable`].
    pub fn check_bootable(&self) -> Result<Vec<String>, LayoutError> {
        let mut warnings = Vec::new();
        let mut filesystems = self.filesystems.iter();
        let Some(filesystem) = filesystems.find(|filesystem| filesystem.holds_boot) else {
            return Ok(warnings);
        };
        let node = || filesystem.name.clone();
        let mut volumes = self.groups.iter().flat_map(|group| &group.lvs);
        let thin =
            volumes.any(|lv| lv.name == filesystem.base && matches!(lv.kind, lvm::Kind::Thin(_)));
        if thin {
            return Err(LayoutError::BootOnThin {
                node: node(),
                volume: filesystem.base.clone(),
            });
        }
        for feature in features(filesystem) {
            if UNREADABLE.contains(&feature) {
                return Err(LayoutError::BootUnreadable {
                    node: node(),
                    feature: feature.to_owned(),
                });
            }
            if RECENT.contains(&feature) {
                warnings.push(format!(
                    "`{}` holds /boot and has the feature `{feature}`, which GRUB before 2.12 cannot \
                     read unless the distribution added it",
                    filesystem.name
                ));
            }
        }
        Ok(warnings)
    }
}

/// The features of an ext filesystem that its options switch on.
fn features(filesystem: &FilesystemPlan) -> Vec<&str> {
    if !filesystem.fstype.starts_with("ext") {
        return Vec::new();
    }
    let mut lists = Vec::new();
    let mut words = filesystem.opts.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix("-O") {
            Some("") => lists.extend(words.next().map(String::as_str)),
            Some(list) => lists.push(list),
            None => {}
        }
    }
    let mut on = Vec::new();
    for name in lists.into_iter().flat_map(|list| list.split(',')) {
        match name.strip_prefix('^') {
            _ if name == "none" => on.clear(),
            Some(off) => on.retain(|&name| name != off),
            None => on.push(name),
        }
    }
    on
}
