//! Abstract sockets and signals end at the sandbox, whatever network it has.
//!
//! A second wall from Landlock (`landlock(7)`): a domain with the two scopes of its
//! ABI 6 (Linux 6.12). The engine enters it once and hooks inherit it, so among
//! themselves they stay free. Landlock's rules about files are of no use for most hooks: a
//! domain that has any forbids `mount(2)`, which they need; read-only mounts that
//! no hook can undo take their place. Some have them: programs inside a target where
//! nothing can be mounted anyway, and threads of the engine that bind a socket or open a file
//! for a hook.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use super::mounts;

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
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
/// All that the second ABI knows of files; the first forbids to move any to another
/// directory.
const FILES: u64 = TRUNCATE - 1;
/// First ABI with these, and with [`TRUNCATE`].
const FENCE: u32 = 2;
const TRUNCATING: u32 = 3;

/// Whether it can keep programs to the files of a directory.
pub(super) fn has_fences() -> bool {
    abi() >= FENCE
}

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

/// All that is `access` is allowed beneath `directory`.
fn allow(ruleset: &OwnedFd, directory: &OwnedFd, access: u64) -> io::Result<()> {
    let beneath = PathBeneathAttr {
        allowed_access: access,
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
    Ok(())
}

/// Rules by which files are only opened, run, made, moved and removed beneath `root`. `None`
/// where this kernel has none.
///
/// What can be done without opening a file stays: looking at it, and changing its mode,
/// times, owner and attributes.
pub(super) fn fence(root: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let abi = abi();
    if abi < FENCE {
        return Ok(None);
    }
    let truncate = if abi < TRUNCATING { 0 } else { TRUNCATE };
    let ruleset = ruleset(&RulesetAttr {
        handled_access_fs: FILES | truncate,
        ..RulesetAttr::default()
    })?;
    allow(&ruleset, root, FILES | truncate)?;
    Ok(Some(ruleset))
}

/// Puts the calling thread, and what it starts from now on, under these rules, in a domain
/// of its own. Async-signal-safe.
pub(super) fn restrict(ruleset: &OwnedFd) -> io::Result<()> {
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
/// Needs `CAP_SYS_ADMIN` in the user namespace or `no_new_privs`. Where programs are to get
/// rules about files too (`fences`), these can only let them move files to other
/// directories if the domain around theirs does.
pub fn enter(fences: bool) -> io::Result<bool> {
    if !has_scopes() {
        return Ok(false);
    }
    let moves = if fences { REFER } else { 0 };
    let ruleset = ruleset(&RulesetAttr {
        handled_access_fs: moves,
        scoped: SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL,
        ..RulesetAttr::default()
    })?;
    if fences {
        allow(&ruleset, &mounts::open_directory("/".as_ref())?, moves)?;
    }
    restrict(&ruleset).map(|()| true)
}

/// From now on the calling thread makes names of sockets below `directory` alone.
pub(super) fn bind_only_beneath(directory: &OwnedFd) -> io::Result<()> {
    let ruleset = ruleset(&RulesetAttr {
        handled_access_fs: MAKE_SOCK,
        ..RulesetAttr::default()
    })?;
    allow(&ruleset, directory, MAKE_SOCK)?;
    restrict(&ruleset)
}
