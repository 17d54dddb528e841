//! Unpacks packages into a root, several at a time.
//!
//! The result never depends on which thread was faster: a directory that several
//! packages ship gets its owner, mode and time from the first of them in the
//! given order, at the end; a file that two packages ship is reported, and
//! dpkg itself then decides about these packages (see [`super::dpkg`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use md5::{Digest as _, Md5};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};

use self::directories::{Chain, Known};
use super::members::{self, ENTRIES};
use crate::rootfs::beneath::{self, Place, Root};
use crate::sandbox::direct;
use crate::sandbox::xattr::{self, On};

mod directories;

/// Why a data archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive cannot be read.
    #[error("its data archive cannot be read")]
    Read(#[source] io::Error),
    /// A path would lead outside.
    #[error("its entry `{path}` is not a path inside the root")]
    Path {
        /// The path, lossy.
        path: String,
    },
    /// An entry's kind cannot be in a package.
    #[error("its entry `{path}` has the unsupported kind `{kind}`")]
    Kind {
        /// The path.
        path: PathBuf,
        /// The type flag.
        kind: char,
    },
    /// It is far larger than it declares.
    #[error("it unpacks to more than {limit} bytes, far beyond its declared size")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// It has too many entries.
    #[error("it has more than {ENTRIES} entries")]
    TooMany,
    /// An entry's names and attributes are far larger than any.
    #[error("an entry's names and attributes take more than 1 MiB")]
    Headers,
    /// Its paths are too long together.
    #[error("the paths of its entries take more than 64 MiB")]
    Paths,
    /// Something is in the way that no package put there.
    #[error("`{path}` is in the way")]
    InTheWay {
        /// The path in the root.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot create `{path}` in the root")]
    Create {
        /// The path in the root.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// What unpacking one package gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Its paths as dpkg's `.list` files have them, in the archive's order.
    pub list: Vec<Vec<u8>>,
    /// MD5 of its configuration files, by path with a leading slash.
    pub conffiles: BTreeMap<Vec<u8>, String>,
}

#[derive(Debug, Clone, Copy)]
struct Attributes {
    owner: Uid,
    group: Gid,
    mode: u32,
    /// Seconds since 1970.
    mtime: i64,
}

impl Attributes {
    fn ids(self) -> (u32, u32) {
        (self.owner.as_raw(), self.group.as_raw())
    }

    fn mode(self) -> Mode {
        Mode::from_bits_truncate(self.mode)
    }
}

/// A root into which packages are being unpacked.
#[derive(Debug)]
pub struct Unpacker<'a> {
    root: &'a Root,
    /// Which package ships a path; keys have `/bin` and its like replaced by `/usr/bin`.
    claims: Mutex<BTreeMap<PathBuf, usize>>,
    /// Attributes of directories by path, from the first package in order.
    directories: Mutex<BTreeMap<PathBuf, (usize, Attributes)>>,
    conflicts: Mutex<BTreeSet<usize>>,
    skipped: Mutex<BTreeSet<PathBuf>>,
    merged: Mutex<BTreeSet<PathBuf>>,
    known: Known,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic elsewhere ends the build anyway.
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

impl<'a> Unpacker<'a> {
    /// Begins.
    pub fn new(root: &'a Root) -> Unpacker<'a> {
        Unpacker {
            root,
            claims: Mutex::default(),
            directories: Mutex::default(),
            conflicts: Mutex::default(),
            skipped: Mutex::default(),
            merged: Mutex::default(),
            known: Known::default(),
        }
    }

    /// Tells that a top-level directory is a link to the one of the same name below `usr`.
    pub fn set_merged(&self, name: &Path) {
        lock(&self.merged).insert(name.to_owned());
    }

    /// Returns the packages that ship a file of another package.
    pub fn conflicts(&self) -> BTreeSet<usize> {
        lock(&self.conflicts).clone()
    }

    /// Returns the devices that could not be made, since a user namespace may not.
    pub fn skipped(&self) -> BTreeSet<PathBuf> {
        lock(&self.skipped).clone()
    }

    /// Unpacks a data archive. `package` is its place in the order,
    /// `declared` its size in bytes as it says.
    pub fn unpack(
        &self,
        package: usize,
        data: impl Read,
        declared: u64,
        conffiles: &BTreeSet<Vec<u8>>,
    ) -> Result<Unpacked, UnpackError> {
        let mut unpacking = Unpacking {
            unpacker: self,
            package,
            conffiles,
            chain: Chain::new(self.root, &self.known),
            unpacked: Unpacked::default(),
        };
        members::each(data, declared, |entry| unpacking.entry(entry))?;
        Ok(unpacking.unpacked)
    }

    /// Gives directories the attributes that the first package in order wants.
    pub fn finish(&self) -> Result<(), UnpackError> {
        let mut chain = Chain::new(self.root, &self.known);
        // Deepest first, since creating nothing more changes their times.
        for (path, (_, attributes)) in lock(&self.directories).iter().rev() {
            let create = |source| UnpackError::Create {
                path: path.clone(),
                source,
            };
            let fd = if path.as_os_str().is_empty() {
                self.root.open_dir(path).map_err(create)?
            } else {
                let place = chain.place(path).map_err(create)?;
                let flags =
                    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                match nix::fcntl::openat(&place.parent, place.name, flags, Mode::empty()) {
                    Ok(fd) => fd,
                    // A link to a directory keeps what it is.
                    Err(Errno::ENOTDIR | Errno::ELOOP) => continue,
                    Err(errno) => return Err(create(errno.into())),
                }
            };
            self.set_attributes(&fd, path, *attributes)
                .map_err(create)?;
        }
        Ok(())
    }

    fn set_attributes(&self, fd: &OwnedFd, path: &Path, attributes: Attributes) -> io::Result<()> {
        if !self.known.was_made_for(path, attributes.ids()) {
            nix::unistd::fchown(fd, Some(attributes.owner), Some(attributes.group))?;
        }
        nix::sys::stat::fchmod(fd, attributes.mode())?;
        set_time(fd, attributes)
    }

    fn canonical(&self, path: &Path) -> PathBuf {
        let merged = lock(&self.merged);
        match path.components().next() {
            Some(first) if merged.contains(Path::new(first.as_os_str())) => {
                Path::new("usr").join(path)
            }
            _ => path.to_owned(),
        }
    }

    /// Takes a path for a package; `false` when another package has it.
    fn claim(&self, package: usize, path: &Path) -> bool {
        let owner = *lock(&self.claims)
            .entry(self.canonical(path))
            .or_insert(package);
        if owner != package {
            lock(&self.conflicts).extend([owner, package]);
        }
        owner == package
    }

    fn record_directory(&self, package: usize, path: PathBuf, attributes: Attributes) {
        let mut directories = lock(&self.directories);
        let entry = directories.entry(path).or_insert((package, attributes));
        if package < entry.0 {
            *entry = (package, attributes);
        }
    }

    fn is_link_to(&self, path: &Path, target: &[u8]) -> bool {
        self.root
            .read_link(path)
            .is_ok_and(|there| there.as_bytes() == target)
    }

    fn file(
        &self,
        place: &Place<'_>,
        data: &mut impl Read,
        owner: &Owner<'_>,
        xattrs: &[(Vec<u8>, Vec<u8>)],
        digest: bool,
    ) -> Result<Option<String>, FileError> {
        let write = |errno: Errno| FileError::Write(errno.into());
        let fd = direct::openat(
            &place.parent,
            place.name,
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::from_bits_truncate(0o600),
        )
        .map_err(write)?;
        let mut file = File::from(fd);
        let mut hasher = digest.then(Md5::new);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = match data.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(UnpackError::Read(error).into()),
            };
            if let Some(hasher) = &mut hasher {
                hasher.update(&buffer[..count]);
            }
            file.write_all(&buffer[..count]).map_err(FileError::Write)?;
        }
        let fd = OwnedFd::from(file);
        if owner.is_lacking(place).map_err(FileError::Write)? {
            let Attributes { owner, group, .. } = owner.attributes;
            nix::unistd::fchown(&fd, Some(owner), Some(group)).map_err(write)?;
        }
        // After the owner: changing it drops set-id bits and capabilities.
        nix::sys::stat::fchmod(&fd, owner.attributes.mode()).map_err(write)?;
        for (name, value) in xattrs {
            let name = CString::new(name.as_slice());
            let name = name.map_err(|error| FileError::Write(error.into()))?;
            xattr::set(On::Open(fd.as_fd()), &name, value, 0).map_err(write)?;
        }
        set_time(&fd, owner.attributes).map_err(FileError::Write)?;
        Ok(hasher.map(|hasher| {
            let digest: [u8; 16] = hasher.finalize().into();
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        }))
    }

    fn hard_link(&self, target: &Path, place: &Place<'_>) -> io::Result<()> {
        let source = self.root.place(target)?;
        Ok(nix::unistd::linkat(
            &source.parent,
            source.name,
            &place.parent,
            place.name,
            AtFlags::empty(),
        )?)
    }

    fn device(
        &self,
        place: &Place<'_>,
        kind: SFlag,
        number: u64,
        attributes: Attributes,
        path: &Path,
    ) -> io::Result<()> {
        match nix::sys::stat::mknodat(
            &place.parent,
            place.name,
            kind,
            Mode::from_bits_truncate(0o600),
            number,
        ) {
            Ok(()) => {}
            Err(Errno::EPERM) if kind != SFlag::S_IFIFO => {
                lock(&self.skipped).insert(path.to_owned());
                return Ok(());
            }
            Err(errno) => return Err(errno.into()),
        }
        own(place, attributes)?;
        // `place.name` is ours and no link: it was made a moment ago in a root that nobody else uses.
        nix::sys::stat::fchmodat(
            &place.parent,
            place.name,
            attributes.mode(),
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )?;
        date(place, attributes)
    }
}

/// One package that is being unpacked.
struct Unpacking<'a> {
    unpacker: &'a Unpacker<'a>,
    /// Its place in the order.
    package: usize,
    conffiles: &'a BTreeSet<Vec<u8>>,
    chain: Chain<'a>,
    unpacked: Unpacked,
}

impl Unpacking<'_> {
    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let path = inside(&entry.path_bytes())?;
        let header = entry.header();
        let attributes = Attributes {
            owner: Uid::from_raw(id(header.uid()).map_err(UnpackError::Read)?),
            group: Gid::from_raw(id(header.gid()).map_err(UnpackError::Read)?),
            mode: header.mode().map_err(UnpackError::Read)? & 0o7777,
            mtime: i64::try_from(header.mtime().map_err(UnpackError::Read)?).unwrap_or(i64::MAX),
        };
        let kind = header.entry_type();
        let is_top = path.as_os_str().is_empty();
        let name = if is_top {
            b"."
        } else {
            path.as_os_str().as_bytes()
        };
        let listed = [b"/", name].concat();
        self.unpacked.list.push(listed.clone());
        let create = |source| UnpackError::Create {
            path: path.clone(),
            source,
        };
        if is_top || kind.is_dir() {
            if !is_top {
                self.chain.make(&path).map_err(create)?;
            }
            self.unpacker
                .record_directory(self.package, path, attributes);
            return Ok(());
        }
        // As with dpkg, a directory stays where a package ships a link.
        if kind.is_symlink() && self.chain.is_directory(&path).map_err(create)? {
            return Ok(());
        }
        if !self.unpacker.claim(self.package, &path) {
            return Ok(());
        }
        let link = entry.link_name_bytes().unwrap_or_default().into_owned();
        match self.make(entry, &path, listed, &link, attributes) {
            // Nobody claimed the path, yet something is there.
            Err(FileError::Write(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                if kind.is_symlink() && self.unpacker.is_link_to(&path, &link) {
                    return Ok(());
                }
                Err(UnpackError::InTheWay { path })
            }
            Err(FileError::Write(error)) => Err(create(error)),
            Err(FileError::Entry(error)) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    /// Makes what is not a directory.
    fn make(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        path: &Path,
        listed: Vec<u8>,
        link: &[u8],
        attributes: Attributes,
    ) -> Result<(), FileError> {
        let kind = entry.header().entry_type();
        let number = match kind {
            tar::EntryType::Char | tar::EntryType::Block => {
                device_number(entry.header()).map_err(UnpackError::Read)?
            }
            _ => 0,
        };
        let xattrs = attributes_of(entry).map_err(UnpackError::Read)?;
        let place = self
            .chain
            .place(path)
            .map_err(|source| UnpackError::Create {
                path: path.to_owned(),
                source,
            })?;
        let owner = Owner {
            chain: &self.chain,
            above: path.parent().unwrap_or(Path::new("")),
            attributes,
        };
        let device = |kind, number| self.unpacker.device(&place, kind, number, attributes, path);
        let made = match kind {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let digest = self.conffiles.contains(&listed);
                let file = self.unpacker.file(&place, entry, &owner, &xattrs, digest)?;
                if let Some(md5) = file {
                    self.unpacked.conffiles.insert(listed, md5);
                }
                Ok(())
            }
            tar::EntryType::Symlink => symlink(&place, OsStr::from_bytes(link), &owner),
            tar::EntryType::Link => {
                let target = inside(link)?;
                if target.as_os_str().is_empty() {
                    return Err(leads_outside(link).into());
                }
                self.unpacker.hard_link(&target, &place)
            }
            tar::EntryType::Char => device(SFlag::S_IFCHR, number),
            tar::EntryType::Block => device(SFlag::S_IFBLK, number),
            tar::EntryType::Fifo => device(SFlag::S_IFIFO, 0),
            other => {
                return Err(FileError::Entry(UnpackError::Kind {
                    path: path.to_owned(),
                    kind: char::from(other.as_byte()),
                }));
            }
        };
        made.map_err(FileError::Write)
    }
}

/// A path of an archive below the root.
fn inside(path: &[u8]) -> Result<PathBuf, UnpackError> {
    beneath::clean(path).ok_or_else(|| leads_outside(path))
}

fn leads_outside(path: &[u8]) -> UnpackError {
    UnpackError::Path {
        path: String::from_utf8_lossy(path).into_owned(),
    }
}

/// Why an entry was not made.
enum FileError {
    /// It is wrong, or cannot be read.
    Entry(UnpackError),
    /// The system refuses.
    Write(io::Error),
}

impl From<UnpackError> for FileError {
    fn from(error: UnpackError) -> FileError {
        FileError::Entry(error)
    }
}

/// Who a new entry of a directory is to belong to.
struct Owner<'a> {
    chain: &'a Chain<'a>,
    /// The directory.
    above: &'a Path,
    attributes: Attributes,
}

impl Owner<'_> {
    /// Whether a file that a [`direct`] call made a moment ago has to be given its owner.
    /// Most have it by themselves.
    fn is_lacking(&self, place: &Place<'_>) -> io::Result<bool> {
        Ok(self.chain.makes(self.above, place)? != self.attributes.ids())
    }
}

fn id(value: io::Result<u64>) -> io::Result<u32> {
    u32::try_from(value?)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an owner is out of range"))
}

fn device_number(header: &tar::Header) -> io::Result<u64> {
    let major = header.device_major()?.unwrap_or(0);
    let minor = header.device_minor()?.unwrap_or(0);
    Ok(nix::sys::stat::makedev(major.into(), minor.into()))
}

/// Extended attributes as GNU tar and star write them.
fn attributes_of<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut all = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            if let Some(name) = crate::tree::tar::attribute(extension.key_bytes()) {
                all.push((name, extension.value_bytes().to_vec()));
            }
        }
    }
    Ok(all)
}

fn symlink(place: &Place<'_>, target: &OsStr, owner: &Owner<'_>) -> io::Result<()> {
    direct::symlinkat(target, &place.parent, place.name)?;
    if owner.is_lacking(place)? {
        own(place, owner.attributes)?;
    }
    date(place, owner.attributes)
}

fn own(place: &Place<'_>, attributes: Attributes) -> io::Result<()> {
    Ok(nix::unistd::fchownat(
        &place.parent,
        place.name,
        Some(attributes.owner),
        Some(attributes.group),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?)
}

fn date(place: &Place<'_>, attributes: Attributes) -> io::Result<()> {
    let time = TimeSpec::new(attributes.mtime, 0);
    Ok(nix::sys::stat::utimensat(
        &place.parent,
        place.name,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )?)
}

fn set_time(fd: &OwnedFd, attributes: Attributes) -> io::Result<()> {
    let time = TimeSpec::new(attributes.mtime, 0);
    Ok(nix::sys::stat::futimens(fd, &time, &time)?)
}

#[cfg(test)]
mod tests;
