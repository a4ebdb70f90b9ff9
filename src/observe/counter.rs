//! Counting where one thread at a time counts and any may look.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the metrics count in. Each lane adds what its requests came to, all at once.
pub(super) type Counter = prometheus_client::metrics::counter::Counter;

/// A load and a store: exact, as nobody else stores meanwhile, and without the lock on the cache
/// line that an atomic addition takes.
pub(super) fn add(counter: &AtomicU64, number: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
}
