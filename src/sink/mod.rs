//! Output formats. Each takes a disk or a tree and writes once, in order.
//!
//! [`write_all`] writes all outputs of a build: disk formats share one pass over
//! each disk, so that each byte is rendered once however many formats there are.
//! No output appears under its name before all of them are complete and (where
//! asked for) on their device; a failure, a full disk or SIGKILL leaves nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::tree::Tree;

mod at;
mod blocks;
mod checksum;
pub mod container;
pub mod cpio;
mod error;
mod files;
pub(crate) mod gzip;
mod identity;
mod options;
mod order;
mod output;
mod pass;
mod prefetch;
pub mod qcow2;
mod raw;
pub(crate) mod source;
pub mod squashfs;
mod tar;
mod turn;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

pub(crate) use at::free_bytes;
pub use checksum::{Checksums, Digests};
pub(crate) use error::Bytes;
pub use error::{Cause, Error};
pub use files::{OutputFile, files};
pub use options::{DISK_FORMATS, FormatError, NAMES, Request, divide_unused, formats};
pub use output::{Committed, Existing, Output, local_stamp};
pub(crate) use pass::is_zero;
pub use source::{FileRange, Prefetch, ReadAt, Reader};

/// Bytes that are rendered at once where something is compressed.
const COMPRESS_CHUNK: usize = 1 << 20;
/// Bytes that are rendered at once otherwise; they stay in the processor's cache.
const COPY_CHUNK: usize = 256 << 10;

/// Threads that read from a disk, where their number is not given.
const WAITING_THREADS: usize = 16;

/// A format of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes in a sparse file.
    Raw,
    /// QEMU's format, compressed unless its options say otherwise.
    Qcow2(qcow2::Options),
    /// VMware's format.
    Vmdk(vmdk::Options),
    /// Virtual PC's format, which Xen, Hyper-V and Azure take.
    Vhd(vhd::Subformat),
    /// Hyper-V's newer format.
    Vhdx(vhdx::Options),
    /// VirtualBox's format.
    Vdi(vdi::Subformat),
    /// The tree in a pax archive.
    Tar,
    /// The same, compressed by gzip.
    Tgz,
    /// The tree in a compressed, read-only filesystem.
    Squashfs(squashfs::Compression),
    /// The tree as the only layer of an image for `docker load`.
    Docker,
    /// The same as an OCI image layout.
    Oci,
    /// The tree in an App Container image.
    Aci,
}

impl Format {
    /// Its name, as the user gives it.
    pub fn name(&self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2(_) => "qcow2",
            Format::Vmdk(_) => "vmdk",
            Format::Vhd(_) => "vhd",
            Format::Vhdx(_) => "vhdx",
            Format::Vdi(_) => "vdi",
            Format::Tar => "tar",
            Format::Tgz => "tgz",
            Format::Squashfs(_) => "squashfs",
            Format::Docker => "docker",
            Format::Oci => "oci",
            Format::Aci => "aci",
        }
    }

    /// The suffix of its files: its name, but where DIB has another.
    pub fn suffix(&self) -> &'static str {
        match self {
            Format::Squashfs(_) => "squash",
            other => other.name(),
        }
    }

    /// Whether it holds a disk, and not just the files of the tree.
    pub fn is_disk(&self) -> bool {
        !matches!(
            self,
            Format::Tar
                | Format::Tgz
                | Format::Squashfs(_)
                | Format::Docker
                | Format::Oci
                | Format::Aci
        )
    }

    /// Whether what is written of it comes in the order of the file, and without holes that
    /// would be worth their while.
    fn is_filled_in_order(&self) -> bool {
        match self {
            Format::Qcow2(_) => true,
            Format::Vmdk(options) => options.subformat == vmdk::Subformat::StreamOptimized,
            Format::Raw | Format::Vhd(_) | Format::Vhdx(_) | Format::Vdi(_) => false,
            Format::Tar
            | Format::Tgz
            | Format::Squashfs(_)
            | Format::Docker
            | Format::Oci
            | Format::Aci => true,
        }
    }

    /// Whether writing it is mostly compressing.
    fn is_compressed(&self) -> bool {
        match self {
            Format::Qcow2(options) => options.compression != qcow2::Compression::None,
            Format::Vmdk(options) => options.subformat == vmdk::Subformat::StreamOptimized,
            Format::Tgz | Format::Squashfs(_) => true,
            Format::Raw
            | Format::Vhd(_)
            | Format::Vhdx(_)
            | Format::Vdi(_)
            | Format::Tar
            | Format::Docker
            | Format::Oci
            | Format::Aci => false,
        }
    }

    /// Size of a disk of `length` bytes as a guest sees it, in bytes.
    pub fn virtual_size(&self, length: u64) -> u64 {
        match self {
            Format::Vhd(_) => vhd::virtual_size(length),
            _ => length,
        }
    }
}

/// An output to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// What is written.
    pub format: Format,
    /// Which disk it holds, from 0; nothing to formats that hold the tree.
    pub disk: usize,
    /// Where it will be.
    pub path: PathBuf,
    /// Checksum files beside it (`NAME.md5`, `NAME.sha256`).
    pub checksums: Checksums,
    /// What happens to a file that has this name now.
    pub existing: Existing,
    /// Wait until it is on its device before it gets its name.
    pub durable: bool,
    /// What ids inside of the file derive from (those of vmdk, vhd, vhdx and vdi).
    pub seed: Uuid,
}

/// An output that is complete and has its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Where it is.
    pub path: PathBuf,
    /// Its format, as [`Format::name`].
    pub format: &'static str,
    /// Size as a guest sees it, in bytes (tar: as the file is).
    pub virtual_size: u64,
    /// Size of the file, in bytes.
    pub file_size: u64,
    /// Space that it takes on its device, in bytes.
    pub disk_size: u64,
    /// The new name of the file that had its name before, where it was kept.
    pub renamed: Option<PathBuf>,
    /// Its digests, where checksums were asked for.
    pub digests: Digests,
    /// Checksum files that were written.
    pub checksum_files: Vec<PathBuf>,
    /// What it does not hold as the tree does (sockets in a tar archive).
    pub warnings: Vec<String>,
}

/// Told what is being done: the step, bytes done, bytes in all. Called on the
/// thread that called [`write_all`], about ten times a second.
pub type Progress<'a> = &'a dyn Fn(&str, u64, u64);

/// An output in work.
struct Open<'a> {
    spec: &'a Spec,
    output: Output,
    digests: Option<Digests>,
    warnings: Vec<String>,
}

/// Writes all outputs of a build on `threads` threads (0: one for each processor).
///
/// The bytes do not depend on the number of threads.
///
/// # Errors
/// The first thing that failed; no output has got its name then, unless giving
/// the names itself failed part of the way.
pub fn write_all(
    disks: &[&dyn ReadAt],
    tree: &Arc<Tree>,
    outputs: &[Spec],
    threads: usize,
    progress: Progress<'_>,
) -> Result<Vec<Written>, Error> {
    let about = container::About::default();
    write_all_about(disks, tree, outputs, &about, threads, progress)
}

/// The same, with what images for containers say about themselves.
///
/// # Errors
/// As [`write_all`].
pub fn write_all_about(
    disks: &[&dyn ReadAt],
    tree: &Arc<Tree>,
    outputs: &[Spec],
    about: &container::About,
    threads: usize,
    progress: Progress<'_>,
) -> Result<Vec<Written>, Error> {
    let _ignored = IgnoreFileSizeSignal::new();
    let threads = match threads {
        0 => {
            let running = std::thread::available_parallelism().map_or(1, usize::from);
            pass::Threads {
                running,
                waiting: running.max(WAITING_THREADS),
            }
        }
        given => pass::Threads::exactly(given),
    };
    for (at, spec) in outputs.iter().enumerate() {
        if outputs[..at].iter().any(|before| before.path == spec.path) {
            return Err(Error::Twice {
                target: spec.path.clone(),
            });
        }
    }
    let mut open = outputs
        .iter()
        .map(|spec| {
            let needed = match (spec.format, disks.get(spec.disk)) {
                (format, _) if !format.is_disk() => tar::estimate(tree),
                (_, None) => {
                    return Err(Error::NoDisk {
                        target: spec.path.clone(),
                    });
                }
                (format, Some(disk)) => space_needed(format, *disk),
            };
            let mut output = Output::create(&spec.path, needed)?.sending_early(spec.durable);
            if spec.format.is_filled_in_order() {
                output = output.filled_in_order();
            }
            Ok(Open {
                spec,
                output,
                digests: None,
                warnings: Vec::new(),
            })
        })
        .collect::<Result<Vec<_>, _>>()?;

    for (at, disk) in disks.iter().enumerate() {
        let outputs: Vec<&Open<'_>> = open
            .iter()
            .filter(|one| one.spec.format.is_disk() && one.spec.disk == at)
            .collect();
        write_disk(*disk, &outputs, threads, progress)?;
    }
    for one in open.iter_mut().filter(|one| !one.spec.format.is_disk()) {
        write_tree(tree, one, about, threads.running, progress)?;
    }
    open.iter().try_for_each(|one| one.output.trim())?;
    let checksum_files = write_checksums(&mut open, progress)?;
    for one in open.iter().filter(|one| !one.spec.durable) {
        one.output.settle()?;
    }
    for (one, files) in open.iter().zip(&checksum_files) {
        if !one.spec.durable {
            continue;
        }
        let step = format!("syncing {}", short_name(&one.spec.path));
        progress(&step, 0, 1);
        // All before the first name is given: what fails here leaves nothing behind.
        one.output.sync()?;
        files.iter().try_for_each(Output::sync)?;
        progress(&step, 1, 1);
    }
    // Held until all have their names, so that the set is of one build.
    let _turn = turn::Turn::take(open.iter().map(|one| one.output.directory()));
    open.into_iter()
        .zip(checksum_files)
        .map(|(one, files)| {
            let length = disks.get(one.spec.disk).map_or(0, |disk| disk.length());
            finish(one, files, length)
        })
        .collect()
}

/// Writes a format that holds the tree.
fn write_tree(
    tree: &Arc<Tree>,
    one: &mut Open<'_>,
    about: &container::About,
    threads: usize,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let step = format!("writing {}", short_name(&one.spec.path));
    let total = tar::estimate(tree);
    // They tell it after each file.
    let mut told: Option<std::time::Instant> = None;
    let mut tell = |done: u64| {
        if told.is_none_or(|then| then.elapsed() >= pass::PROGRESS_INTERVAL) {
            told = Some(std::time::Instant::now());
            progress(&step, done.min(total), total);
        }
    };
    let (output, checksums) = (&one.output, one.spec.checksums);
    match one.spec.format {
        Format::Squashfs(compression) => {
            let time = newest(tree);
            one.warnings = squashfs::write(tree, output, compression, time, threads, &mut tell)?;
        }
        Format::Docker | Format::Oci => {
            let docker = one.spec.format == Format::Docker;
            one.warnings = container::write(tree, output, about, docker, &mut tell)?;
        }
        Format::Aci => {
            let (digests, warnings) =
                container::write_aci(tree, output, about, checksums, &mut tell)?;
            one.digests = Some(digests);
            one.warnings = warnings;
        }
        format => {
            let form = match format {
                Format::Tgz => tar::Form::Gzip,
                _ => tar::Form::Plain,
            };
            let report = tar::write(tree, output, form, checksums, &mut tell)?;
            one.digests = Some(report.digests);
            one.warnings = report.warnings;
        }
    }
    progress(&step, total, total);
    Ok(())
}

/// The time of the newest file of a tree.
fn newest(tree: &Tree) -> crate::tree::Timestamp {
    tree.inodes()
        .map(|(_, inode)| inode.mtime)
        .max()
        .unwrap_or_default()
}

/// Bytes that a disk format takes at most.
fn space_needed(format: Format, disk: &dyn ReadAt) -> u64 {
    let data: u64 = disk
        .data_ranges()
        .iter()
        .map(|range| range.end - range.start)
        .sum();
    match format {
        Format::Qcow2(options) => {
            // Tables: eight bytes of L2 and a reference count for each cluster.
            let entry = u64::from(8 + options.refcount_bits / 8);
            let tables = data / u64::from(options.cluster_size) * entry;
            data.saturating_add(tables)
                .saturating_add(8 * u64::from(options.cluster_size))
        }
        // Blocks in use are whole in the file's size, but their zeros are holes;
        // the tables are small. A grain may grow by a marker and a sector.
        Format::Vmdk(_) => data.saturating_add(data / 64).saturating_add(1 << 20),
        Format::Vhd(_) | Format::Vdi(_) => data.saturating_add(8 << 20),
        Format::Vhdx(options) => data
            .saturating_add(8 << 20)
            .saturating_add(options.log_size),
        Format::Raw
        | Format::Tar
        | Format::Tgz
        | Format::Squashfs(_)
        | Format::Docker
        | Format::Oci
        | Format::Aci => data,
    }
}

/// Writes all formats of a disk in one pass.
fn write_disk(
    disk: &dyn ReadAt,
    outputs: &[&Open<'_>],
    mut threads: pass::Threads,
    progress: Progress<'_>,
) -> Result<(), Error> {
    if outputs.is_empty() {
        return Ok(());
    }
    if outputs.iter().any(|one| one.spec.format.is_compressed()) {
        // Chunks that wait for their turn take memory, and processors are busy.
        threads.waiting = threads.waiting.min(threads.running.saturating_add(2));
    }
    let mut chunk = COPY_CHUNK;
    let mut writers: Vec<Box<dyn pass::Writer + '_>> = Vec::with_capacity(outputs.len());
    for one in outputs {
        chunk = chunk.max(chunk_of(&one.spec.format));
        writers.extend(writer_of(disk, one, threads.waiting)?);
    }
    let mut ranges = disk.data_ranges();
    // What the only output shares with files need not even be read.
    if let [only] = &writers[..] {
        ranges = raw::without(&ranges, only.complete());
    }
    let names: Vec<_> = outputs
        .iter()
        .map(|one| short_name(&one.spec.path))
        .collect();
    let step = format!("writing {}", names.join(", "));
    pass::run(
        disk,
        &ranges,
        chunk,
        threads,
        &writers,
        &mut |done, total| {
            progress(&step, done, total);
        },
    )?;
    writers.into_iter().try_for_each(pass::Writer::finish)
}

/// Bytes that a format wants at once.
fn chunk_of(format: &Format) -> usize {
    match format {
        Format::Qcow2(options) => COMPRESS_CHUNK.max(options.cluster_size as usize),
        Format::Vmdk(options) if options.subformat == vmdk::Subformat::StreamOptimized => {
            COMPRESS_CHUNK
        }
        _ => COPY_CHUNK,
    }
}

/// What writes an output during the pass over the disk; `None` for a format that holds
/// the tree, since those are written one by one.
fn writer_of<'a>(
    disk: &dyn ReadAt,
    one: &'a Open<'_>,
    threads: usize,
) -> Result<Option<Box<dyn pass::Writer + 'a>>, Error> {
    let (output, seed) = (&one.output, &one.spec.seed);
    let length = disk.length();
    let writer: Box<dyn pass::Writer + '_> = match one.spec.format {
        Format::Raw => Box::new(raw::Raw::create(disk, output)?),
        Format::Qcow2(options) => Box::new(qcow2::write::Qcow2::create(
            output, options, length, threads,
        )?),
        Format::Vmdk(options) => match options.subformat {
            vmdk::Subformat::StreamOptimized => Box::new(vmdk::stream::Stream::create(
                output, options, length, seed, threads,
            )?),
            vmdk::Subformat::MonolithicSparse => {
                let format = vmdk::sparse::Sparse::new(output, options, length, seed)?;
                Box::new(blocks::Blocks::create(output, format, threads))
            }
        },
        Format::Vhd(vhd::Subformat::Fixed) => {
            Box::new(vhd::write::Fixed::create(disk, output, seed)?)
        }
        Format::Vhd(vhd::Subformat::Dynamic) => {
            let format = vhd::write::Dynamic::new(length, seed)?;
            Box::new(blocks::Blocks::create(output, format, threads))
        }
        Format::Vhdx(options) => {
            let format = vhdx::write::Vhdx::new(length, options, seed)?;
            Box::new(blocks::Blocks::create(output, format, threads))
        }
        Format::Vdi(subformat) => {
            let format = vdi::write::Vdi::new(length, subformat, seed)?;
            Box::new(blocks::Blocks::create(output, format, threads))
        }
        Format::Tar
        | Format::Tgz
        | Format::Squashfs(_)
        | Format::Docker
        | Format::Oci
        | Format::Aci => return Ok(None),
    };
    Ok(Some(writer))
}

/// Computes digests where they are wanted and not known yet, and writes the
/// files for them; they get their names with the outputs.
fn write_checksums(
    open: &mut [Open<'_>],
    progress: Progress<'_>,
) -> Result<Vec<Vec<Output>>, Error> {
    let mut all = Vec::with_capacity(open.len());
    for one in open {
        let spec = one.spec;
        let mut files = Vec::new();
        if spec.checksums != Checksums::default() {
            let digests = match one.digests.take() {
                Some(known) => known,
                None => {
                    let step = format!("computing checksums of {}", short_name(&spec.path));
                    progress(&step, 0, 1);
                    let read_back = |source| Error::ReadBack {
                        target: spec.path.clone(),
                        source,
                    };
                    let digests =
                        checksum::of_file(one.output.file(), spec.checksums).map_err(read_back)?;
                    progress(&step, 1, 1);
                    digests
                }
            };
            for (suffix, digest) in checksum::SUFFIXES
                .iter()
                .zip([&digests.md5, &digests.sha256])
            {
                let Some(digest) = digest else { continue };
                let mut path = spec.path.clone().into_os_string();
                path.push(".");
                path.push(suffix);
                let line = checksum::line(digest, &spec.path);
                let file = Output::create(Path::new(&path), line.len() as u64)?;
                file.write_at(&line, 0)?;
                files.push(file);
            }
            one.digests = Some(digests);
        }
        all.push(files);
    }
    Ok(all)
}

/// Gives an output and its checksum files their names.
fn finish(one: Open<'_>, checksums: Vec<Output>, virtual_size: u64) -> Result<Written, Error> {
    use std::os::unix::fs::MetadataExt as _;
    let Open {
        spec,
        output,
        digests,
        warnings,
    } = one;
    let about = output.file().metadata().map_err(|source| Error::ReadBack {
        target: spec.path.clone(),
        source,
    })?;
    let renamed = output.commit(&spec.existing, spec.durable)?.renamed;
    let mut checksum_files = Vec::with_capacity(checksums.len());
    for file in checksums {
        checksum_files.push(file.target().to_owned());
        // The old ones went with the old output.
        file.commit(&Existing::Replace, spec.durable)?;
    }
    Ok(Written {
        path: spec.path.clone(),
        format: spec.format.name(),
        virtual_size: if spec.format.is_disk() {
            spec.format.virtual_size(virtual_size)
        } else {
            about.len()
        },
        file_size: about.len(),
        disk_size: about.blocks().saturating_mul(512),
        renamed,
        digests: digests.unwrap_or_default(),
        checksum_files,
        warnings,
    })
}

fn short_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// While it lives, a file that grows past RLIMIT_FSIZE is an error of that write
/// and not the end of the process.
struct IgnoreFileSizeSignal(Option<nix::sys::signal::SigAction>);

impl IgnoreFileSizeSignal {
    fn new() -> IgnoreFileSizeSignal {
        use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: ignoring a signal installs no code that could run.
        IgnoreFileSizeSignal(unsafe { sigaction(Signal::SIGXFSZ, &ignore) }.ok())
    }
}

impl Drop for IgnoreFileSizeSignal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // SAFETY: this is the action that was in place before.
            let _ =
                unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGXFSZ, before) };
        }
    }
}

#[cfg(test)]
pub(crate) mod format_tests;
#[cfg(test)]
pub(crate) mod tests;
