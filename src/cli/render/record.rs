//! What has to be remembered of a build for its end.

use std::collections::VecDeque;
use std::path::PathBuf;

use super::terminal::visible;
use crate::build::event::Event;
use crate::cli::failure::{self, Failure};
use crate::cli::printer::{printable, table};
use crate::cli::units;

/// Lines of output that a failure repeats.
const TAIL: usize = 20;
/// Hooks that the summary lists.
const SLOWEST: usize = 5;

/// A hook that ran.
#[derive(Debug, Clone, PartialEq)]
struct Hook {
    phase: String,
    name: String,
    element: String,
    seconds: f64,
}

/// An image that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Image {
    path: PathBuf,
    format: String,
    virtual_size: u64,
    file_size: u64,
    disk_size: u64,
}

/// The course of a build so far.
#[derive(Debug, Default)]
pub struct Record {
    hooks: Vec<Hook>,
    images: Vec<Image>,
    running: Option<String>,
    tail: VecDeque<String>,
    seconds: Option<f64>,
    failure: Option<Failure>,
}

impl Record {
    /// Takes note of an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::HookStarted {
                phase,
                hook,
                element,
            } => {
                self.running = Some(format!("{phase}/{hook} ({element})"));
                self.tail.clear();
            }
            Event::StepStarted { step, .. } => {
                self.running = Some(step.clone());
                self.tail.clear();
            }
            Event::Output { line } => {
                if self.tail.len() == TAIL {
                    self.tail.pop_front();
                }
                self.tail.push_back(visible(line));
            }
            Event::HookFinished {
                phase,
                hook,
                element,
                seconds,
            } => {
                self.running = None;
                self.hooks.push(Hook {
                    phase: phase.clone(),
                    name: hook.clone(),
                    element: element.clone(),
                    seconds: *seconds,
                });
            }
            Event::OutputWritten {
                path,
                format,
                virtual_size,
                file_size,
                disk_size,
            } => {
                self.images.push(Image {
                    path: path.clone(),
                    format: format.clone(),
                    virtual_size: *virtual_size,
                    file_size: *file_size,
                    disk_size: *disk_size,
                });
            }
            Event::Failed {
                message,
                hints,
                status,
            } => {
                self.failure = Some(Failure {
                    message: message.clone(),
                    hints: hints.clone(),
                    // Zero would claim success.
                    status: (*status).max(failure::FAILED),
                });
            }
            Event::Finished { seconds } => self.seconds = Some(*seconds),
            Event::StepFinished { .. } => self.running = None,
            Event::Info { .. }
            | Event::Warning { .. }
            | Event::PhaseStarted { .. }
            | Event::ShellStarted { .. }
            | Event::ShellEnded { .. }
            | Event::PhaseFinished { .. }
            | Event::StepProgress { .. } => {}
        }
    }

    /// How the build ended.
    pub fn outcome(&self) -> Result<(), Failure> {
        match (&self.failure, self.seconds) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Some(_)) => Ok(()),
            (None, None) => Err(Failure::new("the build ended without a result")
                .hint("its engine was probably killed; see `dmesg` for the kernel's reasons, such as no memory")),
        }
    }

    /// The last lines that the running hook printed, under a heading.
    pub fn last_output(&self) -> Vec<String> {
        if self.tail.is_empty() {
            return Vec::new();
        }
        let heading = match &self.running {
            Some(running) => format!("last output of {}:", printable(running)),
            None => "last output:".to_owned(),
        };
        let lines = self
            .tail
            .iter()
            .map(|line| format!("  | {line}").trim_end().to_owned());
        std::iter::once(heading).chain(lines).collect()
    }

    /// What a successful build has to show: images with their sizes, and where the time went.
    pub fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut slowest: Vec<&Hook> = self.hooks.iter().collect();
        // Stable, so that equals stay in the order in which they ran.
        slowest.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        slowest.truncate(SLOWEST);
        if !slowest.is_empty() {
            lines.push("Slowest hooks:".to_owned());
            let rows: Vec<Vec<String>> = slowest
                .into_iter()
                .map(|hook| {
                    vec![
                        format!("  {}", units::seconds(hook.seconds)),
                        format!("{}/{}", hook.phase, hook.name),
                        format!("({})", hook.element),
                    ]
                })
                .collect();
            lines.extend(table(&rows).lines().map(str::to_owned));
        }
        if let Some(seconds) = self.seconds {
            let hooks = match self.hooks.len() {
                0 => String::new(),
                1 => ", 1 hook".to_owned(),
                many => format!(", {many} hooks"),
            };
            lines.push(format!("Built in {}{hooks}", units::seconds(seconds)));
        }
        lines.extend(self.images.iter().map(Image::describe));
        lines
    }
}

impl Image {
    fn describe(&self) -> String {
        let file = units::bytes(self.file_size);
        let disk = units::bytes(self.disk_size);
        let path = printable(&self.path.display().to_string());
        if self.format == "tar" {
            format!("{path}: tar, file {file}, on disk {disk}")
        } else {
            let virtual_size = units::bytes(self.virtual_size);
            format!(
                "{path}: {}, virtual {virtual_size}, file {file}, on disk {disk}",
                self.format
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(record: &mut Record, name: &str, seconds: f64) {
        let (phase, hook, element) = ("install.d".to_owned(), name.to_owned(), "vm".to_owned());
        record.event(&Event::HookStarted {
            phase: phase.clone(),
            hook: hook.clone(),
            element: element.clone(),
        });
        record.event(&Event::Output {
            line: format!("{name} says \x1b[31mhello"),
        });
        record.event(&Event::HookFinished {
            phase,
            hook,
            element,
            seconds,
        });
    }

    #[test]
    fn the_summary_lists_slow_hooks_first_and_images_last() {
        let mut record = Record::default();
        hook(&mut record, "10-quick", 0.1);
        hook(&mut record, "50-slow", 70.0);
        record.event(&Event::OutputWritten {
            path: "debian.qcow2".into(),
            format: "qcow2".into(),
            virtual_size: 2 << 30,
            file_size: 364_047_565,
            disk_size: 364_052_480,
        });
        record.event(&Event::Finished { seconds: 80.0 });
        assert_eq!(
            record.summary(),
            [
                "Slowest hooks:",
                "  1 min 10 s  install.d/50-slow   (vm)",
                "  0.1 s       install.d/10-quick  (vm)",
                "Built in 1 min 20 s, 2 hooks",
                "debian.qcow2: qcow2, virtual 2.0 GiB, file 347.2 MiB, on disk 347.2 MiB",
            ]
        );
        assert_eq!(record.outcome(), Ok(()));
    }

    #[test]
    fn a_failure_keeps_its_status_and_the_hooks_last_lines() {
        let mut record = Record::default();
        hook(&mut record, "10-quick", 0.1);
        record.event(&Event::HookStarted {
            phase: "install.d".into(),
            hook: "50-bad".into(),
            element: "mine".into(),
        });
        for number in 0..30 {
            record.event(&Event::Output {
                line: format!("line {number}"),
            });
        }
        record.event(&Event::Failed {
            message: "no".into(),
            hints: vec!["try".into()],
            status: 7,
        });
        let failure = record.outcome().expect_err("it failed");
        assert_eq!((failure.status, failure.hints.len()), (7, 1));
        let lines = record.last_output();
        assert_eq!(lines[0], "last output of install.d/50-bad (mine):");
        assert_eq!(lines[1], "  | line 10");
        assert_eq!(lines.len(), 1 + TAIL);
    }

    #[test]
    fn silence_of_the_engine_is_a_failure() {
        let failure = Record::default().outcome().expect_err("no result");
        assert_eq!(failure.message, "the build ended without a result");
    }
}
