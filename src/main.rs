//! Picks the program by the name it was called by and returns its exit code.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let name = Path::new(&called)
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    if let Some(code) = kiln::helpers::run(name, args.collect()) {
        return code;
    }
    ExitCode::SUCCESS
}
