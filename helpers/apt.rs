//! `install-packages` for roots with apt.
//!
//! Every setting that the build needs is an option of one apt run; nothing is
//! written into the image's configuration.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use thiserror::Error;

use super::{Explain, pkg_map};

/// Directory of kiln's links as hooks in the target see it.
const HELPER_DIR: &str = "/tmp/in_target.d/.kiln/bin";
/// Where the elements of other package managers put their own implementation.
const ELEMENTS_OWN: &str = "/usr/local/bin/install-packages";

/// Why packages cannot be installed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that means nothing here.
    #[error("unsupported option `{option}`")]
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
    /// The root has no package manager that is known.
    #[error("not supported yet for this root: no `apt-get`")]
    NoApt,
    /// Names cannot be mapped.
    #[error("bin/pkg-map error.")]
    PkgMap(#[source] pkg_map::Error),
    /// A program cannot be started.
    #[error("cannot run `{program}`")]
    Start {
        /// The program.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// apt cannot say what it needs.
    #[error("`apt-get` cannot resolve the request: {message}")]
    Resolve {
        /// What apt said.
        message: String,
    },
    /// Offline, and not everything is in the cache.
    #[error("offline, and these archives are not in the cache:\n  {}", .archives.join("\n  "))]
    Offline {
        /// File names with sizes and addresses.
        archives: Vec<String>,
    },
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Option { .. } | Self::Argument { .. } => USAGE.into(),
            Self::NoApt => "only Debian and its relatives are supported; an element can bring its own `install-packages` in bin/".into(),
            Self::PkgMap(error) => return error.hint(),
            Self::Start { .. } => return None,
            Self::Resolve { .. } => "check the names, and that the package lists are up to date".into(),
            Self::Offline { .. } => "build once without --offline (DIB_OFFLINE), which fills the cache".into(),
        })
    }
}

const USAGE: &str = "install-packages [-u] [-e] [-m ELEMENT] [-h] [PACKAGE…]";

/// What to do with packages.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Install(Vec<String>),
    Remove(Vec<String>),
    Upgrade,
    Help,
}

/// Parses options in any place, as getopt does.
fn parse(args: &[OsString]) -> Result<(Action, Option<String>), Error> {
    let mut element = None;
    let (mut remove, mut only_words) = (false, false);
    let mut packages = Vec::new();
    let mut args = args.iter().map(|arg| arg.to_string_lossy());
    while let Some(arg) = args.next() {
        if only_words || !arg.starts_with('-') || arg == "-" {
            packages.extend(arg.split_whitespace().map(str::to_owned));
            continue;
        }
        if arg == "--" {
            only_words = true;
            continue;
        }
        let mut letters = arg.chars().skip(1);
        while let Some(letter) = letters.next() {
            match letter {
                // An upgrade happens as soon as it is read, and ends the program.
                'u' => return Ok((Action::Upgrade, element)),
                'h' => return Ok((Action::Help, element)),
                'e' => remove = true,
                'm' => {
                    let rest: String = letters.by_ref().collect();
                    let value = if rest.is_empty() {
                        args.next().map(|value| value.into_owned())
                    } else {
                        Some(rest)
                    };
                    element = Some(value.ok_or_else(|| Error::Argument {
                        option: "-m".into(),
                    })?);
                }
                other => {
                    return Err(Error::Option {
                        option: format!("-{other}"),
                    });
                }
            }
        }
    }
    Ok((
        if remove {
            Action::Remove(packages)
        } else {
            Action::Install(packages)
        },
        element,
    ))
}

/// `install-packages [-u] [-e] [-m ELEMENT] [-h] [PACKAGE…]`
pub(super) fn main(name: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    if super::find_program("apt-get").is_none() {
        // Roots of other families come with elements that know their package manager.
        if super::is_program(Path::new(ELEMENTS_OWN)) && !is_self(Path::new(ELEMENTS_OWN)) {
            let source = super::exec(Command::new(ELEMENTS_OWN).args(args));
            return Err(Error::Start {
                program: ELEMENTS_OWN.into(),
                source,
            });
        }
        return Err(Error::NoApt);
    }
    let (action, element) = parse(args)?;
    let map = |packages: Vec<String>| match &element {
        None => Ok(packages),
        Some(element) => pkg_map::map_for_element(element, false, &packages)
            .map(|mapped| {
                mapped
                    .iter()
                    .flat_map(|value| value.split_whitespace())
                    .map(str::to_owned)
                    .collect()
            })
            .map_err(Error::PkgMap),
    };
    let (verb, packages) = match action {
        Action::Help => {
            super::print(&format!(
                "{USAGE}\n  -u  upgrade everything, then end\n  -e  remove the packages\n  -m  map the names by the pkg-map of ELEMENT\n"
            ));
            return Ok(ExitCode::SUCCESS);
        }
        Action::Upgrade => ("dist-upgrade", Vec::new()),
        Action::Install(packages) => ("install", map(packages)?),
        Action::Remove(packages) => ("remove", map(packages)?),
    };
    if verb != "dist-upgrade" && packages.is_empty() {
        super::say(&format!("{}: no packages to {verb}", name.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let offline = super::env_text("DIB_OFFLINE").is_some();
    if offline && verb != "remove" {
        let missing = missing_archives(verb, &packages)?;
        if !missing.is_empty() {
            return Err(Error::Offline { archives: missing });
        }
    }
    let mut command = apt_get();
    command
        .arg("-q")
        .args(offline.then_some("--no-download"))
        .arg(verb)
        .arg("--")
        .args(&packages);
    // Unlike standard input, which maintainer scripts must not wait for.
    command.stdin(Stdio::null());
    let status = command.status().map_err(start("apt-get"))?;
    Ok(super::exit_code(status))
}

fn start(program: &str) -> impl FnOnce(io::Error) -> Error + use<> {
    let program = program.to_owned();
    move |source| Error::Start { program, source }
}

/// `apt-get` with the settings of a build.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("DEBIAN_PRIORITY", "critical")
        .arg("--assume-yes");
    let mut option = |text: &str| {
        command.arg("-o").arg(text);
    };
    // Files that a package and an element both have: the element's choice stays.
    option("Dpkg::Options::=--force-confold");
    option("Dpkg::Options::=--force-confdef");
    // A build that loses power starts again anyway.
    option("Dpkg::Options::=--force-unsafe-io");
    option("Dpkg::Use-Pty=0");
    option("Dpkg::Progress-Fancy=0");
    // dpkg gives maintainer scripts this PATH, by which they find our shims.
    option(&format!(
        "DPkg::Path={HELPER_DIR}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    ));
    if !apt_user_is_usable() {
        option("APT::Sandbox::User=root");
    }
    command
}

/// Whether apt can become its unprivileged user here: the id must be mapped
/// and supplementary groups must be allowed to change.
fn apt_user_is_usable() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if read("/proc/self/setgroups").trim() == "deny" {
        return false;
    }
    let passwd = read("/etc/passwd");
    let Some(id) = super::sudo::find_user(&passwd, "_apt").map(|user| user.uid) else {
        return true; // apt looks it up as well and stays what it is
    };
    let map = read("/proc/self/uid_map");
    map.is_empty() || is_mapped(&map, id)
}

/// Whether a map of the form `first outside count` per line has the id.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut words = line.split_whitespace().map(str::parse::<u64>);
        match (words.next(), words.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => {
                let id = u64::from(id);
                id >= first && id - first < count
            }
            _ => false,
        }
    })
}

/// Archives that apt would download for a request.
fn missing_archives(verb: &str, packages: &[String]) -> Result<Vec<String>, Error> {
    let output = apt_get()
        .args(["-qq", "--print-uris", verb, "--"])
        .args(packages)
        .stdin(Stdio::null())
        .output()
        .map_err(start("apt-get"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Resolve { message });
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(parse_uri)
        .collect())
}

/// A line of `--print-uris`: `'ADDRESS' FILE SIZE HASH`.
fn parse_uri(line: &str) -> Option<String> {
    let (address, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut words = rest.split_whitespace();
    let (file, size) = (words.next()?, words.next()?);
    Some(format!("{file} ({size} bytes) from {address}"))
}

/// Whether a path is this very program, which would call itself for ever.
fn is_self(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |path: &Path| {
        std::fs::metadata(path)
            .ok()
            .map(|meta| (meta.dev(), meta.ino()))
    };
    id(path).is_some() && id(path) == id(Path::new("/proc/self/exe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ')
            .filter(|word| !word.is_empty())
            .map(OsString::from)
            .collect()
    }

    #[test]
    fn options_are_read_as_getopt_reads_them() {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (line, action, element) in [
            ("a b", Action::Install(list("a b")), None),
            ("-e a", Action::Remove(list("a")), None),
            ("a -e", Action::Remove(list("a")), None),
            ("-m base a", Action::Install(list("a")), Some("base")),
            ("-embase a", Action::Remove(list("a")), Some("base")),
            ("-u a", Action::Upgrade, None),
            ("-h", Action::Help, None),
            ("-- -a", Action::Install(list("-a")), None),
            ("", Action::Install(vec![]), None),
        ] {
            assert_eq!(
                parse(&words(line)).unwrap(),
                (action, element.map(str::to_owned)),
                "{line}"
            );
        }
        assert_eq!(
            parse(&[OsString::from("a  b")]).unwrap().0,
            Action::Install(list("a b"))
        );
    }

    #[test]
    fn bad_options_are_named() {
        assert_eq!(
            parse(&words("-d a")).unwrap_err().to_string(),
            "unsupported option `-d`"
        );
        assert_eq!(
            parse(&words("-m")).unwrap_err().to_string(),
            "option `-m` needs an argument"
        );
        assert_eq!(
            Error::NoApt.to_string(),
            "not supported yet for this root: no `apt-get`"
        );
    }

    #[test]
    fn missing_archives_are_listed_with_size_and_address() {
        let line = "'http://m/pool/a/a_1_all.deb' a_1_all.deb 123 SHA256:00";
        assert_eq!(
            parse_uri(line).unwrap(),
            "a_1_all.deb (123 bytes) from http://m/pool/a/a_1_all.deb"
        );
        assert_eq!(parse_uri("Reading package lists..."), None);
        let error = Error::Offline {
            archives: vec!["a".into(), "b".into()],
        };
        assert_eq!(
            error.to_string(),
            "offline, and these archives are not in the cache:\n  a\n  b"
        );
    }

    #[test]
    fn an_id_is_usable_only_when_mapped() {
        assert!(is_mapped("0 0 4294967295", 100));
        assert!(is_mapped("0 1000 1\n1 100000 65536", 100));
        assert!(!is_mapped("         0       1000          1", 100));
        assert!(!is_mapped("garbage", 100));
    }
}
