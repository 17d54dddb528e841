//! Abstract sockets and signals end at the sandbox, whatever network it has.
//!
//! A second wall from Landlock (`landlock(7)`): a domain with the two scopes of its
//! ABI 6 (Linux 6.12). The engine enters it once and hooks inherit it, so among
//! themselves they stay free. Landlock's rules about files are of no use here: a
//! domain that has any forbids `mount(2)`, which hooks need; read-only mounts that
//! no hook can undo take their place.

use std::io;

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

/// Puts the calling thread, and what it starts from now on, into a domain of its
/// own; false where this kernel has no scopes.
///
/// Needs `CAP_SYS_ADMIN` in the user namespace or `no_new_privs`.
pub fn enter() -> io::Result<bool> {
    if libc::c_long::from(abi()) < SCOPES {
        return Ok(false);
    }
    let attr = RulesetAttr {
        scoped: SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL,
        ..RulesetAttr::default()
    };
    // SAFETY: the structure lives across the call and the size is its own.
    let ruleset = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attr,
            size_of::<RulesetAttr>(),
            0u32,
        )
    };
    let ruleset = libc::c_int::try_from(ruleset)
        .ok()
        .filter(|&fd| fd >= 0)
        .ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a descriptor that is ours, and no flags.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0u32) };
    let refused = (result < 0).then(io::Error::last_os_error);
    // SAFETY: nobody uses the number after this.
    unsafe { libc::close(ruleset) };
    refused.map_or(Ok(true), Err)
}
