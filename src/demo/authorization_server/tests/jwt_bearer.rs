//! Assertions as grants (RFC 7523 §2.1), and ID-JAGs among them.

use crate::{
    demo::jwt::SigningKey,
    primitives::{Clock, SystemClock},
};

use super::*;

const JWT_BEARER: (&str, &str) = ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
const ACCOUNT: &str = "robot@project.test";
const IDP: &str = "https://idp.test";

fn key() -> SigningKey {
    SigningKey::generate(SigningAlgorithm::Es256).unwrap()
}

fn sign(key: &SigningKey, typ: &str, claims: &Value) -> String {
    key.sign(&key.header(typ), claims).unwrap().expose().to_owned()
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn account(key: &SigningKey) -> Client {
    Client {
        id: ACCOUNT.to_owned(),
        keys: vec![key.public().clone()],
        auth_methods: vec![AuthMethod::AssertionGrant],
        grants: vec![GrantType::JwtBearer],
        scopes: vec!["read:orders".to_owned(), "write:orders".to_owned()],
        audiences: vec![AUDIENCE.to_owned()],
        default_audience: Some(AUDIENCE.to_owned()),
        ..Client::default()
    }
}

/// What a service account's assertion says when it is as it should be.
fn claims(world: &World) -> Value {
    let now = SystemClock.unix_seconds();
    let jti = crate::demo::random_id().unwrap();
    json!({ "iss": ACCOUNT, "sub": ACCOUNT, "aud": world.issuer(), "iat": now, "exp": now + 3600, "jti": jti })
}

async fn bare(world: &World, client: &HttpClient, assertion: &str) -> Response {
    token_post(world, client, &[JWT_BEARER, ("assertion", assertion)]).send().await.unwrap()
}

#[tokio::test]
async fn a_service_account_needs_its_assertion_only() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let key = key();
    server.register(account(&key));
    let answer: Value = bare(&world, &client, &sign(&key, "JWT", &claims(&world))).await.json().await.unwrap();
    let granted = claims_of(&answer);
    assert_eq!((granted.sub.as_str(), granted.client_id.as_str()), (ACCOUNT, ACCOUNT));
    assert_eq!(granted.scope, "read:orders write:orders");
    let seen = server.token_requests().pop().unwrap();
    assert_eq!((seen.client_id.as_deref(), seen.auth_method), (Some(ACCOUNT), Some(AuthMethod::AssertionGrant)));

    let delegated = with(with(claims(&world), "sub", json!("alice")), "scope", json!("read:orders admin"));
    let answer: Value = bare(&world, &client, &sign(&key, "JWT", &delegated)).await.json().await.unwrap();
    let granted = claims_of(&answer);
    assert_eq!((granted.sub.as_str(), granted.scope.as_str()), ("alice", "read:orders"), "scope in the assertion");
    let params = [
        JWT_BEARER,
        ("assertion", &sign(&key, "JWT", &with(claims(&world), "scope", json!("read:orders")))),
        ("scope", "write:orders"),
    ];
    let answer = token_post(&world, &client, &params).send().await.unwrap();
    assert_eq!(error_of(answer).await.1, "invalid_scope", "more than the assertion has");
}

#[tokio::test]
async fn every_flaw_of_an_assertion_is_an_invalid_grant() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let (key, other) = (key(), key());
    server.register(account(&key));
    let now = SystemClock.unix_seconds();
    let good = || claims(&world);
    let used = sign(&key, "JWT", &good());
    assert_eq!(bare(&world, &client, &used).await.status(), 200);
    let bad = [
        ("used", used),
        ("audience", sign(&key, "JWT", &with(good(), "aud", json!("https://other.test/")))),
        ("expired", sign(&key, "JWT", &with(good(), "exp", json!(now - 60)))),
        ("lives too long", sign(&key, "JWT", &with(good(), "exp", json!(now + 4000)))),
        ("another key", sign(&other, "JWT", &good())),
        ("type", sign(&key, "at+jwt", &good())),
    ];
    for (what, assertion) in bad {
        assert_eq!(
            error_of(bare(&world, &client, &assertion).await).await,
            (400, "invalid_grant".to_owned()),
            "{what}"
        );
    }
    let stranger = sign(&other, "JWT", &with(good(), "iss", json!("nobody")));
    assert_eq!(error_of(bare(&world, &client, &stranger).await).await, (401, "invalid_client".to_owned()));
    assert_eq!(error_of(bare(&world, &client, "garbage").await).await.0, 401);
    let missing = token_post(&world, &client, &[JWT_BEARER]).send().await.unwrap();
    assert_eq!(error_of(missing).await.1, "invalid_request");
    server.change_client(ACCOUNT, |client| client.auth_methods.clear()).unwrap();
    assert_eq!(
        error_of(bare(&world, &client, &sign(&key, "JWT", &good())).await).await.0,
        401,
        "it has to authenticate"
    );
    assert_eq!(server.repeated_assertions().len(), 1);
}

#[tokio::test]
async fn an_issuer_that_is_trusted_vouches_for_somebody() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let (idp, workload) = (key(), key());
    server.trust(IDP, vec![idp.public().clone()]);
    server.change_client(CLIENT_ID, |client| client.grants.push(GrantType::JwtBearer)).unwrap();
    let ask = async |assertion: &str| post(&world, &client, &[JWT_BEARER, AUD, ("assertion", assertion)]).await;
    let alice = || with(with(claims(&world), "iss", json!(IDP)), "sub", json!("alice"));
    let answer: Value = ask(&sign(&idp, "JWT", &alice())).await.json().await.unwrap();
    assert_eq!((claims_of(&answer).sub.as_str(), claims_of(&answer).client_id.as_str()), ("alice", CLIENT_ID));
    assert_eq!(error_of(ask(&sign(&workload, "JWT", &alice())).await).await.1, "invalid_grant");
    let evil = with(alice(), "iss", json!("https://evil.test"));
    assert_eq!(error_of(ask(&sign(&idp, "JWT", &evil)).await).await.1, "invalid_grant");
    let own = server.sign(&Claims { iss: world.issuer().to_owned(), exp: u64::MAX / 4, ..Claims::default() }).unwrap();
    assert_eq!(error_of(ask(own.expose()).await).await.1, "invalid_grant", "an access token of ours");

    let identity = ForeignIdentity {
        issuer: "https://cluster.test".to_owned(),
        subject: "pod".to_owned(),
        keys: vec![workload.public().clone()],
        audience: None,
    };
    server.register(Client { foreign: vec![identity], ..account(&key()) });
    let pod = with(with(claims(&world), "iss", json!("https://cluster.test")), "sub", json!("pod"));
    let answer: Value = bare(&world, &client, &sign(&workload, "JWT", &pod)).await.json().await.unwrap();
    assert_eq!((claims_of(&answer).sub.as_str(), claims_of(&answer).client_id.as_str()), ("pod", ACCOUNT));
    let other_pod = with(pod, "sub", json!("other"));
    assert_eq!(bare(&world, &client, &sign(&workload, "JWT", &other_pod)).await.status(), 401);
}

#[tokio::test]
async fn an_id_jag_is_good_here_for_its_client_and_more_than_once() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let idp = key();
    server.trust(IDP, vec![idp.public().clone()]);
    server.change_client(CLIENT_ID, |client| client.grants.push(GrantType::JwtBearer)).unwrap();
    let now = SystemClock.unix_seconds();
    let good = json!({
        "iss": IDP, "sub": "alice", "aud": world.issuer(), "client_id": CLIENT_ID, "jti": "one",
        "exp": now + 300, "iat": now, "scope": "read:orders", "resource": AUDIENCE,
    });
    let typ = "oauth-id-jag+jwt";
    let ask = async |assertion: &str| post(&world, &client, &[JWT_BEARER, ("assertion", assertion)]).await;
    let assertion = sign(&idp, typ, &good);
    for _ in 0..2 {
        let answer: Value = ask(&assertion).await.json().await.unwrap();
        let claims = claims_of(&answer);
        assert_eq!(
            (claims.sub.as_str(), claims.scope.as_str(), claims.aud),
            ("alice", "read:orders", vec![AUDIENCE.to_owned()])
        );
        assert_eq!(answer.get("refresh_token"), None);
    }
    assert_eq!(server.repeated_assertions(), []);
    let bad = [
        ("another server", with(good.clone(), "aud", json!("https://other.test/"))),
        ("another client", with(good.clone(), "client_id", json!("another"))),
        ("another resource", with(good.clone(), "resource", json!("https://other.test/"))),
        ("expired", with(good.clone(), "exp", json!(now - 60))),
        ("another issuer", with(good.clone(), "iss", json!("https://evil.test"))),
    ];
    for (what, claims) in bad {
        assert_eq!(error_of(ask(&sign(&idp, typ, &claims)).await).await, (400, "invalid_grant".to_owned()), "{what}");
    }

    // Who shows nothing but the ID-JAG hasn't said who it is.
    server.register(account(&idp));
    let own = with(with(good, "iss", json!(ACCOUNT)), "client_id", json!(ACCOUNT));
    assert_eq!(error_of(bare(&world, &client, &sign(&idp, typ, &own)).await).await.1, "invalid_grant");
}
