//! `dib-python` and `dib-init-system`: what the target has, under a fixed name.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, ExitCode};

use thiserror::Error;

use super::Explain;

/// Why there is no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The target has no Python.
    #[error("no Python in this root (looked for {looked})")]
    NoPython {
        /// The names that were tried.
        looked: String,
    },
    /// The interpreter cannot be started.
    #[error("cannot run `{program}`")]
    Exec {
        /// The interpreter.
        program: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Nobody says what the init system is.
    #[error("DIB_INIT_SYSTEM is not set")]
    NoInitSystem,
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoPython { .. } => Some("install it in an earlier phase, e.g. `python3` in package-installs.yaml with phase: pre-install.d".into()),
            Self::NoInitSystem => Some("operating system elements export it from environment.d".into()),
            Self::Exec { .. } => None,
        }
    }

    fn code(&self) -> u8 {
        if matches!(self, Self::NoInitSystem) {
            1
        } else {
            127
        }
    }
}

/// Names to try, best first. A version 2 that is not there gives way to 3:
/// the default of 2 on Debian is older than any release that is built today.
fn candidates(version: Option<&str>) -> Vec<String> {
    let mut names: Vec<String> = version
        .map(|version| format!("python{version}"))
        .into_iter()
        .collect();
    names.extend(["python3".to_owned(), "python".to_owned()]);
    names.dedup();
    names
}

/// `dib-python [ARGUMENT…]`
pub(super) fn main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let distro = super::env_text("DISTRO_NAME").unwrap_or_default();
    let platform = Path::new("/usr/libexec/platform-python");
    let names = candidates(super::env_text("DIB_PYTHON_VERSION").as_deref());
    let program = if matches!(distro.as_str(), "centos" | "rhel") && super::is_program(platform) {
        Some(platform.to_owned())
    } else {
        names.iter().find_map(|name| super::find_program(name))
    };
    let program = program.ok_or_else(|| Error::NoPython {
        looked: names.join(", "),
    })?;
    let source = super::exec(Command::new(&program).args(args));
    Err(Error::Exec {
        program: program.display().to_string(),
        source,
    })
}

/// `dib-init-system`
pub(super) fn init_system(_: &OsStr, _: &[OsString]) -> Result<ExitCode, Error> {
    let system = super::env_text("DIB_INIT_SYSTEM").ok_or(Error::NoInitSystem)?;
    super::print(&format!("{system}\n"));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wanted_version_comes_first() {
        assert_eq!(candidates(Some("2")), ["python2", "python3", "python"]);
        assert_eq!(candidates(Some("3")), ["python3", "python"]);
        assert_eq!(candidates(None), ["python3", "python"]);
    }
}
