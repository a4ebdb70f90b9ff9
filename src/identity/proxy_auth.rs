//! Reads an agent's key out of a header field: `Basic base64(name:key)`, `Bearer key`
//! (RFC 7617, RFC 6750 §2.1) or the bare key. Judges nothing.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName};
use zeroize::Zeroizing;

use crate::primitives::sha256;

use super::Unknown;

/// Longer keys are nobody's.
const MOST_BYTES: usize = 1024;

/// What a field shows: the digest of a key, and the name that came with it.
#[derive(Clone, Debug)]
pub(super) struct Presented {
    /// Nothing with `Bearer`, a bare key, or an empty user name: the key alone decides.
    pub(super) name: Option<String>,
    pub(super) key: [u8; 32],
}

/// The credentials in `Proxy-Authorization` or `Authorization`; `None` where there is no
/// such field. Two fields are none: an ambiguous identity is no identity (threat 2).
pub(super) fn credentials(fields: &HeaderMap, field: &HeaderName) -> Result<Option<Presented>, Unknown> {
    let Some(value) = only(fields, field)? else { return Ok(None) };
    let value = value.trim_ascii();
    let space = value.iter().position(|byte| *byte == b' ').ok_or(Unknown::Malformed)?;
    let (scheme, rest) = value.split_at(space);
    let rest = rest.trim_ascii_start();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return key(rest).map(Some);
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return Err(Unknown::Malformed);
    }
    let decoded = Zeroizing::new(STANDARD.decode(rest).map_err(|_| Unknown::Malformed)?);
    let colon = decoded.iter().position(|byte| *byte == b':').ok_or(Unknown::Malformed)?;
    let name = std::str::from_utf8(&decoded[..colon]).map_err(|_| Unknown::Malformed)?;
    let presented = key(&decoded[colon + 1..])?;
    Ok(Some(Presented { name: Some(name.to_owned()).filter(|name| !name.is_empty()), ..presented }))
}

/// A field that holds the key itself, as `x-api-key` does.
pub(super) fn bare(fields: &HeaderMap, field: &HeaderName) -> Result<Option<Presented>, Unknown> {
    only(fields, field)?.map(|value| key(value.trim_ascii())).transpose()
}

fn only<'a>(fields: &'a HeaderMap, field: &HeaderName) -> Result<Option<&'a [u8]>, Unknown> {
    let mut values = fields.get_all(field).iter();
    let first = values.next();
    match values.next() {
        Some(_) => Err(Unknown::Ambiguous),
        None => Ok(first.map(http::HeaderValue::as_bytes)),
    }
}

/// Over every byte that was sent: a key with something behind it is another key (threat 1).
fn key(bytes: &[u8]) -> Result<Presented, Unknown> {
    if bytes.is_empty() || bytes.len() > MOST_BYTES {
        return Err(Unknown::Malformed);
    }
    Ok(Presented { name: None, key: sha256(bytes) })
}
