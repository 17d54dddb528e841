//! Whether outputs can have their places, looked at before a build of minutes.

use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::failure::Failure;
use super::plan::Plan;
use crate::sink;

/// What a checksum file's name has at most behind that of its output.
const LONGEST_SUM: &str = ".sha256";

/// The directory for the output, in which files can be made.
pub fn directory(plan: &Plan) -> Result<PathBuf, Failure> {
    let image = plan.request.current_dir.join(&plan.request.image_name);
    let directory = image.parent().unwrap_or(Path::new("/")).to_owned();
    let failure = |why: &str| {
        Failure::new(format!(
            "the directory `{}` for the output {why}",
            directory.display()
        ))
    };
    match std::fs::metadata(&directory) {
        Ok(found) if found.is_dir() => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failure(&format!("cannot be reached: {error}"))
                .hint("`-o` names another one, of which you may search every directory above"));
        }
        found => {
            let why = if found.is_ok() {
                "is something else"
            } else {
                "does not exist"
            };
            return Err(failure(why).hint("make it first, or name another one with `-o`"));
        }
    }
    writable(&directory, "the directory for the output", "-o")?;
    Ok(directory)
}

/// Fails unless files can be made in a directory that an option names.
pub fn writable(directory: &Path, what: &str, option: &str) -> Result<(), Failure> {
    access(directory, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| {
        Failure::new(format!(
            "{what}, `{}`, cannot be written to: {}",
            directory.display(),
            io::Error::from(error)
        ))
        .hint(format!("`{option}` names another one"))
    })
}

/// Fails if an output has a name that nothing can have, or that of something else than a file.
pub fn names(plan: &Plan) -> Result<(), Failure> {
    for file in plan.output_files() {
        let path = plan.request.current_dir.join(&file.path);
        let target = file.path;
        let found = std::fs::symlink_metadata(&path);
        if found.is_ok_and(|found| !found.is_file() && !found.is_symlink()) {
            return Err(refusal(&sink::Error::NotAFile { target }));
        }
        let mut longest = path.into_os_string();
        if plan.request.checksum {
            longest.push(LONGEST_SUM);
        }
        let found = std::fs::symlink_metadata(longest);
        if found.is_err_and(|error| error.kind() == io::ErrorKind::InvalidFilename) {
            return Err(refusal(&sink::Error::NameTooLong { target }));
        }
    }
    Ok(())
}

fn refusal(error: &sink::Error) -> Failure {
    Failure::from_error(error).hint_if(error.hint())
}
