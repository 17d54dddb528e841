//! A boot loader that is in the tree already.
//!
//! GRUB's core image finds the filesystem with its modules by UUID; the file
//! `load.cfg` beside it says by which. Giving that UUID to the filesystem makes
//! an image of a tree that was installed with GRUB start again, whatever the
//! layout.

use std::sync::Arc;

use super::Error;
use crate::disk::boot::BiosBoot;
use crate::disk::layout::Plan;
use crate::tree::{Kind, Tree};

/// GRUB's directories, the first that is there counts.
const DIRECTORIES: [&str; 2] = ["/boot/grub", "/boot/grub2"];
/// Platforms whose `load.cfg` is looked at.
const PLATFORMS: [&str; 3] = ["i386-pc", "x86_64-efi", "arm64-efi"];
/// Boot code lies below 1 MiB or in a small partition.
const MAX_CORE: u64 = 32 << 20;

/// GRUB's directory, and the UUID by which its core image finds it.
pub(super) fn searched(tree: &Arc<Tree>) -> Option<(String, String)> {
    let places = DIRECTORIES
        .iter()
        .flat_map(|directory| PLATFORMS.map(|platform| (*directory, platform)));
    for (directory, platform) in places {
        let path = format!("{directory}/{platform}/load.cfg");
        let Some(text) = small_text(tree, &path) else {
            continue;
        };
        let words = text.lines().find_map(|line| {
            let rest = line.trim().strip_prefix("search.fs_uuid ")?;
            rest.split_whitespace().next()
        });
        if let Some(uuid) = words.filter(|uuid| !uuid.starts_with('-')) {
            return Some((directory.to_owned(), uuid.to_owned()));
        }
    }
    None
}

/// The bytes of a file that may be boot code.
fn file(tree: &Arc<Tree>, path: &str) -> Result<Option<Vec<u8>>, Error> {
    let Some(node) = tree.find(path) else {
        return Ok(None);
    };
    match &tree.inode_of(node).kind {
        Kind::File(content) if content.size <= MAX_CORE => Ok(Some(tree.read_small(node)?)),
        _ => Ok(None),
    }
}

/// The text of a small file.
fn small_text(tree: &Arc<Tree>, path: &str) -> Option<String> {
    let node = tree.find(path)?;
    let Kind::File(content) = &tree.inode_of(node).kind else {
        return None;
    };
    if content.size > 4096 {
        return None;
    }
    let bytes = tree.read_small(node).ok()?;
    String::from_utf8(bytes).ok()
}

/// Boot code for a BIOS, if the tree has it and the layout has room for it.
pub(super) fn bios(
    tree: &Arc<Tree>,
    plan: &Plan,
    warnings: &mut Vec<String>,
) -> Result<Option<BiosBoot>, Error> {
    for directory in DIRECTORIES {
        let file = |name: &str| file(tree, &format!("{directory}/i386-pc/{name}"));
        let (Some(boot), Some(core)) = (file("boot.img")?, file("core.img")?) else {
            continue;
        };
        if !plan.has_boot_space() {
            if !plan.facts().partition_table().is_empty() {
                warnings.push(
                    "the tree has GRUB for BIOS, but the layout has no BIOS boot partition \
                     (type EF02) for it"
                        .to_owned(),
                );
            }
            return Ok(None);
        }
        return Ok(Some(BiosBoot { boot, core }));
    }
    Ok(None)
}
