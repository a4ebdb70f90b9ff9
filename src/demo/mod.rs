//! What a newcomer meets without an account anywhere: an authorization server and
//! an API that it protects, both real HTTPS servers on loopback. The test-suite
//! uses the same two as well-behaved peers, with knobs to make them misbehave.
//!
//! ```text
//!   World ── CertificateAuthority (of its own, in memory)
//!     ├── AuthorizationServer   /oauth/token, metadata, JWKS
//!     └── ProtectedApi          /v1/…, verifies each token against that JWKS
//! ```
//!
//! Refuses to know the proxy: it sees these servers as it sees anybody's. Nothing
//! here is global; any number of worlds live side by side in one process.

pub mod authorization_server;
mod certificates;
mod client_certificates;
mod dpop;
mod https;
mod journal;
pub mod jwt;
mod one_time;
pub mod protected_api;
#[cfg(test)]
mod testing;
pub mod world;

pub use authorization_server::{AuthorizationServer, AuthorizationServerHandle, Fault};
pub use client_certificates::ClientCertificate;
pub use dpop::NoncePolicy;
pub use https::{ConnectionId, Protocols};
pub use one_time::Repeated;
pub use protected_api::{ProtectedApi, ProtectedApiHandle};
pub use world::{World, WorldSettings};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::primitives::Secret;

/// Why a demo server couldn't start. The machine is at fault in all of them, but
/// for [`Error::Issuer`] and [`Error::UnknownClient`], where the caller is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't listen on loopback")]
    Listen(#[source] std::io::Error),
    #[error("can't make a certificate")]
    Certificate(#[source] rcgen::Error),
    #[error("can't use the certificate")]
    Tls(#[source] rustls::Error),
    #[error("can't make or use a signing key")]
    Key(#[source] jsonwebtoken::errors::Error),
    #[error("the machine gives no random bytes")]
    Random,
    #[error("can't make an HTTP client")]
    Client(#[source] reqwest::Error),
    #[error("the issuer isn't an https URL with a host")]
    Issuer,
    #[error("no such client is registered")]
    UnknownClient,
}

/// 256 random bits, in base64url.
fn random_secret() -> Result<Secret, Error> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

/// 128 random bits, in base64url: for names that needn't be secret.
fn random_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
