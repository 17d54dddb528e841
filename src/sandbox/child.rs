//! What a process with threads has a child make: namespaces, and mounts in them.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{ForkResult, Pid, fork};

use super::handover;
use super::process::wait_for;

/// How long a child is waited for before it is woken, in milliseconds.
const LOOK: u8 = 100;

/// A child that has made something and waits, as itself is needed to make more of it: only a
/// process with one thread makes, or enters, a user namespace.
pub(super) struct Child {
    pub(super) number: Pid,
    made: OwnedFd,
    /// It ends when something is said here, or when this is closed.
    lifeline: OwnedFd,
}

impl Child {
    /// Starts it. `make` only makes system calls, since the caller may have threads.
    pub(super) fn start(make: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<Child> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        // SAFETY: all that the child does are system calls.
        match unsafe { fork() }? {
            ForkResult::Child => {
                drop(ours);
                let sent =
                    make().and_then(|made| handover::send(theirs.as_raw_fd(), made.as_raw_fd(), 0));
                if sent.is_ok() {
                    let _ = nix::unistd::read(&theirs, &mut [0]);
                }
                let errno = sent.err().and_then(|error| error.raw_os_error());
                // SAFETY: ends the process, always.
                unsafe { libc::_exit(errno.unwrap_or(0)) }
            }
            ForkResult::Parent { child: number } => {
                drop(theirs);
                let mut polled = [PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
                while matches!(poll(&mut polled, LOOK), Ok(0) | Err(Errno::EINTR)) {
                    // Programs of hooks may stop it.
                    let _ = kill(number, Signal::SIGCONT);
                }
                match handover::receive(ours.as_fd())? {
                    Some((made, _)) => Ok(Child {
                        number,
                        made,
                        lifeline: ours,
                    }),
                    None => Err(match wait_for(number)? {
                        errno @ 0..128 => io::Error::from_raw_os_error(errno.into()),
                        _ => io::Error::other("the process that makes it was killed"),
                    }),
                }
            }
        }
    }

    /// Ends it, and returns what it made.
    pub(super) fn end(self) -> io::Result<OwnedFd> {
        // Somebody who was just started may have a copy.
        nix::unistd::write(&self.lifeline, &[0])?;
        wait_for(self.number)?;
        Ok(self.made)
    }
}
