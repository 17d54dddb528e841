//! The mount namespace of programs that run inside a target.
//!
//! A process that is merely `chroot`ed and has `CAP_SYS_CHROOT` walks out again
//! (`chroot(2)`). In here the target is the root of the whole namespace: what is
//! outside of it is mounted nowhere. Programs enter by descriptor, so all of one
//! phase share their mounts, and the engine's own mounts stay as they are.
//!
//! The namespace belongs to a user namespace of its own. Some of what root may set up holds
//! for all programs of its user namespace and not for those that see a mount: who mounts
//! `binfmt_misc` (Linux 6.7) says which program runs in the place of any other, and hooks
//! outside are not to run one of the target's. Shared memory, semaphores and queues
//! (`ipc_namespaces(7)`) are those of programs inside alone, too.
//!
//! Where that cannot be had, programs lose that capability instead. The supervisor still
//! lets them change the root directory to the one that they have, as package managers do
//! before they run a script of a package. Directories of `/proc` that the supervisor opens
//! for them are a way up too: where nothing is mounted Landlock ends it, and the supervisor
//! lets nobody go there (`emul/confine.rs`).

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::stat::SFlag;

use super::capability::{self, CAP_SYS_CHROOT, CAP_SYS_PTRACE};
use super::{Error, landlock, mounts, root, standin, userns};
use crate::threads::joined;

/// What all programs inside have in common, and hooks outside have not.
#[derive(Debug)]
struct Namespaces {
    users: OwnedFd,
    /// Shared memory, semaphores and queues.
    objects: OwnedFd,
}

static NAMESPACES: OnceLock<Namespaces> = OnceLock::new();

/// Makes the namespaces of programs inside. Must be called before the first [`Inside`]
/// is made, while the process has one thread.
pub fn prepare() -> Result<(), Error> {
    if standin::mounts_are_possible() && NAMESPACES.get().is_none() {
        let users = userns::below()?;
        let objects = userns::belonging_to(&users, CloneFlags::CLONE_NEWIPC)
            .map_err(Error::system("making shared memory of the target's own"))?;
        let _ = NAMESPACES.set(Namespaces { users, objects });
    }
    Ok(())
}

/// Where programs inside a target run.
#[derive(Debug)]
pub struct Inside {
    /// `None` where nothing can be mounted.
    namespace: Option<OwnedFd>,
    /// The root directory that they are given, if it is not that of the namespace.
    root: Option<OwnedFd>,
    /// Landlock's rules, where nothing can be mounted.
    fence: Option<OwnedFd>,
}

impl Inside {
    /// Makes the namespace from what is mounted on and below `root` now.
    ///
    /// Later mounts of the caller do not appear in it.
    pub fn new(root: &Path) -> io::Result<Inside> {
        if !standin::mounts_are_possible() {
            let directory = mounts::open_directory(root)?;
            return Ok(Inside {
                namespace: None,
                fence: fence_of(&directory)?,
                root: Some(directory),
            });
        }
        let Namespaces { users, .. } = NAMESPACES
            .get()
            .ok_or_else(|| io::Error::other("the namespaces of the target were not made"))?;
        // Copied here: in the other namespace all that is mounted below could not be
        // unmounted by hooks any more.
        let tree = mounts::clone_mount(root, true)?;
        let namespace = userns::belonging_to(users, CloneFlags::CLONE_NEWNS)?;
        let is_top = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                root::own_context(|| {
                    nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNS)?;
                    make_top(root, &tree)
                })?
            })?;
            joined(thread)
        })?;
        Ok(Inside {
            namespace: Some(namespace),
            root: (!is_top).then_some(tree),
            fence: None,
        })
    }

    /// Whether the target is all that is mounted for programs in it.
    pub fn is_sealed(&self) -> bool {
        self.root.is_none()
    }

    /// Moves the calling process in. Async-signal-safe.
    pub fn enter(&self) -> io::Result<()> {
        if let (Some(common), Some(namespace)) = (NAMESPACES.get(), &self.namespace) {
            nix::sched::setns(&common.users, CloneFlags::CLONE_NEWUSER)?;
            nix::sched::setns(&common.objects, CloneFlags::CLONE_NEWIPC)?;
            nix::sched::setns(namespace, CloneFlags::CLONE_NEWNS)?;
        }
        if let Some(root) = &self.root {
            keep_to(root, self.fence.as_ref())?;
        }
        let dropped = close_eyes();
        if self.is_sealed() {
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

/// Makes a directory the root of the calling process, and of what it starts, which does not
/// change it again and keeps to these rules about files. The process is to become another
/// program. Async-signal-safe.
fn keep_to(root: &OwnedFd, fence: Option<&OwnedFd>) -> io::Result<()> {
    nix::unistd::fchdir(root)?;
    nix::unistd::chroot(c".")?;
    // What runs in there already may not look into this process, which still knows the host.
    capability::give_up_at_start(CAP_SYS_CHROOT)?;
    match fence {
        Some(fence) => landlock::restrict(fence),
        None => Ok(()),
    }
}

/// Takes what leads out of a root from the descriptors that the calling process has open.
///
/// Directories, as for `exec 9<DIRECTORY; flock 9`, become `/dev/null`: what it starts would
/// walk from there wherever it likes. Files that are open for reading become ones that cannot
/// be opened anew for writing, nor get another mode or owner.
fn forget_ways_out() -> io::Result<()> {
    let open = std::fs::read_dir("/proc/self/fd")?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for number in open.iter().filter_map(|name| name.to_str()?.parse().ok()) {
        // SAFETY: nothing closes any but what listed them, whose number is then refused.
        let open = unsafe { BorrowedFd::borrow_raw(number) };
        let found = match nix::sys::stat::fstat(open) {
            Err(Errno::EBADF) => continue,
            // What nothing is known of may be a way out.
            found => found?,
        };
        let is = |kind: SFlag| found.st_mode & libc::S_IFMT == kind.bits();
        let instead = if is(SFlag::S_IFDIR) {
            null.try_clone()?
        } else if is(SFlag::S_IFREG) && found.st_nlink > 0 && standin::mounts_are_possible() {
            match mounts::only_to_read(open)? {
                Some(instead) => instead,
                None => continue,
            }
        } else {
            continue;
        };
        // SAFETY: the process has one thread, which uses no file that it was started with.
        if unsafe { libc::dup2(instead.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Moves the calling process into `root` for good, as programs inside a target are: with
/// namespaces of its own where they can be had.
///
/// The process must have one thread.
pub fn seal(root: &Path) -> io::Result<()> {
    forget_ways_out()?;
    if standin::mounts_are_possible() {
        let tree = mounts::clone_mount(root, true)?;
        userns::lock_mounts().map_err(io::Error::other)?;
        nix::sched::unshare(CloneFlags::CLONE_NEWIPC)?;
        if !make_top(root, &tree)? {
            keep_to(&tree, None)?;
        }
    } else {
        let directory = mounts::open_directory(root)?;
        keep_to(&directory, fence_of(&directory)?.as_ref())?;
    }
    let _ = close_eyes();
    Ok(())
}

/// Puts a tree of mounts on `root`, and makes it the top of the mount namespace, which is the
/// calling thread's alone; false in a container that lets us mount and refuses
/// `pivot_root(2)`.
fn make_top(root: &Path, tree: &OwnedFd) -> io::Result<bool> {
    // Opened here: a descriptor from before belongs to the other namespace.
    let directory = mounts::open_directory(root)?;
    mounts::attach(tree, directory.as_fd())?;
    nix::unistd::fchdir(tree)?;
    // The old root ends up on top of the new one, and is taken away from there.
    match nix::unistd::pivot_root(c".", c".") {
        Err(nix::errno::Errno::EPERM | nix::errno::Errno::ENOSYS) => return Ok(false),
        moved => moved?,
    }
    nix::mount::umount2(c".", nix::mount::MntFlags::MNT_DETACH)?;
    Ok(true)
}
