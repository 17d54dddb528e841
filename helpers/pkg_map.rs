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
use super::arguments::{self, flag, value};

/// Where the maps of the build's elements are, one file an element.
pub const DIRECTORY: &str = "/usr/share/pkg-map";

/// Why names cannot be mapped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Not exactly one of `--element` and `--pkg-map`.
    #[error("exactly one of `--element` and `--pkg-map` is needed")]
    Source,
    /// The arguments make no sense.
    #[error(transparent)]
    Arguments(#[from] arguments::Error),
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
            Self::Arguments(error) => return error.hint(),
            Self::NoDistro => "set DISTRO_NAME, or use --distro".into(),
            Self::NoMap { .. } => "the element needs a `pkg-map` file and must be part of the build; --missing-ok prints the names unchanged".into(),
            Self::Read { .. } => "check that it is a readable file".into(),
            Self::Format { .. } => "it is JSON with the sections default, family, distro and release, which map names to strings".into(),
            Self::Unmapped { .. } => "add them to a section that applies to this distribution; an empty string means that there is nothing to install".into(),
        })
    }

    fn code(&self) -> u8 {
        match self {
            Self::NoMap { .. } => 2,
            Self::Arguments(error) => error.code(),
            _ => 1,
        }
    }
}

type Names = BTreeMap<String, Option<Name>>;

/// Names by family, distribution or release.
type Sections = BTreeMap<String, Option<Names>>;

/// A name, or a number that is one.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "a name must be text")]
enum Name {
    Text(String),
    Number(serde_json::Number),
}

/// The content of a `pkg-map` file. A section may be null.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PackageMap {
    #[serde(default)]
    default: Option<Names>,
    #[serde(default)]
    family: Option<Sections>,
    #[serde(default)]
    distro: Option<Sections>,
    #[serde(default)]
    release: Option<BTreeMap<String, Option<Sections>>>,
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
        // Of a section that is there twice, the later counts.
        serde_json::from_slice::<serde_json::Value>(&text)
            .and_then(serde_json::from_value)
            .map_err(|error| Error::Format {
                path: path.to_owned(),
                message: error.to_string(),
            })
    }

    /// What a name stands for: several packages are separated by blanks, an
    /// empty string is nothing; `None` when the map does not have the name.
    pub fn get(&self, name: &str, distro: &str, release: &str) -> Option<String> {
        // The stream releases 8 share their names with the releases they lead to.
        let release = if release == "8-stream" { "8" } else { release };
        let release = |releases: &Sections| releases.get(release).cloned().flatten();
        let releases = self.release.as_ref().and_then(|all| all.get(distro));
        let section = |all: &Option<Sections>, key: &str| {
            all.as_ref()?.get(key)?.as_ref()?.get(name).cloned()
        };
        let value = releases
            .and_then(Option::as_ref)
            .and_then(release)
            .and_then(|names| names.get(name).cloned())
            .or_else(|| section(&self.distro, distro))
            .or_else(|| section(&self.family, family(distro)?))
            .or_else(|| self.default.as_ref()?.get(name).cloned())?;
        Some(match value {
            Some(Name::Text(text)) => text,
            Some(Name::Number(number)) if number.as_f64() != Some(0.0) => number.to_string(),
            Some(Name::Number(_)) | None => String::new(),
        })
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
            Some(packages) if packages.is_empty() => {}
            Some(packages) => mapped.push(packages),
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

const HELP: &str = "\
Prints the names that packages have in a distribution, a line each.

Usage: pkg-map (--element ELEMENT | --pkg-map FILE) [OPTIONS] NAME...

      --element ELEMENT  Element whose map counts, in /usr/share/pkg-map.
      --pkg-map FILE     Map itself.
      --distro NAME      Distribution (default: $DISTRO_NAME).
      --release NAME     Its release (default: $DIB_RELEASE).
      --missing-ok       Names without a mapping stand for themselves.
      --prefix TEXT      Printed before each name.
      --debug            Taken, and without meaning.
  -h, --help             Prints this text.

The status is 1 where a name has no mapping, and 2 where there is no map.
";

/// `pkg-map [--element E | --pkg-map FILE] [--distro D] [--release R] [--missing-ok] [--prefix S] NAME…`
pub(super) fn main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let known = [
        value("--element"),
        value("--pkg-map"),
        value("--distro"),
        value("--release"),
        value("--prefix"),
        flag("--missing-ok", None),
        flag("--debug", None),
    ];
    let arguments = arguments::parse(args, &known, true)?;
    if arguments.asks_for_help() {
        super::print(HELP);
        return Ok(ExitCode::SUCCESS);
    }
    // An empty name is none.
    let text = |name: &str| arguments.text(name).filter(|text| !text.is_empty());
    let (element, file) = (text("--element"), text("--pkg-map"));
    let given =
        |name: &str, variable: &str| arguments.text(name).or_else(|| super::env_text(variable));
    let distro = given("--distro", "DISTRO_NAME");
    let release = given("--release", "DIB_RELEASE");
    let prefix = arguments.text("--prefix").unwrap_or_default();
    let missing_ok = arguments.has("--missing-ok");
    let names = arguments.rest.iter();
    let names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let path = match (&element, file) {
        (Some(element), None) => element_map(element),
        (None, Some(file)) => PathBuf::from(file),
        _ => return Err(Error::Source),
    };
    let distro = distro
        .filter(|distro| !distro.is_empty())
        .ok_or(Error::NoDistro)?;
    let label = element.unwrap_or_else(|| format!("<{}>", path.display()));
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
    fn a_map_that_is_none_is_refused_with_what_is_wrong() {
        for (text, wrong) in [
            ("{\"default\": }", "line 1 column"),
            ("{\"default\": []}", "expected a map"),
            ("{\"default\": {\"a\": []}}", "a name must be text"),
        ] {
            let error = map(text, &lookup("debian", "", true), &["a"]).unwrap_err();
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }
}
