//! A bounded list of what a server saw, and a way to wait until it has seen
//! enough, so that no test has to sleep.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// How many entries are kept; the oldest go first. A demo may stay up for days.
const KEPT: usize = 10_000;

#[derive(Debug)]
pub(super) struct Journal<T> {
    entries: Mutex<VecDeque<T>>,
    /// All that were ever written, kept or not.
    total: watch::Sender<usize>,
}

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self { entries: Mutex::default(), total: watch::Sender::new(0) }
    }
}

impl<T> Journal<T> {
    pub(super) fn push(&self, entry: T) {
        let mut entries = lock(&self.entries);
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(entry);
        drop(entries);
        self.total.send_modify(|total| *total += 1);
    }

    pub(super) fn map<U>(&self, view: impl FnMut(&T) -> U) -> Vec<U> {
        lock(&self.entries).iter().map(view).collect()
    }

    pub(super) fn total(&self) -> usize {
        *self.total.borrow()
    }

    /// Returns as soon as `count` entries have been written since the start.
    pub(super) async fn wait_for(&self, count: usize) {
        let mut total = self.total.subscribe();
        // It can't fail: `self` holds the sender.
        let _ = total.wait_for(|total| *total >= count).await;
    }
}

/// Locks even where a thread panicked with the lock held: every holder here leaves
/// whole values behind.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_keeps_the_newest_and_counts_all() {
        let journal = Journal::default();
        for entry in 0..=KEPT {
            journal.push(entry);
        }
        journal.wait_for(KEPT + 1).await;
        let kept = journal.map(|entry| *entry);
        assert_eq!((kept.len(), kept.first(), kept.last()), (KEPT, Some(&1), Some(&KEPT)));
        assert_eq!(journal.total(), KEPT + 1);
    }
}
