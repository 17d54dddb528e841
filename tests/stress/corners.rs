//! What few programs do, and real root of a machine is told all the same: who is at the
//! other end of a socket, what a process may that gave up root, files that are made
//! through links, filesystems that are unmounted after a program had them as root, and
//! roots that another process changes.

use std::ffi::CStr;
use std::io::{Read as _, Write as _};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use libc::c_int;
use nix::errno::Errno;
use nix::sys::socket::SockaddrLike as _;

use super::program::{chown, close, create, in_child, mkdir, must, owner, path, same};

pub fn run() {
    // SAFETY: the call takes a number.
    unsafe { libc::umask(0o22) };
    peers();
    processes();
    capabilities();
    through_links();
    through_own_descriptors();
    slashes_at_the_end();
    set_ids_that_do_not_count();
    wrong_flags();
    lists();
    unmounted();
    pivoted();
    println!("ok corners");
}

/// A link to `/proc/self` leads to the program that asks, whoever looks for it.
fn through_own_descriptors() {
    const NUMBER: c_int = 57;
    create(c"given", "x");
    chown(c"given", 33, 44, 4);
    let file = super::program::open(c"given", libc::O_RDONLY, 0);
    must("dup2", call!(libc::SYS_dup3, file, NUMBER, 0));
    for name in [c"/proc/self/fd/57", c"/dev/fd/57"] {
        same("a descriptor", owner(name, 4), (33, 44));
    }
    let link = call!(
        libc::SYS_symlinkat,
        c"/proc/self/fd/57".as_ptr(),
        libc::AT_FDCWD,
        c"to-descriptor".as_ptr()
    );
    must("symlink", link);
    same("through a link", owner(c"to-descriptor", 4), (33, 44));
    chown(c"to-descriptor", 5, 6, 4);
    same("given through it", owner(c"given", 4), (5, 6));
    for name in [c"given", c"to-descriptor"] {
        let gone = call!(libc::SYS_unlinkat, libc::AT_FDCWD, name.as_ptr(), 0);
        must("unlink", gone);
    }
    close(NUMBER);
    close(file);
}

/// What ends with a slash is a directory, which is neither made as a link nor as a pipe.
fn slashes_at_the_end() {
    mkdir(c"slashes", 0o777);
    chmod(c"slashes", 0o777);
    in_child(|| {
        drop_ids(&[], 33, 33);
        let link = call!(
            libc::SYS_symlinkat,
            c"x".as_ptr(),
            libc::AT_FDCWD,
            c"slashes/a/".as_ptr()
        );
        same("a link", link, Err(Errno::ENOENT));
        let pipe = call!(
            libc::SYS_mknodat,
            libc::AT_FDCWD,
            c"slashes/b/".as_ptr(),
            libc::S_IFIFO | 0o600,
            0
        );
        same("a pipe", pipe, Err(Errno::ENOENT));
    });
}

pub fn chmod(name: &CStr, mode: u32) {
    let at = name.as_ptr();
    must("chmod", call!(libc::SYS_fchmodat, libc::AT_FDCWD, at, mode));
}

pub fn drop_ids(groups: &[u32], gid: u32, uid: u32) {
    must(
        "setgroups",
        call!(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
    );
    must("setresgid", call!(libc::SYS_setresgid, gid, gid, gid));
    must("setresuid", call!(libc::SYS_setresuid, uid, uid, uid));
}

/// Asks a socket for what is said of its other end.
fn option(socket: RawFd, name: c_int, room: &mut [u32]) -> Result<usize, Errno> {
    let mut size = size_of_val(room) as libc::socklen_t;
    call!(
        libc::SYS_getsockopt,
        socket,
        libc::SOL_SOCKET,
        name,
        room.as_mut_ptr(),
        &raw mut size
    )
    .map(|_| size as usize / 4)
}

/// A client that gave up root, as its server sees it.
fn peers() {
    let address = nix::sys::socket::UnixAddr::new("peer").expect("a short name");
    let (family, kind) = (libc::AF_UNIX, libc::SOCK_STREAM);
    let server = must("socket", call!(libc::SYS_socket, family, kind, 0)) as RawFd;
    let (at, length) = (address.as_ptr(), address.len());
    must("bind", call!(libc::SYS_bind, server, at, length));
    chmod(c"peer", 0o777);
    must("listen", call!(libc::SYS_listen, server, 1));
    // SAFETY: one thread, so the child may do anything.
    let client = match unsafe { nix::unistd::fork() }.expect("a child") {
        nix::unistd::ForkResult::Child => {
            drop_ids(&[50, 55], 44, 33);
            let socket = must("socket", call!(libc::SYS_socket, family, kind, 0)) as RawFd;
            must("connect", call!(libc::SYS_connect, socket, at, length));
            let mut seen = [0_u32; 3];
            same(
                "server",
                option(socket, libc::SO_PEERCRED, &mut seen),
                Ok(3),
            );
            same("ids of the server", [seen[1], seen[2]], [0, 0]);
            let mut byte = 0_u8;
            must("read", call!(libc::SYS_read, socket, &raw mut byte, 1));
            std::process::exit(0)
        }
        nix::unistd::ForkResult::Parent { child } => child,
    };
    let nowhere = std::ptr::null_mut::<u8>();
    let socket = must(
        "accept",
        call!(libc::SYS_accept4, server, nowhere, nowhere, 0),
    ) as RawFd;
    let mut seen = [0_u32; 3];
    same(
        "client",
        option(socket, libc::SO_PEERCRED, &mut seen),
        Ok(3),
    );
    same("ids of the client", seen, [client.as_raw() as u32, 33, 44]);
    let mut short = [0_u32; 2];
    same(
        "less room",
        option(socket, libc::SO_PEERCRED, &mut short),
        Ok(2),
    );
    same("as much as there is", short[1], 33);
    let mut groups = [0_u32; 4];
    let peergroups = libc::SO_PEERGROUPS;
    same("groups", option(socket, peergroups, &mut groups), Ok(2));
    same("groups of the client", groups, [50, 55, 0, 0]);
    let little = option(socket, peergroups, &mut groups[..1]);
    same("too little room", little, Err(Errno::ERANGE));
    must("write", call!(libc::SYS_write, socket, c"x".as_ptr(), 1));
    let status = nix::sys::wait::waitpid(client, None).expect("it ends");
    same(
        "client",
        status,
        nix::sys::wait::WaitStatus::Exited(client, 0),
    );
    close(socket);
    close(server);
    must(
        "unlink",
        call!(libc::SYS_unlinkat, libc::AT_FDCWD, c"peer".as_ptr(), 0),
    );
}

/// Owner and group of a process, as `start-stop-daemon` and `find` find them out.
fn owner_of_process(pid: nix::unistd::Pid) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt as _;
    let path = format!("/proc/{pid}");
    let found = std::fs::metadata(&path).expect("it is there");
    let numbers = (found.uid(), found.gid());
    // By the name of the directory's entry too, as by those who read `/proc`.
    let proc = std::fs::File::open("/proc").expect("it is there");
    let name = std::ffi::CString::new(pid.to_string()).expect("no zero");
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    let entry = nix::sys::stat::fstatat(&proc, name.as_c_str(), flags).expect("it is there");
    same("entry", (entry.st_uid, entry.st_gid), numbers);
    numbers
}

/// Whose processes are.
fn processes() {
    same("root's", owner_of_process(nix::unistd::getpid()), (0, 0));
    in_child(|| {
        drop_ids(&[], 44, 33);
        let own = nix::unistd::getpid();
        same("its own", owner_of_process(own), (33, 44));
        same(
            "its parent's",
            owner_of_process(nix::unistd::getppid()),
            (0, 0),
        );
        // Only root may look into a process that gave up ids, until it says otherwise.
        must(
            "prctl",
            call!(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0),
        );
        for file in ["status", "fd", "fd/0", "environ", "net"] {
            use std::os::unix::fs::MetadataExt as _;
            let found = std::fs::symlink_metadata(format!("/proc/self/{file}"))
                .unwrap_or_else(|error| panic!("/proc/self/{file}: {error}"));
            same(file, (found.uid(), found.gid()), (33, 44));
        }
    });
}

/// Version 3 of the structures, and a process: the calling one.
const HEADER: [u32; 2] = [0x2008_0522, 0];

pub fn capget() -> [u32; 6] {
    let mut sets = [7_u32; 6];
    let header = HEADER;
    must(
        "capget",
        call!(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()),
    );
    sets
}

pub fn capset(sets: [u32; 6]) -> Result<libc::c_long, Errno> {
    let header = HEADER;
    call!(libc::SYS_capset, header.as_ptr(), sets.as_ptr())
}

fn capabilities() {
    let all = capget();
    same("root has some", all[0] != 0 && all[1] == all[0], true);
    in_child(|| {
        must(
            "setresuid",
            call!(libc::SYS_setresuid, u32::MAX, 33, u32::MAX),
        );
        let now = capget();
        same("none is effective", (now[0], now[3]), (0, 0));
        same("all are permitted", (now[1], now[4]), (all[1], all[4]));
        drop_for_good();
        same("none", capget(), [0; 6]);
        same("capset", capset([1, 1, 0, 0, 0, 0]), Err(Errno::EPERM));
        same("capset", capset([0, 1, 0, 0, 0, 0]), Err(Errno::EPERM));
        same("capset of none", capset([0; 6]), Ok(0));
    });
}

/// From an effective id that is not root's.
fn drop_for_good() {
    must(
        "setresuid",
        call!(libc::SYS_setresuid, u32::MAX, 0, u32::MAX),
    );
    must("setresuid", call!(libc::SYS_setresuid, 33, 33, 33));
}

/// Files that are made where a link leads, by somebody who is not root.
fn through_links() {
    mkdir(c"links", 0o777);
    chmod(c"links", 0o777);
    mkdir(c"links/group", 0o777);
    chown(c"links/group", 0, 50, 4);
    chmod(c"links/group", 0o2777);
    let link = |text: &CStr, name: &CStr| {
        let cwd = libc::AT_FDCWD;
        must(
            "symlink",
            call!(libc::SYS_symlinkat, text.as_ptr(), cwd, name.as_ptr()),
        );
    };
    in_child(|| {
        drop_ids(&[], 44, 33);
        link(c"made", c"links/one");
        link(c"one", c"links/two");
        link(c"group/../group/made", c"links/three");
        link(c"nowhere/made", c"links/four");
        link(c"five", c"links/five");
        let flags = libc::O_CREAT | libc::O_WRONLY;
        let try_open = |name: &CStr, flags: c_int| {
            let made = call!(
                libc::SYS_openat,
                libc::AT_FDCWD,
                name.as_ptr(),
                flags,
                0o644
            );
            made.map(|fd| close(fd as RawFd))
        };
        let exclusive = try_open(c"links/two", flags | libc::O_EXCL);
        same("exclusively", exclusive, Err(Errno::EEXIST));
        let itself = try_open(c"links/two", flags | libc::O_NOFOLLOW);
        same("not followed", itself, Err(Errno::ELOOP));
        same("followed", try_open(c"links/two", flags), Ok(()));
        same("owner", owner(c"links/made", 4), (33, 44));
        same("again", try_open(c"links/two", flags), Ok(()));
        same("into a group", try_open(c"links/three", flags), Ok(()));
        same("owner", owner(c"links/group/made", 4), (33, 50));
        same(
            "nowhere",
            try_open(c"links/four", flags),
            Err(Errno::ENOENT),
        );
        same(
            "to itself",
            try_open(c"links/five", flags),
            Err(Errno::ELOOP),
        );
    });
}

/// A set-id program of somebody else, with and without `no_new_privs`.
fn set_ids_that_do_not_count() {
    std::fs::copy("/usr/bin/id", "id").expect("copied");
    chown(c"id", 66, 77, 4);
    chmod(c"id", 0o6755);
    for (sealed, expected) in [(false, "66"), (true, "0")] {
        let mut command = Command::new("./id");
        command.arg("-u");
        if sealed {
            let seal = || nix::sys::prctl::set_no_new_privs().map_err(std::io::Error::from);
            // SAFETY: the closure makes one system call.
            unsafe { command.pre_exec(seal) };
        }
        let said = command.output().expect("it runs").stdout;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        same("who it runs as", said.as_str(), expected);
    }
    std::fs::remove_file("id").expect("ours");
}

/// Calls that are wrong, about files of which there is something to tell.
fn wrong_flags() {
    create(c"flags", "");
    chown(c"flags", 5, 6, 4);
    let (cwd, at, wrong) = (libc::AT_FDCWD, c"flags".as_ptr(), 0x8000);
    let given = call!(libc::SYS_fchownat, cwd, at, 7, 8, wrong);
    same("chown with a flag that is none", given, Err(Errno::EINVAL));
    // SAFETY: zeroes are a valid value.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    let told = call!(libc::SYS_newfstatat, cwd, at, &raw mut found, wrong);
    same("stat with a flag that is none", told, Err(Errno::EINVAL));
    same("owner", owner(c"flags", 4), (5, 6));
}

/// What is made in a directory that gives a list with an id to it.
fn lists() {
    mkdir(c"lists", 0o755);
    let acl = super::program::acl([7, 7, 5, 7, 5]);
    let (at, size) = (c"lists".as_ptr(), acl.len());
    let name = c"system.posix_acl_default".as_ptr();
    match call!(libc::SYS_setxattr, at, name, acl.as_ptr(), size, 0) {
        Err(Errno::EOPNOTSUPP) => return,
        result => drop(must("setxattr", result)),
    }
    // SAFETY: the call takes a number.
    unsafe { libc::umask(0o77) };
    create(c"lists/file", "");
    mkdir(c"lists/directory", 0o750);
    create(c"lists/directory/file", "");
    let (cwd, fifo) = (libc::AT_FDCWD, c"lists/fifo".as_ptr());
    let kind = libc::S_IFIFO | 0o666;
    must("fifo", call!(libc::SYS_mknodat, cwd, fifo, kind, 0));
    let link = c"lists/link".as_ptr();
    must("symlink", call!(libc::SYS_symlinkat, at, cwd, link));
    chmod(c"lists", 0o777);
    in_child(|| {
        drop_ids(&[], 45, 34);
        create(c"lists/users", "");
    });
    // SAFETY: as above.
    unsafe { libc::umask(0o22) };
    for (name, mode) in [
        ("lists/file", 0o644),
        ("lists/directory", 0o750),
        ("lists/directory/file", 0o644),
        ("lists/fifo", 0o664),
        ("lists/users", 0o644),
    ] {
        use std::os::unix::fs::MetadataExt as _;
        let found = std::fs::metadata(name).expect("there");
        same(name, found.mode() & 0o7777, mode);
    }
    let mut room = [0_u8; 64];
    let (file, access) = (c"lists/file".as_ptr(), c"system.posix_acl_access".as_ptr());
    let (into, room_size) = (room.as_mut_ptr(), room.len());
    let count = call!(libc::SYS_getxattr, file, access, into, room_size);
    same("a list as long", count, Ok(size as libc::c_long));
    same(
        "a mask as the mode",
        &room[4 + 3 * 8..][..4],
        &[0x10, 0, 4, 0],
    );
}

/// A filesystem is unmounted after a program had its root there.
fn unmounted() {
    mkdir(c"mounted", 0o755);
    in_child(|| {
        must("unshare", call!(libc::SYS_unshare, libc::CLONE_NEWNS));
        let (kind, at, none) = (c"tmpfs".as_ptr(), c"mounted".as_ptr(), 0);
        for round in 0..4 {
            let mounted = call!(libc::SYS_mount, kind, at, kind, none, none);
            must("mount", mounted);
            in_child(|| {
                must("chroot", call!(libc::SYS_chroot, at));
                must("chdir", call!(libc::SYS_chdir, c"/".as_ptr()));
                create(c"/file", "");
                chown(c"/file", 0, 0, round);
                // Recorded in all modes.
                let (file, name) = (c"/file".as_ptr(), c"trusted.kiln".as_ptr());
                let set = call!(libc::SYS_setxattr, file, name, c"x".as_ptr(), 1, 0);
                must("setxattr", set);
            });
            let gone = call!(libc::SYS_umount2, at, none);
            must("umount", gone);
        }
    });
}

/// A process that looks at a file whenever it is asked, with the root that it has then.
struct Watcher {
    process: libc::pid_t,
    line: UnixStream,
}

impl Watcher {
    fn start(file: &CStr) -> Watcher {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        // SAFETY: this process has one thread here.
        match unsafe { libc::fork() } {
            0 => {
                drop(ours);
                let mut asked = [0];
                while theirs.read(&mut asked).is_ok_and(|count| count > 0) {
                    let (uid, gid) = owner(file, usize::from(asked[0]));
                    let told = [uid.to_ne_bytes(), gid.to_ne_bytes()].concat();
                    theirs.write_all(&told).expect("somebody listens");
                }
                std::process::exit(0)
            }
            process => Watcher {
                process,
                line: ours,
            },
        }
    }

    /// Whose the file is for it.
    fn owner(&mut self, way: u8) -> (u32, u32) {
        self.line.write_all(&[way]).expect("it listens");
        let (mut uid, mut gid) = ([0; 4], [0; 4]);
        self.line.read_exact(&mut uid).expect("it answers");
        self.line.read_exact(&mut gid).expect("it answers");
        (u32::from_ne_bytes(uid), u32::from_ne_bytes(gid))
    }

    fn end(self) {
        drop(self.line);
        let mut status = 0;
        // SAFETY: a child of ours, and room for its status.
        unsafe { libc::waitpid(self.process, &raw mut status, 0) };
        same("the status of who watches", status, 0);
    }
}

/// Others get another root by `pivot_root` of one, unless their mounts are others. The file
/// has the same name, and another owner, below both.
fn pivoted() {
    const BELOW_OLD: (u32, u32) = (5, 6);
    const BELOW_NEW: (u32, u32) = (7, 8);
    let here = std::env::current_dir().expect("a directory");
    let file = path(here.join("twin").to_string_lossy().into_owned());
    create(&file, "old");
    chown(&file, BELOW_OLD.0, BELOW_OLD.1, 4);
    mkdir(c"pivoted", 0o755);
    let mut elsewhere = Watcher::start(&file);
    in_child(|| {
        must("unshare", call!(libc::SYS_unshare, libc::CLONE_NEWNS));
        let (kind, at, old) = (c"tmpfs".as_ptr(), c"pivoted".as_ptr(), c"pivoted/old");
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let root = c"/".as_ptr();
        must(
            "private",
            call!(libc::SYS_mount, kind, root, kind, private, 0),
        );
        must("mount", call!(libc::SYS_mount, kind, at, kind, 0, 0));
        mkdir(old, 0o755);
        let below = format!("pivoted/{}", here.display());
        std::fs::create_dir_all(&below).expect("made");
        let twin = path(format!("{below}/twin"));
        create(&twin, "new");
        chown(&twin, BELOW_NEW.0, BELOW_NEW.1, 4);
        let mut beside = Watcher::start(&file);
        for way in 0..4 {
            same("before, beside", beside.owner(way), BELOW_OLD);
        }
        let pivot = call!(libc::SYS_pivot_root, at, old.as_ptr());
        must("pivot_root", pivot);
        // The supervisor was in the old root when it looked last, and so this one is now.
        in_child(|| {
            must("chroot", call!(libc::SYS_chroot, c"/old".as_ptr()));
            for way in 0..4 {
                same("in the old root", owner(&file, way), BELOW_OLD);
            }
        });
        for way in 0..4 {
            same("after, beside", beside.owner(way), BELOW_NEW);
            same("after, elsewhere", elsewhere.owner(way), BELOW_OLD);
            same("after", owner(&file, usize::from(way)), BELOW_NEW);
            same("again, beside", beside.owner(way), BELOW_NEW);
        }
        beside.end();
    });
    elsewhere.end();
}
