//! `kiln push`: sends images to a cloud.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueHint};
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};

use super::Context;
use super::failure::{Failure, misused};
use super::printer::printable;
use super::units;
use crate::push::{
    self, Cloud, Error, Existing, Item, Job, Lookup, Method, Parts, Report, Visibility,
};
use crate::sandbox::command::is_ignored;

/// Exit status after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;
/// Shortest length of a progress bar's life, in bytes, that is worth showing.
const WORTH_SHOWING: u64 = 4 << 20;

/// Arguments of `kiln push`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: kiln push glance:debian-13 debian.qcow2 --os-cloud mycloud --existing replace\n\n\
    The cloud is found as by OpenStack's own tools: clouds.yaml with secure.yaml beside it\n\
    (OS_CLIENT_CONFIG_FILE, ., ~/.config/openstack, /etc/openstack), or OS_* variables."
)]
pub struct Arguments {
    /// `glance:NAME`: OpenStack's image service, and the name there
    ///
    /// `{stem}` stands for the file's name without suffix, `{format}` for its
    /// format; `glance:` alone is `glance:{stem}`.
    #[arg(value_name = "SERVICE:NAME")]
    target: String,

    /// Images to send
    #[arg(value_name = "IMAGE", required = true, value_hint = ValueHint::FilePath)]
    images: Vec<PathBuf>,

    /// Cloud of clouds.yaml
    #[arg(long, value_name = "CLOUD")]
    os_cloud: Option<String>,

    /// Region of the cloud
    #[arg(long, value_name = "REGION")]
    os_region_name: Option<String>,

    /// Interface of the image service: public, internal or admin
    #[arg(long, value_name = "INTERFACE")]
    os_interface: Option<String>,

    /// Certificates of the authorities to trust, as PEM
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    os_cacert: Option<PathBuf>,

    /// Take any certificate: whoever is on the way can read the password
    #[arg(long)]
    insecure: bool,

    /// Who may see the image
    #[arg(long, value_name = "WHO", value_parser = PossibleValuesParser::new(Visibility::ALL.map(Visibility::name)))]
    visibility: Option<String>,

    /// Tag of the image; can be repeated
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,

    /// Property of the image; can be repeated, and an empty value removes one
    ///
    /// os_distro, os_version, os_type, architecture, hw_firmware_type,
    /// hw_machine_type and hw_qemu_guest_agent come from the image as far as it
    /// shows them.
    #[arg(short, long, value_name = "KEY=VALUE")]
    property: Vec<String>,

    /// Forbid to delete the image
    #[arg(long)]
    protected: bool,

    /// Hide the image in listings
    #[arg(long)]
    hidden: bool,

    /// Format to register
    ///
    /// Default: what the content shows.
    #[arg(long, value_name = "FORMAT")]
    disk_format: Option<String>,

    /// Container to register
    #[arg(long, value_name = "FORMAT", default_value = "bare")]
    container_format: String,

    /// Smallest disk for the image, in GiB
    ///
    /// Default: the size of its disk.
    #[arg(long, value_name = "GIB")]
    min_disk: Option<u64>,

    /// Smallest memory for the image, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    min_ram: u64,

    /// Id of the image
    #[arg(long, value_name = "UUID")]
    id: Option<String>,

    /// Kernel of a partition image; sent first, and named by kernel_id
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    kernel: Option<PathBuf>,

    /// Initial RAM disk of a partition image; sent first, and named by ramdisk_id
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    ramdisk: Option<PathBuf>,

    /// What happens if the project has images of that name
    ///
    /// fail: stop. keep: send nothing if one has the same content. replace: remove
    /// them when the new one is active (one with the same content stays). add:
    /// leave them.
    #[arg(long, value_name = "WHAT", default_value = "fail", value_parser = PossibleValuesParser::new(["fail", "keep", "replace", "add"]))]
    existing: String,

    /// Leave this many images of that name, the newest, and remove others
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), conflicts_with = "existing")]
    keep: Option<u16>,

    /// How the bytes get there
    ///
    /// upload: straight into the store. glance-direct: into a staging area, from
    /// where the service imports them. web-download: the service fetches them from
    /// --url; IMAGE is the same file here.
    #[arg(long, value_name = "METHOD", default_value = "upload", value_parser = PossibleValuesParser::new(["upload", "glance-direct", "web-download"]))]
    method: String,

    /// Where the service fetches the image from
    #[arg(long, value_name = "URL", required_if_eq("method", "web-download"))]
    url: Option<String>,

    /// Pause between two looks at an image that is not active yet, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pause: u64,

    /// How long an image may take to become active after its last byte, in seconds
    #[arg(long, value_name = "S", default_value_t = 3600)]
    patience: u64,

    /// Show what would be sent; nothing is contacted
    #[arg(long)]
    plan: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `kiln push`.
pub fn run(arguments: Arguments, context: &mut Context) -> Result<u8, Failure> {
    let items = items(&arguments, context)?;
    let job = job(&arguments, context)?;
    if job.id.is_some() && items.len() > 1 {
        return Err(misused("one id cannot be that of several images")
            .hint("send them one by one, or leave off `--id`"));
    }
    let cloud = cloud(&arguments, context)?;
    if arguments.plan {
        show_plan(&arguments, &cloud, &job, &items, context)?;
        return Ok(0);
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
    {
        bar.set_style(style);
    }
    let notes = RefCell::new(Vec::new());
    let report = |event: Report| match event {
        Report::Progress(what, done, total) if total >= WORTH_SHOWING => {
            bar.set_message(what);
            bar.set_length(total);
            bar.set_position(done);
        }
        Report::Progress(..) => {}
        Report::Note(text) => notes.borrow_mut().push(text),
    };
    let stop = stop_on_signals();
    let result = push::push(&cloud, &job, &items, &stop, &report);
    bar.finish_and_clear();
    for note in notes.into_inner() {
        context.printer.note(printable(&note));
    }
    let pushed = result.map_err(failure)?;
    if arguments.json {
        let list: Vec<Value> = pushed
            .iter()
            .map(|image| {
                json!({
                    "name": image.name,
                    "id": image.id,
                    "disk_format": image.disk_format,
                    "size": image.size,
                    "md5": image.md5,
                    "sha512": image.sha512,
                    "unchanged": image.unchanged,
                    "removed": image.removed,
                })
            })
            .collect();
        context.printer.json(&list)?;
        return Ok(0);
    }
    for image in pushed {
        let state = if image.unchanged {
            "there already"
        } else {
            "active"
        };
        let mut line = format!(
            "{}: {}, {}, {}, {state}",
            image.name,
            image.id,
            image.disk_format,
            units::bytes(image.size)
        );
        if !image.removed.is_empty() {
            line.push_str(&format!(", removed {}", image.removed.join(", ")));
        }
        context.printer.line(line);
    }
    Ok(0)
}

fn failure(error: Error) -> Failure {
    let mut failure = Failure::from_error(&error);
    failure.hints = error.hints();
    let mut cause = &error;
    while let Error::Leftover { error, .. } = cause {
        cause = error;
    }
    if matches!(cause, Error::Interrupted) {
        failure.status = INTERRUPTED;
    }
    failure
}

/// Set when SIGINT or SIGTERM came; a second one ends the process. What the caller has kiln ignore
/// stays ignored.
fn stop_on_signals() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        if !is_ignored(signal) {
            set.add(signal);
        }
    }
    // Without signals to wait for, they end the process as usual.
    if set.thread_block().is_ok() {
        let stop = Arc::clone(&stop);
        let waits = std::thread::Builder::new().spawn(move || {
            while set.wait().is_ok() {
                if stop.swap(true, Ordering::Relaxed) {
                    std::process::exit(INTERRUPTED.into());
                }
            }
        });
        if waits.is_err() {
            let _ = set.thread_unblock();
        }
    }
    stop
}

/// The images with their names.
fn items(arguments: &Arguments, context: &Context) -> Result<Vec<Item>, Failure> {
    let name = match arguments.target.split_once(':') {
        Some(("glance", "")) => "{stem}",
        Some(("glance", name)) => name,
        _ => {
            return Err(
                misused(format!("`{}` names no service", arguments.target)).hint(
                    "write `glance:NAME` for OpenStack's image service; others are not supported",
                ),
            );
        }
    };
    let mut items: Vec<Item> = Vec::new();
    for path in &arguments.images {
        let path = context.caller.current_dir.join(path);
        let described = push::describe(&path, arguments.disk_format.as_deref()).map_err(failure)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = name
            .replace("{stem}", &stem)
            .replace("{format}", &described.disk_format);
        if items.iter().any(|item| item.name == name) {
            return Err(misused(format!("two images would be named `{name}`"))
                .hint("put `{stem}` or `{format}` into the name"));
        }
        items.push(Item {
            path,
            name,
            described,
        });
    }
    if arguments.url.is_some() && items.len() > 1 {
        return Err(
            misused("one URL cannot be that of several images").hint("send them one by one")
        );
    }
    Ok(items)
}

fn job(arguments: &Arguments, context: &Context) -> Result<Job, Failure> {
    let mut properties = BTreeMap::new();
    for property in &arguments.property {
        let Some((key, value)) = property.split_once('=') else {
            return Err(misused(format!("property `{property}` has no value"))
                .hint("properties have the form `key=value`"));
        };
        properties.insert(key.to_owned(), value.to_owned());
    }
    let name = arguments
        .target
        .split_once(':')
        .map_or("", |(_, name)| name)
        .replace("{stem}", "image");
    let part = |path: &Option<PathBuf>, format: &str| match path {
        None => Ok(None),
        Some(path) => {
            let path = context.caller.current_dir.join(path);
            let described = push::describe(&path, Some(format)).map_err(failure)?;
            let suffix = if format == "aki" { "kernel" } else { "ramdisk" };
            let name = if name.is_empty() {
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into()
            } else {
                format!("{name}-{suffix}")
            };
            Ok::<_, Failure>(Some(Item {
                path,
                name,
                described,
            }))
        }
    };
    let existing = match (arguments.keep, arguments.existing.as_str()) {
        (Some(_), _) | (_, "add") => Existing::Add,
        (_, "keep") => Existing::Keep,
        (_, "replace") => Existing::Replace,
        _ => Existing::Fail,
    };
    let method = match (arguments.method.as_str(), &arguments.url) {
        ("glance-direct", None) => Method::GlanceDirect,
        ("web-download", Some(url)) => Method::WebDownload(url.clone()),
        (_, None) => Method::Upload,
        _ => {
            return Err(misused("`--url` is for `--method web-download`")
                .hint("leave it off, or add `--method web-download`"));
        }
    };
    let visibility = Visibility::ALL
        .into_iter()
        .find(|visibility| arguments.visibility.as_deref() == Some(visibility.name()));
    Ok(Job {
        visibility,
        container_format: arguments.container_format.clone(),
        tags: arguments.tag.clone(),
        properties,
        protected: arguments.protected,
        hidden: arguments.hidden,
        min_disk: arguments.min_disk,
        min_ram: arguments.min_ram,
        id: arguments.id.clone(),
        existing,
        keep: arguments.keep.map(usize::from),
        method,
        parts: Parts {
            kernel: part(&arguments.kernel, "aki")?,
            ramdisk: part(&arguments.ramdisk, "ari")?,
        },
        pause: Duration::from_millis(arguments.pause),
        patience: Duration::from_secs(arguments.patience),
    })
}

fn cloud(arguments: &Arguments, context: &Context) -> Result<Cloud, Failure> {
    let mut overrides = Vec::new();
    let mut set = |key: &'static str, value: Option<String>| {
        overrides.extend(value.map(|value| (key, value)));
    };
    set("region_name", arguments.os_region_name.clone());
    set("interface", arguments.os_interface.clone());
    let cacert = arguments.os_cacert.as_ref();
    set("cacert", cacert.map(|path| path.display().to_string()));
    set("insecure", arguments.insecure.then(|| "true".to_owned()));
    let variable = |name: &str| {
        let value = context.caller.var(name)?;
        value.to_str().map(str::to_owned)
    };
    let lookup = Lookup {
        variable: &variable,
        current_dir: &context.caller.current_dir,
        system_dir: Path::new("/etc/openstack"),
        cloud: arguments.os_cloud.as_deref(),
        overrides,
    };
    push::find(&lookup).map_err(failure)
}

/// What would be sent.
fn show_plan(
    arguments: &Arguments,
    cloud: &Cloud,
    job: &Job,
    items: &[Item],
    context: &mut Context,
) -> Result<(), Failure> {
    let records: Vec<Value> = items
        .iter()
        .map(|item| {
            json!({
                "file": item.path,
                "size": item.described.size,
                "virtual_size": item.described.virtual_size,
                "record": job.record(item),
            })
        })
        .collect();
    if arguments.json {
        let plan = json!({
            "cloud": cloud.name,
            "region": cloud.region,
            "method": job.method.name(),
            "images": records,
        });
        context.printer.json(&plan)?;
        return Ok(());
    }
    context.printer.line(format_args!("cloud: {}", cloud.name));
    for (item, plan) in items.iter().zip(&records) {
        context.printer.line(format_args!(
            "{}: {}, virtual {}, by {}",
            item.path.display(),
            units::bytes(item.described.size),
            units::bytes(item.described.virtual_size),
            job.method.name()
        ));
        for (key, value) in plan["record"].as_object().into_iter().flatten() {
            match value {
                Value::String(text) => context.printer.line(format_args!("  {key}: {text}")),
                other => context.printer.line(format_args!("  {key}: {other}")),
            }
        }
    }
    Ok(())
}
