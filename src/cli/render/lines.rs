//! Events as lines of text, in DIB's words where DIB has some.

use std::fmt::Write as _;

use crate::build::event::Event;
use crate::cli::printer::printable;
use crate::cli::units;

/// The lines that an event is worth; progress is worth none. Names in them are escaped;
/// what programs print is left as it is.
pub fn lines(event: &Event) -> Vec<String> {
    let lines = texts(event);
    match event {
        Event::Output { .. } => lines,
        _ => lines.iter().map(|line| printable(line)).collect(),
    }
}

fn texts(event: &Event) -> Vec<String> {
    match event {
        // What follows the first line cannot be taken for the beginning of another.
        Event::Info { text } => text
            .lines()
            .enumerate()
            .map(|(at, line)| format!("{}{line}", if at > 0 { "  " } else { "" }))
            .collect(),
        Event::Warning { text } => text
            .lines()
            .map(|line| format!("WARNING: {line}"))
            .collect(),
        Event::PhaseStarted { phase, .. } => vec![format!("Running hooks from {phase}")],
        Event::HookStarted {
            phase,
            hook,
            element,
        } => {
            vec![format!("dib-run-parts Running {phase}/{hook} ({element})")]
        }
        Event::Output { line } => vec![line.trim_end_matches(['\r', '\n']).to_owned()],
        Event::HookFinished { hook, .. } => vec![format!("dib-run-parts {hook} completed")],
        Event::PhaseFinished { phase, profile, .. } => profile_table(phase, profile),
        Event::StepStarted { step, total } => vec![match total {
            Some(total) => format!("{step} ({}) ...", units::bytes(*total)),
            None => format!("{step} ..."),
        }],
        Event::StepProgress { .. } | Event::ShellStarted { .. } | Event::ShellEnded { .. } => {
            Vec::new()
        }
        Event::StepFinished { step, seconds } => {
            vec![format!("{step}: done in {}", units::seconds(*seconds))]
        }
        Event::OutputWritten { path, .. } => vec![format!("Image file {} created", path.display())],
        Event::Failed { message, hints, .. } => std::iter::once(format!("error: {message}"))
            .chain(hints.iter().map(|hint| format!("hint: {hint}")))
            .collect(),
        Event::Finished { .. } => vec!["Build completed successfully".to_owned()],
    }
}

/// DIB's table of the hooks of a phase and their seconds, sorted by name.
fn profile_table(phase: &str, profile: &[(String, f64)]) -> Vec<String> {
    if profile.is_empty() {
        return Vec::new();
    }
    let mut rows: Vec<&(String, f64)> = profile.iter().collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let mut text = format!(
        "----------------------- PROFILING -----------------------\n\
         \n\
         Target: {phase}\n\
         \n\
         {:<40}{:>10}\n\
         {}  {}\n\
         \n",
        "Script",
        "Seconds",
        "-".repeat(39),
        "-".repeat(10),
    );
    for (hook, seconds) in rows {
        // Formatting into a string cannot fail.
        let _ = writeln!(text, "{hook:<40} {seconds:>10.3}");
    }
    text.push_str("\n--------------------- END PROFILING ---------------------");
    text.lines()
        .map(|line| format!("dib-run-parts {line}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_laid_out_as_in_dib() {
        let event = Event::PhaseFinished {
            phase: "install.d".into(),
            seconds: 1.0,
            profile: vec![("90-z".into(), 12.0), ("50-probe".into(), 0.011)],
        };
        assert_eq!(
            lines(&event),
            [
                "dib-run-parts ----------------------- PROFILING -----------------------",
                "dib-run-parts ",
                "dib-run-parts Target: install.d",
                "dib-run-parts ",
                "dib-run-parts Script                                     Seconds",
                "dib-run-parts ---------------------------------------  ----------",
                "dib-run-parts ",
                "dib-run-parts 50-probe                                      0.011",
                "dib-run-parts 90-z                                         12.000",
                "dib-run-parts ",
                "dib-run-parts --------------------- END PROFILING ---------------------",
            ]
        );
    }

    #[test]
    fn names_cannot_forge_lines_and_output_is_as_it_was() {
        let text = "a\x1b[2J\nerror: forged".to_owned();
        for (event, expected) in [
            (
                Event::Info { text: text.clone() },
                &["a\\u{1b}[2J", "  error: forged"][..],
            ),
            (
                Event::Warning { text: text.clone() },
                &["WARNING: a\\u{1b}[2J", "WARNING: error: forged"],
            ),
            (
                Event::StepStarted {
                    step: text.clone(),
                    total: None,
                },
                &["a\\u{1b}[2J\\nerror: forged ..."],
            ),
            (
                Event::Failed {
                    message: text,
                    hints: vec![],
                    status: 1,
                },
                &["error: a\\u{1b}[2J\\nerror: forged"],
            ),
            (
                Event::Output {
                    line: "\x1b[31mred".into(),
                },
                &["\x1b[31mred"],
            ),
        ] {
            assert_eq!(lines(&event), expected);
        }
    }

    #[test]
    fn a_phase_without_hooks_has_no_table() {
        let event = Event::PhaseFinished {
            phase: "x".into(),
            seconds: 0.0,
            profile: vec![],
        };
        assert!(lines(&event).is_empty());
    }
}
