//! The whole proxy over in-memory streams, in paused time (house rules 9 and 11): what takes
//! minutes takes none here, and a test can tell when to the millisecond.

use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::memory::{CLEAR, MemoryStage, Way};

const WAYS: [Way; 3] = [Way::AbsoluteForm, Way::Reverse, Way::Intercepted];

/// `[[routes]] response_timeout` and `[limits] head_timeout`, where the config doesn't say.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn every_way_in_gets_the_token() {
    let stage = MemoryStage::start().await;
    for way in WAYS {
        let mut agent = stage.connect(way).await;
        for path in ["/v1/orders", "/v1/orders?again"] {
            let response = agent.send_request(stage.request(way, path)).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{way:?}");
            let seen = response.into_body().collect().await.unwrap().to_bytes();
            assert!(seen.starts_with(b"Bearer ey"), "{way:?}: {seen:?}");
            assert!(!seen.ends_with(stage.key.as_bytes()), "{way:?}");
        }
    }
    let records = stage.records();
    assert_eq!(records.len(), 2 * WAYS.len(), "{records:#?}");
    for record in records {
        assert_eq!(record["agent"], "researcher");
        assert_eq!(record["decision"], "allow");
        assert_eq!(record["credential"], "orders");
        assert_eq!(record["status"], 200);
        assert_eq!(record["error"], serde_json::Value::Null);
    }
    assert_eq!(stage.world.authorization_server().token_request_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_upstream_is_given_up_at_the_limit_and_not_before() {
    let stage = MemoryStage::start().await;
    for way in WAYS {
        let mut agent = stage.connect(way).await;
        let started = Instant::now();
        let response = agent.send_request(stage.request(way, "/v1/silent")).await.unwrap();
        let waited = started.elapsed();
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT, "{way:?}");
        assert_eq!(response.headers()["x-cupbearer-error"], "upstream_timeout", "{way:?}");
        let late = waited.checked_sub(RESPONSE_TIMEOUT).expect("not before the limit");
        assert!(late < Duration::from_millis(10), "{way:?}: {late:?} late");
    }
}

/// Threat 86: who takes no refusal holds a place, also where a refusal has no body.
#[tokio::test(start_paused = true)]
async fn an_agent_that_takes_no_refusals_is_left() {
    let stage = MemoryStage::start().await;
    for method in ["GET", "HEAD"] {
        let mut agent = stage.stream(0);
        let request = format!("{method} http://{CLEAR}/v1/orders HTTP/1.1\r\nhost: {CLEAR}\r\n\r\n");
        let started = Instant::now();
        let error = loop {
            match tokio::time::timeout(10 * HEAD_TIMEOUT, agent.write_all(request.as_bytes())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break error,
                Err(_) => panic!("{method}: it is waited for"),
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        assert_eq!(started.elapsed().as_secs(), 5, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_nothing_is_sent_away() {
    let stage = MemoryStage::start().await;
    let mut silent = stage.stream(0);
    let started = Instant::now();
    let mut answer = Vec::new();
    silent.read_to_end(&mut answer).await.unwrap();
    let late = started.elapsed().checked_sub(HEAD_TIMEOUT).expect("not before the limit");
    assert!(late < Duration::from_millis(10), "{late:?} late");
}
