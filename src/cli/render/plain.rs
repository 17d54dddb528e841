//! Lines on standard output, for logs and pipes.

use std::time::SystemTime;

use super::Renderer;
use super::lines::lines;
use super::record::Record;
use super::stamp::stamp;
use crate::build::event::Event;
use crate::cli::printer::Printer;

/// Prints a line for everything that happens.
#[derive(Debug)]
pub struct Plain {
    stamps: bool,
}

impl Plain {
    /// With the time before every line, or without.
    pub fn new(stamps: bool) -> Self {
        Self { stamps }
    }
}

impl Renderer for Plain {
    fn event(&mut self, event: &Event, record: &Record, printer: &mut Printer) {
        let mut print = |line: String| {
            if self.stamps {
                printer.line(stamped(&line));
            } else {
                printer.line(line);
            }
        };
        match event {
            // Printed to standard error when the display ends.
            Event::Failed { .. } => {}
            event => lines(event).into_iter().for_each(&mut print),
        }
        if let Event::Finished { .. } = event {
            record.summary().into_iter().for_each(print);
        }
    }
}

/// `line` with the present time before it.
pub fn stamped(line: &str) -> String {
    format!("{} | {line}", stamp(SystemTime::now()))
}
