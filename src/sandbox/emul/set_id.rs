//! Set-id bits and capabilities of files, which nothing that outlives the build is given by a
//! hook: on the host it would run as the user, or as root, for all who can come to it.
//!
//! A filter sees a mode, so only calls with set-id bits come here (and those that set
//! attributes). They are made here, never left to the kernel, which would look at names,
//! descriptors and memory once more: they can be others by then.
//!
//! An overlay hides which filesystem keeps its files. So the bits are given to the file of its
//! upper directory, by the name that the file has there, and the overlay is only told to look
//! again: if that directory is not what the table of mounts says, nothing else gets them.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;

use super::create::{self, NewEntry};
use super::device::{self, WRITE_AND_SEARCH};
use super::files::{self, Target, by_descriptor, c_string, open_at, statx, statx_of};
use super::lasting::Mount;
use super::refused::Refused;
use super::walk::{NO_MAGIC_LINKS, filesystem_of, is_kernels, read_link_of};
use super::xattr::CAPABILITY;
use super::{Answer, Call, Outcome};
use crate::sandbox::bpf::{CREATING, SET_ID};

/// Of `linux/capability.h`.
pub(super) const CAP_DAC_OVERRIDE: u32 = 1;
pub(super) const CAP_FOWNER: u32 = 3;
const CAP_FSETID: u32 = 4;
const CAP_SETFCAP: u32 = 31;
/// Bytes of a table of mounts that are looked at: each secret of the host has a cover.
const MOUNTS: usize = 64 << 20;
/// How often it is tried to make or to open what others make and remove meanwhile.
const TRIES: usize = 3;
/// `RESOLVE_NO_SYMLINKS` and `RESOLVE_BENEATH`, from `linux/openat2.h`.
const STRAIGHT: u64 = 0x04 | 0x08 | NO_MAGIC_LINKS;

/// A file as a call opens it that may make it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening<'p> {
    /// The descriptor, or `AT_FDCWD`, that a relative path starts from.
    pub(super) directory: i32,
    pub(super) path: &'p [u8],
    pub(super) flags: i32,
    /// Of a file that is made.
    pub(super) mode: u32,
}

/// What a regular file is on.
enum Site {
    /// It is gone when the build is.
    Passing,
    /// It outlives the build.
    Lasting,
    /// An overlay, whose upper directory has this file, which is gone when the build is.
    Above(OwnedFd),
}

/// Has an overlay copy a file to its upper directory, and look at it there.
fn touch(file: &OwnedFd) -> Result<(), Errno> {
    let modified = statx(
        file.as_raw_fd(),
        c"",
        libc::AT_EMPTY_PATH,
        libc::STATX_MTIME,
    )?
    .stx_mtime;
    let times = [
        libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_OMIT,
        },
        libc::timespec {
            tv_sec: modified.tv_sec,
            tv_nsec: modified.tv_nsec.into(),
        },
    ];
    let path = by_descriptor(file)?;
    // SAFETY: the path is terminated, and there are two times.
    let touched = unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), 0) };
    Errno::result(touched).map(drop)
}

fn change_mode(file: &OwnedFd, mode: u32) -> Result<(), Errno> {
    let path = by_descriptor(file)?;
    // SAFETY: the path is terminated and lives across the call.
    Errno::result(unsafe { libc::chmod(path.as_ptr(), mode) }).map(drop)
}

fn kind_of(found: &libc::statx) -> u32 {
    u32::from(found.stx_mode) & libc::S_IFMT
}

/// Whether two looks at a file, through an overlay and below it, may have found the same one.
fn may_be_same(one: &libc::statx, other: &libc::statx) -> bool {
    let facts = |found: &libc::statx| {
        let mode = u32::from(found.stx_mode);
        (mode, found.stx_uid, found.stx_gid, found.stx_size)
    };
    facts(one) == facts(other)
}

impl Call<'_> {
    /// Whether files that outlive the build are kept from set-id bits.
    pub(super) fn keeps_set_id(&self) -> bool {
        self.worker.shared.lasting.is_some()
    }

    /// `chmod` and `fchmodat`; `path` is the argument with the path, before the mode.
    pub(super) fn change_mode(&mut self, directory: Option<usize>, path: usize) -> Outcome {
        let mode = self.word(path + 1);
        if mode & SET_ID == 0 || !self.keeps_set_id() {
            return Ok(Answer::Continue);
        }
        let directory = directory.map_or(libc::AT_FDCWD, |directory| self.int(directory));
        let path = self.path(path)?;
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let file = self.target(directory, &path, true)?.into_file()?;
        self.set_checked_mode(&file, mode, &path)
    }

    /// `fchmod` with set-id bits.
    pub(super) fn change_set_id_of_descriptor(&mut self) -> Outcome {
        let file = self.target_of_open(self.int(0))?.into_file()?;
        self.set_checked_mode(&file, self.word(1), b"")
    }

    /// `fchmodat2` with set-id bits.
    pub(super) fn change_set_id_at(&mut self) -> Outcome {
        let flags = self.int(3);
        if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
            return Err(Errno::EINVAL);
        }
        let (path, follow) = self.path_at(1, flags)?;
        let file = self.target(self.int(0), &path, follow)?.into_file()?;
        self.set_checked_mode(&file, self.word(2), &path)
    }

    /// Gives a file that the task named a mode with set-id bits, if the task may do that.
    fn set_checked_mode(&mut self, file: &OwnedFd, mode: u32, path: &[u8]) -> Outcome {
        let found = statx_of(file)?;
        if kind_of(&found) == libc::S_IFLNK {
            return Err(Errno::EOPNOTSUPP);
        }
        self.require_owner(&found)?;
        self.give_mode(file, &found, mode & 0o7777)
            .inspect_err(|errno| self.note_lasting(*errno, path))?;
        Ok(Answer::Value(0))
    }

    /// Only what is refused to root for its place is worth telling.
    fn note_lasting(&self, errno: Errno, path: &[u8]) {
        if errno == Errno::EPERM {
            let path = String::from_utf8_lossy(path).into_owned();
            self.worker.shared.note_refused(Refused::SetId { path });
        }
    }

    /// Gives a file a mode with set-id bits, if its place is one for them.
    fn give_mode(&mut self, file: &OwnedFd, found: &libc::statx, mode: u32) -> Result<(), Errno> {
        let mode = if self.may_give_group(found)? {
            mode
        } else {
            mode & !libc::S_ISGID
        };
        // Of directories and the like the bits give nobody anything.
        if kind_of(found) != libc::S_IFREG || mode & SET_ID == 0 {
            self.still_there()?;
            return change_mode(file, mode);
        }
        match self.site_of(file)? {
            Site::Lasting => Err(Errno::EPERM),
            Site::Passing => {
                self.still_there()?;
                change_mode(file, mode)
            }
            Site::Above(below) => {
                self.still_there()?;
                change_mode(&below, mode)?;
                touch(file)?;
                if u32::from(statx_of(file)?.stx_mode) & 0o7777 == mode {
                    return Ok(());
                }
                change_mode(&below, mode & !SET_ID)?;
                Err(Errno::EPERM)
            }
        }
    }

    /// Sets an attribute of a file, capabilities only where its place is one for them.
    pub(super) fn set_kept_attribute(
        &mut self,
        file: &OwnedFd,
        set: impl Fn(&OwnedFd) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        if !self.keeps_set_id() || kind_of(&statx_of(file)?) != libc::S_IFREG {
            return set(file);
        }
        match self.site_of(file)? {
            Site::Lasting => Err(Errno::EPERM),
            Site::Passing => set(file),
            Site::Above(below) => set(&below),
        }
        .inspect_err(|errno| self.note_lasting(*errno, b""))
    }

    /// Whether the task may set an attribute that the kernel handles itself, as the kernel
    /// decides it.
    pub(super) fn require_settable_by_task(
        &mut self,
        file: &OwnedFd,
        name: &[u8],
    ) -> Result<(), Errno> {
        const WRITE: u32 = 0o2;
        if self.store().has_owners() {
            return Ok(());
        }
        let found = statx_of(file)?;
        if name == CAPABILITY {
            return match self.is_capable(CAP_SETFCAP, &found)? {
                true => Ok(()),
                false => Err(Errno::EPERM),
            };
        }
        if name.starts_with(b"user.") {
            return self.require_access(file, WRITE);
        }
        self.require_owner(&found)
    }

    fn require_owner(&self, found: &libc::statx) -> Result<(), Errno> {
        let owns = || -> Result<bool, Errno> {
            Ok(self.worker.view.status(self.pid)?.uid == found.stx_uid)
        };
        if self.store().has_owners() || owns()? || self.is_capable(CAP_FOWNER, found)? {
            return Ok(());
        }
        Err(Errno::EPERM)
    }

    /// Whether the task may let programs run as the group of a file.
    fn may_give_group(&self, found: &libc::statx) -> Result<bool, Errno> {
        if self.store().has_owners() {
            return Ok(true);
        }
        let gid = found.stx_gid;
        Ok(self.worker.view.status(self.pid)?.gid == gid
            || self.worker.view.groups(self.pid)?.contains(&gid)
            || self.is_capable(CAP_FSETID, found)?)
    }

    /// Where a regular file is.
    fn site_of(&mut self, file: &OwnedFd) -> Result<Site, Errno> {
        let shared = self.worker.shared.clone();
        let Some(lasting) = &shared.lasting else {
            return Ok(Site::Passing);
        };
        let found = statx(
            file.as_raw_fd(),
            c"",
            libc::AT_EMPTY_PATH,
            libc::STATX_MNT_ID,
        )?;
        let device = (found.stx_dev_major, found.stx_dev_minor);
        if filesystem_of(file)? == i128::from(libc::TMPFS_MAGIC) && !lasting.has(device) {
            return Ok(Site::Passing);
        }
        if found.stx_mask & libc::STATX_MNT_ID == 0 {
            return Ok(Site::Lasting);
        }
        let id = found.stx_mnt_id;
        let own = self.worker.view.read_all(self.pid, "mountinfo", MOUNTS)?;
        if let Some(mount) = Mount::find(&own, id) {
            return Ok(match mount.upper() {
                Some(upper) => match self.file_of_upper(file, &mount, &upper)? {
                    Some(below) => Site::Above(below),
                    None => Site::Lasting,
                },
                None if lasting.is_passing(&mount) => Site::Passing,
                None => Site::Lasting,
            });
        }
        // One that a hook outside had open.
        let ours = self
            .worker
            .view
            .read_all(std::process::id(), "mountinfo", MOUNTS)?;
        let mount = Mount::find(&ours, id).filter(|mount| mount.upper().is_none());
        Ok(
            match mount.is_some_and(|mount| lasting.is_passing(&mount)) {
                true => Site::Passing,
                false => Site::Lasting,
            },
        )
    }

    /// The file that an overlay's file is of, if it is in a place for set-id bits.
    fn file_of_upper(
        &mut self,
        file: &OwnedFd,
        mount: &Mount,
        upper: &[u8],
    ) -> Result<Option<OwnedFd>, Errno> {
        let roots = &self.listener.roots;
        self.worker.view.enter_root(self.pid, roots)?;
        let path = read_link_of(self.worker.view.proc(), file)?;
        let Some(rest) = path.strip_prefix(&mount.point[..]) else {
            return Ok(None);
        };
        let full = [&mount.root[..], b"/", rest].concat();
        let names = full
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty());
        let below = c_string(names.collect::<Vec<_>>().join(&b'/'))?;
        if !upper.starts_with(b"/") {
            return Ok(None);
        }
        touch(file)?;
        let seen = statx_of(file)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        // As the program sees it, or else as the engine does, which mounts targets.
        let by_task = self
            .target(libc::AT_FDCWD, upper, true)
            .and_then(Target::into_file);
        let ours = self.worker.view.open_ours(upper, flags);
        for directory in [by_task, ours].into_iter().flatten() {
            let flags = libc::O_PATH | libc::O_NOFOLLOW;
            let opened = files::open_how(directory.as_raw_fd(), &below, flags, 0, STRAIGHT);
            let Ok(found) = opened else { continue };
            if may_be_same(&statx_of(&found)?, &seen) && self.is_passing_below(&found)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Whether a file that is below an overlay is gone when the build is.
    fn is_passing_below(&mut self, file: &OwnedFd) -> Result<bool, Errno> {
        /// `OVERLAYFS_SUPER_MAGIC`, from `linux/magic.h`.
        const OVERLAY: i128 = 0x794c_7630;
        Ok(filesystem_of(file)? != OVERLAY && matches!(self.site_of(file)?, Site::Passing))
    }

    /// Whether a capability of the task counts for a file: its user namespace has the ids.
    pub(super) fn is_capable(&self, capability: u32, found: &libc::statx) -> Result<bool, Errno> {
        let view = &self.worker.view;
        Ok(view.status(self.pid)?.capabilities & 1 << capability != 0
            && view.has_id(self.pid, "uid_map", found.stx_uid)?
            && view.has_id(self.pid, "gid_map", found.stx_gid)?)
    }

    /// Fails if the task itself has not these rights (`rwx`, as for others) to a file, which
    /// is used here with those of the engine.
    pub(super) fn require_access(&self, file: &OwnedFd, wanted: u32) -> Result<(), Errno> {
        let found = statx_of(file)?;
        if self.is_capable(CAP_DAC_OVERRIDE, &found)? {
            return Ok(());
        }
        let status = self.worker.view.status(self.pid)?;
        let mode = u32::from(found.stx_mode);
        let (uid, gid) = (found.stx_uid, found.stx_gid);
        let allowed = if uid == status.uid {
            mode >> 6
        } else if gid == status.gid || self.worker.view.groups(self.pid)?.contains(&gid) {
            mode >> 3
        } else {
            mode
        };
        if allowed & wanted == wanted {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }

    /// A regular file of `mknod` with set-id bits.
    pub(super) fn make_set_id(&mut self, directory: i32, path: &[u8], mode: u32) -> Outcome {
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
        self.open_set_id(Opening {
            directory,
            path,
            flags,
            mode: mode & 0o7777,
        })?;
        Ok(Answer::Value(0))
    }

    /// Opens a file that is given a mode with set-id bits if it is made.
    pub(super) fn open_set_id(&mut self, opening: Opening<'_>) -> Outcome {
        if opening.path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let file = if opening.flags as u32 & CREATING == libc::O_CREAT as u32 {
            self.open_named(opening)?
        } else {
            self.open_unnamed(opening)?
        };
        Ok(Answer::Descriptor {
            file,
            close_on_exec: opening.flags & libc::O_CLOEXEC != 0,
        })
    }

    fn open_named(&mut self, opening: Opening<'_>) -> Result<OwnedFd, Errno> {
        let Opening {
            directory,
            path,
            flags,
            mode,
        } = opening;
        let (parent, name) = match create::split(path) {
            Some(split) if !path.ends_with(b"/") => split,
            _ => return Err(Errno::EISDIR),
        };
        let follow = flags & libc::O_NOFOLLOW == 0;
        for _ in 0..TRIES {
            if flags & libc::O_EXCL == 0 {
                match self
                    .target(directory, path, follow)
                    .and_then(Target::into_file)
                {
                    Err(Errno::ENOENT) => {}
                    found => return self.open_existing(found?, flags),
                }
            }
            let parent = self.target(directory, parent, true)?.into_file()?;
            match self.make_named(parent, name, flags, mode) {
                Err(Errno::EEXIST) if flags & libc::O_EXCL == 0 => {}
                Err(errno) => {
                    self.note_lasting(errno, path);
                    return Err(errno);
                }
                made => return made,
            }
        }
        // Such as a link that leads nowhere.
        Err(Errno::EACCES)
    }

    /// Opens what was there before, whose mode stays.
    fn open_existing(&mut self, file: OwnedFd, flags: i32) -> Result<OwnedFd, Errno> {
        match kind_of(&statx_of(&file)?) {
            libc::S_IFDIR => return Err(Errno::EISDIR),
            libc::S_IFLNK => return Err(Errno::ELOOP),
            libc::S_IFREG if !is_kernels(&file)? => {}
            // Of these the kernel asks who opens them, or they wait.
            _ => return Err(Errno::EACCES),
        }
        let wanted = match flags & libc::O_ACCMODE {
            libc::O_RDONLY if flags & libc::O_TRUNC == 0 => 0o4,
            libc::O_WRONLY => 0o2,
            _ => 0o6,
        };
        if !self.store().has_owners() {
            self.require_access(&file, wanted)?;
        }
        self.still_there()?;
        Target::File(file).reopen(flags & !libc::O_CREAT, 0)
    }

    fn make_named(
        &mut self,
        parent: OwnedFd,
        name: &[u8],
        flags: i32,
        mode: u32,
    ) -> Result<OwnedFd, Errno> {
        let place = self.entry_in(parent, name)?;
        let parent = self.enter(&place)?;
        let bits = place.mode(mode & !SET_ID);
        let file = open_at(parent.as_raw_fd(), &place.name, flags | libc::O_EXCL, bits)?;
        let made = self.finish_set_id(&file, &place, mode);
        if made.is_err() {
            // SAFETY: the descriptor is open, and the name is terminated.
            unsafe { libc::unlinkat(parent.as_raw_fd(), place.name.as_ptr(), 0) };
        }
        made.map(|()| file)
    }

    fn open_unnamed(&mut self, opening: Opening<'_>) -> Result<OwnedFd, Errno> {
        let directory = self.target(opening.directory, opening.path, true)?;
        let place = self.entry_in(directory.into_file()?, b".")?;
        let parent = self.enter(&place)?;
        let bits = place.mode(opening.mode & !SET_ID);
        let file = open_at(parent.as_raw_fd(), c".", opening.flags, bits)?;
        self.finish_set_id(&file, &place, opening.mode)
            .inspect_err(|errno| self.note_lasting(*errno, opening.path))?;
        Ok(file)
    }

    /// A name in a directory in which the task may make files.
    fn entry_in(&mut self, directory: OwnedFd, name: &[u8]) -> Result<NewEntry, Errno> {
        if !self.store().has_owners() {
            self.require_access(&directory, WRITE_AND_SEARCH)?;
        }
        self.new_entry(directory, name)
    }

    /// Gives a new file its owner and all of its mode.
    fn finish_set_id(&mut self, file: &OwnedFd, place: &NewEntry, mode: u32) -> Result<(), Errno> {
        if self.store().has_owners() {
            let open = || open_at(libc::AT_FDCWD, &by_descriptor(file)?, libc::O_PATH, 0);
            let found = statx_of(file)?;
            self.record(&found, open, (place.uid, place.gid), None);
            self.record_lists(place, &found, mode);
        } else {
            device::give(file, place)?;
        }
        let found = statx_of(file)?;
        let mode = u32::from(found.stx_mode) & 0o1777 | mode & SET_ID;
        self.give_mode(file, &found, mode)
    }
}
