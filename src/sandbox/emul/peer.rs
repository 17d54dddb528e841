//! `getsockopt(2)`: who is at the other end of a local socket (`SO_PEERCRED`,
//! `SO_PEERGROUPS`), by which servers such as PostgreSQL and D-Bus know their clients.
//!
//! The kernel remembers real ids, which are root's. What is told are the ids that the
//! process believes to have which the kernel remembers, if it is there still: now, and
//! not when it connected.

use std::os::fd::{AsRawFd as _, OwnedFd};

use super::{Answer, Call, Errno, Outcome, memory};

/// Supplementary groups of the other end (`asm-generic/socket.h`).
pub(super) const SO_PEERGROUPS: i32 = 59;

/// Where a value goes, and where its size is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) value: u64,
    pub(super) size: u64,
}

/// The process that the kernel remembers of the other end.
fn peer_of(socket: &OwnedFd) -> Result<libc::ucred, Errno> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut size = size_of_val(&peer) as libc::socklen_t;
    // SAFETY: the structure lives across the call, and the size is its own.
    Errno::result(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut size,
        )
    })?;
    Ok(peer)
}

impl Call<'_> {
    pub(super) fn socket_option(&mut self) -> Outcome {
        let room = Room {
            value: self.arguments[3],
            size: self.arguments[4],
        };
        self.peer(self.int(0), self.int(1), self.int(2), room)
    }

    pub(super) fn peer(&self, socket: i32, level: i32, option: i32, room: Room) -> Outcome {
        let asked = [libc::SO_PEERCRED, SO_PEERGROUPS].contains(&option);
        if level != libc::SOL_SOCKET || !asked || !self.has_our_numbers() {
            return Ok(Answer::Continue);
        }
        let peer = self
            .take_descriptor(socket)
            .and_then(|socket| peer_of(&socket));
        let Ok(peer) = peer else {
            return Ok(Answer::Continue);
        };
        let Some(pid) = u32::try_from(peer.pid).ok().filter(|&pid| pid != 0) else {
            return Ok(Answer::Continue);
        };
        // It may have ended.
        let Ok(credentials) = self.worker.shared.credentials.of(pid) else {
            return Ok(Answer::Continue);
        };
        let (uid, gid) = (credentials.user.effective, credentials.group.effective);
        let size = memory::read(self.pid, room.size, 4)?;
        let size = size
            .first_chunk()
            .map_or(0, |size| i32::from_ne_bytes(*size));
        let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
        if option == SO_PEERGROUPS {
            let groups: Vec<u8> = credentials
                .groups
                .iter()
                .flat_map(|group| group.to_ne_bytes())
                .collect();
            let enough = size >= groups.len();
            if enough {
                self.write(room.value, &groups)?;
            }
            self.write(room.size, &(groups.len() as u32).to_ne_bytes())?;
            return if enough {
                Ok(Answer::Value(0))
            } else {
                Err(Errno::ERANGE)
            };
        }
        if (uid, gid) == (0, 0) {
            return Ok(Answer::Continue);
        }
        let bytes = [pid, uid, gid].map(u32::to_ne_bytes).concat();
        let given = size.min(bytes.len());
        self.write(room.value, &bytes[..given])?;
        self.write(room.size, &(given as u32).to_ne_bytes())?;
        Ok(Answer::Value(0))
    }

    /// Whether the task numbers processes as this one does.
    fn has_our_numbers(&self) -> bool {
        let proc = self.worker.view.proc();
        let namespace = |task: &str| {
            let path = format!("{task}/ns/pid");
            nix::fcntl::readlinkat(proc, path.as_str()).ok()
        };
        let theirs = namespace(&self.pid.to_string());
        theirs.is_some() && theirs == namespace("self")
    }
}
