//! Calls that ask for what cannot be, or for what few ask: real root is told the same.

use std::ffi::CStr;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

use libc::{c_int, c_long};
use nix::errno::Errno;

use super::corners::{capget, capset, chmod, drop_ids};
use super::program::{chown, close, create, ids, in_child, mkdir, must, open, owner, path, same};

pub fn run() {
    // SAFETY: the call takes a number.
    unsafe { libc::umask(0o22) };
    descriptors();
    directories();
    ways_to_open();
    lists();
    interpreters();
    mounts_without_set_ids();
    mounts_of_others();
    kept_capabilities();
    secure_bits();
    numbers_of_processes();
    namespaces();
    roots();
    #[cfg(target_pointer_width = "64")]
    messages();
    println!("ok answers");
}

/// A descriptor that is none, and one that is a mere name.
fn descriptors() {
    create(c"descriptors", "");
    chown(c"descriptors", 5, 6, 4);
    let name = c"trusted.kiln".as_ptr();
    let at = c"descriptors".as_ptr();
    let value = c"x".as_ptr();
    must("setxattr", call!(libc::SYS_setxattr, at, name, value, 1, 0));
    let mut room = [0_u8; 1024];
    let into = room.as_mut_ptr();
    let mere = open(c"descriptors", libc::O_PATH, 0);
    let size = room.len();
    for fd in [-1, 1000, mere] {
        let bad = Err(Errno::EBADF);
        same("fchown", call!(libc::SYS_fchown, fd, 7, 8), bad);
        same("fchmod", call!(libc::SYS_fchmod, fd, 0o600), bad);
        let set = call!(libc::SYS_fsetxattr, fd, name, value, 1, 0);
        same("fsetxattr", set, bad);
        let get = call!(libc::SYS_fgetxattr, fd, name, into, size);
        same("fgetxattr", get, bad);
        let list = call!(libc::SYS_flistxattr, fd, into, size);
        same("flistxattr", list, bad);
        same("fremovexattr", call!(libc::SYS_fremovexattr, fd, name), bad);
        let times = call!(libc::SYS_utimensat, fd, 0, 0, 0);
        same("futimens", times, bad);
        if fd == mere {
            continue;
        }
        same("fstat", call!(libc::SYS_fstat, fd, into), bad);
        let (none, empty) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
        let found = call!(libc::SYS_newfstatat, fd, none, into, empty);
        same("fstatat", found, bad);
        let found = call!(libc::SYS_statx, fd, none, empty, 0, into);
        same("statx", found, bad);
        for path in [c"", c"x", c"x/y"] {
            let given = call!(libc::SYS_fchownat, fd, path.as_ptr(), 7, 8, empty);
            same("fchownat", given, bad);
        }
    }
    close(mere);
    let file = open(c"descriptors", libc::O_RDONLY, 0);
    let given = call!(libc::SYS_fchownat, file, c"x".as_ptr(), 7, 8, 0);
    same("in what is no directory", given, Err(Errno::ENOTDIR));
    close(file);
    // For requests to drivers alone, which is not the same as a mere name.
    let neither = open(c"descriptors", 3, 0);
    must("fchown", call!(libc::SYS_fchown, neither, 7, 8));
    close(neither);
    same("owner", owner(c"descriptors", 4), (7, 8));
}

/// Paths from the root, for which no directory matters.
fn directories() {
    mkdir(c"directories", 0o755);
    chmod(c"directories", 0o777);
    let here = std::env::current_dir().expect("it is there");
    let full = |name: &str| path([here.as_os_str().as_bytes(), name.as_bytes()].concat());
    for fd in [-1, 1000] {
        let made = full(&format!("/directories/{fd}"));
        in_child(|| {
            drop_ids(&[], 45, 34);
            let result = call!(libc::SYS_mkdirat, fd, made.as_ptr(), 0o755);
            must("mkdirat", result);
        });
        same("owner", owner(&made, 4), (34, 45));
        let given = call!(libc::SYS_fchownat, fd, made.as_ptr(), 35, 46, 0);
        must("fchownat", given);
        same("owner", owner(&made, 4), (35, 46));
        let none = full("/directories/none");
        let given = call!(libc::SYS_fchownat, fd, none.as_ptr(), 35, 46, 0);
        same("of none", given, Err(Errno::ENOENT));
    }
}

/// `openat2` with what it does not take, and what is told of descriptors of new files.
fn ways_to_open() {
    mkdir(c"ways", 0o755);
    chmod(c"ways", 0o777);
    let creates = (libc::O_CREAT | libc::O_WRONLY) as u64;
    let open2 = |name: &CStr, how: &[u64]| {
        let (at, size) = (how.as_ptr(), size_of_val(how));
        call!(libc::SYS_openat2, libc::AT_FDCWD, name.as_ptr(), at, size)
            .map(|fd| close(fd as RawFd))
    };
    let both = libc::RESOLVE_BENEATH | libc::RESOLVE_IN_ROOT;
    let unnamed = libc::O_TMPFILE as u64;
    let wrong = [
        &[creates, 0o10644, 0][..],
        &[creates, 0o644 | 1 << 32, 0],
        &[creates | 1 << 30, 0o644, 0],
        &[creates, 0o644, 1 << 40],
        &[creates, 0o644, both],
        &[creates, 0o644, libc::RESOLVE_CACHED],
        &[creates, 0o644],
        &[creates, 0o644, 0, 1],
        &[creates, 0o644, 0, 0, 7 << 56],
        &[unnamed, 0o644, 0],
    ];
    // The kernel's answers, since what root makes is left to it.
    let answers = wrong.map(|how| open2(c"ways/none", how));
    same("refused", answers.iter().all(Result::is_err), true);
    in_child(|| {
        drop_ids(&[], 45, 34);
        for (how, expected) in wrong.into_iter().zip(answers) {
            same("openat2", open2(c"ways/none", how), expected);
        }
        let longer = [creates, 0o644, 0, 0, 0];
        same("openat2", open2(c"ways/longer", &longer), Ok(()));
        let flags = |fd: RawFd| must("fcntl", call!(libc::SYS_fcntl, fd, libc::F_GETFL));
        let how = libc::O_WRONLY | libc::O_APPEND;
        let new = open(c"ways/new", how | libc::O_CREAT, 0o644);
        let old = open(c"ways/new", how, 0);
        same("flags", flags(new), flags(old));
        close(new);
        close(old);
        let how = libc::O_RDWR | libc::O_NOFOLLOW;
        let new = open(c"ways/newer", how | libc::O_CREAT, 0o644);
        let old = open(c"ways/newer", how, 0);
        same("flags", flags(new), flags(old));
        close(new);
        close(old);
    });
    same("owner", owner(c"ways/longer", 4), (34, 45));
}

/// An access control list of these entries: tag, bits and id.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(bits.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

/// Lists that are none, and some that are odd.
fn lists() {
    const NO: u32 = u32::MAX;
    const OWNER: (u16, u16, u32) = (1, 7, NO);
    const USER: (u16, u16, u32) = (2, 6, 42);
    const TEAM: (u16, u16, u32) = (4, 5, NO);
    const GROUP: (u16, u16, u32) = (8, 6, 43);
    const MASK: (u16, u16, u32) = (16, 6, NO);
    const OTHER: (u16, u16, u32) = (32, 0, NO);
    create(c"listed", "");
    mkdir(c"listed.d", 0o755);
    let (access, default) = (c"system.posix_acl_access", c"system.posix_acl_default");
    let set = |file: &CStr, name: &CStr, list: &[u8], flags: c_int| {
        let (file, name) = (file.as_ptr(), name.as_ptr());
        call!(
            libc::SYS_lsetxattr,
            file,
            name,
            list.as_ptr(),
            list.len(),
            flags
        )
    };
    let get = |file: &CStr, name: &CStr| {
        let mut room = [0_u8; 256];
        let (file, name) = (file.as_ptr(), name.as_ptr());
        let into = room.as_mut_ptr();
        let count = call!(libc::SYS_lgetxattr, file, name, into, room.len())?;
        Ok(room[..count as usize].to_vec())
    };
    let full = list(&[OWNER, USER, TEAM, GROUP, MASK, OTHER]);
    match set(c"listed", access, &full, 0) {
        Err(Errno::EOPNOTSUPP) => return,
        result => must("setxattr", result),
    };
    let mut other_version = full.clone();
    other_version[0] = 3;
    same(
        "of another version",
        set(c"listed", access, &other_version, 0),
        Err(Errno::EOPNOTSUPP),
    );
    let cut = &full[..full.len() - 3];
    same("cut", set(c"listed", access, cut, 0), Err(Errno::EINVAL));
    for wrong in [
        // No mask, which names need.
        &[OWNER, USER, TEAM, OTHER][..],
        &[OWNER, TEAM, GROUP, OTHER],
        // Without one that must be there.
        &[USER, TEAM, MASK, OTHER],
        &[OWNER, USER, MASK, OTHER],
        &[OWNER, USER, TEAM, MASK],
        &[OWNER, USER],
        // In another order, or twice.
        &[USER, OWNER, TEAM, MASK, OTHER],
        &[OWNER, USER, TEAM, MASK, GROUP, OTHER],
        &[OWNER, USER, TEAM, MASK, MASK, OTHER],
        &[OWNER, USER, TEAM, MASK, OTHER, OTHER],
        // No such entries, rights and ids.
        &[OWNER, USER, (64, 7, NO), TEAM, MASK, OTHER],
        &[OWNER, (2, 8, 42), TEAM, MASK, OTHER],
        &[OWNER, (2, 7, NO), TEAM, MASK, OTHER],
        &[OWNER, USER, TEAM, (8, 7, NO), MASK, OTHER],
    ] {
        for (file, name) in [(c"listed", access), (c"listed.d", default)] {
            let result = set(file, name, &list(wrong), 0);
            same(&format!("{wrong:?}"), result, Err(Errno::EINVAL));
        }
    }
    same("as before", get(c"listed", access), Ok(full.clone()));
    let mode = || {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata("listed").expect("it is there").mode() & 0o7777
    };
    same("the mask", mode(), 0o760);
    // Whether there is one already does not matter for lists.
    must("again", set(c"listed", access, &full, libc::XATTR_CREATE));
    let least = list(&[OWNER, TEAM, (32, 1, NO)]);
    must(
        "as a mode",
        set(c"listed", access, &least, libc::XATTR_REPLACE),
    );
    same("mode", mode(), 0o751);
    same("no list", get(c"listed", access), Err(Errno::ENODATA));
    // A mask alone makes a list of it.
    let masked = list(&[OWNER, TEAM, MASK, OTHER]);
    must("with a mask", set(c"listed", access, &masked, 0));
    same("mode", mode(), 0o760);
    same("a list", get(c"listed", access), Ok(masked));
    must("gone", set(c"listed", access, &list(&[]), 0));
    same("no list", get(c"listed", access), Err(Errno::ENODATA));
    // Others twice: it is not looked at.
    let twice = list(&[OWNER, USER, USER, TEAM, MASK, OTHER]);
    must("twice", set(c"listed", access, &twice, 0));
    same(
        "of no directory",
        set(c"listed", default, &full, 0),
        Err(Errno::EACCES),
    );
    let link = call!(
        libc::SYS_symlinkat,
        c"x".as_ptr(),
        libc::AT_FDCWD,
        c"listed.l".as_ptr()
    );
    must("symlink", link);
    same(
        "of a link",
        set(c"listed.l", access, &full, 0),
        Err(Errno::EOPNOTSUPP),
    );
    for (name, expected) in [
        (c"trusted.", Errno::EINVAL),
        (c"system.kiln", Errno::EOPNOTSUPP),
        (c"kiln", Errno::EOPNOTSUPP),
    ] {
        same("name", set(c"listed", name, b"x", 0), Err(expected));
    }
    let flagged = set(c"listed", c"trusted.kiln", b"x", 8);
    same("a flag that is none", flagged, Err(Errno::EINVAL));
    let flagged = set(c"listed", access, &full, 8);
    same("a flag that is none", flagged, Err(Errno::EINVAL));
    chown(c"listed", 34, 45, 4);
    in_child(|| {
        drop_ids(&[], 45, 34);
        must("the owner's", set(c"listed", access, &full, 0));
        let none = list(&[]);
        must("the owner's", set(c"listed", access, &none, 0));
        must("the owner's", set(c"listed", access, &full, 0));
        let others = set(c"listed.d", access, &full, 0);
        same("another's", others, Err(Errno::EPERM));
    });
    same("list", get(c"listed", access), Ok(full));
}

/// Runs a script whose interpreter makes `run/made`; who owns that.
fn maker(script: &str) -> (u32, u32) {
    // It cannot touch the script too, and says so.
    let output = Command::new(script).output();
    same("it runs", output.is_ok(), true);
    let made = owner(c"run/made", 4);
    std::fs::remove_file("run/made").expect("it was made");
    made
}

/// Set-id bits of what a script is run by count, and those of the script do not.
fn interpreters() {
    let here = std::env::current_dir().expect("it is there");
    let further = format!("#!{}/script\n", here.display());
    mkdir(c"run", 0o755);
    chmod(c"run", 0o777);
    for name in [c"run/touch", c"run/set-touch"] {
        let copy = std::path::Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        std::fs::copy("/bin/touch", copy).expect("copied");
    }
    chown(c"run/set-touch", 66, 77, 4);
    chmod(c"run/set-touch", 0o6755);
    for (name, text) in [
        ("script", "#! run/set-touch run/made\n"),
        ("further", &further),
        ("plain", "#!run/touch\trun/made"),
    ] {
        std::fs::write(name, text).expect("written");
        chmod(&path(name), 0o755);
    }
    chown(c"plain", 66, 77, 4);
    chmod(c"plain", 0o6755);
    same("a script", maker("./script"), (66, 77));
    same("a script's script", maker("./further"), (66, 77));
    same("set-id bits of a script", maker("./plain"), (0, 0));
    std::fs::remove_dir_all("run").expect("ours");
    // It has the name of the directory, which is another one in each mode.
    std::fs::remove_file("further").expect("ours");
}

/// Nor do those of files on a mount that says so.
fn mounts_without_set_ids() {
    mkdir(c"mount", 0o755);
    in_child(|| {
        must("unshare", call!(libc::SYS_unshare, libc::CLONE_NEWNS));
        let (kind, at) = (c"tmpfs".as_ptr(), c"mount".as_ptr());
        for (flags, expected) in [(0, "66"), (libc::MS_NOSUID, "0")] {
            must("mount", call!(libc::SYS_mount, kind, at, kind, flags, 0));
            std::fs::copy("/usr/bin/id", "mount/id").expect("copied");
            chown(c"mount/id", 66, 77, 4);
            chmod(c"mount/id", 0o6755);
            let told = Command::new("mount/id").arg("-u").output();
            let told = told.expect("it runs").stdout;
            let told = String::from_utf8_lossy(&told).trim().to_owned();
            same("who it runs as", told.as_str(), expected);
            must("umount", call!(libc::SYS_umount2, at, 0));
        }
    });
}

/// Filesystems whose options name ids, from memory that may be written and that may not.
fn mounts_of_others() {
    const SET_STRING: c_int = 1;
    in_child(|| {
        must("unshare", call!(libc::SYS_unshare, libc::CLONE_NEWNS));
        let at = c"mount".as_ptr();
        let written = std::ffi::CString::new("size=1m,uid=33,gid=44").expect("no zero");
        for (kind, options) in [
            (c"tmpfs", written.as_c_str()),
            (c"tmpfs", c"uid=33,mode=700"),
            (c"devpts", c"newinstance,gid=5,mode=620"),
        ] {
            let (kind, options) = (kind.as_ptr(), options.as_ptr());
            must("mount", call!(libc::SYS_mount, kind, at, kind, 0, options));
            must("umount", call!(libc::SYS_umount2, at, 0));
        }
        let opened = call!(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0);
        must("fsopen", opened);
        let context = opened.unwrap_or(-1);
        for (name, value) in [(c"uid", c"33"), (c"gid", c"44"), (c"size", c"33")] {
            let (name, value) = (name.as_ptr(), value.as_ptr());
            let set = call!(libc::SYS_fsconfig, context, SET_STRING, name, value, 0);
            must("fsconfig", set);
        }
        let wrong = call!(
            libc::SYS_fsconfig,
            context,
            SET_STRING,
            c"uid".as_ptr(),
            c"nobody".as_ptr(),
            0
        );
        same("a name", wrong, Err(Errno::EINVAL));
    });
}

fn option(option: c_int, value: c_long) -> Result<c_long, Errno> {
    call!(libc::SYS_prctl, option, value, 0, 0, 0)
}

fn set_groups() -> Result<c_long, Errno> {
    call!(libc::SYS_setgroups, 0, 0)
}

/// Capabilities that outlive uid 0 are there, but have to be made effective.
fn kept_capabilities() {
    let all = capget();
    in_child(|| {
        must("prctl", option(libc::PR_SET_KEEPCAPS, 1));
        must("setresuid", call!(libc::SYS_setresuid, 34, 34, 34));
        let now = capget();
        same("none is effective", (now[0], now[3]), (0, 0));
        same("all are permitted", (now[1], now[4]), (all[1], all[4]));
        same("setgroups", set_groups(), Err(Errno::EPERM));
        same("setuid", call!(libc::SYS_setuid, 0), Err(Errno::EPERM));
        must("capset", capset(all));
        same("as before", capget(), all);
        must("setgroups", set_groups());
        must("setresgid", call!(libc::SYS_setresgid, 45, 45, 45));
        same("ids", ids(), [[34; 3], [45; 3]]);
        // Each part by itself: what is not effective, and what is no more permitted.
        must("capset", capset([0, all[1], 0, 0, all[4], 0]));
        same("setgroups", set_groups(), Err(Errno::EPERM));
        must("capset", capset(all));
        must("capset", capset([0; 6]));
        same("none", capget(), [0; 6]);
        same("capset", capset(all), Err(Errno::EPERM));
    });
    in_child(|| {
        must("capset", capset([0; 6]));
        same("setgroups", set_groups(), Err(Errno::EPERM));
        same("setuid", call!(libc::SYS_setuid, 34), Err(Errno::EPERM));
    });
    in_child(|| {
        // They do not outlive the start of another program.
        must("prctl", option(libc::PR_SET_KEEPCAPS, 1));
        must("setresuid", call!(libc::SYS_setresuid, 34, 34, 34));
        must("capset", capset(all));
        let told = Command::new("setpriv")
            .arg("--clear-groups")
            .arg("true")
            .output();
        if let Ok(told) = told {
            same("setgroups", told.status.success(), false);
        }
    });
}

/// `PR_SET_SECUREBITS`, and options that take privileges.
fn secure_bits() {
    const KEEP: c_long = 1 << 4;
    const NO_FIXUP: c_long = 1 << 2;
    let all = capget();
    in_child(|| {
        must("prctl", option(libc::PR_SET_SECUREBITS, KEEP));
        same("kept", option(libc::PR_GET_KEEPCAPS, 0), Ok(1));
        must("prctl", option(libc::PR_SET_SECUREBITS, KEEP | KEEP << 1));
        same(
            "locked",
            option(libc::PR_SET_KEEPCAPS, 0),
            Err(Errno::EPERM),
        );
        same(
            "locked",
            option(libc::PR_SET_SECUREBITS, 0),
            Err(Errno::EPERM),
        );
        same(
            "bits",
            option(libc::PR_GET_SECUREBITS, 0),
            Ok(KEEP | KEEP << 1),
        );
        must("setresuid", call!(libc::SYS_setresuid, 34, 34, 34));
        same("all are permitted", capget()[1], all[1]);
    });
    in_child(|| {
        let unknown = option(libc::PR_SET_SECUREBITS, 1 << 20);
        same("unknown", unknown, Err(Errno::EPERM));
        must("prctl", option(libc::PR_SET_SECUREBITS, NO_FIXUP));
        must("setresuid", call!(libc::SYS_setresuid, 34, 34, 34));
        same("nothing is lost", capget(), all);
        must("setgroups", set_groups());
    });
    in_child(|| {
        drop_ids(&[], 45, 34);
        let bits = option(libc::PR_SET_SECUREBITS, KEEP);
        same("bits", bits, Err(Errno::EPERM));
        let dropped = option(libc::PR_CAPBSET_DROP, 5);
        same("bound", dropped, Err(Errno::EPERM));
    });
}

/// A process asks for its own capabilities by its number, which is another one here.
fn numbers_of_processes() {
    in_child(|| {
        if call!(libc::SYS_unshare, libc::CLONE_NEWPID).is_err() {
            return;
        }
        in_child(|| {
            drop_ids(&[], 45, 34);
            let header = [0x2008_0522_u32, 1];
            let mut sets = [7_u32; 6];
            let asked = call!(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr());
            must("capget", asked);
            same("none", sets, [0; 6]);
        });
    });
}

/// In a namespace that knows no ids, everybody is nobody.
fn namespaces() {
    in_child(|| {
        if call!(libc::SYS_unshare, libc::CLONE_NEWUSER).is_ok() {
            same("ids", ids(), [[65534; 3]; 2]);
        }
    });
}

/// A name leads to a file of the root that its program has now, also where other programs,
/// and this one before, named files of another root. The tree tells what was made where.
fn roots() {
    let here = std::env::current_dir().expect("it is there");
    // Not there outside, where a wrong root would lead.
    mkdir(c"roots", 0o755);
    mkdir(c"roots/kiln-root", 0o755);
    let node = |name: &str, minor: u32| {
        let (name, kind) = (path(name), libc::S_IFBLK | 0o600);
        let number = libc::makedev(7, minor);
        let at = libc::AT_FDCWD;
        let made = call!(libc::SYS_mknodat, at, name.as_ptr(), kind, number);
        must("mknod", made);
    };
    let mark = |name: &str| {
        let (name, attribute) = (path(name), c"trusted.kiln".as_ptr());
        let value = c"x".as_ptr();
        let set = call!(libc::SYS_setxattr, name.as_ptr(), attribute, value, 1, 0);
        must("setxattr", set);
    };
    let outside = |name: &str| format!("{}/roots/kiln-root/{name}", here.display());
    node(&outside("before"), 1);
    in_child(|| {
        node(&outside("still"), 2);
        // SAFETY: the path is terminated.
        let changed = Errno::result(unsafe { libc::chroot(c"roots".as_ptr()) });
        must("chroot", changed.map(c_long::from));
        node("/kiln-root/inside", 3);
        create(c"/kiln-root/marked", "");
        mark("/kiln-root/marked");
    });
    node(&outside("after"), 4);
    mark(&outside("marked"));
}

/// Gives shared memory, semaphores and messages to somebody.
#[cfg(target_pointer_width = "64")]
fn messages() {
    // Where owner and mode are in `struct ipc64_perm`.
    let give = |bytes: &mut [u8; 256]| {
        bytes[4..8].copy_from_slice(&34_u32.to_ne_bytes());
        bytes[8..12].copy_from_slice(&45_u32.to_ne_bytes());
        bytes[20..22].copy_from_slice(&0o640_u16.to_ne_bytes());
    };
    let mode = |bytes: &[u8; 256]| u16::from_ne_bytes([bytes[20], bytes[21]]) & 0o777;
    for (get, control, semaphores) in [
        (libc::SYS_shmget, libc::SYS_shmctl, false),
        (libc::SYS_msgget, libc::SYS_msgctl, false),
        (libc::SYS_semget, libc::SYS_semctl, true),
    ] {
        let flags = c_long::from(libc::IPC_CREAT | 0o600);
        let (second, third) = if get == libc::SYS_msgget {
            (flags, 0)
        } else {
            (1, flags)
        };
        let id = must("get", call!(get, libc::IPC_PRIVATE, second, third));
        let mut state = [0_u8; 256];
        let ask = |command: c_int, state: *mut u8| {
            if semaphores {
                call!(control, id, 0, command, state)
            } else {
                call!(control, id, command, state)
            }
        };
        must("stat", ask(libc::IPC_STAT, state.as_mut_ptr()));
        give(&mut state);
        must("set", ask(libc::IPC_SET, state.as_mut_ptr()));
        state = [0; 256];
        must("stat", ask(libc::IPC_STAT, state.as_mut_ptr()));
        same("mode", mode(&state), 0o640);
        must("remove", ask(libc::IPC_RMID, std::ptr::null_mut()));
    }
}
