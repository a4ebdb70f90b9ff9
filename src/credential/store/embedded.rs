//! The store on the disk: one redb file, and the files around it. Knows transactions and
//! when to refuse a file; not keys of encryption, nor what entries mean.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use redb::{
    Builder, Database, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition, backends::FileBackend,
};
use zeroize::Zeroizing;

use super::{
    Change, Guard, Key, Store, StoreError, StoreKey,
    cipher::{self, Cipher},
    generation,
    lock::Lock,
};
use crate::{
    files,
    primitives::{digest::hex, sha256},
};

/// Of everything in the directory. A newer one is refused.
pub(super) const FORMAT: u32 = 1;

type Bytes = &'static [u8];
const META: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("metadata");
const ENTRIES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("entries");

/// How long an operation waits for those of other threads and processes, some ms each.
const PATIENCE: Duration = Duration::from_secs(10);
/// A store holds some hundred entries of some KiB; redb would take up to 1 GiB.
const CACHE: usize = 1024 * 1024;

/// Entries in a directory that processes share.
///
/// Every operation opens the database, has redb check the whole of it, and closes it again:
/// about 3 ms to read and 6 ms to write (50 entries of 2 KB, ext4 on a virtual disk whose
/// fsync takes 0.3 ms). That is nothing for what happens once a token. In return any number
/// of processes take turns, a crash needs no repair of its own, and a damaged file is an error;
/// a plain open of redb would trust it, and may panic.
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
        let opened = paths.open()?;
        let cipher = Cipher::new(&key.read(&paths.key, &paths.database)?, &opened.meta.salt)?;
        let store = Self { paths, cipher };
        store.judge(&opened)?;
        if opened.written != Some(opened.meta.generation) {
            // New, or a crash came between the commit and this.
            generation::write(&store.paths.generation, opened.meta.generation)?;
        }
        Ok(store)
    }

    fn turn(&self) -> Result<Lock, StoreError> {
        Lock::wait(&self.paths.lock, PATIENCE)
    }

    /// The database, for the one who has the turn. Judged each time: while this process ran,
    /// somebody may have put another file there.
    fn opened(&self, _turn: &Lock) -> Result<Opened, StoreError> {
        let opened = self.paths.open()?;
        self.judge(&opened)?;
        Ok(opened)
    }

    fn judge(&self, opened: &Opened) -> Result<(), StoreError> {
        if !self.cipher.is(&opened.meta.check) {
            return Err(StoreError::OtherKey { path: self.paths.database.clone() });
        }
        match opened.written {
            Some(written) if opened.meta.generation < written => Err(StoreError::Restored {
                database: self.paths.database.clone(),
                found: opened.meta.generation,
                generation: self.paths.generation.clone(),
                written,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// By name and value; no value: to be removed.
    fn seal(&self, change: &Change<'_>) -> Result<(Vec<u8>, Option<Vec<u8>>), StoreError> {
        match change {
            Change::Put(key, value) => Ok((key.bytes(), Some(self.cipher.seal(key, value)?))),
            Change::Remove(key) => Ok((key.bytes(), None)),
        }
    }
}

impl Store for Embedded {
    fn get(&self, key: &Key) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let turn = self.turn()?;
        let sealed = self.opened(&turn)?.entry(&key.bytes()).map_err(|error| self.paths.failed(error))?;
        drop(turn);
        let Some(sealed) = sealed else { return Ok(None) };
        let damaged = || StoreError::DamagedEntry { path: self.paths.database.clone(), key: key.clone() };
        self.cipher.open(key, &sealed).ok_or_else(damaged).map(Some)
    }

    fn write(&self, changes: &[Change<'_>]) -> Result<(), StoreError> {
        let sealed: Vec<_> = changes.iter().map(|change| self.seal(change)).collect::<Result<_, _>>()?;
        let turn = self.turn()?;
        let opened = self.opened(&turn)?;
        let next = opened.meta.generation.saturating_add(1);
        opened.commit(&sealed, next).map_err(|error| self.paths.failed(error))?;
        drop(opened);
        if let Err(error) = generation::write(&self.paths.generation, next) {
            // Written it is, and has to be used: the exchange can't be taken back.
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "the token store's generation isn't kept: one put back from a backup may go unnoticed"
            );
        }
        Ok(())
    }

    fn keys(&self) -> Result<Vec<Key>, StoreError> {
        let turn = self.turn()?;
        let names = self.opened(&turn)?.names().map_err(|error| self.paths.failed(error))?;
        let damaged = || StoreError::Damaged { path: self.paths.database.clone(), source: None };
        names.iter().map(|name| Key::from_bytes(name).ok_or_else(damaged)).collect()
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
        make(&aside, &meta).map_err(|error| self.failed(error))?;
        Ok(files::rename(&aside, &self.database)?)
    }

    fn open(&self) -> Result<Opened, StoreError> {
        let written = generation::read(&self.generation)?;
        match files::check_key_mode(&self.database) {
            Err(files::Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(self.missing());
            }
            result => result?,
        }
        let database = builder().open(&self.database).map_err(|error| self.failed(error.into()))?;
        let path = || self.database.clone();
        match Meta::read(&database).map_err(|error| self.failed(error))? {
            Found::Whole(meta) => Ok(Opened { database, meta, written }),
            Found::Newer(found) => Err(StoreError::Newer { path: path(), found, known: FORMAT }),
            Found::Damaged => Err(StoreError::Damaged { path: path(), source: None }),
        }
    }

    fn missing(&self) -> StoreError {
        StoreError::Missing { database: self.database.clone(), generation: self.generation.clone() }
    }

    fn failed(&self, error: redb::Error) -> StoreError {
        use redb::Error;
        let path = self.database.clone();
        match error {
            Error::Io(source) if is_damage(&source) => {
                StoreError::Damaged { path, source: Some(Box::new(Error::Io(source))) }
            }
            Error::Io(source) => StoreError::Io { path, source },
            Error::DatabaseAlreadyOpen | Error::LockProtocolMismatch => StoreError::Busy { path },
            Error::Corrupted(_)
            | Error::UpgradeRequired(_)
            | Error::TableDoesNotExist(_)
            | Error::TableTypeMismatch { .. }
            | Error::TypeDefinitionChanged { .. }
            | Error::TableIsMultimap(_) => StoreError::Damaged { path, source: Some(Box::new(error)) },
            other => StoreError::Database { path, source: Box::new(other) },
        }
    }
}

/// redb says so where a file is none of its own, or ends too early.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder
}

fn make(path: &Path, meta: &Meta) -> Result<(), redb::Error> {
    // A crash may have left one.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    let database = builder().create_with_backend(FileBackend::new(file)?)?;
    let transaction = database.begin_write()?;
    meta.write(&mut transaction.open_table(META)?)?;
    transaction.open_table(ENTRIES)?;
    transaction.commit()?;
    Ok(database.close()?)
}

// === impl Opened ===

/// The database, open for one operation; closed on drop.
struct Opened {
    database: Database,
    meta: Meta,
    /// What the generation file says.
    written: Option<u64>,
}

impl Opened {
    fn entry(&self, name: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
        let value = self.entries()?.get(name)?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn names(&self) -> Result<Vec<Vec<u8>>, redb::Error> {
        let mut names = Vec::new();
        for entry in self.entries()?.iter()? {
            names.push(entry?.0.value().to_vec());
        }
        Ok(names)
    }

    fn entries(&self) -> Result<ReadOnlyTable<Bytes, Bytes>, redb::Error> {
        Ok(self.database.begin_read()?.open_table(ENTRIES)?)
    }

    /// On the disk when it returns: redb's commits are, unless one says otherwise.
    fn commit(&self, sealed: &[(Vec<u8>, Option<Vec<u8>>)], generation: u64) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            for (name, value) in sealed {
                match value {
                    Some(value) => drop(entries.insert(&name[..], &value[..])?),
                    None => drop(entries.remove(&name[..])?),
                }
            }
            Meta::write_generation(&mut transaction.open_table(META)?, generation)?;
        }
        Ok(transaction.commit()?)
    }
}

// === impl Meta ===

/// What is in clear.
struct Meta {
    salt: Vec<u8>,
    check: Vec<u8>,
    /// One more with each write.
    generation: u64,
}

/// How the clear part of a database looks.
enum Found {
    Whole(Meta),
    /// Of this format; what else is there, only a newer version knows.
    Newer(u32),
    Damaged,
}

impl Meta {
    fn read(database: &Database) -> Result<Found, redb::Error> {
        let table = database.begin_read()?.open_table(META)?;
        let field = |name: &[u8]| table.get(name).map(|value| value.map(|value| value.value().to_vec()));
        let number = |bytes: Option<Vec<u8>>| Some(u64::from_be_bytes(bytes?.try_into().ok()?));
        match number(field(b"format")?).and_then(|format| u32::try_from(format).ok()) {
            Some(FORMAT) => {}
            Some(newer) if newer > FORMAT => return Ok(Found::Newer(newer)),
            Some(_) | None => return Ok(Found::Damaged),
        }
        let (salt, check, generation) = (field(b"salt")?, field(b"check")?, number(field(b"generation")?));
        let (Some(salt), Some(check), Some(generation)) = (salt, check, generation) else {
            return Ok(Found::Damaged);
        };
        Ok(Found::Whole(Self { salt, check, generation }))
    }

    fn write(&self, table: &mut Table<'_, Bytes, Bytes>) -> Result<(), redb::Error> {
        table.insert(&b"format"[..], &u64::from(FORMAT).to_be_bytes()[..])?;
        table.insert(&b"salt"[..], &self.salt[..])?;
        table.insert(&b"check"[..], &self.check[..])?;
        Self::write_generation(table, self.generation)
    }

    fn write_generation(table: &mut Table<'_, Bytes, Bytes>, generation: u64) -> Result<(), redb::Error> {
        table.insert(&b"generation"[..], &generation.to_be_bytes()[..])?;
        Ok(())
    }
}
