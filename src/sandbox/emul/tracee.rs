//! What the supervisor sees of a program: the files that it names, from its root, and what
//! `/proc` tells of it.

use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;

use super::files::{Target, c_string, open_at, open_how, statx};
use super::roots::{RootId, Roots};
use super::status::{Signals, Status, status_field, status_number, status_of};

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
/// Maps of ids are no longer: 340 lines of three numbers.
const MAPS: usize = 64 << 10;
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

/// The flags that `fdinfo` tells of an open file.
fn open_flags(text: &str) -> Option<i32> {
    status_field(text, "flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok())
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
            self.take_root(&target.into_file()?)?;
            // Not what was found: since then the process may have got another one, or be gone
            // and its number another's.
            self.root = RootId::own()?;
        }
        let _ = roots.first.set(self.root);
        Ok(())
    }

    /// Changes the root directory of this thread. Its working directory stays, whatever
    /// comes of that: names of descriptors start there.
    fn take_root(&self, root: &OwnedFd) -> Result<(), Errno> {
        nix::unistd::fchdir(root)?;
        let taken = nix::unistd::chroot(c".");
        nix::unistd::fchdir(&self.proc)?;
        taken
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
        self.take_root(&root)?;
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
            let opened =
                c_string(link).and_then(|link| open_at(self.proc.as_raw_fd(), &link, flags, 0));
            let Ok(opened) = opened else { return false };
            start = Some(opened);
            rest = below;
        }
        let Ok(rest) = c_string(rest) else {
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
        let flags = open_flags(&self.information_of(pid, descriptor)?);
        match flags {
            Some(flags) if flags & libc::O_PATH == 0 => Ok(()),
            _ => Err(Errno::EBADF),
        }
    }

    /// What a process has a file open for, by that descriptor and no other file's that took
    /// its number meanwhile, where a mount has one file of a number.
    pub(super) fn flags_of(&self, pid: u32, descriptor: i32, file: &OwnedFd) -> Result<i32, Errno> {
        let text = self.information_of(pid, descriptor)?;
        let more = libc::STATX_MNT_ID;
        let found = statx(file.as_raw_fd(), c"", libc::AT_EMPTY_PATH, more)?;
        // The first is told since Linux 5.14.
        let is = |field, number: u64| {
            status_field(&text, field).is_some_and(|value| value == number.to_string())
        };
        if is("ino:", found.stx_ino) && is("mnt_id:", found.stx_mnt_id) {
            return open_flags(&text).ok_or(Errno::EACCES);
        }
        Err(Errno::EACCES)
    }

    /// How far a process has read a directory, and whether the descriptor is closed at
    /// `execve(2)`.
    pub(super) fn progress(&self, pid: u32, descriptor: i32) -> Result<(i64, bool), Errno> {
        let text = self.information_of(pid, descriptor)?;
        let position = status_field(&text, "pos:").and_then(|field| field.parse().ok());
        let flags = open_flags(&text).ok_or(Errno::EIO)?;
        Ok((position.ok_or(Errno::EIO)?, flags & libc::O_CLOEXEC != 0))
    }

    fn information_of(&self, pid: u32, descriptor: i32) -> Result<String, Errno> {
        let path = c_string(format!("{pid}/fdinfo/{descriptor}"))?;
        let file = open_at(self.proc.as_raw_fd(), &path, libc::O_RDONLY, 0)?;
        status_of(&file)
    }

    fn link_of_descriptor(&self, pid: u32, descriptor: i32) -> Result<libc::statx, Errno> {
        if descriptor < 0 {
            return Err(Errno::EBADF);
        }
        let path = c_string(format!("{pid}/fd/{descriptor}"))?;
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
        // The 22nd field is the 20th behind the name.
        let field = self.stat_field(pid, 19)?;
        field.parse().map_err(|_| Errno::ESRCH)
    }

    /// Whether a task runs, or would if it had a processor.
    pub(super) fn is_runnable(&self, pid: u32) -> bool {
        self.stat_field(pid, 0).is_ok_and(|state| state == "R")
    }

    /// A field of `/proc/PID/stat`, counted from that behind the name. See `proc_pid_stat(5)`.
    fn stat_field(&self, pid: u32, number: usize) -> Result<String, Errno> {
        let stat = self.of_process(pid, "stat")?.reopen(libc::O_RDONLY, 0)?;
        let mut text = [0; 1024];
        let count = nix::unistd::read(&stat, &mut text)?;
        let text = String::from_utf8_lossy(&text[..count]);
        // The name is in parentheses and may have any characters.
        text.rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(number))
            .map(str::to_owned)
            .ok_or(Errno::ESRCH)
    }

    /// What a task is allowed and how its files begin.
    pub fn status(&self, pid: u32) -> Result<Status, Errno> {
        let file = self.of_process(pid, "status")?;
        Status::parse(&status_of(&file.reopen(libc::O_RDONLY, 0)?)?).ok_or(Errno::ESRCH)
    }

    /// Whether the user namespace of a task has an id, by its `uid_map` or `gid_map`.
    pub(super) fn has_id(&self, pid: u32, map: &str, id: u32) -> Result<bool, Errno> {
        let text = self.read_all(pid, map, MAPS)?;
        Ok(String::from_utf8_lossy(&text).lines().any(|line| {
            // As seen from here, since it was opened here.
            let mut numbers = line.split_whitespace().map(str::parse::<u64>);
            let (_, first, count) = (numbers.next(), numbers.next(), numbers.next());
            matches!((first, count), (Some(Ok(first)), Some(Ok(count)))
                if (first..first.saturating_add(count)).contains(&u64::from(id)))
        }))
    }

    /// The supplementary groups of a task.
    pub(super) fn groups(&self, pid: u32) -> Result<Vec<u32>, Errno> {
        let file = self.of_process(pid, "status")?;
        let text = status_of(&file.reopen(libc::O_RDONLY, 0)?)?;
        let groups = status_field(&text, "Groups:").unwrap_or_default();
        let groups = groups.split_whitespace();
        Ok(groups.filter_map(|group| group.parse().ok()).collect())
    }

    /// Who made the user namespace of a task.
    pub(super) fn owner_of_namespace(&self, pid: u32) -> Result<u32, Errno> {
        let namespace = self.of_process(pid, "ns/user")?;
        let namespace = namespace.reopen(libc::O_RDONLY, 0)?;
        let mut owner: libc::uid_t = 0;
        // SAFETY: the request writes one id (`ioctl_ns(2)`).
        Errno::result(unsafe {
            libc::ioctl(
                namespace.as_raw_fd(),
                libc::NS_GET_OWNER_UID,
                &raw mut owner,
            )
        })?;
        Ok(owner)
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
