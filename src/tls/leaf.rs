//! A bounded cache of ready TLS server settings, one per intercepted host.

use std::sync::Arc;

use rustls::ServerConfig;

use crate::primitives::{Clock, Host};

use super::{CertificateAuthority, Error};

/// `ServerConfig`s under minted leaves, by host.
#[derive(Debug)]
pub struct LeafCache {}

impl LeafCache {
    pub fn new(_authority: Arc<CertificateAuthority>, _clock: Arc<dyn Clock>, _capacity: usize) -> Self {
        todo!()
    }

    /// Settings to terminate TLS for exactly `host`: ALPN `h2` and `http/1.1`.
    pub fn server_config(&self, _host: &Host) -> Result<Arc<ServerConfig>, Error> {
        todo!()
    }

    pub fn authority(&self) -> &CertificateAuthority {
        todo!()
    }
}
