//! Which archives and suites a root is made from.
//!
//! The host's own apt configuration is only read for the mirror it uses.

use std::path::{Path, PathBuf};

use super::control;

/// Debian's archive when neither the user nor the host names one.
pub const DEFAULT_MIRROR: &str = "http://ftp.debian.org/debian";
/// Debian's security archive when neither the user nor the host names one.
pub const DEFAULT_SECURITY_MIRROR: &str = "http://security.debian.org/debian-security";

/// Where apt keeps its configuration on the host.
pub const HOST_APT: &str = "/etc/apt";

/// A suite of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    /// The archive's URL.
    pub mirror: String,
    /// The suite's name below `dists`.
    pub name: String,
}

/// The two archives of Debian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrors {
    /// The main archive.
    pub main: String,
    /// The security archive.
    pub security: String,
}

impl Mirrors {
    /// Picks the archives: `DIB_DEBIAN_DISTRIBUTION_MIRROR`, `DIB_DISTRIBUTION_MIRROR` and
    /// `DIB_DEBIAN_SECURITY_MIRROR`, else the host's, else Debian's.
    pub fn choose(variable: &dyn Fn(&str) -> Option<String>, host_apt: &Path) -> Mirrors {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let main = set("DIB_DEBIAN_DISTRIBUTION_MIRROR").or_else(|| set("DIB_DISTRIBUTION_MIRROR"));
        let security = set("DIB_DEBIAN_SECURITY_MIRROR");
        let host = if main.is_some() && security.is_some() {
            Vec::new()
        } else {
            host_entries(host_apt)
        };
        let find = |wanted: &dyn Fn(&Entry) -> bool| {
            host.iter()
                .find(|entry| wanted(entry))
                .map(|entry| entry.uri.clone())
        };
        Mirrors {
            main: main
                .or_else(|| find(&Entry::is_debian))
                .unwrap_or_else(|| DEFAULT_MIRROR.to_owned()),
            security: security
                .or_else(|| find(&Entry::is_debian_security))
                .unwrap_or_else(|| DEFAULT_SECURITY_MIRROR.to_owned()),
        }
    }
}

/// Returns the suites that go with a release: updates and security.
///
/// `rolling` releases (testing, unstable) have neither.
pub fn companion_suites(suite: &str, rolling: bool, mirrors: &Mirrors) -> Vec<Suite> {
    if rolling {
        return Vec::new();
    }
    // Until buster the security suite was a directory below the code name.
    let security = match suite {
        "wheezy" | "jessie" | "stretch" | "buster" => format!("{suite}/updates"),
        _ => format!("{suite}-security"),
    };
    vec![
        Suite {
            mirror: mirrors.main.clone(),
            name: format!("{suite}-updates"),
        },
        Suite {
            mirror: mirrors.security.clone(),
            name: security,
        },
    ]
}

/// One archive and suite of apt's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    uri: String,
    suite: String,
    components: Vec<String>,
}

impl Entry {
    fn is_usable(&self) -> bool {
        ["http://", "https://", "file:/"]
            .iter()
            .any(|scheme| self.uri.starts_with(scheme))
            && self.components.iter().any(|component| component == "main")
    }

    fn path_end(&self) -> &str {
        self.uri
            .trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or("")
    }

    fn is_debian(&self) -> bool {
        self.is_usable()
            && self.path_end() == "debian"
            && !self.suite.contains("backports")
            && !self.suite.ends_with('/')
    }

    fn is_debian_security(&self) -> bool {
        self.is_usable() && self.path_end() == "debian-security"
    }
}

/// Reads `sources.list`, `sources.list.d/*.list` and `*.sources`; unreadable files count as empty.
fn host_entries(apt: &Path) -> Vec<Entry> {
    let mut files = vec![apt.join("sources.list")];
    let mut parts: Vec<PathBuf> = fs_err::read_dir(apt.join("sources.list.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    parts.sort();
    files.extend(parts);
    let mut entries = Vec::new();
    for file in files {
        let Ok(text) = fs_err::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => entries.extend(text.lines().filter_map(one_line)),
            Some("sources") => entries.extend(deb822(&text)),
            _ => {}
        }
    }
    entries
}

/// Reads `deb [options] uri suite component…`.
fn one_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t']) {
        return None;
    }
    let mut rest = rest.trim_start();
    if let Some(options) = rest.strip_prefix('[') {
        rest = options.split_once(']')?.1;
    }
    let mut words = rest.split_ascii_whitespace().map(str::to_owned);
    Some(Entry {
        uri: words.next()?,
        suite: words.next()?,
        components: words.collect(),
    })
}

/// Reads paragraphs of sources.list(5)'s deb822 style.
fn deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for paragraph in control::paragraphs(text).map_while(Result::ok) {
        let words = |field| -> Vec<String> {
            paragraph
                .get(field)
                .unwrap_or("")
                .split_ascii_whitespace()
                .filter(|word| !word.starts_with('#'))
                .map(str::to_owned)
                .collect()
        };
        let disabled = paragraph.get("Enabled").is_some_and(|value| {
            matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "0")
        });
        if disabled || !words("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        for uri in words("URIs") {
            for suite in words("Suites") {
                entries.push(Entry {
                    uri: uri.clone(),
                    suite,
                    components: words("Components"),
                });
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Mirrors {
        let dir = tempfile::tempdir().expect("a directory");
        fs_err::create_dir(dir.path().join("sources.list.d")).expect("made");
        for (name, text) in files {
            fs_err::write(dir.path().join(name), text).expect("written");
        }
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Mirrors::choose(&variable, dir.path())
    }

    #[test]
    fn variables_come_before_the_host_before_the_default() {
        let list = (
            "sources.list",
            "# deb http://comment/debian x main\ndeb-src http://src/debian x main\n\
             deb [arch=amd64 signed-by=/x] http://one.example/debian bookworm main contrib\n\
             deb http://sec.example/debian-security bookworm-security main\n",
        );
        let both = |main: &str, security: &str| Mirrors {
            main: main.into(),
            security: security.into(),
        };
        assert_eq!(
            choose(&[], &[]),
            both(DEFAULT_MIRROR, DEFAULT_SECURITY_MIRROR)
        );
        assert_eq!(
            choose(&[list], &[]),
            both(
                "http://one.example/debian",
                "http://sec.example/debian-security"
            )
        );
        assert_eq!(
            choose(
                &[list],
                &[
                    ("DIB_DISTRIBUTION_MIRROR", "http://m/d"),
                    ("DIB_DEBIAN_SECURITY_MIRROR", "")
                ]
            ),
            both("http://m/d", "http://sec.example/debian-security")
        );
        assert_eq!(
            choose(
                &[list],
                &[
                    ("DIB_DISTRIBUTION_MIRROR", "http://m/d"),
                    ("DIB_DEBIAN_DISTRIBUTION_MIRROR", "http://n/d"),
                    ("DIB_DEBIAN_SECURITY_MIRROR", "http://s/d")
                ]
            ),
            both("http://n/d", "http://s/d")
        );
    }

    #[test]
    fn deb822_sources_are_read_and_others_passed_over() {
        let mirrors = choose(
            &[
                (
                    "sources.list.d/a.sources",
                    "Types: deb\nURIs: https://off.example/debian\nSuites: x\nComponents: main\nEnabled: no\n",
                ),
                (
                    "sources.list.d/b.list",
                    "deb https://third.example/party x main\ndeb https://bp.example/debian bookworm-backports main\n",
                ),
                (
                    "sources.list.d/c.sources",
                    "Types: deb deb-src\n# note\nURIs: https://two.example/debian/\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
                    Types: deb\nURIs: https://two.example/debian-security\nSuites: bookworm-security\nComponents: main\n",
                ),
                (
                    "sources.list.d/d.save",
                    "deb https://old.example/debian x main\n",
                ),
            ],
            &[],
        );
        assert_eq!(mirrors.main, "https://two.example/debian/");
        assert_eq!(mirrors.security, "https://two.example/debian-security");
    }

    #[test]
    fn only_stable_releases_have_companions() {
        let mirrors = choose(&[], &[]);
        let names: Vec<String> = companion_suites("bookworm", false, &mirrors)
            .into_iter()
            .map(|suite| suite.name)
            .collect();
        assert_eq!(names, ["bookworm-updates", "bookworm-security"]);
        assert!(companion_suites("sid", true, &mirrors).is_empty());
    }
}
