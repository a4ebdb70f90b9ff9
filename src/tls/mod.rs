//! Our certificate authority, the leaves it mints, and rustls settings for both
//! sides. Knows hosts and keys; of connections only how they are read.
//!
//! ```text
//! root (a year; the only thing a client trusts)
//!   └── issuing intermediate (90 days, for the hosts of the routes only; its key is the one we hold in memory)
//!         └── leaf, one per intercepted host, 7 days, cached by `LeafCache`
//! ```

pub mod authority;
pub mod certificate;
mod ciphers;
pub mod client;
pub mod constraints;
pub mod identity;
mod issuing;
pub mod leaf;
pub mod server;
mod sessions;
mod stream;

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::files;

pub use authority::{CertificateAuthority, Leaf};
pub use certificate::CertificateInfo;
pub use constraints::Constraints;
pub use identity::ClientIdentity;
pub use leaf::LeafCache;
#[cfg(fuzzing)]
pub use stream::fuzzing;
pub use stream::{TlsStream, accept, connect};

/// What can go wrong with keys and certificates. All but `Mint`, `Random` and `Config`
/// are for the operator to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("{path} holds no certificate")]
    NoCertificate { path: PathBuf },
    #[error("{path} holds a certificate that can't be used")]
    BadCertificate {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("{path} holds no private key")]
    NoKey { path: PathBuf },
    #[error("the certificate and its key don't belong together")]
    Mismatch(#[source] rustls::Error),
    #[error(
        "the files in {directory} don't belong together: restore them, or make a new authority with `cupbearer ca rotate`"
    )]
    Mixed { directory: PathBuf },
    #[error("the certificate authority has expired: make a new one with `cupbearer ca rotate`")]
    Expired,
    #[error("the issuing certificate may not vouch for this host")]
    Confined,
    #[error("can't make a certificate")]
    Mint(#[source] rcgen::Error),
    #[error("the system gave no random numbers")]
    Random,
    #[error("can't make TLS settings")]
    Config(#[source] rustls::Error),
    #[error("no trusted root certificate was found")]
    NoRoots,
}

/// The one set of algorithms that every TLS connection of this process uses, both sides.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider { cipher_suites: ciphers::suites(), ..aws_lc_rs::default_provider() })
    });
    PROVIDER.clone()
}

/// What every TLS connection for HTTP offers, best first.
pub(crate) fn http_alpn() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

#[cfg(test)]
mod tests {
    use rustls::SupportedCipherSuite;

    use super::*;

    /// No suite of rustls' own list may be lost, or clients would be refused.
    #[test]
    fn the_provider_reorders_and_loses_nothing() {
        let ours: Vec<_> = provider().cipher_suites.iter().map(SupportedCipherSuite::suite).collect();
        let theirs: Vec<_> = aws_lc_rs::DEFAULT_CIPHER_SUITES.iter().map(SupportedCipherSuite::suite).collect();
        assert_eq!(ours.len(), theirs.len());
        assert!(theirs.iter().all(|suite| ours.contains(suite)));
        assert_eq!(ours[0], rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
}
