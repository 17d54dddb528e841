//! `package-installs-squash`: the package lists of all elements as one.
//!
//! Runs outside, in extra-data.d, so that conditions see the environment of that
//! phase. That the result depends on the order of the elements is part of the
//! contract: see `package-installs` in diskimage-builder's documentation of elements.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize as _;
use serde_json::Value;
use thiserror::Error;

use super::Explain;
use super::arguments::{self, Arguments, Known};
use super::when;
use super::yaml::{self, Ordered};
use crate::element;

/// Which elements, and where they are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources {
    /// Names in the order of `IMAGE_ELEMENT`.
    pub elements: Vec<String>,
    /// Directories of elements.
    pub path: Vec<PathBuf>,
    /// Where the build found each element, for those that `path` does not have
    /// under their name (`IMAGE_ELEMENT_YAML`).
    pub found: BTreeMap<String, PathBuf>,
}

/// Why an element's file cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourcesError {
    /// No elements were named.
    #[error("no elements are named")]
    NoElements,
    /// A file exists but cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not text.
    #[error("`{path}` is not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// The paths of the elements are not a map.
    #[error("IMAGE_ELEMENT_YAML is not a map of paths: {message}")]
    Paths {
        /// The parser's words.
        message: String,
    },
    /// The embedded library cannot be read.
    #[error(transparent)]
    Library(#[from] element::Error),
}

impl Explain for SourcesError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoElements => Some("set IMAGE_ELEMENT, or use --elements".into()),
            Self::Library(error) => error.hint(),
            Self::Read { .. } | Self::NotText { .. } | Self::Paths { .. } => None,
        }
    }
}

/// A file of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it is, for messages.
    pub location: String,
    /// Its text.
    pub text: String,
}

impl Sources {
    /// The options that say which elements there are.
    pub const OPTIONS: [Known; 2] = [arguments::value("--elements"), arguments::value("--path")];

    /// What `--elements` and `--path` say; they default to `IMAGE_ELEMENT` and
    /// `ELEMENTS_PATH`.
    pub fn from_args(arguments: &Arguments) -> Result<Self, SourcesError> {
        let option = |name: &str, variable: &str| {
            let given = arguments.get(name).map(OsStr::to_owned);
            given
                .or_else(|| std::env::var_os(variable))
                .unwrap_or_default()
        };
        let elements = option("--elements", "IMAGE_ELEMENT");
        let path = option("--path", "ELEMENTS_PATH");
        let elements: Vec<String> = elements
            .to_string_lossy()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        if elements.is_empty() {
            return Err(SourcesError::NoElements);
        }
        let path = std::env::split_paths(&path)
            .filter(|dir| !dir.as_os_str().is_empty())
            .collect();
        let found = match super::env_text("IMAGE_ELEMENT_YAML") {
            Some(text) => yaml::yaml(&text).map_err(|message| SourcesError::Paths { message })?,
            None => BTreeMap::new(),
        };
        let sources = Self {
            elements,
            path,
            found,
        };
        Ok(sources)
    }

    /// An element's file of that name as the build itself sees the element: from
    /// the one directory where it was found.
    pub fn read_chosen(
        &self,
        element: &str,
        name: &str,
    ) -> Result<Option<SourceFile>, SourcesError> {
        let Some(directory) = self.found.get(element) else {
            return Ok(self.read(element, name)?.into_iter().next());
        };
        read_file(directory.join(name))
    }

    /// An element's file of that name from **every** directory that has the
    /// element; from where the build found it, or from the embedded library,
    /// when none has.
    pub fn read(&self, element: &str, name: &str) -> Result<Vec<SourceFile>, SourcesError> {
        let mut found = Vec::new();
        let replaced = element::replaced::reason(element).is_some();
        let mut directories: Vec<PathBuf> = (self.path.iter())
            // What kiln's element stands in for has no say.
            .filter(|directory| {
                let real = std::fs::canonicalize(directory);
                !(replaced && real.is_ok_and(|real| element::replaced::is_upstream(&real)))
            })
            .map(|directory| directory.join(element))
            .filter(|directory| directory.is_dir())
            .collect();
        if directories.is_empty() {
            let found = self.found.get(element).filter(|path| path.is_dir());
            directories.extend(found.cloned());
        }
        for directory in &directories {
            found.extend(read_file(directory.join(name))?);
        }
        if directories.is_empty() {
            let library = element::Library::new(&[])?;
            if let Some(bytes) = library
                .get(element)
                .map(|element| element.read(name))
                .transpose()?
                .flatten()
            {
                let location = format!("`{name}` of the bundled element `{element}`");
                let text = String::from_utf8(bytes)
                    .map_err(|_| SourcesError::NotText { path: name.into() })?;
                found.push(SourceFile { location, text });
            }
        }
        Ok(found)
    }
}

/// A file of an element's directory; `None` where there is none.
fn read_file(path: PathBuf) -> Result<Option<SourceFile>, SourcesError> {
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SourcesError::Read { path, source }),
    };
    let location = format!("`{}`", path.display());
    let text = String::from_utf8(bytes).map_err(|_| SourcesError::NotText { path })?;
    Ok(Some(SourceFile { location, text }))
}

/// Why package lists cannot be merged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No output was named.
    #[error("no output file")]
    NoOutput,
    /// The elements cannot be found.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// The arguments make no sense.
    #[error(transparent)]
    Arguments(#[from] arguments::Error),
    /// A file is not a package list.
    #[error("{location} is not a package list: {message}")]
    Format {
        /// The file.
        location: String,
        /// The parser's words.
        message: String,
    },
    /// Both `arch` and `not-arch`.
    #[error("package `{package}` in {location} has both `arch` and `not-arch`")]
    BothArch {
        /// The package.
        package: String,
        /// The file.
        location: String,
    },
    /// A condition that is none.
    #[error("Malformed when line: <{line}>")]
    MalformedWhen {
        /// The condition.
        line: String,
    },
    /// A condition on a variable that is not set.
    #[error("The variable <{variable}> is not set")]
    UnsetVariable {
        /// The variable.
        variable: String,
        /// The package it is for.
        package: String,
        /// The file.
        location: String,
    },
    /// The output cannot be written.
    #[error("cannot write `{path}`")]
    Write {
        /// The output.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoOutput => {
                "package-installs-squash --elements NAMES --path ELEMENTS_PATH FILE".into()
            }
            Self::Sources(error) => return error.hint(),
            Self::Arguments(error) => return error.hint(),
            Self::Format { .. } => {
                "it maps a package to nothing, to a map of parameters, or to a list of such maps"
                    .into()
            }
            Self::BothArch { .. } => "keep one of the two; a list of maps can express both".into(),
            Self::MalformedWhen { .. } => "write `VARIABLE = value` or `VARIABLE != value`".into(),
            Self::UnsetVariable {
                variable,
                package,
                location,
            } => {
                format!(
                    "package `{package}` in {location} depends on it; export {variable} from an environment.d file"
                )
            }
            Self::Write { .. } => return None,
        })
    }

    fn code(&self) -> u8 {
        match self {
            Self::Arguments(error) => error.code(),
            Self::NoOutput | Self::Sources(SourcesError::NoElements) => 2,
            _ => 1,
        }
    }
}

/// The environment that filters look at.
pub type Environment = BTreeMap<String, String>;

/// Packages of one phase: each with the element that lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    /// To install.
    pub install: Vec<(String, String)>,
    /// To remove at the end of the phase.
    pub uninstall: Vec<(String, String)>,
}

/// The merged lists by phase.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    phases: BTreeMap<String, Lists>,
    /// Things that are probably not meant as they are written.
    pub warnings: Vec<String>,
}

/// Several parameter sets of one package.
#[derive(Debug, Clone, PartialEq)]
struct Entries(Vec<Ordered<Value>>);

impl<'de> serde::Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        fn entry<E: serde::de::Error>(value: Value) -> Result<Ordered<Value>, E> {
            match value {
                Value::Null => Ok(Ordered::default()),
                Value::String(text) if text.is_empty() => Ok(Ordered::default()),
                Value::Object(map) => Ok(Ordered(map.into_iter().collect())),
                other => Err(E::custom(format!(
                    "parameters must be a map, not `{other}`"
                ))),
            }
        }
        let value = Value::deserialize(deserializer).map_err(D::Error::custom)?;
        Ok(Self(match value {
            // No set of parameters is one without any.
            Value::Array(list) if list.is_empty() => vec![Ordered::default()],
            Value::Array(list) => list
                .into_iter()
                .map(entry::<D::Error>)
                .collect::<Result<_, _>>()?,
            other => vec![entry::<D::Error>(other)?],
        }))
    }
}

impl Entries {
    fn known(key: &str) -> bool {
        matches!(
            key,
            "phase"
                | "uninstall"
                | "build-only"
                | "installtype"
                | "arch"
                | "not-arch"
                | "dib_python_version"
                | "when"
        )
    }
}

impl Default for Entries {
    fn default() -> Self {
        Self(vec![Ordered::default()])
    }
}

impl Merged {
    /// Adds one file of an element.
    pub fn add(
        &mut self,
        element: &str,
        file: &SourceFile,
        environment: &Environment,
    ) -> Result<(), Error> {
        let packages: Ordered<Option<Entries>> =
            yaml::json_or_yaml(&file.text).map_err(|message| Error::Format {
                location: file.location.clone(),
                message,
            })?;
        for (package, entries) in packages.0 {
            for entry in entries.unwrap_or_default().0 {
                self.add_entry(element, &package, &entry, file, environment)?;
            }
        }
        Ok(())
    }

    fn add_entry(
        &mut self,
        element: &str,
        package: &str,
        entry: &Ordered<Value>,
        file: &SourceFile,
        environment: &Environment,
    ) -> Result<(), Error> {
        let get = |key: &str| {
            entry
                .0
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value)
        };
        let location = &file.location;
        for (key, value) in &entry.0 {
            if !Entries::known(key) {
                self.warnings.push(format!(
                    "{location}: `{package}` has the unknown key `{key}`, which is ignored"
                ));
            }
            if matches!(key.as_str(), "uninstall" | "build-only") && *value == Value::Bool(false) {
                self.warnings.push(format!(
                    "{location}: `{key}: false` of `{package}` counts as set, as in DIB; remove the line to unset it"
                ));
            }
            if matches!(key.as_str(), "arch" | "not-arch") && text(value).contains(' ') {
                self.warnings.push(format!(
                    "{location}: the blanks in `{key}: {}` of `{package}` are part of the names, as in DIB; write commas only",
                    text(value)
                ));
            }
        }
        let phase = get("phase").map_or_else(|| "install.d".to_owned(), text);
        let lists = self.phases.entry(phase).or_default();
        let has = |list: &[(String, String)]| list.iter().any(|(name, _)| name == package);
        let mut build_only = get("build-only").is_some();
        let mut remove = !build_only && get("uninstall").is_some();
        let mut install = !remove;

        // The bookkeeping comes before the filters: a plain entry cancels
        // removals even where it does not apply itself.
        if !remove && !build_only {
            lists.uninstall.retain(|(name, _)| name != package);
        } else if has(&lists.install) && !has(&lists.uninstall) {
            if remove {
                return Ok(());
            }
            build_only = false;
        }
        remove |= build_only;
        install |= build_only;

        if applies(element, package, &get, location, environment)? {
            let pair = (package.to_owned(), element.to_owned());
            if install {
                lists.install.push(pair.clone());
            }
            if remove {
                lists.uninstall.push(pair);
            }
        }
        Ok(())
    }

    /// `{phase: {"install": [[package, element], …], "uninstall": …}}`; lists
    /// that are empty are absent.
    pub fn to_json(&self) -> Value {
        let pairs = |list: &[(String, String)]| {
            Value::Array(
                list.iter()
                    .map(|(package, element)| serde_json::json!([package, element]))
                    .collect(),
            )
        };
        let mut phases = serde_json::Map::new();
        for (phase, lists) in &self.phases {
            let mut object = serde_json::Map::new();
            for (key, list) in [("install", &lists.install), ("uninstall", &lists.uninstall)] {
                if !list.is_empty() {
                    object.insert(key.to_owned(), pairs(list));
                }
            }
            if !object.is_empty() {
                phases.insert(phase.clone(), Value::Object(object));
            }
        }
        Value::Object(phases)
    }
}

/// A value as the text that Python's `str` makes of it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => other.to_string(),
    }
}

fn applies<'a>(
    element: &str,
    package: &str,
    get: &impl Fn(&str) -> Option<&'a Value>,
    location: &str,
    environment: &Environment,
) -> Result<bool, Error> {
    let variable = |name: &str| environment.get(name).map(String::as_str);
    // What is nothing says nothing.
    let get = |key: &str| get(key).filter(|value| !value.is_null());
    if let Some(wanted) = get("installtype") {
        let own = format!("DIB_INSTALLTYPE_{}", element.replace('-', "_"));
        let default = || variable("DIB_DEFAULT_INSTALLTYPE").unwrap_or("source");
        if text(wanted) != variable(&own).unwrap_or_else(default) {
            return Ok(false);
        }
    }
    let arch = variable("ARCH").unwrap_or_default();
    let lists_arch = |value: &Value| text(value).split(',').any(|name| name == arch);
    match (get("arch"), get("not-arch")) {
        (Some(_), Some(_)) => {
            return Err(Error::BothArch {
                package: package.to_owned(),
                location: location.to_owned(),
            });
        }
        (Some(list), None) if !lists_arch(list) => return Ok(false),
        (None, Some(list)) if lists_arch(list) => return Ok(false),
        _ => {}
    }
    if let Some(version) = get("dib_python_version")
        && !text(version).is_empty()
        && Some(text(version).as_str()) != variable("DIB_PYTHON_VERSION")
    {
        return Ok(false);
    }
    let lines = match get("when") {
        None => Vec::new(),
        Some(Value::Array(list)) => list.iter().map(text).collect(),
        Some(one) => vec![text(one)],
    };
    let mut holds = true;
    for line in lines {
        let Some(condition) = when::parse(&line) else {
            return Err(Error::MalformedWhen { line });
        };
        let Some(actual) = variable(&condition.variable) else {
            return Err(Error::UnsetVariable {
                variable: condition.variable,
                package: package.to_owned(),
                location: location.to_owned(),
            });
        };
        // The others have to make sense as well.
        holds &= condition.holds(actual);
    }
    Ok(holds)
}

/// Reads the lists of all elements: of each, JSON first and then YAML.
pub fn squash(sources: &Sources, environment: &Environment) -> Result<Merged, Error> {
    let mut merged = Merged::default();
    for element in &sources.elements {
        let json = sources.read(element, "package-installs.json")?;
        let yaml = sources.read(element, "package-installs.yaml")?;
        for file in json.into_iter().chain(yaml) {
            merged.add(element, &file, environment)?;
        }
    }
    Ok(merged)
}

const HELP: &str = "\
Merges the package-installs files of all elements into one, by phases.

Usage: package-installs-squash [--elements NAMES] [--path DIRECTORIES] FILE

  --elements NAMES    Elements, separated by blanks (default: $IMAGE_ELEMENT).
  --path DIRECTORIES  Where they are, separated by colons (default: $ELEMENTS_PATH).
  -h, --help          Prints this text.
";

/// `package-installs-squash --elements NAMES --path ELEMENTS_PATH FILE`
pub(super) fn main(name: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let arguments = arguments::parse(args, &Sources::OPTIONS, false)?;
    if arguments.asks_for_help() {
        super::print(HELP);
        return Ok(ExitCode::SUCCESS);
    }
    let sources = Sources::from_args(&arguments)?;
    let output = arguments
        .rest
        .first()
        .map(PathBuf::from)
        .ok_or(Error::NoOutput)?;
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let merged = squash(&sources, &environment)?;
    for warning in &merged.warnings {
        super::say(&format!("{}: warning: {warning}", name.display()));
    }
    let mut json = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let write = |source: io::Error| Error::Write {
        path: output.clone(),
        source,
    };
    merged
        .to_json()
        .serialize(&mut serde_json::Serializer::with_formatter(
            &mut json, formatter,
        ))
        .map_err(|error| write(error.into()))?;
    std::fs::write(&output, json).map_err(write)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
#[path = "tests/squash.rs"]
mod tests;
