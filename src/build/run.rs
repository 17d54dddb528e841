//! Runs a request from the caller's side: plan, sandbox, events, signals.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sandbox::cgroup::Cgroup;
use crate::sandbox::command::is_ignored;
use crate::sandbox::enter::{Running, Sandbox};
use crate::sandbox::identity::Identity;
use crate::sandbox::limits::Watch;
use crate::sandbox::relay::Lender;
use crate::sandbox::{choice, hide, host, shortage, silent, sweep, terminal};

use super::arch::host_arch;
use super::confinement::Privacy;
use super::destination;
use super::engine;
use super::event::Event;
use super::failure::Failure;
use super::place::{self, Memory, OnDisk};
use super::plan::Plan;
use super::request::Request;
use super::session;

/// Signals that stop a build, unless the caller has kiln ignore them.
const STOPPING: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// Builds what is asked for and tells `on_event` everything; the last event is
/// [`Event::Finished`] or [`Event::Failed`]. Returns the command's exit status.
///
/// Must be called while the process has one thread (`on_event` may start more).
pub fn run(request: Request, on_event: &mut dyn FnMut(Event)) -> u8 {
    match Plan::new(request).and_then(|plan| execute(&plan, on_event)) {
        Ok(status) => status,
        Err(Failure {
            message,
            hints,
            status,
        }) => {
            on_event(Event::Failed {
                message,
                hints,
                status,
            });
            status
        }
    }
}

/// Runs a plan.
pub fn execute(plan: &Plan, on_event: &mut dyn FnMut(Event)) -> Result<u8, Failure> {
    session::require()?;
    let choice::Choice {
        identity,
        own_processes,
    } = choice::choose(plan.request.mode.as_deref())?;
    require_answerable(&host_arch(), &plan.arch, &identity)?;
    let parent = place::parent(&plan.request.current_dir, |name| {
        plan.variables.get(std::ffi::OsStr::new(name))
    });
    let swept = sweep::stale(&parent, &places(plan), &identity);
    let writable = destination::writable(plan)?;
    let memory = if identity.has_namespaces() {
        let request = &plan.request;
        Memory::of_host().serves(request.no_tmpfs, request.min_tmpfs)
    } else {
        Err(OnDisk::without_mounts())
    };
    if let Err(why) = &memory {
        place::require(&parent, why)?;
    }
    let work = sweep::WorkDir::create(&parent)
        .map_err(|error| Failure::from(error).hint(place::ADVICE))?;
    let path = if memory.is_err() && identity.has_namespaces() {
        work.within()?
    } else {
        work.path().to_owned()
    };
    let confinement = &plan.request.confinement;
    let given = [&plan.request.elements_path[..], &writable].concat();
    let needed: Vec<&Path> = given
        .iter()
        .chain(&confinement.show)
        .chain([&parent])
        .map(PathBuf::as_path)
        .collect();
    let silent = silent::ask(&needed);
    let privacy = Privacy::of_host(confinement, &plan.request.environment, &given);
    let view = host::View {
        work: path,
        work_in_memory: memory.is_ok(),
        work_size: confinement.limits.disk,
        writable,
        hidden: [privacy.hidden, hide::host_sockets(), silent.to_vec()].concat(),
        replaced_in: privacy.replaced_in,
        shown: privacy.shown,
        network: confinement.network,
    };
    let group = Cgroup::create(&confinement.limits);
    let watch = Watch {
        limits: confinement.limits.clone(),
        work: view.work.clone(),
        work_in_memory: view.work_in_memory,
        group: group.as_ref().map(Cgroup::counted).unwrap_or_default(),
    };
    let mut remarks = opening(plan, &view.work, &identity);
    let in_memory = memory.as_ref().err().and_then(|why| why.hint);
    remarks.extend(memory.err().map(|why| Event::Info {
        text: format!("building on disk: {}", why.reason),
    }));
    remarks.extend(confined(&watch, plan).map(|text| Event::Info { text }));
    remarks.extend(silent.iter().map(|point| Event::Warning {
        text: format!(
            "`{}` does not answer, as a filesystem whose server is gone: hooks do not see it",
            point.display()
        ),
    }));
    remarks.extend(foreign(&plan.arch).map(|text| Event::Warning { text }));
    remarks.extend(swept.iter().map(|path| Event::Info {
        text: format!(
            "removed `{}`, left over from a build that was cut off",
            path.display()
        ),
    }));
    remarks.extend(
        plan.warnings
            .iter()
            .map(|text| Event::Warning { text: text.clone() }),
    );
    let sandbox = Sandbox {
        identity,
        own_processes,
        work,
        network: confinement.network,
        group,
    };
    let (lender, borrower) = if plan.variables.contains_key(OsStr::new("break")) {
        terminal::lending()?.unzip()
    } else {
        (None, None)
    };
    let started = Instant::now();
    let (events, running) = sandbox
        .enter(move |events| engine::main(plan, &view, in_memory, watch, events, borrower))?;
    remarks.into_iter().for_each(&mut *on_event);
    let deadline = confinement.build.map(|limit| (started + limit, limit));
    follow(events, running, lender, deadline, on_event)
}

/// Where this build stands and what it writes.
fn places(plan: &Plan) -> Vec<PathBuf> {
    let current = &plan.request.current_dir;
    let outputs = plan.output_files().into_iter();
    outputs
        .map(|file| current.join(file.path))
        .chain([current.clone(), plan.cache.clone()])
        .collect()
}

/// What a build is and where, before anything else is said.
fn opening(plan: &Plan, work: &Path, identity: &Identity) -> Vec<Event> {
    let texts = [
        format!("kiln {}", env!("CARGO_PKG_VERSION")),
        format!("Building elements: {}", plan.request.elements.join(" ")),
        format!(
            "Expanded element dependencies to: {}",
            plan.elements.names().join(" ")
        ),
        format!(
            "Building in {} as mode `{}`",
            work.display(),
            identity.name()
        ),
    ];
    texts
        .into_iter()
        .chain(identity.notice())
        .map(|text| Event::Info { text })
        .collect()
}

/// What a user should know about the limits of this build.
fn confined(watch: &Watch, plan: &Plan) -> impl Iterator<Item = String> {
    let limits = &watch.limits;
    let memory = limits.memory.map(|bytes| {
        let how = if watch.group.memory {
            "by a control group"
        } else {
            "by RLIMIT_DATA for each program and by looking at their sum ten times a second: \
             no control group with memory is delegated to this user"
        };
        format!("memory is limited to {} MiB {how}", bytes >> 20)
    });
    let disk = limits.disk.map(|bytes| {
        let how = if watch.work_in_memory {
            "by the size of its filesystem in memory"
        } else {
            "by looking at its size now and then"
        };
        format!(
            "the build's directory is limited to {} MiB {how}",
            bytes >> 20
        )
    });
    let withheld = (!plan.withheld.is_empty()).then(|| {
        format!(
            "hooks do not get {}, which may be secrets; `--pass-env NAME` hands one over",
            plan.withheld.join(", ")
        )
    });
    memory.into_iter().chain(disk).chain(withheld)
}

/// What explains a failure of any kind once the control group is full.
const OUT_OF_MEMORY: &str = "the limit of `--memory` was reached and the kernel killed a process: \
    raise it if the build needs more, or keep its files out of memory by `--no-tmpfs`";

/// The same once the control group had as many processes as it may have.
const OUT_OF_PROCESSES: &str = "the limit of `--processes` was reached and the kernel refused to \
    start a process: raise it if the build needs more";

/// The same where the limit is not kiln's.
const SESSION_OUT_OF_MEMORY: &str = "a control group that kiln runs in ran out of memory and the \
    kernel killed a process: raise its `memory.max` (docker's and podman's `--memory`, Kubernetes' \
    `resources`, systemd's `MemoryMax=`), or keep the build's files out of memory by `--no-tmpfs`";

/// What the kernel's counts say about why a build failed.
fn counted_hints(running: &Running) -> Vec<String> {
    let around = running.groups_around();
    let memory = if running.ran_out_of_memory() {
        Some(OUT_OF_MEMORY)
    } else {
        around.ran_out_of_memory().then_some(SESSION_OUT_OF_MEMORY)
    };
    let processes = if running.ran_out_of_processes() {
        Some(OUT_OF_PROCESSES)
    } else {
        around.refused_a_process().then_some(shortage::GROUP_HINT)
    };
    memory
        .into_iter()
        .chain(processes)
        .map(str::to_owned)
        .collect()
}

/// What a shell's status tells of the end of the build's process, which said nothing itself.
fn end_hints(status: u8) -> Vec<String> {
    let limit = session::ended_hint(i32::from(status));
    // Nothing else sends that.
    let known = limit.is_some() && i32::from(status) != BY_SIGKILL;
    let general = (!known).then(|| end_hint(status));
    limit.into_iter().chain(general).collect()
}

/// The status of a program that `SIGKILL` ended.
const BY_SIGKILL: i32 = 128 + libc::SIGKILL;

fn end_hint(status: u8) -> String {
    const KILLED: &str = "137 means that it was killed: often because memory ran out (try \
        `--no-tmpfs`), sometimes by a hook that signals every process (`kill -9 -1`)";
    const FAILED: &str = "kiln itself failed: report it with what was printed, and with the \
        output of `KILN_LOG=debug`";
    let signal = status
        .checked_sub(128)
        .and_then(|number| Signal::try_from(i32::from(number)).ok());
    match signal {
        Some(Signal::SIGKILL) => KILLED.to_owned(),
        Some(signal @ (Signal::SIGHUP | Signal::SIGINT | Signal::SIGTERM | Signal::SIGUSR1)) => {
            format!(
                "{status} means that another program sent it {signal}: build again; to stop a \
                 build, send that to `kiln` itself"
            )
        }
        _ => FAILED.to_owned(),
    }
}

/// How the events of a build came to an end.
#[derive(Default)]
struct Followed {
    /// The build has said why it failed.
    failed: bool,
    /// The last event of a build that succeeded. It is told only once its process has
    /// ended as that of such a build does.
    finished: Option<Event>,
    stopped_by: Option<Signal>,
    late: Option<Duration>,
    /// An image has its name.
    written: bool,
    /// The hook, and the step, that has begun and not ended.
    hook: Option<String>,
    step: Option<String>,
}

impl Followed {
    /// Remembers what is being done.
    fn note(&mut self, event: &Event) {
        match event {
            Event::HookStarted {
                phase,
                hook,
                element,
            } => self.hook = Some(format!("hook `{phase}/{hook}` of element `{element}`")),
            Event::HookFinished { .. } => self.hook = None,
            Event::StepStarted { step, .. } => self.step = Some(format!("`{step}`")),
            Event::StepFinished { .. } => self.step = None,
            Event::OutputWritten { .. } => self.written = true,
            _ => {}
        }
    }

    /// What there is of a build that did not come to its end.
    fn result(&self) -> &'static str {
        if self.written {
            "its images were written by then"
        } else {
            "no image was written"
        }
    }

    /// When something happened to the build, for a message; nothing if that is not known.
    fn moment(&self) -> String {
        // Steps of a hook say less than which one it is.
        let doing = self.hook.as_ref().or(self.step.as_ref());
        doing.map_or_else(String::new, |doing| format!(" during {doing}"))
    }
}

/// Passes events on until the sandbox ends or a signal ends it.
fn follow(
    events: File,
    mut running: Running,
    lender: Option<Lender>,
    deadline: Option<(Instant, Duration)>,
    on_event: &mut dyn FnMut(Event),
) -> Result<u8, Failure> {
    let followed = follow_events(events, &mut running, lender, deadline, on_event);
    let followed = match followed {
        Ok(followed) => followed,
        Err(failure) => {
            // Nothing of it is left behind, whatever went wrong here.
            running.cancel();
            running.wait()?;
            return Err(failure.hint(
                "the build was ended and its files were removed: start it again, and if this \
                 stays, `kiln doctor` tells what this host refuses",
            ));
        }
    };
    let counted = counted_hints(&running);
    let status = running.wait()?;
    let (moment, result) = (followed.moment(), followed.result());
    let Followed {
        failed,
        finished,
        stopped_by,
        late,
        ..
    } = followed;
    if let Some(limit) = late {
        return Err(Failure::status(
            format!(
                "the build took longer than {} s, the limit of `--build-timeout`, and was ended{moment}; {result}",
                limit.as_secs_f64()
            ),
            124,
        )
        .hint("if it needs more, raise `--build-timeout` or `KILN_BUILD_TIMEOUT`"));
    }
    if let Some(signal) = stopped_by {
        let status = 128u8.saturating_add(signal as u8);
        on_event(Event::Failed {
            message: format!("stopped by {signal}; {result}"),
            hints: Vec::new(),
            status,
        });
        return Ok(status);
    }
    if let Some(finished) = finished.filter(|_| status == 0) {
        on_event(finished);
    } else if !failed {
        // Neither Finished nor Failed came, or what came is not true: something killed
        // the engine.
        let status = if status == 0 { 1 } else { status };
        let failure = Failure::status(
            format!("the build's process ended without a word{moment} (status {status})"),
            i32::from(status),
        );
        if counted.is_empty() {
            return Err(end_hints(status).into_iter().fold(failure, Failure::hint));
        }
        return Err(counted.into_iter().fold(failure, Failure::hint));
    }
    Ok(status)
}

/// Passes events on until there are no more, a signal comes, or the time is over; the
/// last two end the sandbox.
fn follow_events(
    mut events: File,
    running: &mut Running,
    mut lender: Option<Lender>,
    deadline: Option<(Instant, Duration)>,
    on_event: &mut dyn FnMut(Event),
) -> Result<Followed, Failure> {
    let mut set = SigSet::empty();
    for signal in STOPPING {
        if !is_ignored(signal) {
            set.add(signal);
        }
    }
    set.thread_block()
        .map_err(std::io::Error::from)
        .map_err(Failure::io("blocking signals"))?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(std::io::Error::from)
        .map_err(Failure::io("watching for signals"))?;
    if let Some(lender) = &mut lender {
        lender
            .await_signals()
            .map_err(Failure::io("watching for signals"))?;
    }
    let mut pending = Pending::default();
    let mut buffer = vec![0; 64 * 1024];
    let mut followed = Followed::default();
    loop {
        let ended = followed.late.is_some() || followed.stopped_by.is_some();
        let mut polled = vec![
            PollFd::new(events.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let is_asked = lender.as_ref().is_some_and(Lender::is_asked);
        if let Some(lender) = &lender {
            lender.watch(&mut polled);
        }
        let left = deadline.map(|(end, _)| end.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) && !ended {
            followed.late = deadline.map(|(_, limit)| limit);
            running.cancel();
            continue;
        }
        let patience = match left {
            // What was said by then is still heard.
            _ if ended || is_asked => PollTimeout::ZERO,
            // Rounded up, or the last millisecond would be spent in a loop.
            Some(left) => {
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        match poll(&mut polled, patience) {
            Ok(0) if ended => return Ok(followed),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(Failure::io("waiting for the build")(error.into())),
            Ok(_) => {}
        }
        let readable = polled[0].any().unwrap_or(false);
        drop(polled);
        if !ended && let Ok(Some(signal)) = signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(libc::SIGTERM);
            followed.stopped_by = Signal::try_from(number).ok().or(Some(Signal::SIGTERM));
            running.cancel();
            continue;
        }
        if let Some(lender) = &mut lender {
            let lent = lender.go_on().and_then(|()| match is_asked && !readable {
                true => lender.begin(),
                false => Ok(()),
            });
            lent.map_err(Failure::io("lending the terminal to a shell"))?;
        }
        if readable {
            let count = match events.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                count => count.map_err(Failure::io("reading the build's events"))?,
            };
            if count == 0 {
                return Ok(followed);
            }
            pending.pass_on(&buffer[..count], &mut |mut event| {
                followed.note(&event);
                match &mut event {
                    Event::Finished { .. } => {
                        followed.finished = Some(event);
                        return;
                    }
                    Event::Failed { hints, .. } => {
                        hints.splice(0..0, counted_hints(running));
                        followed.failed = true;
                    }
                    _ => {}
                }
                on_event(event);
            });
        }
    }
}

/// A line of the engine's is no longer: it cuts output at 64 KiB, of which JSON may make
/// six times as much.
const LONGEST_EVENT: usize = 1 << 20;

/// The beginning of a line that is not complete yet.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
}

impl Pending {
    /// Takes more bytes and parses the lines that are complete.
    fn pass_on(&mut self, more: &[u8], on_event: &mut dyn FnMut(Event)) {
        for piece in more.split_inclusive(|&byte| byte == b'\n') {
            self.bytes.extend_from_slice(piece);
            // What a hook finds a way to write here need have no end.
            if piece.ends_with(b"\n") || self.bytes.len() >= LONGEST_EVENT {
                let line = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
                // What is no event is output.
                let event = serde_json::from_slice(line).unwrap_or_else(|_| Event::Output {
                    line: String::from_utf8_lossy(line).into_owned(),
                });
                on_event(event);
                self.bytes.clear();
            }
        }
    }
}

/// Fails for an image whose programs run on this host, but make calls of a convention
/// that nobody answers here: 32-bit ARM on 64-bit ARM.
fn require_answerable(host: &str, arch: &str, identity: &Identity) -> Result<(), Failure> {
    let answered = ["single", "chroot"].contains(&identity.name());
    if host == "arm64" && ["armhf", "armel"].contains(&arch) && answered {
        return Err(Failure::new(format!(
            "mode `{}` cannot build {arch} on arm64: it answers the system calls of hooks, and \
             not those of 32-bit ARM programs",
            identity.name()
        ))
        .hint("give the user subordinate ids, with which hooks need no answers: `kiln doctor` says how")
        .hint("or build as root"));
    }
    Ok(())
}

/// What to know when programs of the image do not run on this host by themselves.
fn foreign(arch: &str) -> Option<String> {
    let host = host_arch();
    let runs = match host.as_str() {
        "amd64" => ["amd64", "i386"].contains(&arch),
        "arm64" => ["arm64", "armhf", "armel"].contains(&arch),
        _ => host == arch,
    };
    // A handler may exist although a container does not show it, so this is no error.
    let handlers = Path::new("/proc/sys/fs/binfmt_misc");
    let handled = std::fs::read_dir(handlers).is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("qemu-"))
        })
    });
    (!runs && !handled).then(|| {
        format!(
            "this host is {host}: programs of {arch} run here only through binfmt handlers, and \
             `{}` shows none (Debian, Ubuntu: `sudo apt install qemu-user-binfmt`)",
            handlers.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_was_at_is_known_when_it_is_ended() {
        let mut followed = Followed::default();
        let step = |step: &str| Event::StepStarted {
            step: step.to_owned(),
            total: None,
        };
        let finished = |step: &str| Event::StepFinished {
            step: step.to_owned(),
            seconds: 1.0,
        };
        let (phase, hook, element) = ("root.d".to_owned(), "08-a".to_owned(), "b".to_owned());
        assert_eq!(followed.moment(), "");
        followed.note(&Event::HookStarted {
            phase: phase.clone(),
            hook: hook.clone(),
            element: element.clone(),
        });
        let in_hook = " during hook `root.d/08-a` of element `b`";
        for event in [step("unpacking"), finished("unpacking")] {
            followed.note(&event);
            assert_eq!(followed.moment(), in_hook);
        }
        followed.note(&Event::HookFinished {
            phase,
            hook,
            element,
            seconds: 1.0,
        });
        assert_eq!(followed.moment(), "");
        followed.note(&step("writing a.qcow2"));
        assert_eq!(followed.moment(), " during `writing a.qcow2`");
        followed.note(&finished("writing a.qcow2"));
        assert_eq!(followed.moment(), "");
    }

    #[test]
    fn the_end_of_a_build_that_said_nothing_is_explained_by_its_status() {
        for (status, said) in [
            (137, "often because memory ran out"),
            (129, "another program sent it SIGHUP"),
            (143, "another program sent it SIGTERM"),
            (139, "kiln itself failed"),
            (1, "kiln itself failed"),
        ] {
            let hint = end_hints(status).join("\n");
            assert!(hint.contains(said), "{status}: {hint}");
            assert_eq!(hint.contains("137"), status == 137, "{status}: {hint}");
        }
    }

    /// The events, and what is kept of a line that is not complete.
    fn passed(pieces: &[&[u8]]) -> (Vec<Event>, usize) {
        let (mut pending, mut events, mut most) = (Pending::default(), vec![], 0);
        for piece in pieces {
            pending.pass_on(piece, &mut |event| events.push(event));
            most = most.max(pending.bytes.len());
        }
        (events, most)
    }

    #[test]
    fn events_come_in_pieces_and_other_lines_are_output() {
        let output = |line: &str| Event::Output { line: line.into() };
        let (events, _) = passed(&[
            b"no event\n{\"event\":\"info\",",
            b"\"text\":\"x\"}\n\xff\n{\"event\":\"fini",
            b"shed\",\"seconds\":1.0}\n",
        ]);
        let expected = [
            output("no event"),
            Event::Info { text: "x".into() },
            output("\u{fffd}"),
            Event::Finished { seconds: 1.0 },
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn a_line_without_end_is_cut_and_what_follows_is_understood() {
        let flood = vec![b'x'; 64 << 10];
        let mut pieces = vec![&flood[..]; 100];
        pieces.push(b"\n{\"event\":\"finished\",\"seconds\":1.0}\n");
        let (events, most) = passed(&pieces);
        assert!(most <= LONGEST_EVENT + flood.len(), "{most}");
        assert_eq!(events.last(), Some(&Event::Finished { seconds: 1.0 }));
        let length = |event: &Event| match event {
            Event::Output { line } => line.len(),
            _ => 0,
        };
        assert_eq!(events.iter().map(length).sum::<usize>(), 100 * flood.len());
    }
}
