//! The filter that hands system calls to the supervisor, and which ones.
//!
//! Programs load the architecture, the number and at most one argument, so the
//! kernel's per-number cache (Linux 5.11) keeps every call that is not listed at
//! its usual cost. Only calls of this machine's own architecture are handed
//! over; those of 32-bit programs pass untouched, so such a program sees the
//! plain ids of the namespace. See `seccomp(2)` and `linux/filter.h`.

use libc::{c_long, sock_filter};

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`; arguments are 64 bits each, and both
/// architectures store the low half first.
const DATA_NR: u32 = 0;
const DATA_ARCH: u32 = 4;
const DATA_ARGUMENTS: u32 = 16;

/// `AUDIT_ARCH_*` of this machine, from `linux/audit.h`; 0 matches nothing.
pub const ARCH: u32 = if cfg!(target_arch = "x86_64") {
    0xC000_003E
} else if cfg!(target_arch = "aarch64") {
    0xC000_00B7
} else {
    0
};

/// Set in the number of an x32 call (`__X32_SYSCALL_BIT`).
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// `open(2)` flags by which it makes a file: `O_CREAT` and `__O_TMPFILE`.
pub const CREATING: u32 = libc::O_CREAT as u32 | (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

/// `RLIMIT_LOCKS`: without effect since Linux 2.4.25; carries the credentials.
pub const RLIMIT_LOCKS: u32 = 10;

/// When a listed call is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// If an argument has any of these bits.
    AnyBit(u32, u32),
    /// If an argument's low half is this.
    Equal(u32, u32),
}

use When::{Always, AnyBit, Equal};

/// Calls with the same name on both architectures.
const COMMON: &[(c_long, When)] = &[
    (libc::SYS_newfstatat, Always),
    (libc::SYS_fstat, Always),
    (libc::SYS_statx, Always),
    (libc::SYS_openat, AnyBit(2, CREATING)),
    (libc::SYS_openat2, Always),
    (libc::SYS_geteuid, Always),
    (libc::SYS_getuid, Always),
    (libc::SYS_getegid, Always),
    (libc::SYS_getgid, Always),
    (libc::SYS_execve, Always),
    (libc::SYS_execveat, Always),
    (libc::SYS_fchown, Always),
    (libc::SYS_fchownat, Always),
    (libc::SYS_getgroups, Always),
    (libc::SYS_getresuid, Always),
    (libc::SYS_getresgid, Always),
    (libc::SYS_setuid, Always),
    (libc::SYS_setgid, Always),
    (libc::SYS_setreuid, Always),
    (libc::SYS_setregid, Always),
    (libc::SYS_setgroups, Always),
    (libc::SYS_setresuid, Always),
    (libc::SYS_setresgid, Always),
    (libc::SYS_setfsuid, Always),
    (libc::SYS_setfsgid, Always),
    (libc::SYS_prctl, Equal(0, libc::PR_SET_KEEPCAPS as u32)),
    (libc::SYS_prlimit64, Equal(1, RLIMIT_LOCKS)),
    (libc::SYS_setrlimit, Equal(0, RLIMIT_LOCKS)),
    (libc::SYS_getrlimit, Equal(0, RLIMIT_LOCKS)),
    (libc::SYS_mkdirat, Always),
    (libc::SYS_mknodat, Always),
    (libc::SYS_symlinkat, Always),
    (libc::SYS_getxattr, Always),
    (libc::SYS_lgetxattr, Always),
    (libc::SYS_fgetxattr, Always),
    (libc::SYS_listxattr, Always),
    (libc::SYS_llistxattr, Always),
    (libc::SYS_flistxattr, Always),
    (libc::SYS_setxattr, Always),
    (libc::SYS_lsetxattr, Always),
    (libc::SYS_fsetxattr, Always),
    (libc::SYS_removexattr, Always),
    (libc::SYS_lremovexattr, Always),
    (libc::SYS_fremovexattr, Always),
];

/// Calls that newer architectures no longer have.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[(c_long, When)] = &[
    (libc::SYS_stat, Always),
    (libc::SYS_lstat, Always),
    (libc::SYS_open, AnyBit(1, CREATING)),
    (libc::SYS_creat, Always),
    (libc::SYS_mkdir, Always),
    (libc::SYS_mknod, Always),
    (libc::SYS_symlink, Always),
    (libc::SYS_chown, Always),
    (libc::SYS_lchown, Always),
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[(c_long, When)] = &[];

/// Calls that name a file below `/proc`, where none can be mounted: all that take a
/// path and can be answered for another process.
const NAMING: &[(c_long, When)] = &[
    (libc::SYS_openat, Always),
    (libc::SYS_readlinkat, Always),
    (libc::SYS_faccessat, Always),
    (libc::SYS_faccessat2, Always),
    (libc::SYS_statfs, Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_readlink, Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_access, Always),
];

/// Calls that would go past the supervisor, and for which every program has
/// another way: `io_uring_setup`, and `setxattrat` with its three siblings
/// (Linux 6.13, the same numbers everywhere).
const ABSENT: [u32; 5] = [425, 463, 464, 465, 466];

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn answer(k: u32) -> sock_filter {
    instruction(RETURN, 0, 0, k)
}

/// The program for hooks of a namespace with a single id. `silent` are calls
/// that succeed without being made; `naming` hands over calls that only name files too.
pub fn supervised(silent: &[c_long], naming: bool) -> Vec<sock_filter> {
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let mut program = vec![
        instruction(LOAD, 0, 0, DATA_ARCH),
        instruction(JUMP_EQUAL, 1, 0, ARCH),
        answer(libc::SECCOMP_RET_ALLOW),
        instruction(LOAD, 0, 0, DATA_NR),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([instruction(JUMP_ANY_BIT, 0, 1, X32), answer(ENOSYS)]);
    let number = |nr: c_long| u32::try_from(nr).unwrap_or(u32::MAX);
    let first: &[(c_long, When)] = if naming { NAMING } else { &[] };
    for &(nr, when) in first.iter().chain(COMMON).chain(LEGACY) {
        let (argument, code, k) = match when {
            Always => {
                program.push(instruction(JUMP_EQUAL, 0, 1, number(nr)));
                program.push(answer(libc::SECCOMP_RET_USER_NOTIF));
                continue;
            }
            AnyBit(argument, bits) => (argument, JUMP_ANY_BIT, bits),
            Equal(argument, value) => (argument, JUMP_EQUAL, value),
        };
        // The number is gone once an argument is loaded, so this ends here.
        program.extend([
            instruction(JUMP_EQUAL, 0, 4, number(nr)),
            instruction(LOAD, 0, 0, DATA_ARGUMENTS + 8 * argument),
            instruction(code, 0, 1, k),
            answer(libc::SECCOMP_RET_USER_NOTIF),
            answer(libc::SECCOMP_RET_ALLOW),
        ]);
    }
    for nr in ABSENT {
        program.extend([instruction(JUMP_EQUAL, 0, 1, nr), answer(ENOSYS)]);
    }
    for &nr in silent {
        // Errno 0 is success with the result 0.
        program.extend([
            instruction(JUMP_EQUAL, 0, 1, number(nr)),
            answer(libc::SECCOMP_RET_ERRNO),
        ]);
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the instructions that the filter uses.
    fn run(program: &[sock_filter], arch: u32, nr: u32, arguments: [u32; 6]) -> u32 {
        let (mut at, mut register) = (0usize, 0u32);
        loop {
            let op = &program[at];
            let jump = |taken: bool| usize::from(if taken { op.jt } else { op.jf });
            match op.code {
                LOAD => {
                    register = match op.k {
                        DATA_NR => nr,
                        DATA_ARCH => arch,
                        offset => arguments[((offset - DATA_ARGUMENTS) / 8) as usize],
                    }
                }
                JUMP_EQUAL => at += jump(register == op.k),
                JUMP_ANY_BIT => at += jump(register & op.k != 0),
                RETURN => return op.k,
                other => panic!("unexpected instruction {other:#x}"),
            }
            at += 1;
        }
    }

    #[test]
    fn each_call_gets_its_answer() {
        let program = supervised(&[libc::SYS_fsync], false);
        assert!(program.len() < 4096, "longer than BPF_MAXINSNS");
        let (create, locks) = (libc::O_CREAT as u32, RLIMIT_LOCKS);
        let (notify, allow) = (libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_RET_ALLOW);
        let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        for (nr, arguments, expected) in [
            (libc::SYS_read, [0; 6], allow),
            (libc::SYS_newfstatat, [0; 6], notify),
            (libc::SYS_openat, [0, 0, 0, 0, 0, 0], allow),
            (libc::SYS_openat, [0, 0, create | 1, 0, 0, 0], notify),
            (
                libc::SYS_openat,
                [0, 0, libc::O_DIRECTORY as u32, 0, 0, 0],
                allow,
            ),
            (
                libc::SYS_openat,
                [0, 0, libc::O_TMPFILE as u32, 0, 0, 0],
                notify,
            ),
            (libc::SYS_prlimit64, [0, locks, 0, 0, 0, 0], notify),
            (libc::SYS_prlimit64, [0, 7, 0, 0, 0, 0], allow),
            (libc::SYS_prctl, [8, 1, 0, 0, 0, 0], notify),
            (libc::SYS_prctl, [1, 9, 0, 0, 0, 0], allow),
            (libc::SYS_fchownat, [0; 6], notify),
            (libc::SYS_lremovexattr, [0; 6], notify),
            (libc::SYS_fsync, [0; 6], libc::SECCOMP_RET_ERRNO),
            (libc::SYS_io_uring_setup, [0; 6], absent),
            (libc::SYS_fchmodat, [0; 6], allow),
            (libc::SYS_unlinkat, [0; 6], allow),
        ] {
            let nr = nr as u32;
            assert_eq!(run(&program, ARCH, nr, arguments), expected, "call {nr}");
            assert_eq!(run(&program, 0x4000_0003, nr, arguments), allow);
        }
        let naming = supervised(&[], true);
        for nr in [libc::SYS_openat, libc::SYS_readlinkat, libc::SYS_faccessat2] {
            assert_eq!(run(&naming, ARCH, nr as u32, [0; 6]), notify, "call {nr}");
        }
    }
}
