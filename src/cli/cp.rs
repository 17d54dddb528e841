//! `kiln cp`: copies files out of an image.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};

use super::Context;
use super::failure::{Failure, misused};
use super::printer::printable;
use super::{part, units};
use crate::inspect::{Named, Target, extract};

/// Arguments of `kiln cp`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: kiln cp debian.qcow2 /boot/vmlinuz /boot/initrd.img .\n\n\
    Owners, set-id bits and devices are left behind, and of modes what the umask\n\
    forbids; directories that are there already keep theirs. Symbolic links in the\n\
    image are copied as links, but for those that are named."
)]
pub struct Arguments {
    /// Image, and the partition by its number, name or label, or a logical volume (`GROUP/NAME`)
    ///
    /// Default: the partition with the system's root.
    #[arg(value_name = "IMAGE[:PARTITION]", value_hint = ValueHint::FilePath)]
    image: String,

    /// Files in the image, then where they go: a directory, or a new name for one file
    #[arg(value_name = "PATH", required = true, num_args = 2.., value_hint = ValueHint::AnyPath)]
    paths: Vec<String>,

    /// Copy directories with what is in them
    #[arg(short, long)]
    recursive: bool,
}

/// Runs `kiln cp`.
pub fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let Some((target, paths)) = arguments.paths.split_last() else {
        return Err(misused("no target is named"));
    };
    let opened = part::open(&arguments.image, context)?;
    let contents = opened.contents()?;
    let files = opened.files(&contents, context)?;
    let current_dir = context.caller.current_dir.clone();
    let into = current_dir.join(target).is_dir();
    if !into && paths.len() > 1 {
        return Err(misused(format!("`{target}` is not a directory"))
            .hint("several files can only be copied into a directory that is there"));
    }
    let mut copied = 0;
    let mut bytes = 0;
    for path in paths {
        let file = files
            .lookup(path.as_bytes(), true)
            .map_err(|error| opened.failure(&error, error.hint()))?;
        let name = Path::new(path).file_name();
        let to = match name {
            Some(name) if into => Path::new(target).join(name),
            _ => PathBuf::from(target),
        };
        let to = Target {
            current_dir: &current_dir,
            path: &to,
            // The root has no name: what is in it goes into the directory.
            fill: into && name.is_none(),
        };
        let from = Named {
            file,
            path: Path::new(path),
        };
        let done = extract(&files, from, to, arguments.recursive)
            .map_err(|error| opened.failure(&error, error.hint()))?;
        for (path, kind) in done.skipped {
            context.printer.note(format_args!(
                "left out `{}`: it is {}",
                printable(&path.display().to_string()),
                kind.phrase()
            ));
        }
        copied += done.files;
        bytes += done.bytes;
    }
    context.printer.note(format_args!(
        "copied {copied} {}, {}",
        if copied == 1 { "file" } else { "files" },
        units::bytes(bytes)
    ));
    Ok(0)
}
