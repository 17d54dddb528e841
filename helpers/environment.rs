//! `kiln-environment FILE`: writes the environment that it was given, and beside it, as
//! `FILE.handed`, the umask, the working directory and the limits.
//!
//! The engine has `environment.d` sourced by a shell and needs what the shell
//! exports then, byte for byte: values may hold newlines, and exported functions
//! are variables that `env` and `export -p` show in different ways.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use super::Explain;
use crate::sandbox::handed::Handed;

/// Suffix of the file with what is no variable.
pub const HANDED: &str = ".handed";

/// Why the environment could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not exactly one argument.
    #[error("usage: kiln-environment FILE")]
    Usage,
    /// The file cannot be written.
    #[error("cannot write the environment")]
    Write(#[source] std::io::Error),
}

impl Explain for Error {}

/// Runs the program.
pub fn main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let [file] = args else {
        return Err(Error::Usage);
    };
    let mut block = Vec::new();
    for (name, value) in std::env::vars_os() {
        block.extend_from_slice(name.as_bytes());
        block.push(b'=');
        block.extend_from_slice(value.as_bytes());
        block.push(0);
    }
    let mut beside = file.clone();
    beside.push(HANDED);
    fs_err::write(std::path::Path::new(&beside), Handed::note()).map_err(Error::Write)?;
    fs_err::write(std::path::Path::new(file), block).map_err(Error::Write)?;
    Ok(ExitCode::SUCCESS)
}
