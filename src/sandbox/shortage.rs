//! Why the kernel has no process, thread or memory for one more program.
//!
//! `fork(2)`, `clone(2)` and `pthread_create(3)` say `EAGAIN` for all of it: the limits of the
//! session (`ulimit`), and those of a control group. Which it was, only the limits tell.

use std::io;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// What to do where a control group has no room for another process.
pub const GROUP_HINT: &str = "a control group that kiln runs in has as many processes as it may \
    have, and the kernel refused to start another: raise its `pids.max` (docker's and podman's \
    `--pids-limit`, systemd's `TasksMax=`)";

/// The soft limit of this process, where there is one.
pub fn limit(resource: Resource) -> Option<u64> {
    let (soft, _) = getrlimit(resource).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

/// Has threads share a few heaps where addresses are limited (`ulimit -v`): glibc sets 64 MiB
/// of them aside for a heap, and makes one for each thread.
pub fn share_heaps() {
    #[cfg(target_env = "gnu")]
    if limit(Resource::RLIMIT_AS).is_some() {
        // SAFETY: a number of its own is all that the call changes.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
    }
}

/// What to do where it is the session's limit of processes.
pub fn processes_hint(most: u64) -> String {
    format!(
        "this session allows its user {most} processes and threads in all (`ulimit -u`): raise \
         the limit, or end others"
    )
}

/// What to do about a program that ran out of memory by a limit of the session.
pub fn memory_hint() -> Option<String> {
    let limits = [(Resource::RLIMIT_AS, "-v"), (Resource::RLIMIT_DATA, "-d")];
    limits.into_iter().find_map(|(resource, option)| {
        let mib = limit(resource)? >> 20;
        Some(format!(
            "this session allows each program {mib} MiB of memory (`ulimit {option}`): raise the \
             limit, or use fewer threads (`--jobs 1`)"
        ))
    })
}

/// What to do about a program that the kernel ended, by a limit of the session.
pub fn cpu_time_hint() -> Option<String> {
    let seconds = limit(Resource::RLIMIT_CPU)?;
    Some(format!(
        "this session allows each program {seconds} s of CPU time (`ulimit -t`), after which the \
         kernel ends it: raise the limit"
    ))
}

/// What to do about an error of a call that starts a process or thread; nothing if it is
/// another error than that of a shortage.
pub fn hints(error: &io::Error) -> Vec<String> {
    if error.raw_os_error() != Some(libc::EAGAIN) {
        return Vec::new();
    }
    let processes = limit(Resource::RLIMIT_NPROC).map(processes_hint);
    let mut hints: Vec<String> = memory_hint().into_iter().chain(processes).collect();
    // Where it is to be read is for the kernel alone to know, so it may be this as well.
    hints.push(GROUP_HINT.to_owned());
    hints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shortage_is_explained_by_limits() {
        let hints_of = |errno| hints(&io::Error::from_raw_os_error(errno));
        assert!(hints_of(libc::EPERM).is_empty());
        assert!(hints_of(libc::EAGAIN).contains(&GROUP_HINT.to_owned()));
    }
}
