//! Puts results that threads finish in any order back into theirs.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex};

use super::error::Error;
use super::pass::lock;

/// A queue that holds results until those before them have come.
///
/// At most `window` results wait; a thread that is further ahead waits itself.
/// The thread with the lowest number never waits, so there is always progress.
#[derive(Debug)]
pub(crate) struct InOrder<T> {
    state: Mutex<State<T>>,
    moved: Condvar,
    window: u64,
}

#[derive(Debug)]
struct State<T> {
    next: u64,
    waiting: BTreeMap<u64, T>,
    stopped: bool,
}

impl<T> InOrder<T> {
    pub fn new(window: usize) -> InOrder<T> {
        InOrder {
            state: Mutex::new(State { next: 0, waiting: BTreeMap::new(), stopped: false }),
            moved: Condvar::new(),
            window: window.max(1) as u64,
        }
    }

    /// Gives result number `sequence`, then runs `accept` on every result whose
    /// turn has come, in order and one at a time, and `after` on what it returns,
    /// at the same time as other threads.
    pub fn submit<U>(
        &self,
        sequence: u64,
        result: T,
        mut accept: impl FnMut(T) -> Result<U, Error>,
        mut after: impl FnMut(U) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut state = lock(&self.state);
        while !state.stopped && sequence >= state.next.saturating_add(self.window) {
            state = self.moved.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.waiting.insert(sequence, result);
        loop {
            if state.stopped {
                return Err(Error::Stopped);
            }
            let next = state.next;
            let Some(result) = state.waiting.remove(&next) else { return Ok(()) };
            let accepted = accept(result)?;
            state.next += 1;
            drop(state);
            self.moved.notify_all();
            after(accepted)?;
            state = lock(&self.state);
        }
    }

    /// Wakes every thread that waits; all that follows fails.
    pub fn stop(&self) {
        lock(&self.state).stopped = true;
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_accepted_in_order_whoever_gives_them() {
        let order = InOrder::new(3);
        let accepted = Mutex::new(Vec::new());
        let next = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..5_u64 {
                let (order, accepted, next) = (&order, &accepted, &next);
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if number >= 200 {
                            break;
                        }
                        for _ in 0..(number * 7 + thread) % 5 {
                            std::thread::yield_now();
                        }
                        let accept = |n: u64| {
                            lock(accepted).push(n);
                            Ok(())
                        };
                        order.submit(number, number, accept, |()| Ok(())).unwrap();
                    }
                });
            }
        });
        assert_eq!(accepted.into_inner().unwrap(), (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn a_thread_that_waits_is_woken_by_a_stop() {
        let order = InOrder::new(1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| order.submit(5, (), Ok, |()| Ok(())));
            order.stop();
            assert!(matches!(waiting.join().unwrap(), Err(Error::Stopped)));
        });
    }
}
