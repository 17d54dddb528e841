//! One pass over a disk for all its writers: every chunk that can hold data is
//! read once, by one of several threads, and given to each writer.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::Error;
use super::prefetch;
use super::source::{Prefetch, ReadAt};
use crate::threads::begin;

/// How often progress is told.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Part of a disk, as it is given to the writers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk<'a> {
    /// Its number in the pass: 0, 1, 2, … in the order of offsets, without gaps.
    pub sequence: u64,
    /// First byte on the disk, a multiple of the chunk size.
    pub offset: u64,
    /// Its bytes; past the end of the disk they are zeros.
    pub bytes: &'a [u8],
    /// The same, for who wants to keep them for a while.
    pub shared: &'a Arc<Vec<u8>>,
}

/// A disk format being written. Chunks that are never given hold zeros only.
pub(crate) trait Writer: Sync {
    /// The state of one thread.
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Error>;

    /// Another thread failed: nothing may wait for chunks that will never come.
    fn stop(&self);

    /// What is complete without any chunk: sorted ranges.
    fn complete(&self) -> &[Range<u64>] {
        &[]
    }

    /// Writes what is left after the last chunk (tables, header).
    fn finish(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

/// What one thread does for one writer.
pub(crate) trait Worker {
    /// Takes a chunk; threads take theirs in any order.
    fn take(&mut self, chunk: Chunk<'_>) -> Result<(), Error>;

    /// Does what is left when there are no more chunks for this thread.
    fn end(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Locks, also where another thread panicked: its panic is what will be reported.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers of the chunks that overlap `ranges` (sorted), as sorted ranges of numbers.
fn chunk_runs(ranges: &[Range<u64>], chunk_size: u64) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for range in ranges.iter().filter(|range| range.start < range.end) {
        let (first, end) = (range.start / chunk_size, range.end.div_ceil(chunk_size));
        match runs.last_mut() {
            Some(last) if first <= last.end => last.end = last.end.max(end),
            _ => runs.push(first..end),
        }
    }
    runs
}

/// Hands out chunks in order.
#[derive(Clone)]
struct Queue {
    runs: std::vec::IntoIter<Range<u64>>,
    run: Range<u64>,
    sequence: u64,
}

impl Queue {
    /// The next chunk's place in the pass and number.
    fn next(&mut self) -> Option<(u64, u64)> {
        while self.run.is_empty() {
            self.run = self.runs.next()?;
        }
        let number = self.run.next()?;
        let sequence = self.sequence;
        self.sequence += 1;
        Some((sequence, number))
    }
}

/// How many threads make a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Threads {
    /// While all data is in memory.
    pub running: usize,
    /// While they wait for a disk for much of their time.
    pub waiting: usize,
}

impl Threads {
    /// So many in any case.
    pub fn exactly(threads: usize) -> Threads {
        Threads {
            running: threads,
            waiting: threads,
        }
    }
}

/// Reads all chunks that overlap `ranges` and gives them to `writers`. The calling
/// thread tells progress in bytes done and in all.
pub(crate) fn run(
    disk: &dyn ReadAt,
    ranges: &[Range<u64>],
    chunk_size: usize,
    threads: Threads,
    writers: &[Box<dyn Writer + '_>],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let unit = chunk_size as u64;
    let runs = chunk_runs(ranges, unit);
    let chunks: u64 = runs.iter().map(|run| run.end - run.start).sum();
    let total = chunks.saturating_mul(unit);
    let prefetch = disk.prefetch();
    let threads = match prefetch {
        None => threads.running,
        Some(_) => threads.waiting,
    };
    let threads = threads.clamp(1, usize::try_from(chunks.max(1)).unwrap_or(usize::MAX));
    progress(0, total);

    let queue = Queue {
        runs: runs.into_iter(),
        run: 0..0,
        sequence: 0,
    };
    let ahead = Ahead {
        chunks: queue.clone(),
        distance: (prefetch::DISTANCE / unit).max(1),
        unit,
        wanted: prefetch.is_some(),
    };
    let queue = Mutex::new(queue);
    let state = Shared {
        done: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        error: Mutex::new(None),
        running: AtomicUsize::new(threads),
        ended: Mutex::new(()),
        wake: Condvar::new(),
        taken: Condvar::new(),
    };
    let work = || -> Result<(), Error> {
        let mut reader = disk.reader();
        let mut workers = writers
            .iter()
            .map(|writer| writer.worker())
            .collect::<Result<Vec<_>, _>>()?;
        let mut buffers = Buffers::new(chunk_size);
        while !state.failed.load(Ordering::Relaxed) {
            let Some((sequence, number)) = lock(&queue).next() else {
                break;
            };
            if ahead.wanted {
                state.taken.notify_one();
            }
            let offset = number * unit;
            let length = unit.min(disk.length().saturating_sub(offset));
            let filled = usize::try_from(length).map_or(chunk_size, |l| l.min(chunk_size));
            let shared = buffers.free();
            let buffer = Arc::make_mut(shared);
            let (data, rest) = buffer.split_at_mut(filled);
            rest.fill(0);
            reader.read_at(offset, data).map_err(|source| Error::Disk {
                offset,
                length,
                source,
            })?;
            for worker in &mut workers {
                worker.take(Chunk {
                    sequence,
                    offset,
                    bytes: shared,
                    shared,
                })?;
            }
            state.done.fetch_add(unit, Ordering::Relaxed);
        }
        if !state.failed.load(Ordering::Relaxed) {
            workers.iter_mut().try_for_each(|worker| worker.end())?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        if let Some(prefetch) = prefetch {
            let (ahead, queue, state) = (&ahead, &queue, &state);
            // Without this thread everything is only slower.
            let _ = std::thread::Builder::new()
                .spawn_scoped(scope, move || ahead.run(prefetch, queue, state));
        }
        for _ in 0..threads {
            begin(scope, || {
                let end = EndOfThread {
                    shared: &state,
                    writers,
                };
                if let Err(error) = work() {
                    end.fail(error);
                }
            });
        }
        let mut ended = lock(&state.ended);
        while state.running.load(Ordering::Acquire) > 0 {
            ended = state
                .wake
                .wait_timeout(ended, PROGRESS_INTERVAL)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(guard, _)| guard);
            progress(state.done.load(Ordering::Relaxed), total);
        }
        // A short pass may be over before anybody looked.
        progress(state.done.load(Ordering::Relaxed), total);
    });
    let error = lock(&state.error).take();
    error.map_or(Ok(()), Err)
}

/// Buffers of one thread, most of which a writer may hold on to.
struct Buffers {
    size: usize,
    all: Vec<Arc<Vec<u8>>>,
}

impl Buffers {
    fn new(size: usize) -> Buffers {
        Buffers {
            size,
            all: Vec::new(),
        }
    }

    /// A buffer that nobody else has.
    fn free(&mut self) -> &mut Arc<Vec<u8>> {
        let free = self
            .all
            .iter_mut()
            .position(|buffer| Arc::get_mut(buffer).is_some());
        let at = free.unwrap_or_else(|| {
            self.all.push(Arc::new(vec![0; self.size]));
            self.all.len() - 1
        });
        &mut self.all[at]
    }
}

/// Reads ahead of the other threads, by a limited distance.
struct Ahead {
    chunks: Queue,
    /// In chunks.
    distance: u64,
    unit: u64,
    wanted: bool,
}

impl Ahead {
    fn run(
        &self,
        mut prefetch: Box<dyn Prefetch + Send + '_>,
        queue: &Mutex<Queue>,
        state: &Shared,
    ) {
        let mut chunks = self.chunks.clone();
        while let Some((sequence, number)) = chunks.next() {
            let mut taken = lock(queue);
            while sequence > taken.sequence.saturating_add(self.distance) {
                if state.failed.load(Ordering::Relaxed) {
                    return;
                }
                taken = state
                    .taken
                    .wait_timeout(taken, PROGRESS_INTERVAL)
                    .map_or_else(|poisoned| poisoned.into_inner().0, |(guard, _)| guard);
            }
            // Who reads is here already.
            let late = sequence < taken.sequence;
            drop(taken);
            if state.failed.load(Ordering::Relaxed) {
                return;
            }
            if !late {
                let start = number * self.unit;
                prefetch.start(start..start + self.unit);
            }
        }
    }
}

/// What the threads of a pass share.
struct Shared {
    done: AtomicU64,
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
    running: AtomicUsize,
    ended: Mutex<()>,
    wake: Condvar,
    /// A chunk was taken from the queue.
    taken: Condvar,
}

/// Tells the others when a thread ends, however it ends.
struct EndOfThread<'a> {
    shared: &'a Shared,
    writers: &'a [Box<dyn Writer + 'a>],
}

impl EndOfThread<'_> {
    fn fail(&self, error: Error) {
        let mut first = lock(&self.shared.error);
        // `Stopped` is only the echo of another thread's error.
        if first.is_none() || matches!(*first, Some(Error::Stopped)) {
            *first = Some(error);
        }
        drop(first);
        self.stop();
    }

    fn stop(&self) {
        self.shared.failed.store(true, Ordering::Relaxed);
        for writer in self.writers.iter() {
            writer.stop();
        }
    }
}

impl Drop for EndOfThread<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.stop();
        }
        let _guard = lock(&self.shared.ended);
        self.shared.running.fetch_sub(1, Ordering::Release);
        self.shared.wake.notify_all();
    }
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Blocks of a fixed size compile to wide loads; most data ends this early.
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks
        .iter()
        .all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::super::source::Memory;
    use super::*;

    #[test]
    fn chunks_that_overlap_data_are_numbered_without_gaps() {
        assert_eq!(chunk_runs(&[], 10), []);
        assert_eq!(
            chunk_runs(&[0..1, 5..6, 9..11, 30..40, 45..46], 10),
            [0..2, 3..5]
        );
        let mut queue = Queue {
            runs: vec![0..2, 3..5].into_iter(),
            run: 0..0,
            sequence: 0,
        };
        let all: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(all, [(0, 0), (1, 1), (2, 3), (3, 4)]);
    }

    #[test]
    fn zeros_are_recognised_at_every_length() {
        for length in [0, 1, 63, 64, 65, 4096] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in 0..length {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {length}");
                bytes[at] = 0;
            }
        }
    }

    struct Collect(Mutex<Vec<(u64, u64, Vec<u8>)>>, Option<u64>);

    impl Writer for &Collect {
        fn worker(&self) -> Result<Box<dyn Worker + '_>, Error> {
            Ok(Box::new(*self))
        }
        fn stop(&self) {}
    }

    impl Worker for &Collect {
        fn take(&mut self, chunk: Chunk<'_>) -> Result<(), Error> {
            assert_ne!(self.1, Some(chunk.sequence), "asked to panic");
            lock(&self.0).push((chunk.sequence, chunk.offset, chunk.bytes.to_vec()));
            Ok(())
        }
    }

    #[test]
    fn every_byte_is_given_once_to_every_writer() {
        let disk = Memory::sample(3_000_001, 1);
        let mut expected = disk.bytes();
        for threads in [1, 3] {
            let (a, b) = (
                Collect(Mutex::default(), None),
                Collect(Mutex::default(), None),
            );
            let mut last = (0, 0);
            run(
                &disk,
                &disk.data_ranges(),
                65536,
                Threads::exactly(threads),
                &[Box::new(&a), Box::new(&b)],
                &mut |done, all| last = (done, all),
            )
            .unwrap();
            assert_eq!(last.0, last.1);
            for collected in [a, b] {
                let mut chunks = collected.0.into_inner().unwrap();
                chunks.sort();
                let mut all = vec![0; 46 * 65536];
                for (at, (sequence, offset, bytes)) in chunks.into_iter().enumerate() {
                    assert_eq!(sequence, at as u64);
                    all[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
                }
                expected.resize(all.len(), 0);
                assert!(all == expected);
            }
        }
    }

    #[test]
    fn an_error_of_the_disk_ends_the_pass_and_says_where() {
        let disk = Memory {
            broken_from: Some(1_000_000),
            ..Memory::sample(3_000_000, 2)
        };
        let collect = Collect(Mutex::default(), None);
        let error = run(
            &disk,
            &disk.data_ranges(),
            65536,
            Threads::exactly(4),
            &[Box::new(&collect)],
            &mut |_, _| {},
        )
        .unwrap_err();
        assert!(matches!(error, Error::Disk { .. }), "{error}");
    }

    /// A disk whose prefetch remembers what it was asked for.
    struct Remembering<'a>(&'a Memory, &'a Mutex<Vec<Range<u64>>>);

    impl ReadAt for Remembering<'_> {
        fn length(&self) -> u64 {
            self.0.length
        }
        fn data_ranges(&self) -> Vec<Range<u64>> {
            self.0.data_ranges()
        }
        fn reader(&self) -> Box<dyn super::super::source::Reader + '_> {
            self.0.reader()
        }
        fn prefetch(&self) -> Option<Box<dyn Prefetch + Send + '_>> {
            Some(Box::new(self.1))
        }
    }

    impl Prefetch for &Mutex<Vec<Range<u64>>> {
        fn start(&mut self, range: Range<u64>) {
            lock(self).push(range);
        }
    }

    #[test]
    fn reading_ahead_asks_for_chunks_in_order_and_ends_with_the_pass() {
        for broken_from in [None, Some(1_000_000)] {
            let disk = Memory {
                broken_from,
                ..Memory::sample(3_000_000, 4)
            };
            let asked = Mutex::default();
            let collect = Collect(Mutex::default(), None);
            let result = run(
                &Remembering(&disk, &asked),
                &disk.data_ranges(),
                65536,
                Threads::exactly(2),
                &[Box::new(&collect)],
                &mut |_, _| {},
            );
            assert_eq!(result.is_err(), broken_from.is_some());
            let asked = asked.into_inner().unwrap();
            assert!(asked.is_sorted_by(|a, b| a.end <= b.start), "{asked:?}");
            assert!(asked.iter().all(|range| range.end - range.start == 65536));
        }
    }

    #[test]
    fn a_panic_in_one_thread_ends_the_pass() {
        let disk = Memory::sample(3_000_000, 3);
        let collect = Collect(Mutex::default(), Some(5));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(
                &disk,
                &disk.data_ranges(),
                65536,
                Threads::exactly(4),
                &[Box::new(&collect)],
                &mut |_, _| {},
            )
        }));
        assert!(result.is_err());
    }
}
