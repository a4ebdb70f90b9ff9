//! Secrets as a type that cannot leak by accident (threats R8): no `Display`,
//! `Serialize`, `Deref` or `PartialEq`; `Debug` is masked; reading one is spelled
//! `expose()`, so every place that does can be found with grep; zeroed on drop.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use super::digest::{Hex, sha256};

/// A piece of secret text: a client secret, a token, an agent key.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself. Every caller is a place to review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What logs and records show instead of the secret.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.0.as_bytes())
    }

    /// Compares in a time that depends on the lengths only.
    pub fn equals(&self, other: &Self) -> bool {
        verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

// === impl Fingerprint ===

/// The first 8 bytes of a secret's SHA-256, in hex: enough to tell two tokens
/// apart in a log, useless to an attacker (tokens carry at least 128 random bits).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 8]);

impl Fingerprint {
    pub fn of(secret: &[u8]) -> Self {
        let digest = sha256(secret);
        let mut short = [0; 8];
        short.copy_from_slice(&digest[..8]);
        Self(short)
    }

    /// What `Display` shows.
    pub fn hex(self) -> Hex<16> {
        Hex::of(u64::from_be_bytes(self.0))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hex().as_str())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_secret() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "[secret] Some([secret])");
    }

    #[test]
    fn the_fingerprint_is_the_start_of_the_digest() {
        let secret = Secret::new("abc".to_owned());
        assert_eq!(secret.fingerprint().to_string(), "ba7816bf8f01cfea");
    }
}
