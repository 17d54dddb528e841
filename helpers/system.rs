//! Programs that act on a running system, of which a build has none.
//!
//! What would change the running kernel, its devices or its services is skipped
//! with a line in the log and counts as done; questions go to the system's own
//! program. What changes files of the target is carried out.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use thiserror::Error;

use super::Explain;

/// Why a request is not answered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The request makes no sense.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// How it goes.
        usage: &'static str,
    },
    /// The system's own program is needed and missing.
    #[error("only the system's own `{program}` can do that, and there is none here")]
    NoProgram {
        /// Its name.
        program: String,
    },
    /// The system's own program cannot be started.
    #[error("cannot run `{program}`")]
    Start {
        /// Its path.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { usage, .. } => Some((*usage).to_owned()),
            Self::NoProgram { .. } => Some("install the package that has it first".to_owned()),
            Self::Start { .. } | Self::Write { .. } => None,
        }
    }
}

/// The arguments as text; what is not UTF-8 is replaced, for looking at only.
fn texts(args: &[OsString]) -> Vec<String> {
    args.iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect()
}

/// Says what is not done, which counts as done.
pub(super) fn skip(called: &OsStr, args: &[String], why: &str) -> ExitCode {
    super::say(&format!(
        "{} {}: skipped: {why}",
        called.display(),
        args.join(" ")
    ));
    ExitCode::SUCCESS
}

/// Becomes the system's own program.
pub(super) fn system(called: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let name = called.to_string_lossy();
    let program = super::find_program(&name).ok_or_else(|| Error::NoProgram {
        program: name.into_owned(),
    })?;
    let source = super::exec(Command::new(&program).args(args));
    Err(Error::Start { program, source })
}

/// `modprobe`: modules are loaded where the image runs.
pub(super) fn modprobe(called: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let words = texts(args);
    let asks = words.iter().any(|word| {
        matches!(
            word.as_str(),
            "-n" | "--dry-run"
                | "--show"
                | "-D"
                | "--show-depends"
                | "-c"
                | "--showconfig"
                | "--show-config"
                | "--show-modversions"
                | "--dump-modversions"
                | "-R"
                | "--resolve-alias"
                | "--show-exports"
                | "-V"
                | "--version"
                | "-h"
                | "--help"
        )
    });
    if asks {
        return system(called, args);
    }
    Ok(skip(called, &words, "the running kernel is the host's"))
}

/// `sysctl`: settings are read, and taken from files where the image runs.
pub(super) fn sysctl(called: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let words = texts(args);
    let writes = words.iter().any(|word| {
        matches!(word.as_str(), "--write" | "--system" | "--load")
            || word.starts_with("--load=")
            || (!word.starts_with('-') && word.contains('='))
            || (word.starts_with('-')
                && !word.starts_with("--")
                && word.chars().any(|letter| matches!(letter, 'w' | 'p')))
    });
    if writes {
        return Ok(skip(called, &words, "the running kernel is the host's"));
    }
    system(called, args)
}

/// `udevadm`: there are no devices to wait for.
pub(super) fn udevadm(called: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let words = texts(args);
    let verb = words.iter().find(|word| !word.starts_with('-'));
    match verb.map(String::as_str) {
        Some("trigger" | "settle" | "control" | "wait" | "lock") => {
            Ok(skip(called, &words, "no udev runs in a build"))
        }
        _ => system(called, args),
    }
}

/// `start-stop-daemon`: nothing is started, and nothing runs that could be stopped.
pub(super) fn start_stop_daemon(called: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let words = texts(args);
    let options = words.iter().take_while(|word| *word != "--");
    for word in options {
        match word.as_str() {
            "-T" | "--status" => return Ok(ExitCode::from(3)),
            "-H" | "--help" | "-V" | "--version" => return system(called, args),
            _ => {}
        }
    }
    Ok(skip(called, &words, "no service runs in a build"))
}

/// `service NAME ACTION`: nothing is started, and nothing runs.
pub(super) fn service(called: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let words = texts(args);
    let asked: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .filter(|word| !matches!(*word, "--skip-redirect" | "--ignore-dependencies"))
        .collect();
    match asked.as_slice() {
        ["--status-all"] => Ok(ExitCode::SUCCESS),
        [_, "status", ..] => {
            super::say(&format!("{}: not running", words.join(" ")));
            Ok(ExitCode::from(3))
        }
        [_, _, ..] => Ok(skip(called, &words, "no service runs in a build")),
        _ => Err(Error::Usage {
            message: "a service and an action are needed".to_owned(),
            usage: "service NAME start|stop|restart|status",
        }),
    }
}

const HOSTNAMECTL: &str = "hostnamectl [--static] set-hostname NAME";

/// `hostnamectl`: names are written to the target's files.
pub(super) fn hostnamectl(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    hostnamectl_in(Path::new("/"), &texts(args))
}

fn hostnamectl_in(root: &Path, words: &[String]) -> Result<ExitCode, Error> {
    let asked: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let (key, value) = match asked.as_slice() {
        [] | ["status" | "hostname"] => {
            let name = std::fs::read_to_string(root.join("etc/hostname")).unwrap_or_default();
            let name = name.trim();
            super::print(&if asked == ["hostname"] {
                format!("{name}\n")
            } else {
                format!(" Static hostname: {name}\n")
            });
            return Ok(ExitCode::SUCCESS);
        }
        ["set-hostname" | "hostname", name] => {
            let pretty = words.iter().any(|word| word == "--pretty");
            if !pretty {
                if words.iter().any(|word| word == "--transient") {
                    return Ok(skip(
                        OsStr::new("hostnamectl"),
                        words,
                        "a transient name is for a running system",
                    ));
                }
                return put(&root.join("etc/hostname"), &format!("{name}\n"));
            }
            ("PRETTY_HOSTNAME", *name)
        }
        ["set-icon-name" | "icon-name", value] => ("ICON_NAME", *value),
        ["set-chassis" | "chassis", value] => ("CHASSIS", *value),
        ["set-deployment" | "deployment", value] => ("DEPLOYMENT", *value),
        ["set-location" | "location", value] => ("LOCATION", *value),
        _ => {
            return Err(Error::Usage {
                message: format!("`{}` is not understood", words.join(" ")),
                usage: HOSTNAMECTL,
            });
        }
    };
    let path = root.join("etc/machine-info");
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    let mut text: String = old
        .lines()
        .filter(|line| !line.starts_with(&format!("{key}=")))
        .flat_map(|line| [line, "\n"])
        .collect();
    if !value.is_empty() {
        text.push_str(&format!("{key}={}\n", crate::element::info::quote(value)));
    }
    put(&path, &text)
}

fn put(path: &Path, text: &str) -> Result<ExitCode, Error> {
    std::fs::write(path, text)
        .map(|()| ExitCode::SUCCESS)
        .map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        })
}

/// `dracut`, `mkinitramfs` and the like: they look for programs in `PATH` to copy
/// them, and must not find kiln's.
pub(super) fn without_shims(called: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let name = called.to_string_lossy();
    let program = super::find_program(&name).ok_or_else(|| Error::NoProgram {
        program: name.into_owned(),
    })?;
    let mut command = Command::new(&program);
    command.args(args);
    if let Some(path) = std::env::var_os("PATH") {
        let others = std::env::split_paths(&path).filter(|dir| !super::is_shim_directory(dir));
        if let Ok(path) = std::env::join_paths(others) {
            command.env("PATH", path);
        }
    }
    for name in super::FUNCTIONS {
        command.env_remove(super::function_name(name));
    }
    let source = super::exec(&mut command);
    Err(Error::Start { program, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    type Main = fn(&OsStr, &[OsString]) -> Result<ExitCode, Error>;

    #[test]
    fn what_acts_on_a_running_system_is_skipped() {
        let cases: [(&str, Main, &str); 14] = [
            ("modprobe", modprobe, "nbd max_part=8"),
            ("modprobe", modprobe, "-r nbd"),
            ("sysctl", sysctl, "-w net.ipv4.ip_forward=1"),
            ("sysctl", sysctl, "kernel.panic=1"),
            ("sysctl", sysctl, "-qp /etc/sysctl.d/x.conf"),
            ("sysctl", sysctl, "--system"),
            ("udevadm", udevadm, "settle --timeout=3"),
            ("udevadm", udevadm, "trigger"),
            ("udevadm", udevadm, "control --reload"),
            ("service", service, "ssh restart"),
            ("service", service, "--skip-redirect ssh start"),
            ("service", service, "--status-all"),
            (
                "start-stop-daemon",
                start_stop_daemon,
                "--start --exec /bin/x -- --status",
            ),
            ("start-stop-daemon", start_stop_daemon, "-K -p /run/x.pid"),
        ];
        for (name, main, line) in cases {
            let code = main(OsStr::new(name), &words(line)).unwrap();
            assert_eq!(code, ExitCode::SUCCESS, "{name} {line}");
        }
        let states: [(&str, Main, &str); 2] = [
            ("service", service, "ssh status"),
            ("start-stop-daemon", start_stop_daemon, "-T -p /run/x.pid"),
        ];
        for (name, main, line) in states {
            let code = main(OsStr::new(name), &words(line)).unwrap();
            assert_eq!(code, ExitCode::from(3), "{name} {line}");
        }
        let error = service(OsStr::new("service"), &words("ssh")).unwrap_err();
        assert_eq!(
            error.hint().unwrap(),
            "service NAME start|stop|restart|status"
        );
    }

    #[test]
    fn host_names_are_written_to_files() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        let run = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            hostnamectl_in(root.path(), &words)
        };
        let read = |name: &str| std::fs::read_to_string(etc.join(name)).unwrap_or_default();
        run("set-hostname node-1").unwrap();
        assert_eq!(read("hostname"), "node-1\n");
        run("hostname --static node-2").unwrap();
        assert_eq!(read("hostname"), "node-2\n");
        run("--transient set-hostname gone").unwrap();
        assert_eq!(read("hostname"), "node-2\n");
        run("set-chassis vm").unwrap();
        run("set-location rack/3").unwrap();
        run("set-chassis server").unwrap();
        assert_eq!(read("machine-info"), "LOCATION=rack/3\nCHASSIS=server\n");
        assert_eq!(
            run("frobnicate x").unwrap_err().to_string(),
            "`frobnicate x` is not understood"
        );
    }
}
