//! The phases of a build, and the order in which hooks run.

use std::io;
use std::path::Path;
use std::time::Instant;

use crate::helpers::run_parts;
use crate::rootfs::beneath::Root;
use crate::sandbox::mounts::{self, TargetApi};
use crate::sandbox::standin;

use super::engine::Engine;
use super::environment::HOOKS_INSIDE;
use super::event::Event;
use super::failure::Failure;

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
        let (mut api, mut refused) = (None, None);
        for name in names {
            let seconds = self.run_hook(directory, &name, &place, &sourced)?;
            profile.push((name, seconds));
            // Once there is a root, hooks that run programs in it find what every
            // program may expect. Later phases get that from the engine anyway.
            if phase == ROOT && api.is_none() {
                api = self.early_api(&mut refused);
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

    /// Gives the target `/proc`, `/sys` and `/dev`, as soon as it has these directories.
    /// `refused` is why not, as far as that was said.
    fn early_api(&mut self, refused: &mut Option<String>) -> Option<TargetApi> {
        // A `/dev` of nodes instead would hide what hooks make in the target's own.
        if !standin::mounts_are_possible() {
            return None;
        }
        let error = match mounts::mount_target_api(&self.dirs.target) {
            Ok(api) => return Some(api),
            // The hook that makes the directory is still to come.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
        };
        if refused.as_ref() != Some(&error) {
            let text = format!(
                "further hooks of `{}` find no /proc, /sys and /dev in the target: {error}",
                ROOT.directory()
            );
            self.events.send(&Event::Warning { text });
            *refused = Some(error);
        }
        None
    }

    /// The hooks of a directory in the order they run. Listed now and not from the plan:
    /// hooks may add hooks.
    fn hooks_in(&mut self, directory: &str, inside: bool) -> Result<Vec<String>, Failure> {
        let list = |lookup: run_parts::Lookup<'_>, directory: &Path| {
            let parts = run_parts::list(lookup, directory, &self.plan.hook_names);
            parts.map_err(|error| Failure::from_error(&error))
        };
        let outside = list(run_parts::Lookup::Here, &self.dirs.hooks.join(directory))?;
        if !inside {
            return Ok(outside.run);
        }
        // A link may lead to another file in the target than here, or to none.
        let there = Path::new(HOOKS_INSIDE).join(directory);
        let root = Root::open(&self.dirs.target)
            .map_err(Failure::io("listing the hooks in the target"))?;
        let parts = list(run_parts::Lookup::Root(&root), &there).map_err(|failure| {
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
}
