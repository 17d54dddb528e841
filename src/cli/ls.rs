//! `kiln ls`: lists files in an image.

use std::time::{Duration, SystemTime};

use clap::{Args, ValueHint};
use serde::Serialize;

use super::Context;
use super::failure::Failure;
use super::{part, printer, render};
use crate::inspect::fs::{Error, FileId, FileKind, FileSystem, Metadata, Walk};

/// Arguments of `kiln ls`.
#[derive(Debug, Args)]
#[command(after_help = "Example: kiln ls -l debian.qcow2:root /boot")]
pub struct Arguments {
    /// Image, and the partition by its number, name or label, or a logical volume (`GROUP/NAME`)
    ///
    /// Default: the partition with the system's root.
    #[arg(value_name = "IMAGE[:PARTITION]", value_hint = ValueHint::FilePath)]
    image: String,

    /// Directory or file in the image
    #[arg(value_name = "PATH", default_value = "/")]
    path: String,

    /// Show mode, owner, size and time, and where links lead
    #[arg(short, long)]
    long: bool,

    /// List directories within directories too
    #[arg(short = 'R', long)]
    recursive: bool,

    /// List the directory itself, not what is in it
    #[arg(short, long)]
    directory: bool,

    /// Print JSON, an object a line, with extended attributes
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line {
    path: String,
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    links: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
    /// Values in hexadecimal.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    xattrs: std::collections::BTreeMap<String, String>,
}

/// Runs `kiln ls`.
pub fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let opened = part::open(&arguments.image, context)?;
    let contents = opened.contents()?;
    let files = opened.files(&contents, context)?;
    let failure = |error: Error| opened.failure(&error, error.hint());
    let start = files
        .lookup(arguments.path.as_bytes(), true)
        .map_err(failure)?;
    let metadata = files.metadata(start).map_err(failure)?;
    let mut lister = Lister {
        files: &files,
        arguments: &arguments,
        context,
        walk: Walk::default(),
    };
    if metadata.kind == FileKind::Directory && !arguments.directory {
        lister.directory(start, Vec::new()).map_err(failure)?;
    } else {
        let name = arguments.path.clone().into_bytes();
        lister
            .print(vec![(name, start, metadata)])
            .map_err(failure)?;
    }
    Ok(0)
}

struct Lister<'a, 'd> {
    files: &'a FileSystem<'d>,
    arguments: &'a Arguments,
    context: &'a mut Context,
    walk: Walk,
}

impl Lister<'_, '_> {
    /// Lists what is in a directory; names begin with `prefix`.
    fn directory(&mut self, directory: FileId, prefix: Vec<u8>) -> Result<(), Error> {
        let mut rows = Vec::new();
        for entry in self.walk.enter(self.files, directory)? {
            let metadata = self.files.metadata(entry.file)?;
            rows.push(([&prefix[..], &entry.name].concat(), entry.file, metadata));
        }
        let below: Vec<_> = rows
            .iter()
            .filter(|(_, _, metadata)| metadata.kind == FileKind::Directory)
            .map(|(name, file, _)| (name.clone(), *file))
            .collect();
        self.print(rows)?;
        if self.arguments.recursive {
            for (mut name, file) in below {
                name.push(b'/');
                self.directory(file, name)?;
            }
        }
        self.walk.leave();
        Ok(())
    }

    fn print(&mut self, rows: Vec<(Vec<u8>, FileId, Metadata)>) -> Result<(), Error> {
        let mut table = Vec::new();
        for (name, file, metadata) in rows {
            let target = match metadata.kind {
                FileKind::Symlink => Some(self.files.link_target(file)?),
                _ => None,
            };
            if self.arguments.json {
                self.json(&name, file, &metadata, target)?;
                continue;
            }
            let mut name = part::shown(&name);
            if !self.arguments.long {
                self.context.printer.line(name);
                continue;
            }
            if let Some(target) = target {
                name.push_str(" -> ");
                name.push_str(&part::shown(&target));
            }
            let size = match metadata.device {
                Some(device) => format!("{}, {}", device.major, device.minor),
                None => metadata.size.to_string(),
            };
            table.push(vec![
                mode(&metadata),
                metadata.links.to_string(),
                metadata.uid.to_string(),
                metadata.gid.to_string(),
                size,
                time(&metadata),
                name,
            ]);
        }
        self.context.printer.data(printer::table(&table));
        Ok(())
    }

    fn json(
        &mut self,
        name: &[u8],
        file: FileId,
        metadata: &Metadata,
        target: Option<Vec<u8>>,
    ) -> Result<(), Error> {
        let hex = |value: &[u8]| value.iter().map(|byte| format!("{byte:02x}")).collect();
        let xattrs = self.files.xattrs(file)?;
        let line = Line {
            path: part::shown(name),
            kind: metadata.kind.name(),
            mode: format!("{:04o}", metadata.mode),
            uid: metadata.uid,
            gid: metadata.gid,
            size: metadata.size,
            mtime: metadata.mtime.seconds,
            links: metadata.links,
            target: target.map(|target| part::shown(&target)),
            device: metadata.device.map(|device| (device.major, device.minor)),
            xattrs: xattrs
                .iter()
                .map(|(name, value)| (part::shown(name), hex(value)))
                .collect(),
        };
        // All fields are plain values, so this cannot fail.
        let _ = self.context.printer.json_line(&line);
        Ok(())
    }
}

/// `-rwsr-xr-x`.
fn mode(metadata: &Metadata) -> String {
    let mode = metadata.mode;
    let mut text = String::from(metadata.kind.letter());
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, false) => 'x',
            (false, false) => '-',
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// `2026-03-01 12:00:00`, in UTC.
fn time(metadata: &Metadata) -> String {
    let seconds = u64::try_from(metadata.mtime.seconds).unwrap_or(0);
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let mut text = render::stamp::stamp(time.unwrap_or(SystemTime::UNIX_EPOCH));
    text.truncate(text.len().saturating_sub(4));
    text
}
