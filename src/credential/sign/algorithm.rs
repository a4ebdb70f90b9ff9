//! The signature algorithms of JWS (RFC 7518 §3.1, RFC 8037 §3.1) and the kinds of key that
//! they need. There is no `none`.

use std::fmt;

use aws_lc_rs::{
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaSigningAlgorithm, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
        RSA_PSS_SHA512, RsaSignatureEncoding,
    },
};

use super::KeyError;

/// A JWS `alg` that we sign with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
    Hs256,
    Hs384,
    Hs512,
}

impl Algorithm {
    pub const ALL: [Self; 13] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
    ];

    /// Reads the name as JWS writes it. `Ed25519`, the newer name of RFC 9864, is read too;
    /// `EdDSA` is written, which every server knows.
    pub fn parse(name: &str) -> Result<Self, KeyError> {
        if name == "Ed25519" {
            return Ok(Self::EdDsa);
        }
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name).ok_or(KeyError::UnknownAlgorithm)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }

    /// Whether it signs with a secret that the server has too, and not with a private key.
    pub fn is_symmetric(self) -> bool {
        self.hmac().is_some()
    }

    pub(super) fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Self::Hs256 => Some(hmac::HMAC_SHA256),
            Self::Hs384 => Some(hmac::HMAC_SHA384),
            Self::Hs512 => Some(hmac::HMAC_SHA512),
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => None,
            Self::Es256 | Self::Es384 | Self::Es512 | Self::EdDsa => None,
        }
    }

    /// The padding; that of PSS has a salt as long as the hash (RFC 7518 §3.5).
    pub(super) fn rsa(self) -> Option<&'static RsaSignatureEncoding> {
        match self {
            Self::Rs256 => Some(&RSA_PKCS1_SHA256),
            Self::Rs384 => Some(&RSA_PKCS1_SHA384),
            Self::Rs512 => Some(&RSA_PKCS1_SHA512),
            Self::Ps256 => Some(&RSA_PSS_SHA256),
            Self::Ps384 => Some(&RSA_PSS_SHA384),
            Self::Ps512 => Some(&RSA_PSS_SHA512),
            Self::Es256 | Self::Es384 | Self::Es512 | Self::EdDsa | Self::Hs256 | Self::Hs384 | Self::Hs512 => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl KeyKind ===

/// What kind of private key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Rsa,
    Ec(Curve),
    Ed25519,
}

impl KeyKind {
    /// What such a key signs with where nothing else is asked for.
    pub fn default_algorithm(self) -> Algorithm {
        match self {
            Self::Rsa => Algorithm::Rs256,
            Self::Ec(Curve::P256) => Algorithm::Es256,
            Self::Ec(Curve::P384) => Algorithm::Es384,
            Self::Ec(Curve::P521) => Algorithm::Es512,
            Self::Ed25519 => Algorithm::EdDsa,
        }
    }

    /// A curve has exactly one algorithm (RFC 7518 §3.4).
    pub fn fits(self, algorithm: Algorithm) -> bool {
        match self {
            Self::Rsa => algorithm.rsa().is_some(),
            Self::Ec(_) | Self::Ed25519 => algorithm == self.default_algorithm(),
        }
    }

    /// For messages: what may be written with such a key.
    pub(super) fn choices(self) -> &'static str {
        match self {
            Self::Rsa => "RS256, RS384, RS512, PS256, PS384 or PS512",
            Self::Ec(_) | Self::Ed25519 => self.default_algorithm().as_str(),
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa => "an RSA key",
            Self::Ec(Curve::P256) => "a P-256 key",
            Self::Ec(Curve::P384) => "a P-384 key",
            Self::Ec(Curve::P521) => "a P-521 key",
            Self::Ed25519 => "an Ed25519 key",
        })
    }
}

// === impl Curve ===

/// A NIST curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    pub(super) const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// `crv` of RFC 7518 §6.2.1.1.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// How long a coordinate is, and so is the private number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// R and S one after the other, as JWS wants them, not the DER of TLS.
    pub(super) fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
            Self::P521 => &ECDSA_P521_SHA512_FIXED_SIGNING,
        }
    }
}
