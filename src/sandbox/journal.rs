//! Records of files, appended to a file as they change.
//!
//! ```text
//! 0   magic, 8 bytes, the last is the version
//! 8   device of the files when the journal was begun
//! 16  entries: length of the body, CRC-32C of the body (4 bytes each), body
//! ```
//!
//! All numbers are little-endian. A body is device, inode, time of birth
//! (seconds, nanoseconds), owner, group, kind of device, its two numbers, then
//! length, name, length and value of each attribute. A later entry for an inode
//! takes the place of an earlier one; one that says nothing removes it.
//!
//! Entries are written whole, each by one call, without a sync: a process that
//! is killed loses nothing, a machine that stops may lose the end. What follows
//! the first entry that is short or has another checksum is ignored.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::UnlinkatFlags;

use super::mounts;
use super::store::{Key, Node, Record};

const MAGIC: [u8; 8] = *b"kilnown\x01";
const HEADER: usize = 16;
/// Length and checksum before a body.
const PREFIX: usize = 8;
/// A body that is longer is damaged. None is written: see [`fits`].
const LONGEST_BODY: usize = 16 << 20;
/// Bytes of a body before its attributes.
const FIXED: usize = 3 * 8 + 4 + 2 * 4 + 1 + 2 * 4;
/// A journal is written anew when it has more entries than this, and several
/// times as many as there are records.
const FEW_ENTRIES: usize = 100_000;

/// A journal that is open for writing.
#[derive(Debug)]
pub struct Journal {
    file: File,
    /// Where it is. Threads that write it have the root directory of a target, in which its
    /// path would lead where that says.
    directory: OwnedFd,
    name: OsString,
    device: u64,
    entries: usize,
}

impl Journal {
    /// Opens a journal, or begins one; returns what is in it, oldest first.
    pub fn open(path: &Path, device: u64) -> io::Result<(Journal, Vec<(Key, Record)>)> {
        let (parent, name) = path
            .parent()
            .zip(path.file_name())
            .ok_or(io::ErrorKind::InvalidInput)?;
        let directory = mounts::open_directory(parent)?;
        let mut options = fs_err::OpenOptions::new();
        options.read(true).write(true).create(true);
        let mut file = options.open(path)?.into_parts().0;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (mut found, length) = read(&bytes, device);
        let length = if length < HEADER {
            found.clear();
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(&header(device))?;
            HEADER
        } else {
            length
        };
        file.set_len(length as u64)?;
        file.seek(io::SeekFrom::End(0))?;
        let journal = Journal {
            file,
            directory,
            name: name.to_owned(),
            device,
            entries: found.len(),
        };
        Ok((journal, found))
    }

    /// Appends an [`entry`].
    pub fn append(&mut self, entry: &[u8]) -> io::Result<()> {
        self.entries += 1;
        self.file.write_all(entry)
    }

    /// Whether most of it is out of date.
    pub fn is_due(&self, records: usize) -> bool {
        self.entries > FEW_ENTRIES && self.entries / 4 > records
    }

    /// Replaces it by one with these entries.
    pub fn rewrite(&mut self, entries: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
        let mut new = self.name.clone();
        new.push(".new");
        let _ = nix::unistd::unlinkat(&self.directory, &*new, UnlinkatFlags::NoRemoveDir);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = nix::fcntl::openat(&self.directory, &*new, flags, mode)?;
        let mut writer = io::BufWriter::new(File::from(file));
        writer.write_all(&header(self.device))?;
        let mut count = 0;
        for entry in entries {
            writer.write_all(&entry)?;
            count += 1;
        }
        self.file = writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        self.entries = count;
        nix::fcntl::renameat(&self.directory, &*new, &self.directory, &*self.name)?;
        Ok(())
    }
}

fn header(device: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..].copy_from_slice(&device.to_le_bytes());
    bytes
}

/// Whether a record with one more attribute can be read back.
pub fn fits(record: &Record, name: &[u8], value: &[u8]) -> bool {
    let lengths = record
        .xattrs
        .iter()
        .filter(|(other, _)| other[..] != *name)
        .map(|(name, value)| name.len() + value.len() + 2 * size_of::<u32>());
    let more = name.len() + value.len() + 2 * size_of::<u32>();
    FIXED + more + lengths.sum::<usize>() <= LONGEST_BODY
}

/// An entry that gives a file this record.
pub fn entry(key: &Key, record: &Record) -> Vec<u8> {
    let mut bytes = vec![0; PREFIX];
    let mut put = |number: &[u8]| bytes.extend_from_slice(number);
    put(&key.device.to_le_bytes());
    put(&key.inode.to_le_bytes());
    put(&key.born.0.to_le_bytes());
    put(&key.born.1.to_le_bytes());
    put(&record.uid.to_le_bytes());
    put(&record.gid.to_le_bytes());
    let (kind, major, minor) = match record.node {
        None => (0u8, 0, 0),
        Some(node) => (if node.block { 1 } else { 2 }, node.major, node.minor),
    };
    put(&[kind]);
    put(&major.to_le_bytes());
    put(&minor.to_le_bytes());
    for (name, value) in &record.xattrs {
        for part in [name, value] {
            // Both are shorter than 64 KiB and one, which the kernel sees to.
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            put(&length.to_le_bytes());
            put(part);
        }
    }
    let length = u32::try_from(bytes.len() - PREFIX).unwrap_or(u32::MAX);
    let sum = crc32c::crc32c(&bytes[PREFIX..]);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// What a journal says, and how much of it is sound; nothing if it is none.
/// Files of the journal's device are now on `device`.
pub fn read(bytes: &[u8], device: u64) -> (Vec<(Key, Record)>, usize) {
    let mut found = Vec::new();
    let mut rest = Reader(bytes);
    let (Some(magic), Some(former)) = (rest.array::<8>(), rest.array::<8>()) else {
        return (found, 0);
    };
    if magic != MAGIC {
        return (found, 0);
    }
    let former = u64::from_le_bytes(former);
    let mut sound = HEADER;
    while let Some(body) = rest.body() {
        let Some((mut key, record)) = parse(body) else {
            break;
        };
        if key.device == former {
            key.device = device;
        }
        found.push((key, record));
        sound += PREFIX + body.len();
    }
    (found, sound)
}

fn parse(body: &[u8]) -> Option<(Key, Record)> {
    let mut rest = Reader(body);
    let key = Key {
        device: u64::from_le_bytes(rest.array()?),
        inode: u64::from_le_bytes(rest.array()?),
        born: (
            i64::from_le_bytes(rest.array()?),
            u32::from_le_bytes(rest.array()?),
        ),
    };
    let mut record = Record {
        uid: rest.number()?,
        gid: rest.number()?,
        ..Record::default()
    };
    let [kind] = rest.array()?;
    let (major, minor) = (rest.number()?, rest.number()?);
    record.node = match kind {
        0 => None,
        1 | 2 => Some(Node {
            block: kind == 1,
            major,
            minor,
        }),
        _ => return None,
    };
    while !rest.0.is_empty() {
        let name = rest.counted()?;
        let value = rest.counted()?;
        record.xattrs.insert(name.into(), value.into());
    }
    Some((key, record))
}

/// Takes numbers and strings off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn counted(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    /// The body of the next entry, if that is whole and unharmed.
    fn body(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let sum = self.number()?;
        let body = self.take(length).filter(|_| length <= LONGEST_BODY)?;
        (crc32c::crc32c(body) == sum).then_some(body)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;

    use super::super::store::Store;
    use super::*;

    fn key() -> impl Strategy<Value = Key> {
        // Few numbers, so that inodes are used again.
        (1..3u64, 0..5u64, 0..3i64).prop_map(|(device, inode, born)| Key {
            device,
            inode,
            born: (born, 7),
        })
    }

    fn record() -> impl Strategy<Value = Record> {
        let bytes =
            |most| prop::collection::vec(any::<u8>(), 0..most).prop_map(Vec::into_boxed_slice);
        let xattrs = prop::collection::btree_map(bytes(9), bytes(40), 0..3);
        let node = prop::option::of(any::<(bool, u32, u32)>());
        (0..3u32, 0..3u32, node, xattrs).prop_map(|(uid, gid, node, xattrs)| Record {
            uid,
            gid,
            node: node.map(|(block, major, minor)| Node {
                block,
                major,
                minor,
            }),
            xattrs,
        })
    }

    fn state(entries: &[(Key, Record)]) -> HashMap<(u64, u64), (Key, Record)> {
        let mut state = HashMap::new();
        for (key, record) in entries {
            state.insert((key.device, key.inode), (*key, record.clone()));
        }
        state.retain(|_, (_, record)| *record != Record::default());
        state
    }

    proptest! {
        #[test]
        fn what_was_appended_is_read_back_up_to_any_cut(
            entries in prop::collection::vec((key(), record()), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = header(1).to_vec();
            let mut ends = vec![bytes.len()];
            for (key, record) in &entries {
                bytes.extend(entry(key, record));
                ends.push(bytes.len());
            }
            let cut = cut.index(bytes.len() + 1);
            let (found, sound) = read(&bytes[..cut], 1);
            let whole = ends.iter().filter(|&&end| end <= cut).count().saturating_sub(1);
            prop_assert_eq!(&found[..], &entries[..whole]);
            prop_assert_eq!(sound, if cut < HEADER { 0 } else { ends[whole] });
        }

        #[test]
        fn a_changed_byte_ends_what_is_believed(
            entries in prop::collection::vec((key(), record()), 1..10),
            at in any::<prop::sample::Index>(),
            change in 1..=255u8,
        ) {
            let mut bytes = header(1).to_vec();
            for (key, record) in &entries {
                bytes.extend(entry(key, record));
            }
            let at = HEADER + at.index(bytes.len() - HEADER);
            bytes[at] ^= change;
            let (found, sound) = read(&bytes, 1);
            prop_assert!(sound <= at);
            prop_assert_eq!(&found[..], &entries[..found.len()]);
        }

        #[test]
        fn a_store_is_the_same_after_it_was_opened_again(
            entries in prop::collection::vec((key(), record()), 0..30),
        ) {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("owners");
            let store = Store::open(true, &path, 1).expect("begun");
            for (key, wanted) in &entries {
                store.update(*key, |record| *record = wanted.clone());
            }
            drop(store);
            // Its device has another number now, and the last entry is torn.
            let mut bytes = fs_err::read(&path).expect("a journal");
            bytes.extend_from_slice(&[9, 0, 0, 0, 1]);
            fs_err::write(&path, bytes).expect("written");
            let store = Store::open(true, &path, 77).expect("opened");
            let expected = state(&entries);
            prop_assert_eq!(store.len(), expected.len());
            for (key, record) in expected.values() {
                let device = if key.device == 1 { 77 } else { key.device };
                prop_assert_eq!(store.get(Key { device, ..*key }), Some(record.clone()));
            }
        }
    }

    #[test]
    fn the_longest_record_that_fits_is_read_back_and_no_longer_one_is_taken() {
        let key = Key {
            device: 1,
            inode: 2,
            born: (3, 4),
        };
        let mut record = Record::default();
        let bare = entry(&key, &record).len() - PREFIX;
        assert_eq!(bare, FIXED);
        let value = vec![7; LONGEST_BODY / 2 - 100];
        for name in [b"trusted.a", b"trusted.b"] {
            assert!(fits(&record, name, &value));
            record.xattrs.insert(name[..].into(), value.clone().into());
        }
        let left = LONGEST_BODY - (entry(&key, &record).len() - PREFIX) - 9 - 8;
        assert!(!fits(&record, b"trusted.c", &vec![7; left + 1]));
        assert!(fits(&record, b"trusted.c", &vec![7; left]));
        // What takes the place of another counts once.
        assert!(fits(&record, b"trusted.a", &value));
        record
            .xattrs
            .insert(b"trusted.c"[..].into(), vec![7; left].into());
        let bytes = [&header(1)[..], &entry(&key, &record)].concat();
        let (found, sound) = read(&bytes, 1);
        assert_eq!((found.len(), sound), (1, bytes.len()));
        assert_eq!(found[0].1, record);
    }

    #[test]
    fn a_file_that_is_no_journal_is_begun_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("owners");
        for text in ["", "short", "something else altogether, and longer"] {
            fs_err::write(&path, text).expect("written");
            let store = Store::open(true, &path, 1).expect("begun");
            assert!(store.is_empty());
        }
    }

    #[test]
    fn a_process_that_is_killed_loses_nothing_that_it_was_told_was_done() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("owners");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        // SAFETY: the child only writes files and is killed; it shares no lock
        // that another thread could hold but the allocator's, which glibc resets.
        let child = match unsafe { nix::unistd::fork() }.expect("a child") {
            nix::unistd::ForkResult::Child => {
                let store = Store::open(true, &path, 1).expect("begun");
                let mut writer = &writer;
                for inode in 0u64.. {
                    let key = Key {
                        device: 1,
                        inode,
                        born: (1, 0),
                    };
                    store.update(key, |record| record.uid = 1 + inode as u32);
                    let _ = writer.write_all(&inode.to_le_bytes());
                }
                unreachable!("it is killed")
            }
            nix::unistd::ForkResult::Parent { child } => child,
        };
        drop(writer);
        let mut last = [0; 8];
        for _ in 0..500 {
            reader.read_exact(&mut last).expect("it writes");
        }
        nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).expect("killed");
        nix::sys::wait::waitpid(child, None).expect("reaped");
        while reader.read_exact(&mut last).is_ok() {}
        let told = u64::from_le_bytes(last);
        let store = Store::open(true, &path, 1).expect("opened");
        assert!(store.len() as u64 > told, "{} of {told}", store.len());
        for inode in 0..=told {
            let record = store.get(Key {
                device: 1,
                inode,
                born: (1, 0),
            });
            assert_eq!(record.map(|record| record.uid), Some(1 + inode as u32));
        }
    }

    #[test]
    fn a_journal_of_much_that_is_out_of_date_is_written_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("owners");
        let store = Store::open(true, &path, 1).expect("begun");
        let key = Key {
            device: 1,
            inode: 1,
            born: (1, 0),
        };
        for round in 0..=FEW_ENTRIES as u32 + 5 {
            store.update(key, |record| record.uid = round + 1);
        }
        let size = fs_err::metadata(&path).expect("a journal").len();
        assert!(size < 2000, "{size} bytes");
        drop(store);
        let store = Store::open(true, &path, 1).expect("opened");
        let expected: BTreeMap<Box<[u8]>, Box<[u8]>> = BTreeMap::new();
        let record = store.get(key).expect("recorded");
        assert_eq!(
            (record.uid, record.xattrs),
            (FEW_ENTRIES as u32 + 6, expected)
        );
    }

    #[test]
    fn a_journal_is_written_anew_where_it_is_and_not_where_its_path_leads() {
        let place = tempfile::tempdir().expect("a directory");
        let path = |name: &str| place.path().join(name);
        for name in ["work", "elsewhere"] {
            fs_err::create_dir(path(name)).expect("made");
        }
        let (mut journal, _) = Journal::open(&path("work/owners"), 1).expect("begun");
        // What a target has at that path.
        fs_err::rename(path("work"), path("moved")).expect("moved");
        fs_err::write(path("victim"), "as it was").expect("written");
        for name in ["elsewhere/owners.new", "moved/owners.new"] {
            std::os::unix::fs::symlink(path("victim"), path(name)).expect("linked");
        }
        std::os::unix::fs::symlink("elsewhere", path("work")).expect("linked");
        journal.rewrite(std::iter::empty()).expect("written");
        let victim = fs_err::read(path("victim")).expect("there");
        assert_eq!(victim, b"as it was");
        let own = fs_err::read(path("moved/owners")).expect("there");
        assert_eq!(own, header(1));
    }
}
