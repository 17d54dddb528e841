//! What this host allows, found by trying it in throw-away children.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::emul::memory;
use super::identity::Identity;
use super::process::{clone_process, exit_now, pipe};
use super::refusal::{TRACE_HINT, YAMA, explain_refusal, sysctl};
use super::userns::{become_root, lock_mounts};
use super::{Error, mounts};

/// Exit status of a probe that was refused with an errno, offset by it.
const REFUSED: u8 = 1;

/// Tries to make a user namespace and a mount namespace in it.
pub fn try_namespaces() -> Result<(), Error> {
    in_child(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER)
            .and_then(|()| nix::sched::unshare(CloneFlags::CLONE_NEWNS))
            .map_err(io::Error::from)
    })
    .map_err(explain_refusal)
}

/// What the way in was found to give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Found {
    /// Whether a PID namespace can have a `/proc` of its own.
    pub fresh_proc: bool,
}

/// Tries the whole way in: namespaces, ids, a mount, and where the identity
/// needs it a listener for system calls.
pub fn try_identity(identity: &Identity) -> Result<Found, Error> {
    in_child_with_result(|| {
        become_root(identity, CloneFlags::CLONE_NEWNS)?;
        if !identity.has_namespaces() {
            try_chroot()?;
            try_listener()?;
            return Ok(Found::default());
        }
        let root = Path::new("/");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mounts::mount(None, root, None, private, None)
            .and_then(|()| {
                mounts::mount(
                    Some(Path::new("probe")),
                    Path::new("/tmp"),
                    Some("tmpfs"),
                    MsFlags::empty(),
                    None,
                )
            })
            .map_err(explain_refusal)?;
        try_copied_mounts()?;
        let found = Found {
            fresh_proc: try_fresh_proc().is_ok(),
        };
        // A setting may allow the first namespace to root and none to root of it, and
        // there may be room for one alone.
        lock_mounts()?;
        // Programs inside have one more.
        lock_mounts()?;
        // A container's filter may refuse it also to root of a namespace.
        try_chroot()?;
        if identity.records() {
            try_listener()?;
        }
        Ok(found)
    })
}

/// Mounts `/proc` of a new PID namespace, which the calling process, root of its
/// user namespace, may make.
pub(super) fn try_fresh_proc() -> io::Result<()> {
    let Some(child) = clone_process(libc::CLONE_NEWPID | libc::CLONE_NEWNS)? else {
        let mounted = mounts::mount(
            Some(Path::new("proc")),
            Path::new("/proc"),
            Some("proc"),
            MsFlags::empty(),
            None,
        );
        exit_now(status_of(&mounted))
    };
    error_of(child)
}

/// Copies a mount, makes the copy read-only and attaches it, as every build does.
fn try_copied_mounts() -> Result<(), Error> {
    let at = Path::new("/tmp");
    mounts::clone_mount(at, true)
        .and_then(|copy| mounts::attach(&copy, fs_err::File::open(at)?.as_fd()))
        .and_then(|()| mounts::make_read_only(at, true))
        .map_err(|source| Error::Probe {
            message: format!("copies of mounts cannot be made read-only: {source}"),
            hints: vec![
                "Linux 5.12 or newer is needed, and a container must allow `open_tree(2)`, \
                 `move_mount(2)` and `mount_setattr(2)`"
                    .to_owned(),
            ],
        })
}

/// Changes the root directory of this process, which is a throw-away one.
fn try_chroot() -> Result<(), Error> {
    nix::unistd::chdir("/")
        .and_then(|()| nix::unistd::chroot("."))
        .map_err(|errno| Error::Probe {
            message: format!(
                "changing the root directory is refused: {}",
                io::Error::from(errno)
            ),
            hints: vec![super::standin::CHROOT_HINT.to_owned()],
        })
}

/// Runs `work` in a child, whose result comes back with its words and hints.
pub(super) fn in_child_with_result<T: serde::Serialize + serde::de::DeserializeOwned>(
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let (reader, writer) = pipe()?;
    let mut reader = std::fs::File::from(reader);
    // SAFETY: probes run before the first thread is started.
    match unsafe { nix::unistd::fork() }
        .map_err(io::Error::from)
        .map_err(Error::system("starting a probe"))?
    {
        nix::unistd::ForkResult::Child => {
            drop(reader);
            let result = work().map_err(|error| (error.with_causes(), error.hints()));
            let text = serde_json::to_vec(&result).unwrap_or_default();
            let _ = io::Write::write_all(&mut std::fs::File::from(writer), &text);
            exit_now(0)
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop(writer);
            let mut said = Vec::new();
            let _ = io::Read::read_to_end(&mut reader, &mut said);
            let _ = nix::sys::wait::waitpid(child, None);
            serde_json::from_slice::<Result<T, (String, Vec<String>)>>(&said)
                .unwrap_or_else(|_| Err(("the probe was killed".to_owned(), Vec::new())))
                .map_err(|(message, hints)| Error::Probe { message, hints })
        }
    }
}

/// Installs a filter with a listener in this process, which is a throw-away one.
pub(super) fn try_listener() -> Result<Listening, Error> {
    let refused = |reason: &str, hint: &str, source| Error::NoListener {
        reason: reason.to_owned(),
        hints: vec![hint.to_owned()],
        source,
    };
    let filter = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    }];
    let newest =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let (listener, killable) = match super::seccomp::load(&filter, newest) {
        Ok(listener) => (listener, true),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            return Err(refused(
                "another program already answers this one's system calls",
                "run kiln outside of it: there can be only one",
                error,
            ));
        }
        Err(_) => {
            let listener = super::seccomp::load(&filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)
                .map_err(|source| {
                    refused(
                        "seccomp notifications are refused",
                        "Linux 5.14 or newer with CONFIG_SECCOMP_FILTER is needed, and a \
                             container must allow `seccomp(2)`",
                        source,
                    )
                })?;
            (listener, false)
        }
    };
    let found = Listening {
        killable,
        same_processor: takes_flags(listener),
    };
    // A request for a call that nobody made fails for that reason alone, if the
    // kernel knows the request.
    let request = libc::seccomp_notif_addfd {
        id: 0,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: u32::try_from(listener).unwrap_or(0),
        newfd: 0,
        newfd_flags: 0,
    };
    let errno = ask(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &request);
    if errno != libc::ENOENT {
        return Err(refused(
            "seccomp notifications cannot hand over files",
            "Linux 5.14 or newer is needed, or subordinate ids",
            io::Error::from_raw_os_error(errno),
        ));
    }
    try_reading().map_err(|error| match sysctl(YAMA).as_deref() {
        Some("3") => refused(
            "no program may look into another (kernel.yama.ptrace_scope is 3)",
            "as an administrator: `kernel.yama.ptrace_scope = 2` or less in /etc/sysctl.d, and \
             restart, since 3 cannot be taken back",
            error,
        ),
        // Root of a user namespace of ours has it.
        Some("2") => refused(
            "only programs with CAP_SYS_PTRACE may look into others (kernel.yama.ptrace_scope is 2)",
            TRACE_HINT,
            error,
        ),
        _ => refused(
            "reading the memory of programs is refused",
            TRACE_HINT,
            error,
        ),
    })?;
    Ok(found)
}

/// Whether calls of programs can be answered here, or why not. Must be called while the process
/// has one thread.
pub fn answers_calls() -> Result<(), Error> {
    in_child_with_result(|| try_listener().map(drop))
}

/// Whether a supervisor can read the arguments of calls here.
pub fn programs_can_be_read() -> bool {
    try_reading().is_ok()
}

/// Reads the memory of a child, as arguments of calls are read: a process may always
/// look at itself.
fn try_reading() -> io::Result<()> {
    let (mut reader, mut writer) = io::pipe()?;
    // Its end is that of this process too, so the child never outlives it.
    let (mut life, alive) = io::pipe()?;
    let (from, mut to) = ([7_u8], [0_u8]);
    // SAFETY: the child only makes system calls and never returns.
    let child = match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            // A program that is executed is so.
            let _ = nix::sys::prctl::set_dumpable(true);
            drop(alive);
            let _ = io::Write::write_all(&mut writer, &from);
            let _ = io::Read::read(&mut life, &mut [0]);
            exit_now(0)
        }
        nix::unistd::ForkResult::Parent { child } => child,
    };
    drop((writer, life));
    let _ = io::Read::read(&mut reader, &mut [0]);
    let result = mounts::open_directory("/proc".as_ref()).and_then(|proc| {
        let pid = child.as_raw().cast_unsigned();
        let address = from.as_ptr() as u64;
        memory::read_from(proc.as_raw_fd(), pid, address, &mut to).map_err(io::Error::from)
    });
    drop(alive);
    let _ = nix::sys::wait::waitpid(child, None);
    result?;
    Ok(())
}

/// What a listener can do that older kernels' cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Listening {
    /// A received call waits for its answer whatever signal comes (Linux 5.19).
    pub killable: bool,
    /// The supervisor runs on the caller's processor (Linux 6.6).
    pub same_processor: bool,
}

/// Whether a listener can be told to run on the caller's processor.
fn takes_flags(listener: libc::c_int) -> bool {
    let flags: u64 = 1;
    // SAFETY: the flags are passed by value to a listener that is open.
    unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags) == 0 }
}

/// An `ioctl(2)`'s error number, 0 if there is none.
fn ask<T>(fd: libc::c_int, request: libc::Ioctl, argument: &T) -> libc::c_int {
    // SAFETY: the kernel reads a structure that lives across the call.
    let result = unsafe { libc::ioctl(fd, request, std::ptr::from_ref(argument)) };
    if result < 0 {
        io::Error::last_os_error().raw_os_error().unwrap_or(0)
    } else {
        0
    }
}

/// Tries to have so many more processes or threads at the same time: the kernel counts
/// both alike, wherever its limit is.
pub fn try_processes(count: usize) -> io::Result<()> {
    in_child(|| {
        // The child is one itself. What waits ends with it.
        for _ in 1..count {
            std::thread::Builder::new().stack_size(64 << 10).spawn(|| {
                loop {
                    std::thread::park();
                }
            })?;
        }
        Ok(())
    })
}

/// Runs `work` in a child and brings its error's number back.
pub(super) fn in_child(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: probes run before the first thread is started.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => exit_now(status_of(&work())),
        nix::unistd::ForkResult::Parent { child } => error_of(child),
    }
}

/// The exit status that carries an error's number.
fn status_of(result: &io::Result<()>) -> u8 {
    match result {
        Ok(()) => 0,
        Err(error) => u8::try_from(error.raw_os_error().unwrap_or(0))
            .unwrap_or(0)
            .max(REFUSED),
    }
}

/// What a child's exit status carries.
fn error_of(child: nix::unistd::Pid) -> io::Result<()> {
    match nix::sys::wait::waitpid(child, None)? {
        nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
        nix::sys::wait::WaitStatus::Exited(_, code) => Err(io::Error::from_raw_os_error(code)),
        _ => Err(io::Error::other("the probe was killed")),
    }
}
