//! The processes of a sandbox that has no PID namespace of its own.
//!
//! A PID namespace ends with its PID 1. Where none can be had (or none that has a
//! `/proc` to match), main, keeper and init each become the parent of what their
//! descendants leave behind (`PR_SET_CHILD_SUBREAPER`), and each of them, when it
//! sees that its neighbour is gone, kills all its own descendants. So whichever of
//! them is killed, one of the others clears up; only killing all of them at the
//! same time leaves something. See `prctl(2)`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::capability::CAP_SYS_CHROOT;

/// Rounds of killing, at 2 ms each, before a process counts as stuck in the kernel.
const ROUNDS: u32 = 2000;

/// Rounds without a find after which nobody is left, if nobody can start another: who was let
/// into `fork(2)` before may have come from there, and ended, while the first was under way.
const QUIET: u32 = 2;

/// Fields of `/proc/PID/stat` between the parent and the number of threads.
const THREADS: usize = 15;

/// Who may not start processes and threads, where the supervisor answers such calls.
static NO_STARTS: AtomicU8 = AtomicU8::new(NOBODY);
const NOBODY: u8 = 0;
const IN_TARGETS: u8 = 1;
const ALL: u8 = 2;

/// Whether a program that makes such a call may not, while programs are being ended. Each of a
/// row that start one another and end would be gone whenever somebody looks at it.
pub(super) fn starts_nothing(
    is_in_target: impl FnOnce() -> Result<bool, Errno>,
) -> Result<bool, Errno> {
    match NO_STARTS.load(Ordering::Acquire) {
        NOBODY => Ok(false),
        IN_TARGETS => is_in_target(),
        _ => Ok(true),
    }
}

/// Nobody of some starts anything as long as this lives.
struct NoStarts(u8);

impl NoStarts {
    fn of(whom: u8) -> NoStarts {
        NoStarts(NO_STARTS.swap(whom, Ordering::AcqRel))
    }
}

impl Drop for NoStarts {
    fn drop(&mut self) {
        NO_STARTS.store(self.0, Ordering::Release);
    }
}

/// `/proc` as it was before any mount, so that its numbers are ours.
static PROC: OnceLock<OwnedFd> = OnceLock::new();

fn proc() -> Option<&'static OwnedFd> {
    if let Some(proc) = PROC.get() {
        return Some(proc);
    }
    let proc = super::mounts::open_directory("/proc".as_ref()).ok()?;
    Some(PROC.get_or_init(|| proc))
}

/// Makes the calling process the parent of whatever its descendants orphan.
pub(super) fn adopt() {
    // Opened now: later, mounts or another root may hide it.
    let _ = proc();
    let _ = nix::sys::prctl::set_child_subreaper(true);
}

/// The parent of each process that runs; zombies are left out, but for those of which only
/// the first thread has ended.
fn parents() -> Result<BTreeMap<i32, i32>, Errno> {
    let mut parents = BTreeMap::new();
    for pid in numbers(".")? {
        if let Some(parent) = parent(pid)? {
            parents.insert(pid, parent);
        }
    }
    Ok(parents)
}

/// The processes, or tasks, that a directory of `/proc` lists.
fn numbers(path: &str) -> Result<Vec<i32>, Errno> {
    let flags =
        nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
    let mode = nix::sys::stat::Mode::empty();
    let proc = proc().ok_or(Errno::ENOENT)?;
    let mut directory = nix::dir::Dir::openat(proc.as_fd(), path, flags, mode)?;
    let mut numbers = Vec::new();
    for entry in directory.iter() {
        let name = entry?.file_name().to_str().ok().map(str::parse);
        if let Some(Ok(number)) = name {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

fn parent(pid: i32) -> Result<Option<i32>, Errno> {
    let text = read(&format!("{pid}/stat"))?;
    Ok(text.and_then(|text| parse_stat(&text)))
}

/// What was looked for, or `None` where there is nothing to see: the process is gone, or hides.
/// Where this process lacks what it takes to look (files that it may open, memory), nothing is
/// known, which is not the same.
fn if_seen<T>(looked: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => Err(errno),
        Err(_) => Ok(None),
    }
}

/// A file below `/proc`.
fn read(path: &str) -> Result<Option<Vec<u8>>, Errno> {
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
    let proc = proc().ok_or(Errno::ENOENT)?;
    let opened = nix::fcntl::openat(proc, path, flags, nix::sys::stat::Mode::empty());
    let Some(file) = if_seen(opened)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    let read = std::fs::File::from(file).read_to_end(&mut bytes);
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    Ok(if_seen(read.map_err(errno))?.map(|_| bytes))
}

/// The parent from `/proc/PID/stat`; `None` for a zombie. See `proc_pid_stat(5)`.
///
/// A process whose first thread has ended looks like one, however many others go on
/// (`pthread_exit(3)`).
fn parse_stat(bytes: &[u8]) -> Option<i32> {
    // The name, in parentheses, may hold anything.
    let end = bytes.iter().rposition(|&byte| byte == b')')?;
    let text = std::str::from_utf8(bytes.get(end + 1..)?).ok()?;
    let mut fields = text.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // The 20th field of all is the 16th behind the parent.
    let mut threads = || fields.nth(THREADS)?.parse::<u32>().ok();
    let has_ended = match state {
        "Z" => threads().is_none_or(|threads| threads < 2),
        state => state == "X",
    };
    (!has_ended).then_some(parent)
}

/// Everything that descends from `ancestor`.
fn descendants(parents: &BTreeMap<i32, i32>, ancestor: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (&pid, &parent) in parents {
        children.entry(parent).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut next = vec![ancestor];
    while let Some(pid) = next.pop() {
        for &child in children.get(&pid).into_iter().flatten() {
            // Whatever odd table: each is visited once.
            if child != ancestor && !found.contains(&child) {
                found.push(child);
                next.push(child);
            }
        }
    }
    found
}

/// Everything that descends from the parent of the calling process.
pub(super) fn siblings() -> Vec<i32> {
    let parents = parents().unwrap_or_default();
    descendants(&parents, Pid::parent().as_raw())
}

/// Kills what `find` finds until nothing is left, and tells whether that came to be. `reap`
/// collects the children that this process got. What cannot be looked for may be there.
fn end(reap: bool, find: impl Fn() -> Result<Vec<i32>, Errno>) -> bool {
    let mut quiet = 0;
    for _ in 0..ROUNDS {
        let looked = find();
        let is_known = looked.is_ok();
        let left = looked.unwrap_or_default();
        // Stopped first, so that none can start another meanwhile.
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for &pid in &left {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
        quiet = match left.is_empty() && is_known {
            true => quiet + 1,
            false => 0,
        };
        if reap {
            // Who has no children has no descendants, since it gets all that they leave.
            if reap_all() {
                return true;
            }
        } else if quiet == QUIET {
            return true;
        }
        if reap || quiet == 0 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    false
}

/// Collects children that have ended; true if there are no others.
fn reap_all() -> bool {
    loop {
        let how = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
        match waitpid(Pid::from_raw(-1), Some(how)) {
            Err(Errno::ECHILD) => return true,
            Ok(nix::sys::wait::WaitStatus::StillAlive) => return false,
            _ => {}
        }
    }
}

/// What descends from a process, but for the calling one.
fn family_of(ancestor: Pid) -> Result<Vec<i32>, Errno> {
    let mut found = descendants(&parents()?, ancestor.as_raw());
    found.retain(|&pid| pid != Pid::this().as_raw());
    Ok(found)
}

/// Kills and reaps everything that descends from the calling process, which has
/// called [`adopt`] and has no children that it needs any more.
pub(super) fn end_descendants() -> bool {
    end(true, || family_of(Pid::this()))
}

/// Kills everything that descends from the parent of the calling process, but for
/// this process itself. The parent reaps.
pub(super) fn end_siblings() -> bool {
    let _nobody = NoStarts::of(ALL);
    end(false, || family_of(Pid::parent()))
}

/// Kills all programs that have the root directory `root`.
pub(super) fn end_within(root: &OwnedFd) -> bool {
    let Ok(root) = nix::sys::stat::fstat(root) else {
        return false;
    };
    let _nobody = NoStarts::of(IN_TARGETS);
    let (root, kiln) = (identity(root), look("self/exe").ok());
    end(false, || {
        let family = family_of(Pid::parent())?;
        let mut found = Vec::new();
        for pid in numbers(".")? {
            let is_within = match has_root(&pid.to_string(), root, kiln)? {
                Within::Yes => true,
                Within::No => false,
                // It keeps others from looking, as who cannot read its own program does.
                Within::Hidden => family.contains(&pid) && is_held(pid)?,
            };
            if is_within {
                found.push(pid);
            }
        }
        Ok(found)
    })
}

/// Whether a process may never change its root directory, as programs in a target.
fn is_held(pid: i32) -> Result<bool, Errno> {
    let text = read(&format!("{pid}/status"))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let bounding = text.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = bounding.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    Ok(bounding.is_some_and(|set| set & 1 << CAP_SYS_CHROOT == 0))
}

/// What tells a file from others.
type Identity = (u64, u64);

fn identity(found: nix::sys::stat::FileStat) -> Identity {
    (found.st_dev, found.st_ino)
}

fn look(path: &str) -> Result<Identity, Errno> {
    let proc = proc().ok_or(Errno::ENOENT)?;
    nix::sys::stat::fstatat(proc, path, AtFlags::empty()).map(identity)
}

/// Whether a process is in a root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Yes,
    No,
    /// That is not told.
    Hidden,
}

/// Whether a process has a root directory and is none of kiln's: a guard has that of whom
/// it was started for. Threads that have ended, as the first of them may have, have none.
fn has_root(pid: &str, root: Identity, kiln: Option<Identity>) -> Result<Within, Errno> {
    let is_within = |task: &str| match look(&format!("{task}/root")) {
        Ok(found) if found == root && look(&format!("{task}/exe")).ok() != kiln => {
            Ok(Some(Within::Yes))
        }
        Ok(_) => Ok(Some(Within::No)),
        Err(Errno::EACCES | Errno::EPERM) => Ok(Some(Within::Hidden)),
        other => if_seen(other).map(|_| None),
    };
    if let Some(found) = is_within(pid)? {
        return Ok(found);
    }
    let tasks = if_seen(numbers(&format!("{pid}/task")))?.unwrap_or_default();
    for task in tasks {
        match is_within(&format!("{pid}/task/{task}"))? {
            None | Some(Within::No) => {}
            Some(found) => return Ok(found),
        }
    }
    Ok(Within::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_whatever_the_name_is() {
        assert_eq!(parse_stat(b"7 (a) b) S 3 7 7 0"), Some(3));
        assert_eq!(parse_stat(b"7 (\xff) R 1 7"), Some(1));
        assert_eq!(parse_stat(b"7 (a) Z 3 7"), None);
        let ended = |threads| format!("7 (a) Z 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 0");
        assert_eq!(parse_stat(ended(1).as_bytes()), None);
        assert_eq!(parse_stat(ended(2).as_bytes()), Some(3));
        assert_eq!(parse_stat(b"nothing"), None);
    }

    #[test]
    fn who_cannot_be_looked_for_is_not_taken_for_gone() {
        let rounds = std::cell::Cell::new(0);
        let ended = end(false, || {
            rounds.set(rounds.get() + 1);
            match rounds.get() {
                1..=5 => Err(Errno::EMFILE),
                _ => Ok(Vec::new()),
            }
        });
        assert_eq!((ended, rounds.get()), (true, 5 + QUIET));
        // SAFETY: the child makes system calls, needs little memory, and never returns.
        match unsafe { nix::unistd::fork() }.expect("a child") {
            nix::unistd::ForkResult::Child => {
                let open = proc().is_some() && parents().is_ok();
                let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
                let limited = nix::sys::resource::setrlimit(limit, 0, 0).is_ok();
                let is_known = parents().is_ok() || numbers("self/task").is_ok();
                // SAFETY: ends the process.
                unsafe { libc::_exit(i32::from(!open || !limited || is_known)) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                let ended = waitpid(child, None).expect("it ends");
                assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
    }

    #[test]
    fn descendants_are_found_over_generations() {
        let parents = BTreeMap::from([(1, 0), (5, 1), (6, 5), (7, 6), (8, 1), (9, 7)]);
        let mut found = descendants(&parents, 5);
        found.sort_unstable();
        assert_eq!(found, [6, 7, 9]);
        assert!(descendants(&parents, 9).is_empty());
    }
}
