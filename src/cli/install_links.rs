//! `kiln install-links`: installs kiln under the names of diskimage-builder's commands.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use fs_err as fs;

use super::failure::Failure;
use super::{Context, link_names};

/// Arguments of `kiln install-links`.
#[derive(Debug, Args)]
#[command(after_help = "Example: kiln install-links ~/.local/bin")]
pub struct Arguments {
    /// Directory for the links; created if it is not there
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    directory: PathBuf,

    /// Replace files of these names that are not links to kiln
    #[arg(long)]
    force: bool,
}

/// Runs `kiln install-links`.
pub fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let directory = context.caller.current_dir.join(&arguments.directory);
    let program = env::current_exe()
        .and_then(fs::canonicalize)
        .map_err(|error| Failure::new(format!("cannot tell where kiln itself is: {error}")))?;
    fs::create_dir_all(&directory)?;
    // Every name is checked before the first is touched.
    for name in link_names() {
        let path = directory.join(name);
        if !arguments.force && !may_replace(&path, &program)? {
            return Err(
                Failure::new(format!("`{}` exists and is not kiln's", path.display()))
                    .hint("choose another directory, or replace it with `--force`"),
            );
        }
    }
    for name in link_names() {
        let path = directory.join(name);
        link(&program, &path)?;
        context
            .printer
            .line(format_args!("{} -> {}", path.display(), program.display()));
    }
    let on_path = context
        .caller
        .var("PATH")
        .is_some_and(|path| env::split_paths(path).any(|entry| same_directory(&entry, &directory)));
    if !on_path {
        context.printer.note(format_args!(
            "hint: `{}` is not in PATH; add it there to call the commands by name",
            directory.display()
        ));
    }
    Ok(0)
}

/// Whether nothing is at `path`, or a link that kiln made.
fn may_replace(path: &Path, program: &Path) -> Result<bool, Failure> {
    match fs::read_link(path) {
        // A dangling link to a kiln that was moved or updated is kiln's as well.
        Ok(target) => Ok(target == program
            || target.file_name() == program.file_name()
            || fs::canonicalize(path).is_ok_and(|target| target == program)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        // Anything that is not a link.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes or replaces a link in one step, so that the name never is absent.
fn link(program: &Path, path: &Path) -> Result<(), Failure> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    std::os::unix::fs::symlink(program, &temporary).map_err(|error| {
        let failure = Failure::from(error);
        Failure {
            message: format!(
                "cannot make the link `{}`: {}",
                path.display(),
                failure.message
            ),
            ..failure
        }
    })?;
    fs::rename(&temporary, path).map_err(|error| {
        // The error that matters is that of the renaming.
        let _ = fs::remove_file(&temporary);
        error.into()
    })
}

fn same_directory(a: &Path, b: &Path) -> bool {
    match (fs::canonicalize(a), fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
