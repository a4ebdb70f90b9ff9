//! Counting where one thread at a time counts and any may look.

use std::sync::atomic::{AtomicU64, Ordering};

/// A load and a store: exact, as nobody else stores meanwhile, and without the lock on the cache
/// line that an atomic addition takes.
pub(super) fn add(counter: &AtomicU64, number: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
}
