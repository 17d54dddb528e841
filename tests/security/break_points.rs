//! Shells at break points have a terminal of their own, not the caller's.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

use crate::common::toy::{Toy, names};
use crate::common::watch::eventually;

/// What anything in these tests may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A caller's terminal, from the side of who sits before it.
struct Caller {
    master: File,
    slave: OwnedFd,
    seen: String,
    modes: Termios,
}

impl Caller {
    fn new() -> Caller {
        let master = File::options()
            .read(true)
            .write(true)
            .open("/dev/ptmx")
            .expect("a terminal");
        let unlocked: libc::c_int = 0;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: requests to a terminal that is open, with a number that lives across them.
        let slave = unsafe {
            libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked);
            OwnedFd::from_raw_fd(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags))
        };
        let modes = tcgetattr(&slave).expect("modes");
        let caller = Caller {
            master,
            slave,
            seen: String::new(),
            modes,
        };
        caller.resize(24, 80);
        caller
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the request reads a size that lives across it.
        unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }

    fn size(&self) -> (u16, u16) {
        let mut size = std::mem::MaybeUninit::<libc::winsize>::zeroed();
        // SAFETY: the request fills a size, of which zeroes are one.
        let size = unsafe {
            libc::ioctl(self.master.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr());
            size.assume_init()
        };
        (size.ws_row, size.ws_col)
    }

    /// Starts a program as a login would.
    fn start(&self, command: &mut Command) -> Child {
        let stream = || Stdio::from(self.slave.try_clone().expect("duplicated"));
        command.stdin(stream()).stdout(stream()).stderr(stream());
        command.env("TERM", "dumb");
        let own = || {
            nix::unistd::setsid()?;
            // SAFETY: a request with an integer to standard input, which is a terminal.
            match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: the closure makes system calls alone.
        unsafe { command.pre_exec(own) };
        command.spawn().expect("kiln starts")
    }

    fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("typed");
    }

    /// Reads what is shown within a time; false at its end.
    fn look(&mut self, patience: u16) -> bool {
        let mut polled = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, PollTimeout::from(patience)) != Ok(1) {
            return false;
        }
        let mut buffer = [0; 4096];
        let count = self.master.read(&mut buffer).unwrap_or(0);
        self.seen
            .push_str(&String::from_utf8_lossy(&buffer[..count]));
        count > 0
    }

    /// Waits until this is shown, and forgets everything up to there.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let started = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{text:?} is not shown:\n{}",
                self.seen
            );
            self.look(100);
        }
    }

    #[track_caller]
    fn waits_for(&mut self, mut child: Child) -> ExitStatus {
        let started = Instant::now();
        loop {
            while self.look(20) {}
            if let Some(status) = child.try_wait().expect("waited for") {
                return status;
            }
            if started.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("it does not end:\n{}", self.seen);
            }
        }
    }

    fn is_as_before(&self) -> bool {
        tcgetattr(&self.slave).expect("modes") == self.modes
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process number"))
}

/// The ways of building that this user has.
fn modes() -> &'static [&'static str] {
    if nix::unistd::geteuid().is_root() {
        &["auto", "single", "chroot"]
    } else {
        &["auto", "single"]
    }
}

#[test]
fn a_shell_has_job_control_and_the_terminal_is_afterwards_as_it_was() {
    let mut toy = Toy::basic();
    toy.world.set("break", "before-root,after-install");
    toy.world.set("TOY_PROGRAMS", "tty stty");
    // Phases without hooks have break points too; this makes inside different from outside.
    toy.hook("install", "50-inside", "true");
    for mode in modes() {
        let mut caller = Caller::new();
        let log = toy.world.work().join("log");
        let arguments = format!(
            "-t tar --overwrite --mode {mode} --log-file {}",
            log.display()
        );
        let child = caller.start(&mut toy.command(&arguments));
        for place in ["before-root", "after-install"] {
            caller.sees(&format!("break point {place}: exit the shell to go on"));
            caller.types("PS1='$ '; echo $((6 * 7)) on; stty size; tty || :; echo \"($-)\"\n");
            caller.sees("42 on");
            caller.sees("24 80");
            // With the container's process numbers or without mounts it has no name there.
            if *mode != "chroot" {
                caller.sees("/dev/pts/");
            }
            caller.sees("(");
            caller.sees("m");
            caller.resize(30, 100);
            caller.types(
                "until [ \"$(stty size)\" = '30 100' ]; do sleep 0.1; done; echo follow''ed\n",
            );
            caller.sees("followed");
            caller.resize(24, 80);
            // What says that it runs has the terminal by then.
            let sleep = "bash -c 'echo has be\"\"gun; exec sleep 600'\n";
            caller.types(sleep);
            caller.sees("has begun");
            caller.types("\x03");
            caller.sees("$ ");
            caller.types("echo after $((2 + 3))\n");
            caller.sees("after 5");
            caller.types(sleep);
            caller.sees("has begun");
            caller.types("\x1a");
            caller.sees("Stopped");
            // Shells do not leave while they believe that there are stopped jobs.
            caller.types("kill -9 %1; while jobs %1 >/dev/null 2>&1; do sleep 0.1; done\n");
            caller.types("suspend; : </dev/tty && echo its o''wn; exit 5\n");
            caller.sees("its own");
            caller.sees(&format!("break point {place} left with status 5"));
            assert!(caller.is_as_before(), "{mode}, {place}");
        }
        let status = caller.waits_for(child);
        assert!(status.success(), "{mode}: {status}\n{}", caller.seen);
        let logged = std::fs::read_to_string(&log).expect("a log");
        assert!(logged.contains("left with status 5"), "{logged}");
        std::fs::remove_file(&log).expect("removed");
    }
    toy.assert_swept();
}

#[test]
fn what_a_hook_left_running_loses_the_terminal_with_the_shell() {
    let mut toy = Toy::basic();
    toy.world.set("break", "after-install,before-finalise");
    // It takes what it can get of whoever has a terminal, and uses it when the shell is gone.
    let spy = r#"
        setsid bash -c '
            exec 7</dev/null
            for try in {1..50}; do
                [ ! -e /tmp/taken ] || break
                for fd in /proc/[0-9]*/fd/0; do
                    if [[ $(readlink "$fd") == *pts/* ]] && { exec 7<>"$fd"; } 2>/dev/null; then
                        : >/tmp/taken
                        break
                    fi
                done
                sleep 0.1
            done
            # There are modes in which hooks do not get so far.
            : >/tmp/taken
            while [ ! -e /tmp/gone ]; do sleep 0.1; done
            echo intru''der >&7 || echo not written >/tmp/written
            stty rows 5 <&7 || :
            stty -echo -icanon <&7 || :
            if IFS= read -t 20 -r line <&7; then echo "$line" >/tmp/read; fi
            : >/tmp/done
        ' </dev/null >/dev/null 2>&1 &"#;
    toy.world.set("TOY_PROGRAMS", "stty");
    toy.hook("install", "50-spy", spy);
    let wait = "touch /tmp/gone; n=0; \
        while [ ! -e /tmp/done ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n + 1)); done; \
        cat /tmp/written || echo was written; cat /tmp/read || echo nothing was read";
    toy.hook("post-install", "50-wait", wait);
    for mode in modes() {
        let mut caller = Caller::new();
        let child =
            caller.start(&mut toy.command(&format!("-t tar --overwrite --mode {mode} --json")));
        caller.sees("break point after-install: exit the shell to go on");
        let wait = "PS1='$ '; until [ -e /tmp/taken ]; do sleep 0.1; done; echo rea''dy";
        caller.types(&format!("{wait}\n"));
        caller.sees("ready");
        caller.types("exit\n");
        caller.sees("break point after-install left");
        caller.types("a secret\n");
        caller.sees("break point before-finalise: exit the shell to go on");
        let seen = caller.seen.clone();
        assert_eq!(caller.size(), (24, 80), "{mode}");
        caller.types("exit\n");
        let status = caller.waits_for(child);
        assert!(status.success(), "{mode}: {status}\n{}", caller.seen);
        assert!(caller.is_as_before(), "{mode}");
        let all = format!("{seen}{}", caller.seen);
        assert!(!all.contains("intruder\r\n"), "{mode}: {all}");
    }
}

#[test]
fn the_terminal_is_as_it_was_however_a_shell_ends() {
    let mut toy = Toy::basic();
    toy.world.set("break", "before-root");
    for (what, signal, expected) in [
        ("kill -9 $$", None, "left with status 137"),
        ("", Some(Signal::SIGTERM), "stopped by SIGTERM"),
        ("", Some(Signal::SIGINT), "stopped by SIGINT"),
    ] {
        let mut caller = Caller::new();
        let child = caller.start(&mut toy.command("-t tar --overwrite"));
        caller.sees("break point before-root: exit the shell to go on");
        caller.types("echo re''ady\n");
        caller.sees("ready");
        assert!(!caller.is_as_before(), "the keys are not the shell's");
        match signal {
            Some(signal) => kill(pid(&child), signal).expect("sent"),
            None => caller.types(&format!("{what}\n")),
        }
        caller.sees(expected);
        caller.waits_for(child);
        assert!(caller.is_as_before(), "{what} {signal:?}");
        toy.assert_swept();
    }
}

#[test]
fn the_terminal_is_as_it_was_when_the_engine_is_killed() {
    let mut toy = Toy::basic();
    toy.world.set("break", "before-root");
    let mut caller = Caller::new();
    let child = caller.start(&mut toy.command("-t tar --overwrite"));
    caller.sees("break point before-root: exit the shell to go on");
    caller.types("echo re''ady\n");
    caller.sees("ready");
    // Main, keeper, init, engine.
    let mut engine = child.id();
    for _ in 0..3 {
        let path = format!("/proc/{engine}/task/{engine}/children");
        let children = std::fs::read_to_string(path).expect("a list");
        // Of main, the first one; the other watches the terminal.
        let first = children.split_whitespace().next().unwrap_or_default();
        engine = first.parse().expect("a child");
    }
    let engine = Pid::from_raw(i32::try_from(engine).expect("a process number"));
    kill(engine, Signal::SIGKILL).expect("sent");
    caller.sees("ended without a word");
    caller.waits_for(child);
    assert!(caller.is_as_before());
}

#[test]
fn a_build_that_is_stopped_at_a_shell_gives_the_terminal_back_meanwhile() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    let mut toy = Toy::basic();
    toy.world.set("break", "before-root");
    let mut caller = Caller::new();
    // A shell that does what one with job control does.
    let mut command = toy.command("-t tar --overwrite");
    let script = "set -m; \"$@\"; echo sto''pped; fg >/dev/null; echo status $?";
    let mut shell = toy.world.command("/bin/bash");
    shell.args(["-c", script, "bash"]);
    shell.arg(command.get_program()).args(command.get_args());
    command.stdin(Stdio::null());
    let child = caller.start(&mut shell);
    caller.sees("break point before-root: exit the shell to go on");
    caller.types("echo re''ady\n");
    caller.sees("ready");
    let group = nix::unistd::tcgetpgrp(&caller.master).expect("a foreground job");
    assert_ne!(group, pid(&child));
    kill(group, Signal::SIGTSTP).expect("sent");
    caller.sees("stopped");
    caller.resize(40, 120);
    // It is told of another size and of what is typed by different ways.
    caller.types("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.1; done; echo follow''ed\n");
    caller.sees("followed");
    assert!(!caller.is_as_before());
    caller.types("exit 3\n");
    caller.sees("left with status 3");
    caller.sees("status 0");
    caller.waits_for(child);
    assert!(caller.is_as_before());
    let nobody = waitpid(group, Some(WaitPidFlag::WNOHANG));
    assert!(!matches!(nobody, Ok(WaitStatus::StillAlive)));
}

#[test]
fn the_terminal_is_as_it_was_when_main_is_killed() {
    let mut toy = Toy::basic();
    toy.world.set("break", "before-root");
    let mut caller = Caller::new();
    // A shell that leaves the terminal as its jobs do.
    let script = "set +m; \"$@\"; echo status $?; read -r; echo over";
    let mut command = toy.command("-t tar --overwrite");
    let mut shell = toy.world.command("/bin/bash");
    shell.args(["-c", script, "bash"]);
    shell.arg(command.get_program()).args(command.get_args());
    command.stdin(Stdio::null());
    let child = caller.start(&mut shell);
    caller.sees("break point before-root: exit the shell to go on");
    caller.types("echo re''ady\n");
    caller.sees("ready");
    assert!(!caller.is_as_before());
    let path = format!("/proc/{0}/task/{0}/children", child.id());
    let main = std::fs::read_to_string(path).expect("a list");
    let main = Pid::from_raw(main.trim().parse().expect("kiln"));
    kill(main, Signal::SIGKILL).expect("sent");
    caller.sees("status 137");
    let started = Instant::now();
    while !caller.is_as_before() {
        assert!(started.elapsed() < PATIENCE, "it stays raw");
        std::thread::sleep(Duration::from_millis(10));
    }
    caller.types("\n");
    caller.sees("over");
    caller.waits_for(child);
    // The build's own processes end and sweep by themselves.
    eventually(|| names(&toy.world.tmp()).is_empty());
    toy.assert_swept();
}

#[test]
fn a_build_in_the_background_waits_with_its_shell_and_takes_the_modes_of_a_job() {
    let mut toy = Toy::basic();
    toy.world.set("break", "before-root");
    toy.world.set("TOY_PROGRAMS", "stty");
    let mut caller = Caller::new();
    let command = toy.command("-t tar --overwrite");
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().expect("text")).collect();
    // A person's shell edits its line, for which its terminal echoes nothing by itself.
    let mut shell = toy.world.command("/bin/bash");
    shell.args(["--norc", "--noprofile", "-i"]);
    let child = caller.start(&mut shell);
    caller.types("PS1='re''ady> '\n");
    caller.sees("ready> ");
    caller.types(&format!("{} &\n", words.join(" ")));
    caller.sees("break point before-root: exit the shell to go on");
    caller.types("\n\n");
    caller.sees("ready> ");
    caller.types("jobs; echo $((6 * 7)) on\n");
    caller.sees("42 on");
    caller.types("fg >/dev/null\n");
    let modes = "stty -a | tr ' ;' '\\n\\n' | grep -xE -- '-?(icanon|echo|isig)' | tr '\\n' ' '";
    caller.types(&format!("echo modes: $({modes}) a''re\n"));
    caller.sees("modes: isig icanon echo are");
    caller.types("exit 3\n");
    caller.sees("left with status 3");
    caller.sees("ready> ");
    caller.types(&format!("echo modes: $({modes}) a''re\n"));
    caller.sees("modes: isig icanon echo are");
    caller.types("exit 0\n");
    caller.waits_for(child);
    assert!(caller.is_as_before());
    toy.assert_swept();
}

#[test]
fn a_shell_without_a_terminal_has_the_streams_of_the_caller() {
    let mut toy = Toy::basic();
    toy.world.set("break", "before-root");
    let mut command = toy.command("-t tar --json");
    command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::null());
    let mut child = command.spawn().expect("kiln starts");
    let mut input = child.stdin.take().expect("a pipe");
    input
        .write_all(b"test ! -t 0 && echo read from a pipe >&2\nexit 3\n")
        .expect("written");
    drop(input);
    let output = child.wait_with_output().expect("waited for");
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("read from a pipe"), "{said}");
}
