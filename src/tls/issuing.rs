//! The intermediate that signs leaves: made anew by the root's key well before its end, and
//! where the hosts that it may vouch for change. What is stolen with its key is worth little:
//! those hosts, for a few weeks (threat 111).

use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData,
};
use zeroize::Zeroizing;

use crate::files;

use super::{
    CertificateInfo, Error,
    authority::{SKEW, params},
    constraints::Constraints,
};

/// Of an intermediate that is kept on the disk.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// An intermediate with its key.
pub(super) struct Issuing {
    certificate: CertificateInfo,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    constraints: Option<Constraints>,
}

impl Issuing {
    /// Signed by the root's key. `end`: the root's.
    pub(super) fn make(
        root: &CertificateInfo,
        root_key: &KeyPair,
        (now, end): (SystemTime, SystemTime),
        constraints: Option<Constraints>,
    ) -> Result<Self, Error> {
        // Two of one name would have two keys: some clients look an issuer up by its name.
        // 64 characters at most, with the root's 51.
        let name = root.subject().trim_start_matches("CN=");
        let name = format!("{name} issuing {}", files::random_hex::<2>()?);
        let mut params = params(&name, (now - SKEW).max(root.not_before()), (now + LIFE).min(end))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.name_constraints = constraints.as_ref().map(Constraints::extension);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Mint)?;
        let root = Issuer::from_ca_cert_der(root.der(), root_key).map_err(Error::Mint)?;
        let pem = params.signed_by(&key, &root).map_err(Error::Mint)?.pem();
        Self::new(pem, key, Path::new("memory"))
    }

    /// From `directory`. The key's file holds the certificate too, so that both are replaced at
    /// once; those of the first versions didn't.
    pub(super) fn load(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("issuing.key");
        let text = files::read_key(&path)?;
        let key = KeyPair::from_pem(&text).map_err(|_| Error::NoKey { path })?;
        let pem = match text.find("-----BEGIN CERTIFICATE-----") {
            Some(at) => text[at..].to_owned(),
            None => files::read_text(&directory.join("issuing.pem"))?,
        };
        Self::new(pem, key, directory)
    }

    fn new(pem: String, key: KeyPair, origin: &Path) -> Result<Self, Error> {
        let no_certificate = || Error::NoCertificate { path: origin.join("issuing.pem") };
        let certificate = CertificateInfo::from_pem(&pem).ok_or_else(no_certificate)?;
        if certificate.public_key() != Some(key.subject_public_key_info()) {
            return Err(Error::Mixed { directory: origin.to_owned() });
        }
        let constraints = Constraints::of(certificate.der());
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key).map_err(Error::Mint)?;
        Ok(Self { certificate, pem, issuer, constraints })
    }

    pub(super) fn certificate(&self) -> &CertificateInfo {
        &self.certificate
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    pub(super) fn constraints(&self) -> Option<&Constraints> {
        self.constraints.as_ref()
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// The key, and the certificate behind it.
    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        let key = Zeroizing::new(self.issuer.key().serialize_pem());
        Zeroizing::new(format!("{}{}", &*key, self.pem))
    }

    /// Whether half of its life is over and another one would live longer, or it was made for
    /// years, as those of the first versions were. `end`: the root's.
    pub(super) fn is_due(&self, now: SystemTime, end: SystemTime) -> bool {
        let (from, to) = (self.certificate.not_before(), self.certificate.not_after());
        let life = to.duration_since(from).unwrap_or_default();
        life > LIFE + 2 * SKEW || (to < end && from + life / 2 <= now)
    }
}

/// What the intermediate has to be confined to; `None`: nothing.
#[derive(Debug)]
pub(super) struct Wish(pub(super) Option<Constraints>);

/// Where root and intermediate are kept.
#[derive(Debug)]
pub(super) struct Home {
    directory: PathBuf,
    /// `None`: nobody has said anything. Held while an intermediate is made.
    wish: Mutex<Option<Wish>>,
    complained: AtomicBool,
    /// The day on which the operator was last told of the root's end.
    warned: AtomicU64,
}

impl Home {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, wish: Mutex::default(), complained: AtomicBool::new(false), warned: AtomicU64::new(0) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.directory
    }

    pub(super) fn wish(&self) -> MutexGuard<'_, Option<Wish>> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hear(&self, constraints: Option<Constraints>) {
        *self.wish() = Some(Wish(constraints));
        self.complained.store(false, Ordering::Relaxed);
    }

    /// Once is enough, for what would be said with every leaf.
    pub(super) fn complains_first(&self) -> bool {
        !self.complained.swap(true, Ordering::Relaxed)
    }

    /// Whether it is the first time on that day.
    pub(super) fn warns_first(&self, now: SystemTime) -> bool {
        let today = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / (24 * 3600);
        self.warned.swap(today, Ordering::Relaxed) != today
    }

    /// The root's key, for a moment. An operator may have taken it away.
    pub(super) fn root_key(&self, root: &CertificateInfo) -> Result<KeyPair, Error> {
        let path = self.directory.join("root.key");
        let key = KeyPair::from_pem(&files::read_key(&path)?).map_err(|_| Error::NoKey { path })?;
        if root.public_key() != Some(key.subject_public_key_info()) {
            return Err(Error::Mixed { directory: self.directory.clone() });
        }
        Ok(key)
    }

    /// For the next start. Where the disk can't be written it is made anew then.
    pub(super) fn keep(&self, issuing: &Issuing) {
        let key = files::replace(&self.directory.join("issuing.key"), &issuing.key_pem());
        let kept = key.and_then(|()| files::replace(&self.directory.join("issuing.pem"), issuing.pem()));
        if let Err(error) = kept {
            tracing::warn!(%error, "the new issuing certificate can't be kept");
        }
    }
}
