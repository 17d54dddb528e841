//! Which network the sandbox has.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::sched::CloneFlags;

/// Which network hooks have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The host's.
    #[default]
    Host,
    /// A loopback device and nothing else.
    None,
}

impl Network {
    /// Every name that the command line takes.
    pub const NAMES: [&'static str; 2] = ["host", "none"];

    /// The network of this name.
    pub fn by_name(name: &str) -> Option<Network> {
        match name {
            "host" => Some(Network::Host),
            "none" => Some(Network::None),
            _ => None,
        }
    }

    /// The namespace that it needs.
    pub fn namespace(self) -> CloneFlags {
        match self {
            Network::Host => CloneFlags::empty(),
            Network::None => CloneFlags::CLONE_NEWNET,
        }
    }
}

/// Switches the loopback device of the current network namespace on.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: a call with three integers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: integers and a name: zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, &from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the request lives across the call, which only reads it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
