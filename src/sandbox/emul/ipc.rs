//! `shmctl(2)`, `semctl(2)` and `msgctl(2)` that give an object to somebody.
//!
//! The kernel knows no other id than 0, so the object stays root's, as all programs really
//! are: they may use it, whoever they believe to be, and `IPC_STAT` tells of root. Only the
//! rest of what is to be set is. See `struct ipc64_perm` of `linux/ipc.h`.

use std::os::fd::AsRawFd as _;

use nix::sched::CloneFlags;

use super::{Answer, Call, Errno, Outcome, files, memory};
use crate::threads::joined;

/// Where owner and group are.
const OWNERS: std::ops::Range<usize> = 4..12;
const NOBODY: [u8; 4] = [0xff; 4];

/// What is given, as machines of 64 bits have it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Object {
    Memory,
    Semaphores,
    Messages,
}

impl Object {
    /// Size of the structure.
    fn size(self) -> usize {
        match self {
            Object::Memory => 112,
            Object::Semaphores if cfg!(target_arch = "x86_64") => 104,
            Object::Semaphores => 88,
            Object::Messages => 120,
        }
    }
}

impl Call<'_> {
    /// `IPC_SET`, with the object's number in the first argument.
    pub(super) fn set_object(&mut self, object: Object) -> Outcome {
        let address = match object {
            Object::Semaphores => self.arguments[3],
            Object::Memory | Object::Messages => self.arguments[2],
        };
        let mut state = memory::read(self.pid, address, object.size())?;
        let owners = &mut state[OWNERS];
        let is_wrong = owners.as_chunks::<4>().0.contains(&NOBODY);
        if is_wrong || owners.iter().all(|&byte| byte == 0) {
            return Ok(Answer::Continue);
        }
        owners.fill(0);
        let (number, command) = (self.int(0), libc::IPC_SET);
        let result = self.among_its_objects(move || {
            let state = state.as_mut_ptr();
            // SAFETY: the structure is as large as the kernel's, and lives across the call.
            Errno::result(unsafe {
                match object {
                    Object::Memory => libc::syscall(libc::SYS_shmctl, number, command, state),
                    Object::Semaphores => {
                        libc::syscall(libc::SYS_semctl, number, 0, command, state)
                    }
                    Object::Messages => libc::syscall(libc::SYS_msgctl, number, command, state),
                }
            })
        })?;
        result.map(Answer::Value)
    }

    /// Makes a call in the task's namespace of such objects, where numbers are other objects'
    /// than in the engine's. The task cannot leave it while it waits.
    fn among_its_objects<T: Send>(&self, call: impl FnOnce() -> T + Send) -> Result<T, Errno> {
        let view = &self.worker.view;
        let theirs = view.of_process(self.pid, "ns/ipc")?;
        let theirs = theirs.reopen(libc::O_RDONLY | libc::O_CLOEXEC, 0)?;
        self.still_there()?;
        let ours = files::statx(view.proc().as_raw_fd(), c"thread-self/ns/ipc", 0, 0)?;
        let found = nix::sys::stat::fstat(&theirs)?;
        if found.st_ino == ours.stx_ino {
            return Ok(call());
        }
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, move || {
                nix::sched::setns(theirs, CloneFlags::CLONE_NEWIPC)?;
                Ok(call())
            });
            joined(thread.map_err(|_| Errno::EAGAIN)?)
        })
    }
}

// Other libraries have not all of them.
#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_large_as_the_librarys() {
        for (object, size) in [
            (Object::Memory, size_of::<libc::shmid_ds>()),
            (Object::Semaphores, size_of::<libc::semid_ds>()),
            (Object::Messages, size_of::<libc::msqid_ds>()),
        ] {
            assert_eq!(object.size(), size, "{object:?}");
        }
    }
}
