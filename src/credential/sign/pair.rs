//! A key as the crypto library holds it, ready to sign.

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rand::SystemRandom,
    signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair},
};
use zeroize::Zeroizing;

use super::{
    Algorithm, KeyError,
    algorithm::{Curve, KeyKind},
    der,
};

/// A private key, checked, with its public half.
pub(super) enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, Curve),
    Ed25519(Ed25519KeyPair),
}

impl Pair {
    pub(super) fn generate(curve: Curve) -> Result<Self, KeyError> {
        Ok(Self::Ec(EcdsaKeyPair::generate(curve.signing()).map_err(KeyError::Crypto)?, curve))
    }

    /// RFC 5958, version 1 or 2.
    pub(super) fn from_pkcs8(bytes: &[u8]) -> Result<Self, KeyError> {
        let pair = match der::pkcs8_kind(bytes)? {
            KeyKind::Rsa => RsaKeyPair::from_pkcs8(bytes).map(Self::Rsa),
            KeyKind::Ec(curve) => EcdsaKeyPair::from_pkcs8(curve.signing(), bytes).map(|pair| Self::Ec(pair, curve)),
            KeyKind::Ed25519 => Ed25519KeyPair::from_pkcs8(bytes).map(Self::Ed25519),
        };
        pair.map_err(KeyError::Rejected)
    }

    /// `RSAPrivateKey` of RFC 8017.
    pub(super) fn from_pkcs1(bytes: &[u8]) -> Result<Self, KeyError> {
        der::check_rsa(bytes)?;
        RsaKeyPair::from_der(bytes).map(Self::Rsa).map_err(KeyError::Rejected)
    }

    /// `ECPrivateKey` of RFC 5915.
    pub(super) fn from_sec1(bytes: &[u8]) -> Result<Self, KeyError> {
        let curve = der::sec1_curve(bytes)?;
        let pair = EcdsaKeyPair::from_private_key_der(curve.signing(), bytes);
        pair.map(|pair| Self::Ec(pair, curve)).map_err(KeyError::Rejected)
    }

    pub(super) fn kind(&self) -> KeyKind {
        match self {
            Self::Rsa(_) => KeyKind::Rsa,
            Self::Ec(_, curve) => KeyKind::Ec(*curve),
            Self::Ed25519(_) => KeyKind::Ed25519,
        }
    }

    /// PKCS#1, an uncompressed point, or the 32 bytes of RFC 8032: what a certificate has in
    /// `subjectPublicKey`.
    pub(super) fn public_bytes(&self) -> &[u8] {
        match self {
            Self::Rsa(pair) => pair.public_key().as_ref(),
            Self::Ec(pair, _) => pair.public_key().as_ref(),
            Self::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }

    pub(super) fn signature_len(&self) -> usize {
        match self {
            Self::Rsa(pair) => pair.public_modulus_len(),
            Self::Ec(_, curve) => 2 * curve.bytes(),
            Self::Ed25519(_) => 64,
        }
    }

    /// Puts the signature into `out`. `algorithm` is one that fits the key.
    pub(super) fn sign(&self, algorithm: Algorithm, message: &[u8], out: &mut Vec<u8>) -> Result<(), KeyError> {
        out.clear();
        match self {
            Self::Rsa(pair) => {
                let padding = algorithm.rsa().ok_or(KeyError::Mismatch { algorithm, key: KeyKind::Rsa })?;
                out.resize(pair.public_modulus_len(), 0);
                pair.sign(padding, &SystemRandom::new(), message, out)
            }
            Self::Ec(pair, _) => {
                pair.sign(&SystemRandom::new(), message).map(|signature| out.extend_from_slice(signature.as_ref()))
            }
            Self::Ed25519(pair) => pair.try_sign(message).map(|signature| out.extend_from_slice(signature.as_ref())),
        }
        .map_err(KeyError::Crypto)
    }

    /// Version 1, which everything reads.
    pub(super) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let copy = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
        match self {
            Self::Rsa(pair) => AsDer::<Pkcs8V1Der<'_>>::as_der(pair).map(|der| copy(der.as_ref())),
            Self::Ec(pair, _) => pair.to_pkcs8v1().map(|der| copy(der.as_ref())),
            Self::Ed25519(pair) => pair.to_pkcs8v1().map(|der| copy(der.as_ref())),
        }
        .map_err(KeyError::Crypto)
    }
}

/// An EC public key as one octet string (SEC 1 §2.3.3).
pub(super) fn uncompressed(x: &[u8], y: &[u8]) -> Vec<u8> {
    [&[4], x, y].concat()
}
