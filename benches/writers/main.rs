//! Measures kiln's image writers against the programs that do the same.
//!
//! ```text
//! cargo bench --bench writers -- [OPTIONS] TREE
//! cargo bench --bench writers -- scale
//! ```
//!
//! Every case is a process of its own. A round runs each case once, in turn, so
//! that whatever else the machine does meets all of them. Printed are the median
//! of the rounds with minimum and maximum, processor time of the case and its
//! children, peak memory, the size of what was made, and wall and processor time
//! as a multiple of those of kiln's case for the same result. Peers that are not
//! installed, or that need root without it, are left out and named.
//!
//! `benches/tree.sh` makes the tree that docs/benchmarks.md was measured with.
//! `scale` measures trees that need no files: two million small ones, one huge
//! directory, a sparse terabyte.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};

mod cases;
mod scale;
mod write;

use cases::{Case, Group};

/// Measures image writers.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Own>,
    #[command(flatten)]
    table: Table,
}

/// The table of all cases.
#[derive(clap::Args)]
struct Table {
    /// Directory to make images of.
    #[arg(required = true)]
    tree: Option<PathBuf>,
    /// How often each case runs.
    #[arg(long, short, default_value_t = 3)]
    rounds: usize,
    /// Where images are written; not a tmpfs, if times are to mean much.
    #[arg(long, short, default_value = "/tmp")]
    directory: PathBuf,
    /// Size of the filesystem in MiB.
    #[arg(long, default_value_t = 4096)]
    size: u64,
    /// Groups of cases.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["raw", "sync", "qcow2"])]
    groups: Vec<Group>,
    /// Only cases whose names contain one of these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Another mke2fs to measure.
    #[arg(long)]
    mke2fs: Vec<PathBuf>,
    /// Threads of kiln (0: its own choice).
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Megabytes that are written and removed before each run, so that a virtual
    /// machine has its memory from its host already.
    #[arg(long, default_value_t = 0)]
    warm_up: u64,
}

/// What the cases of kiln itself run.
#[derive(Subcommand)]
enum Own {
    /// Writes one image.
    Write(write::Write),
    /// Plans and writes trees that have no files.
    Scale(scale::Scale),
}

/// What one run took.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    wall: f64,
    processor: f64,
    /// In MiB.
    memory: f64,
    /// Of what was made, in bytes.
    size: u64,
}

fn main() -> ExitCode {
    // Cargo adds that of a bench.
    let arguments = std::env::args_os().filter(|one| one != "--bench");
    let arguments = Arguments::parse_from(arguments);
    let done = match &arguments.command {
        Some(Own::Write(write)) => write.run(),
        Some(Own::Scale(scale)) => scale.run(),
        None => arguments.table.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("writers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Table {
    /// Runs all cases and prints the table.
    fn run(&self) -> Result<()> {
        let tree = self.tree.as_deref().context("no tree is given")?;
        let work = tempfile::Builder::new()
            .prefix("writers-")
            .tempdir_in(&self.directory)?;
        let setting = cases::Setting {
            table: self,
            tree,
            work: work.path(),
            program: std::env::current_exe()?,
        };
        let mut cases = setting.cases();
        cases.retain(|case| {
            self.groups.contains(&case.group)
                && (self.only.is_empty() || self.only.iter().any(|name| case.name.contains(name)))
        });
        cases.retain(|case| match case.missing() {
            Some(why) => {
                eprintln!("left out: {} ({why})", case.name);
                false
            }
            None => true,
        });
        setting.prepare(&cases)?;
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); cases.len()];
        let mut failed = vec![false; cases.len()];
        // Cold cases empty the page cache, so the others are done before them.
        for (cold, round) in [false, true]
            .into_iter()
            .flat_map(|cold| (1..=self.rounds).map(move |round| (cold, round)))
        {
            for (at, (case, samples)) in cases.iter().zip(&mut samples).enumerate() {
                if (case.group == Group::Cold) != cold || failed[at] {
                    continue;
                }
                self.warm_up(work.path())?;
                let sample = match run(case, &setting) {
                    Ok(sample) => sample,
                    // Some peers cannot read every tree; what the others take still counts.
                    Err(error) if !case.is_own() => {
                        eprintln!("left out from here on: {error:#}");
                        failed[at] = true;
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let name = &case.name;
                let Sample {
                    wall, processor, ..
                } = sample;
                eprintln!("round {round}: {name:<46} {wall:8.3} s, {processor:8.3} s CPU");
                samples.push(sample);
            }
        }
        print(&cases, &samples)
    }

    fn warm_up(&self, work: &Path) -> Result<()> {
        if self.warm_up == 0 {
            return Ok(());
        }
        let path = work.join("warm-up");
        let mut file = File::create(&path)?;
        let block = vec![1; 1 << 16];
        for _ in 0..self.warm_up * 15 {
            file.write_all(&block)?;
        }
        drop(file);
        std::fs::remove_file(path)?;
        Ok(())
    }
}

/// Runs one case once.
fn run(case: &Case, setting: &cases::Setting<'_>) -> Result<Sample> {
    for output in &case.outputs {
        // The last round's.
        let _ = std::fs::remove_file(output);
    }
    if case.group == Group::Cold {
        drop_caches()?;
    }
    let mut command = Command::new("sh");
    command
        .args(["-e", "-c", &case.script])
        .env("PATH", setting.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let start = Instant::now();
    let (success, usage) = wait(command.spawn()?)?;
    let wall = start.elapsed().as_secs_f64();
    ensure!(success, "{} failed:\n{}", case.name, case.script);
    let size = case.outputs.iter().map(|output| allocated(output)).sum();
    for output in &case.outputs {
        if !case.keeps.contains(output) {
            let _ = std::fs::remove_file(output);
        }
    }
    Ok(Sample {
        wall,
        processor: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        memory: usage.ru_maxrss as f64 / 1024.0,
        size,
    })
}

fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).map_or(0, |about| about.blocks() * 512)
}

/// Writes back and forgets all that the kernel has cached of files.
fn drop_caches() -> Result<()> {
    nix::unistd::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("cold cases need root")
}

/// Waits for a process; whether it succeeded, and what it and its children used.
fn wait(child: std::process::Child) -> Result<(bool, libc::rusage)> {
    let process = libc::pid_t::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: `rusage` is plain data for which all zeros is a value; the process is
    // a child that nobody else waits for, and the pointers outlive the call.
    let (waited, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(process, &mut status, 0, &mut usage), usage)
    };
    ensure!(waited == process, std::io::Error::last_os_error());
    Ok((
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        usage,
    ))
}

fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

fn print(cases: &[Case], samples: &[Vec<Sample>]) -> Result<()> {
    let wall = |at: usize| median(samples[at].iter().map(|sample| sample.wall));
    let processor = |at: usize| median(samples[at].iter().map(|sample| sample.processor));
    println!("load: {}", std::fs::read_to_string("/proc/loadavg")?.trim());
    println!("| case | median s | min–max | CPU s | peak MiB | size MB | × wall | × CPU |");
    println!("|---|---|---|---|---|---|---|---|");
    for (at, case) in cases.iter().enumerate() {
        if samples[at].is_empty() {
            println!("| {} | failed | – | – | – | – | – | – |", case.name);
            continue;
        }
        let walls = samples[at].iter().map(|sample| sample.wall);
        let (least, most) = walls.fold((f64::MAX, 0f64), |(least, most), wall| {
            (least.min(wall), most.max(wall))
        });
        let size = samples[at].first().map_or(0, |sample| sample.size) as f64 / 1e6;
        let memory = samples[at]
            .iter()
            .map(|sample| sample.memory)
            .fold(0.0, f64::max);
        let base = cases.iter().position(|other| other.name == case.against);
        let times = |of: &dyn Fn(usize) -> f64| match base {
            Some(base) if base != at => format!("{:.2}", of(at) / of(base)),
            _ => "–".to_owned(),
        };
        println!(
            "| {} | {:.3} | {least:.3}–{most:.3} | {:.3} | {memory:.0} | {size:.0} | {} | {} |",
            case.name,
            wall(at),
            processor(at),
            times(&wall),
            times(&processor),
        );
    }
    Ok(())
}
