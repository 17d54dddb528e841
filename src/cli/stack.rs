//! Room on the first thread's stack, which is as large as the caller's limit.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Failure;

/// Bytes that suffice for all that kiln does: trees are walked by recursion.
const ENOUGH: u64 = 8 << 20;
/// Bytes below which it is not tried.
const LEAST: u64 = 512 << 10;

/// Raises the limit if it is low and may be raised; the kernel asks for it each time the
/// stack grows (`setrlimit(2)`). Without it, a stack that ends is a crash.
pub(super) fn make_room() -> Result<(), Failure> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_STACK) else {
        return Ok(());
    };
    if soft >= ENOUGH {
        return Ok(());
    }
    let raised = hard.min(ENOUGH);
    let _ = setrlimit(Resource::RLIMIT_STACK, raised, hard);
    if raised >= LEAST {
        return Ok(());
    }
    Err(Failure::new(format!(
        "programs may have a stack of {} KiB here (`ulimit -s`), which is not enough",
        raised >> 10
    ))
    .hint("raise the limit: `ulimit -s 8192`, or `stack` in /etc/security/limits.conf"))
}
