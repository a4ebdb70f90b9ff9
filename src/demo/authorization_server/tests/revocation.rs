//! Tokens given back (RFC 7009).

use super::*;

async fn revoke(world: &World, client: &HttpClient, token: &str, hint: &str) -> Response {
    let params = [
        ("token", token),
        ("token_type_hint", hint),
        ("client_id", CLIENT_ID),
        ("client_secret", world.client_secret().expose()),
    ];
    client.post(world.authorization_server().url(Endpoint::Revocation)).form(&params).send().await.unwrap()
}

#[tokio::test]
async fn a_refresh_token_takes_its_family_along() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    let first = server.issue_refresh_token(CLIENT_ID, "read:orders").unwrap();
    let params = [("grant_type", "refresh_token"), ("refresh_token", first.expose())];
    let answer: Value = post(&world, &client, &params).await.json().await.unwrap();
    let second = answer["refresh_token"].as_str().unwrap();
    // A wrong hint makes no difference (§2.1).
    let answer = revoke(&world, &client, second, "access_token").await;
    assert_eq!((answer.status().as_u16(), answer.content_length()), (200, Some(0)));
    assert_eq!(server.revoked_families(), [RevokedFamily { client_id: CLIENT_ID.to_owned(), cause: Cause::Revoked }]);
    let params = [("grant_type", "refresh_token"), ("refresh_token", second)];
    assert_eq!(error_of(post(&world, &client, &params).await).await.1, "invalid_grant");
    let request = server.requests(Endpoint::Revocation).pop().unwrap();
    assert_eq!((request.client_id.as_deref(), &request.outcome), (Some(CLIENT_ID), &Outcome::Done));
    assert!(!format!("{request:?}").contains(second));
    assert_eq!(revoke(&world, &client, second, "").await.status(), 200, "once more");
}

#[tokio::test]
async fn an_access_token_goes_alone() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    server.change_client(CLIENT_ID, |client| client.grants.push(GrantType::TokenExchange)).unwrap();
    let answer: Value = post(&world, &client, &[GRANT, AUD]).await.json().await.unwrap();
    let token = answer["access_token"].as_str().unwrap();
    let exchange = [
        ("grant_type", GrantType::TokenExchange.name()),
        ("subject_token", token),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        AUD,
    ];
    assert_eq!(post(&world, &client, &exchange).await.status(), 200);
    assert_eq!(revoke(&world, &client, token, "").await.status(), 200);
    assert_eq!(server.revoked(), [claims_of(&answer).jti]);
    assert_eq!(error_of(post(&world, &client, &exchange).await).await.1, "invalid_request", "no evidence any more");
}

#[tokio::test]
async fn nobody_revokes_another_s_token_and_what_is_unknown_is_fine() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    for unknown in ["garbage", "a.b.c"] {
        assert_eq!(revoke(&world, &client, unknown, "").await.status(), 200);
    }
    let refresh = server.issue_refresh_token("odd client", "a").unwrap();
    let access = token_post(&world, &client, &[GRANT]).basic_auth("odd client", Some(ODD_SECRET)).send().await.unwrap();
    let access: Value = access.json().await.unwrap();
    for token in [refresh.expose(), access["access_token"].as_str().unwrap()] {
        assert_eq!(error_of(revoke(&world, &client, token, "").await).await, (400, "invalid_grant".to_owned()));
    }
    assert_eq!((server.revoked_families(), server.revoked()), (Vec::new(), Vec::new()));
    assert_eq!(error_of(revoke(&world, &client, "", "").await).await.1, "invalid_request");
    let unproved = [("token", "x"), ("client_id", CLIENT_ID)];
    let answer = client.post(server.url(Endpoint::Revocation)).form(&unproved).send().await.unwrap();
    assert_eq!(error_of(answer).await, (401, "invalid_client".to_owned()));
}

/// The client's shutdown must be bounded whatever this endpoint does.
#[tokio::test]
async fn the_endpoint_can_hang_while_the_others_work() {
    let (world, client) = world().await;
    let server = world.authorization_server();
    server.set_fault_at(Endpoint::Revocation, Some(Fault::Hang));
    let others = async {
        server.wait_for_requests(Endpoint::Revocation, 1).await;
        post(&world, &client, &[GRANT, AUD]).await.status()
    };
    tokio::select! {
        _ = revoke(&world, &client, "x", "") => panic!("it was to hang"),
        status = others => assert_eq!(status, 200),
    }
}
