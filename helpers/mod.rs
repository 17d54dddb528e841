//! Programs that hooks call, in any root: no interpreter and no shared library.
pub mod environment;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope { Anywhere, Inside }
pub struct Helper { pub name: &'static str, pub scope: Scope }
pub const HELPERS: &[Helper] = &[Helper { name: "kiln-environment", scope: Scope::Anywhere }];
pub trait Explain: std::error::Error {}
pub fn run(name: &str, args: Vec<OsString>) -> Option<ExitCode> {
    (name == "kiln-environment").then(|| environment::main(OsStr::new(name), &args).unwrap())
}
