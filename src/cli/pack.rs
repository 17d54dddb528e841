//! `kiln pack`: makes an image of a directory or a tar archive.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::Context;
use super::failure::{Failure, misused};
use super::naming::Naming;
use super::printer::printable;
use super::values::{self, TYPES};
use super::written;
use crate::disk::config;
use crate::pack::{self, LAYOUTS, Layout, Rules};
use crate::sink;
use crate::tree::Labelling;

/// Arguments of `kiln pack`.
#[derive(Debug, Args)]
#[command(after_help = "Example: kiln pack rootfs.tar.gz -t qcow2,raw --layout mbr -o debian")]
pub struct Arguments {
    /// Directory, or tar archive (plain, gzip, xz or zstd; `-` is standard input), to
    /// make an image of
    #[arg(value_name = "TREE", value_hint = ValueHint::AnyPath)]
    source: PathBuf,

    /// Name of the output; may contain a path, and each format adds its suffix
    #[arg(short, long, value_name = "NAME", value_hint = ValueHint::FilePath, default_value = "image", help_heading = "Output")]
    output: PathBuf,

    /// Formats to write: qcow2, raw, vmdk, vhd, vhdx, vdi, tar, tgz
    ///
    /// Several are separated by commas, or the option is repeated. Default: qcow2.
    #[arg(short = 't', long = "type", value_name = "TYPE", help_heading = "Output", long_help = types_help())]
    types: Vec<String>,

    /// Leave qcow2 and vmdk uncompressed: faster, and much larger
    #[arg(short, long, help_heading = "Output")]
    uncompressed: bool,

    #[command(flatten)]
    naming: Naming,

    /// Options for the writer of a format, in the notation of qemu-img
    #[arg(
        long,
        alias = "qemu-img-options",
        value_name = "KEY=VALUE,…",
        help_heading = "Output"
    )]
    format_options: Option<String>,

    /// How the disk is divided: none, mbr, gpt, efi, efi-4k, efi-lvm or a file
    #[arg(long, value_name = "LAYOUT", default_value = "none", help_heading = "Disk", long_help = layout_help())]
    layout: String,

    /// Size of the disk, such as 10GiB, instead of what the files need
    ///
    /// Units are KiB, MiB, GiB and TiB, and those of thousands: KB or K, MB or M,
    /// GB or G, TB or T. A number alone is bytes.
    #[arg(long, value_name = "SIZE", help_heading = "Disk")]
    size: Option<String>,

    /// Bytes of a sector: 512 or 4096
    ///
    /// Default: what the layout says, else 512.
    #[arg(long, value_name = "BYTES", help_heading = "Disk")]
    sector_size: Option<u32>,

    /// Type of the root filesystem, such as ext4, xfs or btrfs
    ///
    /// Default: what the layout says, else ext4.
    #[arg(long, value_name = "TYPE", help_heading = "Disk")]
    filesystem: Option<String>,

    /// Label of the root filesystem
    #[arg(long, value_name = "LABEL", help_heading = "Disk")]
    label: Option<String>,

    /// Options for the root filesystem, in the notation of its mkfs
    #[arg(
        long,
        value_name = "OPTIONS",
        allow_hyphen_values = true,
        help_heading = "Disk"
    )]
    mkfs_options: Option<String>,

    /// Architecture, for types of partitions
    ///
    /// Default: the host's.
    #[arg(short, long, value_name = "ARCH", help_heading = "Disk")]
    arch: Option<String>,

    /// Write the /etc/fstab of the layout into the image
    #[arg(long, help_heading = "Content")]
    fstab: bool,

    /// Whose files are in the image, instead of as they are; may be repeated
    #[arg(long, value_name = "RULE", help_heading = "Content", long_help = OWNER_HELP)]
    owner: Vec<String>,

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

const OWNER_HELP: &str = "\
Whose files are in the image, instead of as they are; may be repeated

RULE is OWNER for all files, FROM=OWNER for those of a user or group, /PATH=OWNER for what is at \
and below a path, or @FILE for rules from a file, one a line. An owner is USER, USER:GROUP or \
:GROUP, by number or by a name that the tree's own /etc/passwd and /etc/group have. The last rule \
that applies counts. Examples: root:root, 1000:1000=0:0, /srv=33:33.";

fn types_help() -> String {
    format!(
        "Formats to write: {}\n\nSeveral are separated by commas, or the option is repeated. \
         Default: qcow2.",
        TYPES.join(", ")
    )
}

fn layout_help() -> String {
    let mut text = "How the disk is divided: a name, or a file with a block-device configuration \
                    as diskimage-builder reads it (with a `/` or `.` in its name)\n"
        .to_owned();
    for (name, about) in LAYOUTS {
        text.push_str(&format!("\n- {name}: {about}"));
    }
    text
}

/// Runs `kiln pack`.
pub fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let request = request(arguments, context)?;
    let result = written::with_bar(|progress| pack::pack(&request, progress));
    let packed = result.map_err(|error| Failure::from_error(&error).hint_if(error.hint()))?;
    let warnings = packed.warnings.iter();
    let of_outputs = packed.written.iter().flat_map(|one| &one.warnings);
    for warning in warnings.chain(of_outputs) {
        let warning = printable(warning);
        context.printer.note(format_args!("warning: {warning}"));
    }
    let current_dir = context.caller.current_dir.clone();
    let shown = packed.written.iter().map(|one| {
        let path = one.path.strip_prefix(&current_dir);
        (path.unwrap_or(&one.path), one)
    });
    written::report(shown, context);
    Ok(0)
}

/// What is asked for.
fn request(arguments: Arguments, context: &Context) -> Result<pack::Request, Failure> {
    let mut types: Vec<String> = arguments
        .types
        .iter()
        .flat_map(|list| list.split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    if types.is_empty() {
        types.push("qcow2".to_owned());
    }
    let options = values::options(
        arguments.format_options.as_deref().unwrap_or_default(),
        "--format-options",
    )?;
    let formats = sink::formats(sink::Request {
        names: &types,
        compress: !arguments.uncompressed,
        options: &options,
    });
    let formats = formats.map_err(|error| misused(error.to_string()).hint_if(error.hint()))?;
    let layout = Layout::from_name(&arguments.layout).ok_or_else(|| {
        misused(format!("there is no layout `{}`", arguments.layout)).hint(format!(
            "the layouts are {}; a file of your own needs a `/` or `.` in its name",
            LAYOUTS.map(|(name, _)| name).join(", ")
        ))
    })?;
    let size = arguments
        .size
        .map(|text| match config::absolute(&text) {
            Ok(0) => Err(misused("`--size` must not be 0")),
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(misused(format!("`--size` is wrong: {error}"))
                .hint("sizes are a number and a unit, such as `10GiB` or `500MB`")),
        })
        .transpose()?;
    if let Some(bytes) = arguments.sector_size
        && !matches!(bytes, 512 | 4096)
    {
        return Err(misused(format!(
            "`--sector-size` is {bytes}, but only 512 and 4096 are possible"
        )));
    }
    let owners = Rules::parse(arguments.owner.iter().map(String::as_str))
        .map_err(|error| misused(Failure::from_error(&error).message).hint_if(error.hint()))?;
    let epoch = context
        .caller
        .environment
        .get(OsStr::new("SOURCE_DATE_EPOCH"));
    let epoch = epoch
        .map(|text| text.to_string_lossy())
        .filter(|text| !text.is_empty())
        .map(|text| {
            text.trim().parse().map_err(|_| {
                misused(format!(
                    "`SOURCE_DATE_EPOCH` is `{text}`, which is not a number of seconds"
                ))
            })
        })
        .transpose()?;
    let labelling = context.caller.environment.get(OsStr::new("KILN_SELINUX"));
    let labelling = Labelling::from_value(labelling.map(|value| value.as_ref()))
        .map_err(|error| misused(error.to_string()).hint("use auto, on or off"))?;
    let directory = &context.caller.current_dir;
    Ok(pack::Request {
        labelling,
        source: if arguments.source.as_os_str() == "-" {
            PathBuf::from("/dev/stdin")
        } else {
            directory.join(arguments.source)
        },
        formats,
        name: directory.join(values::output_name(arguments.output, &types)?),
        layout,
        size,
        sector_size: arguments.sector_size,
        arch: arguments
            .arch
            .unwrap_or_else(crate::build::arch::default_arch),
        fstype: arguments.filesystem,
        label: arguments.label,
        mkfs_options: arguments.mkfs_options,
        fstab: arguments.fstab,
        owners,
        epoch,
        checksums: arguments.naming.checksums(),
        existing: arguments.naming.existing(),
        fsync: arguments.naming.fsync,
        jobs: arguments.jobs,
    })
}
