//! The one shape that every error takes on its way to the user.
//!
//! The builds' own [`Failure`] serves all commands: what failed and why, what to
//! do, and the exit status. Here errors become failures, and failures text.

use std::io;

use clap::error::{ContextKind, ContextValue};

use super::printer::{Colour, Printer, Tone, printable};
pub use crate::build::failure::Failure;

/// Exit status of a command that could not do its work.
pub const FAILED: u8 = 1;
/// Exit status of a command whose arguments make no sense.
pub const MISUSED: u8 = 2;

/// A failure to understand the arguments.
pub fn misused(message: impl Into<String>) -> Failure {
    Failure {
        status: MISUSED,
        ..Failure::new(message)
    }
}

/// Prints `error: …` and one `hint: …` a line to standard error.
pub fn print(failure: &Failure, printer: &mut Printer) {
    printer.note(render(failure, printer.err_colour));
}

/// The text of [`print`], without the last newline: one line for the message and one for
/// each hint, whatever is in the names that they quote.
pub fn render(failure: &Failure, colour: Colour) -> String {
    let mut text = format!(
        "{} {}",
        colour.paint(Tone::Error, "error:"),
        printable(&failure.message)
    );
    for hint in &failure.hints {
        text.push('\n');
        text.push_str(&colour.paint(Tone::Accent, "hint:"));
        text.push(' ');
        text.push_str(&printable(hint));
    }
    text
}

impl From<io::Error> for Failure {
    /// Errors of `fs_err` name their path; others should be wrapped by the caller.
    fn from(error: io::Error) -> Self {
        let failure = Self::from_error(&error);
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                failure.hint("free some space there, or choose another place")
            }
            io::ErrorKind::PermissionDenied => {
                failure.hint("kiln needs no root; choose a path that you may write to")
            }
            _ => failure,
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(format!("cannot write JSON: {error}"))
    }
}

impl From<clap::Error> for Failure {
    /// Takes the parser's text apart into message and advice.
    fn from(error: clap::Error) -> Self {
        let text = error.to_string();
        let negative = negative_number(&error);
        let mut message = String::new();
        let mut hints = Vec::new();
        let mut in_message = true;
        for line in text.lines() {
            let line = line.trim_end();
            if let Some(tip) = line.trim_start().strip_prefix("tip: ") {
                hints.push(match &negative {
                    Some(number) if tip.starts_with("to pass") => {
                        format!(
                            "a value that begins with `-` follows the `=` of its option: `={number}`"
                        )
                    }
                    _ => tip.to_owned(),
                });
            } else if line.starts_with("Usage:") || line.starts_with("For more information") {
                in_message = false;
            } else if in_message && !line.is_empty() {
                let line = line.strip_prefix("error: ").unwrap_or(line);
                if !message.is_empty() {
                    let listed = line.starts_with(' ');
                    message.push_str(if listed { " " } else { "; " });
                }
                message.push_str(line.trim());
            }
        }
        if let Some(usage) = text.lines().find_map(|line| line.strip_prefix("Usage: ")) {
            hints.push(format!("usage: {usage}"));
        }
        Self {
            message: message.replace('\'', "`"),
            hints: hints
                .into_iter()
                .map(|hint| hint.replace('\'', "`"))
                .collect(),
            status: MISUSED,
        }
    }
}

/// What the parser took for an option and is a number below zero, meant as an option's value.
fn negative_number(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let number = argument.strip_prefix('-')?;
    let is_number = number.starts_with(|first: char| first.is_ascii_digit());
    is_number.then(|| argument.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_follow_the_error_line_by_line() {
        let failure = Failure::new("no room").hint("delete").hint("buy a disk");
        assert_eq!(
            render(&failure, Colour::OFF),
            "error: no room\nhint: delete\nhint: buy a disk"
        );
    }

    #[test]
    fn a_name_in_a_failure_cannot_forge_another() {
        let failure = Failure::new("`a\x1b[2J\nerror: forged` is odd").hint("b\nhint: c");
        assert_eq!(
            render(&failure, Colour::OFF),
            "error: `a\\u{1b}[2J\\nerror: forged` is odd\nhint: b\\nhint: c"
        );
    }

    #[test]
    fn what_the_parser_says_becomes_message_and_hints() {
        let error = clap::Command::new("x")
            .arg(
                clap::Arg::new("size")
                    .long("size")
                    .value_parser(["big", "small"]),
            )
            .try_get_matches_from(["x", "--size", "bigg"])
            .expect_err("no such size");
        let failure = Failure::from(error);
        assert_eq!(failure.status, MISUSED);
        assert_eq!(
            failure.message,
            "invalid value `bigg` for `--size <size>` [possible values: big, small]"
        );
        assert_eq!(failure.hints, ["a similar value exists: `big`"]);
    }
}
