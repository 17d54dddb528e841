//! Owners, devices, attributes and set-id bits of a kept root, beside it.
//!
//! Where only one id is mapped, what files should have is known to the
//! supervisor of the build that made them. A root that outlives the build has a
//! list beside it, by path, so that it does not depend on inode numbers. Listing
//! and applying use plain system calls, which the supervisor answers.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags};
use serde::{Deserialize, Serialize};

use super::beneath::{Place, Root, kind};
use crate::sandbox::bpf::SET_ID;
use crate::sandbox::store::SPECIAL;
use crate::sandbox::xattr::{self, On};

/// Directories may be nested this deep.
const DEPTH: usize = 512;
/// By which the supervisor tells that an empty file stands for a device.
const DEVICE: &CStr = crate::sandbox::emul::DEVICE;
/// Kept by the kernel itself, but lost when the owner changes.
pub(super) const CAPABILITY: &CStr = c"security.capability";

/// One file that is not simply root's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    path: Text,
    uid: u32,
    gid: u32,
    /// `b` or `c`, and the device number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<(char, u64)>,
    /// The mode of a file with set-id bits, which the kept one may lack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<Text, Text>,
}

/// Bytes as text: what is not printable ASCII is written as `%` and two digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Text(String);

impl Text {
    fn of(bytes: &[u8]) -> Text {
        let mut text = String::new();
        for &byte in bytes {
            if (byte.is_ascii_graphic() || byte == b' ') && byte != b'%' {
                text.push(char::from(byte));
            } else {
                text.push_str(&format!("%{byte:02x}"));
            }
        }
        Text(text)
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        let wrong = || io::Error::from(io::ErrorKind::InvalidData);
        let mut bytes = Vec::new();
        let mut rest = self.0.as_bytes();
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            if byte != b'%' {
                bytes.push(byte);
                continue;
            }
            let (digits, tail) = rest.split_at_checked(2).ok_or_else(wrong)?;
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
            rest = tail;
        }
        Ok(bytes)
    }
}

/// Lists what is special in a root, into a new file. Where `owners` are files'
/// own, only devices, attributes and set-id bits are special.
pub fn save(root: &Path, list: &Path, owners: bool) -> io::Result<()> {
    let mut file = io::BufWriter::new(fs_err::File::create(list)?);
    let top = fs_err::File::open(root)?.into_parts().0;
    walk(&OwnedFd::from(top), Path::new(""), 0, &mut |entry| {
        let is_plain = entry.device.is_none() && entry.mode.is_none() && entry.xattrs.is_empty();
        if !owners && is_plain {
            return Ok(());
        }
        serde_json::to_writer(&mut file, entry)?;
        io::Write::write_all(&mut file, b"\n")
    })?;
    file.into_inner()?.sync_all()
}

fn walk(
    directory: &OwnedFd,
    path: &Path,
    depth: usize,
    found: &mut dyn FnMut(&Entry) -> io::Result<()>,
) -> io::Result<()> {
    if depth > DEPTH {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    if depth == 0 {
        examine(directory, OsStr::new("."), Path::new("."), found)?;
    }
    let special = Special::of(directory)?;
    for (name, kind) in super::copy::entries(directory)? {
        let path = path.join(&name);
        let is_directory = match kind {
            Some(kind) if special.excludes(&name) => kind == SFlag::S_IFDIR,
            _ => examine(directory, &name, &path, found)?,
        };
        if is_directory {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let below = nix::fcntl::openat(directory, name.as_os_str(), flags, Mode::empty())?;
            walk(&below, &path, depth + 1, found)?;
        }
    }
    Ok(())
}

/// Which entries of a directory may have another owner than root, be devices, or have
/// attributes or set-id bits, if a supervisor tells: asking about each file would take longer than
/// making it did.
pub(super) struct Special(Option<HashSet<OsString>>);

impl Special {
    /// Asks.
    pub(super) fn of(directory: &OwnedFd) -> io::Result<Special> {
        match xattr::value(On::Open(directory.as_fd()), SPECIAL) {
            Ok(names) => {
                let names = xattr::names(&names).map(|name| OsStr::from_bytes(name).to_owned());
                Ok(Special(Some(names.collect())))
            }
            // Nobody tells, or there are more than fit.
            Err(Errno::ENODATA | Errno::ENOTSUP | Errno::EPERM | Errno::ERANGE) => {
                Ok(Special(None))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether an entry is known to be none of them.
    pub(super) fn excludes(&self, name: &OsStr) -> bool {
        self.0.as_ref().is_some_and(|names| !names.contains(name))
    }
}

/// Reports a file if it is special; true for a directory.
fn examine(
    directory: &OwnedFd,
    name: &OsStr,
    path: &Path,
    found: &mut dyn FnMut(&Entry) -> io::Result<()>,
) -> io::Result<bool> {
    let file = open_path(directory, name)?;
    let stat = nix::sys::stat::fstat(&file)?;
    let kind = kind(&stat);
    let device = match kind {
        SFlag::S_IFBLK => Some(('b', stat.st_rdev)),
        SFlag::S_IFCHR => Some(('c', stat.st_rdev)),
        _ => None,
    };
    let (device, xattrs) = if kind == SFlag::S_IFLNK {
        (None, BTreeMap::new())
    } else {
        let path = by_descriptor(&file)?;
        // The supervisor may not answer `stat`, but always this.
        let device = if kind == SFlag::S_IFREG && stat.st_size == 0 {
            attribute(&path, DEVICE)?.and_then(|text| parse_device(&text))
        } else {
            device
        };
        (device, attributes(&path)?)
    };
    let has_set_id = kind == SFlag::S_IFREG && stat.st_mode & SET_ID != 0;
    let mode = has_set_id.then_some(stat.st_mode & 0o7777);
    let is_roots = (stat.st_uid, stat.st_gid) == (0, 0);
    if !is_roots || device.is_some() || mode.is_some() || !xattrs.is_empty() {
        found(&Entry {
            path: Text::of(path.as_os_str().as_bytes()),
            uid: stat.st_uid,
            gid: stat.st_gid,
            device,
            mode,
            xattrs,
        })?;
    }
    Ok(kind == SFlag::S_IFDIR)
}

/// A device as the supervisor describes it.
fn parse_device(text: &[u8]) -> Option<(char, u64)> {
    let mut words = std::str::from_utf8(text).ok()?.split(' ');
    let kind = words.next()?.chars().next()?;
    let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((kind, nix::sys::stat::makedev(major, minor)))
}

fn open_path(directory: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::openat(directory, name, flags, Mode::empty())?)
}

/// A file that is open as a mere name, for calls that take none.
fn by_descriptor(file: &OwnedFd) -> io::Result<CString> {
    Ok(CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?)
}

/// Attributes that the kernel may have refused, or that a kept file may lack.
fn attributes(path: &CStr) -> io::Result<BTreeMap<Text, Text>> {
    let mut list = vec![0_u8; xattr::LARGEST];
    let count = match xattr::list(On::Path(path), &mut list) {
        Err(Errno::ENOTSUP) => return Ok(BTreeMap::new()),
        count => count?,
    };
    list.truncate(count);
    let mut found = BTreeMap::new();
    for name in xattr::names(&list) {
        if name.starts_with(b"user.") {
            continue;
        }
        if let Some(value) = attribute(path, &CString::new(name)?)? {
            found.insert(Text::of(name), Text::of(&value));
        }
    }
    Ok(found)
}

fn attribute(path: &CStr, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    match xattr::value(On::Path(path), name) {
        Ok(value) => Ok(Some(value)),
        // As somebody else than root `trusted.*` may not be looked at.
        Err(Errno::ENODATA | Errno::ENOTSUP | Errno::EPERM) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Gives the files of a copy what the list says. Returns the path of what failed.
pub fn apply(list: &Path, root: &Path) -> Result<(), (PathBuf, io::Error)> {
    let text = fs_err::read_to_string(list).map_err(|error| (PathBuf::new(), error))?;
    let inside = Root::open(root).map_err(|error| (PathBuf::new(), error))?;
    let here = fs_err::File::open(root)
        .map(|file| OwnedFd::from(file.into_parts().0))
        .map_err(|error| (PathBuf::new(), error))?;
    for line in text.lines() {
        let entry: Entry =
            serde_json::from_str(line).map_err(|error| (PathBuf::new(), io::Error::from(error)))?;
        let path = entry
            .path
            .bytes()
            .map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
            .map_err(|error| (PathBuf::new(), error))?;
        let applied = if path == Path::new(".") {
            apply_to(&entry, &here, OsStr::new("."))
        } else {
            inside
                .place(&path)
                .and_then(|Place { parent, name }| apply_to(&entry, &parent, name))
        };
        applied.map_err(|error| (path, error))?;
    }
    Ok(())
}

fn apply_to(entry: &Entry, directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let stat = nix::sys::stat::fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if let Some((letter, number)) = entry.device {
        let wanted = if letter == 'b' {
            SFlag::S_IFBLK
        } else {
            SFlag::S_IFCHR
        };
        if kind(&stat) != wanted {
            make_device(directory, name, wanted, number, &stat)?;
        }
    }
    let file = open_path(directory, name)?;
    let link = kind(&stat) == SFlag::S_IFLNK;
    let path = by_descriptor(&file)?;
    let capability = if link {
        None
    } else {
        attribute(&path, CAPABILITY)?
    };
    nix::unistd::fchownat(
        directory,
        name,
        Some(Uid::from_raw(entry.uid)),
        Some(Gid::from_raw(entry.gid)),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    if link {
        return Ok(());
    }
    // A change of owner takes set-id bits and capabilities away.
    let mode = entry.mode.unwrap_or(stat.st_mode & 0o7777);
    // SAFETY: the path is terminated and lives across the call.
    if unsafe { libc::chmod(path.as_ptr(), mode) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if let Some(value) = capability {
        xattr::set(On::Path(&path), CAPABILITY, &value, 0)?;
    }
    for (name, value) in &entry.xattrs {
        let name = CString::new(name.bytes()?)?;
        xattr::set(On::Path(&path), &name, &value.bytes()?, 0)?;
    }
    Ok(())
}

/// Puts a device in the place of the empty file that stood for it.
fn make_device(
    directory: &OwnedFd,
    name: &OsStr,
    kind: SFlag,
    number: u64,
    old: &FileStat,
) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(old.st_mode);
    nix::unistd::unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)?;
    nix::sys::stat::mknodat(directory, name, kind, mode, number)?;
    // The mode was masked; the name was made a moment ago and is no link.
    let follow = nix::sys::stat::FchmodatFlags::FollowSymlink;
    nix::sys::stat::fchmodat(directory, name, mode, follow)?;
    nix::sys::stat::utimensat(
        directory,
        name,
        &TimeSpec::new(old.st_atime, old.st_atime_nsec),
        &TimeSpec::new(old.st_mtime, old.st_mtime_nsec),
        UtimensatFlags::NoFollowSymlink,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_survive_as_text(bytes: Vec<u8>) {
            let text = Text::of(&bytes);
            prop_assert!(text.0.is_ascii());
            prop_assert_eq!(text.bytes().expect("our own"), bytes);
        }
    }

    #[test]
    fn only_attributes_that_may_be_refused_are_listed() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        fs_err::create_dir_all(root.join("d")).expect("made");
        fs_err::write(root.join("d/file"), "").expect("written");
        let list = dir.path().join("list");
        save(&root, &list, true).expect("listed");
        let text = fs_err::read_to_string(&list).expect("read");
        // As another user than root every file is special.
        let expected = if nix::unistd::geteuid().is_root() {
            0
        } else {
            3
        };
        assert_eq!(text.lines().count(), expected, "{text}");
        save(&root, &list, false).expect("listed");
        assert_eq!(fs_err::read_to_string(&list).expect("read"), "");
        save(&root, &list, true).expect("listed");
        apply(&list, &root).expect("nothing changes");
    }

    #[test]
    fn devices_are_read_as_the_supervisor_writes_them() {
        let number = nix::sys::stat::makedev(8, 70000);
        assert_eq!(parse_device(b"b 8 70000"), Some(('b', number)));
        for wrong in [&b""[..], b"b", b"b 8", b"c x 1", b"\xff 1 2"] {
            assert_eq!(parse_device(wrong), None);
        }
    }

    #[test]
    fn a_list_that_leads_out_of_the_root_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        fs_err::create_dir(&root).expect("made");
        fs_err::write(dir.path().join("outside"), "").expect("written");
        let list = dir.path().join("list");
        fs_err::write(&list, "{\"path\":\"../outside\",\"uid\":0,\"gid\":0}\n").expect("written");
        assert!(apply(&list, &root).is_err());
        fs_err::write(&list, "no list\n").expect("written");
        assert!(apply(&list, &root).is_err());
    }
}
