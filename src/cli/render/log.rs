//! The log file: stamped lines of everything, appended.

use std::io::{self, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use fs_err::os::unix::fs::OpenOptionsExt as _;
use fs_err::{File, OpenOptions};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::Renderer;
use super::lines::lines;
use super::plain::stamped;
use super::record::Record;
use crate::build::event::Event;
use crate::cli::failure::Failure;
use crate::cli::printer::Printer;

/// Appends every line to a file.
#[derive(Debug)]
pub struct Log {
    /// `None` once writing failed: the build goes on without its log.
    file: Option<File>,
}

impl Log {
    /// Opens or creates the file.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            // A named pipe that nobody reads is an error then, and does not wait.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|error| {
                let failure = Failure::new(format!("cannot open the log file: {error}"));
                match std::fs::metadata(path).map(|found| found.file_type()) {
                    Ok(kind) if kind.is_fifo() => failure.hint(
                        "it is a named pipe that nobody reads: start the reader first, or choose \
                         a file",
                    ),
                    _ => {
                        failure.hint("choose another file, and create the directory that it is in")
                    }
                }
            })?;
        // A reader that is slow is waited for.
        let waits = fcntl(&file, FcntlArg::F_GETFL)
            .map(|flags| OFlag::from_bits_retain(flags) - OFlag::O_NONBLOCK)
            .and_then(|flags| fcntl(&file, FcntlArg::F_SETFL(flags)));
        waits.map_err(|errno| {
            let error = io::Error::from(errno);
            Failure::new(format!(
                "cannot use the log file `{}`: {error}",
                path.display()
            ))
        })?;
        Ok(Self { file: Some(file) })
    }
}

impl Renderer for Log {
    fn event(&mut self, event: &Event, record: &Record, printer: &mut Printer) {
        let Some(file) = &mut self.file else { return };
        let mut text = String::new();
        let mut add = |line: String| {
            text.push_str(&stamped(&line));
            text.push('\n');
        };
        lines(event).into_iter().for_each(&mut add);
        if let Event::Finished { .. } = event {
            record.summary().into_iter().for_each(add);
        }
        // One call for all lines of an event keeps them together when several
        // builds append to the same file.
        if let Err(error) = file.write_all(text.as_bytes()) {
            printer.note(format_args!("warning: the log file is given up: {error}"));
            self.file = None;
        }
    }
}
