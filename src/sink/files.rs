//! Which file holds which disk.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::Format;
use crate::disk::layout::DiskPlan;

/// A file that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFile {
    /// Its format.
    pub format: Format,
    /// Index of the disk in it.
    pub disk: usize,
    /// Where it will be.
    pub path: PathBuf,
    /// What ids inside of the file derive from.
    pub seed: Uuid,
}

/// The files of an output: `NAME.SUFFIX` of every format, then those of further disks.
///
/// A further disk becomes `NAME-DISK.SUFFIX` in every format for disks. One that has
/// a directory is `DIRECTORY/DISK.raw` alone, as with DIB.
#[must_use]
pub fn files(
    name: &Path,
    formats: &[Format],
    suffix: fn(&Format) -> &'static str,
    disks: &[DiskPlan],
    seed: Uuid,
) -> Vec<OutputFile> {
    let file = |name: &Path, format: &Format, disk, seed| {
        // The name may have dots of its own.
        let mut path = name.as_os_str().to_owned();
        path.push(".");
        path.push(suffix(format));
        OutputFile {
            format: *format,
            disk,
            path: path.into(),
            seed,
        }
    };
    let formats_of_disks: Vec<&Format> = formats.iter().filter(|one| one.is_disk()).collect();
    let mut files: Vec<OutputFile> = formats
        .iter()
        .map(|format| file(name, format, 0, seed))
        .collect();
    if formats_of_disks.is_empty() {
        return files;
    }
    for (at, disk) in disks.iter().enumerate().skip(1) {
        let seed = Uuid::new_v5(&seed, disk.name.as_bytes());
        if let Some(directory) = &disk.directory {
            files.push(OutputFile {
                format: Format::Raw,
                disk: at,
                path: directory.join(format!("{}.raw", disk.name)),
                seed,
            });
            continue;
        }
        let mut name = name.as_os_str().to_owned();
        name.push("-");
        name.push(&disk.name);
        let name = PathBuf::from(name);
        files.extend(
            formats_of_disks
                .iter()
                .map(|format| file(&name, format, at, seed)),
        );
    }
    files
}
