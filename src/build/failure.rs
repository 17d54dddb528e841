//! Why a build stopped, ready to be shown.

use std::error::Error;

/// What failed, what to do, and the exit status for the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What failed, on what and why, in one sentence.
    pub message: String,
    /// What to do about it, most likely remedy first.
    pub hints: Vec<String>,
    /// Exit status: a failing hook's own, otherwise 1.
    pub status: u8,
}

impl Failure {
    /// A failure of the build itself.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure {
            message: message.into(),
            hints: Vec::new(),
            status: 1,
        }
    }

    /// A failure that has an exit status of its own.
    pub fn status(message: impl Into<String>, status: i32) -> Failure {
        let status = u8::try_from(status)
            .ok()
            .filter(|&status| status != 0)
            .unwrap_or(1);
        Failure {
            status,
            ..Failure::new(message)
        }
    }

    /// Adds something to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }

    /// Adds something to do about it, if there is something.
    #[must_use]
    pub fn hint_if(mut self, hint: Option<impl Into<String>>) -> Failure {
        self.hints.extend(hint.map(Into::into));
        self
    }

    /// An error with its causes in one sentence.
    pub fn from_error(error: &(dyn Error + 'static)) -> Failure {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Wrappers that already quote their cause would say it twice.
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Failure::new(message)
    }

    /// An I/O failure while doing something.
    pub fn io(action: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Failure {
        move |error| Failure::new(format!("{action}: {error}"))
    }
}

impl From<crate::sandbox::Error> for Failure {
    fn from(error: crate::sandbox::Error) -> Failure {
        Failure {
            hints: error.hints(),
            ..Failure::from_error(&error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_does_not_fit_becomes_1() {
        for (given, expected) in [(7, 7), (0, 1), (256, 1), (-1, 1), (137, 137)] {
            assert_eq!(Failure::status("x", given).status, expected);
        }
    }
}
