//! Capabilities that what runs in a sandbox is not to have (`capabilities(7)`).

use std::io;

use nix::errno::Errno;

/// Of `linux/capability.h`.
pub(super) const CAP_SYS_CHROOT: u32 = 18;
pub(super) const CAP_SYS_PTRACE: u32 = 19;
pub(super) const CAP_MKNOD: u32 = 27;

/// Takes a capability from what the calling process starts, if that is allowed.
pub(super) fn never_gain(capability: u32) -> io::Result<()> {
    // SAFETY: integers.
    let dropped = unsafe {
        libc::prctl(
            libc::PR_CAPBSET_DROP,
            libc::c_ulong::from(capability),
            0,
            0,
            0,
        )
    };
    Errno::result(dropped)?;
    Ok(())
}

/// Takes a capability from the calling process and what it starts, for good.
/// Async-signal-safe.
pub(super) fn give_up(capability: u32) -> io::Result<()> {
    if never_gain(capability).is_err() {
        // Then a program that root starts gets no more than root has.
        nix::sys::prctl::set_no_new_privs()?;
    }
    take_away(capability, &ALL_SETS)
}

/// The same with the next program that the calling process becomes. Until then it has more
/// than such programs, which therefore may not look into it (`ptrace(2)`), but does not use it.
pub(super) fn give_up_at_start(capability: u32) -> io::Result<()> {
    match never_gain(capability) {
        Ok(()) => take_away(capability, &[EFFECTIVE, INHERITABLE]),
        Err(_) => give_up(capability),
    }
}

/// Where the sets of capabilities are in what `capget(2)` tells.
const EFFECTIVE: usize = 0;
const PERMITTED: usize = 1;
const INHERITABLE: usize = 2;
const ALL_SETS: [usize; 3] = [EFFECTIVE, PERMITTED, INHERITABLE];

fn take_away(capability: u32, of: &[usize]) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    // `struct __user_cap_header_struct` and two of `__user_cap_data_struct`: effective,
    // permitted and inheritable ones, 32 at a time.
    let mut header = [VERSION_3, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: both have the sizes that this version says, and live across the call.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    Errno::result(got)?;
    let first = if capability < 32 { 0 } else { ALL_SETS.len() };
    for set in of {
        sets[first + set] &= !(1 << (capability % 32));
    }
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) };
    Errno::result(set)?;
    Ok(())
}
