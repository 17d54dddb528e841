//! Calls of kiln's own programs in the sandbox that a supervisor has nothing to say about.
//!
//! A bootstrap makes each file of a root, twice where the root has to be copied, and looks
//! at each. It does so as root, and says itself whose a file is to be, so an answer would be
//! the kernel's anyway, and would cost several times the call. The filter leaves a call alone
//! that has [`MARK`] in its sixth argument, which none of these calls has.
//!
//! What is made so belongs to root, whatever the directory says of its group, and what is
//! seen is what the kernel knows: no recorded owner, no device. The mark is no secret. A
//! program that sets it deceives itself and gains nothing: it sees what the kernel shows,
//! and makes files of root's, as root of the sandbox may.
//!
//! Where the supervisor also answers for `/proc` (mode `chroot`), names may lead out of the
//! target, and the mark counts for nothing. Where there is no supervisor, these are the plain
//! calls.

use std::ffi::{CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode};

/// "kiln" and what it asks for, "pass".
pub(super) const MARK: u64 = 0x6b69_6c6e_7061_7373;

/// Whether a call of the machine's own convention is one of those below, by its number.
pub(super) fn is_direct(number: u32) -> bool {
    [
        libc::SYS_newfstatat,
        libc::SYS_openat,
        libc::SYS_mkdirat,
        libc::SYS_symlinkat,
    ]
    .contains(&number.into())
}

fn text(name: &OsStr) -> Result<CString, Errno> {
    CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)
}

fn raw(directory: &impl AsFd) -> RawFd {
    directory.as_fd().as_raw_fd()
}

/// `openat(2)`.
pub fn openat(
    directory: &impl AsFd,
    name: &OsStr,
    flags: OFlag,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let name = text(name)?;
    // SAFETY: the descriptor is open, and the name is terminated and lives across the call.
    let fd = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_openat,
            raw(directory),
            name.as_ptr(),
            flags.bits(),
            mode.bits(),
            0_u64,
            MARK,
        )
    })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `mkdirat(2)`.
pub fn mkdirat(directory: &impl AsFd, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    let name = text(name)?;
    // SAFETY: as in `openat`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mkdirat,
            raw(directory),
            name.as_ptr(),
            mode.bits(),
            0_u64,
            0_u64,
            MARK,
        )
    };
    Errno::result(result).map(drop)
}

/// `symlinkat(2)`.
pub fn symlinkat(target: &OsStr, directory: &impl AsFd, name: &OsStr) -> Result<(), Errno> {
    let (target, name) = (text(target)?, text(name)?);
    // SAFETY: as in `openat`, for both texts.
    let result = unsafe {
        libc::syscall(
            libc::SYS_symlinkat,
            target.as_ptr(),
            raw(directory),
            name.as_ptr(),
            0_u64,
            0_u64,
            MARK,
        )
    };
    Errno::result(result).map(drop)
}

/// `fstatat(2)`.
pub fn fstatat(directory: &impl AsFd, name: &OsStr, flags: AtFlags) -> Result<FileStat, Errno> {
    let name = text(name)?;
    let mut found = MaybeUninit::<FileStat>::zeroed();
    // SAFETY: as in `openat`; `found` has room for the structure.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_newfstatat,
            raw(directory),
            name.as_ptr(),
            found.as_mut_ptr(),
            flags.bits(),
            0_u64,
            MARK,
        )
    })?;
    // SAFETY: zeroes are a valid value, and the kernel has overwritten them.
    Ok(unsafe { found.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn these_are_the_calls_that_they_are_named_after() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = fs_err::File::open(dir.path()).expect("opened");
        let at = OwnedFd::from(at.into_parts().0);
        let name = OsStr::new;
        mkdirat(&at, name("d"), Mode::from_bits_truncate(0o700)).expect("made");
        symlinkat(name("d"), &at, name("link")).expect("made");
        let new = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o600);
        let file = openat(&at, name("file"), new, mode).expect("made");
        assert_eq!(nix::unistd::write(&file, b"text"), Ok(4));
        assert_eq!(
            openat(&at, name("file"), new, mode).map(drop),
            Err(Errno::EEXIST)
        );
        for (entry, flags, kind, size) in [
            ("d", AtFlags::empty(), libc::S_IFDIR, None),
            ("link", AtFlags::AT_SYMLINK_NOFOLLOW, libc::S_IFLNK, Some(1)),
            ("link", AtFlags::empty(), libc::S_IFDIR, None),
            ("file", AtFlags::empty(), libc::S_IFREG, Some(4)),
        ] {
            let found = fstatat(&at, name(entry), flags).expect("there");
            assert_eq!(found.st_mode & libc::S_IFMT, kind, "{entry}");
            assert!(size.is_none_or(|size| found.st_size == size), "{entry}");
        }
        assert_eq!(
            fstatat(&at, name("none"), AtFlags::empty()).map(drop),
            Err(Errno::ENOENT)
        );
        assert_eq!(
            mkdirat(&at, name("d"), Mode::empty()).map(drop),
            Err(Errno::EEXIST)
        );
        assert_eq!(
            symlinkat(name("x"), &at, OsStr::from_bytes(b"a\0b")),
            Err(Errno::EINVAL)
        );
    }
}
