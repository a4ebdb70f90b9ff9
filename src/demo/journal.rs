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
    /// All that were ever written, kept or not. Told anew when one is amended, too.
    total: watch::Sender<usize>,
}

/// Where an entry stands, counted from 0 over all that were ever written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number(usize);

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self { entries: Mutex::default(), total: watch::Sender::new(0) }
    }
}

impl<T> Journal<T> {
    pub(super) fn push(&self, entry: T) -> Number {
        let mut entries = lock(&self.entries);
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(entry);
        let mut number = 0;
        // Under the lock, or two entries could get each other's number.
        self.total.send_modify(|total| {
            number = *total;
            *total += 1;
        });
        Number(number)
    }

    /// Changes an entry, unless it has gone by now.
    pub(super) fn amend(&self, number: Number, change: impl FnOnce(&mut T)) {
        let mut entries = lock(&self.entries);
        let gone = self.total() - entries.len();
        let entry = number.0.checked_sub(gone).and_then(|at| entries.get_mut(at));
        if let Some(entry) = entry {
            change(entry);
        }
        drop(entries);
        self.total.send_modify(|_| {});
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

    /// Returns as soon as `count` of the entries kept are as wanted.
    pub(super) async fn wait_until(&self, count: usize, wanted: impl Fn(&T) -> bool) {
        let mut total = self.total.subscribe();
        while lock(&self.entries).iter().filter(|entry| wanted(entry)).count() < count {
            // It can't fail: `self` holds the sender.
            let _ = total.changed().await;
        }
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

    #[tokio::test]
    async fn an_entry_is_amended_where_it_stands_and_waiters_hear_of_it() {
        let journal = Journal::default();
        let gone = journal.push(0);
        for entry in 1..KEPT {
            journal.push(entry);
        }
        let last = journal.push(KEPT);
        let amending = async {
            journal.amend(gone, |_| panic!("it isn't there any more"));
            journal.amend(last, |entry| *entry = 7_000_000);
        };
        tokio::join!(journal.wait_until(1, |entry| *entry == 7_000_000), amending);
        assert_eq!(journal.map(|entry| *entry).last(), Some(&7_000_000));
    }
}
