//! Which files of the hooks directory run now.
//!
//! Listed when a phase starts and not from the plan alone, because hooks may
//! add hooks (install types link theirs into `install.d`).

use std::io;
use std::path::Path;

use crate::element::order::{self, NamePattern};
use crate::sandbox::command::is_executable;

/// The hooks of a phase directory in the order they run.
pub fn hooks(directory: &Path, pattern: &NamePattern) -> io::Result<Vec<String>> {
    let mut names = names(directory, |name, path| {
        pattern.matches(name) && is_executable(path)
    })?;
    names.sort_by(|a, b| order::compare(a, b));
    Ok(names)
}

/// The files of `environment.d` in the order they are sourced.
pub fn environment(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = names(directory, |name, path| {
        order::is_environment_name(name) && path.is_file()
    })?;
    names.sort();
    Ok(names)
}

/// Names of a directory that qualify; none if it does not exist. Names that are
/// not UTF-8 match no pattern that anybody writes.
fn names(directory: &Path, qualifies: impl Fn(&str, &Path) -> bool) -> io::Result<Vec<String>> {
    let entries = match fs_err::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str()
            && qualifies(name, &entry.path())
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
