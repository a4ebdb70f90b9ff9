//! Makes agent keys. Knows nothing of who gets one.

use aws_lc_rs::rand;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::primitives::{Secret, sha256};

/// The operating system gave no random bytes. Nobody's fault here; nothing was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random bytes")]
pub struct NoRandomness;

/// So that a key that was pasted somewhere can be recognised by secret scanners.
const PREFIX: &str = "cup_";

/// A new agent key of 256 random bits, and the SHA-256 that the config holds in its
/// place. The digest is that of the whole text, prefix included.
pub fn generate_key() -> Result<(Secret, [u8; 32]), NoRandomness> {
    let mut random = Zeroizing::new([0_u8; 32]);
    rand::fill(&mut *random).map_err(|_| NoRandomness)?;
    let mut text = String::with_capacity(64);
    text.push_str(PREFIX);
    BASE64_URL_SAFE_NO_PAD.encode_string(random.as_slice(), &mut text);
    let digest = sha256(text.as_bytes());
    Ok((Secret::new(text), digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_random_and_fit_a_header_and_a_url() {
        let (one, digest) = generate_key().unwrap();
        let (other, _) = generate_key().unwrap();
        assert_eq!(one.expose().len(), PREFIX.len() + 43);
        assert!(one.expose().bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')));
        assert!(one.expose().starts_with("cup_"));
        assert_eq!(sha256(one.expose().as_bytes()), digest);
        assert!(!one.equals(&other));
    }
}
