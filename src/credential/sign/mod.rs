//! Private keys, parsed once, and the JWTs signed with them (RFC 7515, RFC 7519): client
//! assertions, the assertions of the jwt-bearer grant, DPoP proofs. Knows neither the claims
//! that these want nor where a key comes from.
//!
//! ```text
//! text -> pem | private_jwk -> Pair (checked) -> SigningKey (key, algorithm, public half)
//! SigningKey::sign(header, claims) -> header "." claims "." signature
//! ```
//!
//! An RSA signature takes about a millisecond, the others some microseconds: where many
//! requests wait, sign with P-256.

mod algorithm;
mod certificate;
mod der;
mod error;
mod header;
mod pair;
mod pem;
mod private_jwk;
mod public_jwk;
#[cfg(test)]
mod tests;

use std::fmt;

use aws_lc_rs::{hmac, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::primitives::Secret;

pub use algorithm::{Algorithm, Curve, KeyKind};
pub use certificate::Thumbprints;
pub use error::KeyError;
pub use header::Header;

use pair::Pair;
use public_jwk::PublicJwk;

/// A key that signs with one algorithm. Shared by reference: signing changes nothing in it.
pub struct SigningKey {
    algorithm: Algorithm,
    material: Material,
    kid: Option<String>,
}

enum Material {
    Pair(Pair, PublicJwk),
    Secret(Box<hmac::Key>),
}

impl SigningKey {
    /// Reads a PEM (PKCS#8, PKCS#1, SEC1) or a private JWK. Without `algorithm` it is the
    /// one that the JWK names, else the usual one for such a key.
    pub fn parse(text: &Secret, algorithm: Option<Algorithm>) -> Result<Self, KeyError> {
        let text = text.expose().trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.starts_with('{') {
            return Self::from_jwk(text, algorithm);
        }
        if !pem::is_pem(text) {
            return Err(KeyError::NotAKey);
        }
        let pair = match pem::private_key(text)? {
            pem::PrivateKey::Pkcs8(der) => Pair::from_pkcs8(&der),
            pem::PrivateKey::Pkcs1(der) => Pair::from_pkcs1(&der),
            pem::PrivateKey::Sec1(der) => Pair::from_sec1(&der),
        };
        Self::new(pair?, algorithm)
    }

    /// A client secret. Refused where it is shorter than the hash (RFC 7518 §3.2).
    pub fn hmac(secret: &Secret, algorithm: Algorithm) -> Result<Self, KeyError> {
        let hash = algorithm.hmac().ok_or(KeyError::NeedsPrivateKey(algorithm))?;
        let (secret, needed) = (secret.expose().as_bytes(), hash.tag_len());
        if secret.len() < needed {
            return Err(KeyError::ShortSecret { algorithm, needed });
        }
        Ok(Self { algorithm, material: Material::Secret(Box::new(hmac::Key::new(hash, secret))), kid: None })
    }

    /// A new P-256 key, for DPoP.
    pub fn generate() -> Result<Self, KeyError> {
        Self::new(Pair::generate(Curve::P256)?, None)
    }

    /// Reads what [`to_pkcs8`](Self::to_pkcs8) wrote.
    pub fn from_pkcs8(der: &[u8], algorithm: Option<Algorithm>) -> Result<Self, KeyError> {
        Self::new(Pair::from_pkcs8(der)?, algorithm)
    }

    /// The private key itself, in DER, for a store that keeps secrets.
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        match &self.material {
            Material::Pair(pair, _) => pair.to_pkcs8(),
            Material::Secret(_) => Err(KeyError::Symmetric),
        }
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The JWK's own `kid`.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The public half as compact JSON, nothing optional in it; a secret has none.
    pub fn public_jwk(&self) -> Option<&str> {
        self.public().map(|public| public.json.as_str())
    }

    /// The name of the public half (RFC 7638, SHA-256), also `dpop_jkt`; a secret has none.
    pub fn thumbprint(&self) -> Option<&str> {
        self.public().map(|public| public.thumbprint.as_str())
    }

    /// Signs a JWT in compact form. `claims` serialise to a JSON object.
    pub fn sign(&self, header: &Header, claims: &impl Serialize) -> Result<Secret, KeyError> {
        let mut json = Zeroizing::new(Vec::with_capacity(1024));
        header.write(self.algorithm, self.public(), &mut json)?;
        let header = json.len();
        serde_json::to_writer(&mut *json, claims).map_err(|_| KeyError::Claims)?;
        let (header, claims) = json.split_at(header);
        if claims.first() != Some(&b'{') {
            return Err(KeyError::Claims);
        }
        // Large enough for all of it: a text that grows leaves copies of itself.
        let length =
            [header.len(), claims.len(), self.signature_len()].into_iter().map(|part| part.div_ceil(3) * 4 + 1);
        let mut jws = String::with_capacity(length.sum());
        URL_SAFE_NO_PAD.encode_string(header, &mut jws);
        jws.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut jws);
        self.seal(jws, json)
    }

    fn from_jwk(text: &str, asked: Option<Algorithm>) -> Result<Self, KeyError> {
        let jwk = private_jwk::parse(text)?;
        let algorithm = match (jwk.algorithm, asked) {
            (Some(key), Some(asked)) if key != asked => return Err(KeyError::JwkAlgorithm { key, asked }),
            (named, asked) => asked.or(named),
        };
        Ok(Self { kid: jwk.kid, ..Self::new(jwk.pair, algorithm)? })
    }

    fn new(pair: Pair, algorithm: Option<Algorithm>) -> Result<Self, KeyError> {
        let kind = pair.kind();
        let algorithm = algorithm.unwrap_or(kind.default_algorithm());
        if !kind.fits(algorithm) {
            return Err(KeyError::Mismatch { algorithm, key: kind });
        }
        let public = PublicJwk::of(&pair)?;
        Ok(Self { algorithm, material: Material::Pair(pair, public), kid: None })
    }

    fn public(&self) -> Option<&PublicJwk> {
        match &self.material {
            Material::Pair(_, public) => Some(public),
            Material::Secret(_) => None,
        }
    }

    /// What a certificate of this key has in it.
    fn public_bytes(&self) -> Option<&[u8]> {
        match &self.material {
            Material::Pair(pair, _) => Some(pair.public_bytes()),
            Material::Secret(_) => None,
        }
    }

    fn signature_len(&self) -> usize {
        match &self.material {
            Material::Pair(pair, _) => pair.signature_len(),
            Material::Secret(key) => key.algorithm().tag_len(),
        }
    }

    /// Appends the signature over what is there. What `buffer` holds isn't read.
    fn seal(&self, mut jws: String, mut buffer: Zeroizing<Vec<u8>>) -> Result<Secret, KeyError> {
        match &self.material {
            Material::Pair(pair, _) => pair.sign(self.algorithm, jws.as_bytes(), &mut buffer)?,
            Material::Secret(key) => {
                buffer.clear();
                buffer.extend_from_slice(hmac::sign(key, jws.as_bytes()).as_ref());
            }
        }
        jws.push('.');
        URL_SAFE_NO_PAD.encode_string(&*buffer, &mut jws);
        Ok(Secret::new(jws))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.algorithm)
            .field("thumbprint", &self.thumbprint())
            .finish_non_exhaustive()
    }
}

/// A `jti`: 128 random bits in base64url, 22 characters.
pub fn unique_id() -> Result<String, KeyError> {
    let mut id = [0; 16];
    rand::fill(&mut id).map_err(KeyError::Crypto)?;
    Ok(URL_SAFE_NO_PAD.encode(id))
}
