//! What is refused, with which words, and that no word of the key is among them.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    ED25519_JWK, P256_JWK, RSA_JWK, RSA_PKCS8, SECRET, new_ec, new_ed25519, openssl, parse, parse_for, pem, with,
};
use crate::{
    credential::sign::{Algorithm, Curve, KeyError, KeyKind, SigningKey, Thumbprints},
    primitives::Secret,
};

/// The error's words and its debug text, with its causes.
fn words(error: &KeyError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(&format!(" {next} {next:?}"));
        cause = next.source();
    }
    text
}

fn refused(text: &str) -> KeyError {
    let error = parse(text).unwrap_err();
    // No run of the key's own digits is in the message.
    for run in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').filter(|run| run.len() > 20) {
        assert!(!words(&error).contains(run), "{}", words(&error));
    }
    error
}

macro_rules! assert_refused {
    ($text:expr, $pattern:pat) => {
        let error = refused($text);
        assert!(matches!(error, $pattern), "{error:?}");
    };
}

#[test]
fn what_is_no_private_key() {
    assert_refused!("", KeyError::Empty);
    assert_refused!(" \n", KeyError::Empty);
    assert_refused!("hunter2", KeyError::NotAKey);
    assert_refused!("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQDc", KeyError::NotAKey);
    assert_refused!(&openssl(&["pkey", "-pubout"], &pem("PRIVATE KEY", &RSA_PKCS8)), KeyError::PublicKey);
    assert_refused!(&openssl(&["rsa", "-RSAPublicKey_out"], &pem("PRIVATE KEY", &RSA_PKCS8)), KeyError::PublicKey);
    let certificate = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap().cert.pem();
    assert_refused!(&certificate, KeyError::Certificate);
    assert_refused!(&pem("OPENSSH PRIVATE KEY", b"openssh-key-v1"), KeyError::OpenSsh);
    assert_refused!(&pem("X509 CRL", b"anything at all"), KeyError::UnsupportedKey);
    let key = pem("PRIVATE KEY", &new_ec(Curve::P256));
    assert_refused!(&format!("{key}{key}"), KeyError::SeveralKeys);
}

#[test]
fn encrypted_keys() {
    let key = pem("PRIVATE KEY", &RSA_PKCS8);
    let pkcs8 = openssl(&["pkcs8", "-topk8", "-passout", "pass:hunter2"], &key);
    assert!(pkcs8.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    assert_refused!(&pkcs8, KeyError::Encrypted);
    let traditional = openssl(&["rsa", "-traditional", "-aes128", "-passout", "pass:hunter2"], &key);
    assert!(traditional.contains("Proc-Type: 4,ENCRYPTED"));
    assert_refused!(&traditional, KeyError::Encrypted);
    assert!(refused(&traditional).to_string().contains("openssl pkey -in FILE"));
}

#[test]
fn kinds_that_cannot_be_used() {
    for arguments in [
        &["genpkey", "-algorithm", "X25519"][..],
        &["genpkey", "-algorithm", "ED448"],
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"],
        &["ecparam", "-genkey", "-name", "secp256k1", "-noout"],
    ] {
        assert_refused!(&openssl(arguments, ""), KeyError::UnsupportedKey);
    }
    let pss = ["genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"];
    assert_refused!(&openssl(&pss, ""), KeyError::PssOnly);
}

#[test]
fn an_rsa_key_below_2048_bits_or_above_8192() {
    let pkcs8 = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"], "");
    assert_refused!(&pkcs8, KeyError::RsaSize { bits: 1024 });
    assert_refused!(&openssl(&["rsa", "-traditional"], &pkcs8), KeyError::RsaSize { bits: 1024 });
    let odd = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2047"], "");
    assert_refused!(&odd, KeyError::RsaSize { bits: 2047 });
    let huge = URL_SAFE_NO_PAD.encode(vec![0xff; 1025]);
    assert_refused!(&with(RSA_JWK, "n", json!(huge)), KeyError::RsaSize { bits: 8200 });
    assert!(refused(&pkcs8).to_string().contains("1024 bits, 2048 to 8192"));
}

#[test]
fn a_pem_that_is_not_whole() {
    let key = pem("PRIVATE KEY", &RSA_PKCS8);
    assert_refused!(&key[..key.len() / 2], KeyError::Pem);
    assert_refused!(&key.replace("END PRIVATE", "END PUBLIC"), KeyError::Pem);
    assert_refused!(&key.replacen('\n', "\n*", 1), KeyError::Pem);
    assert_refused!(&pem("PRIVATE KEY", &RSA_PKCS8[..RSA_PKCS8.len() / 2]), KeyError::Der);
    assert_refused!(&pem("RSA PRIVATE KEY", &RSA_PKCS8), KeyError::Der);
    // Whole, but with another private number.
    let mut der = RSA_PKCS8.clone();
    *der.last_mut().unwrap() ^= 1;
    assert_refused!(&pem("PRIVATE KEY", &der), KeyError::Rejected(_));
}

#[test]
fn jwks_that_are_not_a_private_key() {
    assert_refused!("{", KeyError::Json);
    assert_refused!("{\"kty\":\"EC\",\"d\":17}", KeyError::Json);
    assert_refused!("{}", KeyError::JwkMissing("kty"));
    assert_refused!(&with(P256_JWK, "d", Value::Null), KeyError::PublicKey);
    assert_refused!(&with(RSA_JWK, "d", Value::Null), KeyError::PublicKey);
    assert_refused!(&with(ED25519_JWK, "d", Value::Null), KeyError::PublicKey);
    assert_refused!(&format!("{{\"keys\":[{P256_JWK}]}}"), KeyError::JwkSet);
    assert_refused!(
        &json!({ "kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ" }).to_string(),
        KeyError::JwkSymmetric
    );
    assert_refused!(&with(P256_JWK, "kty", json!("AKP")), KeyError::UnsupportedKey);
    assert_refused!(&with(P256_JWK, "crv", json!("secp256k1")), KeyError::UnsupportedKey);
    assert_refused!(&with(ED25519_JWK, "crv", json!("X25519")), KeyError::UnsupportedKey);
    assert_refused!(&with(RSA_JWK, "oth", json!([])), KeyError::UnsupportedKey);
    let google = json!({ "type": "service_account", "private_key": pem("PRIVATE KEY", &RSA_PKCS8) });
    assert_refused!(&google.to_string(), KeyError::ServiceAccount);
}

#[test]
fn jwks_with_a_wrong_member() {
    for member in ["n", "e", "p", "q", "dp", "dq", "qi"] {
        let error = refused(&with(RSA_JWK, member, Value::Null));
        assert!(matches!(error, KeyError::JwkMissing(name) if name == member), "{member}: {error:?}");
        let error = refused(&with(RSA_JWK, member, json!("AQ==")));
        assert!(matches!(error, KeyError::JwkMember(name) if name == member), "{member}: {error:?}");
    }
    for member in ["d", "p", "q", "dp", "dq", "qi"] {
        let error = refused(&with(RSA_JWK, member, json!("AQAB")));
        assert!(matches!(error, KeyError::Rejected(_)), "{member}: {error:?}");
    }
    for (jwk, length) in [(P256_JWK, 33), (ED25519_JWK, 31)] {
        let long = URL_SAFE_NO_PAD.encode(vec![7; length]);
        assert_refused!(&with(jwk, "d", json!(long)), KeyError::JwkMember("d"));
    }
    // Another key's public half.
    let mine: Value = serde_json::from_str(SigningKey::generate().unwrap().public_jwk().unwrap()).unwrap();
    let other = with(&with(P256_JWK, "x", mine["x"].clone()), "y", mine["y"].clone());
    assert_refused!(&other, KeyError::Rejected(_));
    assert_refused!(&with(ED25519_JWK, "x", mine["x"].clone()), KeyError::Rejected(_));
}

#[test]
fn jwks_for_something_else() {
    assert_refused!(&with(P256_JWK, "use", json!("enc")), KeyError::JwkPurpose);
    assert_refused!(&with(P256_JWK, "key_ops", json!(["verify"])), KeyError::JwkPurpose);
    assert_refused!(&with(RSA_JWK, "alg", json!("RSA-OAEP")), KeyError::JwkPurpose);
    assert_refused!(&with(P256_JWK, "alg", json!("ES384")), KeyError::Mismatch { algorithm: Algorithm::Es384, .. });
    let error = parse_for(&with(RSA_JWK, "alg", json!("RS256")), Some(Algorithm::Ps256)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the JWK says it is for RS256, but PS256 is asked for: make them the same, or leave one of them out"
    );
}

#[test]
fn an_algorithm_of_another_key() {
    let keys = [
        (RSA_PKCS8.clone(), KeyKind::Rsa),
        (new_ec(Curve::P256), KeyKind::Ec(Curve::P256)),
        (new_ec(Curve::P384), KeyKind::Ec(Curve::P384)),
        (new_ec(Curve::P521), KeyKind::Ec(Curve::P521)),
        (new_ed25519(), KeyKind::Ed25519),
    ];
    let mut accepted = 0;
    for (der, kind) in keys {
        for algorithm in Algorithm::ALL {
            match parse_for(&pem("PRIVATE KEY", &der), Some(algorithm)) {
                Ok(key) => {
                    accepted += 1;
                    assert_eq!(key.algorithm(), algorithm);
                }
                Err(error) => {
                    assert!(matches!(error, KeyError::Mismatch { key, .. } if key == kind), "{error:?}");
                }
            }
        }
    }
    // Six for RSA, one for each of the others.
    assert_eq!(accepted, 10);
    let error = parse_for(&pem("PRIVATE KEY", &new_ec(Curve::P256)), Some(Algorithm::Rs256)).unwrap_err();
    assert_eq!(error.to_string(), "RS256 doesn't go with a P-256 key: write ES256, or leave the algorithm out");
}

#[test]
fn algorithms_are_read_to_the_letter_and_none_is_none() {
    for algorithm in Algorithm::ALL {
        assert_eq!(Algorithm::parse(algorithm.as_str()).unwrap(), algorithm);
        assert!(KeyError::UnknownAlgorithm.to_string().contains(algorithm.as_str()));
    }
    assert_eq!(Algorithm::parse("Ed25519").unwrap(), Algorithm::EdDsa);
    for name in ["none", "None", "", "rs256", "ES256K", "RS256 ", "HS1"] {
        assert!(matches!(Algorithm::parse(name), Err(KeyError::UnknownAlgorithm)), "{name}");
    }
}

/// RFC 7518 §3.2.
#[test]
fn a_secret_shorter_than_the_hash() {
    for (algorithm, needed) in [(Algorithm::Hs256, 32), (Algorithm::Hs384, 48), (Algorithm::Hs512, 64)] {
        let secret = |length: usize| Secret::new(SECRET[..length].to_owned());
        assert!(SigningKey::hmac(&secret(needed), algorithm).is_ok());
        let error = SigningKey::hmac(&secret(needed - 1), algorithm).unwrap_err();
        assert!(matches!(error, KeyError::ShortSecret { needed: found, .. } if found == needed));
        assert!(!words(&error).contains(&SECRET[..needed - 1]));
    }
    for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| !algorithm.is_symmetric()) {
        let error = SigningKey::hmac(&Secret::new(SECRET.to_owned()), algorithm).unwrap_err();
        assert!(matches!(error, KeyError::NeedsPrivateKey(_)));
    }
}

const CANARY: &str = "canary7f3aXq";

/// The canary wherever an error might quote the text.
#[test]
fn no_error_repeats_what_it_read() {
    let der = STANDARD.encode(RSA_PKCS8.as_slice());
    let mut texts = vec![
        CANARY.to_owned(),
        format!("-----BEGIN {CANARY}"),
        format!("-----BEGIN {CANARY}-----\nAAAA\n-----END {CANARY}-----"),
        format!("-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----"),
        format!("-----BEGIN PRIVATE KEY-----\n{CANARY}*{der}\n-----END PRIVATE KEY-----"),
        format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END {CANARY}-----"),
        format!("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: {CANARY}\n\n{der}\n-----END RSA PRIVATE KEY-----"),
        format!("{{\"{CANARY}"),
        format!("{{\"kty\":{{\"{CANARY}\":1}}}}"),
        format!("{{\"kty\":\"EC\",\"d\":\"{CANARY}\\u0041\"}}"),
        format!("{{\"kty\":\"EC\",\"d\":\"{CANARY}\",\"d\":\"{CANARY}\"}}"),
    ];
    for jwk in [RSA_JWK, P256_JWK, ED25519_JWK] {
        let members: Value = serde_json::from_str(jwk).unwrap();
        let members = members.as_object().unwrap().keys().map(String::as_str);
        for member in members.chain(["alg", "use"]) {
            texts.push(with(jwk, member, json!(CANARY)));
            texts.push(with(jwk, member, json!([CANARY])));
        }
        texts.push(with(jwk, "key_ops", json!([CANARY])));
        texts.push(with(jwk, "key_ops", json!(CANARY)));
    }
    assert!(texts.len() > 60, "{}", texts.len());
    for text in texts {
        let error = parse(&text).expect_err(&text);
        assert!(!words(&error).contains(CANARY), "{text}: {}", words(&error));
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), label in "(RSA |EC |ENCRYPTED |)P[A-Z ]*KEY|CERTIFICATE") {
        let _ = parse(&text);
        let _ = parse(&format!("{{{text}"));
        let _ = parse(&format!("-----BEGIN {label}-----{text}-----END {label}-----"));
        let _ = Thumbprints::parse(&format!("-----BEGIN {label}-----{text}-----END {label}-----"));
    }

    #[test]
    fn no_der_makes_it_panic(der in prop::collection::vec(any::<u8>(), 0..80)) {
        for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
            prop_assert!(parse(&pem(label, &der)).is_err());
        }
    }

    /// A real key with bytes changed: either still a key, or an error; never a panic.
    #[test]
    fn no_damaged_key_makes_it_panic(which in 0..4, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let (mut der, label) = match which {
            0 => (RSA_PKCS8.clone(), "PRIVATE KEY"),
            1 => (new_ec(Curve::P256), "PRIVATE KEY"),
            2 => (new_ed25519(), "PRIVATE KEY"),
            _ => (RSA_PKCS8[26..].to_vec(), "RSA PRIVATE KEY"),
        };
        let at = at.index(der.len());
        der[at] = byte;
        let _ = parse(&pem(label, &der));
        der.truncate(cut.index(der.len()));
        let _ = parse(&pem(label, &der));
    }

    #[test]
    fn no_damaged_jwk_makes_it_panic(which in 0..3_usize, at in any::<prop::sample::Index>(), byte in 32_u8..127) {
        let jwk = [RSA_JWK, P256_JWK, ED25519_JWK][which];
        let at = at.index(jwk.len());
        let mut text = jwk.as_bytes().to_vec();
        text[at] = byte;
        let _ = parse(std::str::from_utf8(&text).unwrap());
    }
}
