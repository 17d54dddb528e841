//! Extended attributes: in the inode, in leaves of a tree by hashes of the names,
//! and long values in blocks of their own.

use zerocopy::FromBytes as _;

use super::super::Run;
use super::super::inode::Inode as _;
use super::{Error, Node, Xfs, corrupt, read_runs};
use crate::disk::fs::xfs::format::{
    ACL_ACCESS, ACL_DEFAULT, ATTR_INCOMPLETE, ATTR_LEAF_MAGIC, ATTR_LEAF_REST, ATTR_LOCAL,
    ATTR_PARENT, ATTR_REMOTE_HEADER, ATTR_REMOTE_MAGIC, ATTR_ROOT, ATTR_SECURE, ATTR_SHORT_HEADER,
    ATTR3_LEAF_REST, ATTR4_LEAF_MAGIC, AttrLeafEntry, AttrRemoteName, DA_NODE_MAGIC, DA_NODE_REST,
    DA3_BLOCK_INFO, DA3_NODE_REST, DA4_NODE_MAGIC, DaBlockInfo, FORMAT_LOCAL,
};
use crate::inspect::Volume;
use crate::tree::Xattrs;

/// Longest value, as the kernel has it.
const MAX_VALUE: usize = 64 << 10;
/// Most bytes of all entries, names and values of one inode: one block of a forged
/// filesystem can lead to the same long value on thousands of names.
const MAX_TOTAL: usize = 64 << 20;
/// Levels of nodes above leaves, as the kernel has it.
const MAX_LEVELS: u16 = 5;
/// Most blocks of attributes of one inode that are read: all that Linux can list at
/// once is a fraction of it.
const MAX_LEAVES: usize = 64 << 10;

/// The attributes of one inode in work.
struct Attributes<'a, 'v> {
    xfs: &'a Xfs,
    volume: &'a Volume<'v>,
    node: &'a Node,
    runs: Vec<Run>,
    set: Xattrs,
    /// Bytes of all entries, names and values so far.
    total: usize,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*word))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*word))
}

impl Xfs {
    /// All attributes of an inode.
    pub(super) fn attributes(&self, volume: &Volume<'_>, node: &Node) -> Result<Xattrs, Error> {
        let Some(fork) = node.attribute_fork() else {
            return Ok(Xattrs::new());
        };
        let mut attributes = Attributes {
            xfs: self,
            volume,
            node,
            runs: Vec::new(),
            set: Xattrs::new(),
            total: 0,
        };
        if fork.format == FORMAT_LOCAL {
            if attributes.short(fork.bytes).is_none() {
                return corrupt(node.place(), "an attribute is cut off");
            }
        } else {
            attributes.runs = self.runs(volume, node, &fork)?;
            if !attributes.runs.is_empty() {
                attributes.leaves()?;
            }
        }
        attributes.finish()
    }
}

impl Attributes<'_, '_> {
    fn corrupt<T>(&self, what: &'static str) -> Result<T, Error> {
        corrupt(self.node.place(), what)
    }

    /// Adds an attribute; those that no program sees are left out.
    fn add(&mut self, flags: u8, name: &[u8], value: Vec<u8>) {
        let full = match (flags & (ATTR_ROOT | ATTR_SECURE), name) {
            (ATTR_ROOT, name) if name == ACL_ACCESS => b"system.posix_acl_access".to_vec(),
            (ATTR_ROOT, name) if name == ACL_DEFAULT => b"system.posix_acl_default".to_vec(),
            (0, name) => [b"user.", name].concat(),
            (ATTR_ROOT, name) => [b"trusted.", name].concat(),
            (_, name) => [b"security.", name].concat(),
        };
        self.set.insert(full.into(), value.into());
    }

    /// Lists of access as programs see them.
    fn finish(mut self) -> Result<Xattrs, Error> {
        for name in [&b"system.posix_acl_access"[..], b"system.posix_acl_default"] {
            if let Some(value) = self.set.get_mut(name) {
                match acl(value) {
                    Some(list) => *value = list.into(),
                    None => return self.corrupt("an access control list is not one"),
                }
            }
        }
        Ok(self.set)
    }

    /// Attributes in the inode: lengths, flags, name and value of each.
    fn short(&mut self, bytes: &[u8]) -> Option<()> {
        let count = *bytes.get(2)?;
        let mut rest = bytes.get(ATTR_SHORT_HEADER..)?;
        for _ in 0..count {
            let ([name_length, value_length, flags], after) = rest.split_first_chunk()?;
            let (name, after) = after.split_at_checked((*name_length).into())?;
            let (value, after) = after.split_at_checked((*value_length).into())?;
            if flags & (ATTR_INCOMPLETE | ATTR_PARENT) == 0 {
                self.add(*flags, name, value.to_vec());
            }
            rest = after;
        }
        Some(())
    }

    /// A block of the fork.
    fn block(&self, block: u32) -> Result<Vec<u8>, Error> {
        let size = usize::try_from(self.xfs.block_size).unwrap_or(0);
        let mut bytes = vec![0; size];
        let at = u64::from(block) * self.xfs.block_size;
        if !read_runs(self.volume, &self.runs, at, &mut bytes)? {
            return self.corrupt("its attributes have holes");
        }
        Ok(bytes)
    }

    /// Goes down to the first leaf, then from leaf to leaf.
    fn leaves(&mut self) -> Result<(), Error> {
        let v5 = self.xfs.v5;
        let (leaf, node) = if v5 {
            (ATTR_LEAF_MAGIC, DA_NODE_MAGIC)
        } else {
            (ATTR4_LEAF_MAGIC, DA4_NODE_MAGIC)
        };
        let (info, node_rest) = if v5 {
            (DA3_BLOCK_INFO, DA3_NODE_REST)
        } else {
            (size_of::<DaBlockInfo>(), DA_NODE_REST)
        };
        let mut block = 0;
        let mut bytes = self.block(block)?;
        let mut above = None;
        while be16(&bytes, 8) == Some(node) {
            let level = be16(&bytes, info + 2).unwrap_or(0);
            let expected = match above {
                None => (1..=MAX_LEVELS).contains(&level),
                Some(above) => level.checked_add(1) == Some(above) && level > 0,
            };
            // The first entry: a hash, and the block.
            let first = be32(&bytes, info + node_rest + 4);
            let (true, Some(first)) = (expected, first) else {
                return self.corrupt("a node of its attributes is not one");
            };
            above = Some(level);
            block = first;
            bytes = self.block(block)?;
        }
        let mut read = 0;
        loop {
            let Ok((head, _)) = DaBlockInfo::read_from_prefix(&bytes) else {
                return self.corrupt("a block of its attributes is cut off");
            };
            if head.magic.get() != leaf {
                return self.corrupt("a block of its attributes is not one");
            }
            self.leaf(&bytes)?;
            read += 1;
            block = head.forw.get();
            if block == 0 {
                return Ok(());
            }
            if read >= MAX_LEAVES.min(self.fork_blocks()) {
                return self.corrupt("its attributes lead in circles");
            }
            bytes = self.block(block)?;
        }
    }

    fn fork_blocks(&self) -> usize {
        let bytes = self.runs.iter().map(|run| run.length).sum::<u64>();
        usize::try_from(bytes / self.xfs.block_size).unwrap_or(usize::MAX)
    }

    fn leaf(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let (info, rest) = if self.xfs.v5 {
            (DA3_BLOCK_INFO, ATTR3_LEAF_REST)
        } else {
            (size_of::<DaBlockInfo>(), ATTR_LEAF_REST)
        };
        let count = usize::from(be16(bytes, info).unwrap_or(0));
        let entries = bytes.get(info + rest..).unwrap_or_default();
        let size = size_of::<AttrLeafEntry>();
        if count * size > entries.len() {
            return self.corrupt("it has more attributes than fit into a block");
        }
        for entry in entries.chunks_exact(size).take(count) {
            let Ok(entry) = AttrLeafEntry::read_from_bytes(entry) else {
                return self.corrupt("an attribute is cut off");
            };
            if entry.flags & (ATTR_INCOMPLETE | ATTR_PARENT) != 0 {
                continue;
            }
            let at = bytes.get(entry.nameidx.get().into()..).unwrap_or_default();
            let found = if entry.flags & ATTR_LOCAL != 0 {
                local(at).map(|(name, value)| (name, value.to_vec()))
            } else {
                match remote(at) {
                    Some((name, block, length)) => Some((name, self.value(block, length)?)),
                    None => None,
                }
            };
            let Some((name, value)) = found else {
                return self.corrupt("an attribute is cut off");
            };
            // Many empty ones are too many as well.
            self.total += size + name.len() + value.len();
            if self.total > MAX_TOTAL {
                return Err(Error::Unsupported {
                    what: format!("has too many attributes at its {}", self.node.place()),
                });
            }
            self.add(entry.flags, name, value);
        }
        Ok(())
    }

    /// A value in blocks of its own. In version 5 each has a head.
    fn value(&self, block: u32, length: usize) -> Result<Vec<u8>, Error> {
        if length > MAX_VALUE {
            return self.corrupt("an attribute is too large");
        }
        let mut value = Vec::with_capacity(length);
        let mut block = block;
        while value.len() < length {
            let bytes = self.block(block)?;
            let head = if self.xfs.v5 { ATTR_REMOTE_HEADER } else { 0 };
            let offset = usize::try_from(be32(&bytes, 4).unwrap_or(0)).ok();
            if self.xfs.v5
                && (be32(&bytes, 0) != Some(ATTR_REMOTE_MAGIC) || offset != Some(value.len()))
            {
                return self.corrupt("the value of an attribute is not one");
            }
            let part = bytes.get(head..).unwrap_or_default();
            let left = length - value.len();
            value.extend_from_slice(&part[..part.len().min(left)]);
            let Some(next) = block.checked_add(1) else {
                return self.corrupt("the value of an attribute is cut off");
            };
            block = next;
        }
        Ok(value)
    }
}

/// Name and value of an attribute that has both in its leaf.
fn local(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let value_length = usize::from(be16(bytes, 0)?);
    let name_length = usize::from(*bytes.get(2)?);
    let (name, rest) = bytes.get(3..)?.split_at_checked(name_length)?;
    Some((name, rest.get(..value_length)?))
}

/// Name of an attribute, where its value is, and how long it is.
fn remote(bytes: &[u8]) -> Option<(&[u8], u32, usize)> {
    let (head, rest) = AttrRemoteName::read_from_prefix(bytes).ok()?;
    let name = rest.get(..head.namelen.into())?;
    let length = usize::try_from(head.valuelen.get()).ok()?;
    Some((name, head.valueblk.get(), length))
}

/// A POSIX ACL from the form on disk (big endian: their number, then entries of
/// tag, id and permissions) to the form that programs see.
fn acl(disk: &[u8]) -> Option<Vec<u8>> {
    let count = usize::try_from(be32(disk, 0)?).ok()?;
    let (entries, _) = disk.get(4..)?.as_chunks::<12>();
    let mut value = vec![2, 0, 0, 0];
    for entry in entries.get(..count)? {
        let tag = u16::try_from(be32(entry, 0)?).ok()?;
        // Only entries of named users and groups have an id.
        let id = if matches!(tag, 2 | 8) {
            be32(entry, 4)?
        } else {
            u32::MAX
        };
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&be16(entry, 8)?.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    Some(value)
}
