//! Filters for the system calls of programs in the sandbox.
//!
//! The simplest turns "write to disk now" into "done". A target that is still
//! being made has nothing worth syncing: it is thrown away when the build fails
//! and written once when it succeeds. dpkg alone asks for thousands of syncs. The
//! kernel answers them with success; no supervisor is involved and every other
//! call runs at its usual cost. See `seccomp(2)`.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;

use super::bpf;
use super::emul::table::Groups;
use super::handover;
use super::notify::Traits;

/// A program for [`install`].
#[derive(Debug, Clone)]
pub struct Filter {
    program: Vec<libc::sock_filter>,
    /// Where the listener goes, if the program hands calls to a supervisor.
    register: Option<(Arc<OwnedFd>, Traits)>,
    /// What is used instead if another supervisor is there already.
    otherwise: Option<Vec<libc::sock_filter>>,
}

impl Filter {
    /// A filter that hands calls to whoever reads from `register`'s other end.
    pub(super) fn with_listener(
        program: Vec<libc::sock_filter>,
        traits: Traits,
        register: Arc<OwnedFd>,
    ) -> Filter {
        Filter {
            program,
            register: Some((register, traits)),
            otherwise: None,
        }
    }

    /// Whether a supervisor answers calls.
    pub(super) fn is_answered(&self) -> bool {
        self.register.is_some()
    }

    /// Whether a guard traces the program from its start, before it is one.
    pub(super) fn is_traced_at_once(&self) -> bool {
        let traits = self.register.as_ref().map(|(_, traits)| traits);
        traits.is_some_and(|traits| traits.guarded && !traits.selective)
    }

    /// Where a listener cannot be had, syncs alone are answered.
    pub(super) fn or_unsupervised(mut self) -> Filter {
        self.otherwise = Some(no_sync().program);
        self
    }

    /// The same without a guard, so that programs can be traced.
    #[must_use]
    pub fn unguarded(mut self) -> Filter {
        if let Some((_, traits)) = &mut self.register {
            traits.guarded = false;
        }
        self
    }
}

/// The filter that suppresses syncs; other architectures' calls pass untouched.
pub fn no_sync() -> Filter {
    Filter {
        program: bpf::supervised(Groups::empty(), true),
        register: None,
        otherwise: None,
    }
}

/// Installs a filter on the calling thread and what it executes.
///
/// Async-signal-safe, so that it can run between `fork` and `exec`. With
/// `CAP_SYS_ADMIN` in the user namespace it spares us `no_new_privs` (set-user-id
/// programs of the target must keep working); without, that flag is the price, and
/// set-user-id programs are the supervisor's.
pub fn install(filter: &Filter) -> io::Result<()> {
    let program = filter.program.as_slice();
    let Some((register, traits)) = &filter.register else {
        return load_if_possible(program);
    };
    let mut traits = *traits;
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let listener = if traits.killable {
        load(
            program,
            flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
        )
    } else {
        load(program, flags)
    };
    let listener = match listener {
        // Before Linux 5.19.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            traits.killable = false;
            load(program, flags)
        }
        result => result,
    };
    let listener = match (listener, &filter.otherwise) {
        (Ok(listener), _) => listener,
        (Err(_), Some(program)) => return load_if_possible(program),
        (Err(error), None) => return Err(error),
    };
    if traits.guarded {
        // Where Yama restricts tracing: the guard is no ancestor.
        // SAFETY: the call takes integers; without Yama it fails, which is as well.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    }
    let sent = handover::send(register.as_raw_fd(), listener, traits.to_byte());
    // SAFETY: the listener is ours, and nobody uses its number after this.
    unsafe { libc::close(listener) };
    sent
}

/// Loads a filter that only saves time, unless this kernel or container has none.
fn load_if_possible(program: &[libc::sock_filter]) -> io::Result<()> {
    match load(program, 0) {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)
            ) =>
        {
            Ok(())
        }
        result => result.map(drop),
    }
}

/// `seccomp(2)`; the listener's descriptor if the flags ask for one.
pub(super) fn load(program: &[libc::sock_filter], flags: libc::c_ulong) -> io::Result<libc::c_int> {
    match load_as_is(program, flags) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            // SAFETY: sets a flag of the calling thread.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            // Without CAP_SYS_PTRACE either, Yama wants to be asked before the
            // supervisor looks into this process. Kernels without Yama refuse this.
            // SAFETY: as above.
            unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
            load_as_is(program, flags)
        }
        result => result,
    }
}

/// The same, with `no_new_privs` as it is: without `CAP_SYS_ADMIN` it may have to be set.
pub fn load_as_is(program: &[libc::sock_filter], flags: libc::c_ulong) -> io::Result<libc::c_int> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` and the instructions it points to live across the call,
    // which copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(|_| io::ErrorKind::InvalidData.into())
}
