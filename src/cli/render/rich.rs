//! The live display of a terminal.
//!
//! Finished phases and steps leave one line each. Below them the display shows
//! what runs now: the phase with its count of hooks, the hook with its element
//! and the last line that it printed, and a bar for everything that moves bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Renderer;
use super::record::Record;
use super::terminal::visible;
use crate::build::event::Event;
use crate::cli::printer::{Colour, Printer, Tone};
use crate::cli::units;

/// Time between two frames.
const FRAME: Duration = Duration::from_millis(100);

const PHASE: &str = "{spinner} {prefix}  hook {pos} of {len}  {elapsed}";
const HOOK: &str = "    {prefix}  {elapsed}";
const OUTPUT: &str = "    | {wide_msg}";
const STEP: &str = "{spinner} {prefix}  {elapsed}";
const MOVING: &str = "{spinner} {prefix}  {binary_bytes} at {binary_bytes_per_sec}  {elapsed}";
const BAR: &str = "{spinner} {prefix}  [{wide_bar}] {binary_bytes} of {binary_total_bytes} at {binary_bytes_per_sec}, {eta} left";

/// Draws on standard error as events arrive.
pub struct Rich {
    display: MultiProgress,
    colour: Colour,
    phase: Option<ProgressBar>,
    hooks: u64,
    hook: Option<(ProgressBar, ProgressBar)>,
    steps: BTreeMap<String, ProgressBar>,
}

impl Rich {
    /// An empty display.
    pub fn new(colour: Colour) -> Self {
        Self {
            display: MultiProgress::new(),
            colour,
            phase: None,
            hooks: 0,
            hook: None,
            steps: BTreeMap::new(),
        }
    }

    fn bar(&self, template: &str, length: Option<u64>) -> ProgressBar {
        let bar = match length {
            Some(length) => ProgressBar::new(length),
            None => ProgressBar::no_length(),
        };
        let bar = self.display.add(bar);
        bar.set_style(style(template));
        bar.enable_steady_tick(FRAME);
        bar
    }

    /// Leaves a line above the display.
    fn leave(&self, line: &str) {
        // A terminal that went away is no reason to stop a build.
        let _ = self.display.println(line);
    }

    fn done(&self, what: &str, seconds: f64, detail: &str) {
        let mark = self.colour.paint(Tone::Good, "done");
        let time = units::seconds(seconds);
        self.leave(&format!(
            "{mark}  {what}  {}",
            self.colour.paint(Tone::Dim, format!("{time}{detail}"))
        ));
    }

    fn end_hook(&mut self) {
        if let Some((hook, output)) = self.hook.take() {
            hook.finish_and_clear();
            output.finish_and_clear();
        }
    }

    fn progress(&mut self, step: &str, done: u64, total: Option<u64>) {
        let bar = match self.steps.get(step) {
            Some(bar) => bar.clone(),
            None => {
                let bar = self.bar(STEP, total);
                bar.set_prefix(visible(step));
                self.steps.insert(step.to_owned(), bar.clone());
                bar
            }
        };
        match total {
            Some(total) => {
                // A total that turned out too small must not draw beyond the bar.
                bar.set_length(total.max(done));
                bar.set_style(style(BAR));
            }
            None => bar.set_style(style(if done > 0 { MOVING } else { STEP })),
        }
        bar.set_position(done);
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file, tested below.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .tick_strings(&["-", "\\", "|", "/", " "])
        .progress_chars("=> ")
}

impl Renderer for Rich {
    fn event(&mut self, event: &Event, record: &Record, _: &mut Printer) {
        match event {
            Event::Info { text } => self.leave(&visible_lines(text)),
            Event::Warning { text } => {
                let mark = self.colour.paint(Tone::Warning, "warning:");
                self.leave(&format!("{mark} {}", visible_lines(text)));
            }
            Event::PhaseStarted { phase, hooks } => {
                let hooks = u64::try_from(*hooks).unwrap_or(u64::MAX);
                let bar = self.bar(PHASE, Some(hooks));
                bar.set_prefix(self.colour.paint(Tone::Strong, visible(phase)));
                self.phase = Some(bar);
                self.hooks = 0;
            }
            Event::HookStarted { hook, element, .. } => {
                self.end_hook();
                self.hooks += 1;
                if let Some(phase) = &self.phase {
                    phase.set_position(self.hooks);
                }
                let bar = self.bar(HOOK, None);
                let element = self
                    .colour
                    .paint(Tone::Dim, format!("({})", visible(element)));
                bar.set_prefix(format!("{} {element}", visible(hook)));
                let output = self.display.add(ProgressBar::no_length());
                output.set_style(style(OUTPUT));
                self.hook = Some((bar, output));
            }
            Event::Output { line } => {
                if let Some((_, output)) = &self.hook {
                    output.set_message(visible(line));
                }
            }
            Event::HookFinished { .. } => self.end_hook(),
            Event::PhaseFinished {
                phase,
                seconds,
                profile,
            } => {
                self.end_hook();
                if let Some(bar) = self.phase.take() {
                    bar.finish_and_clear();
                }
                let detail = match profile.len() {
                    1 => ", 1 hook".to_owned(),
                    many => format!(", {many} hooks"),
                };
                self.done(&visible(phase), *seconds, &detail);
            }
            Event::StepStarted { step, total } => self.progress(step, 0, *total),
            Event::StepProgress { step, done, total } => self.progress(step, *done, *total),
            Event::StepFinished { step, seconds } => {
                let moved = self.steps.remove(step).map_or(0, |bar| {
                    bar.finish_and_clear();
                    bar.position()
                });
                let detail = match moved {
                    0 => String::new(),
                    bytes => format!(", {}", units::bytes(bytes)),
                };
                self.done(&visible(step), *seconds, &detail);
            }
            Event::ShellStarted { .. } => {
                // What is drawn between would be in the shell's way.
                let _ = self.display.clear();
                self.display.set_draw_target(ProgressDrawTarget::hidden());
            }
            Event::ShellEnded { .. } => {
                self.display.set_draw_target(ProgressDrawTarget::stderr());
            }
            Event::OutputWritten { .. } | Event::Failed { .. } => {}
            Event::Finished { .. } => {
                for line in record.summary() {
                    self.leave(&line);
                }
            }
        }
    }
}

fn visible_lines(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n")
}

impl Drop for Rich {
    fn drop(&mut self) {
        self.end_hook();
        if let Some(bar) = self.phase.take() {
            bar.finish_and_clear();
        }
        for bar in self.steps.values() {
            bar.finish_and_clear();
        }
        // Nothing to do about a terminal that went away.
        let _ = self.display.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_valid() {
        for template in [PHASE, HOOK, OUTPUT, STEP, MOVING, BAR] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
