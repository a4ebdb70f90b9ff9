//! Settings for the TLS connections we open: verified always, platform roots or
//! those the operator names.

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore};

use super::Error;

/// The machine's roots (honours `SSL_CERT_FILE` and `SSL_CERT_DIR`), read once.
pub fn platform_roots() -> Result<RootCertStore, Error> {
    todo!()
}

/// The roots in a PEM file, added to `base` where one is given.
pub fn roots_from_file(_path: &Path, _base: Option<&RootCertStore>) -> Result<RootCertStore, Error> {
    todo!()
}

/// For proxied requests: ALPN `h2`, `http/1.1`; TLS 1.2 and 1.3; no early data;
/// sessions are never shared between two configs (threat 54).
pub fn upstream_config(_roots: RootCertStore) -> Arc<ClientConfig> {
    todo!()
}

/// For token requests: the same without ALPN (reqwest sets its own).
pub fn token_client_config(_roots: RootCertStore) -> ClientConfig {
    todo!()
}
