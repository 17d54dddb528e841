//! 64-bit ARM: when a signal is delivered, the kernel has already put the program back
//! before the call, and looks later whether it is still there: then a handler without
//! `SA_RESTART` makes it go on behind the call, with `EINTR`. What it had decided is in
//! no register.
//!
//! So the signal is held back, and the program is sent where there is no memory, which
//! stops it once more. Then it is in no call: it is put back before the call and gets
//! the signal as it was. See `do_signal` in `arch/arm64/kernel/signal.c`.

use super::Interrupted;

/// `svc #0`.
const SUPERVISOR_CALL: u32 = 0xd400_0001;
/// An address that is never a program's.
const AWAY: u64 = 0xffff_ffff_ffff_f000;
/// Tasks that are on their way at once; for more, nothing is done.
const TASKS: usize = 32;
/// Signals that one of them gets meanwhile, those that are queued each on its own.
const SIGNALS: usize = 8;
/// The first signal that is queued: the kernel's `SIGRTMIN`, not the library's.
const REAL_TIME: i32 = 32;

/// A task that was sent away.
#[derive(Clone, Copy)]
struct Sent {
    /// 0 if there is none.
    pid: libc::pid_t,
    /// Where it is to go on.
    back: u64,
    count: usize,
    signals: [libc::siginfo_t; SIGNALS],
}

/// Calls that are made again.
pub(super) struct Restarts([Sent; TASKS]);

type Registers = libc::user_regs_struct;

impl Restarts {
    pub(super) fn new() -> Restarts {
        // SAFETY: integers, for which zeroes are a valid value.
        Restarts(unsafe { std::mem::zeroed() })
    }

    /// Has the call of a task at whose delivery of a signal it stopped made again, if
    /// it is `ours` to answer. What is returned is to be delivered.
    ///
    /// # Safety
    /// Only makes system calls; `pid` must be a stopped tracee.
    pub(super) unsafe fn at_signal(
        &mut self,
        pid: libc::pid_t,
        signal: i32,
        ours: impl FnOnce(&Interrupted) -> bool,
    ) -> i32 {
        // SAFETY: by the caller's promise.
        unsafe {
            let Some(mut registers) = read(pid) else {
                return signal;
            };
            if registers.pc == AWAY {
                return self.at_away(pid, signal, &mut registers);
            }
            self.forget(pid);
            let Some(sent) = self.0.iter_mut().find(|sent| sent.pid == 0) else {
                return signal;
            };
            if !is_at_call(pid, registers.pc)
                || is_blocked(pid, libc::SIGSEGV)
                || !ours(&interrupted(&registers))
                || !information(pid, &mut sent.signals[0])
            {
                return signal;
            }
            (sent.pid, sent.back, sent.count) = (pid, registers.pc, 1);
            registers.pc = AWAY;
            if write(pid, &registers) {
                return 0;
            }
            sent.pid = 0;
            signal
        }
    }

    /// A signal for a task that was sent away.
    ///
    /// # Safety
    /// As for [`Restarts::at_signal`].
    unsafe fn at_away(&mut self, pid: libc::pid_t, signal: i32, registers: &mut Registers) -> i32 {
        let Some(sent) = self.0.iter_mut().find(|sent| sent.pid == pid) else {
            return signal;
        };
        // SAFETY: by the caller's promise; zeroes are a valid value.
        unsafe {
            let mut now: libc::siginfo_t = std::mem::zeroed();
            if !information(pid, &mut now) {
                return signal;
            }
            let arrived = signal == libc::SIGSEGV && now.si_code > 0;
            let mut held = sent.signals[..sent.count].iter();
            // Is one of these pending, the kernel does not queue another: see `signal(7)`.
            if !arrived && signal < REAL_TIME && held.any(|held| held.si_signo == signal) {
                return 0;
            }
            if !arrived && sent.count < SIGNALS {
                sent.signals[sent.count] = now;
                sent.count += 1;
                return 0;
            }
            registers.pc = sent.back;
            write(pid, registers);
            sent.pid = 0;
            let held = &sent.signals[..sent.count];
            let deliver = if arrived { held[0] } else { now };
            for info in held.iter().skip(usize::from(arrived)) {
                again(pid, info);
            }
            let none = std::ptr::null_mut::<libc::c_void>();
            libc::ptrace(libc::PTRACE_SETSIGINFO, pid, none, &raw const deliver);
            deliver.si_signo
        }
    }

    /// A task is gone.
    pub(super) fn forget(&mut self, pid: libc::pid_t) {
        for sent in &mut self.0 {
            if sent.pid == pid {
                sent.pid = 0;
            }
        }
    }
}

fn interrupted(of: &Registers) -> Interrupted {
    let mut arguments = [0; 6];
    arguments.copy_from_slice(&of.regs[..6]);
    Interrupted {
        convention: 0,
        number: of.regs[8] as u32,
        arguments,
    }
}

/// The registers of a task; `None` if it is gone or in 32-bit mode.
///
/// # Safety
/// As for [`Restarts::at_signal`].
unsafe fn read(pid: libc::pid_t) -> Option<Registers> {
    // SAFETY: by the caller's promise; zeroes are a valid value, which the kernel
    // overwrites as far as the vector says.
    unsafe {
        let mut registers: Registers = std::mem::zeroed();
        let mut vector = libc::iovec {
            iov_base: (&raw mut registers).cast(),
            iov_len: size_of::<Registers>(),
        };
        let kind = libc::NT_PRSTATUS as usize as *mut libc::c_void;
        let result = libc::ptrace(libc::PTRACE_GETREGSET, pid, kind, &raw mut vector);
        (result == 0 && vector.iov_len == size_of::<Registers>()).then_some(registers)
    }
}

/// Sets the registers of a task.
///
/// # Safety
/// As for [`Restarts::at_signal`].
unsafe fn write(pid: libc::pid_t, registers: &Registers) -> bool {
    let mut vector = libc::iovec {
        iov_base: std::ptr::from_ref(registers).cast_mut().cast(),
        iov_len: size_of::<Registers>(),
    };
    let kind = libc::NT_PRSTATUS as usize as *mut libc::c_void;
    // SAFETY: by the caller's promise; the kernel only reads the registers.
    unsafe { libc::ptrace(libc::PTRACE_SETREGSET, pid, kind, &raw mut vector) == 0 }
}

/// Whether a task is about to make a call, as one is that has to make it again.
///
/// # Safety
/// As for [`Restarts::at_signal`].
unsafe fn is_at_call(pid: libc::pid_t, at: u64) -> bool {
    // Words of 64 bits are in one page.
    let place = (at & !7) as usize as *mut libc::c_void;
    // SAFETY: by the caller's promise; the library returns what was read.
    let word = unsafe { libc::ptrace(libc::PTRACE_PEEKTEXT, pid, place, 0) };
    let high = at & 4 != 0;
    (if high { word >> 32 } else { word }) as u32 == SUPERVISOR_CALL
}

/// Whether a task blocks a signal. The kernel would do away with its handler if it sent
/// the signal all the same.
///
/// # Safety
/// As for [`Restarts::at_signal`].
unsafe fn is_blocked(pid: libc::pid_t, signal: i32) -> bool {
    let mut mask = 0_u64;
    let size = size_of_val(&mask) as *mut libc::c_void;
    // SAFETY: by the caller's promise; the kernel writes as much as it is told.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK, pid, size, &raw mut mask) };
    result != 0 || mask >> (signal - 1) & 1 != 0
}

/// What is known of the signal that a task stopped for.
///
/// # Safety
/// As for [`Restarts::at_signal`].
unsafe fn information(pid: libc::pid_t, info: &mut libc::siginfo_t) -> bool {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: by the caller's promise; the kernel fills the structure.
    unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, pid, none, std::ptr::from_mut(info)) == 0 }
}

/// Sends a task a signal that was held back: as it was, if that is allowed, which it is
/// for what programs queue.
///
/// # Safety
/// Only makes system calls.
unsafe fn again(pid: libc::pid_t, info: &libc::siginfo_t) {
    // SAFETY: the kernel reads the structure.
    unsafe {
        let (signal, info) = (info.si_signo, std::ptr::from_ref(info));
        if libc::syscall(libc::SYS_rt_sigqueueinfo, pid, signal, info) != 0 {
            libc::syscall(libc::SYS_tkill, pid, signal);
        }
    }
}
