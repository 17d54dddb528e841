//! Threads that are waited for where they were started.
//!
//! The kernel may refuse one (`pthread_create(3)`: limits of the session, or of a control
//! group, of which hooks may have taken all). What can be done without is then done without.

use std::sync::mpsc::sync_channel;
use std::thread::{Builder, Scope, ScopedJoinHandle};

/// What a thread gives; where it panicked, the panic goes on in this one.
pub(crate) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Work that was begun.
pub(crate) enum Begun<'scope, T> {
    Thread(ScopedJoinHandle<'scope, Option<T>>),
    Done(T),
}

impl<T> Begun<'_, T> {
    /// What it gives, once it is done.
    pub(crate) fn finish(self) -> T {
        match self {
            Begun::Thread(thread) => match joined(thread) {
                Some(result) => result,
                None => unreachable!("it was given its work"),
            },
            Begun::Done(result) => result,
        }
    }
}

/// Does something in a thread of its own, or at once in this one if there can be no other.
/// So it must not wait for what this thread does later.
pub(crate) fn begin<'scope, T, F>(scope: &'scope Scope<'scope, '_>, work: F) -> Begun<'scope, T>
where
    T: Send + 'scope,
    F: FnOnce() -> T + Send + 'scope,
{
    // A thread that is refused takes along what it was given.
    let (give, take) = sync_channel::<F>(1);
    let thread = Builder::new().spawn_scoped(scope, move || Some(take.recv().ok()?()));
    match thread {
        Ok(thread) => {
            // It waits for this.
            let _ = give.send(work);
            Begun::Thread(thread)
        }
        Err(_) => Begun::Done(work()),
    }
}

/// Does something with each item in a thread of its own; the results are in order.
pub(crate) fn at_once<I, R, C>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> R + Sync,
) -> C
where
    I: Send,
    R: Send,
    C: FromIterator<R>,
{
    let work = &work;
    std::thread::scope(|scope| {
        let begun: Vec<_> = items
            .into_iter()
            .map(|item| begin(scope, move || work(item)))
            .collect();
        begun.into_iter().map(Begun::finish).collect()
    })
}
