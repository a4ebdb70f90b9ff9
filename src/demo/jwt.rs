//! The access tokens of the demo: JWTs after RFC 9068, signed with ES256 or RS256.
//! The authorization server signs them, the API reads them.

use std::fmt;

use jsonwebtoken::{
    Algorithm, EncodingKey, Header, encode,
    jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash},
};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::primitives::Secret;

use super::Error;

/// RFC 9068 §2.1.
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// What the authorization server signs with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SigningAlgorithm {
    #[default]
    Es256,
    /// A 2048-bit key; making one takes a moment in a debug build.
    Rs256,
}

/// The claims of an access token (RFC 9068 §2.2). Times are whole seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub sub: String,
    /// One audience is written as a string, several as a list (RFC 7519 §4.1.3).
    #[serde(serialize_with = "write_audience", deserialize_with = "read_audience")]
    pub aud: Vec<String>,
    pub client_id: String,
    /// Scopes separated by spaces (RFC 8693 §4.2).
    #[serde(default)]
    pub scope: String,
    pub iat: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// The token is dead from this second on.
    pub exp: u64,
    pub jti: String,
}

impl Claims {
    pub fn has_scope(&self, wanted: &str) -> bool {
        self.scope.split(' ').any(|scope| scope == wanted)
    }
}

fn write_audience<S: Serializer>(audience: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    match audience {
        [one] => serializer.serialize_str(one),
        several => several.serialize(serializer),
    }
}

fn read_audience<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(one) => Ok(vec![one]),
        Value::Array(several) => several
            .into_iter()
            .map(|value| match value {
                Value::String(text) => Ok(text),
                _ => Err(de::Error::custom("an audience isn't a string")),
            })
            .collect(),
        _ => Err(de::Error::custom("the audience is neither a string nor a list")),
    }
}

// === impl Signer ===

/// A signing key with the public half ready for the JWKS.
pub(super) struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    public: Jwk,
}

impl Signer {
    pub(super) fn generate(algorithm: SigningAlgorithm) -> Result<Self, Error> {
        let (algorithm, key) = match algorithm {
            SigningAlgorithm::Es256 => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Certificate)?;
                (Algorithm::ES256, EncodingKey::from_ec_der(key.serialized_der()))
            }
            SigningAlgorithm::Rs256 => {
                let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).map_err(Error::Certificate)?;
                let pem = Secret::new(key.serialize_pem());
                (Algorithm::RS256, EncodingKey::from_rsa_pem(pem.expose().as_bytes()).map_err(Error::Key)?)
            }
        };
        let mut public = Jwk::from_encoding_key(&key, algorithm).map_err(Error::Key)?;
        public.common.key_id = Some(public.thumbprint(ThumbprintHash::SHA256).map_err(Error::Key)?);
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { algorithm, key, public })
    }

    pub(super) fn sign(&self, claims: &Claims) -> Result<Secret, Error> {
        let mut header = Header::new(self.algorithm);
        header.typ = Some(ACCESS_TOKEN_TYPE.to_owned());
        header.kid.clone_from(&self.public.common.key_id);
        encode(&header, claims, &self.key).map(Secret::new).map_err(Error::Key)
    }

    /// As in a JWT's header.
    pub(super) fn algorithm_name(&self) -> String {
        format!("{:?}", self.algorithm)
    }

    pub(super) fn jwks(&self) -> JwkSet {
        JwkSet { keys: vec![self.public.clone()] }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}
