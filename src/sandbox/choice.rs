//! How the identity of a sandbox is chosen: by trying, from the one that gives most
//! to the one that needs least.

use nix::unistd::{Gid, Uid};

use super::identity::Identity;
use super::idmap::{self, Maps, NEEDED_IDS};
use super::refusal::AS_ROOT;
use super::{Error, probe};

/// What a build runs as, and in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its ids.
    pub identity: Identity,
    /// Whether it has process numbers of its own, with a `/proc` that fits.
    pub own_processes: bool,
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
    let reason = Some(refusal.with_causes());
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
        let mut hints = last.hints();
        hints.extend(refusal.hints());
        hints.retain(|hint| hint != AS_ROOT);
        Error::Probe {
            message: format!(
                "{}; and not even a change of the root directory: {}",
                refusal.with_causes(),
                last.with_causes()
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
