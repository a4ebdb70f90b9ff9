//! The protected header of a JWS (RFC 7515 §4).

use std::borrow::Cow;

use serde::Serialize;

use super::{Algorithm, KeyError, PublicJwk};

/// What stands in the header besides `alg`, which the key decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `JWT`, `dpop+jwt`, `client-authentication+jwt`, …
    pub typ: Option<Cow<'static, str>>,
    pub kid: Option<String>,
    pub x5t: Option<String>,
    pub x5t_s256: Option<String>,
    /// Embed the public key (`jwk`), as a DPoP proof does (RFC 9449 §4.2).
    pub jwk: bool,
    /// Further members, all of them text.
    pub extra: Vec<(String, String)>,
}

/// What can't be in `extra`: the members above, and those whose values aren't text and
/// change how the JWS is read.
const RESERVED: &[&str] = &["alg", "typ", "kid", "x5t", "x5t#S256", "jwk", "crit", "b64", "x5c"];

impl Header {
    /// A header with nothing but its type.
    pub fn of_type(typ: &'static str) -> Self {
        Self { typ: Some(Cow::Borrowed(typ)), ..Self::default() }
    }

    /// Whether `extra` can be written, for whoever reads it from a file.
    pub fn check(&self) -> Result<(), KeyError> {
        for (at, (name, _)) in self.extra.iter().enumerate() {
            if RESERVED.contains(&name.as_str()) || self.extra[..at].iter().any(|(other, _)| other == name) {
                return Err(KeyError::ReservedHeader(name.clone()));
            }
        }
        Ok(())
    }

    /// Appends the JSON. `public` is the key's public half, if it has one.
    pub(super) fn write(
        &self,
        algorithm: Algorithm,
        public: Option<&PublicJwk>,
        json: &mut Vec<u8>,
    ) -> Result<(), KeyError> {
        self.check()?;
        json.extend_from_slice(b"{\"alg\":");
        json_string(algorithm.as_str(), json)?;
        let named = [("typ", self.typ.as_deref()), ("kid", self.kid.as_deref()), ("x5t", self.x5t.as_deref())];
        for (name, value) in named.into_iter().chain([("x5t#S256", self.x5t_s256.as_deref())]) {
            if let Some(value) = value {
                member(name, value, json)?;
            }
        }
        if self.jwk {
            json.extend_from_slice(b",\"jwk\":");
            json.extend_from_slice(public.ok_or(KeyError::Symmetric)?.json.as_bytes());
        }
        for (name, value) in &self.extra {
            member(name, value, json)?;
        }
        json.push(b'}');
        Ok(())
    }
}

fn member(name: &str, value: &str, json: &mut Vec<u8>) -> Result<(), KeyError> {
    json.push(b',');
    json_string(name, json)?;
    json.push(b':');
    json_string(value, json)
}

/// With the escapes that it needs.
fn json_string(text: &str, json: &mut Vec<u8>) -> Result<(), KeyError> {
    text.serialize(&mut serde_json::Serializer::new(json)).map_err(|_| KeyError::Claims)
}
