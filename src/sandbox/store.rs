//! What files should have and cannot be given.
//!
//! A record belongs to an inode and not to a name, so renames and hard links
//! need no attention. Inode numbers are used again after a file is removed;
//! the time of birth tells the new file from the old one, so removal needs none
//! either. A file without a record is as the kernel says.
//!
//! Overlayfs gives a file of a lower layer another inode when it is first
//! written to, but shows the old number where the layers share a filesystem.
//! Lower layers do not change, so their numbers are not used again, and a record
//! is [frozen](Store::freeze) for the number alone.
//!
//! Records are kept in memory; a [`Journal`] beside them outlives a build that
//! is killed.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::journal::{self, Journal};

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

/// Shows which files of a directory are not simply root's, to those who ask for
/// exactly this attribute of the open directory: names, each with a zero behind it.
/// So nobody has to ask file by file for what the supervisor knows.
pub const SPECIAL: &CStr = c"trusted.kiln.special";

/// Device and inode number.
type Slot = (u64, u64);

#[derive(Debug, Default)]
struct Records {
    /// When the file was made, and its record.
    list: HashMap<Slot, ((i64, u32), Record)>,
    /// Files of lower layers, by what an overlay shows for them.
    frozen: HashMap<Slot, Record>,
    journal: Option<Journal>,
}

/// Records of all files that have one.
#[derive(Debug)]
pub struct Store {
    records: Mutex<Records>,
    owners: bool,
    /// Whether there ever was a record with attributes or of a device: until
    /// then nobody needs to look for one.
    attributes: AtomicBool,
    devices: AtomicBool,
}

impl Default for Store {
    fn default() -> Store {
        Store::new(true)
    }
}

impl Store {
    /// Without a journal. `owners` says whether owners are recorded too, and not
    /// only devices and attributes.
    pub fn new(owners: bool) -> Store {
        Store {
            records: Mutex::default(),
            owners,
            attributes: AtomicBool::new(false),
            devices: AtomicBool::new(false),
        }
    }

    /// With a journal, from which the records of an earlier run are taken if it
    /// exists. `device` is that of the filesystem with the files: it may have had
    /// another number then.
    pub fn open(owners: bool, path: &Path, device: u64) -> std::io::Result<Store> {
        let store = Store::new(owners);
        let (mut journal, found) = Journal::open(path, device)?;
        {
            let mut records = store.lock();
            for (key, record) in found {
                store.note(&record);
                set(&mut records.list, key, record, false);
            }
            journal.rewrite(entries(&records.list))?;
            records.journal = Some(journal);
        }
        Ok(store)
    }

    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether owners are recorded. Where not, those of a record mean nothing.
    pub fn has_owners(&self) -> bool {
        self.owners
    }

    fn note(&self, record: &Record) {
        if record.node.is_some() {
            self.devices.store(true, Ordering::Release);
        }
        if record.node.is_some() || !record.xattrs.is_empty() {
            self.attributes.store(true, Ordering::Release);
        }
    }

    /// The record of a file. One of a former file with the same number is dropped.
    pub fn get(&self, key: Key) -> Option<Record> {
        let mut records = self.lock();
        records.current(key).cloned()
    }

    /// Changes the record of a file, which may be none yet.
    pub fn update(&self, key: Key, change: impl FnOnce(&mut Record)) {
        let mut records = self.lock();
        let slot = (key.device, key.inode);
        let replaces = records
            .list
            .get(&slot)
            .is_some_and(|(born, _)| *born != key.born);
        let before = records.current(key).cloned();
        let mut record = before.clone().unwrap_or_default();
        change(&mut record);
        if !replaces && before.unwrap_or_default() == record {
            return;
        }
        // A file that is root's again, but has another record in a lower layer, keeps
        // one that says so.
        let hides = records.frozen.remove(&slot).is_some()
            || records
                .list
                .get(&slot)
                .is_some_and(|(_, kept)| *kept == Record::default());
        self.note(&record);
        let Records { list, journal, .. } = &mut *records;
        if let Some(writer) = journal
            && let Err(error) = writer.append(&journal::entry(&key, &record))
        {
            tracing::warn!("records will not outlive this process: {error}");
            *journal = None;
        }
        set(list, key, record, hides);
        if let Some(writer) = journal
            && writer.is_due(list.len())
            && let Err(error) = writer.rewrite(entries(list))
        {
            tracing::warn!("records will not outlive this process: {error}");
            *journal = None;
        }
    }

    /// Gives a file that an overlay on device `upper` shows from a lower layer the
    /// record that it has there, for good.
    pub fn freeze(&self, upper: u64, lower: Key) {
        let mut records = self.lock();
        if let Some(record) = records.current(lower).cloned() {
            records.frozen.insert((upper, lower.inode), record);
        }
    }

    /// Forgets what was frozen for an overlay.
    pub fn thaw(&self, upper: u64) {
        let mut records = self.lock();
        if !records.frozen.is_empty() {
            records.frozen.retain(|slot, _| slot.0 != upper);
        }
    }

    /// Whether any file of a device has a record.
    pub fn has_device(&self, device: u64) -> bool {
        self.lock().list.keys().any(|slot| slot.0 == device)
    }

    /// Whether any file may have recorded attributes, or be a device.
    pub fn has_attributes(&self) -> bool {
        self.attributes.load(Ordering::Acquire)
    }

    /// Whether any file may be a device.
    pub fn has_devices(&self) -> bool {
        self.devices.load(Ordering::Acquire)
    }

    /// Number of records, those of removed files included.
    pub fn len(&self) -> usize {
        self.lock().list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Records {
    fn current(&mut self, key: Key) -> Option<&Record> {
        let slot = (key.device, key.inode);
        let stale = self
            .list
            .get(&slot)
            .is_some_and(|(born, _)| *born != key.born);
        if stale {
            self.list.remove(&slot);
        }
        match self.list.get(&slot) {
            Some((_, record)) => Some(record),
            None if self.frozen.is_empty() => None,
            None => self.frozen.get(&slot),
        }
    }
}

/// Keeps a record, unless it says nothing and hides no other.
fn set(list: &mut HashMap<Slot, ((i64, u32), Record)>, key: Key, record: Record, hides: bool) {
    let slot = (key.device, key.inode);
    if record == Record::default() && !hides {
        list.remove(&slot);
    } else {
        list.insert(slot, (key.born, record));
    }
}

/// All records as a journal has them.
fn entries(list: &HashMap<Slot, ((i64, u32), Record)>) -> impl Iterator<Item = Vec<u8>> + '_ {
    list.iter().map(|(&(device, inode), (born, record))| {
        let key = Key {
            device,
            inode,
            born: *born,
        };
        journal::entry(&key, record)
    })
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
    fn a_file_of_a_lower_layer_keeps_its_record_when_it_is_copied_up() {
        let store = Store::default();
        let (lower, shown) = (key(7, 1), |born| Key {
            device: 2,
            ..key(7, born)
        });
        store.update(lower, |record| record.uid = 42);
        store.freeze(2, lower);
        for born in [1, 9] {
            assert_eq!(store.get(shown(born)).map(|record| record.uid), Some(42));
        }
        store.update(shown(9), |record| record.gid = 5);
        let record = store.get(shown(9)).expect("recorded");
        assert_eq!((record.uid, record.gid), (42, 5));
        assert_eq!(store.get(lower).map(|record| record.gid), Some(0));
    }

    #[test]
    fn what_was_given_back_to_root_stays_so_over_a_lower_layer() {
        let store = Store::default();
        let lower = key(7, 1);
        let shown = Key { device: 2, ..lower };
        store.update(lower, |record| record.uid = 42);
        store.freeze(2, lower);
        for owner in [0, 5, 0] {
            store.update(shown, |record| record.uid = owner);
            store.freeze(2, lower);
            assert_eq!(store.get(shown).map(|record| record.uid), Some(owner));
        }
    }

    #[test]
    fn a_record_that_says_nothing_is_not_kept() {
        let store = Store::default();
        store.update(key(7, 1), |record| record.gid = 42);
        store.update(key(7, 1), |record| record.gid = 0);
        assert!(store.is_empty());
    }
}
