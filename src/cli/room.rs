//! What a process needs of its session before anything else: room on the first thread's
//! stack, which is as large as the caller's limit, and time.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Failure;
use crate::sandbox::shortage;

/// Bytes that suffice for all that kiln does: trees are walked by recursion.
const ENOUGH: u64 = 8 << 20;
/// Bytes below which it is not tried.
const LEAST: u64 = 512 << 10;

/// Refuses a session whose programs are ended as soon as the kernel looks at them.
pub(super) fn require_time() -> Result<(), Failure> {
    match getrlimit(Resource::RLIMIT_CPU) {
        Ok((0, _)) => Err(Failure::new(
            "the kernel ends programs of this session at once: they have no CPU time \
             (`ulimit -t`)",
        )
        .hint("raise the limit: `ulimit -t unlimited`")),
        _ => Ok(()),
    }
}

/// Raises the limit of the stack if it is low and may be raised; the kernel asks for it each
/// time the stack grows (`setrlimit(2)`). Without it, a stack that ends is a crash.
pub(super) fn make() -> Result<(), Failure> {
    shortage::share_heaps();
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
