//! `pkg-map`: generic package names to those of a distribution.
//!
//! A map is JSON with the sections `default`, `family`, `distro` and `release`,
//! each of which overlays those before it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;
use thiserror::Error;

use super::Explain;

/// Where the maps of the build's elements are, one file an element.
pub const DIRECTORY: &str = "/usr/share/pkg-map";

/// Why names cannot be mapped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Not exactly one of `--element` and `--pkg-map`.
    #[error("exactly one of `--element` and `--pkg-map` is needed")]
    Source,
    /// No distribution is known.
    #[error("the distribution is not known")]
    NoDistro,
    /// The map does not exist.
    #[error("no package map `{path}`")]
    NoMap {
        /// Where it should be.
        path: PathBuf,
    },
    /// The map cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The map.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The map is not a package map.
    #[error("`{path}` is not a package map: {message}")]
    Format {
        /// The map.
        path: PathBuf,
        /// The parser's words.
        message: String,
    },
    /// Names that the map does not have.
    #[error("no mapping in `{path}` for {}", .names.join(", "))]
    Unmapped {
        /// The map.
        path: PathBuf,
        /// The names.
        names: Vec<String>,
    },
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Source => "pkg-map --element ELEMENT NAME…, or pkg-map --pkg-map FILE NAME…".into(),
            Self::NoDistro => "set DISTRO_NAME, or use --distro".into(),
            Self::NoMap { .. } => "the element needs a `pkg-map` file and must be part of the build; --missing-ok prints the names unchanged".into(),
            Self::Read { .. } => "check that it is a readable file".into(),
            Self::Format { .. } => "it is JSON with the sections default, family, distro and release, which map names to strings".into(),
            Self::Unmapped { .. } => "add them to a section that applies to this distribution; an empty string means that there is nothing to install".into(),
        })
    }

    fn code(&self) -> u8 {
        if matches!(self, Self::NoMap { .. }) {
            2
        } else {
            1
        }
    }
}

type Names = BTreeMap<String, Option<String>>;

/// The content of a `pkg-map` file.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PackageMap {
    #[serde(default)]
    default: Names,
    #[serde(default)]
    family: BTreeMap<String, Names>,
    #[serde(default)]
    distro: BTreeMap<String, Names>,
    #[serde(default)]
    release: BTreeMap<String, BTreeMap<String, Names>>,
}

/// The family that a distribution belongs to, if it has one.
pub fn family(distro: &str) -> Option<&'static str> {
    Some(match distro {
        "almalinux" | "centos" | "fedora" | "openeuler" | "rhel" | "rocky" => "redhat",
        "debian" | "ubuntu" => "debian",
        "opensuse" => "suse",
        "gentoo" => "gentoo",
        _ => return None,
    })
}

impl PackageMap {
    /// Reads a map.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::NoMap {
                path: path.to_owned(),
            },
            _ => Error::Read {
                path: path.to_owned(),
                source,
            },
        })?;
        serde_json::from_slice(&text).map_err(|error| Error::Format {
            path: path.to_owned(),
            message: error.to_string(),
        })
    }

    /// What a name stands for: several packages are separated by blanks, an
    /// empty string is nothing; `None` when the map does not have the name.
    pub fn get(&self, name: &str, distro: &str, release: &str) -> Option<&str> {
        // The stream releases 8 share their names with the releases they lead to.
        let release = if release == "8-stream" { "8" } else { release };
        let sections = [
            self.release
                .get(distro)
                .and_then(|releases| releases.get(release)),
            self.distro.get(distro),
            family(distro).and_then(|family| self.family.get(family)),
            Some(&self.default),
        ];
        let value = sections
            .into_iter()
            .flatten()
            .find_map(|names| names.get(name))?;
        Some(value.as_deref().unwrap_or_default())
    }
}

/// How names are looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lookup {
    /// Distribution, such as `debian`.
    pub distro: String,
    /// Its release, such as `bookworm`.
    pub release: String,
    /// Names without mapping stand for themselves.
    pub missing_ok: bool,
}

/// Maps names; those that stand for nothing are left out. Each result may be
/// several packages separated by blanks.
pub fn map_names(path: &Path, lookup: &Lookup, names: &[String]) -> Result<Vec<String>, Error> {
    let map = match PackageMap::read(path) {
        Err(Error::NoMap { .. }) if lookup.missing_ok => return Ok(names.to_vec()),
        other => other?,
    };
    let mut mapped = Vec::new();
    let mut unmapped = Vec::new();
    for name in names {
        match map.get(name, &lookup.distro, &lookup.release) {
            Some("") => {}
            Some(packages) => mapped.push(packages.to_owned()),
            None if lookup.missing_ok => mapped.push(name.clone()),
            None => unmapped.push(name.clone()),
        }
    }
    if unmapped.is_empty() {
        Ok(mapped)
    } else {
        Err(Error::Unmapped {
            path: path.to_owned(),
            names: unmapped,
        })
    }
}

/// Maps names by an element's map, for the build's distribution.
pub fn map_for_element(
    element: &str,
    missing_ok: bool,
    names: &[String],
) -> Result<Vec<String>, Error> {
    let distro = super::env_text("DISTRO_NAME").ok_or(Error::NoDistro)?;
    let release = super::env_text("DIB_RELEASE").unwrap_or_default();
    map_names(
        &element_map(element),
        &Lookup {
            distro,
            release,
            missing_ok,
        },
        names,
    )
}

/// The map of an element. A name is one component, so that it stays in the directory.
fn element_map(element: &str) -> PathBuf {
    Path::new(DIRECTORY).join(element.replace('/', "_"))
}

/// `pkg-map [--element E | --pkg-map FILE] [--distro D] [--release R] [--missing-ok] [--prefix S] NAME…`
pub(super) fn main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let mut element = None;
    let mut file = None;
    let mut distro = super::env_text("DISTRO_NAME");
    let mut release = super::env_text("DIB_RELEASE");
    let mut prefix = String::new();
    let mut missing_ok = false;
    let mut names = Vec::new();
    let mut args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
    while let Some(arg) = args.next() {
        let (option, inline) = match arg.split_once('=') {
            Some((option, value)) if option.starts_with("--") => {
                (option.to_owned(), Some(value.to_owned()))
            }
            _ => (arg.clone(), None),
        };
        let slot = match option.as_str() {
            "--element" => &mut element,
            "--pkg-map" => &mut file,
            "--distro" => &mut distro,
            "--release" => &mut release,
            "--prefix" => {
                prefix = inline.or_else(|| args.next()).unwrap_or_default();
                continue;
            }
            "--missing-ok" => {
                missing_ok = true;
                continue;
            }
            "--debug" => continue,
            // Anything else is a name, even with a dash.
            _ => {
                names.push(arg);
                continue;
            }
        };
        *slot = inline.or_else(|| args.next());
    }
    let path = match (&element, file) {
        (Some(element), None) => element_map(element),
        (None, Some(file)) => PathBuf::from(file),
        _ => return Err(Error::Source),
    };
    let distro = distro
        .filter(|distro| !distro.is_empty())
        .ok_or(Error::NoDistro)?;
    let label = element.unwrap_or_else(|| path.display().to_string());
    super::say(&format!(
        "INFO:root:Mapping for {label} : {}",
        names.join(" ")
    ));
    let lookup = Lookup {
        distro,
        release: release.unwrap_or_default(),
        missing_ok,
    };
    let lines: String = map_names(&path, &lookup, &names)?
        .into_iter()
        .map(|packages| format!("{prefix}{packages}\n"))
        .collect();
    super::print(&lines);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(distro: &str, release: &str, missing_ok: bool) -> Lookup {
        Lookup {
            distro: distro.into(),
            release: release.into(),
            missing_ok,
        }
    }

    fn map(text: &str, lookup: &Lookup, names: &[&str]) -> Result<Vec<String>, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        map_names(file.path(), lookup, &names)
    }

    const MAP: &str = r#"{
        "default": {"a": "default-a", "none": "", "null": null, "two": "x y"},
        "family": {"redhat": {"a": "family-a", "f": "family-f"}, "suse": {}},
        "distro": {"centos": {"a": "distro-a"}},
        "release": {"centos": {"8": {"a": "release-a"}}}
    }"#;

    #[test]
    fn later_sections_overlay_earlier_ones() {
        for (distro, release, expected) in [
            ("debian", "", "default-a"),
            ("fedora", "40", "family-a"),
            ("centos", "7", "distro-a"),
            ("centos", "8", "release-a"),
            ("centos", "8-stream", "release-a"),
            ("centos", "9-stream", "distro-a"),
            ("unheard-of", "", "default-a"),
        ] {
            assert_eq!(
                map(MAP, &lookup(distro, release, false), &["a"]).unwrap(),
                [expected],
                "{distro} {release}"
            );
        }
    }

    #[test]
    fn empty_mappings_stand_for_nothing_and_several_packages_stay_together() {
        assert_eq!(
            map(MAP, &lookup("debian", "", false), &["none", "null", "two"]).unwrap(),
            ["x y"]
        );
    }

    #[test]
    fn a_name_without_mapping_fails_unless_it_may_be_missing() {
        let error = map(MAP, &lookup("debian", "", false), &["f", "a", "g"]).unwrap_err();
        assert!(error.to_string().ends_with("for f, g"), "{error}");
        assert_eq!(error.code(), 1);
        assert_eq!(
            map(MAP, &lookup("debian", "", true), &["f", "a"]).unwrap(),
            ["f", "default-a"]
        );
    }

    #[test]
    fn a_missing_map_has_its_own_status() {
        let path = Path::new("/nonexistent/pkg-map");
        let error = map_names(path, &lookup("debian", "", false), &["a".into()]).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.code()),
            ("no package map `/nonexistent/pkg-map`", 2)
        );
        assert_eq!(
            map_names(path, &lookup("debian", "", true), &["a".into()]).unwrap(),
            ["a"]
        );
    }

    #[test]
    fn a_map_that_is_none_is_refused_with_the_position() {
        let error = map("{\"default\": []}", &lookup("debian", "", true), &["a"]).unwrap_err();
        assert!(error.to_string().contains("line 1 column"), "{error}");
    }
}
