//! Which ids the sandbox has, and how that is chosen.

use nix::unistd::{Gid, Uid};

use super::idmap::{self, Maps, NEEDED_IDS};
use super::{Error, probe};

/// How ids in the sandbox relate to those outside.
///
/// Code above the sandbox never asks: a tree always has the image's owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The caller is root: every id under its own number.
    Root(Maps),
    /// The caller is 0, its subordinate ids follow.
    Subordinate(Maps),
    /// The caller is 0, and there is no other id: what files should have is
    /// recorded by the supervisor ([`super::notify`]).
    Single {
        /// The one id.
        maps: Maps,
        /// Why there are no more, unless the user asked for it.
        reason: Option<String>,
    },
    /// A container's root that may make no namespace: it changes its root
    /// directory, and everything else is the supervisor's.
    ChrootOnly {
        /// The ids there are; only 0 is used.
        maps: Maps,
        /// Why it is not more, unless the user asked for it.
        reason: Option<String>,
    },
}

/// What a build runs as, and in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its ids.
    pub identity: Identity,
    /// Whether it has process numbers of its own, with a `/proc` that fits.
    pub own_processes: bool,
}

impl Identity {
    /// The maps that the user namespace gets.
    pub fn maps(&self) -> &Maps {
        match self {
            Identity::Root(maps)
            | Identity::Subordinate(maps)
            | Identity::Single { maps, .. }
            | Identity::ChrootOnly { maps, .. } => maps,
        }
    }

    /// Whether it has namespaces of its own, so that mounts reach nobody else.
    pub fn has_namespaces(&self) -> bool {
        !matches!(self, Identity::ChrootOnly { .. })
    }

    /// Whether what files should have is recorded by the supervisor.
    pub fn records(&self) -> bool {
        matches!(self, Identity::Single { .. } | Identity::ChrootOnly { .. })
    }

    /// One word for logs and `--mode`.
    pub fn name(&self) -> &'static str {
        match self {
            Identity::Root(_) => "root",
            Identity::Subordinate(_) => "subordinate",
            Identity::Single { .. } => "single",
            Identity::ChrootOnly { .. } => "chroot",
        }
    }

    /// What the user should know about it.
    pub fn notice(&self) -> Option<String> {
        match self {
            Identity::Single {
                reason: Some(reason),
                ..
            } => Some(format!(
                "{reason}; owners and devices are recorded instead, which takes longer"
            )),
            Identity::ChrootOnly {
                reason: Some(reason),
                ..
            } => Some(format!(
                "{reason}; this container's own root is used: owners, devices and /proc are \
                 emulated, which takes longer, and the container is the only wall around hooks"
            )),
            _ => None,
        }
    }
}

/// Picks an identity by trying it in a throw-away child.
///
/// `mode` is what the user forces, `None` lets the host decide.
pub fn choose(mode: Option<&str>) -> Result<Choice, Error> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    match mode {
        None | Some("auto") => best(uid, gid),
        Some("root") if uid.is_root() => tried(root()?),
        Some("root") => Err(Error::Mode {
            mode: "root".to_owned(),
            reason: format!("kiln runs as user {uid}"),
            hints: vec!["leave `--mode` out: kiln needs no root".to_owned()],
        }),
        Some("subordinate") => tried(subordinate(uid, gid)?),
        Some("single") => tried(single(uid, gid, None)),
        Some("chroot") => tried(chroot(uid, None)?),
        Some(other) => Err(Error::Mode {
            mode: other.to_owned(),
            reason: "there is no such mode".to_owned(),
            hints: vec![format!("the modes are `auto` and {}", listed(&MODES))],
        }),
    }
}

/// The modes that can be asked for, from the one that needs most of the host.
pub const MODES: [&str; 4] = ["root", "subordinate", "single", "chroot"];

/// Names in backticks, as a sentence lists them.
fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The ladder: the first identity that works here, from top to bottom.
fn best(uid: Uid, gid: Gid) -> Result<Choice, Error> {
    // Root in a namespace with a single id is not root of anything: the size of
    // the map decides, not the number 0.
    let top = if uid.is_root() && full_size()? >= u64::from(NEEDED_IDS) {
        root()
    } else {
        subordinate(uid, gid)
    };
    let refusal = match top.and_then(tried) {
        Ok(choice) => return Ok(choice),
        Err(refusal) => refusal,
    };
    let reason = Some(super::enter::flatten(&refusal));
    let least = match tried(single(uid, gid, reason.clone())) {
        Ok(choice) => return Ok(choice),
        Err(least) => least,
    };
    // What would help most is what the user is told: where not even one id can be
    // had, more of them are not the remedy.
    let refusal = if matches!(refusal, Error::NoSubordinateIds { .. }) {
        least
    } else {
        refusal
    };
    if !uid.is_root() {
        return Err(refusal);
    }
    chroot(uid, reason).and_then(tried).map_err(|last| {
        let mut hints = refusal.hints();
        hints.extend(last.hints());
        Error::Probe {
            message: format!(
                "{}; and not even a change of the root directory: {}",
                super::enter::flatten(&refusal),
                super::enter::flatten(&last)
            ),
            hints,
        }
    })
}

/// Tries an identity in a throw-away child.
fn tried(identity: Identity) -> Result<Choice, Error> {
    let found = probe::try_identity(&identity)?;
    Ok(Choice {
        identity,
        own_processes: found.fresh_proc,
    })
}

/// Whether what files should have is recorded and not theirs: in a user namespace
/// with a single id, and where a container's root has no namespace.
pub fn owners_are_recorded() -> bool {
    !super::standin::mounts_are_possible()
        || Maps::full().is_ok_and(|maps| idmap::size(&maps.users) == 1)
}

fn chroot(uid: Uid, reason: Option<String>) -> Result<Identity, Error> {
    if !uid.is_root() {
        return Err(Error::Mode {
            mode: "chroot".to_owned(),
            reason: format!("kiln runs as user {uid}, and only root may change its root directory"),
            hints: vec!["it is for root of a container: run the container as user 0".to_owned()],
        });
    }
    Ok(Identity::ChrootOnly {
        maps: Maps::full().map_err(Error::system("reading the current id map"))?,
        reason,
    })
}

/// Who files of a directory can belong to, of the ids that are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Ownership {
    /// Anybody.
    Anybody,
    /// Only whoever makes them: a server of NFS decides that by ids of its own.
    Maker,
    /// Somebody else, as files of root where a server of NFS has it be nobody.
    Other,
}

/// Who files of a directory can belong to, tried with one. Where nothing can be made,
/// whoever is to make something says so.
pub fn ownership(directory: &std::path::Path) -> Ownership {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(file) = tempfile::tempfile_in(directory) else {
        return Ownership::Anybody;
    };
    let own = |made: std::fs::Metadata| made.uid() == Uid::effective().as_raw();
    if !file.metadata().map_or(true, own) {
        return Ownership::Other;
    }
    match std::os::unix::fs::fchown(&file, Some(1), Some(1)) {
        Ok(()) => Ownership::Anybody,
        Err(_) => Ownership::Maker,
    }
}

/// Whether the kernel makes no device here, tried in a directory.
pub fn devices_are_refused(directory: &std::path::Path) -> bool {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let path = directory.join(".device");
    let null = makedev(1, 3);
    let made = mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), null);
    // A supervisor puts a file in its place.
    let real = std::fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_file());
    let _ = std::fs::remove_file(&path);
    made.is_err() || !real
}

fn single(uid: Uid, gid: Gid, reason: Option<String>) -> Identity {
    Identity::Single {
        maps: Maps::single(uid.as_raw(), gid.as_raw()),
        reason,
    }
}

fn full_size() -> Result<u64, Error> {
    let maps = Maps::full().map_err(Error::system("reading the current id map"))?;
    Ok(idmap::size(&maps.users))
}

fn root() -> Result<Identity, Error> {
    Maps::full()
        .map(Identity::Root)
        .map_err(Error::system("reading the current id map"))
}

fn subordinate(uid: Uid, gid: Gid) -> Result<Identity, Error> {
    // Say first when user namespaces are refused altogether: then subordinate
    // ids would not help.
    probe::try_namespaces()?;
    Maps::subordinate(uid.as_raw(), gid.as_raw()).map(Identity::Subordinate)
}
