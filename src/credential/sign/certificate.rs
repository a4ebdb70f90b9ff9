//! Certificates by their thumbprints: how a server that was given one (Entra) finds the key
//! that signed. Knows no dates and no chains.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{KeyError, SigningKey, pem};
use crate::primitives::sha256;

/// What names a certificate in a JWS header (RFC 7515 §4.1.7, §4.1.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thumbprints {
    /// SHA-1 of the DER in base64url: a name, nothing rests on its strength.
    pub x5t: String,
    /// SHA-256 of the DER in base64url.
    pub x5t_s256: String,
    public_key: Vec<u8>,
}

impl Thumbprints {
    /// Those of the first certificate in a PEM text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let der = pem::certificate(text)?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| KeyError::NotACertificate)?;
        Ok(Self {
            x5t: URL_SAFE_NO_PAD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &der)),
            x5t_s256: URL_SAFE_NO_PAD.encode(sha256(&der)),
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
        })
    }

    /// Whether this is `key`'s certificate. A server would only say `invalid_client`.
    pub fn check(&self, key: &SigningKey) -> Result<(), KeyError> {
        if key.public_bytes() == Some(&self.public_key) { Ok(()) } else { Err(KeyError::OtherCertificate) }
    }
}
