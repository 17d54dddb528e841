//! The filter that hands system calls to the supervisor.
//!
//! Which ones is in [`table`](super::emul::table). Programs load the
//! architecture, the number and at most one argument, so the kernel's per-number
//! cache (Linux 5.11) keeps every call that is not listed at its usual cost.
//! See `seccomp(2)` and `linux/filter.h`.

use libc::sock_filter;

use super::direct::{MARK, is_direct};
use super::emul::table::{ABIS, ABSENT, Abi, Groups, UNKNOWN, When};

pub(super) const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
pub(super) const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
pub(super) const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
pub(super) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`; arguments are 64 bits each, and both
/// architectures store the low half first.
pub(super) const DATA_NR: u32 = 0;
pub(super) const DATA_ARCH: u32 = 4;
const DATA_ARGUMENTS: u32 = 16;

/// `open(2)` flags by which it makes a file: `O_CREAT` and `__O_TMPFILE`.
pub const CREATING: u32 = libc::O_CREAT as u32 | (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

/// `S_ISUID` and `S_ISGID`.
pub const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// `openat2`, the same number everywhere.
const OPENAT2: u32 = 437;

/// `RLIMIT_LOCKS`: without effect since Linux 2.4.25; carries the credentials.
pub const RLIMIT_LOCKS: u32 = 10;

pub(super) fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

pub(super) fn answer(k: u32) -> sock_filter {
    instruction(RETURN, 0, 0, k)
}

/// Ends a program for a call that is to be handed over, unless it has the mark of a
/// [`direct`](super::direct) one.
fn hand_over(program: &mut Vec<sock_filter>, may_be_direct: bool) {
    if may_be_direct {
        let mark = DATA_ARGUMENTS + 8 * 5;
        program.extend([
            instruction(LOAD, 0, 0, mark),
            instruction(JUMP_EQUAL, 0, 3, MARK as u32),
            instruction(LOAD, 0, 0, mark + 4),
            instruction(JUMP_EQUAL, 0, 1, (MARK >> 32) as u32),
            answer(libc::SECCOMP_RET_ALLOW),
        ]);
    }
    program.push(answer(libc::SECCOMP_RET_USER_NOTIF));
}

/// What a call of one ABI gets.
fn program_of(abi: &Abi, groups: Groups, silent: bool) -> Vec<sock_filter> {
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let mut program = vec![instruction(LOAD, 0, 0, DATA_NR)];
    if abi.foreign_bit != 0 {
        program.extend([
            instruction(JUMP_ANY_BIT, 0, 1, abi.foreign_bit),
            answer(ENOSYS),
        ]);
    }
    if groups.contains(Groups::NAMING) {
        // What leads out of the target, somebody has to look at.
        if !abi.answers.contains(Groups::NAMING) {
            return vec![answer(ENOSYS)];
        }
        program.extend([instruction(JUMP_AT_LEAST, 0, 1, UNKNOWN), answer(ENOSYS)]);
    }
    // Its mode is in memory, where no filter looks.
    if (groups & abi.answers).contains(Groups::SET_ID) {
        program.extend([instruction(JUMP_EQUAL, 0, 1, OPENAT2), answer(ENOSYS)]);
    }
    // Where names are answered for, what a program opens may lead out of the target.
    let may_be_direct =
        ABIS.first().is_some_and(|own| own.audit == abi.audit) && !groups.contains(Groups::NAMING);
    for (number, when) in abi.wanted(groups) {
        let mut end = Vec::new();
        hand_over(&mut end, may_be_direct && is_direct(number));
        let length = end.len() as u8;
        // The number is gone once an argument is loaded, so what loads one ends here.
        let (argument, code, k) = match when {
            When::Always => {
                program.push(instruction(JUMP_EQUAL, 0, length, number));
                program.extend(end);
                continue;
            }
            When::AnyBit(argument, bits) => (argument, JUMP_ANY_BIT, bits),
            When::Equal(argument, value) => (argument, JUMP_EQUAL, value),
            When::OneOf(argument, values) => {
                let count = u8::try_from(values.len()).unwrap_or(u8::MAX);
                program.extend([
                    instruction(JUMP_EQUAL, 0, count + 3, number),
                    instruction(LOAD, 0, 0, DATA_ARGUMENTS + 8 * argument),
                ]);
                for (left, &value) in (1..=count).rev().zip(values) {
                    // The last one decides.
                    let otherwise = u8::from(left == 1);
                    program.push(instruction(JUMP_EQUAL, left - 1, otherwise, value));
                }
                program.extend([
                    answer(libc::SECCOMP_RET_USER_NOTIF),
                    answer(libc::SECCOMP_RET_ALLOW),
                ]);
                continue;
            }
        };
        program.extend([
            instruction(JUMP_EQUAL, 0, length + 3, number),
            instruction(LOAD, 0, 0, DATA_ARGUMENTS + 8 * argument),
            instruction(code, 0, length, k),
        ]);
        program.extend(end);
        program.push(answer(libc::SECCOMP_RET_ALLOW));
    }
    if !groups.is_empty() {
        for nr in ABSENT {
            program.extend([instruction(JUMP_EQUAL, 0, 1, nr), answer(ENOSYS)]);
        }
    }
    if silent {
        for nr in abi.syncs {
            // Errno 0 is success with the result 0.
            program.extend([
                instruction(JUMP_EQUAL, 0, 1, nr),
                answer(libc::SECCOMP_RET_ERRNO),
            ]);
        }
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

/// The program for hooks: calls of `groups` are handed over; if `silent`, those
/// that only force data out succeed without being made. Calls of other
/// architectures pass, and most of 32-bit ARM's: builds that need answers for such
/// programs are refused, and the [`denylist`](super::denylist) holds for them too.
pub fn supervised(groups: Groups, silent: bool) -> Vec<sock_filter> {
    let mut program = vec![instruction(LOAD, 0, 0, DATA_ARCH)];
    for abi in ABIS {
        let part = program_of(abi, groups, silent);
        // A jump by more than 255 takes an instruction of its own.
        let length = part.len() as u32;
        program.push(instruction(JUMP_EQUAL, 1, 0, abi.audit));
        program.push(instruction(JUMP, 0, 0, length));
        program.extend(part);
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

/// What a program answers to a call, of whose arguments it gets the lower halves.
#[cfg(test)]
pub(super) fn run<const ARGUMENTS: usize>(
    program: &[sock_filter],
    arch: u32,
    nr: u32,
    arguments: [u32; ARGUMENTS],
) -> u32 {
    run_whole(program, arch, nr, arguments.map(u64::from))
}

/// What a program answers to a call. Interprets the instructions that the filters use.
#[cfg(test)]
fn run_whole<const ARGUMENTS: usize>(
    program: &[sock_filter],
    arch: u32,
    nr: u32,
    arguments: [u64; ARGUMENTS],
) -> u32 {
    let (mut at, mut register) = (0usize, 0u32);
    loop {
        let op = &program[at];
        let jump = |taken: bool| usize::from(if taken { op.jt } else { op.jf });
        match op.code {
            LOAD => {
                register = match op.k {
                    DATA_NR => nr,
                    DATA_ARCH => arch,
                    offset => {
                        let offset = offset - DATA_ARGUMENTS;
                        (arguments[(offset / 8) as usize] >> (8 * (offset % 8))) as u32
                    }
                }
            }
            JUMP_EQUAL => at += jump(register == op.k),
            JUMP_AT_LEAST => at += jump(register >= op.k),
            JUMP => at += op.k as usize,
            JUMP_ANY_BIT => at += jump(register & op.k != 0),
            RETURN => return op.k,
            other => panic!("unexpected instruction {other:#x}"),
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::emul::table::{AARCH64, ARM, I386, X86_64};
    use super::*;

    const SIGNALS: Groups = Groups::SIGNALS.union(Groups::CHILDREN);

    #[test]
    fn each_call_gets_its_answer() {
        let program = supervised(Groups::all() - Groups::NAMING - Groups::SET_ID, true);
        let plain = supervised(Groups::empty(), true);
        let native = ABIS[0].audit;
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
            (libc::SYS_prctl, [4, 0, 0, 0, 0, 0], notify),
            (libc::SYS_prctl, [1, 9, 0, 0, 0, 0], allow),
            (libc::SYS_getsockopt, [3, 1, 17, 0, 0, 0], notify),
            (libc::SYS_getsockopt, [3, 1, 59, 0, 0, 0], notify),
            (libc::SYS_getsockopt, [3, 1, 4, 0, 0, 0], allow),
            (libc::SYS_capget, [0; 6], notify),
            (libc::SYS_fchownat, [0; 6], notify),
            (libc::SYS_lremovexattr, [0; 6], notify),
            (libc::SYS_fsync, [0; 6], libc::SECCOMP_RET_ERRNO),
            (libc::SYS_io_uring_setup, [0; 6], absent),
            (libc::SYS_fchmodat, [0; 6], allow),
            (libc::SYS_unlinkat, [0; 6], allow),
            (
                libc::SYS_unshare,
                [libc::CLONE_NEWNS as u32, 0, 0, 0, 0, 0],
                notify,
            ),
            (
                libc::SYS_clone,
                [libc::CLONE_VM as u32, 0, 0, 0, 0, 0],
                notify,
            ),
            (libc::SYS_rt_sigaction, [17, 4096, 0, 0, 0, 0], notify),
            (libc::SYS_rt_sigaction, [17, 0, 4096, 0, 0, 0], allow),
        ] {
            let nr = nr as u32;
            assert_eq!(run(&program, native, nr, arguments), expected, "call {nr}");
            assert_eq!(run(&program, 7, nr, arguments), allow, "of another machine");
            let synced = expected == libc::SECCOMP_RET_ERRNO;
            let expected = if synced { expected } else { allow };
            assert_eq!(run(&plain, native, nr, arguments), expected, "call {nr}");
        }
        assert_eq!(
            run(
                &supervised(Groups::all(), false),
                native,
                libc::SYS_fsync as u32,
                [0; 6]
            ),
            allow
        );
        // Where all programs are traced, or none.
        let untold = supervised(Groups::all() - SIGNALS, true);
        let flags = |flags: libc::c_int| [flags as u32, 0, 0, 0, 0, 0];
        for (nr, arguments, expected) in [
            (libc::SYS_clone, flags(libc::CLONE_VM), allow),
            (libc::SYS_clone, flags(libc::CLONE_NEWNS), notify),
            (libc::SYS_rt_sigaction, [17, 4096, 0, 0, 0, 0], allow),
        ] {
            let nr = nr as u32;
            assert_eq!(run(&untold, native, nr, arguments), expected, "call {nr}");
        }
        let naming = supervised(Groups::all() - Groups::SET_ID, true);
        assert!(naming.len() < 4096, "longer than BPF_MAXINSNS");
        for nr in [libc::SYS_openat, libc::SYS_readlinkat, libc::SYS_faccessat2] {
            assert_eq!(run(&naming, native, nr as u32, [0; 6]), notify, "call {nr}");
        }
        for (nr, expected) in [
            (libc::SYS_unlinkat as u32, allow),
            (libc::SYS_openat2 as u32, notify),
            (456, allow),
            (457, absent),
            (463, absent),
            (10_000, absent),
        ] {
            assert_eq!(run(&naming, native, nr, [0; 6]), expected, "call {nr}");
        }
        // Programs that nobody answers could name anything.
        let unanswered = program_of(&ARM, Groups::all(), true);
        for nr in [1, 94, 322, 412] {
            assert_eq!(run(&unanswered, ARM.audit, nr, [0; 6]), absent, "call {nr}");
        }
    }

    #[test]
    fn who_starts_another_is_asked_where_names_are_answered_for() {
        let groups = Groups::all() - Groups::SIGNALS;
        for (abi, numbers) in [
            // `clone`, `clone3`, `fork`, `vfork`.
            (&X86_64, &[56, 435, 57, 58][..]),
            (&I386, &[120, 435, 2, 190]),
            (&AARCH64, &[220, 435]),
        ] {
            let program = program_of(abi, groups, true);
            for &number in numbers {
                let found = run(&program, abi.audit, number, [0; 6]);
                assert_eq!(found, libc::SECCOMP_RET_USER_NOTIF, "{number}");
            }
        }
    }

    #[test]
    fn marked_calls_are_left_alone_and_no_others() {
        let (notify, allow) = (libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_RET_ALLOW);
        let create = libc::O_CREAT as u64;
        let (low, high) = (MARK & 0xffff_ffff, MARK & !0xffff_ffff);
        for naming in [true, false] {
            let groups = if naming {
                Groups::all() - Groups::SET_ID
            } else {
                Groups::all() - Groups::NAMING - Groups::SET_ID
            };
            let program = supervised(groups, true);
            for (nr, direct) in [
                (libc::SYS_newfstatat, true),
                (libc::SYS_openat, true),
                (libc::SYS_mkdirat, true),
                (libc::SYS_symlinkat, true),
                (libc::SYS_mknodat, false),
                (libc::SYS_fchownat, false),
                (libc::SYS_execve, false),
                (libc::SYS_openat2, false),
            ] {
                for (mark, marked) in [
                    (MARK, true),
                    (0, false),
                    (low, false),
                    (high, false),
                    (MARK ^ 1, false),
                    (MARK ^ 1 << 63, false),
                ] {
                    let passes = direct && marked && !naming;
                    let expected = if passes { allow } else { notify };
                    let arguments = [0, 0, create, 0, 0, mark];
                    let found = run_whole(&program, ABIS[0].audit, nr as u32, arguments);
                    assert_eq!(found, expected, "call {nr} with {mark:#x}");
                }
                let elsewhere = [0, 0, create, 0, MARK, 0];
                let found = run_whole(&program, ABIS[0].audit, nr as u32, elsewhere);
                assert_eq!(found, notify, "call {nr}");
            }
        }
        let none = program_of(&I386, Groups::all(), false);
        // `fstatat64`, whose number is another call's elsewhere.
        let found = run_whole(&none, I386.audit, 300, [0, 0, 0, 0, 0, low]);
        assert_eq!(found, notify);
    }

    #[test]
    fn arguments_count_for_the_filter_as_for_the_supervisor() {
        let locks = u64::from(RLIMIT_LOCKS);
        let (create, mounts) = (libc::O_CREAT as u64, libc::CLONE_NEWNS as u64);
        let values = [0, 1, 2, 8, locks, 17, create, mounts, 0xffff_ffff, 1 << 32];
        let plain = Groups::all() - Groups::NAMING - Groups::SET_ID;
        for (abi, groups) in [&X86_64, &I386, &AARCH64, &ARM]
            .into_iter()
            .flat_map(|abi| [plain, plain - SIGNALS, Groups::SET_ID].map(|groups| (abi, groups)))
        {
            let program = program_of(abi, groups, false);
            for (number, when) in abi.wanted(groups) {
                for (argument, value) in (0..4).flat_map(|at| values.map(|value| (at, value))) {
                    let mut arguments = [0; 6];
                    arguments[argument] = value;
                    let expected = if when.holds(&arguments) {
                        libc::SECCOMP_RET_USER_NOTIF
                    } else {
                        libc::SECCOMP_RET_ALLOW
                    };
                    let found = run_whole(&program, abi.audit, number, arguments);
                    assert_eq!(found, expected, "{:x} {number} {arguments:?}", abi.audit);
                }
            }
        }
    }

    #[test]
    fn modes_with_set_id_bits_are_handed_over_and_others_are_the_kernels() {
        const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        let (notify, allow) = (libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_RET_ALLOW);
        // `chmod`, `creat`, `fchmod`, `mknod`; `open`, `fchmodat`, `mknodat`, `fchmodat2`;
        // `openat`.
        let of_x86_64: [&[u32]; 3] = [&[90, 85, 91, 133], &[2, 268, 259, 452], &[257]];
        let of_i386: [&[u32]; 3] = [&[15, 8, 94, 14], &[5, 306, 297, 452], &[295]];
        let of_aarch64: [&[u32]; 3] = [&[52], &[53, 33, 452], &[56]];
        let of_arm: [&[u32]; 3] = [&[15, 8, 94, 14], &[5, 333, 324, 452], &[322]];
        for (abi, numbers) in [
            (&X86_64, of_x86_64),
            (&I386, of_i386),
            (&AARCH64, of_aarch64),
            (&ARM, of_arm),
        ] {
            let program = program_of(abi, Groups::SET_ID, false);
            let calls = numbers.iter().zip(1..).flat_map(|(numbers, argument)| {
                numbers.iter().map(move |&number| (number, argument))
            });
            let mut count = 0;
            for (number, argument) in calls {
                count += 1;
                for (mode, expected) in [
                    (0o644, allow),
                    (0o1777, allow),
                    (0o4755, notify),
                    (0o2711, notify),
                    (0o106_000, notify),
                ] {
                    let mut arguments = [0; 6];
                    arguments[argument] = mode;
                    let found = run(&program, abi.audit, number, arguments);
                    assert_eq!(found, expected, "{:x} {number} {mode:o}", abi.audit);
                }
            }
            let attributes = abi.wanted(Groups::SET_ID | Groups::ATTRIBUTES);
            let attributes = attributes.filter(|(_, when)| *when == When::Always).count();
            assert!(count >= 5 && attributes >= 4, "{:x}", abi.audit);
            assert_eq!(run(&program, abi.audit, OPENAT2, [0; 6]), ENOSYS);
        }
    }

    #[test]
    fn what_changes_roots_is_seen_wherever_names_are_looked_up() {
        let notify = libc::SECCOMP_RET_USER_NOTIF;
        let mounts = libc::CLONE_NEWNS as u32;
        for (abi, always, with_flags) in [
            // `chroot`, `pivot_root`, `setns`, `mount`, `umount2`, `move_mount`, `clone3`;
            // `clone`, `unshare`.
            (&X86_64, [161, 155, 308, 165, 166, 429, 435], [56, 272]),
            (&I386, [61, 217, 346, 21, 52, 429, 435], [120, 310]),
            (&AARCH64, [51, 41, 268, 40, 39, 429, 435], [220, 97]),
            (&ARM, [61, 218, 375, 21, 52, 429, 435], [120, 337]),
        ] {
            for groups in [Groups::OWNERS, Groups::DEVICES, Groups::ATTRIBUTES] {
                let program = program_of(abi, groups, false);
                for number in always {
                    let found = run(&program, abi.audit, number, [0; 6]);
                    assert_eq!(found, notify, "{:x} {number} {groups:?}", abi.audit);
                }
                for number in with_flags {
                    for (flags, expected) in [(mounts, notify), (0, libc::SECCOMP_RET_ALLOW)] {
                        let found = run(&program, abi.audit, number, [flags, 0, 0, 0, 0, 0]);
                        assert_eq!(found, expected, "{:x} {number} {groups:?}", abi.audit);
                    }
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn other_conventions_of_this_machine_have_their_own_numbers() {
        let program = supervised(Groups::all(), true);
        let i386 = 0x4000_0003;
        let notify = libc::SECCOMP_RET_USER_NOTIF;
        for nr in [195, 212, 182, 297] {
            assert_eq!(run(&program, i386, nr, [0; 6]), notify, "call {nr}");
        }
        // `socketcall`: `socket`, `bind`, `connect`, `setsockopt`, `getsockopt`.
        let allow = libc::SECCOMP_RET_ALLOW;
        for (call, expected) in [
            (1, notify),
            (2, notify),
            (3, allow),
            (14, allow),
            (15, notify),
        ] {
            assert_eq!(run(&program, i386, 102, [call, 0, 0, 0, 0, 0]), expected);
        }
        // `fsync`, and `chown` of the other table.
        assert_eq!(run(&program, i386, 118, [0; 6]), libc::SECCOMP_RET_ERRNO);
        assert_eq!(run(&program, i386, 92, [0; 6]), libc::SECCOMP_RET_ALLOW);
        let x32 = 0x4000_0000 | libc::SYS_chown as u32;
        let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(run(&program, ABIS[0].audit, x32, [0; 6]), absent);
    }
}
