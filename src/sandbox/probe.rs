//! What this host allows, found by trying it in throw-away children.

use std::io;
use std::path::Path;

use nix::sched::CloneFlags;

use super::Error;
use super::enter;
use super::identity::Identity;
use super::idmap::find_program;

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

/// Tries the whole way in: namespaces, ids, a mount, and where the identity
/// needs it a listener for system calls.
pub fn try_identity(identity: &Identity) -> Result<(), Error> {
    let (reader, writer) = enter::pipe()?;
    let mut reader = std::fs::File::from(reader);
    // SAFETY: `choose` runs before the first thread is started.
    match unsafe { nix::unistd::fork() }
        .map_err(io::Error::from)
        .map_err(Error::system("starting a probe"))?
    {
        nix::unistd::ForkResult::Child => {
            drop(reader);
            let result = enter::become_root(identity, CloneFlags::CLONE_NEWNS).and_then(|()| {
                super::mounts::mount(
                    None,
                    Path::new("/"),
                    None,
                    nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE,
                    None,
                )
                .and_then(|()| {
                    super::mounts::mount(
                        Some(Path::new("probe")),
                        Path::new("/tmp"),
                        Some("tmpfs"),
                        nix::mount::MsFlags::empty(),
                        None,
                    )
                })
                .map_err(explain_refusal)
            });
            let result = result.and_then(|()| match identity {
                Identity::Single { .. } => try_listener(),
                _ => Ok(()),
            });
            if let Err(error) = result {
                let text = serde_json::to_vec(&(enter::flatten(&error), error.hints()))
                    .unwrap_or_default();
                let _ = io::Write::write_all(&mut std::fs::File::from(writer), &text);
            }
            enter::exit_now(0)
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop(writer);
            let mut said = Vec::new();
            let _ = io::Read::read_to_end(&mut reader, &mut said);
            let _ = nix::sys::wait::waitpid(child, None);
            if said.is_empty() {
                return Ok(());
            }
            let (message, hints) = serde_json::from_slice(&said)
                .unwrap_or_else(|_| ("the probe failed".to_owned(), Vec::new()));
            Err(Error::Probe { message, hints })
        }
    }
}

/// Installs a filter with a listener in this process, which is a throw-away one.
fn try_listener() -> Result<(), Error> {
    let refused = |reason: &str, hint: &str, source| Error::NoUserNamespace {
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
    match super::seccomp::load(&filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) {
        Ok(_) => Ok(()),
        Err(source) if source.raw_os_error() == Some(libc::EBUSY) => Err(refused(
            "another program already answers this one's system calls",
            "run kiln outside of it: there can be only one",
            source,
        )),
        Err(source) => Err(refused(
            "seccomp notifications are refused",
            "Linux 5.5 or newer with CONFIG_SECCOMP_FILTER is needed, or subordinate ids",
            source,
        )),
    }
}

/// Runs `work` in a child and brings its error's number back.
fn in_child(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: probes run before the first thread is started.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            let code = match work() {
                Ok(()) => 0,
                Err(error) => u8::try_from(error.raw_os_error().unwrap_or(0))
                    .unwrap_or(0)
                    .max(REFUSED),
            };
            enter::exit_now(code)
        }
        nix::unistd::ForkResult::Parent { child } => match nix::sys::wait::waitpid(child, None)? {
            nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
            nix::sys::wait::WaitStatus::Exited(_, code) => Err(io::Error::from_raw_os_error(code)),
            _ => Err(io::Error::other("the probe was killed")),
        },
    }
}

/// A kernel setting as text, if it exists.
fn sysctl(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// Turns a refusal into what stands in the way and how to remove it.
pub(super) fn explain_refusal(source: io::Error) -> Error {
    let mut hints = Vec::new();
    let errno = source.raw_os_error().unwrap_or(0);
    let reason = if errno == libc::ENOSPC
        || sysctl("user.max_user_namespaces").as_deref() == Some("0")
    {
        hints.push("as an administrator: `sysctl -w user.max_user_namespaces=15000` (and in /etc/sysctl.d to keep it)".to_owned());
        "the limit user.max_user_namespaces is reached".to_owned()
    } else if sysctl("kernel.unprivileged_userns_clone").as_deref() == Some("0") {
        hints.push("as an administrator: `sysctl -w kernel.unprivileged_userns_clone=1` (and in /etc/sysctl.d to keep it)".to_owned());
        "kernel.unprivileged_userns_clone is 0".to_owned()
    } else if sysctl("kernel.apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        hints.push("as an administrator, allow it for kiln alone: an AppArmor profile with `userns,` as README.md shows".to_owned());
        hints.push(
            "or for everybody: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
                .to_owned(),
        );
        "AppArmor restricts user namespaces of unprivileged programs".to_owned()
    } else if seccomp_active() {
        hints.push("a container's system call filter refuses it: run the container with `--security-opt seccomp=unconfined`, or with podman, whose default filter allows it".to_owned());
        "a system call filter is active and refuses it".to_owned()
    } else {
        hints.push("`kiln doctor` shows what this host allows".to_owned());
        "the kernel refuses it".to_owned()
    };
    Error::NoUserNamespace {
        reason,
        hints,
        source,
    }
}

fn seccomp_active() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .any(|line| line.starts_with("Seccomp:") && !line.ends_with('0'))
    })
}

/// How one requirement stands on this host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What is looked at.
    pub name: &'static str,
    /// Whether it is as kiln needs it.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do where it is not.
    pub remedy: Vec<String>,
}

/// Outcome of a [`Check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As needed.
    Ok,
    /// Missing, but builds work without it.
    Degraded,
    /// Missing, and builds cannot run.
    Missing,
}

/// Looks at everything that a build needs. Must run before the first thread.
pub fn examine() -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |name, status, detail: String, remedy| {
        checks.push(Check {
            name,
            status,
            detail,
            remedy,
        })
    };
    match try_namespaces() {
        Ok(()) => add(
            "user namespaces",
            Status::Ok,
            "can be made".to_owned(),
            Vec::new(),
        ),
        Err(error) => add(
            "user namespaces",
            Status::Missing,
            enter::flatten(&error),
            error.hints(),
        ),
    }
    let mut single = false;
    match super::identity::choose(None) {
        Ok(identity) => {
            let ids = super::idmap::size(&identity.maps().users);
            single = ids == 1;
            let plural = if single { "" } else { "s" };
            let detail = format!("mode `{}` with {ids} id{plural}", identity.name());
            match identity.notice() {
                None => add("ids", Status::Ok, detail, Vec::new()),
                Some(notice) => add(
                    "ids",
                    Status::Degraded,
                    format!("{detail}: {notice}"),
                    super::identity::choose(Some("subordinate"))
                        .err()
                        .map_or_else(Vec::new, |error| error.hints()),
                ),
            }
        }
        Err(error) => add(
            "ids",
            Status::Missing,
            enter::flatten(&error),
            error.hints(),
        ),
    }
    let missing: Vec<&str> = ["newuidmap", "newgidmap"]
        .into_iter()
        .filter(|tool| find_program(tool).is_none())
        .collect();
    if missing.is_empty() {
        add("newuidmap", Status::Ok, "installed".to_owned(), Vec::new());
    } else {
        let status = if single || nix::unistd::geteuid().is_root() {
            Status::Degraded
        } else {
            Status::Missing
        };
        let detail = format!("not found: {}", missing.join(", "));
        add(
            "newuidmap",
            status,
            detail,
            vec!["Debian and Ubuntu: `apt install uidmap`".to_owned()],
        );
    }
    let kernel = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    if kernel_at_least(&kernel, (5, 12)) {
        add("kernel", Status::Ok, kernel, Vec::new());
    } else {
        let remedy = vec![
            "kiln needs Linux 5.12 or newer (mount_setattr, overlayfs in user namespaces)"
                .to_owned(),
        ];
        add("kernel", Status::Missing, kernel, remedy);
    }
    checks
}

fn kernel_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut parts = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= wanted,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_compare_as_numbers() {
        for (release, expected) in [
            ("5.12.0-1", true),
            ("5.9.3", false),
            ("6.1", true),
            ("4.19", false),
            ("odd", true),
        ] {
            assert_eq!(kernel_at_least(release, (5, 12)), expected, "{release}");
        }
    }

    #[test]
    fn a_full_table_of_namespaces_names_the_limit() {
        let error = explain_refusal(io::Error::from_raw_os_error(libc::ENOSPC));
        assert!(
            error.to_string().contains("user.max_user_namespaces"),
            "{error}"
        );
        assert!(error.hints()[0].contains("sysctl"));
    }
}
