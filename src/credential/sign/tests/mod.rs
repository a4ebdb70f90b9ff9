//! Keys for the tests: those of the RFCs, and those that aws-lc, rcgen and openssl make.

mod formats;
mod jws;
mod refusals;
mod vectors;

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::LazyLock,
};

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::KeySize,
    signature::{EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{Algorithm, Curve, KeyError, SigningKey};
use crate::primitives::Secret;

/// RFC 7515 §A.2.
const RSA_JWK: &str = include_str!("../testdata/rfc7515_a2.json");
/// RFC 7517 §A.2: the key of RFC 7638 §3.1, whole.
const THUMBPRINT_JWK: &str = include_str!("../testdata/rfc7517_a2.json");
/// RFC 7515 §A.3.
const P256_JWK: &str = include_str!("../testdata/rfc7515_a3.json");
/// RFC 7515 §A.4.
const P521_JWK: &str = include_str!("../testdata/rfc7515_a4.json");
/// RFC 8037 §A.1.
const ED25519_JWK: &str = include_str!("../testdata/rfc8037_a1.json");

/// One RSA key for all tests: making one takes long.
static RSA_PKCS8: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap().as_ref().to_vec()
});

fn parse(text: &str) -> Result<SigningKey, KeyError> {
    parse_for(text, None)
}

fn parse_for(text: &str, algorithm: Option<Algorithm>) -> Result<SigningKey, KeyError> {
    SigningKey::parse(&Secret::new(text.to_owned()), algorithm)
}

fn pem(label: &str, der: &[u8]) -> String {
    let digits = STANDARD.encode(der);
    let lines: Vec<&str> = digits.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A new private key, in PKCS#8.
fn new_ec(curve: Curve) -> Vec<u8> {
    EcdsaKeyPair::generate(curve.signing()).unwrap().to_pkcs8v1().unwrap().as_ref().to_vec()
}

/// A new private key, in PKCS#8 version 2, as aws-lc and rcgen write it.
fn new_ed25519() -> Vec<u8> {
    Ed25519KeyPair::generate().unwrap().to_pkcs8().unwrap().as_ref().to_vec()
}

/// A key for each algorithm.
fn key_for(algorithm: Algorithm) -> SigningKey {
    let der = match algorithm {
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
            return SigningKey::hmac(&Secret::new(SECRET.to_owned()), algorithm).unwrap();
        }
        Algorithm::Es256 => new_ec(Curve::P256),
        Algorithm::Es384 => new_ec(Curve::P384),
        Algorithm::Es512 => new_ec(Curve::P521),
        Algorithm::EdDsa => new_ed25519(),
        Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 => RSA_PKCS8.clone(),
        Algorithm::Ps256 | Algorithm::Ps384 | Algorithm::Ps512 => RSA_PKCS8.clone(),
    };
    parse_for(&pem("PRIVATE KEY", &der), Some(algorithm)).unwrap()
}

/// 64 bytes, enough for HS512.
const SECRET: &str = "a-client-secret-of-64-bytes-0123456789abcdef0123456789abcdef-end";

/// A JWK with one member changed; `Null` leaves it out.
fn with(jwk: &str, member: &str, value: Value) -> String {
    let mut jwk: Value = serde_json::from_str(jwk).unwrap();
    match value {
        Value::Null => jwk.as_object_mut().unwrap().remove(member),
        value => jwk.as_object_mut().unwrap().insert(member.to_owned(), value),
    };
    jwk.to_string()
}

fn openssl(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the openssl command is needed for this test");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
