//! `kiln elements`: the elements that images are built from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use serde_json::json;

use super::Context;
use super::caller::{Caller, arch};
use super::failure::Failure;
use super::printer::{Tone, printable, printable_lines, table};
use crate::element::metadata::{self, Metadata, readme};
use crate::element::{self, Element, ElementSet, Error, Library, Reason};

/// Arguments of `kiln elements`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Search this directory for elements before those of ELEMENTS_PATH; may be repeated
    #[arg(
        short = 'E',
        long,
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        global = true
    )]
    elements_path: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all elements
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what an element does, its variables and its hooks
    Show {
        /// The element
        #[arg(value_name = "ELEMENT")]
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the elements in whose name, summary or variables all words occur
    Search {
        /// What to look for, in any case
        #[arg(value_name = "WORD", required = true)]
        words: Vec<String>,
    },
    /// Print how elements depend on each other, in the language of Graphviz
    #[command(after_help = "Example: kiln elements graph vm debian-minimal | dot -Tsvg >graph.svg")]
    Graph {
        /// Elements to expand; default: the whole library
        #[arg(value_name = "ELEMENT")]
        names: Vec<String>,
    },
    /// Print the README of an element as it is kept beside its `element.yaml`
    #[command(hide = true)]
    Readme {
        /// The element
        #[arg(value_name = "ELEMENT")]
        name: String,
    },
    /// Print the index of the bundled elements, `docs/elements.md`
    #[command(hide = true)]
    Catalogue,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::from_error(&error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// The elements of `first`, then of `ELEMENTS_PATH`, then the bundled ones.
pub fn library(caller: &Caller, first: &[PathBuf]) -> Result<Library, Failure> {
    let mut path: Vec<PathBuf> = first
        .iter()
        .map(|directory| caller.current_dir.join(directory))
        .collect();
    path.extend(caller.elements_path()?);
    Ok(Library::new(&path)?)
}

/// Runs `kiln elements`.
pub fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let library = library(&context.caller, &arguments.elements_path)?;
    match arguments.command {
        Command::List { json: true } => {
            let all = library
                .iter()
                .map(as_json)
                .collect::<Result<Vec<_>, Failure>>()?;
            context.printer.json(&all)?;
        }
        Command::List { json: false } => list(library.iter(), context)?,
        Command::Show { name, json } => show(find(&library, &name)?, json, context)?,
        Command::Search { words } => return search(&library, &words, context),
        Command::Graph { names } => graph(&library, &names, context)?,
        Command::Readme { name } => {
            let text = readme(find(&library, &name)?)?;
            context
                .printer
                .data(generated(&printable_lines(&text), "element.yaml"));
        }
        Command::Catalogue => catalogue(context)?,
    }
    Ok(0)
}

fn find<'a>(library: &'a Library, name: &str) -> Result<&'a Element, Failure> {
    library.get(name).ok_or_else(|| {
        Error::Missing {
            name: name.to_owned(),
            chain: Vec::new(),
            similar: library.similar(name),
        }
        .into()
    })
}

/// Names with summaries, under a heading for each category.
fn list<'a>(
    elements: impl Iterator<Item = &'a Element>,
    context: &mut Context,
) -> Result<(), Failure> {
    let mut shelves: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for element in elements {
        let metadata = element.metadata()?;
        let (category, summary) = match metadata {
            Some(metadata) => (metadata.category, metadata.summary),
            None => ("other".to_owned(), element.location()),
        };
        let row = vec![format!("  {}", element.name), summary];
        shelves.entry(category).or_default().push(row);
    }
    let colour = context.printer.out_colour;
    for (category, rows) in shelves {
        context
            .printer
            .line(colour.paint(Tone::Strong, printable(&category)));
        context.printer.data(table(&rows));
    }
    Ok(())
}

fn show(element: &Element, json: bool, context: &mut Context) -> Result<(), Failure> {
    if json {
        context.printer.json(&as_json(element)?)?;
    } else {
        context.printer.data(printable_lines(&readme(element)?));
        let location = printable(&element.location());
        context
            .printer
            .line(format_args!("\nFound in `{location}`."));
    }
    Ok(())
}

/// Marks a page as generated, below its title.
fn generated(text: &str, from: &str) -> String {
    let (title, rest) = text.split_once('\n').unwrap_or((text, ""));
    format!(
        "{title}\n\n<!-- Generated from {from}; `KILN_UPDATE=1 cargo test --test elements` writes it anew. -->\n{rest}"
    )
}

/// The bundled elements alone: the page belongs to the source tree.
fn catalogue(context: &mut Context) -> Result<(), Failure> {
    let library = Library::new(&[])?;
    let tables = metadata::catalogue(library.iter(), |element| {
        let location = element.location();
        let path = location.strip_prefix("embedded:").unwrap_or(&location);
        format!("../elements/{path}/README.md")
    })?;
    let replaced: String = crate::element::replaced::REPLACED
        .iter()
        .map(|(name, reason)| format!("| `{name}` | {reason} |\n"))
        .collect();
    let text = format!(
        "# Elements\n\nThe elements in the binary. `kiln elements show NAME` prints the same pages, and finds those of \
         `ELEMENTS_PATH` too.\n{tables}\n## In place of diskimage-builder's\n\nWhere `ELEMENTS_PATH` names the library of \
         diskimage-builder itself, its elements are used as they are, but for these: kiln's own take their places, and \
         the build says so. A copy elsewhere, under any of these names, is yours and is used.\n\n\
         | element | because |\n|---|---|\n{replaced}"
    );
    context.printer.data(generated(&text, "each element.yaml"));
    Ok(())
}

fn search(library: &Library, words: &[String], context: &mut Context) -> Result<u8, Failure> {
    let words: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let mut found = Vec::new();
    for element in library.iter() {
        let text = searched_text(element, element.metadata()?);
        if words.iter().all(|word| text.contains(word)) {
            found.push(element);
        }
    }
    if found.is_empty() {
        return Err(
            Failure::new(format!("no element has `{}`", words.join(" ")))
                .hint("`kiln elements list` shows all elements"),
        );
    }
    list(found.into_iter(), context)?;
    Ok(0)
}

fn searched_text(element: &Element, metadata: Option<Metadata>) -> String {
    let mut text = element.name.clone();
    if let Some(metadata) = metadata {
        for part in [&metadata.summary, &metadata.category, &metadata.description] {
            text.push('\n');
            text.push_str(part);
        }
        for variable in &metadata.variables {
            text.push('\n');
            text.push_str(&variable.name);
        }
    }
    text.to_lowercase()
}

fn as_json(element: &Element) -> Result<serde_json::Value, Failure> {
    let metadata = element.metadata()?;
    let variables: Vec<_> = metadata
        .iter()
        .flat_map(|metadata| &metadata.variables)
        .map(|variable| {
            json!({
                "name": variable.name,
                "default": variable.default,
                "description": variable.description,
            })
        })
        .collect();
    Ok(json!({
        "name": element.name,
        "location": element.location(),
        "summary": metadata.as_ref().map(|metadata| &metadata.summary),
        "category": metadata.as_ref().map(|metadata| &metadata.category),
        "dependencies": element.dependencies()?,
        "provides": element.provides()?,
        "variables": variables,
    }))
}

/// One arrow for each `element-deps` line; virtual names are dashed.
fn graph(library: &Library, names: &[String], context: &mut Context) -> Result<(), Failure> {
    let set: Option<ElementSet> = if names.is_empty() {
        None
    } else {
        let options = element::Options {
            skip_base: false,
            arch: arch(&context.caller)?,
            ramdisk: None,
        };
        Some(element::resolve(library, names, &options)?)
    };
    let elements: Vec<&Element> = match &set {
        Some(set) => set.elements().collect(),
        None => library.iter().collect(),
    };
    let mut text = String::from("digraph elements {\n");
    for element in &elements {
        let requested = set.as_ref().is_some_and(|set| {
            set.selected().iter().any(|selected| {
                selected.element.name == element.name && selected.reason == Reason::Requested
            })
        });
        let style = if requested { " [style=bold]" } else { "" };
        text.push_str(&format!("    {}{style};\n", dot(&element.name)));
        for dependency in element.dependencies()? {
            text.push_str(&format!(
                "    {} -> {};\n",
                dot(&element.name),
                dot(&dependency)
            ));
        }
        for thing in element.provides()? {
            text.push_str(&format!(
                "    {} -> {} [style=dashed, label=provides];\n",
                dot(&element.name),
                dot(&thing)
            ));
        }
    }
    text.push_str("}\n");
    context.printer.data(text);
    Ok(())
}

/// A quoted identifier of the DOT language.
fn dot(name: &str) -> String {
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", printable(&name))
}
