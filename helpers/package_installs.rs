//! `package-installs-v2`: acts on the merged package lists of one phase.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use thiserror::Error;

use super::arguments::{self, flag, value};
use super::{Explain, pkg_map};
use crate::sandbox::command::shell_status;

/// Why packages cannot be installed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No phase or no file.
    #[error("{missing} is missing")]
    Usage {
        /// The missing argument.
        missing: &'static str,
    },
    /// The arguments make no sense.
    #[error(transparent)]
    Arguments(#[from] arguments::Error),
    /// The merged lists cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is no merged list.
    #[error("`{path}` has no package lists: {message}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        message: String,
    },
    /// Names cannot be mapped.
    #[error("pkg-map failed")]
    PkgMap(#[source] pkg_map::Error),
    /// `install-packages` cannot be started.
    #[error("cannot run `install-packages`")]
    Start(#[source] io::Error),
    /// `install-packages` failed.
    #[error("install-packages failed with returncode {code}")]
    Failed {
        /// Its exit status, or 128 and the signal.
        code: i32,
    },
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { .. } => {
                Some("package-installs-v2 --phase PHASE [--uninstall] [-n] FILE".into())
            }
            Self::Arguments(error) => error.hint(),
            Self::Read { .. } => Some("`package-installs-squash` writes it in extra-data.d".into()),
            Self::PkgMap(error) => error.hint(),
            Self::Start(_) => Some("it is in the PATH of hooks that run in the target".into()),
            Self::Format { .. } | Self::Failed { .. } => None,
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Arguments(_) | Self::Usage { .. } => 2,
            _ => 1,
        }
    }
}

/// The merged file: phase, then `install` or `uninstall`, then package and element.
type Lists = BTreeMap<String, BTreeMap<String, Vec<(String, String)>>>;

/// Elements in the order they first appear, with their packages.
fn by_element(pairs: &[(String, String)]) -> Vec<(&str, Vec<String>)> {
    let mut elements: Vec<(&str, Vec<String>)> = Vec::new();
    for (package, element) in pairs {
        match elements.iter_mut().find(|(known, _)| known == element) {
            Some((_, packages)) => packages.push(package.clone()),
            None => elements.push((element, vec![package.clone()])),
        }
    }
    elements
}

/// Splits mapped values into packages, each once, in the order of appearance.
fn unique(values: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut packages: Vec<String> = Vec::new();
    for value in values {
        for package in value.split_whitespace() {
            if !packages.iter().any(|known| known == package) {
                packages.push(package.to_owned());
            }
        }
    }
    packages
}

const HELP: &str = "\
Installs the packages that FILE, which package-installs-squash made, lists for a phase.

Usage: package-installs-v2 --phase PHASE [--uninstall] [-n] FILE

      --phase PHASE  Phase, such as install.d.
      --uninstall    Removes what is to be removed instead.
  -n, --noop         Prints the command, and does not run it.
  -h, --help         Prints this text.
";

/// `package-installs-v2 --phase P [--uninstall] [-n|--noop] FILE`
pub(super) fn main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let known = [
        value("--phase"),
        flag("--uninstall", None),
        flag("--noop", Some("-n")),
    ];
    let arguments = arguments::parse(args, &known, false)?;
    if arguments.asks_for_help() {
        super::print(HELP);
        return Ok(ExitCode::SUCCESS);
    }
    let (uninstall, noop) = (arguments.has("--uninstall"), arguments.has("--noop"));
    let phase = arguments.text("--phase");
    let phase = phase.ok_or(Error::Usage { missing: "--phase" })?;
    let path = arguments
        .rest
        .first()
        .map(PathBuf::from)
        .ok_or(Error::Usage {
            missing: "the file of package lists",
        })?;
    let text = std::fs::read(&path).map_err(|source| Error::Read {
        path: path.clone(),
        source,
    })?;
    let mut lists: Lists = serde_json::from_slice(&text).map_err(|error| Error::Format {
        path,
        message: error.to_string(),
    })?;
    let operation = if uninstall { "uninstall" } else { "install" };
    let Some(pairs) = lists
        .get_mut(&phase)
        .and_then(|phase| phase.remove(operation))
    else {
        super::print(&format!("Nothing to {operation}\n"));
        return Ok(ExitCode::SUCCESS);
    };

    let mut mapped = Vec::new();
    for (element, packages) in by_element(&pairs) {
        super::print(&format!(
            "Map {operation} for {element}: {}\n",
            packages.join(", ")
        ));
        mapped.extend(pkg_map::map_for_element(element, true, &packages).map_err(Error::PkgMap)?);
    }
    let mut command = vec!["install-packages".to_owned()];
    command.extend(uninstall.then(|| "-e".to_owned()));
    command.extend(unique(mapped));
    if noop {
        super::print(&format!("{}\n", command.join(" ")));
        return Ok(ExitCode::SUCCESS);
    }
    run(&command)
}

/// Runs a command with everything it says on standard output, marked by `> `.
fn run(command: &[String]) -> Result<ExitCode, Error> {
    let (reader, writer) = io::pipe().map_err(Error::Start)?;
    let other = writer.try_clone().map_err(Error::Start)?;
    let Some((program, args)) = command.split_first() else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut child = {
        // The command keeps copies of the pipe; it must go before the reading.
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(other);
        command.spawn().map_err(Error::Start)?
    };
    let mut reader = io::BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => super::print(&format!(
                "> {}\n",
                String::from_utf8_lossy(&line).trim_end_matches('\n')
            )),
        }
    }
    let status = child.wait().map_err(Error::Start)?;
    if status.success() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Error::Failed {
        code: shell_status(status),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_grouped_by_element_and_installed_once() {
        let pairs = [("a", "x"), ("b", "y"), ("c", "x")].map(|(p, e)| (p.to_owned(), e.to_owned()));
        let groups = by_element(&pairs);
        assert_eq!(
            groups,
            [
                ("x", vec!["a".to_owned(), "c".to_owned()]),
                ("y", vec!["b".to_owned()])
            ]
        );
        assert_eq!(
            unique(["b a".to_owned(), "a".into(), "".into(), "c".into()]),
            ["b", "a", "c"]
        );
    }
}
