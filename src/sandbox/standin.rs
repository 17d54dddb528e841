//! What takes the place of mounts where none can be made.
//!
//! A container's root without `CAP_SYS_ADMIN` can change its root directory and
//! nothing else. The target's own `/dev` is then moved aside for one that has the
//! usual nodes, and the hooks are moved into the target and back. `/proc` and
//! `/sys` are answered by the supervisor ([`super::emul`]).
//!
//! A program that is in a directory when that moves out of the target is out too: `..` leads
//! on to the container's root. So all that run in the target are ended first.
//!
//! Nothing here outlives a killed build but files below its own directory.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use caps::{CapSet, Capability};
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, mkdirat, mknodat};
use nix::sys::time::TimeSpec;
use nix::unistd::symlinkat;

use super::mounts::{open_below, open_directory};
use super::sweep::remove_below;

/// What a process keeps of its capabilities: what containers give by default, so
/// that root of a host can harm it no more than root of a container can.
const KEPT: [Capability; 13] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_MKNOD,
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_SETFCAP,
];

/// Device nodes that every program may expect, with their numbers (`mem(4)`, `tty(4)`).
pub(super) const NODES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// What lets a container change the root directory: its filter looks at what the
/// container has, whoever is root of which namespace.
pub(super) const CHROOT_HINT: &str = "docker and podman: `--cap-add SYS_CHROOT`; Kubernetes: \
    `capabilities: {add: [\"SYS_CHROOT\"]}`";

/// Whether this process may mount at all: uid 0 of a namespace of ours may always,
/// a container's root that is confined to `chroot` never.
pub fn mounts_are_possible() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(true)
}

/// Gives up, for good, what a default container has not got either.
///
/// Without `CAP_SYS_ADMIN` nothing that a build runs can leave a mount behind.
pub(super) fn confine() -> Result<(), super::Error> {
    let failed = |error: caps::errors::CapsError| super::Error::System {
        action: "giving up capabilities".to_owned(),
        source: io::Error::other(error.to_string()),
    };
    let had = caps::read(None, CapSet::Permitted).map_err(failed)?;
    // Without it, Yama lets nobody look into daemons that hooks leave behind.
    let traces = yama_restricts();
    let kept: caps::CapsHashSet = had
        .into_iter()
        .filter(|capability| {
            KEPT.contains(capability) || traces && *capability == Capability::CAP_SYS_PTRACE
        })
        .collect();
    // What may not be taken off the bounding set stays out of reach by
    // `no_new_privs`, which the filter of every hook needs.
    for capability in caps::read(None, CapSet::Bounding).map_err(failed)? {
        if !kept.contains(&capability) {
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
    }
    let _ = caps::clear(None, CapSet::Ambient);
    let _ = caps::set(None, CapSet::Inheritable, &caps::CapsHashSet::new());
    caps::set(None, CapSet::Effective, &kept).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(failed)?;
    let wanted = Capability::CAP_SYS_CHROOT;
    if kept.contains(&wanted) {
        return Ok(());
    }
    Err(super::Error::Mode {
        mode: "chroot".to_owned(),
        reason: "the capability CAP_SYS_CHROOT is missing".to_owned(),
        hints: vec![CHROOT_HINT.to_owned()],
    })
}

/// Whether only ancestors, or nobody, may look into processes of the same user
/// (`Documentation/admin-guide/LSM/Yama.rst` of Linux).
pub(super) fn yama_restricts() -> bool {
    super::refusal::sysctl(super::refusal::YAMA).is_some_and(|scope| scope != "0")
}

/// Some programs did not end.
static STUCK: AtomicBool = AtomicBool::new(false);

/// Ends what hooks left running in the target, before a directory of it moves out: if that
/// fails, none may.
fn end_programs(root: &OwnedFd) -> io::Result<()> {
    if !super::family::end_within(root) {
        STUCK.store(true, Ordering::Relaxed);
    }
    require_ended()
}

/// Fails if programs of the target did not end, so that it is not as it should be.
pub fn require_ended() -> io::Result<()> {
    if STUCK.load(Ordering::Relaxed) {
        return Err(io::Error::other("some programs in the target do not end"));
    }
    Ok(())
}

/// A `/dev` with the usual nodes in the place of the target's own, which comes
/// back when this is dropped.
#[derive(Debug)]
pub(super) struct Device {
    root: OwnedFd,
    /// Where the target's own waits, beside the target.
    aside: PathBuf,
    times: (TimeSpec, TimeSpec),
}

impl Device {
    pub(super) fn install(root: &Path) -> io::Result<Device> {
        let directory = open_directory(root)?;
        let dev = open_below(&directory, "dev")?;
        drop(dev);
        end_programs(&directory)?;
        let before = std::fs::metadata(root)?;
        let mut aside: OsString = root.as_os_str().to_owned();
        aside.push(".dev");
        nix::fcntl::renameat(&directory, "dev", AT_FDCWD, Path::new(&aside))?;
        let device = Device {
            root: directory,
            aside: aside.into(),
            times: (
                TimeSpec::new(before.atime(), before.atime_nsec()),
                TimeSpec::new(before.mtime(), before.mtime_nsec()),
            ),
        };
        // What is there already goes away again if this fails.
        populate(&device.root)?;
        Ok(device)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let restored = end_programs(&self.root)
            .and_then(|()| remove_below(&self.root, c"dev"))
            .and_then(|()| {
                Ok(nix::fcntl::renameat(
                    AT_FDCWD,
                    &self.aside,
                    &self.root,
                    "dev",
                )?)
            })
            .and_then(|()| {
                Ok(nix::sys::stat::utimensat(
                    &self.root,
                    ".",
                    &self.times.0,
                    &self.times.1,
                    nix::sys::stat::UtimensatFlags::FollowSymlink,
                )?)
            });
        if let Err(error) = restored {
            tracing::warn!("cannot restore `/dev` of the target: {error}");
        }
    }
}

fn populate(root: &OwnedFd) -> io::Result<()> {
    let exact = |directory: &OwnedFd, name: &str, mode: u32| -> io::Result<()> {
        // The mode given at creation was masked by the umask.
        Ok(fchmodat(
            directory,
            name,
            Mode::from_bits_truncate(mode),
            FchmodatFlags::FollowSymlink,
        )?)
    };
    mkdirat(root, "dev", Mode::from_bits_truncate(0o755))?;
    exact(root, "dev", 0o755)?;
    let dev = open_below(root, "dev")?;
    let mut real = true;
    for (name, major, minor) in NODES {
        let mode = Mode::from_bits_truncate(0o666);
        let number = nix::sys::stat::makedev(major, minor);
        real = real
            && mknodat(&dev, name, SFlag::S_IFCHR, mode, number).is_ok()
            // A filesystem may hold nodes and yet not let them be opened.
            && (name == "tty" || nix::fcntl::openat(&dev, name, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).is_ok());
    }
    for (name, _, _) in NODES {
        if !real {
            // The supervisor opens the container's own in their place.
            let _ = nix::unistd::unlinkat(&dev, name, nix::unistd::UnlinkatFlags::NoRemoveDir);
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            nix::fcntl::openat(&dev, name, flags, Mode::from_bits_truncate(0o666))?;
        }
        exact(&dev, name, 0o666)?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777)] {
        mkdirat(&dev, name, Mode::from_bits_truncate(mode))?;
        exact(&dev, name, mode)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlinkat(target, &dev, name)?;
    }
    Ok(())
}

/// A directory that was moved into the target, and goes back when this is dropped.
#[derive(Debug)]
pub(super) struct Moved {
    from: PathBuf,
    root: OwnedFd,
    parent: OwnedFd,
    name: String,
    directory: OwnedFd,
}

impl Moved {
    /// Moves `from` to `path` below `root`, where an empty directory is, and
    /// leaves a link in its place. No part of `path` may be a link.
    ///
    /// Programs in the target may put another directory, or a link to anywhere, at `path`:
    /// the link leads to the directory itself, by a descriptor of this process.
    pub(super) fn into_root(from: &Path, root: &Path, path: &str) -> io::Result<Moved> {
        let directory = open_directory(root)?;
        let path = path.trim_start_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let parent = open_below(&directory, parent)?;
        let own = open_directory(from)?;
        nix::fcntl::renameat(AT_FDCWD, from, &parent, name)?;
        let link = format!("/proc/self/fd/{}", own.as_raw_fd());
        let moved = Moved {
            from: from.to_owned(),
            root: directory,
            parent,
            name: name.to_owned(),
            directory: own,
        };
        std::os::unix::fs::symlink(link, from)?;
        Ok(moved)
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        let back = || -> io::Result<()> {
            end_programs(&self.root)?;
            if std::fs::symlink_metadata(&self.from).is_ok_and(|meta| meta.is_symlink()) {
                std::fs::remove_file(&self.from)?;
            }
            let identity = |of: nix::sys::stat::FileStat| (of.st_dev, of.st_ino);
            let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            let found = nix::sys::stat::fstatat(&self.parent, self.name.as_str(), flags)?;
            // Whatever stands there instead is not for the engine to read, or to clear.
            if identity(found) != identity(nix::sys::stat::fstat(&self.directory)?) {
                return Err(io::Error::other("a hook put something else in its place"));
            }
            nix::fcntl::renameat(
                self.parent.as_fd(),
                self.name.as_str(),
                AT_FDCWD,
                &self.from,
            )?;
            Ok(())
        };
        if let Err(error) = back() {
            tracing::warn!("cannot move `{}` back: {error}", self.from.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt as _;

    use super::*;

    #[test]
    fn the_targets_own_dev_comes_back_untouched() {
        let work = tempfile::tempdir().expect("a directory");
        let root = work.path().join("mnt");
        fs_err::create_dir_all(root.join("dev/own")).expect("made");
        let before = fs_err::metadata(&root)
            .expect("there")
            .modified()
            .expect("a time");
        let device = Device::install(&root).expect("installed");
        let null = fs_err::metadata(root.join("dev/null")).expect("there");
        // Without CAP_MKNOD an empty file stands for it.
        assert!(null.file_type().is_char_device() || null.len() == 0);
        assert!(!root.join("dev/own").exists());
        fs_err::create_dir_all(root.join("dev/shm/a/b")).expect("made");
        std::os::unix::fs::symlink("/", root.join("dev/shm/link")).expect("made");
        // Neither the stack nor descriptors limit how deep.
        let mut deep = open_directory(&root.join("dev/shm")).expect("there");
        for _ in 0..8000 {
            mkdirat(&deep, "d", Mode::from_bits_truncate(0o755)).expect("made");
            deep = open_below(&deep, "d").expect("there");
        }
        drop(deep);
        drop(device);
        assert!(root.join("dev/own").is_dir() && !root.join("dev/null").exists());
        let after = fs_err::metadata(&root)
            .expect("there")
            .modified()
            .expect("a time");
        assert_eq!(before, after);
        assert_eq!(fs_err::read_dir(work.path()).expect("there").count(), 1);
    }

    #[test]
    fn a_moved_directory_can_be_read_from_both_places_and_comes_back() {
        let work = tempfile::tempdir().expect("a directory");
        let (root, hooks) = (work.path().join("mnt"), work.path().join("hooks"));
        fs_err::create_dir_all(root.join("tmp/in")).expect("made");
        fs_err::create_dir(&hooks).expect("made");
        fs_err::write(hooks.join("hook"), "1").expect("written");
        let moved = Moved::into_root(&hooks, &root, "/tmp/in").expect("moved");
        for path in [hooks.join("hook"), root.join("tmp/in/hook")] {
            assert!(path.exists(), "{}", path.display());
        }
        drop(moved);
        assert!(hooks.join("hook").exists() && !hooks.is_symlink());
        assert!(!root.join("tmp/in").exists());
        fs_err::remove_dir(root.join("tmp")).expect("empty");
        std::os::unix::fs::symlink("/", root.join("tmp")).expect("made");
        assert!(Moved::into_root(&hooks, &root, "/tmp/in").is_err());
        assert!(hooks.join("hook").exists());
    }

    #[test]
    fn only_the_directory_that_was_moved_comes_back() {
        let work = tempfile::tempdir().expect("a directory");
        let (root, hooks) = (work.path().join("mnt"), work.path().join("hooks"));
        let of_host = work.path().join("host");
        for directory in [&root.join("tmp/in"), &hooks, &of_host] {
            fs_err::create_dir_all(directory).expect("made");
        }
        fs_err::write(hooks.join("hook"), "1").expect("written");
        let moved = Moved::into_root(&hooks, &root, "/tmp/in").expect("moved");
        fs_err::rename(root.join("tmp/in"), root.join("tmp/away")).expect("moved");
        std::os::unix::fs::symlink(&of_host, root.join("tmp/in")).expect("made");
        // The engine still finds what it moved.
        assert!(hooks.join("hook").exists());
        drop(moved);
        assert!(fs_err::symlink_metadata(&hooks).is_err());
        assert!(root.join("tmp/in").is_symlink() && of_host.is_dir());
    }
}
