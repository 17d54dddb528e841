//! Directories: in the inode, or in blocks of entries. The blocks with hashes of
//! the names, which lie behind a directory's end, are not needed to read it.

use super::super::inode::Inode as _;
use super::super::{Entry, FileId, is_plain_name};
use super::{Error, Node, Xfs, corrupt};
use crate::disk::fs::xfs::format::{
    DIR_BLOCK_MAGIC, DIR_DATA_HEADER, DIR_DATA_MAGIC, DIR_FREE_TAG, DIR_OWNER, DIR2_BLOCK_MAGIC,
    DIR2_DATA_HEADER, DIR2_DATA_MAGIC,
};

/// Most entries of one directory.
const MAX_ENTRIES: usize = 16 << 20;

/// Collects the names of one directory, without `.` and `..`.
pub(super) struct Names<'a> {
    xfs: &'a Xfs,
    node: &'a Node,
    pub entries: Vec<Entry>,
}

/// Takes `length` bytes from the front.
fn take<'b>(rest: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

/// Takes a big-endian number of `width` bytes from the front.
fn number(rest: &mut &[u8], width: usize) -> Option<u64> {
    let bytes = take(rest, width)?;
    Some(
        bytes
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte)),
    )
}

impl<'a> Names<'a> {
    pub(super) fn new(xfs: &'a Xfs, node: &'a Node) -> Names<'a> {
        Names {
            xfs,
            node,
            entries: Vec::new(),
        }
    }

    fn corrupt<T>(&self, what: &'static str) -> Result<T, Error> {
        corrupt(self.node.place(), what)
    }

    fn add(&mut self, inode: u64, name: &[u8]) -> Result<(), Error> {
        if name == b"." || name == b".." {
            return Ok(());
        }
        if !is_plain_name(name) {
            return self.corrupt("a name is empty or has a slash or a zero byte");
        }
        if self.entries.len() >= MAX_ENTRIES {
            return self.corrupt("a directory has too many entries");
        }
        self.entries.push(Entry {
            name: name.to_vec(),
            file: FileId(inode),
        });
        Ok(())
    }

    /// A directory in its inode (`xfs_dir2_sf_hdr`): numbers of inodes have eight
    /// bytes if one needs them.
    pub(super) fn short(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        let (Some(count), Some(wide)) = (number(&mut rest, 1), number(&mut rest, 1)) else {
            return self.corrupt("a directory is cut off");
        };
        let width = if wide > 0 { 8 } else { 4 };
        if number(&mut rest, width).is_none() {
            return self.corrupt("a directory is cut off");
        }
        for _ in 0..count {
            let Some((inode, name)) = self.short_entry(&mut rest, width) else {
                return self.corrupt("a directory entry is cut off");
            };
            self.add(inode, name)?;
        }
        Ok(())
    }

    fn short_entry<'b>(&self, rest: &mut &'b [u8], width: usize) -> Option<(u64, &'b [u8])> {
        let length = usize::try_from(number(rest, 1)?).ok()?;
        // Where it would be in a block.
        number(rest, 2)?;
        let name = take(rest, length)?;
        if self.xfs.has_ftype {
            number(rest, 1)?;
        }
        Some((number(rest, width)?, name))
    }

    /// A block of entries.
    pub(super) fn block(&mut self, block: &[u8]) -> Result<(), Error> {
        let xfs = self.xfs;
        let magic = number(&mut &block[..4], 4).unwrap_or(0);
        let (single, data, header) = if xfs.v5 {
            (DIR_BLOCK_MAGIC, DIR_DATA_MAGIC, DIR_DATA_HEADER)
        } else {
            (DIR2_BLOCK_MAGIC, DIR2_DATA_MAGIC, DIR2_DATA_HEADER)
        };
        let end = if magic == u64::from(single) {
            // Hashes and their number stand at the end.
            let tail = block.len() - 8;
            let hashes = number(&mut &block[tail..], 4).and_then(|count| {
                let count = usize::try_from(count).ok()?;
                tail.checked_sub(count.checked_mul(8)?)
            });
            match hashes {
                Some(end) if end >= header => end,
                _ => return self.corrupt("a directory has more hashes than fit"),
            }
        } else if magic == u64::from(data) {
            block.len()
        } else {
            return self.corrupt("a block of the directory is none");
        };
        if xfs.v5 && number(&mut &block[DIR_OWNER..], 8) != Some(self.node.number) {
            return self.corrupt("a block of the directory is another's");
        }
        let mut rest = &block[header..end];
        while !rest.is_empty() {
            match self.entry(&mut rest) {
                Some(Some((inode, name))) => self.add(inode, name)?,
                Some(None) => {}
                None => return self.corrupt("a directory entry leaves its block"),
            }
        }
        Ok(())
    }

    /// The next entry of a block; `Some(None)` for unused space.
    #[allow(clippy::option_option)]
    fn entry<'b>(&self, rest: &mut &'b [u8]) -> Option<Option<(u64, &'b [u8])>> {
        let start = *rest;
        let mut fields = start;
        if number(&mut fields, 2)? == u64::from(DIR_FREE_TAG) {
            let length = usize::try_from(number(&mut fields, 2)?).ok()?;
            if length == 0 || length % 8 != 0 {
                return None;
            }
            take(rest, length)?;
            return Some(None);
        }
        fields = start;
        let inode = number(&mut fields, 8)?;
        let length = usize::try_from(number(&mut fields, 1)?).ok()?;
        let name = take(&mut fields, length)?;
        // Number, length, name, type and the entry's own place, in words of eight.
        let whole = 8 + 1 + length + usize::from(self.xfs.has_ftype) + 2;
        take(rest, whole.next_multiple_of(8))?;
        Some(Some((inode, name)))
    }
}
