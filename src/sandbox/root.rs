//! Work on files of a target that cannot leave it.
//!
//! A target is made by others: any of its files may be a link to `/etc/passwd`
//! or through `..`. A thread that has the target as its own root cannot be led
//! out, whatever it opens, so plain file operations are safe there, unless a `/proc` is
//! mounted in it: links there lead to wherever a process is (`proc_pid_root(5)`), and
//! `/proc/self` is this one.

use std::io;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::CloneFlags;

use super::{mounts, notify, standin};
use crate::threads::joined;

/// Runs `work` in a thread whose root directory is `root`, without what is mounted below it.
///
/// Needs `CAP_SYS_CHROOT`.
pub fn within<T: Send>(root: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let directory = if standin::mounts_are_possible() {
        mounts::clone_mount(root, false)
    } else {
        mounts::open_directory(root)
    };
    let directory = directory
        .map_err(|error| io::Error::new(error.kind(), format!("`{}`: {error}", root.display())))?;
    std::thread::scope(|scope| {
        // Hooks may have taken all the processes that there may be.
        let thread = std::thread::Builder::new().spawn_scoped(scope, move || {
            // From here on, root and current directory are this thread's own.
            own_context(move || -> io::Result<T> {
                nix::unistd::fchdir(&directory)?;
                nix::unistd::chroot(c".")?;
                nix::unistd::chdir(c"/")?;
                Ok(work())
            })?
        })?;
        joined(thread)
    })
}

/// Runs `work` with root directory, working directory and umask of its own.
///
/// The calling thread must have been made for this: where the kernel allows it,
/// the thread itself leaves the context that the process shares.
pub fn own_context<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    match nix::sched::unshare(CloneFlags::CLONE_FS) {
        Ok(()) => Ok(work()),
        // A container's filter refuses `unshare(2)` whatever is asked for, but a
        // thread that starts out with its own context is like any other to it.
        Err(nix::errno::Errno::EPERM) => in_clone(work),
        Err(error) => Err(error.into()),
    }
}

/// Bytes of a clone's stack, and of the unreadable page range below it.
const STACK: usize = 2 << 20;
const GUARD: usize = 64 << 10;

/// Memory for a stack; given back when dropped.
struct Stack(*mut libc::c_void);

impl Stack {
    fn new() -> io::Result<Stack> {
        // SAFETY: a new private mapping disturbs no other.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                GUARD + STACK,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack(start);
        // SAFETY: the range is the mapping's own beginning.
        if unsafe { libc::mprotect(start, GUARD, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }

    /// Where the stack begins: it grows downwards.
    fn top(&self) -> *mut libc::c_void {
        // SAFETY: one past the end of the mapping.
        unsafe { self.0.byte_add(GUARD + STACK) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the clone that used it is gone.
        unsafe { libc::munmap(self.0, GUARD + STACK) };
    }
}

/// What a clone does, and what came of it.
struct Job<F, T> {
    work: Option<F>,
    result: Option<std::thread::Result<T>>,
}

extern "C" fn run_job<F: FnOnce() -> T, T>(job: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `in_clone` passes its job, and looks at it again when we are gone.
    let job = unsafe { &mut *job.cast::<Job<F, T>>() };
    if let Some(work) = job.work.take() {
        job.result = Some(std::panic::catch_unwind(AssertUnwindSafe(work)));
    }
    0
}

/// All signals but the one that wakes workers: a handler would use the storage that was lent,
/// and that one's does nothing.
fn blocked() -> nix::sys::signal::SigSet {
    // SAFETY: the first call makes a valid set, the second takes a signal off it.
    unsafe {
        let mut set = std::mem::MaybeUninit::uninit();
        libc::sigfillset(set.as_mut_ptr());
        libc::sigdelset(set.as_mut_ptr(), notify::wake_signal());
        nix::sys::signal::SigSet::from_sigset_t_unchecked(set.assume_init())
    }
}

/// Runs `work` in a task of this process that shares everything but `CLONE_FS`.
///
/// The C library starts all its threads with a shared context. This one borrows
/// the thread-local storage of the calling thread, which meanwhile does nothing
/// but wait for it in the kernel, so that only one of the two ever uses it.
fn in_clone<F: FnOnce() -> T, T>(work: F) -> io::Result<T> {
    let stack = Stack::new()?;
    let mut job = Job {
        work: Some(work),
        result: None,
    };
    // The kernel clears it when the clone ends, and wakes who waits.
    let running = AtomicU32::new(1);
    let flags = libc::CLONE_VM
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_CHILD_CLEARTID;
    let mut before = nix::sys::signal::SigSet::empty();
    nix::sys::signal::pthread_sigmask(
        nix::sys::signal::SigmaskHow::SIG_SETMASK,
        Some(&blocked()),
        Some(&mut before),
    )?;
    // SAFETY: the stack is mapped and unused; stack, job and counter live until
    // the clone has ended, which is waited for below.
    let task = unsafe {
        libc::clone(
            run_job::<F, T>,
            stack.top(),
            flags,
            (&raw mut job).cast(),
            ptr::null_mut::<libc::pid_t>(),
            ptr::null_mut::<libc::c_void>(),
            running.as_ptr(),
        )
    };
    let failed = (task < 0).then(io::Error::last_os_error);
    while failed.is_none() && running.load(Ordering::Acquire) != 0 {
        // SAFETY: the counter lives across the call. Without FUTEX_PRIVATE_FLAG,
        // because the kernel wakes without it.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                running.as_ptr(),
                libc::FUTEX_WAIT,
                1,
                ptr::null::<libc::timespec>(),
            )
        };
    }
    let _ = before.thread_set_mask();
    if let Some(error) = failed {
        return Err(error);
    }
    match job.result {
        Some(Ok(value)) => Ok(value),
        Some(Err(panic)) => std::panic::resume_unwind(panic),
        None => Err(io::Error::other("a task ended early")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_has_its_own_directory_and_everything_else_in_common() {
        let before = std::env::current_dir().expect("a directory");
        let names = std::thread::spawn(|| {
            in_clone(|| {
                std::env::set_current_dir("/").expect("the root is there");
                // Memory, files and threads work as anywhere.
                let inner = std::thread::spawn(|| std::env::current_dir().expect("a directory"));
                vec![
                    std::env::current_dir().expect("a directory"),
                    inner.join().expect("it ends"),
                ]
            })
        })
        .join()
        .expect("it ends")
        .expect("it can be started");
        assert_eq!(names, [Path::new("/"), Path::new("/")]);
        assert_eq!(std::env::current_dir().expect("a directory"), before);
    }

    #[test]
    fn a_clone_can_be_woken_and_meets_no_other_signal() {
        let blocked =
            std::thread::spawn(|| in_clone(|| std::fs::read_to_string("/proc/thread-self/status")));
        let status = blocked.join().expect("it ends").expect("it is started");
        let status = status.expect("read");
        let field = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let set = u64::from_str_radix(field.expect("there").trim(), 16).expect("a number");
        let has = |signal: i32| set & 1 << (signal - 1) != 0;
        assert!(!has(notify::wake_signal()));
        for signal in [libc::SIGTERM, libc::SIGCHLD, libc::SIGUSR1] {
            assert!(has(signal), "{signal}");
        }
    }

    #[test]
    fn a_panic_in_a_clone_comes_back() {
        let panicked = std::thread::spawn(|| {
            std::panic::catch_unwind(|| in_clone(|| -> () { std::panic::panic_any(7_u8) })).is_err()
        });
        assert!(panicked.join().expect("it ends"));
    }
}
