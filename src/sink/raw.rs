//! Raw images: the disk's bytes, holes left as holes.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

use super::error::Error;
use super::output::{Output, WRITE_SIZE};
use super::pass::{Chunk, Worker, Writer, is_zero};
use super::source::ReadAt;

/// Smallest hole, which is also what filesystems that share blocks share: every
/// common one has blocks of this size.
const BLOCK: u64 = 4096;

/// File ranges shorter than this are copied: opening the file costs more than
/// cloning saves.
const MIN_CLONE: u64 = 128 << 10;

/// A raw image being written.
#[derive(Debug)]
pub(crate) struct Raw<'a> {
    output: &'a Output,
    length: u64,
    /// Ranges that share their blocks with files: sorted, whole blocks.
    cloned: Vec<Range<u64>>,
}

impl<'a> Raw<'a> {
    /// Sizes the file and clones into it what the filesystem can share.
    pub fn create(disk: &dyn ReadAt, output: &'a Output) -> Result<Raw<'a>, Error> {
        let length = disk.length();
        output.set_length(length)?;
        Ok(Raw {
            output,
            length,
            cloned: clone_files(disk, output),
        })
    }

    /// Whether the block at `offset` came by cloning.
    fn is_cloned(&self, offset: u64) -> bool {
        let after = self.cloned.partition_point(|range| range.end <= offset);
        self.cloned
            .get(after)
            .is_some_and(|range| range.start <= offset)
    }
}

impl Writer for Raw<'_> {
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Error> {
        Ok(Box::new(self))
    }

    fn stop(&self) {}

    fn complete(&self) -> &[Range<u64>] {
        &self.cloned
    }
}

impl Worker for &Raw<'_> {
    fn take(&mut self, chunk: Chunk<'_>) -> Result<(), Error> {
        let left = self.length.saturating_sub(chunk.offset);
        let end =
            usize::try_from(left).map_or(chunk.bytes.len(), |left| left.min(chunk.bytes.len()));
        let bytes = &chunk.bytes[..end];
        let mut run: Range<usize> = 0..0;
        let write = |run: Range<usize>| {
            self.output
                .write_at(&bytes[run.clone()], chunk.offset + run.start as u64)
        };
        for (number, block) in bytes.chunks(BLOCK as usize).enumerate() {
            let start = number * BLOCK as usize;
            if is_zero(block) || self.is_cloned(chunk.offset + start as u64) {
                continue;
            }
            if run.end != start || run.len() >= WRITE_SIZE {
                if !run.is_empty() {
                    write(run)?;
                }
                run = start..start;
            }
            run.end = start + block.len();
        }
        if run.is_empty() { Ok(()) } else { write(run) }
    }
}

/// Subtracts sorted ranges from sorted ranges.
pub(crate) fn without(ranges: &[Range<u64>], taken: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::with_capacity(ranges.len());
    let mut taken = taken.iter().peekable();
    for range in ranges {
        let mut start = range.start;
        while taken.next_if(|hole| hole.end <= start).is_some() {}
        while let Some(hole) = taken.peek().filter(|hole| hole.start < range.end) {
            if start < hole.start {
                left.push(start..hole.start);
            }
            start = start.max(hole.end);
            if hole.end > range.end {
                break;
            }
            taken.next();
        }
        if start < range.end {
            left.push(start..range.end);
        }
    }
    left
}

/// Shares blocks of the disk's files with the output where the filesystem can.
///
/// Whatever cannot be cloned for any reason is simply copied later, so failures
/// here are no errors; they only end the attempts on that file's filesystem.
fn clone_files(disk: &dyn ReadAt, output: &Output) -> Vec<Range<u64>> {
    let mut cloned: Vec<Range<u64>> = Vec::new();
    let mut hopeless = BTreeSet::new();
    for range in disk.file_ranges() {
        // Both offsets must be block boundaries, so they must differ by whole blocks.
        let lead = range.offset.wrapping_neg() % BLOCK;
        let start = range.offset.saturating_add(lead);
        let end = range.offset.saturating_add(range.length) / BLOCK * BLOCK;
        let file_start = range.file_offset.saturating_add(lead);
        if file_start % BLOCK != 0 || end.saturating_sub(start) < MIN_CLONE {
            continue;
        }
        let Ok(file) = disk.open(&range) else {
            continue;
        };
        let Ok(about) = file.metadata() else { continue };
        if hopeless.contains(&about.dev()) {
            continue;
        }
        let request = libc::file_clone_range {
            src_fd: i64::from(file.as_raw_fd()),
            src_offset: file_start,
            src_length: end - start,
            dest_offset: start,
        };
        // SAFETY: both descriptors are open and `request` outlives the call, which only reads it.
        let result = unsafe {
            libc::ioctl(
                output.file().as_raw_fd(),
                libc::FICLONERANGE,
                &raw const request,
            )
        };
        if result == 0 {
            cloned.push(start..end);
            continue;
        }
        match io::Error::last_os_error().raw_os_error() {
            // The output's filesystem shares nothing at all.
            Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS) => break,
            Some(libc::EXDEV) => {
                hopeless.insert(about.dev());
            }
            // For instance a file that is shorter now: it is copied, with zeros at its end.
            _ => {}
        }
    }
    cloned
}

#[cfg(test)]
mod tests {
    use super::super::output::Existing;
    use super::super::pass;
    use super::super::source::Memory;
    use super::*;

    fn write(disk: &Memory, threads: usize, target: &std::path::Path) {
        let output = Output::create(target, disk.length).unwrap();
        let raw = Raw::create(disk, &output).unwrap();
        pass::run(
            disk,
            &disk.data_ranges(),
            256 << 10,
            threads,
            &[Box::new(raw)],
            &mut |_, _| {},
        )
        .unwrap();
        output.commit(&Existing::Replace, false).unwrap();
    }

    #[test]
    fn a_raw_image_is_the_disk_with_holes() {
        let place = tempfile::tempdir().unwrap();
        for (length, threads) in [(0, 1), (1, 2), (511, 1), (4_000_001, 1), (4_000_001, 7)] {
            let disk = Memory::sample(length, 7);
            let target = place.path().join("a.raw");
            write(&disk, threads, &target);
            assert!(std::fs::read(&target).unwrap() == disk.bytes());
        }
        let disk = Memory {
            length: 1 << 40,
            pieces: vec![(0, b"first".to_vec()), ((1 << 40) - 4, b"last".to_vec())],
            broken_from: None,
        };
        let target = place.path().join("large.raw");
        write(&disk, 2, &target);
        let about = std::fs::metadata(&target).unwrap();
        assert_eq!(about.len(), 1 << 40);
        assert!(about.blocks() * 512 < 1 << 20, "{} blocks", about.blocks());
    }

    #[test]
    fn ranges_are_subtracted() {
        let all = [0..10, 20..30, 40..50];
        assert_eq!(without(&all, &[]), all);
        assert_eq!(without(&all, &[0..10, 60..70]), [20..30, 40..50]);
        assert_eq!(
            without(&all, &[2..4, 6..22, 28..41]),
            [0..2, 4..6, 22..28, 41..50]
        );
        assert_eq!(without(&all, &[0..45, 45..60]), []);
    }
}
