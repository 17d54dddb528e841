//! A filter that turns "write to disk now" into "done".
//!
//! A target that is still being made has nothing worth syncing: it is thrown
//! away when the build fails and written once when it succeeds. dpkg alone asks
//! for thousands of syncs. The filter answers them with success in the kernel;
//! no supervisor is involved and every other call runs at its usual cost.
//! See `seccomp(2)`; classic BPF as in `linux/filter.h`.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;

use super::bpf::ARCH as AUDIT_ARCH;
use super::notify;

pub(super) const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
pub(super) const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
pub(super) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`.
pub(super) const DATA_NR: u32 = 0;
pub(super) const DATA_ARCH: u32 = 4;

/// Calls that only force data out. `msync` stays: databases in a hook may rely
/// on its `MS_INVALIDATE`.
pub(super) const SYNCS: [libc::c_long; 5] = [
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
];

/// A program for [`install`].
#[derive(Debug, Clone)]
pub struct Filter {
    program: Vec<libc::sock_filter>,
    /// Where the listener goes, if the program hands calls to a supervisor.
    register: Option<Arc<OwnedFd>>,
}

impl Filter {
    /// A filter that hands calls to whoever reads from `register`'s other end.
    pub(super) fn with_listener(program: Vec<libc::sock_filter>, register: Arc<OwnedFd>) -> Filter {
        Filter {
            program,
            register: Some(register),
        }
    }

    /// Whether a supervisor answers calls.
    pub(super) fn is_answered(&self) -> bool {
        self.register.is_some()
    }
}

pub(super) fn statement(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// The filter that suppresses syncs; other architectures' calls pass untouched.
pub fn no_sync() -> Filter {
    let count = SYNCS.len() as u8;
    let mut program = vec![
        statement(LOAD, DATA_ARCH),
        // Not this machine's own calls (32-bit programs): to the final allow.
        libc::sock_filter {
            code: JUMP_EQUAL,
            jt: 0,
            jf: count + 1,
            k: AUDIT_ARCH,
        },
        statement(LOAD, DATA_NR),
    ];
    for (position, &number) in (0u8..).zip(SYNCS.iter()) {
        // Equal: over the remaining comparisons and the allow, to the errno.
        let k = u32::try_from(number).unwrap_or(u32::MAX);
        program.push(libc::sock_filter {
            code: JUMP_EQUAL,
            jt: count - position,
            jf: 0,
            k,
        });
    }
    program.push(statement(RETURN, libc::SECCOMP_RET_ALLOW));
    // Errno 0 is success with the result 0.
    program.push(statement(RETURN, libc::SECCOMP_RET_ERRNO));
    Filter {
        program,
        register: None,
    }
}

/// Installs a filter on the calling thread and what it executes.
///
/// Async-signal-safe, so that it can run between `fork` and `exec`. Needs
/// `CAP_SYS_ADMIN` in the user namespace, which spares us `no_new_privs`
/// (set-user-id programs of the target must keep working).
pub fn install(filter: &Filter) -> io::Result<()> {
    let program = filter.program.as_slice();
    let Some(register) = &filter.register else {
        return load(program, 0).map(drop);
    };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let listener = match load(
        program,
        flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    ) {
        // Before Linux 5.19.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => load(program, flags)?,
        result => result?,
    };
    let sent = notify::send_descriptor(register.as_raw_fd(), listener);
    // SAFETY: the listener is ours, and nobody uses its number after this.
    unsafe { libc::close(listener) };
    sent
}

/// `seccomp(2)`; the listener's descriptor if the flags ask for one.
pub(super) fn load(program: &[libc::sock_filter], flags: libc::c_ulong) -> io::Result<libc::c_int> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` and the instructions it points to live across the call,
    // which copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the few instructions that the filter uses.
    fn run(filter: &Filter, nr: u32, arch: u32) -> u32 {
        let (mut at, mut register) = (0usize, 0u32);
        loop {
            let op = &filter.program[at];
            match op.code {
                LOAD => register = if op.k == DATA_NR { nr } else { arch },
                JUMP_EQUAL => at += usize::from(if register == op.k { op.jt } else { op.jf }),
                RETURN => return op.k,
                other => panic!("unexpected instruction {other:#x}"),
            }
            at += 1;
        }
    }

    #[test]
    fn only_syncs_of_this_architecture_are_answered() {
        let filter = no_sync();
        for nr in SYNCS {
            assert_eq!(run(&filter, nr as u32, AUDIT_ARCH), libc::SECCOMP_RET_ERRNO);
            assert_eq!(
                run(&filter, nr as u32, 0x4000_0003),
                libc::SECCOMP_RET_ALLOW
            );
        }
        for nr in [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_openat,
            libc::SYS_msync,
        ] {
            assert_eq!(run(&filter, nr as u32, AUDIT_ARCH), libc::SECCOMP_RET_ALLOW);
        }
    }
}
