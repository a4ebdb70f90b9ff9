//! The token endpoint, over real sockets and TLS, rule by rule.

use std::time::Duration;

use http::header;
use reqwest::{Client as HttpClient, Response};
use serde_json::{Map, Value, json};

use crate::{
    demo::{
        World, WorldSettings,
        jwt::SigningAlgorithm,
        testing::{client, token_post},
        world::{AUDIENCE, CLIENT_ID},
    },
    primitives::Secret,
};

use super::*;

const ODD_SECRET: &str = "p%+ ä:&=";
const GRANT: (&str, &str) = ("grant_type", "client_credentials");
const AUD: (&str, &str) = ("audience", AUDIENCE);

async fn world() -> (World, HttpClient) {
    let odd = Client {
        id: "odd client".to_owned(),
        secrets: vec![Secret::new(ODD_SECRET.to_owned())],
        auth_methods: vec![AuthMethod::ClientSecretBasic],
        grants: vec![GrantType::ClientCredentials],
        scopes: vec!["a".to_owned(), "b".to_owned()],
        audiences: vec!["https://one.test".to_owned(), "https://two.test".to_owned()],
        default_audience: Some("https://one.test".to_owned()),
    };
    let world = World::start(WorldSettings { clients: vec![odd], ..WorldSettings::default() }).await.unwrap();
    let client = client(&world);
    (world, client)
}

/// Sends `params` with the demo client's id and secret in the body.
async fn post(world: &World, client: &HttpClient, params: &[(&str, &str)]) -> Response {
    let secret = world.client_secret().expose();
    let all = [params, &[("client_id", CLIENT_ID), ("client_secret", secret)]].concat();
    token_post(world, client, &all).send().await.unwrap()
}

async fn error_of(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    let body: Value = answer.json().await.unwrap();
    (status, body["error"].as_str().unwrap().to_owned())
}

fn claims_of(answer: &Value) -> Claims {
    jsonwebtoken::dangerous::insecure_decode(answer["access_token"].as_str().unwrap()).unwrap().claims
}

#[tokio::test]
async fn client_credentials_give_a_jwt_that_is_not_stored() {
    let (world, client) = world().await;
    let answer = post(&world, &client, &[GRANT, AUD, ("scope", "read:orders")]).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["token_type"], "Bearer");
    assert_eq!(answer["expires_in"], 3600);
    assert_eq!(answer["scope"], "read:orders");
    assert_eq!(answer.get("refresh_token"), None);

    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(jsonwebtoken::decode_header(token).unwrap().typ.as_deref(), Some("at+jwt"));
    let claims = claims_of(&answer);
    assert_eq!((claims.iss.as_str(), claims.aud), (world.issuer(), vec![AUDIENCE.to_owned()]));
    assert_eq!((claims.sub.as_str(), claims.client_id.as_str()), (CLIENT_ID, CLIENT_ID));
    assert!(claims.exp - claims.iat >= 3600, "it lives as long as `expires_in` says");
    assert_eq!(world.authorization_server().issued(), [claims.jti]);
}

#[tokio::test]
async fn a_json_body_is_as_good_as_a_form() {
    let (world, client) = world().await;
    let body = json!({
        "grant_type": "client_credentials", "audience": AUDIENCE,
        "client_id": CLIENT_ID, "client_secret": world.client_secret().expose(),
    });
    let answer = client.post(world.authorization_server().token_endpoint()).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let seen = world.authorization_server().token_requests();
    assert_eq!(seen.last().unwrap().format, Some(BodyFormat::Json));
    assert_eq!(seen.last().unwrap().auth_method, Some(AuthMethod::ClientSecretPost));
}

/// Standards A3: an id and a secret that every encoding must get right.
#[tokio::test]
async fn basic_is_read_in_both_encodings() {
    let (world, client) = world().await;
    let spellings = [
        ("odd client".to_owned(), ODD_SECRET.to_owned(), BasicEncoding::Raw),
        ("odd+client".to_owned(), "p%25%2B+%C3%A4%3A%26%3D".to_owned(), BasicEncoding::Rfc6749),
    ];
    for (id, secret, encoding) in spellings {
        let answer = token_post(&world, &client, &[GRANT]).basic_auth(id, Some(secret)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{encoding:?}");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!((answer["scope"].as_str(), claims_of(&answer).aud.len()), (Some("a b"), 1));
        let seen = world.authorization_server().token_requests();
        let seen = seen.last().unwrap();
        assert_eq!(seen.client_id.as_deref(), Some("odd client"));
        assert_eq!((seen.auth_method, seen.basic_encoding), (Some(AuthMethod::ClientSecretBasic), Some(encoding)));
    }
}

/// RFC 6749 §5.2: `WWW-Authenticate` for those who tried `Authorization`.
#[tokio::test]
async fn a_client_that_proves_nothing_is_refused() {
    let (world, client) = world().await;
    let params = [GRANT, AUD];
    for (id, secret) in [(CLIENT_ID, "wrong"), (CLIENT_ID, ""), ("nobody", world.client_secret().expose())] {
        let answer = token_post(&world, &client, &params).basic_auth(id, Some(secret)).send().await.unwrap();
        assert!(answer.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Basic "), "{id}");
        assert_eq!(error_of(answer).await, (401, "invalid_client".to_owned()), "{id}");

        let all = [&params[..], &[("client_id", id), ("client_secret", secret)]].concat();
        let answer = token_post(&world, &client, &all).send().await.unwrap();
        assert_eq!(answer.headers().get(header::WWW_AUTHENTICATE), None, "{id}");
        assert_eq!(error_of(answer).await, (401, "invalid_client".to_owned()), "{id}");
    }
    let all = [GRANT, ("client_id", "odd client"), ("client_secret", ODD_SECRET)];
    let answer = token_post(&world, &client, &all).send().await.unwrap();
    assert_eq!(error_of(answer).await.1, "invalid_client", "a method that isn't registered");
    assert_eq!(world.authorization_server().issued(), [""; 0]);
}

#[tokio::test]
async fn each_mistake_has_its_error() {
    let (world, client) = world().await;
    let refused = [
        (&[AUD][..], 400, "invalid_request"),
        (&[("grant_type", "password"), AUD], 400, "unsupported_grant_type"),
        (&[("grant_type", "refresh_token")], 400, "invalid_request"),
        (&[("grant_type", "refresh_token"), ("refresh_token", "made-up")], 400, "invalid_grant"),
        (&[GRANT], 403, "access_denied"),
        (&[GRANT, ("audience", "https://other.test/")], 403, "access_denied"),
        (&[GRANT, AUD, ("audience", "https://other.test/")], 403, "access_denied"),
        (&[GRANT, ("resource", "https://other.test/")], 400, "invalid_target"),
        (&[GRANT, AUD, ("scope", "read:orders delete:orders")], 400, "invalid_scope"),
        (&[GRANT, AUD, GRANT], 400, "invalid_request"),
    ];
    for (params, status, error) in refused {
        let answer = post(&world, &client, params).await;
        assert_eq!(error_of(answer).await, (status, error.to_owned()), "{params:?}");
    }
    let allowed = [&[GRANT, ("resource", AUDIENCE)][..], &[GRANT, AUD, ("resource", "https://ignored.test/")]];
    for params in allowed {
        assert_eq!(post(&world, &client, params).await.status(), 200, "{params:?}");
    }

    let odd = |grant| token_post(&world, &client, &[("grant_type", grant)]).basic_auth("odd client", Some(ODD_SECRET));
    let answer = odd("refresh_token").send().await.unwrap();
    assert_eq!(error_of(answer).await, (400, "unauthorized_client".to_owned()));
}

#[tokio::test]
async fn only_a_plain_post_is_read() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let endpoint = server.token_endpoint();
    let answer = client.get(endpoint).send().await.unwrap();
    assert_eq!(answer.headers()[header::ALLOW], "POST");
    assert_eq!(error_of(answer).await.0, 405);

    let both = [GRANT, AUD, ("client_id", CLIENT_ID), ("client_secret", world.client_secret().expose())];
    let bad = [
        token_post(&world, &client, &both).basic_auth(CLIENT_ID, Some(world.client_secret().expose())),
        token_post(&world, &client, &[GRANT, AUD, ("client_id", "another")]).basic_auth(CLIENT_ID, Some("x")),
        client.post(format!("{endpoint}?client_secret=x")).form(&both),
        client.post(endpoint).body("grant_type=client_credentials"),
        client.post(endpoint).header(header::CONTENT_TYPE, "application/json").body("[]"),
        client.post(endpoint).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body("a=%zz"),
        token_post(&world, &client, &[GRANT, AUD, ("filler", &"x".repeat(70_000))]),
    ];
    for (index, request) in bad.into_iter().enumerate() {
        let answer = request.send().await.unwrap();
        assert_eq!(error_of(answer).await, (400, "invalid_request".to_owned()), "{index}");
    }
    assert_eq!(server.token_request_count(), 8, "refused requests are recorded too");
}

#[tokio::test]
async fn a_refresh_token_rotates_and_its_reuse_ends_the_family() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let first = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    let refresh = |token: String, scope: &'static str| {
        let (world, client) = (&world, &client);
        async move {
            let params = [("grant_type", "refresh_token"), ("refresh_token", token.as_str()), ("scope", scope)];
            post(world, client, &params).await
        }
    };
    let wider = refresh(first.expose().to_owned(), "read:orders write:orders").await;
    assert_eq!(error_of(wider).await, (400, "invalid_scope".to_owned()));

    let answer: Value = refresh(first.expose().to_owned(), "").await.json().await.unwrap();
    assert_eq!(answer["scope"], "read:orders");
    assert_eq!(claims_of(&answer).aud, [AUDIENCE]);
    let second = answer["refresh_token"].as_str().unwrap().to_owned();
    assert_ne!(second, first.expose());
    let answer: Value = refresh(second.clone(), "").await.json().await.unwrap();
    let third = answer["refresh_token"].as_str().unwrap().to_owned();

    for token in [second, third] {
        assert_eq!(error_of(refresh(token, "").await).await, (400, "invalid_grant".to_owned()));
    }

    let fresh = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    server.revoke_refresh_tokens(CLIENT_ID);
    assert_eq!(error_of(refresh(fresh.expose().to_owned(), "").await).await.1, "invalid_grant");

    server.set_rotation(Rotation::Off);
    let fixed = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    for _ in 0..2 {
        let answer: Value = refresh(fixed.expose().to_owned(), "").await.json().await.unwrap();
        assert_eq!(answer.get("refresh_token"), None);
        assert!(answer["access_token"].is_string());
    }
    assert!(matches!(server.issue_refresh_token("nobody", ""), Err(Error::UnknownClient)));
}

#[tokio::test]
async fn a_rotated_client_secret_replaces_the_old_one() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let new = server.rotate_client_secret(CLIENT_ID).unwrap();
    assert_eq!(post(&world, &client, &[GRANT, AUD]).await.status(), 401);
    let basic =
        |secret: &Secret| token_post(&world, &client, &[GRANT, AUD]).basic_auth(CLIENT_ID, Some(secret.expose()));
    assert_eq!(basic(&new).send().await.unwrap().status(), 200);
    server.set_client_secrets(CLIENT_ID, vec![new.clone(), world.client_secret().clone()]).unwrap();
    assert_eq!(basic(&new).send().await.unwrap().status(), 200);
    assert_eq!(post(&world, &client, &[GRANT, AUD]).await.status(), 200);
}

#[tokio::test]
async fn records_and_debug_hold_no_secret() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let refresh_token = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    let params = [("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose())];
    let answer: Value = post(&world, &client, &params).await.json().await.unwrap();
    let token = answer["access_token"].as_str().unwrap();
    let debug = format!("{world:?} {:?}", server.token_requests());
    let next = answer["refresh_token"].as_str().unwrap();
    for secret in [world.client_secret().expose(), refresh_token.expose(), next, token] {
        assert!(!debug.contains(secret));
    }
    let seen = server.token_requests().pop().unwrap();
    assert_eq!(seen.param("refresh_token").unwrap(), refresh_token.fingerprint().to_string());
    assert_eq!(seen.param("grant_type"), Some("refresh_token"));
}

#[tokio::test]
async fn metadata_is_at_every_well_known_place() {
    let settings = WorldSettings { issuer_path: "/tenant".to_owned(), ..WorldSettings::default() };
    let world = World::start(settings).await.unwrap();
    let client = client(&world);
    let origin = world.issuer().strip_suffix("/tenant").unwrap();
    let paths = [
        "/.well-known/oauth-authorization-server/tenant",
        "/.well-known/openid-configuration/tenant",
        "/tenant/.well-known/openid-configuration",
    ];
    for path in paths {
        let document: Value = client.get(format!("{origin}{path}")).send().await.unwrap().json().await.unwrap();
        assert_eq!(document["issuer"], world.issuer(), "{path}");
        assert_eq!(document["token_endpoint"], format!("{origin}/oauth/token"), "{path}");
        assert_eq!(document["jwks_uri"], world.authorization_server().jwks_uri(), "{path}");
    }
    let stray = client.get(format!("{origin}/.well-known/oauth-authorization-server")).send().await.unwrap();
    assert_eq!(stray.status(), 404);

    let mix_up = Map::from_iter([("issuer".to_owned(), json!("https://evil.test"))]);
    world.authorization_server().set_discovery_fault(Some(Fault::Override(mix_up)));
    let url = format!("{origin}{}", paths[0]);
    let document: Value = client.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!(document["issuer"], "https://evil.test");
}

#[tokio::test]
async fn faults_that_answer_do_so_as_told_and_end() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    server.set_fault_for(1, Fault::RetryAfter { status: 429, seconds: 7 });
    let answer = post(&world, &client, &[GRANT, AUD]).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()[header::RETRY_AFTER]), (429, &"7".parse().unwrap()));
    assert_eq!(post(&world, &client, &[GRANT, AUD]).await.status(), 200);

    server.set_fault(Some(Fault::Redirect { status: 307, location: "https://evil.test/".to_owned() }));
    let answer = post(&world, &client, &[GRANT, AUD]).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()[header::LOCATION]),
        (307, &"https://evil.test/".parse().unwrap())
    );

    server.set_fault(Some(Fault::Status { status: 500, body: "{}".to_owned() }));
    assert_eq!(post(&world, &client, &[GRANT, AUD]).await.status(), 500);
    server.set_fault(Some(Fault::RawBody("{\"a\":".to_owned())));
    assert_eq!(post(&world, &client, &[GRANT, AUD]).await.text().await.unwrap(), "{\"a\":");
    server.set_fault(Some(Fault::Garbage));
    let answer = post(&world, &client, &[GRANT, AUD]).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.json::<Value>().await.is_err());

    let members = [("token_type", json!("mac")), ("expires_in", Value::Null), ("access_token", json!("a\r\nb: c"))];
    let members = members.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
    server.set_fault(Some(Fault::Override(members)));
    let answer: Value = post(&world, &client, &[GRANT, AUD]).await.json().await.unwrap();
    assert_eq!((&answer["token_type"], answer.get("expires_in")), (&json!("mac"), None));
    assert_eq!(answer["access_token"], "a\r\nb: c");

    server.set_fault(None);
    assert_eq!(post(&world, &client, &[GRANT, AUD]).await.status(), 200);
    assert_eq!(server.token_request_count(), 8, "faulty answers are counted too");
}

#[tokio::test]
async fn a_lost_answer_has_had_its_effect_and_a_broken_connection_none() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let token = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    let secret = world.client_secret().expose();
    let params = [
        ("grant_type", "refresh_token"),
        ("refresh_token", token.expose()),
        ("client_id", CLIENT_ID),
        ("client_secret", secret),
    ];
    server.set_fault(Some(Fault::Disconnect));
    assert!(token_post(&world, &client, &params).send().await.is_err());
    server.set_fault(Some(Fault::LoseAnswer));
    assert!(token_post(&world, &client, &params).send().await.is_err());
    server.set_fault(None);
    let answer = token_post(&world, &client, &params).send().await.unwrap();
    assert_eq!(error_of(answer).await.1, "invalid_grant", "the first use was the one whose answer got lost");
}

#[tokio::test]
async fn held_requests_pile_up_until_they_are_let_go() {
    let (world, client) = world().await;
    let world = std::sync::Arc::new(world);
    let server = world.authorization_server().clone();
    server.set_fault(Some(Fault::Hold));
    let requests: Vec<_> = (0..20)
        .map(|_| {
            let (world, client) = (std::sync::Arc::clone(&world), client.clone());
            tokio::spawn(async move { post(&world, &client, &[GRANT, AUD]).await.status() })
        })
        .collect();
    server.wait_for_token_requests(20).await;
    assert_eq!(server.issued().len(), 0);
    server.set_fault(None);
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_stopped_server_cuts_what_hangs_and_accepts_nothing() {
    let (world, client) = world().await;
    let server = world.authorization_server().clone();
    server.set_fault(Some(Fault::Hang));
    let hanging = async {
        let all = [GRANT, AUD, ("client_id", CLIENT_ID), ("client_secret", "x")];
        token_post(&world, &client, &all).send().await
    };
    let stopping = async {
        server.wait_for_token_requests(1).await;
        world.stop_authorization_server();
    };
    let (answer, ()) = tokio::join!(hanging, stopping);
    assert!(answer.is_err());
    assert!(tokio::net::TcpStream::connect(world.authorization_server_address()).await.is_err());
}

#[tokio::test]
async fn rs256_tokens_verify_and_lifetimes_round_up() {
    let settings = WorldSettings { algorithm: SigningAlgorithm::Rs256, ..WorldSettings::default() };
    let world = World::start(settings).await.unwrap();
    let client = client(&world);
    world.authorization_server().set_token_lifetime(Duration::from_millis(1500));
    let answer: Value = post(&world, &client, &[GRANT, AUD]).await.json().await.unwrap();
    assert_eq!(answer["expires_in"], 2);
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(jsonwebtoken::decode_header(token).unwrap().alg, jsonwebtoken::Algorithm::RS256);
    let answer = client.get(world.api_url("/v1/whoami")).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn an_issuer_must_be_an_https_url() {
    for issuer_path in ["/a?b=c", "/ "] {
        let settings = WorldSettings { issuer_path: issuer_path.to_owned(), ..WorldSettings::default() };
        assert!(matches!(World::start(settings).await, Err(Error::Issuer)), "{issuer_path}");
    }
}
