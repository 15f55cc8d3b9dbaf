//! Work on many files at once.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// Runs `job` over all items on all cores; gives the first error.
///
/// # Errors
/// That of the first item, in order, whose job failed.
pub fn in_parallel<T: Sync, E: Send>(items: &[T], job: impl Fn(&T) -> Result<(), E> + Sync) -> Result<(), E> {
    in_threads(std::thread::available_parallelism().map_or(1, usize::from), items, job)
}

/// The same in this many threads, for work that waits more than it computes.
///
/// # Errors
/// That of the first item, in order, whose job failed.
pub fn in_threads<T: Sync, E: Send>(
    threads: usize,
    items: &[T],
    job: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None::<(usize, E)>);
    let workers = threads.min(items.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else {
                        return;
                    };
                    if let Err(error) = job(item) {
                        let mut slot = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        if slot.as_ref().is_none_or(|(first, _)| index < *first) {
                            *slot = Some((index, error));
                        }
                        // Others finish the item they have; nobody takes a new one.
                        next.store(items.len(), Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}
