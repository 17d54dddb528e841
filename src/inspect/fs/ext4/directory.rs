//! Directories: blocks of entries, one after the other. The index of a hashed
//! directory hides in entries without an inode.

use zerocopy::FromBytes as _;

use super::super::{Entry, FileId, is_plain_name};
use super::{Error, corrupt};
use crate::disk::fs::ext4::format::DirEntry;

/// Most entries of one directory.
const MAX_ENTRIES: usize = 16 << 20;

/// Adds the entries of a block, but `.` and `..`.
pub(super) fn read(place: &str, block: &[u8], entries: &mut Vec<Entry>) -> Result<(), Error> {
    let mut rest = block;
    while !rest.is_empty() {
        let Ok((entry, after)) = DirEntry::read_from_prefix(rest) else {
            return corrupt(place, "a directory entry is cut off");
        };
        // Blocks of 64 KiB do not fit into 16 bits.
        let length = match usize::from(entry.rec_len.get()) {
            0 | 0xFFFF if block.len() > 0xFFFF => rest.len(),
            length => length,
        };
        let name = after.get(..usize::from(entry.name_len));
        let (Some(name), Some(next)) = (name, rest.get(length..)) else {
            return corrupt(place, "a directory entry leaves its block");
        };
        if length < size_of::<DirEntry>() + name.len() || length % 4 != 0 {
            return corrupt(place, "a directory entry is too short");
        }
        let inode = entry.inode.get();
        if inode != 0 && name != b"." && name != b".." {
            if !is_plain_name(name) {
                return corrupt(place, "a name is empty or has a slash or a zero byte");
            }
            if entries.len() >= MAX_ENTRIES {
                return corrupt(place, "a directory has too many entries");
            }
            entries.push(Entry {
                name: name.to_vec(),
                file: FileId(inode.into()),
            });
        }
        rest = next;
    }
    Ok(())
}
