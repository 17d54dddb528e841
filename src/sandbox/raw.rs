//! The caller's terminal while its keys are a shell's: raw, and set back however that ends.
//!
//! Main sets it back. If main is killed, a watcher does: a child of main's that has this
//! terminal and nothing else, and that ends with it.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{self, SetArg, Termios};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use super::process;

/// A terminal that is raw until this is dropped.
#[derive(Debug)]
pub(super) struct Raw {
    terminal: BorrowedFd<'static>,
    /// How it was.
    before: Termios,
    raw: Termios,
    /// Dropped after the terminal was set back.
    _watcher: Option<Watcher>,
}

impl Raw {
    /// Makes it raw. A job in the background stops here, until it is brought to the
    /// foreground: what the terminal is meanwhile is another program's, such as a shell's that
    /// edits its line.
    pub fn make(terminal: BorrowedFd<'static>) -> io::Result<Raw> {
        wait_for_foreground(terminal)?;
        let before = termios::tcgetattr(terminal)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        let made = Raw {
            terminal,
            // Without a process for it the terminal is set back all the same, but for SIGKILL.
            _watcher: Watcher::start(terminal, &before, &raw).ok(),
            before,
            raw,
        };
        made.again()?;
        Ok(made)
    }

    /// Makes it raw once more, after others may have changed it.
    pub fn again(&self) -> io::Result<()> {
        Ok(termios::tcsetattr(
            self.terminal,
            SetArg::TCSANOW,
            &self.raw,
        )?)
    }

    /// How it was.
    pub fn before(&self) -> &Termios {
        &self.before
    }
}

impl Drop for Raw {
    /// Sets it back, if it is not another job's by now.
    fn drop(&mut self) {
        let foreground = nix::unistd::tcgetpgrp(self.terminal);
        if foreground.is_ok_and(|group| group != nix::unistd::getpgrp()) {
            return;
        }
        let _ = termios::tcsetattr(self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// Stops who is in the background until that is over, without a change to the terminal.
fn wait_for_foreground(terminal: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        match termios::tcdrain(terminal) {
            Err(Errno::EINTR) => {}
            Err(Errno::EIO) => return Err(Errno::EIO.into()),
            _ => return Ok(()),
        }
    }
}

/// A process that sets a terminal back when this one is gone.
#[derive(Debug)]
struct Watcher(Pid);

impl Watcher {
    fn start(terminal: BorrowedFd<'_>, before: &Termios, raw: &Termios) -> io::Result<Watcher> {
        let (before, raw) = (before.clone().into(), raw.clone().into());
        let main = process::descriptor(std::process::id())?;
        // SAFETY: all that the child does are system calls; there may be other threads here.
        match unsafe { fork() }? {
            ForkResult::Child => watch(terminal.as_raw_fd(), &main, &before, &raw),
            ForkResult::Parent { child } => Ok(Watcher(child)),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

/// The watcher's whole life.
fn watch(terminal: RawFd, main: &OwnedFd, before: &libc::termios, raw: &libc::termios) -> ! {
    // SAFETY: descriptors, and values that live across the calls; nobody uses what is closed.
    unsafe {
        // No job of this terminal: what ends or stops those is not for it.
        libc::setsid();
        let main = main.as_raw_fd();
        let (low, high) = (terminal.min(main), terminal.max(main));
        let close = |from: RawFd, to: RawFd| {
            if from <= to {
                libc::syscall(libc::SYS_close_range, from, to, 0);
            }
        };
        close(0, low - 1);
        close(low + 1, high - 1);
        close(high + 1, RawFd::MAX);
        let mut polled = libc::pollfd {
            fd: main,
            events: libc::POLLIN,
            revents: 0,
        };
        while libc::poll(&raw mut polled, 1, -1) < 0 {}
        let mut now = *before;
        // Another program may have it by now, and have changed it.
        if libc::tcgetattr(terminal, &raw mut now) == 0
            && (now.c_iflag, now.c_oflag, now.c_lflag, now.c_cc)
                == (raw.c_iflag, raw.c_oflag, raw.c_lflag, raw.c_cc)
        {
            libc::tcsetattr(terminal, libc::TCSANOW, before);
        }
        libc::_exit(0)
    }
}
