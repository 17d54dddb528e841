//! `chroot`: runs a program in another root, usually the target's, which it cannot leave.
//!
//! Hooks outside run programs of the target by it all the time, and those are not trusted:
//! a program that is merely `chroot`ed and is root walks out again (`chroot(2)`), or looks
//! through `/proc` at who started it. Here the root gets a mount namespace of its own, of
//! which it is the top, as for hooks inside; where nothing can be mounted, the program may
//! not change its root directory again. What it mounts is gone when it ends, so `mount` and
//! `umount` themselves are run by the host's own `chroot` where they can do anything, and so is
//! what hooks inside ask for.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::unistd::{Gid, Uid};
use thiserror::Error;

use super::Explain;
use super::sudo::{find_group, find_user, groups_of};
use crate::build::environment::HOOKS_INSIDE;
use crate::sandbox::{inside, standin};

/// Why the program is not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no `chroot` of the host's to do it.
    #[error("`chroot` is not in PATH")]
    NoProgram,
    /// The directory cannot become the root.
    #[error("cannot change the root directory to `{root}`")]
    Root {
        /// The directory.
        root: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A user or group is not in the files of the root.
    #[error("unknown {what} `{name}`")]
    Unknown {
        /// "user" or "group".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The ids cannot be taken.
    #[error("cannot act as `{spec}`")]
    Ids {
        /// As it was given.
        spec: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The command cannot be started.
    #[error("cannot run `{command}` in `{root}`")]
    Exec {
        /// The command.
        command: String,
        /// The root.
        root: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoProgram => "install coreutils on this host".to_owned(),
            Self::Unknown { what, .. } => {
                let file = if *what == "user" { "passwd" } else { "group" };
                format!("it must be a number, or in /etc/{file} of the new root")
            }
            Self::Root { .. } | Self::Ids { .. } | Self::Exec { .. } => return None,
        })
    }

    fn code(&self) -> u8 {
        match self {
            Self::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Exec { .. } => 126,
            _ => 125,
        }
    }
}

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    user_spec: Option<String>,
    groups: Option<String>,
    root: PathBuf,
    command: Vec<OsString>,
}

/// Takes the arguments apart; `None` for those that the host's own `chroot` is to see.
fn parse(args: &[OsString]) -> Option<Call> {
    let mut call = Call::default();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next_if(|arg| arg.as_encoded_bytes().starts_with(b"-")) {
        if arg == "--" {
            break;
        }
        let (name, inline) = super::long_option(arg.to_str()?)?;
        let value = match inline {
            Some(value) => value,
            None => args.next()?.to_str()?.to_owned(),
        };
        match name {
            // Names may be cut short (`getopt_long(3)`).
            _ if "userspec".starts_with(name) => call.user_spec = Some(value),
            _ if "groups".starts_with(name) => call.groups = Some(value),
            _ => return None,
        }
    }
    call.root = PathBuf::from(args.next()?);
    call.command = args.cloned().collect();
    Some(call)
}

/// Whether a command is about mounts that are to stay. Its program is the target's own, which
/// is what it likes.
fn mounts(command: &[OsString]) -> bool {
    let name = command.first().and_then(|name| Path::new(name).file_name());
    name.is_some_and(|name| name == "mount" || name == "umount")
}

/// `chroot [--userspec=USER[:GROUP]] [--groups=GROUP,…] ROOT [COMMAND [ARGUMENT…]]`
pub(super) fn main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let is_inside = super::env_os("TMP_HOOKS_PATH").is_some_and(|hooks| hooks == HOOKS_INSIDE);
    let ours = |call: &Call| {
        let stay = mounts(&call.command) && standin::mounts_are_possible();
        !is_inside && !stay
    };
    let Some(call) = parse(args).filter(ours) else {
        return hosts_own(args);
    };
    let fail = |source| Error::Root {
        root: call.root.clone(),
        source,
    };
    let root = std::fs::canonicalize(&call.root).map_err(fail)?;
    if root == Path::new("/") {
        return hosts_own(args);
    }
    inside::seal(&root).map_err(fail)?;
    take_ids(&call)?;
    let mut words = call.command.iter().cloned();
    let program = words.next();
    let mut command = match &program {
        Some(program) => Command::new(program),
        None => {
            let shell = super::env_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
            let mut command = Command::new(shell);
            command.arg("-i");
            command
        }
    };
    command.args(words);
    let source = super::exec(&mut command);
    Err(Error::Exec {
        command: command.get_program().to_string_lossy().into_owned(),
        root: call.root,
        source,
    })
}

fn hosts_own(args: &[OsString]) -> Result<ExitCode, Error> {
    let program = super::find_program("chroot").ok_or(Error::NoProgram)?;
    let mut command = Command::new(&program);
    command.args(args);
    let source = super::exec(&mut command);
    Err(Error::Exec {
        command: program.display().to_string(),
        root: PathBuf::from("/"),
        source,
    })
}

/// Becomes who `--userspec` and `--groups` say, by the files of the new root.
fn take_ids(call: &Call) -> Result<(), Error> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let group_of = |name: &str| {
        let number = name.parse().ok();
        let unknown = || Error::Unknown {
            what: "group",
            name: name.to_owned(),
        };
        number
            .or_else(|| find_group(&read("/etc/group"), name))
            .ok_or_else(unknown)
    };
    let spec = call.user_spec.as_deref().unwrap_or_default();
    let (user, group) = spec.split_once(':').unwrap_or((spec, ""));
    let mut groups = None;
    let (mut uid, mut gid) = (None, None);
    if !user.is_empty() {
        let passwd = read("/etc/passwd");
        let number = user.parse::<u32>().ok();
        let found = number.map_or_else(
            || find_user(&passwd, user),
            |number| find_user(&passwd, &format!("#{number}")),
        );
        uid = number.or(found.as_ref().map(|found| found.uid));
        if uid.is_none() {
            return Err(Error::Unknown {
                what: "user",
                name: user.to_owned(),
            });
        }
        if let Some(found) = found {
            gid = Some(found.gid);
            groups = Some(groups_of(&read("/etc/group"), &found.name));
        }
    }
    if !group.is_empty() {
        gid = Some(group_of(group)?);
    }
    if let Some(list) = &call.groups {
        let names = list.split(',').filter(|name| !name.is_empty());
        groups = Some(names.map(group_of).collect::<Result<_, _>>()?);
    }
    let set = || -> nix::Result<()> {
        if let Some(mut groups) = groups {
            groups.extend(gid.filter(|_| call.groups.is_none()));
            let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
            nix::unistd::setgroups(&groups)?;
        }
        if let Some(gid) = gid {
            nix::unistd::setgid(Gid::from_raw(gid))?;
        }
        if let Some(uid) = uid {
            nix::unistd::setuid(Uid::from_raw(uid))?;
        }
        Ok(())
    };
    set().map_err(|errno| Error::Ids {
        spec: spec.to_owned(),
        source: errno.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_root_and_what_runs_in_it_are_told_from_options() {
        let call = parse(&words("--userspec=a:b --groups c,d /r sh -c x")).expect("ours");
        assert_eq!(call.user_spec.as_deref(), Some("a:b"));
        assert_eq!(call.groups.as_deref(), Some("c,d"));
        assert_eq!(call.root, Path::new("/r"));
        assert_eq!(call.command, words("sh -c x"));
        let short = parse(&words("--u=a --g c /r mount")).expect("ours");
        let given = (short.user_spec.as_deref(), short.groups.as_deref());
        assert_eq!(given, (Some("a"), Some("c")));
        assert_eq!(
            parse(&words("-- /r --x")).map(|call| call.command),
            Some(words("--x"))
        );
        for other in ["", "--help", "--skip-chdir / x", "-x /r", "--userspec"] {
            assert_eq!(parse(&words(other)), None, "{other}");
        }
    }

    #[test]
    fn only_mounts_are_left_to_stay() {
        for (line, expected) in [
            ("mount -t proc proc /proc", true),
            ("/bin/umount /proc", true),
            ("sh -c mount", false),
            ("", false),
        ] {
            assert_eq!(mounts(&words(line)), expected, "{line}");
        }
    }
}
