//! The mount namespace of programs that run inside a target.
//!
//! A process that is merely `chroot`ed and has `CAP_SYS_CHROOT` walks out again
//! (`chroot(2)`). In here the target is the root of the whole namespace: what is
//! outside of it is mounted nowhere. Programs enter by descriptor, so all of one
//! phase share their mounts, and the engine's own mounts stay as they are.
//!
//! Where that cannot be had, programs lose that capability instead. The supervisor still
//! lets them change the root directory to the one that they have, as package managers do
//! before they run a script of a package. Directories of `/proc` that the supervisor opens
//! for them are a way up too: where nothing is mounted Landlock ends it, and the supervisor
//! lets nobody go there (`emul/confine.rs`).

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;

use super::capability::{self, CAP_SYS_CHROOT, CAP_SYS_PTRACE};
use super::{landlock, mounts};
use crate::threads::joined;

/// Where programs inside a target run.
#[derive(Debug)]
pub struct Inside {
    /// `None` where it cannot be had; then the root directory is changed alone.
    namespace: Option<OwnedFd>,
    root: OwnedFd,
    /// Landlock's rules, where nothing can be mounted.
    fence: Option<OwnedFd>,
}

impl Inside {
    /// Makes the namespace from what is mounted on and below `root` now.
    ///
    /// Later mounts of the caller do not appear in it.
    pub fn new(root: &Path) -> io::Result<Inside> {
        let directory = mounts::open_directory(root)?;
        let mut namespace = None;
        let mut fence = None;
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
        } else {
            fence = fence_of(&directory)?;
        }
        Ok(Inside {
            namespace,
            root: directory,
            fence,
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
                stay(self.fence.as_ref())?;
            }
        }
        let dropped = close_eyes();
        if self.namespace.is_some() {
            dropped?;
        }
        Ok(())
    }
}

/// Landlock's rules for programs in `root`, if this kernel has them.
fn fence_of(root: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    landlock::fence(root)
}

/// Processes outside have a capability without which none of them can be looked into
/// through /proc (`root`, `cwd`, `fd`, `mem`): gives it up for what the calling process
/// starts. It fails where the whole sandbox has given it up already.
fn close_eyes() -> io::Result<()> {
    capability::never_gain(CAP_SYS_PTRACE)
}

/// The calling process, and what it starts, does not change its root directory again, and
/// keeps to these rules about files. Async-signal-safe.
fn stay(fence: Option<&OwnedFd>) -> io::Result<()> {
    capability::give_up(CAP_SYS_CHROOT)?;
    match fence {
        Some(fence) => landlock::restrict(fence),
        None => Ok(()),
    }
}

/// Puts `/dev/null` in the place of every directory that the calling process has open, as for
/// `exec 9<DIRECTORY; flock 9`: what it starts would walk from there wherever it likes.
fn forget_directories() -> io::Result<()> {
    let open = std::fs::read_dir("/proc/self/fd")?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for number in open.iter().filter_map(|name| name.to_str()?.parse().ok()) {
        // What listed them is closed by now.
        let found = std::fs::metadata(format!("/proc/self/fd/{number}"));
        if !found.is_ok_and(|found| found.is_dir()) {
            continue;
        }
        // SAFETY: the process has one thread, which uses no directory that it has open.
        if unsafe { libc::dup2(null.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Moves the calling process into `root` for good, as programs inside a target are: with a
/// mount namespace of its own where one can be had.
///
/// The process must have one thread.
pub fn seal(root: &Path) -> io::Result<()> {
    forget_directories()?;
    let own_mounts = match nix::sched::unshare(CloneFlags::CLONE_NEWNS) {
        Ok(()) => make_top(root),
        Err(errno) => Err(errno.into()),
    };
    match own_mounts {
        Ok(()) => {}
        // No mounts at all, or a container's filter that lets us mount and not `pivot_root`.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
            let directory = mounts::open_directory(root)?;
            let fence = if super::standin::mounts_are_possible() {
                None
            } else {
                fence_of(&directory)?
            };
            nix::unistd::fchdir(&directory)?;
            nix::unistd::chroot(c".")?;
            stay(fence.as_ref())?;
        }
        Err(error) => return Err(error),
    }
    let _ = close_eyes();
    Ok(())
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
