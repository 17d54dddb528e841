//! What hooks outside report of their own progress.
//!
//! They get a pipe of their own, not the engine's: what comes through it is taken for
//! events only where it tells of steps, so that no hook can speak of outputs or of the
//! end of the build.
//!
//! ```text
//! hook ──► KILN_EVENTS_FD ──► reports ─┐
//!      └─► standard output ────────────┴─► events of the engine ──► main
//! ```

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sandbox::command::Program;

use super::engine::Events;
use super::event::Event;

/// The variable with the descriptor's number.
const VARIABLE: &str = "KILN_EVENTS_FD";

/// A line of a helper's is shorter; longer ones are output in pieces.
const LONGEST: usize = 64 << 10;

/// Bytes that are read at once at most: what a pipe holds. Whoever writes faster than
/// events are shown must not keep the engine from the hook's output.
const AT_ONCE: usize = 64 << 10;

/// Runs a hook outside: its output and its reports become events, reports before the
/// output that follows them, and all of them before this returns.
///
/// Ends when the hook ends, also where a daemon that it left behind holds the pipe.
pub fn run(program: &mut Program, events: &mut Events) -> io::Result<ExitStatus> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let (ended, end) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let number = writer.as_raw_fd();
    program.keep_open = Some(number);
    program
        .environment
        .push((VARIABLE.into(), number.to_string().into()));
    let reader = File::from(reader);
    let reports = Mutex::new(Reports {
        reader: &reader,
        line: Vec::new(),
        events,
    });
    let status = std::thread::scope(|scope| {
        let follow = || follow(reader.as_fd(), ended.as_fd(), &reports);
        // Without a thread reports come with the output and at the end.
        let _ = std::thread::Builder::new().spawn_scoped(scope, follow);
        let status = program.run(&mut |line| {
            let mut reports = lock(&reports);
            reports.pass_on();
            reports.events.send(&Event::Output {
                line: String::from_utf8_lossy(line).into_owned(),
            });
        });
        drop(end);
        status
    });
    let mut reports = lock(&reports);
    reports.pass_on();
    reports.finish();
    status
}

/// Passes reports on as they come, until the other end of `ended` is closed.
fn follow(reader: BorrowedFd<'_>, ended: BorrowedFd<'_>, reports: &Mutex<Reports<'_>>) {
    loop {
        let mut polled = [
            PollFd::new(reader, PollFlags::POLLIN),
            PollFd::new(ended, PollFlags::POLLIN),
        ];
        match poll(&mut polled, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            // The rest comes with the output.
            Err(_) => return,
            Ok(_) => {}
        }
        if polled[1].any().unwrap_or(true) {
            return;
        }
        lock(reports).pass_on();
    }
}

fn lock<'a, 'b>(reports: &'a Mutex<Reports<'b>>) -> MutexGuard<'a, Reports<'b>> {
    reports.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reading end of the pipe and where its lines go.
struct Reports<'a> {
    reader: &'a File,
    /// The beginning of a line that is not complete yet.
    line: Vec<u8>,
    events: &'a mut Events,
}

impl Reports<'_> {
    /// Passes on what is in the pipe.
    fn pass_on(&mut self) {
        let mut buffer = [0; 4096];
        let mut left = AT_ONCE;
        while left > 0 {
            match self.reader.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Empty, for now or for good.
                Err(_) | Ok(0) => return,
                Ok(count) => {
                    left = left.saturating_sub(count);
                    self.take(buffer.get(..count).unwrap_or_default());
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= LONGEST {
                self.finish();
            }
        }
    }

    /// Sends the line, complete or not.
    fn finish(&mut self) {
        if !self.line.is_empty() {
            let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
            self.events.send(&report(line));
            self.line.clear();
        }
    }
}

/// What a line of a hook's says. Only the engine tells of outputs and of the end, so
/// that such a line is output like any other.
fn report(line: &[u8]) -> Event {
    match serde_json::from_slice(line) {
        Ok(
            event @ (Event::Info { .. }
            | Event::StepStarted { .. }
            | Event::StepProgress { .. }
            | Event::StepFinished { .. }),
        ) => event,
        _ => Event::Output {
            line: String::from_utf8_lossy(line).into_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_can_tell_of_steps_and_of_nothing_else() {
        for (line, is_taken) in [
            (r#"{"event":"info","text":"x"}"#, true),
            (r#"{"event":"step-started","step":"a","total":null}"#, true),
            (
                r#"{"event":"step-progress","step":"a","done":1,"total":2}"#,
                true,
            ),
            (
                r#"{"event":"step-finished","step":"a","seconds":1.0}"#,
                true,
            ),
            (r#"{"event":"finished","seconds":1.0}"#, false),
            (
                r#"{"event":"failed","message":"forged","hints":[],"status":1}"#,
                false,
            ),
            (
                r#"{"event":"output-written","path":"x.tar","format":"tar","virtual_size":1,"file_size":1,"disk_size":1}"#,
                false,
            ),
            (
                r#"{"event":"hook-started","phase":"a","hook":"b","element":"c"}"#,
                false,
            ),
            ("no event", false),
        ] {
            let output = Event::Output { line: line.into() };
            assert_eq!(report(line.as_bytes()) != output, is_taken, "{line}");
        }
    }
}
