//! The certificate files that a command's environment points to (standards 4.2).
//! Knows certificates and file formats; not which variables name the files.
//!
//! Nearly every CA variable *replaces* a program's roots, so the bundle holds all that
//! the machine and the inherited variables trust, and ours.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{primitives::digest::hex, tls::CertificateInfo};

use super::{Error, Inherited};

/// Variables that name a PEM file (or a directory) and replace a program's roots.
pub(super) const BUNDLE_VARIABLES: [&str; 18] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "npm_config_cafile",
    "NIX_SSL_CERT_FILE",
    "HTTPLIB2_CA_CERTS",
    "PERL_LWP_SSL_CA_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "COMPOSER_CAFILE",
    "YARN_HTTPS_CA_FILE_PATH",
    "BUNDLE_SSL_CA_CERT",
    "CONDA_SSL_VERIFY",
    "HEX_CACERTS_PATH",
];

/// Variables that name a PEM file and add to a program's roots.
pub(super) const ADDED_VARIABLES: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// Where systems keep their roots: asked only where `SSL_CERT_FILE` or `SSL_CERT_DIR` hide
/// them from `load_native_certs`, because not every program read those variables.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Every JVM tool knows this password; it protects nothing but the format's checksum.
pub(super) const TRUST_STORE_PASSWORD: &str = "changeit";

/// The files of one launch.
#[derive(Clone, Debug)]
pub struct TrustFiles {
    /// Our root alone.
    pub ca: PathBuf,
    /// All roots of the machine and of the inherited variables, and ours.
    pub bundle: PathBuf,
    /// The same, as a Java trust store.
    pub java: PathBuf,
    /// The user's wgetrc, and the bundle.
    pub wgetrc: PathBuf,
}

impl TrustFiles {
    /// Writes the files into `directory` (made, 0700, where missing), each in one step, over
    /// older ones: for `cupbearer env`, whose files have to outlive it.
    pub fn write(directory: &Path, root_pem: &str, inherited: &Inherited) -> Result<Self, Error> {
        let failed = |source| Error::Write { path: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        // The variables have to hold in whatever directory a program runs.
        let directory = std::path::absolute(directory).map_err(failed)?;
        if directory.to_str().is_none() {
            return Err(Error::Path { path: directory.to_owned() });
        }
        let files = Self {
            ca: directory.join("ca.pem"),
            bundle: directory.join("bundle.pem"),
            java: directory.join("trust.jks"),
            wgetrc: directory.join("wgetrc"),
        };
        let root = CertificateDer::from_pem_slice(root_pem.as_bytes()).map_err(|_| Error::Root)?;
        let roots = collect(root.clone(), inherited);
        write_file(&files.ca, pem(&root).as_bytes())?;
        write_file(&files.bundle, roots.iter().map(pem).collect::<String>().as_bytes())?;
        write_file(&files.java, &java_trust_store(&roots).ok_or(Error::TrustStore)?)?;
        write_file(&files.wgetrc, &wgetrc(&files.bundle, inherited))?;
        Ok(files)
    }
}

// === impl TemporaryTrust ===

/// Files that live as long as one run.
#[derive(Debug)]
pub struct TemporaryTrust {
    directory: PathBuf,
    files: TrustFiles,
}

impl TemporaryTrust {
    /// Writes the files into a new 0700 directory under the inherited `XDG_RUNTIME_DIR`,
    /// else under the directory for temporary files.
    pub fn create(root_pem: &str, inherited: &Inherited) -> Result<Self, Error> {
        let mut name = [0; 8];
        aws_lc_rs::rand::fill(&mut name).map_err(|_| Error::Random)?;
        let runtime = inherited.value("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
        let directory = runtime.unwrap_or_else(std::env::temp_dir).join(format!("cupbearer-{}", hex(&name)));
        let failed = |source| Error::Write { path: directory.clone(), source };
        // Not recursive: a directory that somebody else has put there is an error.
        DirBuilder::new().mode(0o700).create(&directory).map_err(failed)?;
        match TrustFiles::write(&directory, root_pem, inherited) {
            Ok(files) => Ok(Self { directory, files }),
            Err(error) => {
                let _ = fs::remove_dir_all(&directory);
                Err(error)
            }
        }
    }

    pub fn files(&self) -> &TrustFiles {
        &self.files
    }
}

impl Drop for TemporaryTrust {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::debug!(%error, directory = %self.directory.display(), "can't remove the run's files");
        }
    }
}

// === the set of roots ===

/// Ours first, then the machine's, then those of the inherited variables; each once, and
/// only what is a certificate. What can't be read is skipped: the command could not have
/// read it either.
fn collect(root: CertificateDer<'static>, inherited: &Inherited) -> Vec<CertificateDer<'static>> {
    let mut found = vec![root];
    let mut add = |result: CertificateResult| {
        for error in &result.errors {
            tracing::debug!(%error, "skipped a root certificate");
        }
        found.extend(result.certs);
    };
    add(load_native_certs());
    let hidden = inherited.has("SSL_CERT_FILE") || inherited.has("SSL_CERT_DIR");
    if let Some(system) = SYSTEM_BUNDLES.iter().map(Path::new).find(|path| hidden && path.is_file()) {
        add(load_certs_from_paths(Some(system), None));
    }
    for name in BUNDLE_VARIABLES.iter().chain(&ADDED_VARIABLES) {
        let Some(path) = inherited.value(name).map(Path::new) else { continue };
        if path.is_dir() {
            add(load_certs_from_paths(None, Some(path)));
        } else {
            add(load_certs_from_paths(Some(path), None));
        }
    }
    for directory in inherited.value("SSL_CERT_DIR").map(std::env::split_paths).into_iter().flatten() {
        if directory.is_dir() {
            add(load_certs_from_paths(None, Some(&directory)));
        }
    }
    let mut seen = HashSet::new();
    found.retain(|der| CertificateInfo::from_der(der.clone()).is_some() && seen.insert(der.clone()));
    found
}

/// RFC 7468.
fn pem(der: &CertificateDer<'static>) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = &*STANDARD.encode(der);
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// A JKS file of trusted certificates, which every JVM reads (a PKCS #12 file made by
/// OpenSSL shows no entry there). Nothing where a length doesn't fit the format.
fn java_trust_store(roots: &[CertificateDer<'static>]) -> Option<Vec<u8>> {
    const MAGIC: u32 = 0xFEED_FEED;
    const VERSION: u32 = 2;
    const TRUSTED_CERTIFICATE: u32 = 2;
    let mut data = Vec::new();
    let utf = |data: &mut Vec<u8>, text: &str| -> Option<()> {
        data.extend(u16::try_from(text.len()).ok()?.to_be_bytes());
        data.extend(text.as_bytes());
        Some(())
    };
    data.extend(MAGIC.to_be_bytes());
    data.extend(VERSION.to_be_bytes());
    data.extend(u32::try_from(roots.len()).ok()?.to_be_bytes());
    for (index, root) in roots.iter().enumerate() {
        data.extend(TRUSTED_CERTIFICATE.to_be_bytes());
        utf(&mut data, &if index == 0 { "cupbearer".to_owned() } else { format!("root-{index}") })?;
        // When it was added: nobody asks.
        data.extend(0_u64.to_be_bytes());
        utf(&mut data, "X.509")?;
        data.extend(u32::try_from(root.len()).ok()?.to_be_bytes());
        data.extend(root.as_ref());
    }
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    for unit in TRUST_STORE_PASSWORD.encode_utf16() {
        context.update(&unit.to_be_bytes());
    }
    context.update(b"Mighty Aphrodite");
    context.update(&data);
    data.extend(context.finish().as_ref());
    Some(data)
}

/// wget knows no CA variable, and `WGETRC` replaces `~/.wgetrc`; of two lines the later wins.
fn wgetrc(bundle: &Path, inherited: &Inherited) -> Vec<u8> {
    let own = inherited.value("WGETRC").map(PathBuf::from);
    let home = || inherited.value("HOME").map(|home| Path::new(home).join(".wgetrc"));
    let mut text = own.or_else(home).and_then(|path| fs::read(path).ok()).unwrap_or_default();
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend(format!("ca_certificate = {}\n", bundle.display()).into_bytes());
    text
}

/// Through a temporary name, so that a reader sees the old file or the new one. For this
/// user only: a wgetrc may hold passwords.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Write { path: path.to_owned(), source };
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(name);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, os::unix::fs::PermissionsExt, process::Command, sync::Arc};

    use super::*;
    use crate::{
        primitives::{Clock, SystemClock},
        tls::CertificateAuthority,
    };

    fn root_pem() -> String {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        CertificateAuthority::ephemeral(&clock).unwrap().root_pem().to_owned()
    }

    fn inherited(variables: &[(&str, &Path)]) -> Inherited {
        Inherited::new(variables.iter().map(|(name, path)| (OsString::from(name), path.as_os_str().to_owned())))
    }

    fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn the_bundle_merges_what_is_inherited_each_root_once() {
        let home = tempfile::tempdir().unwrap();
        let (ours, corporate, extra, hashed) = (root_pem(), root_pem(), root_pem(), root_pem());
        let write = |name: &str, text: &str| {
            fs::write(home.path().join(name), text).unwrap();
            home.path().join(name)
        };
        let corporate_path = write("corporate.pem", &format!("# twice\n{corporate}{corporate}"));
        let extra_path = write("extra.pem", &format!("{extra}{corporate}"));
        let directory = home.path().join("certs");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("12345678.0"), &hashed).unwrap();
        let inherited = inherited(&[
            ("REQUESTS_CA_BUNDLE", &corporate_path),
            ("NODE_EXTRA_CA_CERTS", &extra_path),
            ("SSL_CERT_DIR", &directory),
            ("CONDA_SSL_VERIFY", Path::new("true")),
            ("XDG_RUNTIME_DIR", home.path()),
        ]);
        let trust = TemporaryTrust::create(&ours, &inherited).unwrap();
        assert_eq!(certificates(&trust.files().ca), [der(&ours)]);
        let bundle = certificates(&trust.files().bundle);
        assert_eq!(bundle[0], der(&ours));
        for root in [&corporate, &extra, &hashed] {
            assert_eq!(bundle.iter().filter(|certificate| **certificate == der(root)).count(), 1);
        }
        let unique: HashSet<_> = bundle.iter().collect();
        assert_eq!(unique.len(), bundle.len());
        let system = load_native_certs().certs;
        assert!(!system.is_empty(), "this machine has no roots, so the next line shows nothing");
        assert!(system.iter().all(|certificate| bundle.contains(certificate)));
    }

    #[test]
    fn the_directory_is_private_and_goes_with_its_guard() {
        let home = tempfile::tempdir().unwrap();
        let trust = TemporaryTrust::create(&root_pem(), &inherited(&[("XDG_RUNTIME_DIR", home.path())])).unwrap();
        let files = trust.files().clone();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(files.ca.parent().unwrap()), 0o700);
        assert!(files.ca.starts_with(home.path()));
        for file in [&files.ca, &files.bundle, &files.java, &files.wgetrc] {
            assert_eq!(mode(file), 0o600);
        }
        assert_eq!(fs::read_dir(files.ca.parent().unwrap()).unwrap().count(), 4);
        drop(trust);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_that_stay_are_replaced() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("state/env");
        TrustFiles::write(&directory, &root_pem(), &Inherited::default()).unwrap();
        let second = root_pem();
        let files = TrustFiles::write(&directory, &second, &Inherited::default()).unwrap();
        assert_eq!(certificates(&files.ca), [der(&second)]);
        assert!(matches!(TrustFiles::write(&directory, "no PEM", &Inherited::default()), Err(Error::Root)));
    }

    #[test]
    fn keytool_reads_the_trust_store() {
        let home = tempfile::tempdir().unwrap();
        let roots = [root_pem(), root_pem(), root_pem()].map(|pem| der(&pem));
        let path = home.path().join("trust.jks");
        fs::write(&path, java_trust_store(&roots).unwrap()).unwrap();
        let keytool = |password: &str| {
            Command::new("keytool")
                .args(["-J-Duser.language=en", "-list", "-v", "-storepass", password, "-keystore"])
                .arg(&path)
                .output()
                .expect("the keytool command of a JDK is needed for this test")
        };
        let output = keytool(TRUST_STORE_PASSWORD);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("contains 3 entries"), "{text}");
        assert!(text.contains("Alias name: cupbearer\n"), "{text}");
        assert_eq!(text.matches("Entry type: trustedCertEntry").count(), 3);
        for root in &roots {
            let fingerprint = hex(&crate::primitives::sha256(root)).to_uppercase();
            assert!(text.replace(':', "").contains(&fingerprint), "{fingerprint} is not in {text}");
        }
        assert!(!keytool("changeme").status.success(), "the checksum must be under the password");
    }

    #[test]
    fn wget_keeps_the_users_settings() {
        let home = tempfile::tempdir().unwrap();
        let bundle = Path::new("/b/bundle.pem");
        fs::write(home.path().join(".wgetrc"), "ca_certificate = /old\ntries = 3").unwrap();
        let text = wgetrc(bundle, &inherited(&[("HOME", home.path())]));
        assert_eq!(text, b"ca_certificate = /old\ntries = 3\nca_certificate = /b/bundle.pem\n");
        fs::write(home.path().join("other"), "timeout = 9\n").unwrap();
        let other = home.path().join("other");
        let text = wgetrc(bundle, &inherited(&[("HOME", home.path()), ("WGETRC", &other)]));
        assert_eq!(text, b"timeout = 9\nca_certificate = /b/bundle.pem\n");
        assert_eq!(wgetrc(bundle, &Inherited::default()), b"ca_certificate = /b/bundle.pem\n");
    }
}
