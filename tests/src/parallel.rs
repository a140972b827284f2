//! Several scenarios at a time.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Does `each` for every item, at most `jobs` at a time (at least one), in their order; returns
/// when all are done.
pub fn in_parallel<T: Send>(jobs: usize, items: Vec<T>, each: impl Fn(T) + Sync) {
    let waiting = Mutex::new(VecDeque::from(items));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(item) = next() {
                    each(item);
                }
            });
        }
    });
}
