//! Reading a token request, the client behind it, and what is answered.

use super::*;

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
