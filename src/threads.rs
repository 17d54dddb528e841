//! Threads that are waited for where they were started.

use std::thread::ScopedJoinHandle;

/// What a thread gives; where it panicked, the panic goes on in this one.
pub(crate) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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
        let threads: Vec<_> = items
            .into_iter()
            .map(|item| scope.spawn(move || work(item)))
            .collect();
        threads.into_iter().map(joined).collect()
    })
}
