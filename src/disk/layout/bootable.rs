//! Whether firmware, GRUB and the system find what they start from.

use super::table::Table;
use super::{FilesystemPlan, LayoutError, Plan};
use crate::disk::lvm;
use crate::tree::{NodeId, Tree};

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

    /// Whether a filesystem that firmware reads has a boot loader in its usual place.
    pub fn starts_by_efi(&self, tree: &Tree) -> bool {
        let mut filesystems = self.filesystems.iter();
        filesystems.any(|filesystem| has_efi_loader(filesystem, tree))
    }

    /// What is wrong where an EFI system partition has nothing for firmware to start:
    /// nothing else uses such a partition.
    pub fn efi_without_loader(&self, tree: &Tree) -> Option<String> {
        let tables = self.disks.iter().filter_map(|disk| disk.table.as_ref());
        let partition = tables.flat_map(Table::efi_system_partitions).next()?;
        if self.starts_by_efi(tree) {
            return None;
        }
        let mut filesystems = self.filesystems.iter();
        let place = filesystems
            .find(|filesystem| filesystem.base == partition)
            .and_then(|filesystem| filesystem.mount_point.as_deref());
        Some(match place {
            Some(place) => format!(
                "UEFI does not start the image: no boot loader for its EFI system partition is in \
                 `{}/EFI/BOOT`",
                place.trim_end_matches('/')
            ),
            None => format!(
                "UEFI does not start the image: nothing is put into its EFI system partition \
                 `{partition}`"
            ),
        })
    }

    /// What is wrong where a system has filesystems on logical volumes, but not the
    /// program that makes these appear.
    pub fn volumes_without_lvm(&self, tree: &Tree) -> Option<String> {
        let mut filesystems = self.filesystems.iter();
        let found = filesystems.find(|filesystem| self.is_volume(&filesystem.base))?;
        if LVM.iter().any(|path| tree.find(path).is_some()) {
            return None;
        }
        Some(format!(
            "the system does not start: `{}` is on a logical volume, but the program `lvm` is not \
             there to find it (package lvm2)",
            found.name
        ))
    }
}

/// Where distributions have the program that activates logical volumes.
const LVM: [&str; 4] = ["/usr/sbin/lvm", "/usr/bin/lvm", "/sbin/lvm", "/bin/lvm"];

/// Whether a filesystem has a boot loader where firmware looks for one on a disk that it
/// has never seen.
fn has_efi_loader(filesystem: &FilesystemPlan, tree: &Tree) -> bool {
    let Some(place) = &filesystem.mount_point else {
        return false;
    };
    if filesystem.fstype != "vfat" {
        return false;
    }
    let directory = tree
        .find(place)
        .and_then(|place| in_any_case(tree, place, b"efi"))
        .and_then(|efi| in_any_case(tree, efi, b"boot"));
    directory.is_some_and(|directory| {
        let names = tree.children(directory).iter().map(|&id| tree.name(id));
        names
            .into_iter()
            .any(|name| name.to_ascii_lowercase().ends_with(b".efi"))
    })
}

/// An entry of a directory, whose name FAT does not tell from others by case.
fn in_any_case(tree: &Tree, directory: NodeId, name: &[u8]) -> Option<NodeId> {
    let mut entries = tree.children(directory).iter().copied();
    entries.find(|&id| tree.name(id).eq_ignore_ascii_case(name))
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
