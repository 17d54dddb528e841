//! How long it takes to enter the sandbox, against bubblewrap and unshare.
//!
//! ```text
//! cargo bench --bench entry -- [ROUNDS]
//! ```
//!
//! Each round runs every candidate once, one after the other, so that all meet the
//! same load. Printed are minimum and median, and what is more than a plain
//! `fork` and `exec` of the same program.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use kiln::sandbox::command::Program;
use kiln::sandbox::enter::Sandbox;
use kiln::sandbox::inside::Inside;
use kiln::sandbox::limits::{Limits, Watch};
use kiln::sandbox::network::Network;
use kiln::sandbox::notify::{Options, Supervisor};
use kiln::sandbox::{choice, hide, host, identity, mounts, seccomp, sweep};

/// The program that does nothing.
const NOTHING: &str = "/bin/true";

/// Programs that are run in one sandbox to see what one more costs.
const HOOKS: usize = 30;

fn main() -> Result<()> {
    // Cargo adds that of a bench.
    let arguments = std::env::args().skip(1).filter(|one| one != "--bench");
    let arguments: Vec<String> = arguments.collect();
    match arguments.first().map(String::as_str) {
        Some("once") => once(arguments.get(1).map(String::as_str)),
        Some("hooks") => hooks(arguments.get(1).map(String::as_str)),
        rounds => compare(rounds.map_or(Ok(20), str::parse)?),
    }
}

/// Enters a sandbox as a build does, and runs `work` as its engine.
fn in_sandbox(mode: Option<&str>, work: impl FnOnce(&Path, File) -> u8) -> Result<String> {
    let choice::Choice {
        identity,
        own_processes,
    } = choice::choose(mode)?;
    let parent = std::env::temp_dir();
    let directory = sweep::WorkDir::create(&parent)?;
    let view = host::View {
        work: directory.path().to_owned(),
        work_in_memory: identity.has_namespaces(),
        hidden: hide::host_sockets(),
        ..host::View::default()
    };
    let sandbox = Sandbox {
        identity,
        own_processes,
        work: directory,
        network: Network::Host,
        group: None,
    };
    let (mut events, running) = sandbox.enter(|events| match host::restrict(&view) {
        Ok(_) => work(&view.work, events),
        Err(error) => {
            eprintln!("{error}");
            1
        }
    })?;
    let said = std::io::read_to_string(&mut events)?;
    match running.wait()? {
        0 => Ok(said),
        status => bail!("the sandbox ended with status {status}"),
    }
}

fn program(inside: Option<Arc<Inside>>, filter: seccomp::Filter, work: &Path) -> Program {
    Program {
        arguments: vec![NOTHING.into()],
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        inside,
        directory: PathBuf::from("/"),
        handed: None,
        filter: Some(filter),
        keep_open: None,
        watch: Some(Watch {
            limits: Limits::default(),
            work: work.to_owned(),
            work_in_memory: true,
            group: kiln::sandbox::limits::Counted {
                memory: false,
                processes: true,
            },
        }),
    }
}

/// One empty sandbox, up and down.
fn once(mode: Option<&str>) -> Result<()> {
    in_sandbox(mode, |work, _| {
        let program = program(None, seccomp::no_sync(), work);
        match program.run(&mut |_| {}) {
            Ok(status) if status.success() => 0,
            _ => 1,
        }
    })
    .map(drop)
}

/// Prints seconds of each of some programs, run in one sandbox outside and inside.
fn hooks(mode: Option<&str>) -> Result<()> {
    let said = in_sandbox(mode, |work, mut events| {
        match measure_hooks(work, &mut events) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("{error:#}");
                1
            }
        }
    })?;
    print!("{said}");
    Ok(())
}

fn measure_hooks(work: &Path, events: &mut File) -> Result<()> {
    let supervisor = if identity::owners_are_recorded() {
        Some(Supervisor::start(Options::single())?)
    } else {
        None
    };
    let filter = || {
        supervisor
            .as_ref()
            .map_or_else(seccomp::no_sync, Supervisor::filter)
    };
    // A target of the host's own tree, so that there is a program in it.
    let target = work.join("target");
    std::fs::create_dir(&target)?;
    let tree = mounts::clone_mount(Path::new("/"), true)?;
    let place = mounts::open_directory(&target)?;
    mounts::attach(&tree, std::os::fd::AsFd::as_fd(&place))?;
    let started = Instant::now();
    let inside = Arc::new(Inside::new(&target)?);
    writeln!(events, "enter {}", started.elapsed().as_secs_f64())?;
    for _ in 0..HOOKS {
        for (name, inside) in [("outside", None), ("inside", Some(Arc::clone(&inside)))] {
            let program = program(inside, filter(), work);
            let started = Instant::now();
            let status = program.run(&mut |_| {}).context("running a program")?;
            let seconds = started.elapsed().as_secs_f64();
            if !status.success() {
                bail!("a program failed: {status}");
            }
            writeln!(events, "{name} {seconds}")?;
        }
        let started = Instant::now();
        let status = Command::new(NOTHING).stdin(Stdio::null()).status()?;
        writeln!(events, "plain {}", started.elapsed().as_secs_f64())?;
        if !status.success() {
            bail!("a program failed: {status}");
        }
    }
    Ok(())
}

fn compare(rounds: usize) -> Result<()> {
    let own = std::env::current_exe()?;
    let own = own.to_str().context("the path of this program is text")?;
    let modes = if nix::unistd::geteuid().is_root() {
        ["root", "single"]
    } else {
        ["subordinate", "single"]
    };
    let first = format!("kiln, mode {}", modes[0]);
    let candidates: Vec<(&str, Vec<&str>)> = vec![
        ("fork and exec", vec![NOTHING]),
        (&first, vec![own, "once", modes[0]]),
        ("kiln, mode single", vec![own, "once", modes[1]]),
        (
            "bwrap --unshare-all, read-only host",
            vec![
                "bwrap",
                "--unshare-all",
                "--ro-bind",
                "/",
                "/",
                "--dev",
                "/dev",
                "--proc",
                "/proc",
                "--tmpfs",
                "/tmp",
                NOTHING,
            ],
        ),
        (
            "unshare -U -r -m -p -i -u -f",
            vec!["unshare", "-U", "-r", "-m", "-p", "-i", "-u", "-f", NOTHING],
        ),
    ];
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); candidates.len()];
    for _ in 0..rounds {
        for ((name, words), times) in candidates.iter().zip(&mut times) {
            let started = Instant::now();
            let status = Command::new(words[0])
                .args(&words[1..])
                .stdin(Stdio::null())
                .status();
            let elapsed = started.elapsed();
            match status {
                Ok(status) if status.success() => times.push(elapsed),
                Ok(status) => bail!("{name} failed: {status}"),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).context((*name).to_owned()),
            }
        }
    }
    println!("| an empty sandbox, up and down | min ms | median ms | over fork and exec |");
    println!("|---|---|---|---|");
    let base = minimum(&times[0]);
    for ((name, _), times) in candidates.iter().zip(&mut times) {
        if times.is_empty() {
            println!("| {name} | not installed | | |");
            continue;
        }
        times.sort();
        println!(
            "| {name} | {:.1} | {:.1} | {:.1} |",
            milliseconds(minimum(times)),
            milliseconds(times[times.len() / 2]),
            milliseconds(minimum(times).saturating_sub(base)),
        );
    }
    println!(
        "\n| one more program in a sandbox that is there | min ms | median ms | over fork and exec |"
    );
    println!("|---|---|---|---|");
    for mode in modes {
        let output = Command::new(own).args(["hooks", mode]).output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let of = |name: &str| -> Vec<Duration> {
            let mut found: Vec<Duration> = text
                .lines()
                .filter_map(|line| line.strip_prefix(name)?.trim().parse().ok())
                .map(Duration::from_secs_f64)
                .collect();
            found.sort();
            found
        };
        let plain = minimum(&of("plain "));
        for name in ["outside", "inside"] {
            let found = of(&format!("{name} "));
            println!(
                "| mode {mode}, {name} | {:.1} | {:.1} | {:.1} |",
                milliseconds(minimum(&found)),
                milliseconds(found[found.len() / 2]),
                milliseconds(minimum(&found).saturating_sub(plain)),
            );
        }
        println!(
            "| mode {mode}, sealing the target (once a phase) | {:.1} | | |",
            milliseconds(minimum(&of("enter ")))
        );
    }
    Ok(())
}

fn minimum(times: &[Duration]) -> Duration {
    times.iter().min().copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
