//! `sudo`: runs its command, since hooks already are uid 0 of the sandbox.
//!
//! The environment is kept, but for what names the user: a program that runs as
//! another one has that one's `HOME` unless `-E` keeps the caller's, as with sudo's
//! own defaults. Users are looked up in `/etc/passwd` itself.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use thiserror::Error;

use super::Explain;

/// Why the command is not run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No command.
    #[error("no command")]
    NoCommand,
    /// An option that is not known.
    #[error("unknown option `{option}`")]
    Option {
        /// The option.
        option: String,
    },
    /// An option without its argument.
    #[error("option `{option}` needs an argument")]
    Argument {
        /// The option.
        option: String,
    },
    /// The user does not exist.
    #[error("unknown user `{name}`")]
    User {
        /// The user.
        name: String,
    },
    /// The group does not exist.
    #[error("unknown group `{name}`")]
    Group {
        /// The group.
        name: String,
    },
    /// The command cannot be started.
    #[error("cannot run `{command}`")]
    Exec {
        /// The command.
        command: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoCommand | Self::Option { .. } | Self::Argument { .. } => {
                "sudo [-E] [-n] [-H] [-i | -s] [-u USER] [-g GROUP] [-D DIRECTORY] [--] [VAR=value]… COMMAND [ARGUMENT…]".into()
            }
            Self::User { .. } => "it must be in /etc/passwd of the root that the command runs in".into(),
            Self::Group { .. } => "it must be in /etc/group of the root that the command runs in".into(),
            Self::Exec { .. } => return None,
        })
    }

    fn code(&self) -> u8 {
        match self {
            Self::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Exec { .. } => 126,
            _ => 1,
        }
    }
}

/// An entry of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
    pub shell: String,
}

/// Finds a user by name, or by number as `#1000`.
pub(crate) fn find_user(passwd: &str, wanted: &str) -> Option<User> {
    let number = wanted
        .strip_prefix('#')
        .and_then(|number| number.parse::<u32>().ok());
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, shell] = fields.as_slice() else {
            return None;
        };
        let user = User {
            name: (*name).to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: (*home).to_owned(),
            shell: if shell.is_empty() {
                "/bin/sh".to_owned()
            } else {
                (*shell).to_owned()
            },
        };
        (number == Some(user.uid) || number.is_none() && user.name == wanted).then_some(user)
    })
}

/// Finds a group by name, or by number as `#1000`.
pub(crate) fn find_group(group: &str, wanted: &str) -> Option<u32> {
    if let Some(number) = wanted.strip_prefix('#') {
        return number.parse().ok();
    }
    group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(wanted))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

/// The groups that list a user as a member.
pub(crate) fn groups_of(group: &str, user: &str) -> Vec<u32> {
    group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [_, _, gid, members] = fields.as_slice() else {
                return None;
            };
            members
                .split(',')
                .any(|member| member == user)
                .then(|| gid.parse().ok())
                .flatten()
        })
        .collect()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    user: Option<String>,
    group: Option<String>,
    set_home: bool,
    keep_environment: bool,
    shell: bool,
    login: bool,
    /// Where the command runs.
    directory: Option<String>,
    /// Only asks about or changes sudo's own state, which there is none of.
    nothing: bool,
    variables: Vec<(OsString, OsString)>,
    command: Vec<OsString>,
}

fn parse(args: &[OsString]) -> Result<Call, Error> {
    let mut call = Call::default();
    let mut args = args.iter().cloned().peekable();
    'options: while let Some(arg) = args.next_if(|arg| arg.as_encoded_bytes().starts_with(b"-")) {
        let text = arg.to_string_lossy().into_owned();
        if text == "--" {
            break;
        }
        if let Some((name, inline)) = super::long_option(&text) {
            let mut value = || {
                inline
                    .clone()
                    .or_else(|| args.next().map(|arg| arg.to_string_lossy().into_owned()))
                    .ok_or_else(|| Error::Argument {
                        option: text.clone(),
                    })
            };
            match name {
                "user" => call.user = Some(value()?),
                "group" => call.group = Some(value()?),
                "chdir" => call.directory = Some(value()?),
                "prompt" | "close-from" | "host" => drop(value()?),
                "preserve-env" => call.keep_environment = true,
                "non-interactive" | "stdin" | "preserve-groups" | "background" | "bell" => {}
                "set-home" => call.set_home = true,
                "shell" => call.shell = true,
                "login" => call.login = true,
                "version" | "validate" | "list" | "reset-timestamp" | "remove-timestamp" => {
                    call.nothing = true
                }
                _ => return Err(Error::Option { option: text }),
            }
            continue;
        }
        for (at, letter) in text.char_indices().skip(1) {
            let rest = text.get(at + letter.len_utf8()..).unwrap_or_default();
            match letter {
                'E' => call.keep_environment = true,
                'n' | 'S' | 'P' | 'b' | 'B' | 'A' => {}
                'H' => call.set_home = true,
                's' => call.shell = true,
                'i' => call.login = true,
                'v' | 'V' | 'l' | 'k' | 'K' => call.nothing = true,
                'u' | 'g' | 'p' | 'C' | 'D' | 'h' => {
                    let value = if rest.is_empty() {
                        args.next().map(|arg| arg.to_string_lossy().into_owned())
                    } else {
                        Some(rest.to_owned())
                    };
                    let value = value.ok_or_else(|| Error::Argument {
                        option: format!("-{letter}"),
                    })?;
                    match letter {
                        'u' => call.user = Some(value),
                        'g' => call.group = Some(value),
                        'D' => call.directory = Some(value),
                        _ => {}
                    }
                    continue 'options;
                }
                _ => {
                    return Err(Error::Option {
                        option: format!("-{letter}"),
                    });
                }
            }
        }
    }
    while let Some(arg) = args.next_if(|arg| is_assignment(arg)) {
        if let Some((name, value)) = split_assignment(&arg) {
            call.variables.push((name, value));
        }
    }
    call.command = args.collect();
    Ok(call)
}

fn is_assignment(arg: &OsStr) -> bool {
    split_assignment(arg).is_some()
}

/// `NAME=value`, where the name is one that a shell could have.
fn split_assignment(arg: &OsStr) -> Option<(OsString, OsString)> {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = arg.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=')?;
    let (name, value) = (bytes.get(..at)?, bytes.get(at + 1..)?);
    let first = name.first()?;
    let ok = !first.is_ascii_digit()
        && name
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_');
    ok.then(|| {
        (
            OsStr::from_bytes(name).to_owned(),
            OsStr::from_bytes(value).to_owned(),
        )
    })
}

/// One string that a shell splits into the same words again.
fn shell_command(words: &[OsString]) -> OsString {
    let quoted: Vec<String> = words
        .iter()
        .map(|word| crate::element::info::quote(&word.to_string_lossy()))
        .collect();
    quoted.join(" ").into()
}

/// `sudo [OPTION…] [VAR=value…] COMMAND [ARGUMENT…]`
pub(super) fn main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let call = parse(args)?;
    if call.command.is_empty() && !call.shell && !call.login {
        return if call.nothing {
            Ok(ExitCode::SUCCESS)
        } else {
            Err(Error::NoCommand)
        };
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (passwd, groups) = (read("/etc/passwd"), read("/etc/group"));
    let name = call.user.clone().unwrap_or_else(|| "root".to_owned());
    let user = match find_user(&passwd, &name) {
        Some(user) => user,
        // A root without /etc/passwd still has its uid 0.
        None if name == "root" || name == "#0" => User {
            name: "root".into(),
            uid: 0,
            gid: 0,
            home: "/root".into(),
            shell: "/bin/sh".into(),
        },
        None => return Err(Error::User { name }),
    };
    let group = call
        .group
        .as_ref()
        .map(|name| find_group(&groups, name).ok_or_else(|| Error::Group { name: name.clone() }))
        .transpose()?;

    let (program, words): (OsString, Vec<OsString>) = if call.shell || call.login {
        let own = super::env_os("SHELL");
        let shell =
            if call.login { None } else { own }.unwrap_or_else(|| user.shell.clone().into());
        let mut words = Vec::new();
        words.extend(call.login.then(|| OsString::from("-l")));
        if !call.command.is_empty() {
            words.extend([OsString::from("-c"), shell_command(&call.command)]);
        }
        (shell, words)
    } else {
        let mut words = call.command.iter().cloned();
        (words.next().ok_or(Error::NoCommand)?, words.collect())
    };
    // Some programs are kiln's own here without being in anybody's way in `PATH`.
    let own = program
        .to_str()
        .is_some_and(|name| super::FUNCTIONS.contains(&name));
    let mut command = match std::env::current_exe().ok().filter(|_| own) {
        Some(this) => {
            let mut command = Command::new(this);
            std::os::unix::process::CommandExt::arg0(&mut command, &program);
            command
        }
        None => Command::new(&program),
    };
    command.args(words);
    // The build's own directory for temporary files means nothing in another root,
    // and sudo does not pass it on either unless it is told to.
    let is_chroot = std::path::Path::new(&program).file_name() == Some(OsStr::new("chroot"));
    if !call.keep_environment || is_chroot {
        command.env_remove("TMPDIR");
    }
    // Files that only the caller may read hinder a program more than none do.
    let is_other = user.uid != 0 && !call.keep_environment;
    if call.set_home || call.login || is_other {
        command.env("HOME", &user.home);
    }
    if user.uid != 0 || call.login {
        command.env("USER", &user.name).env("LOGNAME", &user.name);
    }
    command.envs(call.variables);
    if let Some(directory) = &call.directory {
        command.current_dir(directory);
    } else if call.login {
        command.current_dir(if std::path::Path::new(&user.home).is_dir() {
            &user.home
        } else {
            "/"
        });
    }
    if user.uid != 0 || group.is_some() {
        become_user(
            &mut command,
            &user,
            group.unwrap_or(user.gid),
            groups_of(&groups, &user.name),
        );
    }
    let source = super::exec(&mut command);
    Err(Error::Exec {
        command: program.to_string_lossy().into_owned(),
        source,
    })
}

/// Changes groups and user just before the program starts.
fn become_user(command: &mut Command, user: &User, gid: u32, mut groups: Vec<u32>) {
    groups.insert(0, gid);
    let groups: Vec<nix::unistd::Gid> =
        groups.into_iter().map(nix::unistd::Gid::from_raw).collect();
    let (uid, gid) = (
        nix::unistd::Uid::from_raw(user.uid),
        nix::unistd::Gid::from_raw(gid),
    );
    let change = move || -> io::Result<()> {
        nix::unistd::setgroups(&groups)?;
        nix::unistd::setgid(gid)?;
        nix::unistd::setuid(uid)?;
        Ok(())
    };
    // SAFETY: the closure runs in this process right before execve (there is no
    // fork) and makes three system calls on memory allocated beforehand.
    unsafe { command.pre_exec(change) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn options_end_where_the_command_begins() {
        for (line, user, command) in [
            ("ls -l", None, "ls -l"),
            ("-E -n ls -u x", None, "ls -u x"),
            ("-EHu root ls", Some("root"), "ls"),
            ("-unobody -- ls", Some("nobody"), "ls"),
            ("--user=a --set-home ls", Some("a"), "ls"),
            ("--user a ls", Some("a"), "ls"),
            ("-D /x -u a ls", Some("a"), "ls"),
        ] {
            let call = parse(&words(line)).unwrap();
            assert_eq!(
                (call.user.as_deref(), call.command),
                (user, words(command)),
                "{line}"
            );
        }
    }

    #[test]
    fn variables_come_before_the_command() {
        let call = parse(&words("-E A=1 B_2=x=y env C=3")).unwrap();
        let expected =
            [("A", "1"), ("B_2", "x=y")].map(|(name, value)| (name.into(), value.into()));
        assert_eq!(call.variables, expected);
        assert_eq!(call.command, words("env C=3"));
        assert!(parse(&words("2=x")).unwrap().variables.is_empty());
    }

    #[test]
    fn users_are_found_without_nss() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\nbob:x:1000:100::/home/bob:\n";
        assert_eq!(find_user(passwd, "bob").unwrap().shell, "/bin/sh");
        assert_eq!(find_user(passwd, "#1000").unwrap().name, "bob");
        assert!(find_user(passwd, "alice").is_none());
        assert_eq!(
            groups_of("a:x:5:bob,eve\nb:x:6:eve\nc:x:7:bob\n", "bob"),
            [5, 7]
        );
        assert_eq!(find_group("a:x:5:bob\n", "a"), Some(5));
        assert_eq!(find_group("", "#9"), Some(9));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert_eq!(
            parse(&words("-Z ls")).unwrap_err().to_string(),
            "unknown option `-Z`"
        );
        assert_eq!(
            parse(&words("-u")).unwrap_err().to_string(),
            "option `-u` needs an argument"
        );
    }
}
