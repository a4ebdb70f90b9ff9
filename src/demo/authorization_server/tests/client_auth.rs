//! Each way for a client to prove who it is, with what goes through and what doesn't.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use crate::{
    demo::{Repeated, jwt::SigningKey},
    primitives::{Clock, SystemClock},
};

use super::*;

const ID: &str = "signer";
const TYPE: (&str, &str) = ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
const LONG_SECRET: &str = "a secret of more than thirty-two bytes";

/// A client with a key, a secret long enough for HMAC, and what comes with each of the methods.
fn signer(key: &SigningKey, method: AuthMethod) -> Client {
    Client {
        id: ID.to_owned(),
        keys: vec![key.public().clone()],
        secrets: vec![Secret::new(LONG_SECRET.to_owned())],
        auth_methods: vec![method],
        grants: vec![GrantType::ClientCredentials, GrantType::RefreshToken],
        scopes: vec!["read:orders".to_owned()],
        audiences: vec![AUDIENCE.to_owned()],
        default_audience: Some(AUDIENCE.to_owned()),
        ..Client::default()
    }
}

fn key() -> SigningKey {
    SigningKey::generate(SigningAlgorithm::Es256).unwrap()
}

/// What an assertion of [`ID`] says when it is as it should be.
fn claims(world: &World) -> Value {
    let now = SystemClock.unix_seconds();
    let jti = crate::demo::random_id().unwrap();
    json!({ "iss": ID, "sub": ID, "aud": world.issuer(), "iat": now, "exp": now + 60, "jti": jti })
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}

async fn send(world: &World, client: &HttpClient, assertion: &str, more: &[(&str, &str)]) -> Response {
    let params = [&[GRANT, TYPE, ("client_assertion", assertion)], more].concat();
    token_post(world, client, &params).send().await.unwrap()
}

async fn status(world: &World, client: &HttpClient, assertion: &str) -> u16 {
    send(world, client, assertion, &[]).await.status().as_u16()
}

#[tokio::test]
async fn every_algorithm_of_a_registered_key_proves_the_client() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let all = [
        SigningAlgorithm::Es256,
        SigningAlgorithm::Es384,
        SigningAlgorithm::Ed25519,
        SigningAlgorithm::Rs256,
        SigningAlgorithm::Ps256,
    ];
    for algorithm in all {
        let key = SigningKey::generate(algorithm).unwrap();
        server.register(signer(&key, AuthMethod::PrivateKeyJwt));
        for typ in ["JWT", "client-authentication+jwt"] {
            let assertion = key.sign(&key.header(typ), &claims(&world)).unwrap();
            assert_eq!(status(&world, &client, assertion.expose()).await, 200, "{algorithm:?}");
        }
    }
    let seen = server.token_requests().pop().unwrap();
    assert_eq!((seen.client_id.as_deref(), seen.auth_method), (Some(ID), Some(AuthMethod::PrivateKeyJwt)));
    assert_eq!(server.repeated_assertions(), []);
}

#[tokio::test]
async fn every_flaw_of_an_assertion_is_an_invalid_client() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let key = key();
    server.register(signer(&key, AuthMethod::PrivateKeyJwt));
    let good = || claims(&world);
    let sign = |claims: Value| key.sign(&key.header("JWT"), &claims).unwrap().expose().to_owned();
    let now = SystemClock.unix_seconds();
    let other_key = SigningKey::generate(SigningAlgorithm::Es256).unwrap();
    let mut stolen_kid = other_key.header("JWT");
    stolen_kid.kid = key.public().common.key_id.clone();
    let mut critical = key.header("JWT");
    critical.crit = Some(vec!["exp".to_owned()]);
    let mut hmac = Header::new(Algorithm::HS256);
    hmac.kid = key.public().common.key_id.clone();
    let bad = [
        ("aud", sign(with(good(), "aud", json!("https://other.test/")))),
        ("no aud", sign(without(good(), "aud"))),
        ("a list, though of the issuer only", sign(with(good(), "aud", json!([world.issuer()])))),
        ("the token endpoint", sign(with(good(), "aud", json!(server.token_endpoint())))),
        ("lives too long", sign(with(good(), "exp", json!(now + 400)))),
        ("expired", sign(with(good(), "exp", json!(now - 60)))),
        ("no exp", sign(without(good(), "exp"))),
        ("from the future", sign(with(good(), "iat", json!(now + 100)))),
        ("not yet", sign(with(good(), "nbf", json!(now + 100)))),
        ("no jti", sign(without(good(), "jti"))),
        ("a jti too long", sign(with(good(), "jti", json!("x".repeat(65))))),
        ("another key", other_key.sign(&other_key.header("JWT"), &good()).unwrap().expose().to_owned()),
        ("another key with our kid", other_key.sign(&stolen_kid, &good()).unwrap().expose().to_owned()),
        ("type", key.sign(&key.header("at+jwt"), &good()).unwrap().expose().to_owned()),
        ("crit", key.sign(&critical, &good()).unwrap().expose().to_owned()),
        ("HMAC", encode(&hmac, &good(), &EncodingKey::from_secret(LONG_SECRET.as_bytes())).unwrap()),
        ("no signature", sign(good()).rsplit_once('.').unwrap().0.to_owned() + "."),
        ("garbage", "a.b.c".to_owned()),
    ];
    for (what, assertion) in &bad {
        let answer = send(&world, &client, assertion, &[]).await;
        assert_eq!(answer.headers().get(header::WWW_AUTHENTICATE), None);
        assert_eq!(error_of(answer).await, (401, "invalid_client".to_owned()), "{what}");
    }
    let unregistered = with(with(good(), "iss", json!("nobody")), "sub", json!("nobody"));
    assert_eq!(status(&world, &client, &sign(unregistered)).await, 401);
    assert_eq!(server.issued(), [""; 0]);
    assert_eq!(status(&world, &client, &sign(good())).await, 200);
}

#[tokio::test]
async fn an_assertion_that_contradicts_the_request_is_an_invalid_request() {
    let (world, client) = world().await;
    let key = key();
    world.authorization_server().register(signer(&key, AuthMethod::PrivateKeyJwt));
    let sign = || key.sign(&key.header("JWT"), &claims(&world)).unwrap().expose().to_owned();
    let (long, plain) = (with(claims(&world), "more", json!("x".repeat(2048))), sign());
    let long = key.sign(&key.header("JWT"), &long).unwrap();
    let unknown_type = ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer");
    let bad = [
        ("too long", vec![TYPE, ("client_assertion", long.expose())]),
        ("another client_id", vec![TYPE, ("client_assertion", &plain), ("client_id", CLIENT_ID)]),
        ("a secret, too", vec![TYPE, ("client_assertion", &plain), ("client_id", ID), ("client_secret", LONG_SECRET)]),
        ("no type", vec![("client_assertion", &plain)]),
        ("no assertion", vec![TYPE, ("client_id", ID)]),
        ("an unknown type", vec![unknown_type, ("client_assertion", &plain)]),
    ];
    for (what, params) in bad {
        let answer = token_post(&world, &client, &[&[GRANT][..], &params].concat()).send().await.unwrap();
        assert_eq!(error_of(answer).await, (400, "invalid_request".to_owned()), "{what}");
    }
    let header = token_post(&world, &client, &[GRANT, TYPE, ("client_assertion", &plain)]);
    let answer = header.basic_auth(ID, Some(LONG_SECRET)).send().await.unwrap();
    assert_eq!(error_of(answer).await.1, "invalid_request");
    assert_eq!(send(&world, &client, &plain, &[("client_id", ID)]).await.status(), 200);
}

#[tokio::test]
async fn an_assertion_counts_once_even_where_it_was_refused() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let key = key();
    server.register(signer(&key, AuthMethod::PrivateKeyJwt));
    let good = claims(&world);
    let assertion = key.sign(&key.header("JWT"), &with(good.clone(), "aud", json!("https://other.test/"))).unwrap();
    assert_eq!(status(&world, &client, assertion.expose()).await, 401);
    let assertion = key.sign(&key.header("JWT"), &good).unwrap();
    assert_eq!(status(&world, &client, assertion.expose()).await, 401, "its jti was spent");
    let jti = good["jti"].as_str().unwrap().to_owned();
    assert_eq!(server.repeated_assertions(), [Repeated { owner: ID.to_owned(), jti }]);

    server.set_fault(Some(Fault::Disconnect));
    let assertion = key.sign(&key.header("JWT"), &claims(&world)).unwrap();
    let params = [GRANT, TYPE, ("client_assertion", assertion.expose())];
    assert!(token_post(&world, &client, &params).send().await.is_err());
    server.set_fault(None);
    assert_eq!(status(&world, &client, assertion.expose()).await, 200, "a fault spends nothing");
}

#[tokio::test]
async fn the_audience_is_what_the_server_wants() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let key = key();
    server.register(signer(&key, AuthMethod::PrivateKeyJwt));
    let (issuer, endpoint) = (json!(world.issuer()), json!(server.token_endpoint()));
    let both = json!([world.issuer(), server.token_endpoint()]);
    let policies = [
        (AssertionAudience::Issuer, [200, 401, 401]),
        (AssertionAudience::Endpoint, [401, 200, 200]),
        (AssertionAudience::Either, [200, 200, 200]),
    ];
    for (policy, expected) in policies {
        server.adjust(|knobs| knobs.assertion_audience = policy);
        for (audience, expected) in [&issuer, &endpoint, &both].into_iter().zip(expected) {
            let assertion = key.sign(&key.header("JWT"), &with(claims(&world), "aud", audience.clone())).unwrap();
            assert_eq!(status(&world, &client, assertion.expose()).await, expected, "{policy:?} {audience}");
        }
    }
}

#[tokio::test]
async fn a_shared_secret_signs_as_well_if_it_is_long_enough() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    server.register(signer(&key(), AuthMethod::ClientSecretJwt));
    let sign = |secret: &str, algorithm| {
        encode(&Header::new(algorithm), &claims(&world), &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    assert_eq!(status(&world, &client, &sign(LONG_SECRET, Algorithm::HS256)).await, 200);
    let seen = server.token_requests().pop().unwrap();
    assert_eq!(seen.auth_method, Some(AuthMethod::ClientSecretJwt));
    assert_eq!(status(&world, &client, &sign("another secret of thirty-two bytes", Algorithm::HS256)).await, 401);
    assert_eq!(status(&world, &client, &sign(LONG_SECRET, Algorithm::HS512)).await, 401, "RFC 7518 §3.2");
    server.set_client_secrets(ID, vec![Secret::new("short".to_owned())]).unwrap();
    assert_eq!(status(&world, &client, &sign("short", Algorithm::HS256)).await, 401);
}

/// The client's two secrets, or keys: both while they overlap, and only the new one from the
/// moment of the rotation.
#[tokio::test]
async fn keys_and_secrets_overlap_and_are_replaced_at_once() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let (old, new) = (key(), key());
    server.register(signer(&old, AuthMethod::PrivateKeyJwt));
    let proves = async |key: &SigningKey| {
        let assertion = key.sign(&key.header("JWT"), &claims(&world)).unwrap();
        status(&world, &client, assertion.expose()).await == 200
    };
    assert!(proves(&old).await && !proves(&new).await);
    server.set_client_keys(ID, vec![old.public().clone(), new.public().clone()]).unwrap();
    assert!(proves(&old).await && proves(&new).await);
    server.rotate_key(ID, new.public().clone()).unwrap();
    assert!(!proves(&old).await && proves(&new).await);
    let mut unnamed = new.header("JWT");
    unnamed.kid = None;
    let assertion = new.sign(&unnamed, &claims(&world)).unwrap();
    assert_eq!(status(&world, &client, assertion.expose()).await, 200, "without kid every key is tried");

    let next = Secret::new("the next secret".to_owned());
    server.rotate_secret(CLIENT_ID, next.clone()).unwrap();
    assert_eq!(post(&world, &client, &[GRANT, AUD]).await.status(), 401);
    let params = [GRANT, AUD, ("client_id", CLIENT_ID), ("client_secret", next.expose())];
    assert_eq!(token_post(&world, &client, &params).send().await.unwrap().status(), 200);
    assert!(matches!(server.rotate_secret("nobody", next.clone()), Err(Error::UnknownClient)));
}

#[tokio::test]
async fn another_issuer_vouches_for_a_workload() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let (cluster, workload) = ("https://cluster.test", "spiffe://cluster.test/agent");
    let issuers_key = key();
    let identity = ForeignIdentity {
        issuer: cluster.to_owned(),
        subject: workload.to_owned(),
        keys: vec![issuers_key.public().clone()],
        audience: Some("api://exchange".to_owned()),
    };
    server.register(Client { foreign: vec![identity], ..signer(&key(), AuthMethod::ForeignAssertion) });
    let now = SystemClock.unix_seconds();
    // No jti, and an hour long: what a cluster projects into a pod.
    let good = json!({ "iss": cluster, "sub": workload, "aud": ["api://exchange"], "exp": now + 3600 });
    let sign = |claims: &Value| issuers_key.sign(&issuers_key.header("JWT"), claims).unwrap().expose().to_owned();
    let as_client = [("client_id", ID)];
    for _ in 0..2 {
        assert_eq!(send(&world, &client, &sign(&good), &as_client).await.status(), 200, "as often as one likes");
    }
    assert_eq!(server.token_requests().pop().unwrap().auth_method, Some(AuthMethod::ForeignAssertion));
    let spiffe = [
        GRANT,
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"),
        ("client_assertion", &sign(&without(good.clone(), "iss"))),
        ("client_id", ID),
    ];
    assert_eq!(token_post(&world, &client, &spiffe).send().await.unwrap().status(), 200);

    let bad = [
        ("another subject", with(good.clone(), "sub", json!("spiffe://cluster.test/other"))),
        ("another issuer", with(good.clone(), "iss", json!("https://evil.test"))),
        ("another audience", with(good.clone(), "aud", json!(world.issuer()))),
        ("expired", with(good.clone(), "exp", json!(now - 60))),
    ];
    for (what, claims) in bad {
        assert_eq!(error_of(send(&world, &client, &sign(&claims), &as_client).await).await.0, 401, "{what}");
    }
    let forged = key();
    let forged = forged.sign(&forged.header("JWT"), &good).unwrap();
    assert_eq!(send(&world, &client, forged.expose(), &as_client).await.status(), 401);
    assert_eq!(error_of(send(&world, &client, &sign(&good), &[]).await).await, (400, "invalid_request".to_owned()));
}

#[tokio::test]
async fn a_public_client_names_itself_and_may_refresh_only() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    server.register(signer(&key(), AuthMethod::Public));
    let token = server.issue_refresh_token(ID, "read:orders").unwrap();
    let params = [("grant_type", "refresh_token"), ("refresh_token", token.expose()), ("client_id", ID)];
    let answer = token_post(&world, &client, &params).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(server.token_requests()[0].auth_method, Some(AuthMethod::Public));
    let answer = token_post(&world, &client, &[GRANT, ("client_id", ID)]).send().await.unwrap();
    assert_eq!(error_of(answer).await, (400, "unauthorized_client".to_owned()));
    for id in [CLIENT_ID, "nobody"] {
        let answer = token_post(&world, &client, &[GRANT, AUD, ("client_id", id)]).send().await.unwrap();
        assert_eq!(error_of(answer).await, (401, "invalid_client".to_owned()), "{id}");
    }
    let with_secret = [GRANT, ("client_id", ID), ("client_secret", LONG_SECRET)];
    let answer = token_post(&world, &client, &with_secret).send().await.unwrap();
    assert_eq!(error_of(answer).await.0, 401, "another method than the registered one");
}
