//! Counting where one thread at a time counts and any may look.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::{self, Atomic};

/// A load and a store: exact, as nobody else stores meanwhile, and without the lock on the cache
/// line that an atomic addition takes.
pub(super) fn add(counter: &AtomicU64, number: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
}

/// What a counter of the metrics counts in that the collector alone moves. Each request moves one.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Atomic<u64> for Count {
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    fn inc_by(&self, number: u64) -> u64 {
        let before = self.get();
        add(&self.0, number);
        before
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Of one writer.
pub(super) type Counter = counter::Counter<u64, Count>;
