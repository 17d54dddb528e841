//! `kiln doctor`: checks whether this host lets kiln work.

use clap::Args;

use super::Context;
use super::failure::{self, Failure};
use super::printer::{Colour, Tone};
use crate::sandbox::probe::{self, Check, Status};

/// Arguments of `kiln doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 if images can be built here, 1 if something that is needed is missing."
)]
pub struct Arguments {
    /// Print the checks as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `kiln doctor`.
pub fn run(arguments: &Arguments, context: &mut Context) -> Result<u8, Failure> {
    let checks = probe::examine();
    if arguments.json {
        context.printer.line(serde_json::to_string_pretty(&checks)?);
    } else {
        let colour = context.printer.out_colour;
        context.printer.data(report(&checks, colour));
    }
    let missing = checks.iter().any(|check| check.status == Status::Missing);
    Ok(if missing { failure::FAILED } else { 0 })
}

/// The checks, what to do about those that failed, and a verdict.
fn report(checks: &[Check], colour: Colour) -> String {
    let width = checks
        .iter()
        .map(|check| check.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let (tone, word) = match check.status {
            Status::Ok => (Tone::Good, "ok      "),
            Status::Degraded => (Tone::Warning, "degraded"),
            Status::Missing => (Tone::Error, "missing "),
        };
        let word = colour.paint(tone, word);
        text.push_str(&format!(
            "{word}  {:width$}  {}\n",
            check.name, check.detail
        ));
        if check.status != Status::Ok {
            for remedy in &check.remedy {
                let hint = colour.paint(Tone::Accent, "hint:");
                text.push_str(&format!("          {hint} {remedy}\n"));
            }
        }
    }
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    text.push_str(&match (count(Status::Missing), count(Status::Degraded)) {
        (0, 0) => "\nImages can be built here.\n".to_owned(),
        (0, _) => "\nImages can be built here, with the limits above.\n".to_owned(),
        (1, _) => "\nImages cannot be built here: one requirement is missing.\n".to_owned(),
        (many, _) => {
            format!("\nImages cannot be built here: {many} requirements are missing.\n")
        }
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &'static str, status: Status) -> Check {
        Check {
            name,
            status,
            detail: "found".to_owned(),
            remedy: vec!["do this".to_owned()],
        }
    }

    #[test]
    fn remedies_are_shown_only_where_something_is_wrong() {
        let checks = [check("kernel", Status::Ok), check("ids", Status::Missing)];
        assert_eq!(
            report(&checks, Colour::OFF),
            "ok        kernel  found\n\
             missing   ids     found\n\
             \u{20}         hint: do this\n\
             \n\
             Images cannot be built here: one requirement is missing.\n"
        );
        let checks = [check("kernel", Status::Degraded)];
        assert!(report(&checks, Colour::OFF).ends_with("with the limits above.\n"));
    }
}
