//! Break points: a shell for the user before or after a phase, or where a hook failed.

use std::ffi::OsStr;

use crate::sandbox::command::{Program, shell_status};

use super::engine::Engine;
use super::event::Event;
use super::failure::Failure;
use super::phases::{INSTALL, Phase};

impl Engine<'_> {
    /// Runs a break point's shell if the user asked for this point.
    pub(super) fn break_point(&mut self, point: &str, inside: bool) -> Result<(), Failure> {
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
        self.events.send(&Event::ShellStarted {
            point: point.to_owned(),
        });
        let target = inside.then_some(self.dirs.target.as_path());
        let terminal = self.terminal.as_ref().map(|main| main.borrow(target));
        let terminal = terminal
            .transpose()
            .map_err(Failure::io("making a terminal for the shell"))?;
        let result = program.interact(terminal.as_ref());
        drop(terminal);
        self.events.send(&Event::ShellEnded {
            point: point.to_owned(),
        });
        let status = result.map_err(|error| self.cannot_start("bash", &error, inside))?;
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

    pub(super) fn breaks_outside(&self) -> bool {
        self.variables
            .get(OsStr::new("break_outside_target"))
            .is_some_and(|value| !value.is_empty())
    }
}
