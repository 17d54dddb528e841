//! What a target gets for the build, and what is taken out of it again.
//!
//! Everything runs with the target as root ([`sandbox::root::within`]), so that
//! no link in it leads outside. Facts: DIB mounts its API filesystems and swaps
//! `resolv.conf` after `root.d`, and scrubs after `cleanup.d`.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::rootfs::beneath::{Place, Root};
use crate::{sandbox, small};

/// Where the target's own file waits while the build's is in its place. Elements
/// know this name and write what they want in the image there.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const RESOLV_CONF_ORIG: &str = "/etc/resolv.conf.ORIG";

/// A directory that a root must have for hooks to run in it.
struct Needed {
    path: &'static str,
    mode: u32,
    /// Whether a link to a directory of the target does as well: not where kiln mounts.
    may_be_link: bool,
}

const fn needed(path: &'static str, mode: u32, may_be_link: bool) -> Needed {
    Needed {
        path,
        mode,
        may_be_link,
    }
}

const NEEDED: [Needed; 5] = [
    needed("/etc", 0o755, true),
    needed("/proc", 0o555, false),
    needed("/sys", 0o555, false),
    needed("/dev", 0o755, false),
    needed("/tmp", 0o1777, true),
];

/// Adds context to an I/O error.
fn on(action: &'static str, path: &'static str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| {
        io::Error::new(
            error.kind(),
            format!("{action} `{path}` of the target: {error}"),
        )
    }
}

/// Whether the root phase left anything but temporary directories.
pub fn is_populated(root: &Path) -> io::Result<bool> {
    for entry in fs_err::read_dir(root)? {
        let name = entry?.file_name();
        let name = name.as_encoded_bytes();
        if !name.starts_with(b"lost+found") && !name.ends_with(b"tmp") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the directories that hooks and mounts need, and gives the target the
/// host's name servers.
pub fn prepare(root: &Path, resolv_conf: &[u8]) -> io::Result<()> {
    sandbox::root::within(root, || {
        for needed in NEEDED {
            let Needed { path, mode, .. } = needed;
            match std::fs::symlink_metadata(path) {
                Ok(_) => require_directory(path, needed.may_be_link)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    std::fs::create_dir(path).map_err(on("making", path))?;
                    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
                        .map_err(on("changing the mode of", path))?;
                }
                Err(error) => return Err(on("looking at", path)(error)),
            }
        }
        if std::fs::symlink_metadata(RESOLV_CONF).is_ok() {
            std::fs::rename(RESOLV_CONF, RESOLV_CONF_ORIG)
                .map_err(on("moving away", RESOLV_CONF))?;
        }
        write_new(RESOLV_CONF, resolv_conf, 0o644).map_err(on("writing", RESOLV_CONF))
    })?
}

/// Refuses what is not a directory, or a link to none.
fn require_directory(path: &str, may_be_link: bool) -> io::Result<()> {
    let found = std::fs::symlink_metadata(path)?.file_type();
    if found.is_dir() || may_be_link && std::fs::metadata(path).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    let what = match std::fs::read_link(path) {
        Ok(to) if may_be_link => format!(
            "a symbolic link to `{}`, which is no directory there",
            to.display()
        ),
        Ok(to) => format!(
            "a symbolic link to `{}`, and not a directory of its own",
            to.display()
        ),
        Err(_) if found.is_file() => "a file, and not a directory".to_owned(),
        Err(_) => format!("{}, and not a directory", small::phrase(found)),
    };
    Err(io::Error::new(
        io::ErrorKind::NotADirectory,
        format!("`{path}` of the target is {what}"),
    ))
}

/// Writes a file that must not exist yet, so that no link is followed.
fn write_new(path: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    io::Write::write_all(&mut file, content)?;
    // The mode given at creation was masked by the umask.
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

/// Replaces a file of the target, whatever it was.
pub fn replace_file(root: &Path, path: &'static str, content: &[u8], mode: u32) -> io::Result<()> {
    sandbox::root::within(root, || {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(on("replacing", path)(error));
            }
            _ => {}
        }
        if let Some(parent) = Path::new(path).parent() {
            std::fs::create_dir_all(parent).map_err(on("making the directory of", path))?;
        }
        write_new(path, content, mode).map_err(on("writing", path))
    })?
}

/// Refuses a path of which a part above the last is a link.
fn require_plain(path: &'static str) -> io::Result<()> {
    let above = Path::new(path).ancestors().skip(1);
    let mut above: Vec<&str> = above.filter_map(Path::to_str).collect();
    above.reverse();
    above
        .into_iter()
        .try_for_each(|directory| require_directory(directory, false))
}

/// Calls `work` with the place of a path of the target, of which no part is a link: by
/// descriptor, since a program that a hook left running may put one there. Hooks may have
/// mounted what it is in.
fn in_plain_place(
    root: &Path,
    path: &'static str,
    action: &'static str,
    work: impl FnOnce(&Place<'_>) -> nix::Result<()>,
) -> io::Result<()> {
    sandbox::root::within(root, || require_plain(path))??;
    let inside = Root::open(root).map_err(on(action, path))?;
    let place = inside.place(Path::new(path)).map_err(on(action, path))?;
    work(&place).map_err(|errno| on(action, path)(errno.into()))
}

/// Makes a directory of the target for the build to mount on.
pub fn make_directory(root: &Path, path: &'static str) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(0o777);
    let mut is_other = false;
    in_plain_place(root, path, "making", |place| {
        match mkdirat(&place.parent, place.name, mode) {
            Err(Errno::EEXIST) => {
                let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
                let found = fstatat(&place.parent, place.name, nofollow)?;
                is_other = found.st_mode & libc::S_IFMT != libc::S_IFDIR;
                Ok(())
            }
            made => made,
        }
    })?;
    if is_other {
        // It says what is there.
        sandbox::root::within(root, || require_directory(path, false))??;
    }
    Ok(())
}

/// Removes an empty directory of the target that the build mounted on.
pub fn remove_directory(root: &Path, path: &'static str) -> io::Result<()> {
    in_plain_place(root, path, "removing", |place| {
        match unlinkat(&place.parent, place.name, UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            removed => removed,
        }
    })
}

/// Takes out what the filesystem that the target was copied from kept for its own repair:
/// that of the image has its own.
pub fn drop_lost_and_found(root: &Path) -> io::Result<()> {
    const LOST: &str = "/lost+found";
    sandbox::root::within(root, || match std::fs::symlink_metadata(LOST) {
        Ok(meta) if meta.is_dir() => sandbox::sweep::remove_tree(Path::new(LOST)),
        Ok(_) => std::fs::remove_file(LOST),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    })?
    .map_err(on("removing", LOST))
}

/// Takes out of the target what only the build needed: its name servers, what
/// lies in `/tmp`, the contents of log files.
pub fn scrub(root: &Path) -> io::Result<()> {
    sandbox::root::within(root, || {
        restore_resolv_conf()?;
        empty_directory(Path::new("/tmp")).map_err(on("emptying", "/tmp"))?;
        truncate_logs(Path::new("/var/log")).map_err(on("emptying the logs in", "/var/log"))?;
        remove_logs(Path::new("/root")).map_err(on("removing the logs in", "/root"))
    })?
}

/// A hook that made `resolv.conf` a link wants it so; otherwise the target's
/// own file comes back, and none if it had none.
fn restore_resolv_conf() -> io::Result<()> {
    let remove = |path: &'static str| match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(on("removing", path)(error)),
        _ => Ok(()),
    };
    if std::fs::symlink_metadata(RESOLV_CONF).is_ok_and(|meta| meta.is_symlink()) {
        return remove(RESOLV_CONF_ORIG);
    }
    remove(RESOLV_CONF)?;
    if std::fs::symlink_metadata(RESOLV_CONF_ORIG).is_ok() {
        std::fs::rename(RESOLV_CONF_ORIG, RESOLV_CONF).map_err(on("restoring", RESOLV_CONF))?;
    }
    Ok(())
}

fn empty_directory(path: &Path) -> io::Result<()> {
    let entries = match fs_err::read_dir(path) {
        // A hook took it out, or made it a link to what is there only once the image runs.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let path = entry.path();
            sandbox::sweep::remove_tree(&path).map_err(|error| named(&path, error))?;
        } else {
            fs_err::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Names the file that an error is about.
fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}

/// A directory of which the files have been visited.
struct Visited {
    /// What is left to be entered.
    directories: Vec<CString>,
    /// Device and inode, to know it again.
    identity: (u64, u64),
}

/// Calls `visit` for every regular file below `path`, with the directory that it is in and
/// its name there, following no link below.
///
/// Neither descriptors nor the longest path that the kernel takes limit how deep the files
/// may be: the one directory that is open is left by its `..`. Nothing else changes the
/// target meanwhile.
fn walk_files(
    path: &Path,
    visit: &mut dyn FnMut(&OwnedFd, &CStr) -> io::Result<()>,
) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = |at: &OwnedFd, name: &CStr| openat(at, name, flags, Mode::empty());
    let mut directory = match std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(path)
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => OwnedFd::from(opened?),
    };
    let mut above = vec![visit_files(&directory, visit)?];
    while let Some(visited) = above.last_mut() {
        if let Some(name) = visited.directories.pop() {
            let at = |error: io::Error| named(Path::new(OsStr::from_bytes(name.as_bytes())), error);
            directory = open(&directory, &name).map_err(|errno| at(errno.into()))?;
            let visited = visit_files(&directory, visit).map_err(at)?;
            above.push(visited);
            continue;
        }
        above.pop();
        let Some(next) = above.last() else { break };
        directory = open(&directory, c"..")?;
        if identity(&fstat(&directory)?) != next.identity {
            return Err(io::Error::other("a directory was moved meanwhile"));
        }
    }
    Ok(())
}

/// Visits the regular files in a directory.
fn visit_files(
    directory: &OwnedFd,
    visit: &mut dyn FnMut(&OwnedFd, &CStr) -> io::Result<()>,
) -> io::Result<Visited> {
    let mut visited = Visited {
        directories: Vec::new(),
        identity: identity(&fstat(directory)?),
    };
    let mut files = Vec::new();
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    for entry in nix::dir::Dir::openat(directory, c".", flags, Mode::empty())?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let found = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        match found.st_mode & libc::S_IFMT {
            libc::S_IFDIR => visited.directories.push(name.to_owned()),
            libc::S_IFREG => files.push(name.to_owned()),
            _ => {}
        }
    }
    for name in files {
        visit(directory, &name)
            .map_err(|error| named(Path::new(OsStr::from_bytes(name.as_bytes())), error))?;
    }
    Ok(visited)
}

fn identity(found: &FileStat) -> (u64, u64) {
    (found.st_dev, found.st_ino)
}

fn truncate_logs(path: &Path) -> io::Result<()> {
    walk_files(path, &mut |directory, name| {
        if fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_size == 0 {
            return Ok(());
        }
        let flags = OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(directory, name, flags, Mode::empty()).map(drop)?)
    })
}

fn remove_logs(path: &Path) -> io::Result<()> {
    walk_files(path, &mut |directory, name| {
        let file = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
        if file.extension().is_some_and(|extension| extension == "log") {
            unlinkat(directory, name, UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(())
    })
}
