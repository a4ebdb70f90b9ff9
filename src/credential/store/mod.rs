//! What has to survive a restart: refresh tokens, the keys that tokens are bound to, tokens
//! that are still good. Knows names and opaque bytes; not what the bytes mean.
//!
//! ```text
//! DIRECTORY/           0700; every file 0600
//!   store.redb         entries, encrypted; in clear: format, salt, key check, generation
//!   store.generation   the last generation written: an older database is a restored backup
//!   store.key          the key, unless one is given
//!   store.lock         held for one operation
//!   locks/DIGEST       the right to change one entry, held as long as a refresh takes
//! ```
//!
//! Any number of processes share a directory at the same time: a `serve`, several `run`, a
//! `login`. `embedded` says how, `database` what redb does in it.

mod cipher;
mod database;
mod embedded;
mod error;
mod generation;
mod lock;
mod memory;
#[cfg(test)]
mod tests;

use std::fmt;

use zeroize::Zeroizing;

use crate::primitives::{CredentialName, digest::hex};

pub use cipher::StoreKey;
pub use embedded::Embedded;
pub use error::StoreError;
pub use memory::Memory;

/// Where entries are kept. Calls may block: see [`Store::blocks`].
pub trait Store: fmt::Debug + Send + Sync {
    /// Whether calls wait for a disk or another process: then blocking threads only.
    fn blocks(&self) -> bool {
        true
    }

    fn get(&self, key: &Key) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError>;

    /// All changes or none. They are on the disk when this returns.
    fn write(&self, changes: &[Change<'_>]) -> Result<(), StoreError>;

    /// The keys of all entries.
    fn keys(&self) -> Result<Vec<Key>, StoreError>;

    /// The right to change what `key` names: of all threads of all processes one has it, until
    /// it drops the guard or dies. `None` while another has it. `get` and `write` don't ask
    /// for it: whoever exchanges a refresh token takes it first, and reads only then.
    fn try_lock(&self, key: &Key) -> Result<Option<Guard>, StoreError>;
}

/// One change of a [`Store::write`].
#[derive(Clone, Copy)]
pub enum Change<'a> {
    Put(&'a Key, &'a [u8]),
    Remove(&'a Key),
}

impl fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, _) => write!(f, "Put({key})"),
            Self::Remove(key) => write!(f, "Remove({key})"),
        }
    }
}

// === impl Key ===

/// Names an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    kind: Kind,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// What a login or a registration left: can't be got again without a human.
    Session,
    /// An access token: can be got again.
    Token,
}

impl Key {
    pub fn session(credential: &CredentialName) -> Self {
        Self { kind: Kind::Session, name: credential.as_str().to_owned() }
    }

    /// By the digest over all that makes two tokens the same.
    pub fn token(digest: &[u8; 32]) -> Self {
        Self { kind: Kind::Token, name: hex(digest) }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A credential's name, or a digest in hexadecimal.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As it is stored, digested and authenticated: the kind's number, then the name.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind.number()];
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (number, name) = bytes.split_first()?;
        let kind = [Kind::Session, Kind::Token].into_iter().find(|kind| kind.number() == *number)?;
        Some(Self { kind, name: String::from_utf8(name.to_vec()).ok()? })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Session => write!(f, "session `{}`", self.name),
            Kind::Token => write!(f, "token {}", self.name),
        }
    }
}

impl Kind {
    /// Part of the format: never another one for the same kind.
    fn number(self) -> u8 {
        match self {
            Self::Session => 1,
            Self::Token => 2,
        }
    }
}

// === impl Guard ===

/// Frees what [`Store::try_lock`] gave, when it is dropped.
pub struct Guard {
    _held: Box<dyn Send + Sync>,
}

impl Guard {
    /// `held` frees the right in its `Drop`.
    pub fn new(held: impl Send + Sync + 'static) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}
