//! Logins at another device (RFC 8628), poll by poll.

use super::*;

const ID: &str = "television";
const POLL: (&str, &str) = ("grant_type", "urn:ietf:params:oauth:grant-type:device_code");

async fn world_with(script: &[Poll], interval: Duration) -> (World, HttpClient) {
    let (world, client) = world().await;
    let server = world.authorization_server();
    server.register(Client {
        id: ID.to_owned(),
        auth_methods: vec![AuthMethod::Public],
        grants: vec![GrantType::DeviceCode, GrantType::RefreshToken],
        scopes: vec!["openid".to_owned(), "read:orders".to_owned()],
        audiences: vec![AUDIENCE.to_owned()],
        default_audience: Some(AUDIENCE.to_owned()),
        ..Client::default()
    });
    server.adjust(|knobs| (knobs.device.script, knobs.device.interval) = (script.to_vec(), interval));
    (world, client)
}

async fn begin(world: &World, client: &HttpClient) -> Value {
    let url = world.authorization_server().url(Endpoint::Device);
    let answer = client.post(url).form(&[("client_id", ID), ("scope", "read:orders")]).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

async fn poll(world: &World, client: &HttpClient, begun: &Value) -> Response {
    let code = begun["device_code"].as_str().unwrap();
    token_post(world, client, &[POLL, ("client_id", ID), ("device_code", code)]).send().await.unwrap()
}

async fn refusal(world: &World, client: &HttpClient, begun: &Value) -> (u16, String) {
    error_of(poll(world, client, begun).await).await
}

fn refused(status: u16, error: &str) -> (u16, String) {
    (status, error.to_owned())
}

#[tokio::test]
async fn polls_meet_the_script_and_the_last_one_the_tokens() {
    let script = [Poll::Pending, Poll::Pending, Poll::Approve];
    let (world, client) = world_with(&script, Duration::ZERO).await;
    let begun = begin(&world, &client).await;
    assert_eq!((&begun["expires_in"], &begun["interval"]), (&json!(300), &json!(0)));
    assert_eq!(begun["user_code"].as_str().unwrap().len(), 9);
    for _ in 0..2 {
        assert_eq!(refusal(&world, &client, &begun).await, refused(400, "authorization_pending"));
    }
    let answer: Value = poll(&world, &client, &begun).await.json().await.unwrap();
    assert_eq!((claims_of(&answer).sub.as_str(), &answer["scope"]), (USER, &json!("read:orders")));
    assert!(answer["refresh_token"].is_string());
    assert_eq!(refusal(&world, &client, &begun).await, refused(400, "invalid_grant"), "a code is used once");
    let server = world.authorization_server();
    assert_eq!(server.requests(Endpoint::Device)[0].outcome, Outcome::Done);
    assert!(!format!("{:?}", server.token_requests()).contains(begun["device_code"].as_str().unwrap()));
}

#[tokio::test]
async fn each_ending_has_its_error() {
    let endings = [(Poll::Deny, "access_denied"), (Poll::Expire, "expired_token"), (Poll::SlowDown, "slow_down")];
    for (ending, error) in endings {
        let (world, client) = world_with(&[ending], Duration::ZERO).await;
        let begun = begin(&world, &client).await;
        for _ in 0..2 {
            assert_eq!(refusal(&world, &client, &begun).await, refused(400, error));
        }
    }
}

/// [`SlowDown`](Poll::SlowDown) in Auth0's way; and who has expired is unknown afterwards.
#[tokio::test]
async fn auth0_has_other_statuses() {
    let script = [Poll::Pending, Poll::Expire];
    let (world, client) = world_with(&script, Duration::ZERO).await;
    let server = world.authorization_server();
    server.adjust(|knobs| knobs.auth0_statuses = true);
    let begun = begin(&world, &client).await;
    assert_eq!(refusal(&world, &client, &begun).await, refused(403, "authorization_pending"));
    assert_eq!(refusal(&world, &client, &begun).await, refused(403, "expired_token"));
    assert_eq!(refusal(&world, &client, &begun).await, refused(403, "invalid_grant"));

    server.adjust(|knobs| knobs.device.script = vec![Poll::SlowDown]);
    let begun = begin(&world, &client).await;
    let answer = poll(&world, &client, &begun).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()[header::RETRY_AFTER]), (429, &"5".parse().unwrap()));
    let body: Value = answer.json().await.unwrap();
    assert_eq!((&body["error"], &body["interval"]), (&json!("slow_down"), &json!(5)));
}

#[tokio::test]
async fn who_polls_too_fast_is_slowed_down_each_time_more() {
    let (world, client) = world_with(&[Poll::Pending], Duration::from_secs(1000)).await;
    let begun = begin(&world, &client).await;
    assert_eq!(refusal(&world, &client, &begun).await, refused(400, "authorization_pending"), "the first one may come");
    assert_eq!(refusal(&world, &client, &begun).await, refused(400, "slow_down"));
    world.authorization_server().adjust(|knobs| knobs.auth0_statuses = true);
    for interval in [1010, 1015] {
        let answer: Value = poll(&world, &client, &begun).await.json().await.unwrap();
        assert_eq!((&answer["error"], &answer["interval"]), (&json!("slow_down"), &json!(interval)));
    }
}

#[tokio::test]
async fn a_login_expires_where_nobody_decides() {
    let (world, client) = world_with(&[Poll::Approve], Duration::ZERO).await;
    world.authorization_server().adjust(|knobs| knobs.device.lifetime = Duration::ZERO);
    let begun = begin(&world, &client).await;
    assert_eq!(refusal(&world, &client, &begun).await, refused(400, "expired_token"));
}

#[tokio::test]
async fn the_page_and_the_test_can_say_yes() {
    let (world, client) = world_with(&[Poll::Pending], Duration::ZERO).await;
    let server = world.authorization_server();
    let (first, second) = (begin(&world, &client).await, begin(&world, &client).await);
    let open = async |url: &Value| client.get(url.as_str().unwrap()).send().await.unwrap().status().as_u16();
    assert_eq!(open(&first["verification_uri"]).await, 404, "no code is given");
    assert_eq!(open(&first["verification_uri_complete"]).await, 200);
    assert_eq!(poll(&world, &client, &first).await.status(), 200);
    assert_eq!(open(&first["verification_uri_complete"]).await, 404, "nobody waits for it any more");
    assert_eq!(refusal(&world, &client, &second).await.1, "authorization_pending");
    server.decide(Endpoint::Device, &[Poll::Deny]);
    assert_eq!(refusal(&world, &client, &second).await.1, "access_denied");
}

#[tokio::test]
async fn a_code_is_its_client_s_alone() {
    let (world, client) = world_with(&[Poll::Approve], Duration::ZERO).await;
    let server = world.authorization_server();
    let begun = begin(&world, &client).await;
    server.change_client(CLIENT_ID, |client| client.grants.push(GrantType::DeviceCode)).unwrap();
    let code = begun["device_code"].as_str().unwrap();
    assert_eq!(error_of(post(&world, &client, &[POLL, ("device_code", code)]).await).await.1, "invalid_grant");
    assert_eq!(error_of(post(&world, &client, &[POLL]).await).await.1, "invalid_request");
    server.change_client(ID, |client| client.grants.clear()).unwrap();
    let answer = client.post(server.url(Endpoint::Device)).form(&[("client_id", ID)]).send().await.unwrap();
    assert_eq!(error_of(answer).await, refused(400, "unauthorized_client"));
    let answer = client.post(server.url(Endpoint::Device)).form(&[("client_id", "nobody")]).send().await.unwrap();
    assert_eq!(error_of(answer).await, refused(401, "invalid_client"));
}
