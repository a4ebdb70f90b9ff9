//! Consent asked for on somebody's own device (CIBA Core, poll mode).

use super::*;

const POLL: (&str, &str) = ("grant_type", "urn:openid:params:grant-type:ciba");
const OPENID: (&str, &str) = ("scope", "openid read:orders");
const HINT: (&str, &str) = ("login_hint", "alice");

async fn world_with(script: &[Poll]) -> (World, HttpClient) {
    let (world, client) = world().await;
    let server = world.authorization_server();
    server
        .change_client(CLIENT_ID, |client| {
            client.grants.push(GrantType::Ciba);
            client.scopes.push("openid".to_owned());
        })
        .unwrap();
    server.adjust(|knobs| (knobs.backchannel.script, knobs.backchannel.interval) = (script.to_vec(), Duration::ZERO));
    (world, client)
}

async fn begin(world: &World, client: &HttpClient, params: &[(&str, &str)]) -> Response {
    let secret = world.client_secret().expose();
    let all = [params, &[AUD, ("client_id", CLIENT_ID), ("client_secret", secret)]].concat();
    client.post(world.authorization_server().url(Endpoint::Backchannel)).form(&all).send().await.unwrap()
}

async fn id(answer: Response) -> String {
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    answer["auth_req_id"].as_str().unwrap().to_owned()
}

async fn poll(world: &World, client: &HttpClient, id: &str) -> Response {
    post(world, client, &[POLL, ("auth_req_id", id)]).await
}

#[tokio::test]
async fn a_person_is_asked_and_says_yes() {
    let (world, client) = world_with(&[Poll::Pending, Poll::Approve]).await;
    let server = world.authorization_server();
    let wish = [OPENID, HINT, ("binding_message", "Order 7: 3 kettles"), ("requested_expiry", "120")];
    let answer = begin(&world, &client, &wish).await;
    let begun: Value = answer.json().await.unwrap();
    assert_eq!((&begun["expires_in"], &begun["interval"]), (&json!(120), &json!(0)));
    let id = begun["auth_req_id"].as_str().unwrap();
    assert_eq!(error_of(poll(&world, &client, id).await).await, (400, "authorization_pending".to_owned()));
    let answer: Value = poll(&world, &client, id).await.json().await.unwrap();
    assert_eq!(claims_of(&answer).sub, "alice");
    assert!(answer["id_token"].is_string() && answer["refresh_token"].is_string());
    assert_eq!(error_of(poll(&world, &client, id).await).await.1, "invalid_grant", "used once");
    let asked = server.requests(Endpoint::Backchannel).pop().unwrap();
    assert_eq!(asked.param("binding_message"), Some("Order 7: 3 kettles"));

    let hint = json!({ "format": "iss_sub", "iss": world.issuer(), "sub": "bob" }).to_string();
    let hints = [("login_hint", hint.as_str(), "bob"), ("login_hint_token", "opaque", USER)];
    let id_token = ("id_token_hint", answer["id_token"].as_str().unwrap(), "alice");
    server.adjust(|knobs| knobs.backchannel.script = vec![Poll::Approve]);
    for (name, hint, subject) in hints.into_iter().chain([id_token]) {
        let id = id_of(&world, &client, (name, hint)).await;
        let answer: Value = poll(&world, &client, &id).await.json().await.unwrap();
        assert_eq!(claims_of(&answer).sub, subject, "{name}");
    }
}

async fn id_of(world: &World, client: &HttpClient, hint: (&str, &str)) -> String {
    id(begin(world, client, &[OPENID, hint]).await).await
}

#[tokio::test]
async fn each_ending_has_its_error() {
    let endings = [(Poll::Deny, "access_denied"), (Poll::Expire, "expired_token"), (Poll::SlowDown, "slow_down")];
    for (ending, error) in endings {
        let (world, client) = world_with(&[ending]).await;
        let id = id_of(&world, &client, HINT).await;
        assert_eq!(error_of(poll(&world, &client, &id).await).await, (400, error.to_owned()));
    }
    let (world, client) = world_with(&[Poll::Pending]).await;
    let id = id_of(&world, &client, HINT).await;
    world.authorization_server().decide(Endpoint::Backchannel, &[Poll::Approve]);
    assert_eq!(poll(&world, &client, &id).await.status(), 200);
}

#[tokio::test]
async fn each_mistake_of_a_request_has_its_error() {
    let (world, client) = world_with(&[Poll::Approve]).await;
    let foreign = json!({ "format": "iss_sub", "iss": "https://other.test/", "sub": "bob" }).to_string();
    let long = "x".repeat(65);
    let bad = [
        (vec![HINT], "invalid_scope"),
        (vec![HINT, ("scope", "read:orders")], "invalid_scope"),
        (vec![HINT, ("scope", "openid admin")], "invalid_scope"),
        (vec![OPENID], "invalid_request"),
        (vec![OPENID, HINT, ("login_hint_token", "x")], "invalid_request"),
        (vec![OPENID, ("id_token_hint", "garbage")], "invalid_request"),
        (vec![OPENID, ("login_hint", &foreign)], "unknown_user_id"),
        (vec![OPENID, HINT, ("binding_message", &long)], "invalid_binding_message"),
        (vec![OPENID, HINT, ("binding_message", "line\nbreak")], "invalid_binding_message"),
        (vec![OPENID, HINT, ("requested_expiry", "0")], "invalid_request"),
        (vec![OPENID, HINT, ("requested_expiry", "soon")], "invalid_request"),
    ];
    for (params, error) in bad {
        assert_eq!(error_of(begin(&world, &client, &params).await).await, (400, error.to_owned()), "{params:?}");
    }
    assert_eq!(error_of(post(&world, &client, &[POLL]).await).await.1, "invalid_request");
    let server = world.authorization_server();
    server.change_client(CLIENT_ID, |client| client.auth_methods = vec![AuthMethod::Public]).unwrap();
    let bare = [AUD, OPENID, HINT, ("client_id", CLIENT_ID)];
    let answer = client.post(server.url(Endpoint::Backchannel)).form(&bare).send().await.unwrap();
    assert_eq!(error_of(answer).await.1, "unauthorized_client", "a public client");
}
