//! What is mounted in `/dev`: nodes of the host that harm nobody, and terminals and shared
//! memory (`pts(4)`, `shm_overview(7)`), of which hooks outside and the target have their own.

use std::ffi::CStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;

use super::child::Child;
use super::standin::NODES;
use super::{Error, mounts};

const TERMINALS: &CStr = c"/dev/pts";
const SHARED_MEMORY: &CStr = c"/dev/shm";

/// What to do where one of the nodes is not there.
pub(super) const NODES_ADVICE: &str =
    "as an administrator: mount a `/dev`, in a chroot by `mount --rbind /dev ROOT/dev`";

/// A node of the host that a build would be given and that is not there.
pub(super) fn missing_node() -> Option<PathBuf> {
    NODES
        .iter()
        .map(|(name, _, _)| Path::new("/dev").join(name))
        .find(|path| !path.exists())
}

/// Mounts a `/dev` with the harmless nodes of the host.
pub(super) fn make_private() -> Result<(), Error> {
    let dev = Path::new("/dev");
    let failed = mounts::failed;
    let io = |action: &str, path: &Path| Error::system(format!("{action} `{}`", path.display()));
    let mut nodes = Vec::new();
    for (name, _, _) in NODES {
        let path = dev.join(name);
        let node = mounts::clone_mount(&path, false).map_err(failed("a device node", &path))?;
        nodes.push((path, node));
    }
    mounts::mount(
        Some(Path::new("dev")),
        dev,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("mode=0755".as_ref()),
    )
    .map_err(failed("a private /dev", dev))?;
    for (path, node) in nodes {
        let file = File::create(&path).map_err(io("creating", &path))?;
        mounts::attach(&node, file.as_fd()).map_err(failed("a device node", &path))?;
    }
    for name in ["pts", "shm"] {
        let path = dev.join(name);
        std::fs::create_dir(&path).map_err(io("creating", &path))?;
    }
    mount_shared_memory().map_err(failed("shared memory", &dev.join("shm")))?;
    mount_terminals().map_err(failed("terminals", &dev.join("pts")))?;
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        let path = dev.join(name);
        symlink(target, &path).map_err(io("creating", &path))?;
    }
    std::fs::set_permissions(dev, Permissions::from_mode(0o755)).map_err(io("changing", dev))
}

fn mount_shared_memory() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_new(c"tmpfs", SHARED_MEMORY, flags, c"mode=1777")
}

fn mount_terminals() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let mount = |options| mount_new(c"devpts", TERMINALS, flags, options);
    // Group 5 is tty everywhere; where it is not mapped the option is refused.
    mount(c"newinstance,ptmxmode=0666,mode=0620,gid=5")
        .or_else(|_| mount(c"newinstance,ptmxmode=0666,mode=0620"))
}

/// Mounts a filesystem of a kind. Async-signal-safe.
fn mount_new(kind: &CStr, place: &CStr, flags: MsFlags, options: &CStr) -> io::Result<()> {
    Ok(nix::mount::mount(
        Some(kind),
        place,
        Some(kind),
        flags,
        Some(options),
    )?)
}

/// The sandbox's `/dev`, or a directory in it of which everybody has one of their own, if
/// that is what a path is.
pub(super) fn own_to_all(path: &Path) -> io::Result<Option<&'static CStr>> {
    let found = nix::sys::stat::stat(path)?;
    let is_found = |place: &&CStr| {
        nix::sys::stat::stat(*place)
            .is_ok_and(|own| (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino))
    };
    Ok([c"/dev", TERMINALS, SHARED_MEMORY]
        .into_iter()
        .find(is_found))
}

/// The sandbox's `/dev`, or `place` in it, for others than hooks outside, and attached nowhere:
/// with terminals and shared memory of their own. A program of the target would read what is
/// typed into theirs, and builds may have directories in their memory.
pub(super) fn anew(place: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Child::start(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        mount_shared_memory()?;
        mount_terminals()?;
        // So that nobody can take them away and see what they are mounted on.
        nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
        mounts::clone_mount_at(&nix::fcntl::open(place, flags, Mode::empty())?)
    })?
    .end()
}
