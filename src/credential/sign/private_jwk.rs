//! Private keys written as JWK (RFC 7517): RSA and EC (RFC 7518 §6), Ed25519 (RFC 8037 §2).
//! The members go from the text into wiped buffers and from there to the crypto library,
//! which checks that they belong together.

use aws_lc_rs::{
    rsa::{KeyPairComponents, PublicKeyComponents},
    signature::{EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::IgnoredAny};
use zeroize::Zeroizing;

use super::{
    Algorithm, KeyError,
    algorithm::Curve,
    der,
    pair::{Pair, uncompressed},
};

/// A parsed JWK, with what it says of itself.
pub(super) struct PrivateJwk {
    pub(super) pair: Pair,
    pub(super) kid: Option<String>,
    pub(super) algorithm: Option<Algorithm>,
}

pub(super) fn parse(text: &str) -> Result<PrivateJwk, KeyError> {
    // The parser's own error quotes the text.
    let jwk: Members<'_> = serde_json::from_str(text).map_err(|_| KeyError::Json)?;
    let pair = match jwk.kty {
        Some("RSA") => jwk.rsa()?,
        Some("EC") => jwk.ec()?,
        Some("OKP") => jwk.okp()?,
        Some("oct") => return Err(KeyError::JwkSymmetric),
        Some(_) => return Err(KeyError::UnsupportedKey),
        None if jwk.keys.is_some() => return Err(KeyError::JwkSet),
        None if jwk.private_key.is_some() => return Err(KeyError::ServiceAccount),
        None => return Err(KeyError::JwkMissing("kty")),
    };
    let algorithm = jwk.algorithm()?;
    Ok(PrivateJwk { pair, kid: jwk.kid, algorithm })
}

/// What we read of it. Borrowed, so that no copy is made before the buffers are; a number in
/// base64url has no reason to have escapes in it.
#[derive(Deserialize)]
struct Members<'a> {
    kty: Option<&'a str>,
    crv: Option<&'a str>,
    d: Option<&'a str>,
    x: Option<&'a str>,
    y: Option<&'a str>,
    n: Option<&'a str>,
    e: Option<&'a str>,
    p: Option<&'a str>,
    q: Option<&'a str>,
    dp: Option<&'a str>,
    dq: Option<&'a str>,
    qi: Option<&'a str>,
    oth: Option<IgnoredAny>,
    kid: Option<String>,
    alg: Option<&'a str>,
    #[serde(rename = "use")]
    usage: Option<&'a str>,
    key_ops: Option<Vec<&'a str>>,
    /// Of a JWK set.
    keys: Option<IgnoredAny>,
    /// Of a Google service account.
    private_key: Option<IgnoredAny>,
}

impl Members<'_> {
    fn rsa(&self) -> Result<Pair, KeyError> {
        let d = self.private_number()?;
        // RFC 7518 §6.3.2.7: more than two primes; nothing makes such keys.
        if self.oth.is_some() {
            return Err(KeyError::UnsupportedKey);
        }
        let (n, e) = (decode("n", self.n)?, decode("e", self.e)?);
        der::check_rsa_modulus(&n)?;
        let components = KeyPairComponents {
            public_key: PublicKeyComponents { n: der::without_zeros(&n), e: der::without_zeros(&e) },
            d,
            p: decode("p", self.p)?,
            q: decode("q", self.q)?,
            dP: decode("dp", self.dp)?,
            dQ: decode("dq", self.dq)?,
            qInv: decode("qi", self.qi)?,
        };
        Ok(Pair::Rsa(RsaKeyPair::from_components(&components).map_err(KeyError::Rejected)?))
    }

    fn ec(&self) -> Result<Pair, KeyError> {
        let d = self.private_number()?;
        let crv = self.crv.ok_or(KeyError::JwkMissing("crv"))?;
        let curve = Curve::ALL.into_iter().find(|curve| curve.name() == crv).ok_or(KeyError::UnsupportedKey)?;
        let d = padded("d", &d, curve.bytes())?;
        let x = padded("x", &decode("x", self.x)?, curve.bytes())?;
        let y = padded("y", &decode("y", self.y)?, curve.bytes())?;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(curve.signing(), &d, &uncompressed(&x, &y));
        Ok(Pair::Ec(pair.map_err(KeyError::Rejected)?, curve))
    }

    fn okp(&self) -> Result<Pair, KeyError> {
        let seed = self.private_number()?;
        if self.crv.ok_or(KeyError::JwkMissing("crv"))? != "Ed25519" {
            return Err(KeyError::UnsupportedKey);
        }
        if seed.len() != 32 {
            return Err(KeyError::JwkMember("d"));
        }
        let pair = Ed25519KeyPair::from_seed_and_public_key(&seed, &decode("x", self.x)?);
        Ok(Pair::Ed25519(pair.map_err(KeyError::Rejected)?))
    }

    /// `d`, which a public key has not.
    fn private_number(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        if self.d.is_none() {
            return Err(KeyError::PublicKey);
        }
        decode("d", self.d)
    }

    /// The algorithm that the key is for, where it says so (RFC 7517 §4.2 to §4.4).
    fn algorithm(&self) -> Result<Option<Algorithm>, KeyError> {
        let encrypts = self.usage.is_some_and(|usage| usage != "sig");
        let verifies = self.key_ops.as_ref().is_some_and(|operations| !operations.contains(&"sign"));
        if encrypts || verifies {
            return Err(KeyError::JwkPurpose);
        }
        self.alg.map(|name| Algorithm::parse(name).map_err(|_| KeyError::JwkPurpose)).transpose()
    }
}

fn decode(name: &'static str, text: Option<&str>) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let text = text.ok_or(KeyError::JwkMissing(name))?;
    // As large as it can get, so that it isn't moved while it grows.
    let mut bytes = Zeroizing::new(vec![0; text.len() / 4 * 3 + 3]);
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes[..]).map_err(|_| KeyError::JwkMember(name))?;
    bytes.truncate(length);
    Ok(bytes)
}

/// The number in exactly `length` bytes. RFC 7518 §6.2.1.2 wants them so; some writers drop
/// the zeros or add one.
fn padded(name: &'static str, number: &[u8], length: usize) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let digits = der::without_zeros(number);
    let zeros = length.checked_sub(digits.len()).ok_or(KeyError::JwkMember(name))?;
    let mut bytes = Zeroizing::new(vec![0; length]);
    bytes[zeros..].copy_from_slice(digits);
    Ok(bytes)
}
