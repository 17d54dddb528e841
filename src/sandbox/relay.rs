//! Main's side of a shell's terminal: relays between it and the caller's, from when the engine
//! says so until it says that the shell has ended. See `terminal.rs`.
//!
//! Meanwhile the caller's terminal is raw, so that keys such as Ctrl-C and Ctrl-Z are for the
//! shell. Whatever ends the relaying, a signal to main too, sets it back; see `raw.rs`.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{self, SetArg};

use super::command::is_ignored;
use super::handover;
use super::raw::Raw;
use super::terminal::{LENT, RETURNED, copy_size, is_terminal, standard};

/// Bytes that wait for either side at most.
const WAITING: usize = 4096;

/// What is taken of the rest that was written when the shell has ended, in reads: more than a
/// terminal holds, and no more than that of who never stops.
const REST: usize = 64;

/// How long the caller's terminal may take nothing of that, in milliseconds.
const PATIENCE: u16 = 500;

/// Signals that the relaying answers.
const ANSWERED: [Signal; 3] = [Signal::SIGWINCH, Signal::SIGTSTP, Signal::SIGCONT];

/// Lends the caller's terminal to what the engine asks for.
#[derive(Debug)]
pub struct Lender {
    engine: UnixStream,
    signals: Option<SignalFd>,
    /// Was lent, and waits for what the build said before it.
    asked: Option<OwnedFd>,
    relay: Option<Relay>,
}

impl Lender {
    pub(super) fn new(engine: UnixStream) -> Lender {
        Lender {
            engine,
            signals: None,
            asked: None,
            relay: None,
        }
    }

    /// Gets ready for signals. Threads that are started later leave them to this one.
    pub fn await_signals(&mut self) -> io::Result<()> {
        let mut set = SigSet::empty();
        for signal in ANSWERED {
            if !is_ignored(signal) {
                set.add(signal);
            }
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        self.signals = Some(SignalFd::with_flags(&set, flags)?);
        Ok(())
    }

    /// Whether a shell waits until all is told that there is to tell.
    pub fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Adds what is to be waited for.
    pub fn watch<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        polled.push(PollFd::new(self.engine.as_fd(), PollFlags::POLLIN));
        if let Some(signals) = &self.signals {
            polled.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        }
        if let Some(relay) = &self.relay {
            relay.watch(polled);
        }
    }

    /// Does what can be done without waiting. To be called before anything is told of the
    /// build that is newer.
    pub fn go_on(&mut self) -> io::Result<()> {
        while let Some(signal) = self.signal() {
            match signal {
                Signal::SIGTSTP => self.stop(),
                Signal::SIGCONT => self.resume(),
                _ => self.resize(),
            }
        }
        if let Some(relay) = &mut self.relay {
            relay.pass();
        }
        if is_ready(self.engine.as_fd()) {
            match handover::receive_any(self.engine.as_fd())? {
                Some((Some(master), LENT)) => self.asked = Some(master),
                Some((None, RETURNED)) => {
                    if let Some(mut relay) = self.relay.take() {
                        relay.finish();
                    }
                }
                // The engine has ended; its events say so.
                _ => {}
            }
        }
        Ok(())
    }

    /// Begins to relay, once all is told.
    pub fn begin(&mut self) -> io::Result<()> {
        if let Some(master) = self.asked.take() {
            self.relay = Some(Relay::new(master)?);
            self.engine.write_all(&[LENT])?;
        }
        Ok(())
    }

    fn signal(&self) -> Option<Signal> {
        let read = self.signals.as_ref()?.read_signal().ok()??;
        Signal::try_from(i32::try_from(read.ssi_signo).ok()?).ok()
    }

    /// Stops as without a shell, which the kernel does not do where nobody could have it go on.
    fn stop(&mut self) {
        if let Some(relay) = &mut self.relay {
            relay.raw = None;
        }
        let mut set = SigSet::empty();
        set.add(Signal::SIGTSTP);
        let _ = raise(Signal::SIGTSTP);
        let _ = set.thread_unblock();
        let _ = set.thread_block();
        self.resume();
    }

    fn resume(&mut self) {
        if let Some(relay) = &mut self.relay
            && relay.make_raw().is_err()
        {
            relay.hang_up();
        }
        self.resize();
    }

    fn resize(&self) {
        if let Some(relay) = &self.relay
            && let Some(master) = &relay.master
        {
            let _ = copy_size(relay.output, master.as_fd());
        }
    }
}

/// A terminal that is relayed.
#[derive(Debug)]
struct Relay {
    /// Nothing once one of the two is gone.
    master: Option<File>,
    /// The caller's terminal, if it is what is read.
    input: Option<BorrowedFd<'static>>,
    output: BorrowedFd<'static>,
    /// The shell has not ended: what is typed is for it.
    listens: bool,
    /// While its keys are the shell's.
    raw: Option<Raw>,
    typed: Vec<u8>,
    shown: Vec<u8>,
}

impl Relay {
    fn new(master: OwnedFd) -> io::Result<Relay> {
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let first = |numbers: [RawFd; 3]| numbers.into_iter().find(|&number| is_terminal(number));
        // Standard input may be open for reading alone.
        let output = first([2, 1, 0]).unwrap_or(2);
        let mut relay = Relay {
            master: Some(File::from(master)),
            input: is_terminal(0).then(|| standard(0)),
            output: standard(output),
            listens: true,
            raw: None,
            typed: Vec::new(),
            shown: Vec::new(),
        };
        if relay.make_raw().is_err() {
            relay.hang_up();
        }
        if let Some(master) = &relay.master {
            let before = relay.raw.as_ref().map(|raw| raw.before().clone());
            let before = before.or_else(|| termios::tcgetattr(relay.output).ok());
            if let Some(before) = before {
                termios::tcsetattr(master, SetArg::TCSANOW, &before)?;
            }
            let _ = copy_size(relay.output, master.as_fd());
        }
        Ok(relay)
    }

    fn make_raw(&mut self) -> io::Result<()> {
        match (&self.raw, self.input, &self.master) {
            (Some(raw), ..) => raw.again()?,
            (None, Some(input), Some(_)) => self.raw = Some(Raw::make(input)?),
            _ => {}
        }
        Ok(())
    }

    /// Ends it for the shell, as when a terminal's window is closed.
    fn hang_up(&mut self) {
        self.master = None;
        self.raw = None;
    }

    fn watch<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        let Some(master) = &self.master else { return };
        let mut add = |fd, flags: PollFlags| {
            if !flags.is_empty() {
                polled.push(PollFd::new(fd, flags));
            }
        };
        let when = |condition, flag| if condition { flag } else { PollFlags::empty() };
        let is_shown = when(self.shown.is_empty(), PollFlags::POLLIN);
        let is_typed = when(!self.typed.is_empty(), PollFlags::POLLOUT);
        add(master.as_fd(), is_shown | is_typed);
        add(
            self.output,
            when(!self.shown.is_empty(), PollFlags::POLLOUT),
        );
        if let Some(input) = self.input {
            add(input, when(self.typed.is_empty(), PollFlags::POLLIN));
        }
    }

    /// Passes on what is there.
    fn pass(&mut self) {
        if self.try_pass().is_err() {
            self.hang_up();
        }
    }

    fn try_pass(&mut self) -> io::Result<()> {
        let Some(master) = &mut self.master else {
            return Ok(());
        };
        if let Some(input) = self.input
            && self.listens
            && self.typed.is_empty()
            && is_ready(input)
        {
            let mut buffer = [0; WAITING];
            let count = match nix::unistd::read(input, &mut buffer) {
                // The terminal was hung up.
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Err(Errno::EINTR | Errno::EAGAIN) => 0,
                count => count?,
            };
            self.typed.extend_from_slice(&buffer[..count]);
        }
        if !self.typed.is_empty()
            && let Some(count) = unless_full(master.write(&self.typed))?
        {
            self.typed.drain(..count);
        }
        if self.shown.is_empty() {
            let mut buffer = [0; WAITING];
            if let Some(count) = unless_full(master.read(&mut buffer))? {
                self.shown.extend_from_slice(&buffer[..count]);
            }
        }
        if !self.shown.is_empty() && takes(self.output) {
            let written = nix::unistd::write(self.output, &self.shown);
            if let Some(count) = unless_full(written.map_err(io::Error::from))? {
                self.shown.drain(..count);
            }
        }
        Ok(())
    }

    /// Shows the rest of what was written, as far as the caller's terminal takes it.
    fn finish(&mut self) {
        self.listens = false;
        self.typed.clear();
        for _ in 0..REST {
            let Some(master) = &self.master else { break };
            if self.shown.is_empty() && !is_ready(master.as_fd()) {
                break;
            }
            if !self.shown.is_empty() && !is(self.output, PollFlags::POLLOUT, PATIENCE.into()) {
                break;
            }
            self.pass();
        }
    }
}

/// A count, or nothing if there is nothing to read or no room at this moment.
fn unless_full(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether something can be read.
fn is_ready(fd: BorrowedFd<'_>) -> bool {
    is(fd, PollFlags::POLLIN, PollTimeout::ZERO)
}

/// Whether there is room for something.
fn takes(fd: BorrowedFd<'_>) -> bool {
    is(fd, PollFlags::POLLOUT, PollTimeout::ZERO)
}

fn is(fd: BorrowedFd<'_>, flag: PollFlags, patience: PollTimeout) -> bool {
    let mut polled = [PollFd::new(fd, flag)];
    poll(&mut polled, patience).is_ok_and(|count| count > 0)
}
