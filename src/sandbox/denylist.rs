//! System calls that no hook needs, refused in every process of the sandbox.
//!
//! The second wall behind the namespaces: what is listed here either reaches
//! objects that no namespace covers (keyrings, the clock, kernel modules, virtual
//! sockets to a hypervisor, the typing of a terminal) or is a part of the kernel
//! that often had holes. The engine installs the filter on itself once, so hooks
//! inherit it and cost nothing more; calls that are not listed pass through the
//! kernel's per-number cache (Linux 5.11). See `seccomp(2)`.

use std::io;

use libc::{c_long, sock_filter};

#[cfg(target_arch = "x86_64")]
use super::bpf::JUMP_AT_LEAST;
use super::bpf::{DATA_ARCH, DATA_NR, JUMP_EQUAL, LOAD, RLIMIT_LOCKS, answer, instruction};
use super::network::Network;
use super::seccomp::load;

/// `AUDIT_ARCH_*` of this machine, from `linux/audit.h`.
const ARCH: u32 = if cfg!(target_arch = "aarch64") {
    0xC000_00B7
} else {
    0xC000_003E
};

/// `AUDIT_ARCH_I386`: 32-bit programs on x86-64.
const I386: u32 = 0x4000_0003;
/// `AUDIT_ARCH_ARM`: 32-bit programs on 64-bit ARM.
const ARM: u32 = 0x4000_0028;
/// Offsets of the low halves of the first three arguments in `struct seccomp_data`, and of a
/// high half from its low one.
const FIRST_ARGUMENT: u32 = 16;
const SECOND_ARGUMENT: u32 = 24;
const THIRD_ARGUMENT: u32 = 32;
const HIGH_HALF: u32 = 4;
/// `ioctl(2)` requests that no hook needs: those that type into a terminal, or paste on the
/// console, and `BTRFS_IOC_SNAP_CREATE` with its successor, which on older kernels give who
/// owns any directory a copy of all that is in the subvolume around it, with set-id bits; so does
/// `BCH_IOCTL_SUBVOLUME_CREATE`.
const REQUESTS: [u32; 5] = [
    libc::TIOCSTI as u32,
    0x541C,
    0x5000_9401,
    0x5000_9417,
    0x4020_BC10,
];
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const EAFNOSUPPORT: u32 = libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;

/// Calls that are refused with `EPERM`, on every architecture.
const REFUSED: &[c_long] = &[
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_syslog,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[libc::SYS_kexec_file_load, libc::SYS_iopl, libc::SYS_ioperm];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

/// `quotactl_fd`, the same number everywhere.
const QUOTACTL_FD: u32 = 443;

/// Calls that are said to be absent, because programs then have another way:
/// `io_uring_setup`, `_enter` and `_register`, the same numbers everywhere. Their
/// requests would also pass by every filter.
const ABSENT: [u32; 3] = [425, 426, 427];

/// The same in the numbers of i386, in the order of [`REFUSED`]; then
/// `kexec_load`'s siblings, `iopl`, `ioperm`, `stime`, `clock_settime64`.
const REFUSED_I386: &[u32] = &[
    286, 287, 288, 357, 336, 374, 342, 128, 350, 129, 283, 88, 87, 115, 51, 131, 79, 264, 103, 111,
    110, 101, 25, 404,
];
/// The same in the numbers of 32-bit ARM's EABI (`arch/arm/tools/syscall.tbl`), in the
/// order of [`REFUSED`]; then `kexec_file_load`, `clock_settime64`. It has no
/// `socketcall`, and the calls of the older ABI do not exist on a 64-bit kernel.
const REFUSED_ARM: &[u32] = &[
    309, 310, 311, 386, 364, 388, 371, 128, 379, 129, 347, 88, 87, 115, 51, 131, 79, 262, 103, 111,
    401, 404,
];

/// What a 32-bit convention calls what the filter looks at.
struct Narrow {
    audit: u32,
    refused: &'static [u32],
    ioctl: u32,
    socket: u32,
    socketcall: Option<u32>,
    prlimit: u32,
}

/// 32-bit programs that a kernel of this machine may run.
const NARROW: Narrow = if cfg!(target_arch = "aarch64") {
    NARROW_ARM
} else {
    NARROW_I386
};
const NARROW_I386: Narrow = Narrow {
    audit: I386,
    refused: REFUSED_I386,
    ioctl: IOCTL_I386,
    socket: SOCKET_I386,
    socketcall: Some(SOCKETCALL_I386),
    prlimit: PRLIMIT_I386,
};
const NARROW_ARM: Narrow = Narrow {
    audit: ARM,
    refused: REFUSED_ARM,
    ioctl: 54,
    socket: 281,
    socketcall: None,
    prlimit: 369,
};

const IOCTL_I386: u32 = 54;
const SOCKET_I386: u32 = 359;
const PRLIMIT_I386: u32 = 340;
/// Takes the address family from memory, where no filter can look.
const SOCKETCALL_I386: u32 = 102;

fn jump_equal(k: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(JUMP_EQUAL, jt, jf, k)
}

fn load_word(offset: u32) -> sock_filter {
    instruction(LOAD, 0, 0, offset)
}

/// Instructions that answer one number.
fn refuse(program: &mut Vec<sock_filter>, number: u32, with: u32) {
    program.extend([jump_equal(number, 0, 1), answer(with)]);
}

/// Instructions that answer one number if an argument has one of the values;
/// whatever else it has gets the other answer.
fn answer_argument(
    program: &mut Vec<sock_filter>,
    number: u32,
    argument: u32,
    values: &[u32],
    with: u32,
    otherwise: u32,
) {
    let count = u8::try_from(values.len()).unwrap_or(u8::MAX);
    program.push(jump_equal(number, 0, 2 * count + 2));
    program.push(load_word(argument));
    for &value in values {
        program.extend([jump_equal(value, 0, 1), answer(with)]);
    }
    program.push(answer(otherwise));
}

/// Instructions that refuse to set limits of another process (`prlimit(2)`), for which the
/// kernel asks for the same user only: a process with a limit of no CPU time is killed, and
/// the engine counts nothing that it cannot open. The limit that says who a process believes to
/// be is the engine's to set, and limits nothing.
fn keep_limits(program: &mut Vec<sock_filter>, prlimit: u32) {
    program.extend([
        jump_equal(prlimit, 0, 10),
        load_word(SECOND_ARGUMENT),
        jump_equal(RLIMIT_LOCKS, 6, 0),
        // The caller's own.
        load_word(FIRST_ARGUMENT),
        jump_equal(0, 4, 0),
        // Without new limits it only asks.
        load_word(THIRD_ARGUMENT),
        jump_equal(0, 0, 3),
        load_word(THIRD_ARGUMENT + HIGH_HALF),
        jump_equal(0, 0, 1),
        answer(libc::SECCOMP_RET_ALLOW),
        answer(EPERM),
    ]);
}

/// Address families of sockets (`address_families(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families<'a> {
    /// Those that none may have.
    Without(&'a [u32]),
    /// Those that they may have.
    Only(&'a [u32]),
}

/// Families that stay on this host: without a network, and without a network namespace,
/// there are no others. Which of the rest lead out is not ours to list: some that look
/// harmless, such as `AF_SMC` and `AF_RDS`, are TCP below.
const LOCAL: [u32; 3] = [
    libc::AF_UNIX as u32,
    libc::AF_NETLINK as u32,
    libc::AF_ALG as u32,
];

/// Everything for one architecture, whose number of calls is loaded.
fn table(
    program: &mut Vec<sock_filter>,
    refused: impl Iterator<Item = u32>,
    ioctl: u32,
    socket: u32,
    families: Families<'_>,
) {
    let allow = libc::SECCOMP_RET_ALLOW;
    // The only frequent one for which the kernel has to run this each time: supervisors
    // receive and answer calls by it.
    answer_argument(program, ioctl, SECOND_ARGUMENT, &REQUESTS, EPERM, allow);
    for number in refused.chain([QUOTACTL_FD]) {
        refuse(program, number, EPERM);
    }
    for number in ABSENT {
        refuse(program, number, ENOSYS);
    }
    let (listed, with, otherwise) = match families {
        Families::Without(listed) => (listed, EAFNOSUPPORT, allow),
        Families::Only(listed) => (listed, allow, EAFNOSUPPORT),
    };
    answer_argument(program, socket, FIRST_ARGUMENT, listed, with, otherwise);
}

/// What a filter depends on.
#[derive(Debug, Clone, Copy)]
struct Rules<'a> {
    families: Families<'a>,
    no_socketcall: bool,
}

/// The filter.
fn program(rules: Rules<'_>, narrow: &Narrow) -> Vec<sock_filter> {
    let Rules {
        families,
        no_socketcall,
    } = rules;
    let number = |nr: &c_long| u32::try_from(*nr).unwrap_or(u32::MAX);
    let mut own = Vec::new();
    #[cfg(target_arch = "x86_64")]
    own.extend([
        // x32 has these calls under other numbers.
        instruction(JUMP_AT_LEAST, 0, 1, 0x4000_0000),
        answer(ENOSYS),
    ]);
    keep_limits(&mut own, number(&libc::SYS_prlimit64));
    table(
        &mut own,
        REFUSED.iter().chain(REFUSED_HERE).map(number),
        number(&libc::SYS_ioctl),
        number(&libc::SYS_socket),
        families,
    );
    own.push(answer(libc::SECCOMP_RET_ALLOW));
    let mut other = Vec::new();
    if let Some(socketcall) = narrow.socketcall.filter(|_| no_socketcall) {
        refuse(&mut other, socketcall, ENOSYS);
    }
    keep_limits(&mut other, narrow.prlimit);
    table(
        &mut other,
        narrow.refused.iter().copied(),
        narrow.ioctl,
        narrow.socket,
        families,
    );
    other.push(answer(libc::SECCOMP_RET_ALLOW));
    let length = u8::try_from(own.len()).unwrap_or(u8::MAX);
    let mut program = vec![
        load_word(DATA_ARCH),
        jump_equal(ARCH, 0, length + 1),
        load_word(DATA_NR),
    ];
    program.extend(own);
    program.extend([
        // No program here has another convention; should one, it gets nowhere.
        jump_equal(narrow.audit, 1, 0),
        answer(ENOSYS),
        load_word(DATA_NR),
    ]);
    program.extend(other);
    program
}

/// Installs the filter on the calling thread and all that it starts.
///
/// Sockets are refused that no network namespace covers; without a network and without
/// such a namespace, all but those that stay on the host. Limits of other processes are
/// refused where no PID namespace hides those of the host.
pub fn install(network: Network, own_network_namespace: bool) -> io::Result<()> {
    let off = network == Network::None;
    let families = if off && !own_network_namespace {
        Families::Only(&LOCAL)
    } else {
        Families::Without(&[libc::AF_VSOCK as u32])
    };
    let rules = Rules {
        families,
        no_socketcall: off,
    };
    load(&program(rules, &NARROW), 0).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::bpf::run;
    use super::*;

    #[test]
    fn each_architecture_gets_its_answers() {
        let vsock = libc::AF_VSOCK as u32;
        let inet = libc::AF_INET as u32;
        let families = Families::Without(&[vsock, inet]);
        let rules = Rules {
            families,
            no_socketcall: true,
        };
        let program = |narrow| program(rules, narrow);
        let arm = program(&NARROW_ARM);
        let program = program(&NARROW_I386);
        let allow = libc::SECCOMP_RET_ALLOW;
        let own = |nr: c_long| u32::try_from(nr).expect("a number");
        for (arch, nr, arguments, expected) in [
            (ARCH, own(libc::SYS_read), [0, 0], allow),
            (ARCH, own(libc::SYS_keyctl), [0, 0], EPERM),
            (ARCH, own(libc::SYS_vhangup), [0, 0], EPERM),
            (ARCH, 425, [0, 0], ENOSYS),
            (ARCH, own(libc::SYS_ioctl), [0, REQUESTS[0]], EPERM),
            (ARCH, own(libc::SYS_ioctl), [0, REQUESTS[1]], EPERM),
            (ARCH, own(libc::SYS_ioctl), [0, REQUESTS[2]], EPERM),
            (ARCH, own(libc::SYS_ioctl), [0, REQUESTS[3]], EPERM),
            (ARCH, own(libc::SYS_ioctl), [0, REQUESTS[4]], EPERM),
            (ARCH, own(libc::SYS_ioctl), [0, 0x5401], allow),
            (ARCH, own(libc::SYS_socket), [vsock, 1], EAFNOSUPPORT),
            (ARCH, own(libc::SYS_socket), [inet, 1], EAFNOSUPPORT),
            (
                ARCH,
                own(libc::SYS_socket),
                [libc::AF_UNIX as u32, 1],
                allow,
            ),
            (ARCH, own(libc::SYS_mount), [0, 0], allow),
            (I386, 3, [0, 0], allow),
            (I386, 288, [0, 0], EPERM),
            (I386, 404, [0, 0], EPERM),
            (I386, IOCTL_I386, [0, REQUESTS[0]], EPERM),
            (I386, SOCKET_I386, [vsock, 0], EAFNOSUPPORT),
            (I386, SOCKETCALL_I386, [1, 0], ENOSYS),
            // RISC-V.
            (0xC000_00F3, 288, [0, 0], ENOSYS),
        ] {
            let found = run(&program, arch, nr, arguments);
            assert_eq!(found, expected, "{arch:x} {nr} {arguments:?}");
        }
        for (nr, arguments, expected) in [
            (3, [0, 0], allow),
            (311, [0, 0], EPERM),
            (404, [0, 0], EPERM),
            (443, [0, 0], EPERM),
            (425, [0, 0], ENOSYS),
            (54, [0, REQUESTS[0]], EPERM),
            (54, [0, 0x5401], allow),
            (281, [vsock, 1], EAFNOSUPPORT),
            (281, [libc::AF_UNIX as u32, 1], allow),
        ] {
            assert_eq!(
                run(&arm, ARM, nr, arguments),
                expected,
                "{nr} {arguments:?}"
            );
        }
        assert_eq!(run(&arm, I386, 3, [0, 0]), ENOSYS);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(run(&program, ARCH, 0x4000_0000, [0, 0]), ENOSYS);
    }

    #[test]
    fn without_a_network_sockets_have_families_that_stay_on_the_host() {
        let rules = Rules {
            families: Families::Only(&LOCAL),
            no_socketcall: true,
        };
        let program = program(rules, &NARROW_I386);
        let socket = u32::try_from(libc::SYS_socket).expect("a number");
        for family in 0..64 {
            let local = [1, 16, 38].contains(&family);
            let expected = if local {
                libc::SECCOMP_RET_ALLOW
            } else {
                EAFNOSUPPORT
            };
            for (arch, number) in [(ARCH, socket), (I386, SOCKET_I386)] {
                let found = run(&program, arch, number, [family, 1]);
                assert_eq!(found, expected, "family {family}");
            }
        }
        assert_eq!(
            run(&program, ARCH, libc::SYS_connect as u32, [3, 0]),
            libc::SECCOMP_RET_ALLOW
        );
    }

    #[test]
    fn limits_of_others_are_kept() {
        let allow = libc::SECCOMP_RET_ALLOW;
        let rules = Rules {
            families: Families::Without(&[]),
            no_socketcall: false,
        };
        let prlimit = u32::try_from(libc::SYS_prlimit64).expect("a number");
        let (cpu, address) = (libc::RLIMIT_CPU, 4096);
        for (arguments, expected) in [
            ([7, cpu, address], EPERM),
            ([0, cpu, address], allow),
            ([7, cpu, 0], allow),
            ([7, RLIMIT_LOCKS, address], allow),
        ] {
            for (narrow, arch, number) in [
                (&NARROW, ARCH, prlimit),
                (&NARROW_I386, I386, PRLIMIT_I386),
                (&NARROW_ARM, ARM, 369),
            ] {
                let found = run(&program(rules, narrow), arch, number, arguments);
                assert_eq!(found, expected, "{arch:x} {arguments:?}");
            }
        }
    }
}
