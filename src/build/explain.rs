//! Why a program of a phase failed, and what to do.

use std::io;
use std::path::Path;

use crate::helpers::record as helpers_record;
use crate::sandbox::command;
use crate::sandbox::emul::{Refused, names_of};
use crate::sandbox::limits::Exceeded;
use crate::sandbox::shortage;

use super::engine::Engine;
use super::failure::Failure;
use super::phases::ALL;
use super::{record, session};

/// With less free space than this, in bytes, a hook may have failed because of it.
const FULL: u64 = 32 << 20;

/// The same of files that can still be made.
const FEW: u64 = 512;

/// With this status bash ends when `fork(2)` fails for good.
const CANNOT_FORK: i32 = 254;

impl Engine<'_> {
    /// A program that hooks need could not be started.
    pub(super) fn cannot_start(&self, what: &str, error: &io::Error, inside: bool) -> Failure {
        if let Some(exceeded) = Exceeded::of(error) {
            return Failure::status(format!("`{what}` {exceeded}"), exceeded.status())
                .hint(exceeded.hint());
        }
        let place = if inside {
            "in the target"
        } else {
            "on this host"
        };
        Failure::new(format!("cannot start `{what}` {place}: {error}"))
            .hint(format!("hooks need bash and coreutils {place}"))
    }

    /// A hook could not be started, whose file is this.
    pub(super) fn hook_not_started(&self, what: &str, error: &io::Error, file: &Path) -> Failure {
        if let Some(exceeded) = Exceeded::of(error) {
            return Failure::status(format!("{what} {exceeded}"), exceeded.status())
                .hint(exceeded.hint());
        }
        let failure = Failure::new(format!("{what} cannot be started: {error}"));
        if error.raw_os_error() == Some(libc::EAGAIN) {
            return failure.hint(self.processes_hint());
        }
        failure.hint(interpreter_hint(command::interpreter(file)))
    }

    /// What to do where no process can be started.
    fn processes_hint(&self) -> String {
        let allowed = self.watch.limits.processes;
        match session::processes(allowed) {
            Some(most) => shortage::processes_hint(most),
            None => format!("`--processes` (or `KILN_PROCESSES`) allows this build {allowed}"),
        }
    }

    /// What to do, if a helper that the hook called and that ended like it has said so.
    pub(super) fn explained(&self, status: i32) -> Option<String> {
        let text = record::read(&self.dirs.hooks, helpers_record::EXPLAINED).ok()??;
        let explained: helpers_record::Explained = serde_json::from_slice(&text).ok()?;
        (i32::from(explained.status) == status).then_some(explained.hint)
    }

    /// A hook of this directory ended with this status.
    pub(super) fn hook_failure(
        &self,
        what: &str,
        status: i32,
        directory: &str,
        explained: Option<String>,
    ) -> Failure {
        let limits = &self.watch.limits;
        let mut failure =
            Failure::status(format!("{what} failed with exit status {status}"), status);
        if status == CANNOT_FORK {
            failure = failure.hint(format!(
                "bash ends so when it cannot start another process: {}",
                self.processes_hint()
            ));
        }
        if let Some(hint) = session::ended_hint(status) {
            failure = failure.hint(hint);
        }
        if let Some(hint) = self.full_hint() {
            failure = failure.hint(hint);
        }
        if let Some(hint) = self.refused_hint() {
            failure = failure.hint(hint);
        }
        if let Some(bytes) = limits.memory.filter(|_| !self.watch.group.memory) {
            // The kernel tells nobody but the program.
            failure = failure.hint(format!(
                "if it says that it ran out of memory: `--memory` (or `KILN_MEMORY`) allows \
                 each of its programs {} MiB",
                bytes >> 20
            ));
        }
        failure.hint(explained.unwrap_or_else(|| {
            format!(
                "to look around, run again with `break={}` in the environment",
                break_hint(directory)
            )
        }))
    }

    /// Forgets what the kernel refused so far: what an earlier hook put up with explains
    /// nothing of the next one.
    pub(super) fn forget_refused(&self) {
        if let Some(supervisor) = &self.supervisor {
            supervisor.take_refused();
        }
    }

    /// What to do if the kernel refused what needs a capability that the build has not:
    /// programs only tell that something is not permitted.
    fn refused_hint(&self) -> Option<String> {
        let refused = match self.supervisor.as_ref()?.take_refused()? {
            Refused::SetId { path } => {
                let what = if path.is_empty() {
                    "a file".to_owned()
                } else {
                    format!("`{path}`")
                };
                return Some(format!(
                    "{what} was given no set-id bits and no capabilities: files that outlive the \
                     build get none, only those of the target and of `$TMP_BUILD_DIR`"
                ));
            }
            Refused::Program { path, capabilities } => format!(
                "the kernel did not start `{path}`: its file has capabilities that mode `chroot` \
                 gives no program ({}); `setcap -r` takes them off",
                names_of(capabilities)
            ),
            Refused::Root { path } => format!(
                "the root directory was not changed to `{path}`: here programs in the target are \
                 held by their root directory alone, so they may not change it"
            ),
        };
        Some(format!(
            "{refused}, or give the container what another mode needs (`kiln doctor` says what)"
        ))
    }

    /// What to do where hardly any space is left for the build, or no file can be made any
    /// more: the kernel tells nobody but the program, and the same of both.
    fn full_hint(&self) -> Option<String> {
        let work = &self.watch.work;
        let found = nix::sys::statvfs::statvfs(work).ok()?;
        let free = found
            .blocks_available()
            .saturating_mul(found.fragment_size());
        // Some filesystems do not count files at all.
        let crowded = found.files() > 0 && found.files_available() < FEW;
        (free < FULL || crowded).then(|| {
            let files = if crowded {
                format!(
                    " (it holds {} files, which is about all that it may)",
                    found.files() - found.files_available()
                )
            } else {
                String::new()
            };
            let remedy = if self.watch.work_in_memory {
                "`--disk` (or `KILN_DISK`) gives a build in memory more, and `--no-tmpfs` builds on \
                 disk"
                    .to_owned()
            } else {
                format!(
                    "free some in `{}`, or name another directory by `TMPDIR`",
                    work.display()
                )
            };
            format!("if it says that no space is left{files}: {remedy}")
        })
    }
}

/// What to do where a hook cannot be started.
fn interpreter_hint(interpreter: Option<String>) -> String {
    let Some(name) = interpreter else {
        return "its interpreter must exist where the hook runs".to_owned();
    };
    let mut hint = format!(
        "its first line names the interpreter `{name}`, which must exist where the hook runs"
    );
    if name.ends_with("\\r") {
        hint.push_str("; `\\r` comes from line ends of Windows: save the file with those of Unix");
    }
    hint
}

/// The break point that leads to a failing hook of a phase: not every phase
/// reaches `after-error`.
fn break_hint(directory: &str) -> String {
    let phase = ALL.iter().find(|phase| phase.directory() == directory);
    match phase {
        Some(phase) if !phase.breaks_after_error => format!("before-{}", phase.name),
        _ => "after-error".to_owned(),
    }
}
