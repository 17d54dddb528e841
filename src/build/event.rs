//! What a build tells the world, as data.
//!
//! The engine sends [`Event`]s through a pipe as JSON lines; the command's
//! renderers (terminal, plain lines, JSON, log file) turn them into text.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Something that happened during a build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A fact worth a line (`Building elements: …`).
    Info {
        /// The line.
        text: String,
    },
    /// Something unexpected that does not stop the build.
    Warning {
        /// The line.
        text: String,
    },
    /// A phase begins.
    PhaseStarted {
        /// Its name, such as `install.d`.
        phase: String,
        /// Hooks that it will run.
        hooks: usize,
    },
    /// A hook begins.
    HookStarted {
        /// The phase it belongs to.
        phase: String,
        /// Its file name.
        hook: String,
        /// The element it came from.
        element: String,
    },
    /// A line that a hook or another program of the build printed (lossy UTF-8).
    Output {
        /// The line without its newline.
        line: String,
    },
    /// A shell for the user has the terminal until it ends.
    ShellStarted {
        /// The break point.
        point: String,
    },
    /// The shell has ended.
    ShellEnded {
        /// The break point.
        point: String,
    },
    /// A hook ended well.
    HookFinished {
        /// The phase it belongs to.
        phase: String,
        /// Its file name.
        hook: String,
        /// The element it came from.
        element: String,
        /// Wall time in seconds.
        seconds: f64,
    },
    /// A phase ended; its hooks with their seconds, in the order in which they ran.
    PhaseFinished {
        /// Its name.
        phase: String,
        /// Wall time in seconds.
        seconds: f64,
        /// Hook names and wall seconds.
        profile: Vec<(String, f64)>,
    },
    /// A long step without hooks begins (`unpacking`, `writing debian.qcow2`).
    StepStarted {
        /// What it is.
        step: String,
        /// Total in bytes where it is known.
        total: Option<u64>,
    },
    /// Progress of the current step.
    StepProgress {
        /// What it is.
        step: String,
        /// Bytes done.
        done: u64,
        /// Total in bytes where it is known (it may grow).
        total: Option<u64>,
    },
    /// A step ended.
    StepFinished {
        /// What it is.
        step: String,
        /// Wall time in seconds.
        seconds: f64,
    },
    /// An output file is complete under its final name.
    OutputWritten {
        /// Where it is.
        path: PathBuf,
        /// Its format, such as `qcow2`.
        format: String,
        /// Size as a guest sees it, in bytes (tar: as the file is).
        virtual_size: u64,
        /// Size of the file, in bytes.
        file_size: u64,
        /// Space that it takes on disk, in bytes.
        disk_size: u64,
    },
    /// The build failed; always the last event then.
    Failed {
        /// What failed, on what and why.
        message: String,
        /// What to do about it.
        hints: Vec<String>,
        /// Exit status for the command.
        status: u8,
    },
    /// The build succeeded; always the last event then.
    Finished {
        /// Wall time in seconds.
        seconds: f64,
    },
}
