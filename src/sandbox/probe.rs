//! What this host allows, found by trying it in throw-away children.

use std::io;
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use super::Error;
use super::enter;
use super::identity::Identity;

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
        enter::become_root(identity, CloneFlags::CLONE_NEWNS)?;
        if !identity.has_namespaces() {
            try_chroot()?;
            try_listener()?;
            return Ok(Found::default());
        }
        let root = Path::new("/");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        super::mounts::mount(None, root, None, private, None)
            .and_then(|()| {
                super::mounts::mount(
                    Some(Path::new("probe")),
                    Path::new("/tmp"),
                    Some("tmpfs"),
                    MsFlags::empty(),
                    None,
                )
            })
            .map_err(explain_refusal)?;
        let found = Found {
            fresh_proc: try_fresh_proc().is_ok(),
        };
        // A setting may allow the first namespace to root and none to root of it, and
        // there may be room for one alone.
        enter::lock_mounts()?;
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
    let Some(child) = enter::clone_process(libc::CLONE_NEWPID | libc::CLONE_NEWNS)? else {
        let mounted = super::mounts::mount(
            Some(Path::new("proc")),
            Path::new("/proc"),
            Some("proc"),
            MsFlags::empty(),
            None,
        );
        enter::exit_now(status_of(&mounted))
    };
    error_of(child)
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
    let (reader, writer) = enter::pipe()?;
    let mut reader = std::fs::File::from(reader);
    // SAFETY: probes run before the first thread is started.
    match unsafe { nix::unistd::fork() }
        .map_err(io::Error::from)
        .map_err(Error::system("starting a probe"))?
    {
        nix::unistd::ForkResult::Child => {
            drop(reader);
            let result = work().map_err(|error| (enter::flatten(&error), error.hints()));
            let text = serde_json::to_vec(&result).unwrap_or_default();
            let _ = io::Write::write_all(&mut std::fs::File::from(writer), &text);
            enter::exit_now(0)
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
            "a container must allow `process_vm_readv(2)`, as Docker does since Linux 4.8",
            error,
        ),
    })?;
    Ok(found)
}

/// Who may look into programs (`Documentation/admin-guide/LSM/Yama.rst` of Linux).
pub(super) const YAMA: &str = "kernel.yama.ptrace_scope";

/// What lets a container look into its programs whatever Yama says.
pub(super) const TRACE_HINT: &str = "docker and podman: `--cap-add SYS_PTRACE`; Kubernetes: \
    `capabilities: {add: [\"SYS_PTRACE\"]}`";

/// Whether a supervisor can read the arguments of calls here.
pub fn programs_can_be_read() -> bool {
    try_reading().is_ok()
}

/// Reads the memory of a child, as arguments of calls are read: a process may always
/// look at itself.
fn try_reading() -> io::Result<()> {
    let (mut reader, mut writer) = io::pipe()?;
    let (from, mut to) = ([7_u8], [0_u8]);
    // SAFETY: the child only makes system calls and never returns.
    let child = match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            // A program that is executed is so.
            let _ = nix::sys::prctl::set_dumpable(true);
            let _ = io::Write::write_all(&mut writer, &from);
            loop {
                nix::unistd::pause();
            }
        }
        nix::unistd::ForkResult::Parent { child } => child,
    };
    drop(writer);
    let remote = nix::sys::uio::RemoteIoVec {
        base: from.as_ptr() as usize,
        len: from.len(),
    };
    let _ = io::Read::read(&mut reader, &mut [0]);
    let local = &mut [io::IoSliceMut::new(&mut to)];
    let result = nix::sys::uio::process_vm_readv(child, local, &[remote]);
    let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
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

/// Runs `work` in a child and brings its error's number back.
pub(super) fn in_child(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: probes run before the first thread is started.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => enter::exit_now(status_of(&work())),
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

/// A kernel setting as text, if it exists.
pub(super) fn sysctl(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// Turns a refusal into what stands in the way and how to remove it.
pub(super) fn explain_refusal(source: io::Error) -> Error {
    let keep = "and in /etc/sysctl.d to keep it";
    let errno = source.raw_os_error().unwrap_or(0);
    let limit = sysctl("user.max_user_namespaces");
    let (reason, hints) = if errno == libc::ENOSPC || limit.as_deref() == Some("0") {
        let value = limit.unwrap_or_else(|| "unknown".to_owned());
        (
            format!(
                "the limit user.max_user_namespaces ({value}) is reached, or namespaces are \
                 nested as deep as the kernel allows"
            ),
            vec![
                format!("as an administrator: `sysctl -w user.max_user_namespaces=15000` ({keep})"),
                "in a container: the host's limit counts too; run kiln less deeply nested"
                    .to_owned(),
            ],
        )
    } else if sysctl("kernel.unprivileged_userns_clone").as_deref() == Some("0") {
        (
            "kernel.unprivileged_userns_clone is 0".to_owned(),
            vec![format!(
                "as an administrator: `sysctl -w kernel.unprivileged_userns_clone=1` ({keep})"
            )],
        )
    } else if sysctl("kernel.apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        (
            "AppArmor restricts user namespaces of unprivileged programs".to_owned(),
            vec![
                "as an administrator, allow it for kiln alone: an AppArmor profile with \
                 `userns,` in `/etc/apparmor.d/kiln`, as docs/hosts.md shows"
                    .to_owned(),
                format!(
                    "or for everybody: `sysctl -w \
                     kernel.apparmor_restrict_unprivileged_userns=0` ({keep})"
                ),
            ],
        )
    } else if errno == libc::EACCES
        && let Some(Confinement { by, label }) = confinement()
    {
        (
            format!("{by} forbids it to programs of `{label}`"),
            by.hints(),
        )
    } else if seccomp_active() {
        (
            "a container's system call filter refuses it".to_owned(),
            vec![
                "run the container as root: kiln then changes its root directory only (mode \
                 `chroot`)"
                    .to_owned(),
                "or allow it: docker's `--security-opt seccomp=unconfined`, Kubernetes' \
                 `seccompProfile: {type: Unconfined}`; podman's default filter allows it"
                    .to_owned(),
            ]
            .into_iter()
            // What would refuse it next.
            .chain(confinement().and_then(|found| found.by.hints().into_iter().next()))
            .collect(),
        )
    } else {
        (
            "the kernel refuses it, as it does below a changed root directory".to_owned(),
            vec![
                "run kiln outside of directories of `chroot` (schroot, pbuilder), or as root there"
                    .to_owned(),
                "the kernel needs CONFIG_USER_NS".to_owned(),
            ],
        )
    };
    Error::NoUserNamespace {
        reason,
        hints,
        source,
    }
}

/// A module of the kernel that restricts programs by their labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Profiles of programs.
    AppArmor,
    /// Contexts of programs and files.
    SeLinux,
}

impl std::fmt::Display for By {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            By::AppArmor => "AppArmor",
            By::SeLinux => "SELinux",
        })
    }
}

impl By {
    fn hints(self) -> Vec<String> {
        let (container, alone) = match self {
            By::AppArmor => (
                "in a container: docker's and podman's `--security-opt apparmor=unconfined`, \
                 Kubernetes' `appArmorProfile: {type: Unconfined}`",
                "elsewhere, as an administrator: `flags=(attach_disconnected,mediate_deleted)`, `userns,`, `mount,` and \
                 `pivot_root,` in that profile in `/etc/apparmor.d`, then `apparmor_parser -r` with its \
                 file",
            ),
            By::SeLinux => (
                "in a container: docker's and podman's `--security-opt label=disable`",
                "elsewhere, as an administrator: `ausearch -m avc -ts recent` shows what was \
                 refused, `audit2allow -M kiln` makes a rule of it",
            ),
        };
        vec![container.to_owned(), alone.to_owned()]
    }
}

/// What restricts this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Confinement {
    pub by: By,
    /// The profile or context.
    pub label: String,
}

/// The module that enforces rules on this process, if there is one.
pub(super) fn confinement() -> Option<Confinement> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let enforcing = read("/sys/fs/selinux/enforce").is_some_and(|text| text.trim() == "1");
    if enforcing && let Some(label) = read("/proc/self/attr/current") {
        let label = label.trim_end_matches(['\0', '\n']).to_owned();
        return Some(Confinement {
            by: By::SeLinux,
            label,
        });
    }
    // Since Linux 5.8; before, the first module had the file above it.
    let label = read("/proc/self/attr/apparmor/current")
        .or_else(|| read("/proc/self/attr/current").filter(|text| text.ends_with(")\n")))?;
    enforced_profile(&label).map(|label| Confinement {
        by: By::AppArmor,
        label: label.to_owned(),
    })
}

/// The profile of AppArmor's `NAME (MODE)` where its rules are enforced.
fn enforced_profile(label: &str) -> Option<&str> {
    label.trim().strip_suffix(" (enforce)")
}

pub(super) fn seccomp_active() -> bool {
    status("Seccomp").is_some_and(|value| value != "0")
}

/// A field of `/proc/self/status`.
pub(super) fn status(field: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    text.lines().find_map(|line| {
        let value = line.strip_prefix(field)?.strip_prefix(':')?;
        Some(value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_of_namespaces_names_the_limit() {
        let error = explain_refusal(io::Error::from_raw_os_error(libc::ENOSPC));
        assert!(
            error.to_string().contains("user.max_user_namespaces"),
            "{error}"
        );
        assert!(error.hints()[0].contains("sysctl"));
    }

    #[test]
    fn only_profiles_that_are_enforced_are_obstacles() {
        for (label, expected) in [
            ("docker-default (enforce)\n", Some("docker-default")),
            ("kiln (complain)\n", None),
            ("kiln (unconfined)\n", None),
            ("unconfined\n", None),
        ] {
            assert_eq!(enforced_profile(label), expected, "{label}");
        }
    }
}
