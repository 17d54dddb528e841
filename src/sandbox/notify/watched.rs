//! Which programs have a guard against signals, and which need none.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;

use super::super::emul::tracee::{View, coarse_time};
use super::super::guard::Interruptions;
use super::super::guard::watch::Watch;

/// Tasks that are remembered.
const TASKS: usize = 1024;
/// For so many milliseconds after their last call, within which no number of a task is
/// given again.
const LATELY: u64 = 1000;
const TIME: u64 = (1 << 28) - 1;

/// A signal in the set that `/proc` shows.
const fn bit(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

/// Signals that a program without children does not get while it is to go on: shells
/// install handlers for them before anything else, and most of them never fork.
const QUIET: u64 = bit(libc::SIGCHLD) | bit(libc::SIGINT);

/// Signals that a program gives itself by what it does, but for jokes: runtimes of languages
/// catch them to tell of faults.
const FAULTS: u64 = bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGFPE)
    | bit(libc::SIGILL)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGSYS);

bitflags::bitflags! {
    /// What is known of a task.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct State: u64 {
        /// It may have a handler after which calls are not restarted.
        const HANDLES = 1 << 0;
        /// It may have children.
        const FORKED = 1 << 1;
        /// It has a guard, or none could be had for it.
        const TRACED = 1 << 2;
        /// It has started another program, or tried to: then it has no handlers.
        const STARTED = 1 << 3;
    }
}

/// Programs of one listener, of which those are traced whose calls a signal may interrupt.
/// A program that never installed a handler after which calls are not restarted is never
/// interrupted, nor are those that it forks.
#[derive(Debug)]
pub(super) struct Watched {
    /// `None` if there is none to be had.
    guard: OnceLock<Option<Watch>>,
    /// A number in the upper half; below, when it made a call, and its state.
    tasks: Box<[AtomicU64]>,
    warned: AtomicBool,
}

impl Default for Watched {
    fn default() -> Watched {
        Watched {
            guard: OnceLock::new(),
            tasks: (0..TASKS).map(|_| AtomicU64::default()).collect(),
            warned: AtomicBool::new(false),
        }
    }
}

fn milliseconds() -> u64 {
    coarse_time().as_millis() as u64 & TIME
}

impl State {
    /// It has no such handler, and neither have those that it forks.
    fn is_plain(self) -> bool {
        !self.intersects(State::HANDLES | State::TRACED | State::STARTED)
    }
}

impl Watched {
    fn place(&self, pid: u32) -> &AtomicU64 {
        &self.tasks[pid as usize % TASKS]
    }

    fn known(&self, pid: u32) -> Option<State> {
        let entry = self.place(pid).load(Ordering::Acquire);
        let age = milliseconds().wrapping_sub(entry >> 4) & TIME;
        (entry >> 32 == u64::from(pid) && age < LATELY).then(|| State::from_bits_truncate(entry))
    }

    /// Whether a process has installed a handler, however long ago. If that was another one
    /// with its number, it is traced without need.
    fn has_told(&self, pid: u32) -> bool {
        let entry = self.place(pid).load(Ordering::Acquire);
        entry >> 32 == u64::from(pid) && State::from_bits_truncate(entry).contains(State::HANDLES)
    }

    fn note(&self, pid: u32, state: State) {
        let entry = u64::from(pid) << 32 | milliseconds() << 4 | state.bits();
        self.place(pid).store(entry, Ordering::Release);
    }

    /// What is known of a task, or can be found out.
    fn find(&self, pid: u32, view: &View) -> Result<State, Errno> {
        let signals = view.signals(pid)?;
        let caught = signals.caught & !FAULTS;
        // What it has from there, unless it has said that it installs its own.
        let parent = || {
            let known = self.known(signals.parent);
            known.filter(|_| !self.has_told(signals.group))
        };
        Ok(if signals.traced {
            State::TRACED
        } else if caught == 0 || parent().is_some_and(State::is_plain) {
            State::empty()
        } else if caught & !QUIET != 0 {
            State::HANDLES | State::FORKED
        } else {
            State::HANDLES
        })
    }

    /// Looks at a task that made a call, and has it traced if signals might interrupt its
    /// next ones. Tasks without number are killed ones.
    pub(super) fn look_after(&self, pid: u32, view: &View, interruptions: &Interruptions) {
        if pid == 0 {
            return;
        }
        let state = match self.known(pid) {
            Some(state) => state,
            None => match self.find(pid, view) {
                Ok(state) => state,
                Err(_) => return,
            },
        };
        self.settle(pid, state, view, interruptions);
    }

    /// A task is about to fork.
    pub(super) fn forks(&self, pid: u32, view: &View, interruptions: &Interruptions) {
        // Handlers and children are those of all threads.
        let pid = view.process(pid).unwrap_or(pid);
        let state = match self.known(pid) {
            Some(state) if !state.contains(State::STARTED) => state,
            _ => match self.find(pid, view) {
                Ok(state) => state,
                Err(_) => return,
            },
        };
        self.settle(pid, state | State::FORKED, view, interruptions);
    }

    /// A task is about to start another program, which has no handlers.
    pub(super) fn starts(&self, pid: u32) {
        let state = self.known(pid).unwrap_or(State::empty());
        let kept = state & (State::FORKED | State::TRACED);
        self.note(pid, kept | State::STARTED);
    }

    /// A task is about to install a handler after which calls are not restarted.
    pub(super) fn handles(
        &self,
        pid: u32,
        signal: i32,
        view: &View,
        interruptions: &Interruptions,
    ) {
        let signal = u32::try_from(signal)
            .ok()
            .filter(|signal| (1..=64).contains(signal));
        // The kernel refuses others.
        let Some(signal) = signal.map(|signal| 1_u64 << (signal - 1)) else {
            return;
        };
        if signal & FAULTS != 0 {
            return;
        }
        let pid = view.process(pid).unwrap_or(pid);
        let mut state = self.known(pid).unwrap_or(State::FORKED) | State::HANDLES;
        state.remove(State::STARTED);
        if signal & QUIET == 0 {
            state |= State::FORKED;
        }
        self.settle(pid, state, view, interruptions);
    }

    /// Notes the state of a task, after what that takes.
    fn settle(&self, pid: u32, state: State, view: &View, interruptions: &Interruptions) {
        let interruptible = state.contains(State::HANDLES | State::FORKED);
        if interruptible && !state.contains(State::TRACED) {
            self.trace(pid, view, interruptions);
        }
        // What failed once, and was said, is not tried for each call.
        let traced = interruptible || state.contains(State::TRACED);
        self.note(pid, if traced { State::TRACED } else { state });
    }

    /// Has the program of a task traced, or says why not.
    fn trace(&self, pid: u32, view: &View, interruptions: &Interruptions) {
        let guard = self.guard.get_or_init(|| {
            Watch::start(interruptions, super::wake_signal())
                .inspect_err(|error| self.warn(error))
                .ok()
        });
        let Some(Err(error)) = guard.as_ref().map(|guard| guard.add(pid)) else {
            return;
        };
        let is = |errno: Errno| error.raw_os_error() == Some(errno as i32);
        let has_tracer = || view.signals(pid).is_ok_and(|signals| signals.traced);
        let is_over = is(Errno::ESRCH) || is(Errno::EPERM) && has_tracer();
        if !is_over {
            self.warn(&error);
        }
    }

    fn warn(&self, error: &std::io::Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("signals may interrupt system calls of hooks: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_of_a_task_is_not_taken_for_that_of_another() {
        let watched = Watched::default();
        let other = 7 + TASKS as u32;
        assert_eq!(watched.known(7), None);
        watched.note(7, State::HANDLES);
        assert_eq!(watched.known(7), Some(State::HANDLES));
        assert_eq!(watched.known(other), None);
        watched.note(other, State::FORKED);
        assert_eq!(
            (watched.known(7), watched.known(other)),
            (None, Some(State::FORKED))
        );
        let old = milliseconds().wrapping_sub(LATELY + 1) & TIME;
        watched
            .place(9)
            .store(9 << 32 | old << 4, Ordering::Release);
        assert_eq!(watched.known(9), None);
    }

    #[test]
    fn a_task_that_starts_a_program_keeps_its_children_and_its_guard() {
        let watched = Watched::default();
        for (before, after) in [
            (State::HANDLES, State::STARTED),
            (State::FORKED, State::STARTED | State::FORKED),
            (State::TRACED, State::STARTED | State::TRACED),
        ] {
            watched.note(7, before);
            watched.starts(7);
            assert_eq!(watched.known(7), Some(after));
        }
    }
}
