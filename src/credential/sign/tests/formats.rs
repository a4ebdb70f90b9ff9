//! Every way in which a usable key may be written.

use aws_lc_rs::{
    encoding::AsBigEndian,
    signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use serde_json::json;

use super::{
    ED25519_JWK, P256_JWK, P521_JWK, RSA_JWK, RSA_PKCS8, jws::verify, new_ec, new_ed25519, openssl, parse, parse_for,
    pem, with,
};
use crate::credential::sign::{Algorithm, Curve, Header, KeyError, SigningKey, Thumbprints};

fn signs(key: &SigningKey) -> bool {
    let jws = key.sign(&Header::default(), &json!({ "iss": "client" })).unwrap();
    verify(key.algorithm(), jws.expose(), key.public_jwk())
}

/// The same key in two forms has the same public half.
fn assert_same(one: &SigningKey, other: &SigningKey) {
    assert_eq!(one.public_jwk(), other.public_jwk());
    assert!(signs(one) && signs(other));
}

#[test]
fn what_openssl_writes() {
    let rsa = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let curve = |name| ["genpkey", "-algorithm", "EC", "-pkeyopt", name];
    for (arguments, algorithm) in [
        (&rsa[..], Algorithm::Rs256),
        (&curve("ec_paramgen_curve:P-256"), Algorithm::Es256),
        (&curve("ec_paramgen_curve:P-384"), Algorithm::Es384),
        (&curve("ec_paramgen_curve:P-521"), Algorithm::Es512),
    ] {
        let pkcs8 = openssl(arguments, "");
        let traditional = openssl(&["pkey", "-traditional"], &pkcs8);
        assert!(traditional.contains("RSA PRIVATE KEY") || traditional.contains("EC PRIVATE KEY"));
        let key = parse(&pkcs8).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        assert_same(&key, &parse(&traditional).unwrap());
    }
    let ed25519 = parse(&openssl(&["genpkey", "-algorithm", "ED25519"], "")).unwrap();
    assert_eq!(ed25519.algorithm(), Algorithm::EdDsa);
    assert!(signs(&ed25519));
}

/// `openssl ecparam -genkey` puts the curve into a section of its own before the key.
#[test]
fn curve_parameters_may_stand_before_the_key() {
    let text = openssl(&["ecparam", "-genkey", "-name", "secp384r1"], "");
    assert!(text.starts_with("-----BEGIN EC PARAMETERS-----"));
    assert_eq!(parse(&text).unwrap().algorithm(), Algorithm::Es384);
}

/// RFC 5915 §3: both the curve and the public key may be left out.
#[test]
fn a_sec1_key_may_be_nothing_but_its_number() {
    for curve in Curve::ALL {
        let pair = EcdsaKeyPair::generate(curve.signing()).unwrap();
        let number = pair.private_key().as_be_bytes().unwrap();
        let length = u8::try_from(curve.bytes()).unwrap();
        let der = [&[0x30, length + 5, 0x02, 1, 1, 0x04, length], number.as_ref()].concat();
        let key = parse(&pem("EC PRIVATE KEY", &der)).unwrap();
        assert_same(&key, &parse(&pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref())).unwrap());
    }
}

/// rcgen and aws-lc write version 2; not every library reads it.
#[test]
fn ed25519_in_both_versions_of_pkcs8() {
    let pair = Ed25519KeyPair::generate().unwrap();
    let (v1, v2) = (pair.to_pkcs8v1().unwrap(), pair.to_pkcs8().unwrap());
    assert_ne!(v1.as_ref(), v2.as_ref());
    assert_same(&parse(&pem("PRIVATE KEY", v1.as_ref())).unwrap(), &parse(&pem("PRIVATE KEY", v2.as_ref())).unwrap());
}

#[test]
fn what_rcgen_writes() {
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
        assert!(signs(&parse(&pair.serialize_pem()).unwrap()));
    }
}

#[test]
fn an_rsa_key_signs_with_what_is_asked_for() {
    for algorithm in [Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256, Algorithm::Ps384, Algorithm::Ps512] {
        let key = parse_for(&pem("PRIVATE KEY", &RSA_PKCS8), Some(algorithm)).unwrap();
        assert_eq!(key.algorithm(), algorithm);
        assert!(signs(&key));
    }
}

#[test]
fn an_rsa_key_of_an_uncommon_size() {
    for bits in ["rsa_keygen_bits:2050", "rsa_keygen_bits:3072"] {
        assert!(signs(&parse(&openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", bits], "")).unwrap()));
    }
}

/// How a PEM comes out of an environment variable, a Windows editor, a PKCS#12 export.
#[test]
fn line_breaks_and_notes_are_forgiven() {
    let text = pem("PRIVATE KEY", &RSA_PKCS8);
    let key = parse(&text).unwrap();
    for written in [
        text.replace('\n', "\r\n"),
        text.replace('\n', "\\n"),
        text.replace('\n', "\\r\\n"),
        text.replace('\n', " "),
        text.replace('\n', ""),
        format!("\u{feff}\n  Bag Attributes\n    friendlyName: x\n{text}\n# the end\n"),
    ] {
        assert_same(&key, &parse(&written).unwrap());
    }
}

#[test]
fn a_certificate_may_stand_beside_the_key() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["client".to_owned()]).unwrap().self_signed(&pair).unwrap().pem();
    let key = pair.serialize_pem();
    for text in [format!("{certificate}{key}"), format!("{key}{certificate}")] {
        assert!(signs(&parse(&text).unwrap()));
        assert_eq!(Thumbprints::parse(&text).unwrap(), Thumbprints::parse(&certificate).unwrap());
    }
}

#[test]
fn a_jwk_is_the_same_key_as_its_pkcs8() {
    for jwk in [RSA_JWK, P256_JWK, P521_JWK, ED25519_JWK] {
        let key = parse(jwk).unwrap();
        let der = key.to_pkcs8().unwrap();
        assert_same(&key, &parse(&pem("PRIVATE KEY", &der)).unwrap());
        assert_eq!(openssl(&["pkey", "-noout", "-check"], &pem("PRIVATE KEY", &der)).trim(), "Key is valid");
    }
}

#[test]
fn a_jwk_may_say_which_algorithm_and_use() {
    let ps256 = with(RSA_JWK, "alg", json!("PS256"));
    assert_eq!(parse(&ps256).unwrap().algorithm(), Algorithm::Ps256);
    assert_eq!(parse_for(&ps256, Some(Algorithm::Ps256)).unwrap().algorithm(), Algorithm::Ps256);
    assert_eq!(parse_for(RSA_JWK, Some(Algorithm::Ps512)).unwrap().algorithm(), Algorithm::Ps512);
    assert_eq!(parse(&with(ED25519_JWK, "alg", json!("Ed25519"))).unwrap().algorithm(), Algorithm::EdDsa);
    assert!(signs(&parse(&with(P256_JWK, "use", json!("sig"))).unwrap()));
    assert!(signs(&parse(&with(P256_JWK, "key_ops", json!(["sign", "verify"]))).unwrap()));
    let named = with(P256_JWK, "kid", json!("a \"name\""));
    assert_eq!(parse(&named).unwrap().kid(), Some("a \"name\""));
}

/// RFC 7518 §6.2.1.2 wants the zeros; some writers drop them, others write a sign byte.
#[test]
fn numbers_of_a_jwk_with_and_without_zeros() {
    let pair = (0..20_000)
        .map(|_| EcdsaKeyPair::generate(Curve::P256.signing()).unwrap())
        .find(|pair| pair.public_key().as_ref()[1] == 0)
        .expect("one of 256 keys has such an x");
    let number = pair.private_key().as_be_bytes().unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk = |x: &[u8], y: &[u8]| {
        json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y), "d": encode(number.as_ref()) }).to_string()
    };
    let key = parse(&jwk(x, y)).unwrap();
    assert_same(&key, &parse(&jwk(&x[1..], &[&[0], y].concat())).unwrap());
    // The coordinate is whole again where we write it.
    assert!(key.public_jwk().unwrap().contains(&format!(r#""x":"{}""#, encode(x))));

    let n: serde_json::Value = serde_json::from_str(RSA_JWK).unwrap();
    let n = URL_SAFE_NO_PAD.decode(n["n"].as_str().unwrap()).unwrap();
    let signed = with(RSA_JWK, "n", json!(encode(&[vec![0], n].concat())));
    assert_same(&parse(RSA_JWK).unwrap(), &parse(&signed).unwrap());
}

#[test]
fn a_stored_key_is_the_same_afterwards() {
    let key = SigningKey::generate().unwrap();
    assert_eq!(key.algorithm(), Algorithm::Es256);
    let der = key.to_pkcs8().unwrap();
    assert_same(&key, &SigningKey::from_pkcs8(&der, None).unwrap());
    assert_ne!(key.thumbprint(), SigningKey::generate().unwrap().thumbprint());
    for der in [new_ec(Curve::P384), new_ec(Curve::P521), new_ed25519(), RSA_PKCS8.clone()] {
        let key = SigningKey::from_pkcs8(&der, None).unwrap();
        assert_same(&key, &SigningKey::from_pkcs8(&key.to_pkcs8().unwrap(), None).unwrap());
    }
}

/// As openssl computes them; Entra wants one of the two.
#[test]
fn thumbprints_of_a_certificate() {
    let pairs = [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519].map(|kind| rcgen::KeyPair::generate_for(kind).unwrap());
    let rsa = rcgen::KeyPair::try_from(RSA_PKCS8.as_slice()).unwrap();
    for pair in pairs.into_iter().chain([rsa]) {
        let text = CertificateParams::new(vec!["client".to_owned()]).unwrap().self_signed(&pair).unwrap().pem();
        let thumbprints = Thumbprints::parse(&text).unwrap();
        for (hash, ours) in [("-sha1", &thumbprints.x5t), ("-sha256", &thumbprints.x5t_s256)] {
            let line = openssl(&["x509", "-noout", "-fingerprint", hash], &text);
            let digits = line.trim().split_once('=').unwrap().1.split(':');
            let digest: Vec<u8> = digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
            assert_eq!(*ours, URL_SAFE_NO_PAD.encode(digest));
        }
        assert!(thumbprints.check(&parse(&pair.serialize_pem()).unwrap()).is_ok());
        assert!(matches!(thumbprints.check(&parse(P256_JWK).unwrap()), Err(KeyError::OtherCertificate)));
    }
    for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &pem("PRIVATE KEY", &RSA_PKCS8)]
    {
        assert!(matches!(Thumbprints::parse(text), Err(KeyError::NotACertificate)));
    }
}
