//! Raw images: the disk's bytes, holes left as holes.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex};

use super::error::Error;
use super::output::{Output, Turn, WRITE_SIZE};
use super::pass::{Chunk, Worker, Writer, is_zero, lock};
use super::source::ReadAt;

/// Smallest hole, which is also what filesystems that share blocks share: every
/// common one has blocks of this size.
const BLOCK: u64 = 4096;

/// File ranges shorter than this are copied: opening the file costs more than
/// cloning saves.
const MIN_CLONE: u64 = 128 << 10;

/// Ranges of the disk closer to each other than this get their space as one.
const SPACE_GAP: u64 = 64 << 10;

/// Runs of zeros this long give space back that was taken for them.
const MIN_PUNCH: usize = 64 << 10;

/// Chunks that a thread holds before it waits for its turn to write.
const MAX_HELD: usize = 3;

/// A raw image being written.
#[derive(Debug)]
pub(crate) struct Raw<'a> {
    output: &'a Output,
    length: u64,
    /// Ranges that share their blocks with files: sorted, whole blocks.
    cloned: Vec<Range<u64>>,
    /// Whether the space of all data was taken before any was written.
    has_space: bool,
    /// Zeros within data, whose space is given back.
    zeros: Mutex<Vec<Range<u64>>>,
}

impl<'a> Raw<'a> {
    /// Sizes the file and clones into it what the filesystem can share.
    pub fn create(disk: &dyn ReadAt, output: &'a Output) -> Result<Raw<'a>, Error> {
        let length = disk.length();
        output.set_length(length)?;
        let cloned = clone_files(disk, output);
        let has_space = take_space(&without(&disk.data_ranges(), &cloned), length, output)?;
        Ok(Raw {
            output,
            length,
            cloned,
            has_space,
            zeros: Mutex::default(),
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
        Ok(Box::new(RawWorker {
            raw: self,
            held: Vec::new(),
            spare: Vec::new(),
        }))
    }

    fn stop(&self) {}

    fn complete(&self) -> &[Range<u64>] {
        &self.cloned
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        self.punch();
        Ok(())
    }
}

impl Raw<'_> {
    /// Gives back the space of zeros. That it cannot be is no error: they are
    /// zeros either way.
    pub fn punch(&self) {
        use nix::fcntl::{FallocateFlags, fallocate};
        for range in lock(&self.zeros).drain(..) {
            let (Ok(start), Ok(length)) = (
                i64::try_from(range.start),
                i64::try_from(range.end - range.start),
            ) else {
                continue;
            };
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            if fallocate(self.output.file(), flags, start, length).is_err() {
                break;
            }
        }
    }
}

/// What one thread does. Only one thread can write at a time; while another one
/// does, this one goes on reading and writes several chunks later.
struct RawWorker<'a> {
    raw: &'a Raw<'a>,
    held: Vec<Held>,
    /// Lists to use again.
    spare: Vec<Vec<Range<usize>>>,
}

/// A chunk that is not written yet.
struct Held {
    offset: u64,
    bytes: Arc<Vec<u8>>,
    /// What of it is written.
    runs: Vec<Range<usize>>,
}

impl Worker for RawWorker<'_> {
    fn take(&mut self, chunk: Chunk<'_>) -> Result<(), Error> {
        let left = self.raw.length.saturating_sub(chunk.offset);
        let end =
            usize::try_from(left).map_or(chunk.bytes.len(), |left| left.min(chunk.bytes.len()));
        let mut runs = self.spare.pop().unwrap_or_default();
        self.raw.runs(&chunk.bytes[..end], chunk.offset, &mut runs);
        self.held.push(Held {
            offset: chunk.offset,
            bytes: Arc::clone(chunk.shared),
            runs,
        });
        if self.held.len() >= MAX_HELD {
            self.write(self.raw.output.turn())
        } else if let Some(turn) = self.raw.output.try_turn() {
            self.write(turn)
        } else {
            Ok(())
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        self.write(self.raw.output.turn())
    }
}

impl RawWorker<'_> {
    /// Writes all that is held.
    fn write(&mut self, mut turn: Turn<'_>) -> Result<(), Error> {
        for mut held in self.held.drain(..) {
            for run in held.runs.drain(..) {
                let offset = held.offset + run.start as u64;
                turn.write_at(&held.bytes[run], offset)?;
            }
            self.spare.push(held.runs);
        }
        Ok(())
    }
}

impl Raw<'_> {
    /// Runs of blocks that have to be written, none longer than one write.
    fn runs(&self, bytes: &[u8], offset: u64, runs: &mut Vec<Range<usize>>) {
        let block_size = BLOCK as usize;
        let mut zeros: Range<usize> = 0..0;
        for (number, block) in bytes.chunks(block_size).enumerate() {
            let start = number * block_size;
            let end = start + block.len();
            if self.is_cloned(offset + start as u64) {
                continue;
            }
            if is_zero(block) {
                if zeros.end != start {
                    self.give_back(&zeros, offset);
                    zeros.start = start;
                }
                zeros.end = end;
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == start && run.len() < WRITE_SIZE => run.end = end,
                _ => runs.push(start..end),
            }
        }
        self.give_back(&zeros, offset);
    }

    /// Remembers zeros of a chunk.
    fn give_back(&self, zeros: &Range<usize>, offset: u64) {
        if self.has_space && zeros.len() >= MIN_PUNCH {
            lock(&self.zeros).push(offset + zeros.start as u64..offset + zeros.end as u64);
        }
    }
}

/// Takes the space of all data at once, where that makes writing cheaper: ext4
/// then has no books to keep for each block that is written. It also tells before
/// anything is written that there is too little. Returns whether it did.
fn take_space(ranges: &[Range<u64>], length: u64, output: &Output) -> Result<bool, Error> {
    use nix::errno::Errno;
    use nix::fcntl::{FallocateFlags, fallocate};
    let is_ext4 = nix::sys::statfs::fstatfs(output.file())
        .is_ok_and(|about| about.filesystem_type() == nix::sys::statfs::EXT4_SUPER_MAGIC);
    if !is_ext4 {
        return Ok(false);
    }
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start - last.end < SPACE_GAP => last.end = range.end,
            _ => joined.push(range.clone()),
        }
    }
    for range in joined {
        let start = range.start / BLOCK * BLOCK;
        let end = range.end.next_multiple_of(BLOCK).min(length);
        let (Ok(from), Ok(count)) = (i64::try_from(start), i64::try_from(end - start)) else {
            return Ok(false);
        };
        match fallocate(output.file(), FallocateFlags::empty(), from, count) {
            Ok(()) => {}
            Err(error @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)) => {
                return Err(output.write_error(error.into()));
            }
            // Files without extents cannot; they are written all the same.
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
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
            pass::Threads::exactly(threads),
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
