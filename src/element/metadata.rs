//! What an element says about itself, and the README made from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Body, Element, Error};

/// The content of `element.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// What the element does, in one line without a full stop.
    pub summary: String,
    /// The shelf of the library it belongs to.
    pub category: String,
    /// More words, in Markdown.
    #[serde(default)]
    pub description: String,
    /// Environment variables it reads.
    #[serde(default)]
    pub variables: Vec<Variable>,
    /// Commands to try.
    #[serde(default)]
    pub examples: Vec<Example>,
}

/// An environment variable that an element reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value when unset; absent where there is none.
    #[serde(default, deserialize_with = "text")]
    pub default: Option<String>,
    /// What it does.
    #[serde(default)]
    pub description: String,
}

/// A command that uses an element.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// The command line.
    pub command: String,
    /// What comes of it.
    #[serde(default)]
    pub description: String,
}

/// A default as text, whether it was written as a number, a truth value or a string.
fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}

impl Element {
    /// Reads `element.yaml`; `None` when the element has none.
    pub fn metadata(&self) -> Result<Option<Metadata>, Error> {
        let Some(bytes) = self.read("element.yaml")? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|_| Error::NotText {
            element: self.name.clone(),
            path: "element.yaml".into(),
        })?;
        serde_saphyr::from_str(&text)
            .map(Some)
            .map_err(|error| Error::Metadata {
                element: self.name.clone(),
                message: error.to_string(),
            })
    }
}

/// The README of an element, in Markdown, from its metadata and its files.
pub fn readme(element: &Element) -> Result<String, Error> {
    let metadata = element.metadata()?.unwrap_or_default();
    let mut out = format!("# {}\n", element.name);
    let mut paragraph = |text: &str| {
        if !text.trim().is_empty() {
            out.push_str(&format!("\n{}\n", text.trim()));
        }
    };
    if !metadata.summary.is_empty() {
        paragraph(&format!("{}.", metadata.summary.trim_end_matches('.')));
    }
    paragraph(&metadata.description);
    if !metadata.variables.is_empty() {
        let mut table =
            String::from("## Variables\n\n| Variable | Default | Meaning |\n|---|---|---|\n");
        for variable in &metadata.variables {
            let default = match variable.default.as_deref() {
                None | Some("") => "none".to_owned(),
                Some(default) => format!("`{}`", cell(default)),
            };
            table.push_str(&format!(
                "| `{}` | {default} | {} |\n",
                variable.name,
                cell(&variable.description)
            ));
        }
        paragraph(&table);
    }
    if !metadata.examples.is_empty() {
        let mut text = String::from("## Examples\n");
        for example in &metadata.examples {
            if !example.description.is_empty() {
                text.push_str(&format!(
                    "\n{}:\n",
                    example.description.trim().trim_end_matches(['.', ':'])
                ));
            }
            text.push_str(&format!("\n```sh\n{}\n```\n", example.command.trim()));
        }
        paragraph(&text);
    }
    for (title, names) in [
        ("Needs", element.dependencies()?),
        ("Provides", element.provides()?),
    ] {
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            paragraph(&format!("## {title}\n\n{}", names.join(", ")));
        }
    }
    let hooks: Vec<String> = element
        .files()?
        .iter()
        .filter(|file| !matches!(file.body, Body::Directory))
        .filter_map(|file| {
            let directory = file.path.parent()?.to_str()?;
            let is_phase = directory.ends_with(".d") && !directory.contains('/');
            is_phase.then(|| format!("- `{}`", file.path.display()))
        })
        .collect();
    if !hooks.is_empty() {
        paragraph(&format!("## Hooks\n\n{}", hooks.join("\n")));
    }
    Ok(out)
}

/// The index of a library in Markdown: a table for each shelf. `page` gives the
/// address of an element's own page.
pub fn catalogue<'a>(
    elements: impl Iterator<Item = &'a Element>,
    page: impl Fn(&Element) -> String,
) -> Result<String, Error> {
    let mut shelves: BTreeMap<String, String> = BTreeMap::new();
    for element in elements {
        let metadata = element.metadata()?.unwrap_or_default();
        let row = format!(
            "| [{}]({}) | {} |\n",
            element.name,
            page(element),
            cell(&metadata.summary)
        );
        shelves.entry(metadata.category).or_default().push_str(&row);
    }
    Ok(shelves
        .into_iter()
        .map(|(shelf, rows)| {
            format!("\n## {shelf}\n\n| element | what it does |\n|---|---|\n{rows}")
        })
        .collect())
}

/// Text that stays in its cell of a table.
fn cell(text: &str) -> String {
    text.trim()
        .replace('|', "\\|")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::Library;
    use std::fs;

    fn element(yaml: &str) -> (tempfile::TempDir, Element) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("demo/install.d")).unwrap();
        fs::write(dir.path().join("demo/install.d/10-demo"), "").unwrap();
        fs::write(dir.path().join("demo/element-deps"), "pkg-map\n").unwrap();
        fs::write(dir.path().join("demo/element.yaml"), yaml).unwrap();
        let library = Library::with_directories(&[dir.path().to_owned()]).unwrap();
        (dir, library.get("demo").unwrap().clone())
    }

    #[test]
    fn the_readme_shows_all_that_is_known() {
        let (_dir, element) = element(
            "summary: Shows things\ncategory: dev\ndescription: |\n  More words.\nvariables:\n- name: DIB_DEMO\n  default: 5\n  description: How | many\n- name: DIB_NONE\nexamples:\n- command: kiln build demo\n  description: Try it\n",
        );
        assert_eq!(
            readme(&element).unwrap(),
            "# demo\n\nShows things.\n\nMore words.\n\n## Variables\n\n| Variable | Default | Meaning |\n|---|---|---|\n| `DIB_DEMO` | `5` | How \\| many |\n| `DIB_NONE` | none |  |\n\n## Examples\n\nTry it:\n\n```sh\nkiln build demo\n```\n\n## Needs\n\n`pkg-map`\n\n## Hooks\n\n- `install.d/10-demo`\n"
        );
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_element() {
        let (_dir, element) = element("summary: x\ncategory: y\nvariabels: []\n");
        let error = element.metadata().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("`element.yaml` of element `demo` is not valid: "),
            "{error}"
        );
        assert!(error.to_string().contains("variabels"), "{error}");
    }
}
