//! Keeps signals from interrupting calls that a supervisor is to answer.
//!
//! A task sleeps interruptibly until the supervisor has received its call. A
//! signal in that moment makes the call end with `EINTR` if its handler was
//! installed without `SA_RESTART`, also for calls such as `stat(2)` that never
//! end so, and shells then take a file for absent.
//!
//! A process of its own therefore traces the programs, but no system calls: it
//! is asked when a signal is delivered. If the signal
//! interrupted a call of the table, the result that the kernel is about to look
//! at is changed from "restart if the handler says so" to "restart in any case".
//! The handler runs, then the call is made again.
//!
//! A signal may also come while the call is answered. Without `WAIT_KILLABLE_RECV`,
//! and before Linux 6.18 with it too, the kernel then takes an answer, tells the
//! supervisor so, and drops it. The guard notes in [`Interruptions`] which call was
//! interrupted last, so that the supervisor does not do the same thing twice.
//!
//! It is a process because a thread would share its parent's children, and each
//! of the two would take the other's news of them. It is forked from a process
//! with several threads, so it only makes system calls. It ends with the last
//! program that it traces. See `ptrace(2)`.
//!
//! Tracing costs a program more than all its answered calls, so only those are traced
//! that have such a handler: see [`watch`]. Where that is not allowed, the guard traces
//! the first program and all that it starts.
//!
//! How a call is made again depends on the architecture: see [`machine`].

use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::bpf::CREATING;
use super::emul::table::{ABIS, When};
use machine::Restarts;

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod machine;
pub(super) mod watch;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("kiln's sandbox knows x86_64 and aarch64");

/// A call that a signal interrupted.
#[derive(Debug, Clone, Copy)]
struct Interrupted {
    /// By which of [`ABIS`] it was made.
    convention: usize,
    number: u32,
    /// As filters see them.
    arguments: [u64; 6],
}

/// What a call is told from others by; never 0.
pub(super) fn fingerprint(number: u32, arguments: &[u64; 6]) -> u64 {
    let mix = |print: u64, value: u64| (print ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let print = arguments
        .iter()
        .fold(mix(1, number.into()), |print, &argument| {
            mix(print.rotate_left(29), argument)
        });
    print | 1
}

/// Memory that this process shares with those that it forks later, zeroes at first.
#[derive(Debug)]
struct Common<T>(NonNull<T>);

// SAFETY: it owns the memory, of which only shared references are given out.
unsafe impl<T: Sync> Send for Common<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Common<T> {}

impl<T> Common<T> {
    /// # Safety
    /// The type must be valid when all its bytes are zero, and need no more alignment than
    /// pages have.
    unsafe fn new() -> io::Result<Common<T>> {
        // SAFETY: new memory, wherever the kernel likes.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(memory.cast()) {
            Some(memory) => Ok(Common(memory)),
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }
}

impl<T> std::ops::Deref for Common<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: mapped as long as this lives, aligned as pages are, and valid by the
        // promise of who called `new`.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Common<T> {
    fn drop(&mut self) {
        // SAFETY: the memory that `new` got, which nothing borrows any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<T>()) };
    }
}

/// Calls that signals interrupted, as the guards of a supervisor tell it. Two
/// tasks of one place are rare, and then a call is at worst made twice.
#[derive(Debug)]
pub(super) struct Interruptions(Common<Table>);

/// How many tasks have a place of their own.
const PLACES: usize = 1024;

#[derive(Debug)]
struct Table {
    /// How many there were.
    count: AtomicU64,
    /// Prints of the last one of each task that the supervisor has not seen since.
    last: [AtomicU64; PLACES],
}

impl Interruptions {
    /// None yet. Processes that are forked later share it.
    pub(super) fn new() -> io::Result<Interruptions> {
        // SAFETY: integers.
        unsafe { Common::new() }.map(Interruptions)
    }

    /// Notes one. Makes no system call and needs no memory.
    fn note(&self, pid: u32, print: u64) {
        let table = &self.0;
        table.count.fetch_add(1, Ordering::Relaxed);
        table.last[pid as usize % PLACES].store(print, Ordering::Release);
    }

    /// Whether this call of a task was interrupted before. It counts as seen then.
    pub(super) fn take(&self, pid: u32, call: impl Fn() -> u64) -> bool {
        let last = &self.0.last[pid as usize % PLACES];
        match last.load(Ordering::Acquire) {
            0 => false,
            print => print == call() && last.swap(0, Ordering::AcqRel) == print,
        }
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }
}

/// Numbers of calls that fit into the bit sets below.
const NUMBERS: usize = 512;
/// Longest path that is looked at; a longer one counts as no FIFO.
const PATH: usize = 1024;

/// Calls of the table: answered at all, and those that open a file by the
/// path in an argument of this number.
struct Calls {
    answered: [[bool; NUMBERS]; 2],
    opens: [[Option<u8>; NUMBERS]; 2],
}

impl Calls {
    fn new() -> Calls {
        let mut calls = Calls {
            answered: [[false; NUMBERS]; 2],
            opens: [[None; NUMBERS]; 2],
        };
        for (abi, set) in ABIS.iter().zip(0..) {
            for (number, trap) in abi.calls() {
                let number = number as usize;
                calls.answered[set][number] = true;
                if let When::AnyBit(flags, CREATING) = trap.when {
                    // The path comes right before the flags.
                    calls.opens[set][number] = u8::try_from(flags - 1).ok();
                }
            }
        }
        calls
    }

    /// Whether a call of a stopped task is one that a supervisor answers, and that
    /// must not be interrupted.
    ///
    /// # Safety
    /// Only makes system calls; `pid` must be a stopped tracee.
    unsafe fn is_answered(&self, pid: libc::pid_t, call: &Interrupted) -> bool {
        let (set, number) = (call.convention, call.number as usize);
        if number >= NUMBERS || !self.answered[set][number] {
            return false;
        }
        match self.opens[set][number] {
            // To open a FIFO is to wait, which a signal may interrupt.
            Some(path) => {
                let argument = |number: u8| call.arguments[usize::from(number)];
                // A directory to start from comes right before the path.
                let directory = path.checked_sub(1).map(|number| argument(number) as i32);
                let directory = directory.filter(|&number| number >= 0);
                // SAFETY: by the caller's promise.
                unsafe { !is_fifo(pid, directory, argument(path)) }
            }
            None => true,
        }
    }
}

/// Starts a guard of a program and of all that it will start. When this
/// returns, it is there.
pub(super) fn start(pid: u32, interruptions: &Interruptions) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    // All that needs memory is done before the fork.
    let mut guard = Box::new(Guard {
        calls: Calls::new(),
        restarts: Restarts::new(),
        interruptions,
    });
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: the child only makes system calls and never returns.
    match unsafe { libc::fork() } {
        0 => guard.run(pid, writer.as_raw_fd()),
        child if child > 0 => {
            drop(writer);
            let mut said = [0; 4];
            let result = reader.read_exact(&mut said);
            let error = i32::from_ne_bytes(said);
            if result.is_ok() && error == 0 {
                reap(child, || ());
                return Ok(());
            }
            // SAFETY: a child of ours that is not reaped yet.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            result?;
            Err(io::Error::from_raw_os_error(error))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes the exit status of a guard whenever it ends, then calls `ended`.
fn reap(child: libc::pid_t, ended: impl FnOnce() + Send + 'static) {
    let waiting = std::thread::Builder::new()
        .name("guard".to_owned())
        .stack_size(64 * 1024)
        .spawn(move || {
            // SAFETY: a child of ours that nobody else waits for.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            ended();
        });
    // It stays a zombie then, until this process ends.
    drop(waiting);
}

/// The process that traces.
struct Guard<'a> {
    calls: Calls,
    restarts: Restarts,
    interruptions: &'a Interruptions,
}

impl Guard<'_> {
    /// Its whole life.
    fn run(&mut self, first: libc::pid_t, tell: RawFd) -> ! {
        let options =
            libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACECLONE;
        // SAFETY: system calls with numbers, and with addresses of locals.
        unsafe {
            become_guard(tell);
            let error = seize(first, options);
            let said = error.to_ne_bytes();
            libc::write(tell, said.as_ptr().cast(), said.len());
            libc::close(tell);
            if error != 0 {
                libc::_exit(1);
            }
            while self.attend() {}
            // Nobody is left.
            libc::_exit(0)
        }
    }

    /// Waits for something to happen to a program; false if there is none.
    ///
    /// # Safety
    /// Only makes system calls.
    unsafe fn attend(&mut self) -> bool {
        let mut status = 0;
        // SAFETY: what was waited for is a tracee.
        unsafe {
            let pid = libc::waitpid(-1, &raw mut status, libc::__WALL);
            if pid < 0 {
                return *libc::__errno_location() == libc::EINTR;
            }
            if libc::WIFSTOPPED(status) {
                self.proceed(pid, libc::WSTOPSIG(status), status >> 16);
            } else {
                self.restarts.forget(pid);
            }
        }
        true
    }

    /// Lets a stopped task go on.
    ///
    /// # Safety
    /// Only makes system calls; `pid` must be a stopped tracee.
    unsafe fn proceed(&mut self, pid: libc::pid_t, signal: i32, event: i32) {
        let none = std::ptr::null_mut::<libc::c_void>();
        let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        // SAFETY: by the caller's promise. That the task was killed meanwhile is
        // the only likely error.
        unsafe {
            if event == libc::PTRACE_EVENT_STOP && stops.contains(&signal) {
                // It stays stopped until it gets SIGCONT.
                libc::ptrace(libc::PTRACE_LISTEN, pid, none, none);
            } else if event != 0 {
                libc::ptrace(libc::PTRACE_CONT, pid, none, none);
            } else {
                let (calls, interruptions) = (&self.calls, self.interruptions);
                let signal = self.restarts.at_signal(pid, signal, |call| {
                    if !calls.is_answered(pid, call) {
                        return false;
                    }
                    interruptions.note(
                        pid.cast_unsigned(),
                        fingerprint(call.number, &call.arguments),
                    );
                    true
                });
                let signal = signal as usize as *mut libc::c_void;
                libc::ptrace(libc::PTRACE_CONT, pid, none, signal);
            }
        }
    }
}

/// Makes the child of a fork a guard: it gets a name, takes all signals, which its parent
/// may have blocked, and closes all descriptors but one, since others wait for the end of
/// pipes that were open in the parent.
///
/// # Safety
/// Whatever owns the descriptors must not be used any more.
unsafe fn become_guard(but: RawFd) {
    let but = but as libc::c_uint;
    let last = libc::c_uint::MAX;
    // SAFETY: by the caller's promise.
    unsafe {
        if but > 0 {
            libc::syscall(libc::SYS_close_range, 0, but - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, but + 1, last, 0);
        libc::prctl(libc::PR_SET_NAME, c"kiln-guard".as_ptr(), 0, 0, 0);
        let mut none = std::mem::MaybeUninit::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Starts to trace a task; 0, or the number of the error.
///
/// # Safety
/// Only makes a system call.
unsafe fn seize(task: libc::pid_t, options: libc::c_int) -> i32 {
    let none = std::ptr::null_mut::<libc::c_void>();
    let options = options as usize as *mut libc::c_void;
    // SAFETY: numbers alone.
    unsafe {
        if libc::ptrace(libc::PTRACE_SEIZE, task, none, options) < 0 {
            *libc::__errno_location()
        } else {
            0
        }
    }
}

/// Reads the memory of a task up to where there is no more, as
/// [`memory`](super::emul::memory) does.
///
/// # Safety
/// As for [`Guard::proceed`].
unsafe fn read_memory(pid: libc::pid_t, address: u64, into: &mut [u8; PATH]) -> usize {
    let part = |base: *mut u8, length: usize| libc::iovec {
        iov_base: base.cast(),
        iov_len: length,
    };
    // Behind the end of a page there may be nothing, and then that part is not read.
    let first = (4096 - address % 4096).min(PATH as u64) as usize;
    let local = part(into.as_mut_ptr(), PATH);
    let start = address as *mut u8;
    let remote = [
        part(start, first),
        part(start.wrapping_add(first), PATH - first),
    ];
    let mut path = [0u8; 16];
    let mut digits = [0u8; 10];
    let number = decimal(pid.cast_unsigned(), &mut digits);
    path[..number.len()].copy_from_slice(number);
    path[number.len()..][..4].copy_from_slice(b"/mem");
    // SAFETY: the vectors are as long as they say, and the path is terminated.
    let count = unsafe {
        let count = libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), 2, 0);
        if count >= 0 {
            count
        } else {
            let memory = libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC);
            let count = libc::pread(memory, local.iov_base, PATH, address.cast_signed());
            libc::close(memory);
            count
        }
    };
    usize::try_from(count).unwrap_or(0)
}

/// Whether a path of a task, from its root, a descriptor or its working directory, is a
/// FIFO.
///
/// # Safety
/// As for [`Guard::proceed`].
unsafe fn is_fifo(pid: libc::pid_t, directory: Option<i32>, address: u64) -> bool {
    let mut path = [0u8; 64 + PATH];
    let mut given = [0u8; PATH];
    // SAFETY: `stat` is valid zeroed.
    unsafe {
        let count = read_memory(pid, address, &mut given);
        let Some(end) = given[..count].iter().position(|&byte| byte == 0) else {
            return false;
        };
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            path[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        // The workers' working directory, which this process has too, is `/proc`.
        let mut digits = [0u8; 10];
        put(decimal(pid.cast_unsigned(), &mut digits));
        let given = &given[..end];
        // A target may have no `/proc`, and in another one this process would be `self`.
        let starts: [(&[u8], &[u8]); 3] = [
            (b"/proc/self/", b"/"),
            (b"/dev/fd/", b"/fd/"),
            (b"/proc/", b"/../"),
        ];
        let known = starts
            .iter()
            .find_map(|(start, instead)| Some((given.strip_prefix(*start)?, *instead)));
        let (rest, instead) = known.unwrap_or((given, b"/root"));
        match directory {
            _ if given.first() == Some(&b'/') => put(instead),
            Some(number) => {
                put(b"/fd/");
                put(decimal(number.cast_unsigned(), &mut digits));
                put(b"/");
            }
            None => put(b"/cwd/"),
        }
        put(rest);
        let mut stat: libc::stat = std::mem::zeroed();
        libc::stat(path.as_ptr().cast(), &raw mut stat) == 0
            && stat.st_mode & libc::S_IFMT == libc::S_IFIFO
    }
}

/// A number as text, without memory of its own.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_is_taken_once_by_its_own_call() {
        let interruptions = Interruptions::new().expect("memory");
        let (call, other) = (
            fingerprint(83, &[1, 2, 0, 0, 0, 0]),
            fingerprint(83, &[2, 1, 0, 0, 0, 0]),
        );
        assert_ne!(call, other);
        assert!(!interruptions.take(7, || call));
        interruptions.note(7, call);
        assert!(!interruptions.take(7, || other));
        assert!(!interruptions.take(8, || call));
        assert!(interruptions.take(7, || call));
        assert!(!interruptions.take(7, || call));
        assert_eq!(interruptions.count(), 1);
    }

    #[test]
    fn numbers_are_written_without_memory() {
        for number in [0, 7, 10, 4_294_967_295] {
            let mut digits = [0; 10];
            assert_eq!(decimal(number, &mut digits), number.to_string().as_bytes());
        }
    }

    /// From now on this call of the calling thread fails as a container's filter lets it fail.
    fn refuse(number: libc::c_long) {
        let statement = |code, k| libc::sock_filter {
            code,
            jt: 0,
            jf: u8::from(code & 7 == libc::BPF_JMP as u16),
            k,
        };
        let program = [
            statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0),
            statement(
                (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
                number as u32,
            ),
            statement(
                libc::BPF_RET as u16,
                libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
            ),
            statement(libc::BPF_RET as u16, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog {
            len: program.len() as u16,
            filter: program.as_ptr().cast_mut(),
        };
        nix::sys::prctl::set_no_new_privs().expect("always allowed");
        // SAFETY: the program lives across the call.
        let loaded = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
                0,
                0,
            )
        };
        assert_eq!(loaded, 0);
    }

    #[test]
    fn memory_is_read_where_a_filter_refuses_the_quick_way() {
        let text = c"where it leads";
        let own = std::process::id().cast_signed();
        let read = move || {
            let mut found = [0; PATH];
            // SAFETY: it only makes system calls.
            let count = unsafe { read_memory(own, text.as_ptr() as u64, &mut found) };
            found[..count].starts_with(text.to_bytes_with_nul())
        };
        let thread = std::thread::spawn(move || {
            crate::sandbox::root::own_context(|| {
                std::env::set_current_dir("/proc").expect("it is there");
                let before = read();
                refuse(libc::SYS_process_vm_readv);
                (before, read())
            })
        });
        let both = thread.join().expect("no panic").expect("it starts");
        assert_eq!(both, (true, true));
    }

    #[test]
    fn all_numbers_of_the_table_have_a_place() {
        let calls = Calls::new();
        assert!(calls.answered[0][libc::SYS_newfstatat as usize]);
        assert_eq!(calls.opens[0][libc::SYS_openat as usize], Some(1));
        if cfg!(target_arch = "x86_64") {
            assert!(calls.answered[1][195]);
            assert_eq!(calls.opens[1][5], Some(0));
        }
    }
}
