//! Filesystems that do not answer: of a server that is gone (NFS), or of a program that hangs (FUSE).
//!
//! Who asks one for anything waits, often for ever, and kiln looks through the whole of a home.
//! So each that could be one is asked beforehand by a process of its own, for a limited time.

use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::mounts::unescape;
use super::process;

/// How long all of them may take together.
const PATIENCE: Duration = Duration::from_secs(3);

/// So many are asked; further ones are believed to answer.
const MOST: usize = 256;

/// How the names of kinds begin that somebody else answers for. See `filesystems(5)`.
const KINDS: [&str; 12] = [
    "fuse", "nfs", "cifs", "smb", "ceph", "9p", "afs", "gluster", "lustre", "gfs", "ocfs",
    "orangefs",
];

/// Those that were found.
static SILENT: OnceLock<Vec<PathBuf>> = OnceLock::new();

/// Asks, and remembers for [`is_silent`] which mount points do not answer. What holds one of
/// the paths that a build was given is waited for all the same, and not asked.
///
/// Must be called while the process has one thread.
pub fn ask(given: &[&Path]) -> &'static [PathBuf] {
    SILENT.get_or_init(|| {
        let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        let mut points = of_others(&table);
        points.retain(|point| !given.iter().any(|path| path.starts_with(point)));
        points.truncate(MOST);
        let mut silent = unanswered(points, PATIENCE);
        silent.sort();
        // A cover on the outer one is enough, and the inner ones cannot be come to.
        silent.dedup_by(|inner, outer| inner.starts_with(outer));
        silent
    })
}

/// Whether a path is on a filesystem that did not answer when it was asked.
pub fn is_silent(path: &Path) -> bool {
    let found = SILENT.get();
    found.is_some_and(|silent| silent.iter().any(|point| path.starts_with(point)))
}

/// The same for what is below its mount point, which itself can be come to.
pub(super) fn is_below_silent(path: &Path) -> bool {
    path.parent().is_some_and(is_silent)
}

/// Mount points of a `mountinfo` table that somebody else answers for. See
/// `proc_pid_mountinfo(5)`.
fn of_others(table: &[u8]) -> Vec<PathBuf> {
    let line = |line: &[u8]| {
        let mut fields = line.split(|&byte| byte == b' ');
        let point = unescape(fields.nth(4)?);
        let kind = fields.skip_while(|&field| field != b"-").nth(1)?;
        let is_of_others = KINDS.iter().any(|start| kind.starts_with(start.as_bytes()));
        is_of_others.then(|| PathBuf::from(OsString::from_vec(point)))
    };
    table
        .split(|&byte| byte == b'\n')
        .filter_map(line)
        .collect()
}

fn unanswered(points: Vec<PathBuf>, patience: Duration) -> Vec<PathBuf> {
    let end = Instant::now() + patience;
    let asked: Vec<(PathBuf, Option<(Pid, OwnedFd)>)> = points
        .into_iter()
        .map(|point| {
            let asks = CString::new(point.as_os_str().as_bytes()).ok();
            let asks = asks.and_then(|name| start(&name));
            (point, asks)
        })
        .collect();
    let is_silent = |(point, asks): (PathBuf, Option<(Pid, OwnedFd)>)| {
        let (pid, ended) = asks?;
        let left = end.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let answered = poll(&mut polled, left) != Ok(0);
        if !answered {
            let _ = kill(pid, Signal::SIGKILL);
        }
        // One that the kernel does not let go is left behind.
        let how = (!answered).then_some(WaitPidFlag::WNOHANG);
        let _ = waitpid(pid, how);
        (!answered).then_some(point)
    };
    asked.into_iter().filter_map(is_silent).collect()
}

/// Starts a process that asks; what tells of its end is readable then.
fn start(name: &CStr) -> Option<(Pid, OwnedFd)> {
    // SAFETY: all that the child does are system calls.
    match unsafe { fork() }.ok()? {
        ForkResult::Child => {
            // SAFETY: integers, a path and buffers that live across the calls; nobody uses what
            // is closed, and nobody is to wait for it where this process cannot be ended.
            unsafe {
                libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
                let mut about = std::mem::zeroed();
                let mut whole = std::mem::zeroed();
                let flags = libc::AT_STATX_FORCE_SYNC;
                let mask = libc::STATX_BASIC_STATS;
                libc::statx(libc::AT_FDCWD, name.as_ptr(), flags, mask, &raw mut about);
                libc::statfs(name.as_ptr(), &raw mut whole);
                // One may tell of itself and not of what is in it.
                let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NONBLOCK;
                let directory = libc::open(name.as_ptr(), flags);
                let mut names = [0u8; 4096];
                let (room, size) = (names.as_mut_ptr(), names.len());
                libc::syscall(libc::SYS_getdents64, directory, room, size);
                libc::_exit(0)
            }
        }
        ForkResult::Parent { child } => {
            let ended = process::descriptor(u32::try_from(child.as_raw()).ok()?).ok()?;
            Some((child, ended))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystems_of_others_are_told_by_their_kind() {
        let table = b"1 0 8:1 / / rw shared:1 - ext4 /dev/x rw\n\
            2 1 0:5 / /a\\040b rw,nosuid - fuse.sshfs h: rw\n\
            3 1 0:6 / /c rw shared:2 master:1 - nfs4 s:/ rw\n\
            4 1 0:7 / /d rw - tmpfs fuse rw\n\n";
        assert_eq!(of_others(table), ["/a b", "/c"].map(PathBuf::from));
    }

    #[test]
    fn what_is_there_answers() {
        let points = ["/", "/proc", "/nonexistent"].map(PathBuf::from).to_vec();
        assert_eq!(
            unanswered(points, Duration::from_secs(60)),
            Vec::<PathBuf>::new()
        );
    }
}
