//! `kiln-cpio DIRECTORY ARCHIVE`: makes an initial ramdisk of a directory.
//!
//! It stands in for `find | cpio | gzip`, which need packages in the target, an
//! order of files that differs from run to run, and device nodes that nobody can
//! make here: those that an init needs are added.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::Explain;
use crate::sink::cpio::{self, Compression, CpioError};
use crate::tree::{self, Device, Inode, Kind, ScanOptions, Timestamp};

/// Nodes without which a kernel that does not mount devtmpfs has no console.
const DEVICES: [(&str, u16, u32, u32); 3] = [
    ("dev/console", 0o600, 5, 1),
    ("dev/null", 0o666, 1, 3),
    ("dev/tty", 0o666, 5, 0),
];

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Wrong arguments.
    #[error("usage: kiln-cpio [--compress none|gzip|xz|zstd] DIRECTORY ARCHIVE")]
    Usage,
    /// The directory cannot be read.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The archive cannot be made.
    #[error("cannot make `{path}`")]
    Create {
        /// The archive.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The archive cannot be written.
    #[error(transparent)]
    Write(#[from] CpioError),
}

impl Explain for Error {}

/// Runs the program.
pub fn main(_: &OsStr, args: &[OsString]) -> Result<ExitCode, Error> {
    let (compression, rest) = match args {
        [option, name, rest @ ..] if option == "--compress" => {
            let known = name.to_str().and_then(Compression::from_name);
            (known.ok_or(Error::Usage)?, rest)
        }
        rest => (Compression::default(), rest),
    };
    let [directory, archive] = rest else {
        return Err(Error::Usage);
    };
    let epoch = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.parse().ok());
    let options = ScanOptions {
        prune: Vec::new(),
        clamp_mtime: epoch.map(|seconds| Timestamp {
            seconds,
            nanoseconds: 0,
        }),
        owners: None,
        threads: 1,
    };
    let scanned = tree::scan(std::path::Path::new(directory), &options)?;
    let mut edit = scanned.edit();
    for (path, mode, major, minor) in DEVICES {
        if scanned.find(path).is_none() {
            let kind = Kind::CharDevice(Device { major, minor });
            edit.insert(path, Inode::new(kind, mode))?;
        }
    }
    let tree = Arc::new(edit.build()?);
    let path = PathBuf::from(archive);
    let file = std::fs::File::create(&path).map_err(|source| Error::Create { path, source })?;
    cpio::write(&tree, file, compression)?;
    Ok(ExitCode::SUCCESS)
}
