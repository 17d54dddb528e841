//! What files should have and cannot be given where only one id is mapped.
//!
//! A record belongs to an inode and not to a name, so renames and hard links
//! need no attention. Inode numbers are used again after a file is removed;
//! the time of birth tells the new file from the old one, so removal needs none
//! either. A file without a record is root's.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What identifies a file on this host while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Device number: major in the upper, minor in the lower half.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Time of birth in seconds and nanoseconds; 0 where the filesystem has none.
    pub born: (i64, u32),
}

impl Key {
    /// The file that `statx(2)` found.
    pub fn of(found: &libc::statx) -> Key {
        let born = if found.stx_mask & libc::STATX_BTIME != 0 {
            (found.stx_btime.tv_sec, found.stx_btime.tv_nsec)
        } else {
            (0, 0)
        };
        Key {
            device: u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor),
            inode: found.stx_ino,
            born,
        }
    }
}

/// A device node for which an empty file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// A block device, not a character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What a file should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The device that it stands for.
    pub node: Option<Node>,
    /// Extended attributes that the kernel refused, by full name.
    pub xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

/// The name of an access control list.
pub const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// Records of all files that have one.
#[derive(Debug, Default)]
pub struct Store {
    records: Mutex<HashMap<(u64, u64), ((i64, u32), Record)>>,
    /// Whether there ever was a record with attributes: until then nobody needs
    /// to look for one.
    attributes: AtomicBool,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), ((i64, u32), Record)>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record of a file. One of a former file with the same number is dropped.
    pub fn get(&self, key: Key) -> Option<Record> {
        let mut records = self.lock();
        let slot = (key.device, key.inode);
        let (born, record) = records.get(&slot)?;
        if *born == key.born {
            return Some(record.clone());
        }
        records.remove(&slot);
        None
    }

    /// Changes the record of a file, which may be none yet.
    pub fn update(&self, key: Key, change: impl FnOnce(&mut Record)) {
        let mut records = self.lock();
        let slot = (key.device, key.inode);
        let mut record = match records.remove(&slot) {
            Some((born, record)) if born == key.born => record,
            _ => Record::default(),
        };
        change(&mut record);
        if record != Record::default() {
            if !record.xattrs.is_empty() {
                self.attributes.store(true, Ordering::Release);
            }
            records.insert(slot, (key.born, record));
        }
    }

    /// Whether any file may have recorded attributes.
    pub fn has_attributes(&self) -> bool {
        self.attributes.load(Ordering::Acquire)
    }

    /// Number of records, those of removed files included.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes of the header of an access control list, and of an entry
/// (`struct posix_acl_xattr_header` and `_entry`, `linux/posix_acl_xattr.h`).
const ACL_HEADER: usize = 4;
const ACL_ENTRY: usize = 8;
const ACL_USER_OBJ: u16 = 0x01;
const ACL_GROUP_OBJ: u16 = 0x04;
const ACL_MASK: u16 = 0x10;
const ACL_OTHER: u16 = 0x20;

/// Calls `visit` with the tag and the permission bytes of each entry; false if
/// it is no list of version 2.
fn visit_acl(acl: &mut [u8], mut visit: impl FnMut(u16, &mut [u8])) -> bool {
    let Some((header, entries)) = acl.split_at_mut_checked(ACL_HEADER) else {
        return false;
    };
    if *header != [2, 0, 0, 0] || entries.len() % ACL_ENTRY != 0 {
        return false;
    }
    for entry in entries.chunks_exact_mut(ACL_ENTRY) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        visit(tag, &mut entry[2..4]);
    }
    true
}

/// Which entry the group's permission bits stand for.
fn group_class(acl: &mut [u8]) -> u16 {
    let mut mask = false;
    visit_acl(acl, |tag, _| mask |= tag == ACL_MASK);
    if mask { ACL_MASK } else { ACL_GROUP_OBJ }
}

/// The permission bits (0777) that a file with this list has; `None` if it is
/// no valid list.
pub fn acl_mode(acl: &[u8]) -> Option<u16> {
    let mut acl = acl.to_vec();
    let group = group_class(&mut acl);
    let mut mode = 0;
    let valid = visit_acl(&mut acl, |tag, bits| {
        let bits = u16::from_le_bytes([bits[0], bits[1]]) & 7;
        match tag {
            ACL_USER_OBJ => mode |= bits << 6,
            ACL_OTHER => mode |= bits,
            tag if tag == group => mode |= bits << 3,
            _ => {}
        }
    });
    valid.then_some(mode)
}

/// The list as `chmod` to this mode leaves it.
pub fn acl_with_mode(acl: &[u8], mode: u16) -> Box<[u8]> {
    let mut acl = acl.to_vec();
    let group = group_class(&mut acl);
    visit_acl(&mut acl, |tag, bits| {
        let value = match tag {
            ACL_USER_OBJ => mode >> 6,
            ACL_OTHER => mode,
            tag if tag == group => mode >> 3,
            _ => return,
        };
        bits.copy_from_slice(&(value & 7).to_le_bytes());
    });
    acl.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(inode: u64, born: i64) -> Key {
        Key {
            device: 1,
            inode,
            born: (born, 0),
        }
    }

    #[test]
    fn a_new_file_under_an_old_number_has_no_record() {
        let store = Store::default();
        store.update(key(7, 1), |record| record.uid = 42);
        assert_eq!(store.get(key(7, 1)).map(|record| record.uid), Some(42));
        assert_eq!(store.get(key(7, 2)), None);
        assert!(store.is_empty(), "the stale record stayed");
    }

    #[test]
    fn a_record_that_says_nothing_is_not_kept() {
        let store = Store::default();
        store.update(key(7, 1), |record| record.gid = 42);
        store.update(key(7, 1), |record| record.gid = 0);
        assert!(store.is_empty());
    }

    #[test]
    fn the_mode_and_the_list_follow_each_other() {
        let entry = |tag: u16, bits: u16, id: u32| {
            [
                &tag.to_le_bytes()[..],
                &bits.to_le_bytes(),
                &id.to_le_bytes(),
            ]
            .concat()
        };
        let list = |mask: u16| {
            [
                vec![2, 0, 0, 0],
                entry(ACL_USER_OBJ, 7, u32::MAX),
                entry(ACL_GROUP_OBJ, 7, u32::MAX),
                entry(0x08, 5, 42),
                entry(ACL_MASK, mask, u32::MAX),
                entry(ACL_OTHER, 1, u32::MAX),
            ]
            .concat()
        };
        assert_eq!(acl_mode(&list(5)), Some(0o751));
        assert_eq!(acl_with_mode(&list(5), 0o741)[..], list(4));
        assert_eq!(acl_mode(b"no list"), None);
    }
}
