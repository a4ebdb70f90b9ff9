//! What is signed: each algorithm against another implementation, the header to the letter.

use std::collections::HashSet;

use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, crypto, jwk::Jwk};
use proptest::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use super::{P256_JWK, SECRET, key_for, parse};
use crate::{
    credential::sign::{Algorithm, Header, KeyError, SigningKey, unique_id},
    primitives::Secret,
};

/// Whether another implementation takes the signature; `public` is `None` for a secret.
pub(super) fn verify(algorithm: Algorithm, jws: &str, public: Option<&str>) -> bool {
    let (message, signature) = jws.rsplit_once('.').unwrap();
    if algorithm == Algorithm::Es512 {
        let jwk: Value = serde_json::from_str(public.unwrap()).unwrap();
        let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        return UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point).verify(message.as_bytes(), &signature).is_ok();
    }
    let key = match public {
        Some(jwk) => DecodingKey::from_jwk(&serde_json::from_str::<Jwk>(jwk).unwrap()).unwrap(),
        None => DecodingKey::from_secret(SECRET.as_bytes()),
    };
    crypto::verify(signature, message.as_bytes(), &key, algorithm.as_str().parse().unwrap()).unwrap()
}

fn decoded(part: &str) -> String {
    String::from_utf8(URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// Header, claims.
fn parts(jws: &Secret) -> (String, String) {
    let parts: Vec<&str> = jws.expose().split('.').collect();
    assert_eq!(parts.len(), 3);
    (decoded(parts[0]), decoded(parts[1]))
}

#[test]
fn every_algorithm_is_verified_by_another_implementation() {
    for algorithm in Algorithm::ALL {
        let key = key_for(algorithm);
        let claims = json!({ "iss": "client", "aud": "https://as.example/", "exp": 1_900_000_000 });
        let jws = key.sign(&Header::of_type("JWT"), &claims).unwrap();
        assert!(verify(algorithm, jws.expose(), key.public_jwk()), "{algorithm}");
        assert_eq!(parts(&jws).0, format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#));
        assert_eq!(serde_json::from_str::<Value>(&parts(&jws).1).unwrap(), claims);
        let (message, signature) = jws.expose().rsplit_once('.').unwrap();
        assert!(!verify(algorithm, &format!("{message}x.{signature}"), key.public_jwk()), "{algorithm}");
    }
}

#[test]
fn the_thumbprint_is_the_one_that_others_compute() {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
        let key = key_for(algorithm);
        let jwk: Jwk = serde_json::from_str(key.public_jwk().unwrap()).unwrap();
        let theirs = jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256);
        assert_eq!(key.thumbprint().unwrap(), theirs.unwrap(), "{algorithm}");
    }
}

#[test]
fn the_header_has_what_was_asked_for_and_nothing_else() {
    let key = parse(P256_JWK).unwrap();
    let header = Header {
        typ: Some("client-authentication+jwt".into()),
        kid: Some("a \"quoted\"\nname".to_owned()),
        x5t: Some("sha1".to_owned()),
        x5t_s256: Some("sha256".to_owned()),
        jwk: false,
        extra: vec![("iss".to_owned(), "client".to_owned())],
    };
    assert_eq!(
        parts(&key.sign(&header, &json!({})).unwrap()).0,
        r#"{"alg":"ES256","typ":"client-authentication+jwt","kid":"a \"quoted\"\nname","x5t":"sha1","x5t#S256":"sha256","iss":"client"}"#
    );
    assert_eq!(parts(&key.sign(&Header::default(), &json!({})).unwrap()), (r#"{"alg":"ES256"}"#.into(), "{}".into()));
}

/// RFC 9449 §4.2: the public key, and nothing private.
#[test]
fn a_dpop_proof_shows_the_public_key() {
    let key = parse(P256_JWK).unwrap();
    let header = Header { jwk: true, ..Header::of_type("dpop+jwt") };
    assert_eq!(
        parts(&key.sign(&header, &json!({ "htm": "GET" })).unwrap()).0,
        "{\"alg\":\"ES256\",\"typ\":\"dpop+jwt\",\"jwk\":{\"crv\":\"P-256\",\"kty\":\"EC\",\
         \"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}}"
    );
}

#[test]
fn a_secret_is_never_shown_as_a_key() {
    let key = key_for(Algorithm::Hs256);
    assert_eq!((key.public_jwk(), key.thumbprint()), (None, None));
    let header = Header { jwk: true, ..Header::default() };
    assert!(matches!(key.sign(&header, &json!({})), Err(KeyError::Symmetric)));
    assert!(matches!(key.to_pkcs8(), Err(KeyError::Symmetric)));
    assert_eq!(format!("{key:?}"), "SigningKey { algorithm: Hs256, thumbprint: None, .. }");
}

#[test]
fn debug_shows_algorithm_and_thumbprint_only() {
    let key = parse(super::ED25519_JWK).unwrap();
    assert_eq!(
        format!("{key:?}"),
        r#"SigningKey { algorithm: EdDsa, thumbprint: Some("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"), .. }"#
    );
}

/// A second `alg` would leave it to the server which one it believes.
#[test]
fn extra_members_replace_nothing() {
    let key = parse(P256_JWK).unwrap();
    for name in ["alg", "typ", "kid", "x5t", "x5t#S256", "jwk", "crit", "b64"] {
        let header = Header { extra: vec![(name.to_owned(), "none".to_owned())], ..Header::default() };
        assert!(matches!(key.sign(&header, &json!({})), Err(KeyError::ReservedHeader(found)) if found == name));
    }
    let twice = vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
    let header = Header { extra: twice, ..Header::default() };
    assert!(matches!(key.sign(&header, &json!({})), Err(KeyError::ReservedHeader(_))));
}

#[test]
fn claims_are_an_object() {
    #[derive(Serialize)]
    struct Claims<'a> {
        iss: &'a str,
    }
    let key = parse(P256_JWK).unwrap();
    assert_eq!(parts(&key.sign(&Header::default(), &Claims { iss: "a" }).unwrap()).1, r#"{"iss":"a"}"#);
    for claims in [json!(null), json!("text"), json!([1]), json!(1)] {
        assert!(matches!(key.sign(&Header::default(), &claims), Err(KeyError::Claims)), "{claims}");
    }
}

#[test]
fn ids_are_short_and_never_the_same() {
    let ids: HashSet<String> = (0..1000).map(|_| unique_id().unwrap()).collect();
    assert_eq!(ids.len(), 1000);
    assert!(ids.iter().all(|id| URL_SAFE_NO_PAD.decode(id).unwrap().len() == 16));
}

#[test]
fn one_key_signs_for_many_threads() {
    for algorithm in [Algorithm::Rs256, Algorithm::Ps256, Algorithm::Es256, Algorithm::EdDsa, Algorithm::Hs256] {
        let key = key_for(algorithm);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let key: &SigningKey = &key;
                scope.spawn(move || {
                    for _ in 0..8 {
                        let jws = key.sign(&Header::default(), &json!({ "jti": thread })).unwrap();
                        assert!(verify(algorithm, jws.expose(), key.public_jwk()));
                    }
                });
            }
        });
    }
}

proptest! {
    /// Whatever a file puts into `kid` and further members, the header is one JSON object
    /// that says so and still has our `alg`.
    #[test]
    fn any_text_stays_inside_its_member(kid in ".*", name in "[^a-z]+", value in ".*") {
        let header = Header { kid: Some(kid.clone()), extra: vec![(name.clone(), value.clone())], ..Header::default() };
        let jws = parse(P256_JWK).unwrap().sign(&header, &json!({})).unwrap();
        let read: Value = serde_json::from_str(&parts(&jws).0).unwrap();
        prop_assert_eq!(read, json!({ "alg": "ES256", "kid": kid, name: value }));
    }
}
