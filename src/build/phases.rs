//! The phases of a build, and how the hooks of one are run.
//!
//! For every phase the files of `environment.d` are sourced once by a shell in
//! the place where the hooks will run; what it exports is the environment of
//! each hook. The hooks themselves are started one by one by the engine, which
//! therefore knows what each took and which one failed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::helpers::environment::HANDED;
use crate::helpers::{record as helpers_record, run_parts};
use crate::rootfs::beneath::Root;
use crate::sandbox::command::{self, Program, shell_status};
use crate::sandbox::emul::{Refused, names_of};
use crate::sandbox::handed::Handed;
use crate::sandbox::inside::Inside;
use crate::sandbox::limits::Exceeded;
use crate::sandbox::seccomp::Filter;
use crate::sandbox::shortage;

use super::engine::Engine;
use super::environment::{self, HOOKS_INSIDE, Variables};
use super::event::Event;
use super::failure::Failure;
use super::{record, reports, session};

/// A phase, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// Its name without `.d`.
    pub name: &'static str,
    /// Whether its hooks run with the target as root.
    pub inside: bool,
    /// Whether its hooks see `TARGET_ROOT`.
    pub target_root: bool,
    /// Whether a failing hook reaches the `after-error` break point.
    pub breaks_after_error: bool,
}

const fn phase(name: &'static str, inside: bool, target_root: bool, breaks: bool) -> Phase {
    Phase {
        name,
        inside,
        target_root,
        breaks_after_error: breaks,
    }
}

/// With less free space than this, in bytes, a hook may have failed because of it.
const FULL: u64 = 32 << 20;

/// The same of files that can still be made.
const FEW: u64 = 512;

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

/// Makes the root.
pub const ROOT: Phase = phase("root", false, true, false);
/// Brings files in from outside.
pub const EXTRA_DATA: Phase = phase("extra-data", false, false, false);
/// Prepares package installation.
pub const PRE_INSTALL: Phase = phase("pre-install", true, false, true);
/// Installs packages.
pub const INSTALL: Phase = phase("install", true, false, true);
/// Configures what was installed.
pub const POST_INSTALL: Phase = phase("post-install", true, false, true);
/// Looks at the whole root from outside.
pub const POST_ROOT: Phase = phase("post-root", false, false, false);
/// May make the block device itself (legacy).
pub const BLOCK_DEVICE: Phase = phase("block-device", false, false, true);
/// Before the last phase inside.
pub const PRE_FINALISE: Phase = phase("pre-finalise", false, false, false);
/// Last changes inside, with the disk's layout known.
pub const FINALISE: Phase = phase("finalise", true, false, true);
/// Takes out what only the build needed.
pub const CLEANUP: Phase = phase("cleanup", false, true, false);

/// All phases in order.
pub const ALL: [Phase; 10] = [
    ROOT,
    EXTRA_DATA,
    PRE_INSTALL,
    INSTALL,
    POST_INSTALL,
    POST_ROOT,
    BLOCK_DEVICE,
    PRE_FINALISE,
    FINALISE,
    CLEANUP,
];

impl Phase {
    /// The directory of its hooks, such as `install.d`.
    pub fn directory(&self) -> String {
        format!("{}.d", self.name)
    }
}

/// Sources every environment file and writes what is exported then.
///
/// `$1` and `$2` are the program that writes and its file, the rest are the files to
/// source, which see no arguments. Upstream traces these files always; here `-x` asks
/// for it.
const SOURCE_ENVIRONMENT: &str = r#"
set -eu -o pipefail
kiln_environment=("$1" "$2")
kiln_sources=("${@:3}")
set --
for kiln_source in "${kiln_sources[@]}"; do
    printf '%s' "${kiln_source##*/}" 2>/dev/null >"${kiln_environment[1]}.source" || :
    if [ "${DIB_DEBUG_TRACE:-0}" -gt 0 ]; then
        echo "sourcing ${kiln_source}"
        set -x
    fi
    source "${kiln_source}"
    { set +x; } 2>/dev/null
    set -eu -o pipefail
done
exec "${kiln_environment[@]}"
"#;

/// What is added to the name of a phase's environment for the file that is sourced.
const SOURCE: &str = ".source";

/// With this status bash ends when `fork(2)` fails for good.
const CANNOT_FORK: i32 = 254;

/// What `environment.d` makes of a phase's environment.
struct Sourced {
    variables: Variables,
    /// What the files set besides: umask, working directory, limits.
    handed: Option<Handed>,
}

/// Where a phase's programs run.
struct Place {
    inside: Option<Arc<Inside>>,
    directory: PathBuf,
    /// The merged hooks, as the programs see them.
    hooks: PathBuf,
    filter: Option<Filter>,
}

impl Engine<'_> {
    /// Runs one phase. Does nothing if no element has hooks for it.
    pub fn run_phase(&mut self, phase: Phase) -> Result<(), Failure> {
        self.break_point(&format!("before-{}", phase.name), phase.inside)?;
        let directory = phase.directory();
        if self.dirs.hooks.join(&directory).is_dir() {
            let result = self.run_hooks(phase, &directory);
            if result.is_err() && phase.breaks_after_error {
                self.break_point("after-error", phase.inside && !self.breaks_outside())?;
            }
            result?;
        }
        self.break_point(&format!("after-{}", phase.name), phase.inside)
    }

    fn run_hooks(&mut self, phase: Phase, directory: &str) -> Result<(), Failure> {
        let started = Instant::now();
        let place = self.place(phase.inside)?;
        let names = self.hooks_in(directory, phase.inside)?;
        self.events.send(&Event::PhaseStarted {
            phase: directory.to_owned(),
            hooks: names.len(),
        });
        let sourced = self.phase_environment(phase, &place)?;
        let mut profile = Vec::new();
        let mut api = None;
        for name in names {
            let seconds = self.run_hook(directory, &name, &place, &sourced)?;
            profile.push((name, seconds));
            // Once there is a root, hooks that run programs in it find what every
            // program may expect. Later phases get that from the engine anyway.
            // A `/dev` of nodes instead would hide what hooks make in the target's own.
            if phase == ROOT && api.is_none() && crate::sandbox::standin::mounts_are_possible() {
                api = crate::sandbox::mounts::mount_target_api(&self.dirs.target).ok();
            }
        }
        drop(api);
        self.events.send(&Event::PhaseFinished {
            phase: directory.to_owned(),
            seconds: started.elapsed().as_secs_f64(),
            profile,
        });
        Ok(())
    }

    /// The hooks of a directory in the order they run. Listed now and not from the plan:
    /// hooks may add hooks.
    fn hooks_in(&mut self, directory: &str, inside: bool) -> Result<Vec<String>, Failure> {
        let list = |place: run_parts::Place<'_>, directory: &Path| {
            let parts = run_parts::list(place, directory, &self.plan.hook_names);
            parts.map_err(|error| Failure::from_error(&error))
        };
        let outside = list(run_parts::Place::Here, &self.dirs.hooks.join(directory))?;
        if !inside {
            return Ok(outside.run);
        }
        // A link may lead to another file in the target than here, or to none.
        let there = Path::new(HOOKS_INSIDE).join(directory);
        let root = Root::open(&self.dirs.target)
            .map_err(Failure::io("listing the hooks in the target"))?;
        let parts = list(run_parts::Place::Root(&root), &there).map_err(|failure| {
            failure.hint(format!("a hook moved or replaced `{HOOKS_INSIDE}`"))
        })?;
        for name in outside.run.iter().filter(|name| !parts.run.contains(name)) {
            let path = format!("{directory}/{name}");
            let text = format!(
                "hook `{path}` of element `{}` does not run: it is a link to a file that the \
                 target does not have",
                self.element_of(&path)
            );
            self.events.send(&Event::Warning { text });
        }
        Ok(parts.run)
    }

    fn place(&mut self, inside: bool) -> Result<Place, Failure> {
        let filter = Some(self.filter());
        if inside {
            return Ok(Place {
                inside: Some(self.inside()?),
                directory: PathBuf::from("/"),
                hooks: PathBuf::from(HOOKS_INSIDE),
                filter,
            });
        }
        self.leave_inside();
        Ok(Place {
            inside: None,
            directory: self.plan.request.current_dir.clone(),
            hooks: self.dirs.hooks.clone(),
            filter,
        })
    }

    /// The environment of a phase's hooks before `environment.d`.
    fn base_environment(&self, phase: Phase) -> Variables {
        let mut variables = if phase.inside {
            environment::inside(&self.variables)
        } else {
            environment::outside(&self.variables, &self.dirs.hooks, &self.dirs.scratch)
        };
        if phase.target_root {
            variables.insert("TARGET_ROOT".into(), self.dirs.target.clone().into());
        }
        variables
    }

    /// The environment of a phase's hooks, `environment.d` included.
    fn phase_environment(&mut self, phase: Phase, place: &Place) -> Result<Sourced, Failure> {
        let base = self.base_environment(phase);
        let list = |place: run_parts::Place<'_>, directory: &Path| {
            let files = run_parts::environment(place, &directory.join(phase.directory()));
            files.map_err(|error| Failure::from_error(&error))
        };
        // As for hooks, links lead where they lead in the target.
        let files = if phase.inside {
            let root = Root::open(&self.dirs.target)
                .map_err(Failure::io("listing `environment.d` in the target"))?;
            list(run_parts::Place::Root(&root), Path::new(HOOKS_INSIDE))?
        } else {
            list(run_parts::Place::Here, &self.dirs.hooks)?
        };
        if files.is_empty() {
            return Ok(Sourced {
                variables: base,
                handed: None,
            });
        }
        let name = format!("environment.{}", phase.name);
        let mut arguments: Vec<OsString> = ["/bin/bash", "-c", SOURCE_ENVIRONMENT, "environment.d"]
            .map(OsString::from)
            .to_vec();
        // By its path: the files may write PATH anew.
        let writer = environment::helper(&place.hooks, phase.inside, "kiln-environment");
        arguments.push(writer.into());
        arguments.push(place.hooks.join(".kiln/record").join(&name).into());
        let directory = place.hooks.join(crate::element::hooks::ENVIRONMENT);
        let names: Vec<&OsStr> = files.iter().filter_map(|file| file.file_name()).collect();
        arguments.extend(names.iter().map(|name| directory.join(name).into()));
        let program = Program {
            arguments,
            environment: base.into_iter().collect(),
            inside: place.inside.clone(),
            directory: place.directory.clone(),
            handed: None,
            filter: place.filter.clone(),
            keep_open: None,
            watch: Some(self.watch.clone()),
        };
        let status = self
            .run_program(&program)
            .map_err(|error| self.cannot_start("/bin/bash", &error, phase.inside))?;
        let source = || {
            let note = record::read(self.hooks_of(phase.inside), &format!("{name}{SOURCE}"));
            let source = self.sourced(&names, note.ok().flatten());
            format!("{source} for phase `{}`", phase.directory())
        };
        if status != 0 {
            return Err(Failure::status(
                format!("sourcing {} failed with exit status {status}", source()),
                status,
            )
            .hint("one shell sources all files of `environment.d`, with `set -eu -o pipefail`: `-x` traces it"));
        }
        let block = record::read(self.hooks_of(phase.inside), &name)?.ok_or_else(|| {
            Failure::new(format!("the shell that sources {} ended there", source())).hint(
                "one shell sources all files of `environment.d`: let the file neither `exit` nor \
                 `exec` another program",
            )
        })?;
        let mut variables = environment::parse(&block);
        environment::keep_helpers(&mut variables, &place.hooks, phase.inside);
        let handed = record::read(self.hooks_of(phase.inside), &format!("{name}{HANDED}"))?;
        Ok(Sourced {
            variables,
            handed: handed.map(|note| Handed::parse(&note)),
        })
    }

    /// The file of `environment.d` that was sourced last, for a message. Files write what
    /// they like to the note of it.
    fn sourced(&self, names: &[&OsStr], note: Option<Vec<u8>>) -> String {
        let directory = crate::element::hooks::ENVIRONMENT;
        let noted = |name: &&&OsStr| Some(name.as_encoded_bytes()) == note.as_deref();
        match names.iter().find(noted).and_then(|name| name.to_str()) {
            Some(name) => {
                let path = format!("{directory}/{name}");
                format!("`{path}` of element `{}`", self.element_of(&path))
            }
            None => format!("`{directory}`"),
        }
    }

    /// Runs one hook and returns its wall time in seconds.
    fn run_hook(
        &mut self,
        directory: &str,
        name: &str,
        place: &Place,
        sourced: &Sourced,
    ) -> Result<f64, Failure> {
        let started = Instant::now();
        let element = self.element_of(&format!("{directory}/{name}"));
        let (phase, hook) = (directory.to_owned(), name.to_owned());
        self.events.send(&Event::HookStarted {
            phase: phase.clone(),
            hook: hook.clone(),
            element: element.clone(),
        });
        let path = place.hooks.join(directory).join(name);
        let mut program = Program {
            arguments: vec![path.clone().into()],
            environment: (sourced.variables)
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            inside: place.inside.clone(),
            directory: place.directory.clone(),
            handed: sourced.handed.clone(),
            // Earlier hooks may have made devices, which this one is to see.
            filter: Some(self.filter()),
            keep_open: None,
            watch: Some(self.watch.clone()),
        };
        if command::is_plain_script(&self.dirs.hooks.join(directory).join(name)) {
            program.arguments.insert(0, "/bin/bash".into());
        }
        let outside = place.inside.is_none();
        if outside {
            record::remove(&self.dirs.hooks, helpers_record::EXPLAINED);
        }
        // What an earlier hook put up with explains nothing.
        self.refused_hint();
        let result = if outside {
            // Programs outside may report their own progress.
            reports::run(&mut program, &mut self.events).map(shell_status)
        } else {
            self.run_program(&program)
        };
        self.require_supervisor()?;
        let what = format!("hook `{directory}/{name}` of element `{element}`");
        let status = result.map_err(|error| {
            if let Some(exceeded) = Exceeded::of(&error) {
                return Failure::status(format!("{what} {exceeded}"), exceeded.status())
                    .hint(exceeded.hint());
            }
            let failure = Failure::new(format!("{what} cannot be started: {error}"));
            if error.raw_os_error() == Some(libc::EAGAIN) {
                return failure.hint(self.processes_hint());
            }
            let file = self.dirs.hooks.join(directory).join(name);
            failure.hint(interpreter_hint(command::interpreter(&file)))
        })?;
        if status != 0 {
            let explained = outside.then(|| self.explained(status)).flatten();
            return Err(self.hook_failure(&what, status, directory, explained));
        }
        if outside {
            self.require_target(&what)?;
        }
        let seconds = started.elapsed().as_secs_f64();
        self.events.send(&Event::HookFinished {
            phase,
            hook,
            element,
            seconds,
        });
        Ok(seconds)
    }

    /// Refuses a hook outside that left no directory where the target was.
    fn require_target(&self, what: &str) -> Result<(), Failure> {
        let target = &self.dirs.target;
        if std::fs::symlink_metadata(target).is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        let message = format!(
            "{what} moved the directory of the target, `{}`, away or removed it",
            target.display()
        );
        Err(Failure::new(message).hint(
            "what is in that directory becomes the image: change that, and leave the directory",
        ))
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
    fn explained(&self, status: i32) -> Option<String> {
        let text = record::read(&self.dirs.hooks, helpers_record::EXPLAINED).ok()??;
        let explained: helpers_record::Explained = serde_json::from_slice(&text).ok()?;
        (i32::from(explained.status) == status).then_some(explained.hint)
    }

    /// A hook of this directory ended with this status.
    fn hook_failure(
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

    /// What to do if the kernel refused what needs a capability that the build has not:
    /// programs only tell that something is not permitted.
    fn refused_hint(&self) -> Option<String> {
        let refused = match self.supervisor.as_ref()?.take_refused()? {
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

    /// Runs a program with its output as events; the status is a shell's.
    pub fn run_program(&mut self, program: &Program) -> io::Result<i32> {
        let events = &mut self.events;
        let status = program.run(&mut |line| {
            events.send(&Event::Output {
                line: String::from_utf8_lossy(line).into_owned(),
            });
        })?;
        Ok(shell_status(status))
    }

    /// Fails if the supervisor did, which is why a program failed then.
    fn require_supervisor(&self) -> Result<(), Failure> {
        match &self.supervisor {
            Some(supervisor) => Ok(supervisor.check()?),
            None => Ok(()),
        }
    }

    /// Runs a program inside the target, with the helpers but without `environment.d`.
    pub fn run_inside(&mut self, what: &str, arguments: &[&str]) -> Result<(), Failure> {
        let place = self.place(true)?;
        let program = Program {
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: self.base_environment(INSTALL).into_iter().collect(),
            inside: place.inside,
            directory: place.directory,
            handed: None,
            filter: place.filter,
            keep_open: None,
            watch: Some(self.watch.clone()),
        };
        let program = resolve_helper(program);
        let status = self
            .run_program(&program)
            .map_err(|error| self.cannot_start(what, &error, true))?;
        self.require_supervisor()?;
        if status == 0 {
            return Ok(());
        }
        Err(Failure::status(
            format!("{what} failed with exit status {status}"),
            status,
        ))
    }

    /// Runs a break point's shell if the user asked for this point.
    fn break_point(&mut self, point: &str, inside: bool) -> Result<(), Failure> {
        if !self.breaks_at(point) {
            return Ok(());
        }
        self.events.send(&Event::Info {
            text: format!("break point {point}: exit the shell to go on"),
        });
        let place = self.place(inside)?;
        let phase = Phase {
            inside,
            target_root: true,
            ..INSTALL
        };
        let mut variables = self.base_environment(phase);
        variables
            .entry("TERM".into())
            .or_insert_with(|| "dumb".into());
        let command = self
            .variables
            .get(OsStr::new("break_cmd"))
            .cloned()
            .unwrap_or_else(|| "bash".into());
        let program = Program {
            arguments: vec!["/bin/bash".into(), "-c".into(), command],
            environment: variables.into_iter().collect(),
            inside: place.inside,
            directory: place.directory,
            handed: None,
            // A person at a shell may well mean `sync`, or trace something, but must
            // not see other owners than the hooks do.
            filter: self.supervisor.as_ref().map(|_| self.filter().unguarded()),
            keep_open: None,
            // Its time is the user's.
            watch: None,
        };
        let status = program
            .interact()
            .map_err(|error| self.cannot_start("bash", &error, inside))?;
        self.events.send(&Event::Info {
            text: format!(
                "break point {point} left with status {}",
                shell_status(status)
            ),
        });
        Ok(())
    }

    /// Whether `break` names this point.
    fn breaks_at(&self, point: &str) -> bool {
        self.variables.get(OsStr::new("break")).is_some_and(|list| {
            list.as_encoded_bytes()
                .split(|&b| b == b',')
                .any(|name| name == point.as_bytes())
        })
    }

    fn breaks_outside(&self) -> bool {
        self.variables
            .get(OsStr::new("break_outside_target"))
            .is_some_and(|value| !value.is_empty())
    }

    fn cannot_start(&self, what: &str, error: &io::Error, inside: bool) -> Failure {
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

/// Gives a helper its absolute path: PATH is looked up before the root changes.
fn resolve_helper(mut program: Program) -> Program {
    if let Some(name) = program.arguments.first_mut()
        && !name.as_encoded_bytes().contains(&b'/')
    {
        *name = Path::new(HOOKS_INSIDE)
            .join(".kiln/bin")
            .join(&*name)
            .into();
    }
    program
}
