//! Processes: where this one stands, and what forks are made of.

use std::io::{self, Write as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use super::Error;

/// Whether this sandbox shares the process numbers of its host.
static SHARED: AtomicBool = AtomicBool::new(false);

/// Whether the sandbox that this process is in has process numbers of its own.
pub(super) fn has_own_processes() -> bool {
    !SHARED.load(Ordering::Relaxed)
}

/// Says so, before the sandbox's first process is started.
pub(super) fn set_own_processes(own: bool) {
    SHARED.store(!own, Ordering::Relaxed);
}

/// Whether this process is the engine of a sandbox.
static ENGINE: AtomicBool = AtomicBool::new(false);

/// Whether this process is the engine of a sandbox: uid 0 of its namespaces,
/// with init as its parent.
pub(crate) fn is_engine() -> bool {
    ENGINE.load(Ordering::Relaxed)
}

/// Makes this process the engine.
pub(super) fn become_engine() {
    ENGINE.store(true, Ordering::Relaxed);
}

/// Descriptors of one direction each; the other ends close by being dropped.
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(io::Error::from)
        .map_err(Error::system("making a pipe"))
}

/// Forks into new namespaces; `None` in the child, which is PID 1 of a new PID
/// namespace. The calling process must have one thread.
///
/// A bare `clone`, because `unshare(CLONE_NEWPID)` would bar the keeper from
/// starting threads and further processes of its own.
pub(super) fn clone_process(namespaces: libc::c_int) -> io::Result<Option<Pid>> {
    let flags = namespaces | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork; the process has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(Pid::from_raw(pid as libc::pid_t))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor that becomes readable when the process ends. See `pidfd_open(2)`.
pub(super) fn descriptor(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Waits for a child; the status is a shell's. One that a program of a hook stopped goes on.
pub(super) fn wait_for(pid: Pid) -> io::Result<u8> {
    loop {
        match waitpid(pid, Some(WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Stopped(..)) => {
                let _ = kill(pid, Signal::SIGCONT);
            }
            Ok(WaitStatus::Exited(_, status)) => return Ok(u8::try_from(status).unwrap_or(125)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128u8.saturating_add(signal as u8)),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for the end of a program. If it is stopped, by its own will (`suspend`) too, it goes on:
/// nobody else would see to that.
pub(super) fn wait_until_ended(child: Child) -> io::Result<ExitStatus> {
    let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    loop {
        let mut status = 0;
        // SAFETY: the call writes one integer, about a child that nobody else waits for.
        let found = unsafe { libc::waitpid(pid, &raw mut status, libc::WUNTRACED) };
        if found == pid && libc::WIFSTOPPED(status) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        } else if found == pid {
            return Ok(ExitStatus::from_raw(status));
        } else {
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            }
        }
    }
}

/// Ends the process without running the exit handlers of the process that it
/// was forked from.
pub(super) fn exit_now(status: u8) -> ! {
    let _ = io::stdout().flush();
    // SAFETY: ends the process, always.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Forks do anything afterwards, which is only sound if no other thread was there.
pub(super) fn require_one_thread() -> Result<(), Error> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads == 1 {
        return Ok(());
    }
    Err(Error::System {
        action: "entering the sandbox from a process with several threads".to_owned(),
        source: io::Error::from(io::ErrorKind::ResourceBusy),
    })
}
