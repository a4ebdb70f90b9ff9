//! The local certificate authority: a self-signed root that clients trust and an
//! issuing intermediate that signs leaves (standards 5.2). Knows hosts and dates; not
//! who asks for a leaf, nor how many are kept.
//!
//! ```text
//! DIRECTORY/ca/            0700
//!   root.pem    root.key       what clients trust · signs an issuing certificate, now and then
//!   issuing.pem issuing.key    the key that signs leaves (0600), its certificate behind it
//! ```
//!
//! The root's key is in memory only while it signs. The leaf key is made at each
//! start, is shared by all leaves of the process, and never touches a disk.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::{
    files::{self, NewFile, Staged},
    primitives::{Clock, Host},
};

use super::{
    CertificateInfo, Constraints, Error,
    issuing::{Home, Issuing, Wish},
    provider,
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Clients whose clock is behind ours still accept a new certificate.
pub(super) const SKEW: Duration = HOUR;
const PERSISTENT_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
const EPHEMERAL_LIFE: Duration = DAY;
/// Under every limit that a client sets (Apple's 825 days is the lowest for private CAs).
const LEAF_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// From when on the operator is told that the root will end: an intermediate is renewed by itself.
const WARN_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Root and intermediate; mints leaves.
pub struct CertificateAuthority {
    root: CertificateInfo,
    root_pem: String,
    issuing: ArcSwap<Issuing>,
    /// Where root and intermediate are kept; `None`: in memory only.
    home: Option<Home>,
    leaf_key: KeyPair,
    leaf_signer: Arc<dyn rustls::sign::SigningKey>,
    clock: Arc<dyn Clock>,
}

/// A minted certificate with its chain and key, ready for rustls.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Leaf, then intermediate; never the root.
    pub certified_key: Arc<CertifiedKey>,
    pub not_after: SystemTime,
    /// When half of its life is over: from then on a new one should be minted. The
    /// end of its life where it lasts as long as its issuer: no new one would last longer.
    pub renew_at: SystemTime,
}

impl CertificateAuthority {
    /// A CA that lives in memory only and dies with the process (`run`, `demo`).
    pub fn ephemeral(clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        let made = Made::new(clock, EPHEMERAL_LIFE)?;
        Self::assemble(made.root_pem, made.issuing, clock, None)
    }

    /// Loads `directory/ca/`, or makes it (0700, keys 0600). Of several processes that
    /// start at once on a fresh directory, one makes it and the others load that one.
    ///
    /// # Errors
    /// Loose modes, files that don't belong together, and an expired CA: never repaired
    /// silently, because clients trust what is there.
    pub fn load_or_create(directory: &Path, clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        let target = ca_directory(directory);
        if files::is_absent_or_empty(&target)? {
            Made::new(clock, PERSISTENT_LIFE)?.stage(directory)?.publish(&target)?;
        }
        Self::load(directory, clock)
    }

    /// Loads `directory/ca/`; makes nothing.
    pub fn load(directory: &Path, clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        let target = ca_directory(directory);
        files::check_directory_mode(&target)?;
        files::check_key_mode(&target.join("root.key"))?;
        let issuing = Issuing::load(&target)?;
        let root_pem = files::read_text(&target.join("root.pem"))?;
        Self::assemble(root_pem, issuing, clock, Some(Home::new(target)))
    }

    /// Makes a new CA in `directory/ca/`; the one it replaces is kept as `ca.previous`
    /// (and the one before that is removed). Clients have to trust the new root.
    pub fn rotate(directory: &Path, clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        let (target, previous) = (ca_directory(directory), directory.join("ca.previous"));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| files::Error::Write { path, source }
        };
        let staged = Made::new(clock, PERSISTENT_LIFE)?.stage(directory)?;
        if !files::is_absent_or_empty(&target)? {
            if previous.exists() {
                std::fs::remove_dir_all(&previous).map_err(failed(&previous))?;
            }
            // A crash after this line leaves no CA, and the next start makes one.
            std::fs::rename(&target, &previous).map_err(failed(&previous))?;
        }
        staged.publish(&target)?;
        Self::load(directory, clock)
    }

    /// The root in `directory/ca/` and its PEM text, from `root.pem` alone: for `ca show`
    /// and `ca export`, which need no key and work on an expired CA too.
    pub fn stored_root(directory: &Path) -> Result<(CertificateInfo, String), Error> {
        let path = ca_directory(directory).join("root.pem");
        let pem = files::read_text(&path)?;
        let root = CertificateInfo::from_pem(&pem).ok_or(Error::NoCertificate { path })?;
        Ok((root, pem))
    }

    fn assemble(root_pem: String, issuing: Issuing, clock: &Arc<dyn Clock>, home: Option<Home>) -> Result<Self, Error> {
        let origin = home.as_ref().map_or(Path::new("memory"), Home::path);
        let no_root = || Error::NoCertificate { path: origin.join("root.pem") };
        let root = CertificateInfo::from_pem(&root_pem).ok_or_else(no_root)?;
        if !issuing.certificate().is_signed_by(&root) || !root.is_signed_by(&root) {
            return Err(Error::Mixed { directory: origin.to_owned() });
        }
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Mint)?;
        let leaf_signer = provider()
            .key_provider
            .load_private_key(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()).into())
            .map_err(Error::Config)?;
        let issuing = ArcSwap::from_pointee(issuing);
        let authority = Self { root, root_pem, issuing, home, leaf_key, leaf_signer, clock: clock.clone() };
        // Told of with the first leaf, if it isn't the end.
        let renewed = authority.renew_if_due();
        if authority.expires_at() <= clock.now() {
            return Err(renewed.err().unwrap_or(Error::Expired));
        }
        Ok(authority)
    }

    /// From now on the intermediate vouches for these hosts only (threat 111); `None`: for any.
    /// A new one is signed where it does otherwise now. Nothing is done where the authority is
    /// in memory only: it dies before anybody could use its key.
    ///
    /// # Errors
    /// It can't be signed: the root's key was taken away, for example. The old one stays.
    pub fn confine(&self, hosts: Option<Constraints>) -> Result<(), Error> {
        let Some(home) = &self.home else { return Ok(()) };
        home.hear(hosts);
        self.renew_if_due()
    }

    /// Signs another intermediate where the one that there is is old, or isn't as it should be.
    fn renew_if_due(&self) -> Result<(), Error> {
        let Some(home) = &self.home else { return Ok(()) };
        let (now, end) = (self.clock.now(), self.root.not_after());
        let wish = home.wish();
        let current = self.issuing.load_full();
        let wanted = match &*wish {
            Some(Wish(wanted)) => wanted.as_ref(),
            None => current.constraints(),
        };
        if current.constraints() == wanted && !current.is_due(now, end) {
            return Ok(());
        }
        if end <= now {
            return Err(Error::Expired);
        }
        let issuing = Issuing::make(&self.root, &home.root_key(&self.root)?, (now, end), wanted.cloned())?;
        home.keep(&issuing);
        self.issuing.store(Arc::new(issuing));
        Ok(())
    }

    /// The root, PEM: what clients must trust.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The root, DER.
    pub fn root_der(&self) -> &CertificateDer<'static> {
        self.root.der()
    }

    pub fn root(&self) -> &CertificateInfo {
        &self.root
    }

    /// The intermediate that signs the leaves, now.
    pub fn issuing(&self) -> CertificateInfo {
        self.issuing.load().certificate().clone()
    }

    /// When clients stop to accept what this CA signs, as it is now.
    pub fn expires_at(&self) -> SystemTime {
        self.root.not_after().min(self.issuing.load().certificate().not_after())
    }

    /// Logs, once a day, that the root has less than 30 days left: what clients trust has to be
    /// replaced by then. Called at the start, and with every leaf.
    pub fn warn_of_end(&self) {
        let Some(home) = &self.home else { return };
        let (now, end) = (self.clock.now(), self.root.not_after());
        if now + WARN_BEFORE >= end && home.warns_first(now) {
            let ends = OffsetDateTime::from(end).date();
            tracing::warn!(
                %ends,
                "the certificate authority ends: run `cupbearer ca rotate` before that, give every client the new \
                 root, and restart"
            );
        }
    }

    /// Mints a certificate for exactly `host`: an exact dNSName, or an iPAddress.
    ///
    /// # Errors
    /// `Expired` once the CA is; else only what the crypto library can't do.
    pub fn issue(&self, host: &Host) -> Result<Leaf, Error> {
        let now = self.clock.now();
        self.warn_of_end();
        if let Err(error) = self.renew_if_due()
            && self.home.as_ref().is_some_and(Home::complains_first)
        {
            tracing::warn!(%error, "the certificate authority can't renew its issuing certificate");
        }
        let issuing = self.issuing.load_full();
        let expires = self.root.not_after().min(issuing.certificate().not_after());
        if expires <= now {
            return Err(Error::Expired);
        }
        if issuing.constraints().is_some_and(|constraints| !constraints.admits(host)) {
            return Err(Error::Confined);
        }
        let not_before = (now - SKEW).max(issuing.certificate().not_before());
        let not_after = whole_seconds((now + LEAF_LIFE).min(expires));
        let mut params = params(&common_name(host), not_before, not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = vec![subject_alt_name(host)?];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&self.leaf_key, issuing.issuer()).map_err(Error::Mint)?;
        let chain = vec![certificate.into(), issuing.certificate().der().clone()];
        let half_life = not_after.duration_since(now).unwrap_or_default() / 2;
        Ok(Leaf {
            certified_key: Arc::new(CertifiedKey::new(chain, self.leaf_signer.clone())),
            not_after,
            renew_at: if not_after == expires { not_after } else { now + half_life },
        })
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").field("root", &self.root.subject()).finish_non_exhaustive()
    }
}

// === impl Made ===

/// A CA just made, with both keys.
struct Made {
    root_pem: String,
    root_key: KeyPair,
    issuing: Issuing,
}

impl Made {
    fn new(clock: &Arc<dyn Clock>, life: Duration) -> Result<Self, Error> {
        let now = clock.now();
        let (not_before, not_after) = (now - SKEW, now + life);
        let name = format!("cupbearer {} {}", machine(), files::random_hex::<4>()?);

        let mut root = params(&name, not_before, not_after)?;
        root.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Mint)?;
        let root_pem = root.self_signed(&root_key).map_err(Error::Mint)?.pem();
        let parsed = CertificateInfo::from_pem(&root_pem).ok_or(Error::Random)?;
        let issuing = Issuing::make(&parsed, &root_key, (now, not_after), None)?;
        Ok(Self { root_pem, root_key, issuing })
    }

    fn stage(&self, directory: &Path) -> Result<Staged, Error> {
        let root_key = Zeroizing::new(self.root_key.serialize_pem());
        let issuing_key = self.issuing.key_pem();
        let files = [
            NewFile { name: "root.pem", text: &self.root_pem, mode: 0o644 },
            NewFile { name: "root.key", text: &root_key, mode: 0o600 },
            NewFile { name: "issuing.pem", text: self.issuing.pem(), mode: 0o644 },
            NewFile { name: "issuing.key", text: &issuing_key, mode: 0o600 },
        ];
        Ok(Staged::write(directory, &files)?)
    }
}

// === helpers ===

fn ca_directory(directory: &Path) -> PathBuf {
    directory.join("ca")
}

/// What root, intermediate and leaf have in common.
pub(super) fn params(
    common_name: &str,
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, Error> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| Error::Random)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = OffsetDateTime::from(whole_seconds(not_before));
    params.not_after = OffsetDateTime::from(whole_seconds(not_after));
    Ok(params)
}

/// X.509 has no fractions of a second.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// X.520 allows 64 characters (RFC 5280, ub-common-name). Hosts are ASCII.
fn common_name(host: &Host) -> String {
    let text = match host {
        Host::Name(name) => name.to_string(),
        // OpenSSL takes a bare IPv4 address here for a DNS name, which no constraint permits.
        Host::Ip(address) => format!("address {address}"),
    };
    text.chars().take(64).collect()
}

fn subject_alt_name(host: &Host) -> Result<SanType, Error> {
    match host {
        Host::Name(name) => Ok(SanType::DnsName(name.to_string().try_into().map_err(Error::Mint)?)),
        Host::Ip(address) => Ok(SanType::IpAddress(*address)),
    }
}

/// This machine's name, so that a person who finds the root in a trust store knows whose
/// it is. Cut short: the whole common name has 64 characters at most.
fn machine() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).take(32).collect();
    if plain.is_empty() { "machine".to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        process::Command,
        sync::{Barrier, Mutex},
    };

    use x509_parser::{
        extensions::{GeneralName, ParsedExtension},
        prelude::{FromDer, X509Certificate, X509Extension},
    };

    use super::*;
    use crate::primitives::SystemClock;

    #[derive(Debug)]
    struct Settable(Mutex<SystemTime>);

    impl Clock for Settable {
        fn now(&self) -> SystemTime {
            *self.0.lock().unwrap()
        }
    }

    fn clock() -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    fn persistent() -> (CertificateAuthority, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        (CertificateAuthority::load_or_create(directory.path(), &clock()).unwrap(), directory)
    }

    fn issue(authority: &CertificateAuthority, host: &str) -> Leaf {
        authority.issue(&Host::parse(host).unwrap()).unwrap()
    }

    fn parse(der: &[u8]) -> X509Certificate<'_> {
        let (rest, parsed) = X509Certificate::from_der(der).unwrap();
        assert!(rest.is_empty());
        parsed
    }

    fn seconds(time: SystemTime) -> i64 {
        time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
    }

    /// Every extension as one line, critical ones marked, in the order of their names.
    fn extensions(certificate: &X509Certificate<'_>) -> Vec<String> {
        let show = |extension: &X509Extension<'_>| {
            let text = match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(it) => format!("basic ca={} {:?}", it.ca, it.path_len_constraint),
                ParsedExtension::KeyUsage(it) => format!("usage {it}"),
                ParsedExtension::ExtendedKeyUsage(it) => {
                    let others = it.any || it.client_auth || it.code_signing || it.email_protection;
                    format!("extended server={} others={}", it.server_auth, others || !it.other.is_empty())
                }
                ParsedExtension::SubjectAlternativeName(it) => format!("names {:?}", it.general_names),
                ParsedExtension::SubjectKeyIdentifier(_) => "subject key".to_owned(),
                ParsedExtension::AuthorityKeyIdentifier(_) => "authority key".to_owned(),
                other => format!("unexpected {other:?}"),
            };
            if extension.critical { format!("{text} !") } else { text }
        };
        let mut lines: Vec<_> = certificate.extensions().iter().map(show).collect();
        lines.sort();
        lines
    }

    fn key_identifiers(certificate: &X509Certificate<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let (mut subject, mut authority) = (None, None);
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => subject = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    authority = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                _ => {}
            }
        }
        (subject, authority)
    }

    #[test]
    fn each_certificate_has_the_profile() {
        let (authority, _directory) = persistent();
        let leaf = issue(&authority, "api.example.com");
        let chain = &leaf.certified_key.cert;
        assert_eq!(chain.len(), 2);
        assert_eq!(&chain[1], authority.issuing().der());
        let (root, issuing, leaf) = (parse(authority.root_der()), parse(&chain[1]), parse(&chain[0]));

        assert_eq!(extensions(&root), ["basic ca=true Some(1) !", "subject key", "usage Key Cert Sign, CRL Sign !"]);
        assert_eq!(
            extensions(&issuing),
            [
                "authority key",
                "basic ca=true Some(0) !",
                "extended server=true others=false",
                "subject key",
                "usage Key Cert Sign, CRL Sign !",
            ]
        );
        assert_eq!(
            extensions(&leaf),
            [
                "authority key",
                "basic ca=false None !",
                "extended server=true others=false",
                "names [DNSName(\"api.example.com\")]",
                "subject key",
                "usage Digital Signature !",
            ]
        );
        assert_eq!(key_identifiers(&issuing).1, key_identifiers(&root).0);
        assert_eq!(key_identifiers(&leaf).1, key_identifiers(&issuing).0);
        assert_eq!(leaf.subject().to_string(), "CN=api.example.com");
        assert_eq!(leaf.issuer(), issuing.subject());
        for certificate in [&root, &issuing, &leaf] {
            assert_eq!(certificate.signature_algorithm.algorithm.to_id_string(), "1.2.840.10045.4.3.2");
            let serial = certificate.raw_serial();
            assert!((12..=17).contains(&serial.len()) && serial[0] < 0x80, "{serial:?}");
        }
        let keys = [&root, &issuing, &leaf].map(|certificate| certificate.public_key().raw.to_vec());
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
    }

    /// Threat 49.
    #[test]
    fn names_and_serials_are_exact_and_new() {
        let (authority, _directory) = persistent();
        for (host, octets) in [("192.0.2.1", &[192, 0, 2, 1][..]), ("[2001:db8::1]", &[0x20, 1, 0xd, 0xb8][..])] {
            let leaf = issue(&authority, host);
            let leaf = parse(&leaf.certified_key.cert[0]);
            let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
            let [GeneralName::IPAddress(address)] = names[..] else { panic!("{names:?}") };
            assert!(address.starts_with(octets) && (address.len() == 4 || address.len() == 16));
        }
        let long = format!("{}.example.com", "a".repeat(63));
        let (first, second) = (issue(&authority, &long), issue(&authority, &long));
        let (first, second) = (parse(&first.certified_key.cert[0]), parse(&second.certified_key.cert[0]));
        assert_eq!(first.subject().to_string(), format!("CN={}.", "a".repeat(63)));
        assert_ne!(first.raw_serial(), second.raw_serial());
        let names = &first.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names[..], [GeneralName::DNSName(&long)]);
    }

    #[test]
    fn lives_are_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let time = Arc::new(Settable(Mutex::new(now)));
        let clock: Arc<dyn Clock> = time.clone();
        let directory = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::load_or_create(directory.path(), &clock).unwrap();
        assert_eq!(authority.root().not_before(), now - HOUR);
        assert_eq!(authority.root().not_after(), now + DAY * 365);
        assert_eq!(authority.expires_at(), now + DAY * 90, "the intermediate's");

        *time.0.lock().unwrap() = now + DAY;
        let leaf = issue(&authority, "a.example");
        let parsed = parse(&leaf.certified_key.cert[0]);
        assert_eq!(parsed.validity().not_before.timestamp(), seconds(now + DAY - HOUR));
        assert_eq!(parsed.validity().not_after.timestamp(), seconds(now + DAY * 8));
        assert_eq!(leaf.not_after, now + DAY * 8);
        assert_eq!(leaf.renew_at, now + DAY * 9 / 2);

        *time.0.lock().unwrap() = now + DAY * 363;
        let last = issue(&authority, "a.example");
        assert_eq!(last.not_after, authority.root().not_after());
        assert_eq!(last.renew_at, last.not_after, "a new one would not live longer");

        *time.0.lock().unwrap() = now + DAY * 365;
        assert!(matches!(authority.issue(&Host::parse("a.example").unwrap()), Err(Error::Expired)));
        let error = CertificateAuthority::load_or_create(directory.path(), &clock).unwrap_err();
        assert!(error.to_string().contains("cupbearer ca rotate"), "{error}");
        CertificateAuthority::stored_root(directory.path()).expect("`ca show` works on an expired one");
        CertificateAuthority::rotate(directory.path(), &clock).expect("so does rotate");

        let ephemeral = CertificateAuthority::ephemeral(&clock).unwrap();
        assert_eq!(ephemeral.expires_at(), now + DAY * 366);
        assert_eq!(issue(&ephemeral, "a.example").not_after, ephemeral.expires_at());
    }

    #[test]
    fn the_end_of_the_root_is_told_of_once_a_day_in_its_last_month() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let time = Arc::new(Settable(Mutex::new(now)));
        let clock: Arc<dyn Clock> = time.clone();
        let directory = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::load_or_create(directory.path(), &clock).unwrap();
        let told_after = |authority: &CertificateAuthority, days: u32| {
            *time.0.lock().unwrap() = now + DAY * days;
            let log = directory.path().join("log");
            let writer = Arc::new(std::fs::File::create(&log).unwrap());
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
            tracing::subscriber::with_default(subscriber, || {
                authority.warn_of_end();
                issue(authority, "a.example");
            });
            let log = std::fs::read_to_string(log).unwrap();
            assert!(
                log.is_empty() || (log.contains("cupbearer ca rotate") && log.contains("ends=2028-01-15")),
                "{log}"
            );
            log.lines().count()
        };
        assert_eq!([0, 334, 335, 335, 336].map(|days| told_after(&authority, days)), [0, 0, 1, 0, 1]);
        let ephemeral = CertificateAuthority::ephemeral(&clock).unwrap();
        assert_eq!(told_after(&ephemeral, 336), 0, "it is made to end");
    }

    /// Threat 111: what can be stolen with the intermediate's key ends soon.
    #[test]
    fn the_intermediate_is_renewed_in_the_middle_of_its_life() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let time = Arc::new(Settable(Mutex::new(now)));
        let clock: Arc<dyn Clock> = time.clone();
        let directory = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::load_or_create(directory.path(), &clock).unwrap();
        let first = authority.issuing();
        *time.0.lock().unwrap() = now + DAY * 44;
        assert_eq!(issue(&authority, "a.example").certified_key.cert[1], *first.der());
        *time.0.lock().unwrap() = now + DAY * 46;
        let leaf = issue(&authority, "a.example");
        let second = authority.issuing();
        assert_eq!(leaf.certified_key.cert[1], *second.der());
        assert!(first.public_key() != second.public_key() && first.subject() != second.subject());
        assert_eq!(second.not_after(), now + DAY * 136);
        assert!(parse(&leaf.certified_key.cert[0]).verify_signature(Some(parse(second.der()).public_key())).is_ok());
        let kept = CertificateAuthority::load(directory.path(), &clock).unwrap();
        assert_eq!(kept.issuing().fingerprint(), second.fingerprint());
        let mode = |name: &str| fs::metadata(directory.path().join("ca").join(name)).unwrap().permissions().mode();
        assert_eq!(mode("issuing.key") & 0o777, 0o600);

        // Nobody served for longer than it lives: the root is what clients trust.
        *time.0.lock().unwrap() = now + DAY * 300;
        let late = CertificateAuthority::load(directory.path(), &clock).unwrap();
        assert_eq!(late.root_pem(), authority.root_pem());
        assert_eq!(issue(&late, "a.example").not_after, now + DAY * 307);
        // Another process has made another CA there: it is none of ours to write to.
        CertificateAuthority::rotate(directory.path(), &clock).unwrap();
        *time.0.lock().unwrap() = now + DAY * 346;
        assert_eq!(issue(&late, "a.example").not_after, now + DAY * 353, "the old one is good until its end");
        CertificateAuthority::load(directory.path(), &clock).unwrap();
    }

    /// Files of the first versions: an intermediate for two years, its certificate in a file of
    /// its own; and a root's key that the operator took away.
    #[test]
    fn an_authority_without_its_roots_key_goes_on() {
        let (authority, directory) = persistent();
        let ca = directory.path().join("ca");
        let root_key = fs::read_to_string(ca.join("root.key")).unwrap();
        let key = fs::read_to_string(ca.join("issuing.key")).unwrap();
        let (key, _certificate) = key.split_once("-----BEGIN CERTIFICATE").unwrap();
        fs::write(ca.join("issuing.key"), key).unwrap();
        fs::write(ca.join("root.key"), "").unwrap();
        let old = CertificateAuthority::load_or_create(directory.path(), &clock()).unwrap();
        assert_eq!(old.issuing().fingerprint(), authority.issuing().fingerprint());
        let hosts = || Constraints::new([Host::parse("api.example.com").unwrap()]);
        assert!(matches!(old.confine(hosts()), Err(Error::NoKey { .. })));
        issue(&old, "anything.test");
        fs::write(ca.join("root.key"), root_key).unwrap();
        old.confine(hosts()).unwrap();
        assert_ne!(old.issuing().fingerprint(), authority.issuing().fingerprint());
        assert_eq!(old.root_pem(), authority.root_pem());
    }

    /// Threat 111: with the intermediate's key one poses as the routes' hosts and no other.
    #[test]
    fn clients_refuse_what_the_intermediate_may_not_vouch_for() {
        let (authority, directory) = persistent();
        let ca = directory.path().join("ca");
        let confine = |hosts: &[&str]| {
            let hosts = hosts.iter().map(|host| Host::parse(host).unwrap());
            authority.confine(Constraints::new(hosts)).unwrap();
        };
        let thief = |host: &str| {
            // Unbound by us, with the key from the disk.
            let issuing = Issuing::load(&ca).unwrap();
            let mut params = params("x", clock().now() - HOUR, clock().now() + DAY).unwrap();
            params.subject_alt_names = vec![subject_alt_name(&Host::parse(host).unwrap()).unwrap()];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.use_authority_key_identifier_extension = true;
            let key = KeyPair::generate().unwrap();
            (pem_of(params.signed_by(&key, issuing.issuer()).unwrap().der()), issuing.pem().to_owned())
        };
        let accepted = |(leaf, issuing): (String, String)| {
            let write = |name: &str, text: &str| {
                let path = directory.path().join(name);
                fs::write(&path, text).unwrap();
                path
            };
            let (root, issuing) = (write("root.pem", authority.root_pem()), write("issuing.pem", &issuing));
            let mut openssl = Command::new("openssl");
            openssl.args(["verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-no-CAstore", "-CAfile"]);
            let output = openssl.arg(root).arg("-untrusted").arg(issuing).arg(write("leaf.pem", &leaf)).output();
            output.expect("the openssl command is needed for this test").status.success()
        };
        assert!(accepted(thief("anything.test")), "nobody has said anything yet");
        confine(&["api.example.com", "example.net"]);
        for host in ["api.example.com", "a.example.net"] {
            let leaf = issue(&authority, host);
            let [leaf, issuing] = [0, 1].map(|at| pem_of(&leaf.certified_key.cert[at]));
            assert!(accepted((leaf, issuing)), "{host}, as we sign it");
            assert!(accepted(thief(host)), "{host}");
        }
        for host in ["example.com", "evilexample.net", "anything.test", "192.0.2.1", "[2001:db8::1]"] {
            assert!(matches!(authority.issue(&Host::parse(host).unwrap()), Err(Error::Confined)), "{host}");
            assert!(!accepted(thief(host)), "{host}");
        }
        confine(&["192.0.2.1", "[2001:db8::1]"]);
        for (host, expected) in [("192.0.2.1", true), ("[2001:db8::1]", true), ("192.0.2.2", false), ("a.test", false)]
        {
            assert_eq!(authority.issue(&Host::parse(host).unwrap()).is_ok(), expected, "{host}");
            assert_eq!(accepted(thief(host)), expected, "{host}");
        }
        for host in ["192.0.2.1", "[2001:db8::1]"] {
            let leaf = issue(&authority, host);
            let [leaf, issuing] = [0, 1].map(|at| pem_of(&leaf.certified_key.cert[at]));
            assert!(accepted((leaf, issuing)), "{host}, as we sign it");
        }
        let bound = authority.issuing();
        confine(&["[2001:db8::1]", "192.0.2.1"]);
        assert_eq!(authority.issuing().fingerprint(), bound.fingerprint(), "nothing has changed");
        let again = CertificateAuthority::load(directory.path(), &clock()).unwrap();
        assert_eq!(again.issuing().fingerprint(), bound.fingerprint());
        authority.confine(None).unwrap();
        assert!(accepted(thief("anything.test")));
    }

    /// What Python 3.13 and others check too (standards 5.1).
    #[test]
    fn openssl_verifies_the_chain_strictly() {
        let (authority, directory) = persistent();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let root = write("root.pem", authority.root_pem());
        let issuing = write("issuing.pem", &pem_of(authority.issuing().der()));
        for (host, flag, name) in [
            ("api.example.com", "-verify_hostname", "api.example.com"),
            ("192.0.2.1", "-verify_ip", "192.0.2.1"),
            ("[2001:db8::1]", "-verify_ip", "2001:db8::1"),
        ] {
            let leaf = write("leaf.pem", &pem_of(&issue(&authority, host).certified_key.cert[0]));
            let verify = |name: &str| {
                Command::new("openssl")
                    .args(["verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-no-CAstore"])
                    .args([flag, name, "-CAfile"])
                    .arg(&root)
                    .arg("-untrusted")
                    .arg(&issuing)
                    .arg(&leaf)
                    .output()
                    .expect("the openssl command is needed for this test")
            };
            let output = verify(name);
            assert!(output.status.success(), "{host}: {output:?}");
            let wrong = if flag == "-verify_ip" { "192.0.2.2" } else { "b.example.com" };
            assert!(!verify(wrong).status.success(), "{host} passed for {wrong}");
        }
    }

    fn pem_of(der: &[u8]) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
    }

    #[test]
    fn files_are_private_and_load_to_the_same_authority() {
        let (authority, directory) = persistent();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let ca = directory.path().join("ca");
        assert_eq!(mode(&ca), 0o700);
        for name in ["root.key", "issuing.key"] {
            assert_eq!(mode(&ca.join(name)), 0o600, "{name}");
        }
        let again = CertificateAuthority::load_or_create(directory.path(), &clock()).unwrap();
        assert_eq!(again.root_pem(), authority.root_pem());
        assert_eq!(again.issuing().fingerprint(), authority.issuing().fingerprint());
        let (shown, _) = CertificateAuthority::stored_root(directory.path()).unwrap();
        assert_eq!(shown.fingerprint(), authority.root().fingerprint());
        assert_eq!((shown.key_algorithm(), shown.fingerprint().len()), ("ECDSA P-256", 64));
        assert!(shown.subject().starts_with("CN=cupbearer "), "{}", shown.subject());
    }

    /// Threats 20 and 111.
    #[test]
    fn loose_modes_are_refused() {
        let (_, directory) = persistent();
        let load = || CertificateAuthority::load_or_create(directory.path(), &clock()).map(|_| ());
        let ca = directory.path().join("ca");
        for name in ["root.key", "issuing.key"] {
            for mode in [0o640, 0o604, 0o620] {
                fs::set_permissions(ca.join(name), fs::Permissions::from_mode(mode)).unwrap();
                let error = load().unwrap_err().to_string();
                let advice = format!("chmod 600 {}", ca.join(name).display());
                assert!(error.contains(&advice) && error.contains(&format!("{mode:04o}")), "{error}");
            }
            fs::set_permissions(ca.join(name), fs::Permissions::from_mode(0o600)).unwrap();
            load().unwrap();
        }
        fs::set_permissions(&ca, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(load(), Err(Error::File(files::Error::LooseDirectory { mode: 0o770, .. }))));
    }

    #[test]
    fn files_of_two_authorities_are_refused() {
        let (_, one) = persistent();
        let (_, other) = persistent();
        for names in [&["issuing.key"][..], &["issuing.key", "issuing.pem"], &["root.pem"]] {
            let (_, fresh) = persistent();
            for name in names {
                fs::copy(other.path().join("ca").join(name), fresh.path().join("ca").join(name)).unwrap();
            }
            let error = CertificateAuthority::load(fresh.path(), &clock()).unwrap_err();
            assert!(matches!(error, Error::Mixed { .. }), "{names:?}: {error}");
        }
        fs::remove_file(one.path().join("ca/root.pem")).unwrap();
        let error = CertificateAuthority::load_or_create(one.path(), &clock()).unwrap_err();
        assert!(
            matches!(error, Error::File(files::Error::Read { .. })),
            "half a CA is never made whole silently: {error}"
        );
    }

    #[test]
    fn processes_that_start_at_once_share_one_authority() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let barrier = Barrier::new(8);
        let roots: Vec<String> = std::thread::scope(|scope| {
            let start = || {
                barrier.wait();
                CertificateAuthority::load_or_create(&state, &clock()).unwrap().root_pem().to_owned()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(roots.iter().all(|root| *root == roots[0]));
        let left: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["ca"], "the losers must have removed theirs");
    }

    #[test]
    fn rotate_keeps_one_previous_authority() {
        let (first, directory) = persistent();
        let second = CertificateAuthority::rotate(directory.path(), &clock()).unwrap();
        let third = CertificateAuthority::rotate(directory.path(), &clock()).unwrap();
        assert!(first.root().subject() != second.root().subject() && second.root_pem() != third.root_pem());
        let previous = fs::read_to_string(directory.path().join("ca.previous/root.pem")).unwrap();
        assert_eq!(previous, second.root_pem());
        let loaded = CertificateAuthority::load(directory.path(), &clock()).unwrap();
        assert_eq!(loaded.root_pem(), third.root_pem());
    }

    #[test]
    fn an_ephemeral_authority_shows_no_key() {
        let authority = CertificateAuthority::ephemeral(&clock()).unwrap();
        let shown = format!("{authority:?}");
        assert!(shown.starts_with("CertificateAuthority { root: \"CN=cupbearer ") && shown.len() < 120, "{shown}");
    }
}
