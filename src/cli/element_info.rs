//! The face `element-info`: what elements expand to.

use std::path::PathBuf;

use super::caller::arch;
use super::elements::library;
use super::failure::{Failure, misused};
use super::{Context, argparse};
use crate::element::{self, Element, Origin, info};
use crate::helpers::arguments::{Known, flag};

const USAGE: &str = "Usage: element-info [--env] ELEMENT...

Expands elements by their dependencies and prints the names on one line.

  -e, --env   Prints shell code that sets IMAGE_ELEMENT, IMAGE_ELEMENT_YAML and
              get_image_element_array instead, for `eval` in bash.
  -h, --help  Prints this text.
";

const OPTIONS: [Known; 1] = [flag("--env", Some("-e"))];

/// Runs `element-info`.
pub fn run(_: &str, arguments: &[String], context: &mut Context) -> Result<u8, Failure> {
    let given = argparse::parse("element-info", arguments, &OPTIONS)?;
    if given.asks_for_help() {
        context.printer.data(USAGE);
        return Ok(0);
    }
    let env = given.has("--env");
    let names = argparse::operands(&given);
    if names.is_empty() {
        return Err(misused("no elements are given").hint("usage: element-info [--env] ELEMENT..."));
    }
    let library = library(&context.caller, &[])?;
    let options = element::Options {
        // As in DIB, this is the expansion alone; builds add `base` themselves.
        skip_base: true,
        arch: arch(&context.caller)?,
        ramdisk: None,
    };
    let set = element::resolve(&library, &names, &options)?;
    if env {
        let paths = info::paths(&set, embedded_path);
        context.printer.data(info::env_script(&set, &paths));
    } else {
        context.printer.line(info::image_element(&set));
    }
    Ok(0)
}

/// Bundled elements are files only during a build; until then they have a name.
fn embedded_path(element: &Element) -> PathBuf {
    match &element.origin {
        Origin::Directory(path) => path.clone(),
        Origin::Embedded(path) => PathBuf::from(format!("/embedded/{path}")),
    }
}
