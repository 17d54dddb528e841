//! Calls that make files: their first owner, and devices.
//!
//! Only a file that is not to be root's, or a device, is made here; its name is
//! then there before the record, for a moment in which it looks like root's.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag};
use nix::sys::stat::Mode;

use super::files::{Target, by_descriptor, open_at, statx, statx_of};
use super::set_id::Opening;
use super::tracee::Glance;
use super::walk::{MOST_LINKS, NO_MAGIC_LINKS, is_kernels, is_of_proc, read_link};
use super::{Answer, Call, Errno, Outcome, files, memory};
use crate::sandbox::acl::{ACCESS_ACL, DEFAULT_ACL, acl_at_birth};
use crate::sandbox::bpf::{CREATING, SET_ID};
use crate::sandbox::store::{Key, Node, Record};

/// `__O_TMPFILE`, the flag without its `O_DIRECTORY`.
const UNNAMED: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
/// Makes a file or fails, also where there is a link. `O_NOFOLLOW` would add nothing, and
/// be told of the descriptor ever after.
const ONLY_NEW: i32 = libc::O_CREAT | libc::O_EXCL;
/// `struct open_how`, first version: flags, mode, resolve.
const OPEN_HOW: usize = 24;
/// Size of a page, above which `openat2` refuses its structure.
const LARGEST_HOW: u64 = 4096;

/// A name that is to be made in a directory, and what is known of its file.
pub(super) struct NewEntry {
    pub(super) directory: OwnedFd,
    pub(super) name: CString,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The default access control list of the directory, if that is recorded.
    pub(super) list: Option<Box<[u8]>>,
}

impl NewEntry {
    /// Whether the kernel makes there what is to be made.
    fn is_plain(&self) -> bool {
        (self.uid, self.gid) == (0, 0) && self.list.is_none()
    }

    /// The mode of what is made there with this one.
    pub(super) fn mode(&self, mode: u32) -> u32 {
        self.list.as_ref().map_or(mode, |list| {
            let (_, left) = acl_at_birth(list, mode as u16);
            mode & !0o7777 | u32::from(left) & 0o7777
        })
    }
}

/// A path's directory and last name; `None` if it ends in no proper name.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|&byte| byte != b'/')? + 1;
    let start = path[..end]
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |at| at + 1);
    let name = &path[start..end];
    (name != b"." && name != b"..").then_some((&path[..start], name))
}

/// The same file, not open for reading or writing.
fn by_path(file: &OwnedFd) -> Result<OwnedFd, Errno> {
    open_at(libc::AT_FDCWD, &by_descriptor(file)?, libc::O_PATH, 0)
}

/// Whether the kernel takes a structure of `openat2`. It looks at that before it looks for
/// a directory to start from, which there is none of here.
fn is_taken(how: &[u8]) -> bool {
    let (nowhere, name) = (-1, c"x");
    // SAFETY: the name is terminated, and the structure is as long as is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            nowhere,
            name.as_ptr(),
            how.as_ptr(),
            how.len(),
        )
    };
    Errno::result(result) == Err(Errno::EBADF)
}

impl Call<'_> {
    /// Where a file is to be made, and whose it is to be; `None` where that is
    /// root, or where the kernel will refuse it.
    pub(super) fn place(
        &mut self,
        directory: i32,
        path: &[u8],
        any_owner: bool,
    ) -> Result<Option<NewEntry>, Errno> {
        let Some((parent, name)) = split(path) else {
            return Ok(None);
        };
        if !any_owner && self.is_plain_place(directory, parent)? {
            return Ok(None);
        }
        let directory = match self.target(directory, parent, true) {
            Ok(directory) => directory,
            // It may come before the kernel looks, which makes all root's.
            Err(errno @ (Errno::ENOENT | Errno::ENOTDIR)) if !self.makes_roots()? => {
                return Err(errno);
            }
            Err(_) => return Ok(None),
        };
        let found = match directory.statx(0) {
            Ok(found) => found,
            Err(errno @ Errno::ENOENT) if !self.makes_roots()? => return Err(errno),
            Err(_) => return Ok(None),
        };
        let (uid, gid) = self.first_owner_in(&found)?;
        let list = self.default_list(&found);
        if (uid, gid) == (0, 0) && list.is_none() && !any_owner {
            return Ok(None);
        }
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        let Ok(directory) = directory.into_file() else {
            return Ok(None);
        };
        self.require_beneath(&directory)?;
        Ok(Some(NewEntry {
            directory,
            name,
            uid,
            gid,
            list,
        }))
    }

    /// Whether a first look finds that what is made in a directory is to be root's, or no
    /// directory. So it is with most.
    fn is_plain_place(&mut self, directory: i32, path: &[u8]) -> Result<bool, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        Ok(match self.glance(directory, path, true) {
            Glance::File(found) => {
                self.first_owner_in(&found)? == (0, 0) && self.default_list(&found).is_none()
            }
            Glance::Nothing => self.makes_roots()?,
            Glance::Unsure => false,
        })
    }

    /// Whether what the task makes is root's, but for directories that say otherwise.
    fn makes_roots(&self) -> Result<bool, Errno> {
        if !self.store().has_owners() {
            return Ok(true);
        }
        let credentials = self.credentials()?;
        Ok((credentials.user.filesystem, credentials.group.filesystem) == (0, 0))
    }

    /// The recorded default access control list of a directory.
    fn default_list(&mut self, found: &libc::statx) -> Option<Box<[u8]>> {
        if !self.store().has_owners() || !self.store().has_attributes() {
            return None;
        }
        self.record_of(found)?.xattrs.remove(DEFAULT_ACL)
    }

    /// Records the access control lists of what was made at a place with a mode.
    pub(super) fn record_lists(&self, place: &NewEntry, found: &libc::statx, mode: u32) {
        let Some(default) = &place.list else { return };
        let (access, _) = acl_at_birth(default, mode as u16);
        let kind = u32::from(found.stx_mode) & libc::S_IFMT;
        self.store().update(Key::of(found), |record| {
            record.xattrs.insert(ACCESS_ACL.into(), access);
            if kind == libc::S_IFDIR {
                record.xattrs.insert(DEFAULT_ACL.into(), default.clone());
            }
        });
    }

    /// Owner and group of a new file in a directory, if that exists.
    fn first_owner(&mut self, directory: &Target) -> Result<Option<(u32, u32)>, Errno> {
        let Ok(found) = directory.statx(0) else {
            return Ok(None);
        };
        self.first_owner_in(&found).map(Some)
    }

    /// Owner and group of a new file in this directory.
    fn first_owner_in(&mut self, found: &libc::statx) -> Result<(u32, u32), Errno> {
        let (uid, gid) = if self.store().has_owners() {
            let credentials = self.credentials()?;
            (credentials.user.filesystem, credentials.group.filesystem)
        } else {
            let status = self.worker.view.status(self.pid)?;
            (status.uid, status.gid)
        };
        if u32::from(found.stx_mode) & libc::S_ISGID == 0 {
            return Ok((uid, gid));
        }
        let gid = if self.store().has_owners() {
            let record = self.record_of(found);
            record.map_or(0, |record| record.gid)
        } else {
            found.stx_gid
        };
        Ok((uid, gid))
    }

    /// Takes over the umask, last of all before something is made in the directory.
    pub(super) fn enter<'a>(&mut self, place: &'a NewEntry) -> Result<&'a OwnedFd, Errno> {
        self.take_umask()?;
        if place.list.is_some() {
            // The list takes its place.
            nix::sys::stat::umask(Mode::empty());
        }
        Ok(&place.directory)
    }

    fn take_umask(&mut self) -> Result<(), Errno> {
        let umask = self.worker.view.status(self.pid)?.umask;
        self.still_there()?;
        // This thread's own, since it shares no file system context.
        nix::sys::stat::umask(Mode::from_bits_truncate(umask));
        Ok(())
    }

    /// Records what a new file is, which `open` opens by its path alone.
    pub(super) fn record(
        &self,
        found: &libc::statx,
        open: impl FnOnce() -> Result<OwnedFd, Errno>,
        (uid, gid): (u32, u32),
        node: Option<Node>,
    ) {
        self.store().update(Key::of(found), |record| {
            *record = Record {
                node,
                ..Record::default()
            };
            if self.store().has_owners() {
                (record.uid, record.gid) = (uid, gid);
            }
        });
        self.worker.shared.young.hold(found, open);
    }

    /// Records the owner, and the lists, of what was just made under a name with a mode,
    /// unless it is gone already.
    pub(super) fn record_name(&self, place: &NewEntry, mode: u32) -> Result<(), Errno> {
        let directory = &place.directory;
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        let found = match statx(directory.as_raw_fd(), &place.name, flags, 0) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            result => result?,
        };
        let open = || {
            let flags = libc::O_PATH | libc::O_NOFOLLOW;
            open_at(directory.as_raw_fd(), &place.name, flags, 0)
        };
        self.record(&found, open, (place.uid, place.gid), None);
        self.record_lists(place, &found, mode);
        Ok(())
    }

    pub(super) fn openat(&mut self) -> Outcome {
        self.open(self.int(0), 1, self.int(2), self.arguments[3])
    }

    pub(super) fn open_plain(&mut self) -> Outcome {
        self.open(libc::AT_FDCWD, 0, self.int(1), self.arguments[2])
    }

    pub(super) fn creat(&mut self) -> Outcome {
        let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
        self.open(libc::AT_FDCWD, 0, flags, self.arguments[1])
    }

    pub(super) fn mkdir_at(&mut self) -> Outcome {
        self.mkdir(self.int(0), 1, 2)
    }

    pub(super) fn symlink_at(&mut self) -> Outcome {
        self.symlink(0, self.int(1), 2)
    }

    fn open(&mut self, directory: i32, path: usize, flags: i32, mode: u64) -> Outcome {
        let path = self.path(path)?;
        self.open_path(directory, &path, flags, mode)
    }

    pub(super) fn open2(&mut self) -> Outcome {
        let size = self.arguments[3];
        if size < OPEN_HOW as u64 || size > LARGEST_HOW {
            return Ok(Answer::Continue);
        }
        let size = usize::try_from(size).map_err(|_| Errno::E2BIG)?;
        let how = memory::read(self.pid, self.arguments[2], size)?;
        let (words, _) = how.as_chunks::<8>();
        let [flags, mode, resolve] = [words[0], words[1], words[2]].map(u64::from_ne_bytes);
        let flags = i32::try_from(flags).unwrap_or(0);
        if flags as u32 & CREATING == 0 || !is_taken(&how) {
            return Ok(Answer::Continue);
        }
        if resolve == 0 {
            return self.open(self.int(0), 1, flags, mode);
        }
        self.open_restricted(self.int(0), flags, mode, resolve)
    }

    /// `openat2` with a restricted walk, which the kernel does for us too.
    fn open_restricted(&mut self, directory: i32, flags: i32, mode: u64, resolve: u64) -> Outcome {
        let path = self.path(1)?;
        let unnamed = flags & UNNAMED != 0;
        let (parent, name) = match split(&path) {
            _ if unnamed => (&path[..], &b""[..]),
            Some((parent, name)) if !path.ends_with(b"/") => (parent, name),
            _ => return Ok(Answer::Continue),
        };
        let Ok(start) = self.rooted_start(directory) else {
            return Ok(Answer::Continue);
        };
        let parent = if parent.is_empty() { b"." } else { parent };
        let parent = CString::new(parent).map_err(|_| Errno::EINVAL)?;
        let walk = libc::O_PATH | libc::O_DIRECTORY;
        // Where there is one, the kernel knows better whether it may be followed.
        let resolve = resolve | NO_MAGIC_LINKS;
        let Ok(parent) = files::open_how(start.as_raw_fd(), &parent, walk, 0, resolve) else {
            return Ok(Answer::Continue);
        };
        let (uid, gid) = self.first_owner_in(&statx_of(&parent)?)?;
        if (uid, gid) == (0, 0) {
            return Ok(Answer::Continue);
        }
        self.require_beneath(&parent)?;
        let mode = mode as u32 & 0o7777;
        self.take_umask()?;
        let made = if unnamed {
            open_at(parent.as_raw_fd(), c".", flags, mode)
        } else {
            let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
            let flags = flags | ONLY_NEW;
            open_at(parent.as_raw_fd(), &name, flags, mode)
        };
        match made {
            Ok(file) => {
                self.record(&statx_of(&file)?, || by_path(&file), (uid, gid), None);
                Ok(Answer::Descriptor {
                    file,
                    close_on_exec: flags & libc::O_CLOEXEC != 0,
                })
            }
            Err(Errno::EEXIST) => Ok(Answer::Continue),
            Err(errno) => Err(errno),
        }
    }

    fn open_path(&mut self, directory: i32, path: &[u8], flags: i32, mode: u64) -> Outcome {
        // Shells open it all the time.
        if path == b"/dev/null"
            || flags & libc::O_PATH != 0
            || path.ends_with(b"/") && flags & UNNAMED == 0
        {
            return Ok(Answer::Continue);
        }
        // Only these bits of the mode are meant.
        let mode = mode as u32 & 0o7777;
        if flags as u32 & CREATING == 0 {
            return Ok(Answer::Continue);
        }
        if mode & SET_ID != 0 && self.keeps_set_id() {
            return self.open_set_id(Opening {
                directory,
                path,
                flags,
                mode,
            });
        }
        let close_on_exec = flags & libc::O_CLOEXEC != 0;
        if flags & UNNAMED != 0 {
            let Ok(target) = self.target(directory, path, true) else {
                return Ok(Answer::Continue);
            };
            let Some((uid, gid)) = self.first_owner(&target)?.filter(|&owner| owner != (0, 0))
            else {
                return Ok(Answer::Continue);
            };
            self.take_umask()?;
            let target = target.into_file()?;
            self.require_beneath(&target)?;
            let file = Target::File(target).reopen(flags, mode)?;
            self.record(&statx_of(&file)?, || by_path(&file), (uid, gid), None);
            return Ok(Answer::Descriptor {
                file,
                close_on_exec,
            });
        }
        let Some(place) = self.place(directory, path, false)? else {
            return Ok(Answer::Continue);
        };
        self.open_new(place, flags, mode)
    }

    /// Opens a file that is made at a place or, if there is a link, where that leads.
    fn open_new(&mut self, mut place: NewEntry, flags: i32, mode: u32) -> Outcome {
        let new = flags | ONLY_NEW;
        for _ in 0..MOST_LINKS {
            let owner = (place.uid, place.gid);
            if place.is_plain() {
                break;
            }
            let parent = self.enter(&place)?;
            match open_at(parent.as_raw_fd(), &place.name, new, place.mode(mode)) {
                Ok(file) => {
                    let found = statx_of(&file)?;
                    self.record(&found, || by_path(&file), owner, None);
                    self.record_lists(&place, &found, mode);
                    return Ok(Answer::Descriptor {
                        file,
                        close_on_exec: flags & libc::O_CLOEXEC != 0,
                    });
                }
                // There is something: that is opened, or it is an error.
                Err(Errno::EEXIST) if flags & (libc::O_EXCL | libc::O_NOFOLLOW) != 0 => break,
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            place = match self.behind_link(&place)? {
                Some(further) => further,
                None => match self.open_there(&place, flags) {
                    // It is gone again.
                    Err(Errno::ENOENT) => place,
                    outcome => return outcome,
                },
            };
        }
        Ok(Answer::Continue)
    }

    /// Opens the file that is at a place. If the kernel did, it might make another in its
    /// place, which would be root's. What is no file of its own kind it knows better, and
    /// where nothing can be made it asks who opens: that must not be the engine, which may
    /// look into itself (`/proc/PID/mem`).
    fn open_there(&self, place: &NewEntry, flags: i32) -> Outcome {
        let look = libc::O_PATH | libc::O_NOFOLLOW;
        let file = open_at(place.directory.as_raw_fd(), &place.name, look, 0)?;
        let kind = u32::from(statx_of(&file)?.stx_mode) & libc::S_IFMT;
        if kind != libc::S_IFREG || flags & libc::O_DIRECTORY != 0 || is_kernels(&file)? {
            return Ok(Answer::Continue);
        }
        self.still_there()?;
        let flags = flags & !libc::O_CREAT;
        let file = match Target::File(file).reopen(flags | libc::O_NONBLOCK, 0) {
            // Somebody has a lease of it (`F_SETLEASE`), for which the program itself waits.
            Err(Errno::EAGAIN) if flags & libc::O_NONBLOCK == 0 => return Ok(Answer::Continue),
            file => file?,
        };
        nix::fcntl::fcntl(&file, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags)))?;
        Ok(Answer::Descriptor {
            file,
            close_on_exec: flags & libc::O_CLOEXEC != 0,
        })
    }

    /// Where the link at a place leads; `None` if there is none, or the kernel knows better.
    fn behind_link(&mut self, place: &NewEntry) -> Result<Option<NewEntry>, Errno> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let Ok(link) = open_at(place.directory.as_raw_fd(), &place.name, flags, 0) else {
            return Ok(None);
        };
        let kind = u32::from(statx_of(&link)?.stx_mode) & libc::S_IFMT;
        if kind != libc::S_IFLNK || is_of_proc(&link)? {
            return Ok(None);
        }
        let text = read_link(&link)?;
        let Some((parent, name)) = split(&text).filter(|_| !text.ends_with(b"/")) else {
            return Ok(None);
        };
        if self.leads_elsewhere(&text) {
            return Ok(None);
        }
        let parent = if parent.is_empty() { b"." } else { parent };
        let (pid, roots) = (self.pid, &self.listener.roots);
        self.worker.view.enter_root(pid, roots)?;
        let start = place.directory.try_clone().map_err(|_| Errno::EMFILE)?;
        let Ok(directory) = self.worker.view.resolve(pid, Some(start), parent, true) else {
            return Ok(None);
        };
        self.new_entry(directory, name).map(Some)
    }

    /// A name in a directory.
    pub(super) fn new_entry(&mut self, directory: OwnedFd, name: &[u8]) -> Result<NewEntry, Errno> {
        let found = statx_of(&directory)?;
        let (uid, gid) = self.first_owner_in(&found)?;
        let list = self.default_list(&found);
        Ok(NewEntry {
            list,
            directory,
            name: CString::new(name).map_err(|_| Errno::EINVAL)?,
            uid,
            gid,
        })
    }

    pub(super) fn mkdir(&mut self, directory: i32, path: usize, mode: usize) -> Outcome {
        let mode = self.word(mode);
        let path = self.path(path)?;
        let Some(place) = self.place(directory, &path, false)? else {
            return Ok(Answer::Continue);
        };
        let parent = self.enter(&place)?;
        // SAFETY: the descriptor is open, and the name is terminated.
        Errno::result(unsafe {
            let mode = place.mode(mode & 0o7777);
            libc::mkdirat(parent.as_raw_fd(), place.name.as_ptr(), mode)
        })?;
        self.record_name(&place, mode & 0o7777)?;
        Ok(Answer::Value(0))
    }

    pub(super) fn symlink(&mut self, text: usize, directory: i32, path: usize) -> Outcome {
        let path = self.path(path)?;
        // The kernel refuses a name that ends with a slash.
        if path.ends_with(b"/") {
            return Ok(Answer::Continue);
        }
        let Some(place) = self.place(directory, &path, false)? else {
            return Ok(Answer::Continue);
        };
        let text = CString::new(self.path(text)?).map_err(|_| Errno::EINVAL)?;
        let parent = self.enter(&place)?;
        // SAFETY: the descriptor is open, text and name are terminated.
        Errno::result(unsafe {
            libc::symlinkat(text.as_ptr(), parent.as_raw_fd(), place.name.as_ptr())
        })?;
        let place = NewEntry {
            list: None,
            ..place
        };
        self.record_name(&place, 0o777)?;
        Ok(Answer::Value(0))
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn paths_are_split_at_their_last_name() {
        for (path, expected) in [
            ("/a/b", Some(("/a/", "b"))),
            ("a", Some(("", "a"))),
            ("a//b//", Some(("a//", "b"))),
            ("/", None),
            ("", None),
            ("a/..", None),
            (".", None),
        ] {
            let expected = expected.map(|(a, b): (&str, &str)| (a.as_bytes(), b.as_bytes()));
            assert_eq!(split(path.as_bytes()), expected, "{path}");
        }
    }
}
