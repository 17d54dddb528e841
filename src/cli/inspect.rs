//! `kiln inspect`: what an image is and holds.

use clap::{Args, ValueHint};
use serde::Serialize;

use super::Context;
use super::failure::Failure;
use super::{part, printer, units};
use crate::inspect::{Part, fs, os_release};
use crate::sink::ReadAt as _;

/// Arguments of `kiln inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Example: kiln inspect debian.qcow2")]
pub struct Arguments {
    /// Image: raw, qcow2, vmdk, vhd, vhdx or vdi
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    image: String,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    path: String,
    format: &'static str,
    virtual_size: u64,
    file_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<TableReport>,
    partitions: Vec<PartReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<System>,
}

#[derive(Serialize)]
struct TableReport {
    kind: &'static str,
    id: String,
    sector_size: u64,
    from_backup: bool,
}

#[derive(Serialize)]
struct PartReport {
    /// Absent for a disk without partitions, and for a logical volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u32>,
    /// `group/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    logical_volume: Option<String>,
    /// Absent for a logical volume, which may be all over the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<u64>,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filesystem: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    free: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clean: Option<bool>,
}

#[derive(Serialize)]
struct System {
    /// Number of its partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u32>,
    /// Its logical volume, `group/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    logical_volume: Option<String>,
    name: String,
    id: String,
    version: String,
    kernels: Vec<String>,
}

/// Runs `kiln inspect`.
pub fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let opened = part::open(&arguments.image, context)?;
    let contents = opened.contents()?;
    let root = contents.root().ok();
    let file_size = fs_err::metadata(&opened.path)?.len();
    let report = Report {
        path: arguments.image.clone(),
        format: opened.image.format(),
        virtual_size: opened.image.length(),
        file_size,
        table: contents.table.as_ref().map(|table| TableReport {
            kind: table.kind.name(),
            id: table.id.clone(),
            sector_size: table.sector_size,
            from_backup: table.from_backup,
        }),
        partitions: contents
            .parts
            .iter()
            .map(|part| describe(part, contents.open(part).ok().as_ref()))
            .collect(),
        system: root.and_then(|part| system(part, &contents.open_system(part).ok()?)),
    };
    if arguments.json {
        context.printer.json(&report)?;
    } else {
        context.printer.data(text(&report));
    }
    Ok(0)
}

fn describe(part: &Part, files: Option<&fs::FileSystem<'_>>) -> PartReport {
    let partition = part.partition.as_ref();
    let identity = part.identity.as_ref();
    PartReport {
        number: partition.map(|partition| partition.number),
        logical_volume: part.logical.as_ref().map(ToString::to_string),
        start: part.start(),
        size: part.length,
        r#type: partition.map(|partition| partition.kind.clone()),
        guid: partition.and_then(|partition| partition.guid.clone()),
        name: partition.and_then(|partition| partition.name.clone()),
        active: partition.map(|partition| partition.active),
        filesystem: identity.map(|identity| identity.kind),
        label: identity.and_then(|identity| identity.label.clone()),
        uuid: identity.and_then(|identity| identity.uuid.clone()),
        free: files.and_then(|files| files.space().1),
        clean: files.map(|files| !files.is_dirty()),
    }
}

/// What the system of a root says about itself; `None` if there is none.
fn system(part: &Part, files: &fs::FileSystem<'_>) -> Option<System> {
    let release = os_release(files);
    if release.is_empty() {
        return None;
    }
    let value = |key: &str| {
        let found = release.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let boot = files.lookup(b"/boot", true).ok();
    let names = boot.and_then(|boot| files.entries(boot).ok());
    let kernels = names
        .unwrap_or_default()
        .into_iter()
        .filter(|entry| entry.name.starts_with(b"vmlinuz-") || entry.name.starts_with(b"vmlinux-"))
        .map(|entry| String::from_utf8_lossy(&entry.name).into_owned())
        .collect();
    Some(System {
        partition: part.partition.as_ref().map(|partition| partition.number),
        logical_volume: part.logical.as_ref().map(ToString::to_string),
        name: value("PRETTY_NAME"),
        id: value("ID"),
        version: value("VERSION_ID"),
        kernels,
    })
}

/// The report for people.
fn text(report: &Report) -> String {
    let mut text = format!(
        "{}: {}, virtual {}, file {}\n",
        report.path,
        report.format,
        units::bytes(report.virtual_size),
        units::bytes(report.file_size)
    );
    if let Some(table) = &report.table {
        text.push_str(&format!("{} {}", table.kind, table.id));
        if table.sector_size != 512 {
            text.push_str(&format!(", sectors of {} bytes", table.sector_size));
        }
        if table.from_backup {
            text.push_str(", read from the copy at the disk's end: the first one is damaged");
        }
        text.push('\n');
    }
    let heading = [
        "part",
        "start",
        "size",
        "filesystem",
        "label",
        "uuid",
        "type",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for part in &report.partitions {
        let shown = |value: &Option<String>| {
            let value = value.as_deref().unwrap_or("-");
            part::shown(value.as_bytes())
        };
        let label = if part.label.is_some() {
            &part.label
        } else {
            &part.name
        };
        rows.push(vec![
            match (&part.logical_volume, part.number) {
                (Some(name), _) => part::shown(name.as_bytes()),
                (None, Some(number)) => number.to_string(),
                (None, None) => "-".to_owned(),
            },
            part.start.map_or_else(|| "-".to_owned(), units::bytes),
            units::bytes(part.size),
            part.filesystem.unwrap_or("-").to_owned(),
            shown(label),
            shown(&part.uuid),
            shown(&part.r#type),
        ]);
    }
    text.push_str(&printer::table(&rows));
    if let Some(system) = &report.system {
        let name = part::shown(system.name.as_bytes());
        text.push_str(&format!("system: {name}\n"));
        for kernel in &system.kernels {
            text.push_str(&format!("kernel: {}\n", part::shown(kernel.as_bytes())));
        }
    }
    if report
        .partitions
        .iter()
        .any(|part| part.clean == Some(false))
    {
        text.push_str("a filesystem was not unmounted cleanly\n");
    }
    text
}
