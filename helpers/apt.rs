//! Apt's part of `install-packages`.
//!
//! Every setting that the build needs is an option of one apt run; nothing is
//! written into the image's configuration.

use std::io;
use std::process::{Command, ExitCode, Stdio};

use thiserror::Error;

use super::Explain;

/// Directory of kiln's links as hooks in the target see it.
const HELPER_DIR: &str = "/tmp/in_target.d/.kiln/bin";

/// Why packages cannot be installed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
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
            Self::Start { .. } => return None,
            Self::Resolve { .. } => {
                "check the names, and that the package lists are up to date".into()
            }
            Self::Offline { .. } => {
                "build once without --offline (DIB_OFFLINE), which fills the cache".into()
            }
        })
    }
}

/// Runs `apt-get` for a request that is not empty.
pub(super) fn run(verb: &str, packages: &[String], offline: bool) -> Result<ExitCode, Error> {
    if offline && verb != "remove" {
        let missing = missing_archives(verb, packages)?;
        if !missing.is_empty() {
            return Err(Error::Offline { archives: missing });
        }
    }
    let mut command = apt_get();
    command
        .arg("-q")
        .args(offline.then_some("--no-download"))
        .arg(verb)
        // What begins with a dash came behind `--` or out of a pkg-map, and means an
        // option: `-t bookworm-backports`.
        .args(packages);
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
        .args(["-qq", "--print-uris", verb])
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

#[cfg(test)]
mod tests {
    use super::*;

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
