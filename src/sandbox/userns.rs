//! User namespaces: how a process becomes uid 0 of one that has an identity's ids.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Gid, Uid, fork, setresgid, setresuid};

use super::child::Child;
use super::identity::Identity;
use super::process::{exit_now, pipe, require_one_thread, wait_for};
use super::refusal::explain_refusal;
use super::{Error, idmap, standin};

/// Runs `work` as uid 0 of a user namespace with the identity's ids, in a child.
///
/// For work on files that belong to mapped ids, such as removing them. The
/// child's mounts are those of the caller.
pub fn run_mapped(identity: &Identity, work: impl FnOnce() -> u8) -> Result<u8, Error> {
    require_one_thread()?;
    // SAFETY: one thread, checked above, so the child may do anything.
    match unsafe { fork() }
        .map_err(io::Error::from)
        .map_err(Error::system("starting a helper"))?
    {
        ForkResult::Parent { child } => {
            wait_for(child).map_err(Error::system("waiting for a helper"))
        }
        ForkResult::Child => {
            let status = match become_root(identity, CloneFlags::empty()) {
                Ok(()) => work(),
                Err(error) => {
                    eprintln!("kiln: {error}");
                    125
                }
            };
            exit_now(status)
        }
    }
}

/// Makes the user namespace (and `more`) and becomes uid 0 of it.
///
/// The maps are written by a forked helper that stays in the old namespace,
/// because `newuidmap` wants a writer outside.
///
/// Where no namespace can be had, it gives up what is not needed instead.
pub(super) fn become_root(identity: &Identity, more: CloneFlags) -> Result<(), Error> {
    if !identity.has_namespaces() {
        return standin::confine();
    }
    let (ready, tell_ready) = pipe()?;
    let (result, tell_result) = pipe()?;
    let target = nix::unistd::getpid();
    // The maps' file belongs to root while a process is not dumpable.
    let _ = nix::sys::prctl::set_dumpable(true);
    // SAFETY: callers have one thread, so the child may do anything.
    match unsafe { fork() }
        .map_err(io::Error::from)
        .map_err(Error::system("starting the map writer"))?
    {
        ForkResult::Child => {
            drop((tell_ready, result));
            let mut go = [0];
            let mut said = Vec::new();
            if matches!(File::from(ready).read(&mut go), Ok(1))
                && let Err(error) = identity.maps().write(target)
            {
                let hints = error.hints();
                said = serde_json::to_vec(&(error.with_causes(), hints))
                    .unwrap_or_else(|_| b"[]".to_vec());
            }
            let _ = File::from(tell_result).write_all(&said);
            exit_now(0)
        }
        ForkResult::Parent { child } => {
            drop((ready, tell_result));
            let unshared = nix::sched::unshare(CloneFlags::CLONE_NEWUSER)
                .map_err(io::Error::from)
                .map_err(explain_refusal);
            if unshared.is_ok() {
                let _ = File::from(tell_ready).write_all(b"1");
            } else {
                drop(tell_ready);
            }
            let mut said = Vec::new();
            let _ = File::from(result).read_to_end(&mut said);
            let _ = wait_for(child);
            unshared?;
            if !said.is_empty() {
                // Its own error with all causes.
                let (message, hints) = serde_json::from_slice(&said)
                    .unwrap_or_else(|_| ("the map writer failed".to_owned(), Vec::new()));
                return Err(Error::Probe { message, hints });
            }
        }
    }
    let (root_user, root_group) = (Uid::from_raw(0), Gid::from_raw(0));
    let groups = if identity.maps().without_setgroups() {
        // Refused then, and the groups that stay are nobody's.
        Ok(())
    } else {
        nix::unistd::setgroups(&[])
    };
    groups
        .and_then(|()| setresgid(root_group, root_group, root_group))
        .and_then(|()| setresuid(root_user, root_user, root_user))
        .and_then(|()| {
            if more.is_empty() {
                Ok(())
            } else {
                nix::sched::unshare(more)
            }
        })
        .map_err(io::Error::from)
        .map_err(explain_refusal)
}

/// Makes the mounts of the calling process final for itself and what it starts.
///
/// A mount namespace that belongs to a less privileged user namespace cannot
/// undo what it was given: what is read-only stays so, and what is mounted over
/// (devices, switches of the kernel) stays hidden, whatever hooks mount, although
/// they have every capability. See "Restrictions on mount namespaces" in
/// `mount_namespaces(7)`. The ids stay as they are.
pub(super) fn lock_mounts() -> Result<(), Error> {
    require_one_thread()?;
    let maps = idmap::Maps::full().map_err(Error::system("reading the current id map"))?;
    become_root(&Identity::Root(maps), CloneFlags::CLONE_NEWNS)
}

/// Makes a user namespace below that of the calling process, with the same ids.
pub(super) fn below() -> Result<OwnedFd, Error> {
    let maps = idmap::Maps::full().map_err(Error::system("reading the current id map"))?;
    let failed = || Error::system("making the user namespace of programs in the target");
    let child = Child::start(|| {
        // The maps' file belongs to root while a process is not dumpable.
        let _ = nix::sys::prctl::set_dumpable(true);
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?;
        own_namespace(c"/proc/self/ns/user")
    })
    .map_err(failed())?;
    maps.write(child.number)?;
    child.end().map_err(failed())
}

/// Makes a namespace of another kind that belongs to a user namespace: of mounts, with copies
/// of all those of the calling thread, or of shared memory, semaphores and queues.
pub(super) fn belonging_to(users: &OwnedFd, kind: CloneFlags) -> io::Result<OwnedFd> {
    let link = if kind == CloneFlags::CLONE_NEWIPC {
        c"/proc/self/ns/ipc"
    } else {
        c"/proc/self/ns/mnt"
    };
    Child::start(|| {
        nix::sched::setns(users, CloneFlags::CLONE_NEWUSER)?;
        nix::sched::unshare(kind)?;
        own_namespace(link)
    })?
    .end()
}

fn own_namespace(link: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(link, flags, Mode::empty())?)
}
