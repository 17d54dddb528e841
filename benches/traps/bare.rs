//! A supervisor that leaves out all that can be: the floor below which no answer
//! of another process is on this machine.
//!
//! It tells every program that it is root, and what a file is by the kernel's own
//! words: read the path, look, write what was found. It keeps no records, takes
//! every path for one of its own directory, and trusts that the caller is still there.
//! See `seccomp_unotify(2)`.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use kiln::sandbox::seccomp;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, ControlMessage, ControlMessageOwned, MsgFlags};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use super::{Column, ROLE, parse};

/// What the process that supervises finds in [`ROLE`].
pub const SUPERVISOR: &str = "bare";
/// Run the supervisor on the caller's processor (Linux 6.6).
const SYNC_WAKE_UP: u64 = 1;
const PAGE: u64 = 4096;

/// What calls cost below it.
pub fn column(directory: &Path) -> Option<Column> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.env(ROLE, SUPERVISOR).current_dir(directory);
    // One session with its program, as kiln's engine is: see `sched(7)`, autogroups.
    let leave = || nix::unistd::setsid().map(drop).map_err(io::Error::from);
    // SAFETY: the closure makes one system call.
    unsafe { command.pre_exec(leave) };
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| parse(&text))
}

/// Runs the program that measures, and answers its calls until it ends.
pub fn supervise() -> io::Result<()> {
    let (ours, theirs) = socket::socketpair(
        socket::AddressFamily::Unix,
        socket::SockType::SeqPacket,
        None,
        socket::SockFlag::SOCK_CLOEXEC,
    )?;
    let mut command = Command::new(std::env::current_exe()?);
    command.env(ROLE, "outside").process_group(0);
    let register = theirs.as_raw_fd();
    // SAFETY: this process has one thread, so its child may do anything.
    unsafe { command.pre_exec(move || send(register, listen()?)) };
    let mut program = command.spawn()?;
    let listener = receive(&ours)?;
    // SAFETY: the flags are passed by value to a listener that is open.
    let _ = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
            SYNC_WAKE_UP,
        )
    };
    while let Some(call) = next(&listener) {
        answer(&listener, &call);
    }
    if program.wait()?.success() {
        Ok(())
    } else {
        Err(io::Error::other("the program that measures failed"))
    }
}

/// Loads a filter for the two calls, and gives its listener.
fn listen() -> io::Result<RawFd> {
    let [load, equal, give] = [
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    ]
    .map(|code| code as u16);
    let step = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let program = [
        step(load, 0, 0),
        step(equal, 2, libc::SYS_geteuid as u32),
        step(equal, 1, libc::SYS_newfstatat as u32),
        step(give, 0, libc::SECCOMP_RET_ALLOW),
        step(give, 0, libc::SECCOMP_RET_USER_NOTIF),
    ];
    nix::sys::prctl::set_no_new_privs()?;
    seccomp::load_as_is(&program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)
}

fn send(socket: RawFd, listener: RawFd) -> io::Result<()> {
    let given = [listener];
    let message = [ControlMessage::ScmRights(&given)];
    let byte = [IoSlice::new(b"l")];
    socket::sendmsg::<()>(socket, &byte, &message, MsgFlags::empty(), None)?;
    Ok(())
}

fn receive(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = socket::recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(&descriptor) = descriptors.first()
        {
            // SAFETY: the kernel has just made it for this process.
            return Ok(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// The next call; `None` once the program has ended.
fn next(listener: &OwnedFd) -> Option<libc::seccomp_notif> {
    loop {
        // SAFETY: zeroes are a valid value, and the kernel wants them.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills the structure, which lives across the call.
        let result = unsafe {
            libc::ioctl(
                listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut call,
            )
        };
        if Errno::result(result).is_ok() {
            return Some(call);
        }
        let mut polled = [PollFd::new(
            std::os::fd::AsFd::as_fd(listener),
            PollFlags::empty(),
        )];
        let _ = poll(&mut polled, PollTimeout::ZERO);
        if polled[0].any().unwrap_or(true) {
            return None;
        }
    }
}

fn answer(listener: &OwnedFd, call: &libc::seccomp_notif) {
    let mut response = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error: 0,
        flags: 0,
    };
    if i64::from(call.data.nr) == libc::SYS_newfstatat {
        if call.data.args[0] as libc::c_int == libc::AT_FDCWD {
            response.error = stat(call).err().map_or(0, |errno| -(errno as i32));
        } else {
            response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        }
    }
    // SAFETY: the kernel reads a structure that lives across the call.
    let _ = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw const response,
        )
    };
}

/// `newfstatat(2)` for the caller.
fn stat(call: &libc::seccomp_notif) -> Result<(), Errno> {
    let pid = Pid::from_raw(call.pid.cast_signed());
    let [_, path, buffer, flags, ..] = call.data.args;
    let mut name = [0; 256];
    // Not over the end of a page, after which there may be none.
    let room = (PAGE - path % PAGE).min(255) as usize;
    let remote = |base, len| RemoteIoVec {
        base: usize::try_from(base).unwrap_or_default(),
        len,
    };
    process_vm_readv(
        pid,
        &mut [IoSliceMut::new(&mut name[..room])],
        &[remote(path, room)],
    )?;
    // SAFETY: the path ends with a zero, as its last byte is never written; zeroes are
    // a valid value of the structure, which the kernel fills.
    let found = unsafe {
        let mut found: libc::stat = std::mem::zeroed();
        Errno::result(libc::fstatat(
            libc::AT_FDCWD,
            name.as_ptr().cast(),
            &raw mut found,
            flags as libc::c_int,
        ))?;
        found
    };
    // SAFETY: any structure is bytes, and this one has no padding that was not zeroed.
    let bytes = unsafe {
        std::slice::from_raw_parts((&raw const found).cast::<u8>(), size_of::<libc::stat>())
    };
    process_vm_writev(pid, &[IoSlice::new(bytes)], &[remote(buffer, bytes.len())])?;
    Ok(())
}
