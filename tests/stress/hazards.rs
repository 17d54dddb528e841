//! Programs in which something happens while a call is answered: signals, other
//! threads that change what it is about, files that get another inode.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use libc::{c_int, c_long};
use nix::errno::Errno;

use super::program::{chown, close, create, mkdir, must, open, owner, path, same};

static DELIVERED: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_signal(_: c_int) {
    DELIVERED.fetch_add(1, Ordering::Relaxed);
}

/// A timer whose handler does not ask for calls to be restarted.
fn start_timer(microseconds: i64) {
    // SAFETY: zeroes are a valid action; the handler only counts.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count_signal as extern "C" fn(c_int) as usize;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        let time = libc::timeval {
            tv_sec: 0,
            tv_usec: microseconds,
        };
        let interval = libc::itimerval {
            it_interval: time,
            it_value: time,
        };
        libc::syscall(
            libc::SYS_setitimer,
            libc::ITIMER_REAL,
            &raw const interval,
            0,
        );
    }
}

/// Calls of all kinds while a timer ticks: none may notice.
pub fn signals() {
    mkdir(c"open", 0o777);
    must(
        "chmod",
        call!(libc::SYS_fchmodat, libc::AT_FDCWD, c"open".as_ptr(), 0o777),
    );
    create(c"there", "");
    must("setresgid", call!(libc::SYS_setresgid, 44, 44, 0));
    must("setresuid", call!(libc::SYS_setresuid, u32::MAX, 33, 0));
    let setting = |name: &str, usual: i64| {
        let given = std::env::var(name).unwrap_or_default();
        given.parse().unwrap_or(usual)
    };
    start_timer(setting("KILN_STRESS_TICK", 300));
    let (cwd, mut calls) = (libc::AT_FDCWD, 0_u64);
    let mut check = |what: &str, result: Result<c_long, Errno>| {
        calls += 1;
        must(what, result)
    };
    let exclusive = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
    // SAFETY: zeroes are a valid value.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    for _ in 0..setting("KILN_STRESS_ROUNDS", 2_500) {
        check(
            "stat",
            call!(
                libc::SYS_newfstatat,
                cwd,
                c"there".as_ptr(),
                &raw mut found,
                0
            ),
        );
        check("geteuid", call!(libc::SYS_geteuid));
        // What is done for such a call must not be done twice.
        check(
            "mkdir",
            call!(libc::SYS_mkdirat, cwd, c"open/d".as_ptr(), 0o755),
        );
        check(
            "stat",
            call!(
                libc::SYS_newfstatat,
                cwd,
                c"open/d".as_ptr(),
                &raw mut found,
                0
            ),
        );
        same("owner", (found.st_uid, found.st_gid), (33, 44));
        must(
            "rmdir",
            call!(
                libc::SYS_unlinkat,
                cwd,
                c"open/d".as_ptr(),
                libc::AT_REMOVEDIR
            ),
        );
        let fd = check(
            "open",
            call!(libc::SYS_openat, cwd, c"open/f".as_ptr(), exclusive, 0o644),
        );
        check("fstat", call!(libc::SYS_fstat, fd, &raw mut found));
        close(fd as RawFd);
        check(
            "chown",
            call!(libc::SYS_fchownat, cwd, c"open/f".as_ptr(), u32::MAX, 44, 0),
        );
        must(
            "unlink",
            call!(libc::SYS_unlinkat, cwd, c"open/f".as_ptr(), 0),
        );
        check(
            "symlink",
            call!(libc::SYS_symlinkat, c"x".as_ptr(), cwd, c"open/s".as_ptr()),
        );
        must(
            "unlink",
            call!(libc::SYS_unlinkat, cwd, c"open/s".as_ptr(), 0),
        );
        check(
            "mknod",
            call!(
                libc::SYS_mknodat,
                cwd,
                c"open/p".as_ptr(),
                libc::S_IFIFO | 0o600,
                0
            ),
        );
        must(
            "unlink",
            call!(libc::SYS_unlinkat, cwd, c"open/p".as_ptr(), 0),
        );
        check("setreuid", call!(libc::SYS_setreuid, u32::MAX, 33));
        check("getgroups", call!(libc::SYS_getgroups, 0, 0));
        let fd = check(
            "open",
            call!(
                libc::SYS_openat,
                cwd,
                c"open/g".as_ptr(),
                libc::O_CREAT | libc::O_RDWR,
                0o600
            ),
        );
        close(fd as RawFd);
    }
    // To wait for the other end of a FIFO is what a signal may end.
    must(
        "mknod",
        call!(
            libc::SYS_mknodat,
            cwd,
            c"open/wait".as_ptr(),
            libc::S_IFIFO | 0o600,
            0
        ),
    );
    let waited = call!(
        libc::SYS_openat,
        cwd,
        c"open/wait".as_ptr(),
        libc::O_CREAT | libc::O_WRONLY,
        0o600
    );
    same("open of a FIFO", waited, Err(Errno::EINTR));
    println!("ok signals {calls} {}", DELIVERED.load(Ordering::Relaxed));
}

/// Files of a lower layer with owners, before and after they are written to.
pub fn overlay() {
    for name in [
        c"lower",
        c"upper",
        c"scratch",
        c"merged",
        c"lower/directory",
    ] {
        mkdir(name, 0o755);
    }
    for (name, owner) in [
        (c"lower/read", 5),
        (c"lower/written", 6),
        (c"lower/given", 7),
        (c"lower/returned", 9),
        (c"lower/directory", 8),
    ] {
        if name != c"lower/directory" {
            create(name, "text");
        }
        chown(name, owner, 50 + owner, 4);
    }
    let here = std::env::current_dir().expect("a directory");
    let here = here.display();
    let options = path(format!(
        "lowerdir={here}/lower,upperdir={here}/upper,workdir={here}/scratch,userxattr"
    ));
    // SAFETY: all strings are terminated.
    let mounted = unsafe {
        libc::unshare(libc::CLONE_NEWNS)
            | libc::mount(
                c"overlay".as_ptr(),
                c"merged".as_ptr(),
                c"overlay".as_ptr(),
                0,
                options.as_ptr().cast(),
            )
    };
    if mounted != 0 {
        return println!("none: {}", Errno::last());
    }
    same("before", owner(c"merged/read", 4), (5, 55));
    // Nobody looked at this one before.
    let fd = open(c"merged/written", libc::O_WRONLY | libc::O_APPEND, 0);
    must("write", call!(libc::SYS_write, fd, c"more".as_ptr(), 4));
    close(fd);
    same("copied up", owner(c"merged/written", 4), (6, 56));
    must(
        "chmod",
        call!(
            libc::SYS_fchmodat,
            libc::AT_FDCWD,
            c"merged/read".as_ptr(),
            0o600
        ),
    );
    same("copied up by chmod", owner(c"merged/read", 3), (5, 55));
    chown(c"merged/given", 9, u32::MAX, 4);
    same("given away", owner(c"merged/given", 4), (9, 57));
    chown(c"merged/returned", 0, 0, 4);
    // After such a call the layers are looked at again.
    let unmounted = call!(libc::SYS_umount2, c"nowhere".as_ptr(), 0);
    same("umount of nothing", unmounted, Err(Errno::ENOENT));
    same("given back", owner(c"merged/returned", 4), (0, 0));
    same("given away still", owner(c"merged/given", 4), (9, 57));
    create(c"merged/new", "");
    same("new", owner(c"merged/new", 4), (0, 0));
    create(c"merged/directory/below", "");
    same("directory", owner(c"merged/directory", 4), (8, 58));
    same("lower", owner(c"lower/given", 4), (7, 57));
    must(
        "rename",
        call!(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            c"merged/read".as_ptr(),
            libc::AT_FDCWD,
            c"merged/moved".as_ptr(),
            0
        ),
    );
    same("moved", owner(c"merged/moved", 4), (5, 55));
    must(
        "umount",
        call!(libc::SYS_umount2, c"merged".as_ptr(), libc::MNT_DETACH),
    );
    println!("ok overlay");
}

static DONE: AtomicBool = AtomicBool::new(false);

/// Threads that change what a call is about while it is made.
pub fn races() {
    for name in [c"inside", c"inside/a", c"inside/b"] {
        mkdir(name, 0o755);
    }
    for name in [c"inside/a/file", c"inside/b/file", c"other"] {
        create(name, "");
    }
    // The text is changed while it is read: either of two names, of which one
    // may be as long as a path can be.
    let text = Box::leak(b"inside/a/file\0".to_vec().into_boxed_slice());
    let (text, place) = (text.as_mut_ptr() as usize, 7);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let names = [b'a', b'b', b'/', 0, b'.'];
            for turn in 0_usize.. {
                if DONE.load(Ordering::Relaxed) {
                    return;
                }
                // SAFETY: the text is never freed; that another thread's system
                // call reads it meanwhile is the point.
                unsafe { ((text + place) as *mut u8).write_volatile(names[turn % names.len()]) };
            }
        });
        scope.spawn(|| {
            let (cwd, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
            while !DONE.load(Ordering::Relaxed) {
                let _ = call!(
                    libc::SYS_renameat2,
                    cwd,
                    c"inside/a".as_ptr(),
                    cwd,
                    c"inside/b".as_ptr(),
                    flags
                );
            }
        });
        let cwd = libc::AT_FDCWD;
        let mut room = [0_u64; 32];
        for round in 0..3_000_u32 {
            let uid = 1 + round % 7;
            let _ = call!(libc::SYS_fchownat, cwd, text, uid, uid, 0);
            let _ = call!(libc::SYS_newfstatat, cwd, text, room.as_mut_ptr(), 0);
            let _ = call!(
                libc::SYS_openat,
                cwd,
                text,
                libc::O_CREAT | libc::O_CLOEXEC,
                0o600
            )
            .map(|fd| close(fd as RawFd));
        }
        DONE.store(true, Ordering::Relaxed);
    });
    same("a file that nobody named", owner(c"other", 4), (0, 0));
    println!("ok races");
}
