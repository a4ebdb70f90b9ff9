//! The public half of a key: what a DPoP proof embeds and a server is given.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{KeyError, der, pair::Pair};
use crate::primitives::sha256;

/// A public JWK with its name, both written once.
pub(super) struct PublicJwk {
    /// The required members only, in the order of the alphabet: what RFC 7638 §3.2 hashes.
    pub(super) json: String,
    /// RFC 7638, SHA-256, base64url.
    pub(super) thumbprint: String,
}

impl PublicJwk {
    pub(super) fn of(pair: &Pair) -> Result<Self, KeyError> {
        let public = pair.public_bytes();
        let json = match pair {
            Pair::Rsa(_) => {
                let (n, e) = der::rsa_public(public)?;
                format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, encode(e), encode(n))
            }
            Pair::Ec(_, curve) => {
                // 4, x, y (SEC 1 §2.3.3).
                let (x, y) =
                    public.get(1..).and_then(|point| point.split_at_checked(curve.bytes())).ok_or(KeyError::Der)?;
                format!(r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#, curve.name(), encode(x), encode(y))
            }
            Pair::Ed25519(_) => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, encode(public)),
        };
        let thumbprint = encode(&sha256(json.as_bytes()));
        Ok(Self { json, thumbprint })
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
