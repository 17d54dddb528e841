//! Which system calls of which architecture are answered here, and by what.
//!
//! One table an ABI. Numbers are written out, because a 32-bit ABI's are in no
//! header of a 64-bit build; tests compare them with the headers. The order is
//! that of the filter's comparisons: what is called most comes first.
//!
//! To answer another call, add a line to each ABI that has it, and to a
//! [`Groups`] that says when it is wanted. Of two lines with one number the
//! first whose group is wanted counts.

use super::cred::Kind::{Group, User};
use super::ipc::Object;
use super::layout::Layout;
use super::signal::Action;
use super::{Answer, Call, Outcome, naming, socket};
use crate::sandbox::bpf::{CREATING, RLIMIT_LOCKS};

bitflags::bitflags! {
    /// Which calls a filter hands over.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Groups: u16 {
        /// Owners of files, ids of processes, and what gives or shows them.
        const OWNERS = 1 << 0;
        /// What files are: owners, types and device numbers.
        const STAT = 1 << 1;
        /// Making of devices.
        const DEVICES = 1 << 2;
        /// Extended attributes.
        const ATTRIBUTES = 1 << 3;
        /// Whatever names a file, because `/proc` cannot be mounted in targets.
        const NAMING = 1 << 4;
        /// Sockets whose family a filter cannot see.
        const SOCKETS = 1 << 5;
        /// Handlers of signals, and children.
        const SIGNALS = 1 << 6;
    }
}

/// When a listed call is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// In any case.
    Always,
    /// If an argument has any of these bits.
    AnyBit(u32, u32),
    /// If an argument's low half is this.
    Equal(u32, u32),
    /// If an argument's low half is one of these.
    OneOf(u32, &'static [u32]),
}

use When::{Always, AnyBit, Equal, OneOf};

/// What answers a call.
pub(super) type Handler = fn(&mut Call<'_>) -> Outcome;

/// A call that is answered here.
#[derive(Debug, Clone, Copy)]
pub struct Trap {
    /// Its number.
    pub number: u32,
    /// It is handed over when one of these is wanted.
    pub groups: Groups,
    /// And then only with such arguments.
    pub when: When,
    pub(super) handler: Handler,
}

pub(super) const fn trap(number: u32, groups: Groups, when: When, handler: Handler) -> Trap {
    Trap {
        number,
        groups,
        when,
        handler,
    }
}

/// One calling convention that programs in the sandbox may use.
#[derive(Debug)]
pub struct Abi {
    /// `AUDIT_ARCH_*`, from `linux/audit.h`.
    pub audit: u32,
    /// The calls that are answered.
    pub traps: &'static [Trap],
    /// Those that are answered, or looked at, where [`Groups::NAMING`] is wanted.
    pub naming: &'static [Trap],
    /// Calls that only force data out: `fsync`, `fdatasync`, `sync`, `syncfs`,
    /// `sync_file_range`. `msync` stays: databases in a hook may rely on its
    /// `MS_INVALIDATE`.
    pub syncs: [u32; 5],
    /// `execve` and `execveat`.
    pub executions: [u32; 2],
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

const OWN: Groups = Groups::OWNERS;
const STAT: Groups = Groups::STAT;
const MAKE: Groups = Groups::OWNERS.union(Groups::DEVICES);
const ATTR: Groups = Groups::ATTRIBUTES;
/// What changes roots and mounts: whoever answers a call that names a file has to know of
/// them, and may have the root directory of a program, which cannot be unmounted then.
const PLACES: Groups = MAKE.union(ATTR);
const SIGNALS: Groups = Groups::SIGNALS;
const CWD: i32 = libc::AT_FDCWD;
/// `sigaction` that does not only ask: structures do not begin where the lower half of an
/// address is 0.
const ACTION: When = AnyBit(1, u32::MAX);
/// `clone` and `unshare` with a mount namespace of its own.
const NEW_MOUNTS: When = AnyBit(0, libc::CLONE_NEWNS as u32);
const OPTIONS: When = OneOf(
    0,
    &[
        libc::PR_SET_KEEPCAPS as u32,
        libc::PR_SET_DUMPABLE as u32,
        libc::PR_SET_SECUREBITS as u32,
        libc::PR_CAPBSET_DROP as u32,
    ],
);
/// `shmctl` and `msgctl` that change owners, and `semctl`, which counts semaphores first.
/// Programs for 32 bits hardly do: theirs are left to the kernel.
const GIVEN: When = Equal(1, libc::IPC_SET as u32);
const GIVEN_SET: When = Equal(2, libc::IPC_SET as u32);
/// `fsconfig` of an option with a value.
const SETTING: When = Equal(1, 1);
/// What `getsockopt` tells of who is at the other end.
const PEERS: When = OneOf(2, &[libc::SO_PEERCRED as u32, socket::SO_PEERGROUPS as u32]);

/// 64-bit x86: `arch/x86/entry/syscalls/syscall_64.tbl` of Linux.
pub const X86_64: Abi = Abi {
    audit: 0xC000_003E,
    naming: &naming::X86_64,
    syncs: [74, 75, 162, 306, 277],
    executions: [59, 322],
    foreign_bit: 0x4000_0000,
    traps: &[
        trap(262, STAT, Always, |c| c.stat_at(Layout::Native)),
        trap(5, STAT, Always, |c| c.stat_descriptor(Layout::Native)),
        trap(332, STAT, Always, |c| c.statx()),
        trap(257, OWN, AnyBit(2, CREATING), |c| c.openat()),
        trap(4, STAT, Always, |c| c.stat_path(true, Layout::Native)),
        trap(6, STAT, Always, |c| c.stat_path(false, Layout::Native)),
        trap(2, OWN, AnyBit(1, CREATING), |c| c.open_plain()),
        trap(107, OWN, Always, |c| c.show(|of| of.user.effective)),
        trap(102, OWN, Always, |c| c.show(|of| of.user.real)),
        trap(108, OWN, Always, |c| c.show(|of| of.group.effective)),
        trap(104, OWN, Always, |c| c.show(|of| of.group.real)),
        trap(59, OWN, Always, |c| c.execute(CWD, 0, 0)),
        trap(322, OWN, Always, |c| c.execute_at()),
        trap(13, SIGNALS, ACTION, |c| c.set_handler(Action::Wide)),
        trap(56, SIGNALS, Always, |c| c.clone_process()),
        trap(57, SIGNALS, Always, |c| c.fork()),
        trap(58, SIGNALS, Always, |c| c.fork()),
        trap(437, OWN, Always, |c| c.open2()),
        trap(85, OWN, Always, |c| c.creat()),
        trap(92, OWN, Always, |c| c.chown_path(true)),
        trap(93, OWN, Always, |c| c.chown_descriptor()),
        trap(94, OWN, Always, |c| c.chown_path(false)),
        trap(260, OWN, Always, |c| c.chown_at()),
        trap(115, OWN, Always, |c| c.groups()),
        trap(118, OWN, Always, |c| c.show_three(User)),
        trap(120, OWN, Always, |c| c.show_three(Group)),
        trap(105, OWN, Always, |c| c.set_one(User)),
        trap(106, OWN, Always, |c| c.set_one(Group)),
        trap(113, OWN, Always, |c| c.set_two(User)),
        trap(114, OWN, Always, |c| c.set_two(Group)),
        trap(116, OWN, Always, |c| c.set_groups()),
        trap(117, OWN, Always, |c| c.set_three(User)),
        trap(119, OWN, Always, |c| c.set_three(Group)),
        trap(122, OWN, Always, |c| c.set_filesystem(User)),
        trap(123, OWN, Always, |c| c.set_filesystem(Group)),
        trap(157, OWN, OPTIONS, |c| c.process_option()),
        trap(302, OWN, Equal(1, RLIMIT_LOCKS), |c| c.limit(3, 8)),
        trap(160, OWN, Equal(0, RLIMIT_LOCKS), |_| Ok(Answer::Value(0))),
        trap(97, OWN, Equal(0, RLIMIT_LOCKS), |c| c.limit(1, 8)),
        trap(125, OWN, Always, |c| c.show_capabilities()),
        trap(126, OWN, Always, |c| c.set_capabilities()),
        trap(31, OWN, GIVEN, |c| c.set_object(Object::Memory)),
        trap(66, OWN, GIVEN_SET, |c| c.set_object(Object::Semaphores)),
        trap(71, OWN, GIVEN, |c| c.set_object(Object::Messages)),
        trap(83, OWN, Always, |c| c.mkdir(CWD, 0, 1)),
        trap(258, OWN, Always, |c| c.mkdir_at()),
        trap(133, MAKE, Always, |c| c.mknod(CWD, 0)),
        trap(259, MAKE, Always, |c| c.mknod_at()),
        trap(88, OWN, Always, |c| c.symlink(0, CWD, 1)),
        trap(266, OWN, Always, |c| c.symlink_at()),
        trap(49, OWN, Always, |c| c.bind()),
        trap(55, OWN, PEERS, |c| c.socket_option()),
        trap(161, PLACES, Always, |c| c.chroot()),
        trap(155, PLACES, Always, |c| c.change_root()),
        trap(308, PLACES, Always, |c| c.change_root()),
        trap(165, PLACES, Always, |c| c.mount()),
        trap(166, PLACES, Always, |c| c.change_mounts()),
        trap(429, PLACES, Always, |c| c.change_mounts()),
        trap(431, OWN, SETTING, |c| c.set_up_filesystem()),
        trap(272, PLACES, NEW_MOUNTS, |c| c.change_root()),
        trap(56, PLACES, NEW_MOUNTS, |c| c.change_root()),
        trap(435, PLACES.union(SIGNALS), Always, |c| c.clone3()),
        trap(188, ATTR, Always, |c| c.set_xattr(true)),
        trap(189, ATTR, Always, |c| c.set_xattr(false)),
        trap(190, ATTR, Always, |c| c.set_xattr_descriptor()),
        trap(191, ATTR, Always, |c| c.get_xattr(true)),
        trap(192, ATTR, Always, |c| c.get_xattr(false)),
        trap(193, ATTR, Always, |c| c.get_xattr_descriptor()),
        trap(194, ATTR, Always, |c| c.list_xattr(true)),
        trap(195, ATTR, Always, |c| c.list_xattr(false)),
        trap(196, ATTR, Always, |c| c.list_xattr_descriptor()),
        trap(197, ATTR, Always, |c| c.remove_xattr(true)),
        trap(198, ATTR, Always, |c| c.remove_xattr(false)),
        trap(199, ATTR, Always, |c| c.remove_xattr_descriptor()),
        trap(463, ATTR, Always, |c| c.set_xattr_at()),
        trap(464, ATTR, Always, |c| c.get_xattr_at()),
        trap(465, ATTR, Always, |c| c.list_xattr_at()),
        trap(466, ATTR, Always, |c| c.remove_xattr_at()),
    ],
};

/// 64-bit ARM: `asm-generic/unistd.h`.
pub const AARCH64: Abi = Abi {
    audit: 0xC000_00B7,
    naming: &naming::AARCH64,
    syncs: [82, 83, 81, 267, 84],
    executions: [221, 281],
    foreign_bit: 0,
    traps: &[
        trap(79, STAT, Always, |c| c.stat_at(Layout::Native)),
        trap(80, STAT, Always, |c| c.stat_descriptor(Layout::Native)),
        trap(291, STAT, Always, |c| c.statx()),
        trap(56, OWN, AnyBit(2, CREATING), |c| c.openat()),
        trap(175, OWN, Always, |c| c.show(|of| of.user.effective)),
        trap(174, OWN, Always, |c| c.show(|of| of.user.real)),
        trap(177, OWN, Always, |c| c.show(|of| of.group.effective)),
        trap(176, OWN, Always, |c| c.show(|of| of.group.real)),
        trap(221, OWN, Always, |c| c.execute(CWD, 0, 0)),
        trap(281, OWN, Always, |c| c.execute_at()),
        trap(134, SIGNALS, ACTION, |c| c.set_handler(Action::Wide)),
        trap(220, SIGNALS, Always, |c| c.clone_process()),
        trap(437, OWN, Always, |c| c.open2()),
        trap(55, OWN, Always, |c| c.chown_descriptor()),
        trap(54, OWN, Always, |c| c.chown_at()),
        trap(158, OWN, Always, |c| c.groups()),
        trap(148, OWN, Always, |c| c.show_three(User)),
        trap(150, OWN, Always, |c| c.show_three(Group)),
        trap(146, OWN, Always, |c| c.set_one(User)),
        trap(144, OWN, Always, |c| c.set_one(Group)),
        trap(145, OWN, Always, |c| c.set_two(User)),
        trap(143, OWN, Always, |c| c.set_two(Group)),
        trap(159, OWN, Always, |c| c.set_groups()),
        trap(147, OWN, Always, |c| c.set_three(User)),
        trap(149, OWN, Always, |c| c.set_three(Group)),
        trap(151, OWN, Always, |c| c.set_filesystem(User)),
        trap(152, OWN, Always, |c| c.set_filesystem(Group)),
        trap(167, OWN, OPTIONS, |c| c.process_option()),
        trap(261, OWN, Equal(1, RLIMIT_LOCKS), |c| c.limit(3, 8)),
        trap(164, OWN, Equal(0, RLIMIT_LOCKS), |_| Ok(Answer::Value(0))),
        trap(163, OWN, Equal(0, RLIMIT_LOCKS), |c| c.limit(1, 8)),
        trap(90, OWN, Always, |c| c.show_capabilities()),
        trap(91, OWN, Always, |c| c.set_capabilities()),
        trap(195, OWN, GIVEN, |c| c.set_object(Object::Memory)),
        trap(191, OWN, GIVEN_SET, |c| c.set_object(Object::Semaphores)),
        trap(187, OWN, GIVEN, |c| c.set_object(Object::Messages)),
        trap(34, OWN, Always, |c| c.mkdir_at()),
        trap(33, MAKE, Always, |c| c.mknod_at()),
        trap(36, OWN, Always, |c| c.symlink_at()),
        trap(200, OWN, Always, |c| c.bind()),
        trap(209, OWN, PEERS, |c| c.socket_option()),
        trap(51, PLACES, Always, |c| c.chroot()),
        trap(41, PLACES, Always, |c| c.change_root()),
        trap(268, PLACES, Always, |c| c.change_root()),
        trap(40, PLACES, Always, |c| c.mount()),
        trap(39, PLACES, Always, |c| c.change_mounts()),
        trap(429, PLACES, Always, |c| c.change_mounts()),
        trap(431, OWN, SETTING, |c| c.set_up_filesystem()),
        trap(97, PLACES, NEW_MOUNTS, |c| c.change_root()),
        trap(220, PLACES, NEW_MOUNTS, |c| c.change_root()),
        trap(435, PLACES.union(SIGNALS), Always, |c| c.clone3()),
        trap(5, ATTR, Always, |c| c.set_xattr(true)),
        trap(6, ATTR, Always, |c| c.set_xattr(false)),
        trap(7, ATTR, Always, |c| c.set_xattr_descriptor()),
        trap(8, ATTR, Always, |c| c.get_xattr(true)),
        trap(9, ATTR, Always, |c| c.get_xattr(false)),
        trap(10, ATTR, Always, |c| c.get_xattr_descriptor()),
        trap(11, ATTR, Always, |c| c.list_xattr(true)),
        trap(12, ATTR, Always, |c| c.list_xattr(false)),
        trap(13, ATTR, Always, |c| c.list_xattr_descriptor()),
        trap(14, ATTR, Always, |c| c.remove_xattr(true)),
        trap(15, ATTR, Always, |c| c.remove_xattr(false)),
        trap(16, ATTR, Always, |c| c.remove_xattr_descriptor()),
        trap(463, ATTR, Always, |c| c.set_xattr_at()),
        trap(464, ATTR, Always, |c| c.get_xattr_at()),
        trap(465, ATTR, Always, |c| c.list_xattr_at()),
        trap(466, ATTR, Always, |c| c.remove_xattr_at()),
    ],
};

/// 32-bit x86: `arch/x86/entry/syscalls/syscall_32.tbl`. Calls with ids of 16
/// bits are those of programs from before 2001. `oldstat` and its siblings,
/// older still, are left to the kernel.
pub const I386: Abi = Abi {
    audit: 0x4000_0003,
    naming: &naming::I386,
    syncs: [118, 148, 36, 344, 314],
    executions: [11, 358],
    foreign_bit: 0,
    traps: &[
        trap(300, STAT, Always, |c| c.stat_at(Layout::Stat64)),
        trap(197, STAT, Always, |c| c.stat_descriptor(Layout::Stat64)),
        trap(195, STAT, Always, |c| c.stat_path(true, Layout::Stat64)),
        trap(196, STAT, Always, |c| c.stat_path(false, Layout::Stat64)),
        trap(383, STAT, Always, |c| c.statx()),
        trap(295, OWN, AnyBit(2, CREATING), |c| c.openat()),
        trap(5, OWN, AnyBit(1, CREATING), |c| c.open_plain()),
        trap(201, OWN, Always, |c| c.show(|of| of.user.effective)),
        trap(199, OWN, Always, |c| c.show(|of| of.user.real)),
        trap(202, OWN, Always, |c| c.show(|of| of.group.effective)),
        trap(200, OWN, Always, |c| c.show(|of| of.group.real)),
        trap(11, OWN, Always, |c| c.execute(CWD, 0, 0)),
        trap(358, OWN, Always, |c| c.execute_at()),
        trap(174, SIGNALS, ACTION, |c| c.set_handler(Action::Narrow)),
        trap(120, SIGNALS, Always, |c| c.clone_process()),
        trap(2, SIGNALS, Always, |c| c.fork()),
        trap(190, SIGNALS, Always, |c| c.fork()),
        trap(67, SIGNALS, ACTION, |c| c.set_handler(Action::Old)),
        trap(48, SIGNALS, ACTION, |c| c.set_handler(Action::Plain)),
        trap(437, OWN, Always, |c| c.open2()),
        trap(8, OWN, Always, |c| c.creat()),
        trap(212, OWN, Always, |c| c.chown_path(true)),
        trap(207, OWN, Always, |c| c.chown_descriptor()),
        trap(198, OWN, Always, |c| c.chown_path(false)),
        trap(298, OWN, Always, |c| c.chown_at()),
        trap(205, OWN, Always, |c| c.groups()),
        trap(209, OWN, Always, |c| c.show_three(User)),
        trap(211, OWN, Always, |c| c.show_three(Group)),
        trap(213, OWN, Always, |c| c.set_one(User)),
        trap(214, OWN, Always, |c| c.set_one(Group)),
        trap(203, OWN, Always, |c| c.set_two(User)),
        trap(204, OWN, Always, |c| c.set_two(Group)),
        trap(206, OWN, Always, |c| c.set_groups()),
        trap(208, OWN, Always, |c| c.set_three(User)),
        trap(210, OWN, Always, |c| c.set_three(Group)),
        trap(215, OWN, Always, |c| c.set_filesystem(User)),
        trap(216, OWN, Always, |c| c.set_filesystem(Group)),
        trap(172, OWN, OPTIONS, |c| c.process_option()),
        trap(340, OWN, Equal(1, RLIMIT_LOCKS), |c| c.limit(3, 8)),
        trap(75, OWN, Equal(0, RLIMIT_LOCKS), |_| Ok(Answer::Value(0))),
        trap(76, OWN, Equal(0, RLIMIT_LOCKS), |c| c.oldest_limit()),
        trap(191, OWN, Equal(0, RLIMIT_LOCKS), |c| c.limit(1, 4)),
        trap(184, OWN, Always, |c| c.show_capabilities()),
        trap(185, OWN, Always, |c| c.set_capabilities()),
        trap(39, OWN, Always, |c| c.mkdir(CWD, 0, 1)),
        trap(296, OWN, Always, |c| c.mkdir_at()),
        trap(14, MAKE, Always, |c| c.mknod(CWD, 0)),
        trap(297, MAKE, Always, |c| c.mknod_at()),
        trap(83, OWN, Always, |c| c.symlink(0, CWD, 1)),
        trap(304, OWN, Always, |c| c.symlink_at()),
        trap(361, OWN, Always, |c| c.bind()),
        trap(365, OWN, PEERS, |c| c.socket_option()),
        trap(102, OWN.union(Groups::SOCKETS), SOCKETCALLS, |c| {
            c.socketcall()
        }),
        trap(61, PLACES, Always, |c| c.chroot()),
        trap(217, PLACES, Always, |c| c.change_root()),
        trap(346, PLACES, Always, |c| c.change_root()),
        trap(21, PLACES, Always, |c| c.mount()),
        trap(52, PLACES, Always, |c| c.change_mounts()),
        trap(22, PLACES, Always, |c| c.change_mounts()),
        trap(429, PLACES, Always, |c| c.change_mounts()),
        trap(431, OWN, SETTING, |c| c.set_up_filesystem()),
        trap(310, PLACES, NEW_MOUNTS, |c| c.change_root()),
        trap(120, PLACES, NEW_MOUNTS, |c| c.change_root()),
        trap(435, PLACES.union(SIGNALS), Always, |c| c.clone3()),
        trap(226, ATTR, Always, |c| c.set_xattr(true)),
        trap(227, ATTR, Always, |c| c.set_xattr(false)),
        trap(228, ATTR, Always, |c| c.set_xattr_descriptor()),
        trap(229, ATTR, Always, |c| c.get_xattr(true)),
        trap(230, ATTR, Always, |c| c.get_xattr(false)),
        trap(231, ATTR, Always, |c| c.get_xattr_descriptor()),
        trap(232, ATTR, Always, |c| c.list_xattr(true)),
        trap(233, ATTR, Always, |c| c.list_xattr(false)),
        trap(234, ATTR, Always, |c| c.list_xattr_descriptor()),
        trap(235, ATTR, Always, |c| c.remove_xattr(true)),
        trap(236, ATTR, Always, |c| c.remove_xattr(false)),
        trap(237, ATTR, Always, |c| c.remove_xattr_descriptor()),
        trap(463, ATTR, Always, |c| c.set_xattr_at()),
        trap(464, ATTR, Always, |c| c.get_xattr_at()),
        trap(465, ATTR, Always, |c| c.list_xattr_at()),
        trap(466, ATTR, Always, |c| c.remove_xattr_at()),
        // Files of less than 2 GiB, and ids of 16 bits.
        trap(106, STAT, Always, |c| c.stat_path(true, Layout::Stat32)),
        trap(107, STAT, Always, |c| c.stat_path(false, Layout::Stat32)),
        trap(108, STAT, Always, |c| c.stat_descriptor(Layout::Stat32)),
        trap(182, OWN, Always, |c| c.narrow().chown_path(true)),
        trap(16, OWN, Always, |c| c.narrow().chown_path(false)),
        trap(95, OWN, Always, |c| c.narrow().chown_descriptor()),
        trap(49, OWN, Always, |c| c.narrow().show(|of| of.user.effective)),
        trap(24, OWN, Always, |c| c.narrow().show(|of| of.user.real)),
        trap(50, OWN, Always, |c| {
            c.narrow().show(|of| of.group.effective)
        }),
        trap(47, OWN, Always, |c| c.narrow().show(|of| of.group.real)),
        trap(80, OWN, Always, |c| c.narrow().groups()),
        trap(165, OWN, Always, |c| c.narrow().show_three(User)),
        trap(171, OWN, Always, |c| c.narrow().show_three(Group)),
        trap(23, OWN, Always, |c| c.narrow().set_one(User)),
        trap(46, OWN, Always, |c| c.narrow().set_one(Group)),
        trap(70, OWN, Always, |c| c.narrow().set_two(User)),
        trap(71, OWN, Always, |c| c.narrow().set_two(Group)),
        trap(81, OWN, Always, |c| c.narrow().set_groups()),
        trap(164, OWN, Always, |c| c.narrow().set_three(User)),
        trap(170, OWN, Always, |c| c.narrow().set_three(Group)),
        trap(138, OWN, Always, |c| c.narrow().set_filesystem(User)),
        trap(139, OWN, Always, |c| c.narrow().set_filesystem(Group)),
    ],
};

/// 32-bit ARM on a 64-bit kernel: `arch/arm/tools/syscall.tbl`, without the calls that only
/// its older ABI has. Owners, ids and devices are the kernel's for such programs. But they
/// start others, which are answered and have their root directory and their mounts.
pub const ARM: Abi = Abi {
    audit: 0x4000_0028,
    naming: &[],
    // The last one has its arguments in another order than elsewhere.
    syncs: [118, 148, 36, 373, 341],
    executions: [11, 387],
    foreign_bit: 0,
    traps: &[
        trap(11, OWN, Always, |c| c.execute(CWD, 0, 0)),
        trap(387, OWN, Always, |c| c.execute_at()),
        trap(61, PLACES, Always, |c| c.chroot()),
        trap(218, PLACES, Always, |c| c.change_root()),
        trap(375, PLACES, Always, |c| c.change_root()),
        trap(21, PLACES, Always, |c| c.mount()),
        trap(52, PLACES, Always, |c| c.change_mounts()),
        trap(429, PLACES, Always, |c| c.change_mounts()),
        trap(431, OWN, SETTING, |c| c.set_up_filesystem()),
        trap(337, PLACES, NEW_MOUNTS, |c| c.change_root()),
        trap(120, PLACES, NEW_MOUNTS, |c| c.change_root()),
        trap(435, PLACES, Always, |c| c.clone3()),
    ],
};

/// The calls of `socketcall` that are answered.
const SOCKETCALLS: When = OneOf(
    0,
    &[socket::SYS_SOCKET, socket::SYS_BIND, socket::SYS_GETSOCKOPT],
);

impl Abi {
    /// The calls of some groups, each number once.
    pub fn wanted(&self, groups: Groups) -> impl Iterator<Item = &'static Trap> {
        let mut seen = std::collections::HashSet::new();
        self.naming
            .iter()
            .chain(self.traps)
            .filter(move |trap| trap.groups.intersects(groups) && seen.insert(trap.number))
    }
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

/// Calls by ABI and number.
#[derive(Debug)]
pub(super) struct Dispatch(Vec<(&'static Abi, Vec<Option<&'static Trap>>)>);

impl Dispatch {
    pub(super) fn new(groups: Groups) -> Dispatch {
        let list = ABIS.iter().map(|&abi| {
            let mut traps = Vec::new();
            for trap in abi.wanted(groups) {
                let number = trap.number as usize;
                if traps.len() <= number {
                    traps.resize(number + 1, None);
                }
                traps[number] = Some(trap);
            }
            (abi, traps)
        });
        Dispatch(list.collect())
    }

    fn trap(&self, audit: u32, number: u32) -> Option<&'static Trap> {
        let (_, traps) = self.0.iter().find(|(abi, _)| abi.audit == audit)?;
        *traps.get(number as usize)?
    }

    pub(super) fn find(&self, audit: u32, number: u32) -> Option<Handler> {
        self.trap(audit, number).map(|trap| trap.handler)
    }

    pub(super) fn step(&self, audit: u32, number: u32) -> Step {
        let abi = self.0.iter().map(|(abi, _)| abi);
        let starts = abi
            .filter(|abi| abi.audit == audit)
            .any(|abi| abi.executions.contains(&number));
        let trap = self.trap(audit, number);
        if starts {
            Step::Start
        } else if trap.is_some_and(|trap| trap.groups.contains(SIGNALS)) {
            Step::Told
        } else {
            Step::Other
        }
    }

    /// Whether a call may do more than show what a file is.
    pub(super) fn changes(&self, audit: u32, number: u32) -> bool {
        self.trap(audit, number)
            .is_some_and(|trap| trap.groups != STAT && !trap.groups.contains(SIGNALS))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
        let traps = abi.traps.iter().chain(abi.naming);
        let numbers = traps.map(|trap| trap.number).chain(abi.syncs);
        let mut names: Vec<String> = numbers
            // Too new for some headers.
            .filter(|number| !(463..=466).contains(number) && *number != 452)
            .map(|number| header.get(&number).cloned().unwrap_or(format!("{number}?")))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    const MODERN: &str = "fchmod getdents64 capget capset getsockopt fchdir fchmodat linkat faccessat faccessat2 readlinkat bind chroot clone clone3 execve execveat fchown fchownat fdatasync fgetxattr \
        flistxattr fremovexattr fsetxattr fstat fsync getegid geteuid getgid getgroups getresgid \
        getresuid getrlimit getuid getxattr lgetxattr listxattr llistxattr lremovexattr lsetxattr \
        fsconfig mkdirat mknodat mount move_mount openat openat2 pivot_root prctl prlimit64 removexattr rt_sigaction setfsgid setfsuid \
        setgid setgroups setns setregid setresgid setresuid setreuid setrlimit setuid setxattr \
        statx symlinkat sync sync_file_range syncfs umount2 unshare";
    const LEGACY: &str =
        "chmod access readlink chown creat fork lchown lstat mkdir mknod open stat symlink vfork";
    const WIDE: &str = "chown32 fchown32 fstat64 fstatat64 getegid32 geteuid32 getgid32 \
        getgroups32 getresgid32 getresuid32 getuid32 lchown32 lstat64 setfsgid32 setfsuid32 \
        utimensat_time64 setgid32 setgroups32 setregid32 setresgid32 setresuid32 setreuid32 setuid32 sigaction signal socketcall \
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
                "newfstatat fstatfs getdents statfs utimensat msgctl semctl shmctl",
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
        let has = |number: libc::c_long| {
            abi.traps
                .iter()
                .any(|trap| i64::from(trap.number) == number)
        };
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
    fn each_number_is_found_under_its_own_architecture() {
        let dispatch = Dispatch::new(Groups::all());
        for abi in ABIS {
            for trap in abi.traps.iter().chain(abi.naming) {
                assert!(dispatch.find(abi.audit, trap.number).is_some());
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
