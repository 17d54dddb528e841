//! What system calls cost outside, and below the supervisor.
//!
//!     cargo bench --bench traps
//!
//! Prints a table in Markdown: microseconds per call, the least and the median
//! of many batches. Modes that this host has not got are left out. The second
//! column is the least that any supervisor takes here ([`bare`]); what that does
//! not answer costs in it what it costs outside. See `docs/benchmarks.md`.

mod bare;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use kiln::sandbox::command::Program;
use kiln::sandbox::notify::{Options, Supervisor};
use kiln::sandbox::{choice, identity, userns};

/// Set in the process that measures.
const ROLE: &str = "KILN_TRAPS_ROLE";
const BATCHES: usize = 40;

/// What is measured: a name, and a number of calls in a batch.
type Case = (&'static str, usize, Box<dyn FnMut()>);

fn main() {
    match std::env::var_os(ROLE) {
        Some(role) if role == bare::SUPERVISOR => return bare::supervise().expect("it answers"),
        Some(_) => return measure(),
        None => {}
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut columns = vec![("outside".to_owned(), plain(directory.path()))];
    match bare::column(directory.path()) {
        Some(column) => columns.push(("a bare loop".to_owned(), column)),
        None => println!("this kernel lets no process answer another's calls"),
    }
    for (name, mode, guarded) in [
        ("subordinate", "subordinate", false),
        ("single", "single", true),
        ("single, no guard", "single", false),
    ] {
        match supervised(mode, guarded, directory.path()) {
            Some(column) => columns.push((name.to_owned(), column)),
            None => println!("mode {mode} is not available here"),
        }
    }
    println!(
        "| call, µs (least / median) | {} |",
        join(columns.iter().map(|column| column.0.clone()))
    );
    println!("|---|{}", "---|".repeat(columns.len()));
    for (name, _, _) in cases() {
        let cells = columns.iter().map(|(_, column)| {
            column.get(name).map_or("–".to_owned(), |(least, median)| {
                format!("{least:.2} / {median:.2}")
            })
        });
        println!("| {name} | {} |", join(cells));
    }
}

fn join(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(" | ")
}

type Column = BTreeMap<String, (f64, f64)>;

fn parse(text: &str) -> Column {
    let line = |line: &str| {
        let mut words = line.split('\t');
        let name = words.next()?.to_owned();
        Some((
            name,
            (words.next()?.parse().ok()?, words.next()?.parse().ok()?),
        ))
    };
    text.lines().filter_map(line).collect()
}

/// The same program without any sandbox.
fn plain(directory: &Path) -> Column {
    let output = std::process::Command::new(std::env::current_exe().expect("a path"))
        .env(ROLE, "outside")
        .current_dir(directory)
        .output()
        .expect("it runs");
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn supervised(mode: &str, guarded: bool, directory: &Path) -> Option<Column> {
    let identity = choice::choose(Some(mode)).ok()?.identity;
    let result = directory.join("result");
    let status = userns::run_mapped(&identity, || {
        // As the engine of a build does.
        let _ = nix::unistd::setsid();
        let options = if identity::owners_are_recorded() {
            Options::single()
        } else {
            Options::ranges()
        };
        let work = directory.join(format!("{mode}-{guarded}"));
        std::fs::create_dir(&work).expect("a directory");
        let supervisor = Supervisor::start(Options {
            journal: Some((work.join("owners"), work.clone())),
            guarded: options.guarded && guarded,
            ..options
        })
        .expect("a supervisor");
        let mut environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        environment.push((ROLE.into(), mode.into()));
        let program = Program {
            arguments: vec![std::env::current_exe().expect("a path").into()],
            environment,
            inside: None,
            watch: None,
            directory: work.clone(),
            handed: None,
            filter: Some(supervisor.filter()),
            keep_open: None,
        };
        let mut text = Vec::new();
        let ended = program.run(&mut |line| {
            text.extend_from_slice(line);
            text.push(b'\n');
        });
        let written = std::fs::write(&result, text);
        u8::from(written.is_err() || !ended.is_ok_and(|status| status.success()))
    });
    (status.ok()? == 0).then(|| parse(&std::fs::read_to_string(result).unwrap_or_default()))
}

fn measure() {
    std::fs::write("file", "x").expect("written");
    std::fs::write("owned", "x").expect("written");
    // Refused where there is no such id; the file is the program's own then.
    let _ = std::os::unix::fs::chown("owned", Some(5), Some(6));
    for (name, calls, mut case) in cases() {
        let mut times: Vec<f64> = (0..BATCHES)
            .map(|_| {
                let start = Instant::now();
                (0..calls).for_each(|_| case());
                start.elapsed().as_secs_f64() * 1e6 / calls as f64
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("{name}\t{}\t{}", times[0], times[BATCHES / 2]);
    }
}

fn absolute(name: &str) -> CString {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    CString::new(here.join(name).into_os_string().into_encoded_bytes()).expect("no zero")
}

fn stat(path: &CStr) {
    // SAFETY: the path is terminated, and zeroes are a valid value.
    unsafe {
        let mut found: libc::stat = std::mem::zeroed();
        libc::syscall(
            libc::SYS_newfstatat,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw mut found,
            0,
        );
    }
}

fn open(path: &CStr, flags: libc::c_int) -> libc::c_int {
    // SAFETY: the path is terminated.
    unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o644) }
}

fn close(fd: libc::c_int) {
    // SAFETY: the descriptor is ours.
    unsafe { libc::close(fd) };
}

fn cases() -> Vec<Case> {
    let (file, owned) = (absolute("file"), absolute("owned"));
    let given = file.clone();
    let (created, existing) = (absolute("created"), file.clone());
    let (peer, other) = UnixStream::pair().expect("two sockets");
    // Both ends stay as long as the process.
    std::mem::forget(other);
    // SAFETY: all paths are terminated, numbers are numbers, and the buffer is
    // as large as the call expects.
    unsafe {
        vec![
            ("a byte through a pipe and back", 1000, Box::new(echo())),
            (
                "getppid, not trapped",
                2000,
                Box::new(|| ignore(libc::syscall(libc::SYS_getppid))),
            ),
            (
                "geteuid, an empty trap",
                1000,
                Box::new(|| ignore(libc::syscall(libc::SYS_geteuid))),
            ),
            (
                "fstat",
                1000,
                Box::new(|| {
                    let mut found: libc::stat = std::mem::zeroed();
                    libc::syscall(libc::SYS_fstat, 1, &raw mut found);
                }),
            ),
            ("stat, relative", 1000, Box::new(|| stat(c"file"))),
            ("stat, absolute", 1000, Box::new(move || stat(&file))),
            ("stat, recorded owner", 1000, Box::new(move || stat(&owned))),
            (
                "chown 5:6",
                500,
                Box::new(move || ignore(libc::chown(given.as_ptr(), 5, 6).into())),
            ),
            (
                "capget",
                1000,
                Box::new(|| {
                    // Version 3 of the header, for this process; see capget(2).
                    let mut header = [0x2008_0522_u32, 0];
                    let mut sets = [0_u32; 6];
                    ignore(libc::syscall(
                        libc::SYS_capget,
                        header.as_mut_ptr(),
                        sets.as_mut_ptr(),
                    ));
                }),
            ),
            (
                "getsockopt, SO_PEERCRED",
                1000,
                Box::new(move || {
                    let mut found: libc::ucred = std::mem::zeroed();
                    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
                    let found = (&raw mut found).cast();
                    ignore(
                        libc::getsockopt(
                            peer.as_raw_fd(),
                            libc::SOL_SOCKET,
                            libc::SO_PEERCRED,
                            found,
                            &raw mut size,
                        )
                        .into(),
                    );
                }),
            ),
            (
                "prctl, PR_SET_DUMPABLE",
                1000,
                Box::new(|| ignore(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into())),
            ),
            (
                "umount of what is not mounted",
                500,
                Box::new(|| ignore(libc::umount2(c"file".as_ptr(), 0).into())),
            ),
            (
                "open, read only, and close",
                1000,
                Box::new(|| close(open(c"file", libc::O_RDONLY))),
            ),
            (
                "open with O_CREAT, existing",
                1000,
                Box::new(move || close(open(&existing, libc::O_CREAT | libc::O_WRONLY))),
            ),
            (
                "open with O_CREAT, /dev/null",
                1000,
                Box::new(|| close(open(c"/dev/null", libc::O_CREAT | libc::O_WRONLY))),
            ),
            (
                "creat, close and unlink",
                300,
                Box::new(move || {
                    close(open(&created, libc::O_CREAT | libc::O_WRONLY));
                    libc::unlink(created.as_ptr());
                }),
            ),
            (
                "mkdir and rmdir",
                300,
                Box::new(|| {
                    libc::mkdir(c"made".as_ptr(), 0o755);
                    libc::rmdir(c"made".as_ptr());
                }),
            ),
            (
                "fork, exit and wait",
                20,
                Box::new(|| {
                    match libc::fork() {
                        0 => libc::_exit(0),
                        child => libc::waitpid(child, std::ptr::null_mut(), 0),
                    };
                }),
            ),
        ]
    }
}

/// What sends a byte to another process and waits until it is back: a yardstick for how
/// fast this machine goes from one process to another, which each answer does twice too.
fn echo() -> impl FnMut() {
    let mut pipes = None;
    move || {
        let (to, from) = pipes.get_or_insert_with(echoing_process);
        let mut byte = [0];
        let sent = nix::unistd::write(&*to, &byte);
        let back = nix::unistd::read(&*from, &mut byte);
        assert_eq!((sent, back), (Ok(1), Ok(1)));
    }
}

/// Starts a process that sends back what it gets, until nobody can send any more.
fn echoing_process() -> (OwnedFd, OwnedFd) {
    let (theirs, to) = nix::unistd::pipe().expect("a pipe");
    let (from, back) = nix::unistd::pipe().expect("a pipe");
    // SAFETY: this process has one thread; the child only makes system calls.
    if unsafe { libc::fork() } != 0 {
        return (to, from);
    }
    drop(to);
    let mut byte = [0];
    while nix::unistd::read(&theirs, &mut byte) == Ok(1) {
        let _ = nix::unistd::write(&back, &byte);
    }
    // SAFETY: it ends this process and nothing else.
    unsafe { libc::_exit(0) }
}

/// A result that says nothing about the time.
fn ignore(_: libc::c_long) {}
