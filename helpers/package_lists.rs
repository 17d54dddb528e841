//! `package-installs` and `package-uninstalls`: the older, textual package lists.
//!
//! A phase directory may hold files `package-installs-ELEMENT` with one package a
//! line and `#` comments; a leading `-` marks a package that is removed again at
//! the end of the phase.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use thiserror::Error;

use super::Explain;

/// Why the lists cannot be acted on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No directory was named.
    #[error("no directory of package lists")]
    Usage {
        /// The helper.
        name: String,
    },
    /// A list cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// `install-packages` cannot be started.
    #[error("cannot run `install-packages`")]
    Start(#[source] io::Error),
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { name } => Some(format!("{name} -d DIRECTORY")),
            Self::Read { .. } | Self::Start(_) => None,
        }
    }
}

/// `package-installs -d DIR`
pub(super) fn install(name: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    if asks_for_help(args) {
        super::print(
            "Installs the packages that the files package-installs-* in DIRECTORY list.\n\n\
             Usage: package-installs -d DIRECTORY\n",
        );
        return Ok(ExitCode::SUCCESS);
    }
    let packages = read(name, args)?
        .into_iter()
        .map(|(package, _)| package)
        .collect();
    install_packages(&[], packages)
}

/// `package-uninstalls -d DIR`
pub(super) fn uninstall(name: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    if asks_for_help(args) {
        super::print(
            "Removes the packages that the files package-installs-* in DIRECTORY list with a dash.\n\n\
             Usage: package-uninstalls -d DIRECTORY\n",
        );
        return Ok(ExitCode::SUCCESS);
    }
    let packages = read(name, args)?
        .into_iter()
        .filter(|(_, remove)| *remove)
        .map(|(package, _)| package)
        .collect();
    install_packages(&["-e"], packages)
}

fn asks_for_help(args: &[OsString]) -> bool {
    args.first()
        .is_some_and(|arg| arg == "-h" || arg == "--help")
}

fn install_packages(options: &[&str], packages: Vec<String>) -> Result<ExitCode, Error> {
    let status = Command::new("install-packages")
        .args(options)
        .args(packages)
        .status()
        .map_err(Error::Start)?;
    Ok(super::exit_code(status))
}

fn read(name: &OsStr, args: &[OsString]) -> Result<Vec<(String, bool)>, Error> {
    let usage = || Error::Usage {
        name: name.to_string_lossy().into_owned(),
    };
    let mut args = args.iter();
    let mut directory = None;
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("-d") => directory = args.next().map(PathBuf::from),
            Some(text) if text.starts_with("-d") => directory = text.get(2..).map(PathBuf::from),
            _ => return Err(usage()),
        }
    }
    lists(&directory.ok_or_else(usage)?)
}

/// All packages of a directory's lists, in byte order of the file names.
fn lists(directory: &Path) -> Result<Vec<(String, bool)>, Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Read { path, source }
    };
    let mut files = std::fs::read_dir(directory)
        .map_err(io(directory))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(io(directory))?;
    files.retain(|path| {
        path.is_file()
            && path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("package-installs-"))
    });
    files.sort();
    let mut packages = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).map_err(io(&path))?;
        packages.extend(text.lines().filter_map(parse));
    }
    Ok(packages)
}

/// A line's package and whether it is to be removed.
fn parse(line: &str) -> Option<(String, bool)> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let (package, remove) = line
        .strip_prefix('-')
        .map_or((line, false), |rest| (rest.trim(), true));
    (!package.is_empty()).then(|| (package.to_owned(), remove))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_packages_comments_or_removals() {
        for (line, expected) in [
            ("a", Some(("a", false))),
            (" a # why", Some(("a", false))),
            ("-a", Some(("a", true))),
            ("# a", None),
            ("", None),
            ("-", None),
        ] {
            let found = parse(line);
            assert_eq!(
                found
                    .as_ref()
                    .map(|(package, remove)| (package.as_str(), *remove)),
                expected,
                "{line:?}"
            );
        }
    }

    #[test]
    fn files_are_read_in_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("package-installs-b", "b\n"),
            ("package-installs-a", "a\n-c\n"),
            ("other", "x\n"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let packages = lists(dir.path()).unwrap();
        let expected = [("a", false), ("c", true), ("b", false)]
            .map(|(package, remove)| (package.to_owned(), remove));
        assert_eq!(packages, expected);
    }
}
