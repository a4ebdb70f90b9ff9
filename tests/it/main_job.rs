//! The main job, through each of the three ways in: a request goes in with no credential
//! and arrives with one.

use reqwest::StatusCode;

use crate::support::Stage;

#[tokio::test]
async fn through_a_tunnel() {
    let stage = Stage::start().await;
    let response = stage.agent().get(stage.url("/v1/orders")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let seen = &stage.world.api().seen()[0];
    assert!(seen.claims.as_ref().unwrap().has_scope("read:orders"));
    assert!(!seen.headers.contains_key("proxy-authorization"));
    let records = stage.records();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["agent"], "researcher");
    assert_eq!(records[0]["route"], "orders");
    assert_eq!(records[0]["status"], 200);
    assert_eq!(records[0]["decision"], "allow");
    assert_eq!(records[0]["credential"], "orders");
}

#[tokio::test]
async fn as_a_plain_proxied_request_upgraded_to_https() {
    let stage = Stage::start().await;
    let url = stage.url("/v1/orders").replace("https://", "http://");
    let response = stage.agent().get(url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(stage.world.api().seen()[0].claims.is_some());
}

#[tokio::test]
async fn by_a_base_url() {
    let stage = Stage::start().await;
    for (name, value) in [("authorization", format!("Bearer {}", stage.key)), ("x-api-key", stage.key.clone())] {
        let url = format!("http://{}/v1/orders?limit=2", stage.reverse());
        let response = stage.direct().get(url).header(name, value).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let seen = stage.world.api().seen().pop().unwrap();
        assert!(seen.claims.is_some());
        assert_eq!(seen.path, "/v1/orders?limit=2");
        assert!(!seen.headers.contains_key("x-api-key"));
    }
}
