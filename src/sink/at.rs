//! System calls on names relative to an open directory, and on files without one.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

fn c_string(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Whether a file's filesystem may report a failed write after the call: NFS, SMB,
/// Ceph, 9P, AFS, Coda and FUSE (numbers of `linux/magic.h`).
pub(super) fn reports_late(file: &File) -> bool {
    const LATE: [i64; 9] = [
        0x6969,
        0x517B,
        0xFF53_4D42,
        0xFE53_4D42,
        0x00C3_6400,
        0x0102_1997,
        0x5346_414F,
        0x7375_7245,
        0x6573_5546,
    ];
    nix::sys::statfs::fstatfs(file).is_ok_and(|about| {
        // The field is of another type elsewhere; the numbers have 32 bits.
        let kind = about.filesystem_type().0 as u32;
        LATE.contains(&i64::from(kind))
    })
}

/// Opens a directory.
pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let path = c_string(path.as_os_str())?;
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: `path` ends in NUL and outlives the call; the descriptor is new and ours.
    unsafe {
        Ok(OwnedFd::from_raw_fd(check(libc::open(
            path.as_ptr(),
            flags,
        ))?))
    }
}

/// Opens a file, never through a symbolic link; a new one has the mode that the umask leaves.
pub(super) fn open_at(directory: &OwnedFd, name: &OsStr, flags: libc::c_int) -> io::Result<File> {
    let name = c_string(name)?;
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: `name` ends in NUL and outlives the call; the descriptor is new and ours.
    unsafe {
        let fd = check(libc::openat(
            directory.as_raw_fd(),
            name.as_ptr(),
            flags,
            0o666,
        ))?;
        Ok(File::from(OwnedFd::from_raw_fd(fd)))
    }
}

/// What has this name, links not followed.
pub(super) fn status(directory: &OwnedFd, name: &OsStr) -> io::Result<libc::stat> {
    status_with(directory, name, libc::AT_SYMLINK_NOFOLLOW)
}

/// What this name leads to, links followed.
pub(super) fn status_behind(directory: &OwnedFd, name: &OsStr) -> io::Result<libc::stat> {
    status_with(directory, name, 0)
}

fn status_with(directory: &OwnedFd, name: &OsStr, flags: libc::c_int) -> io::Result<libc::stat> {
    let name = c_string(name)?;
    // SAFETY: `name` ends in NUL; `found` is plain data that fstatat fills.
    unsafe {
        let mut found: libc::stat = std::mem::zeroed();
        check(libc::fstatat(
            directory.as_raw_fd(),
            name.as_ptr(),
            &mut found,
            flags,
        ))?;
        Ok(found)
    }
}

/// What a link says.
pub(super) fn read_link(directory: &OwnedFd, name: &OsStr) -> io::Result<OsString> {
    Ok(nix::fcntl::readlinkat(directory, name)?)
}

/// Gives a file without a name one; never replaces.
pub(super) fn link(file: &File, directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    // AT_EMPTY_PATH needs a capability; the way through /proc does not.
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let name = c_string(name)?;
    // SAFETY: both strings end in NUL and outlive the call.
    unsafe {
        check(libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            directory.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        ))?;
    }
    Ok(())
}

/// Renames within a directory, with flags of renameat2.
pub(super) fn rename(
    directory: &OwnedFd,
    from: &OsStr,
    to: &OsStr,
    flags: libc::c_uint,
) -> io::Result<()> {
    let (from, to) = (c_string(from)?, c_string(to)?);
    let fd = directory.as_raw_fd();
    // SAFETY: both strings end in NUL and outlive the call.
    let result = unsafe { check(libc::renameat2(fd, from.as_ptr(), fd, to.as_ptr(), flags)) };
    match result {
        // Filesystems without RENAME_NOREPLACE: look first; the race is with
        // another build of the same image in the same second.
        Err(error) if flags != 0 && error.raw_os_error() == Some(libc::EINVAL) => {
            // SAFETY: as above.
            unsafe {
                if libc::faccessat(fd, to.as_ptr(), libc::F_OK, libc::AT_SYMLINK_NOFOLLOW) == 0 {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                check(libc::renameat(fd, from.as_ptr(), fd, to.as_ptr()))?;
            }
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Removes a name.
pub(super) fn unlink(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let name = c_string(name)?;
    // SAFETY: `name` ends in NUL and outlives the call.
    unsafe { check(libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0))? };
    Ok(())
}

/// Locks a file for this process, or fails at once.
pub(super) fn lock(file: &File) -> io::Result<()> {
    // SAFETY: flock takes any open descriptor and touches no memory.
    unsafe { check(libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB))? };
    Ok(())
}

/// Whether the name stands for this file.
pub(super) fn same_file(directory: &OwnedFd, name: &OsStr, file: &File) -> bool {
    match (status(directory, name), file.metadata()) {
        (Ok(named), Ok(open)) => named.st_dev == open.dev() && named.st_ino == open.ino(),
        _ => false,
    }
}

/// Bytes that this user can still write where a file or directory is; 0 where that is not
/// known.
pub(crate) fn free_bytes(place: impl AsFd) -> u64 {
    nix::sys::statvfs::fstatvfs(place)
        .map(|space| {
            space
                .blocks_available()
                .saturating_mul(space.fragment_size())
        })
        .unwrap_or(0)
}
