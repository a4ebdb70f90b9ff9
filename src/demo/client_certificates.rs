//! Certificates that clients show (RFC 8705). The handshake only makes sure that a client
//! holds the key of what it shows; whose certificate it is, and whether anybody has to vouch
//! for it, is asked later, by who needs to know.

use std::{fmt, sync::Arc, time::SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs::default_provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::primitives::{Secret, sha256};

use super::Error;

/// A certificate and its key, for a client to show. **Gives the key away.**
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    pub certificate_pem: String,
    /// PKCS#8.
    pub key_pem: Secret,
    /// Its `x5t#S256`.
    pub thumbprint: String,
}

/// What a client has shown on a connection, the leaf first. Requests carry it as an extension.
#[derive(Clone, Debug)]
pub(super) struct PeerCertificates(Arc<[CertificateDer<'static>]>);

/// The root that certificates for `tls_client_auth` come from.
pub(super) struct ClientRoots(Arc<dyn ClientCertVerifier>);

/// Lets every client in, with a certificate or without.
#[derive(Debug)]
pub(super) struct AnyClient(CryptoProvider);

// === impl ClientCertificate ===

impl ClientCertificate {
    pub(super) fn new(der: &CertificateDer<'_>, certificate_pem: String, key_pem: Secret) -> Self {
        Self { certificate_pem, key_pem, thumbprint: thumbprint(der) }
    }
}

// === impl PeerCertificates ===

impl PeerCertificates {
    pub(super) fn new(chain: &[CertificateDer<'static>]) -> Self {
        Self(chain.into())
    }

    pub(super) fn thumbprint(&self) -> String {
        self.0.first().map(|leaf| thumbprint(leaf)).unwrap_or_default()
    }

    /// As OpenSSL writes it.
    pub(super) fn subject(&self) -> Option<String> {
        let (_, leaf) = X509Certificate::from_der(self.0.first()?).ok()?;
        Some(leaf.subject().to_string())
    }
}

fn thumbprint(der: &CertificateDer<'_>) -> String {
    URL_SAFE_NO_PAD.encode(sha256(der))
}

// === impl ClientRoots ===

impl ClientRoots {
    pub(super) fn new(root: CertificateDer<'static>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(root).map_err(Error::Tls)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
        Ok(Self(verifier.build().map_err(|error| Error::Tls(rustls::Error::General(error.to_string())))?))
    }

    pub(super) fn vouch_for(&self, shown: &PeerCertificates, now: SystemTime) -> bool {
        let Some((leaf, intermediates)) = shown.0.split_first() else { return false };
        let Ok(since_1970) = now.duration_since(SystemTime::UNIX_EPOCH) else { return false };
        self.0.verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(since_1970)).is_ok()
    }
}

impl fmt::Debug for ClientRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientRoots")
    }
}

// === impl AnyClient ===

impl Default for AnyClient {
    fn default() -> Self {
        Self(default_provider())
    }
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
