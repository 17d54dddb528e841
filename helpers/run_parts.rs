//! `dib-run-parts`: sources the environment of a phase and runs its hooks.
//!
//! Environment files are bash, so bash sources them and then becomes this
//! program again, which runs the hooks with what was exported.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use thiserror::Error;

use super::Explain;
use crate::element::{self, order};
use crate::rootfs::beneath::Root;

/// Marks the second half, in which the environment is in place.
const SOURCED: &str = "--kiln-environment-is-sourced";

/// Sources the files after the first two arguments, then becomes the first.
/// Variables of its own would reach the files, so it has only the positional ones.
const SOURCE_ENVIRONMENT: &str = r#"
set -ue -o pipefail
while [ "$#" -gt 3 ]; do
    echo "dib-run-parts Sourcing environment file $4" >&2
    set -x
    source "$4"
    { set +x; } 2>/dev/null
    set -- "$1" "$2" "$3" "${@:5}"
done
exec -a dib-run-parts "$1" "$2" "$3"
"#;

const HELP: &str = "\
Runs the hooks of a phase, as diskimage-builder does.

Usage: dib-run-parts [--list] DIRECTORY

The files of environment.d beside DIRECTORY are sourced by bash, in the order of their
names. Then every executable file of DIRECTORY whose name RUN_PARTS_REGEX matches
(default: ^[0-9A-Za-z_-]+$) runs, in the order of the numbers that names begin with.
The status is that of the first hook that fails; those after it do not run.

      --list  Prints the hooks in order, and runs none.
  -h, --help  Prints this text.
";

/// Why a phase does not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No directory.
    #[error("no directory of hooks")]
    Usage,
    /// An option that is not known.
    #[error("unknown option `{option}`")]
    Option {
        /// The option.
        option: String,
    },
    /// Not a directory.
    #[error("`{path}` is not a directory")]
    NotADirectory {
        /// The argument.
        path: PathBuf,
    },
    /// A directory cannot be listed.
    #[error("cannot list `{path}`")]
    List {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The name pattern is not valid.
    #[error(transparent)]
    Pattern(#[from] element::Error),
    /// A hook or bash cannot be started.
    #[error("cannot run `{path}`")]
    Start {
        /// The program.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage | Self::Option { .. } | Self::NotADirectory { .. } => {
                Some("dib-run-parts [--list] DIRECTORY".into())
            }
            Self::Pattern(error) => error.hint(),
            Self::Start { path, .. } if path == Path::new("bash") => {
                Some("environment.d needs bash; install it in this root".into())
            }
            Self::Start { .. } => Some("check the interpreter in its first line".into()),
            Self::List { .. } => None,
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Start { .. } => 126,
            _ => 1,
        }
    }
}

/// The hooks of a phase directory and the files that only look like some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// Names of the hooks in the order they run.
    pub run: Vec<String>,
    /// Files that are not executable, sorted.
    pub not_executable: Vec<String>,
    /// Files whose names do not match the pattern, sorted.
    pub bad_name: Vec<String>,
}

/// How the paths of hooks are looked up.
#[derive(Debug, Clone, Copy)]
pub enum Lookup<'a> {
    /// Where this process finds them.
    Here,
    /// In a root that others made: no link leads out of it, one of `/proc` neither.
    Root(&'a Root),
}

impl Lookup<'_> {
    /// Calls `look` with a path by which this process finds what `path` leads to there.
    fn at<T>(self, path: &Path, look: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        match self {
            Lookup::Here => look(path),
            Lookup::Root(root) => {
                let found = root.open_path(path)?;
                look(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())))
            }
        }
    }

    fn holds(self, path: &Path, is_wanted: impl FnOnce(&Path) -> bool) -> bool {
        self.at(path, |path| Ok(is_wanted(path))).unwrap_or(false)
    }
}

/// Lists a phase directory as it is now: regular files (also through links)
/// that this process may execute, in the order of `sort -n`.
pub fn list(
    lookup: Lookup<'_>,
    directory: &Path,
    pattern: &order::NamePattern,
) -> Result<Parts, Error> {
    let mut parts = Parts::default();
    for name in files(lookup, directory)? {
        let Some(text) = name.to_str().filter(|name| pattern.matches(name)) else {
            parts.bad_name.push(name.to_string_lossy().into_owned());
            continue;
        };
        if lookup.holds(&directory.join(text), super::is_program) {
            parts.run.push(text.to_owned());
        } else {
            parts.not_executable.push(text.to_owned());
        }
    }
    parts.run.sort_by(|a, b| order::compare(a, b));
    Ok(parts)
}

/// Lists the environment files beside a phase directory, in the order they are
/// sourced (by bytes); none when there is no such directory.
pub fn environment(lookup: Lookup<'_>, phase: &Path) -> Result<Vec<PathBuf>, Error> {
    let directory = phase.join("..").join(element::hooks::ENVIRONMENT);
    if !lookup.holds(&directory, Path::is_dir) {
        return Ok(Vec::new());
    }
    let names = files(lookup, &directory)?;
    let is_good = |name: &&OsString| name.to_str().is_some_and(order::is_environment_name);
    Ok(names
        .iter()
        .filter(is_good)
        .map(|name| directory.join(name))
        .collect())
}

/// Names of the regular files, also through links, in byte order.
fn files(lookup: Lookup<'_>, directory: &Path) -> Result<Vec<OsString>, Error> {
    let listed = lookup.at(directory, |directory| {
        std::fs::read_dir(directory)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()
    });
    let mut names = listed.map_err(|source| Error::List {
        path: directory.to_owned(),
        source,
    })?;
    names.retain(|name| lookup.holds(&directory.join(name), Path::is_file));
    names.sort();
    Ok(names)
}

/// `dib-run-parts [--list] DIRECTORY`
pub(super) fn main(name: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let unknown = |option: &OsStr| Error::Option {
        option: option.to_string_lossy().into_owned(),
    };
    let (option, directory) = match args {
        [help] if help == "-h" || help == "--help" => {
            super::print(HELP);
            return Ok(ExitCode::SUCCESS);
        }
        [option] if option.as_encoded_bytes().starts_with(b"--") => {
            return Err(match option.to_str() {
                Some("--list") => Error::Usage,
                _ => unknown(option),
            });
        }
        // As in upstream's, more words mean nothing.
        [option, directory, ..] if option.as_encoded_bytes().starts_with(b"--") => {
            match option.to_str() {
                Some(known @ ("--list" | SOURCED)) => (Some(known), directory),
                _ => return Err(unknown(option)),
            }
        }
        [directory, ..] => (None, directory),
        [] => return Err(Error::Usage),
    };
    let directory = Path::new(directory);
    if !directory.is_dir() {
        return Err(Error::NotADirectory {
            path: directory.to_owned(),
        });
    }
    let pattern = order::NamePattern::new(std::env::var("RUN_PARTS_REGEX").ok().as_deref())?;
    match option {
        Some("--list") => {
            for hook in list(Lookup::Here, directory, &pattern)?.run {
                super::print(&format!("{}\n", directory.join(hook).display()));
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(_) => run(name, directory, &pattern),
        None => {
            let files = environment(Lookup::Here, directory)?;
            if files.is_empty() {
                return run(name, directory, &pattern);
            }
            let this = std::env::current_exe().map_err(|source| Error::Start {
                path: name.into(),
                source,
            })?;
            let mut bash = Command::new("bash");
            bash.args(["-c", SOURCE_ENVIRONMENT, "dib-run-parts"])
                .arg(this)
                .arg(SOURCED)
                .arg(directory)
                .args(files);
            Err(Error::Start {
                path: "bash".into(),
                source: super::exec(&mut bash),
            })
        }
    }
}

fn run(name: &OsStr, directory: &Path, pattern: &order::NamePattern) -> Result<ExitCode, Error> {
    let say = |text: &str| super::say(&format!("{} {text}", name.display()));
    let parts = list(Lookup::Here, directory, pattern)?;
    let trace = super::env_text("DIB_DEBUG_TRACE").and_then(|level| level.parse::<u32>().ok());
    if trace.is_some_and(|level| level > 0) {
        say(&format!(
            "Ignored, not executable: {}",
            parts.not_executable.join(" ")
        ));
        say(&format!(
            "Ignored, not a name of a hook: {}",
            parts.bad_name.join(" ")
        ));
    }
    let mut times = Vec::new();
    for hook in parts.run {
        let path = directory.join(&hook);
        say(&format!("Running {}", path.display()));
        let start = Instant::now();
        let status = start_hook(&path).map_err(|source| Error::Start {
            path: path.clone(),
            source,
        })?;
        if !status.success() {
            return Ok(super::exit_code(status));
        }
        times.push((hook.clone(), start.elapsed().as_secs_f64()));
        say(&format!("{hook} completed"));
    }
    let target = directory.file_name().unwrap_or(directory.as_os_str());
    for line in table(&target.to_string_lossy(), times) {
        say(&line);
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a hook; one without a `#!` line is a shell script.
fn start_hook(path: &Path) -> io::Result<std::process::ExitStatus> {
    match Command::new(path).status() {
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
            match Command::new("bash").arg(path).status() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Command::new("sh").arg(path).status()
                }
                other => other,
            }
        }
        other => other,
    }
}

/// The table of times, by name.
fn table(target: &str, mut times: Vec<(String, f64)>) -> Vec<String> {
    times.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    let mut lines = vec![
        format!("{0} PROFILING {0}", "-".repeat(23)),
        String::new(),
        format!("Target: {target}"),
        String::new(),
        format!("{:<40} {:>10}", "Script", "Seconds"),
        format!("{}  {}", "-".repeat(39), "-".repeat(10)),
        String::new(),
    ];
    lines.extend(
        times
            .iter()
            .map(|(name, seconds)| format!("{name:<40} {seconds:>10.3}")),
    );
    lines.extend([
        String::new(),
        format!("{0} END PROFILING {0}", "-".repeat(21)),
    ]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_executable_files_with_good_names_run() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [
            ("10-x", 0o755),
            ("9-y", 0o755),
            ("5-no", 0o644),
            ("a.sh", 0o755),
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
            std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(mode))
                .unwrap();
        }
        std::os::unix::fs::symlink("10-x", dir.path().join("11-link")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("12-dangling")).unwrap();
        std::fs::create_dir(dir.path().join("1-dir")).unwrap();
        let parts = list(
            Lookup::Here,
            dir.path(),
            &order::NamePattern::new(None).unwrap(),
        )
        .unwrap();
        assert_eq!(parts.run, ["9-y", "10-x", "11-link"]);
        assert_eq!(parts.not_executable, ["5-no"]);
        assert_eq!(parts.bad_name, ["a.sh"]);
    }

    #[test]
    fn the_table_is_sorted_by_name() {
        let lines = table(
            "install.d",
            vec![("9-y".into(), 1.0), ("10-x".into(), 0.0114)],
        );
        assert_eq!(
            lines[0],
            "----------------------- PROFILING -----------------------"
        );
        assert_eq!(
            lines[4],
            "Script                                      Seconds"
        );
        assert_eq!(
            lines[5],
            "---------------------------------------  ----------"
        );
        assert_eq!(
            lines[7],
            "10-x                                          0.011"
        );
        assert_eq!(
            lines[8],
            "9-y                                           1.000"
        );
        assert_eq!(
            lines[10],
            "--------------------- END PROFILING ---------------------"
        );
    }
}
