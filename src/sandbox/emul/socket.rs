//! `bind(2)`: the owner of a socket's name.
//!
//! A name is only bound here if it is not to be root's. It is then bound under
//! the very path that the program gave, from the program's own directories, so
//! that `getsockname(2)` tells the same. `bind` takes no descriptor of a directory, and
//! the path could lead elsewhere by the time the kernel walks it: so the thread that
//! binds may make sockets in the directory alone that was found before. Without
//! Landlock (Linux 5.13) the last name is bound from there, and `getsockname` tells that.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use super::tracee::{self, statx};
use super::{Answer, Call, Errno, Outcome};
use crate::sandbox::{landlock, root};

/// Where the path starts in `struct sockaddr_un`, and its longest.
const PATH: usize = 2;
const LONGEST: usize = 108;

impl Call<'_> {
    pub(super) fn bind(&mut self) -> Outcome {
        self.bind_with(self.int(0), self.arguments[1], self.int(2))
    }

    /// `socketcall(SYS_BIND, …)`, whose arguments are three words in memory.
    pub(super) fn socketcall_bind(&mut self) -> Outcome {
        let bytes = tracee::read(self.pid, self.arguments[1], 12)?;
        let (words, _) = bytes.as_chunks::<4>();
        let [socket, address, length] = [words[0], words[1], words[2]].map(u32::from_ne_bytes);
        self.bind_with(socket.cast_signed(), address.into(), length.cast_signed())
    }

    fn bind_with(&mut self, socket: i32, address: u64, length: i32) -> Outcome {
        let Ok(length) = usize::try_from(length) else {
            return Ok(Answer::Continue);
        };
        // Without a path the kernel picks an abstract name.
        if length <= PATH || length > PATH + LONGEST {
            return Ok(Answer::Continue);
        }
        let given = tracee::read(self.pid, address, length)?;
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
        // Sockets are in no image, so nobody has to hold it.
        let found = statx(
            parent.as_raw_fd(),
            &place.name,
            libc::AT_SYMLINK_NOFOLLOW,
            0,
        )?;
        let gone = || Err(Errno::ENOENT);
        self.record(&found, gone, (place.uid, place.gid), None);
        Ok(Answer::Value(0))
    }

    /// A copy of one of the task's descriptors.
    fn take_descriptor(&self, descriptor: i32) -> Result<OwnedFd, Errno> {
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
