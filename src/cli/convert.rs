//! `kiln convert`: writes a disk image in another format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, ValueHint};
use sha2::{Digest as _, Sha256};
use uuid::{Uuid, uuid};

use super::Context;
use super::failure::{Failure, misused};
use super::naming::Naming;
use super::written;
use crate::inspect;
use crate::sink::{self, ReadAt};
use crate::tree::TreeBuilder;

/// What ids in converted images derive from, together with the disk's start.
const NAMESPACE: Uuid = uuid!("5b8e7a52-2f0c-4c8e-9d0f-6b1f3d3f7c11");
/// How much of a disk tells it from others: partition tables and the ids of the
/// first filesystem are in there.
const TELLING: u64 = 4 << 20;

/// Arguments of `kiln convert`.
#[derive(Debug, Args)]
#[command(after_help = "Example: kiln convert -o subformat=fixed debian.qcow2 debian.vhd")]
pub struct Arguments {
    /// Image to read: raw, qcow2, vmdk, vhd, vhdx or vdi
    #[arg(value_name = "SOURCE", value_hint = ValueHint::FilePath)]
    source: PathBuf,

    /// Image to write
    #[arg(value_name = "TARGET", value_hint = ValueHint::FilePath)]
    target: PathBuf,

    /// Format to read
    ///
    /// Default: what the content of SOURCE shows. Name it where the image comes
    /// from a machine that you do not trust: a guest can write anything into a
    /// raw disk, the start of another format too.
    #[arg(short = 'f', long, value_name = "FORMAT", value_parser = format_names())]
    source_format: Option<String>,

    /// Format to write
    ///
    /// Default: the suffix of TARGET.
    #[arg(short = 'O', long, value_name = "FORMAT", value_parser = format_names())]
    target_format: Option<String>,

    /// Options of the format, as `qemu-img convert -o` takes them
    ///
    /// Several are separated by commas, or the option is repeated.
    #[arg(short, long, value_name = "KEY=VALUE")]
    options: Vec<String>,

    /// Compress qcow2 and vmdk; this is the default
    #[arg(short, long, conflicts_with = "uncompressed")]
    compressed: bool,

    /// Leave qcow2 and vmdk uncompressed: faster, and much larger
    #[arg(short, long)]
    uncompressed: bool,

    #[command(flatten)]
    naming: Naming,

    /// Threads to use; 0 is one for each processor
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true
    )]
    jobs: usize,
}

/// The names of formats, and QEMU's name of one.
fn format_names() -> PossibleValuesParser {
    let names = sink::DISK_FORMATS.map(|name| match name {
        "vhd" => PossibleValue::new(name).alias("vpc"),
        _ => PossibleValue::new(name),
    });
    PossibleValuesParser::new(names)
}

/// Runs `kiln convert`.
pub fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    // Images are read and written in more than one place at once.
    for (path, what) in [
        (&arguments.source, "read from standard input"),
        (&arguments.target, "written to standard output"),
    ] {
        if path.as_os_str() == "-" {
            return Err(misused(format!("an image cannot be {what}"))
                .hint("name a file; one that is called `-` is `./-`"));
        }
    }
    let format = target_format(&arguments)?;
    let source = context.caller.current_dir.join(&arguments.source);
    let known = arguments
        .source_format
        .as_deref()
        .and_then(inspect::Format::from_name);
    let image = inspect::open(&source, known)
        .map_err(|error| error.of(&arguments.source))
        .map_err(|error| Failure::from_error(&error).hint_if(error.hint()))?;
    let spec = sink::Spec {
        format,
        disk: 0,
        path: context.caller.current_dir.join(&arguments.target),
        checksums: arguments.naming.checksums(),
        existing: arguments.naming.existing(),
        durable: arguments.naming.fsync,
        seed: seed(&image, &source)?,
    };
    let tree = TreeBuilder::new()
        .build()
        .map_err(|error| Failure::from_error(&error))?;
    let result = written::with_bar(|progress| {
        let tree = Arc::new(tree);
        sink::write_all(&[&image], &tree, &[spec], arguments.jobs, progress)
    });
    let written = result.map_err(|error| Failure::from_error(&error).hint_if(error.hint()))?;
    let shown = arguments.target.as_path();
    written::report(written.iter().map(|one| (shown, one)), context);
    Ok(0)
}

/// The format that is asked for, with its options.
fn target_format(arguments: &Arguments) -> Result<sink::Format, Failure> {
    let suffix = || arguments.target.extension()?.to_str();
    let name = match (&arguments.target_format, suffix()) {
        (Some(name), _) => name.clone(),
        (None, Some("img")) => "raw".to_owned(),
        (None, Some(suffix)) if sink::DISK_FORMATS.contains(&suffix) => suffix.to_owned(),
        _ => {
            return Err(misused(format!(
                "the name `{}` does not say which format to write",
                arguments.target.display()
            ))
            .hint(format!(
                "name one with `-O`: {}",
                sink::DISK_FORMATS.join(", ")
            )));
        }
    };
    let options = arguments
        .options
        .iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| match part.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
            None => Err(misused(format!("option `{part}` has no value"))
                .hint("options have the form `key=value`")),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let formats = sink::formats(sink::Request {
        names: std::slice::from_ref(&name),
        compress: !arguments.uncompressed,
        options: &options,
    });
    let formats = formats.map_err(|error| misused(error.to_string()).hint_if(error.hint()))?;
    formats
        .first()
        .copied()
        .ok_or_else(|| misused("no format to write is named"))
}

/// What ids in the target derive from: the same disk gives the same ones,
/// whatever format it comes from.
fn seed(image: &dyn ReadAt, path: &Path) -> Result<Uuid, Failure> {
    let length = image.length().min(TELLING);
    let mut start = vec![0; usize::try_from(length).unwrap_or(0)];
    image.reader().read_at(0, &mut start).map_err(|error| {
        Failure::new(format!("cannot read image `{}`: {error}", path.display()))
    })?;
    // Some formats round the disk's length up.
    let end = start.iter().rposition(|&byte| byte != 0);
    let mut hash = Sha256::new();
    hash.update(&start[..end.map_or(0, |last| last + 1)]);
    Ok(Uuid::new_v5(&NAMESPACE, &hash.finalize()))
}
