//! Covers what hooks outside have no business with: secrets and sockets.
//!
//! A read-only mount does not stop a program from reading a key or from talking
//! to a daemon through its socket. So such paths are covered by an empty directory
//! or file before the host's tree is locked, and what a build was given below a
//! covered directory is mounted on top again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::unistd::{AccessFlags, access};

use super::mounts::failed;
use super::silent::{is_below_silent, is_silent};
use super::{Error, listed, mounts};

/// More sockets than this are not covered one by one.
const MOST_SOCKETS: usize = 4096;
/// So many files of a directory are looked at for sockets.
const MOST_ENTRIES: usize = 1 << 16;
/// Columns in the kernel's table of sockets before their names.
const COLUMNS: usize = 7;

/// Sockets of the host, by name, that this process may connect to.
///
/// The kernel tells the names that they were made by. Since then they may have got others, as
/// the master of a connection of `ssh`, or they start from wherever the daemon was. So all that
/// is in the directories of such names is looked at.
///
/// Has to be read in the network namespace in which they were made.
pub fn host_sockets() -> Vec<PathBuf> {
    let Ok(table) = std::fs::read("/proc/net/unix") else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = directories_of(&table)
        .iter()
        .filter(|directory| !is_silent(directory))
        .flat_map(|directory| sockets_in(directory))
        .filter(|path| access(path.as_path(), AccessFlags::W_OK).is_ok())
        .collect();
    paths.sort();
    paths.dedup();
    if paths.len() > MOST_SOCKETS {
        tracing::warn!(
            "this host has {} sockets, of which {MOST_SOCKETS} are covered: hooks outside can \
             reach the others",
            paths.len()
        );
    }
    let owned = paths.into_iter().filter_map(|path| {
        let found = std::fs::symlink_metadata(&path).ok()?;
        Some((found.uid(), path))
    });
    first_of_each(owned, MOST_SOCKETS)
}

/// At most so many of the paths of some owners. Who has many, in `/tmp` for example, keeps
/// nothing of others from being covered.
pub fn first_of_each(found: impl IntoIterator<Item = (u32, PathBuf)>, most: usize) -> Vec<PathBuf> {
    let mut counts = BTreeMap::new();
    let mut ranked: Vec<(usize, PathBuf)> = found
        .into_iter()
        .map(|(owner, path)| {
            let count = counts.entry(owner).or_default();
            *count += 1;
            (*count, path)
        })
        .collect();
    ranked.sort_by_key(|&(rank, _)| rank);
    ranked.truncate(most);
    ranked.into_iter().map(|(_, path)| path).collect()
}

/// The directories in which the sockets of a table may be.
fn directories_of(table: &[u8]) -> BTreeSet<PathBuf> {
    let (absolute, relative): (Vec<PathBuf>, Vec<PathBuf>) =
        named_sockets(table).partition(|path| path.is_absolute());
    let starts = if relative.is_empty() {
        BTreeSet::new()
    } else {
        working_directories()
    };
    let relative = relative
        .iter()
        .flat_map(|path| starts.iter().map(move |start| start.join(path)));
    let parent = |path: PathBuf| path.parent().map(Path::to_owned);
    absolute
        .into_iter()
        .filter_map(parent)
        .chain(relative.filter_map(parent))
        .collect()
}

/// Where the processes are that this one may look into.
fn working_directories() -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_bytes()[0].is_ascii_digit())
        .filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok())
        .collect()
}

fn sockets_in(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries
        .take(MOST_ENTRIES)
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .map(|entry| entry.path())
}

/// Names in a table of sockets. See `proc_net_unix` in `unix(7)`.
fn named_sockets(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table
        .split(|&b| b == b'\n')
        // It begins with the names of the columns.
        .skip(1)
        .filter_map(|line| {
            let mut rest = line;
            for _ in 0..COLUMNS {
                rest = rest.trim_ascii_start();
                let end = rest.iter().position(u8::is_ascii_whitespace)?;
                rest = &rest[end..];
            }
            // One space, and a name that may hold more. Abstract ones begin so.
            let name = rest.get(1..).filter(|name| !name.is_empty())?;
            (name[0] != b'@').then(|| PathBuf::from(OsStr::from_bytes(name)))
        })
}

/// A path to be covered.
struct Cover {
    path: PathBuf,
    directory: bool,
    /// Mounts of what stays visible below it.
    shown: Vec<Shown>,
}

struct Shown {
    path: PathBuf,
    directory: bool,
    mount: OwnedFd,
}

/// What is to be hidden.
#[derive(Debug, Clone, Copy)]
pub struct Hidden<'a> {
    /// Files and directories.
    pub paths: &'a [PathBuf],
    /// Directories in which some of these may be replaced while a build runs.
    pub replaced_in: &'a [PathBuf],
}

/// Whether a path is a directory, and nothing if it has gone. Its filesystem is not asked: one may
/// be gone that is mounted there (`ENOTCONN` of FUSE), or not speak to this user.
fn is_directory(path: &Path) -> Option<bool> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty()) {
        Ok(_) => Some(true),
        Err(Errno::ENOENT) => None,
        Err(_) => Some(false),
    }
}

/// The paths that there are, without links, sorted.
fn resolve(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = paths
        .iter()
        .filter(|path| !is_below_silent(path))
        .filter_map(|path| std::fs::canonicalize(path).ok())
        .filter(|path| path != Path::new("/"))
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

/// Covers what is hidden, except for what of `shown` lies below. Paths that do not exist
/// are left out; links are followed. `scratch` is an empty directory that nobody
/// else uses.
pub fn cover(hidden: Hidden<'_>, shown: &[PathBuf], scratch: &Path) -> Result<(), Error> {
    let shown = resolve(shown);
    // Before there are covers: one that is hidden itself is no concern.
    let covered = resolve(hidden.paths);
    let mut directories = resolve(hidden.replaced_in);
    directories.retain(|directory| {
        is_directory(directory) == Some(true)
            && !covered.iter().any(|covered| directory.starts_with(covered))
    });
    cover_each(hidden.paths, &shown, scratch)?;
    for directory in directories {
        // It may be written to, or was asked for.
        if shown.iter().any(|shown| directory.starts_with(shown)) {
            continue;
        }
        let is_in = |path: &&PathBuf| {
            let parent = path.parent().map(std::fs::canonicalize);
            parent.is_some_and(|parent| parent.is_ok_and(|parent| parent == directory))
        };
        let names: HashSet<&OsStr> = (hidden.paths.iter())
            .filter(is_in)
            .filter(|path| !shown.contains(path))
            .filter_map(|path| path.file_name())
            .collect();
        let kept = listed::keep(&directory, &names, scratch)
            .map_err(failed("what is in a directory with secrets", &directory))?;
        if !kept {
            tracing::warn!(
                "`{}` has more entries than are looked at: what is hidden there and replaced \
                 while the build runs, hooks outside can see",
                directory.display()
            );
        }
    }
    Ok(())
}

fn cover_each(hidden: &[PathBuf], shown: &[PathBuf], scratch: &Path) -> Result<(), Error> {
    // A parent comes before its children; what a cover hides needs none itself.
    let mut covers: Vec<Cover> = Vec::new();
    let mut late: Vec<Cover> = Vec::new();
    for path in resolve(hidden) {
        if shown.contains(&path) {
            continue;
        }
        let Some(directory) = is_directory(&path) else {
            continue;
        };
        let below = covers.iter().any(|cover| path.starts_with(&cover.path));
        let again = shown.iter().any(|shown| path.starts_with(shown));
        let cover = Cover {
            path,
            directory,
            shown: Vec::new(),
        };
        match (below, again) {
            (false, _) => covers.push(cover),
            (true, true) => late.push(cover),
            (true, false) => {}
        }
    }
    if covers.is_empty() {
        return Ok(());
    }
    for path in shown.iter().cloned() {
        let cover = covers
            .iter_mut()
            .find(|cover| path.starts_with(&cover.path));
        if let Some(cover) = cover {
            // The outermost of several brings what is below it along.
            if cover
                .shown
                .iter()
                .any(|outer| path.starts_with(&outer.path))
            {
                continue;
            }
            let mount = mounts::unless_gone(mounts::clone_mount(&path, true))
                .map_err(failed("what a build was given", &path))?;
            let (Some(mount), Some(directory)) = (mount, is_directory(&path)) else {
                continue;
            };
            cover.shown.push(Shown {
                directory,
                path,
                mount,
            });
        }
    }
    lay(&covers, &late, scratch)
}

/// How often a cover is laid on what comes and goes, or becomes another kind of file.
const TRIES: usize = 8;

/// Lays a cover on a path. What has gone meanwhile needs none; on what has become a directory,
/// or is none any more, the other of the two `empty` ones is laid.
fn lay_on(path: &Path, cover: &Path, empty: [&Path; 2]) -> io::Result<()> {
    let mut cover = cover;
    for _ in 0..TRIES {
        if mounts::attach_unless_gone(&mounts::clone_mount(cover, false)?, path)? {
            return Ok(());
        }
        let Some(is_directory) = is_directory(path) else {
            return Ok(());
        };
        cover = empty[usize::from(is_directory)];
    }
    Err(io::Error::other("it is exchanged over and over"))
}

/// Lays the covers, which are parts of one filesystem in memory. One after the other: there
/// may be more than a process may have open.
fn lay(covers: &[Cover], late: &[Cover], scratch: &Path) -> Result<(), Error> {
    in_memory(scratch, || lay_from_here(covers, late)).map_err(failed("covers", scratch))?
}

/// Does `work` in a filesystem in memory, on a directory that nobody else uses, which is the
/// working directory meanwhile. By its path there may be a cover by and by.
pub(super) fn in_memory<T>(scratch: &Path, work: impl FnOnce() -> T) -> io::Result<T> {
    mounts::mount(
        Some(Path::new("hidden")),
        scratch,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0755".as_ref()),
    )?;
    let left = mounts::open_directory(Path::new("."))?;
    let top = mounts::open_directory(scratch)?;
    nix::unistd::fchdir(&top)?;
    let done = work();
    nix::unistd::fchdir(&top)?;
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH)?;
    nix::unistd::fchdir(&left)?;
    Ok(done)
}

/// The same in the current directory, where nothing is yet.
fn lay_from_here(covers: &[Cover], late: &[Cover]) -> Result<(), Error> {
    let (directory, file) = (Path::new("directory"), Path::new("file"));
    std::fs::create_dir(directory)
        .and_then(|()| std::fs::write(file, ""))
        .and_then(|()| std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o444)))
        .map_err(failed("covers", Path::new(".")))?;
    for (number, cover) in covers.iter().chain(late).enumerate() {
        let own = PathBuf::from(number.to_string());
        let source = if !cover.directory {
            file
        } else if cover.shown.is_empty() {
            directory
        } else {
            skeleton(&own, cover).map_err(failed("covers", &cover.path))?;
            &own
        };
        lay_on(&cover.path, source, [file, directory])
            .map_err(failed("a cover for what hooks must not see", &cover.path))?;
        for shown in &cover.shown {
            mounts::attach_unless_gone(&shown.mount, &shown.path)
                .map_err(failed("what a build was given", &shown.path))?;
        }
    }
    Ok(())
}

/// Mount points for what stays visible below a cover.
fn skeleton(source: &Path, cover: &Cover) -> io::Result<()> {
    std::fs::create_dir(source)?;
    for shown in &cover.shown {
        let Ok(inner) = shown.path.strip_prefix(&cover.path) else {
            continue;
        };
        let point = source.join(inner);
        if shown.directory {
            std::fs::create_dir_all(&point)?;
        } else {
            if let Some(parent) = point.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&point, "")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sockets_are_read_and_abstract_ones_are_not() {
        let table = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 1234 /run/a socket\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 1235 @/tmp/.X11-unix/X0\n\
            0000000000000000: 00000002 00000000 00010000 0001 01    7  in/here\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 1236\n";
        let found: Vec<PathBuf> = named_sockets(table).collect();
        assert_eq!(found, ["/run/a socket", " in/here"].map(PathBuf::from));
    }

    #[test]
    fn who_has_many_files_leaves_room_for_those_of_others() {
        let files = |owner: u32, count: usize| {
            (0..count).map(move |number| (owner, PathBuf::from(format!("{owner}-{number}"))))
        };
        let kept = first_of_each(files(1001, 90).chain(files(0, 3)), 10);
        assert_eq!(kept.len(), 10);
        for number in 0..3 {
            assert!(kept.contains(&format!("0-{number}").into()), "{kept:?}");
        }
    }
}
