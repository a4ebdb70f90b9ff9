//! The store on the disk: the database and the files around it, who has the turn, and when
//! what is there is refused. Knows no redb, and not what entries mean.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use zeroize::Zeroizing;

use super::{
    Change, Guard, Key, Store, StoreError, StoreKey,
    cipher::{self, Cipher},
    database::{self, Entry, Meta, View},
    generation,
    lock::Lock,
};
use crate::{
    files,
    primitives::{digest::hex, sha256},
};

/// How long an operation waits for those of other threads and processes, some ms each.
const PATIENCE: Duration = Duration::from_secs(20);

/// Entries in a directory that processes share.
///
/// redb wants its file for itself, so no operation leaves it open. One that reads copies the
/// file into memory and has the copy checked from end to end, one that writes does the same
/// first. In return any number of processes take turns, no read waits for the disk, a crash
/// needs no repair of its own, and a damaged file is an error each time.
///
/// What it costs, with 50 entries of 2 KB: 1 ms to read; 2 ms and ten times what the disk
/// takes for an `fsync` to write.
#[derive(Debug)]
pub struct Embedded {
    paths: Paths,
    cipher: Cipher,
}

impl Embedded {
    /// Opens the store in `directory`, and makes it where there is none. Blocks.
    ///
    /// # Errors
    /// Whatever there is but can't be used, so that it never passes for an empty store.
    pub fn open(directory: &Path, key: &StoreKey) -> Result<Self, StoreError> {
        let paths = Paths::new(directory);
        files::private_directory(directory)?;
        files::private_directory(&paths.locks)?;
        let _turn = Lock::wait(&paths.lock, PATIENCE)?;
        if !paths.database_exists()? {
            paths.create(key)?;
        }
        let snapshot = paths.snapshot()?;
        let view = View::new(&paths.database, &snapshot.bytes)?;
        let cipher = Cipher::new(&key.read(&paths.key, &paths.database)?, &view.meta.salt)?;
        let store = Self { paths, cipher };
        store.judge(&view.meta, snapshot.written)?;
        if snapshot.written != Some(view.meta.generation) {
            // New, or a crash came between the commit and this.
            generation::write(&store.paths.generation, view.meta.generation)?;
        }
        Ok(store)
    }

    fn turn(&self) -> Result<Lock, StoreError> {
        Lock::wait(&self.paths.lock, PATIENCE)
    }

    /// What is there now. Others have their turn as soon as it is copied.
    fn view(&self) -> Result<View, StoreError> {
        let turn = self.turn()?;
        let snapshot = self.paths.snapshot()?;
        drop(turn);
        self.judged(&snapshot)
    }

    /// Each time: while this process ran, somebody may have put another file there.
    fn judged(&self, snapshot: &Snapshot) -> Result<View, StoreError> {
        let view = View::new(&self.paths.database, &snapshot.bytes)?;
        self.judge(&view.meta, snapshot.written)?;
        Ok(view)
    }

    fn judge(&self, meta: &Meta, written: Option<u64>) -> Result<(), StoreError> {
        if !self.cipher.is(&meta.check) {
            return Err(StoreError::OtherKey { path: self.paths.database.clone() });
        }
        match written {
            Some(written) if meta.generation < written => Err(StoreError::Restored {
                database: self.paths.database.clone(),
                found: meta.generation,
                generation: self.paths.generation.clone(),
                written,
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn seal(&self, change: &Change<'_>) -> Result<Entry, StoreError> {
        match change {
            Change::Put(key, value) => Ok((key.bytes(), Some(self.cipher.seal(key, value)?))),
            Change::Remove(key) => Ok((key.bytes(), None)),
        }
    }
}

impl Store for Embedded {
    fn get(&self, key: &Key) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let Some(sealed) = self.view()?.entry(&key.bytes())? else { return Ok(None) };
        let damaged = || StoreError::DamagedEntry { path: self.paths.database.clone(), key: key.clone() };
        self.cipher.open(key, &sealed).ok_or_else(damaged).map(Some)
    }

    fn write(&self, changes: &[Change<'_>]) -> Result<(), StoreError> {
        let entries: Vec<Entry> = changes.iter().map(|change| self.seal(change)).collect::<Result<_, _>>()?;
        let _turn = self.turn()?;
        let next = self.judged(&self.paths.snapshot()?)?.meta.generation.saturating_add(1);
        database::commit(&self.paths.database, &entries, next)?;
        if let Err(error) = generation::write(&self.paths.generation, next) {
            // Written it is, and has to be used: the exchange can't be taken back.
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the token store's generation isn't kept: a backup put back may go unnoticed");
        }
        Ok(())
    }

    fn keys(&self) -> Result<Vec<Key>, StoreError> {
        let damaged = || StoreError::Damaged { path: self.paths.database.clone(), source: None };
        self.view()?.names()?.iter().map(|name| Key::from_bytes(name).ok_or_else(damaged)).collect()
    }

    fn try_lock(&self, key: &Key) -> Result<Option<Guard>, StoreError> {
        let path = self.paths.locks.join(hex(&sha256(&key.bytes())));
        Ok(Lock::attempt(&path)?.map(Guard::new))
    }
}

// === impl Paths ===

#[derive(Debug)]
struct Paths {
    database: PathBuf,
    generation: PathBuf,
    key: PathBuf,
    lock: PathBuf,
    locks: PathBuf,
}

/// The files as they were at one moment.
struct Snapshot {
    bytes: Vec<u8>,
    /// What the generation file says.
    written: Option<u64>,
}

impl Paths {
    fn new(directory: &Path) -> Self {
        Self {
            database: directory.join("store.redb"),
            generation: directory.join("store.generation"),
            key: directory.join("store.key"),
            lock: directory.join("store.lock"),
            locks: directory.join("locks"),
        }
    }

    fn database_exists(&self) -> Result<bool, StoreError> {
        self.database.try_exists().map_err(|source| StoreError::Io { path: self.database.clone(), source })
    }

    /// Makes an empty store aside, and gives it its name when it is whole: a file under that
    /// name is never a beginning.
    fn create(&self, key: &StoreKey) -> Result<(), StoreError> {
        if generation::read(&self.generation)?.is_some() {
            return Err(self.missing());
        }
        let secret = key.read_or_make(&self.key)?;
        let salt = cipher::random::<32>()?;
        let cipher = Cipher::new(&secret, &salt)?;
        let meta = Meta { salt: salt.to_vec(), check: cipher.check().to_vec(), generation: 0 };
        let aside = self.database.with_extension("redb.new");
        database::make(&aside, &meta)?;
        Ok(files::rename(&aside, &self.database)?)
    }

    /// For the one who has the turn.
    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let written = generation::read(&self.generation)?;
        match files::read_private(&self.database) {
            Ok(bytes) => Ok(Snapshot { bytes, written }),
            Err(files::Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Err(self.missing()),
            Err(error) => Err(error.into()),
        }
    }

    fn missing(&self) -> StoreError {
        StoreError::Missing { database: self.database.clone(), generation: self.generation.clone() }
    }
}
