//! The host as hooks outside the target see it: all of it, read-only.
//!
//! Only the paths that a build is given stay writable. Device nodes are replaced
//! by a private `/dev`, because a read-only mount does not stop writes to a
//! device, and the switches of a running kernel below `/proc` are read-only,
//! because they obey the owner (real root) and not capabilities.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::mounts::failed;
use super::network::Network;
use super::{Error, devices, hide, mounts, wall};

/// What the host view leaves writable.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The build's own directory; on disk, one in a directory of the build's that nobody else
    /// can enter.
    pub work: PathBuf,
    /// Mount a filesystem in memory on it.
    pub work_in_memory: bool,
    /// Bytes that this filesystem may hold; `None` is half of the memory.
    pub work_size: Option<u64>,
    /// Other directories that stay writable (caches, the current directory).
    pub writable: Vec<PathBuf>,
    /// Files and directories that are covered: secrets, sockets.
    pub hidden: Vec<PathBuf>,
    /// Directories in which some of these may be replaced meanwhile.
    pub replaced_in: Vec<PathBuf>,
    /// What stays visible below these.
    pub shown: Vec<PathBuf>,
    /// The network, whose namespace was made already.
    pub network: Network,
}

/// Parts of `/proc` that change the running kernel for everybody.
const KERNEL_SWITCHES: [&str; 6] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
    "/proc/acpi",
];

/// Parts of `/proc` and `/sys` that tell about the host what no build needs, and
/// which obey ids and not namespaces.
const KERNEL_SECRETS: [&str; 8] = [
    "/proc/keys",
    "/proc/key-users",
    "/proc/kcore",
    "/proc/kmsg",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/latency_stats",
    "/sys/firmware",
];

/// Whether a path is one of those, or below.
pub(super) fn is_secret(path: &Path) -> bool {
    KERNEL_SECRETS.iter().any(|secret| path.starts_with(secret))
}

/// Rearranges the mounts of the calling process, which must have a mount
/// namespace of its own. Returns remarks for the log, one for each fallback.
pub fn restrict(view: &View) -> Result<Vec<String>, Error> {
    let mut remarks = Vec::new();
    if !super::standin::mounts_are_possible() {
        remarks.push(
            "nothing can be mounted here: hooks outside the target may write wherever root of \
             this container may, and hooks inside are held by their root directory alone, which \
             they may not change"
                .to_owned(),
        );
        if !super::landlock::has_fences() {
            remarks.push(
                "there is no second wall around hooks inside: the kernel of this container has no \
                 Landlock (Linux 5.19)"
                    .to_owned(),
            );
        }
        remarks.extend(raise_wall(view.network, false)?);
        return Ok(remarks);
    }
    let root = Path::new("/");
    mounts::mount(
        None,
        root,
        None,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None,
    )
    .map_err(failed("private propagation", root))?;
    // Outer directories first: binding one hides what was bound below it before.
    let mut writable: Vec<&Path> = view.writable.iter().map(PathBuf::as_path).collect();
    writable.sort();
    writable.dedup();
    let shown: Vec<PathBuf> = view
        .shown
        .iter()
        .chain(&view.writable)
        .chain([&view.work])
        .cloned()
        .collect();
    let hidden = hide::Hidden {
        paths: &view.hidden,
        replaced_in: &view.replaced_in,
    };
    hide::cover(hidden, &shown, &view.work)?;
    for path in &writable {
        mounts::bind_to_itself(path).map_err(failed("a writable directory", path))?;
    }
    let around = if view.work_in_memory {
        Vec::new()
    } else {
        enclose(&view.work, &writable)?
    };
    mount_work(view)?;
    writable.extend(around);
    writable.push(&view.work);
    let given = in_shared_memory(writable.iter().copied())?;
    devices::make_private()?;
    for (path, directory) in given {
        std::fs::create_dir_all(path)
            .and_then(|()| mounts::open_directory(path))
            .and_then(|place| mounts::attach(&directory, std::os::fd::AsFd::as_fd(&place)))
            .map_err(failed("a writable directory", path))?;
    }
    remarks.extend(own_proc());
    mounts::make_read_only(root, true).map_err(failed("the host's tree read-only", root))?;
    for path in ["/dev/shm", "/dev/pts", "/proc"].map(Path::new) {
        mounts::make_writable(path).map_err(failed("a writable directory", path))?;
    }
    for path in writable {
        mounts::make_writable(path).map_err(failed("a writable directory", path))?;
    }
    hide_kernel_secrets()?;
    remarks.extend(forbid_control_groups());
    lock_kernel_switches()?;
    super::userns::lock_mounts()?;
    super::inside::prepare()?;
    remarks.extend(raise_wall(view.network, view.network == Network::None)?);
    Ok(remarks)
}

/// Bytes of a filesystem in memory for each name in it. That is what the kernel allows
/// where no size is given, too, and less than files have on average.
const BYTES_PER_NAME: u64 = 4096;

/// Names that any filesystem in memory may hold: what kiln puts there itself is far less.
const FEWEST_NAMES: u64 = 16 << 10;

/// Files, directories, links and further names of files that fit into so many bytes in
/// memory.
///
/// What is empty takes no space of the filesystem, and still 2 KiB of the kernel's memory.
fn most_names(size: u64) -> u64 {
    (size / BYTES_PER_NAME).max(FEWEST_NAMES)
}

/// Keeps the directory around a build's on disk as it is: nobody but the user can enter it, and
/// so what programs with set-id bits a target has. It stays read-only. Directories above it that
/// hooks can write to are mounts, which cannot be renamed; they are returned.
fn enclose<'a>(work: &'a Path, writable: &[&Path]) -> Result<Vec<&'a Path>, Error> {
    let Some(around) = work.parent() else {
        return Ok(Vec::new());
    };
    let can_be_renamed = |path: &&Path| {
        let is_above = |other: &&Path| path.starts_with(other) && path != other;
        writable.iter().any(is_above) && !writable.contains(path)
    };
    let mut above: Vec<&Path> = around.ancestors().skip(1).filter(can_be_renamed).collect();
    above.reverse();
    for path in above.iter().copied().chain([around]) {
        mounts::bind_to_itself(path).map_err(failed("the build directory", path))?;
    }
    Ok(above)
}

/// Makes the build's own directory a mount: in memory, or as it is.
fn mount_work(view: &View) -> Result<(), Error> {
    if !view.work_in_memory {
        return mounts::bind_to_itself(&view.work)
            .map_err(failed("the build directory", &view.work));
    }
    let mut options = OsString::from("mode=0700");
    if let Some(size) = view.work_size {
        options.push(format!(",size={size},nr_inodes={}", most_names(size)));
    }
    mounts::mount(
        Some(Path::new("kiln")),
        &view.work,
        Some("tmpfs"),
        MsFlags::empty(),
        Some(&options),
    )
    .map_err(failed("a filesystem in memory", &view.work))
}

/// Mounts a `/proc` of the sandbox's processes; a remark where the host's stays.
fn own_proc() -> Option<String> {
    // With the process numbers of the host, its `/proc` is the one that fits.
    if !super::process::has_own_processes() {
        return Some(
            "no process numbers of its own: the container masks parts of /proc, so a fresh one \
             is refused"
                .to_owned(),
        );
    }
    let mounted = mounts::mount(
        Some(Path::new("proc")),
        Path::new("/proc"),
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None,
    );
    // A container that masks parts of /proc refuses a fresh one.
    let error = mounted.err()?;
    Some(format!(
        "using the host's /proc: a fresh one is refused ({error})"
    ))
}

/// How many control group namespaces there may be in this user namespace and below
/// (`namespaces(7)`).
const CONTROL_GROUPS: &str = "/proc/sys/user/max_cgroup_namespaces";

/// Keeps hooks from mounting control groups, which takes a namespace of theirs: what they
/// would find is all groups below the one that kiln was started in, those of the host's root
/// for example, with files by which their owner stops and kills what is in them.
fn forbid_control_groups() -> Option<String> {
    let error = std::fs::write(CONTROL_GROUPS, "0").err()?;
    // A kernel without control groups.
    if error.kind() == std::io::ErrorKind::NotFound {
        return None;
    }
    Some(format!(
        "hooks may mount the control groups that this build is in, with those below: writing \
         `{CONTROL_GROUPS}` is refused ({error})"
    ))
}

/// Makes what changes the running kernel read-only.
fn lock_kernel_switches() -> Result<(), Error> {
    let switches = KERNEL_SWITCHES.map(PathBuf::from);
    let mut locked: Vec<PathBuf> = switches.into_iter().filter(|path| path.exists()).collect();
    for path in own_tables().map_err(failed("parts of /proc", "/proc".as_ref()))? {
        if !locked.contains(&path) {
            locked.push(path);
        }
    }
    for path in locked {
        mounts::bind_to_itself(&path)
            .and_then(|()| mounts::make_read_only(&path, true))
            .map_err(failed("a read-only part of /proc", &path))?;
    }
    Ok(())
}

/// What is in `/proc` beside processes and belongs to root, if that is root of the machine:
/// its owners and modes are the kernel's, not the mount's, so that a hook which changes
/// those of all files below the target would change them for everybody.
fn own_tables() -> std::io::Result<Vec<PathBuf>> {
    let mut tables = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let is_process = entry.file_name().as_encoded_bytes()[0].is_ascii_digit();
        // A process may be gone by now.
        if is_process || entry.file_type()?.is_symlink() {
            continue;
        }
        // Where root of the machine has no number here, nobody can change them.
        if entry.metadata()?.uid() == 0 {
            tables.push(entry.path());
        }
    }
    Ok(tables)
}

fn raise_wall(network: Network, own_network_namespace: bool) -> Result<Vec<String>, Error> {
    wall::raise(network, own_network_namespace)
        .map_err(Error::system("refusing system calls to hooks"))
}

/// Covers what is listed, as far as it is there, by an empty file or directory.
fn hide_kernel_secrets() -> Result<(), Error> {
    let what = "a cover for a part of /proc";
    for secret in KERNEL_SECRETS {
        let path = Path::new(secret);
        let Ok(meta) = std::fs::metadata(path) else {
            continue;
        };
        if meta.is_dir() {
            mounts::mount(
                Some(Path::new("hidden")),
                path,
                Some("tmpfs"),
                MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some(OsStr::new("mode=0555")),
            )
            .map_err(failed(what, path))?;
            continue;
        }
        let cover =
            mounts::clone_mount(Path::new("/dev/null"), false).map_err(failed(what, path))?;
        let place = nix::fcntl::open(
            path,
            nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
            nix::sys::stat::Mode::empty(),
        )
        .map_err(std::io::Error::from)
        .map_err(failed(what, path))?;
        mounts::attach(&cover, std::os::fd::AsFd::as_fd(&place)).map_err(failed(what, path))?;
    }
    Ok(())
}

/// Directories of a build that the private `/dev` would cover, as mounts to be attached
/// anew: `/dev/shm` is where some build for its being in memory.
fn in_shared_memory<'a>(
    given: impl Iterator<Item = &'a Path>,
) -> Result<Vec<(&'a Path, OwnedFd)>, Error> {
    given
        .filter(|path| path.starts_with("/dev/shm"))
        .map(|path| {
            let directory =
                mounts::clone_mount(path, true).map_err(failed("a writable directory", path))?;
            Ok((path, directory))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_memory_are_in_proportion_to_its_size() {
        for (size, names) in [
            (0, 16_384),
            (60 << 20, 16_384),
            (1 << 30, 262_144),
            (u64::MAX, u64::MAX >> 12),
        ] {
            assert_eq!(most_names(size), names, "{size}");
        }
    }
}
