//! `svc-map`: generic service names to those of a distribution.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use thiserror::Error;

use super::arguments;
use super::squash::{Sources, SourcesError};
use super::yaml::{self, Ordered};
use super::{Explain, pkg_map};

/// The merged map in the target.
pub const SERVICES: &str = "/usr/share/svc-map/services";

/// Why services cannot be mapped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The map or an element's file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not a service map.
    #[error("{location} is not a service map: {message}")]
    Format {
        /// The file or the element.
        location: String,
        /// The parser's words.
        message: String,
    },
    /// Two elements map the same service.
    #[error(
        "{service} already found in services list.  Check {element} for duplicate service name."
    )]
    Duplicate {
        /// The service.
        service: String,
        /// The element that names it again.
        element: String,
    },
    /// The output cannot be written.
    #[error("cannot write `{path}`")]
    Write {
        /// The output.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No output was named.
    #[error("no output file")]
    NoOutput,
    /// The elements cannot be found.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// The arguments make no sense.
    #[error(transparent)]
    Arguments(#[from] arguments::Error),
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Format { .. } => {
                Some("it is YAML: service: {distribution, family or default: name}".into())
            }
            Self::Duplicate { service, .. } => Some(format!("map {service} in one element only")),
            Self::NoOutput => Some(
                "svc-map-merge [--elements NAMES] [--path ELEMENTS_PATH] [--distro NAME] FILE"
                    .into(),
            ),
            Self::Sources(error) => error.hint(),
            Self::Arguments(error) => error.hint(),
            Self::Read { .. } | Self::Write { .. } => None,
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Arguments(error) => error.code(),
            _ => 1,
        }
    }
}

/// The name of each service for a distribution, from the elements' maps in order.
pub fn merge(maps: &[(String, String)], distro: &str) -> Result<BTreeMap<String, String>, Error> {
    let mut services = BTreeMap::new();
    for (element, text) in maps {
        let map: Ordered<Option<BTreeMap<String, Option<String>>>> =
            yaml::yaml(text).map_err(|message| Error::Format {
                location: format!("`svc-map` of element `{element}`"),
                message,
            })?;
        for (service, names) in map.0 {
            let names = names.unwrap_or_default();
            let name = [Some(distro), pkg_map::family(distro), Some("default")]
                .into_iter()
                .flatten()
                .find_map(|key| names.get(key).cloned().flatten())
                .unwrap_or_else(|| service.clone());
            if services.insert(service.clone(), name).is_some() {
                return Err(Error::Duplicate {
                    service,
                    element: element.clone(),
                });
            }
        }
    }
    Ok(services)
}

const MERGE_HELP: &str = "\
Merges the svc-map files of all elements into one, for a distribution.

Usage: svc-map-merge [--elements NAMES] [--path DIRECTORIES] [--distro NAME] FILE

  --elements NAMES    Elements, separated by blanks (default: $IMAGE_ELEMENT).
  --path DIRECTORIES  Where they are, separated by colons (default: $ELEMENTS_PATH).
  --distro NAME       Distribution (default: $DISTRO_NAME).
  -h, --help          Prints this text.
";

/// `svc-map-merge [--elements NAMES] [--path ELEMENTS_PATH] [--distro NAME] FILE`, outside.
pub(super) fn merge_main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let [elements, path] = Sources::OPTIONS;
    let known = [elements, path, arguments::value("--distro")];
    let arguments = arguments::parse(args, &known, false)?;
    if arguments.asks_for_help() {
        super::print(MERGE_HELP);
        return Ok(ExitCode::SUCCESS);
    }
    let sources = Sources::from_args(&arguments)?;
    let distro = arguments
        .text("--distro")
        .or_else(|| super::env_text("DISTRO_NAME"))
        .unwrap_or_default();
    let output = arguments.rest.first().map(PathBuf::from);
    let output = output.ok_or(Error::NoOutput)?;
    let mut maps = Vec::new();
    for element in &sources.elements {
        let file = sources.read_chosen(element, "svc-map")?;
        maps.extend(file.map(|file| (element.clone(), file.text)));
    }
    let services = merge(&maps, &distro)?;
    // JSON strings are YAML strings, so that every name survives.
    let mut text: String = services
        .iter()
        .map(|(service, name)| {
            format!(
                "{}: {}\n",
                serde_json::json!(service),
                serde_json::json!(name)
            )
        })
        .collect();
    if text.is_empty() {
        text.push_str("{}\n");
    }
    std::fs::write(&output, text).map_err(|source| Error::Write {
        path: output,
        source,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The name that a service has in this root.
fn name_in(root: &Path, service: &str, services: &BTreeMap<String, String>) -> String {
    let units = [
        format!("lib/systemd/system/{service}.service"),
        format!("etc/init/{service}.conf"),
    ];
    if units.iter().any(|unit| root.join(unit).exists()) {
        return service.to_owned();
    }
    services
        .get(service)
        .cloned()
        .unwrap_or_else(|| service.to_owned())
}

/// `svc-map NAME…`, inside.
pub(super) fn main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let path = PathBuf::from(SERVICES);
    let services = match std::fs::read_to_string(&path) {
        Ok(text) => yaml::yaml(&text).map_err(|message| Error::Format {
            location: format!("`{SERVICES}`"),
            message,
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(source) => return Err(Error::Read { path, source }),
    };
    let lines: String = args
        .iter()
        .map(|arg| name_in(Path::new("/"), &arg.to_string_lossy(), &services) + "\n")
        .collect();
    super::print(&lines);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(texts: &[&str]) -> Vec<(String, String)> {
        texts
            .iter()
            .enumerate()
            .map(|(n, text)| (format!("e{n}"), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn a_name_comes_from_distribution_family_default_or_itself() {
        let maps = maps(&[
            "ssh:\n  debian: a\n  redhat: b\n  default: c\ncron:\n  default: crond\nplain:\n",
        ]);
        for (distro, ssh) in [
            ("debian", "a"),
            ("ubuntu", "a"),
            ("rocky", "b"),
            ("gentoo", "c"),
        ] {
            let services = merge(&maps, distro).unwrap();
            assert_eq!(services["ssh"], ssh, "{distro}");
            assert_eq!(services["cron"], "crond");
            assert_eq!(services["plain"], "plain");
        }
    }

    #[test]
    fn a_service_of_two_elements_is_refused() {
        let error =
            merge(&maps(&["ssh: {default: a}", "ssh: {default: b}"]), "debian").unwrap_err();
        assert_eq!(
            error.to_string(),
            "ssh already found in services list.  Check e1 for duplicate service name."
        );
    }

    #[test]
    fn a_unit_of_that_name_needs_no_mapping() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("lib/systemd/system")).unwrap();
        std::fs::write(root.path().join("lib/systemd/system/ssh.service"), "").unwrap();
        let services = BTreeMap::from([
            ("ssh".to_owned(), "sshd".to_owned()),
            ("a".into(), "b".into()),
        ]);
        assert_eq!(name_in(root.path(), "ssh", &services), "ssh");
        assert_eq!(name_in(root.path(), "a", &services), "b");
        assert_eq!(name_in(root.path(), "c", &services), "c");
    }
}
