//! Commands: parse, call one function, print.
//!
//! One file a command. [`main`] picks the program by the name it was called
//! by; every command gets a [`Context`] and returns its exit status or a
//! [`failure::Failure`], which is printed here and nowhere else.

mod argparse;
mod block_device;
mod build;
mod cache;
mod caller;
mod cat;
mod completions;
mod confine;
mod convert;
mod cp;
mod defect;
mod dib;
mod dib_lint;
mod doctor;
mod element_info;
mod elements;
mod failure;
mod get_kernel;
mod getopt;
mod given;
mod image_list;
mod inspect;
mod install_links;
mod ls;
mod man;
mod naming;
mod nearest;
mod pack;
mod part;
mod plan;
mod printer;
mod push;
mod render;
mod room;
mod units;
mod values;
mod written;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use failure::Failure;

use caller::Caller;
use printer::Printer;

use crate::helpers;
use crate::sandbox::command::await_children;

/// Builds bootable Linux disk images without root
#[derive(Debug, Parser)]
#[command(
    name = "kiln",
    version,
    disable_help_subcommand = true,
    max_term_width = 100
)]
#[command(after_help = "First image: kiln build vm debian-minimal -o debian")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build images from elements
    Build(build::Arguments),
    /// Show what a build would do, without doing it
    Plan(plan::Arguments),
    /// Make an image of a directory or a tar archive
    Pack(pack::Arguments),
    /// Write a disk image in another format
    Convert(convert::Arguments),
    /// Show what an image is and holds
    Inspect(inspect::Arguments),
    /// List files in an image
    Ls(ls::Arguments),
    /// Print files of an image
    Cat(cat::Arguments),
    /// Copy files out of an image
    Cp(cp::Arguments),
    /// Send images to a cloud
    Push(Box<push::Arguments>),
    /// Look at the elements that images are built from
    Elements(elements::Arguments),
    /// Look at the image cache, or empty it
    Cache(cache::Arguments),
    /// Check whether this host lets kiln work, and say what to change
    Doctor(doctor::Arguments),
    /// Install links by whose names kiln acts as diskimage-builder's commands
    InstallLinks(install_links::Arguments),
    /// Print manual pages
    Man(man::Arguments),
    /// Print a script that completes kiln's commands in a shell
    Completions(completions::Arguments),
}

/// What every command has: where it prints, and who asks.
#[derive(Debug)]
pub struct Context {
    /// Standard output and error.
    pub printer: Printer,
    /// Environment and directory.
    pub caller: Caller,
}

/// A program that kiln is under another name.
struct Face {
    name: &'static str,
    run: fn(&str, &[String], &mut Context) -> Result<u8, Failure>,
}

/// The commands of diskimage-builder that kiln stands in for.
static FACES: &[Face] = &[
    Face {
        name: "disk-image-create",
        run: dib::disk_image_create,
    },
    Face {
        name: "ramdisk-image-create",
        run: dib::ramdisk_image_create,
    },
    Face {
        name: "element-info",
        run: element_info::run,
    },
    Face {
        name: "diskimage-builder",
        run: image_list::run,
    },
    Face {
        name: "disk-image-get-kernel",
        run: get_kernel::run,
    },
    Face {
        name: "dib-block-device",
        run: block_device::run,
    },
    Face {
        name: "dib-lint",
        run: dib_lint::run,
    },
];

/// Helper programs of hooks that people call as well, under their own names.
static TOOLS: [&str; 1] = ["dib-run-parts"];

/// Every name that kiln is installed under besides its own.
fn link_names() -> impl Iterator<Item = &'static str> {
    FACES.iter().map(|face| face.name).chain(TOOLS)
}

fn face(name: &str) -> Option<&'static Face> {
    FACES.iter().find(|face| face.name == name)
}

/// Runs the program that `args` names and returns its exit code.
///
/// A name that is neither a face nor a helper program is `kiln` itself, so the
/// binary may be installed under any other name. Faces and helper programs can
/// also be called as `kiln NAME …`.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    defect::explain_panics();
    await_children();
    if let Err(failure) = room::require_time().and_then(|()| room::make()) {
        failure::print(&failure, &mut Printer::standard());
        return ExitCode::from(failure.status);
    }
    let mut args: Vec<OsString> = args.into_iter().collect();
    let called = args
        .first()
        .map(|name| Path::new(name).file_name().unwrap_or(name).to_owned());
    let mut program = called
        .unwrap_or_else(|| "kiln".into())
        .to_string_lossy()
        .into_owned();
    if !args.is_empty() {
        args.remove(0);
    }
    if face(&program).is_none() {
        if let Some(status) = helpers::run(&program, args.clone()) {
            return status;
        }
        let subcommand = args.first().map(|name| name.to_string_lossy().into_owned());
        match subcommand {
            Some(name) if face(&name).is_some() => {
                program = name;
                args.remove(0);
            }
            Some(name) if Cli::command().find_subcommand(&name).is_none() => {
                if let Some(status) = helpers::run(&name, args[1..].to_vec()) {
                    return status;
                }
            }
            _ => {}
        }
    }
    start_tracing();
    let mut printer = Printer::standard();
    let result = run(&program, args, &mut printer);
    match result.and_then(|status| complete(status, &mut printer)) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            failure::print(&failure, &mut printer);
            ExitCode::from(failure.status)
        }
    }
}

/// The status of a command, unless what it printed did not arrive.
fn complete(status: u8, printer: &mut Printer) -> Result<u8, Failure> {
    let Some(error) = printer.take_lost() else {
        return Ok(status);
    };
    let failure = Failure::new(format!("cannot write to standard output: {error}"))
        .hint("what was printed is not complete; if it goes to a file, free some space there");
    Err(Failure {
        status: status.max(failure.status),
        ..failure
    })
}

/// Sends diagnostics for developers to standard error if `KILN_LOG` asks for them.
fn start_tracing() {
    if std::env::var_os("KILN_LOG").is_none_or(|filter| filter.is_empty()) {
        return;
    }
    let filter = tracing_subscriber::EnvFilter::from_env("KILN_LOG");
    // A second subscriber cannot be there: this is the start of the process.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

fn run(program: &str, args: Vec<OsString>, printer: &mut Printer) -> Result<u8, Failure> {
    let mut context = Context {
        printer: std::mem::replace(printer, Printer::standard()),
        caller: Caller::current()?,
    };
    let result = match face(program) {
        Some(face) => text(args).and_then(|words| (face.run)(program, &words, &mut context)),
        None => kiln(args, &mut context),
    };
    *printer = context.printer;
    result
}

/// The arguments as text, which options and element names have to be.
fn text(args: Vec<OsString>) -> Result<Vec<String>, Failure> {
    args.into_iter()
        .map(|arg| {
            arg.into_string().map_err(|arg| {
                failure::misused(format!("argument `{}` is not valid UTF-8", arg.display()))
                    .hint("rename the file, or reach it through a link with a plain name")
            })
        })
        .collect()
}

fn kiln(args: Vec<OsString>, context: &mut Context) -> Result<u8, Failure> {
    // Hooks see what follows the command in DIB_ARGS, as text.
    let words: Vec<String> = args
        .iter()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let program = OsString::from("kiln");
    let parsed = Cli::command()
        .try_get_matches_from(std::iter::once(program).chain(args))
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                let text = error.render();
                if context.printer.out_colour == printer::Colour::OFF {
                    context.printer.data(text);
                } else {
                    context.printer.data(text.ansi());
                }
                return Ok(0);
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                context.printer.note(error.render());
                return Ok(failure::MISUSED);
            }
            _ => return Err(error.into()),
        },
    };
    match cli.command {
        Command::Build(arguments) => build::run(arguments, &words, context),
        Command::Plan(arguments) => plan::run(arguments, &words, context),
        Command::Pack(arguments) => pack::run(arguments, context),
        Command::Convert(arguments) => convert::run(arguments, context),
        Command::Inspect(arguments) => inspect::run(arguments, context),
        Command::Ls(arguments) => ls::run(arguments, context),
        Command::Cat(arguments) => cat::run(arguments, context),
        Command::Cp(arguments) => cp::run(arguments, context),
        Command::Push(arguments) => push::run(*arguments, context),
        Command::Elements(arguments) => elements::run(arguments, context),
        Command::Cache(arguments) => cache::run(arguments, context),
        Command::Doctor(arguments) => doctor::run(&arguments, context),
        Command::InstallLinks(arguments) => install_links::run(arguments, context),
        Command::Man(arguments) => man::run(arguments, context),
        Command::Completions(arguments) => completions::run(&arguments, context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_commands_is_consistent() {
        Cli::command().debug_assert();
    }
}
