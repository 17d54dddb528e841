//! What every integration test stands on: a private home, a fixed clock, and
//! the real binary.

// Each test binary uses its own part of this.
#![allow(dead_code, unused_macros, unused_imports)]

pub mod filter;
pub mod host;
pub mod image;
pub mod listing;
pub mod online;
pub mod qemu;
pub mod ramdisk;
pub mod toy;
pub mod watch;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use tempfile::TempDir;

/// 2026-03-01 12:00:00 UTC: the time in images that tests build.
pub const CLOCK: &str = "1772366400";

/// Variables of the caller that tests keep: how programs are found, where the
/// compiled tests report to, and how the network is reached.
const KEPT: [&str; 7] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "LLVM_PROFILE_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Says that a test cannot run here and returns from it.
///
/// With `KILN_NO_SKIP=1` that is a failure. `KILN_SKIP_LOG` names a file that
/// collects the reasons. `.ci/run` fails if a test skips for both of its users.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::common::skipped(&format!($($reason)*));
        return;
    }};
}

/// The tests may be started with some ignored (`nohup`, or by a shell in the background), which
/// kiln heeds.
fn heed_signals() -> std::io::Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for number in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: the default action is no handler.
        unsafe { signal(number, SigHandler::SigDfl) }?;
    }
    Ok(())
}

/// The part of [`skip!`] that is a function.
pub fn skipped(reason: &str) {
    println!("SKIP: {reason}");
    if let Some(log) = std::env::var_os("KILN_SKIP_LOG") {
        let mut log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .expect("KILN_SKIP_LOG can be written");
        writeln!(log, "SKIP: {reason}").expect("KILN_SKIP_LOG can be written");
    }
    if std::env::var_os("KILN_NO_SKIP").is_some_and(|value| value == "1") {
        panic!("skipped although KILN_NO_SKIP=1: {reason}");
    }
}

/// A program of the host, also where only root has its directory in `PATH`.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// A private home and working directory, in which kiln is run.
pub struct World {
    root: TempDir,
    environment: Vec<(OsString, OsString)>,
}

/// What a program printed and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// Standard output; what is not UTF-8 is replaced.
    pub stdout: String,
    /// Standard error; what is not UTF-8 is replaced.
    pub stderr: String,
    /// How it ended.
    pub status: ExitStatus,
}

impl World {
    /// An empty home and an empty working directory.
    pub fn new() -> Self {
        let root = tempfile::Builder::new()
            .prefix("kiln-test.")
            .tempdir()
            .expect("a temporary directory can be made");
        for directory in ["home", "work", "tmp"] {
            fs::create_dir(root.path().join(directory)).expect("a directory can be made");
        }
        Self {
            root,
            environment: Vec::new(),
        }
    }

    /// The directory that programs run in.
    pub fn work(&self) -> PathBuf {
        self.root.path().join("work")
    }

    /// The home directory.
    pub fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    /// The directory for temporary files (`TMPDIR`).
    pub fn tmp(&self) -> PathBuf {
        self.root.path().join("tmp")
    }

    /// Sets a variable for all programs that follow.
    pub fn set(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Writes a file below the working directory, with its directories.
    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.work().join(path);
        let parent = path.parent().expect("a file is in a directory");
        fs::create_dir_all(parent).expect("directories can be made");
        fs::write(&path, text).expect("a file can be written");
        path
    }

    /// A command in this world, with nothing of the caller's environment that
    /// could change what it does.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .current_dir(self.work())
            .stdin(Stdio::null())
            .env("HOME", self.home())
            .env("TMPDIR", self.tmp())
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("SOURCE_DATE_EPOCH", CLOCK);
        for name in KEPT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        // SAFETY: the closure only makes system calls.
        unsafe { command.pre_exec(heed_signals) };
        command
    }

    /// The command `kiln`.
    pub fn kiln(&self) -> Command {
        self.command(kiln())
    }

    /// kiln under another name, as a link makes it.
    pub fn face(&self, name: &str) -> Command {
        let link = self.root.path().join(name);
        if !link.exists() {
            symlink(kiln(), &link).expect("a link can be made");
        }
        self.command(link)
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// The binary under test.
pub fn kiln() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_kiln"))
}

/// Where downloads and roots are kept from one test run to the next.
pub fn cache() -> PathBuf {
    if let Some(path) = std::env::var_os("KILN_TEST_CACHE") {
        return PathBuf::from(path);
    }
    let name = format!("kiln-cache-{}", nix::unistd::geteuid());
    let candidates = [
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        std::env::temp_dir(),
    ];
    for directory in &candidates {
        let path = directory.join(&name);
        if fs::create_dir_all(&path).is_ok() {
            return path;
        }
    }
    panic!("none of {candidates:?} can be written: name a directory with KILN_TEST_CACHE");
}

/// Whether packets could leave this machine at all.
pub fn has_network() -> bool {
    let route =
        |path, lines| fs::read_to_string(path).is_ok_and(|text| text.lines().count() > lines);
    let proxy = ["http_proxy", "https_proxy"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    // The first of these tables has a heading; the second always has loopback's.
    proxy || route("/proc/net/route", 1) || route("/proc/net/ipv6_route", 2)
}

/// Runs a command to its end.
pub trait Run {
    /// What it printed and how it ended.
    fn run(&mut self) -> Outcome;

    /// Same, with arguments as a shell would split them.
    fn words(&mut self, line: &str) -> Outcome;
}

impl Run for Command {
    fn run(&mut self) -> Outcome {
        let output = self.output().expect("the program can be started");
        Outcome {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            status: output.status,
        }
    }

    fn words(&mut self, line: &str) -> Outcome {
        let words = shlex::split(line).expect("test lines are well quoted");
        self.args(words).run()
    }
}

impl Outcome {
    /// Its exit status; a signal counts as 128 and more, as in a shell.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// Fails the test unless the program succeeded; returns what it printed.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(
            self.status.success(),
            "{}\nstdout:\n{}\nstderr:\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout
    }
}
