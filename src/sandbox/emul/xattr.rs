//! Extended attributes that the kernel refuses in a user namespace.
//!
//! `user.*` and `security.capability` work as they are. Others are tried for
//! real first; what the kernel refuses is recorded: `trusted.*`, labels of
//! security modules, access control lists that name ids.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::OnceLock;

use nix::dir::Dir;

use super::files::{Target, by_descriptor, statx, statx_of};
use super::{Answer, Call, Errno, Outcome, memory};
use crate::sandbox::acl::{ACCESS_ACL, DEFAULT_ACL, acl_mode, acl_with_mode, require_acl};
use crate::sandbox::bpf::SET_ID;
use crate::sandbox::journal;
use crate::sandbox::store::{Key, Record, SPECIAL};
use crate::sandbox::xattr::{self, On};

/// Longest name with its end (`XATTR_NAME_MAX` + 1).
const NAME_MAX: usize = 256;
/// Of a directory with more entries it is not told which are special.
const ENTRIES_MAX: usize = 100_000;
/// `CAP_SYS_ADMIN`, from `linux/capability.h`.
const CAP_SYS_ADMIN: u32 = 21;

/// Shows a device that an empty file stands for, to those who ask for exactly
/// this: its type and number, in decimal and separated by spaces. For filters
/// that do not answer `stat(2)`.
pub const DEVICE: &CStr = c"trusted.kiln.device";

/// Capabilities of a program.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// How a call names its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Follow,
    Link,
    Descriptor,
    At(i32),
}

/// A value, or room for one, in the task's memory.
#[derive(Debug, Clone, Copy)]
struct Buffer {
    address: u64,
    size: u64,
    flags: i32,
}

fn way(follow: bool) -> Way {
    if follow { Way::Follow } else { Way::Link }
}

/// Whether the kernel has `setxattrat` and its siblings (Linux 6.13). Programs that
/// find one of them expect all.
fn knows_at() -> bool {
    const REMOVE: libc::c_long = 466;
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let none = std::ptr::null::<libc::c_char>();
        // SAFETY: the kernel refuses both addresses.
        let result = unsafe { libc::syscall(REMOVE, -1, none, 0, none) };
        Errno::result(result) != Err(Errno::ENOSYS)
    })
}

impl Call<'_> {
    pub(super) fn set_xattr(&mut self, follow: bool) -> Outcome {
        self.set_attribute(way(follow), 1, self.buffer(2))
    }

    pub(super) fn set_xattr_descriptor(&mut self) -> Outcome {
        self.set_attribute(Way::Descriptor, 1, self.buffer(2))
    }

    pub(super) fn set_xattr_at(&mut self) -> Outcome {
        match self.buffer_at()? {
            Some(buffer) if knows_at() => self.set_attribute(Way::At(self.int(2)), 3, buffer),
            _ => Ok(Answer::Continue),
        }
    }

    pub(super) fn get_xattr(&mut self, follow: bool) -> Outcome {
        self.get_attribute(way(follow), 1, self.buffer(2))
    }

    pub(super) fn get_xattr_descriptor(&mut self) -> Outcome {
        self.get_attribute(Way::Descriptor, 1, self.buffer(2))
    }

    pub(super) fn get_xattr_at(&mut self) -> Outcome {
        match self.buffer_at()? {
            Some(buffer) if knows_at() => self.get_attribute(Way::At(self.int(2)), 3, buffer),
            _ => Ok(Answer::Continue),
        }
    }

    pub(super) fn list_xattr(&mut self, follow: bool) -> Outcome {
        self.list_attributes(way(follow), self.buffer(1))
    }

    pub(super) fn list_xattr_descriptor(&mut self) -> Outcome {
        self.list_attributes(Way::Descriptor, self.buffer(1))
    }

    pub(super) fn list_xattr_at(&mut self) -> Outcome {
        if !knows_at() {
            return Ok(Answer::Continue);
        }
        self.list_attributes(Way::At(self.int(2)), self.buffer(3))
    }

    pub(super) fn remove_xattr(&mut self, follow: bool) -> Outcome {
        self.remove_attribute(way(follow), 1)
    }

    pub(super) fn remove_xattr_descriptor(&mut self) -> Outcome {
        self.remove_attribute(Way::Descriptor, 1)
    }

    pub(super) fn remove_xattr_at(&mut self) -> Outcome {
        if !knows_at() {
            return Ok(Answer::Continue);
        }
        self.remove_attribute(Way::At(self.int(2)), 3)
    }

    /// Address and size in two arguments, and flags in the next.
    fn buffer(&self, argument: usize) -> Buffer {
        Buffer {
            address: self.arguments[argument],
            size: self.arguments[argument + 1],
            flags: self.int(argument + 2),
        }
    }

    /// `struct xattr_args`: an address of 64 bits, size and flags of 32 each.
    fn buffer_at(&self) -> Result<Option<Buffer>, Errno> {
        const SIZE: usize = 16;
        if self.arguments[5] < SIZE as u64 {
            return Ok(None);
        }
        let bytes = memory::read(self.pid, self.arguments[4], SIZE)?;
        let (words, _) = bytes.as_chunks::<4>();
        let [low, high, size, flags] =
            [words[0], words[1], words[2], words[3]].map(u32::from_le_bytes);
        Ok(Some(Buffer {
            address: u64::from(high) << 32 | u64::from(low),
            size: size.into(),
            flags: flags.cast_signed(),
        }))
    }

    /// The name, unless the kernel handles such attributes itself.
    fn refused_name(&self, argument: usize) -> Result<Option<Vec<u8>>, Errno> {
        let name = self.attribute_name(argument)?;
        Ok((!self.is_kernels(&name)).then_some(name))
    }

    /// Whether the kernel handles attributes of a name itself.
    fn is_kernels(&self, name: &[u8]) -> bool {
        name.starts_with(b"user.")
            || name == CAPABILITY
            || !self.store().has_owners() && name.starts_with(b"system.")
    }

    /// Whether a change is never left to the kernel, which looks at the name and the file
    /// once more: they can be others by then, such as a device that a program in a target
    /// was started with.
    fn is_made_here(&mut self, way: Way) -> Result<bool, Errno> {
        Ok(matches!(way, Way::Descriptor | Way::At(_)) && self.is_confined()?)
    }

    /// The same of one that sets: what the kernel looks at then may be capabilities.
    fn is_set_here(&mut self, way: Way) -> Result<bool, Errno> {
        Ok(self.keeps_set_id() || self.is_made_here(way)?)
    }

    fn attribute_name(&self, argument: usize) -> Result<Vec<u8>, Errno> {
        memory::read_string(self.pid, self.arguments[argument], NAME_MAX).map_err(|errno| {
            match errno {
                Errno::ENAMETOOLONG => Errno::ERANGE,
                errno => errno,
            }
        })
    }

    fn attribute_target(&mut self, way: Way) -> Result<Target, Errno> {
        match way {
            Way::Descriptor => self.target_of_open(self.int(0)),
            Way::At(flags) => self.at(1, flags),
            Way::Follow | Way::Link => {
                let path = self.path(0)?;
                if path.is_empty() {
                    return Err(Errno::ENOENT);
                }
                self.target(libc::AT_FDCWD, &path, way == Way::Follow)
            }
        }
    }

    /// What is recorded for a file; `None` where the kernel is to answer, because
    /// there is nothing, or no such file.
    fn recorded(&mut self, way: Way) -> Option<(libc::statx, Record)> {
        if !self.store().has_attributes() {
            return None;
        }
        let found = self.attribute_target(way).ok()?.statx(0).ok()?;
        let record = self.record_of(&found)?;
        Some((found, record))
    }

    fn get_attribute(&mut self, way: Way, name: usize, buffer: Buffer) -> Outcome {
        if way == Way::Descriptor && self.asks_for(name, SPECIAL) {
            return self.special_entries(buffer);
        }
        if !self.store().has_attributes() {
            return Ok(Answer::Continue);
        }
        let Some(name) = self.refused_name(name)? else {
            return Ok(Answer::Continue);
        };
        let Some((found, record)) = self.recorded(way) else {
            return Ok(Answer::Continue);
        };
        if name == DEVICE.to_bytes()
            && let Some(node) = record.node
        {
            let kind = if node.block { 'b' } else { 'c' };
            let text = format!("{kind} {} {}", node.major, node.minor);
            return self.give_bytes(text.as_bytes(), buffer);
        }
        let Some(value) = record.xattrs.get(&*name) else {
            return Ok(Answer::Continue);
        };
        if name == ACCESS_ACL {
            return self.give_bytes(&acl_with_mode(value, found.stx_mode), buffer);
        }
        self.give_bytes(value, buffer)
    }

    /// Whether exactly this attribute is named.
    fn asks_for(&self, argument: usize, name: &CStr) -> bool {
        let wanted = name.to_bytes_with_nul();
        // Shorter names may end where memory does.
        let given = memory::read(self.pid, self.arguments[argument], wanted.len());
        given.is_ok_and(|given| given == wanted)
    }

    /// Names of the entries of an open directory that are not simply root's. Whoever may
    /// not see `trusted.*`, or has no directory, gets the kernel's answer: there is none.
    fn special_entries(&mut self, buffer: Buffer) -> Outcome {
        if !self.may(CAP_SYS_ADMIN)? {
            return Ok(Answer::Continue);
        }
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let opened = self
            .target_of_descriptor(self.int(0))
            .and_then(|target| target.reopen(flags, 0));
        let Ok(directory) = opened else {
            return Ok(Answer::Continue);
        };
        let mut list = Dir::from_fd(directory.try_clone().map_err(|_| Errno::EMFILE)?)?;
        let mut names = Vec::new();
        for (count, entry) in list.iter().enumerate() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if count > ENTRIES_MAX {
                return Err(Errno::ERANGE);
            }
            if self.is_special(&directory, name)? {
                names.extend_from_slice(name.to_bytes_with_nul());
            }
            if names.len() > xattr::LARGEST {
                return Err(Errno::ERANGE);
            }
        }
        self.give_bytes(&names, buffer)
    }

    /// Whether a file is shown with another owner than root, is a device, or has set-id bits or
    /// attributes that a copy of it might not get from the kernel.
    fn is_special(&mut self, directory: &OwnedFd, name: &CStr) -> Result<bool, Errno> {
        let nofollow = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
        let mut found = match statx(directory.as_raw_fd(), name, nofollow, 0) {
            Ok(found) => found,
            Err(Errno::ENOENT) => return Ok(false),
            Err(errno) => return Err(errno),
        };
        let recorded = self.record_of(&found);
        if recorded.is_some_and(|record| record.node.is_some() || !record.xattrs.is_empty()) {
            return Ok(true);
        }
        self.correct(&mut found);
        let kind = u32::from(found.stx_mode) & libc::S_IFMT;
        let has_set_id = kind == libc::S_IFREG && u32::from(found.stx_mode) & SET_ID != 0;
        let is_device = matches!(kind, libc::S_IFBLK | libc::S_IFCHR);
        if (found.stx_uid, found.stx_gid) != (0, 0) || is_device || has_set_id {
            return Ok(true);
        }
        if kind == libc::S_IFLNK {
            return Ok(false);
        }
        let mut path = by_descriptor(directory)?.into_bytes();
        path.push(b'/');
        path.extend_from_slice(name.to_bytes());
        let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
        match xattr::list(On::Link(&path), &mut []) {
            Ok(size) => Ok(size > 0),
            Err(Errno::ENOTSUP | Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Writes a result into a buffer, or tells its size if there is none.
    fn give_bytes(&self, bytes: &[u8], buffer: Buffer) -> Outcome {
        let length = bytes.len() as u64;
        if buffer.size != 0 {
            if buffer.size < length {
                return Err(Errno::ERANGE);
            }
            self.write(buffer.address, bytes)?;
        }
        Ok(Answer::Value(length.cast_signed()))
    }

    fn list_attributes(&mut self, way: Way, buffer: Buffer) -> Outcome {
        if !self.store().has_attributes() {
            return Ok(Answer::Continue);
        }
        let Ok(file) = self
            .attribute_target(way)
            .and_then(|target| target.into_file())
        else {
            return Ok(Answer::Continue);
        };
        let record = self.record_of(&statx_of(&file)?);
        let Some(record) = record.filter(|record| !record.xattrs.is_empty()) else {
            return Ok(Answer::Continue);
        };
        let path = by_descriptor(&file)?;
        let mut names = vec![0; xattr::LARGEST];
        let size = xattr::list(On::Path(&path), &mut names).unwrap_or(0);
        names.truncate(size);
        for name in record.xattrs.keys() {
            if !names.split(|&byte| byte == 0).any(|other| other == &**name) {
                names.extend_from_slice(name);
                names.push(0);
            }
        }
        self.give_bytes(&names, buffer)
    }

    fn set_attribute(&mut self, way: Way, name: usize, buffer: Buffer) -> Outcome {
        let name = self.attribute_name(name)?;
        let name = name.as_slice();
        let is_kernels = self.is_kernels(name);
        let is_set_here = self.is_set_here(way)?;
        let Some(file) = self.file_to_change(way, is_kernels, is_set_here)? else {
            return Ok(Answer::Continue);
        };
        let found = statx_of(&file)?;
        if !is_kernels && !self.may_set(name, &found)? {
            return refuse_to_change(is_set_here);
        }
        if is_kernels {
            self.require_settable_by_task(&file, name)?;
        }
        if name == DEVICE.to_bytes() || name == SPECIAL.to_bytes() {
            return Err(Errno::EPERM);
        }
        let length = usize::try_from(buffer.size).unwrap_or(usize::MAX);
        if length > xattr::LARGEST {
            return Err(Errno::E2BIG);
        }
        let value = memory::read(self.pid, buffer.address, length)?;
        let c_name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        let set = |file: &OwnedFd| {
            let path = by_descriptor(file)?;
            xattr::set(On::Path(&path), &c_name, &value, buffer.flags)
        };
        self.still_there()?;
        let done = if name == CAPABILITY {
            self.set_kept_attribute(&file, set)
        } else {
            set(&file)
        };
        match done {
            Ok(()) => {
                // The kernel's own takes the place of one that it refused before.
                self.store()
                    .update(Key::of(&found), |record| drop(record.xattrs.remove(name)));
                Ok(Answer::Value(0))
            }
            Err(Errno::EPERM | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EACCES)
                if !is_kernels =>
            {
                self.require_settable(name, &value, buffer.flags, &found)?;
                self.record_attribute(file, &found, name, &value)
            }
            Err(errno) => Err(errno),
        }
    }

    /// The file of which an attribute is changed here; `None` where the kernel is to do it.
    fn file_to_change(
        &mut self,
        way: Way,
        is_kernels: bool,
        is_made_here: bool,
    ) -> Result<Option<OwnedFd>, Errno> {
        if is_kernels && !is_made_here {
            return Ok(None);
        }
        let file = match self.attribute_target(way).and_then(Target::into_file) {
            Err(errno) if is_made_here => return Err(errno),
            Err(_) => return Ok(None),
            Ok(file) => file,
        };
        let descriptor = (way == Way::Descriptor).then(|| self.int(0));
        self.require_changeable(&file, descriptor)?;
        Ok(Some(file))
    }

    /// Fails if the kernel would not set an attribute for real root either.
    fn require_settable(
        &self,
        name: &[u8],
        value: &[u8],
        flags: i32,
        found: &libc::statx,
    ) -> Result<(), Errno> {
        if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
            return Err(Errno::EINVAL);
        }
        if is_list(name) {
            return require_acl(value, found.stx_mode, name == DEFAULT_ACL);
        }
        require_recordable(name)?;
        let record = self.store().get(Key::of(found));
        let there = record.is_some_and(|record| record.xattrs.contains_key(name));
        if there && flags & libc::XATTR_CREATE != 0 {
            return Err(Errno::EEXIST);
        }
        if !there && flags & libc::XATTR_REPLACE != 0 {
            return Err(Errno::ENODATA);
        }
        Ok(())
    }

    /// Records an attribute of a file, which is changed as by the kernel otherwise.
    fn record_attribute(
        &mut self,
        file: OwnedFd,
        found: &libc::statx,
        name: &[u8],
        value: &[u8],
    ) -> Outcome {
        let record = self.store().get(Key::of(found)).unwrap_or_default();
        if !journal::fits(&record, name, value) {
            return Err(Errno::ENOSPC);
        }
        let list_mode = (name == ACCESS_ACL).then(|| acl_mode(value)).flatten();
        if let Some(mode) = list_mode {
            self.set_mode(&file, u32::from(found.stx_mode & 0o7000 | mode))?;
        } else if u32::from(found.stx_mode) & libc::S_IFMT != libc::S_IFLNK {
            // For its effects: a read-only filesystem refuses it, the time of change is now,
            // and an overlay copies the file up.
            self.set_mode(&file, found.stx_mode.into())?;
        }
        // Anew, because in an overlay it may be another one now.
        let key = Key::of(&statx_of(&file)?);
        let mut taken = false;
        self.store().update(key, |record| {
            // Another worker may have given it more meanwhile.
            taken = journal::fits(record, name, value);
            if taken {
                record.xattrs.insert(name.into(), value.into());
            }
        });
        if !taken {
            return Err(Errno::ENOSPC);
        }
        self.worker.shared.young.hold(found, || Ok(file));
        Ok(Answer::Value(0))
    }

    /// Whether the task may change an attribute of a file. Lists are the owner's too, as
    /// the kernel does not know; of others it knows best who may not.
    fn may_set(&mut self, name: &[u8], found: &libc::statx) -> Result<bool, Errno> {
        if self.may(CAP_SYS_ADMIN)? {
            return Ok(true);
        }
        if !is_list(name) {
            return Ok(false);
        }
        let owner = self.record_of(found).map_or(0, |record| record.uid);
        if self.credentials()?.user.filesystem == owner {
            Ok(true)
        } else {
            Err(Errno::EPERM)
        }
    }

    fn remove_attribute(&mut self, way: Way, name: usize) -> Outcome {
        let name = self.attribute_name(name)?;
        let is_kernels = self.is_kernels(&name);
        let is_made_here = self.is_made_here(way)?;
        let Some(file) = self.file_to_change(way, is_kernels, is_made_here)? else {
            return Ok(Answer::Continue);
        };
        let found = statx_of(&file)?;
        if !is_kernels && !self.may_set(&name, &found)? {
            return refuse_to_change(is_made_here);
        }
        let key = Key::of(&found);
        let recorded = |record: &Record| record.xattrs.contains_key(&*name);
        if self.store().get(key).as_ref().is_some_and(recorded) {
            self.store()
                .update(key, |record| drop(record.xattrs.remove(&*name)));
            return Ok(Answer::Value(0));
        }
        let path = by_descriptor(&file)?;
        let c_name = CString::new(&*name).map_err(|_| Errno::EINVAL)?;
        self.still_there()?;
        match xattr::remove(On::Path(&path), &c_name) {
            Ok(()) => Ok(Answer::Value(0)),
            // Root would be told that there is none.
            Err(Errno::EPERM) if require_recordable(&name).is_ok() => Err(Errno::ENODATA),
            Err(errno) => Err(errno),
        }
    }
}

/// The kernel's own refusal, unless it could take the call for another.
fn refuse_to_change(is_made_here: bool) -> Outcome {
    if is_made_here {
        return Err(Errno::EPERM);
    }
    Ok(Answer::Continue)
}

fn is_list(name: &[u8]) -> bool {
    name == ACCESS_ACL || name == DEFAULT_ACL
}

/// Fails for names of attributes that real root could not set either.
fn require_recordable(name: &[u8]) -> Result<(), Errno> {
    match [&b"trusted."[..], b"security."]
        .iter()
        .find_map(|prefix| name.strip_prefix(*prefix))
    {
        Some(b"") => Err(Errno::EINVAL),
        Some(_) => Ok(()),
        None => Err(Errno::EOPNOTSUPP),
    }
}
