//! A store that forgets: for `demo`, for tests, for who wants nothing on the disk. It is
//! this process's alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use zeroize::Zeroizing;

use super::{Change, Guard, Key, Store, StoreError};

/// Entries in memory, wiped when they go.
#[derive(Default)]
pub struct Memory {
    entries: Mutex<BTreeMap<Key, Zeroizing<Vec<u8>>>>,
    locked: Arc<Mutex<BTreeSet<Key>>>,
}

impl Store for Memory {
    fn get(&self, key: &Key) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        Ok(locked(&self.entries).get(key).cloned())
    }

    fn write(&self, changes: &[Change<'_>]) -> Result<(), StoreError> {
        let mut entries = locked(&self.entries);
        for change in changes {
            match change {
                Change::Put(key, value) => entries.insert((*key).clone(), Zeroizing::new(value.to_vec())),
                Change::Remove(key) => entries.remove(*key),
            };
        }
        Ok(())
    }

    fn keys(&self) -> Result<Vec<Key>, StoreError> {
        Ok(locked(&self.entries).keys().cloned().collect())
    }

    fn try_lock(&self, key: &Key) -> Result<Option<Guard>, StoreError> {
        let is_free = locked(&self.locked).insert(key.clone());
        Ok(is_free.then(|| Guard::new(Held { key: key.clone(), locked: self.locked.clone() })))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

struct Held {
    key: Key,
    locked: Arc<Mutex<BTreeSet<Key>>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        locked(&self.locked).remove(&self.key);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
