//! Command lines of the faces whose originals are written in Python, by the rules
//! of its parser: see [`crate::helpers::arguments`].

use std::ffi::OsString;

use super::failure::{Failure, misused};
use super::nearest::nearest;
use crate::helpers::arguments::{self, Arguments, Error, Known};

/// Reads the arguments of `program`; misuse names the nearest option.
pub fn parse(program: &str, arguments: &[String], known: &[Known]) -> Result<Arguments, Failure> {
    let words: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    arguments::parse(&words, known, false).map_err(|error| {
        let failure = misused(error.to_string());
        let near = match &error {
            Error::Unknown { option } => nearest(option, known.iter().map(|known| known.long)),
            _ => None,
        };
        match near {
            Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
            None => failure.hint(format!("`{program} --help` lists the options")),
        }
    })
}

/// What is no option, as text.
pub fn operands(arguments: &Arguments) -> Vec<String> {
    let rest = arguments.rest.iter();
    rest.map(|word| word.to_string_lossy().into_owned())
        .collect()
}
