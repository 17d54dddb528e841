//! One image, written by kiln in a process of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use kiln::disk::Disk;
use kiln::disk::fs::ext4;
use kiln::sink::{Checksums, Existing, Format, Spec, qcow2, write_all};
use kiln::tree::{ScanOptions, Timestamp, Tree, scan};
use uuid::Uuid;

/// Writes an ext4 filesystem with the files of a directory or of a tar archive.
#[derive(clap::Args)]
pub struct Write {
    /// Directory, or tar archive.
    tree: PathBuf,
    /// `raw`, or `qcow2` with its options (`qcow2:compression_type=zstd`); several
    /// are written in one pass.
    #[arg(long, required = true)]
    format: Vec<String>,
    /// The images.
    #[arg(long, short, required = true)]
    output: Vec<PathBuf>,
    /// In MiB.
    #[arg(long, default_value_t = 4096)]
    size: u64,
    /// Threads (0: kiln's choice).
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Wait until the images are on the disk.
    #[arg(long)]
    durable: bool,
    /// Tell how long each step takes.
    #[arg(long)]
    steps: bool,
}

impl Write {
    /// Writes it.
    pub fn run(&self) -> Result<()> {
        let mut steps = Steps::new(self.steps);
        let options = ScanOptions {
            threads: self.threads,
            ..ScanOptions::default()
        };
        let tree = Arc::new(if self.tree.is_dir() {
            scan(&self.tree, &options)?
        } else {
            kiln::tree::tar::read(&self.tree, &std::env::temp_dir())?.tree
        });
        steps.done("scan");
        let disk = disk(&tree, self.size << 20)?;
        steps.done("plan");
        let outputs: Vec<_> = self
            .format
            .iter()
            .zip(&self.output)
            .map(|(format, path)| spec(format, path, self.durable))
            .collect::<Result<_>>()?;
        write_all(&[&disk], &tree, &outputs, self.threads, &|_, _, _| {})?;
        steps.done("write");
        // What a process does not free, its end frees faster.
        std::mem::forget((tree, disk));
        Ok(())
    }
}

/// Prints how long steps take.
pub struct Steps {
    wanted: bool,
    start: Instant,
}

impl Steps {
    /// Starts the clock.
    pub fn new(wanted: bool) -> Steps {
        Steps {
            wanted,
            start: Instant::now(),
        }
    }

    /// Tells what the time since the last call was spent on.
    pub fn done(&mut self, step: &str) -> f64 {
        let seconds = self.start.elapsed().as_secs_f64();
        if self.wanted {
            eprintln!("{step}: {seconds:.3} s");
        }
        self.start = Instant::now();
        seconds
    }
}

/// A disk that is one filesystem.
pub fn disk(tree: &Arc<Tree>, size: u64) -> Result<Disk> {
    let mut options = ext4::Options::new(*b"kiln bench uuid!");
    options.timestamp = Timestamp {
        seconds: 1_700_000_000,
        nanoseconds: 0,
    };
    let volume = ext4::plan(tree, &options, size)?;
    let mut builder = Disk::builder(size, 512);
    builder.volume("root", 0, volume);
    Ok(builder.build()?)
}

/// One output.
pub fn spec(format: &str, path: &Path, durable: bool) -> Result<Spec> {
    let (name, options) = format.split_once(':').unwrap_or((format, ""));
    let format = match name {
        "raw" => Format::Raw,
        "qcow2" => {
            let mut base = qcow2::Options::default();
            let options = match options {
                "stored" => {
                    base.compression = qcow2::Compression::None;
                    ""
                }
                options => options,
            };
            Format::Qcow2(qcow2::Options::parse(options, base)?)
        }
        other => anyhow::bail!("no format `{other}`"),
    };
    Ok(Spec {
        format,
        path: path.to_owned(),
        disk: 0,
        checksums: Checksums::default(),
        existing: Existing::Replace,
        durable,
        seed: Uuid::nil(),
    })
}
