//! Runs programs in the sandbox, outside or inside a target root.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::Mode;

use super::capability::{self, CAP_MKNOD};
use super::handed::Handed;
use super::inside::Inside;
use super::limits::{Clock, Watch};
use super::process;
use super::seccomp::{self, Filter};
use super::terminal::Terminal;
use crate::threads::joined;
use crate::tree::live::read_directory;

/// A line longer than this is cut into several, so that memory stays bounded.
const LONGEST_LINE: usize = 64 * 1024;

/// Bytes that are read at a time.
const READ: usize = 16 * 1024;

/// A program to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program and its arguments; an absolute path unless found by PATH.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The target that it runs in; `None` is the sandbox's own root.
    pub inside: Option<Arc<Inside>>,
    /// Its working directory, inside that root.
    pub directory: PathBuf,
    /// What a program before it set up for it.
    pub handed: Option<Handed>,
    /// System calls that it is not to make for real.
    pub filter: Option<Filter>,
    /// A descriptor that stays open in it under the same number.
    pub keep_open: Option<RawFd>,
    /// Limits that end it.
    pub watch: Option<Watch>,
}

impl Program {
    fn command(&self) -> io::Result<Command> {
        let Some((program, arguments)) = self.arguments.split_first() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no program to run",
            ));
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(k, v)| (k, v)));
        let inside = self.inside.clone();
        let watch = self.watch.clone();
        let directory =
            std::ffi::CString::new(self.directory.clone().into_os_string().into_encoded_bytes())?;
        let handed = self.handed.clone();
        let filter = self.filter.clone();
        let keep_open = self.keep_open;
        let answered = filter.as_ref().is_some_and(Filter::is_answered);
        let mounts_are_possible = super::standin::mounts_are_possible();
        let prepare = move || {
            // What a caller of kiln left open leads out of every root.
            close_on_exec_from(3)?;
            // Where this process looks is what the kernel has, not what a target has there.
            let open = nix::fcntl::open(c"/proc/self/fd", LISTED, Mode::empty())?;
            // The supervisor makes devices for it; see `emul/device.rs`. Until its `execve` it
            // has this capability more than programs of hooks, so that none looks into it.
            if answered && !mounts_are_possible {
                capability::give_up_at_start(CAP_MKNOD)?;
            }
            if let Some(inside) = &inside {
                inside.enter()?;
            }
            if let Some(watch) = &watch {
                watch.confine()?;
            }
            // From here on paths that hooks made are followed, the program's own too.
            close_files(&open)?;
            nix::unistd::chdir(directory.as_c_str()).map_err(io::Error::from)?;
            if let Some(handed) = &handed {
                handed.take()?;
            }
            if let Some(fd) = keep_open {
                // SAFETY: the flags of a descriptor that the engine holds open.
                let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
                nix::fcntl::fcntl(
                    fd,
                    nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
                )
                .map_err(io::Error::from)?;
            }
            if let Some(filter) = &filter {
                if filter.is_traced_at_once() {
                    // Nobody else may look into it before its `execve`: it still has the
                    // engine's memory, and with that what was withheld from hooks.
                    nix::sys::prctl::set_dumpable(true)?;
                }
                seccomp::install(filter)?;
            }
            Ok(())
        };
        // SAFETY: the closure only makes system calls; it neither allocates nor locks.
        unsafe { command.pre_exec(prepare) };
        Ok(command)
    }

    /// Runs it with its output going to `line`, standard error included.
    ///
    /// Ends when the program ends: what daemons that it left behind still print
    /// is not waited for.
    pub fn run(&self, line: &mut dyn FnMut(&[u8])) -> io::Result<ExitStatus> {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let mut command = self.command()?;
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        // Without a terminal, into which it could type: in this process's session if
        // that has none, else in one of its own. In a group of its own in any case.
        if nix::unistd::getsid(None) == Ok(nix::unistd::getpid()) {
            command.process_group(0);
        } else {
            let leave = || nix::unistd::setsid().map(drop).map_err(io::Error::from);
            // SAFETY: the closure makes one system call.
            unsafe { command.pre_exec(leave) };
        }
        let mut clock = self.watch.as_ref().map(Watch::begin);
        let mut child = Ended(start(command, clock.as_mut())?);
        nix::fcntl::fcntl(
            &reader,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        let mut reader = std::fs::File::from(reader);
        let ended = process::descriptor(child.0.id())?;
        let mut lines = Lines::default();
        let mut open = true;
        let mut exited = false;
        // A program that has closed its output still has its limits.
        while !exited {
            let mut polled = [
                PollFd::new(ended.as_fd(), PollFlags::POLLIN),
                PollFd::new(reader.as_fd(), PollFlags::POLLIN),
            ];
            let watched = if open { 2 } else { 1 };
            let patience = clock
                .as_ref()
                .map_or(PollTimeout::NONE, |clock| clock.patience());
            match poll(&mut polled[..watched], patience) {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            exited = polled[0].any().unwrap_or(false);
            // Once, and no more than the pipe holds: who writes faster than we read
            // would keep us from looking at the clock, or at the end.
            open = open
                && if exited {
                    lines.take_rest(&mut reader, line)?
                } else {
                    lines.take_some(&mut reader, line)?
                };
            if let Some(clock) = &mut clock
                && !exited
                && let Err(exceeded) = clock.check()
            {
                lines.finish(line);
                return Err(io::Error::other(exceeded));
            }
        }
        lines.finish(line);
        let status = child.wait()?;
        match clock.map_or(Ok(()), |clock| clock.end(status.success())) {
            Ok(()) => Ok(status),
            Err(exceeded) => Err(io::Error::other(exceeded)),
        }
    }

    /// Runs it for the user: on the caller's standard streams, but for those that are a
    /// terminal, in whose place it has one of its own.
    pub fn interact(&self, terminal: Option<&Terminal<'_>>) -> io::Result<ExitStatus> {
        let mut command = self.command()?;
        match terminal {
            Some(terminal) => {
                let [input, output, error] = terminal.streams()?;
                command.stdin(input).stdout(output).stderr(error);
                let begin = terminal.session();
                // SAFETY: the closure only makes system calls.
                unsafe { command.pre_exec(begin) };
            }
            None => {
                command.process_group(0);
            }
        }
        process::wait_until_ended(command.spawn()?)
    }
}

/// Has the kernel keep how a child ended until it is waited for. Who starts kiln with `SIGCHLD`
/// ignored (daemons do, and a shell after `trap '' CHLD`) hands that on: then nobody learns how
/// a probe or the sandbox ended, and hooks do not learn it of their programs (`wait(2)`).
pub fn await_children() {
    // SAFETY: the default action installs no handler.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) };
}

/// How often the clock is looked at while a program is being started.
const LOOK: Duration = Duration::from_millis(100);

/// Starts a program, which is waited for until it is one. What an earlier hook left running
/// can stop it before that, and its limits are to hold even so.
fn start(mut command: Command, clock: Option<&mut Clock<'_>>) -> io::Result<Child> {
    let Some(clock) = clock.filter(|clock| clock.patience().is_some()) else {
        return command.spawn();
    };
    std::thread::scope(|scope| {
        let (started, waiting) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().spawn_scoped(scope, move || {
            let _started = started;
            command.spawn()
        })?;
        while let Err(mpsc::RecvTimeoutError::Timeout) = waiting.recv_timeout(LOOK) {
            if let Err(exceeded) = clock.check() {
                // Nobody knows its number yet.
                kill_others();
                joined(thread).map(Ended)?;
                return Err(io::Error::other(exceeded));
            }
        }
        joined(thread)
    })
}

/// Whether the caller has this process ignore a signal, as `nohup` does with `SIGHUP`, and a
/// shell without job control with `SIGINT` for what runs in the background. The kernel hands such
/// a signal to a `signalfd(2)` or `sigwait(3)` all the same, so that who waits there has to ask.
pub fn is_ignored(signal: Signal) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action is given, and `action` has room for the one that is in place.
    let result =
        unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroed, or filled by the call; every bit pattern of it is valid.
    let action = unsafe { action.assume_init() };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// A child that is killed, with its process group, and waited for when it is dropped.
struct Ended(Child);

impl Ended {
    /// Waits for its own end.
    fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        // Nothing to do after `wait`: its number may be another's by then.
        if let Ok(Some(_)) = self.0.try_wait() {
            return;
        }
        let group = nix::unistd::Pid::from_raw(-i32::try_from(self.0.id()).unwrap_or(0));
        if group.as_raw() < -1 {
            let _ = nix::sys::signal::kill(group, nix::sys::signal::SIGKILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has every descriptor from `first` on closed by the next `execve`.
/// Async-signal-safe. See `close_range(2)`.
fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    const CLOEXEC: libc::c_uint = 4;
    // SAFETY: three integers; nothing is closed yet.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOEXEC) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const LISTED: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// Closes the files and directories among the descriptors in the list, but the standard
/// ones: a path such as `/proc/self/fd/3/..` leads from them to the host, until they are
/// closed by `execve`. Pipes and sockets stay. Async-signal-safe.
fn close_files(list: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; 4096];
    read_directory(list.as_fd(), &mut buffer, |name, _| {
        let number = name.to_str().ok().and_then(|name| name.parse().ok());
        let Some(number) = number.filter(|&number: &RawFd| number > 2) else {
            return Ok(());
        };
        // SAFETY: it was open when it was listed, and one that is not is told so.
        let found = nix::sys::stat::fstat(unsafe { BorrowedFd::borrow_raw(number) });
        let is_file = found.is_ok_and(|found| {
            let kind = found.st_mode & libc::S_IFMT;
            kind == libc::S_IFDIR || kind == libc::S_IFREG
        });
        if is_file && number != list.as_raw_fd() {
            // SAFETY: this process becomes another program, and uses none of them before.
            unsafe { libc::close(number) };
        }
        Ok(())
    })?;
    Ok(())
}

/// Cuts a byte stream into lines.
#[derive(Default)]
struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes what one read gives; false at the end of the stream.
    fn take_some(
        &mut self,
        reader: &mut std::fs::File,
        line: &mut dyn FnMut(&[u8]),
    ) -> io::Result<bool> {
        self.take(reader, READ, line).map(|count| count != Some(0))
    }

    /// Takes what is in the pipe at this moment, and not what others write meanwhile;
    /// false at the end of the stream.
    fn take_rest(
        &mut self,
        reader: &mut std::fs::File,
        line: &mut dyn FnMut(&[u8]),
    ) -> io::Result<bool> {
        let mut left: libc::c_int = 0;
        // SAFETY: the request writes one integer.
        let asked = unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &raw mut left) };
        if asked < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut left = usize::try_from(left).unwrap_or(0);
        while left > 0 {
            match self.take(reader, left.min(READ), line)? {
                Some(0) => return Ok(false),
                Some(count) => left = left.saturating_sub(count),
                None => break,
            }
        }
        Ok(true)
    }

    /// Reads once, at most so much; `None` if there is nothing now.
    fn take(
        &mut self,
        reader: &mut std::fs::File,
        most: usize,
        line: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Option<usize>> {
        let mut buffer = [0; READ];
        loop {
            match reader.read(&mut buffer[..most.min(READ)]) {
                Ok(count) => {
                    self.push(&buffer[..count], line);
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn push(&mut self, bytes: &[u8], line: &mut dyn FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            self.pending.extend_from_slice(piece);
            if self.pending.ends_with(b"\n") {
                self.pending.pop();
                if self.pending.ends_with(b"\r") {
                    self.pending.pop();
                }
                line(&self.pending);
                self.pending.clear();
            } else if self.pending.len() >= LONGEST_LINE {
                line(&self.pending);
                self.pending.clear();
            }
        }
    }

    fn finish(&mut self, line: &mut dyn FnMut(&[u8])) {
        if !self.pending.is_empty() {
            line(&self.pending);
            self.pending.clear();
        }
    }
}

/// The status that a shell would report: 128 plus the signal for a killed process.
pub fn shell_status(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Kills every process of the sandbox but its init and the caller, and waits until
/// they are gone.
///
/// Does nothing in a process that is not the engine of a sandbox: there "every
/// process" would be the user's.
pub fn kill_others() {
    if !process::is_engine() {
        return;
    }
    if !process::has_own_processes() {
        if !super::family::end_siblings() {
            tracing::warn!("some processes of the build do not end");
        }
        return;
    }
    let everybody = nix::unistd::Pid::from_raw(-1);
    // ESRCH says that nobody is left. PID 1 reaps them meanwhile; a process that
    // sleeps in the kernel may take a moment, one that never wakes must not hang us.
    for _ in 0..500 {
        if nix::sys::signal::kill(everybody, nix::sys::signal::SIGKILL).is_err() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    tracing::warn!("some processes of the build do not end");
}

/// Whether `path` is a text that names no interpreter, which bash would run itself.
///
/// The kernel refuses such a file, and `execvp(3)` then takes `/bin/sh`, which
/// on many systems is not bash.
pub fn is_plain_script(path: &Path) -> bool {
    // As much as bash looks at to tell a text from a program.
    start_of(path, 80).is_ok_and(|start| !start.starts_with(b"#!") && !start.contains(&0))
}

/// The interpreter that a script's first line names, as a hint shows it.
pub fn interpreter(path: &Path) -> Option<String> {
    // As much as the kernel reads (`BINPRM_BUF_SIZE`).
    let start = start_of(path, 256).ok()?;
    let line = start
        .strip_prefix(b"#!")?
        .split(|&byte| byte == b'\n')
        .next()?;
    let line = line.trim_ascii_start();
    let end = line.iter().position(|byte| b" \t".contains(byte));
    let name = &line[..end.unwrap_or(line.len())];
    Some(String::from_utf8_lossy(name).escape_debug().to_string())
}

fn start_of(path: &Path, length: u64) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    // An earlier hook may have made a FIFO of it: no limit of time ends a wait here.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    file.take(length).read_to_end(&mut start)?;
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(script: &str) -> Program {
        Program {
            arguments: ["/bin/sh", "-c", script].map(OsString::from).to_vec(),
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            inside: None,
            directory: PathBuf::from("/"),
            handed: None,
            filter: None,
            keep_open: None,
            watch: None,
        }
    }

    fn lines(script: &str) -> (i32, Vec<String>) {
        let mut out = Vec::new();
        let status = program(script)
            .run(&mut |line| out.push(String::from_utf8_lossy(line).into_owned()))
            .expect("a shell runs");
        (shell_status(status), out)
    }

    #[test]
    fn the_interpreter_of_a_script_is_shown_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hook");
        for (text, expected) in [
            ("#!/bin/bash\n", Some("/bin/bash")),
            ("#! /usr/bin/env python3\nx", Some("/usr/bin/env")),
            ("#!/bin/bash\r\n", Some("/bin/bash\\r")),
            ("echo", None),
        ] {
            fs_err::write(&path, text).expect("written");
            assert_eq!(interpreter(&path).as_deref(), expected, "{text:?}");
        }
        assert_eq!(interpreter(dir.path()), None);
    }

    #[test]
    fn output_comes_in_lines_and_the_status_is_the_shells() {
        assert_eq!(
            lines("echo a; echo b >&2; printf c; exit 7"),
            (7, vec!["a".into(), "b".into(), "c".into()])
        );
        assert_eq!(lines("kill -9 $$").0, 137);
    }

    #[test]
    fn a_daemon_that_keeps_the_pipe_open_is_not_waited_for() {
        let started = std::time::Instant::now();
        let (status, out) = lines("sleep 30 & echo started; echo $!");
        assert_eq!((status, out[0].as_str()), (0, "started"));
        assert!(started.elapsed().as_secs() < 20, "waited for the daemon");
        kill(&out[1]);
    }

    fn kill(pid: &str) {
        let pid: i32 = pid.parse().expect("a process id");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
    }

    /// A program that may take so long.
    fn within(seconds: u64, script: &str) -> Program {
        let mut program = program(script);
        program.watch = Some(Watch {
            limits: super::super::limits::Limits {
                hook: Some(std::time::Duration::from_secs(seconds)),
                ..Default::default()
            },
            work: PathBuf::from("/"),
            work_in_memory: true,
            group: super::super::limits::Counted {
                memory: true,
                processes: true,
            },
        });
        program
    }

    #[test]
    fn a_program_that_closes_its_output_is_still_ended_by_its_limit() {
        let silent = within(1, "exec >&- 2>&-; exec sleep 20");
        let error = silent.run(&mut |_| {}).expect_err("it is ended");
        assert!(error.to_string().contains("--timeout"), "{error}");
        let short = within(60, "exec >&- 2>&-; sleep 0.2; exit 3");
        let status = short.run(&mut |_| {}).expect("a shell runs");
        assert_eq!(shell_status(status), 3);
    }

    #[test]
    fn a_program_that_never_stops_printing_is_ended_by_its_limit() {
        let flood = within(1, "yes & yes & exec yes");
        // Slower than who writes.
        let mut slow = |_: &[u8]| std::thread::sleep(std::time::Duration::from_micros(1));
        let error = flood.run(&mut slow).expect_err("it is ended");
        assert!(error.to_string().contains("--timeout"), "{error}");
    }

    #[test]
    fn a_daemon_that_never_stops_printing_does_not_keep_its_program() {
        let mut first = None;
        let mut slow = |line: &[u8]| {
            if first.is_none() {
                first = Some(String::from_utf8_lossy(line).into_owned());
            }
            std::thread::sleep(std::time::Duration::from_micros(1));
        };
        let script = "sh -c 'echo $$; exec yes' & sleep 0.2; exit 3";
        let status = program(script).run(&mut slow).expect("a shell runs");
        assert_eq!(shell_status(status), 3);
        kill(&first.expect("it printed"));
    }

    #[test]
    fn programs_after_a_shell_at_a_break_point_ignore_no_more_signals_than_before_it() {
        let ignored = || lines("grep SigIgn: /proc/self/status").1;
        let before = ignored();
        let status = program("exit 4").interact(None).expect("a shell runs");
        assert_eq!(shell_status(status), 4);
        assert_eq!(ignored(), before);
    }

    #[test]
    fn what_was_printed_before_the_end_is_there_whole() {
        let (_, out) = lines("seq 5000");
        assert_eq!(out.len(), 5000);
        assert_eq!(out.last().map(String::as_str), Some("5000"));
    }

    #[test]
    fn a_child_does_not_outlive_who_looks_after_it() {
        use std::os::unix::process::CommandExt as _;
        let child = Command::new("/bin/sh")
            .args(["-c", "trap '' TERM HUP; sleep 600"])
            .process_group(0)
            .spawn()
            .expect("a shell runs");
        let ended = process::descriptor(child.id()).expect("it lives");
        drop(Ended(child));
        let mut polled = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        assert_eq!(
            poll(&mut polled, PollTimeout::ZERO),
            Ok(1),
            "it lives still"
        );
    }

    #[test]
    fn an_endless_line_is_cut() {
        let (_, out) = lines("head -c 200000 /dev/zero | tr '\\0' x");
        assert!(out.len() > 1 && out.iter().map(String::len).sum::<usize>() == 200_000);
    }

    #[test]
    fn only_texts_without_an_interpreter_are_plain_and_a_fifo_holds_nobody_up() {
        let place = tempfile::tempdir().expect("a directory");
        for (name, content, expected) in [
            ("text", &b"echo hello\n"[..], true),
            ("script", b"#!/bin/sh\n", false),
            ("program", b"\x7fELF\0", false),
        ] {
            let path = place.path().join(name);
            std::fs::write(&path, content).expect("written");
            assert_eq!(is_plain_script(&path), expected, "{name}");
        }
        let fifo = place.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
        assert!(is_plain_script(&fifo));
        assert!(!is_plain_script(&place.path().join("missing")));
    }
}
