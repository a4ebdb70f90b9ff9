//! A certificate and key that we show when we connect (RFC 8705): at an authorization
//! server's token endpoint, and at the resource that checks whom a token is bound to.
//! Immutable: a rotated pair of files makes another identity.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::{
    ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{Error, provider};
use crate::{files, primitives::sha256};

/// What a client proves itself with.
pub struct ClientIdentity {
    id: u64,
    thumbprint: String,
    key: Arc<CertifiedKey>,
}

impl ClientIdentity {
    /// Reads a PEM chain and its key.
    ///
    /// # Errors
    /// Files that can't be read, a key that other users can read, a key of another
    /// certificate.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let unusable = || Error::NoCertificate { path: certificate.to_owned() };
        let pem = files::read_text(certificate)?;
        let chain =
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(|_| unusable())?;
        let leaf = chain.first().ok_or_else(unusable)?;
        let thumbprint = URL_SAFE_NO_PAD.encode(sha256(leaf));
        let pem = files::read_key(key)?;
        let private =
            PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| Error::NoKey { path: key.to_owned() })?;
        let key = CertifiedKey::from_der(chain, private, &provider()).map_err(Error::Mismatch)?;
        Ok(Self { id: IDS.fetch_add(1, Ordering::Relaxed), thumbprint, key: Arc::new(key) })
    }

    /// Tells two identities of this process apart; never given twice.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// `x5t#S256` (RFC 8705 §3.1).
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// `config`, but showing this identity. Sessions are not resumed: a resumed one has the
    /// identity of the handshake that it began with.
    pub fn shown_by(&self, config: &ClientConfig) -> ClientConfig {
        let mut config = config.clone();
        config.client_auth_cert_resolver = Arc::new(Always(Arc::clone(&self.key)));
        config.resumption = Resumption::disabled();
        config
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").field("thumbprint", &self.thumbprint).finish_non_exhaustive()
    }
}

/// Shows the certificate whoever the server says that it trusts: whether it is good enough
/// is the server's to say.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_pair_of_files_makes_an_identity_and_a_new_pair_another() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = (directory.path().join("a.pem"), directory.path().join("a.key"));
        let write = || {
            let made = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
            fs::write(&certificate, made.cert.pem()).unwrap();
            fs::write(&key, made.signing_key.serialize_pem()).unwrap();
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
            URL_SAFE_NO_PAD.encode(sha256(made.cert.der()))
        };
        let first = write();
        let one = ClientIdentity::load(&certificate, &key).unwrap();
        assert_eq!(one.thumbprint(), first);
        write();
        let two = ClientIdentity::load(&certificate, &key).unwrap();
        assert_ne!((one.id(), one.thumbprint()), (two.id(), two.thumbprint()));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(ClientIdentity::load(&certificate, &key), Err(Error::File(files::Error::LooseMode { .. }))));
    }
}
