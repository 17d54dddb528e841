//! Programs that are held by their root directory alone, because nothing can be mounted.
//!
//! Such a directory has two ways out (`chroot(2)`). One is to change it once more, for which
//! `inside` takes the capability from them. The other is a directory outside of it, which
//! nobody gets ([`listing`](super::listing)). As a second wall they are under Landlock's rules
//! about files (`landlock::fence`).
//!
//! The supervisor itself is under no such rules: what it opens for a program because a link of
//! `/proc` led there (`/proc/self/fd/N`), it opens as the program might, and what it makes or
//! changes for one has to be in the target.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag};
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::Whence;

use super::cred::CAP_CHOWN;
use super::files::{Target, c_string, open_at, statx, statx_of};
use super::refused::Refused;
use super::roots::RootId;
use super::status::{Waiting, status_of};
use super::walk::{has_several_numberings, is_kernels, is_named_pipe, read_link_of, same_file};
use super::{Answer, Call, Outcome};
use crate::sandbox::capability::CAP_SYS_CHROOT;
use crate::sandbox::landlock;

/// How often a file's name is looked for, which may be given another meanwhile.
const NAMES: usize = 3;

/// How long a pipe is looked at for the other end, in milliseconds.
const LOOK: u8 = 10;

/// Threads of the engine that wait for the other end of a pipe, or for who has a lease. Each holds files, and an engine
/// that can open no more counts neither memory nor processes.
static WAITING: AtomicU64 = AtomicU64::new(0);
/// One for so many files that the engine may have open.
const FILES_OF_ONE: u64 = 16;
/// So many at most.
const MOST_WAITING: u64 = 64;

/// One that is counted until it is dropped.
struct Waits;

impl Waits {
    /// Fails where there are as many as there may be.
    fn begin() -> Result<Waits, Errno> {
        let (files, _) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
        let most = (files / FILES_OF_ONE).clamp(1, MOST_WAITING);
        let one = Waits;
        if WAITING.fetch_add(1, Ordering::AcqRel) < most {
            Ok(one)
        } else {
            Err(Errno::ENFILE)
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Opens a pipe with a name, which waits until its other end is open too (`fifo(7)`): no
/// longer than the program does, since nothing would end a wait in the kernel.
fn open_pipe(
    target: &Target,
    flags: i32,
    waits: impl Fn() -> Result<(), Errno>,
) -> Result<OwnedFd, Errno> {
    let access = flags & libc::O_ACCMODE;
    if flags & libc::O_NONBLOCK != 0 || !matches!(access, libc::O_RDONLY | libc::O_WRONLY) {
        return target.reopen(flags, 0);
    }
    let open = || target.reopen(flags | libc::O_NONBLOCK, 0);
    let mut opened = open();
    let _counted = Waits::begin()?;
    loop {
        match &opened {
            // Nobody reads.
            Err(Errno::ENXIO) => {
                std::thread::sleep(std::time::Duration::from_millis(LOOK.into()));
                opened = open();
            }
            Ok(pipe) if access == libc::O_WRONLY || has_writer(pipe)? => {
                nix::fcntl::fcntl(pipe, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags)))?;
                return opened;
            }
            Ok(_) => {}
            Err(_) => return opened,
        }
        waits()?;
    }
}

/// Opens a plain file, which waits until who has a lease of it gives that up (`F_SETLEASE`): no
/// longer than the program does.
fn open_plain(
    target: &Target,
    (flags, mode): (i32, u32),
    waits: impl Fn() -> Result<(), Errno>,
) -> Result<OwnedFd, Errno> {
    if flags & libc::O_NONBLOCK != 0 {
        return target.reopen(flags, mode);
    }
    let open = || target.reopen(flags | libc::O_NONBLOCK, mode);
    let mut opened = open();
    if opened.as_ref().err() == Some(&Errno::EAGAIN) {
        let _counted = Waits::begin()?;
        while opened.as_ref().err() == Some(&Errno::EAGAIN) {
            waits()?;
            std::thread::sleep(std::time::Duration::from_millis(LOOK.into()));
            opened = open();
        }
    }
    let file = opened?;
    nix::fcntl::fcntl(&file, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags)))?;
    Ok(file)
}

/// Fails once a signal ends the wait of a task whose `status` is open.
///
/// It keeps the task waiting for its answer (`SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`), so this
/// is told to nobody.
fn require_patience(status: &OwnedFd) -> Result<(), Errno> {
    nix::unistd::lseek(status, 0, Whence::SeekSet)?;
    let text = status_of(status)?;
    let waiting = Waiting::parse(&text).ok_or(Errno::ESRCH)?;
    match waiting {
        Waiting { pending: 0, .. } => Ok(()),
        // Another thread may take it, and then nothing would be restarted.
        Waiting { is_own: false, .. } => Err(Errno::EINTR),
        Waiting { .. } => Err(Errno::ERESTART),
    }
}

/// Whether somebody writes into a pipe, or did since it was opened here. Waits a moment.
fn has_writer(pipe: &OwnedFd) -> Result<bool, Errno> {
    let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    if poll(&mut polled, LOOK)? > 0 {
        return Ok(true);
    }
    // Takes nothing out. Without writers it would be the end of the file.
    let (_reader, copy) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: two descriptors that are open, and integers.
    let copied = unsafe {
        libc::tee(
            pipe.as_raw_fd(),
            copy.as_raw_fd(),
            1,
            libc::SPLICE_F_NONBLOCK,
        )
    };
    match Errno::result(copied) {
        Ok(0) => Ok(false),
        Ok(_) | Err(Errno::EAGAIN) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// Whether a file with these flags is open for writing. One that is not need not be for reading:
/// Linux opens with both bits of `O_ACCMODE` too, for `ioctl(2)` alone (`open(2)`).
fn writes(flags: i32) -> bool {
    matches!(flags & libc::O_ACCMODE, libc::O_RDWR | libc::O_WRONLY)
}

/// How many names a file has.
fn names_of(file: &OwnedFd) -> Result<u32, Errno> {
    let found = statx(
        file.as_raw_fd(),
        c"",
        libc::AT_EMPTY_PATH,
        libc::STATX_NLINK,
    )?;
    Ok(found.stx_nlink)
}

impl Call<'_> {
    /// `chroot`. Who has to stay in its root directory can only take that once more.
    pub(super) fn chroot(&mut self) -> Outcome {
        let path = self.path(0)?;
        if self.has_to_stay()? {
            if self.is_own_root(&path).unwrap_or(false) {
                return Ok(Answer::Value(0));
            }
            self.worker.shared.note_refused(Refused::Root {
                path: String::from_utf8_lossy(&path).into_owned(),
            });
        } else {
            self.note_cell(&path)?;
        }
        self.change_root()
    }

    /// Whether nothing but the capability for it, which nobody can get, keeps the task from
    /// changing its root directory.
    fn has_to_stay(&mut self) -> Result<bool, Errno> {
        let status = self.worker.view.status(self.pid)?;
        Ok(status.bounding & 1 << CAP_SYS_CHROOT == 0 && self.may(CAP_CHOWN)?)
    }

    /// Whether a path leads to the root directory of the task.
    fn is_own_root(&mut self, path: &[u8]) -> Result<bool, Errno> {
        let found = self.target(libc::AT_FDCWD, path, true)?;
        let found = RootId::of(&found.statx(libc::STATX_MNT_ID)?);
        self.enters_other_root()?;
        Ok(!path.is_empty() && RootId::own()? == found)
    }

    /// Opens a file, that is none of `/proc`, to which a path below `/proc` led. Nothing is
    /// opened for a program that Landlock keeps from it, but for what it has open already.
    pub(super) fn open_fenced(
        &mut self,
        found: OwnedFd,
        path: &[u8],
        (flags, mode): (i32, u32),
    ) -> Result<OwnedFd, Errno> {
        // Of this access, for `ioctl(2)` alone, Landlock asks nothing.
        if flags & libc::O_ACCMODE == libc::O_ACCMODE {
            return Err(Errno::EACCES);
        }
        let target = Target::File(found.try_clone().map_err(|_| Errno::EMFILE)?);
        let is_named_pipe = is_named_pipe(&found)?;
        let kind = u32::from(statx_of(&found)?.stx_mode) & libc::S_IFMT;
        let (listener, id) = (self.listener, self.id);
        let status = self.worker.view.of_process(self.pid, "status")?;
        let status = status.reopen(libc::O_RDONLY, 0)?;
        let waits = || match listener.waits(id) {
            true => require_patience(&status),
            false => Err(Errno::EINTR),
        };
        let reopen = || {
            if is_named_pipe {
                return open_pipe(&target, flags, waits);
            }
            if kind == libc::S_IFREG {
                return open_plain(&target, (flags, mode), waits);
            }
            target.reopen(flags, mode)
        };
        let opened = match self.require_place(&found) {
            Ok(()) => self.fenced(reopen),
            Err(errno) => Err(errno),
        };
        match (opened, self.own_descriptor(path)?) {
            // Such as a terminal, or `/dev/null`, that it was started with.
            (Err(Errno::EACCES), Some(descriptor)) => {
                self.require_opened(descriptor, &found, flags)?;
                reopen()
            }
            (opened, _) => opened,
        }
    }

    /// Where Landlock cannot keep a program from a file to which a link of `/proc` led: fails
    /// unless that is in the target or nowhere, such as a pipe.
    pub(super) fn require_place(&mut self, file: &OwnedFd) -> Result<(), Errno> {
        if landlock::has_fences() || self.require_beneath(file).is_ok() {
            return Ok(());
        }
        let text = read_link_of(self.worker.view.proc(), file)?;
        // Memory is named like a file that is in no directory.
        let has_path = text.starts_with(b"/") && !text.starts_with(b"/memfd:");
        if has_path && names_of(file)? > 0 {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// Does something under the rules about files that the task, which is in a target, has.
    pub(super) fn fenced<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, Errno> + Send,
    ) -> Result<T, Errno> {
        let root = open_at(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
        let Some(fence) = landlock::fence(&root).map_err(|_| Errno::EMFILE)? else {
            return work();
        };
        // A thread of its own, because it stays restricted. It has this one's directories.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                landlock::restrict(&fence).map_err(|_| Errno::EACCES)?;
                work()
            });
            let thread = thread.map_err(|_| Errno::EAGAIN)?;
            thread.join().unwrap_or(Err(Errno::EIO))
        })
    }

    /// Whether the task is in a target, and held there by its root directory alone.
    pub(super) fn is_confined(&mut self) -> Result<bool, Errno> {
        Ok(self.worker.shared.own_files.is_some() && self.enters_other_root()?)
    }

    /// Fails if a file that a program in a target named is not in there: it has no name from
    /// the root directory of the task.
    pub(super) fn require_beneath(&mut self, file: &OwnedFd) -> Result<(), Errno> {
        if !self.is_confined()? {
            return Ok(());
        }
        for _ in 0..NAMES {
            let text = match read_link_of(self.worker.view.proc(), file) {
                // Nothing outside is that deep.
                Err(Errno::ENAMETOOLONG) => return Ok(()),
                text => c_string(text?)?,
            };
            let named = open_at(libc::AT_FDCWD, &text, libc::O_PATH | libc::O_NOFOLLOW, 0);
            let is_there = named
                .and_then(|named| Ok(same_file(&statx_of(&named)?, &statx_of(file)?)))
                .unwrap_or(false);
            if is_there {
                return Ok(());
            }
        }
        Err(Errno::EACCES)
    }

    /// Fails if a program may not change a file, which is neither in its target nor one
    /// without a name that it has open (`descriptor`), such as a pipe.
    pub(super) fn require_changeable(
        &mut self,
        file: &OwnedFd,
        descriptor: Option<i32>,
    ) -> Result<(), Errno> {
        let (errno, descriptor) = match (self.require_beneath(file), descriptor) {
            (Err(errno), Some(descriptor)) => (errno, descriptor),
            (result, _) => return result,
        };
        let had = self.flags_of(descriptor, file)?;
        let kind = u32::from(statx_of(file)?.stx_mode) & libc::S_IFMT;
        // Those of the container that it was started with, or that were opened for it.
        let is_of_container = matches!(kind, libc::S_IFCHR | libc::S_IFBLK) || is_kernels(file)?;
        // What a hook outside gave to be read is not given to be changed.
        let is_kept = kind == libc::S_IFREG && !writes(had) && names_of(file)? > 0;
        if had & libc::O_PATH != 0 || is_of_container || is_kept {
            return Err(errno);
        }
        Ok(())
    }

    /// The descriptor of the task whose link is at a path below `/proc`.
    pub(super) fn own_descriptor(&self, path: &[u8]) -> Result<Option<i32>, Errno> {
        let process = self.worker.view.group(self.pid)?.to_string();
        let mut names = path.split(|&byte| byte == b'/');
        let is_own = matches!(names.next(), Some(b"self" | b"thread-self"))
            || path.starts_with(format!("{process}/").as_bytes());
        if !is_own || names.next() != Some(b"fd") {
            return Ok(None);
        }
        let number = names
            .next()
            .and_then(|name| std::str::from_utf8(name).ok()?.parse().ok());
        Ok(number.filter(|_| names.next().is_none()))
    }

    /// What the task has a file open for, by that descriptor and no other that took its number
    /// meanwhile.
    fn flags_of(&self, descriptor: i32, file: &OwnedFd) -> Result<i32, Errno> {
        let Ok(taken) = self.take_descriptor(descriptor) else {
            // A container's filter refuses that.
            if has_several_numberings(file)? {
                return Err(Errno::EACCES);
            }
            return self.worker.view.flags_of(self.pid, descriptor, file);
        };
        if !same_file(&statx_of(&taken)?, &statx_of(file)?) {
            return Err(Errno::EACCES);
        }
        nix::fcntl::fcntl(&taken, FcntlArg::F_GETFL)
    }

    /// Fails unless the task has a file open for all that it wants with these flags.
    fn require_opened(&self, descriptor: i32, file: &OwnedFd, flags: i32) -> Result<(), Errno> {
        let had = self.flags_of(descriptor, file)?;
        let has = had & libc::O_ACCMODE;
        let wanted = flags & libc::O_ACCMODE;
        let is_enough = has == libc::O_RDWR || has == wanted;
        if had & libc::O_PATH != 0 || !is_enough || flags & libc::O_TRUNC != 0 && !writes(had) {
            return Err(Errno::EACCES);
        }
        Ok(())
    }
}
