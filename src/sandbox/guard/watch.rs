//! A guard of some programs only: those that have a handler which calls are not restarted
//! after, and that may get its signal. The supervisor sees when a handler is installed and
//! when a program forks, as it sees all other calls, and names the task.
//!
//! What a program inherits is looked at when it makes its first answered call. So one
//! corner is left: a process that was forked by a program with handlers of other signals
//! than `SIGCHLD` and `SIGINT`, and has not started another, is traced from that call on.
//! A signal that comes in the microseconds before it is received interrupts it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::machine::Restarts;
use super::{Calls, Common, Guard, Interruptions, become_guard, reap, seize};

/// How long it may take a guard to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a worker sleeps before it wakes the guard once more, which may just have been
/// about to sleep itself.
const AGAIN: Duration = Duration::from_millis(1);
/// How long a guard without programs sleeps before it looks whether its parent is alive.
const IDLE: Duration = Duration::from_secs(1);
/// Threads that a program starts while all its threads are looked for make another
/// search necessary; so many at most.
const SEARCHES: usize = 8;

/// What is asked of a guard, one thing at a time.
#[derive(Debug)]
struct Desk {
    task: AtomicU32,
    /// Counts questions, and those that were answered.
    asked: AtomicU32,
    answered: AtomicU32,
    error: AtomicI32,
}

/// A guard that waits to be told what to trace. It is killed when this is dropped.
#[derive(Debug)]
pub(in crate::sandbox) struct Watch {
    desk: Arc<Common<Desk>>,
    guard: libc::pid_t,
    ended: Arc<AtomicBool>,
    /// Signal that has a handler and does nothing, to wake it.
    wake: libc::c_int,
    one: Mutex<()>,
}

impl Watch {
    /// Starts one. `wake` has a handler, without `SA_RESTART`.
    pub(in crate::sandbox) fn start(
        interruptions: &Interruptions,
        wake: libc::c_int,
    ) -> io::Result<Watch> {
        // All that needs memory is done before the fork.
        // SAFETY: integers.
        let desk = Arc::new(unsafe { Common::new() }?);
        let mut guard = Box::new(Guard {
            calls: Calls::new(),
            restarts: Restarts::new(),
            interruptions,
        });
        // SAFETY: calls without arguments; the child only makes system calls and never
        // returns.
        let (parent, child) = unsafe { (libc::getpid(), libc::fork()) };
        match child {
            0 => guard.serve(&desk, parent),
            child if child > 0 => {
                let ended = Arc::new(AtomicBool::new(false));
                let tell = ended.clone();
                reap(child, move || tell.store(true, Ordering::Release));
                Ok(Watch {
                    desk,
                    guard: child,
                    ended,
                    wake,
                    one: Mutex::default(),
                })
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Has the program of a task traced, with all its threads. Traced already, that is
    /// `EPERM`.
    pub(in crate::sandbox) fn add(&self, task: u32) -> io::Result<()> {
        let _one = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        let desk = &**self.desk;
        let before = desk.answered.load(Ordering::Acquire);
        desk.task.store(task, Ordering::Relaxed);
        let question = desk.asked.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        let start = Instant::now();
        while desk.answered.load(Ordering::Acquire) != question {
            if self.ended.load(Ordering::Acquire) || start.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // SAFETY: numbers alone; until it ended, the process is a child of ours that
            // nobody else waits for.
            unsafe { libc::kill(self.guard, self.wake) };
            sleep_while(&desk.answered, before, AGAIN);
        }
        match desk.error.load(Ordering::Relaxed) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.ended.load(Ordering::Acquire) {
            // SAFETY: as in `add`. What it traced goes on.
            unsafe { libc::kill(self.guard, libc::SIGKILL) };
        }
    }
}

impl Guard<'_> {
    /// The whole life of a guard that is asked.
    fn serve(&mut self, desk: &Desk, parent: libc::pid_t) -> ! {
        // Its own, and those that are started later.
        const OPTIONS: libc::c_int = libc::PTRACE_O_TRACECLONE;
        let mut answered = 0;
        // SAFETY: only system calls are made.
        unsafe {
            // None is kept: the first one is given up too.
            become_guard(0);
            libc::close(0);
            loop {
                let asked = desk.asked.load(Ordering::Acquire);
                if asked != answered {
                    answered = asked;
                    let task = desk.task.load(Ordering::Relaxed);
                    desk.error
                        .store(seize_threads(task, OPTIONS), Ordering::Relaxed);
                    desk.answered.store(answered, Ordering::Release);
                    wake(&desk.answered);
                }
                if !self.attend() {
                    if libc::getppid() != parent {
                        libc::_exit(0);
                    }
                    sleep_while(&desk.asked, answered, IDLE);
                }
            }
        }
    }
}

/// Traces all threads of a task's program; 0, or the error of the task itself.
///
/// # Safety
/// Only makes system calls. The working directory must be `/proc`.
unsafe fn seize_threads(task: u32, options: libc::c_int) -> i32 {
    let Ok(task) = libc::pid_t::try_from(task) else {
        return libc::ESRCH;
    };
    // SAFETY: system calls with numbers, and with addresses of locals.
    unsafe {
        let error = seize(task, options);
        if error != 0 {
            return error;
        }
        let mut digits = [0; 10];
        let digits = super::decimal(task.cast_unsigned(), &mut digits);
        let mut path = [0_u8; 32];
        path[..digits.len()].copy_from_slice(digits);
        path[digits.len()..digits.len() + 5].copy_from_slice(b"/task");
        for _ in 0..SEARCHES {
            let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
            let directory = libc::open(path.as_ptr().cast(), flags);
            if directory < 0 {
                break;
            }
            let found = seize_listed(directory, options);
            libc::close(directory);
            if found == 0 {
                break;
            }
        }
        0
    }
}

/// Traces the tasks that a directory lists; how many were not before.
///
/// # Safety
/// Only makes system calls.
unsafe fn seize_listed(directory: libc::c_int, options: libc::c_int) -> usize {
    // Names of `struct linux_dirent64` begin at 19, lengths of entries are at 16.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let mut found = 0;
    let mut entries = [0_u64; 256];
    loop {
        // SAFETY: the buffer is as long as it says, and read as bytes.
        let count = unsafe {
            let size = size_of_val(&entries);
            libc::syscall(libc::SYS_getdents64, directory, entries.as_mut_ptr(), size)
        };
        let Some(count) = usize::try_from(count).ok().filter(|&count| count > 0) else {
            return found;
        };
        // SAFETY: of these the kernel has just written `count`.
        let bytes = unsafe { std::slice::from_raw_parts(entries.as_ptr().cast::<u8>(), count) };
        let mut rest = bytes;
        while rest.len() > NAME {
            let length = usize::from(u16::from_ne_bytes([rest[LENGTH], rest[LENGTH + 1]]));
            if length <= NAME || length > rest.len() {
                break;
            }
            let digits = rest[NAME..length].iter().take_while(|&&byte| byte != 0);
            let task = digits.fold(0_i32, |number, &byte| {
                number
                    .wrapping_mul(10)
                    .wrapping_add(i32::from(byte.wrapping_sub(b'0')))
            });
            let is_task = rest[NAME].is_ascii_digit();
            // SAFETY: it makes a system call.
            if is_task && unsafe { seize(task, options) } == 0 {
                found += 1;
            }
            rest = &rest[length..];
        }
    }
}

/// Sleeps while a number in shared memory is this one, for a time at most.
fn sleep_while(number: &AtomicU32, value: u32, time: Duration) {
    let time = libc::timespec {
        tv_sec: time.as_secs().cast_signed(),
        tv_nsec: time.subsec_nanos().into(),
    };
    // SAFETY: the kernel reads both, which live across the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            number.as_ptr(),
            libc::FUTEX_WAIT,
            value,
            &raw const time,
        );
    }
}

/// Wakes who sleeps because of a number.
fn wake(number: &AtomicU32) {
    // SAFETY: an address and numbers.
    unsafe { libc::syscall(libc::SYS_futex, number.as_ptr(), libc::FUTEX_WAKE, 1) };
}
