//! The supervisor: threads of the engine that answer the system calls of hooks.
//!
//! ```text
//! hook   fork → filter with listener → listener sent to the engine → exec
//! engine   receiver   takes listeners, starts their workers, looks after stuck ones
//!           └ worker  receives a call, has it answered (`emul`), until all tasks are gone
//! ```
//!
//! One worker of a listener receives, and answers nearly everything: with the
//! kernel's `SYNC_WAKE_UP` (6.6) it runs on the caller's processor, and more
//! workers would only take turns. A call may wait for another trapped one, though
//! (a file system served from inside the sandbox). The receiver notices that
//! nothing moves, and gives the role to another worker. After a few times each
//! call of this listener is received by a worker of its own.
//!
//! Once a call is received, only a fatal signal ends its wait
//! (`WAIT_KILLABLE_RECV`, Linux 5.19); before that version what was done for an
//! interrupted call is remembered until it is made again. A signal that lands in
//! the microseconds before is the [`guard`](super::guard)'s. See
//! `seccomp_unotify(2)`.

mod listener;
mod watched;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::emul::lasting::Lasting;
use super::emul::table::Groups;
use super::emul::{Emulation, Refused};
use super::seccomp::Filter;
use super::store::Store;
use super::{Error, bpf, guard, handover, shortage};

pub use listener::Listener;

/// How long calls may be without progress before another worker receives.
const STUCK_MILLISECONDS: u16 = 10;
/// How a listener came about; sent with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traits {
    /// It was made with `WAIT_KILLABLE_RECV`.
    pub(super) killable: bool,
    /// Its programs are to have a guard.
    pub(super) guarded: bool,
    /// Only those that signals could interrupt, once they could.
    pub(super) selective: bool,
}

impl Traits {
    pub(super) fn to_byte(self) -> u8 {
        u8::from(self.killable) | u8::from(self.guarded) << 1 | u8::from(self.selective) << 2
    }

    fn from_byte(byte: u8) -> Traits {
        Traits {
            killable: byte & 1 != 0,
            guarded: byte & 2 != 0,
            selective: byte & 4 != 0,
        }
    }
}

/// What a supervisor is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Owners are recorded, and which calls are answered. Without owners calls
    /// that show what a file is are only handed over once there are devices.
    pub groups: Groups,
    /// Where records are kept, if they are to outlive this process, and the
    /// directory that the files are in.
    pub journal: Option<(PathBuf, PathBuf)>,
    /// Signals must not interrupt trapped calls. Costs what tracing costs, and
    /// that nothing else can trace programs.
    pub guarded: bool,
    /// Use `WAIT_KILLABLE_RECV` where the kernel has it.
    pub killable: bool,
    /// What is to get neither set-id bits nor capabilities.
    pub lasting: Option<Lasting>,
}

impl Options {
    /// For a namespace with a single id.
    pub fn single() -> Options {
        Options {
            groups: Groups::all()
                - Groups::NAMING
                - Groups::SIGNALS
                - Groups::CHILDREN
                - Groups::SET_ID,
            journal: None,
            guarded: true,
            killable: true,
            lasting: None,
        }
    }

    /// For a container's root without namespaces and mounts.
    pub fn chroot() -> Options {
        Options {
            groups: Groups::all() - Groups::SIGNALS - Groups::SET_ID,
            ..Options::single()
        }
    }

    /// The same, with what is to get neither set-id bits nor capabilities.
    #[must_use]
    pub fn keeping(self, lasting: Lasting) -> Options {
        Options {
            groups: self.groups | Groups::SET_ID,
            lasting: Some(lasting),
            ..self
        }
    }

    /// For a namespace with all ids, in which only devices, some attributes and one
    /// family of sockets are refused. The few calls about those need no guard.
    pub fn ranges() -> Options {
        Options {
            groups: Groups::DEVICES | Groups::ATTRIBUTES | Groups::SOCKETS,
            guarded: false,
            ..Options::single()
        }
    }
}

/// Why no calls are answered any more.
#[derive(Debug, Clone)]
struct Broken {
    reason: String,
    /// What to do, if that is known.
    hints: Vec<String>,
}

impl Broken {
    fn new(reason: String) -> Broken {
        Broken {
            reason,
            hints: Vec::new(),
        }
    }

    /// A thread that was to answer them does not run.
    fn no_worker(error: &io::Error) -> Broken {
        Broken {
            reason: format!("a worker cannot start: {error}"),
            hints: shortage::hints(error),
        }
    }
}

/// What threads of a supervisor share.
#[derive(Debug, Clone)]
struct Shared {
    emulation: Arc<Emulation>,
    interruptions: Arc<guard::Interruptions>,
    /// Guards may choose what they trace; else only what the first program starts.
    selective: bool,
    /// Why it does not work any more.
    failure: Arc<OnceLock<Broken>>,
}

/// Answers the calls of all programs that run with its filter.
#[derive(Debug)]
pub struct Supervisor {
    shared: Shared,
    options: Options,
    /// Where new programs send their listeners.
    register: Arc<OwnedFd>,
}

impl Supervisor {
    /// Starts it. Must be called with the sandbox's own `/proc` in place.
    pub fn start(options: Options) -> Result<Supervisor, Error> {
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
        let owners = options.groups.contains(Groups::OWNERS);
        let store = match &options.journal {
            None => Store::new(owners),
            Some((path, files)) => device_of(files)
                .and_then(|device| Store::open(owners, path, device))
                .map_err(Error::system("opening the journal of owners"))?,
        };
        // Without owners a filter may come to hand over more than at first.
        let answered = options.groups | Groups::STAT | Groups::SIGNALS;
        let emulation = Emulation::new(proc, answered, Arc::new(store), options.lasting.clone())
            .map_err(io::Error::from)
            .map_err(failed())?;
        let shared = Shared {
            emulation: Arc::new(emulation),
            interruptions: Arc::new(guard::Interruptions::new().map_err(failed())?),
            // Yama lets others trace only their children.
            selective: caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_PTRACE)
                .unwrap_or(false),
            failure: Arc::default(),
        };
        install_wake_signal();
        let for_thread = shared.clone();
        std::thread::Builder::new()
            .name("listeners".to_owned())
            .spawn(move || receive_listeners(&ours, &for_thread))
            .map_err(failed())?;
        Ok(Supervisor {
            shared,
            options,
            register: Arc::new(theirs),
        })
    }

    /// The filter for programs that it is to answer. Syncs succeed unmade.
    pub fn filter(&self) -> Filter {
        let mut groups = self.options.groups;
        if self.store().has_devices() {
            // Programs have to see that they are devices.
            groups |= Groups::STAT;
        }
        if self.options.guarded && self.shared.selective {
            groups |= Groups::SIGNALS;
        }
        let traits = Traits {
            killable: self.options.killable,
            guarded: self.options.guarded,
            selective: self.shared.selective,
        };
        let filter =
            Filter::with_listener(bpf::supervised(groups, true), traits, self.register.clone());
        if self.store().has_owners() {
            filter
        } else {
            // Inside another supervisor that one answers.
            filter.or_unsupervised()
        }
    }

    /// What files should have.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.emulation.store
    }

    /// The last program since this was asked that the kernel would not start, since its
    /// file has capabilities that nobody can get.
    pub fn take_refused(&self) -> Option<Refused> {
        self.shared.emulation.last_refused().take()
    }

    /// Fails if it stopped answering, because of which programs were killed.
    pub fn check(&self) -> Result<(), Error> {
        match self.shared.failure.get() {
            None => Ok(()),
            Some(broken) => Err(Error::Supervisor {
                reason: broken.reason.clone(),
                hints: broken.hints.clone(),
            }),
        }
    }
}

/// The device of a directory, as keys of the store have it.
fn device_of(directory: &std::path::Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let device = fs_err::metadata(directory)?.dev();
    Ok(u64::from(libc::major(device)) << 32 | u64::from(libc::minor(device)))
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

/// A signal that does nothing but interrupt a worker which waits for calls.
pub(super) fn wake_signal() -> libc::c_int {
    libc::SIGRTMIN() + 3
}

fn install_wake_signal() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: zeroes are a valid action; the handler does nothing. Without
    // SA_RESTART the call that it interrupts returns.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(wake_signal(), &raw const action, std::ptr::null_mut());
    }
}

/// Wakes the worker of a listener that has no tasks any more.
fn wake(listener: &Listener) {
    let task = listener.receiver_task.load(Ordering::Relaxed);
    // SAFETY: the signal has a handler. That the thread is gone is no harm.
    unsafe {
        libc::syscall(libc::SYS_tgkill, libc::getpid(), task, wake_signal());
    }
}

/// Takes listeners until nobody can send one any more.
fn receive_listeners(socket: &OwnedFd, shared: &Shared) {
    let mut active: Vec<(Arc<Listener>, (u64, u64, usize))> = Vec::new();
    loop {
        active.retain(|(listener, _)| !listener.closed.load(Ordering::Acquire));
        if active.is_empty() {
            shared.emulation.young.outlive();
        }
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
                shared.emulation.young.release();
                for (listener, seen) in &mut active {
                    listener.relieve(seen);
                    if listener.is_abandoned() {
                        wake(listener);
                    }
                }
                continue;
            }
            Ok(_) => {}
        }
        match handover::receive(socket.as_fd()) {
            Ok(Some((fd, byte))) => {
                let listener = Arc::new(Listener::new(fd, Traits::from_byte(byte), shared));
                listener.start_worker();
                active.push((listener, (0, 0, 0)));
            }
            Ok(None) => return,
            Err(error) => {
                let reason = format!("a program's listener was lost: {error}");
                tracing::error!("{reason}");
                let _ = shared.failure.set(Broken::new(reason));
                super::command::kill_others();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// What a thread gets for a call that a supervisor is to answer, by a filter
    /// that hands over one call. The thread is the only one with the filter.
    fn call_below(supervisor: &Supervisor, number: libc::c_long) -> Result<i64, Errno> {
        let register = supervisor.register.clone();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let only = |code: u32, jt, jf, k| libc::sock_filter {
                code: code as u16,
                jt,
                jf,
                k,
            };
            let program = vec![
                only(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
                only(
                    libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                    0,
                    1,
                    number as u32,
                ),
                only(
                    libc::BPF_RET | libc::BPF_K,
                    0,
                    0,
                    libc::SECCOMP_RET_USER_NOTIF,
                ),
                only(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
            ];
            let traits = Traits {
                killable: true,
                guarded: false,
                selective: false,
            };
            // Without privileges a filter needs this.
            nix::sys::prctl::set_no_new_privs().expect("always allowed");
            let filter = Filter::with_listener(program, traits, register);
            super::super::seccomp::install(&filter).expect("a listener");
            // SAFETY: the calls of these tests take no argument.
            let result = Errno::result(unsafe { libc::syscall(number) });
            tell.send(result).expect("somebody waits");
        });
        let result = told
            .recv_timeout(Duration::from_secs(30))
            .expect("an answer");
        thread.join().expect("no panic");
        result
    }

    #[test]
    fn a_call_that_is_not_listed_is_made_by_the_kernel() {
        let supervisor = Supervisor::start(Options::single()).expect("started");
        let parent = i64::from(std::os::unix::process::parent_id());
        assert_eq!(call_below(&supervisor, libc::SYS_getppid), Ok(parent));
        assert!(supervisor.check().is_ok());
    }

    #[test]
    fn the_end_of_a_worker_is_an_error_and_ends_the_waiting() {
        let mut supervisor = Supervisor::start(Options::single()).expect("started");
        let broken = Emulation::broken(supervisor.shared.emulation.store.clone());
        supervisor.shared.emulation = Arc::new(broken);
        let (ours, theirs) = nix::sys::socket::socketpair(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::SeqPacket,
            None,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        )
        .expect("a socket");
        supervisor.register = Arc::new(theirs);
        let shared = supervisor.shared.clone();
        std::thread::spawn(move || receive_listeners(&ours, &shared));
        let number = libc::SYS_getppid;
        assert_eq!(call_below(&supervisor, number), Err(Errno::ENOSYS));
        let error = supervisor.check().expect_err("it failed");
        let text = error.to_string();
        assert!(
            text.contains("the supervisor of system calls failed"),
            "{text}"
        );
        assert!(text.contains("a worker cannot start"), "{text}");
        assert!(!error.hints().is_empty());
    }
}
