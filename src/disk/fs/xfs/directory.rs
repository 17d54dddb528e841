//! Entries of directories in the forms that `mkfs.xfs` writes.

use std::collections::{BTreeMap, HashMap};

use super::fix::{be32, be64};
use super::format::{DIR_BLOCK_MAGIC, DIR_DATA_HEADER, DIR_DATA_MAGIC, DIR_FREE_TAG};
use crate::tree::{Kind, NodeId, Tree};

/// Type of a socket in a directory entry (`XFS_DIR3_FT_SOCK`).
const FT_SOCK: u8 = 6;

/// Entries of one directory that are to be changed, by the name in the image.
pub(super) struct Entries<'a> {
    pub(super) tree: &'a Tree,
    /// Children whose name or kind the protofile could not say.
    pub(super) changed: HashMap<Vec<u8>, NodeId>,
    /// Inodes of children that are further names, and those that they stand for.
    pub(super) links: BTreeMap<u64, u64>,
}

impl Entries<'_> {
    /// Changes an entry: its inode's number, its name and the byte of its type.
    fn change(&self, number: u64, name: &mut [u8], kind: &mut u8) -> u64 {
        if let Some(&id) = self.changed.get(&name[..]) {
            name.copy_from_slice(self.tree.name(id));
            if self.tree.inode_of(id).kind == Kind::Socket {
                *kind = FT_SOCK;
            }
        }
        self.links.get(&number).copied().unwrap_or(number)
    }
}

/// Changes entries of a directory that is in its inode (`xfs_dir2_sf_hdr`).
pub(super) fn short_directory(fork: &mut [u8], entries: &Entries<'_>) -> Option<()> {
    let count = *fork.first()?;
    // Numbers have eight bytes if any needs them.
    let width = if *fork.get(1)? > 0 { 8 } else { 4 };
    let mut at = 2 + width;
    for _ in 0..count {
        let length: usize = (*fork.get(at)?).into();
        let name = at + 3;
        let (kind, number) = (name + length, name + length + 1);
        let place = fork.get(number..number + width)?;
        let old = place
            .iter()
            .fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        let mut byte = *fork.get(kind)?;
        let new = entries.change(old, fork.get_mut(name..name + length)?, &mut byte);
        fork[kind] = byte;
        let bytes = new.to_be_bytes();
        if bytes[..8 - width].iter().any(|&byte| byte != 0) {
            return None;
        }
        fork[number..number + width].copy_from_slice(&bytes[8 - width..]);
        at = number + width;
    }
    Some(())
}

/// Changes entries of a block of a directory (`xfs_dir3_data_hdr`).
pub(super) fn data_block(block: &mut [u8], entries: &Entries<'_>) -> Option<()> {
    let end = match be32(block, 0) {
        DIR_DATA_MAGIC => block.len(),
        // Hashes and their number stand at the end.
        DIR_BLOCK_MAGIC => {
            let tail = block.len() - 8;
            let hashes = usize::try_from(be32(block, tail)).ok()?.checked_mul(8)?;
            tail.checked_sub(hashes)?
        }
        _ => return None,
    };
    let mut at = DIR_DATA_HEADER;
    while at + 8 <= end {
        let tag = u16::from_be_bytes([block[at], block[at + 1]]);
        if tag == DIR_FREE_TAG {
            let length: usize = u16::from_be_bytes([block[at + 2], block[at + 3]]).into();
            if length == 0 {
                return None;
            }
            at += length;
            continue;
        }
        let old = be64(block, at);
        let length: usize = (*block.get(at + 8)?).into();
        let (name, kind) = (at + 9, at + 9 + length);
        let mut byte = *block.get(kind)?;
        let new = entries.change(old, block.get_mut(name..name + length)?, &mut byte);
        block[kind] = byte;
        block[at..at + 8].copy_from_slice(&new.to_be_bytes());
        // Number, length, name, type and the entry's own place, in words of eight.
        at += (8 + 1 + length + 1 + 2).next_multiple_of(8);
    }
    Some(())
}
