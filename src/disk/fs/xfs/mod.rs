//! XFS, made by `mkfs.xfs` from a protofile and then made exact.
//!
//! The program lays out metadata and data in a sparse file without a name. A
//! protofile cannot say all of a tree (times, sticky bits, hard links, attributes,
//! names with white space), so the inodes and directories are corrected in place
//! afterwards. Random numbers go as well: the same tree gives the same bytes.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use uuid::Uuid;

use crate::disk::Volume;
use crate::disk::fs::made::{self, find_program};
use crate::tree::{Timestamp, Tree};

mod attr;
mod directory;
mod error;
mod fix;
pub(crate) mod format;
mod proto;
#[cfg(test)]
mod tests;

pub use error::Error;

/// What mkfs.xfs makes at least.
pub const MIN_BYTES: u64 = 300 << 20;

/// What a filesystem has besides its files.
#[derive(Debug, Clone)]
pub struct Options {
    /// Label, at most 12 bytes.
    pub label: String,
    /// UUID.
    pub uuid: Uuid,
    /// Sector size of the disk in bytes.
    pub sector_size: u32,
    /// Further arguments of mkfs.xfs.
    pub arguments: Vec<String>,
    /// Whether GRUB starts a system from it, so that it gets no feature that GRUB 2.06
    /// does not know, unless the arguments ask for it.
    pub for_grub: bool,
    /// When it is made.
    pub timestamp: Timestamp,
}

/// Whether `mkfs.xfs` is there.
///
/// # Errors
/// If it is not.
pub fn check() -> Result<PathBuf, Error> {
    find_program("mkfs.xfs").ok_or(Error::NoProgram)
}

/// Whether mkfs.xfs makes filesystems of so many bytes.
///
/// # Errors
/// If they are too few.
pub fn check_size(bytes: u64) -> Result<(), Error> {
    if bytes < MIN_BYTES {
        return Err(Error::TooSmall {
            needed: MIN_BYTES,
            given: bytes,
        });
    }
    Ok(())
}

/// Makes a filesystem of `bytes` with the files of a tree. Working files are in
/// `scratch` until this returns; what is made keeps its space while it is used.
///
/// # Errors
/// See [`Error`].
pub fn plan(
    tree: &Arc<Tree>,
    options: &Options,
    bytes: u64,
    scratch: &Path,
) -> Result<Volume, Error> {
    let program = check()?;
    check_size(bytes)?;
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| Error::Io {
            action,
            path,
            source,
        }
    };
    let directory = tempfile::Builder::new()
        .prefix(".kiln-xfs-")
        .tempdir_in(scratch)
        .map_err(failed("write to", scratch))?;
    let image = directory.path().join("image");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&image)
        .map_err(failed("create", &image))?;
    // Its block size is one of those of files: 512 bytes at least.
    file.set_len(bytes).map_err(failed("write", &image))?;
    let version = version(&program);
    let largest = match version >= TAKES_LARGE_FILES {
        true => u64::MAX,
        false => MAX_READ,
    };
    let protofile = proto::write(tree, directory.path(), largest)?;
    let caution = match options.for_grub {
        true => cautious(version, &options.arguments),
        false => Vec::new(),
    };
    let mut command = Command::new(program);
    command
        .args(["-q", "-f", "-K", "-p"])
        .arg(&protofile)
        .arg("-m")
        .arg(format!("uuid={}", options.uuid))
        .args(["-L", &options.label]);
    if options.sector_size > 512 {
        command.args(["-s", &format!("size={}", options.sector_size)]);
    }
    command
        .args(caution)
        .args(&options.arguments)
        .arg(&image)
        .stdin(Stdio::null());
    made::run(&mut command).map_err(|message| Error::Program { message })?;
    fix::fix(&file, &image, tree, options.timestamp)?;
    made::volume(file, &image).map_err(failed("read", &image))
}

/// The first version of mkfs.xfs that reads files piece by piece.
const TAKES_LARGE_FILES: (u32, u32) = (6, 13);

/// Bytes that one `read` gives at most. Older versions read a file with one, and take
/// lengths modulo 2³²: of a file of 4 GiB they make an empty one.
const MAX_READ: u64 = 0x7FFF_F000;

/// Features that GRUB 2.06 cannot read, where mkfs.xfs has them by default: option,
/// name and the version that knows it.
const NEW_FEATURES: [(&str, &str, (u32, u32)); 3] = [
    ("-i", "nrext64", (5, 19)),
    ("-i", "exchange", (6, 10)),
    ("-n", "parent", (6, 10)),
];

/// Arguments that switch these features off, where the program knows them and the
/// caller says nothing about them.
fn cautious(version: (u32, u32), arguments: &[String]) -> Vec<String> {
    NEW_FEATURES
        .iter()
        .filter(|(_, name, since)| {
            version >= *since && !arguments.iter().any(|argument| argument.contains(name))
        })
        .flat_map(|(option, name, _)| [(*option).to_owned(), format!("{name}=0")])
        .collect()
}

/// The version of mkfs.xfs, as in `mkfs.xfs version 6.1.0`; zeros if it does not say.
fn version(program: &Path) -> (u32, u32) {
    let output = Command::new(program)
        .arg("-V")
        .stdin(Stdio::null())
        .output();
    output.map_or((0, 0), |output| {
        version_in(&String::from_utf8_lossy(&output.stdout))
    })
}

fn version_in(text: &str) -> (u32, u32) {
    let mut numbers = text
        .split_whitespace()
        .last()
        .unwrap_or_default()
        .split(['.', '-'])
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
