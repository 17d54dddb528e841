//! `kiln completions`: prints a script that completes kiln's commands.

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::failure::Failure;
use super::{Cli, Context};

/// Arguments of `kiln completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: kiln completions bash > ~/.local/share/bash-completion/completions/kiln"
)]
pub struct Arguments {
    /// Shell to write the script for
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Runs `kiln completions`.
pub fn run(arguments: &Arguments, context: &mut Context) -> Result<u8, Failure> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut Cli::command(), "kiln", &mut script);
    context.printer.data(String::from_utf8_lossy(&script));
    Ok(0)
}
