//! One filter's calls, and the workers that answer them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::emul::roots::Roots;
use super::super::emul::table::Step;
use super::super::emul::tracee::View;
use super::super::emul::{Answer, Emulation, Worker};
use super::super::guard;
use super::watched::Watched;
use super::{Broken, Shared, Traits};

/// What interrupted calls return within the kernel (`linux/errno.h`).
const ERESTARTSYS: i32 = 512;
/// After how many such times nobody waits for it any more.
const OFTEN_STUCK: usize = 3;
/// Workers of one listener at most.
const MOST_WORKERS: usize = 1024;
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
/// [`guard`](crate::sandbox::guard).
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
    pub(in crate::sandbox) roots: Roots,
    /// A signal cannot end the wait for an answer.
    killable: bool,
    guarded: bool,
    /// Programs are traced only if signals could interrupt their calls.
    watched: Option<Watched>,
    /// Number of the worker that receives.
    receiver: AtomicUsize,
    /// Its thread's number, for a signal.
    pub(super) receiver_task: AtomicI32,
    /// Workers there are, and ever were.
    workers: AtomicUsize,
    numbers: AtomicUsize,
    spares: Mutex<Vec<(usize, Thread)>>,
    /// The receiver waits for a call.
    receiving: AtomicBool,
    /// Calls received, and calls of which the answer is known.
    received: AtomicU64,
    answered: AtomicU64,
    /// Each call goes to a worker of its own.
    concurrent: AtomicBool,
    pub(super) closed: AtomicBool,
    pending: Mutex<Pending>,
    answered_one: Condvar,
    given: Box<[Mutex<Given>]>,
    interruptions: Arc<guard::Interruptions>,
    emulation: Arc<Emulation>,
    failure: Arc<OnceLock<Broken>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Listener {
    pub(super) fn new(fd: OwnedFd, traits: Traits, shared: &Shared) -> Listener {
        // A hint for speed; kernels before 6.6 do not know it.
        let flags: u64 = 1;
        // SAFETY: the flags are passed by value to a listener that is open.
        let _ = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags) };
        Listener {
            fd,
            roots: Roots::default(),
            killable: traits.killable,
            guarded: traits.guarded,
            watched: (traits.guarded && traits.selective).then(Watched::default),
            receiver: AtomicUsize::new(0),
            receiver_task: AtomicI32::new(0),
            workers: AtomicUsize::new(0),
            numbers: AtomicUsize::new(0),
            spares: Mutex::default(),
            receiving: AtomicBool::new(false),
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
    pub(super) fn is_abandoned(&self) -> bool {
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

    /// Has the kernel make a call before its answer is known to be that.
    pub fn go_on(&self, id: u64) -> Result<(), Errno> {
        self.send(id, &Answer::Continue)
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
            Answer::Error(Errno::ERESTART) => response.error = -ERESTARTSYS,
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
        let place = (libc::SECCOMP_ADDFD_FLAG_SEND, 0);
        self.add_descriptor(id, place, file, close_on_exec)
    }

    /// Gives a task that waits another file for one of its descriptors.
    pub fn replace(
        &self,
        id: u64,
        descriptor: i32,
        file: &OwnedFd,
        close_on_exec: bool,
    ) -> Result<(), Errno> {
        let number = u32::try_from(descriptor).map_err(|_| Errno::EBADF)?;
        let place = (libc::SECCOMP_ADDFD_FLAG_SETFD, number);
        self.add_descriptor(id, place, file, close_on_exec)
    }

    fn add_descriptor(
        &self,
        id: u64,
        (flag, number): (libc::c_ulong, u32),
        file: &OwnedFd,
        close_on_exec: bool,
    ) -> Result<(), Errno> {
        let request = libc::seccomp_notif_addfd {
            id,
            flags: flag as u32,
            srcfd: u32::try_from(file.as_raw_fd()).map_err(|_| Errno::EBADF)?,
            newfd: number,
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
                self.receiving.store(true, Ordering::Relaxed);
                let call = self.receive();
                self.receiving.store(false, Ordering::Relaxed);
                let Some(call) = call else {
                    return self.close();
                };
                let received = self.received.fetch_add(1, Ordering::Relaxed);
                // The kernel numbers calls, also those that nobody receives.
                let missed = call.id.wrapping_sub(received);
                if self.concurrent.load(Ordering::Relaxed) {
                    self.pass_on();
                }
                match (&self.watched, worker.step(&call)) {
                    (Some(watched), Step::Other) => {
                        watched.look_after(call.pid, worker.view(), &self.interruptions);
                    }
                    (Some(watched), Step::Start) => watched.starts(call.pid),
                    (Some(_), Step::Told) => {}
                    (None, _) if self.guarded && received == 0 => self.guard(call.pid),
                    (None, _) => {}
                }
                self.answer(worker, &call, missed, number);
            }
            worker.rest();
            if !self.wait_as_spare(number) {
                return;
            }
        }
    }

    fn answer(&self, worker: &mut Worker, call: &libc::seccomp_notif, missed: u64, number: usize) {
        if self.killable {
            let answer = self.first_answer(worker, call, missed);
            // Another one receives what the task does next, such as to unmount.
            if self.receiver.load(Ordering::Acquire) != number {
                worker.rest();
            }
            // Not later: the task may get the processor before this thread goes on.
            self.answered.fetch_add(1, Ordering::Relaxed);
            // That the task was killed meanwhile is the only likely error.
            let _ = self.send(call.id, &answer);
        } else {
            self.answer_once(worker, call, missed);
        }
    }

    /// Has a call answered, if what it wants was not done before it was interrupted.
    fn first_answer(&self, worker: &mut Worker, call: &libc::seccomp_notif, missed: u64) -> Answer {
        let print = || guard::fingerprint(call.data.nr.cast_unsigned(), &call.data.args);
        let again = self.interruptions.take(call.pid, print);
        let given = &self.given[call.pid as usize % GIVEN];
        let interruptions = self.interruptions.count();
        if again {
            let given = lock(given);
            if (given.pid, given.print) == (call.pid, print()) {
                // One that was interrupted before it was received has a number that
                // is missing. Something was done for the others.
                let interrupted = interruptions.saturating_sub(given.interruptions);
                if interrupted > missed.wrapping_sub(given.missed) {
                    return Answer::Value(given.value);
                }
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
        self.answered.fetch_add(1, Ordering::Relaxed);
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

    /// A task is about to install a handler after which calls are not restarted.
    pub(in crate::sandbox) fn handles(&self, pid: u32, signal: i32, view: &View) {
        if let Some(watched) = &self.watched {
            watched.handles(pid, signal, view, &self.interruptions);
        }
    }

    /// A task is about to fork.
    pub(in crate::sandbox) fn forks(&self, pid: u32, view: &View) {
        if let Some(watched) = &self.watched {
            watched.forks(pid, view, &self.interruptions);
        }
    }

    /// Traces a program and all that it will start.
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
    pub(super) fn relieve(self: &Arc<Self>, seen: &mut (u64, u64, usize)) {
        let received = self.received.load(Ordering::Relaxed);
        let answered = self.answered.load(Ordering::Relaxed);
        let stuck = received != answered && (received, answered) == (seen.0, seen.1);
        (seen.0, seen.1) = (received, answered);
        // On a busy machine it may only be waiting for a processor. More workers would take
        // turns for nothing then, at twice the price.
        if !stuck || self.receiving.load(Ordering::Relaxed) || self.receiver_is_runnable() {
            return;
        }
        self.pass_on();
        seen.2 += 1;
        if seen.2 >= OFTEN_STUCK {
            self.concurrent.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the receiver is not asleep. If that cannot be found out, it is.
    fn receiver_is_runnable(&self) -> bool {
        let task = self.receiver_task.load(Ordering::Relaxed);
        // The name, which may have any characters, is in parentheses.
        fs_err::read_to_string(format!("/proc/self/task/{task}/stat")).is_ok_and(|text| {
            text.rsplit_once(')')
                .is_some_and(|(_, rest)| rest.trim_start().starts_with('R'))
        })
    }

    /// Starts a worker that receives.
    pub(super) fn start_worker(self: &Arc<Self>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        self.workers.fetch_add(1, Ordering::Relaxed);
        let before = self.receiver.swap(number, Ordering::AcqRel);
        let listener = self.clone();
        let started = std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || {
                let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
                    crate::sandbox::root::own_context(|| {
                        let mut worker = Worker::new(listener.emulation.clone())?;
                        listener.work(number, &mut worker);
                        Ok::<(), io::Error>(())
                    })?
                }));
                listener.workers.fetch_sub(1, Ordering::Relaxed);
                match result {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => listener.fail(Broken::no_worker(&error)),
                    Err(panic) => listener.fail(Broken::new(panic_text(&*panic))),
                }
            });
        if let Err(error) = started {
            self.workers.fetch_sub(1, Ordering::Relaxed);
            if before == 0 {
                self.fail(Broken::no_worker(&error));
            } else {
                // The one that receives is busy, and will be back.
                self.receiver.store(before, Ordering::Release);
            }
        }
    }

    /// Ends everything that runs with this filter, whose calls nobody answers.
    fn fail(&self, broken: Broken) {
        let reason = &broken.reason;
        tracing::error!("the supervisor of system calls failed: {reason}");
        let _ = self.failure.set(broken);
        self.close();
        crate::sandbox::command::kill_others();
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("a worker stopped: {}", text.unwrap_or_default())
}
