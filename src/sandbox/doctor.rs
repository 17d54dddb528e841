//! What this host allows, what kiln will use of it, and how to get more.
//!
//! Everything that can be tried is tried, in throw-away children ([`probe`]); only
//! what nobody can try (settings, filesystems) is read.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::unistd::{AccessFlags, Gid, Uid, access};

use super::cgroup::{self, Cgroup};
use super::choice::{self, MODES};
use super::identity::{self, Identity, Ownership};
use super::idmap::{self, find_program};
use super::limits::Limits;
use super::probe::{self, Listening};
use super::userns::become_root;
use super::{Error, devices, mounts, refusal};

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

/// One step of the ladder.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Mode {
    /// As `--mode` takes it.
    pub name: &'static str,
    /// Whether builds work in it.
    pub works: bool,
    /// What it has, or why it does not work.
    pub detail: String,
    /// How to get it.
    pub remedy: Vec<String>,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Whether images can be built here.
    pub builds: bool,
    /// The mode that a build takes here by itself.
    pub mode: Option<&'static str>,
    /// All modes, tried one by one.
    pub modes: Vec<Mode>,
    /// What decides about them, and what else a build needs.
    pub checks: Vec<Check>,
}

/// What to do where the temporary directory does not serve.
pub const TEMPORARY_ADVICE: &str =
    "`TMPDIR` names the directory for the build; without it, it is `/tmp`";

/// Where builds put their files.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The parent of build directories.
    pub temporary: PathBuf,
    /// The image cache; `None` where nothing says where it is.
    pub cache: Option<PathBuf>,
    /// Why the image cache has no place, of which it is said.
    pub no_cache: Option<String>,
    /// What else no build can do without, and is not there.
    pub lacks: Vec<Check>,
    /// Whether builds are made in memory, where that can be mounted.
    pub in_memory: bool,
    /// What would have them made there, if they are not.
    pub in_memory_advice: Option<&'static str>,
    /// Why a build in the temporary directory would be refused, of which it is said.
    pub unfit: Option<String>,
}

/// Looks at everything that a build needs. Must run before the first thread.
pub fn examine(places: &Places) -> Report {
    let chosen = choice::choose(None);
    let modes: Vec<Mode> = MODES.iter().map(|name| mode(name)).collect();
    let mut checks = Vec::new();
    checks.extend(choice(&chosen));
    checks.push(kernel());
    checks.push(container());
    checks.push(user_namespaces());
    checks.extend(settings());
    checks.push(no_new_privileges());
    checks.push(filter());
    checks.push(security_module());
    checks.push(landlock());
    if Uid::effective().is_root() {
        checks.push(capabilities());
    }
    checks.extend(subordinate_ids());
    checks.push(notifications());
    if let Ok(choice) = &chosen
        && choice.identity.has_namespaces()
    {
        checks.push(proc(choice.own_processes));
        checks.push(overlay(&choice.identity));
        checks.extend(nodes());
    } else if chosen.is_ok() {
        checks.extend(yama());
    }
    checks.push(temporary(places, &chosen));
    checks.push(cache(places, &chosen));
    checks.extend(places.lacks.iter().cloned());
    checks.push(device("/dev/kvm", "images boot slowly in QEMU without it"));
    checks.push(control_groups());
    Report {
        builds: checks.iter().all(|check| check.status != Status::Missing),
        mode: chosen.ok().map(|choice| choice.identity.name()),
        modes,
        checks,
    }
}

fn check(name: &'static str, status: Status, detail: impl Into<String>) -> Check {
    Check {
        name,
        status,
        detail: detail.into(),
        remedy: Vec::new(),
    }
}

impl Check {
    fn remedy(mut self, text: impl Into<String>) -> Check {
        self.remedy.push(text.into());
        self
    }

    fn remedies(mut self, texts: Vec<String>) -> Check {
        self.remedy.extend(texts);
        self
    }
}

/// Tries one mode by itself.
fn mode(name: &'static str) -> Mode {
    match choice::choose(Some(name)) {
        Ok(choice) => {
            let ids = idmap::size(&choice.identity.maps().users);
            let detail = match &choice.identity {
                Identity::Root(_) => "all ids of this host or container".to_owned(),
                Identity::Subordinate(_) => format!("{ids} ids"),
                Identity::Single { .. } => {
                    "one id; owners and devices are recorded by a supervisor".to_owned()
                }
                Identity::ChrootOnly { .. } => "no namespaces; owners, devices and /proc are \
                    emulated, and hooks are not walled off from the container"
                    .to_owned(),
            };
            Mode {
                name,
                works: true,
                detail,
                remedy: Vec::new(),
            }
        }
        Err(error) => Mode {
            name,
            works: false,
            detail: error.with_causes(),
            remedy: error.hints(),
        },
    }
}

fn choice(chosen: &Result<choice::Choice, Error>) -> Option<Check> {
    Some(match chosen {
        Ok(choice) => {
            let name = choice.identity.name();
            match choice.identity.notice() {
                None => check("mode", Status::Ok, format!("`{name}`")),
                Some(notice) => check("mode", Status::Degraded, format!("`{name}`: {notice}"))
                    .remedies(better(&choice.identity)),
            }
        }
        Err(error) => check("mode", Status::Missing, error.with_causes()).remedies(error.hints()),
    })
}

/// What would give a mode further up.
fn better(identity: &Identity) -> Vec<String> {
    let above = match identity {
        Identity::ChrootOnly { .. } => "root",
        _ => "subordinate",
    };
    choice::choose(Some(above))
        .err()
        .map_or_else(Vec::new, |error| error.hints())
}

fn kernel() -> Check {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    if kernel_at_least(&release, (5, 12)) {
        check("kernel", Status::Ok, release)
    } else {
        check("kernel", Status::Degraded, release).remedy(
            "mount_setattr and overlayfs in user namespaces came with Linux 5.12: use it or newer",
        )
    }
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

fn container() -> Check {
    let signs = [
        ("/.dockerenv", "Docker"),
        ("/run/.containerenv", "podman"),
        ("/var/run/secrets/kubernetes.io", "Kubernetes"),
    ];
    let found = signs
        .iter()
        .find(|(path, _)| Path::new(path).exists())
        .map(|(_, name)| *name)
        .or_else(|| std::env::var_os("KUBERNETES_SERVICE_HOST").map(|_| "Kubernetes"));
    check("container", Status::Ok, found.unwrap_or("none known of"))
}

fn user_namespaces() -> Check {
    match probe::try_namespaces() {
        Ok(()) => check("user namespaces", Status::Ok, "can be made"),
        Err(error) => {
            check("user namespaces", Status::Degraded, error.with_causes()).remedies(error.hints())
        }
    }
}

/// Settings that limit user namespaces; only those that this kernel has.
fn settings() -> Vec<Check> {
    [
        ("user.max_user_namespaces", "0"),
        ("kernel.unprivileged_userns_clone", "0"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
    ]
    .into_iter()
    .filter_map(|(name, bad)| {
        let value = refusal::sysctl(name)?;
        let status = if value == bad {
            Status::Degraded
        } else {
            Status::Ok
        };
        Some(check(name, status, value))
    })
    .collect()
}

fn no_new_privileges() -> Check {
    let set = refusal::status("NoNewPrivs").as_deref() == Some("1");
    if set && !Uid::effective().is_root() {
        check(
            "no_new_privs",
            Status::Degraded,
            "set: `newuidmap` cannot have its privilege",
        )
        .remedy(
            "docker and podman: without `--security-opt no-new-privileges`; Kubernetes: \
             `allowPrivilegeEscalation: true`; systemd: `NoNewPrivileges=no`",
        )
    } else {
        check(
            "no_new_privs",
            Status::Ok,
            if set { "set" } else { "not set" },
        )
    }
}

/// Yama hinders mode `chroot` only: in a user namespace its root may trace. Where
/// nobody may, [`notifications`] says so.
fn yama() -> Option<Check> {
    let scope = refusal::sysctl(refusal::YAMA)?;
    let traces = caps::has_cap(
        None,
        caps::CapSet::Effective,
        caps::Capability::CAP_SYS_PTRACE,
    );
    let name = refusal::YAMA;
    if scope == "0" || traces.unwrap_or(true) {
        return Some(check(name, Status::Ok, scope));
    }
    let detail = format!("{scope}: system calls of daemons that hooks leave behind fail");
    Some(check(name, Status::Degraded, detail).remedy(refusal::TRACE_HINT))
}

fn filter() -> Check {
    let detail = if refusal::seccomp_active() {
        "active, as in most containers"
    } else {
        "none"
    };
    check("system call filter", Status::Ok, detail)
}

/// Who else may refuse things, by rules about programs.
fn security_module() -> Check {
    let detail = refusal::confinement().map_or_else(
        || "does not restrict kiln".to_owned(),
        |found| format!("{} restricts kiln by `{}`", found.by, found.label),
    );
    check("security module", Status::Ok, detail)
}

/// What the second wall has of it.
fn landlock() -> Check {
    let detail = match super::landlock::abi() {
        0 => "none: hooks can reach abstract sockets of this host, but for `--network none`"
            .to_owned(),
        abi if super::landlock::has_scopes() => format!("ABI {abi}"),
        abi => format!(
            "ABI {abi}, without scopes (Linux 6.12): hooks can reach abstract sockets of this \
             host, but for `--network none`"
        ),
    };
    check("Landlock", Status::Ok, detail)
}

/// What root has; it matters where no user namespace can be made.
fn capabilities() -> Check {
    use caps::{CapSet, Capability};
    let missing: Vec<String> = [
        Capability::CAP_SYS_ADMIN,
        Capability::CAP_SETUID,
        Capability::CAP_SETGID,
        Capability::CAP_SETFCAP,
        Capability::CAP_SYS_CHROOT,
        Capability::CAP_MKNOD,
    ]
    .into_iter()
    .filter(|&capability| !caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true))
    .map(|capability| capability.to_string())
    .collect();
    if missing.is_empty() {
        check("capabilities", Status::Ok, "all that builds can use")
    } else {
        check(
            "capabilities",
            Status::Ok,
            format!("without {}", missing.join(", ")),
        )
    }
}

fn subordinate_ids() -> Vec<Check> {
    let missing: Vec<&str> = ["newuidmap", "newgidmap"]
        .into_iter()
        .filter(|tool| find_program(tool).is_none())
        .collect();
    let tool = if missing.is_empty() {
        check("newuidmap", Status::Ok, "installed")
    } else {
        let detail = format!("not found: {}", missing.join(", "));
        check("newuidmap", Status::Degraded, detail).remedies(idmap::tool_hints())
    };
    if Uid::effective().is_root() {
        return vec![tool];
    }
    let ids = match idmap::Maps::subordinate(Uid::effective().as_raw(), Gid::effective().as_raw()) {
        Ok(maps) => check(
            "subordinate ids",
            Status::Ok,
            format!("{}", idmap::size(&maps.users) - 1),
        ),
        Err(error) => {
            check("subordinate ids", Status::Degraded, error.with_causes()).remedies(error.hints())
        }
    };
    vec![tool, ids]
}

/// Whether hooks' calls can be answered, and how well.
fn notifications() -> Check {
    let name = "seccomp notifications";
    match probe::in_child_with_result(probe::try_listener) {
        Ok(Listening {
            killable: true,
            same_processor: true,
        }) => check(name, Status::Ok, "all that kiln uses"),
        Ok(found) => {
            let mut without = Vec::new();
            if !found.killable {
                without.push("waits that only a kill ends (Linux 5.19)");
            }
            if !found.same_processor {
                without.push("wake-ups on the same processor (Linux 6.6): traps are slower");
            }
            check(name, Status::Ok, format!("without {}", without.join(", ")))
        }
        Err(error) => check(name, Status::Degraded, error.with_causes()).remedies(error.hints()),
    }
}

fn proc(fresh: bool) -> Check {
    if fresh {
        check("/proc", Status::Ok, "a fresh one can be mounted")
    } else {
        check(
            "/proc",
            Status::Degraded,
            "parts of it are masked, so builds share the process numbers of this container",
        )
        .remedy(
            "podman: `--security-opt unmask=ALL`; docker: `--security-opt \
             systempaths=unconfined`; Kubernetes: `procMount: Unmasked`",
        )
    }
}

/// Mounts an overlay in a throw-away namespace.
fn overlay(identity: &Identity) -> Check {
    let name = "overlayfs";
    if identity.records() {
        return check(name, Status::Ok, "not used where owners are recorded");
    }
    let tried = probe::in_child_with_result(|| {
        become_root(identity, CloneFlags::CLONE_NEWNS)?;
        let failed = || Error::system("mounting an overlay");
        let root = Path::new("/");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mounts::mount(None, root, None, private, None).map_err(failed())?;
        // As builds do it: on a filesystem in memory.
        let place = Path::new("/tmp");
        let kind = Some("tmpfs");
        mounts::mount(Some(place), place, kind, MsFlags::empty(), None).map_err(failed())?;
        let directories = ["lower", "upper", "work", "target"].map(|name| place.join(name));
        for directory in &directories {
            std::fs::create_dir(directory).map_err(failed())?;
        }
        let [lower, upper, work, target] = &directories;
        mounts::mount_overlay(&[lower], upper, work, target).map_err(failed())
    });
    match tried {
        Ok(()) => check(name, Status::Ok, "can be mounted"),
        Err(error) => check(name, Status::Degraded, error.with_causes())
            .remedy("cached roots are copied instead; Linux 5.12 or newer mounts them"),
    }
}

/// Whether files can be made in a directory.
pub fn takes_files(directory: &Path) -> io::Result<()> {
    Ok(access(directory, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// Whether a directory can be made in one, as every build does.
fn takes_directories(directory: &Path) -> io::Result<()> {
    let made = tempfile::Builder::new()
        .prefix("kiln-doctor.")
        .tempdir_in(directory)?;
    // It is empty, and need not be its owner's to look into.
    std::fs::remove_dir(made.keep())
}

fn temporary(places: &Places, chosen: &Result<choice::Choice, Error>) -> Check {
    let path = &places.temporary;
    let name = "temporary directory";
    let shown = path.display();
    let advice = TEMPORARY_ADVICE;
    if let Err(error) = takes_directories(path) {
        return check(name, Status::Missing, format!("`{shown}`: {error}")).remedy(advice);
    }
    let Ok(found) = nix::sys::statvfs::statvfs(path) else {
        return check(name, Status::Ok, format!("`{shown}`"));
    };
    let free = found
        .blocks_available()
        .saturating_mul(found.fragment_size())
        >> 20;
    let mut lacks = Vec::new();
    if let Some(unfit) = &places.unfit {
        lacks.push(format!("it {unfit}"));
    } else if found.blocks() > 0 && free < 4096 {
        lacks.push(format!("only {free} MiB are free"));
    }
    let records = chosen
        .as_ref()
        .is_ok_and(|choice| choice.identity.records());
    if records && !has_birth_times(path) {
        lacks.push("it keeps no times of birth, by which records of owners are told apart".into());
    }
    let ownership = ownership(path, chosen);
    match ownership {
        Ownership::Anybody => {}
        Ownership::Maker => lacks.push(OWNERS_REFUSED.to_owned()),
        Ownership::Other => lacks.push(OWNERS_REPLACED.to_owned()),
    }
    if lacks.is_empty() {
        let detail = format!("`{shown}`, {free} MiB free");
        return check(name, Status::Ok, detail);
    }
    let mountable = chosen
        .as_ref()
        .is_ok_and(|choice| choice.identity.has_namespaces());
    let detail = format!("`{shown}`: {}", lacks.join("; "));
    let found = if mountable && places.in_memory {
        // Such a build does not use the directory.
        check(name, Status::Degraded, detail)
            .remedy("builds in memory (without `--no-tmpfs`) do not mind")
            .remedy(advice)
    } else {
        let refused = places.unfit.is_some() || ownership != Ownership::Anybody;
        let status = if refused {
            Status::Missing
        } else {
            Status::Degraded
        };
        let hint = places.in_memory_advice.filter(|_| mountable);
        let found = check(name, status, detail).remedy(advice);
        hint.into_iter().fold(found, Check::remedy)
    };
    if ownership == Ownership::Maker {
        found.remedy(SINGLE_ADVICE)
    } else {
        found
    }
}

/// What a server of NFS refuses.
const OWNERS_REFUSED: &str = "its files cannot be given to other users, as on NFS";

/// What to do where files cannot be given to other users.
pub const SINGLE_ADVICE: &str = "or have owners recorded: `--mode single`";

/// What a server of NFS does to root.
const OWNERS_REPLACED: &str =
    "its files belong to another user than who makes them, as those of root on NFS";

/// Who files of a directory can belong to in a build in the chosen mode.
fn ownership(directory: &Path, chosen: &Result<choice::Choice, Error>) -> Ownership {
    let Ok(choice) = chosen else {
        return Ownership::Anybody;
    };
    let tried = probe::in_child_with_result(|| {
        become_root(&choice.identity, CloneFlags::empty())?;
        Ok(identity::ownership(directory))
    });
    match tried {
        // Nobody is asked for what is recorded.
        Ok(Ownership::Maker) if choice.identity.records() => Ownership::Anybody,
        Ok(found) => found,
        Err(_) => Ownership::Anybody,
    }
}

/// The nodes that hooks are given, where one is missing.
fn nodes() -> Option<Check> {
    let path = devices::missing_node()?;
    let detail = format!("`{}` is not there", path.display());
    Some(check("/dev", Status::Missing, detail).remedy(devices::NODES_ADVICE))
}

/// Whether a filesystem tells when files were made.
fn has_birth_times(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.created().is_ok())
}

fn cache(places: &Places, chosen: &Result<choice::Choice, Error>) -> Check {
    let name = "image cache";
    let advice = "`--image-cache` or DIB_IMAGE_CACHE names another directory";
    if let Some(why) = &places.no_cache {
        return check(name, Status::Missing, why.as_str()).remedy(advice);
    }
    let Some(path) = places.cache.as_deref() else {
        let detail = "`HOME` is not set, so there is no place for it";
        return check(name, Status::Missing, detail).remedy(advice);
    };
    let shown = path.display();
    // It is made when it is needed: what counts is the directory above.
    let existing = path.ancestors().find(|above| above.exists());
    let existing = existing.unwrap_or(path);
    match takes_files(existing) {
        Ok(()) if ownership(existing, chosen) != Ownership::Anybody => check(
            name,
            Status::Degraded,
            format!("`{shown}`: {OWNERS_REFUSED}, so roots are made anew for each build"),
        )
        .remedy(advice),
        Ok(()) => check(name, Status::Ok, format!("`{shown}`")),
        Err(error) => check(
            name,
            Status::Missing,
            format!("`{shown}` cannot be written: {error}"),
        )
        .remedy(advice),
    }
}

fn device(path: &'static str, needed: &str) -> Check {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path);
    match opened {
        Ok(_) => check(path, Status::Ok, "can be opened"),
        Err(error) => check(
            path,
            Status::Ok,
            format!("cannot be opened ({}): {needed}", error.kind()),
        ),
    }
}

fn control_groups() -> Check {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let versions = match cgroup::versions(&mounts) {
        (true, true) => "versions 1 and 2",
        (false, true) => "version 2",
        (true, false) => "version 1",
        (false, false) => "none",
    };
    // A group moves whoever tries it. Its limit is one that nobody comes to.
    let counts = probe::in_child_with_result(|| {
        let group = Cgroup::create(&Limits {
            memory: Some(1 << 50),
            ..Limits::default()
        });
        let counts = group.as_ref().is_some_and(|group| group.counted().memory);
        if let Some(group) = group {
            group.remove();
        }
        Ok(counts)
    });
    let how = if counts.unwrap_or(false) {
        "one counts memory for `--memory`"
    } else {
        "none with memory is delegated to this user: `--memory` looks at programs now and then"
    };
    check("control groups", Status::Ok, format!("{versions}; {how}"))
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
    fn a_directory_that_cannot_be_written_is_missing() {
        let places = Places {
            temporary: "/nonexistent/tmp".into(),
            ..Places::default()
        };
        let found = temporary(&places, &choice::choose(Some("none")));
        assert_eq!(found.status, Status::Missing);
        assert!(found.remedy[0].contains("TMPDIR"));
    }
}
