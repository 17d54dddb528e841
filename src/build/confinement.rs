//! What hooks may use and see of the host: the policy that the sandbox carries out.
//!
//! Hooks outside see the host read-only, but not the caller's secrets: what begins
//! with a dot in the home directory is hidden except for a few things that are no
//! secrets and that programs need, and so is what holds the secrets of sessions and
//! services; where root builds, also all that only root may read. Variables that look like secrets are not handed to hooks. Whatever the
//! build was given by name stays: elements, caches, the current directory, files
//! that `DIB_` variables name, and what `--show` and `--pass-env` add.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{homes, reserved};
use crate::sandbox::limits::Limits;
use crate::sandbox::network::Network;

/// What the user said about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Network of hooks (`--network`, `KILN_NETWORK`).
    pub network: Network,
    /// Limits on hooks (`--memory`, `--disk`, `--processes`, `--timeout`).
    pub limits: Limits,
    /// How long the build may take (`--build-timeout`, `KILN_BUILD_TIMEOUT`).
    pub build: Option<Duration>,
    /// Paths that hooks outside see although they would be hidden (`--show`, `KILN_SHOW`).
    pub show: Vec<PathBuf>,
    /// Variables that hooks get although they look like secrets (`--pass-env`, `KILN_PASS_ENV`).
    pub pass: Vec<String>,
}

/// Entries of the home directory that begin with a dot and are no secrets, as far as
/// hooks need them. Programs of the user live below the first ones.
const SHOWN_AT_HOME: [&str; 18] = [
    ".cargo/bin",
    ".rustup",
    ".local/bin",
    ".local/lib",
    ".local/share/pipx",
    ".local/share/uv",
    ".nix-profile",
    ".nix-defexpr",
    ".cache/image-create",
    ".cache/dib",
    ".cache/pip",
    ".gitconfig",
    ".config/git/config",
    ".config/git/ignore",
    ".config/git/attributes",
    ".ssh/authorized_keys",
    ".ssh/known_hosts",
    ".ssh/config",
];

/// Elsewhere: secrets of sessions and services. The ones below `/etc` can only be
/// read by root, who builds too.
const HIDDEN: [&str; 19] = [
    "/run/user",
    "/run/secrets",
    "/run/credentials",
    "/run/containers",
    "/var/run/secrets",
    // Memory of the caller's own programs, and letters.
    "/var/lib/systemd/coredump",
    "/var/crash",
    "/var/mail",
    "/var/spool/mail",
    "/var/spool/cron",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/ssl/private",
    "/etc/krb5.keytab",
    "/etc/NetworkManager/system-connections",
    "/etc/wireguard",
    "/etc/kubernetes",
];

/// The covers of a build and what stays visible below them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Privacy {
    /// Paths to cover.
    pub hidden: Vec<PathBuf>,
    /// Directories in which some of these are replaced now and then.
    pub replaced_in: Vec<PathBuf>,
    /// Paths to keep below these.
    pub shown: Vec<PathBuf>,
}

impl Privacy {
    /// Looks at what this host has. `given` are paths that the build was given, with those
    /// that hooks may write to.
    pub fn of_host(
        confinement: &Confinement,
        environment: &BTreeMap<OsString, OsString>,
        given: &[PathBuf],
    ) -> Privacy {
        let mut hidden: Vec<PathBuf> = HIDDEN.iter().map(PathBuf::from).collect();
        let mut replaced_in = Vec::new();
        // Only root reads what is hidden there.
        if nix::unistd::geteuid().is_root() {
            replaced_in.push("/etc".into());
        }
        let mut shown: Vec<PathBuf> = given.to_vec();
        shown.extend(confinement.show.iter().cloned());
        shown.extend(named_by_variables(environment));
        let mut kept = shown.clone();
        hidden.extend(host_keys());
        for name in ["GNUPGHOME", "KUBECONFIG", "SSH_AUTH_SOCK", "XAUTHORITY"] {
            hidden.extend(path_of(environment, name));
        }
        hidden.extend(homes::named(environment, |name| confinement.passes(name)));
        shown.extend(homes::needed_of_programs(environment));
        hidden.extend(homes::tickets(Path::new("/tmp")));
        let path = environment.get(OsStr::new("PATH"));
        let home = path_of(environment, "HOME");
        for homes::Other {
            path: other,
            is_own,
        } in homes::others(home.as_deref())
        {
            let secrets = if is_own {
                shown.extend(needed(&other, path));
                homes::dotted(&other)
            } else {
                shown.extend(programs(&other, path));
                homes::dotted_of_another(&other)
            };
            // Somebody set `HOME` to a directory there.
            let is_below = |home: &PathBuf| secrets.iter().any(|secret| home.starts_with(secret));
            shown.extend(home.clone().filter(is_below));
            replaced_in.extend(
                secrets
                    .iter()
                    .filter_map(|one| reserved::where_replaced(one)),
            );
            hidden.extend(secrets);
        }
        if let Some(home) = home {
            hidden.extend(homes::dotted(&home));
            // In a container the root directory may be the home.
            if home.parent().is_some() {
                shown.extend(needed(&home, path));
                kept.push(home.clone());
                replaced_in.push(home);
            }
        }
        if nix::unistd::geteuid().is_root() {
            let real = |path: &PathBuf| path.canonicalize().ok();
            let kept: Vec<_> = kept.iter().filter_map(real).collect();
            for path in reserved::to_root(Path::new("/"), &kept) {
                // A home as any other, for programs.
                shown.extend(programs(&path, environment.get(OsStr::new("PATH"))));
                shown.extend(kept.iter().filter(|kept| kept.starts_with(&path)).cloned());
                replaced_in.extend(reserved::where_replaced(&path));
                hidden.push(path);
            }
        }
        Privacy {
            hidden,
            replaced_in,
            shown,
        }
    }
}

/// What of a home is no secret and may be needed.
fn needed(home: &Path, path: Option<&OsString>) -> Vec<PathBuf> {
    let known = SHOWN_AT_HOME.iter().map(|name| home.join(name));
    known
        .chain(public_keys(&home.join(".ssh")))
        .chain(programs(home, path))
        .collect()
}

/// The absolute path in a variable.
fn path_of(environment: &BTreeMap<OsString, OsString>, name: &str) -> Option<PathBuf> {
    environment
        .get(OsStr::new(name))
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// Files and directories that a `DIB_` variable names, alone or as `file://`.
fn named_by_variables(
    environment: &BTreeMap<OsString, OsString>,
) -> impl Iterator<Item = PathBuf> + '_ {
    environment
        .iter()
        .filter(|(name, _)| name.as_bytes().starts_with(b"DIB_"))
        .flat_map(|(_, value)| value.as_bytes().split(|byte| byte.is_ascii_whitespace()))
        .map(|word| word.strip_prefix(b"file://").unwrap_or(word))
        .filter(|word| word.starts_with(b"/") && word.len() > 1)
        .map(|word| PathBuf::from(OsStr::from_bytes(word)))
}

/// Private keys of the host's ssh server.
fn host_keys() -> impl Iterator<Item = PathBuf> {
    names_in(Path::new("/etc/ssh")).filter(|path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        name.starts_with(b"ssh_host_") && name.ends_with(b"_key")
    })
}

fn public_keys(directory: &Path) -> impl Iterator<Item = PathBuf> {
    names_in(directory).filter(|path| path.extension().is_some_and(|kind| kind == "pub"))
}

fn names_in(directory: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

/// What programs below the home directory need: the directory that holds `bin`.
fn programs(home: &Path, path: Option<&OsString>) -> Vec<PathBuf> {
    let directories = path.map(std::env::split_paths).into_iter().flatten();
    directories
        .filter(|directory| directory.starts_with(home))
        .map(|directory| {
            let parent = directory.parent().unwrap_or(home).to_owned();
            // `~/.cargo` and `~/.local` hold secrets as well.
            let top = parent.parent() == Some(home);
            let mixed = [".cargo", ".local", ".config", ".cache"];
            let is_mixed = parent
                .file_name()
                .is_some_and(|name| mixed.iter().any(|&known| name == known));
            if parent == home || (top && is_mixed) {
                directory
            } else {
                parent
            }
        })
        .collect()
}

/// Variables that name a way into the caller's session or into a service.
const SESSION: [&str; 19] = [
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GPG_AGENT_INFO",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "XAUTHORITY",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XDG_RUNTIME_DIR",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "KUBECONFIG",
    "DOCKER_HOST",
    "CONTAINER_HOST",
    "DOCKER_AUTH_CONFIG",
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "KRB5CCNAME",
    "PGPASSFILE",
    "NETRC",
];

/// Beginnings of names of variables that configure access to a cloud.
const CLOUDS: [&str; 5] = ["AWS_", "AZURE_", "ARM_CLIENT_", "VAULT_", "TF_VAR_"];

/// Words in names of variables that hold secrets.
const WORDS: [&str; 14] = [
    "TOKEN",
    "TOKENS",
    "SECRET",
    "SECRETS",
    "PASSWORD",
    "PASSWORDS",
    "PASSWD",
    "PASSPHRASE",
    "CREDENTIAL",
    "CREDENTIALS",
    "APIKEY",
    "PRIVATEKEY",
    "PAT",
    "PASS",
];

/// Pairs of words that do.
const PAIRS: [(&str, &str); 5] = [
    ("API", "KEY"),
    ("ACCESS", "KEY"),
    ("PRIVATE", "KEY"),
    ("SIGNING", "KEY"),
    ("ENCRYPTION", "KEY"),
];

/// Variables of elements, whose secrets are meant for hooks.
const OURS: [&str; 3] = ["DIB_", "KILN_", "REG_"];

/// Whether hooks do not get a variable unless the user says so.
pub fn is_secret(name: &OsStr) -> bool {
    let Some(name) = name.to_str().map(str::to_ascii_uppercase) else {
        return false;
    };
    if OURS.iter().any(|prefix| name.starts_with(prefix)) {
        return false;
    }
    let words: Vec<&str> = name.split('_').collect();
    SESSION.contains(&name.as_str())
        || CLOUDS.iter().any(|prefix| name.starts_with(prefix))
        || words.iter().any(|word| WORDS.contains(word))
        || words
            .windows(2)
            .any(|pair| PAIRS.contains(&(pair[0], pair[1])))
}

impl Confinement {
    /// Whether the user said that hooks get a variable although it looks like a secret.
    fn passes(&self, name: &OsStr) -> bool {
        let mut patterns = self.pass.iter();
        patterns.any(|pattern| pattern == "*" || name == OsStr::new(pattern))
    }

    /// Takes variables that hooks must not get out of an environment and returns
    /// their names.
    pub fn withhold(&self, environment: &mut BTreeMap<OsString, OsString>) -> Vec<String> {
        let mut withheld = Vec::new();
        environment.retain(|name, _| {
            let keep = self.passes(name) || !is_secret(name);
            if !keep {
                withheld.push(name.to_string_lossy().into_owned());
            }
            keep
        });
        withheld
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
        pairs
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect()
    }

    #[test]
    fn names_of_secrets_are_known() {
        for name in [
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "CI_JOB_TOKEN",
            "SSH_AUTH_SOCK",
            "my_password",
            "OPENAI_API_KEY",
            "OS_PASSWORD",
            "REGISTRY_PASS",
        ] {
            assert!(is_secret(OsStr::new(name)), "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "DIB_DEV_USER_PASSWORD",
            "REG_PASSWORD",
            "KEYBOARD",
            "PASSES",
            "COMPASS_X",
            "http_proxy",
            "LC_ALL",
            "TOKENIZER",
        ] {
            assert!(!is_secret(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn what_the_user_passes_is_not_withheld() {
        let mut given = environment(&[("A_TOKEN", "1"), ("B_TOKEN", "2"), ("PLAIN", "3")]);
        let confinement = Confinement {
            pass: vec!["B_TOKEN".to_owned()],
            ..Confinement::default()
        };
        assert_eq!(confinement.withhold(&mut given), ["A_TOKEN"]);
        assert_eq!(given, environment(&[("B_TOKEN", "2"), ("PLAIN", "3")]));
    }

    #[test]
    fn home_is_hidden_by_its_dots_and_shown_by_what_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let home = directory.path().to_owned();
        for name in [".ssh", ".aws", "src"] {
            std::fs::create_dir(home.join(name)).expect("made");
        }
        std::fs::write(home.join(".ssh/id.pub"), "").expect("written");
        let path = format!("{0}/.pyenv/shims:{0}/.cargo/bin:/usr/bin", home.display());
        let given = environment(&[
            ("HOME", &home.display().to_string()),
            ("PATH", &path),
            ("DIB_X", &format!("file://{}/.y", home.display())),
        ]);
        let privacy = Privacy::of_host(&Confinement::default(), &given, &[]);
        for name in [".ssh", ".aws"] {
            assert!(privacy.hidden.contains(&home.join(name)), "{name}");
        }
        assert!(!privacy.hidden.contains(&home.join("src")));
        for name in [".ssh/id.pub", ".pyenv", ".cargo/bin", ".y"] {
            assert!(privacy.shown.contains(&home.join(name)), "{name}");
        }
        assert!(!privacy.shown.contains(&home.join(".cargo")));
    }
}
