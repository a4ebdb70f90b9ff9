//! What a signature costs: a DPoP proof for each request, an assertion for each token.

#![expect(clippy::expect_used, reason = "a benchmark that can't be set up has nothing to measure")]

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use cupbearer::credential::sign::{Algorithm, Header, SigningKey, unique_id};
use divan::Bencher;
use serde::Serialize;

/// Counts allocations, too.
#[global_allocator]
static ALLOCATOR: divan::AllocProfiler<mimalloc::MiMalloc> = divan::AllocProfiler::new(mimalloc::MiMalloc);

fn main() {
    divan::main();
}

#[derive(Serialize)]
struct Proof<'a> {
    jti: String,
    htm: &'a str,
    htu: &'a str,
    iat: u64,
    ath: &'a str,
}

/// RFC 9449 §4.2, with the public key in its header.
#[divan::bench]
fn dpop_proof_es256(bencher: Bencher<'_, '_>) {
    let key = SigningKey::generate().expect("a key");
    let header = Header { jwk: true, ..Header::of_type("dpop+jwt") };
    bencher.bench(|| {
        let claims = Proof {
            jti: unique_id().expect("random bytes"),
            htm: "POST",
            htu: "https://api.example.com/v1/orders",
            iat: 1_800_000_000,
            ath: "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo",
        };
        key.sign(&header, &claims)
    });
}

#[derive(Serialize)]
struct Assertion<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: String,
    iat: u64,
    exp: u64,
}

/// RFC 7523 §3, with a key of 2048 bits: one token request.
#[divan::bench(args = [Algorithm::Rs256, Algorithm::Ps256])]
fn assertion_rsa(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).expect("its DER");
    let key = SigningKey::from_pkcs8(der.as_ref(), Some(algorithm)).expect("the same key");
    let header = Header { kid: Some("key-1".to_owned()), ..Header::of_type("JWT") };
    bencher.bench(|| {
        let claims = Assertion {
            iss: "client",
            sub: "client",
            aud: "https://as.example.com/",
            jti: unique_id().expect("random bytes"),
            iat: 1_800_000_000,
            exp: 1_800_000_060,
        };
        key.sign(&header, &claims)
    });
}
