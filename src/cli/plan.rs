//! `kiln plan`: shows what a build would do, without doing it.

use clap::Args;
use serde::Serialize;

use super::Context;
use super::build::Image;
use super::failure::Failure;
use super::given::host_arch;
use super::printer::{Colour, Tone, table};
use crate::build::request::Request;
use crate::element::hooks::{self, Hook};
use crate::element::order::NamePattern;
use crate::element::{self, Library, Reason};

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

/// Phases in the order in which they run, and where their hooks run.
const PHASES: [(&str, &str); 10] = [
    ("root.d", "host"),
    ("extra-data.d", "host"),
    ("pre-install.d", "target"),
    ("install.d", "target"),
    ("post-install.d", "target"),
    ("post-root.d", "host"),
    ("block-device.d", "host"),
    ("pre-finalise.d", "host"),
    ("finalise.d", "target"),
    ("cleanup.d", "host"),
];

/// What is printed of a plan.
#[derive(Debug, Serialize)]
struct View {
    arch: String,
    elements: Vec<ElementView>,
    environment: Vec<HookView>,
    phases: Vec<PhaseView>,
    outputs: Vec<OutputView>,
}

#[derive(Debug, Serialize)]
struct ElementView {
    name: String,
    why: String,
    location: String,
}

#[derive(Debug, Serialize)]
struct PhaseView {
    name: &'static str,
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
struct OutputView {
    path: String,
    format: String,
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
    let arch = match &request.arch {
        Some(arch) => arch.clone(),
        None => host_arch(&context.caller)?,
    };
    let pattern = context.caller.text("RUN_PARTS_REGEX")?;
    let view = view(&request, arch, pattern.as_deref())?;
    if arguments.json {
        context.printer.line(serde_json::to_string_pretty(&view)?);
    } else {
        let colour = context.printer.out_colour;
        context.printer.data(text(&view, colour));
    }
    Ok(0)
}

fn view(request: &Request, arch: String, pattern: Option<&str>) -> Result<View, Failure> {
    let library = Library::new(&request.elements_path)?;
    let options = element::Options {
        skip_base: request.skip_base,
        arch: arch.clone(),
        ramdisk: None,
    };
    let set = element::resolve(&library, &request.elements, &options)?;
    let tree = hooks::merge(&set)?;
    let pattern = NamePattern::new(pattern)?;
    let elements = set
        .selected()
        .iter()
        .map(|selected| ElementView {
            name: selected.element.name.clone(),
            why: why(&selected.reason),
            location: selected.element.location(),
        })
        .collect();
    let phases = PHASES
        .into_iter()
        .map(|(name, runs_in)| PhaseView {
            name,
            runs_in,
            hooks: tree
                .phase(name, &pattern)
                .into_iter()
                .map(HookView::from)
                .collect(),
        })
        .collect();
    let outputs = request
        .image_types
        .iter()
        .map(|format| OutputView {
            path: format!("{}.{format}", request.image_name.display()),
            format: format.clone(),
        })
        .collect();
    Ok(View {
        arch,
        elements,
        environment: tree.environment().into_iter().map(HookView::from).collect(),
        phases,
        outputs,
    })
}

fn why(reason: &Reason) -> String {
    match reason {
        Reason::Requested => "requested".to_owned(),
        Reason::Implied { by: None } => "implied".to_owned(),
        Reason::Implied { by: Some(element) } => format!("implied by {element}"),
        Reason::DependencyOf(element) => format!("needed by {element}"),
    }
}

fn text(view: &View, colour: Colour) -> String {
    let heading = |text: &str| format!("{}\n", colour.paint(Tone::Strong, text));
    let hooks = |hooks: &[HookView]| {
        let rows: Vec<Vec<String>> = hooks
            .iter()
            .map(|hook| vec![format!("  {}", hook.name), format!("({})", hook.element)])
            .collect();
        table(&rows)
    };
    let mut text = format!("Architecture: {}\n\n", view.arch);
    text.push_str(&heading("Elements"));
    let rows: Vec<Vec<String>> = view
        .elements
        .iter()
        .map(|element| {
            vec![
                format!("  {}", element.name),
                element.why.clone(),
                element.location.clone(),
            ]
        })
        .collect();
    text.push_str(&table(&rows));
    if !view.environment.is_empty() {
        text.push('\n');
        text.push_str(&heading(
            "environment.d (sourced before the hooks of every phase)",
        ));
        text.push_str(&hooks(&view.environment));
    }
    for phase in view.phases.iter().filter(|phase| !phase.hooks.is_empty()) {
        text.push('\n');
        text.push_str(&heading(&format!(
            "{} (runs in the {})",
            phase.name, phase.runs_in
        )));
        text.push_str(&hooks(&phase.hooks));
    }
    text.push('\n');
    text.push_str(&heading("Outputs"));
    for output in &view.outputs {
        text.push_str(&format!("  {}\n", output.path));
    }
    text
}
