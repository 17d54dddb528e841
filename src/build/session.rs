//! What the session that kiln runs in has and allows: `/proc`, `ulimit`, `umask`.
//!
//! kiln raises no limit (`setrlimit(2)`), as hooks would get it too. What a build cannot come
//! to terms with is told before it begins; what may be the reason of a failure, with that.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;

use super::failure::Failure;
use crate::sandbox::probe;
use crate::sandbox::shortage::{self, limit};

/// Open files that a build of several outputs may need at the same time.
const FILES: u64 = 64;

/// Processes and threads that a build has at the same time: kiln's own, and some of a hook.
const PROCESSES: usize = 20;

/// Bytes of address space with which a program of a build comes to its end. Most of it is
/// only set aside, for the memory of threads.
const ADDRESSES: u64 = 256 << 20;

/// Bytes of memory that a program of a build needs.
const MEMORY: u64 = 64 << 20;

/// Seconds that a program of a build may compute, at least: roots are unpacked and images
/// packed by one.
const SECONDS: u64 = 10;

/// Something that no build can do without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// A short name for it.
    pub name: &'static str,
    /// What is wrong, and what to do.
    pub refusal: Failure,
}

/// Refuses a session in which no build could end well.
pub fn require() -> Result<(), Failure> {
    match lacks().into_iter().next() {
        Some(lack) => Err(lack.refusal),
        None => Ok(()),
    }
}

/// All that this session lacks.
pub fn lacks() -> Vec<Lack> {
    let checks = [
        ("/proc", proc()),
        ("session limits", files()),
        ("session limits", file_size()),
        ("session limits", memory()),
        ("session limits", cpu_time()),
        ("session limits", room_for_processes()),
        ("umask", umask()),
    ];
    checks
        .into_iter()
        .filter_map(|(name, result)| {
            let refusal = result.err()?;
            Some(Lack { name, refusal })
        })
        .collect()
}

fn proc() -> Result<(), Failure> {
    if Path::new("/proc/self/status").exists() {
        return Ok(());
    }
    Err(
        Failure::new("`/proc` is not mounted, and nothing is known of processes without it")
            .hint("as an administrator: `mount -t proc proc /proc`"),
    )
}

fn files() -> Result<(), Failure> {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((files, most)) if files < FILES => Err(too_few_files(files, most)),
        _ => Ok(()),
    }
}

fn file_size() -> Result<(), Failure> {
    // Its helpers are this program once more, which is a file in every build.
    let own = std::fs::metadata("/proc/self/exe").map_or(0, |own| own.len());
    match limit(Resource::RLIMIT_FSIZE) {
        Some(most) if most < own => Err(Failure::new(format!(
            "a program of this session may make files of {} MiB, and kiln's own helpers are one \
             of {} MiB",
            most >> 20,
            own.div_ceil(1 << 20)
        ))
        .hint("raise the limit: `ulimit -f unlimited`")),
        _ => Ok(()),
    }
}

fn memory() -> Result<(), Failure> {
    let least = [
        (Resource::RLIMIT_AS, "-v", ADDRESSES),
        (Resource::RLIMIT_DATA, "-d", MEMORY),
    ];
    for (resource, option, least) in least {
        if let Some(most) = limit(resource).filter(|&most| most < least) {
            return Err(Failure::new(format!(
                "a program of this session may have {} MiB of memory (`ulimit {option}`), and \
                 those of a build need {} MiB",
                most >> 20,
                least >> 20
            ))
            .hint(format!("raise the limit: `ulimit {option} unlimited`")));
        }
    }
    Ok(())
}

fn cpu_time() -> Result<(), Failure> {
    match limit(Resource::RLIMIT_CPU) {
        Some(most) if most < SECONDS => Err(Failure::new(format!(
            "the kernel ends a program of this session after {most} s of CPU time (`ulimit -t`), \
             and those of a build need {SECONDS} s and more"
        ))
        .hint("raise the limit: `ulimit -t unlimited`")),
        _ => Ok(()),
    }
}

fn room_for_processes() -> Result<(), Failure> {
    let Err(error) = probe::try_processes(PROCESSES) else {
        return Ok(());
    };
    let hints = shortage::hints(&error);
    // What is no shortage is another's to tell.
    if hints.is_empty() {
        return Ok(());
    }
    let failure = Failure::new(format!(
        "the kernel starts no further process: a build has {PROCESSES} processes and threads at \
         the same time"
    ));
    Err(hints.into_iter().fold(failure, Failure::hint))
}

fn umask() -> Result<(), Failure> {
    // Root may use files whatever their modes are.
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match umask_of(&status) {
        Some(mask) if mask & 0o700 != 0 => Err(Failure::new(format!(
            "files and directories that are made in this session may not be used by their owner \
             (`umask {mask:04o}`)"
        ))
        .hint("leave the owner's bits to new files: `umask 022`, or `umask 077`")),
        _ => Ok(()),
    }
}

/// What `/proc/PID/status` says of it: to ask the kernel otherwise is to change it.
fn umask_of(status: &str) -> Option<u32> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

fn too_few_files(files: u64, most: u64) -> Failure {
    let failure = Failure::new(format!(
        "a program of this session may have {files} open files, and a build needs {FILES}"
    ));
    if most >= FILES {
        return failure.hint(format!("raise the limit: `ulimit -n {}`", most.min(1024)));
    }
    failure.hint(format!(
        "as an administrator: raise `nofile` in /etc/security/limits.conf, or the service's \
         `LimitNOFILE=`, above {most}"
    ))
}

/// The limit of processes, where the session's is below what kiln would allow.
pub fn processes(allowed: u64) -> Option<u64> {
    limit(Resource::RLIMIT_NPROC).filter(|&most| most < allowed)
}

/// What to do about a program that the kernel may have ended by a limit of the session, as
/// its status, a shell's, tells.
pub fn ended_hint(status: i32) -> Option<String> {
    let signal = Signal::try_from(status.checked_sub(128)?).ok()?;
    match signal {
        Signal::SIGXFSZ => {
            let mib = limit(Resource::RLIMIT_FSIZE)? >> 20;
            Some(format!(
                "this session allows files of {mib} MiB: raise the limit (`ulimit -f`)"
            ))
        }
        // At the hard limit; who sets both alike never sees the other one.
        Signal::SIGXCPU | Signal::SIGKILL => shortage::cpu_time_hint(),
        // What a program does that gets no memory.
        Signal::SIGABRT => shortage::memory_hint(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_umask_is_what_the_kernel_says_in_octal() {
        assert_eq!(
            umask_of("Name:\tkiln\nUmask:\t0277\nState:\tR\n"),
            Some(0o277)
        );
        assert_eq!(umask_of("Name:\tkiln\n"), None);
    }

    #[test]
    fn who_may_raise_the_limit_of_files_is_told_how() {
        for (files, most, hint) in [
            (20, 4096, "`ulimit -n 1024`"),
            (20, 100, "`ulimit -n 100`"),
            (20, 30, "above 30"),
        ] {
            let failure = too_few_files(files, most);
            assert!(failure.message.contains("may have 20 open files"));
            assert!(failure.hints[0].contains(hint), "{:?}", failure.hints);
        }
    }
}
