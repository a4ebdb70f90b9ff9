//! TLS settings of our own listeners, under a certificate the operator gives. Knows
//! two files; not which listener they are for.

use std::{path::Path, sync::Arc};

use rustls::{ServerConfig, sign::CertifiedKey, sign::SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::files;

use super::{Error, leaf, provider};

/// ALPN `h2` and `http/1.1`, TLS 1.2 and 1.3, no early data.
///
/// # Errors
/// Files that can't be read, a key of another certificate.
pub fn listener_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, Error> {
    let unusable = || Error::NoCertificate { path: certificate.to_owned() };
    let pem = files::read_text(certificate)?;
    let chain =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(|_| unusable())?;
    if chain.is_empty() {
        return Err(unusable());
    }
    let key_pem = files::read_judged_key(key)?;
    let private =
        PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| Error::NoKey { path: key.to_owned() })?;
    let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(Error::Mismatch)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(Error::Config)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    leaf::server_defaults(&mut config, leaf::ticketer()?);
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

    use super::*;

    fn pair(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        (certificate, key)
    }

    #[test]
    fn a_pair_that_belongs_together_serves_both_versions_of_http() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = pair(directory.path(), "a");
        let config = listener_config(&certificate, &key).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert_eq!(config.max_early_data_size, 0);
        assert!(config.ticketer.enabled());
    }

    #[test]
    fn mistakes_name_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = pair(directory.path(), "a");
        let (_, other_key) = pair(directory.path(), "b");
        assert!(matches!(listener_config(&certificate, &other_key), Err(Error::Mismatch(_))));
        assert!(matches!(listener_config(&key, &key), Err(Error::NoCertificate { path }) if path == key));
        let missing = directory.path().join("none");
        assert!(
            matches!(listener_config(&missing, &key), Err(Error::File(files::Error::Read { path, .. })) if path == missing)
        );
        let public = directory.path().join("public.key");
        fs::copy(&certificate, &public).unwrap();
        fs::set_permissions(&public, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(listener_config(&certificate, &public), Err(Error::NoKey { path }) if path == public));
        // Whether that is well is the config's to say, which may be told to let it pass.
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(listener_config(&certificate, &key).is_ok());
    }
}
