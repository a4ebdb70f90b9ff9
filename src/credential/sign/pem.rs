//! PEM (RFC 7468), read so that no copy of a key is left in memory and no error repeats a
//! line of it. Forgives what happens to keys in environment variables: line breaks written
//! as `\n`, or turned into spaces.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::KeyError;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// Whether `text` has a PEM in it. What stands before and between is nobody's business:
/// OpenSSL writes notes there.
pub(super) fn is_pem(text: &str) -> bool {
    text.contains(BEGIN)
}

/// The bytes of a private key, by the label that it has.
pub(super) enum PrivateKey {
    Pkcs8(Zeroizing<Vec<u8>>),
    /// RSA only.
    Pkcs1(Zeroizing<Vec<u8>>),
    /// Elliptic curves only.
    Sec1(Zeroizing<Vec<u8>>),
}

/// The one private key in `text`; certificates may stand beside it.
pub(super) fn private_key(text: &str) -> Result<PrivateKey, KeyError> {
    let mut key = None;
    let mut without = KeyError::UnsupportedKey;
    for section in sections(text) {
        let section = section?;
        let found = match section.label {
            "PRIVATE KEY" => PrivateKey::Pkcs8(section.der()?),
            "RSA PRIVATE KEY" => PrivateKey::Pkcs1(section.der()?),
            "EC PRIVATE KEY" => PrivateKey::Sec1(section.der()?),
            "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
            "OPENSSH PRIVATE KEY" => return Err(KeyError::OpenSsh),
            label => {
                match label {
                    "PUBLIC KEY" | "RSA PUBLIC KEY" => without = KeyError::PublicKey,
                    "CERTIFICATE" => without = KeyError::Certificate,
                    _ => {}
                }
                continue;
            }
        };
        if key.replace(found).is_some() {
            return Err(KeyError::SeveralKeys);
        }
    }
    key.ok_or(without)
}

/// The first certificate in `text`: that of the key itself, by convention.
pub(super) fn certificate(text: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    for section in sections(text) {
        let section = section?;
        if section.label == "CERTIFICATE" {
            return section.der();
        }
    }
    Err(KeyError::NotACertificate)
}

/// Each section in turn; nothing after the first that is broken.
fn sections(text: &str) -> impl Iterator<Item = Result<Section<'_>, KeyError>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let (_, begun) = rest.take()?.split_once(BEGIN)?;
        let section = Section::split(begun).ok_or(KeyError::Pem);
        rest = section.as_ref().ok().map(|(_, after)| *after);
        Some(section.map(|(section, _)| section))
    })
}

// === impl Section ===

struct Section<'a> {
    label: &'a str,
    body: &'a str,
}

impl<'a> Section<'a> {
    /// `text` starts with the label; what follows the section is returned too.
    fn split(text: &'a str) -> Option<(Self, &'a str)> {
        let (label, rest) = text.split_once(DASHES)?;
        let (body, rest) = rest.split_once(END)?;
        let rest = rest.strip_prefix(label)?.strip_prefix(DASHES)?;
        Some((Self { label, body }, rest))
    }

    fn der(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        // OpenSSL's older way to encrypt (RFC 1421 §4.6.1.1).
        if self.body.contains("Proc-Type:") {
            return Err(KeyError::Encrypted);
        }
        // Neither buffer grows, so neither leaves a copy behind.
        let mut digits = Zeroizing::new(Vec::with_capacity(self.body.len()));
        let mut bytes = self.body.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' if matches!(bytes.next(), Some(b'n' | b'r')) => {}
                byte if byte.is_ascii_whitespace() => {}
                byte => digits.push(byte),
            }
        }
        let mut der = Zeroizing::new(vec![0; digits.len() / 4 * 3 + 3]);
        let length = STANDARD.decode_slice(&digits[..], &mut der[..]).map_err(|_| KeyError::Pem)?;
        der.truncate(length);
        Ok(der)
    }
}
