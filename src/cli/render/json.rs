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
        match serde_json::to_string(event) {
            Ok(text) => printer.line(text),
            // Only a path that is not UTF-8 has no form in JSON.
            Err(error) => printer.note(format_args!("warning: an event has no JSON form: {error}")),
        }
    }
}
