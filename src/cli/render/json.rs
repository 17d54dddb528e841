//! Events as JSON, one object a line, for programs.

use super::Renderer;
use super::record::Record;
use crate::build::event::Event;
use crate::cli::printer::Printer;

/// Prints every event as it is.
#[derive(Debug)]
pub struct Json;

impl Renderer for Json {
    fn event(&mut self, event: &Event, _: &Record, printer: &mut Printer) {
        // Only a path that is not UTF-8 has no form in JSON.
        if let Err(error) = printer.json_line(event) {
            printer.note(format_args!("warning: an event has no JSON form: {error}"));
        }
    }
}
