//! What stands in the way where the kernel refuses something, and how to remove it.

use std::io;

use super::{Error, shortage};

/// Who may look into programs (`Documentation/admin-guide/LSM/Yama.rst` of Linux).
pub(super) const YAMA: &str = "kernel.yama.ptrace_scope";

/// What lets a container look into its programs whatever Yama says.
pub(super) const TRACE_HINT: &str = "docker and podman: `--cap-add SYS_PTRACE`; Kubernetes: \
    `capabilities: {add: [\"SYS_PTRACE\"]}`";

/// A kernel setting as text, if it exists.
pub(super) fn sysctl(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// What helps other users than root.
pub(super) const AS_ROOT: &str =
    "run the container as root: kiln then changes its root directory only (mode `chroot`)";

/// Whether the user namespace that kiln runs in maps no id to its user or group, as `unshare --user`
/// leaves it. The kernel then shows an id of its own (`kernel.overflowuid`).
fn lacks_id(map: &str) -> bool {
    let own = match map {
        "uid_map" => nix::unistd::geteuid().as_raw(),
        _ => nix::unistd::getegid().as_raw(),
    };
    let lines = std::fs::read_to_string(format!("/proc/self/{map}"));
    lines.is_ok_and(|lines| !maps(&lines, own))
}

/// Whether a map of ids (`user_namespaces(7)`) has this one.
fn maps(lines: &str, id: u32) -> bool {
    lines.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (Some(Ok(first)), Some(_), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        id.checked_sub(first).is_some_and(|offset| offset < count)
    })
}

/// Turns a refusal into what stands in the way and how to remove it.
pub(super) fn explain_refusal(source: io::Error) -> Error {
    let keep = "and in /etc/sysctl.d to keep it";
    let errno = source.raw_os_error().unwrap_or(0);
    let limit = sysctl("user.max_user_namespaces");
    let (reason, hints) = if errno == libc::EAGAIN {
        (
            "the kernel starts no further process".to_owned(),
            shortage::hints(&source),
        )
    } else if errno == libc::ENOSPC || limit.as_deref() == Some("0") {
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
    } else if errno == libc::EPERM && (lacks_id("uid_map") || lacks_id("gid_map")) {
        (
            "kiln runs in one that gives its user no id".to_owned(),
            vec!["give the user an id there: `unshare --map-root-user`".to_owned()],
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
                AS_ROOT.to_owned(),
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
    fn a_process_that_cannot_be_started_is_no_matter_of_namespaces() {
        let error = explain_refusal(io::Error::from_raw_os_error(libc::EAGAIN));
        let text = error.to_string();
        assert!(text.contains("starts no further process"), "{text}");
        let hints = error.hints().join("\n");
        assert!(hints.contains("pids.max"), "{hints}");
        assert!(!hints.contains("chroot"), "{hints}");
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
