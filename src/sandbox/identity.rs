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
}

impl Identity {
    /// The maps that the user namespace gets.
    pub fn maps(&self) -> &Maps {
        match self {
            Identity::Root(maps) | Identity::Subordinate(maps) => maps,
        }
    }

    /// One word for logs and `--mode`.
    pub fn name(&self) -> &'static str {
        match self {
            Identity::Root(_) => "root",
            Identity::Subordinate(_) => "subordinate",
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
            if uid.is_root() && full_size()? >= u64::from(NEEDED_IDS) {
                root()?
            } else {
                subordinate(uid, gid)?
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
        Some(other @ ("single" | "chroot")) => {
            return Err(Error::Mode {
                mode: other.to_owned(),
                reason: "this version of kiln has the modes `root` and `subordinate`".to_owned(),
                hints: vec!["give the user subordinate ids: `kiln doctor` says how".to_owned()],
            });
        }
        Some(other) => {
            return Err(Error::Mode {
                mode: other.to_owned(),
                reason: "there is no such mode".to_owned(),
                hints: vec!["the modes are `auto`, `root` and `subordinate`".to_owned()],
            });
        }
    };
    probe::try_maps(identity.maps())?;
    Ok(identity)
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
