//! The face `dib-lint`: checks elements against the rules of style.

use std::path::{Path, PathBuf};

use super::Context;
use super::failure::{Failure, misused};
use crate::element::lint::{self, Finding, RULES};

/// Directory that is checked when nothing is said.
const ELEMENTS: &str = "diskimage_builder/elements";

fn help() -> String {
    let mut text = String::from(
        "Checks elements against rules of style.\n\
         \n\
         Usage: dib-lint [DIR...]\n\
         \n\
         Each DIR holds elements (default: $ELEMENTS_DIR, else diskimage_builder/elements, else\n\
         elements). A file switches rules off with a comment `# dib-lint: disable=RULE RULE`.\n\
         \n  -h, --help     Prints this text.\n      --version  Prints the version.\n\nRules:\n",
    );
    for (name, what) in RULES {
        text.push_str(&format!("  {name:<14} {what}\n"));
    }
    text
}

/// Runs `dib-lint`.
pub fn run(_: &str, arguments: &[String], context: &mut Context) -> Result<u8, Failure> {
    let mut directories = Vec::new();
    for argument in arguments {
        match argument.as_str() {
            "-h" | "--help" => {
                context.printer.data(help());
                return Ok(0);
            }
            "--version" => {
                context.printer.line(env!("CARGO_PKG_VERSION"));
                return Ok(0);
            }
            option if option.len() > 1 && option.starts_with('-') => {
                return Err(misused(format!("unknown option `{option}`"))
                    .hint("`dib-lint --help` lists the options"));
            }
            directory => directories.push(PathBuf::from(directory)),
        }
    }
    let here = context.caller.current_dir.clone();
    if directories.is_empty() {
        directories = match context.caller.var("ELEMENTS_DIR") {
            Some(named) => vec![PathBuf::from(named)],
            None if here.join(ELEMENTS).is_dir() => vec![PathBuf::from(ELEMENTS)],
            None => vec![PathBuf::from("elements")],
        };
    }
    let mut findings = Vec::new();
    for directory in &directories {
        check_library(&here.join(directory), directory, &mut findings)?;
    }
    for finding in &findings {
        let place = match finding.line {
            Some(line) => format!("{}:{line}", finding.path),
            None => finding.path.clone(),
        };
        context.printer.line(format_args!(
            "ERROR: {place}: {} ({})",
            finding.message, finding.rule
        ));
    }
    if findings.is_empty() {
        context.printer.line("PASS");
        return Ok(0);
    }
    context
        .printer
        .line(format_args!("*** FAIL: {} findings", findings.len()));
    Ok(1)
}

fn check_library(root: &Path, shown: &Path, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let names = names(root).map_err(|failure| {
        failure.hint("name the directory that holds the elements, or set `ELEMENTS_DIR`")
    })?;
    for name in names {
        let path = root.join(&name);
        if !path.is_dir() || name.starts_with('.') || name == "__pycache__" {
            continue;
        }
        let inside = self::names(&path)?;
        let element = shown.join(&name).display().to_string();
        findings.extend(lint::check_names(
            &element,
            inside.iter().map(String::as_str),
        ));
        check_directory(&path, &element, findings)?;
    }
    Ok(())
}

fn check_directory(path: &Path, shown: &str, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    for name in names(path)? {
        let file = path.join(&name);
        let shown = format!("{shown}/{name}");
        let meta = fs_err::symlink_metadata(&file)?;
        if meta.is_dir() {
            if name != "__pycache__" && name != "tests" {
                check_directory(&file, &shown, findings)?;
            }
        } else if meta.is_file() && !shown.ends_with(".md") && !shown.ends_with(".rst") {
            let bytes = fs_err::read(&file)?;
            let executable = meta.permissions().mode() & 0o111 != 0;
            findings.extend(lint::check(&shown, &bytes, executable));
        }
    }
    Ok(())
}

/// Names in a directory, sorted.
fn names(path: &Path) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
