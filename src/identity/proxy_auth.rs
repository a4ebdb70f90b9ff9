//! Reads what a field shows of a key (RFC 9110 §11.4, RFC 7617, RFC 6750 §2.1). Knows
//! no agents: a key is only hashed here. Nothing is repaired: what can't be read whole
//! is no key.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, header::AsHeaderName};
use zeroize::Zeroizing;

use crate::primitives::sha256;

use super::Unknown;

/// What one field showed.
pub(super) struct Shown {
    /// Of Basic; `None` where the key came alone.
    pub(super) name: Option<Box<[u8]>>,
    /// SHA-256 of the key as it was sent.
    pub(super) digest: [u8; 32],
}

/// The only line of a field. Two lines are an ambiguous identity, and that is none
/// (threat 2).
pub(super) fn only_line(fields: &HeaderMap, name: impl AsHeaderName) -> Result<Option<&HeaderValue>, Unknown> {
    let mut lines = fields.get_all(name).iter();
    let first = lines.next();
    if lines.next().is_some() { Err(Unknown::Ambiguous) } else { Ok(first) }
}

/// `Basic base64(name:key)` or `Bearer key`; the scheme in either case.
pub(super) fn credentials(value: &HeaderValue) -> Result<Shown, Unknown> {
    let value = value.as_bytes();
    let space = value.iter().position(|byte| *byte == b' ').ok_or(Unknown::Malformed)?;
    let (scheme, rest) = value.split_at(space);
    let rest = rest.trim_ascii_start();
    if scheme.eq_ignore_ascii_case(b"basic") {
        basic(rest)
    } else if scheme.eq_ignore_ascii_case(b"bearer") {
        bare_key(rest)
    } else {
        Err(Unknown::Malformed)
    }
}

/// A key that stands alone, as in `x-api-key`.
pub(super) fn bare_key(key: &[u8]) -> Result<Shown, Unknown> {
    if key.is_empty() || !key.iter().all(u8::is_ascii_graphic) {
        return Err(Unknown::Malformed);
    }
    Ok(Shown { name: None, digest: sha256(key) })
}

fn basic(token: &[u8]) -> Result<Shown, Unknown> {
    let decoded = Zeroizing::new(BASE64_STANDARD.decode(token).map_err(|_| Unknown::Malformed)?);
    let colon = decoded.iter().position(|byte| *byte == b':').ok_or(Unknown::Malformed)?;
    login(&decoded[..colon], &decoded[colon + 1..])
}

/// A name and a key, as Basic and SOCKS (RFC 1929) have them.
pub(super) fn login(name: &[u8], key: &[u8]) -> Result<Shown, Unknown> {
    if key.is_empty() {
        return Err(Unknown::Malformed);
    }
    // Some clients can send a password only: the key then names its agent, as with Bearer.
    Ok(Shown { name: (!name.is_empty()).then(|| name.into()), digest: sha256(key) })
}
