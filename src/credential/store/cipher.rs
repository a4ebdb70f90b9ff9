//! Entries at rest: AES-256-GCM under a key derived for this one store. Knows keys and
//! bytes; no database.

use std::{fmt, path::Path};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    constant_time::verify_slices_are_equal,
    hkdf,
};
use zeroize::Zeroizing;

use super::{Key, StoreError};
use crate::{
    files,
    primitives::{Secret, digest::hex},
};

/// Of one sealed value, its first byte: version, nonce, ciphertext with its tag.
const VERSION: u8 = 1;
const TAG: usize = 16;
/// Authenticated with each value, before the key's bytes.
const CONTEXT: &[u8] = b"cupbearer store entry 1\0";

/// Where the key is that entries are encrypted under.
#[derive(Clone, Debug)]
pub enum StoreKey {
    /// `store.key` beside the database, made on the first start.
    File,
    /// Text with at least 128 bits in it, in whatever spelling: the text itself is the key.
    Given(Secret),
}

impl StoreKey {
    /// The key for a store that exists, whose database is `database`.
    pub(super) fn read(&self, file: &Path, database: &Path) -> Result<Secret, StoreError> {
        match self {
            Self::Given(secret) => Self::given(secret),
            Self::File if exists(file)? => read_file(file),
            Self::File => Err(StoreError::MissingKey { key: file.to_owned(), database: database.to_owned() }),
        }
    }

    /// The key for a store that is about to be made.
    pub(super) fn read_or_make(&self, file: &Path) -> Result<Secret, StoreError> {
        match self {
            Self::Given(secret) => Self::given(secret),
            Self::File if exists(file)? => read_file(file),
            Self::File => {
                let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(random()?);
                let secret = Secret::new(hex(&*bytes));
                let line = Zeroizing::new(format!("{}\n", secret.expose()));
                files::replace(file, &line)?;
                Ok(secret)
            }
        }
    }

    fn given(secret: &Secret) -> Result<Secret, StoreError> {
        if bits(secret.expose()) < 128 { Err(StoreError::WeakKey) } else { Ok(secret.clone()) }
    }
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(|source| StoreError::Io { path: path.to_owned(), source })
}

fn read_file(path: &Path) -> Result<Secret, StoreError> {
    let text = files::read_key(path)?;
    let secret = Secret::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if bits(secret.expose()) < 128 { Err(StoreError::BadKeyFile { path: path.to_owned() }) } else { Ok(secret) }
}

/// The most that a text of this length and alphabet can carry. It can't know whether the
/// text is random; it catches the password and the key that was cut.
fn bits(text: &str) -> usize {
    let each = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        3
    } else if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        4
    } else {
        6
    };
    text.len() * each
}

/// `N` bytes from the system.
pub(super) fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| files::Error::Random)?;
    Ok(bytes)
}

// === impl Cipher ===

/// The key at work.
pub(super) struct Cipher {
    entries: RandomizedNonceKey,
    /// Says which key this is without saying the key: HKDF's outputs don't tell of each other.
    check: [u8; 32],
}

impl Cipher {
    /// `salt` is the store's own: two stores under one key don't understand each other's entries.
    pub(super) fn new(secret: &Secret, salt: &[u8]) -> Result<Self, StoreError> {
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret.expose().as_bytes());
        let expand = |purpose: &[u8]| {
            let mut out = Zeroizing::new([0; 32]);
            let filled = derived.expand(&[purpose], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut *out));
            filled.map(|()| out).map_err(|_| StoreError::Encrypt)
        };
        let key = expand(b"cupbearer store 1 entries")?;
        let entries = RandomizedNonceKey::new(&AES_256_GCM, &*key).map_err(|_| StoreError::Encrypt)?;
        Ok(Self { entries, check: *expand(b"cupbearer store 1 check")? })
    }

    pub(super) fn check(&self) -> &[u8] {
        &self.check
    }

    pub(super) fn is(&self, check: &[u8]) -> bool {
        verify_slices_are_equal(&self.check, check).is_ok()
    }

    /// The nonce is random: 2^32 writes before two are equal with a chance of 2^-32.
    pub(super) fn seal(&self, key: &Key, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
        // Room for the tag, so that no copy of the plain text stays behind.
        let mut body = Vec::with_capacity(plain.len() + TAG);
        body.extend_from_slice(plain);
        let nonce = self.entries.seal_in_place_append_tag(context(key), &mut body).map_err(|_| StoreError::Encrypt)?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + body.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }

    /// `None`: damaged, or another entry's value.
    pub(super) fn open(&self, key: &Key, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, body) = sealed.strip_prefix(&[VERSION])?.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.entries.open_in_place(nonce, context(key), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

/// An entry's value is good under its own name only.
fn context(key: &Key) -> Aad<Vec<u8>> {
    Aad::from([CONTEXT, &key.bytes()].concat())
}
