//! Enters the sandbox: main → keeper → init → engine. See the module above.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use nix::mount::MsFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getppid, setpgid};

use super::cgroup::Cgroup;
use super::cgroup_events::CgroupEvents;
use super::identity::Identity;
use super::network::{self, Network};
use super::process::{self, clone_process, exit_now, pipe, require_one_thread, wait_for};
use super::refusal::explain_refusal;
use super::userns::become_root;
use super::{Error, family, mounts, sweep, wall};

/// A sandbox to enter.
#[derive(Debug)]
pub struct Sandbox {
    /// Its ids.
    pub identity: Identity,
    /// Whether it has process numbers of its own.
    pub own_processes: bool,
    /// Removed when the sandbox ends, whoever ends it.
    pub work: sweep::WorkDir,
    /// Its network.
    pub network: Network,
    /// The control group that limits it.
    pub group: Option<Cgroup>,
}

/// A running sandbox, as main sees it.
#[derive(Debug)]
pub struct Running {
    keeper: Pid,
    identity: Identity,
    work: sweep::WorkDir,
    group: Option<Cgroup>,
    around: CgroupEvents,
    own_processes: bool,
    /// Its end tells the keeper that main is gone.
    lifeline: Option<OwnedFd>,
}

impl Sandbox {
    /// Starts the sandbox and runs `engine` in it.
    ///
    /// The engine gets a pipe; main reads its other end until it closes, then
    /// calls [`Running::wait`]. The engine's result becomes its exit status.
    ///
    /// Must be called while the process has one thread: the engine is a fork.
    pub fn enter(self, engine: impl FnOnce(File) -> u8) -> Result<(File, Running), Error> {
        require_one_thread()?;
        let (events, events_writer) = pipe()?;
        let (lifeline_reader, lifeline) = pipe()?;
        let around = CgroupEvents::begin();
        process::set_own_processes(self.own_processes);
        if !self.own_processes {
            family::adopt();
        }
        // SAFETY: one thread, checked above, so the child may do anything.
        match unsafe { fork() }
            .map_err(io::Error::from)
            .map_err(Error::system("starting the keeper"))?
        {
            ForkResult::Parent { child } => {
                drop((events_writer, lifeline_reader));
                let running = Running {
                    keeper: child,
                    identity: self.identity,
                    work: self.work,
                    group: self.group,
                    around,
                    own_processes: self.own_processes,
                    lifeline: Some(lifeline),
                };
                Ok((File::from(events), running))
            }
            ForkResult::Child => {
                drop((events, lifeline));
                let status = keeper(self, lifeline_reader, File::from(events_writer), engine);
                exit_now(status)
            }
        }
    }
}

impl Running {
    /// Ends the sandbox at once, with everything that runs in it.
    pub fn cancel(&mut self) {
        self.lifeline = None;
    }

    /// Whether the kernel killed a process of it because memory ran out.
    pub fn ran_out_of_memory(&self) -> bool {
        self.group.as_ref().is_some_and(Cgroup::ran_out_of_memory)
    }

    /// Whether the kernel refused a process because there were too many.
    pub fn ran_out_of_processes(&self) -> bool {
        self.group
            .as_ref()
            .is_some_and(Cgroup::ran_out_of_processes)
    }

    /// What the control groups that kiln was started in refused since.
    pub fn groups_around(&self) -> &CgroupEvents {
        &self.around
    }

    /// Waits for the end and returns the engine's exit status; 137 if something
    /// killed one of the sandbox's processes.
    pub fn wait(self) -> Result<u8, Error> {
        let status = wait_for(self.keeper).map_err(Error::system("waiting for the sandbox"))?;
        // Of the host's process numbers, those that were orphaned are ours now.
        if !self.own_processes {
            family::end_descendants();
        }
        // The keeper swept already unless it was killed itself.
        let removed = self.work.remove(&self.identity);
        if let Some(group) = &self.group {
            group.remove();
        }
        removed.map(|()| status)
    }
}

/// The keeper's whole life; returns its exit status.
fn keeper(
    sandbox: Sandbox,
    lifeline: OwnedFd,
    mut events: File,
    engine: impl FnOnce(File) -> u8,
) -> u8 {
    let main = getppid();
    // A process group of its own: the terminal's Ctrl-C goes to main, which
    // decides, and not to every process at once.
    let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    let started = become_keeper(&sandbox).and_then(|()| start_init(&sandbox, &events, engine));
    let status = match started {
        Ok((init, _keeper_alive)) => {
            drop(events);
            let status = watch(init, &lifeline);
            if !sandbox.own_processes {
                family::end_descendants();
            }
            status
        }
        Err(error) => {
            let status = fail(&mut events, &error);
            drop(events);
            status
        }
    };
    if let Err(error) = sandbox.work.remove_as_root() {
        eprintln!("kiln: {error}");
    }
    // Main does it after a look at what the group counted.
    if let Some(group) = sandbox.group.as_ref().filter(|_| getppid() != main) {
        group.leave();
    }
    status
}

/// Gives the calling process the limits, ids and namespaces of the sandbox.
fn become_keeper(sandbox: &Sandbox) -> Result<(), Error> {
    if let Some(group) = &sandbox.group {
        group
            .enter()
            .map_err(Error::system("entering the control group"))?;
    }
    wall::leave_keyring().map_err(Error::system("leaving the session's keyring"))?;
    let spaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | sandbox.network.namespace();
    become_root(&sandbox.identity, spaces)?;
    if sandbox.identity.has_namespaces() {
        if sandbox.network == Network::None {
            network::loopback_up().map_err(Error::system("switching the loopback device on"))?;
        }
        // podman's filter refuses it: then hooks see the name of the container.
        let _ = nix::unistd::sethostname("localhost");
        mounts::mount(
            None,
            "/".as_ref(),
            None,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None,
        )
        .map_err(|source| Error::Mount {
            what: "private propagation",
            path: PathBuf::from("/"),
            source,
        })?;
    }
    if !sandbox.own_processes {
        family::adopt();
    }
    Ok(())
}

/// Starts init, which starts the engine. Returns it with the descriptor that tells it,
/// by being closed, of the keeper's end.
fn start_init(
    sandbox: &Sandbox,
    events: &File,
    engine: impl FnOnce(File) -> u8,
) -> Result<(Pid, OwnedFd), Error> {
    // Init watches this pipe to learn that the keeper died before init asked
    // to be told by a signal.
    let (alive, keeper_alive) = pipe()?;
    let mut flags = 0;
    if sandbox.identity.has_namespaces() {
        flags |= libc::CLONE_NEWNS;
    }
    if sandbox.own_processes {
        flags |= libc::CLONE_NEWPID;
    }
    let output = events
        .try_clone()
        .map_err(Error::system("duplicating a descriptor"))?;
    if let Some(init) = clone_process(flags).map_err(explain_refusal)? {
        return Ok((init, keeper_alive));
    }
    drop(keeper_alive);
    let status = if sandbox.own_processes {
        init_process(&alive, output, engine)
    } else {
        shared_init(&alive, output, engine)
    };
    exit_now(status)
}

/// The status of what could not start the engine.
const FAILED: u8 = 1;

/// Tells main of an error, which shows it as if the engine had said it; returns the status
/// to end with.
fn fail(events: &mut File, error: &Error) -> u8 {
    let _ = events.write_all(failure_line(error).as_bytes());
    FAILED
}

/// An [`Error`] as the engine's event stream carries failures.
fn failure_line(error: &Error) -> String {
    let message = error.with_causes();
    let value = serde_json::json!({
        "event": "failed", "message": message, "hints": error.hints(), "status": FAILED
    });
    format!("{value}\n")
}

/// Waits for init or for the end of main, whichever comes first.
fn watch(init: Pid, lifeline: &OwnedFd) -> u8 {
    let pid = u32::try_from(init.as_raw()).unwrap_or(0);
    if let Ok(ended) = process::descriptor(pid) {
        loop {
            let mut polled = [
                PollFd::new(lifeline.as_fd(), PollFlags::POLLIN),
                PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut polled, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                _ if polled[0].any().unwrap_or(true) => {
                    let _ = kill(init, Signal::SIGKILL);
                }
                _ => {}
            }
            break;
        }
    }
    wait_for(init).unwrap_or(125)
}

/// PID 1: starts the engine, reaps whatever is orphaned, ends with the engine.
fn init_process(keeper_alive: &OwnedFd, events: File, engine: impl FnOnce(File) -> u8) -> u8 {
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    let mut polled = [PollFd::new(keeper_alive.as_fd(), PollFlags::POLLIN)];
    if matches!(poll(&mut polled, PollTimeout::ZERO), Ok(count) if count > 0) {
        return 137;
    }
    let child = match start_engine(events, engine) {
        Ok(child) => child,
        Err(status) => return status,
    };
    loop {
        match reap(child, WaitPidFlag::__WALL) {
            Reaped::Engine(status) => return status,
            Reaped::Other => {}
            Reaped::Nothing => return 125,
        }
    }
}

/// Init without a PID namespace: what it leaves behind would live on, so it
/// watches both its neighbours and ends everything when either is gone.
fn shared_init(keeper_alive: &OwnedFd, mut events: File, engine: impl FnOnce(File) -> u8) -> u8 {
    family::adopt();
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    let signals = mask.thread_block().and_then(|()| {
        nix::sys::signalfd::SignalFd::with_flags(
            &mask,
            nix::sys::signalfd::SfdFlags::SFD_CLOEXEC | nix::sys::signalfd::SfdFlags::SFD_NONBLOCK,
        )
    });
    let signals = match signals
        .map_err(io::Error::from)
        .map_err(Error::system("watching the build's processes"))
    {
        Ok(signals) => signals,
        Err(error) => return fail(&mut events, &error),
    };
    let child = match start_engine(events, engine) {
        Ok(child) => child,
        Err(status) => return status,
    };
    let status = loop {
        match reap(child, WaitPidFlag::__WALL | WaitPidFlag::WNOHANG) {
            Reaped::Engine(status) => break status,
            Reaped::Other => continue,
            Reaped::Nothing => {}
        }
        let mut polled = [
            PollFd::new(keeper_alive.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut polled, PollTimeout::NONE);
        if polled[0].any().unwrap_or(false) {
            break 137;
        }
        while let Ok(Some(_)) = signals.read_signal() {}
    };
    family::end_descendants();
    status
}

/// Forks the engine; if that fails, main is told why, and the status to end with returned.
fn start_engine(mut events: File, engine: impl FnOnce(File) -> u8) -> Result<Pid, u8> {
    // SAFETY: one thread, so the child may do anything.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            process::become_engine();
            // The scheduler groups processes by session. Hooks share that of their
            // supervisor, because to switch between groups makes each trapped call
            // half as dear again (`sched_autogroup_enabled`, `sched(7)`). And none of them
            // has the caller's terminal.
            if nix::unistd::setsid().is_err() {
                let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            }
            let _ = SigSet::empty().thread_set_mask();
            let status = std::panic::catch_unwind(AssertUnwindSafe(|| engine(events)));
            exit_now(status.unwrap_or(101))
        }
        Ok(ForkResult::Parent { child }) => Ok(child),
        Err(errno) => {
            let error = Error::system("starting the process that builds")(errno.into());
            Err(fail(&mut events, &error))
        }
    }
}

/// What [`reap`] found.
enum Reaped {
    /// The engine has ended, with a shell's status.
    Engine(u8),
    /// Something else has.
    Other,
    /// Nothing has.
    Nothing,
}

fn reap(engine: Pid, how: WaitPidFlag) -> Reaped {
    match waitpid(Pid::from_raw(-1), Some(how | WaitPidFlag::WUNTRACED)) {
        // A hook stopped all that it could (`kill -STOP -1`), and with the engine its own
        // limits; by a signal of terminals too, once one of its programs is in the engine's
        // process group.
        Ok(WaitStatus::Stopped(pid, _)) if pid == engine => {
            let _ = kill(engine, Signal::SIGCONT);
            Reaped::Other
        }
        Ok(WaitStatus::Exited(pid, status)) if pid == engine => {
            Reaped::Engine(u8::try_from(status).unwrap_or(125))
        }
        Ok(WaitStatus::Signaled(pid, signal, _)) if pid == engine => {
            Reaped::Engine(128u8.saturating_add(signal as u8))
        }
        Ok(WaitStatus::StillAlive) => Reaped::Nothing,
        Ok(_) | Err(nix::errno::Errno::EINTR) => Reaped::Other,
        Err(_) => Reaped::Nothing,
    }
}
