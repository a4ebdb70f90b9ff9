//! Each client authentication, whole and broken.

use serde_json::json;

use super::*;
use crate::credential::{
    client_auth::{BasicEncoding, IdentityFiles, JWT_BEARER},
    sign::Algorithm,
    step::AudMode,
};

fn auth(keys: &str) -> ClientAuth {
    let keys = format!("grant = \"client_credentials\"\n{CLIENT}\nclient_auth = {{ {keys} }}");
    step(&keys).client.auth
}

#[test]
fn clients_prove_themselves_in_every_way() {
    let secrets = "secret = { env = \"CLIENT_SECRET\" }, next_secret = { env = \"OTHER_SECRET\" }";
    let both = [env("CLIENT_SECRET"), env("OTHER_SECRET")];
    let basic = auth(&format!("method = \"client_secret_basic\", {secrets}"));
    assert!(
        matches!(&basic, ClientAuth::SecretBasic { secrets, encoding: BasicEncoding::Rfc6749 } if *secrets == both)
    );
    assert!(
        matches!(auth(&format!("method = \"client_secret_post\", {secrets}")), ClientAuth::SecretPost { secrets } if secrets == both)
    );
    let ClientAuth::SecretJwt { secrets, algorithm, claims } = auth(&format!(
        "method = \"client_secret_jwt\", {secrets}, alg = \"HS512\", aud_mode = \"endpoint\", lifetime = \"90s\""
    )) else {
        panic!()
    };
    assert_eq!((secrets.as_slice(), algorithm), (&both[..], Algorithm::Hs512));
    assert_eq!((claims.aud, claims.lifetime), (AudMode::Endpoint, Duration::from_secs(90)));

    let ClientAuth::PrivateKeyJwt(made) = auth("method = \"private_key_jwt\", key = { file = \"k\" }") else {
        panic!()
    };
    assert_eq!((&made.aud, made.lifetime, made.keys[0].algorithm), (&AudMode::Issuer, Duration::from_secs(60), None));
    let ClientAuth::PrivateKeyJwt(made) = auth(
        "method = \"private_key_jwt\", key = { file = \"k\" }, next_key = { file = \"l\" }, key_id = \"1\", next_key_id = \"2\", alg = \"EdDSA\", certificate = \"corp.pem\", next_certificate = \"corp.pem\", aud = \"x\", typ = \"client-authentication+jwt\", lifetime = \"5m\", claims = { a = 1 }",
    ) else {
        panic!()
    };
    assert_eq!(made.keys.iter().map(|key| key.key_id.as_deref()).collect::<Vec<_>>(), [Some("1"), Some("2")]);
    assert!(made.keys.iter().all(|key| key.algorithm == Some(Algorithm::EdDsa) && key.certificate.is_some()));
    assert_eq!((made.aud, made.typ.as_deref()), (AudMode::Literal("x".to_owned()), Some("client-authentication+jwt")));
    assert_eq!(made.claims, [("a".to_owned(), json!(1))]);

    let files = "certificate = \"corp.pem\", key = \"corp.key\"";
    let ClientAuth::Tls { identities, self_signed: false, bound: true } = auth(&format!(
        "method = \"tls_client_auth\", {files}, next_certificate = \"corp.pem\", next_key = \"corp.key\""
    )) else {
        panic!()
    };
    assert!(matches!(identities.as_slice(), [IdentityFiles { key, .. }, _] if key.ends_with("corp.key")));
    let own = auth(&format!("method = \"self_signed_tls_client_auth\", {files}, bound = false"));
    assert!(matches!(own, ClientAuth::Tls { self_signed: true, bound: false, .. }));

    let foreign = auth("method = \"assertion\", assertion = { file = \"/var/run/secrets/token\" }");
    assert!(matches!(foreign, ClientAuth::Assertion { assertion_type, .. } if assertion_type == JWT_BEARER));
    let spiffe = "method = \"assertion\", assertion = { file = \"t\" }, type = \"urn:spiffe\"";
    assert!(matches!(auth(spiffe), ClientAuth::Assertion { assertion_type, .. } if assertion_type == "urn:spiffe"));
    let nameless =
        step(&format!("grant = \"client_credentials\"\nauthorization_server = \"corp\"\nclient_auth = {{ {spiffe} }}"));
    assert_eq!(nameless.client.id, "", "the assertion says who it is");
}

#[test]
fn client_authentication_that_makes_no_sense() {
    let auth = |keys: &str| {
        let keys = format!("grant = \"client_credentials\"\n{CLIENT}\nclient_auth = {{ {keys} }}");
        let (line, message, help) = wrong(&keys);
        assert_eq!(line, 4, "{message}");
        (message, help)
    };
    let expect = |message: &str, help: &str| (message.to_owned(), help.to_owned());
    assert_eq!(
        auth("method = \"none\""),
        expect(
            "a client of \"client_credentials\" has to prove who it is",
            "write `method = \"client_secret_basic\"`, or another one but \"none\""
        )
    );
    assert_eq!(
        auth("method = \"client_secret_post\", secret = { env = \"CLIENT_SECRET\" }, encoding = \"raw\""),
        expect(
            "`encoding` doesn't go with the method \"client_secret_post\"",
            "take it out; it goes with `client_secret_basic`"
        )
    );
    let jwt = "method = \"private_key_jwt\", key = { file = \"k\" }";
    assert_eq!(
        auth(&format!("{jwt}, lifetime = \"6m\"")),
        expect("`lifetime` is out of range", "write from \"1s\" to \"5m\"")
    );
    assert_eq!(auth(&format!("{jwt}, alg = \"none\"")).0, "`none` is no algorithm for this");
    assert_eq!(auth(&format!("{jwt}, alg = \"HS256\"")).0, "`HS256` is no algorithm for this");
    assert_eq!(
        auth(&format!("{jwt}, aud = \"x\", aud_mode = \"issuer\"")),
        expect("both `aud` and `aud_mode`", "keep `aud` for an audience of your own, or `aud_mode`")
    );
    assert_eq!(
        auth(&format!("{jwt}, next_key_id = \"2\"")),
        expect("`next_key_id` goes with `next_key`", "add `next_key`, or take it out")
    );
    assert_eq!(
        auth(&format!("{jwt}, claims = {{ exp = 1 }}")),
        expect("`exp` is no further claim", "it follows from other keys: see `lifetime`")
    );
    assert_eq!(
        auth("method = \"tls_client_auth\", certificate = \"corp.pem\", key = { file = \"corp.key\" }"),
        expect("`key` is a table, but wants a path", "write `key = \"client.key\"`: the key has to be in a file here")
    );
    assert_eq!(
        auth("method = \"private_key_jwt\", key = \"-----BEGIN\"").0,
        "`key` holds a secret itself; only where it is may stand here"
    );
}

/// A public client is one where the grant itself proves something.
#[test]
fn who_may_be_a_public_client() {
    for keys in [
        "grant = \"authorization_code\"",
        "grant = \"device_code\"",
        "grant = \"refresh_token\"\nrefresh_token = { file = \"r\" }",
    ] {
        step(&format!("{CLIENT}\n{keys}"));
        let (_, message, _) = wrong(&format!("authorization_server = \"corp\"\n{keys}"));
        assert_eq!(message, "[credentials.c] has no `client_id`");
    }
    for keys in [
        "grant = \"token_exchange\"\nsubject = { file = \"s\", type = \"t\" }",
        "grant = \"jwt_bearer\"\nassertion = { file = \"a\" }",
        "grant = \"saml2_bearer\"\nassertion = { file = \"a\" }",
    ] {
        step(&format!("authorization_server = \"corp\"\n{keys}"));
        let (_, message, _) = wrong(&format!("authorization_server = \"corp\"\n{keys}\n{SECRET}"));
        assert_eq!(message, "[credentials.c] has no `client_id`", "a secret needs a name");
    }
    for grant in ["client_credentials", "ciba"] {
        let more = if grant == "ciba" { "\nlogin_hint = \"a\"\nscopes = [\"openid\"]" } else { "" };
        let (line, message, help) = wrong(&format!("grant = \"{grant}\"\n{CLIENT}{more}"));
        assert_eq!((line, message.as_str()), (0, "[credentials.c] has no `client_auth`"));
        assert!(help.contains("env = \"C_CLIENT_SECRET\""), "{help}");
    }
}
