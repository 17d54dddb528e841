//! The system calls of a scan.

use std::ffi::{CStr, CString};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag};

use crate::sandbox::below;
use crate::tree::DataRange;

/// Paths up to this length go to the kernel in one piece (its limit is 4096
/// with the terminating zero).
const PATH_PIECE: usize = 4000;

/// Opens a path below a directory, following no link and crossing no mount.
pub(super) fn open_below(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlag,
) -> Result<OwnedFd, Errno> {
    let step = |from: BorrowedFd<'_>, piece: &[u8], flags: OFlag| {
        let piece = if piece.is_empty() { b"." } else { piece };
        let piece = CString::new(piece).map_err(|_| Errno::EINVAL)?;
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        below::open(from, &piece, flags | OFlag::O_NOFOLLOW, resolve)
    };
    let mut rest = path;
    let mut from: Option<OwnedFd> = None;
    while rest.len() > PATH_PIECE {
        // Names have at most 255 bytes, so there is a slash in the piece.
        let Some(cut) = rest[..PATH_PIECE].iter().rposition(|&byte| byte == b'/') else {
            return Err(Errno::ENAMETOOLONG);
        };
        let at = from.as_ref().map_or(root, |fd| fd.as_fd());
        from = Some(step(at, &rest[..cut], OFlag::O_PATH | OFlag::O_DIRECTORY)?);
        rest = &rest[cut + 1..];
    }
    let at = from.as_ref().map_or(root, |fd| fd.as_fd());
    step(at, rest, flags)
}

/// Opens a regular file in a directory for reading. Should it have become a
/// fifo or a device, this does not block; reading at an offset fails then.
pub(super) fn open_data(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY
        | OFlag::O_NOFOLLOW
        | OFlag::O_CLOEXEC
        | OFlag::O_NONBLOCK
        | OFlag::O_NOCTTY;
    nix::fcntl::openat(directory, name, flags, nix::sys::stat::Mode::empty())
}

/// `statx` without following links or triggering automounts. An empty name
/// stands for the descriptor itself.
pub(super) fn statx(directory: BorrowedFd<'_>, name: &CStr) -> Result<libc::statx, Errno> {
    let mut flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    if name.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID | libc::STATX_BTIME;
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the descriptor is open, `name` is terminated, and `found` is large
    // enough for the structure that the kernel fills.
    let result = unsafe {
        libc::statx(
            directory.as_raw_fd(),
            name.as_ptr(),
            flags,
            mask,
            found.as_mut_ptr(),
        )
    };
    Errno::result(result)?;
    // SAFETY: zeroed before, so initialised whatever the kernel filled in; all
    // fields are integers.
    Ok(unsafe { found.assume_init() })
}

/// Reads a directory that was just opened: the name of each entry without `.` and `..`,
/// and its type (`DT_*`). The C library would also look at the directory first, which
/// costs more than reading it where a supervisor answers. See `getdents(2)`.
pub fn read_directory(
    directory: BorrowedFd<'_>,
    buffer: &mut [u8],
    mut each: impl FnMut(&CStr, u8) -> Result<(), Errno>,
) -> Result<(), Errno> {
    /// Offset of `d_name` in `struct linux_dirent64`.
    const NAME: usize = 19;
    /// Offset of `d_type`.
    const TYPE: usize = 18;
    /// Offset of the 16-bit `d_reclen`.
    const RECLEN: usize = 16;
    loop {
        // SAFETY: the descriptor is open and the buffer has the length given.
        let read = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                directory.as_raw_fd(),
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        let read = usize::try_from(Errno::result(read)?).map_err(|_| Errno::EIO)?;
        if read == 0 {
            return Ok(());
        }
        let mut records = buffer.get(..read).ok_or(Errno::EIO)?;
        while !records.is_empty() {
            let length = match records.get(RECLEN..RECLEN + 2) {
                Some(&[low, high]) => usize::from(u16::from_ne_bytes([low, high])),
                _ => return Err(Errno::EIO),
            };
            let record = records.get(NAME..length).ok_or(Errno::EIO)?;
            let name = CStr::from_bytes_until_nul(record).map_err(|_| Errno::EIO)?;
            if name != c"." && name != c".." {
                each(name, records[TYPE])?;
            }
            records = &records[length..];
        }
    }
}

/// Names of a directory's entries, one after the other, and where each is.
pub(super) fn names(
    directory: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
) -> Result<(Vec<u8>, Vec<Range<u32>>), Errno> {
    buffer.resize(256 * 1024, 0);
    let (mut names, mut places) = (Vec::new(), Vec::new());
    let length = |names: &Vec<u8>| u32::try_from(names.len()).map_err(|_| Errno::EOVERFLOW);
    read_directory(directory, buffer, |name, _| {
        let start = length(&names)?;
        names.extend_from_slice(name.to_bytes());
        places.push(start..length(&names)?);
        Ok(())
    })?;
    Ok((names, places))
}

/// Target of a symbolic link in a directory.
pub(super) fn read_link(
    directory: BorrowedFd<'_>,
    name: &CStr,
    size: u64,
) -> Result<Box<[u8]>, Errno> {
    // One byte more than expected shows a target that grew. Some filesystems
    // report a size of zero.
    let mut length = usize::try_from(size).unwrap_or(0).clamp(64, 4096) + 1;
    loop {
        let mut target = vec![0u8; length];
        // SAFETY: the descriptor is open, `name` is terminated and the buffer has
        // the length given.
        let read = unsafe {
            libc::readlinkat(
                directory.as_raw_fd(),
                name.as_ptr(),
                target.as_mut_ptr().cast(),
                target.len(),
            )
        };
        let read = usize::try_from(Errno::result(read)?).map_err(|_| Errno::EIO)?;
        if read < target.len() || length > 4096 {
            target.truncate(read);
            return Ok(target.into_boxed_slice());
        }
        length = 4097;
    }
}

/// The ranges of a file that hold data; `None` if that is all of it.
pub(super) fn data_ranges(
    directory: BorrowedFd<'_>,
    name: &CStr,
    size: u64,
) -> Result<Option<Box<[DataRange]>>, Errno> {
    let file = open_data(directory, name)?;
    let size = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
    let seek = |offset: i64, whence| match nix::unistd::lseek(file.as_fd(), offset, whence) {
        Ok(offset) => Ok(Some(offset)),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error),
    };
    let mut ranges: Vec<DataRange> = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match seek(at, nix::unistd::Whence::SeekData) {
            Ok(Some(data)) if data < size => data,
            Ok(_) => break,
            // The filesystem does not know its holes.
            Err(Errno::EINVAL) => return Ok(None),
            Err(error) => return Err(error),
        };
        let hole = seek(data, nix::unistd::Whence::SeekHole)?
            .unwrap_or(size)
            .min(size);
        if hole <= data {
            break;
        }
        let range = DataRange {
            offset: data.unsigned_abs(),
            length: (hole - data).unsigned_abs(),
        };
        match ranges.last_mut() {
            Some(last) if last.offset + last.length == range.offset => last.length += range.length,
            _ => ranges.push(range),
        }
        at = hole;
    }
    let whole = DataRange {
        offset: 0,
        length: size.unsigned_abs(),
    };
    Ok(if ranges == [whole] {
        None
    } else {
        Some(ranges.into_boxed_slice())
    })
}

/// How a scanning thread names files for calls that take only a path.
#[derive(Debug, Clone, Copy)]
pub(super) enum PathMode {
    /// By their bare names: the thread has a working directory of its own.
    OwnDirectory,
    /// Through `/proc/self/fd`.
    Proc,
}

impl PathMode {
    /// Separates the calling thread's working directory from the others'.
    pub(super) fn for_this_thread() -> Self {
        match nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS) {
            Ok(()) => Self::OwnDirectory,
            Err(_) => Self::Proc,
        }
    }

    /// Makes `directory` the one that [`PathMode::path`] refers to.
    pub(super) fn enter(self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        match self {
            Self::OwnDirectory => nix::unistd::fchdir(directory),
            Self::Proc => Ok(()),
        }
    }

    /// A path for a name in the directory entered.
    pub(super) fn path<'a>(
        self,
        directory: BorrowedFd<'_>,
        name: &'a CStr,
    ) -> Result<std::borrow::Cow<'a, CStr>, Errno> {
        match self {
            Self::OwnDirectory => Ok(name.into()),
            Self::Proc => {
                let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
                path.extend_from_slice(name.to_bytes());
                Ok(CString::new(path).map_err(|_| Errno::EINVAL)?.into())
            }
        }
    }
}

/// Opens the root of a scan, following links to it.
pub(super) fn open_root(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::openat(
        nix::fcntl::AT_FDCWD,
        path,
        flags,
        nix::sys::stat::Mode::empty(),
    )
}
