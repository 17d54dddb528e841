//! Abstract sockets and signals end at the sandbox, whatever network it has.
//!
//! A second wall from Landlock (`landlock(7)`): a domain with the two scopes of its
//! ABI 6 (Linux 6.12). The engine enters it once and hooks inherit it, so among
//! themselves they stay free. Landlock's rules about files are of no use for hooks: a
//! domain that has any forbids `mount(2)`, which they need; read-only mounts that
//! no hook can undo take their place. Only a thread of the engine that binds a socket
//! for a hook has one.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// `struct landlock_ruleset_attr` of `linux/landlock.h`.
#[repr(C)]
#[derive(Default)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

const CREATE_RULESET_VERSION: u32 = 1;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;
/// First ABI with scopes.
const SCOPES: libc::c_long = 6;

/// Landlock's ABI on this kernel; 0 where there is none.
pub fn abi() -> u32 {
    // SAFETY: asks for a number; a null structure of size 0 goes with the flag.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// `struct landlock_path_beneath_attr`, which is packed.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

const RULE_PATH_BENEATH: u32 = 1;
const MAKE_SOCK: u64 = 1 << 9;

/// Whether it can end sockets and signals at a domain.
pub(super) fn has_scopes() -> bool {
    libc::c_long::from(abi()) >= SCOPES
}

fn ruleset(attr: &RulesetAttr) -> io::Result<OwnedFd> {
    // SAFETY: the structure lives across the call and the size is its own.
    let ruleset = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::from_ref(attr),
            size_of::<RulesetAttr>(),
            0u32,
        )
    };
    let ruleset = libc::c_int::try_from(ruleset)
        .ok()
        .filter(|&fd| fd >= 0)
        .ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(ruleset) })
}

fn restrict(ruleset: &OwnedFd) -> io::Result<()> {
    // SAFETY: a descriptor that is open, and no flags.
    let result =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Puts the calling thread, and what it starts from now on, into a domain of its
/// own; false where this kernel has no scopes.
///
/// Needs `CAP_SYS_ADMIN` in the user namespace or `no_new_privs`.
pub fn enter() -> io::Result<bool> {
    if !has_scopes() {
        return Ok(false);
    }
    let ruleset = ruleset(&RulesetAttr {
        scoped: SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL,
        ..RulesetAttr::default()
    })?;
    restrict(&ruleset).map(|()| true)
}

/// From now on the calling thread makes names of sockets below `directory` alone.
pub(super) fn bind_only_beneath(directory: &OwnedFd) -> io::Result<()> {
    let ruleset = ruleset(&RulesetAttr {
        handled_access_fs: MAKE_SOCK,
        ..RulesetAttr::default()
    })?;
    let beneath = PathBeneathAttr {
        allowed_access: MAKE_SOCK,
        parent_fd: directory.as_raw_fd(),
    };
    // SAFETY: the structure lives across the call, both descriptors are open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const beneath,
            0u32,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    restrict(&ruleset)
}
