//! The calls that name files, where `/proc` cannot be mounted in targets: each may be
//! about a file that [`vproc`](super::vproc) answers for, and is handed on otherwise.

use super::layout::Layout::{Native, Stat32, Stat64};
use super::table::When::Always;
use super::table::{Groups, Trap, trap};
use super::vproc::Attribute::{Get, List, Remove, Set};
use super::vproc::Verb::{
    Access, Attribute, Execute, Link, Mode, OpenHow, ReadLink, Stat, StatAt, StatFs, Statx, Times,
};
use super::vproc::go_on;

const NAME: Groups = Groups::NAMING;
const CWD: i32 = libc::AT_FDCWD;
/// `getdents`, which only x86 has.
const OLD_GETDENTS: libc::c_long = 78;
/// 64-bit x86.
pub(super) const X86_64: [Trap; 33] = [
    trap(257, NAME, Always, |c| {
        c.named_open(Some(0), 1, |c| c.openat())
    }),
    trap(262, NAME, Always, |c| {
        c.named(StatAt(Native), Some(0), 1, |c| c.stat_at(Native))
    }),
    trap(2, NAME, Always, |c| {
        c.named_open(None, 0, |c| c.open_plain())
    }),
    trap(4, NAME, Always, |c| {
        c.named(Stat(true, Native), None, 0, |c| c.stat_path(true, Native))
    }),
    trap(6, NAME, Always, |c| {
        c.named(Stat(false, Native), None, 0, |c| c.stat_path(false, Native))
    }),
    trap(332, NAME, Always, |c| {
        c.named(Statx, Some(0), 1, |c| c.statx())
    }),
    trap(437, NAME, Always, |c| {
        c.named(OpenHow, Some(0), 1, |c| c.open2())
    }),
    trap(21, NAME, Always, |c| c.named(Access(false), None, 0, go_on)),
    trap(269, NAME, Always, |c| {
        c.named(Access(false), Some(0), 1, go_on)
    }),
    trap(439, NAME, Always, |c| {
        c.named(Access(true), Some(0), 1, go_on)
    }),
    trap(89, NAME, Always, |c| c.named(ReadLink, None, 0, go_on)),
    trap(267, NAME, Always, |c| c.named(ReadLink, Some(0), 1, go_on)),
    trap(137, NAME, Always, |c| c.named(StatFs, None, 0, go_on)),
    trap(59, NAME, Always, |c| {
        c.named(Execute(None), None, 0, |c| c.execute(CWD, 0, 0))
    }),
    trap(322, NAME, Always, |c| {
        c.named(Execute(Some(4)), Some(0), 1, |c| c.execute_at())
    }),
    trap(188, NAME, Always, |c| {
        c.named(Attribute(Set, true), None, 0, |c| c.set_xattr(true))
    }),
    trap(189, NAME, Always, |c| {
        c.named(Attribute(Set, false), None, 0, |c| c.set_xattr(false))
    }),
    trap(191, NAME, Always, |c| {
        c.named(Attribute(Get, true), None, 0, |c| c.get_xattr(true))
    }),
    trap(192, NAME, Always, |c| {
        c.named(Attribute(Get, false), None, 0, |c| c.get_xattr(false))
    }),
    trap(194, NAME, Always, |c| {
        c.named(Attribute(List, true), None, 0, |c| c.list_xattr(true))
    }),
    trap(195, NAME, Always, |c| {
        c.named(Attribute(List, false), None, 0, |c| c.list_xattr(false))
    }),
    trap(197, NAME, Always, |c| {
        c.named(Attribute(Remove, true), None, 0, |c| c.remove_xattr(true))
    }),
    trap(198, NAME, Always, |c| {
        c.named(Attribute(Remove, false), None, 0, |c| c.remove_xattr(false))
    }),
    trap(90, NAME, Always, |c| c.named(Mode(None), None, 0, go_on)),
    trap(268, NAME, Always, |c| {
        c.named(Mode(None), Some(0), 1, go_on)
    }),
    trap(452, NAME, Always, |c| {
        c.named(Mode(Some(3)), Some(0), 1, |c| c.change_mode_at())
    }),
    trap(280, NAME, Always, |c| {
        c.named(Times, Some(0), 1, |c| c.change_times())
    }),
    trap(265, NAME, Always, |c| c.named(Link, Some(0), 1, go_on)),
    trap(81, NAME, Always, |c| c.change_directory()),
    trap(217, NAME, Always, |c| c.list(libc::SYS_getdents64)),
    trap(78, NAME, Always, |c| c.list(OLD_GETDENTS)),
    trap(138, NAME, Always, |c| c.statfs_descriptor()),
    trap(91, NAME, Always, |c| c.change_mode_of_descriptor()),
];

/// 64-bit ARM.
pub(super) const AARCH64: [Trap; 26] = [
    trap(56, NAME, Always, |c| {
        c.named_open(Some(0), 1, |c| c.openat())
    }),
    trap(79, NAME, Always, |c| {
        c.named(StatAt(Native), Some(0), 1, |c| c.stat_at(Native))
    }),
    trap(291, NAME, Always, |c| {
        c.named(Statx, Some(0), 1, |c| c.statx())
    }),
    trap(437, NAME, Always, |c| {
        c.named(OpenHow, Some(0), 1, |c| c.open2())
    }),
    trap(48, NAME, Always, |c| {
        c.named(Access(false), Some(0), 1, go_on)
    }),
    trap(439, NAME, Always, |c| {
        c.named(Access(true), Some(0), 1, go_on)
    }),
    trap(78, NAME, Always, |c| c.named(ReadLink, Some(0), 1, go_on)),
    trap(43, NAME, Always, |c| c.named(StatFs, None, 0, go_on)),
    trap(221, NAME, Always, |c| {
        c.named(Execute(None), None, 0, |c| c.execute(CWD, 0, 0))
    }),
    trap(281, NAME, Always, |c| {
        c.named(Execute(Some(4)), Some(0), 1, |c| c.execute_at())
    }),
    trap(5, NAME, Always, |c| {
        c.named(Attribute(Set, true), None, 0, |c| c.set_xattr(true))
    }),
    trap(6, NAME, Always, |c| {
        c.named(Attribute(Set, false), None, 0, |c| c.set_xattr(false))
    }),
    trap(8, NAME, Always, |c| {
        c.named(Attribute(Get, true), None, 0, |c| c.get_xattr(true))
    }),
    trap(9, NAME, Always, |c| {
        c.named(Attribute(Get, false), None, 0, |c| c.get_xattr(false))
    }),
    trap(11, NAME, Always, |c| {
        c.named(Attribute(List, true), None, 0, |c| c.list_xattr(true))
    }),
    trap(12, NAME, Always, |c| {
        c.named(Attribute(List, false), None, 0, |c| c.list_xattr(false))
    }),
    trap(14, NAME, Always, |c| {
        c.named(Attribute(Remove, true), None, 0, |c| c.remove_xattr(true))
    }),
    trap(15, NAME, Always, |c| {
        c.named(Attribute(Remove, false), None, 0, |c| c.remove_xattr(false))
    }),
    trap(53, NAME, Always, |c| c.named(Mode(None), Some(0), 1, go_on)),
    trap(452, NAME, Always, |c| {
        c.named(Mode(Some(3)), Some(0), 1, |c| c.change_mode_at())
    }),
    trap(88, NAME, Always, |c| {
        c.named(Times, Some(0), 1, |c| c.change_times())
    }),
    trap(37, NAME, Always, |c| c.named(Link, Some(0), 1, go_on)),
    trap(50, NAME, Always, |c| c.change_directory()),
    trap(61, NAME, Always, |c| c.list(libc::SYS_getdents64)),
    trap(44, NAME, Always, |c| c.statfs_descriptor()),
    trap(52, NAME, Always, |c| c.change_mode_of_descriptor()),
];

/// 32-bit x86. `statfs`, and the older `utimensat` and `getdents`, whose structures differ, are
/// left to the kernel.
pub(super) const I386: [Trap; 32] = [
    trap(295, NAME, Always, |c| {
        c.named_open(Some(0), 1, |c| c.openat())
    }),
    trap(5, NAME, Always, |c| {
        c.named_open(None, 0, |c| c.open_plain())
    }),
    trap(300, NAME, Always, |c| {
        c.named(StatAt(Stat64), Some(0), 1, |c| c.stat_at(Stat64))
    }),
    trap(195, NAME, Always, |c| {
        c.named(Stat(true, Stat64), None, 0, |c| c.stat_path(true, Stat64))
    }),
    trap(196, NAME, Always, |c| {
        c.named(Stat(false, Stat64), None, 0, |c| c.stat_path(false, Stat64))
    }),
    trap(106, NAME, Always, |c| {
        c.named(Stat(true, Stat32), None, 0, |c| c.stat_path(true, Stat32))
    }),
    trap(107, NAME, Always, |c| {
        c.named(Stat(false, Stat32), None, 0, |c| c.stat_path(false, Stat32))
    }),
    trap(383, NAME, Always, |c| {
        c.named(Statx, Some(0), 1, |c| c.statx())
    }),
    trap(437, NAME, Always, |c| {
        c.named(OpenHow, Some(0), 1, |c| c.open2())
    }),
    trap(33, NAME, Always, |c| c.named(Access(false), None, 0, go_on)),
    trap(307, NAME, Always, |c| {
        c.named(Access(false), Some(0), 1, go_on)
    }),
    trap(439, NAME, Always, |c| {
        c.named(Access(true), Some(0), 1, go_on)
    }),
    trap(85, NAME, Always, |c| c.named(ReadLink, None, 0, go_on)),
    trap(305, NAME, Always, |c| c.named(ReadLink, Some(0), 1, go_on)),
    trap(11, NAME, Always, |c| {
        c.named(Execute(None), None, 0, |c| c.execute(CWD, 0, 0))
    }),
    trap(358, NAME, Always, |c| {
        c.named(Execute(Some(4)), Some(0), 1, |c| c.execute_at())
    }),
    trap(226, NAME, Always, |c| {
        c.named(Attribute(Set, true), None, 0, |c| c.set_xattr(true))
    }),
    trap(227, NAME, Always, |c| {
        c.named(Attribute(Set, false), None, 0, |c| c.set_xattr(false))
    }),
    trap(229, NAME, Always, |c| {
        c.named(Attribute(Get, true), None, 0, |c| c.get_xattr(true))
    }),
    trap(230, NAME, Always, |c| {
        c.named(Attribute(Get, false), None, 0, |c| c.get_xattr(false))
    }),
    trap(232, NAME, Always, |c| {
        c.named(Attribute(List, true), None, 0, |c| c.list_xattr(true))
    }),
    trap(233, NAME, Always, |c| {
        c.named(Attribute(List, false), None, 0, |c| c.list_xattr(false))
    }),
    trap(235, NAME, Always, |c| {
        c.named(Attribute(Remove, true), None, 0, |c| c.remove_xattr(true))
    }),
    trap(236, NAME, Always, |c| {
        c.named(Attribute(Remove, false), None, 0, |c| c.remove_xattr(false))
    }),
    trap(15, NAME, Always, |c| c.named(Mode(None), None, 0, go_on)),
    trap(306, NAME, Always, |c| {
        c.named(Mode(None), Some(0), 1, go_on)
    }),
    trap(452, NAME, Always, |c| {
        c.named(Mode(Some(3)), Some(0), 1, |c| c.change_mode_at())
    }),
    trap(412, NAME, Always, |c| {
        c.named(Times, Some(0), 1, |c| c.change_times())
    }),
    trap(303, NAME, Always, |c| c.named(Link, Some(0), 1, go_on)),
    trap(133, NAME, Always, |c| c.change_directory()),
    trap(220, NAME, Always, |c| c.list(libc::SYS_getdents64)),
    trap(94, NAME, Always, |c| c.change_mode_of_descriptor()),
];
