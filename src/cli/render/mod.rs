//! Turns the events of a build into what the user sees.
//!
//! ```text
//! Event ─► Display ─┬─► rich    a terminal: what runs now, for how long
//!                   ├─► plain   stamped lines, as DIB prints them
//!                   ├─► json    the events themselves, one a line
//!                   ├─► log     stamped lines of everything, appended to a file
//!                   └─► Record  what the summary and a failure need at the end
//! ```

mod json;
mod lines;
mod log;
mod plain;
mod record;
mod rich;
pub(super) mod stamp;
mod terminal;

use std::io::IsTerminal as _;
use std::path::PathBuf;

pub use record::Record;

use super::caller::Caller;
use super::failure::{self, Failure};
use super::printer::{self, Printer};
use crate::build::event::Event;

/// How a build is shown on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Live display for a terminal.
    Rich,
    /// One line for everything; stamped unless told otherwise.
    Plain {
        /// Whether lines carry the time.
        stamps: bool,
    },
    /// One JSON object for every event.
    Json,
    /// Nothing; failures still go to standard error.
    Quiet,
}

/// How a build is shown, and where it is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// On standard output.
    pub style: Style,
    /// The file that every line is appended to.
    pub log_file: Option<PathBuf>,
    /// Whether standard output says first where the log file is.
    pub announce: bool,
}

impl Options {
    /// Chooses from what was asked, DIB's variables, and whether this is a terminal.
    ///
    /// `DIB_QUIET` decides where nothing was asked: `1` is silent and every
    /// other value is not. `log_silences` is DIB's rule that a log file
    /// replaces standard output as long as `DIB_QUIET` is unset.
    pub fn choose(
        caller: &Caller,
        json: bool,
        quiet: bool,
        log_file: Option<PathBuf>,
        log_silences: bool,
    ) -> Self {
        let announce = log_silences || !quiet && !json;
        let quiet = quiet
            || match caller.var("DIB_QUIET") {
                Some(value) => value == "1",
                None => log_silences && log_file.is_some(),
            };
        let terminal = std::io::stdout().is_terminal()
            && std::io::stderr().is_terminal()
            && !printer::terminal_is_dumb();
        let stamps = caller
            .var("DIB_NO_TIMESTAMP")
            .is_none_or(|value| value == "0");
        let style = match (json, quiet, terminal) {
            (true, _, _) => Style::Json,
            (_, true, _) => Style::Quiet,
            (_, _, true) => Style::Rich,
            _ => Style::Plain { stamps },
        };
        Self {
            style,
            log_file: log_file.map(|path| caller.current_dir.join(path)),
            announce,
        }
    }
}

/// A way to show events.
trait Renderer {
    /// Shows one.
    fn event(&mut self, event: &Event, record: &Record, printer: &mut Printer);
}

/// All that shows a build.
pub struct Display {
    renderers: Vec<Box<dyn Renderer>>,
    record: Record,
    style: Style,
}

impl Display {
    /// Opens the log file, if any, and gets ready for the first event.
    pub fn open(options: &Options, printer: &mut Printer) -> Result<Self, Failure> {
        let mut renderers: Vec<Box<dyn Renderer>> = Vec::new();
        if let Some(path) = &options.log_file {
            renderers.push(Box::new(log::Log::open(path)?));
            if options.announce {
                printer.line(format_args!("Output logs going to: {}", path.display()));
            }
        }
        match options.style {
            Style::Rich => renderers.push(Box::new(rich::Rich::new(printer.err_colour))),
            Style::Plain { stamps } => renderers.push(Box::new(plain::Plain::new(stamps))),
            Style::Json => renderers.push(Box::new(json::Json)),
            Style::Quiet => {}
        }
        Ok(Self {
            renderers,
            record: Record::default(),
            style: options.style,
        })
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event, printer: &mut Printer) {
        // The record first, so that renderers can use it for their summary.
        self.record.event(event);
        for renderer in &mut self.renderers {
            renderer.event(event, &self.record, printer);
        }
    }

    /// Prints a failure, if the build failed, and returns the exit status.
    pub fn finish(self, printer: &mut Printer) -> u8 {
        // Ends the live display before anything else is printed.
        drop(self.renderers);
        match self.record.outcome() {
            Ok(()) => 0,
            Err(failure) => {
                failure::print(&failure, printer);
                // Where the lines have been printed they need not be repeated.
                if matches!(self.style, Style::Rich | Style::Quiet) {
                    for line in self.record.last_output() {
                        printer.note(line);
                    }
                }
                failure.status
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)], log: bool, log_silences: bool) -> Style {
        let caller = Caller {
            environment: variables
                .iter()
                .map(|&(name, value)| (name.into(), value.into()))
                .collect(),
            current_dir: PathBuf::from("/"),
        };
        let log = log.then(|| PathBuf::from("log"));
        Options::choose(&caller, false, false, log, log_silences).style
    }

    #[test]
    fn a_log_file_silences_the_face_of_dib_unless_dib_quiet_says_otherwise() {
        let is_quiet = |style| style == Style::Quiet;
        for (variables, log, log_silences, quiet) in [
            (&[][..], false, true, false),
            (&[][..], true, true, true),
            (&[][..], true, false, false),
            (&[("DIB_QUIET", "0")][..], true, true, false),
            (&[("DIB_QUIET", "1")][..], false, true, true),
            (&[("DIB_QUIET", "1")][..], false, false, true),
        ] {
            let style = options(variables, log, log_silences);
            assert_eq!(is_quiet(style), quiet, "{variables:?} {log} {log_silences}");
        }
    }
}
