//! Filesystems that programs of the host make in a file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nix::unistd::{Whence, lseek};

use crate::disk::{Extent, Source, Volume};
use crate::tree::{Content, DataRange, Inode, Kind, Origin, Packed, TreeBuilder};

/// Where programs for administrators are, if `PATH` leaves them out.
const SYSTEM: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Finds a program.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(SYSTEM.map(PathBuf::from));
    places
        // The current one is no place for programs: anybody may have written to it.
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|program| nix::unistd::access(program, nix::unistd::AccessFlags::X_OK).is_ok())
}

/// Runs a program to its end.
///
/// # Errors
/// What it said, in one line.
pub(super) fn run(command: &mut Command) -> Result<(), String> {
    // Messages must not depend on where it runs.
    let output = command.env("LC_ALL", "C").output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = [&output.stderr[..], &output.stdout[..]].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    Err(if lines.is_empty() {
        output.status.to_string()
    } else {
        // What follows is how to call it.
        lines.into_iter().take(3).collect::<Vec<_>>().join("; ")
    })
}

/// The data of a file as a volume; holes stay holes. The file may lose its name.
pub(super) fn volume(file: File, path: &Path) -> io::Result<Volume> {
    let length = file.metadata()?.len();
    let ranges = data_ranges(&file, length)?;
    let packed = Arc::new(Packed::new(file, path.to_owned()));
    let mut tree = TreeBuilder::new();
    let content = Content {
        size: length,
        origin: Origin::Packed {
            file: packed,
            offset: 0,
        },
        data: None,
    };
    let inode = Inode::new(Kind::File(content), 0o600);
    let tree = tree
        .insert("/filesystem", inode)
        .map(drop)
        .and_then(|()| tree.build())
        .map_err(io::Error::other)?;
    let tree = Arc::new(tree);
    let found = tree.find("/filesystem").ok_or(io::ErrorKind::NotFound)?;
    let inode = tree.node(found).inode;
    let extents = ranges.into_iter().map(|range| Extent {
        offset: range.offset,
        length: range.length,
        source: Source::File {
            tree: Arc::clone(&tree),
            inode,
            offset: range.offset,
        },
    });
    Ok(Volume {
        length,
        extents: extents.collect(),
    })
}

/// Where a file has data.
fn data_ranges(file: &File, length: u64) -> io::Result<Vec<DataRange>> {
    let seek = |to: u64, whence| -> io::Result<Option<u64>> {
        let to = i64::try_from(to).map_err(|_| io::ErrorKind::InvalidInput)?;
        match lseek(file, to, whence) {
            Ok(at) => Ok(u64::try_from(at).ok()),
            Err(nix::errno::Errno::ENXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < length {
        let Some(start) = seek(at, Whence::SeekData)? else {
            break;
        };
        let end = seek(start, Whence::SeekHole)?.unwrap_or(length).min(length);
        if end > start {
            ranges.push(DataRange {
                offset: start,
                length: end - start,
            });
        }
        at = end.max(start + 1);
    }
    Ok(ranges)
}
