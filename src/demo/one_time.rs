//! What may be shown once only: the `jti` of an assertion (RFC 7523 §3) or of a DPoP proof
//! (RFC 9449 §11.1). Remembers each for as long as it could be shown again, and tells tests
//! which were shown twice.

use std::{collections::HashMap, sync::Mutex};

use crate::primitives::sha256;

use super::journal::{Journal, lock};

/// Below this many nothing is ever swept out.
const SWEEP_FROM: usize = 10_000;

/// Something that was shown once more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// Whose it was: a client, an issuer, or a key's thumbprint.
    pub owner: String,
    pub jti: String,
}

#[derive(Debug, Default)]
pub(super) struct OneTime {
    seen: Mutex<Seen>,
    repeated: Journal<Repeated>,
}

#[derive(Debug, Default)]
struct Seen {
    /// From a digest to the second from which it may be forgotten.
    until: HashMap<[u8; 32], u64>,
    sweep_at: usize,
}

impl OneTime {
    /// Whether this is the first time. `until`: the second from which it is refused anyway.
    pub(super) fn is_first(&self, owner: &str, jti: &str, now: u64, until: u64) -> bool {
        let first = lock(&self.seen).note(digest(owner, jti), now, until);
        if !first {
            self.repeated.push(Repeated { owner: owner.to_owned(), jti: jti.to_owned() });
        }
        first
    }

    pub(super) fn repeated(&self) -> Vec<Repeated> {
        self.repeated.map(Clone::clone)
    }
}

// === impl Seen ===

impl Seen {
    fn note(&mut self, digest: [u8; 32], now: u64, until: u64) -> bool {
        if self.until.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.until.retain(|_, until| *until > now);
            self.sweep_at = self.until.len() * 2;
        }
        self.until.insert(digest, until).is_none()
    }
}

/// With the owner's length, or two pairs could run together into the same text.
fn digest(owner: &str, jti: &str) -> [u8; 32] {
    sha256(format!("{}:{owner}{jti}", owner.len()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_first_once_for_each_owner() {
        let one_time = OneTime::default();
        assert!(one_time.is_first("a", "1", 0, 60));
        assert!(one_time.is_first("b", "1", 0, 60));
        assert!(one_time.is_first("a1", "", 0, 60));
        assert_eq!(one_time.repeated(), []);
        assert!(!one_time.is_first("a", "1", 59, 90));
        assert_eq!(one_time.repeated(), [Repeated { owner: "a".to_owned(), jti: "1".to_owned() }]);
    }

    #[test]
    fn the_dead_are_swept_out_and_the_living_kept() {
        let one_time = OneTime::default();
        for number in 0..SWEEP_FROM {
            one_time.is_first("a", &number.to_string(), 0, if number == 7 { 100 } else { 50 });
        }
        one_time.is_first("a", "new", 50, 100);
        assert_eq!(lock(&one_time.seen).until.len(), 2);
        assert!(!one_time.is_first("a", "7", 50, 100));
    }
}
