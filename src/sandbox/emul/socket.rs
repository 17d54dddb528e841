//! `bind(2)`: the owner of a socket's name; `socketcall(2)`: the family of a socket.
//!
//! A name is only bound here if it is not to be root's. It is then bound under
//! the very path that the program gave, from the program's own directories, so
//! that `getsockname(2)` tells the same. `bind` takes no descriptor of a directory, and
//! the path could lead elsewhere by the time the kernel walks it: so the thread that
//! binds may make sockets in the directory alone that was found before. Without
//! Landlock (Linux 5.13) the last name is bound from there, and `getsockname` tells that.

use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use nix::sched::{CloneFlags, setns};

use super::files::statx;
use super::peer::Room;
pub(super) use super::peer::SO_PEERGROUPS;
use super::{Answer, Call, Errno, Outcome, files, memory};
use crate::sandbox::{landlock, root};

/// Calls of `socketcall`, from `linux/net.h`.
pub(super) const SYS_SOCKET: u32 = 1;
pub(super) const SYS_BIND: u32 = 2;
pub(super) const SYS_GETSOCKOPT: u32 = 15;
/// What of a socket's type is no flag, from `linux/net.h`.
const SOCK_TYPE_MASK: i32 = 0xf;
/// The type of sockets of packets, from `packet(7)`, "Compatibility".
const SOCK_PACKET: i32 = 10;
/// `CAP_NET_RAW`, from `linux/capability.h`.
const CAP_NET_RAW: u32 = 13;
/// `CAP_NET_ADMIN`.
const CAP_NET_ADMIN: u32 = 12;

/// Where the path starts in `struct sockaddr_un`, and its longest.
const PATH: usize = 2;
const LONGEST: usize = 108;

/// The capabilities that it may take to make a socket: those of families that every program
/// may use are known, and of others the kernel asks for either.
fn needed(family: i32, kind: i32) -> &'static [u32] {
    // The old way to a socket of packets is one of the internet's.
    let is_plain = !matches!(kind & SOCK_TYPE_MASK, libc::SOCK_RAW | SOCK_PACKET);
    match family {
        libc::AF_UNIX | libc::AF_NETLINK | libc::AF_ALG => &[],
        libc::AF_INET | libc::AF_INET6 if is_plain => &[],
        libc::AF_INET | libc::AF_INET6 | libc::AF_PACKET => &[CAP_NET_RAW],
        _ => &[CAP_NET_RAW, CAP_NET_ADMIN],
    }
}

impl Call<'_> {
    pub(super) fn bind(&mut self) -> Outcome {
        self.bind_with(self.int(0), self.arguments[1], self.int(2))
    }

    /// `socketcall`, whose arguments are words in memory.
    pub(super) fn socketcall(&mut self) -> Outcome {
        if self.word(0) != SYS_SOCKET && !self.store().has_owners() {
            return Ok(Answer::Continue);
        }
        if self.word(0) == SYS_GETSOCKOPT {
            let bytes = memory::read(self.pid, self.arguments[1], 20)?;
            let (words, _) = bytes.as_chunks::<4>();
            let word = |at: usize| u32::from_ne_bytes(words[at]);
            let room = Room {
                value: word(3).into(),
                size: word(4).into(),
            };
            let [socket, level, option] = [0, 1, 2].map(|at| word(at).cast_signed());
            return self.peer(socket, level, option, room);
        }
        let bytes = memory::read(self.pid, self.arguments[1], 12)?;
        let (words, _) = bytes.as_chunks::<4>();
        let [first, second, third] = [words[0], words[1], words[2]].map(u32::from_ne_bytes);
        if self.word(0) == SYS_SOCKET {
            let [family, kind, protocol] = [first, second, third].map(u32::cast_signed);
            return self.socket(family, kind, protocol);
        }
        self.bind_with(first.cast_signed(), second.into(), third.cast_signed())
    }

    /// A socket made here, since the program could change what the kernel would read
    /// once more. What a socket remembers of its maker is the network namespace, and
    /// that raw ones are the privilege of few.
    fn socket(&mut self, family: i32, kind: i32, protocol: i32) -> Outcome {
        if family == libc::AF_VSOCK {
            return Err(Errno::EAFNOSUPPORT);
        }
        for &capability in needed(family, kind) {
            if !self.may(capability)? {
                return Err(Errno::EPERM);
            }
        }
        let network = self.other_network()?;
        let make = || -> Result<OwnedFd, Errno> {
            if let Some(network) = &network {
                setns(network, CloneFlags::CLONE_NEWNET)?;
            }
            // SAFETY: the call takes three integers.
            let made = Errno::result(unsafe {
                libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol)
            })?;
            // SAFETY: the kernel just gave us this descriptor and nobody else has it.
            Ok(unsafe { OwnedFd::from_raw_fd(made) })
        };
        let file = if network.is_some() {
            // A thread of its own, because it stays there.
            std::thread::scope(|scope| {
                let thread = std::thread::Builder::new().spawn_scoped(scope, make);
                let thread = thread.map_err(|_| Errno::EAGAIN)?;
                thread.join().unwrap_or(Err(Errno::EIO))
            })?
        } else {
            make()?
        };
        Ok(Answer::Descriptor {
            file,
            close_on_exec: kind & libc::SOCK_CLOEXEC != 0,
        })
    }

    /// The network namespace of the task where it is not this process's.
    fn other_network(&self) -> Result<Option<File>, Errno> {
        let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let open = |task: &str| {
            let path =
                std::ffi::CString::new(format!("{task}/ns/net")).map_err(|_| Errno::EINVAL)?;
            let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
            let mode = nix::sys::stat::Mode::empty();
            nix::fcntl::openat(&self.worker.shared.proc, path.as_c_str(), flags, mode)
                .map(File::from)
        };
        let theirs = open(&self.pid.to_string())?;
        self.still_there()?;
        let ours = open("thread-self")?;
        let inode = |file: &File| file.metadata().map(|found| found.ino()).map_err(errno);
        Ok((inode(&theirs)? != inode(&ours)?).then_some(theirs))
    }

    fn bind_with(&mut self, socket: i32, address: u64, length: i32) -> Outcome {
        let Ok(length) = usize::try_from(length) else {
            return Ok(Answer::Continue);
        };
        // Without a path the kernel picks an abstract name.
        if length <= PATH || length > PATH + LONGEST {
            return Ok(Answer::Continue);
        }
        let given = memory::read(self.pid, address, length)?;
        let family = u16::from_ne_bytes([given[0], given[1]]);
        if i32::from(family) != libc::AF_UNIX || given[PATH] == 0 {
            return Ok(Answer::Continue);
        }
        let path = given[PATH..].split(|&byte| byte == 0).next().unwrap_or(&[]);
        let Some(place) = self.place(libc::AT_FDCWD, path, false)? else {
            return Ok(Answer::Continue);
        };
        let socket = self.take_descriptor(socket)?;
        let start = self.rooted_start(libc::AT_FDCWD)?;
        let parent = self.enter(&place)?;
        let is_name = !path.contains(&b'/');
        let short = [&given[..PATH], place.name.to_bytes_with_nul()].concat();
        let bind = || -> Result<(), Errno> {
            let restricted = landlock::bind_only_beneath(parent).is_ok();
            let (from, address) = if restricted || is_name {
                (&start, &given)
            } else {
                (parent, &short)
            };
            nix::unistd::fchdir(from)?;
            // SAFETY: the address has the length given and lives across the call.
            Errno::result(unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    address.as_ptr().cast(),
                    address.len() as libc::socklen_t,
                )
            })
            .map(drop)
        };
        // A thread of its own, because it stays restricted. It begins with this one's
        // root, and leaves this one's working directory alone.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                root::own_context(bind).map_err(|_| Errno::EAGAIN).flatten()
            });
            let thread = thread.map_err(|_| Errno::EAGAIN)?;
            thread.join().unwrap_or(Err(Errno::EIO))
        })?;
        let found = statx(
            parent.as_raw_fd(),
            &place.name,
            libc::AT_SYMLINK_NOFOLLOW,
            0,
        )?;
        let open = || {
            let flags = libc::O_PATH | libc::O_NOFOLLOW;
            files::open_at(parent.as_raw_fd(), &place.name, flags, 0)
        };
        self.record(&found, open, (place.uid, place.gid), None);
        Ok(Answer::Value(0))
    }

    /// A copy of one of the task's descriptors.
    pub(super) fn take_descriptor(&self, descriptor: i32) -> Result<OwnedFd, Errno> {
        let task = i64::from(self.pid);
        let open = |flags: libc::c_uint| {
            // SAFETY: the call takes two integers.
            Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, task, flags) })
        };
        // A thread has a descriptor of its own kind (Linux 6.9); before, only the
        // process has one, whose descriptors nearly all threads share.
        let process = match open(libc::O_EXCL as libc::c_uint) {
            Err(Errno::EINVAL) => open(0)?,
            result => result?,
        };
        // SAFETY: the kernel just gave us this descriptor and nobody else has it.
        let process = unsafe { OwnedFd::from_raw_fd(process as i32) };
        self.still_there()?;
        // SAFETY: the call takes three integers.
        let taken = Errno::result(unsafe {
            libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0)
        })?;
        // SAFETY: as above.
        Ok(unsafe { OwnedFd::from_raw_fd(taken as i32) })
    }
}
