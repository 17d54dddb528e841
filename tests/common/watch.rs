//! Watches the processes of a build from outside, to see that none is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long what should happen at once may take on a busy machine. No
/// requirement on speed: longer means that it never happens.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A process, told apart from a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it was started, in ticks since boot.
    started: u64,
}

/// Parent, start and state of a process, from `/proc/PID/stat` (proc_pid_stat(5)).
fn stat(pid: i32) -> Option<(i32, Process, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let state = fields.first()?.chars().next()?;
    let parent = fields.get(1)?.parse().ok()?;
    let started = fields.get(19)?.parse().ok()?;
    Some((parent, Process { pid, started }, state))
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Process> {
        stat(i32::try_from(pid).ok()?).map(|(_, process, _)| process)
    }

    /// Whether it still runs (a zombie does not).
    pub fn lives(self) -> bool {
        stat(self.pid).is_some_and(|(_, process, state)| process == self && state != 'Z')
    }

    /// Its children, oldest first.
    pub fn children(self) -> Vec<Process> {
        let mut children: Vec<Process> = table()
            .into_values()
            .filter(|(parent, _, _)| *parent == self.pid)
            .map(|(_, process, _)| process)
            .collect();
        children.sort_by_key(|child| (child.started, child.pid));
        children
    }

    /// It and all that descend from it.
    pub fn family(self) -> BTreeSet<Process> {
        let table = table();
        let mut family = BTreeSet::from([self]);
        loop {
            let more: Vec<Process> = table
                .values()
                .filter(|(parent, process, _)| {
                    !family.contains(process) && family.iter().any(|known| known.pid == *parent)
                })
                .map(|(_, process, _)| *process)
                .collect();
            if more.is_empty() {
                return family;
            }
            family.extend(more);
        }
    }

    /// Sends it a signal.
    pub fn signal(self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid);
        // It may just have ended by itself.
        let _ = nix::sys::signal::kill(pid, signal);
    }
}

fn table() -> BTreeMap<i32, (i32, Process, char)> {
    fs::read_dir("/proc")
        .expect("/proc can be read")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .collect()
}

/// Processes whose environment or command line has `mark` in it, but for us.
pub fn marked(mark: &str) -> Vec<(i32, String)> {
    let own = i32::try_from(std::process::id()).expect("a process id");
    table()
        .into_iter()
        .filter(|&(pid, (_, _, state))| pid != own && state != 'Z')
        .filter(|(pid, _)| {
            ["environ", "cmdline"].iter().any(|file| {
                fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|bytes| {
                    bytes
                        .windows(mark.len())
                        .any(|window| window == mark.as_bytes())
                })
            })
        })
        .map(|(pid, _)| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&command).replace('\0', " "))
        })
        .collect()
}

/// Mount points at or below `path` that this process sees.
pub fn mounts_below(path: &Path) -> Vec<String> {
    let path = path.to_string_lossy().into_owned();
    fs::read_to_string("/proc/self/mountinfo")
        .expect("mountinfo can be read")
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| point.starts_with(&path))
        .map(str::to_owned)
        .collect()
}

/// Waits until `done`; false if that never happens.
pub fn eventually(mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    done()
}

/// The processes of a build that runs, by their part in it.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// The command itself.
    pub main: Process,
    /// Its child, which holds the namespaces.
    pub keeper: Process,
    /// PID 1 of the build.
    pub init: Process,
    /// What runs the hooks.
    pub engine: Process,
}

/// A process by its part in a build, and the name of the part.
pub type Victim = (&'static str, fn(&Parts) -> Process);

/// What may be killed.
pub const VICTIMS: [Victim; 4] = [
    ("main", |parts| parts.main),
    ("keeper", |parts| parts.keeper),
    ("init", |parts| parts.init),
    ("engine", |parts| parts.engine),
];

/// A build in the background.
pub struct Started {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    /// Lines read so far.
    pub seen: Vec<String>,
}

impl Started {
    /// Starts a command with its output in a pipe.
    pub fn new(command: &mut Command) -> Started {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Started {
            child,
            output,
            seen: Vec::new(),
        }
    }

    /// Reads lines until one contains `text`.
    #[track_caller]
    pub fn until(&mut self, text: &str) {
        loop {
            let mut line = String::new();
            let count = self.output.read_line(&mut line).expect("output is text");
            if count == 0 {
                let mut said = String::new();
                if let Some(mut errors) = self.child.stderr.take() {
                    let _ = errors.read_to_string(&mut said);
                }
                panic!(
                    "the build ended before it said {text:?}:\n{}\n{said}",
                    self.seen.join("")
                );
            }
            let found = line.contains(text);
            self.seen.push(line);
            if found {
                return;
            }
        }
    }

    /// The command itself.
    #[track_caller]
    pub fn main(&self) -> Process {
        Process::of(self.child.id()).expect("the command runs, or has not been waited for")
    }

    /// The processes of the build.
    #[track_caller]
    pub fn parts(&self) -> Parts {
        let main = self.main();
        let only = |process: Process, what: &str| {
            *process
                .children()
                .first()
                .unwrap_or_else(|| panic!("the {what} runs"))
        };
        let keeper = only(main, "keeper");
        let init = only(keeper, "init");
        let engine = only(init, "engine");
        Parts {
            main,
            keeper,
            init,
            engine,
        }
    }

    /// Waits for the command's end, reading what it prints; the status is a shell's.
    pub fn end(mut self) -> (i32, String, String) {
        use std::os::unix::process::ExitStatusExt as _;
        let mut said = String::new();
        let mut errors = self.child.stderr.take();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(errors) = &mut errors {
                let _ = errors.read_to_string(&mut text);
            }
            text
        });
        let _ = self.output.read_to_string(&mut said);
        let status = self.child.wait().expect("the program can be waited for");
        let code = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        (
            code,
            self.seen.concat() + &said,
            reader.join().unwrap_or_default(),
        )
    }
}
