//! `kiln cat`: prints files of an image.

use clap::{Args, ValueHint};

use super::Context;
use super::failure::Failure;
use super::part;
use crate::inspect::fs::Error;

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Arguments of `kiln cat`.
#[derive(Debug, Args)]
#[command(after_help = "Example: kiln cat debian.qcow2 /etc/os-release")]
pub struct Arguments {
    /// Image, and the partition by its number, name or label, or a logical volume (`GROUP/NAME`)
    ///
    /// Default: the partition with the system's root.
    #[arg(value_name = "IMAGE[:PARTITION]", value_hint = ValueHint::FilePath)]
    image: String,

    /// Files in the image
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
}

/// Runs `kiln cat`.
pub fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let opened = part::open(&arguments.image, context)?;
    let contents = opened.contents()?;
    let files = opened.files(&contents, context)?;
    let mut buffer = vec![0; CHUNK];
    for path in &arguments.paths {
        let failure = |error: Error| opened.failure(&named(error, path), None);
        let file = files
            .lookup(path.as_bytes(), true)
            .map_err(|error| opened.failure(&error, error.hint()))?;
        let file = files.file(file).map_err(failure)?;
        let mut at = 0;
        while at < file.size {
            let read = files.read_at(&file, at, &mut buffer).map_err(failure)?;
            if read == 0 || !context.printer.bytes(&buffer[..read]) {
                break;
            }
            at += read as u64;
        }
    }
    Ok(0)
}

/// The error with the path that the user knows.
fn named(error: Error, path: &str) -> Error {
    match error {
        Error::NotAFile { what, .. } => Error::NotAFile {
            path: path.to_owned(),
            what,
        },
        other => other,
    }
}
