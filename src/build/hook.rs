//! Hooks and other programs of a phase, which the engine starts one by one: it therefore
//! knows what each took and which one failed.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::helpers::record as helpers_record;
use crate::sandbox::command::{self, Program, shell_status};
use crate::sandbox::inside::Inside;
use crate::sandbox::seccomp::Filter;

use super::engine::Engine;
use super::environment::HOOKS_INSIDE;
use super::event::Event;
use super::failure::Failure;
use super::phases::INSTALL;
use super::sourcing::Sourced;
use super::{record, reports};

/// Where a phase's programs run.
pub(super) struct Place {
    pub(super) inside: Option<Arc<Inside>>,
    pub(super) directory: PathBuf,
    /// The merged hooks, as the programs see them.
    pub(super) hooks: PathBuf,
    pub(super) filter: Option<Filter>,
}

impl Engine<'_> {
    pub(super) fn place(&mut self, inside: bool) -> Result<Place, Failure> {
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
        self.require_ended()?;
        Ok(Place {
            inside: None,
            directory: self.plan.request.current_dir.clone(),
            hooks: self.dirs.hooks.clone(),
            filter,
        })
    }

    /// Runs one hook and returns its wall time in seconds.
    pub(super) fn run_hook(
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
        self.forget_refused();
        let result = if outside {
            // Programs outside may report their own progress.
            reports::run(&mut program, &mut self.events).map(shell_status)
        } else {
            self.run_program(&program)
        };
        self.require_supervisor()?;
        let what = format!("hook `{directory}/{name}` of element `{element}`");
        let status = result.map_err(|error| {
            let file = self.dirs.hooks.join(directory).join(name);
            self.hook_not_started(&what, &error, &file)
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
