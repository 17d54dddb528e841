//! Hosts that restrict what runs on them: the rules of container runtimes and of
//! locked-down kernels, set up for one command.
//!
//! What only root can set up (masks over `/proc`, other users) needs root; the
//! command itself then runs as whoever the host says.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use caps::{CapSet, Capability, CapsHashSet};
use libc::{c_long, sock_filter};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};

use super::filter::{RETURN, docker_filter, load, refusing, statement};
use super::toy::Toy;

/// A user that no system has.
pub const USER: u32 = 47_113;
/// What it is called where it has a name.
pub const USER_NAME: &str = "kilnhost";

/// What a default container of podman has (`CapEff: 00000000800405fb`).
pub const PODMAN: [Capability; 11] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SETFCAP,
];

/// What a default container of Docker has (`CapEff: 00000000a80425fb`): more than
/// podman's.
pub const DOCKER: [Capability; 14] = {
    let mut all = [Capability::CAP_AUDIT_WRITE; 14];
    all[0] = Capability::CAP_NET_RAW;
    all[1] = Capability::CAP_MKNOD;
    let mut at = 0;
    while at < PODMAN.len() {
        all[at + 2] = PODMAN[at];
        at += 1;
    }
    all
};

/// Paths that runtimes hide, files by `/dev/null` and directories by nothing at all.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Paths that runtimes make read-only.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// One restriction.
#[derive(Debug, Clone)]
enum Step {
    Mask,
    Cover(PathBuf, PathBuf),
    Memory(PathBuf, &'static str, MsFlags, String),
    ReadOnlyRoot(Vec<PathBuf>),
    OwnFilesOnly(PathBuf),
    Stacked(PathBuf),
    Join(PathBuf),
    Filter(Vec<sock_filter>),
    Listener,
    Keep(Vec<Capability>),
    NoNewPrivileges,
    Become(u32),
    /// A user namespace; with all ids of this one, or with a single one.
    Nest(bool),
    NestFully,
    NoMoreNamespaces,
    /// A user namespace without ids.
    WithoutIds,
    Umask(u32),
}

/// A host, as a list of restrictions in the order in which they are made.
#[derive(Debug, Clone, Default)]
pub struct Host {
    steps: Vec<Step>,
}

impl Host {
    /// This host as it is.
    pub fn new() -> Host {
        Host::default()
    }

    fn with(mut self, step: Step) -> Host {
        self.steps.push(step);
        self
    }

    /// Parts of `/proc` and `/sys` are hidden and read-only, as in a container.
    pub fn masked(self) -> Host {
        self.with(Step::Mask)
    }

    /// One file is seen in the place of another.
    pub fn cover(self, path: impl Into<PathBuf>, with: impl Into<PathBuf>) -> Host {
        self.with(Step::Cover(path.into(), with.into()))
    }

    /// A filesystem in memory lies on a directory.
    pub fn memory(self, path: impl Into<PathBuf>, flags: MsFlags, options: &str) -> Host {
        self.with(Step::Memory(
            path.into(),
            "tmpfs",
            flags,
            options.to_owned(),
        ))
    }

    /// A filesystem without times of birth, attributes and sizes lies on a directory.
    pub fn plain_filesystem(self, path: impl Into<PathBuf>) -> Host {
        self.with(Step::Memory(
            path.into(),
            "ramfs",
            MsFlags::empty(),
            "mode=0777".to_owned(),
        ))
    }

    /// A directory lies on as many overlays as the kernel puts on top of each other, as
    /// in a container inside of a container: no other can have it below.
    pub fn stacked(self, path: impl Into<PathBuf>) -> Host {
        self.with(Step::Stacked(path.into()))
    }

    /// Version 2 of control groups, and nothing else, is on a directory.
    pub fn control_groups(self, path: impl Into<PathBuf>) -> Host {
        self.with(Step::Memory(
            path.into(),
            "cgroup2",
            MsFlags::empty(),
            String::new(),
        ))
    }

    /// Everything is read-only but for these directories.
    pub fn read_only(self, writable: &[PathBuf]) -> Host {
        self.with(Step::ReadOnlyRoot(writable.to_vec()))
    }

    /// The command is in a control group that is given to its user.
    pub fn delegated(self, group: &ControlGroup) -> Host {
        self.with(Step::Join(group.joined.clone()))
    }

    /// A filter of system calls.
    pub fn load(self, program: Vec<sock_filter>) -> Host {
        self.with(Step::Filter(program))
    }

    /// Docker's default filter for a container with these capabilities.
    pub fn docker_filter(self, capabilities: &[Capability]) -> Host {
        self.with(Step::Filter(docker_filter(capabilities)))
    }

    /// What podman's and CRI-O's default filter refuses to a container with these
    /// capabilities, but without `SYS_ADMIN`.
    pub fn podman_filter(self, capabilities: &[Capability]) -> Host {
        let mut calls = vec![
            libc::SYS_bpf,
            libc::SYS_fanotify_init,
            libc::SYS_perf_event_open,
            libc::SYS_quotactl,
            libc::SYS_setdomainname,
            libc::SYS_sethostname,
            libc::SYS_open_by_handle_at,
            libc::SYS_kexec_load,
            libc::SYS_userfaultfd,
        ];
        if !capabilities.contains(&Capability::CAP_SYS_CHROOT) {
            calls.push(libc::SYS_chroot);
        }
        self.refuse(&calls, libc::EPERM)
    }

    /// A default container of podman, run by root.
    pub fn podman() -> Host {
        Host::new()
            .masked()
            .podman_filter(&PODMAN)
            .capabilities(&PODMAN)
    }

    /// These calls fail with an error.
    pub fn refuse(self, calls: &[c_long], errno: i32) -> Host {
        self.with(Step::Filter(refusing(calls, errno)))
    }

    /// A filesystem on a directory whose files cannot be given to anybody but [`USER`].
    pub fn own_files_only(self, path: impl Into<PathBuf>) -> Host {
        self.with(Step::OwnFilesOnly(path.into()))
    }

    /// Another program answers system calls already.
    pub fn answered_by_another(self) -> Host {
        self.with(Step::Listener)
    }

    /// Only these capabilities are left.
    pub fn capabilities(self, kept: &[Capability]) -> Host {
        self.with(Step::Keep(kept.to_vec()))
    }

    /// `no_new_privs` is set.
    pub fn no_new_privileges(self) -> Host {
        self.with(Step::NoNewPrivileges)
    }

    /// The command runs as another user.
    pub fn user(self, uid: u32) -> Host {
        self.with(Step::Become(uid))
    }

    /// In a user namespace with all ids of this one.
    pub fn nested(self) -> Host {
        self.with(Step::Nest(true))
    }

    /// As root of a user namespace with a single id.
    pub fn nested_with_one_id(self) -> Host {
        self.with(Step::Nest(false))
    }

    /// In as many user namespaces as the kernel allows.
    pub fn nested_fully(self) -> Host {
        self.with(Step::NestFully)
    }

    /// `user.max_user_namespaces` is 0, in the namespace made before.
    pub fn no_more_namespaces(self) -> Host {
        self.with(Step::NoMoreNamespaces)
    }

    /// In a user namespace that gives nobody an id.
    pub fn without_ids(self) -> Host {
        self.with(Step::WithoutIds)
    }

    /// New files lack these bits.
    pub fn umask(self, mask: u32) -> Host {
        self.with(Step::Umask(mask))
    }

    /// A default container of Docker, run by root.
    pub fn docker() -> Host {
        Host::new()
            .masked()
            .docker_filter(&DOCKER)
            .capabilities(&DOCKER)
    }

    /// The command as it runs on this host.
    pub fn confine(&self, command: &mut Command) {
        let steps = self.steps.clone();
        // SAFETY: the C library makes memory usable after a fork, and nothing else
        // of this process is touched.
        unsafe { command.pre_exec(move || apply(&steps)) };
    }

    /// `kiln build toy` on this host. The files of the world belong to its user.
    pub fn build(&self, toy: &Toy, arguments: &str) -> super::toy::Built {
        super::toy::Built::run(self.command(toy, arguments).arg("--json"))
    }

    /// The command that [`Host::build`] runs.
    pub fn command(&self, toy: &Toy, arguments: &str) -> Command {
        let (program, host) = self.prepared(toy);
        let mut command = toy.command_of(&program, arguments);
        host.confine(&mut command);
        command
    }

    /// `kiln` with these words on this host.
    pub fn kiln(&self, toy: &Toy, words: &str) -> super::Outcome {
        let (program, host) = self.prepared(toy);
        let mut command = toy.world.command(program);
        host.confine(&mut command);
        super::Run::words(&mut command, words)
    }

    /// Where the program is for the host's user, who may not reach where it was built.
    fn prepared(&self, toy: &Toy) -> (PathBuf, Host) {
        let top = toy.world.work().parent().expect("it has one").to_owned();
        let user = self.steps.iter().find_map(|step| match step {
            Step::Become(uid) => Some(*uid),
            _ => None,
        });
        if !nix::unistd::geteuid().is_root() {
            return (super::kiln().to_owned(), self.clone());
        }
        let program = top.join("kiln-of-the-host");
        std::fs::write(&program, "").expect("a file can be made");
        let mut host = Host::new().cover(&program, super::kiln());
        host.steps.extend(self.steps.iter().cloned());
        if let Some(uid) = user {
            give(&top, uid);
        }
        (program, host)
    }
}

/// Gives a tree to a user.
fn give(path: &Path, uid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid)).expect("root may");
    if path.is_symlink() || !path.is_dir() {
        return;
    }
    for entry in std::fs::read_dir(path).expect("it can be read") {
        give(&entry.expect("it can be read").path(), uid);
    }
}

fn apply(steps: &[Step]) -> io::Result<()> {
    // Mounts are made in a namespace of our own, that of the user namespace we are in.
    let mut private_mounts = false;
    for step in steps {
        let mounts = matches!(
            step,
            Step::Mask
                | Step::Cover(..)
                | Step::Memory(..)
                | Step::ReadOnlyRoot(_)
                | Step::Stacked(_)
                | Step::OwnFilesOnly(_)
        );
        let result = if mounts && !private_mounts {
            private_mounts = true;
            private().and_then(|()| one(step))
        } else {
            one(step)
        };
        if matches!(step, Step::Nest(_) | Step::NestFully) {
            private_mounts = false;
        }
        if let Err(error) = result {
            // Only the number gets to whoever starts the command.
            eprintln!("{step:?}: {error}");
            return Err(error);
        }
    }
    Ok(())
}

const NONE: Option<&str> = None;

fn private() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    Ok(mount(NONE, "/", NONE, flags, NONE)?)
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    Ok(mount(Some(from), to, NONE, flags, NONE)?)
}

fn read_only(path: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    Ok(mount(NONE, path, NONE, flags, NONE)?)
}

fn one(step: &Step) -> io::Result<()> {
    match step {
        Step::Mask => mask(),
        Step::Cover(path, with) => bind(with, path),
        Step::Memory(path, kind, flags, options) => Ok(mount(
            Some("memory"),
            path,
            Some(*kind),
            *flags,
            Some(options.as_str()).filter(|options| !options.is_empty()),
        )?),
        Step::ReadOnlyRoot(writable) => {
            for path in writable {
                bind(path, path)?;
            }
            read_only(Path::new("/"))
        }
        Step::Stacked(path) => stack(path),
        Step::OwnFilesOnly(path) => own_files_only(path),
        Step::Join(group) => std::fs::write(group.join("cgroup.procs"), "0"),
        Step::Filter(program) => load(program, 0),
        Step::Listener => {
            let allow = [statement(RETURN, libc::SECCOMP_RET_ALLOW)];
            // Stays open in the command: a listener that is gone hinders nobody.
            load(&allow, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)
        }
        Step::Keep(kept) => keep(kept),
        Step::NoNewPrivileges => Ok(nix::sys::prctl::set_no_new_privs()?),
        Step::Become(uid) => {
            let (user, group) = (Uid::from_raw(*uid), Gid::from_raw(*uid));
            nix::unistd::setgroups(&[])?;
            nix::unistd::setresgid(group, group, group)?;
            nix::unistd::setresuid(user, user, user)?;
            // For the files of this process in /proc.
            Ok(nix::sys::prctl::set_dumpable(true)?)
        }
        Step::Nest(all) => nest(*all),
        Step::NestFully => {
            while nest(false).is_ok() {}
            Ok(())
        }
        Step::WithoutIds => Ok(unshare(CloneFlags::CLONE_NEWUSER)?),
        Step::Umask(mask) => {
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(*mask));
            Ok(())
        }
        Step::NoMoreNamespaces => std::fs::write("/proc/sys/user/max_user_namespaces", "0"),
    }
}

/// A control group that counts memory and belongs to [`USER`]. Only root can make one.
#[derive(Debug)]
pub struct ControlGroup {
    top: PathBuf,
    joined: PathBuf,
}

impl ControlGroup {
    /// Fails where no hierarchy with memory can be written to.
    pub fn new() -> io::Result<ControlGroup> {
        let text = std::fs::read_to_string("/proc/self/cgroup")?;
        let path_of = |wanted: &str| {
            text.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let found = fields.next()?.split(',').any(|name| name == wanted);
                found.then(|| fields.next().map(|path| path.trim_start_matches('/')))?
            })
        };
        let name = format!("kiln-hosts-{}", std::process::id());
        let (top, second) = match path_of("memory") {
            Some(own) => (
                Path::new("/sys/fs/cgroup/memory").join(own).join(name),
                false,
            ),
            // Version 2 knows only groups with processes and groups with limits.
            None => (Path::new("/sys/fs/cgroup").join(name), true),
        };
        std::fs::create_dir(&top)?;
        let group = ControlGroup {
            joined: if second {
                top.join("inner")
            } else {
                top.clone()
            },
            top,
        };
        if second {
            std::fs::write(group.top.join("cgroup.subtree_control"), "+memory +pids")?;
            std::fs::create_dir(&group.joined)?;
        }
        give(&group.top, USER);
        Ok(group)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // The last process may not be gone for good yet.
        for _ in 0..100 {
            let _ = std::fs::remove_dir(&self.joined);
            let _ = std::fs::remove_dir(&self.top);
            if !self.top.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Mounts a filesystem in memory as one that knows [`USER`] only: `EOVERFLOW` is what
/// the kernel gives where a server of NFS gives `EPERM`.
fn own_files_only(path: &Path) -> io::Result<()> {
    // What belongs to somebody without a number there cannot be written.
    let options = format!("mode=0777,uid={USER},gid={USER}");
    let (kind, options) = (Some("tmpfs"), Some(options.as_str()));
    mount(Some("memory"), path, kind, MsFlags::empty(), options)?;
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let ids = user_namespace_of_one()?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(ids.as_raw_fd()).expect("a descriptor"),
    };
    let checked = |result: c_long| match i32::try_from(result) {
        Ok(result @ 0..) => Ok(result),
        _ => Err(io::Error::last_os_error()),
    };
    let (here, empty) = (libc::AT_FDCWD, c"".as_ptr());
    // SAFETY: the strings and the structure live across the calls.
    unsafe {
        let flags = libc::OPEN_TREE_CLONE;
        let tree = checked(libc::syscall(
            libc::SYS_open_tree,
            here,
            path.as_ptr(),
            flags,
        ))?;
        checked(libc::syscall(
            libc::SYS_mount_setattr,
            tree,
            empty,
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        ))?;
        let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
        let to = path.as_ptr();
        checked(libc::syscall(
            libc::SYS_move_mount,
            tree,
            empty,
            here,
            to,
            flags,
        ))?;
        libc::close(tree);
    }
    Ok(())
}

/// A user namespace in which [`USER`] has its own number and nobody else has one.
fn user_namespace_of_one() -> io::Result<std::fs::File> {
    let (ready, tell_ready) = nix::unistd::pipe()?;
    // SAFETY: this process has one thread.
    let child = match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            let made = unshare(CloneFlags::CLONE_NEWUSER).is_ok();
            let _ = nix::unistd::write(&tell_ready, &[u8::from(made)]);
            drop(tell_ready);
            loop {
                nix::unistd::pause();
            }
        }
        nix::unistd::ForkResult::Parent { child } => child,
    };
    let open = || -> io::Result<std::fs::File> {
        nix::unistd::read(&ready, &mut [0])?;
        for name in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{child}/{name}"), format!("{USER} {USER} 1"))?;
        }
        std::fs::File::open(format!("/proc/{child}/ns/user"))
    };
    let namespace = open();
    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL)?;
    nix::sys::wait::waitpid(child, None)?;
    namespace
}

/// Whether this kernel and this root can make [`Host::own_files_only`].
pub fn mounts_can_be_mapped(toy: &Toy) -> bool {
    let mut command = Command::new("true");
    Host::new()
        .own_files_only(toy.world.tmp())
        .confine(&mut command);
    command.output().is_ok_and(|output| output.status.success())
}

/// Twice, which is `FILESYSTEM_MAX_STACK_DEPTH`.
fn stack(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let open = std::fs::Permissions::from_mode(0o777);
    mount(
        Some("memory"),
        path,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0777"),
    )?;
    std::fs::create_dir(path.join("top0"))?;
    for level in [1, 2] {
        let [upper, work, top] =
            ["upper", "work", "top"].map(|name| path.join(format!("{name}{level}")));
        for directory in [&upper, &work, &top] {
            std::fs::create_dir(directory)?;
            std::fs::set_permissions(directory, open.clone())?;
        }
        let lower = path.join(format!("top{}", level - 1));
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        mount(
            Some("overlay"),
            &top,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )?;
    }
    bind(&path.join("top2"), path)
}

fn mask() -> io::Result<()> {
    for path in READ_ONLY.map(Path::new) {
        if path.exists() {
            bind(path, path)?;
            read_only(path)?;
        }
    }
    for path in MASKED.map(Path::new) {
        if path.is_dir() {
            let flags = MsFlags::MS_RDONLY;
            mount(Some("masked"), path, Some("tmpfs"), flags, Some("size=0k"))?;
        } else if path.exists() {
            bind(Path::new("/dev/null"), path)?;
        }
    }
    read_only_if_possible(Path::new("/sys"));
    Ok(())
}

fn read_only_if_possible(path: &Path) {
    let _ = bind(path, path);
    let _ = read_only(path);
}

fn keep(kept: &[Capability]) -> io::Result<()> {
    let failed = |error: caps::errors::CapsError| io::Error::other(error.to_string());
    let had = caps::read(None, CapSet::Permitted).map_err(failed)?;
    let left: CapsHashSet = had.into_iter().filter(|one| kept.contains(one)).collect();
    for capability in caps::read(None, CapSet::Bounding).map_err(failed)? {
        if !kept.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability).map_err(failed)?;
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    caps::clear(None, CapSet::Inheritable).map_err(failed)?;
    caps::set(None, CapSet::Effective, &left).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &left).map_err(failed)
}

/// Enters a new user namespace as its root.
fn nest(all: bool) -> io::Result<()> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let maps = |name: &str, own: u32| -> io::Result<String> {
        if !all {
            return Ok(format!("0 {own} 1\n"));
        }
        let text = std::fs::read_to_string(format!("/proc/self/{name}"))?;
        Ok(text
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                format!("{} {} {}\n", words[0], words[0], words[2])
            })
            .collect())
    };
    let texts = [
        ("uid_map", maps("uid_map", uid.as_raw())?),
        ("gid_map", maps("gid_map", gid.as_raw())?),
    ];
    let target = nix::unistd::getpid();
    let (ready, go) = nix::unistd::pipe()?;
    // Maps of more than one id are written from outside.
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(go);
        let mut byte = [0];
        let _ = nix::unistd::read(&ready, &mut byte);
        let mut status = 0;
        if !all {
            let _ = std::fs::write(format!("/proc/{target}/setgroups"), "deny");
        }
        for (name, text) in texts {
            if std::fs::write(format!("/proc/{target}/{name}"), text).is_err() {
                status = 1;
            }
        }
        // SAFETY: ends this process.
        unsafe { libc::_exit(status) }
    }
    drop(ready);
    let unshared = unshare(CloneFlags::CLONE_NEWUSER);
    if unshared.is_ok() {
        nix::unistd::write(&go, b"1")?;
    }
    drop(go);
    let mut status = 0;
    // SAFETY: waits for our own child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    unshared?;
    if status != 0 {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    Ok(())
}

/// Files that give [`USER`] a name and subordinate ids, to cover the host's with.
pub fn with_subordinate_ids(host: Host, toy: &Toy, count: u32) -> Host {
    let write = |name: &str, text: String| toy.world.write(&format!("host-{count}/{name}"), &text);
    let passwd = std::fs::read_to_string("/etc/passwd").expect("every host has it");
    let line = format!("{USER_NAME}:x:{USER}:{USER}::/nonexistent:/bin/sh\n");
    let group = std::fs::read_to_string("/etc/group").expect("every host has it");
    let mut ids = String::new();
    if count > 0 {
        ids = format!("{USER_NAME}:1000000:{count}\n");
    }
    host.cover("/etc/passwd", write("passwd", passwd + &line))
        .cover(
            "/etc/group",
            write("group", group + &format!("{USER_NAME}:x:{USER}:\n")),
        )
        .cover("/etc/subuid", write("subuid", ids.clone()))
        .cover("/etc/subgid", write("subgid", ids))
}
