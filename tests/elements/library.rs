//! The library as it lies in the source tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The directories of hooks that run, in the order of the phases.
pub const PHASES: [&str; 10] = [
    "root.d",
    "extra-data.d",
    "pre-install.d",
    "install.d",
    "post-install.d",
    "post-root.d",
    "block-device.d",
    "pre-finalise.d",
    "finalise.d",
    "cleanup.d",
];

/// One bundled element.
#[derive(Debug, Clone)]
pub struct Element {
    pub name: String,
    pub group: String,
    pub path: PathBuf,
}

/// What `element.yaml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    pub summary: String,
    pub category: String,
    pub description: String,
    pub variables: Vec<Variable>,
    pub examples: Vec<Example>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    pub name: String,
    pub default: String,
    pub description: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    pub command: String,
    pub description: String,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("elements")
}

/// The entries of a directory by name; empty where there is none.
pub fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = match fs::read_dir(directory) {
        Ok(list) => list.map(|entry| entry.unwrap().path()).collect(),
        Err(_) => Vec::new(),
    };
    entries.sort();
    entries
}

/// The last component of a path.
pub fn base_name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// All elements, sorted by name.
pub fn elements() -> Vec<Element> {
    let mut elements = Vec::new();
    for group in entries(&directory()) {
        for path in entries(&group) {
            elements.push(Element {
                name: base_name(&path),
                group: base_name(&group),
                path,
            });
        }
    }
    elements.sort_by(|a, b| a.name.cmp(&b.name));
    elements
}

/// The element of this name.
pub fn element(name: &str) -> Element {
    elements()
        .into_iter()
        .find(|element| element.name == name)
        .unwrap_or_else(|| panic!("no element {name}"))
}

impl Element {
    pub fn read(&self, file: &str) -> String {
        let path = self.path.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn metadata(&self) -> Metadata {
        serde_saphyr::from_str(&self.read("element.yaml"))
            .unwrap_or_else(|error| panic!("{}: element.yaml: {error}", self.name))
    }

    /// The names in `element-deps` or `element-provides`; none without the file.
    pub fn names_in(&self, file: &str) -> Vec<String> {
        match fs::read_to_string(self.path.join(file)) {
            Ok(text) => text.split_whitespace().map(str::to_owned).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// The hooks of a phase by name.
    pub fn hooks(&self, phase: &str) -> Vec<PathBuf> {
        entries(&self.path.join(phase))
    }

    /// Every regular file of the element.
    pub fn scripts(&self) -> Vec<PathBuf> {
        let mut files = self.files();
        files.retain(|file| !file.is_symlink());
        files
    }

    /// Same, with links.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut pending = vec![self.path.clone()];
        while let Some(directory) = pending.pop() {
            for path in entries(&directory) {
                if path.is_dir() {
                    pending.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files.sort();
        files
    }
}

/// Whether the owner may execute the file.
pub fn is_executable(path: &Path) -> bool {
    fs::metadata(path).unwrap().permissions().mode() & 0o100 != 0
}

/// The elements that naming these brings in, themselves included, by name.
/// `provided` are virtual names that some element of the set provides.
pub fn closure(names: &[&str], provided: &[&str]) -> BTreeSet<String> {
    let all: BTreeMap<String, Element> = elements()
        .into_iter()
        .map(|element| (element.name.clone(), element))
        .collect();
    let mut set = BTreeSet::new();
    let mut pending: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    while let Some(name) = pending.pop() {
        if provided.contains(&name.as_str()) || !set.insert(name.clone()) {
            continue;
        }
        let element = all
            .get(&name)
            .unwrap_or_else(|| panic!("no element {name}"));
        pending.extend(element.names_in("element-deps"));
    }
    set
}

/// The names of a phase's hooks over all these elements, in the order they run.
pub fn hook_order(names: &BTreeSet<String>, phase: &str) -> Vec<String> {
    let mut hooks: Vec<String> = names
        .iter()
        .flat_map(|name| element(name).hooks(phase))
        .filter(|path| path.is_file())
        .map(|path| base_name(&path))
        .collect();
    hooks.sort_by_key(|name| {
        let digits: String = name.chars().take_while(char::is_ascii_digit).collect();
        (digits.parse::<u64>().unwrap_or(0), name.clone())
    });
    hooks
}
