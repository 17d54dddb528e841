//! The second wall: what stands behind the namespaces.

use std::io;

use super::network::Network;
use super::{denylist, landlock};

/// Leaves the caller's session keyring, which children would inherit, for a new one.
///
/// Must be called before anything untrusted runs. See `keyctl(2)`.
pub fn leave_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    match result {
        0.. => Ok(()),
        _ => match io::Error::last_os_error() {
            // A kernel or a container without keyrings has none to reach.
            error
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOSYS | libc::EPERM | libc::EACCES)
                ) =>
            {
                Ok(())
            }
            error => Err(error),
        },
    }
}

/// Raises the wall around the calling process, which must have one thread, and
/// what it starts. Returns remarks, one for each part that this host lacks.
pub fn raise(network: Network, own_network_namespace: bool) -> io::Result<Vec<String>> {
    // Nobody in the sandbox may look into this process (its memory, environment,
    // root directory and descriptors): it knows the host. The check is made
    // against the user namespace in which the program was started, in which hooks
    // have no capability. See "PTRACE_MODE" in ptrace(2).
    nix::sys::prctl::set_dumpable(false)?;
    let mut remarks = Vec::new();
    // First, because it gains `no_new_privs` where that is the price.
    match denylist::install(network, own_network_namespace) {
        Ok(()) => {}
        Err(error) if network == Network::None && !own_network_namespace => return Err(error),
        Err(error) => remarks.push(format!("the filter of system calls is refused: {error}")),
    }
    match landlock::enter(!super::standin::mounts_are_possible()) {
        Ok(true) => {}
        Ok(false) if network == Network::Host => remarks.push(
            "hooks can reach abstract sockets of this host: its kernel has no Landlock scopes \
             (Linux 6.12), and the network is shared (`--network none`)"
                .to_owned(),
        ),
        Ok(false) => {}
        Err(error) => remarks.push(format!("Landlock is refused: {error}")),
    }
    Ok(remarks)
}
