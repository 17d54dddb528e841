//! Raw images: the disk's bytes, holes left as holes.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::at::free_bytes;
use super::error::Error;
use super::output::{Output, WRITE_SIZE, takes_space};
use super::pass::{Chunk, Worker, Writer, is_zero, lock};
use super::source::ReadAt;

/// Smallest hole, which is also what filesystems that share blocks share: every
/// common one has blocks of this size.
const BLOCK: u64 = 4096;

/// File ranges shorter than this are copied: opening the file costs more than
/// cloning saves.
pub(super) const MIN_CLONE: u64 = 128 << 10;

/// Ranges of the disk closer to each other than this get their space as one.
const SPACE_GAP: u64 = 64 << 10;

/// Runs of zeros this long give space back that was taken for them.
const MIN_PUNCH: usize = 64 << 10;

/// Bytes that wait to be written before threads stop reading more. Half as many let them
/// go on: waking a thread takes so long that the one that writes must not run dry.
const MAX_WAITING: usize = 4 << 20;

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
    waiting: Mutex<Waiting>,
    /// There is room again for what waits.
    room: Condvar,
}

/// Chunks that were read and not written yet.
///
/// A file takes one write at a time. So whichever thread comes when none writes does it for
/// all, until nothing waits any more, and the others go on reading.
#[derive(Debug, Default)]
struct Waiting {
    chunks: VecDeque<Held>,
    /// Of all chunks together.
    bytes: usize,
    /// A thread writes.
    is_writing: bool,
    /// Threads that wait for room.
    blocked: usize,
    stopped: bool,
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
            waiting: Mutex::default(),
            room: Condvar::new(),
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

    fn stop(&self) {
        lock(&self.waiting).stopped = true;
        self.room.notify_all();
    }

    fn complete(&self) -> &[Range<u64>] {
        &self.cloned
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        self.punch();
        Ok(())
    }
}

impl Raw<'_> {
    /// Gives back the space of zeros.
    pub fn punch(&self) {
        give_back(self.output, lock(&self.zeros).drain(..));
    }
}

/// Gives back the space of zeros. That it cannot be is no error: they are zeros either way.
fn give_back(output: &Output, ranges: impl IntoIterator<Item = Range<u64>>) {
    use nix::fcntl::{FallocateFlags, fallocate};
    for range in ranges {
        let (Ok(start), Ok(length)) = (
            i64::try_from(range.start),
            i64::try_from(range.end - range.start),
        ) else {
            continue;
        };
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if fallocate(output.file(), flags, start, length).is_err() {
            break;
        }
    }
}

/// A chunk that is not written yet.
#[derive(Debug)]
struct Held {
    offset: u64,
    bytes: Arc<Vec<u8>>,
    /// What of it is written.
    runs: Vec<Range<usize>>,
}

impl Worker for &Raw<'_> {
    fn take(&mut self, chunk: Chunk<'_>) -> Result<(), Error> {
        let left = self.length.saturating_sub(chunk.offset);
        let end =
            usize::try_from(left).map_or(chunk.bytes.len(), |left| left.min(chunk.bytes.len()));
        let runs = self.runs(&chunk.bytes[..end], chunk.offset);
        let mut waiting = lock(&self.waiting);
        waiting.bytes += chunk.bytes.len();
        waiting.chunks.push_back(Held {
            offset: chunk.offset,
            bytes: Arc::clone(chunk.shared),
            runs,
        });
        if waiting.stopped {
            Err(Error::Stopped)
        } else if waiting.is_writing {
            self.wait_for_room(waiting)
        } else {
            waiting.is_writing = true;
            drop(waiting);
            self.write_waiting()
        }
    }
}

impl Raw<'_> {
    /// Writes all that waits. If that fails, the pass ends and [`Writer::stop`] wakes the
    /// others.
    fn write_waiting(&self) -> Result<(), Error> {
        let mut turn = self.output.turn();
        loop {
            let mut waiting = lock(&self.waiting);
            let Some(held) = waiting.chunks.pop_front() else {
                waiting.is_writing = false;
                return Ok(());
            };
            drop(waiting);
            for run in held.runs {
                let offset = held.offset + run.start as u64;
                turn.write_at(&held.bytes[run], offset)?;
            }
            let written = held.bytes.len();
            drop(held.bytes);
            let mut waiting = lock(&self.waiting);
            waiting.bytes -= written;
            let wake = waiting.blocked > 0 && waiting.bytes <= MAX_WAITING / 2;
            drop(waiting);
            if wake {
                self.room.notify_all();
            }
        }
    }

    /// Waits while there is too much to write already.
    fn wait_for_room(&self, mut waiting: MutexGuard<'_, Waiting>) -> Result<(), Error> {
        if waiting.bytes < MAX_WAITING {
            return Ok(());
        }
        waiting.blocked += 1;
        while !waiting.stopped && waiting.bytes > MAX_WAITING / 2 {
            waiting = (self.room.wait(waiting)).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.blocked -= 1;
        if waiting.stopped {
            return Err(Error::Stopped);
        }
        Ok(())
    }
}

impl Raw<'_> {
    /// Runs of blocks that have to be written, none longer than one write.
    fn runs(&self, bytes: &[u8], offset: u64) -> Vec<Range<usize>> {
        let block_size = BLOCK as usize;
        let mut runs: Vec<Range<usize>> = Vec::new();
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
        runs
    }

    /// Remembers zeros of a chunk.
    fn give_back(&self, zeros: &Range<usize>, offset: u64) {
        if self.has_space && zeros.len() >= MIN_PUNCH {
            lock(&self.zeros).push(offset + zeros.start as u64..offset + zeros.end as u64);
        }
    }
}

/// Takes the space of all data at once, where that makes writing cheaper: ext4
/// then has no books to keep for each block that is written. Returns whether it did.
///
/// Where there is too little it takes none: what is data may be zeros for the most part,
/// which need no space once they are seen. And a full disk fails other programs too.
fn take_space(ranges: &[Range<u64>], length: u64, output: &Output) -> Result<bool, Error> {
    use nix::errno::Errno;
    use nix::fcntl::{FallocateFlags, fallocate};
    if !takes_space(output.file()) {
        return Ok(false);
    }
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start - last.end < SPACE_GAP => last.end = range.end,
            _ => joined.push(range.clone()),
        }
    }
    let needed: u64 = joined.iter().map(|range| range.end - range.start).sum();
    if needed > free_bytes(output.file()) {
        return Ok(false);
    }
    for range in &joined {
        let start = range.start / BLOCK * BLOCK;
        let end = range.end.next_multiple_of(BLOCK).min(length);
        let (Ok(from), Ok(count)) = (i64::try_from(start), i64::try_from(end - start)) else {
            return Ok(false);
        };
        match fallocate(output.file(), FallocateFlags::empty(), from, count) {
            Ok(()) => {}
            // A quota, or another program was faster.
            Err(Errno::ENOSPC | Errno::EDQUOT) => {
                give_back(output, joined);
                return Ok(false);
            }
            Err(error @ Errno::EFBIG) => return Err(output.write_error(error.into())),
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

    /// Gives `count` chunks of a MiB to a worker, until one is refused.
    fn give(raw: &Raw<'_>, count: u64) -> Result<(), Error> {
        let shared = Arc::new(vec![7; 1 << 20]);
        let mut worker = raw.worker()?;
        (0..count).try_for_each(|sequence| {
            worker.take(Chunk {
                sequence,
                offset: sequence << 20,
                bytes: &shared,
                shared: &shared,
            })
        })
    }

    #[test]
    fn a_thread_that_waits_for_room_goes_on_or_is_stopped() {
        let disk = Memory {
            length: 64 << 20,
            ..Memory::default()
        };
        let place = tempfile::tempdir().unwrap();
        for stopped in [false, true] {
            let target = place.path().join("a.raw");
            let output = Output::create(&target, disk.length).unwrap();
            let raw = Raw::create(&disk, &output).unwrap();
            // As if another thread wrote.
            lock(&raw.waiting).is_writing = true;
            std::thread::scope(|scope| {
                let giving = scope.spawn(|| give(&raw, 64));
                while lock(&raw.waiting).blocked == 0 {
                    std::thread::yield_now();
                }
                assert!(lock(&raw.waiting).bytes <= MAX_WAITING);
                if stopped {
                    raw.stop();
                    assert!(matches!(giving.join().unwrap(), Err(Error::Stopped)));
                } else {
                    while !giving.is_finished() {
                        raw.write_waiting().unwrap();
                        lock(&raw.waiting).is_writing = true;
                    }
                    giving.join().unwrap().unwrap();
                    raw.write_waiting().unwrap();
                }
            });
            if !stopped {
                output.commit(&Existing::Replace, false).unwrap();
                assert!(std::fs::read(&target).unwrap() == vec![7; 64 << 20]);
            }
        }
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
