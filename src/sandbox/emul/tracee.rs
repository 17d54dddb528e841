//! What a notified process asks for: its memory, and the files it names.

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use super::status::{Signals, Status, status_field, status_number, status_of};

/// Longest path with its end (`PATH_MAX`).
const PATH_MAX: usize = 4096;
/// Memory is read up to the end of a page of the smallest size, so that a string
/// at the end of a mapping can be read.
const PAGE: u64 = 4096;

/// Reads `length` bytes; fails if not all of them are there.
pub fn read(pid: u32, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    let count = read_some(pid, address, &mut bytes)?;
    if count == length {
        Ok(bytes)
    } else {
        Err(Errno::EFAULT)
    }
}

fn remote(address: u64, len: usize) -> Result<RemoteIoVec, Errno> {
    let base = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
    Ok(RemoteIoVec { base, len })
}

fn process(pid: u32) -> Result<Pid, Errno> {
    i32::try_from(pid)
        .map(Pid::from_raw)
        .map_err(|_| Errno::ESRCH)
}

fn read_some(pid: u32, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
    if into.is_empty() {
        return Ok(0);
    }
    let from = remote(address, into.len())?;
    process_vm_readv(process(pid)?, &mut [IoSliceMut::new(into)], &[from])
}

/// Writes all of `bytes`.
pub fn write(pid: u32, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    let to = remote(address, bytes.len())?;
    let count = process_vm_writev(process(pid)?, &[IoSlice::new(bytes)], &[to])?;
    if count == bytes.len() {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

/// Reads a string without its end; `limit` bytes at most.
pub fn read_string(pid: u32, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut at = address;
    let mut chunk = [0; 256];
    while bytes.len() <= limit {
        let room = usize::try_from(PAGE - at % PAGE)
            .unwrap_or(1)
            .min(chunk.len());
        let count = read_some(pid, at, &mut chunk[..room])?;
        let read = chunk
            .get(..count)
            .filter(|read| !read.is_empty())
            .ok_or(Errno::EFAULT)?;
        if let Some(end) = read.iter().position(|&byte| byte == 0) {
            bytes.extend_from_slice(&read[..end]);
            return if bytes.len() < limit {
                Ok(bytes)
            } else {
                Err(Errno::ENAMETOOLONG)
            };
        }
        bytes.extend_from_slice(read);
        at = at.checked_add(count as u64).ok_or(Errno::EFAULT)?;
    }
    Err(Errno::ENAMETOOLONG)
}

/// Reads a path.
pub fn read_path(pid: u32, address: u64) -> Result<Vec<u8>, Errno> {
    read_string(pid, address, PATH_MAX)
}

/// A file that a process named: by a name that cannot lead elsewhere, or open.
///
/// Whatever else is named leads here through [`walk`](super::walk) alone.
#[derive(Debug)]
pub enum Target {
    /// A name that no program can redirect: a link of `/proc` that is the process's
    /// own, or one name below it that is not followed.
    Name {
        /// Where `path` starts.
        directory: RawFd,
        /// Its path.
        path: CString,
        /// Whether a link at its end is followed.
        follow: bool,
    },
    /// Open as a mere name (`O_PATH`).
    File(OwnedFd),
}

/// Whether a path may name `/proc/self` or `/proc/thread-self`.
pub(super) fn names_self(path: &[u8]) -> bool {
    path.windows(4).any(|part| part == b"self")
}

/// Whether a path may lead through `/proc`, as far as can be told from it: `/dev/fd` is
/// a link to there.
fn may_pass_proc(path: &[u8]) -> bool {
    [&b"/dev/"[..], b"/proc/"]
        .iter()
        .any(|start| path.starts_with(start))
}

/// Whether a path is the name of an entry of the directory that it starts from, and no
/// more, so that neither links nor the root of a process matter.
fn is_plain_name(path: &[u8], follow: bool) -> bool {
    !follow && !path.contains(&b'/') && !matches!(path, b"" | b"." | b"..")
}

/// What identifies a root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RootId(u32, u32, u64, u64);

impl RootId {
    /// That of the calling thread.
    pub(super) fn own() -> Result<RootId, Errno> {
        let found = statx(libc::AT_FDCWD, c"/", 0, libc::STATX_MNT_ID)?;
        Ok(RootId::of(&found))
    }

    /// That of a directory, of which the mount is known too.
    pub(super) fn of(found: &libc::statx) -> RootId {
        RootId(
            found.stx_dev_major,
            found.stx_dev_minor,
            found.stx_ino,
            found.stx_mnt_id,
        )
    }
}

/// Whether all programs of a filter have the root directory, and the mounts,
/// that the first one had: then nobody needs to look. They have until one makes
/// a call that changes either.
#[derive(Debug, Default)]
pub struct Roots {
    first: OnceLock<RootId>,
    /// How many such calls there were, and pivots that have ended.
    changes: AtomicU64,
    /// Whether some of `pivoting` may still move roots.
    moving: AtomicBool,
    /// Tasks that were let into `pivot_root(2)` or its like and made no call since.
    pivoting: Mutex<Vec<u32>>,
}

impl Roots {
    /// From now on each program has to be looked at.
    pub fn differ(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// A task is let into `pivot_root(2)`, which changes the root of all programs that have
    /// the task's, and ours too, or into `chroot(2)`, which changes that of all its threads.
    /// Nobody is told when it has.
    pub fn move_about(&self, pid: u32) {
        let mut pivoting = self.pivoting();
        if !pivoting.contains(&pid) {
            pivoting.push(pid);
        }
        self.moving.store(true, Ordering::Release);
        self.differ();
    }

    /// A task makes a call: what it did before is done.
    pub fn settle(&self, pid: u32) {
        if !self.moving.load(Ordering::Acquire) {
            return;
        }
        let mut pivoting = self.pivoting();
        pivoting.retain(|&task| task != pid && is_there(task));
        if pivoting.is_empty() {
            // Whoever sees this looks at its root once more.
            self.differ();
            self.moving.store(false, Ordering::Release);
        }
    }

    fn pivoting(&self) -> MutexGuard<'_, Vec<u32>> {
        self.pivoting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there still is a task of this number.
fn is_there(task: u32) -> bool {
    let Ok(task) = libc::pid_t::try_from(task) else {
        return false;
    };
    // SAFETY: it sends nothing.
    let sent = Errno::result(unsafe { libc::kill(task, 0) });
    sent != Err(Errno::ESRCH)
}

/// A file as a process names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'p> {
    /// The descriptor, or `AT_FDCWD`, that a relative path starts from.
    pub directory: i32,
    /// An empty one is the directory itself.
    pub path: &'p [u8],
    /// Whether a link at its end is followed.
    pub follow: bool,
}

/// What a first look at a name finds, which costs one call.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for a moment, and memory for it would cost as much as the look"
)]
pub(super) enum Glance {
    /// Most likely this file. Only good for finding out that there is nothing to tell of it.
    File(libc::statx),
    /// Nothing, so that the kernel's own answer is right.
    Nothing,
    /// Something that a process may see otherwise.
    Unsure,
}

/// How long a task is taken to have the root that it was found to have, if nobody made a
/// call that changes roots. Numbers of tasks are given again after all others, which
/// takes much longer.
const LATELY: Duration = Duration::from_millis(100);
/// `RESOLVE_NO_XDEV`, from `linux/openat2.h`.
const NO_OTHER_MOUNT: u64 = 0x01;
/// Tasks whose roots are remembered.
const TASKS: usize = 64;

/// The root of a task, for looking only.
#[derive(Debug, Clone, Copy)]
struct Known {
    pid: u32,
    root: RootId,
    /// Calls that changed roots, and the time, when it was found.
    changes: u64,
    when: Duration,
}

/// The time since some start, by a clock that costs no call but is only good to some
/// milliseconds.
pub(in crate::sandbox) fn coarse_time() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// The calling thread's view of the files of others. Its root directory is that
/// of the process last looked at, so that the kernel itself resolves paths as it
/// would for that process, and no path leads out of a target. Its working
/// directory is `/proc` of the sandbox.
#[derive(Debug)]
pub struct View {
    proc: OwnedFd,
    root: RootId,
    /// The root of the sandbox itself.
    own_root: RootId,
    /// Changes of roots before which this thread was last seen to have `root`.
    seen: u64,
    known: [Option<Known>; TASKS],
}

impl View {
    /// Takes a thread of its own file system context for this
    /// ([`crate::sandbox::root::own_context`]).
    /// `proc` is `/proc` of the PID namespace of this process, `own_root` the root
    /// of the sandbox: that of the thread may be another's, by whom it was started.
    pub(super) fn for_this_thread(proc: OwnedFd, own_root: RootId) -> Result<View, Errno> {
        let root = RootId::own()?;
        nix::unistd::fchdir(&proc)?;
        Ok(View {
            proc,
            root,
            own_root,
            seen: 0,
            known: [None; TASKS],
        })
    }

    /// A file below `/proc/PID`.
    pub fn of_process(&self, pid: u32, rest: &str) -> Result<Target, Errno> {
        self.below_proc(format!("{pid}/{rest}").into_bytes(), true)
    }

    fn below_proc(&self, path: Vec<u8>, follow: bool) -> Result<Target, Errno> {
        Ok(Target::Name {
            directory: self.proc.as_raw_fd(),
            path: c_string(path)?,
            follow,
        })
    }

    /// Makes the root directory of a process that of this thread; true if it is
    /// another than the sandbox's own.
    pub(super) fn enter_other_root(&mut self, pid: u32, roots: &Roots) -> Result<bool, Errno> {
        self.enter_root(pid, roots)?;
        Ok(self.root != self.own_root)
    }

    /// `/proc` of the sandbox.
    pub(super) fn proc(&self) -> &OwnedFd {
        &self.proc
    }

    /// Takes the root directory of a process, which is one of those in `roots`.
    pub fn enter_root(&mut self, pid: u32, roots: &Roots) -> Result<(), Errno> {
        let same = roots.changes.load(Ordering::Acquire) == 0;
        if same && roots.first.get() == Some(&self.root) {
            return Ok(());
        }
        let target = self.of_process(pid, "root")?;
        let found = RootId::of(&target.statx(libc::STATX_MNT_ID)?);
        if found != self.root || !self.still_has_root(roots) {
            let root = target.into_file()?;
            nix::unistd::fchdir(&root)?;
            nix::unistd::chroot(c".")?;
            nix::unistd::fchdir(&self.proc)?;
            self.root = found;
        }
        let _ = roots.first.set(found);
        Ok(())
    }

    /// Whether this thread has the root that it took: `pivot_root(2)` of a program gives
    /// another one to all that had the program's.
    fn still_has_root(&mut self, roots: &Roots) -> bool {
        let moving = roots.moving.load(Ordering::Acquire);
        let changes = roots.changes.load(Ordering::Acquire);
        if !moving && self.seen == changes {
            return true;
        }
        let still = RootId::own() == Ok(self.root);
        if still && !moving {
            self.seen = changes;
        }
        still
    }

    /// Takes the sandbox's own root directory again. As long as this thread has another
    /// one, what that is on cannot be unmounted.
    pub(super) fn leave_root(&mut self) -> Result<(), Errno> {
        if self.root == self.own_root {
            return Ok(());
        }
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let root = open_at(self.proc.as_raw_fd(), c"self/root", flags, 0)?;
        nix::unistd::fchdir(&root)?;
        nix::unistd::chroot(c".")?;
        nix::unistd::fchdir(&self.proc)?;
        self.root = RootId::own()?;
        Ok(())
    }

    /// The same for looking only: the root that the process had a moment ago will do.
    fn enter_root_to_look(&mut self, pid: u32, roots: &Roots) -> Result<(), Errno> {
        let changes = roots.changes.load(Ordering::Acquire);
        if changes == 0 {
            return self.enter_root(pid, roots);
        }
        let place = pid as usize % TASKS;
        let now = coarse_time();
        // Somebody may be about to change the root that it shares with others.
        let moving = roots.moving.load(Ordering::Acquire);
        let is_known = !moving
            && self.known[place].is_some_and(|known| {
                (known.pid, known.changes, known.root) == (pid, changes, self.root)
                    && now.saturating_sub(known.when) < LATELY
            })
            && self.still_has_root(roots);
        if !is_known {
            self.enter_root(pid, roots)?;
            self.known[place] = Some(Known {
                pid,
                root: self.root,
                changes,
                when: now,
            });
        }
        Ok(())
    }

    /// The file that a process names.
    pub(super) fn target(
        &mut self,
        pid: u32,
        roots: &Roots,
        named: Named<'_>,
    ) -> Result<Target, Errno> {
        let Named {
            directory,
            path,
            follow,
        } = named;
        // For such a path any directory will do.
        if path.first() == Some(&b'/') {
            self.enter_root(pid, roots)?;
            return self.resolve(pid, None, path, follow).map(Target::File);
        }
        let start = if directory == libc::AT_FDCWD {
            format!("{pid}/cwd")
        } else if directory >= 0 {
            format!("{pid}/fd/{directory}")
        } else {
            return Err(Errno::EBADF);
        };
        if path.is_empty() {
            return self.below_proc(start.into_bytes(), true);
        }
        if is_plain_name(path, follow) {
            let full = [start.as_bytes(), path].join(&b'/');
            return self.below_proc(full, false);
        }
        // Links and `..` may lead through the root.
        self.enter_root(pid, roots)?;
        let start = self.below_proc(start.into_bytes(), true)?.into_file()?;
        self.resolve(pid, Some(start), path, follow)
            .map(Target::File)
    }

    /// What a name leads to, at a glance. [`Glance::Unsure`] are all that a process may see
    /// otherwise: a path that names `self`, which is the engine here, and whatever a link
    /// of `/proc` led to on another mount than the root's.
    pub(super) fn glance(&mut self, pid: u32, roots: &Roots, named: Named<'_>) -> Glance {
        let Named {
            directory,
            path,
            follow,
        } = named;
        if path.is_empty() || names_self(path) {
            return Glance::Unsure;
        }
        let plain = is_plain_name(path, follow);
        if !plain && self.enter_root_to_look(pid, roots).is_err() {
            return Glance::Unsure;
        }
        let mut from = Vec::with_capacity(path.len() + 32);
        if path[0] != b'/' {
            // Writing to a vector cannot fail.
            let _ = match directory {
                libc::AT_FDCWD => write!(from, "{pid}/cwd/"),
                0.. => write!(from, "{pid}/fd/{directory}/"),
                _ => return Glance::Unsure,
            };
        }
        from.extend_from_slice(path);
        let Ok(from) = c_string(from) else {
            return Glance::Unsure;
        };
        let nofollow = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        let found = statx(
            self.proc.as_raw_fd(),
            &from,
            libc::AT_NO_AUTOMOUNT | nofollow,
            libc::STATX_BASIC_STATS | libc::STATX_MNT_ID,
        );
        match found {
            Ok(found) => {
                let is_known = found.stx_mask & libc::STATX_MNT_ID != 0;
                let is_here = is_known && found.stx_mnt_id == self.root.3;
                // A descriptor of the engine may be of a file that is here too.
                if plain || is_here && !may_pass_proc(path) {
                    Glance::File(found)
                } else {
                    Glance::Unsure
                }
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) if plain || self.is_missing(&from) => {
                Glance::Nothing
            }
            Err(_) => Glance::Unsure,
        }
    }

    /// Whether there is nothing at a path, whoever asks: on the way there it does not leave
    /// the mount that it starts on, as it would for `/proc/self`.
    fn is_missing(&self, from: &std::ffi::CStr) -> bool {
        let bytes = from.to_bytes();
        let mut start = None;
        let mut rest = bytes;
        if bytes.first() != Some(&b'/') {
            // `PID/cwd` and `PID/fd/N` are links to elsewhere.
            let mut names = bytes.split(|&byte| byte == b'/');
            let of_descriptor = names.clone().nth(1) == Some(b"fd");
            let prefix = names.by_ref().take(if of_descriptor { 3 } else { 2 });
            let length: usize = prefix.map(|name| name.len() + 1).sum();
            let Some((link, below)) = bytes.split_at_checked(length) else {
                return false;
            };
            let flags = libc::O_PATH | libc::O_DIRECTORY;
            let opened = c_string(link.to_vec())
                .and_then(|link| open_at(self.proc.as_raw_fd(), &link, flags, 0));
            let Ok(opened) = opened else { return false };
            start = Some(opened);
            rest = below;
        }
        let Ok(rest) = c_string(rest.to_vec()) else {
            return false;
        };
        let directory = start.as_ref().map_or(libc::AT_FDCWD, OwnedFd::as_raw_fd);
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        matches!(
            open_how(directory, &rest, flags, 0, NO_OTHER_MOUNT),
            Err(Errno::ENOENT | Errno::ENOTDIR)
        )
    }

    /// Fails if a process has no such descriptor open.
    pub(super) fn require_descriptor(&self, pid: u32, descriptor: i32) -> Result<(), Errno> {
        self.link_of_descriptor(pid, descriptor).map(drop)
    }

    /// Fails too if the descriptor is a mere name (`O_PATH`).
    pub(super) fn require_open(&self, pid: u32, descriptor: i32) -> Result<(), Errno> {
        // For reading, for writing or for both, says the link.
        if self.link_of_descriptor(pid, descriptor)?.stx_mode & 0o600 != 0 {
            return Ok(());
        }
        let path = format!("{pid}/fdinfo/{descriptor}");
        let path = c_string(path.into_bytes())?;
        let file = open_at(self.proc.as_raw_fd(), &path, libc::O_RDONLY, 0)?;
        let text = status_of(&file)?;
        let flags =
            status_field(&text, "flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok());
        match flags {
            Some(flags) if flags & libc::O_PATH == 0 => Ok(()),
            _ => Err(Errno::EBADF),
        }
    }

    fn link_of_descriptor(&self, pid: u32, descriptor: i32) -> Result<libc::statx, Errno> {
        if descriptor < 0 {
            return Err(Errno::EBADF);
        }
        let path = c_string(format!("{pid}/fd/{descriptor}").into_bytes())?;
        let nofollow = libc::AT_SYMLINK_NOFOLLOW;
        statx(self.proc.as_raw_fd(), &path, nofollow, 0).map_err(|errno| match errno {
            Errno::ENOENT => Errno::EBADF,
            errno => errno,
        })
    }

    /// A file below `/proc/PID`, up to a length.
    pub fn read_all(&self, pid: u32, rest: &str, most: usize) -> Result<Vec<u8>, Errno> {
        use std::io::Read as _;
        let file = self.of_process(pid, rest)?.reopen(libc::O_RDONLY, 0)?;
        let mut bytes = Vec::new();
        let read = std::fs::File::from(file)
            .take(most as u64)
            .read_to_end(&mut bytes);
        read.map(|_| bytes).map_err(|_| Errno::EIO)
    }

    /// Opens an absolute path as the engine sees it.
    pub fn open_ours(&self, path: &[u8], flags: i32) -> Result<OwnedFd, Errno> {
        let path = c_string([b"self/root", path].concat())?;
        open_at(self.proc.as_raw_fd(), &path, flags, 0)
    }

    /// When a task started, in the kernel's ticks since its own start.
    pub fn started(&self, pid: u32) -> Result<u64, Errno> {
        let stat = self.of_process(pid, "stat")?.reopen(libc::O_RDONLY, 0)?;
        let mut text = [0; 1024];
        let count = nix::unistd::read(&stat, &mut text)?;
        let text = String::from_utf8_lossy(&text[..count]);
        // The name is in parentheses and may have any characters; the 22nd field
        // is the 20th behind it.
        text.rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
            .ok_or(Errno::ESRCH)
    }

    /// What a task is allowed and how its files begin.
    pub fn status(&self, pid: u32) -> Result<Status, Errno> {
        let file = self.of_process(pid, "status")?;
        Status::parse(&status_of(&file.reopen(libc::O_RDONLY, 0)?)?).ok_or(Errno::ESRCH)
    }

    /// What signals do to a task.
    pub(in crate::sandbox) fn signals(&self, pid: u32) -> Result<Signals, Errno> {
        let file = self.of_process(pid, "status")?;
        Signals::parse(&status_of(&file.reopen(libc::O_RDONLY, 0)?)?).ok_or(Errno::ESRCH)
    }

    /// The same, quickly where the task is its first thread.
    pub(in crate::sandbox) fn process(&self, pid: u32) -> Result<u32, Errno> {
        // The kernel finds a task by its number only in the process that it is of.
        // SAFETY: it sends nothing.
        let sent = Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, 0) });
        match sent {
            Err(Errno::ESRCH) => self.group(pid),
            _ => Ok(pid),
        }
    }

    /// The number of the process that a task belongs to.
    pub(super) fn group(&self, pid: u32) -> Result<u32, Errno> {
        let file = self.of_process(pid, "status")?;
        let text = status_of(&file.reopen(libc::O_RDONLY, 0)?)?;
        status_number(&text, "Tgid:").ok_or(Errno::ESRCH)
    }

    /// The root that this thread has.
    pub(super) fn root(&self) -> RootId {
        self.root
    }
}

pub(super) fn c_string(bytes: Vec<u8>) -> Result<CString, Errno> {
    // A prefix of ours may make a path too long that was not.
    if bytes.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

impl Target {
    /// `statx(2)` with at least what identifies the file, and its owner and mode.
    pub fn statx(&self, more: u32) -> Result<libc::statx, Errno> {
        self.statx_with(libc::AT_NO_AUTOMOUNT, more)
    }

    /// The same with more flags.
    pub fn statx_with(&self, flags: i32, more: u32) -> Result<libc::statx, Errno> {
        match self {
            Target::Name {
                directory,
                path,
                follow,
            } => {
                let nofollow = if *follow {
                    0
                } else {
                    libc::AT_SYMLINK_NOFOLLOW
                };
                statx(*directory, path, flags | nofollow, more)
            }
            Target::File(file) => statx(file.as_raw_fd(), c"", flags | libc::AT_EMPTY_PATH, more),
        }
    }

    /// Opens it; `O_CLOEXEC` is added. A link that was not followed is not opened.
    pub fn reopen(&self, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
        match self {
            Target::Name {
                directory,
                path,
                follow,
            } => {
                let nofollow = if *follow { 0 } else { libc::O_NOFOLLOW };
                open_at(*directory, path, flags | nofollow, mode)
            }
            Target::File(file) => {
                let path = by_descriptor(file)?;
                open_at(libc::AT_FDCWD, &path, flags & !libc::O_NOFOLLOW, mode)
            }
        }
    }

    /// Opens it as a mere name, also a link or what cannot be read.
    pub fn into_file(self) -> Result<OwnedFd, Errno> {
        match self {
            Target::File(file) => Ok(file),
            name @ Target::Name { .. } => name.reopen(libc::O_PATH, 0),
        }
    }
}

/// A name for an open file, for calls that take no descriptor: workers stay in the
/// `/proc` that was opened at the start.
pub(super) fn by_descriptor(file: &OwnedFd) -> Result<CString, Errno> {
    CString::new(format!("self/fd/{}", file.as_raw_fd())).map_err(|_| Errno::EINVAL)
}

/// `openat(2)` with `O_CLOEXEC`.
pub fn open_at(
    directory: RawFd,
    path: &std::ffi::CStr,
    flags: i32,
    mode: u32,
) -> Result<OwnedFd, Errno> {
    // SAFETY: the path is terminated and lives across the call.
    let fd = unsafe { libc::openat(directory, path.as_ptr(), flags | libc::O_CLOEXEC, mode) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `openat2(2)` with `O_CLOEXEC`.
pub fn open_how(
    directory: RawFd,
    path: &std::ffi::CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> Result<OwnedFd, Errno> {
    let flags = (flags | libc::O_CLOEXEC) as u32;
    let how = [u64::from(flags), u64::from(mode), resolve];
    // SAFETY: the path is terminated; `how` has the three fields of the
    // structure's first version. Both live across the call.
    let fd = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory,
            path.as_ptr(),
            how.as_ptr(),
            size_of_val(&how),
        )
    })?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `statx(2)` of a path.
pub fn statx(
    directory: RawFd,
    path: &std::ffi::CStr,
    flags: i32,
    more: u32,
) -> Result<libc::statx, Errno> {
    let mask = libc::STATX_TYPE
        | libc::STATX_MODE
        | libc::STATX_UID
        | libc::STATX_GID
        | libc::STATX_INO
        | libc::STATX_BTIME
        | more;
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is terminated, and `found` has room for the structure.
    Errno::result(unsafe {
        libc::statx(directory, path.as_ptr(), flags, mask, found.as_mut_ptr())
    })?;
    // SAFETY: zeroes are a valid value, and the kernel has overwritten them.
    Ok(unsafe { found.assume_init() })
}

/// `statx(2)` of an open file.
pub fn statx_of(file: &OwnedFd) -> Result<libc::statx, Errno> {
    statx(file.as_raw_fd(), c"", libc::AT_EMPTY_PATH, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_move_until_all_who_change_them_make_another_call() {
        let roots = Roots::default();
        let moving = || roots.moving.load(Ordering::Acquire);
        let changes = || roots.changes.load(Ordering::Acquire);
        roots.settle(5);
        assert_eq!((moving(), changes()), (false, 0));
        for pid in [5, 6, 5] {
            roots.move_about(pid);
        }
        assert_eq!((moving(), changes()), (true, 3));
        roots.settle(7);
        roots.settle(5);
        assert_eq!((moving(), changes()), (true, 3));
        roots.settle(6);
        assert_eq!((moving(), changes()), (false, 4));
    }

    #[test]
    fn strings_are_read_from_memory_whole() {
        let pid = std::process::id();
        let long = CString::new(vec![b'x'; 1000]).expect("no zero");
        let address = long.as_ptr() as u64;
        assert_eq!(
            read_string(pid, address, PATH_MAX).as_deref(),
            Ok(long.as_bytes())
        );
        assert_eq!(read_string(pid, address, 1000), Err(Errno::ENAMETOOLONG));
        assert_eq!(read_path(pid, 8), Err(Errno::EFAULT));
    }
}
