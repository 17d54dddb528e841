//! Asks the kernel for file data before it is read.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Starts to read a range of a file, without waiting for it.
pub(crate) fn read_ahead(file: BorrowedFd<'_>, offset: u64, length: u64) {
    if let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) {
        // Only advice: who reads will meet whatever is wrong.
        let _ = posix_fadvise(
            file,
            offset,
            length,
            PosixFadviseAdvice::POSIX_FADV_WILLNEED,
        );
    }
}

/// Whether the byte at `offset` can be read without waiting for a disk; also
/// where that cannot be told, since then nothing is gained by reading ahead.
pub(crate) fn is_in_memory(file: BorrowedFd<'_>, offset: u64) -> bool {
    let Ok(offset) = i64::try_from(offset) else {
        return true;
    };
    let mut byte = 0u8;
    let part = libc::iovec {
        iov_base: std::ptr::from_mut(&mut byte).cast(),
        iov_len: 1,
    };
    // SAFETY: the descriptor is open; the one part is one byte that outlives the call.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &part, 1, offset, libc::RWF_NOWAIT) };
    read >= 0 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::WouldBlock
}
