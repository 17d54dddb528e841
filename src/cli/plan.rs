//! `kiln plan`: shows what a build would do, without doing it.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Context;
use super::build::Image;
use super::failure::Failure;
use super::printer::{Colour, Tone, table};
use super::units;
use crate::build::phases;
use crate::build::plan::Plan;
use crate::element::Reason;
use crate::element::hooks::Hook;

/// Arguments of `kiln plan`.
#[derive(Debug, Args)]
#[command(after_help = "Example: kiln plan vm debian-minimal")]
pub struct Arguments {
    #[command(flatten)]
    image: Image,

    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
}

/// What is printed of a plan.
#[derive(Debug, Serialize)]
struct View {
    arch: String,
    elements: Vec<ElementView>,
    environment: Vec<HookView>,
    phases: Vec<PhaseView>,
    /// `gpt`, `msdos`, or empty for a disk that is one filesystem.
    partition_table: String,
    filesystems: Vec<FilesystemView>,
    /// Bytes of the disk, where they do not depend on its content.
    disk_size: Option<u64>,
    fstab: String,
    image_cache: PathBuf,
    outputs: Vec<OutputView>,
    /// Variables of hooks that differ from those of the caller.
    variables: Vec<VariableView>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ElementView {
    name: String,
    why: String,
    location: String,
}

#[derive(Debug, Serialize)]
struct PhaseView {
    name: String,
    /// `host` or `target`.
    runs_in: &'static str,
    hooks: Vec<HookView>,
}

#[derive(Debug, Serialize)]
struct HookView {
    name: String,
    element: String,
}

#[derive(Debug, Serialize)]
struct FilesystemView {
    name: String,
    /// The device or partition that it is made on.
    base: String,
    fstype: String,
    label: String,
    uuid: String,
    mount_point: Option<String>,
    options: Vec<String>,
    /// Number in the partition table, from 1; absent on the bare disk.
    partition: Option<u32>,
    /// Empty without a partition.
    partuuid: String,
}

#[derive(Debug, Serialize)]
struct OutputView {
    path: PathBuf,
    format: &'static str,
}

#[derive(Debug, Serialize)]
struct VariableView {
    name: String,
    value: String,
}

impl From<Hook> for HookView {
    fn from(hook: Hook) -> Self {
        Self {
            name: hook.name,
            element: hook.element,
        }
    }
}

/// Runs `kiln plan`.
pub fn run(arguments: Arguments, words: &[String], context: &mut Context) -> Result<u8, Failure> {
    let request = arguments.image.given(words).into_request(&context.caller)?;
    let plan = Plan::new(request)?;
    let view = view(&plan, context);
    if arguments.json {
        context.printer.json(&view)?;
    } else {
        let colour = context.printer.out_colour;
        context.printer.data(text(&view, colour));
    }
    Ok(0)
}

fn view(plan: &Plan, context: &Context) -> View {
    let elements = plan
        .elements
        .selected()
        .iter()
        .map(|selected| ElementView {
            name: selected.element.name.clone(),
            why: why(&selected.reason),
            location: selected.element.location(),
        })
        .collect();
    let hooks = |hooks: Vec<Hook>| hooks.into_iter().map(HookView::from).collect();
    let phases = phases::ALL
        .iter()
        .map(|phase| PhaseView {
            name: phase.directory(),
            runs_in: if phase.inside { "target" } else { "host" },
            hooks: hooks(plan.hooks.phase(&phase.directory(), &plan.hook_names)),
        })
        .collect();
    let facts = plan.layout.facts();
    let filesystems = plan
        .layout
        .filesystems()
        .iter()
        // The facts are in the same order.
        .zip(&facts.filesystems)
        .map(|(filesystem, fact)| FilesystemView {
            name: filesystem.name.clone(),
            base: filesystem.base.clone(),
            fstype: filesystem.fstype.clone(),
            label: filesystem.label.clone(),
            uuid: filesystem.id.to_string(),
            mount_point: filesystem.mount_point.clone(),
            options: filesystem.opts.clone(),
            partition: fact.partition,
            partuuid: fact.partuuid.clone(),
        })
        .collect();
    let outputs = plan
        .output_files()
        .into_iter()
        .map(|file| OutputView {
            path: plan.request.current_dir.join(file.path),
            format: file.format.name(),
        })
        .collect();
    let variables = plan
        .variables
        .iter()
        .filter(|(name, value)| context.caller.environment.get(*name) != Some(value))
        .map(|(name, value)| VariableView {
            name: name.to_string_lossy().into_owned(),
            value: value.to_string_lossy().into_owned(),
        })
        .collect();
    View {
        arch: plan.arch.clone(),
        elements,
        environment: hooks(plan.hooks.environment()),
        phases,
        partition_table: facts.partition_table().to_owned(),
        filesystems,
        disk_size: plan.layout.fixed_size(),
        fstab: plan.layout.fstab(),
        image_cache: plan.cache.clone(),
        outputs,
        variables,
        warnings: plan.warnings.clone(),
    }
}

fn why(reason: &Reason) -> String {
    match reason {
        Reason::Requested => "requested".to_owned(),
        Reason::Implied { by: None } => "implied".to_owned(),
        Reason::Implied { by: Some(element) } => format!("implied by {element}"),
        Reason::DependencyOf(element) => format!("needed by {element}"),
    }
}

/// Headed sections, each a table.
struct Text {
    text: String,
    colour: Colour,
}

impl Text {
    fn section(&mut self, heading: &str, rows: &[Vec<String>]) {
        if rows.is_empty() {
            return;
        }
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text
            .push_str(&self.colour.paint(Tone::Strong, heading));
        self.text.push('\n');
        let indented: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                let mut row = row.clone();
                if let Some(first) = row.first_mut() {
                    first.insert_str(0, "  ");
                }
                row
            })
            .collect();
        self.text.push_str(&table(&indented));
    }
}

fn text(view: &View, colour: Colour) -> String {
    let mut text = Text {
        text: String::new(),
        colour,
    };
    let rows = |hooks: &[HookView]| -> Vec<Vec<String>> {
        let row = |hook: &HookView| vec![hook.name.clone(), format!("({})", hook.element)];
        hooks.iter().map(row).collect()
    };
    let elements: Vec<Vec<String>> = view
        .elements
        .iter()
        .map(|element| {
            vec![
                element.name.clone(),
                element.why.clone(),
                element.location.clone(),
            ]
        })
        .collect();
    text.section(&format!("Elements, for {}", view.arch), &elements);
    text.section(
        "environment.d (sourced before the hooks of every phase)",
        &rows(&view.environment),
    );
    for phase in &view.phases {
        let heading = format!("{} (runs in the {})", phase.name, phase.runs_in);
        text.section(&heading, &rows(&phase.hooks));
    }
    let filesystems: Vec<Vec<String>> = view
        .filesystems
        .iter()
        .map(|filesystem| {
            vec![
                filesystem
                    .mount_point
                    .clone()
                    .unwrap_or_else(|| "-".to_owned()),
                filesystem.fstype.clone(),
                match filesystem.partition {
                    Some(number) => format!("partition {number} (`{}`)", filesystem.base),
                    None => filesystem.base.clone(),
                },
                filesystem.label.clone(),
                filesystem.uuid.clone(),
                filesystem.options.join(" "),
            ]
        })
        .collect();
    let size = match view.disk_size {
        Some(size) => format!("of {}", units::bytes(size)),
        None => "as large as the content needs".to_owned(),
    };
    let size = match view.partition_table.as_str() {
        "" => format!("Filesystems, on a disk {size} without a partition table"),
        kind => format!("Filesystems, on a disk {size} with a table of type {kind}"),
    };
    text.section(&size, &filesystems);
    let lines = |lines: &str| -> Vec<Vec<String>> {
        lines.lines().map(|line| vec![line.to_owned()]).collect()
    };
    text.section("fstab", &lines(&view.fstab));
    let variables: Vec<Vec<String>> = view
        .variables
        .iter()
        // A value of several lines would look like more variables.
        .map(|variable| {
            vec![format!(
                "{}={}",
                variable.name,
                variable.value.escape_default()
            )]
        })
        .collect();
    text.section("Variables that hooks get on top of yours", &variables);
    text.section(
        "Image cache",
        &lines(&view.image_cache.display().to_string()),
    );
    let outputs: Vec<Vec<String>> = view
        .outputs
        .iter()
        .map(|output| vec![output.path.display().to_string()])
        .collect();
    text.section("Outputs", &outputs);
    text.section("Warnings", &lines(&view.warnings.join("\n")));
    text.text
}
