//! The facts of one certificate that people and our own checks want. Knows DER;
//! no files and no keys.

use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::primitives::{digest::hex, sha256};

/// A parsed certificate.
#[derive(Clone, Debug)]
pub struct CertificateInfo {
    der: CertificateDer<'static>,
    subject: String,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    key_algorithm: String,
}

impl CertificateInfo {
    /// The first certificate of a PEM text, where there is one that parses.
    pub fn from_pem(pem: &str) -> Option<Self> {
        Self::from_der(CertificateDer::from_pem_slice(pem.as_bytes()).ok()?)
    }

    /// Nothing where `der` isn't an X.509 certificate.
    pub fn from_der(der: CertificateDer<'static>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(&der).ok()?;
        Some(Self {
            subject: parsed.subject().to_string(),
            serial: hex(without_sign(parsed.raw_serial())),
            not_before: from_unix(parsed.validity().not_before.timestamp()),
            not_after: from_unix(parsed.validity().not_after.timestamp()),
            key_algorithm: key_algorithm(&parsed),
            der: der.clone(),
        })
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// As OpenSSL writes it: `CN=cupbearer laptop 1f2e3d4c`.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// SHA-256 of the DER, in lower-case hexadecimal.
    pub fn fingerprint(&self) -> String {
        hex(&sha256(&self.der))
    }

    /// `ECDSA P-256`, `RSA 2048` and the like.
    pub fn key_algorithm(&self) -> &str {
        &self.key_algorithm
    }

    /// Whether `issuer` signed this certificate (the signature only, no dates).
    pub(crate) fn is_signed_by(&self, issuer: &Self) -> bool {
        let Ok((_, subject)) = X509Certificate::from_der(&self.der) else { return false };
        let Ok((_, issuer)) = X509Certificate::from_der(&issuer.der) else { return false };
        subject.issuer() == issuer.subject() && subject.verify_signature(Some(issuer.public_key())).is_ok()
    }

    /// The key, as `SubjectPublicKeyInfo` in DER.
    pub(crate) fn public_key(&self) -> Option<Vec<u8>> {
        let (_, parsed) = X509Certificate::from_der(&self.der).ok()?;
        Some(parsed.public_key().raw.to_vec())
    }
}

/// DER writes a zero byte before a positive number whose first bit is set.
fn without_sign(serial: &[u8]) -> &[u8] {
    match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    }
}

fn from_unix(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn key_algorithm(certificate: &X509Certificate<'_>) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::EC(point)) => format!("ECDSA P-{}", point.key_size()),
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(_) | Err(_) => certificate.public_key().algorithm.algorithm.to_id_string(),
    }
}
