//! As much DER as it takes to tell which key a text holds, before the crypto library reads
//! it: its errors don't say. Judges nothing else, copies nothing.

use super::{
    KeyError,
    algorithm::{Curve, KeyKind},
};

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[0]`, constructed: where SEC1 writes the curve.
const CONTEXT_0: u8 = 0xa0;

/// 1.2.840.113549.1.1.1
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// 1.2.840.113549.1.1.10
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
/// 1.2.840.10045.2.1
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// 1.3.101.112
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
/// 1.2.840.10045.3.1.7
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// 1.3.132.0.34
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
/// 1.3.132.0.35
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];

/// The kind of a PKCS#8 key (RFC 5958 §2), and its size where it is RSA.
pub(super) fn pkcs8_kind(der: &[u8]) -> Result<KeyKind, KeyError> {
    let mut key = Reader(der).expect(SEQUENCE)?;
    key.expect(INTEGER)?;
    let mut algorithm = key.expect(SEQUENCE)?;
    match algorithm.expect(OBJECT_IDENTIFIER)?.0 {
        RSA => check_rsa(key.expect(OCTET_STRING)?.0).map(|()| KeyKind::Rsa),
        EC => curve(algorithm).map(KeyKind::Ec),
        ED25519 => Ok(KeyKind::Ed25519),
        RSA_PSS => Err(KeyError::PssOnly),
        _ => Err(KeyError::UnsupportedKey),
    }
}

/// The curve of a SEC1 key (RFC 5915 §3). It may leave the curve out; then the length of the
/// private number tells it.
pub(super) fn sec1_curve(der: &[u8]) -> Result<Curve, KeyError> {
    let mut key = Reader(der).expect(SEQUENCE)?;
    key.expect(INTEGER)?;
    let number = key.expect(OCTET_STRING)?.0;
    match key.read(CONTEXT_0) {
        Some(parameters) => curve(parameters),
        None => Curve::ALL.into_iter().find(|curve| curve.bytes() == number.len()).ok_or(KeyError::UnsupportedKey),
    }
}

/// Checks the size of a PKCS#1 private key (RFC 8017 §A.1.2).
pub(super) fn check_rsa(der: &[u8]) -> Result<(), KeyError> {
    let mut key = Reader(der).expect(SEQUENCE)?;
    key.expect(INTEGER)?;
    check_rsa_modulus(key.expect(INTEGER)?.0)
}

/// Checks the size of a modulus, with or without zeros before it.
pub(super) fn check_rsa_modulus(modulus: &[u8]) -> Result<(), KeyError> {
    let modulus = without_zeros(modulus);
    let unused = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    match modulus.len() * 8 - unused {
        2048..=8192 => Ok(()),
        bits => Err(KeyError::RsaSize { bits }),
    }
}

/// Modulus and exponent of a PKCS#1 public key (RFC 8017 §A.1.1).
pub(super) fn rsa_public(der: &[u8]) -> Result<(&[u8], &[u8]), KeyError> {
    let mut key = Reader(der).expect(SEQUENCE)?;
    Ok((without_zeros(key.expect(INTEGER)?.0), without_zeros(key.expect(INTEGER)?.0)))
}

/// A number without the zeros before it.
pub(super) fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// Curves are known by name; one that is spelled out isn't taken.
fn curve(mut parameters: Reader<'_>) -> Result<Curve, KeyError> {
    match parameters.read(OBJECT_IDENTIFIER).map(|name| name.0) {
        Some(P256) => Ok(Curve::P256),
        Some(P384) => Ok(Curve::P384),
        Some(P521) => Ok(Curve::P521),
        Some(_) | None => Err(KeyError::UnsupportedKey),
    }
}

// === impl Reader ===

/// What is left of a DER value's content.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The content of the next value, where it has this tag.
    fn read(&mut self, tag: u8) -> Option<Reader<'a>> {
        let (&found, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        if found != tag {
            return None;
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // No key has a length of more than three bytes.
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(Reader(content))
    }

    fn expect(&mut self, tag: u8) -> Result<Reader<'a>, KeyError> {
        self.read(tag).ok_or(KeyError::Der)
    }
}
