//! The mount namespace of programs that run inside a target.
//!
//! A process that is merely `chroot`ed and has `CAP_SYS_CHROOT` walks out again
//! (`chroot(2)`). In here the target is the root of the whole namespace: what is
//! outside of it is mounted nowhere. Programs enter by descriptor, so all of one
//! phase share their mounts, and the engine's own mounts stay as they are.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;

use super::mounts;
use crate::threads::joined;

/// Where programs inside a target run.
#[derive(Debug)]
pub struct Inside {
    /// `None` where it cannot be had; then the root directory is changed alone.
    namespace: Option<OwnedFd>,
    root: OwnedFd,
}

impl Inside {
    /// Makes the namespace from what is mounted on and below `root` now.
    ///
    /// Later mounts of the caller do not appear in it.
    pub fn new(root: &Path) -> io::Result<Inside> {
        let directory = mounts::open_directory(root)?;
        let mut namespace = None;
        if super::standin::mounts_are_possible() {
            let made = std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().spawn_scoped(scope, || isolate(root))?;
                joined(thread)
            });
            match made {
                Ok(made) => namespace = Some(made),
                // A container's filter that lets us mount and not `pivot_root`.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Inside {
            namespace,
            root: directory,
        })
    }

    /// Whether the target is all that is mounted for programs in it.
    pub fn is_sealed(&self) -> bool {
        self.namespace.is_some()
    }

    /// Moves the calling process in. Async-signal-safe.
    pub fn enter(&self) -> io::Result<()> {
        match &self.namespace {
            Some(namespace) => nix::sched::setns(namespace, CloneFlags::CLONE_NEWNS)?,
            None => {
                nix::unistd::fchdir(&self.root)?;
                nix::unistd::chroot(c".")?;
            }
        }
        let dropped = close_eyes();
        if self.namespace.is_some() {
            dropped?;
        }
        Ok(())
    }
}

/// Processes outside have a capability without which none of them can be looked into
/// through /proc (`root`, `cwd`, `fd`, `mem`): gives it up for what the calling process
/// starts. It fails where the whole sandbox has given it up already.
fn close_eyes() -> io::Result<()> {
    const CAP_SYS_PTRACE: libc::c_ulong = 19;
    // SAFETY: integers.
    match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Moves the calling process into `root` for good, with a mount namespace of its own, as
/// programs inside a target are; `false`, and nothing is changed, where none can be had.
///
/// The process must have one thread.
pub fn seal(root: &Path) -> io::Result<bool> {
    match nix::sched::unshare(CloneFlags::CLONE_NEWNS) {
        Ok(()) => {}
        Err(nix::errno::Errno::EPERM | nix::errno::Errno::ENOSYS) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    }
    match make_top(root) {
        // A container's filter that lets us mount and not `pivot_root`.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(false),
        result => result?,
    }
    let _ = close_eyes();
    Ok(true)
}

/// Gives the calling thread a mount namespace whose root is `root`, and returns it.
fn isolate(root: &Path) -> io::Result<OwnedFd> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    let namespace = nix::fcntl::open(
        "/proc/thread-self/ns/mnt",
        nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    make_top(root)?;
    Ok(namespace)
}

/// Makes `root` the top of the mount namespace, which is the calling thread's alone.
fn make_top(root: &Path) -> io::Result<()> {
    // Opened here: a descriptor from before belongs to the other namespace.
    let directory = mounts::open_directory(root)?;
    let tree = mounts::clone_mount_at(&directory)?;
    mounts::attach(&tree, directory.as_fd())?;
    nix::unistd::fchdir(&tree)?;
    // The old root ends up on top of the new one, and is taken away from there.
    nix::unistd::pivot_root(c".", c".")?;
    nix::mount::umount2(c".", nix::mount::MntFlags::MNT_DETACH)?;
    Ok(())
}
