//! The programs: each makes the calls that are answered, and says what is wrong.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use libc::{c_char, c_int, c_long};
use nix::errno::Errno;

/// Runs one; the exit status.
pub fn run() -> i32 {
    match std::env::var(super::PROGRAM).as_deref() {
        Ok("calls") => calls(),
        Ok("devices") => devices(),
        Ok("look") => look(),
        Ok("signals") => super::hazards::signals(),
        Ok("races") => super::hazards::races(),
        Ok("overlay") => super::hazards::overlay(),
        Ok("escapes") => super::escapes::run(),
        Ok("lists") => super::lists::run(),
        Ok("corners") => super::corners::run(),
        Ok("answers") => super::answers::run(),
        Ok("fuse") => super::fuse::run(),
        _ => return 2,
    }
    0
}

/// Makes a system call by its number; the result or the error.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {{
        // SAFETY: paths are terminated and buffers have room, and live across the call.
        let result = unsafe { libc::syscall($number $(, $argument)*) };
        Errno::result(result)
    }};
}

pub fn path(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).expect("no zero")
}

#[track_caller]
pub fn must<T>(what: &str, result: Result<T, Errno>) -> T {
    result.unwrap_or_else(|errno| {
        let place = std::panic::Location::caller();
        println!("WRONG {what} failed at {place}: {errno}");
        std::process::exit(3)
    })
}

#[track_caller]
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) {
    if found != expected {
        let place = std::panic::Location::caller();
        println!("WRONG {what} at {place}: {found:?} and not {expected:?}");
        std::process::exit(3);
    }
}

/// Owner and group by one of the calls of the family, in turn.
pub fn owner(name: &CStr, way: usize) -> (u32, u32) {
    // SAFETY: zeroes are a valid value of both.
    let (mut old, mut new): (libc::stat, libc::statx) = unsafe { std::mem::zeroed() };
    let at = name.as_ptr();
    match way % 5 {
        #[cfg(target_arch = "x86_64")]
        0 => drop(must("stat", call!(libc::SYS_stat, at, &raw mut old))),
        #[cfg(target_arch = "x86_64")]
        1 => drop(must("lstat", call!(libc::SYS_lstat, at, &raw mut old))),
        2 => {
            let fd = open(name, libc::O_RDONLY | libc::O_NONBLOCK, 0);
            must("fstat", call!(libc::SYS_fstat, fd, &raw mut old));
            close(fd);
        }
        3 => {
            let mask = libc::STATX_BASIC_STATS;
            let cwd = libc::AT_FDCWD;
            must(
                "statx",
                call!(libc::SYS_statx, cwd, at, 0, mask, &raw mut new),
            );
            return (new.stx_uid, new.stx_gid);
        }
        _ => {
            let cwd = libc::AT_FDCWD;
            must(
                "fstatat",
                call!(libc::SYS_newfstatat, cwd, at, &raw mut old, 0),
            );
        }
    }
    (old.st_uid, old.st_gid)
}

#[track_caller]
pub fn open(name: &CStr, flags: c_int, mode: c_int) -> RawFd {
    let fd = call!(libc::SYS_openat, libc::AT_FDCWD, name.as_ptr(), flags, mode);
    must(&format!("open {name:?}"), fd) as RawFd
}

pub fn close(fd: RawFd) {
    let _ = nix::unistd::close(fd);
}

pub fn create(name: &CStr, text: &str) {
    let fd = open(name, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, 0o644);
    must(
        "write",
        call!(libc::SYS_write, fd, text.as_ptr(), text.len()),
    );
    close(fd);
}

/// Sets owner and group by one of the calls of the family, in turn.
pub fn chown(name: &CStr, uid: u32, gid: u32, way: usize) {
    let (at, cwd) = (name.as_ptr(), libc::AT_FDCWD);
    match way % 5 {
        #[cfg(target_arch = "x86_64")]
        0 => drop(must("chown", call!(libc::SYS_chown, at, uid, gid))),
        #[cfg(target_arch = "x86_64")]
        1 => drop(must("lchown", call!(libc::SYS_lchown, at, uid, gid))),
        2 => {
            let fd = open(name, libc::O_RDONLY | libc::O_NONBLOCK, 0);
            must("fchown", call!(libc::SYS_fchown, fd, uid, gid));
            close(fd);
        }
        3 => {
            let fd = open(name, libc::O_PATH, 0);
            let flags = libc::AT_EMPTY_PATH;
            must(
                "fchownat",
                call!(libc::SYS_fchownat, fd, c"".as_ptr(), uid, gid, flags),
            );
            close(fd);
        }
        _ => drop(must(
            "fchownat",
            call!(libc::SYS_fchownat, cwd, at, uid, gid, 0),
        )),
    }
}

pub fn mkdir(name: &CStr, mode: c_int) {
    must(
        "mkdirat",
        call!(libc::SYS_mkdirat, libc::AT_FDCWD, name.as_ptr(), mode),
    );
}

/// Files of one thread: made, given away, renamed, linked, replaced.
fn files_of(thread: usize) {
    for number in 0..60_usize {
        let name = path(format!("t{thread}/file{number}"));
        let moved = path(format!("t{thread}/moved{number}"));
        let (uid, gid) = (1 + number as u32, 500 + thread as u32);
        create(&name, &format!("{thread} {number}"));
        same("a new file", owner(&name, number), (0, 0));
        chown(&name, uid, gid, number);
        same("chown", owner(&name, number + 1), (uid, gid));
        chown(&name, u32::MAX, gid + 1, number + 2);
        same("chgrp", owner(&name, number + 3), (uid, gid + 1));
        must(
            "chmod",
            call!(libc::SYS_fchmodat, libc::AT_FDCWD, name.as_ptr(), 0o4750),
        );
        if number % 4 == 0 {
            // Takes the set-id bit away.
            chown(&name, uid, gid, number + 1);
        }
        let renamed = call!(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            name.as_ptr(),
            libc::AT_FDCWD,
            moved.as_ptr(),
            0
        );
        must("rename", renamed);
        same("after a rename", owner(&moved, number).0, uid);
        match number % 6 {
            0 => {
                let link = path(format!("t{thread}/link{number}"));
                let linked = call!(
                    libc::SYS_linkat,
                    libc::AT_FDCWD,
                    moved.as_ptr(),
                    libc::AT_FDCWD,
                    link.as_ptr(),
                    0
                );
                must("link", linked);
                chown(&link, 9, 9, number);
                same("through the other name", owner(&moved, number), (9, 9));
            }
            1 => {
                // Another file in its place, with the old number most likely.
                must(
                    "unlink",
                    call!(libc::SYS_unlinkat, libc::AT_FDCWD, moved.as_ptr(), 0),
                );
                create(&moved, "new");
                same("a file in place of another", owner(&moved, number), (0, 0));
            }
            2 => {
                create(&name, "renamed over the other");
                let over = call!(
                    libc::SYS_renameat2,
                    libc::AT_FDCWD,
                    name.as_ptr(),
                    libc::AT_FDCWD,
                    moved.as_ptr(),
                    0
                );
                must("rename over", over);
                same("after a rename over it", owner(&moved, number), (0, 0));
            }
            3 => {
                must(
                    "unlink",
                    call!(libc::SYS_unlinkat, libc::AT_FDCWD, moved.as_ptr(), 0),
                );
                mkdir(&moved, 0o755);
                chown(&moved, 5, 6, 4);
            }
            4 => {
                must(
                    "unlink",
                    call!(libc::SYS_unlinkat, libc::AT_FDCWD, moved.as_ptr(), 0),
                );
                let made = call!(
                    libc::SYS_symlinkat,
                    c"nowhere".as_ptr(),
                    libc::AT_FDCWD,
                    moved.as_ptr()
                );
                must("symlink", made);
                let flags = libc::AT_SYMLINK_NOFOLLOW;
                must(
                    "lchown",
                    call!(
                        libc::SYS_fchownat,
                        libc::AT_FDCWD,
                        moved.as_ptr(),
                        7,
                        8,
                        flags
                    ),
                );
            }
            _ => {}
        }
    }
    // Many changes of few files.
    const CHANGES: usize = 100_000 / 4;
    let names: Vec<CString> = (0..10)
        .map(|n| path(format!("t{thread}/many{n}")))
        .collect();
    names.iter().for_each(|name| create(name, ""));
    for change in 0..CHANGES {
        let name = &names[change % names.len()];
        let (uid, gid) = ((change % 60_000) as u32, (change % 977) as u32);
        chown(name, uid, gid, change);
        if change % 16 == 0 {
            same("after many changes", owner(name, change), (uid, gid));
        }
    }
}

/// Deeper than a path can be long.
fn deep() {
    let name = path(vec![b'd'; 200]);
    let mut here = open(c".", libc::O_RDONLY | libc::O_DIRECTORY, 0);
    let start = here;
    for depth in 0..30_u32 {
        must(
            "mkdir",
            call!(libc::SYS_mkdirat, here, name.as_ptr(), 0o755),
        );
        must(
            "chown",
            call!(libc::SYS_fchownat, here, name.as_ptr(), depth, 3, 0),
        );
        let next = call!(
            libc::SYS_openat,
            here,
            name.as_ptr(),
            libc::O_RDONLY | libc::O_DIRECTORY
        );
        if here != start {
            close(here);
        }
        here = must("open", next) as RawFd;
    }
    must("fchdir", call!(libc::SYS_fchdir, here));
    create(c"bottom", "deep");
    chown(c"bottom", 33, 44, 4);
    same("at the bottom", owner(c"bottom", 3), (33, 44));
    must("fchdir", call!(libc::SYS_fchdir, start));
    close(here);
    close(start);
}

/// Runs a part in a process of its own.
pub fn in_child(part: impl FnOnce()) {
    // SAFETY: this process has one thread here.
    match unsafe { libc::fork() } {
        0 => {
            part();
            std::process::exit(0)
        }
        child => {
            let mut status = 0;
            // SAFETY: a child of ours, and room for its status.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            same("the status of a process", status, 0);
        }
    }
}

pub fn ids() -> [[u32; 3]; 2] {
    let mut ids = [[0_u32; 3]; 2];
    let [user, group] = &mut ids;
    let [a, b, c] = user;
    must("getresuid", call!(libc::SYS_getresuid, a, b, c));
    let [a, b, c] = group;
    must("getresgid", call!(libc::SYS_getresgid, a, b, c));
    ids
}

fn id(number: c_long) -> u32 {
    must("an id", call!(number)) as u32
}

/// Processes that give up being root, and what they make.
fn processes() {
    mkdir(c"open", 0o777);
    must(
        "chmod",
        call!(libc::SYS_fchmodat, libc::AT_FDCWD, c"open".as_ptr(), 0o777),
    );
    mkdir(c"shared", 0o777);
    chown(c"shared", 0, 50, 4);
    must(
        "chmod",
        call!(
            libc::SYS_fchmodat,
            libc::AT_FDCWD,
            c"shared".as_ptr(),
            0o2777
        ),
    );
    create(c"shared/roots", "of root");
    same("in a set-id directory", owner(c"shared/roots", 4), (0, 50));
    mkdir(c"shared/below", 0o755);
    create(c"shared/below/file", "");
    in_child(|| {
        let groups = [50_u32, 55];
        must("setgroups", call!(libc::SYS_setgroups, 2, groups.as_ptr()));
        must("setresgid", call!(libc::SYS_setresgid, 44, 44, 44));
        must("setresuid", call!(libc::SYS_setresuid, 33, 33, 33));
        same("ids", ids(), [[33; 3], [44; 3]]);
        same("getuid", id(libc::SYS_getuid), 33);
        same("geteuid", id(libc::SYS_geteuid), 33);
        same("getgid", id(libc::SYS_getgid), 44);
        same("getegid", id(libc::SYS_getegid), 44);
        let mut found = [0_u32; 8];
        let count = must(
            "getgroups",
            call!(libc::SYS_getgroups, 8, found.as_mut_ptr()),
        );
        same("groups", &found[..count as usize], &groups[..]);
        same("setuid", call!(libc::SYS_setuid, 0), Err(Errno::EPERM));
        same("setgid", call!(libc::SYS_setgid, 0), Err(Errno::EPERM));
        same(
            "setgroups",
            call!(libc::SYS_setgroups, 0, 0),
            Err(Errno::EPERM),
        );
        let node = call!(
            libc::SYS_mknodat,
            libc::AT_FDCWD,
            c"open/none".as_ptr(),
            libc::S_IFCHR | 0o600,
            0x103
        );
        same("mknod", node, Err(Errno::EPERM));
        everything("open", "user");
        everything("shared", "user");
        let name = c"open/user-file".as_ptr();
        let given = call!(libc::SYS_fchownat, libc::AT_FDCWD, name, 34, u32::MAX, 0);
        same("chown to another", given, Err(Errno::EPERM));
        must(
            "chgrp",
            call!(libc::SYS_fchownat, libc::AT_FDCWD, name, u32::MAX, 55, 0),
        );
        same("a group of its own", owner(c"open/user-file", 0), (33, 55));
        let given = call!(libc::SYS_fchownat, libc::AT_FDCWD, name, u32::MAX, 56, 0);
        same("chgrp to another", given, Err(Errno::EPERM));
    });
    in_child(|| {
        must("setreuid", call!(libc::SYS_setreuid, u32::MAX, 40));
        same("setreuid", ids()[0], [0, 40, 40]);
        must("setreuid", call!(libc::SYS_setreuid, 40, 0));
        same("setreuid", ids()[0], [40, 0, 0]);
        must("setregid", call!(libc::SYS_setregid, 41, 41));
        same("setregid", ids()[1], [41, 41, 41]);
        create(c"open/swapped", "");
        same("setfsgid", call!(libc::SYS_setfsgid, 77), Ok(41));
        same("setfsuid", call!(libc::SYS_setfsuid, 78), Ok(0));
        create(c"open/by-fsuid", "");
        same("setfsuid", call!(libc::SYS_setfsuid, 0), Ok(78));
    });
    in_child(|| {
        must(
            "prctl",
            call!(libc::SYS_prctl, libc::PR_SET_KEEPCAPS, 1, 0, 0, 0),
        );
        must("setgid", call!(libc::SYS_setgid, 60));
        must("setuid", call!(libc::SYS_setuid, 61));
        same("ids", ids(), [[61; 3], [60; 3]]);
    });
}

/// Makes a file of each kind that needs no privilege, in each way.
fn everything(directory: &str, name: &str) {
    let at = |kind: &str| path(format!("{directory}/{name}-{kind}"));
    let (cwd, wanted) = (libc::AT_FDCWD, 33);
    // SAFETY: the call takes a number.
    unsafe { libc::umask(0o27) };
    create(&at("file"), "by somebody");
    mkdir(&at("directory"), 0o777);
    must(
        "symlink",
        call!(libc::SYS_symlinkat, c"x".as_ptr(), cwd, at("link").as_ptr()),
    );
    must(
        "fifo",
        call!(
            libc::SYS_mknodat,
            cwd,
            at("fifo").as_ptr(),
            libc::S_IFIFO | 0o666,
            0
        ),
    );
    #[cfg(target_arch = "x86_64")]
    {
        let fd = must("creat", call!(libc::SYS_creat, at("creat").as_ptr(), 0o666));
        close(fd as RawFd);
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
        let fd = must(
            "open",
            call!(libc::SYS_open, at("open").as_ptr(), flags, 0o666),
        );
        close(fd as RawFd);
        let again = call!(libc::SYS_open, at("open").as_ptr(), flags, 0o666);
        same("open of what is there", again, Err(Errno::EEXIST));
        must("mkdir", call!(libc::SYS_mkdir, at("mkdir").as_ptr(), 0o700));
        must(
            "symlink",
            call!(libc::SYS_symlink, c"y".as_ptr(), at("symlink").as_ptr()),
        );
        must(
            "mknod",
            call!(
                libc::SYS_mknod,
                at("mknod").as_ptr(),
                libc::S_IFIFO | 0o600,
                0
            ),
        );
    }
    let mut how = [(libc::O_CREAT | libc::O_WRONLY) as u64, 0o666, 0];
    for resolve in [
        0,
        libc::RESOLVE_BENEATH,
        libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV,
    ] {
        how[2] = resolve;
        let name = at(&format!("openat2-{resolve}"));
        let fd = call!(
            libc::SYS_openat2,
            cwd,
            name.as_ptr(),
            how.as_ptr(),
            size_of_val(&how)
        );
        close(must("openat2", fd) as RawFd);
        same("openat2", owner(&name, 4).0, wanted);
    }
    how[2] = libc::RESOLVE_BENEATH;
    let out = call!(
        libc::SYS_openat2,
        cwd,
        c"../outside".as_ptr(),
        how.as_ptr(),
        size_of_val(&how)
    );
    same("openat2 that leads out", out, Err(Errno::EXDEV));
    let unnamed = open(&path(directory), libc::O_TMPFILE | libc::O_RDWR, 0o640);
    let from = path(format!("/proc/self/fd/{unnamed}"));
    let linked = call!(
        libc::SYS_linkat,
        cwd,
        from.as_ptr(),
        cwd,
        at("tmpfile").as_ptr(),
        libc::AT_SYMLINK_FOLLOW
    );
    must("link of an unnamed file", linked);
    close(unnamed);
    bind(&at("socket"));
    for kind in ["file", "directory", "fifo", "tmpfile", "socket"] {
        // SAFETY: zeroes are a valid value.
        let mut found: libc::stat = unsafe { std::mem::zeroed() };
        must(
            "stat",
            call!(
                libc::SYS_newfstatat,
                cwd,
                at(kind).as_ptr(),
                &raw mut found,
                0
            ),
        );
        same(kind, found.st_uid, wanted);
    }
}

/// Binds a socket to a name, which stays.
fn bind(name: &CStr) {
    let bytes = name.to_bytes_with_nul();
    // SAFETY: zeroes are a valid value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as _;
    for (to, &from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from as c_char;
    }
    let socket = must(
        "socket",
        call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0),
    );
    must(
        "bind",
        call!(libc::SYS_bind, socket, &raw const address, 2 + bytes.len()),
    );
    // SAFETY: zeroes are a valid value.
    let mut told: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&told) as libc::socklen_t;
    must(
        "getsockname",
        call!(
            libc::SYS_getsockname,
            socket,
            &raw mut told,
            &raw mut length
        ),
    );
    same("the name of a socket", told.sun_path, address.sun_path);
    close(socket as RawFd);
}

fn calls() {
    same("ids", ids(), [[0; 3]; 2]);
    same(
        "io_uring",
        call!(libc::SYS_io_uring_setup, 1, 0).is_err(),
        true,
    );
    // SAFETY: the call takes a number.
    unsafe { libc::umask(0o22) };
    processes();
    super::attributes::run();
    deep();
    for thread in 0..4 {
        mkdir(&path(format!("t{thread}")), 0o755);
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || files_of(thread));
        }
    });
}

const NODES: [(&CStr, u32, u64); 4] = [
    (c"dev/disk", libc::S_IFBLK | 0o660, 0x811),
    (c"dev/null", libc::S_IFCHR | 0o666, 0x103),
    (c"dev/many", libc::S_IFCHR | 0o620, 0x1000_0504),
    (c"dev/zero-block", libc::S_IFBLK | 0o600, 0),
];

fn devices() {
    mkdir(c"dev", 0o755);
    // SAFETY: the call takes a number.
    unsafe { libc::umask(0o22) };
    for (at, (name, mode, number)) in NODES.into_iter().enumerate() {
        #[cfg(target_arch = "x86_64")]
        if at % 2 == 0 {
            must("mknod", call!(libc::SYS_mknod, name.as_ptr(), mode, number));
            continue;
        }
        let made = call!(
            libc::SYS_mknodat,
            libc::AT_FDCWD,
            name.as_ptr(),
            mode,
            number
        );
        must(&format!("mknodat {at}"), made);
        let again = call!(
            libc::SYS_mknodat,
            libc::AT_FDCWD,
            name.as_ptr(),
            mode,
            number
        );
        same("mknod of what is there", again, Err(Errno::EEXIST));
    }
    // What overlayfs leaves in place of a removed file.
    let white = call!(
        libc::SYS_mknodat,
        libc::AT_FDCWD,
        c"dev/white".as_ptr(),
        libc::S_IFCHR | 0o600,
        0
    );
    must("mknod 0:0", white);
    chown(c"dev/disk", 0, 6, 4);
    let linked = call!(
        libc::SYS_linkat,
        libc::AT_FDCWD,
        c"dev/disk".as_ptr(),
        libc::AT_FDCWD,
        c"dev/linked".as_ptr(),
        0
    );
    must("link", linked);
}

/// A later program sees what an earlier one made.
fn look() {
    for (name, mode, number) in NODES {
        let found = must("stat", stat_at(name));
        same("type", found.st_mode & libc::S_IFMT, mode & libc::S_IFMT);
        same("number", found.st_rdev, number);
        // As `cp -a` does.
        let copy = path([name.to_bytes(), b"-copy"].concat());
        if name != c"dev/zero-block" {
            let made = call!(
                libc::SYS_mknodat,
                libc::AT_FDCWD,
                copy.as_ptr(),
                found.st_mode,
                found.st_rdev
            );
            must("mknod of a copy", made);
        }
    }
}

fn stat_at(name: &CStr) -> Result<libc::stat, Errno> {
    // SAFETY: zeroes are a valid value.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    call!(
        libc::SYS_newfstatat,
        libc::AT_FDCWD,
        name.as_ptr(),
        &raw mut found,
        0
    )?;
    Ok(found)
}

/// An access control list that names user 42, as its attribute has it: bits of the owner,
/// of that user, of the group, of the mask and of others (`linux/posix_acl_xattr.h`).
pub fn acl(bits: [u16; 5]) -> Vec<u8> {
    const NONE: u32 = u32::MAX;
    let tags = [
        (0x01_u16, NONE),
        (0x02, 42),
        (0x04, NONE),
        (0x10, NONE),
        (0x20, NONE),
    ];
    let entry = |((tag, id), bits): ((u16, u32), u16)| {
        [
            &tag.to_le_bytes()[..],
            &bits.to_le_bytes(),
            &id.to_le_bytes(),
        ]
        .concat()
    };
    let version = 2_u32.to_le_bytes().to_vec();
    std::iter::once(version)
        .chain(tags.into_iter().zip(bits).map(entry))
        .collect::<Vec<_>>()
        .concat()
}
