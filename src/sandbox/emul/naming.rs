//! The calls that name files, where `/proc` cannot be mounted in targets: each may be
//! about a file that [`vproc`](super::vproc) answers for, and is handed on otherwise. Of the
//! rest it only matters whether their paths lead up from where nobody may
//! ([`confine`](super::confine)).

use nix::errno::Errno;

use super::layout::Layout::{Native, Stat32, Stat64};
use super::table::When::{Always, AnyBit, Unlike};
use super::table::{Groups, Trap, When, trap};
use super::vproc::Attribute::{Get, List, Remove, Set};
use super::vproc::Verb::{
    Access, Attribute, Execute, Link, Mode, OpenHow, ReadLink, Stat, StatAt, StatFs, Statx, Times,
};
use super::vproc::go_on;

const NAME: Groups = Groups::NAMING;
const CWD: i32 = libc::AT_FDCWD;
/// Paths that start at a descriptor. The working directory of a program is in its target.
const NOT_CWD: When = Unlike(0, CWD.cast_unsigned());

/// `clone` that shares descriptors, or changes mounts as elsewhere. `clone3`, whose flags are
/// in memory, is absent: programs take the older one then.
const SHARING: When = AnyBit(0, (libc::CLONE_FILES | libc::CLONE_NEWNS) as u32);

/// 64-bit x86.
pub(super) const X86_64: [Trap; 41] = [
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
    trap(90, NAME, Always, |c| {
        c.named(Mode(None), None, 0, |c| c.change_mode(None, 0, None))
    }),
    trap(268, NAME, Always, |c| {
        c.named(Mode(None), Some(0), 1, |c| c.change_mode(Some(0), 1, None))
    }),
    trap(452, NAME, Always, |c| {
        c.named(Mode(Some(3)), Some(0), 1, |c| {
            c.change_mode(Some(0), 1, Some(3))
        })
    }),
    trap(280, NAME, Always, |c| {
        c.named(Times, Some(0), 1, |c| c.change_times(1))
    }),
    trap(265, NAME, Always, |c| {
        c.staying(&[(2, 3)], |c| c.named(Link, Some(0), 1, go_on))
    }),
    trap(81, NAME, Always, |c| c.change_directory()),
    trap(91, NAME, Always, |c| c.change_mode_of_descriptor()),
    trap(258, NAME, Always, |c| {
        c.staying(&[(0, 1)], |c| c.mkdir_at())
    }),
    trap(259, NAME, Always, |c| {
        c.staying(&[(0, 1)], |c| c.mknod_at())
    }),
    trap(266, NAME, Always, |c| {
        c.staying(&[(1, 2)], |c| c.symlink_at())
    }),
    trap(263, NAME, NOT_CWD, |c| c.staying(&[(0, 1)], go_on)),
    trap(264, NAME, Always, |c| c.staying(&[(0, 1), (2, 3)], go_on)),
    trap(316, NAME, Always, |c| c.staying(&[(0, 1), (2, 3)], go_on)),
    trap(261, NAME, NOT_CWD, |c| c.staying(&[(0, 1)], go_on)),
    trap(303, NAME, NOT_CWD, |c| c.staying(&[(0, 1)], go_on)),
    trap(301, NAME, Always, |c| c.staying(&[(3, 4)], go_on)),
    trap(56, NAME, SHARING, |c| c.clone_old()),
    trap(435, NAME, Always, |_| Err(Errno::ENOSYS)),
];

/// 64-bit ARM.
pub(super) const AARCH64: [Trap; 34] = [
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
    trap(53, NAME, Always, |c| {
        c.named(Mode(None), Some(0), 1, |c| c.change_mode(Some(0), 1, None))
    }),
    trap(452, NAME, Always, |c| {
        c.named(Mode(Some(3)), Some(0), 1, |c| {
            c.change_mode(Some(0), 1, Some(3))
        })
    }),
    trap(88, NAME, Always, |c| {
        c.named(Times, Some(0), 1, |c| c.change_times(1))
    }),
    trap(37, NAME, Always, |c| {
        c.staying(&[(2, 3)], |c| c.named(Link, Some(0), 1, go_on))
    }),
    trap(50, NAME, Always, |c| c.change_directory()),
    trap(52, NAME, Always, |c| c.change_mode_of_descriptor()),
    trap(34, NAME, Always, |c| c.staying(&[(0, 1)], |c| c.mkdir_at())),
    trap(33, NAME, Always, |c| c.staying(&[(0, 1)], |c| c.mknod_at())),
    trap(36, NAME, Always, |c| {
        c.staying(&[(1, 2)], |c| c.symlink_at())
    }),
    trap(35, NAME, NOT_CWD, |c| c.staying(&[(0, 1)], go_on)),
    trap(38, NAME, Always, |c| c.staying(&[(0, 1), (2, 3)], go_on)),
    trap(276, NAME, Always, |c| c.staying(&[(0, 1), (2, 3)], go_on)),
    trap(264, NAME, NOT_CWD, |c| c.staying(&[(0, 1)], go_on)),
    trap(263, NAME, Always, |c| c.staying(&[(3, 4)], go_on)),
    trap(220, NAME, SHARING, |c| c.clone_old()),
    trap(435, NAME, Always, |_| Err(Errno::ENOSYS)),
];

/// 32-bit x86. `statfs` and the older `utimensat`, whose structures differ, are left to the
/// kernel.
pub(super) const I386: [Trap; 43] = [
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
    trap(15, NAME, Always, |c| {
        c.named(Mode(None), None, 0, |c| c.change_mode(None, 0, None))
    }),
    trap(306, NAME, Always, |c| {
        c.named(Mode(None), Some(0), 1, |c| c.change_mode(Some(0), 1, None))
    }),
    trap(452, NAME, Always, |c| {
        c.named(Mode(Some(3)), Some(0), 1, |c| {
            c.change_mode(Some(0), 1, Some(3))
        })
    }),
    trap(412, NAME, Always, |c| {
        c.named(Times, Some(0), 1, |c| c.change_times(1))
    }),
    trap(303, NAME, Always, |c| {
        c.staying(&[(2, 3)], |c| c.named(Link, Some(0), 1, go_on))
    }),
    trap(133, NAME, Always, |c| c.change_directory()),
    trap(94, NAME, Always, |c| c.change_mode_of_descriptor()),
    trap(296, NAME, Always, |c| {
        c.staying(&[(0, 1)], |c| c.mkdir_at())
    }),
    trap(297, NAME, Always, |c| {
        c.staying(&[(0, 1)], |c| c.mknod_at())
    }),
    trap(304, NAME, Always, |c| {
        c.staying(&[(1, 2)], |c| c.symlink_at())
    }),
    trap(301, NAME, NOT_CWD, |c| c.staying(&[(0, 1)], go_on)),
    trap(302, NAME, Always, |c| c.staying(&[(0, 1), (2, 3)], go_on)),
    trap(353, NAME, Always, |c| c.staying(&[(0, 1), (2, 3)], go_on)),
    trap(299, NAME, NOT_CWD, |c| c.staying(&[(0, 1)], go_on)),
    trap(320, NAME, NOT_CWD, |c| c.staying(&[(0, 1)], go_on)),
    trap(341, NAME, NOT_CWD, |c| c.staying(&[(0, 1)], go_on)),
    trap(339, NAME, Always, |c| c.staying(&[(4, 5)], go_on)),
    trap(120, NAME, SHARING, |c| c.clone_old()),
    trap(435, NAME, Always, |_| Err(Errno::ENOSYS)),
];
