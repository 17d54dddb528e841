//! The calls that are answered: each once, whatever its number.
//!
//! A row says which number a call has in each ABI, who wants it, with which arguments it is
//! handed over then, and what answers it. Where a call names a file and names are answered
//! for, [`vproc`](super::vproc) is asked first, which passes on what it does not know. The
//! order is that of the filter's comparisons: what is called most comes first.
//!
//! Numbers are written out, because a 32-bit ABI's are in no header of a 64-bit build; tests of
//! [`table`](super::table) compare them with the headers. Where structures or ids differ in
//! size, a call has a row for each size. To answer another call, add a row.

use super::change::Times;
use super::cred::Kind::{Group, User};
use super::ipc::Object;
use super::layout::Layout::{Native, Stat32, Stat64};
use super::narrow::Filesystem;
use super::signal::Action::{Narrow, Old, Plain, Wide};
use super::vproc::Attribute::{Get, List, Remove, Set};
use super::vproc::Verb::{
    self, Access, Attribute, Enter, Execute, Link, Mode, Open, OpenHow, ReadLink, Stat, StatAt,
    StatFs, Statx,
};
use super::{Answer, Call, Outcome, socket};
use crate::sandbox::bpf::{CREATING, RLIMIT_LOCKS, SET_ID};

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
        /// Making of processes and threads.
        const CHILDREN = 1 << 7;
        /// Modes with set-id bits, and capabilities of files.
        const SET_ID = 1 << 8;
    }
}

/// With which arguments a call is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// With any.
    Always,
    /// If an argument has any of these bits.
    AnyBit(u32, u32),
    /// If an argument's low half is this.
    Equal(u32, u32),
    /// If an argument's low half is one of these.
    OneOf(u32, &'static [u32]),
}

use When::{Always, AnyBit, Equal, OneOf};

impl When {
    /// Whether these arguments are such.
    pub(in crate::sandbox) fn holds(self, arguments: &[u64; 6]) -> bool {
        // The filter sees the low half too.
        let low = |argument: u32| arguments[argument as usize] as u32;
        match self {
            Always => true,
            AnyBit(argument, bits) => low(argument) & bits != 0,
            Equal(argument, value) => low(argument) == value,
            OneOf(argument, values) => values.contains(&low(argument)),
        }
    }
}

/// What answers a call.
pub(super) type Handler = fn(&mut Call<'_>) -> Outcome;

/// Where a call names a file, and what it wants of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) verb: Verb,
    /// The argument with the directory that the path starts at.
    pub(super) directory: Option<usize>,
    /// The argument with the path.
    pub(super) path: usize,
}

/// The ABIs, in the order of a call's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Convention {
    X86_64,
    I386,
    Aarch64,
    Arm,
}

/// A call's numbers by [`Convention`]; [`NO`] where it is not answered.
type Numbers = [u32; 4];

/// No number of a call.
const NO: u32 = u32::MAX;

/// A call that is answered here.
#[derive(Debug, Clone, Copy)]
pub struct Trap {
    numbers: Numbers,
    /// It is handed over when one of these is wanted,
    groups: Groups,
    /// and then only with such arguments.
    pub when: When,
    /// The same where none of those is wanted.
    otherwise: Option<(Groups, When)>,
    /// It is handed over in any case where names are answered for.
    pub(super) names: Option<Names>,
    pub(super) handler: Handler,
}

impl Trap {
    const fn when(self, when: When) -> Trap {
        Trap { when, ..self }
    }

    const fn or(self, groups: Groups, when: When) -> Trap {
        let otherwise = Some((groups, when));
        Trap { otherwise, ..self }
    }

    /// Its first argument is a path.
    const fn by_path(self, verb: Verb) -> Trap {
        let (directory, path) = (None, 0);
        let names = Some(Names {
            verb,
            directory,
            path,
        });
        Trap { names, ..self }
    }

    /// Its first arguments are a directory and a path from there.
    const fn by_path_at(self, verb: Verb) -> Trap {
        let (directory, path) = (Some(0), 1);
        let names = Some(Names {
            verb,
            directory,
            path,
        });
        Trap { names, ..self }
    }

    pub(super) fn number(&self, convention: Convention) -> Option<u32> {
        let number = self.numbers[convention as usize];
        (number != NO).then_some(number)
    }

    /// All groups that it is of.
    pub(super) fn groups(&self) -> Groups {
        let otherwise = self.otherwise.map(|(groups, _)| groups);
        let naming = self.names.map(|_| Groups::NAMING);
        self.groups | otherwise.unwrap_or(Groups::empty()) | naming.unwrap_or(Groups::empty())
    }

    /// When it is handed over, if one of its groups is among these.
    pub(super) fn wanted(&self, groups: Groups) -> Option<When> {
        if groups.contains(Groups::NAMING) && self.names.is_some() {
            return Some(Always);
        }
        if groups.intersects(self.groups) {
            return Some(self.when);
        }
        let (others, when) = self.otherwise?;
        groups.intersects(others).then_some(when)
    }
}

const OWN: Groups = Groups::OWNERS;
const MAKE: Groups = Groups::OWNERS.union(Groups::DEVICES);
const SIGNALS: Groups = Groups::SIGNALS;
const CHILDREN: Groups = Groups::CHILDREN.union(SIGNALS);
const SOCKETS: Groups = Groups::SOCKETS.union(OWN);
/// What changes roots and mounts: whoever answers a call that names a file has to know of
/// them, and may have the root directory of a program, which cannot be unmounted then.
const PLACES: Groups = MAKE.union(Groups::ATTRIBUTES);

const fn trap(groups: Groups, numbers: Numbers, handler: Handler) -> Trap {
    Trap {
        numbers,
        groups,
        when: Always,
        otherwise: None,
        names: None,
        handler,
    }
}

const fn own(numbers: Numbers, handler: Handler) -> Trap {
    trap(OWN, numbers, handler)
}

const fn stat(numbers: Numbers, handler: Handler) -> Trap {
    trap(Groups::STAT, numbers, handler)
}

const fn make(numbers: Numbers, handler: Handler) -> Trap {
    trap(MAKE, numbers, handler)
}

const fn attribute(numbers: Numbers, handler: Handler) -> Trap {
    trap(Groups::ATTRIBUTES, numbers, handler)
}

const fn name(numbers: Numbers, handler: Handler) -> Trap {
    trap(Groups::NAMING, numbers, handler)
}

const fn place(numbers: Numbers, handler: Handler) -> Trap {
    trap(PLACES, numbers, handler)
}

const fn set_id(numbers: Numbers, handler: Handler) -> Trap {
    trap(Groups::SET_ID, numbers, handler)
}

/// The kernel makes the call.
pub(super) fn go_on(_: &mut Call<'_>) -> Outcome {
    Ok(Answer::Continue)
}

const CWD: i32 = libc::AT_FDCWD;
/// `getdents`, which only x86 has.
const OLD_GETDENTS: libc::c_long = 78;
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
/// What is about an open file then.
const NO_PATH: When = Equal(1, 0);
/// `fsconfig` of an option with a value.
const SETTING: When = Equal(1, 1);
/// What `getsockopt` tells of who is at the other end.
const PEERS: When = OneOf(2, &[libc::SO_PEERCRED as u32, socket::SO_PEERGROUPS as u32]);
/// Requests of `ioctl` that change what a file is though it is only open for reading, from
/// `linux/fs.h` and `linux/fsverity.h`: `FS_IOC_SETFLAGS` and `FS_IOC_SETVERSION`, each with that
/// of 32 bits, ext4's own of the latter, `FS_IOC_FSSETXATTR` and `FS_IOC_ENABLE_VERITY`; ext4's
/// `EXT4_IOC_MIGRATE`.
const FLAGGING: When = OneOf(
    1,
    &[
        0x4008_6602,
        0x4004_6602,
        0x4008_7602,
        0x4004_7602,
        0x4008_6604,
        0x4004_6604,
        0x401C_5820,
        0x4080_6685,
        0x6609,
    ],
);
/// The calls of `socketcall` that are answered.
const SOCKETCALLS: When = OneOf(
    0,
    &[socket::SYS_SOCKET, socket::SYS_BIND, socket::SYS_GETSOCKOPT],
);

/// All of them. The numbers are those of 64-bit x86, 32-bit x86, 64-bit ARM and 32-bit ARM.
pub(super) static CALLS: &[Trap] = &[
    stat([262, NO, 79, NO], |c| c.stat_at(Native)).by_path_at(StatAt(Native)),
    stat([5, NO, 80, NO], |c| c.stat_descriptor(Native)),
    stat([NO, 300, NO, NO], |c| c.stat_at(Stat64)).by_path_at(StatAt(Stat64)),
    stat([NO, 197, NO, NO], |c| c.stat_descriptor(Stat64)),
    stat([NO, 195, NO, NO], |c| c.stat_path(true, Stat64)).by_path(Stat(true, Stat64)),
    stat([NO, 196, NO, NO], |c| c.stat_path(false, Stat64)).by_path(Stat(false, Stat64)),
    stat([332, 383, 291, NO], |c| c.statx()).by_path_at(Statx),
    own([257, 295, 56, NO], |c| c.openat())
        .when(AnyBit(2, CREATING))
        .or(Groups::SET_ID, AnyBit(3, SET_ID))
        .by_path_at(Open),
    stat([4, NO, NO, NO], |c| c.stat_path(true, Native)).by_path(Stat(true, Native)),
    stat([6, NO, NO, NO], |c| c.stat_path(false, Native)).by_path(Stat(false, Native)),
    own([2, 5, NO, NO], |c| c.open_plain())
        .when(AnyBit(1, CREATING))
        .or(Groups::SET_ID, AnyBit(2, SET_ID))
        .by_path(Open),
    name([21, 33, NO, NO], go_on).by_path(Access(false)),
    name([269, 307, 48, NO], go_on).by_path_at(Access(false)),
    name([439, 439, 439, NO], go_on).by_path_at(Access(true)),
    name([89, 85, NO, NO], go_on).by_path(ReadLink),
    name([267, 305, 78, NO], go_on).by_path_at(ReadLink),
    name([80, 12, 49, NO], go_on).by_path(Enter),
    name([81, 133, 50, NO], |c| c.change_directory()),
    name([79, 183, 17, NO], |c| c.working_directory()),
    name([217, 220, 61, NO], |c| c.list(libc::SYS_getdents64)),
    name([78, NO, NO, NO], |c| c.list(OLD_GETDENTS)),
    own([107, 201, 175, NO], |c| c.show(|of| of.user.effective)),
    own([102, 199, 174, NO], |c| c.show(|of| of.user.real)),
    own([108, 202, 177, NO], |c| c.show(|of| of.group.effective)),
    own([104, 200, 176, NO], |c| c.show(|of| of.group.real)),
    own([59, 11, 221, 11], |c| c.execute(CWD, 0, 0)).by_path(Execute(None)),
    own([322, 358, 281, 387], |c| c.execute_at()).by_path_at(Execute(Some(4))),
    trap(SIGNALS, [13, NO, 134, NO], |c| c.set_handler(Wide)).when(ACTION),
    trap(SIGNALS, [NO, 174, NO, NO], |c| c.set_handler(Narrow)).when(ACTION),
    trap(CHILDREN, [56, 120, 220, NO], |c| c.clone_process()).or(PLACES, NEW_MOUNTS),
    // `fork`, `vfork`.
    trap(CHILDREN, [57, 2, NO, NO], |c| c.fork()),
    trap(CHILDREN, [58, 190, NO, NO], |c| c.fork()),
    trap(SIGNALS, [NO, 67, NO, NO], |c| c.set_handler(Old)).when(ACTION),
    trap(SIGNALS, [NO, 48, NO, NO], |c| c.set_handler(Plain)).when(ACTION),
    own([437, 437, 437, NO], |c| c.open2()).by_path_at(OpenHow),
    own([85, 8, NO, NO], |c| c.creat()).or(Groups::SET_ID, AnyBit(1, SET_ID)),
    own([92, 212, NO, NO], |c| c.chown_path(true)),
    own([93, 207, 55, NO], |c| c.chown_descriptor()),
    own([94, 198, NO, NO], |c| c.chown_path(false)),
    own([260, 298, 54, NO], |c| c.chown_at()),
    own([115, 205, 158, NO], |c| c.groups()),
    own([118, 209, 148, NO], |c| c.show_three(User)),
    own([120, 211, 150, NO], |c| c.show_three(Group)),
    own([105, 213, 146, NO], |c| c.set_one(User)),
    own([106, 214, 144, NO], |c| c.set_one(Group)),
    own([113, 203, 145, NO], |c| c.set_two(User)),
    own([114, 204, 143, NO], |c| c.set_two(Group)),
    own([116, 206, 159, NO], |c| c.set_groups()),
    own([117, 208, 147, NO], |c| c.set_three(User)),
    own([119, 210, 149, NO], |c| c.set_three(Group)),
    own([122, 215, 151, NO], |c| c.set_filesystem(User)),
    own([123, 216, 152, NO], |c| c.set_filesystem(Group)),
    own([157, 172, 167, NO], |c| c.process_option()).when(OPTIONS),
    own([302, 340, 261, NO], |c| c.limit(3, 8)).when(Equal(1, RLIMIT_LOCKS)),
    own([160, 75, 164, NO], |_| Ok(Answer::Value(0))).when(Equal(0, RLIMIT_LOCKS)),
    own([97, NO, 163, NO], |c| c.limit(1, 8)).when(Equal(0, RLIMIT_LOCKS)),
    own([NO, 76, NO, NO], |c| c.oldest_limit()).when(Equal(0, RLIMIT_LOCKS)),
    own([NO, 191, NO, NO], |c| c.limit(1, 4)).when(Equal(0, RLIMIT_LOCKS)),
    own([125, 184, 90, NO], |c| c.show_capabilities()),
    own([126, 185, 91, NO], |c| c.set_capabilities()),
    own([31, NO, 195, NO], |c| c.set_object(Object::Memory)).when(GIVEN),
    own([66, NO, 191, NO], |c| c.set_object(Object::Semaphores)).when(GIVEN_SET),
    own([71, NO, 187, NO], |c| c.set_object(Object::Messages)).when(GIVEN),
    own([83, 39, NO, NO], |c| c.mkdir(CWD, 0, 1)),
    own([258, 296, 34, NO], |c| c.mkdir_at()),
    make([133, 14, NO, NO], |c| c.mknod(CWD, 0)).or(Groups::SET_ID, AnyBit(1, SET_ID)),
    make([259, 297, 33, NO], |c| c.mknod_at()).or(Groups::SET_ID, AnyBit(2, SET_ID)),
    own([88, 83, NO, NO], |c| c.symlink(0, CWD, 1)),
    own([266, 304, 36, NO], |c| c.symlink_at()),
    name([137, NO, 43, NO], go_on).by_path(StatFs(Filesystem::Native)),
    name([90, 15, NO, 15], |c| c.change_mode(None, 0))
        .or(Groups::SET_ID, AnyBit(1, SET_ID))
        .by_path(Mode(None)),
    name([268, 306, 53, 333], |c| c.change_mode(Some(0), 1))
        .or(Groups::SET_ID, AnyBit(2, SET_ID))
        .by_path_at(Mode(None)),
    name([452; 4], |c| c.change_mode_at())
        .or(Groups::SET_ID, AnyBit(2, SET_ID))
        .by_path_at(Mode(Some(3))),
    name([280, 412, 88, NO], |c| c.change_times(Times::Wide)).by_path_at(Verb::Times(Times::Wide)),
    name([NO, 320, NO, NO], |c| c.change_times(Times::Narrow))
        .by_path_at(Verb::Times(Times::Narrow)),
    // `futimesat`, by which no program names a file of `/proc`.
    name([261, NO, NO, NO], |c| {
        c.change_times_of_descriptor(Times::WideMicro)
    })
    .when(NO_PATH),
    name([NO, 299, NO, NO], |c| {
        c.change_times_of_descriptor(Times::NarrowMicro)
    })
    .when(NO_PATH),
    name([265, 303, 37, NO], go_on).by_path_at(Link),
    // `rename`, `renameat`, `renameat2`.
    name([82, 38, NO, NO], |c| c.rename_path()),
    name([264, 302, 38, NO], |c| c.rename_at(0)),
    name([316, 353, 276, NO], |c| c.rename_at(c.word(4))),
    name([138, NO, 44, NO], |c| {
        c.statfs_descriptor(Filesystem::Native)
    }),
    name([91, 94, 52, 94], |c| c.change_mode_of_descriptor()).or(Groups::SET_ID, AnyBit(1, SET_ID)),
    name([16, 54, 29, NO], |c| c.change_flags()).when(FLAGGING),
    own([49, 361, 200, NO], |c| c.bind()),
    own([55, 365, 209, NO], |c| c.socket_option()).when(PEERS),
    trap(SOCKETS, [NO, 102, NO, NO], |c| c.socketcall()).when(SOCKETCALLS),
    place([161, 61, 51, 61], |c| c.chroot()),
    // `pivot_root`, `setns`.
    place([155, 217, 41, 218], |c| c.change_root()),
    place([308, 346, 268, 375], |c| c.change_root()),
    place([165, 21, 40, 21], |c| c.mount()),
    // `umount2`, `umount`, `move_mount`.
    place([166, 52, 39, 52], |c| c.change_mounts()),
    place([NO, 22, NO, NO], |c| c.change_mounts()),
    place([429; 4], |c| c.change_mounts()),
    own([431; 4], |c| c.set_up_filesystem()).when(SETTING),
    // `unshare`, and `clone` of ARM, whose handlers of signals nobody asks for.
    place([272, 310, 97, 337], |c| c.change_root()).when(NEW_MOUNTS),
    place([NO, NO, NO, 120], |c| c.change_root()).when(NEW_MOUNTS),
    trap(PLACES.union(CHILDREN), [435; 4], |c| c.clone3()),
    attribute([188, 226, 5, NO], |c| c.set_xattr(true)).by_path(Attribute(Set, true)),
    attribute([189, 227, 6, NO], |c| c.set_xattr(false)).by_path(Attribute(Set, false)),
    attribute([190, 228, 7, NO], |c| c.set_xattr_descriptor()),
    attribute([191, 229, 8, NO], |c| c.get_xattr(true)).by_path(Attribute(Get, true)),
    attribute([192, 230, 9, NO], |c| c.get_xattr(false)).by_path(Attribute(Get, false)),
    attribute([193, 231, 10, NO], |c| c.get_xattr_descriptor()),
    attribute([194, 232, 11, NO], |c| c.list_xattr(true)).by_path(Attribute(List, true)),
    attribute([195, 233, 12, NO], |c| c.list_xattr(false)).by_path(Attribute(List, false)),
    attribute([196, 234, 13, NO], |c| c.list_xattr_descriptor()),
    attribute([197, 235, 14, NO], |c| c.remove_xattr(true)).by_path(Attribute(Remove, true)),
    attribute([198, 236, 15, NO], |c| c.remove_xattr(false)).by_path(Attribute(Remove, false)),
    attribute([199, 237, 16, NO], |c| c.remove_xattr_descriptor()),
    attribute([463, 463, 463, NO], |c| c.set_xattr_at()),
    attribute([464, 464, 464, NO], |c| c.get_xattr_at()),
    attribute([465, 465, 465, NO], |c| c.list_xattr_at()),
    attribute([466, 466, 466, NO], |c| c.remove_xattr_at()),
    // 32-bit ARM, whose calls are not answered otherwise.
    set_id([NO, NO, NO, 322], |c| c.openat()).when(AnyBit(3, SET_ID)),
    set_id([NO, NO, NO, 5], |c| c.open_plain()).when(AnyBit(2, SET_ID)),
    set_id([NO, NO, NO, 8], |c| c.creat()).when(AnyBit(1, SET_ID)),
    set_id([NO, NO, NO, 14], |c| c.mknod(CWD, 0)).when(AnyBit(1, SET_ID)),
    set_id([NO, NO, NO, 324], |c| c.mknod_at()).when(AnyBit(2, SET_ID)),
    set_id([NO, NO, NO, 226], |c| c.set_xattr(true)),
    set_id([NO, NO, NO, 227], |c| c.set_xattr(false)),
    set_id([NO, NO, NO, 228], |c| c.set_xattr_descriptor()),
    set_id([NO, NO, NO, 463], |c| c.set_xattr_at()),
    // 32-bit x86: files of less than 2 GiB, and ids of 16 bits.
    stat([NO, 106, NO, NO], |c| c.stat_path(true, Stat32)).by_path(Stat(true, Stat32)),
    stat([NO, 107, NO, NO], |c| c.stat_path(false, Stat32)).by_path(Stat(false, Stat32)),
    stat([NO, 108, NO, NO], |c| c.stat_descriptor(Stat32)),
    name([NO, 268, NO, NO], go_on).by_path(StatFs(Filesystem::Wide)),
    name([NO, 269, NO, NO], |c| c.statfs_descriptor(Filesystem::Wide)),
    name([NO, 99, NO, NO], go_on).by_path(StatFs(Filesystem::Narrow)),
    name([NO, 100, NO, NO], |c| {
        c.statfs_descriptor(Filesystem::Narrow)
    }),
    name([NO, 141, NO, NO], |c| c.list_narrow()),
    own([NO, 182, NO, NO], |c| c.narrow().chown_path(true)),
    own([NO, 16, NO, NO], |c| c.narrow().chown_path(false)),
    own([NO, 95, NO, NO], |c| c.narrow().chown_descriptor()),
    own([NO, 49, NO, NO], |c| {
        c.narrow().show(|of| of.user.effective)
    }),
    own([NO, 24, NO, NO], |c| c.narrow().show(|of| of.user.real)),
    own([NO, 50, NO, NO], |c| {
        c.narrow().show(|of| of.group.effective)
    }),
    own([NO, 47, NO, NO], |c| c.narrow().show(|of| of.group.real)),
    own([NO, 80, NO, NO], |c| c.narrow().groups()),
    own([NO, 165, NO, NO], |c| c.narrow().show_three(User)),
    own([NO, 171, NO, NO], |c| c.narrow().show_three(Group)),
    own([NO, 23, NO, NO], |c| c.narrow().set_one(User)),
    own([NO, 46, NO, NO], |c| c.narrow().set_one(Group)),
    own([NO, 70, NO, NO], |c| c.narrow().set_two(User)),
    own([NO, 71, NO, NO], |c| c.narrow().set_two(Group)),
    own([NO, 81, NO, NO], |c| c.narrow().set_groups()),
    own([NO, 164, NO, NO], |c| c.narrow().set_three(User)),
    own([NO, 170, NO, NO], |c| c.narrow().set_three(Group)),
    own([NO, 138, NO, NO], |c| c.narrow().set_filesystem(User)),
    own([NO, 139, NO, NO], |c| c.narrow().set_filesystem(Group)),
];
