//! What system calls do where one id is mapped: as root would see them.
//!
//! All files really belong to the one id, which is 0 inside, and all processes
//! really are root. So the kernel already does permissions, modes, times, links
//! and file capabilities; only other ids than 0, devices, refused attributes and
//! ids of processes are told here. Whatever needs no lie is left to the kernel
//! (`Answer::Continue`), which then also gives the exact error.
//!
//! Not emulated: refusals of access to a process that gave up its root ids (it
//! may do more than it should), ids in `/proc/PID/status`, owners of bound
//! sockets, and calls of 32-bit programs.

mod create;
pub mod cred;
mod exec;
mod ids;
mod own;
mod stat;
pub mod tracee;
mod vproc;
mod xattr;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;

use super::notify::Listener;
use super::store::Store;
use cred::{Credentials, Table};
use tracee::{Target, View};

/// Owner of files of ids that are not mapped (`/proc/sys/fs/overflowuid`).
const OVERFLOW: u32 = 65534;

/// How a call ends.
#[derive(Debug)]
pub enum Answer {
    /// The kernel makes it.
    Continue,
    /// It returns this.
    Value(i64),
    /// It fails.
    Error(Errno),
    /// It returns a descriptor of this file.
    Descriptor {
        /// The file.
        file: OwnedFd,
        /// `O_CLOEXEC` of the new descriptor.
        close_on_exec: bool,
    },
}

/// What a handler found; an error is the call's error.
type Outcome = Result<Answer, Errno>;

/// What all workers share.
#[derive(Debug)]
pub struct Emulation {
    /// What files should have.
    pub store: Arc<Store>,
    credentials: Table,
    proc: OwnedFd,
    /// Whether `/proc` and devices are answered for targets that have none.
    pub virtual_proc: bool,
    own_files: Option<vproc::OwnFiles>,
}

impl Emulation {
    /// `proc` is `/proc` of this process's PID namespace.
    pub fn new(proc: OwnedFd) -> Emulation {
        let virtual_proc = !super::standin::mounts_are_possible();
        Emulation {
            store: Arc::default(),
            credentials: Table::default(),
            proc,
            virtual_proc,
            own_files: virtual_proc
                .then(vproc::OwnFiles::open)
                .and_then(Result::ok),
        }
    }
}

/// One thread that answers calls.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Emulation>,
    view: View,
}

impl Worker {
    /// Takes the calling thread for it.
    pub fn new(shared: Arc<Emulation>) -> Result<Worker, std::io::Error> {
        let view = View::for_this_thread(shared.proc.try_clone()?)?;
        Ok(Worker { shared, view })
    }

    /// Answers one call.
    pub fn answer(&mut self, listener: &Listener, call: &libc::seccomp_notif) -> Answer {
        let mut call = Call {
            worker: self,
            listener,
            id: call.id,
            pid: call.pid,
            number: i64::from(call.data.nr),
            arguments: call.data.args,
            read_path: None,
        };
        match call.answer() {
            Ok(answer) => answer,
            Err(errno) => Answer::Error(errno),
        }
    }
}

/// A call that waits for its answer.
struct Call<'a> {
    worker: &'a mut Worker,
    listener: &'a Listener,
    id: u64,
    pid: u32,
    number: i64,
    arguments: [u64; 6],
    /// A path that was read already, and which argument it is.
    read_path: Option<(usize, Vec<u8>)>,
}

impl Call<'_> {
    fn answer(&mut self) -> Outcome {
        if let Some(answer) = self.virtual_file()? {
            return Ok(answer);
        }
        match self.number {
            libc::SYS_newfstatat => self.stat_at(),
            libc::SYS_fstat => self.stat_descriptor(),
            libc::SYS_statx => self.statx(),
            libc::SYS_openat => self.open(self.int(0), 1, self.flags(2), self.arguments[3]),
            libc::SYS_openat2 => self.open2(),
            libc::SYS_mkdirat => self.mkdir(self.int(0), 1, self.arguments[2]),
            libc::SYS_mknodat => self.mknod(self.int(0), 1, self.arguments[2], self.arguments[3]),
            libc::SYS_symlinkat => self.symlink(0, self.int(1), 2),
            libc::SYS_fchown => self.chown_descriptor(),
            libc::SYS_fchownat => self.chown_at(),
            libc::SYS_execve => self.execute(libc::AT_FDCWD, 0, 0),
            libc::SYS_execveat => self.execute(self.int(0), 1, self.int(4)),
            libc::SYS_getxattr
            | libc::SYS_lgetxattr
            | libc::SYS_fgetxattr
            | libc::SYS_listxattr
            | libc::SYS_llistxattr
            | libc::SYS_flistxattr
            | libc::SYS_setxattr
            | libc::SYS_lsetxattr
            | libc::SYS_fsetxattr
            | libc::SYS_removexattr
            | libc::SYS_lremovexattr
            | libc::SYS_fremovexattr => self.attribute(),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_stat => self.stat_path(true),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lstat => self.stat_path(false),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => self.open(libc::AT_FDCWD, 0, self.flags(1), self.arguments[2]),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_creat => {
                let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
                self.open(libc::AT_FDCWD, 0, flags, self.arguments[1])
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => self.mkdir(libc::AT_FDCWD, 0, self.arguments[1]),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mknod => self.mknod(libc::AT_FDCWD, 0, self.arguments[1], self.arguments[2]),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_symlink => self.symlink(0, libc::AT_FDCWD, 1),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chown => self.chown_path(true),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lchown => self.chown_path(false),
            _ => self.ids(),
        }
    }

    /// An argument that is an `int`, such as a descriptor.
    fn int(&self, argument: usize) -> i32 {
        // Registers carry it in their low half.
        self.arguments[argument] as u32 as i32
    }

    /// An argument that is an id.
    fn word(&self, argument: usize) -> u32 {
        self.arguments[argument] as u32
    }

    fn flags(&self, argument: usize) -> i32 {
        self.int(argument)
    }

    fn store(&self) -> &Store {
        &self.worker.shared.store
    }

    fn credentials(&self) -> Result<Arc<Credentials>, Errno> {
        self.worker.shared.credentials.of(self.pid)
    }

    fn give(&self, credentials: Credentials) -> Result<(), Errno> {
        self.still_there()?;
        self.worker.shared.credentials.give(self.pid, credentials)
    }

    /// Fails if the task is gone, whose number may be another's by now.
    fn still_there(&self) -> Result<(), Errno> {
        if self.listener.waits(self.id) {
            Ok(())
        } else {
            Err(Errno::ESRCH)
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.still_there()?;
        tracee::write(self.pid, address, bytes)
    }

    /// The path that an argument points to.
    fn path(&self, argument: usize) -> Result<Vec<u8>, Errno> {
        if let Some((read, path)) = &self.read_path
            && *read == argument
        {
            return Ok(path.clone());
        }
        tracee::read_path(self.pid, self.arguments[argument])
    }

    fn target(&mut self, directory: i32, path: &[u8], follow: bool) -> Result<Target, Errno> {
        self.worker.view.target(self.pid, directory, path, follow)
    }

    /// The file behind a descriptor.
    fn target_of_descriptor(&mut self, descriptor: i32) -> Result<Target, Errno> {
        if descriptor < 0 {
            return Err(Errno::EBADF);
        }
        self.target(descriptor, b"", true)
    }
}

/// The bytes of a structure, as the kernel would have written them.
///
/// Only for `libc::stat` and `libc::statx` made from zeroes, whose padding is
/// therefore initialised.
fn bytes_of<T>(value: &T) -> &[u8] {
    // SAFETY: the pointer and the size are those of a live reference.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
