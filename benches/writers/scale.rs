//! Trees that need no files.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Result, ensure};
use kiln::sink::write_all;
use kiln::tree::{Content, DataRange, Inode, Kind, Origin, Tree, TreeBuilder};

use crate::write::{Steps, disk, spec};

/// Plans and writes trees of growing size; each runs as a process of its own.
#[derive(clap::Args)]
pub struct Scale {
    /// Where images are written.
    #[arg(long, short, default_value = "/tmp")]
    directory: PathBuf,
    /// One case, in this process.
    #[arg(long)]
    case: Option<String>,
    /// Leaves out e2fsck.
    #[arg(long)]
    no_check: bool,
}

/// Name, size of the filesystem in GiB, nodes.
const CASES: [(&str, u64, u64); 10] = [
    ("files", 4, 62_500),
    ("files", 4, 125_000),
    ("files", 8, 250_000),
    ("files", 8, 500_000),
    ("files", 16, 1_000_000),
    ("files", 32, 2_000_000),
    ("directory", 8, 200_000),
    ("directory", 16, 500_000),
    ("terabyte", 1100, 1),
    ("sparse", 120, 1000),
];

impl Scale {
    /// Runs it.
    pub fn run(&self) -> Result<()> {
        if let Some(case) = &self.case {
            return self.one(case);
        }
        println!(
            "| tree | nodes | plan s | write s | peak MiB | bytes a node beyond 64 MiB | image MB |"
        );
        println!("|---|---|---|---|---|---|---|");
        for (name, size, count) in CASES {
            let status = Command::new(std::env::current_exe()?)
                .args(["scale", "--case", &format!("{name}:{size}:{count}")])
                .args(self.no_check.then_some("--no-check"))
                .arg("--directory")
                .arg(&self.directory)
                .status()?;
            ensure!(status.success(), "{name} {count}: {status}");
        }
        Ok(())
    }

    fn one(&self, case: &str) -> Result<()> {
        use std::os::unix::fs::MetadataExt as _;
        let parts: Vec<&str> = case.split(':').collect();
        let [name, size, count] = parts[..] else {
            anyhow::bail!("a case is NAME:GIB:COUNT");
        };
        let (size, count): (u64, u64) = (size.parse()?, count.parse()?);
        let tree = Arc::new(tree(name, count)?);
        let nodes = tree.nodes().len();
        let mut steps = Steps::new(false);
        // Building the tree takes more than scanning one does.
        let building = reset_peak();
        let disk = disk(&tree, size << 30)?;
        let planned = steps.done("plan");
        let path = self.directory.join("bench-scale.raw");
        write_all(
            &[&disk],
            &tree,
            &[spec("raw", &path, false)?],
            0,
            &|_, _, _| {},
        )?;
        let written = steps.done("write");
        let peak = peak().unwrap_or(0);
        drop((disk, tree));
        let image = std::fs::metadata(&path)?.blocks() * 512;
        let mut clean = true;
        if !self.no_check {
            let status = Command::new("/usr/sbin/e2fsck")
                .arg("-fn")
                .arg(&path)
                .output()?;
            clean = status.status.success();
            if !clean {
                eprintln!("{}", String::from_utf8_lossy(&status.stdout));
            }
        }
        std::fs::remove_file(&path)?;
        ensure!(clean, "{name} {count}: e2fsck is not content");
        let note = if building {
            ""
        } else {
            " (with building the tree)"
        };
        println!(
            "| {name} | {nodes} | {planned:.2} | {written:.2} | {}{note} | {:.0} | {} |",
            peak >> 20,
            peak.saturating_sub(64 << 20) as f64 / nodes as f64,
            image / 1_000_000
        );
        Ok(())
    }
}

/// Starts measuring the peak of this process's memory again.
fn reset_peak() -> bool {
    // SAFETY: gives unused memory of the allocator back; touches no live memory.
    unsafe { libc::malloc_trim(0) };
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The most memory that this process had, in bytes.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(
        line.trim()
            .trim_end_matches(" kB")
            .trim()
            .parse::<u64>()
            .ok()?
            << 10,
    )
}

fn sparse(size: u64, ranges: &[(u64, &[u8])]) -> Inode {
    // One buffer whose ranges of data are the only ones that are looked at would
    // be as large as the file: the data is in front instead.
    let mut bytes = Vec::new();
    let mut data: Vec<DataRange> = Vec::new();
    for (offset, piece) in ranges {
        bytes.resize(usize::try_from(*offset).unwrap_or(0), 0);
        bytes.extend_from_slice(piece);
        data.push(DataRange {
            offset: *offset,
            length: piece.len() as u64,
        });
    }
    // A filesystem reads whole blocks.
    bytes.resize(bytes.len().next_multiple_of(65536), 0);
    Inode::new(
        Kind::File(Content {
            size,
            origin: Origin::Bytes(bytes.into()),
            data: Some(data.into()),
        }),
        0o644,
    )
}

fn tree(name: &str, count: u64) -> Result<Tree> {
    let mut builder = TreeBuilder::new();
    let bytes: Arc<[u8]> = b"a small file's bytes\n".as_slice().into();
    match name {
        "files" => {
            for number in 0..count {
                let path = format!(
                    "{:03}/{:03}/file-{number:07}",
                    number / 100_000,
                    number / 200 % 500
                );
                builder.insert(path, Inode::file(Arc::clone(&bytes), 0o644))?;
            }
        }
        "directory" => {
            for number in 0..count {
                builder.insert(format!("d/entry-{number:07}"), Inode::file(*b"", 0o644))?;
            }
        }
        "terabyte" => {
            builder.insert(
                "terabyte",
                sparse(1 << 40, &[(0, b"begin"), (8 << 20, b"end")]),
            )?;
        }
        "sparse" => {
            for number in 0..count {
                let file = sparse(100 << 20, &[(0, b"begin"), (1 << 16, b"middle")]);
                builder.insert(format!("{}/{number}", number % 20), file)?;
            }
        }
        other => anyhow::bail!("no case `{other}`"),
    }
    Ok(builder.build()?)
}
