//! What system calls do where one id is mapped: as root would see them.
//!
//! All files really belong to the one id, which is 0 inside, and all processes
//! really are root. So the kernel already does permissions, modes, times, links
//! and file capabilities; only other ids than 0, devices, refused attributes and
//! ids of processes are told here. Whatever needs no lie is left to the kernel
//! (`Answer::Continue`), which then also gives the exact error.
//!
//! Where all ids are mapped, only devices and attributes that the kernel refuses
//! are recorded, and only calls about those are answered.
//!
//! Not emulated, as `docs/isolation.md` tells users: refusals of access to a process that gave
//! up its root ids (it may do more than it should), ids and capabilities in
//! `/proc/PID/status`, the auxiliary vector of set-id programs, which the kernel writes after
//! the call is answered, capabilities of files and ambient ones, ids that are sent with
//! messages (`SCM_CREDENTIALS`), owners of shared memory and its like, id maps of namespaces
//! that programs make, access control lists of files that are made without a name or by
//! `openat2` with a restricted walk, and files that root makes through a link into the
//! directory of a group.
//!
//! Each call has a row in [`calls`], with its number in each ABI and the method of [`Call`]
//! that answers it.

mod birth;
mod calls;
mod capabilities;
mod change;
mod chown;
mod confine;
mod create;
pub mod cred;
mod cwd;
mod device;
mod exec;
mod files;
mod ids;
mod ipc;
pub mod lasting;
mod layout;
mod listing;
pub(super) mod memory;
mod mount;
mod narrow;
mod overlay;

mod peer;
mod place;
mod process;
mod programs;
mod reach;
mod refused;
mod rename;
pub mod roots;
mod set_id;
mod signal;
mod socket;
mod stat;
mod status;
pub mod table;
pub mod tracee;
mod vproc;
mod walk;
mod xattr;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::notify::Listener;
use super::store::Store;
use cred::{Credentials, Table};
use files::Target;
use roots::RootId;
use table::{Dispatch, Groups};
use tracee::{Glance, Named, View};

/// Owner of files of ids that are not mapped (`/proc/sys/fs/overflowuid`).
const OVERFLOW: u32 = 65534;

pub use refused::{Refused, names_of};
pub use xattr::DEVICE;

/// How a call ends.
#[derive(Debug)]
pub enum Answer {
    /// The kernel makes it.
    Continue,
    /// It returns this.
    Value(i64),
    /// It fails. `ERESTART`, which no program ever sees, means that a signal has come: the
    /// kernel makes the call again, if that is what the program wants.
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

/// What this process may, on which depends what it has to tell.
#[derive(Debug, Clone, Copy)]
struct Powers {
    /// It may look into programs that hide their memory.
    traces: bool,
    /// That a program may not gain anything (`no_new_privs`) was its own wish, and not
    /// the price of its filter or a rule for all of kiln.
    grants: bool,
}

impl Powers {
    fn own() -> Powers {
        use caps::{CapSet, Capability};
        let has = |which| caps::has_cap(None, CapSet::Effective, which).unwrap_or(false);
        Powers {
            traces: has(Capability::CAP_SYS_PTRACE),
            grants: has(Capability::CAP_SYS_ADMIN)
                && !nix::sys::prctl::get_no_new_privs().unwrap_or(true),
        }
    }
}

/// What all workers share.
#[derive(Debug)]
pub struct Emulation {
    /// What files should have.
    pub store: Arc<Store>,
    credentials: Table,
    proc: OwnedFd,
    /// Where that is, as major and minor number.
    proc_device: (u32, u32),
    dispatch: Dispatch,
    /// The root of the sandbox itself.
    own_root: RootId,
    powers: Powers,
    /// What stands for files that targets lack.
    own_files: Option<reach::OwnFiles>,
    /// Counts calls that mount.
    mounts: AtomicU64,
    /// Files that a new one might be taken for.
    pub(super) young: birth::Young,
    /// Overlays by device whose lower layers are frozen.
    layered: Mutex<HashMap<u64, Arc<Mutex<Option<overlay::Layered>>>>>,
    /// What only its root directory keeps in a target does not leave with a directory.
    cells: rename::Cells,
    /// What gets neither set-id bits nor capabilities.
    lasting: Option<lasting::Lasting>,
    /// What the kernel would not do last for a reason that programs are not told.
    refused: Mutex<Option<Refused>>,
}

impl Emulation {
    /// One that no worker can start with: its `/proc` is none.
    #[cfg(test)]
    pub(super) fn broken(store: Arc<Store>) -> Emulation {
        let file = tempfile::tempfile().expect("a file");
        Emulation::new(file.into(), Groups::all() - Groups::NAMING, store, None)
            .expect("it opens nothing")
    }

    /// `proc` is `/proc` of this process's PID namespace. Calls of `groups` are
    /// answered, by what `store` says; what is `lasting` gets no set-id bits.
    pub fn new(
        proc: OwnedFd,
        groups: Groups,
        store: Arc<Store>,
        lasting: Option<lasting::Lasting>,
    ) -> Result<Emulation, Errno> {
        let found = files::statx_of(&proc)?;
        Ok(Emulation {
            proc_device: (found.stx_dev_major, found.stx_dev_minor),
            store,
            credentials: Table::default(),
            proc,
            dispatch: Dispatch::new(groups),
            mounts: AtomicU64::new(0),
            layered: Mutex::default(),
            refused: Mutex::default(),
            cells: rename::Cells::default(),
            lasting,
            young: birth::Young::default(),
            own_files: groups
                .contains(Groups::NAMING)
                .then(reach::OwnFiles::open)
                .transpose()?,
            own_root: RootId::own()?,
            powers: Powers::own(),
        })
    }

    fn note_refused(&self, refused: Refused) {
        *self.last_refused() = Some(refused);
    }

    /// What the kernel would not do last for a reason that programs are not told.
    pub fn last_refused(&self) -> MutexGuard<'_, Option<Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread that answers calls.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Emulation>,
    view: View,
    /// Devices that were looked up, after so many mounts.
    met: (u64, Vec<u64>),
    programs: programs::Programs,
}

impl Worker {
    /// Takes the calling thread for it.
    pub fn new(shared: Arc<Emulation>) -> Result<Worker, std::io::Error> {
        let view = View::for_this_thread(shared.proc.try_clone()?, shared.own_root)?;
        Ok(Worker {
            shared,
            view,
            met: (0, Vec::new()),
            programs: programs::Programs::default(),
        })
    }

    /// Leaves the root directory of whom it answered last.
    pub fn rest(&mut self) {
        if let Err(errno) = self.view.leave_root() {
            tracing::debug!("a worker keeps the root directory of a program: {errno}");
        }
    }

    /// When a task started, which tells it from others with its number.
    pub fn started(&self, pid: u32) -> Option<u64> {
        self.view.started(pid).ok()
    }

    /// Whether a call is of those that change something, and not only look.
    pub fn changes(&self, call: &libc::seccomp_notif) -> bool {
        let number = call.data.nr.cast_unsigned();
        self.shared.dispatch.changes(call.data.arch, number)
    }

    /// What a call may change for the guard of a program.
    pub(super) fn step(&self, call: &libc::seccomp_notif) -> table::Step {
        let number = call.data.nr.cast_unsigned();
        self.shared.dispatch.step(call.data.arch, number)
    }

    /// What this thread sees of tasks.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Answers one call.
    pub fn answer(&mut self, listener: &Listener, call: &libc::seccomp_notif) -> Answer {
        listener.roots.settle(call.pid);
        let number = call.data.nr.cast_unsigned();
        // The filter hands nothing else over.
        let Some(entry) = self.shared.dispatch.find(call.data.arch, number) else {
            return Answer::Continue;
        };
        let mut call = Call {
            worker: self,
            listener,
            id: call.id,
            pid: call.pid,
            arguments: table::seen_by_kernel(call.data.arch, call.data.args),
            short_ids: false,
            read_path: None,
        };
        match entry.answer(&mut call) {
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
    arguments: [u64; 6],
    /// Ids of 16 bits are meant.
    short_ids: bool,
    /// A path that was read already, and which argument it is.
    read_path: Option<(usize, Vec<u8>)>,
}

impl Call<'_> {
    /// The same call with ids of 16 bits.
    fn narrow(&mut self) -> &mut Self {
        self.short_ids = true;
        self
    }

    /// Notes that programs of this filter have different root directories from
    /// now on, or different mounts below them.
    fn change_root(&mut self) -> Outcome {
        self.listener.roots.move_about(self.pid);
        Ok(Answer::Continue)
    }

    /// `clone3`, whose flags are in memory.
    fn clone3(&mut self) -> Outcome {
        self.require_starts()?;
        let flags = memory::read(self.pid, self.arguments[0], size_of::<u64>());
        // What cannot be read, the kernel refuses.
        let flags = flags.ok().and_then(|flags| flags.first_chunk().copied());
        let Some(flags) = flags.map(u64::from_ne_bytes) else {
            return Ok(Answer::Continue);
        };
        if flags & libc::CLONE_THREAD as u64 == 0 {
            self.fork()?;
        }
        if flags & libc::CLONE_NEWNS as u64 != 0 {
            return self.change_root();
        }
        Ok(Answer::Continue)
    }

    /// An argument that is an `int`, such as a descriptor.
    fn int(&self, argument: usize) -> i32 {
        // Registers carry it in their low half.
        self.arguments[argument] as u32 as i32
    }

    /// An argument of 32 bits.
    fn word(&self, argument: usize) -> u32 {
        self.arguments[argument] as u32
    }

    /// An argument that is an id, or "leave it as it is".
    fn id(&self, argument: usize) -> u32 {
        let id = self.word(argument);
        match (self.short_ids, id & 0xffff) {
            (false, _) => id,
            (true, 0xffff) => u32::MAX,
            (true, short) => short,
        }
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

    /// Whether the task may do what takes this capability (`CAP_*`).
    fn may(&mut self, capability: u32) -> Result<bool, Errno> {
        if self.store().has_owners() {
            return Ok(self.credentials()?.has(capability));
        }
        let view = &self.worker.view;
        let has = view.status(self.pid)?.capabilities & 1 << capability != 0;
        // Everybody has all capabilities in a user namespace of their own, and none here.
        Ok(has && view.owner_of_namespace(self.pid)? == 0)
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
        memory::write(self.pid, address, bytes)
    }

    /// The path that an argument points to.
    fn path(&self, argument: usize) -> Result<Vec<u8>, Errno> {
        if let Some((read, path)) = &self.read_path
            && *read == argument
        {
            return Ok(path.clone());
        }
        memory::read_path(self.pid, self.arguments[argument])
    }

    fn target(&mut self, directory: i32, path: &[u8], follow: bool) -> Result<Target, Errno> {
        if let Some(target) = self.target_of_proc(directory, path, follow)? {
            return Ok(target);
        }
        let named = Named {
            directory,
            path,
            follow,
        };
        let roots = &self.listener.roots;
        self.worker.view.target(self.pid, roots, named)
    }

    /// What a first look at a path finds.
    fn glance(&mut self, directory: i32, path: &[u8], follow: bool) -> Glance {
        if self.leads_elsewhere(path) {
            return Glance::Unsure;
        }
        let named = Named {
            directory,
            path,
            follow,
        };
        let roots = &self.listener.roots;
        self.worker.view.glance(self.pid, roots, named)
    }

    /// The directory that relative paths start from, with the task's root taken.
    fn rooted_start(&mut self, directory: i32) -> Result<OwnedFd, Errno> {
        let roots = &self.listener.roots;
        self.worker.view.enter_root(self.pid, roots)?;
        self.target(directory, b"", true)?.into_file()
    }

    /// The file behind a descriptor that is more than a mere name (`O_PATH`).
    fn target_of_open(&mut self, descriptor: i32) -> Result<Target, Errno> {
        self.worker.view.require_open(self.pid, descriptor)?;
        self.target_of_descriptor(descriptor)
    }

    /// The file behind a descriptor.
    fn target_of_descriptor(&mut self, descriptor: i32) -> Result<Target, Errno> {
        if descriptor < 0 {
            return Err(Errno::EBADF);
        }
        self.target(descriptor, b"", true)
    }
}

/// A structure of the kernel's, of whose values each byte is initialised.
///
/// # Safety
/// All bytes are those of fields, and all values are made from zeroes: fields that are there for
/// alignment may hold anything otherwise.
unsafe trait Whole {}

// SAFETY: `__pad0` and its like are fields; made by `layout` and, in its test, by the kernel.
unsafe impl Whole for libc::stat {}
// SAFETY: the same; made by `files::statx`.
unsafe impl Whole for libc::statx {}
// SAFETY: the same; made where a call about a filesystem is answered.
unsafe impl Whole for libc::statfs {}

/// The bytes of a structure, as the kernel would have written them.
fn bytes_of<T: Whole>(value: &T) -> &[u8] {
    // SAFETY: pointer and size are those of a live reference, and each byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
