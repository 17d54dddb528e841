//! What differs between ABIs besides the numbers of [`calls`](super::calls), and how a call is
//! found by its number.

use super::calls::{CALLS, Convention, Trap};
use super::vproc::Verb;
use super::{Call, Outcome};

pub use super::calls::{Groups, When};

/// One calling convention that programs in the sandbox may use.
#[derive(Debug)]
pub struct Abi {
    /// `AUDIT_ARCH_*`, from `linux/audit.h`.
    pub audit: u32,
    /// Calls of other groups are the kernel's.
    pub answers: Groups,
    convention: Convention,
    /// Calls that only force data out: `fsync`, `fdatasync`, `sync`, `syncfs`,
    /// `sync_file_range`. `msync` stays: databases in a hook may rely on its
    /// `MS_INVALIDATE`.
    pub syncs: [u32; 5],
    /// Bits in a number that mark another convention, whose calls do not exist
    /// here (`__X32_SYSCALL_BIT`).
    pub foreign_bit: u32,
}

/// Calls that would go past the supervisor, and for which every program has
/// another way: `io_uring_setup`, the same number everywhere.
pub const ABSENT: [u32; 1] = [425];

/// Where names are answered for, calls from this number on, the same everywhere, are absent
/// (Linux 6.8): they list the mounts, which are those of the host (`statmount`), or name files
/// by ways that nobody knows here.
pub const UNKNOWN: u32 = 457;

/// The conventions of this machine, its own first.
pub const ABIS: &[&Abi] = if cfg!(target_arch = "x86_64") {
    &[&X86_64, &I386]
} else if cfg!(target_arch = "aarch64") {
    &[&AARCH64, &ARM]
} else {
    &[]
};

/// 64-bit x86: `arch/x86/entry/syscalls/syscall_64.tbl` of Linux.
pub const X86_64: Abi = Abi {
    audit: 0xC000_003E,
    answers: Groups::all(),
    convention: Convention::X86_64,
    syncs: [74, 75, 162, 306, 277],
    foreign_bit: 0x4000_0000,
};

/// 64-bit ARM: `asm-generic/unistd.h`.
pub const AARCH64: Abi = Abi {
    audit: 0xC000_00B7,
    answers: Groups::all(),
    convention: Convention::Aarch64,
    syncs: [82, 83, 81, 267, 84],
    foreign_bit: 0,
};

/// 32-bit x86: `arch/x86/entry/syscalls/syscall_32.tbl`. Calls with ids of 16
/// bits are those of programs from before 2001. `oldstat` and its siblings,
/// older still, are left to the kernel.
pub const I386: Abi = Abi {
    audit: 0x4000_0003,
    answers: Groups::all(),
    convention: Convention::I386,
    syncs: [118, 148, 36, 344, 314],
    foreign_bit: 0,
};

/// 32-bit ARM on a 64-bit kernel: `arch/arm/tools/syscall.tbl`, without the calls that only
/// its older ABI has. Owners, ids and devices are the kernel's for such programs. But they
/// start others, which are answered and have their root directory and their mounts. Where
/// names are answered for, they do not run.
pub const ARM: Abi = Abi {
    audit: 0x4000_0028,
    answers: Groups::all()
        .difference(Groups::NAMING)
        .difference(Groups::SIGNALS)
        .difference(Groups::CHILDREN),
    convention: Convention::Arm,
    // The last one has its arguments in another order than elsewhere.
    syncs: [118, 148, 36, 373, 341],
    foreign_bit: 0,
};

impl Abi {
    /// Its calls that are answered, with their numbers.
    pub fn calls(&self) -> impl Iterator<Item = (u32, &'static Trap)> {
        let number = |trap: &'static Trap| Some((trap.number(self.convention)?, trap));
        CALLS.iter().filter_map(number)
    }

    /// The numbers of the calls of some groups, and when those are handed over.
    pub fn wanted(&self, groups: Groups) -> impl Iterator<Item = (u32, When)> {
        let groups = groups & self.answers;
        self.calls()
            .filter_map(move |(number, trap)| Some((number, trap.wanted(groups)?)))
    }
}

/// The arguments of a call as the kernel takes them: of a 32-bit convention it tells whole
/// registers, which a 64-bit program may have filled (`int $0x80`), and uses their lower halves.
pub(super) fn seen_by_kernel(audit: u32, arguments: [u64; 6]) -> [u64; 6] {
    /// `__AUDIT_ARCH_64BIT`, from `linux/audit.h`.
    const WIDE: u32 = 0x8000_0000;
    if audit & WIDE != 0 {
        return arguments;
    }
    arguments.map(|argument| argument & u64::from(u32::MAX))
}

/// What a call may change for the guard of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Step {
    /// The program is replaced.
    Start,
    /// Its handler says what it changes.
    Told,
    /// Nothing.
    Other,
}

/// A call that may come, and for which of its groups.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    trap: &'static Trap,
    groups: Groups,
}

impl Entry {
    pub(super) fn answer(self, call: &mut Call<'_>) -> Outcome {
        match self.trap.names {
            Some(names) if self.groups.contains(Groups::NAMING) => call.named(names, self.trap),
            _ => (self.trap.handler)(call),
        }
    }

    fn step(self) -> Step {
        let verb = self.trap.names.map(|names| names.verb);
        if matches!(verb, Some(Verb::Execute(_))) {
            Step::Start
        } else if self.groups.contains(Groups::SIGNALS) {
            Step::Told
        } else {
            Step::Other
        }
    }

    fn changes(self) -> bool {
        self.groups != Groups::STAT && !self.groups.contains(Groups::SIGNALS)
    }
}

/// Calls by ABI and number.
#[derive(Debug)]
pub(super) struct Dispatch(Vec<(u32, Vec<Option<Entry>>)>);

impl Dispatch {
    pub(super) fn new(groups: Groups) -> Dispatch {
        let list = ABIS.iter().map(|abi| {
            let mut entries = Vec::new();
            for (number, trap) in abi.calls() {
                let groups = trap.groups() & abi.answers & groups;
                if groups.is_empty() {
                    continue;
                }
                let number = number as usize;
                if entries.len() <= number {
                    entries.resize(number + 1, None);
                }
                entries[number] = Some(Entry { trap, groups });
            }
            (abi.audit, entries)
        });
        Dispatch(list.collect())
    }

    pub(super) fn find(&self, audit: u32, number: u32) -> Option<Entry> {
        let (_, entries) = self.0.iter().find(|(of, _)| *of == audit)?;
        *entries.get(number as usize)?
    }

    pub(super) fn step(&self, audit: u32, number: u32) -> Step {
        self.find(audit, number).map_or(Step::Other, Entry::step)
    }

    /// Whether a call may do more than show what a file is.
    pub(super) fn changes(&self, audit: u32, number: u32) -> bool {
        self.find(audit, number).is_some_and(Entry::changes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// `#define __NR_name number` of a header.
    fn header(path: &str) -> Option<BTreeMap<u32, String>> {
        let text = std::fs::read_to_string(path).ok()?;
        let line = |line: &str| {
            let mut words = line.strip_prefix("#define __NR")?.split_whitespace();
            let name = words
                .next()?
                .trim_start_matches("3264")
                .trim_start_matches('_');
            Some((words.next()?.parse().ok()?, name.to_owned()))
        };
        Some(text.lines().filter_map(line).collect())
    }

    /// What the calls of a table are named in a header, sorted.
    fn names(abi: &Abi, header: &BTreeMap<u32, String>) -> Vec<String> {
        let numbers = abi.calls().map(|(number, _)| number).chain(abi.syncs);
        let mut names: Vec<String> = numbers
            // Too new for some headers.
            .filter(|number| !(463..=466).contains(number) && *number != 452)
            .map(|number| header.get(&number).cloned().unwrap_or(format!("{number}?")))
            .collect();
        names.sort();
        names
    }

    const MODERN: &str = "renameat renameat2 chdir getcwd fchmod getdents64 capget capset getsockopt fchdir fchmodat linkat faccessat faccessat2 readlinkat bind chroot clone clone3 execve execveat fchown fchownat fdatasync fgetxattr \
        flistxattr fremovexattr fsetxattr fstat fsync getegid geteuid getgid getgroups getresgid \
        getresuid getrlimit getuid getxattr ioctl lgetxattr listxattr llistxattr lremovexattr lsetxattr \
        fsconfig mkdirat mknodat mount move_mount openat openat2 pivot_root prctl prlimit64 removexattr rt_sigaction setfsgid setfsuid \
        setgid setgroups setns setregid setresgid setresuid setreuid setrlimit setuid setxattr \
        statx symlinkat sync sync_file_range syncfs umount2 unshare";
    const LEGACY: &str = "rename chmod access readlink chown creat fork lchown lstat mkdir mknod open stat symlink vfork";
    const WIDE: &str = "chown32 fchown32 fstat64 fstatat64 getegid32 geteuid32 getgid32 \
        getgroups32 getresgid32 getresuid32 getuid32 lchown32 lstat64 setfsgid32 setfsuid32 \
        fstatfs fstatfs64 futimesat getdents statfs statfs64 utimensat utimensat_time64 setgid32 setgroups32 setregid32 setresgid32 setresuid32 setreuid32 setuid32 sigaction signal socketcall \
        stat64 ugetrlimit umount";

    fn expect(abi: &Abi, paths: &[&str], expected: &[&str]) {
        let Some(header) = paths.iter().find_map(|path| header(path)) else {
            println!("not compared: no {}", paths[0]);
            return;
        };
        let mut expected: Vec<&str> = expected
            .iter()
            .flat_map(|names| names.split_whitespace())
            .collect();
        expected.sort_unstable();
        assert_eq!(names(abi, &header), expected);
    }

    #[test]
    fn numbers_are_those_of_the_headers() {
        let x86 = |name: &str| {
            ["/usr/include/x86_64-linux-gnu/asm", "/usr/include/asm"]
                .map(|directory| format!("{directory}/unistd_{name}.h"))
        };
        for (abi, [first, second], own) in [
            (
                &X86_64,
                x86("64"),
                "newfstatat fstatfs futimesat getdents statfs utimensat msgctl semctl shmctl",
            ),
            (&I386, x86("32"), WIDE),
        ] {
            expect(abi, &[&first, &second], &[MODERN, LEGACY, own]);
        }
        expect(
            &AARCH64,
            &["/usr/include/asm-generic/unistd.h"],
            &[
                MODERN,
                "fstatat fstatfs statfs utimensat msgctl semctl shmctl",
            ],
        );
    }

    #[test]
    fn numbers_of_this_machine_are_the_librarys() {
        let Some(abi) = ABIS.first() else { return };
        let has = |number: libc::c_long| abi.calls().any(|(own, _)| i64::from(own) == number);
        for number in [
            libc::SYS_newfstatat,
            libc::SYS_fstat,
            libc::SYS_fchownat,
            libc::SYS_bind,
            libc::SYS_setns,
            libc::SYS_lremovexattr,
        ] {
            assert!(has(number), "{number}");
        }
        assert_eq!(
            abi.syncs.map(libc::c_long::from),
            [
                libc::SYS_fsync,
                libc::SYS_fdatasync,
                libc::SYS_sync,
                libc::SYS_syncfs,
                libc::SYS_sync_file_range
            ]
        );
    }

    #[test]
    fn a_narrow_call_has_no_upper_halves() {
        let given = [1 << 32, 7, u64::MAX, 0, 5 << 32 | 6, 0];
        assert_eq!(seen_by_kernel(X86_64.audit, given), given);
        assert_eq!(seen_by_kernel(AARCH64.audit, given), given);
        for abi in [&I386, &ARM] {
            let seen = seen_by_kernel(abi.audit, given);
            assert_eq!(seen, [0, 7, u64::from(u32::MAX), 0, 6, 0]);
        }
    }

    #[test]
    fn each_number_is_that_of_one_call() {
        for abi in [&X86_64, &I386, &AARCH64, &ARM] {
            let mut seen = BTreeSet::new();
            for (number, _) in abi.calls() {
                assert!(seen.insert(number), "{:x} {number}", abi.audit);
            }
        }
    }

    #[test]
    fn each_number_is_found_under_its_own_architecture() {
        let dispatch = Dispatch::new(Groups::all());
        for abi in ABIS {
            for (number, _) in abi.calls() {
                assert!(dispatch.find(abi.audit, number).is_some());
            }
        }
        let devices = Dispatch::new(Groups::DEVICES);
        let native = ABIS[0];
        assert!(
            devices
                .find(native.audit, libc::SYS_mknodat as u32)
                .is_some()
        );
        assert!(
            devices
                .find(native.audit, libc::SYS_fchownat as u32)
                .is_none()
        );
        assert!(dispatch.find(7, libc::SYS_fchownat as u32).is_none());
    }
}
