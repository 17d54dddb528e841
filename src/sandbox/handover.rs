//! Gives a descriptor to another process, with a byte that says more.
//! See `unix(7)`, `SCM_RIGHTS`.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// Room for the control message of one descriptor.
const CONTROL: usize = 64;

/// Aligned as control messages must be.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Sends a descriptor with a byte. Only makes system calls, so that it can run between fork
/// and exec.
pub(super) fn send(socket: RawFd, fd: RawFd, mut byte: u8) -> io::Result<()> {
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut control = Control([0; CONTROL]);
    // SAFETY: a message header is valid when zeroed; its parts point to locals
    // that live across the call, and one descriptor's message fits into `control`.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent == 1 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Receives a descriptor with its byte; `None` when the other side is closed.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(OwnedFd, u8)>> {
    match receive_any(socket)? {
        Some((Some(fd), byte)) => Ok(Some((fd, byte))),
        Some((None, _)) => Err(io::Error::from(io::ErrorKind::InvalidData)),
        None => Ok(None),
    }
}

/// Receives a byte, and a descriptor if it comes with one; `None` when the other side is closed.
pub(super) fn receive_any(socket: BorrowedFd<'_>) -> io::Result<Option<(Option<OwnedFd>, u8)>> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut byte = [0];
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let controls: Vec<_> = message.cmsgs()?.collect();
    for control in controls {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(&fd) = fds.first()
        {
            // SAFETY: the kernel just gave us this descriptor and nobody else has it.
            return Ok(Some((Some(unsafe { OwnedFd::from_raw_fd(fd) }), byte[0])));
        }
    }
    Ok(Some((None, byte[0])))
}
