//! What a target gets for the build, and what is taken out of it again.
//!
//! Everything runs with the target as root ([`sandbox::root::within`]), so that
//! no link in it leads outside. Facts: DIB mounts its API filesystems and swaps
//! `resolv.conf` after `root.d`, and scrubs after `cleanup.d`.

use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::sandbox;

/// Where the target's own file waits while the build's is in its place. Elements
/// know this name and write what they want in the image there.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const RESOLV_CONF_ORIG: &str = "/etc/resolv.conf.ORIG";

/// Directories that a root must have for hooks to run in it, with their modes.
const NEEDED: [(&str, u32); 5] = [
    ("/etc", 0o755),
    ("/proc", 0o555),
    ("/sys", 0o555),
    ("/dev", 0o755),
    ("/tmp", 0o1777),
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
        for (path, mode) in NEEDED {
            match std::fs::symlink_metadata(path) {
                Ok(_) => {}
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

/// Makes a directory of the target for the build to mount on.
pub fn make_directory(root: &Path, path: &'static str) -> io::Result<()> {
    sandbox::root::within(root, || match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(on("making", path)(error))
        }
        _ => Ok(()),
    })?
}

/// Removes an empty directory of the target that the build mounted on.
pub fn remove_directory(root: &Path, path: &'static str) -> io::Result<()> {
    sandbox::root::within(root, || match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(on("removing", path)(error)),
        _ => Ok(()),
    })?
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
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sandbox::sweep::remove_tree(&entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Calls `visit` for every regular file below `path`, never following a link.
fn walk_files(path: &Path, visit: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk_files(&entry.path(), visit)?;
        } else if kind.is_file() {
            visit(&entry.path())?;
        }
    }
    Ok(())
}

fn truncate_logs(path: &Path) -> io::Result<()> {
    walk_files(path, &mut |file| {
        if std::fs::symlink_metadata(file)?.len() == 0 {
            return Ok(());
        }
        std::fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(file)
            .map(drop)
    })
}

fn remove_logs(path: &Path) -> io::Result<()> {
    walk_files(path, &mut |file| {
        let is_log = file.extension().is_some_and(|extension| extension == "log");
        if is_log {
            std::fs::remove_file(file)
        } else {
            Ok(())
        }
    })
}
