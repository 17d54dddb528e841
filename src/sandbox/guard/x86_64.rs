//! x86: the result of an interrupted call is in `rax` when a signal is delivered, and
//! the kernel looks at it only afterwards.

use super::Interrupted;

/// Results that only the kernel and tracers see (`linux/errno.h`).
const ERESTARTSYS: i64 = 512;
const ERESTARTNOINTR: i64 = 513;
/// `cs` of a program in 32-bit mode (`__USER32_CS`).
const USER32: u64 = 0x23;
const RAX: usize = std::mem::offset_of!(libc::user_regs_struct, rax);

/// Calls that are made again: nothing has to be known of them.
pub(super) struct Restarts;

impl Restarts {
    pub(super) fn new() -> Restarts {
        Restarts
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
        // SAFETY: by the caller's promise; zeroes are a valid value, which the
        // kernel overwrites.
        unsafe {
            // Most signals come at other times, which one register tells.
            let rax = libc::ptrace(libc::PTRACE_PEEKUSER, pid, RAX, 0);
            if rax as i32 != -(ERESTARTSYS as i32) {
                return signal;
            }
            let mut registers: libc::user_regs_struct = std::mem::zeroed();
            let none = std::ptr::null_mut::<libc::c_void>();
            if libc::ptrace(libc::PTRACE_GETREGS, pid, none, &raw mut registers) == 0
                && ours(&interrupted(&registers))
            {
                libc::ptrace(libc::PTRACE_POKEUSER, pid, RAX, -ERESTARTNOINTR);
            }
        }
        signal
    }

    /// A task is gone.
    pub(super) fn forget(&mut self, _pid: libc::pid_t) {}
}

fn interrupted(of: &libc::user_regs_struct) -> Interrupted {
    let narrow = of.cs == USER32;
    let arguments = if narrow {
        [of.rbx, of.rcx, of.rdx, of.rsi, of.rdi, of.rbp].map(|all| u64::from(all as u32))
    } else {
        [of.rdi, of.rsi, of.rdx, of.r10, of.r8, of.r9]
    };
    Interrupted {
        convention: usize::from(narrow),
        number: of.orig_rax as u32,
        arguments,
    }
}
