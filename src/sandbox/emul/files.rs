//! Files as the supervisor holds them: by a name that cannot lead elsewhere, or open; and
//! the system calls on them.

use std::ffi::CString;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;

/// Longest path with its end (`PATH_MAX`).
pub(super) const PATH_MAX: usize = 4096;

/// A file that a process named: by a name that cannot lead elsewhere, or open.
///
/// Whatever else is named leads here through [`walk`](super::walk) alone.
#[derive(Debug)]
pub enum Target {
    /// A name that no program can redirect: a link of `/proc` that is the process's
    /// own, or one name below it that is not followed.
    Name {
        /// Where `path` starts.
        directory: RawFd,
        /// Its path.
        path: CString,
        /// Whether a link at its end is followed.
        follow: bool,
    },
    /// Open as a mere name (`O_PATH`).
    File(OwnedFd),
}

impl Target {
    /// `statx(2)` with at least what identifies the file, and its owner and mode.
    pub fn statx(&self, more: u32) -> Result<libc::statx, Errno> {
        self.statx_with(libc::AT_NO_AUTOMOUNT, more)
    }

    /// The same with more flags.
    pub fn statx_with(&self, flags: i32, more: u32) -> Result<libc::statx, Errno> {
        match self {
            Target::Name {
                directory,
                path,
                follow,
            } => {
                let nofollow = if *follow {
                    0
                } else {
                    libc::AT_SYMLINK_NOFOLLOW
                };
                statx(*directory, path, flags | nofollow, more)
            }
            Target::File(file) => statx(file.as_raw_fd(), c"", flags | libc::AT_EMPTY_PATH, more),
        }
    }

    /// Opens it; `O_CLOEXEC` is added. A link that was not followed is not opened.
    pub fn reopen(&self, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
        match self {
            Target::Name {
                directory,
                path,
                follow,
            } => {
                let nofollow = if *follow { 0 } else { libc::O_NOFOLLOW };
                open_at(*directory, path, flags | nofollow, mode)
            }
            Target::File(file) => {
                let path = by_descriptor(file)?;
                open_at(libc::AT_FDCWD, &path, flags & !libc::O_NOFOLLOW, mode)
            }
        }
    }

    /// Opens it as a mere name, also a link or what cannot be read.
    pub fn into_file(self) -> Result<OwnedFd, Errno> {
        match self {
            Target::File(file) => Ok(file),
            name @ Target::Name { .. } => name.reopen(libc::O_PATH, 0),
        }
    }
}

/// A path for a call, or a name.
pub(super) fn c_string(bytes: impl Into<Vec<u8>>) -> Result<CString, Errno> {
    let bytes = bytes.into();
    // A prefix of ours may make a path too long that was not.
    if bytes.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

/// A name for an open file, for calls that take no descriptor: workers stay in the
/// `/proc` that was opened at the start.
pub(super) fn by_descriptor(file: &OwnedFd) -> Result<CString, Errno> {
    CString::new(format!("self/fd/{}", file.as_raw_fd())).map_err(|_| Errno::EINVAL)
}

/// `openat(2)` with `O_CLOEXEC`.
pub fn open_at(
    directory: RawFd,
    path: &std::ffi::CStr,
    flags: i32,
    mode: u32,
) -> Result<OwnedFd, Errno> {
    // SAFETY: the path is terminated and lives across the call.
    let fd = unsafe { libc::openat(directory, path.as_ptr(), flags | libc::O_CLOEXEC, mode) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `openat2(2)` with `O_CLOEXEC`.
pub fn open_how(
    directory: RawFd,
    path: &std::ffi::CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> Result<OwnedFd, Errno> {
    let flags = (flags | libc::O_CLOEXEC) as u32;
    let how = [u64::from(flags), u64::from(mode), resolve];
    // SAFETY: the path is terminated; `how` has the three fields of the
    // structure's first version. Both live across the call.
    let fd = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory,
            path.as_ptr(),
            how.as_ptr(),
            size_of_val(&how),
        )
    })?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `statx(2)` of a path.
pub fn statx(
    directory: RawFd,
    path: &std::ffi::CStr,
    flags: i32,
    more: u32,
) -> Result<libc::statx, Errno> {
    let mask = libc::STATX_TYPE
        | libc::STATX_MODE
        | libc::STATX_UID
        | libc::STATX_GID
        | libc::STATX_INO
        | libc::STATX_BTIME
        | more;
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is terminated, and `found` has room for the structure.
    Errno::result(unsafe {
        libc::statx(directory, path.as_ptr(), flags, mask, found.as_mut_ptr())
    })?;
    // SAFETY: zeroes are a valid value, and the kernel has overwritten them.
    Ok(unsafe { found.assume_init() })
}

/// `statx(2)` of an open file.
pub fn statx_of(file: &OwnedFd) -> Result<libc::statx, Errno> {
    statx(file.as_raw_fd(), c"", libc::AT_EMPTY_PATH, 0)
}
