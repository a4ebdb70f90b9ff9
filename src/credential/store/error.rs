//! Why the store can't do what it was asked to. All of it is for the operator to mend, so
//! each message says how; none shows what is stored.

use std::{io, path::PathBuf};

use crate::files;

/// The store never answers "there is nothing" in place of one of these.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Loose modes; a directory or file that can't be read or written.
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("can't use the token store {path}")]
    Io { path: PathBuf, source: io::Error },
    /// The database refused, for a reason that isn't one of the others.
    #[error("can't use the token store {path}")]
    Database {
        path: PathBuf,
        #[source]
        source: Box<redb::Error>,
    },
    /// For longer than any operation takes.
    #[error("{path} is held by another process, which may be stopped: `fuser -v {path}` shows it")]
    Busy { path: PathBuf },
    #[error(
        "the token store {path} is damaged: restore it from a backup, or move its directory away and \
         run `cupbearer login` for each credential that has one"
    )]
    Damaged {
        path: PathBuf,
        #[source]
        source: Option<Box<redb::Error>>,
    },
    #[error("{path} isn't a generation file: remove it, if the token store beside it isn't from a backup")]
    DamagedGeneration { path: PathBuf },
    #[error("the {key} in the token store {path} is damaged")]
    DamagedEntry { path: PathBuf, key: super::Key },
    #[error(
        "{path} has format {found} and this version of cupbearer knows formats up to {known}: \
         a newer version wrote it, use that one"
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error(
        "the token store {path} was made with another key: give it that key again, or move its directory away \
         and run `cupbearer login` for each credential that has one"
    )]
    OtherKey { path: PathBuf },
    #[error(
        "the key {key} of the token store {database} is gone: put it back, or move the directory away \
         and run `cupbearer login` for each credential that has one"
    )]
    MissingKey { key: PathBuf, database: PathBuf },
    #[error("{path} doesn't hold a key of at least 128 bits: put the right file back")]
    BadKeyFile { path: PathBuf },
    #[error("the key of the token store has less than 128 bits: `openssl rand -base64 32` makes a good one")]
    WeakKey,
    #[error(
        "the token store {database} is gone: put it back, or remove {generation} and run `cupbearer login` \
         for each credential that has one"
    )]
    Missing { database: PathBuf, generation: PathBuf },
    #[error(
        "the token store {database} is older (generation {found}) than what was written last ({written}), as from a \
         backup: its refresh tokens may have been used up, and using one twice can end the login. Put the newer \
         one back, or remove {generation} to go on with this one: a credential whose refresh token is refused then \
         needs `cupbearer login`"
    )]
    Restored { database: PathBuf, found: u64, generation: PathBuf, written: u64 },
    #[error("an entry can't be encrypted")]
    Encrypt,
}
