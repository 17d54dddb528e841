//! `systemctl` without a running systemd.
//!
//! Where the target has a `systemctl`, that is what changes its unit links,
//! offline; where it has none, or `--root` names another root, [`super::units`]
//! does. What needs a running system is skipped with a line in the log.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use thiserror::Error;

use super::units::{self, Units};
use super::{Explain, system};

/// Why a request fails.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No verb, or one that is not known.
    #[error("`{verb}` is not known")]
    Verb {
        /// The verb.
        verb: String,
    },
    /// Unit links cannot be changed.
    #[error(transparent)]
    Units(#[from] units::Error),
    /// The root cannot be entered.
    #[error("cannot enter the root `{root}`")]
    Root {
        /// The directory.
        root: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The system's own program fails.
    #[error(transparent)]
    System(#[from] system::Error),
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Verb { .. } => Some(
                "offline, `systemctl` knows enable, disable, reenable, mask, unmask, preset, is-enabled, link, set-default and get-default".into(),
            ),
            Self::Units(error) => error.hint(),
            Self::System(error) => error.hint(),
            Self::Root { .. } => None,
        }
    }
}

/// Verbs that act on a running system only.
const SKIPPED: [&str; 26] = [
    "condrestart",
    "condreload",
    "daemon-reexec",
    "daemon-reload",
    "default",
    "emergency",
    "exit",
    "force-reload",
    "freeze",
    "halt",
    "isolate",
    "kexec",
    "kill",
    "poweroff",
    "reboot",
    "reload",
    "reload-or-restart",
    "reload-or-try-restart",
    "rescue",
    "reset-failed",
    "restart",
    "set-environment",
    "start",
    "stop",
    "try-reload-or-restart",
    "try-restart",
];

/// Options that take a value in the next word.
const WITH_VALUE: [&str; 14] = [
    "-t",
    "--type",
    "-p",
    "--property",
    "-P",
    "-s",
    "--signal",
    "-n",
    "--lines",
    "-o",
    "--output",
    "--job-mode",
    "--kill-who",
    "--state",
];

/// A command line, as far as it is looked at.
#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    root: Option<PathBuf>,
    quiet: bool,
    runtime: bool,
    now: bool,
    user: bool,
    verb: Option<String>,
    units: Vec<String>,
}

fn parse(args: &[OsString]) -> Call {
    let mut call = Call::default();
    let mut args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-q" | "--quiet" => call.quiet = true,
            "--runtime" => call.runtime = true,
            "--now" => call.now = true,
            "--user" | "--global" => call.user = true,
            "--root" => call.root = args.next().map(PathBuf::from),
            option if WITH_VALUE.contains(&option) => drop(args.next()),
            option if option.starts_with('-') => {
                if let Some(root) = option.strip_prefix("--root=") {
                    call.root = Some(PathBuf::from(root));
                }
            }
            _ if call.verb.is_none() => call.verb = Some(arg),
            _ => call.units.push(arg),
        }
    }
    call
}

/// `systemctl [OPTION…] VERB [UNIT…]`
pub(super) fn main(called: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let call = parse(args);
    let words: Vec<String> = args
        .iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let Some(verb) = call.verb.clone() else {
        return Ok(system::system(called, args)?);
    };
    match verb.as_str() {
        verb if SKIPPED.contains(&verb) => {
            return Ok(system::skip(called, &words, "no service runs in a build"));
        }
        "is-active" | "status" | "is-failed" => {
            if !call.quiet {
                super::print("inactive\n");
            }
            return Ok(ExitCode::from(if verb == "is-failed" { 1 } else { 3 }));
        }
        "is-system-running" => {
            super::print("offline\n");
            return Ok(ExitCode::FAILURE);
        }
        _ => {}
    }
    if call.now {
        super::say(&format!(
            "{} {}: changed only, since no service runs in a build",
            called.display(),
            words.join(" ")
        ));
    }
    let root = call.root.clone().unwrap_or_else(|| PathBuf::from("/"));
    let own = root == Path::new("/");
    if own && let Some(program) = super::find_program("systemctl") {
        let words = args.iter().filter(|arg| *arg != "--now");
        let source = super::exec(
            Command::new(&program)
                .args(words)
                .env("SYSTEMD_OFFLINE", "1"),
        );
        return Err(system::Error::Start { program, source }.into());
    }
    let run = || offline(&Units::new(Path::new("/"), call.user), &verb, &call);
    if own {
        return run();
    }
    // Nothing in that root may lead the links out of it.
    crate::sandbox::root::within(&root, run).map_err(|source| Error::Root { root, source })?
}

fn offline(units: &Units, verb: &str, call: &Call) -> Result<ExitCode, Error> {
    let tell = |lines: Vec<String>| {
        if !call.quiet {
            lines.iter().for_each(|line| super::say(line));
        }
    };
    let names: Vec<String> = call
        .units
        .iter()
        .map(|name| units::full_name(name))
        .collect();
    match verb {
        "enable" => names
            .iter()
            .try_for_each(|name| units.enable(name).map(tell))?,
        "reenable" => names.iter().try_for_each(|name| {
            tell(units.disable(name)?);
            units.enable(name).map(tell)
        })?,
        "disable" => names
            .iter()
            .try_for_each(|name| units.disable(name).map(tell))?,
        "mask" => names
            .iter()
            .try_for_each(|name| units.mask(name).map(tell))?,
        "unmask" => names
            .iter()
            .try_for_each(|name| units.unmask(name).map(tell))?,
        "preset" => names
            .iter()
            .try_for_each(|name| units.preset(name).map(tell))?,
        "link" => call
            .units
            .iter()
            .try_for_each(|path| units.link(Path::new(path)).map(tell))?,
        "set-default" => names
            .iter()
            .take(1)
            .try_for_each(|name| units.set_default(name).map(tell))?,
        "get-default" => super::print(&format!("{}\n", units.default_target())),
        "is-enabled" => {
            let mut code = ExitCode::FAILURE;
            for name in &names {
                let state = units.state(name);
                if state.counts_as_enabled() {
                    code = ExitCode::SUCCESS;
                }
                if !call.quiet {
                    super::print(&format!("{}\n", state.name()));
                }
            }
            return Ok(code);
        }
        _ => {
            return Err(Error::Verb {
                verb: verb.to_owned(),
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_verbs_and_units_are_told_apart() {
        let words: Vec<OsString> = "--root=/mnt -q --now enable -t service a.service b --no-reload"
            .split(' ')
            .map(OsString::from)
            .collect();
        let call = parse(&words);
        assert_eq!(call.root.as_deref(), Some(Path::new("/mnt")));
        assert!(call.quiet && call.now && !call.user);
        assert_eq!(call.verb.as_deref(), Some("enable"));
        assert_eq!(call.units, ["a.service", "b"]);
    }

    #[test]
    fn a_running_system_is_not_needed_and_not_found() {
        let run = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            main(OsStr::new("systemctl"), &words)
        };
        for verb in SKIPPED {
            assert_eq!(
                run(&format!("{verb} x.service")).unwrap(),
                ExitCode::SUCCESS,
                "{verb}"
            );
        }
        assert_eq!(run("-q is-active ssh").unwrap(), ExitCode::from(3));
        assert_eq!(run("-q is-failed ssh").unwrap(), ExitCode::from(1));
        let units = Units::new(Path::new("/nonexistent"), false);
        let error = offline(&units, "frob", &Call::default()).unwrap_err();
        assert_eq!(error.to_string(), "`frob` is not known");
        assert!(error.hint().unwrap().contains("enable"));
    }
}
