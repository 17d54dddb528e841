//! `shmctl(2)`, `semctl(2)` and `msgctl(2)` that give an object to somebody.
//!
//! The kernel knows no other id than 0, so the object stays root's, as all programs really
//! are: they may use it, whoever they believe to be, and `IPC_STAT` tells of root. Only the
//! rest of what is to be set is. See `struct ipc64_perm` of `linux/ipc.h`.

use std::os::fd::AsRawFd as _;

use super::{Answer, Call, Errno, Outcome, files, memory};

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
        // Numbers of other namespaces are other objects'.
        let is_ours = || self.has_our_objects().unwrap_or(false);
        if is_wrong || owners.iter().all(|&byte| byte == 0) || !is_ours() {
            return Ok(Answer::Continue);
        }
        owners.fill(0);
        self.still_there()?;
        let (number, command, state) = (self.int(0), libc::IPC_SET, state.as_mut_ptr());
        // SAFETY: the structure is as large as the kernel's, and lives across the call.
        let result = unsafe {
            match object {
                Object::Memory => libc::syscall(libc::SYS_shmctl, number, command, state),
                Object::Semaphores => libc::syscall(libc::SYS_semctl, number, 0, command, state),
                Object::Messages => libc::syscall(libc::SYS_msgctl, number, command, state),
            }
        };
        Errno::result(result).map(Answer::Value)
    }

    /// Whether the task is in the engine's own namespace of such objects. It cannot leave
    /// that while it waits.
    fn has_our_objects(&self) -> Result<bool, Errno> {
        let view = &self.worker.view;
        let theirs = view.of_process(self.pid, "ns/ipc")?.statx(0)?;
        let name = c"thread-self/ns/ipc";
        let ours = files::statx(view.proc().as_raw_fd(), name, 0, 0)?;
        let id = |found: &libc::statx| (found.stx_dev_major, found.stx_dev_minor, found.stx_ino);
        Ok(id(&theirs) == id(&ours))
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
