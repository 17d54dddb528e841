//! The face `element-info`: what elements expand to.

use std::path::PathBuf;

use super::Context;
use super::elements::library;
use super::failure::{Failure, misused};
use super::given::arch;
use crate::element::{self, Element, Origin, info};

const USAGE: &str = "Usage: element-info [--env] ELEMENT...

Expands elements by their dependencies and prints the names on one line.

  -e, --env   Prints shell code that sets IMAGE_ELEMENT, IMAGE_ELEMENT_YAML and
              get_image_element_array instead, for `eval` in bash.
  -h, --help  Prints this text.
";

/// Runs `element-info`.
pub fn run(_: &str, arguments: &[String], context: &mut Context) -> Result<u8, Failure> {
    let mut env = false;
    let mut names = Vec::new();
    let mut options = true;
    for argument in arguments {
        match argument.as_str() {
            "-h" | "--help" if options => {
                context.printer.data(USAGE);
                return Ok(0);
            }
            "-e" | "--env" if options => env = true,
            "--" if options => options = false,
            option if options && option.len() > 1 && option.starts_with('-') => {
                return Err(misused(format!("unknown option `{option}`"))
                    .hint("`element-info --help` lists the options"));
            }
            name => names.push(name.to_owned()),
        }
    }
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
