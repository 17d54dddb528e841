//! A program that has a root of its own, and names files outside of it in all ways
//! that `/proc` offers.

use std::os::fd::{AsRawFd as _, RawFd};

use libc::{c_char, c_long};
use nix::errno::Errno;

use super::program::{close, create, mkdir, must, open, path, same};

/// `system.posix_acl_access` that grants everything to user 7, which the kernel refuses
/// where that is not mapped: a version, then tag, permissions and id of each entry.
const ACL: [u32; 11] = [
    2,
    0x0007_0001,
    u32::MAX,
    0x0007_0002,
    7,
    0x0007_0004,
    u32::MAX,
    0x0007_0010,
    u32::MAX,
    0x0007_0020,
    u32::MAX,
];

/// The calls that are answered, about a file and about a name that is not there.
fn attack(directory: RawFd, prefix: &str, out: &str) {
    let inside = path(format!("{prefix}{out}/made"));
    let there = path(format!("{prefix}{out}/there"));
    let (new, old) = (inside.as_ptr(), there.as_ptr());
    let made = [
        call!(libc::SYS_mkdirat, directory, new, 0o777),
        call!(libc::SYS_symlinkat, c"x".as_ptr(), directory, new),
        call!(libc::SYS_mknodat, directory, new, libc::S_IFIFO | 0o666, 0),
        call!(
            libc::SYS_mknodat,
            directory,
            new,
            libc::S_IFCHR | 0o666,
            0x103
        ),
    ];
    for result in made {
        assert!(result.is_err(), "{prefix} led out");
    }
    let mut opened = vec![
        call!(
            libc::SYS_openat,
            directory,
            new,
            libc::O_CREAT | libc::O_RDWR,
            0o666
        ),
        call!(
            libc::SYS_openat,
            directory,
            old,
            libc::O_CREAT | libc::O_RDWR,
            0o666
        ),
    ];
    let whole = path(format!("{prefix}{out}"));
    let unnamed = libc::O_TMPFILE | libc::O_RDWR;
    opened.push(call!(
        libc::SYS_openat,
        directory,
        whole.as_ptr(),
        unnamed,
        0o666
    ));
    for resolve in [0, libc::RESOLVE_NO_XDEV] {
        let how = [(libc::O_CREAT | libc::O_RDWR) as u64, 0o666, resolve];
        opened.push(call!(
            libc::SYS_openat2,
            directory,
            new,
            how.as_ptr(),
            size_of_val(&how)
        ));
    }
    for result in opened {
        assert!(result.is_err(), "{prefix} was opened");
    }
    let changed = [
        call!(libc::SYS_fchownat, directory, old, 33, 33, 0),
        call!(libc::SYS_fchownat, directory, old, 0, 0, 0),
    ];
    for result in changed {
        assert!(result.is_err(), "{prefix} was given away");
    }
    // SAFETY: zeroes are a valid value of both.
    let (mut stat, mut statx): (libc::stat, libc::statx) = unsafe { std::mem::zeroed() };
    let seen = [
        call!(libc::SYS_newfstatat, directory, old, &raw mut stat, 0),
        call!(libc::SYS_statx, directory, old, 0, 0xfff, &raw mut statx),
    ];
    for result in seen {
        assert!(result.is_err(), "{prefix} was seen");
    }
    if directory == libc::AT_FDCWD {
        let (name, value, size) = (c"system.posix_acl_access", ACL.as_ptr(), size_of_val(&ACL));
        let set = call!(libc::SYS_setxattr, old, name.as_ptr(), value, size, 0);
        assert!(set.is_err(), "{prefix} got an access control list");
        let name = c"trusted.kiln";
        let set = call!(libc::SYS_setxattr, old, name.as_ptr(), value, size, 0);
        assert!(set.is_err(), "{prefix} got an attribute");
        bind(&inside, prefix);
    }
}

fn bind(name: &std::ffi::CStr, prefix: &str) {
    // SAFETY: zeroes are a valid value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as _;
    let bytes = name.to_bytes_with_nul();
    if bytes.len() > address.sun_path.len() {
        return;
    }
    for (to, &from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from as c_char;
    }
    let socket = must(
        "socket",
        call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0),
    );
    let bound = call!(libc::SYS_bind, socket, &raw const address, 2 + bytes.len());
    assert!(bound.is_err(), "{prefix} was bound");
    close(socket as RawFd);
}

/// What programs do with links of `/proc` that are their own.
fn own_links() {
    mkdir(c"/own", 0o777);
    let mode = call!(libc::SYS_fchmodat, libc::AT_FDCWD, c"/own".as_ptr(), 0o777);
    must("chmod", mode);
    create(c"/own/file", "");
    let file = open(c"/own/file", libc::O_RDWR, 0);
    let directory = open(c"/own", libc::O_RDONLY | libc::O_DIRECTORY, 0);
    let owner = |name: &str| -> Result<(u32, u32), Errno> {
        // SAFETY: zeroes are a valid value.
        let mut found: libc::stat = unsafe { std::mem::zeroed() };
        let name = path(name);
        call!(
            libc::SYS_newfstatat,
            libc::AT_FDCWD,
            name.as_ptr(),
            &raw mut found,
            0
        )
        .map(|_| (found.st_uid, found.st_gid))
    };
    let this = std::process::id();
    let ways = [
        format!("/proc/self/fd/{file}"),
        format!("/proc/thread-self/fd/{file}"),
        format!("/proc/{this}/fd/{file}"),
        format!("/proc/{this}/task/{this}/fd/{file}"),
        format!("/dev/fd/{file}"),
        format!("/link-to-self/fd/{file}"),
        format!("/proc/self/fd/{directory}/file"),
        format!("/proc/self/fd/{directory}/../own/file"),
        "/proc/self/root/own/file".to_owned(),
        "/proc/self/cwd/own/file".to_owned(),
        "/proc/self/../self/root/../../own/file".to_owned(),
    ];
    for (way, uid) in ways.iter().zip(100..) {
        let name = path(way.as_str());
        let result = call!(
            libc::SYS_fchownat,
            libc::AT_FDCWD,
            name.as_ptr(),
            uid,
            uid,
            0
        );
        must(&format!("chown {way}"), result);
        same(way, owner(way), Ok((uid, uid)));
        same("the file itself", owner("/own/file"), Ok((uid, uid)));
        let flags = libc::O_CREAT | libc::O_RDWR;
        let fd = call!(
            libc::SYS_openat,
            libc::AT_FDCWD,
            name.as_ptr(),
            flags,
            0o600
        );
        close(must(&format!("open {way}"), fd) as RawFd);
    }
    for way in [
        format!("/proc/self/fd/{directory}/new-by-descriptor"),
        "/proc/self/root/own/new-by-root".to_owned(),
    ] {
        must("setresuid", call!(libc::SYS_setresuid, u32::MAX, 33, 0));
        let name = path(way.as_str());
        let made = call!(libc::SYS_mkdirat, libc::AT_FDCWD, name.as_ptr(), 0o700);
        must(&format!("mkdir {way}"), made);
        same(&way, owner(&way).map(|owner| owner.0), Ok(33));
        must("setresuid", call!(libc::SYS_setresuid, u32::MAX, 0, 0));
    }
    close(file);
    close(directory);
}

/// Gives up `CAP_SYS_PTRACE`, as programs inside a target have: with it the kernel
/// itself lets a program look into the keeper.
fn drop_tracing() {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_SYS_PTRACE: u32 = 19;
    let header = [VERSION_3, 0];
    let mut sets = [0_u32; 6];
    must(
        "capget",
        call!(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()),
    );
    for set in &mut sets[..3] {
        *set &= !(1 << CAP_SYS_PTRACE);
    }
    must(
        "capset",
        call!(libc::SYS_capset, header.as_ptr(), sets.as_ptr()),
    );
}

pub fn run() {
    let out = std::env::current_dir().expect("a directory").join("out");
    mkdir(c"out", 0o777);
    create(c"out/there", "of the host");
    super::program::chown(c"out/there", 5, 6, 4);
    let keeper = nix::unistd::getppid();
    // SAFETY: flags alone.
    must(
        "unshare",
        Errno::result(unsafe { libc::unshare(libc::CLONE_NEWNS) }),
    );
    for name in [c"jail", c"jail/proc", c"jail/dev"] {
        mkdir(name, 0o755);
    }
    // SAFETY: both are terminated.
    let mounted = unsafe {
        libc::mount(
            c"/proc".as_ptr(),
            c"jail/proc".as_ptr(),
            std::ptr::null(),
            libc::MS_BIND | libc::MS_REC,
            std::ptr::null(),
        )
    };
    must("mount", Errno::result(mounted));
    // What a name leads to changes with the root, also for one that was just looked up.
    create(c"jail/twin", "of the jail");
    super::program::chown(c"jail/twin", 7, 8, 4);
    let outside = nix::sys::stat::stat(c"/twin").map(|found| found.st_ino);
    same("the twin outside", outside, Err(Errno::ENOENT));
    // The number of this process as its `/proc` has it.
    same(
        "numbers",
        std::fs::read_link("/proc/self").ok(),
        Some(std::process::id().to_string().into()),
    );
    must(
        "chroot",
        // SAFETY: the path is terminated.
        Errno::result(unsafe { libc::chroot(c"jail".as_ptr()) }).map(i64::from),
    );
    must("chdir", call!(libc::SYS_chdir, c"/".as_ptr()));
    for way in 0..4 {
        same(
            "the twin inside",
            super::program::owner(c"/twin", way),
            (7, 8),
        );
    }
    let links = [
        ("/dev/fd", "/proc/self/fd".to_owned()),
        ("/link-to-self", "/proc/self".to_owned()),
        ("/to-self", "/proc/self/root".to_owned()),
        ("/to-thread", "proc/thread-self/root".to_owned()),
        ("/to-parent", "/proc/self/../..".to_owned()),
        ("/to-keeper", format!("/proc/{keeper}/root")),
    ];
    for (name, text) in links {
        let (name, text) = (path(name), path(text));
        must(
            "symlink",
            call!(
                libc::SYS_symlinkat,
                text.as_ptr(),
                libc::AT_FDCWD,
                name.as_ptr()
            ),
        );
    }
    drop_tracing();
    own_links();
    let mut prefixes: Vec<String> = [
        "/proc/self/../..",
        "/proc/self/fd/../../..",
        "/proc/thread-self/../../../..",
        "/proc/self/task/../../..",
        "/proc/./self/root",
        "//proc//self//root",
        "/proc/self/root",
        "/proc/self/root/../..",
        "/proc/self/cwd/../../..",
        "/proc/thread-self/root",
        "/proc/self/ns/../../..",
        "/dev/fd/../../../..",
        "/dev/fd/../root",
        "/dev/../proc/self/root/..",
        "/to-self",
        "/to-thread",
        "/to-parent",
        "/to-keeper",
        "/link-to-self/root",
        "/link-to-self/../../..",
    ]
    .map(str::to_owned)
    .to_vec();
    for process in [keeper.to_string(), format!("{keeper}/task/{keeper}")] {
        prefixes.extend([
            format!("/proc/{process}/root"),
            format!("/proc/{process}/cwd/../../../../../../.."),
        ]);
    }
    for fd in 0..16 {
        prefixes.push(format!("/proc/{keeper}/fd/{fd}"));
        prefixes.push(format!("/proc/{keeper}/fd/{fd}/../../../../../../.."));
    }
    must("setresgid", call!(libc::SYS_setresgid, 33, 33, 0));
    must("setresuid", call!(libc::SYS_setresuid, u32::MAX, 33, 0));
    let out = out.to_str().expect("a plain name");
    for prefix in &prefixes {
        attack(libc::AT_FDCWD, prefix, out);
    }
    // As root for those that only it may make.
    must("setresuid", call!(libc::SYS_setresuid, u32::MAX, 0, 0));
    for prefix in &prefixes {
        attack(libc::AT_FDCWD, prefix, out);
    }
    must("setresuid", call!(libc::SYS_setresuid, u32::MAX, 33, 0));
    let starts = [
        ("/proc/self", "../..".to_owned()),
        ("/proc/self", "root".to_owned()),
        ("/proc/self/fd", "../../..".to_owned()),
        ("/proc", "self/../..".to_owned()),
        ("/proc", "self/root".to_owned()),
        ("/proc", format!("{keeper}/root")),
        ("/", "proc/self/../..".to_owned()),
        ("/", "to-self".to_owned()),
    ];
    for (start, prefix) in &starts {
        let directory = std::fs::File::open(start).expect("it is there");
        attack(directory.as_raw_fd(), prefix, out);
        std::env::set_current_dir(start).expect("it is there");
        attack(libc::AT_FDCWD, prefix, out);
    }
    let count: c_long = (2 * prefixes.len() + 2 * starts.len()) as c_long;
    println!("ok escapes {count}");
}
