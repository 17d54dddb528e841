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

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::emul::table::Groups;
use super::emul::tracee::Roots;
use super::emul::{Answer, Emulation, Worker};
use super::seccomp::Filter;
use super::store::Store;
use super::{Error, bpf, guard, handover};

/// How long calls may be without progress before another worker receives.
const STUCK_MILLISECONDS: u16 = 10;
/// After how many such times nobody waits for it any more.
const OFTEN_STUCK: usize = 3;
/// Workers of one listener at most.
const MOST_WORKERS: usize = 64;
/// A worker that has nothing to do leaves after this time.
const SPARE_TIME: Duration = Duration::from_secs(10);

/// An answer that the task was not there to take, because a signal came between.
/// Only what was done is kept: what failed, may fail once more.
#[derive(Debug)]
struct Unclaimed {
    number: i32,
    arguments: [u64; 6],
    /// Tells the task from a later one with the same number.
    started: u64,
    answer: Answer,
}

/// The last thing done for a task, of which it cannot be told whether the task
/// got the answer: the kernel drops one that comes together with a signal, see
/// [`guard`](super::guard).
#[derive(Debug, Default)]
struct Given {
    pid: u32,
    /// What the call is told by; 0 for none.
    print: u64,
    value: i64,
    /// Calls that were made, but not received, up to this one.
    missed: u64,
    /// Interruptions up to this one.
    interruptions: u64,
}

/// Tasks of a listener whose last answers are remembered.
const GIVEN: usize = 64;

/// What has to be known of calls whose wait a signal can end, so that none is
/// done twice.
#[derive(Debug, Default)]
struct Pending {
    /// Tasks for which a call is being answered.
    answering: HashSet<u32>,
    unclaimed: HashMap<u32, Unclaimed>,
}

/// One filter's calls.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    /// Root directories of its programs.
    pub(super) roots: Roots,
    /// A signal cannot end the wait for an answer.
    killable: bool,
    guarded: bool,
    /// Number of the worker that receives.
    receiver: AtomicUsize,
    /// Its thread's number, for a signal.
    receiver_task: AtomicI32,
    /// Workers there are, and ever were.
    workers: AtomicUsize,
    numbers: AtomicUsize,
    spares: Mutex<Vec<(usize, Thread)>>,
    /// Calls received and calls answered.
    received: AtomicU64,
    answered: AtomicU64,
    /// Each call goes to a worker of its own.
    concurrent: AtomicBool,
    closed: AtomicBool,
    pending: Mutex<Pending>,
    answered_one: Condvar,
    given: Box<[Mutex<Given>]>,
    interruptions: Arc<guard::Interruptions>,
    emulation: Arc<Emulation>,
    failure: Arc<OnceLock<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Listener {
    fn new(fd: OwnedFd, traits: Traits, shared: &Shared) -> Listener {
        // A hint for speed; kernels before 6.6 do not know it.
        let flags: u64 = 1;
        // SAFETY: the flags are passed by value to a listener that is open.
        let _ = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags) };
        Listener {
            fd,
            roots: Roots::default(),
            killable: traits.killable,
            guarded: traits.guarded,
            receiver: AtomicUsize::new(0),
            receiver_task: AtomicI32::new(0),
            workers: AtomicUsize::new(0),
            numbers: AtomicUsize::new(0),
            spares: Mutex::default(),
            received: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            concurrent: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            pending: Mutex::default(),
            answered_one: Condvar::new(),
            given: (0..GIVEN).map(|_| Mutex::default()).collect(),
            interruptions: shared.interruptions.clone(),
            emulation: shared.emulation.clone(),
            failure: shared.failure.clone(),
        }
    }

    /// Whether no task is left that could make a call.
    fn is_abandoned(&self) -> bool {
        let mut polled = [PollFd::new(self.fd.as_fd(), PollFlags::empty())];
        let _ = poll(&mut polled, PollTimeout::ZERO);
        polled[0].any().unwrap_or(true)
    }

    /// Waits for a call; `None` once no task is left that could make one.
    fn receive(&self) -> Option<libc::seccomp_notif> {
        loop {
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
                // The task was killed, or nobody is left, of which kernels before
                // 6.11 only tell by the signal of the `receiver`.
                Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
                Err(_) => return None,
            }
            if self.closed.load(Ordering::Acquire) || self.is_abandoned() {
                return None;
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

    /// Gives the task its answer; fails with `ENOENT` if it does not wait any more.
    fn send(&self, id: u64, answer: &Answer) -> Result<(), Errno> {
        let mut response = libc::seccomp_notif_resp {
            id,
            val: 0,
            error: 0,
            flags: 0,
        };
        match answer {
            Answer::Continue => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Answer::Value(value) => response.val = *value,
            Answer::Error(errno) => response.error = -(*errno as i32),
            Answer::Descriptor {
                file,
                close_on_exec,
            } => match self.send_descriptor(id, file, *close_on_exec) {
                Err(errno) if errno != Errno::ENOENT => response.error = -(errno as i32),
                result => return result,
            },
        }
        // SAFETY: the kernel reads a structure that lives across the call.
        Errno::result(unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw const response,
            )
        })
        .map(drop)
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

    /// A worker's life.
    fn work(self: &Arc<Self>, number: usize, worker: &mut Worker) {
        loop {
            // SAFETY: the call takes no argument.
            let task = unsafe { libc::gettid() };
            self.receiver_task.store(task, Ordering::Relaxed);
            while self.receiver.load(Ordering::Acquire) == number {
                let Some(call) = self.receive() else {
                    return self.close();
                };
                let received = self.received.fetch_add(1, Ordering::Relaxed);
                // The kernel numbers calls, also those that nobody receives.
                let missed = call.id.wrapping_sub(received);
                if self.concurrent.load(Ordering::Relaxed) {
                    self.pass_on();
                }
                if received == 0 && self.guarded {
                    self.guard(call.pid);
                }
                self.answer(worker, &call, missed);
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            if !self.wait_as_spare(number) {
                return;
            }
        }
    }

    fn answer(&self, worker: &mut Worker, call: &libc::seccomp_notif, missed: u64) {
        if self.killable {
            let answer = self.first_answer(worker, call, missed);
            // That the task was killed meanwhile is the only likely error.
            let _ = self.send(call.id, &answer);
        } else {
            self.answer_once(worker, call, missed);
        }
    }

    /// Has a call answered, if what it wants was not done before it was interrupted.
    fn first_answer(&self, worker: &mut Worker, call: &libc::seccomp_notif, missed: u64) -> Answer {
        let print = || guard::print_of(call.data.nr.cast_unsigned(), &call.data.args);
        let again = self.interruptions.take(call.pid, print);
        let given = &self.given[call.pid as usize % GIVEN];
        let interruptions = self.interruptions.count();
        if again {
            let given = lock(given);
            // One that was interrupted before it was received has a number that
            // is missing. Something was done for the others.
            let lost = (interruptions - given.interruptions) > missed.wrapping_sub(given.missed);
            if (given.pid, given.print) == (call.pid, print()) && lost {
                return Answer::Value(given.value);
            }
        }
        let answer = worker.answer(self, call);
        // What failed may fail again, and descriptors are taken or refused.
        if let Answer::Value(value) = answer
            && self.guarded
            && worker.changes(call)
        {
            *lock(given) = Given {
                pid: call.pid,
                print: print(),
                value,
                missed,
                interruptions,
            };
        }
        answer
    }

    /// Answers a call that may have been made, and interrupted, before.
    fn answer_once(&self, worker: &mut Worker, call: &libc::seccomp_notif, missed: u64) {
        let (number, arguments) = (call.data.nr, call.data.args);
        let mut pending = lock(&self.pending);
        // Another worker may still be at it for the same task.
        while !pending.answering.insert(call.pid) {
            pending = self
                .answered_one
                .wait(pending)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let former = pending.unclaimed.remove(&call.pid);
        drop(pending);
        let answer = match former {
            Some(former)
                if (former.number, former.arguments) == (number, arguments)
                    && worker.started(call.pid) == Some(former.started) =>
            {
                former.answer
            }
            _ => self.first_answer(worker, call, missed),
        };
        let sent = self.send(call.id, &answer);
        let done = matches!(answer, Answer::Value(_) | Answer::Descriptor { .. });
        let started = worker.started(call.pid);
        let mut pending = lock(&self.pending);
        if sent == Err(Errno::ENOENT)
            && done
            && let Some(started) = started
        {
            let unclaimed = Unclaimed {
                number,
                arguments,
                started,
                answer,
            };
            pending.unclaimed.insert(call.pid, unclaimed);
        }
        pending.answering.remove(&call.pid);
        self.answered_one.notify_all();
    }

    fn guard(&self, pid: u32) {
        if let Err(error) = guard::start(pid, &self.interruptions) {
            tracing::warn!("signals may interrupt system calls of hooks: {error}");
        }
    }

    /// Makes another worker receive; without any to be had nothing changes.
    fn pass_on(self: &Arc<Self>) {
        if let Some((number, thread)) = lock(&self.spares).pop() {
            self.receiver.store(number, Ordering::Release);
            thread.unpark();
        } else if self.workers.load(Ordering::Relaxed) < MOST_WORKERS {
            self.start_worker();
        }
    }

    /// Waits to become the receiver; false if that is not going to happen.
    fn wait_as_spare(&self, number: usize) -> bool {
        lock(&self.spares).push((number, std::thread::current()));
        loop {
            if self.receiver.load(Ordering::Acquire) == number {
                return true;
            }
            if self.closed.load(Ordering::Acquire) {
                return false;
            }
            let before = std::time::Instant::now();
            std::thread::park_timeout(SPARE_TIME);
            if before.elapsed() >= SPARE_TIME {
                let mut spares = lock(&self.spares);
                if let Some(at) = spares.iter().position(|spare| spare.0 == number) {
                    spares.swap_remove(at);
                    return false;
                }
            }
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for (_, thread) in lock(&self.spares).drain(..) {
            thread.unpark();
        }
    }

    /// Makes another worker receive if calls wait and nothing moved since `seen`.
    fn relieve(self: &Arc<Self>, seen: &mut (u64, u64, usize)) {
        let received = self.received.load(Ordering::Relaxed);
        let answered = self.answered.load(Ordering::Relaxed);
        let stuck = received != answered && (received, answered) == (seen.0, seen.1);
        (seen.0, seen.1) = (received, answered);
        if !stuck {
            return;
        }
        self.pass_on();
        seen.2 += 1;
        if seen.2 >= OFTEN_STUCK {
            self.concurrent.store(true, Ordering::Relaxed);
        }
    }

    /// Starts a worker that receives.
    fn start_worker(self: &Arc<Self>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        self.workers.fetch_add(1, Ordering::Relaxed);
        self.receiver.store(number, Ordering::Release);
        let listener = self.clone();
        let started = std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || {
                let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
                    super::root::own_context(|| {
                        let mut worker = Worker::new(listener.emulation.clone())?;
                        listener.work(number, &mut worker);
                        Ok::<(), io::Error>(())
                    })?
                }));
                listener.workers.fetch_sub(1, Ordering::Relaxed);
                match result {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => listener.fail(format!("a worker cannot start: {error}")),
                    Err(panic) => listener.fail(panic_text(&*panic)),
                }
            });
        if let Err(error) = started {
            self.fail(format!("a worker cannot start: {error}"));
        }
    }

    /// Ends everything that runs with this filter, whose calls nobody answers.
    fn fail(&self, reason: String) {
        tracing::error!("the supervisor of system calls failed: {reason}");
        let _ = self.failure.set(reason);
        self.close();
        super::command::kill_others();
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("a worker stopped: {}", text.unwrap_or_default())
}

/// How a listener came about; sent with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traits {
    /// It was made with `WAIT_KILLABLE_RECV`.
    pub(super) killable: bool,
    /// Its programs are to have a guard.
    pub(super) guarded: bool,
}

impl Traits {
    pub(super) fn to_byte(self) -> u8 {
        u8::from(self.killable) | u8::from(self.guarded) << 1
    }

    fn from_byte(byte: u8) -> Traits {
        Traits {
            killable: byte & 1 != 0,
            guarded: byte & 2 != 0,
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
}

impl Options {
    /// For a namespace with a single id.
    pub fn single() -> Options {
        Options {
            groups: Groups::all() - Groups::NAMING,
            journal: None,
            guarded: true,
            killable: true,
        }
    }

    /// For a container's root without namespaces and mounts.
    pub fn chroot() -> Options {
        Options {
            groups: Groups::all(),
            ..Options::single()
        }
    }

    /// For a namespace with all ids, in which only devices and some attributes
    /// are refused. The few calls about those need no guard.
    pub fn ranges() -> Options {
        Options {
            groups: Groups::DEVICES | Groups::ATTRIBUTES,
            guarded: false,
            ..Options::single()
        }
    }
}

/// What threads of a supervisor share.
#[derive(Debug, Clone)]
struct Shared {
    emulation: Arc<Emulation>,
    interruptions: Arc<guard::Interruptions>,
    /// Why it does not work any more.
    failure: Arc<OnceLock<String>>,
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
        let answered = options.groups | Groups::STAT;
        let emulation = Emulation::new(proc, answered, Arc::new(store))
            .map_err(io::Error::from)
            .map_err(failed())?;
        let shared = Shared {
            emulation: Arc::new(emulation),
            interruptions: Arc::new(guard::Interruptions::new().map_err(failed())?),
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
        let traits = Traits {
            killable: self.options.killable,
            guarded: self.options.guarded,
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

    /// Fails if it stopped answering, because of which programs were killed.
    pub fn check(&self) -> Result<(), Error> {
        match self.shared.failure.get() {
            None => Ok(()),
            Some(reason) => Err(Error::Supervisor {
                reason: reason.clone(),
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
fn wake_signal() -> libc::c_int {
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
                let _ = shared.failure.set(reason);
                super::command::kill_others();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

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
