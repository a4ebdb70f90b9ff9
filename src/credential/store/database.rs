//! The database: one redb file, opened for one operation. The only place that knows redb;
//! not what entries mean, nor what else is in the directory.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use redb::{
    Builder, Database, Error, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, Table, TableDefinition,
    backends::{FileBackend, InMemoryBackend},
};

use super::StoreError;

/// Of everything in the directory. A newer one is refused.
pub(super) const FORMAT: u32 = 1;

type Bytes = &'static [u8];
const META: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("metadata");
const ENTRIES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("entries");

/// A store holds some hundred entries of some KiB; redb would take up to 1 GiB.
const CACHE: usize = 1024 * 1024;

/// Entries by their names; no value: to be removed.
pub(super) type Entry = (Vec<u8>, Option<Vec<u8>>);

/// Makes an empty database at `path`, in place of what a crash may have left there.
pub(super) fn make(path: &Path, meta: &Meta) -> Result<(), StoreError> {
    let make = || -> Result<(), Error> {
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
    };
    make().map_err(|error| failed(path, error))
}

/// All entries or none, and the generation. On the disk when it returns: redb's commits are,
/// unless one says otherwise.
///
/// Opens the file plainly, which trusts it: its [`View`] has to have been taken before.
pub(super) fn commit(path: &Path, entries: &[Entry], generation: u64) -> Result<(), StoreError> {
    let commit = || -> Result<(), Error> {
        let database = builder().open(path)?;
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(ENTRIES)?;
            for (name, value) in entries {
                match value {
                    Some(value) => drop(table.insert(&name[..], &value[..])?),
                    None => drop(table.remove(&name[..])?),
                }
            }
            Meta::write_generation(&mut transaction.open_table(META)?, generation)?;
        }
        Ok(transaction.commit()?)
    };
    commit().map_err(|error| failed(path, error))
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

fn failed(path: &Path, error: Error) -> StoreError {
    let path = path.to_owned();
    match error {
        // redb says so where a file is none of its own, or ends too early.
        Error::Io(source) if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
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

// === impl View ===

/// A database as it was at one moment, in memory, and all of it in order.
pub(super) struct View {
    database: Database,
    path: PathBuf,
    pub(super) meta: Meta,
}

impl View {
    /// Opens a copy of the file at `path`, and has redb check the whole of it. A damaged one
    /// is an error: a plain open would trust it, and may panic. One that a crash left is
    /// repaired; in memory, the next write does it on the disk.
    pub(super) fn new(path: &Path, bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged { path: path.to_owned(), source: None };
        if bytes.is_empty() {
            // To redb that is a place for a new database.
            return Err(damaged());
        }
        let database = load(bytes).map_err(|error| failed(path, error))?;
        match Meta::read(&database).map_err(|error| failed(path, error))? {
            Found::Whole(meta) => Ok(Self { database, path: path.to_owned(), meta }),
            Found::Newer(found) => Err(StoreError::Newer { path: path.to_owned(), found, known: FORMAT }),
            Found::Damaged => Err(damaged()),
        }
    }

    pub(super) fn entry(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let entry = || -> Result<_, Error> { Ok(self.entries()?.get(name)?.map(|value| value.value().to_vec())) };
        entry().map_err(|error| failed(&self.path, error))
    }

    pub(super) fn names(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let names = || -> Result<_, Error> {
            let mut names = Vec::new();
            for entry in self.entries()?.iter()? {
                names.push(entry?.0.value().to_vec());
            }
            Ok(names)
        };
        names().map_err(|error| failed(&self.path, error))
    }

    fn entries(&self) -> Result<ReadOnlyTable<Bytes, Bytes>, Error> {
        Ok(self.database.begin_read()?.open_table(ENTRIES)?)
    }
}

fn load(bytes: &[u8]) -> Result<Database, Error> {
    let memory = InMemoryBackend::new();
    memory.set_len(bytes.len() as u64)?;
    memory.write(0, bytes)?;
    Ok(builder().set_check_integrity_on_open(true).create_with_backend(memory)?)
}

// === impl Meta ===

/// What is in clear.
pub(super) struct Meta {
    pub(super) salt: Vec<u8>,
    /// Tells the right key from others.
    pub(super) check: Vec<u8>,
    /// One more with each write.
    pub(super) generation: u64,
}

/// How the clear part of a database looks.
enum Found {
    Whole(Meta),
    /// Of this format; what else is there, only a newer version knows.
    Newer(u32),
    Damaged,
}

impl Meta {
    fn read(database: &Database) -> Result<Found, Error> {
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

    fn write(&self, table: &mut Table<'_, Bytes, Bytes>) -> Result<(), Error> {
        table.insert(&b"format"[..], &u64::from(FORMAT).to_be_bytes()[..])?;
        table.insert(&b"salt"[..], &self.salt[..])?;
        table.insert(&b"check"[..], &self.check[..])?;
        Self::write_generation(table, self.generation)
    }

    fn write_generation(table: &mut Table<'_, Bytes, Bytes>, generation: u64) -> Result<(), Error> {
        table.insert(&b"generation"[..], &generation.to_be_bytes()[..])?;
        Ok(())
    }
}
