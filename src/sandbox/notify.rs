//! The supervisor: threads of the engine that answer the system calls of hooks.
//!
//! ```text
//! hook   fork → filter with listener → listener sent to the engine → exec
//! engine   receiver   takes listeners, starts their workers, adds one when all are stuck
//!           └ worker  receives a call, has it answered (`emul`), until all tasks are gone
//! ```
//!
//! One worker a listener answers nearly everything: with the kernel's
//! `SYNC_WAKE_UP` (6.6) it runs on the caller's processor, and more workers would
//! only take turns. A call may wait for another trapped one, though (a file
//! system served from inside the sandbox), so workers are added while all are busy
//! without progress.
//!
//! Once a call is received, only a fatal signal ends its wait
//! (`WAIT_KILLABLE_RECV`, Linux 5.19). A signal that lands in the microseconds
//! before makes the call start anew, or end with `EINTR` if the handler was
//! installed without `SA_RESTART`; no system call but one that is traced could
//! hide that. See `seccomp_unotify(2)`.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Error;
use super::bpf;
use super::emul::{Answer, Emulation, Worker};
use super::seccomp::{self, Filter};
use super::store::Store;

/// How long calls may be without progress before a worker is added.
const STUCK_MILLISECONDS: u16 = 50;
/// Workers of one listener at most.
const MOST_WORKERS: usize = 64;

/// One filter's calls.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    /// Calls answered so far.
    answered: AtomicU64,
    /// Workers that are answering a call.
    busy: AtomicUsize,
    workers: AtomicUsize,
}

impl Listener {
    fn new(fd: OwnedFd) -> Listener {
        // A hint for speed; kernels before 6.6 do not know it.
        let flags: u64 = 1;
        // SAFETY: the flags are passed by value to a listener that is open.
        let _ = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags) };
        Listener {
            fd,
            answered: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            workers: AtomicUsize::new(0),
        }
    }

    /// Waits for a call; `None` once no task is left that could make one.
    fn receive(&self) -> Option<libc::seccomp_notif> {
        loop {
            let mut polled = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(_) => return None,
                Ok(_) => {}
            }
            let events = polled[0].revents().unwrap_or(PollFlags::POLLHUP);
            if !events.contains(PollFlags::POLLIN) {
                return None;
            }
            let mut call = std::mem::MaybeUninit::<libc::seccomp_notif>::zeroed();
            // SAFETY: the kernel fills a structure of the size in the request,
            // which it wants zeroed.
            let result = unsafe {
                libc::ioctl(
                    self.fd.as_raw_fd(),
                    libc::SECCOMP_IOCTL_NOTIF_RECV,
                    call.as_mut_ptr(),
                )
            };
            match Errno::result(result) {
                // SAFETY: zeroes are a valid value, now overwritten by the kernel.
                Ok(_) => return Some(unsafe { call.assume_init() }),
                // The task was killed, or another worker was faster.
                Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
                Err(_) => return None,
            }
        }
    }

    /// Whether the task still waits for this answer. Until then its number
    /// cannot have become another's.
    pub fn waits(&self, id: u64) -> bool {
        // SAFETY: the kernel reads an id that lives across the call.
        let result = unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
                &raw const id,
            )
        };
        result == 0
    }

    fn send(&self, id: u64, answer: Answer) {
        let mut response = libc::seccomp_notif_resp {
            id,
            val: 0,
            error: 0,
            flags: 0,
        };
        match answer {
            Answer::Continue => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Answer::Value(value) => response.val = value,
            Answer::Error(errno) => response.error = -(errno as i32),
            Answer::Descriptor {
                file,
                close_on_exec,
            } => match self.send_descriptor(id, &file, close_on_exec) {
                Ok(()) => return,
                Err(errno) => response.error = -(errno as i32),
            },
        }
        // SAFETY: the kernel reads a structure that lives across the call. That
        // the task was killed meanwhile is the only likely error.
        let _ = unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw const response,
            )
        };
    }

    /// Gives the task a descriptor as the result of its call.
    fn send_descriptor(&self, id: u64, file: &OwnedFd, close_on_exec: bool) -> Result<(), Errno> {
        let request = libc::seccomp_notif_addfd {
            id,
            flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
            srcfd: u32::try_from(file.as_raw_fd()).map_err(|_| Errno::EBADF)?,
            newfd: 0,
            newfd_flags: if close_on_exec {
                libc::O_CLOEXEC as u32
            } else {
                0
            },
        };
        // SAFETY: the kernel reads a structure that lives across the call.
        Errno::result(unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ADDFD,
                &raw const request,
            )
        })
        .map(drop)
    }

    fn work(&self, worker: &mut Worker, first: bool) {
        while let Some(call) = self.receive() {
            self.busy.fetch_add(1, Ordering::Relaxed);
            let answer = worker.answer(self, &call);
            self.send(call.id, answer);
            self.answered.fetch_add(1, Ordering::Relaxed);
            self.busy.fetch_sub(1, Ordering::Relaxed);
            // Added workers leave as soon as there is somebody else again.
            if !first
                && self.busy.load(Ordering::Relaxed) + 1 < self.workers.load(Ordering::Relaxed)
            {
                break;
            }
        }
        self.workers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers the calls of all programs that run with its filter.
#[derive(Debug)]
pub struct Supervisor {
    emulation: Arc<Emulation>,
    /// Where new programs send their listeners.
    register: Arc<OwnedFd>,
}

impl Supervisor {
    /// Starts it. Must be called with the sandbox's own `/proc` in place.
    pub fn start() -> Result<Supervisor, Error> {
        let failed = || Error::system("starting the supervisor of system calls");
        let proc = nix::fcntl::open(
            "/proc",
            nix::fcntl::OFlag::O_PATH
                | nix::fcntl::OFlag::O_DIRECTORY
                | nix::fcntl::OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )
        .map_err(io::Error::from)
        .map_err(failed())?;
        require_own_proc(&proc)?;
        let (ours, theirs) = nix::sys::socket::socketpair(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::SeqPacket,
            None,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        )
        .map_err(io::Error::from)
        .map_err(failed())?;
        let emulation = Arc::new(Emulation::new(proc));
        let shared = emulation.clone();
        std::thread::Builder::new()
            .name("listeners".to_owned())
            .spawn(move || receive_listeners(&ours, &shared))
            .map_err(failed())?;
        Ok(Supervisor {
            emulation,
            register: Arc::new(theirs),
        })
    }

    /// The filter for programs that it is to answer. Syncs succeed unmade.
    pub fn filter(&self) -> Filter {
        let program = bpf::supervised(&seccomp::SYNCS, self.emulation.virtual_proc);
        Filter::with_listener(program, self.register.clone())
    }

    /// What files should have.
    pub fn store(&self) -> &Arc<Store> {
        &self.emulation.store
    }
}

/// A `/proc` of another PID namespace numbers processes otherwise.
fn require_own_proc(proc: &OwnedFd) -> Result<(), Error> {
    let link = nix::fcntl::readlinkat(proc, "self");
    let own = std::process::id().to_string();
    if link
        .as_ref()
        .is_ok_and(|link| link.as_encoded_bytes() == own.as_bytes())
    {
        return Ok(());
    }
    Err(Error::Mode {
        mode: "single".to_owned(),
        reason: "it needs a `/proc` of the sandbox's own, which is refused here".to_owned(),
        hints: vec![
            "a container that masks parts of /proc refuses it: podman's \
             `--security-opt unmask=ALL`, or Kubernetes' `procMount: Unmasked`"
                .to_owned(),
            "or give the user subordinate ids: `kiln doctor` says how".to_owned(),
        ],
    })
}

/// Takes listeners until nobody can send one any more.
fn receive_listeners(socket: &OwnedFd, emulation: &Arc<Emulation>) {
    let mut active: Vec<(Weak<Listener>, u64)> = Vec::new();
    loop {
        let timeout = if active.is_empty() {
            PollTimeout::NONE
        } else {
            PollTimeout::from(STUCK_MILLISECONDS)
        };
        let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(0) => {
                active.retain_mut(|(listener, seen)| {
                    listener.upgrade().is_some_and(|listener| {
                        relieve(&listener, seen, emulation);
                        true
                    })
                });
                continue;
            }
            Ok(_) => {}
        }
        match receive_descriptor(socket.as_fd()) {
            Ok(Some(fd)) => {
                let listener = Arc::new(Listener::new(fd));
                active.push((Arc::downgrade(&listener), 0));
                start_worker(listener, emulation, true);
            }
            Ok(None) => return,
            Err(error) => {
                tracing::error!("a program's listener was lost: {error}");
            }
        }
    }
}

/// Adds a worker if calls wait and none was answered since the last look.
fn relieve(listener: &Arc<Listener>, seen: &mut u64, emulation: &Arc<Emulation>) {
    let answered = listener.answered.load(Ordering::Relaxed);
    let workers = listener.workers.load(Ordering::Relaxed);
    let stuck = listener.busy.load(Ordering::Relaxed) >= workers && answered == *seen;
    *seen = answered;
    if stuck && workers < MOST_WORKERS {
        start_worker(listener.clone(), emulation, false);
    }
}

fn start_worker(listener: Arc<Listener>, emulation: &Arc<Emulation>, first: bool) {
    listener.workers.fetch_add(1, Ordering::Relaxed);
    let emulation = emulation.clone();
    let started = std::thread::Builder::new()
        .name("supervisor".to_owned())
        .spawn(move || {
            let worked = super::root::own_context(|| {
                Worker::new(emulation).map(|mut worker| listener.work(&mut worker, first))
            });
            if let Err(error) = worked.and_then(|worked| worked) {
                tracing::error!("a supervisor could not start: {error}");
            }
        });
    // Without any worker the listener closes and the calls fail with ENOSYS,
    // which ends the hook.
    if let Err(error) = started {
        tracing::error!("a supervisor could not start: {error}");
    }
}

/// Room for the control message of one descriptor.
const CONTROL: usize = 64;

/// Aligned as control messages must be.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Sends a descriptor. Only makes system calls, so that it can run between fork
/// and exec.
pub(super) fn send_descriptor(socket: RawFd, fd: RawFd) -> io::Result<()> {
    let mut byte = 0u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut control = Control([0; CONTROL]);
    // SAFETY: a message header is valid when zeroed; its parts point to locals
    // that live across the call, and one descriptor's message fits into `control`.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent == 1 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Receives a descriptor; `None` when the other side is closed.
fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut byte = [0];
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    if message.bytes == 0 {
        return Ok(None);
    }
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(&fd) = fds.first()
        {
            // SAFETY: the kernel just gave us this descriptor and nobody else has it.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Err(io::Error::from(io::ErrorKind::InvalidData))
}
