//! Our certificate authority, the leaves it mints, and rustls settings for both
//! sides. Knows hosts and keys; no connections.

pub mod authority;
pub mod client;
pub mod leaf;
pub mod server;

pub use authority::CertificateAuthority;
pub use leaf::LeafCache;

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can't read {path}")]
    Read { path: std::path::PathBuf, source: std::io::Error },
    #[error("can't write {path}")]
    Write { path: std::path::PathBuf, source: std::io::Error },
    #[error("{path} can be read by other users (mode {mode:04o})")]
    LooseMode { path: std::path::PathBuf, mode: u32 },
    #[error("{path} holds no certificate")]
    NoCertificate { path: std::path::PathBuf },
    #[error("{path} holds no private key")]
    NoKey { path: std::path::PathBuf },
    #[error("the certificate and its key don't belong together")]
    Mismatch(#[source] rustls::Error),
    #[error("can't make a certificate")]
    Mint(#[source] rcgen::Error),
    #[error("no trusted root certificate was found")]
    NoRoots,
}
