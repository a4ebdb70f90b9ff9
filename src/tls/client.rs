//! Settings for the TLS connections we open: verified always, platform roots or
//! those the operator names. There is no way here to switch verification off.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::{ClientSessionMemoryCache, Resumption},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::files;

use super::{Error, http_alpn, provider, sessions::OnceSessions};

/// Sessions kept to resume: of the token requests of one authorization server, …
const SESSIONS: usize = 256;
/// … and of those who share a pool slot. rustls wants no fewer for a server.
const OWN_SESSIONS: usize = 8;

/// The machine's roots (honours `SSL_CERT_FILE` and `SSL_CERT_DIR`), read once. What
/// can't be read is logged; a machine without any root is an error.
pub fn platform_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a root certificate of this machine can't be read");
    }
    let mut roots = RootCertStore::empty();
    let (_, ignored) = roots.add_parsable_certificates(found.certs);
    if ignored > 0 {
        tracing::debug!(ignored, "some root certificates of this machine can't be used");
    }
    if roots.is_empty() { Err(Error::NoRoots) } else { Ok(roots) }
}

/// The roots in a PEM file, added to `base` where one is given. Every certificate in the
/// file has to be usable: the operator named it.
pub fn roots_from_file(path: &Path, base: Option<&RootCertStore>) -> Result<RootCertStore, Error> {
    let pem = files::read_text(path)?;
    let mut roots = base.cloned().unwrap_or_else(RootCertStore::empty);
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| Error::NoCertificate { path: path.to_owned() })?;
        roots.add(certificate).map_err(|source| Error::BadCertificate { path: path.to_owned(), source })?;
        found = true;
    }
    if found { Ok(roots) } else { Err(Error::NoCertificate { path: path.to_owned() }) }
}

/// For proxied requests: ALPN `h2`, `http/1.1`; TLS 1.2 and 1.3; no early data; no session is
/// resumed but by way of [`with_own_sessions`].
pub fn upstream_config(roots: RootCertStore) -> Arc<ClientConfig> {
    let mut config = token_client_config(roots);
    config.alpn_protocols = http_alpn();
    config.resumption = Resumption::disabled();
    // For our own streams, which have their records by themselves.
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// The same settings with sessions that nobody else resumes (threat 54). Where a certificate of
/// ours is shown there are none: a resumed one has the identity of the handshake that it began
/// with.
pub fn with_own_sessions(config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    if config.client_auth_cert_resolver.has_certs() {
        return Arc::clone(config);
    }
    let mut config = ClientConfig::clone(config);
    config.resumption = Resumption::store(Arc::new(OnceSessions::new(OWN_SESSIONS)));
    Arc::new(config)
}

/// For token requests: the same without ALPN (reqwest sets its own).
pub fn token_client_config(roots: RootCertStore) -> ClientConfig {
    #[expect(clippy::expect_used, reason = "our provider has suites for both versions; a test builds one")]
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS)));
    config.enable_early_data = false;
    config
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        primitives::{Clock, SystemClock},
        tls::CertificateAuthority,
    };

    fn root_pem() -> String {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        CertificateAuthority::ephemeral(&clock).unwrap().root_pem().to_owned()
    }

    #[test]
    fn a_file_of_roots_adds_to_the_base() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roots.pem");
        fs::write(&path, format!("# two roots\n{}{}", root_pem(), root_pem())).unwrap();
        let two = roots_from_file(&path, None).unwrap();
        assert_eq!(two.len(), 2);
        fs::write(&path, root_pem()).unwrap();
        assert_eq!(roots_from_file(&path, Some(&two)).unwrap().len(), 3);
    }

    #[test]
    fn a_file_without_a_usable_root_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("roots.pem");
        assert!(matches!(roots_from_file(&path, None), Err(Error::File(files::Error::Read { .. }))));
        for text in ["", "not PEM", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"] {
            fs::write(&path, text).unwrap();
            assert!(matches!(roots_from_file(&path, None), Err(Error::NoCertificate { .. })), "{text}");
        }
        fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(roots_from_file(&path, None), Err(Error::BadCertificate { .. })));
    }

    #[test]
    fn the_settings_differ_in_alpn_only_and_never_send_early_data() {
        let upstream = upstream_config(RootCertStore::empty());
        let token = token_client_config(RootCertStore::empty());
        assert_eq!(upstream.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert!(token.alpn_protocols.is_empty());
        assert!(!upstream.enable_early_data && !token.enable_early_data);
        assert!(Arc::ptr_eq(upstream.crypto_provider(), token.crypto_provider()));
    }
}
