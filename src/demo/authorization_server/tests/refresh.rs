//! Refresh tokens over the wire: rotation, leeway, reuse, narrowing, and what the journal says of it.

use super::*;

async fn refresh(world: &World, client: &HttpClient, token: &str, more: &[(&str, &str)]) -> Response {
    let params = [&[("grant_type", "refresh_token"), ("refresh_token", token)], more].concat();
    post(world, client, &params).await
}

/// The new refresh token.
async fn next(answer: Response) -> String {
    let answer: Value = answer.json().await.unwrap();
    answer["refresh_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_refresh_token_rotates_and_its_reuse_ends_the_family() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let first = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    let answer = refresh(&world, &client, first.expose(), &[]).await;
    let answer: Value = answer.json().await.unwrap();
    assert_eq!((&answer["scope"], claims_of(&answer).aud), (&json!("read:orders"), vec![AUDIENCE.to_owned()]));
    let second = answer["refresh_token"].as_str().unwrap().to_owned();
    assert_ne!(second, first.expose());
    let third = next(refresh(&world, &client, &second, &[]).await).await;
    assert_eq!(server.revoked_families(), []);

    for token in [second, third] {
        let answer = refresh(&world, &client, &token, &[]).await;
        assert_eq!(error_of(answer).await, (400, "invalid_grant".to_owned()));
    }
    assert_eq!(server.revoked_families(), [RevokedFamily { client_id: CLIENT_ID.to_owned(), cause: Cause::Reuse }]);
}

#[tokio::test]
async fn the_leeway_takes_the_token_before_once_more() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    server.set_rotation(Rotation::On { leeway: Duration::from_secs(3600) });
    let first = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    let lost = next(refresh(&world, &client, first.expose(), &[]).await).await;
    let second = next(refresh(&world, &client, first.expose(), &[]).await).await;
    assert_ne!(lost, second);
    next(refresh(&world, &client, &second, &[]).await).await;
    assert_eq!(server.revoked_families(), []);
    let answer = refresh(&world, &client, first.expose(), &[]).await;
    assert_eq!(error_of(answer).await.1, "invalid_grant", "older than the one before");
    assert_eq!(server.revoked_families().len(), 1);
}

#[tokio::test]
async fn withdrawn_and_unknown_tokens_are_refused_and_fixed_ones_stay() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let fresh = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    server.revoke_refresh_tokens(CLIENT_ID);
    assert_eq!(error_of(refresh(&world, &client, fresh.expose(), &[]).await).await.1, "invalid_grant");
    assert_eq!(server.revoked_families()[0].cause, Cause::Told);

    server.set_rotation(Rotation::Off);
    let fixed = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    for _ in 0..2 {
        let answer: Value = refresh(&world, &client, fixed.expose(), &[]).await.json().await.unwrap();
        assert_eq!(answer.get("refresh_token"), None);
        assert!(answer["access_token"].is_string());
    }
    assert!(matches!(server.issue_refresh_token("nobody", ""), Err(Error::UnknownClient)));
}

/// RFC 6749 §6: less, never more; and the next refresh may have all of it again.
#[tokio::test]
async fn a_refresh_may_ask_for_less_scope_only() {
    let (world, client) = world().await;
    let token = world.authorization_server().issue_refresh_token(CLIENT_ID, "read:orders write:orders").unwrap();
    let wider = refresh(&world, &client, token.expose(), &[("scope", "read:orders admin")]).await;
    assert_eq!(error_of(wider).await, (400, "invalid_scope".to_owned()));
    let answer = refresh(&world, &client, token.expose(), &[("scope", "write:orders")]).await;
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["scope"], "write:orders");
    let answer = refresh(&world, &client, answer["refresh_token"].as_str().unwrap(), &[]).await;
    assert_eq!(answer.json::<Value>().await.unwrap()["scope"], "read:orders write:orders");
}

#[tokio::test]
async fn another_audience_needs_a_multi_resource_client() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let other = "https://other.test/";
    server.set_rotation(Rotation::Off);
    let token = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    server.change_client(CLIENT_ID, |client| client.audiences.push(other.to_owned())).unwrap();
    let answer = refresh(&world, &client, token.expose(), &[("audience", other)]).await;
    assert_eq!(error_of(answer).await, (403, "access_denied".to_owned()));
    server.change_client(CLIENT_ID, |client| client.multi_resource_refresh = true).unwrap();
    for (audience, granted) in [(other, other), (AUDIENCE, AUDIENCE), ("", AUDIENCE)] {
        let answer = refresh(&world, &client, token.expose(), &[("audience", audience)]).await;
        assert_eq!(claims_of(&answer.json().await.unwrap()).aud, [granted]);
    }
    let answer = refresh(&world, &client, token.expose(), &[("audience", "https://third.test/")]).await;
    assert_eq!(error_of(answer).await.0, 403);
}

#[tokio::test]
async fn the_journal_tells_which_token_led_to_which() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let first = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    let second = next(refresh(&world, &client, first.expose(), &[]).await).await;
    refresh(&world, &client, &second, &[("scope", "admin")]).await;
    server.set_fault_for(1, Fault::Status { status: 503, body: String::new() });
    refresh(&world, &client, &second, &[]).await;
    server.wait_for_outcomes(Endpoint::Token, 3).await;

    let seen = server.token_requests();
    let of = |secret: &str| Secret::new(secret.to_owned()).fingerprint().to_string();
    assert_eq!(seen[0].grant(), Some("refresh_token"));
    assert_eq!(
        (seen[0].client_id.as_deref(), seen[0].auth_method),
        (Some(CLIENT_ID), Some(AuthMethod::ClientSecretPost))
    );
    assert_eq!(seen[0].refresh_used(), Some(of(first.expose()).as_str()));
    assert_eq!(seen[0].refresh_issued(), Some(of(&second)));
    let granted = seen[0].granted().unwrap();
    assert_eq!((granted.scope.as_str(), granted.audiences.as_slice()), ("read:orders", &[AUDIENCE.to_owned()][..]));
    assert_eq!(seen[1].refresh_used(), Some(of(&second).as_str()));
    assert_eq!(seen[1].outcome, Outcome::Refused { status: 400, error: "invalid_scope" });
    assert_eq!(seen[2].outcome, Outcome::Fault);
}
