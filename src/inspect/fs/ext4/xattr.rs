//! Extended attributes: behind the inode's fields, in a block, and large values
//! in inodes of their own.

use zerocopy::FromBytes as _;

use super::super::FileId;
use super::super::inode::Inode as _;
use super::{Error, Ext4, Node, corrupt};
use crate::disk::fs::ext4::format::{Incompat, InodeFlags, XATTR_MAGIC, XattrEntry, XattrHeader};
use crate::inspect::Volume;
use crate::tree::Xattrs;

/// The attribute that holds the data of a small file beyond its first 60 bytes.
pub(super) const DATA: &[u8] = b"system.data";
/// Longest value, as the kernel has it.
const MAX_VALUE: u32 = 64 << 10;

/// Prefixes by the numbers that stand for them.
fn prefix(index: u8) -> Option<&'static [u8]> {
    Some(match index {
        0 => b"",
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        7 => b"system.",
        8 => b"system.richacl",
        _ => return None,
    })
}

impl Ext4 {
    /// All attributes of an inode.
    pub(super) fn attributes(&self, volume: &Volume<'_>, node: &Node) -> Result<Xattrs, Error> {
        let mut set = Xattrs::new();
        if let Some(entries) = node.extra.strip_prefix(&XATTR_MAGIC.to_le_bytes()) {
            self.collect(volume, node, entries, 0, &mut set)?;
        }
        let block = super::pair(
            node.fields.l_i_file_acl_high.get().into(),
            node.fields.i_file_acl_lo.get(),
        );
        if block != 0 {
            let at = self.block(block, || node.place())?;
            let bytes = volume.bytes(at, self.block_size)?;
            match XattrHeader::read_from_prefix(&bytes) {
                Ok((header, _)) if header.h_magic.get() == XATTR_MAGIC => {}
                _ => return corrupt(node.place(), "its block of attributes is not one"),
            }
            self.collect(volume, node, &bytes, size_of::<XattrHeader>(), &mut set)?;
        }
        Ok(set)
    }

    /// Adds the entries from `start` on; values are counted from the first byte.
    fn collect(
        &self,
        volume: &Volume<'_>,
        node: &Node,
        bytes: &[u8],
        start: usize,
        set: &mut Xattrs,
    ) -> Result<(), Error> {
        let mut at = start;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            // Four zero bytes, or no room for more.
            if rest.len() < 4 || rest.starts_with(&[0; 4]) {
                return Ok(());
            }
            let Ok((entry, after)) = XattrEntry::read_from_prefix(rest) else {
                return corrupt(node.place(), "an attribute is cut off");
            };
            let length = usize::from(entry.e_name_len);
            let (Some(name), Some(prefix)) = (after.get(..length), prefix(entry.e_name_index))
            else {
                return corrupt(node.place(), "an attribute has an impossible name");
            };
            let size = entry.e_value_size.get();
            if size > MAX_VALUE {
                return corrupt(node.place(), "an attribute is too large");
            }
            let inode = entry.e_value_inum.get();
            let value = if inode != 0 && self.incompat.contains(Incompat::EA_INODE) {
                self.value_inode(volume, node, inode, size)?
            } else {
                let from = usize::from(entry.e_value_offs.get());
                let length = usize::try_from(size).unwrap_or(usize::MAX);
                match from.checked_add(length).and_then(|to| bytes.get(from..to)) {
                    Some(value) => value.to_vec(),
                    None if size == 0 => Vec::new(),
                    None => return corrupt(node.place(), "an attribute's value is cut off"),
                }
            };
            let value = match entry.e_name_index {
                2 | 3 => match acl(&value) {
                    Some(value) => value,
                    None => return corrupt(node.place(), "an access control list is not one"),
                },
                _ => value,
            };
            set.insert([prefix, name].concat().into(), value.into());
            at += (size_of::<XattrEntry>() + length).next_multiple_of(4);
        }
    }

    /// A value that is the data of an inode.
    fn value_inode(
        &self,
        volume: &Volume<'_>,
        owner: &Node,
        inode: u32,
        size: u32,
    ) -> Result<Vec<u8>, Error> {
        let node = self.node(volume, FileId(inode.into()))?;
        if !node.flags().contains(InodeFlags::EA_INODE) || node.size() != u64::from(size) {
            return corrupt(owner.place(), "an attribute's inode is not one");
        }
        let mut value = vec![0; usize::try_from(size).unwrap_or(0)];
        for run in &self.file_of(volume, &node)?.runs {
            let from = usize::try_from(run.offset).unwrap_or(usize::MAX);
            let to = from.saturating_add(usize::try_from(run.length).unwrap_or(usize::MAX));
            if let Some(part) = value.get_mut(from..to) {
                volume.read_at(run.at, part)?;
            }
        }
        Ok(value)
    }
}

/// A POSIX ACL from the form on disk (version 1: only entries of named users and
/// groups have an id) to the form that programs see (version 2: all have one).
fn acl(disk: &[u8]) -> Option<Vec<u8>> {
    let mut rest = disk.strip_prefix(&[1, 0, 0, 0])?;
    let mut value = vec![2, 0, 0, 0];
    while !rest.is_empty() {
        let (fields, after) = rest.split_first_chunk::<4>()?;
        value.extend_from_slice(fields);
        let named = matches!(fields[0], 2 | 8);
        let (id, after) = if named {
            let (id, after) = after.split_first_chunk::<4>()?;
            (*id, after)
        } else {
            ([0xFF; 4], after)
        };
        value.extend_from_slice(&id);
        rest = after;
    }
    Some(value)
}
