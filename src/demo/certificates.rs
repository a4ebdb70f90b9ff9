//! The demo's own certificate authority: one root in memory, one leaf a server.
//! Not the proxy's authority, on purpose: the proxy must be told to trust this
//! one, as it would a company's. It also gives certificates to clients; who checks those is
//! in `client_certificates.rs`.

use std::{fmt, sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::primitives::{Clock, Secret};

use super::{
    Error,
    client_certificates::{AnyClient, ClientCertificate},
    https::Protocols,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A self-signed root that lives as long as its world.
pub(super) struct DemoAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pem: String,
}

impl DemoAuthority {
    pub(super) fn new(clock: &dyn Clock) -> Result<Self, Error> {
        let mut params = params("cupbearer demo CA", Vec::new(), clock, 365).map_err(Error::Certificate)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(Error::Certificate)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(Error::Certificate)?;
        let pem = issuer.pem();
        Ok(Self { issuer, pem })
    }

    /// The root, for those who shall trust it.
    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn der(&self) -> &CertificateDer<'static> {
        self.issuer.der()
    }

    /// For a client to show, with `common_name` as the only part of its subject.
    pub(super) fn client_certificate(&self, common_name: &str, clock: &dyn Clock) -> Result<ClientCertificate, Error> {
        let (params, key) = client_params(common_name, clock)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(Error::Certificate)?;
        Ok(ClientCertificate::new(certificate.der(), certificate.pem(), Secret::new(key.serialize_pem())))
    }

    /// TLS settings of a server that goes by `names` (DNS names and IP addresses), and may ask
    /// for a client's certificate without wanting one.
    pub(super) fn server_config(
        &self,
        names: Vec<String>,
        protocols: Protocols,
        asks_clients: bool,
        clock: &dyn Clock,
    ) -> Result<Arc<ServerConfig>, Error> {
        let clients: Arc<dyn ClientCertVerifier> =
            if asks_clients { Arc::new(AnyClient::default()) } else { WebPkiClientVerifier::no_client_auth() };
        let mut params = params("cupbearer demo server", names, clock, 90).map_err(Error::Certificate)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(Error::Certificate)?;
        let leaf = params.signed_by(&key, &self.issuer).map_err(Error::Certificate)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![leaf.der().clone()], key)
            .map_err(Error::Tls)?;
        config.alpn_protocols = protocols.alpn();
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for DemoAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DemoAuthority")
    }
}

/// Signed with its own key: nobody vouches for it but who registers it.
pub(super) fn self_signed(common_name: &str, clock: &dyn Clock) -> Result<ClientCertificate, Error> {
    let (params, key) = client_params(common_name, clock)?;
    let certificate = params.self_signed(&key).map_err(Error::Certificate)?;
    Ok(ClientCertificate::new(certificate.der(), certificate.pem(), Secret::new(key.serialize_pem())))
}

fn client_params(common_name: &str, clock: &dyn Clock) -> Result<(CertificateParams, KeyPair), Error> {
    let mut params = params(common_name, Vec::new(), clock, 90).map_err(Error::Certificate)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok((params, KeyPair::generate().map_err(Error::Certificate)?))
}

/// Valid from yesterday, for peers whose clocks are a little behind.
fn params(
    common_name: &str,
    names: Vec<String>,
    clock: &dyn Clock,
    days: u32,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params.not_before = (clock.now() - DAY).into();
    params.not_after = (clock.now() + DAY * days).into();
    Ok(params)
}
