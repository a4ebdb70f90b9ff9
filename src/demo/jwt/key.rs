//! Keys to sign with: the authorization server's own, and those that tests give to clients.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header, encode,
    jwk::{
        AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, OctetKeyPairParameters, OctetKeyPairType,
        PublicKeyUse, ThumbprintHash,
    },
};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
    SignatureAlgorithm,
};
use serde::Serialize;

use crate::{demo::Error, primitives::Secret};

/// What a key signs with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SigningAlgorithm {
    #[default]
    Es256,
    Es384,
    Ed25519,
    /// A 2048-bit key; making one takes a moment in a debug build. So with PS256.
    Rs256,
    Ps256,
}

/// A private key with its public half ready for a JWKS. **Gives the private key away**, so that a
/// test can hand it to the client under test.
pub struct SigningKey {
    algorithm: Algorithm,
    key: EncodingKey,
    public: Jwk,
    pem: Secret,
}

impl SigningKey {
    pub fn generate(algorithm: SigningAlgorithm) -> Result<Self, Error> {
        let ec = |kind: &'static SignatureAlgorithm| {
            let pair = KeyPair::generate_for(kind).map_err(Error::Certificate)?;
            let key = EncodingKey::from_ec_der(pair.serialized_der());
            Ok::<_, Error>((pair, key))
        };
        let (algorithm, (pair, key)) = match algorithm {
            SigningAlgorithm::Es256 => (Algorithm::ES256, ec(&PKCS_ECDSA_P256_SHA256)?),
            SigningAlgorithm::Es384 => (Algorithm::ES384, ec(&PKCS_ECDSA_P384_SHA384)?),
            SigningAlgorithm::Ed25519 => (Algorithm::EdDSA, ed25519()?),
            SigningAlgorithm::Rs256 => (Algorithm::RS256, rsa()?),
            SigningAlgorithm::Ps256 => (Algorithm::PS256, rsa()?),
        };
        let mut public = public_half(algorithm, &pair, &key)?;
        public.common.key_id = Some(public.thumbprint(ThumbprintHash::SHA256).map_err(Error::Key)?);
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { algorithm, key, public, pem: Secret::new(pair.serialize_pem()) })
    }

    /// With `kid` (the key's own thumbprint), `alg` and `use`.
    pub fn public(&self) -> &Jwk {
        &self.public
    }

    /// PKCS#8.
    pub fn private_pem(&self) -> &Secret {
        &self.pem
    }

    /// As `alg` says it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// A header for this key. A test may bend it before it signs.
    pub fn header(&self, typ: &str) -> Header {
        let mut header = Header::new(self.algorithm);
        header.typ = Some(typ.to_owned());
        header.kid.clone_from(&self.public.common.key_id);
        header
    }

    pub fn sign(&self, header: &Header, claims: &impl Serialize) -> Result<Secret, Error> {
        encode(header, claims, &self.key).map(Secret::new).map_err(Error::Key)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

fn rsa() -> Result<(KeyPair, EncodingKey), Error> {
    let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).map_err(Error::Certificate)?;
    let pem = Secret::new(pair.serialize_pem());
    let key = EncodingKey::from_rsa_pem(pem.expose().as_bytes()).map_err(Error::Key)?;
    Ok((pair, key))
}

fn ed25519() -> Result<(KeyPair, EncodingKey), Error> {
    let pair = KeyPair::generate_for(&PKCS_ED25519).map_err(Error::Certificate)?;
    let key = EncodingKey::from_ed_der(pair.serialized_der());
    Ok((pair, key))
}

fn public_half(algorithm: Algorithm, pair: &KeyPair, key: &EncodingKey) -> Result<Jwk, Error> {
    if algorithm != Algorithm::EdDSA {
        return Jwk::from_encoding_key(key, algorithm).map_err(Error::Key);
    }
    // jsonwebtoken can't read the public half out of a PKCS#8 v2 key, which is what rcgen writes.
    let parameters = OctetKeyPairParameters {
        key_type: OctetKeyPairType::OctetKeyPair,
        curve: EllipticCurve::Ed25519,
        x: URL_SAFE_NO_PAD.encode(pair.public_key_raw()),
    };
    Ok(Jwk {
        common: CommonParameters { key_algorithm: Some(algorithm.into()), ..CommonParameters::default() },
        algorithm: AlgorithmParameters::OctetKeyPair(parameters),
    })
}
