//! `kiln doctor`: checks whether this host lets kiln work.

use clap::Args;

use super::Context;
use super::failure::{self, Failure};
use super::given;
use super::printer::{Colour, Tone};
use crate::build::{place, session};
use crate::sandbox::doctor::{self, Check, Places, Report, Status};

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
    let caller = &context.caller;
    let temporary = place::parent(&caller.current_dir, |name| caller.var(name));
    let in_memory = given::in_memory(caller)?;
    let places = Places {
        cache: caller.image_cache().ok(),
        no_cache: match (caller.var("DIB_IMAGE_CACHE"), caller.var("HOME")) {
            (None, Some(home)) => place::without_home(&caller.current_dir.join(home)),
            _ => None,
        },
        lacks: session::lacks()
            .into_iter()
            .map(|lack| Check {
                name: lack.name,
                status: Status::Missing,
                detail: lack.refusal.message,
                remedy: lack.refusal.hints,
            })
            .collect(),
        unfit: place::unfit(&temporary),
        in_memory: in_memory.is_ok(),
        in_memory_advice: in_memory.err().and_then(|why| why.hint),
        temporary,
    };
    let found = doctor::examine(&places);
    if arguments.json {
        context.printer.json(&found)?;
    } else {
        let colour = context.printer.out_colour;
        context.printer.data(report(&found, colour));
    }
    Ok(if found.builds { 0 } else { failure::FAILED })
}

/// The modes, the checks, what to do about those that failed, and a verdict.
fn report(found: &Report, colour: Colour) -> String {
    let Report { modes, checks, .. } = found;
    let names = modes.iter().map(|mode| mode.name);
    let width = names
        .chain(checks.iter().map(|check| check.name))
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    let row = |text: &mut String, tone, word: &str, name: &str, detail: &str| {
        let word = colour.paint(tone, format!("{word:8}"));
        text.push_str(&format!("{word}  {name:width$}  {detail}\n"));
    };
    let hints = |text: &mut String, remedy: &[String]| {
        for remedy in remedy {
            let hint = colour.paint(Tone::Accent, "hint:");
            text.push_str(&format!("          {hint} {remedy}\n"));
        }
    };
    text.push_str("Modes, from the one that needs most of the host:\n");
    for mode in modes {
        let (tone, word) = match (mode.works, found.mode == Some(mode.name)) {
            (true, true) => (Tone::Good, "used"),
            (true, false) => (Tone::Good, "works"),
            (false, _) => (Tone::Warning, "refused"),
        };
        row(&mut text, tone, word, mode.name, &mode.detail);
    }
    text.push_str("\nThis host:\n");
    for check in checks {
        let (tone, word) = match check.status {
            Status::Ok => (Tone::Good, "ok"),
            Status::Degraded => (Tone::Warning, "degraded"),
            Status::Missing => (Tone::Error, "missing"),
        };
        row(&mut text, tone, word, check.name, &check.detail);
        if check.status != Status::Ok {
            hints(&mut text, &check.remedy);
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

    fn found(checks: &[(&'static str, Status)]) -> Report {
        let mode = |name, works| doctor::Mode {
            name,
            works,
            detail: "so".to_owned(),
            remedy: Vec::new(),
        };
        Report {
            builds: true,
            mode: Some("single"),
            modes: vec![
                mode("root", false),
                mode("single", true),
                mode("chroot", true),
            ],
            checks: checks
                .iter()
                .map(|&(name, status)| doctor::Check {
                    name,
                    status,
                    detail: "found".to_owned(),
                    remedy: vec!["do this".to_owned()],
                })
                .collect(),
        }
    }

    #[test]
    fn remedies_are_shown_only_where_something_is_wrong() {
        let report_of = |checks| report(&found(checks), Colour::OFF);
        assert_eq!(
            report_of(&[("kernel", Status::Ok), ("ids", Status::Missing)]),
            "Modes, from the one that needs most of the host:\n\
             refused   root    so\n\
             used      single  so\n\
             works     chroot  so\n\
             \n\
             This host:\n\
             ok        kernel  found\n\
             missing   ids     found\n\
             \u{20}         hint: do this\n\
             \n\
             Images cannot be built here: one requirement is missing.\n"
        );
        assert!(report_of(&[("kernel", Status::Degraded)]).ends_with("with the limits above.\n"));
    }
}
