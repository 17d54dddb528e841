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
}

impl Identity {
    /// The maps that the user namespace gets.
    pub fn maps(&self) -> &Maps {
        match self {
            Identity::Root(maps) | Identity::Subordinate(maps) | Identity::Single { maps, .. } => {
                maps
            }
        }
    }

    /// One word for logs and `--mode`.
    pub fn name(&self) -> &'static str {
        match self {
            Identity::Root(_) => "root",
            Identity::Subordinate(_) => "subordinate",
            Identity::Single { .. } => "single",
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
            _ => None,
        }
    }
}

/// Picks an identity by trying it in a throw-away child.
///
/// `mode` is what the user forces, `None` lets the host decide.
pub fn choose(mode: Option<&str>) -> Result<Identity, Error> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let identity = match mode {
        None | Some("auto") => {
            // Root in a namespace with a single id is not root of anything: the
            // size of the map decides, not the number 0.
            let best = if uid.is_root() && full_size()? >= u64::from(NEEDED_IDS) {
                root()
            } else {
                subordinate(uid, gid)
            };
            let best = best.and_then(|identity| {
                probe::try_identity(&identity)?;
                Ok(identity)
            });
            match best {
                Ok(identity) => return Ok(identity),
                Err(refusal) => {
                    let single = single(uid, gid, Some(super::enter::flatten(&refusal)));
                    // What would help most is what the user is told.
                    return match probe::try_identity(&single) {
                        Ok(()) => Ok(single),
                        Err(_) => Err(refusal),
                    };
                }
            }
        }
        Some("root") if uid.is_root() => root()?,
        Some("root") => {
            return Err(Error::Mode {
                mode: "root".to_owned(),
                reason: format!("kiln runs as user {uid}"),
                hints: vec!["leave `--mode` out: kiln needs no root".to_owned()],
            });
        }
        Some("subordinate") => subordinate(uid, gid)?,
        Some("single") => single(uid, gid, None),
        Some("chroot") => {
            return Err(Error::Mode {
                mode: "chroot".to_owned(),
                reason: "this version of kiln does not have it".to_owned(),
                hints: vec!["`kiln doctor` shows what this host allows".to_owned()],
            });
        }
        Some(other) => {
            return Err(Error::Mode {
                mode: other.to_owned(),
                reason: "there is no such mode".to_owned(),
                hints: vec!["the modes are `auto`, `root`, `subordinate` and `single`".to_owned()],
            });
        }
    };
    probe::try_identity(&identity)?;
    Ok(identity)
}

/// Whether this process is in a user namespace with a single id, so that what
/// files should have is recorded and not theirs.
pub fn owners_are_recorded() -> bool {
    Maps::full().is_ok_and(|maps| idmap::size(&maps.users) == 1)
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
