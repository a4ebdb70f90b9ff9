//! Whose code protects records: by what the CPU can do, as measured
//! ([the figures](../../docs/dependencies.md#the-ciphers)). aws-lc's AES-GCM is the fastest where
//! there is AVX-512 with its own AES instructions, and ring's everywhere else. Suites, hashes and
//! key derivation are ring's in any case.

use aws_lc_rs::aead as aws_lc;
use ring::aead;
use rustls::{
    ConnectionTrafficSecrets, Error, SupportedCipherSuite, Tls13CipherSuite,
    crypto::{CipherSuiteCommon, aws_lc_rs::cipher_suite as aws_lc_suite, ring::cipher_suite as suite},
};

/// Of every AEAD that TLS 1.3 has.
pub(super) const TAG: usize = 16;

/// As rustls orders them, but for AES-128-GCM before AES-256-GCM: the latter brings SHA-384, which
/// costs about 8 % of a handshake and protects nothing more here.
pub(super) fn suites() -> Vec<SupportedCipherSuite> {
    suites_by(Maker::of_aes())
}

fn suites_by(maker: Maker) -> Vec<SupportedCipherSuite> {
    let [aes_128, aes_256] = match maker {
        Maker::AwsLc => [
            opened_by(suite::TLS13_AES_128_GCM_SHA256, aws_lc_suite::TLS13_AES_128_GCM_SHA256),
            opened_by(suite::TLS13_AES_256_GCM_SHA384, aws_lc_suite::TLS13_AES_256_GCM_SHA384),
        ],
        Maker::Ring => [suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384],
    };
    vec![
        aes_128,
        aes_256,
        suite::TLS13_CHACHA20_POLY1305_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ]
}

/// `suite` with the cipher of `other`, which is the same by another maker.
fn opened_by(suite: SupportedCipherSuite, other: SupportedCipherSuite) -> SupportedCipherSuite {
    let (SupportedCipherSuite::Tls13(ours), SupportedCipherSuite::Tls13(other)) = (suite, other) else { return suite };
    let CipherSuiteCommon { suite, hash_provider, confidentiality_limit } = ours.common;
    // Suites live as long as the process, which asks for them once.
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon { suite, hash_provider, confidentiality_limit },
        hkdf_provider: ours.hkdf_provider,
        aead_alg: other.aead_alg,
        quic: None,
    })))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    AwsLc,
    Ring,
}

impl Maker {
    /// For AES-GCM on this CPU.
    #[cfg(target_arch = "x86_64")]
    fn of_aes() -> Self {
        use std::arch::is_x86_feature_detected as has;
        // What aws-lc wants for its code of that kind.
        let is_wide = has!("avx512f")
            && has!("avx512bw")
            && has!("avx512dq")
            && has!("avx512vl")
            && has!("vaes")
            && has!("vpclmulqdq");
        if is_wide { Self::AwsLc } else { Self::Ring }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_aes() -> Self {
        Self::Ring
    }
}

/// The same by both.
struct Algorithm {
    by_aws_lc: &'static aws_lc::Algorithm,
    by_ring: &'static aead::Algorithm,
}

static AES_128_GCM: Algorithm = Algorithm { by_aws_lc: &aws_lc::AES_128_GCM, by_ring: &aead::AES_128_GCM };
static AES_256_GCM: Algorithm = Algorithm { by_aws_lc: &aws_lc::AES_256_GCM, by_ring: &aead::AES_256_GCM };
static CHACHA20_POLY1305: Algorithm =
    Algorithm { by_aws_lc: &aws_lc::CHACHA20_POLY1305, by_ring: &aead::CHACHA20_POLY1305 };

/// Protects records of TLS 1.3 in their place.
#[expect(clippy::large_enum_variant, reason = "the session that it lies in is in a box")]
pub(super) enum SealingKey {
    AwsLc(aws_lc::LessSafeKey),
    Ring(aead::LessSafeKey),
}

impl SealingKey {
    /// The key that `secrets` have.
    pub(super) fn new(secrets: &ConnectionTrafficSecrets) -> Result<Self, Error> {
        let maker = Maker::of_aes();
        match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, .. } => Self::by(maker, &AES_128_GCM, key.as_ref()),
            ConnectionTrafficSecrets::Aes256Gcm { key, .. } => Self::by(maker, &AES_256_GCM, key.as_ref()),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, .. } => {
                Self::by(Maker::Ring, &CHACHA20_POLY1305, key.as_ref())
            }
            _other => Err(Error::General("no suite of ours has such keys".to_owned())),
        }
    }

    fn by(maker: Maker, algorithm: &Algorithm, key: &[u8]) -> Result<Self, Error> {
        Ok(match maker {
            Maker::AwsLc => {
                let key = aws_lc::UnboundKey::new(algorithm.by_aws_lc, key).map_err(|_| Error::EncryptError)?;
                Self::AwsLc(aws_lc::LessSafeKey::new(key))
            }
            Maker::Ring => {
                let key = aead::UnboundKey::new(algorithm.by_ring, key).map_err(|_| Error::EncryptError)?;
                Self::Ring(aead::LessSafeKey::new(key))
            }
        })
    }

    /// Encrypts `payload` in its place and writes its tag, which is over `header`, too, into `tag`.
    /// Not returned: in what it would be wrapped on its way out it is copied in pieces, at each layer.
    #[inline]
    pub(super) fn seal<const N: usize>(
        &self,
        nonce: [u8; 12],
        header: [u8; N],
        payload: &mut [u8],
        tag: &mut [u8; TAG],
    ) -> Result<(), Error> {
        match self {
            Self::Ring(key) => {
                let (nonce, header) = (aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(header));
                let made = key.seal_in_place_separate_tag(nonce, header, payload).map_err(|_| Error::EncryptError)?;
                tag.copy_from_slice(made.as_ref());
                Ok(())
            }
            Self::AwsLc(key) => {
                let (nonce, header) = (aws_lc::Nonce::assume_unique_for_key(nonce), aws_lc::Aad::from(header));
                key.seal_in_place_scatter(nonce, header, payload, &[], tag).map_err(|_| Error::EncryptError)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::{
        CipherSuite, ContentType, ProtocolVersion,
        crypto::cipher::{AeadKey, InboundOpaqueMessage, Iv},
    };

    use super::*;

    const MAKERS: [Maker; 2] = [Maker::AwsLc, Maker::Ring];

    /// Whichever CPU this runs on, the peer's may be another.
    #[test]
    fn both_makers_make_the_same_records() {
        for (algorithm, length) in [(&AES_128_GCM, 16), (&AES_256_GCM, 32), (&CHACHA20_POLY1305, 32)] {
            for size in [0, 1, 15, 16, 17, 1000, 16_384] {
                let [one, other] = MAKERS.map(|maker| {
                    let mut payload = vec![7; size];
                    let key = SealingKey::by(maker, algorithm, &vec![9; length]).unwrap();
                    let mut tag = [0; TAG];
                    key.seal([3; 12], [23, 3, 3, 1, 0], &mut payload, &mut tag).unwrap();
                    (payload, tag)
                });
                assert_eq!(one, other, "{size}");
                assert!(size < 15 || one.0 != vec![7; size]);
            }
        }
        assert!(SealingKey::by(Maker::Ring, &AES_128_GCM, &[9; 32]).is_err());
        assert!(SealingKey::by(Maker::AwsLc, &AES_128_GCM, &[9; 32]).is_err());
    }

    #[test]
    fn what_one_has_sealed_the_other_opens() {
        for (sealer, opener) in MAKERS.into_iter().flat_map(|sealer| MAKERS.map(|opener| (sealer, opener))) {
            let suites = suites_by(opener);
            let mut suites = suites.iter().filter_map(SupportedCipherSuite::tls13);
            let suite = suites.find(|suite| suite.common.suite == CipherSuite::TLS13_AES_256_GCM_SHA384).unwrap();
            let mut decrypter = suite.aead_alg.decrypter(AeadKey::from([9; 32]), Iv::copy(&[3; 12]));
            let mut record = b"hello\x17".to_vec();
            let length = u8::try_from(record.len() + TAG).unwrap();
            let key = SealingKey::by(sealer, &AES_256_GCM, &[9; 32]).unwrap();
            // The first record's nonce is the key's own.
            let mut tag = [0; TAG];
            key.seal([3; 12], [23, 3, 3, 0, length], &mut record, &mut tag).unwrap();
            record.extend_from_slice(&tag);
            let mut spoilt = record.clone();
            spoilt[2] ^= 1;
            let mut open = |record: &mut [u8]| {
                let sealed = InboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, record);
                decrypter.decrypt(sealed, 0).map(|opened| opened.payload.to_vec())
            };
            assert!(open(&mut spoilt).is_err());
            assert_eq!(open(&mut record).unwrap(), b"hello");
        }
    }

    #[test]
    fn the_makers_offer_the_same() {
        let [one, other] =
            MAKERS.map(|maker| suites_by(maker).iter().map(|suite| format!("{:?}", suite.suite())).collect::<Vec<_>>());
        assert_eq!(one, other);
    }
}
