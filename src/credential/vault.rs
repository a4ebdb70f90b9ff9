//! What is kept between two starts, typed: refresh tokens with the keys they are bound to,
//! and access tokens that are still good. Knows the store as keys and bytes, and that its
//! calls block; knows nothing of how tokens are got.
//!
//! Our own bytes: JSON with a version in it, so that an older program refuses what a newer
//! one wrote instead of guessing. Secrets are base64 in it: text that needs no escapes is
//! read in place and leaves no copies behind.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::primitives::{CredentialName, Secret};

use super::store::{Change, Guard, Key, Kind, Memory, Store, StoreError};

/// Why what is kept can't be used. All of it is the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Longer than any exchange takes.
    #[error("another process has had the {key} for {limit:?}: one that was stopped? It keeps others from a refresh")]
    Busy { key: Key, limit: Duration },
    #[error("the {key} in the token store can't be read: `cupbearer logout` and `login` make it anew")]
    Damaged { key: Key },
    #[error(
        "the {key} in the token store has version {found}, and this cupbearer knows up to {known}: use the newer one"
    )]
    Newer { key: Key, found: u32, known: u32 },
    /// The process is ending.
    #[error("the token store wasn't waited for")]
    Abandoned,
}

/// Of the entries; the store has one of its own.
const VERSION: u32 = 1;

/// Between two tries to get a lock that another process has.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The store, seen from async code.
#[derive(Clone, Debug)]
pub(crate) struct Vault {
    store: Arc<dyn Store>,
}

/// A refresh token, and all that hangs on it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// `None` once the server refused it: a login is needed.
    pub(crate) refresh_token: Option<Secret>,
    pub(crate) id_token: Option<Secret>,
    /// As granted with the login.
    pub(crate) scope: Option<String>,
    /// PKCS#8 of the key that it is bound to (RFC 9449 §5).
    pub(crate) dpop_key: Option<Secret>,
    /// Counts logins and rotations.
    pub(crate) generation: u64,
    /// An exchange with this refresh token (by its fingerprint) began and its end is not
    /// known: the server may have rotated it (B3).
    pub(crate) under_way: Option<String>,
    /// The server refused the refresh token after an exchange whose end was not known.
    pub(crate) ended_ambiguously: bool,
    /// Of the configured seed that this began with: another seed counts as a new login.
    pub(crate) seed: Option<String>,
    /// Whom the token is for: issuer and client, digested. It goes nowhere else (B6).
    pub(crate) owner: String,
    /// Unix time.
    pub(crate) logged_in_at: u64,
    pub(crate) refreshed_at: u64,
    /// When the refresh token ends unless it is used, and when the login itself does, where
    /// the server said so (B5); unix time.
    pub(crate) idle_end: Option<u64>,
    pub(crate) end: Option<u64>,
}

/// An access token that is still good.
#[derive(Debug)]
pub(crate) struct KeptToken {
    /// Who asked for it: with its login it goes too.
    pub(crate) credential: String,
    pub(crate) token: Secret,
    pub(crate) dpop: bool,
    pub(crate) scope: Option<String>,
    pub(crate) extra: Vec<(String, String)>,
    /// Unix time, in milliseconds.
    pub(crate) refresh_at: u64,
    pub(crate) expires_at: u64,
    /// PKCS#8 of the key that it is bound to.
    pub(crate) dpop_key: Option<Secret>,
    /// Of the certificate that it is bound to.
    pub(crate) certificate: Option<String>,
}

impl Default for Vault {
    /// Keeps everything in memory.
    fn default() -> Self {
        Self::new(Arc::new(Memory::default()))
    }
}

impl Vault {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// The right to change what `key` names, exclusive among all processes.
    pub(crate) async fn lock(&self, key: &Key, limit: Duration) -> Result<Guard, VaultError> {
        let deadline = Instant::now() + limit;
        loop {
            let wanted = key.clone();
            if let Some(guard) = self.blocking(move |store| store.try_lock(&wanted)).await? {
                return Ok(guard);
            }
            if Instant::now() >= deadline {
                return Err(VaultError::Busy { key: key.clone(), limit });
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    pub(crate) async fn token(&self, key: &Key) -> Result<Option<KeptToken>, VaultError> {
        let Some(bytes) = self.get(key).await? else { return Ok(None) };
        KeptToken::read(&bytes).map(Some).map_err(|unread| unread.of(key))
    }

    pub(crate) async fn keep_token(&self, key: &Key, token: &KeptToken) -> Result<(), VaultError> {
        self.put(key, token.write()).await
    }

    pub(crate) async fn session(&self, name: &CredentialName) -> Result<Option<Session>, VaultError> {
        let key = session_key(name);
        let Some(bytes) = self.get(&key).await? else { return Ok(None) };
        Session::read(&bytes).map(Some).map_err(|unread| unread.of(&key))
    }

    /// Durable when it returns (B2).
    pub(crate) async fn keep_session(&self, name: &CredentialName, session: &Session) -> Result<(), VaultError> {
        self.put(&session_key(name), session.write()).await
    }

    pub(crate) async fn forget(&self, key: Key) -> Result<(), VaultError> {
        self.blocking(move |store| store.write(&[Change::Remove(&key)])).await
    }

    /// Removes access tokens that have ended.
    pub(crate) async fn sweep(&self, now: SystemTime) -> Result<(), VaultError> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
        self.remove_tokens(move |token| u128::from(token.expires_at) <= now).await
    }

    /// Removes the access tokens that these credentials asked for.
    pub(crate) async fn forget_tokens(&self, credentials: &[&CredentialName]) -> Result<(), VaultError> {
        let names: Vec<String> = credentials.iter().map(ToString::to_string).collect();
        self.remove_tokens(move |token| names.contains(&token.credential)).await
    }

    /// An entry that can't be read is left to whoever asks for it.
    async fn remove_tokens(&self, goes: impl Fn(&KeptToken) -> bool + Send + 'static) -> Result<(), VaultError> {
        self.blocking(move |store| {
            let mut going = Vec::new();
            for key in store.keys()?.into_iter().filter(|key| key.kind() == Kind::Token) {
                let Some(bytes) = store.get(&key)? else { continue };
                if KeptToken::read(&bytes).is_ok_and(|token| goes(&token)) {
                    going.push(key);
                }
            }
            if going.is_empty() {
                return Ok(());
            }
            store.write(&going.iter().map(Change::Remove).collect::<Vec<_>>())
        })
        .await
    }

    async fn get(&self, key: &Key) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        let key = key.clone();
        self.blocking(move |store| store.get(&key)).await
    }

    async fn put(&self, key: &Key, bytes: Zeroizing<Vec<u8>>) -> Result<(), VaultError> {
        let key = key.clone();
        self.blocking(move |store| store.write(&[Change::Put(&key, &bytes)])).await
    }

    /// A store in memory is asked right here; one on a disk on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, VaultError> {
        let store = self.store.clone();
        if !store.blocks() {
            return Ok(work(&*store)?);
        }
        let done = tokio::task::spawn_blocking(move || work(&*store)).await;
        // The runtime is ending, or the thread panicked.
        done.map_or(Err(VaultError::Abandoned), |done| Ok(done?))
    }
}

pub(crate) fn session_key(name: &CredentialName) -> Key {
    Key::session(name)
}

/// `digest`: of all that makes two tokens the same.
pub(crate) fn token_key(digest: &[u8; 32]) -> Key {
    Key::token(digest)
}

// === the bytes ===

#[derive(Serialize, Deserialize)]
struct SessionBytes<'a> {
    v: u32,
    refresh_token: Option<&'a str>,
    id_token: Option<&'a str>,
    scope: Option<Cow<'a, str>>,
    dpop_key: Option<&'a str>,
    generation: u64,
    under_way: Option<Cow<'a, str>>,
    #[serde(default)]
    ended_ambiguously: bool,
    seed: Option<Cow<'a, str>>,
    owner: Cow<'a, str>,
    logged_in_at: u64,
    refreshed_at: u64,
    idle_end: Option<u64>,
    end: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct TokenBytes<'a> {
    v: u32,
    credential: Cow<'a, str>,
    token: &'a str,
    dpop: bool,
    scope: Option<Cow<'a, str>>,
    extra: Vec<(String, String)>,
    refresh_at: u64,
    expires_at: u64,
    dpop_key: Option<&'a str>,
    certificate: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

/// Why an entry's bytes say nothing.
#[derive(Debug, PartialEq, Eq)]
enum Unread {
    Damaged,
    Newer(u32),
}

impl Unread {
    fn of(self, key: &Key) -> VaultError {
        let key = key.clone();
        match self {
            Self::Damaged => VaultError::Damaged { key },
            Self::Newer(found) => VaultError::Newer { key, found, known: VERSION },
        }
    }
}

/// Looks at the version before anything else.
fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Unread> {
    let damaged = |_| Unread::Damaged;
    let Versioned { v } = serde_json::from_slice(bytes).map_err(damaged)?;
    if v > VERSION {
        return Err(Unread::Newer(v));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Into a buffer that is large enough from the start: one that grows leaves copies behind.
#[expect(clippy::expect_used, reason = "strings and numbers are always JSON, and a Vec takes every byte")]
fn write(value: &impl Serialize, size: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(size * 2 + 1024));
    serde_json::to_writer(&mut *bytes, value).expect("JSON into memory");
    bytes
}

fn armoured(secret: &Secret) -> Secret {
    key_text(secret.expose().as_bytes())
}

fn opened(text: &str) -> Result<Secret, Unread> {
    let mut bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| Unread::Damaged)?);
    String::from_utf8(std::mem::take(&mut *bytes)).map(Secret::new).map_err(|_| Unread::Damaged)
}

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn size(secrets: &[&Option<Secret>]) -> usize {
    secrets.iter().map(|secret| secret.as_ref().map_or(0, |secret| secret.expose().len())).sum()
}

impl Session {
    fn write(&self) -> Zeroizing<Vec<u8>> {
        let (refresh_token, id_token) =
            (self.refresh_token.as_ref().map(armoured), self.id_token.as_ref().map(armoured));
        let bytes = SessionBytes {
            v: VERSION,
            refresh_token: refresh_token.as_ref().map(Secret::expose),
            id_token: id_token.as_ref().map(Secret::expose),
            scope: self.scope.as_deref().map(Into::into),
            dpop_key: self.dpop_key.as_ref().map(Secret::expose),
            generation: self.generation,
            under_way: self.under_way.as_deref().map(Into::into),
            ended_ambiguously: self.ended_ambiguously,
            seed: self.seed.as_deref().map(Into::into),
            owner: self.owner.as_str().into(),
            logged_in_at: self.logged_in_at,
            refreshed_at: self.refreshed_at,
            idle_end: self.idle_end,
            end: self.end,
        };
        write(&bytes, size(&[&self.refresh_token, &self.id_token, &self.dpop_key]))
    }

    fn read(bytes: &[u8]) -> Result<Self, Unread> {
        let read: SessionBytes<'_> = read(bytes)?;
        Ok(Self {
            refresh_token: read.refresh_token.map(opened).transpose()?,
            id_token: read.id_token.map(opened).transpose()?,
            scope: read.scope.map(Into::into),
            dpop_key: read.dpop_key.map(secret),
            generation: read.generation,
            under_way: read.under_way.map(Into::into),
            ended_ambiguously: read.ended_ambiguously,
            seed: read.seed.map(Into::into),
            owner: read.owner.into(),
            logged_in_at: read.logged_in_at,
            refreshed_at: read.refreshed_at,
            idle_end: read.idle_end,
            end: read.end,
        })
    }
}

impl KeptToken {
    fn write(&self) -> Zeroizing<Vec<u8>> {
        let token = armoured(&self.token);
        let bytes = TokenBytes {
            v: VERSION,
            credential: self.credential.as_str().into(),
            token: token.expose(),
            dpop: self.dpop,
            scope: self.scope.as_deref().map(Into::into),
            extra: self.extra.clone(),
            refresh_at: self.refresh_at,
            expires_at: self.expires_at,
            dpop_key: self.dpop_key.as_ref().map(Secret::expose),
            certificate: self.certificate.as_deref().map(Into::into),
        };
        write(&bytes, self.token.expose().len() + size(&[&self.dpop_key]))
    }

    fn read(bytes: &[u8]) -> Result<Self, Unread> {
        let read: TokenBytes<'_> = read(bytes)?;
        Ok(Self {
            credential: read.credential.into(),
            token: opened(read.token)?,
            dpop: read.dpop,
            scope: read.scope.map(Into::into),
            extra: read.extra,
            refresh_at: read.refresh_at,
            expires_at: read.expires_at,
            dpop_key: read.dpop_key.map(secret),
            certificate: read.certificate.map(Into::into),
        })
    }
}

/// A key as text, for an entry.
pub(crate) fn key_text(pkcs8: &[u8]) -> Secret {
    Secret::new(STANDARD.encode(pkcs8))
}

/// The key of an entry; `None`: it is none.
pub(crate) fn key_bytes(text: &Secret) -> Option<Zeroizing<Vec<u8>>> {
    STANDARD.decode(text.expose()).ok().map(Zeroizing::new)
}
