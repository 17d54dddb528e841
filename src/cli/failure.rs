//! The one shape that every error takes on its way to the user.

use std::error::Error;
use std::io;

use super::printer::{Colour, Printer, Tone};

/// A failed command: what failed and why, what to do, and the exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What failed, on what and why; lower case, without a full stop.
    pub message: String,
    /// What to do about it, one piece of advice each.
    pub hints: Vec<String>,
    /// Exit status of the command, 1–255.
    pub status: u8,
}

/// Exit status of a command that could not do its work.
pub const FAILED: u8 = 1;
/// Exit status of a command whose arguments make no sense.
pub const MISUSED: u8 = 2;

impl Failure {
    /// A failure with exit status 1 and without advice.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hints: Vec::new(),
            status: FAILED,
        }
    }

    /// Adds a piece of advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Sets the exit status; zero would claim success and becomes 1.
    #[must_use]
    pub fn status(mut self, status: u8) -> Self {
        self.status = status.max(FAILED);
        self
    }

    /// Takes an error with all its causes.
    ///
    /// A cause that its effect already quotes is not said twice.
    pub fn from_error(error: &(dyn Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self::new(message)
    }

    /// Prints `error: …` and one `hint: …` a line to standard error.
    pub fn print(&self, printer: &mut Printer) {
        printer.note(self.render(printer.err_colour));
    }

    /// The text of [`Failure::print`], without the last newline.
    pub fn render(&self, colour: Colour) -> String {
        let mut text = format!("{} {}", colour.paint(Tone::Error, "error:"), self.message);
        for hint in &self.hints {
            text.push('\n');
            text.push_str(&colour.paint(Tone::Accent, "hint:"));
            text.push(' ');
            text.push_str(hint);
        }
        text
    }
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

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::from_error(error.as_ref())
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
        let mut message = String::new();
        let mut hints = Vec::new();
        let mut in_message = true;
        for line in text.lines() {
            let line = line.trim_end();
            if let Some(tip) = line.trim_start().strip_prefix("tip: ") {
                hints.push(tip.to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_joined_and_never_repeated() {
        let root = io::Error::other("disk on fire");
        let middle = anyhow::Error::from(root).context("cannot write `x`");
        let top = middle.context("cannot write `x`: saving failed");
        let failure = Failure::from(top);
        assert_eq!(
            failure.message,
            "cannot write `x`: saving failed: disk on fire"
        );
    }

    #[test]
    fn a_failure_never_claims_success() {
        assert_eq!(Failure::new("x").status(0).status, 1);
        assert_eq!(Failure::new("x").status(7).status, 7);
    }

    #[test]
    fn hints_follow_the_error_line_by_line() {
        let failure = Failure::new("no room").hint("delete").hint("buy a disk");
        assert_eq!(
            failure.render(Colour::OFF),
            "error: no room\nhint: delete\nhint: buy a disk"
        );
    }
}
