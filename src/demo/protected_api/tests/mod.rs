//! The API over real sockets and TLS: which tokens it takes, and what it says to the others.

mod dpop;

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Version, header};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use crate::{
    demo::{
        World, WorldSettings,
        jwt::{ACCESS_TOKEN_TYPE, Claims, SigningAlgorithm, SigningKey},
        testing::{builder, client, fetch_token},
        world::{AUDIENCE, CLIENT_ID},
    },
    primitives::SystemClock,
};

use super::*;

async fn world() -> (World, Client) {
    let world = World::start(WorldSettings::default()).await.unwrap();
    let client = client(&world);
    (world, client)
}

fn claims(world: &World) -> Claims {
    let now = SystemClock.unix_seconds();
    Claims {
        iss: world.issuer().to_owned(),
        sub: CLIENT_ID.to_owned(),
        aud: vec![AUDIENCE.to_owned()],
        client_id: CLIENT_ID.to_owned(),
        scope: READ_ORDERS.to_owned(),
        iat: now,
        nbf: None,
        exp: now + 600,
        jti: "a-token".to_owned(),
        ..Claims::default()
    }
}

async fn whoami(world: &World, client: &Client, token: &str) -> Response {
    client.get(world.api_url("/v1/whoami")).bearer_auth(token).send().await.unwrap()
}

fn challenge(answer: &Response) -> String {
    answer.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_good_token_is_let_in_and_recorded() {
    let (world, client) = world().await;
    let token = fetch_token(&world, &client, None).await;
    let answer: Value = whoami(&world, &client, &token).await.json().await.unwrap();
    assert_eq!((&answer["client_id"], &answer["aud"]), (&json!(CLIENT_ID), &json!(AUDIENCE)));

    let orders = client.get(world.api_url("/v1/orders?page=1")).bearer_auth(&token).send().await.unwrap();
    assert_eq!(orders.json::<Value>().await.unwrap().as_array().unwrap().len(), 3);
    let seen = world.api().seen().pop().unwrap();
    assert_eq!((seen.path.as_str(), seen.version), ("/v1/orders?page=1", Version::HTTP_2));
    assert_eq!(seen.authority, Some(world.api_authority().to_string()));
    assert_eq!(seen.claims.as_ref().unwrap().sub, CLIENT_ID);
    assert_eq!(seen.headers[header::AUTHORIZATION], format!("Bearer {token}"));
    assert!(!format!("{seen:?} {world:?}").contains(&token), "debug shows the token");
}

#[tokio::test]
async fn every_bad_token_is_an_invalid_token() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let good = claims(&world);
    let sign = |claims: &Claims| server.sign(claims).unwrap().expose().to_owned();
    assert_eq!(whoami(&world, &client, &sign(&good)).await.status(), 200);

    let foreign = SigningKey::generate(SigningAlgorithm::Es256).unwrap();
    let genuine = sign(&good);
    let (signed, signature) = genuine.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let widened = Claims { scope: "everything".to_owned(), ..good.clone() };
    let widened = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&widened).unwrap());
    let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&good).unwrap());
    let kid = jsonwebtoken::decode_header(&genuine).unwrap().kid.unwrap();
    let none = URL_SAFE_NO_PAD.encode(json!({ "alg": "none", "typ": "at+jwt", "kid": kid }).to_string());
    let mut hmac = Header::new(Algorithm::HS256);
    (hmac.typ, hmac.kid) = (Some("at+jwt".to_owned()), Some(kid.clone()));

    let now = good.iat;
    let bad = [
        ("audience", sign(&Claims { aud: vec!["https://other.test/".to_owned()], ..good.clone() })),
        ("issuer", sign(&Claims { iss: world.issuer().trim_end_matches('/').to_owned(), ..good.clone() })),
        ("expired", sign(&Claims { exp: now, ..good.clone() })),
        ("not yet", sign(&Claims { nbf: Some(now + 600), ..good.clone() })),
        ("foreign key", foreign.sign(&foreign.header(ACCESS_TOKEN_TYPE), &good).unwrap().expose().to_owned()),
        ("changed claims", format!("{header}.{widened}.{signature}")),
        ("no signature", format!("{signed}.")),
        ("alg none", format!("{none}.{payload}.")),
        ("alg none, signed", format!("{none}.{payload}.{signature}")),
        ("symmetric", encode(&hmac, &good, &EncodingKey::from_secret(kid.as_bytes())).unwrap()),
        ("garbage", "garbage".to_owned()),
    ];
    for (what, token) in bad {
        let answer = whoami(&world, &client, &token).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{what}");
        assert!(challenge(&answer).contains(r#"error="invalid_token""#), "{what}");
        let seen = world.api().seen().pop().unwrap();
        assert_eq!((seen.claims, seen.refusal), (None, Some("invalid_token")), "{what}");
    }
}

/// An ID token, say, signed with the same key for the same audience (RFC 9068 §5).
#[tokio::test]
async fn a_token_of_another_type_is_refused() {
    let (world, client) = world().await;
    let token = fetch_token(&world, &client, None).await;
    let (header, rest) = token.split_once('.').unwrap();
    let header = String::from_utf8(URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    let other = URL_SAFE_NO_PAD.encode(header.replace("at+jwt", "JWT"));
    let answer = whoami(&world, &client, &format!("{other}.{rest}")).await;
    assert!(challenge(&answer).contains("isn't an access token"));
}

/// RFC 6750 §3.1: who shows no token is told no error code.
#[tokio::test]
async fn no_token_and_two_tokens_are_refused() {
    let (world, client) = world().await;
    let url = world.api_url("/v1/orders");
    let requests =
        [client.get(&url), client.get(&url).basic_auth("a", Some("b")), client.get(format!("{url}?access_token=x"))];
    for request in requests {
        let answer = request.send().await.unwrap();
        assert_eq!((answer.status().as_u16(), challenge(&answer).as_str()), (401, r#"Bearer realm="orders""#));
    }
    let token = fetch_token(&world, &client, None).await;
    let answer = client.get(&url).bearer_auth(&token).bearer_auth(&token).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(world.api().seen_count(), 4);
}

#[tokio::test]
async fn each_route_has_its_scope() {
    let (world, client) = world().await;
    let token = fetch_token(&world, &client, Some(READ_ORDERS)).await;
    let url = world.api_url("/v1/orders");
    assert_eq!(client.get(&url).bearer_auth(&token).send().await.unwrap().status(), 200);
    let answer = client.post(&url).bearer_auth(&token).body("{}").send().await.unwrap();
    assert_eq!(answer.status(), 403);
    let challenge = challenge(&answer);
    assert!(challenge.contains(r#"error="insufficient_scope""#) && challenge.contains(r#"scope="write:orders""#));
    assert_eq!(world.api().applied(), 0);
    assert!(world.api().seen().pop().unwrap().claims.is_some());
}

#[tokio::test]
async fn a_rejected_post_is_not_applied_and_the_next_one_is() {
    let (world, client) = world().await;
    let token = fetch_token(&world, &client, None).await;
    let post = || client.post(world.api_url("/v1/orders")).bearer_auth(&token).body(vec![b'x'; 300_000]).send();
    world.api().reject_next(1);
    let answer = post().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert!(challenge(&answer).contains("invalid_token"));
    assert_eq!(world.api().applied(), 0);
    let answer = post().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()[header::LOCATION], "/v1/orders/1");
    assert_eq!(world.api().applied(), 1);
    for seen in world.api().seen() {
        assert_eq!((seen.body_length, seen.body_ended), (300_000, true));
    }
}

#[tokio::test]
async fn a_revoked_token_stays_refused_and_a_new_one_works() {
    let (world, client) = world().await;
    let token = fetch_token(&world, &client, None).await;
    assert_eq!(whoami(&world, &client, &token).await.status(), 200);
    world.revoke_issued_tokens();
    for _ in 0..2 {
        assert_eq!(whoami(&world, &client, &token).await.status(), 401);
    }
    let token = fetch_token(&world, &client, None).await;
    assert_eq!(whoami(&world, &client, &token).await.status(), 200);
    world.api().reject_all_issued_before(SystemClock.now() + Duration::from_secs(60));
    assert_eq!(whoami(&world, &client, &token).await.status(), 401);
    world.api().reject_all_issued_before(SystemTime::UNIX_EPOCH);
    assert_eq!(whoami(&world, &client, &token).await.status(), 200);
}

#[tokio::test]
async fn bodies_stream_both_ways_on_both_versions() {
    let (world, h2) = world().await;
    let h1 = builder(&world).http1_only().build().unwrap();
    let token = fetch_token(&world, &h2, None).await;
    for (client, version) in [(h2, Version::HTTP_2), (h1, Version::HTTP_11)] {
        let answer = client.get(world.api_url("/v1/bytes/1000000")).bearer_auth(&token).send().await.unwrap();
        assert_eq!((answer.version(), answer.content_length()), (version, Some(1_000_000)));
        assert_eq!(answer.bytes().await.unwrap().len(), 1_000_000);

        let body = (0..=255).cycle().take(200_000).collect::<Vec<u8>>();
        let sink = client.post(world.api_url("/v1/sink")).bearer_auth(&token).body(body.clone()).send().await.unwrap();
        assert_eq!(sink.json::<Value>().await.unwrap()["bytes"], 200_000);
        let echo = client.post(world.api_url("/v1/echo")).bearer_auth(&token).body(body.clone()).send().await.unwrap();
        assert!(echo.bytes().await.unwrap() == body);

        let url = world.api_url("/v1/stream?count=2&every_ms=1");
        let stream = client.get(url).bearer_auth(&token).send().await.unwrap();
        assert_eq!(stream.headers()[header::CONTENT_TYPE], "text/event-stream");
        let events = stream.text().await.unwrap();
        assert_eq!(events, "event: tick\nid: 1\ndata: 1\n\nevent: tick\nid: 2\ndata: 2\n\n");
        assert_eq!(world.api().seen().pop().unwrap().version, version);
    }
    let connections: std::collections::BTreeSet<_> = world.api().seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections.len(), 2, "one connection a version");
}

#[tokio::test]
async fn an_endless_stream_ends_with_the_server() {
    let (world, client) = world().await;
    let token = fetch_token(&world, &client, None).await;
    let mut answer = client.get(world.api_url("/v1/stream?every_ms=5")).bearer_auth(&token).send().await.unwrap();
    assert!(answer.chunk().await.unwrap().unwrap().starts_with(b"event: tick"));
    world.stop_api();
    while let Ok(Some(_)) = answer.chunk().await {}
    assert!(client.get(world.api_url("/v1/whoami")).send().await.is_err());
}

#[tokio::test]
async fn without_the_keys_nobody_is_let_in() {
    let (world, client) = world().await;
    let token = fetch_token(&world, &client, None).await;
    world.stop_authorization_server();
    let gone = world.authorization_server_address();
    let refused = async { while tokio::net::TcpStream::connect(gone).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
    assert_eq!(whoami(&world, &client, &token).await.status(), 503);
}

#[tokio::test]
async fn unknown_orders_and_paths_are_not_found() {
    let (world, client) = world().await;
    let token = fetch_token(&world, &client, None).await;
    let status = async |path: &str| client.get(world.api_url(path)).bearer_auth(&token).send().await.unwrap().status();
    assert_eq!(status("/v1/orders/1001").await, 200);
    assert_eq!(status("/v1/orders/9").await, 404);
    assert_eq!(status("/v2").await, 404);
}
