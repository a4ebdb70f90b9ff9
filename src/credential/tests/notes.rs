//! What the room tells the record of a request and the log of events.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::Method;
use tokio::time::Instant;

use crate::{
    credential::{
        Asking, Broker, Location,
        testing::{Act, AuthServer, answer, binding, name, settings, shared, token, within},
    },
    observe::{Asked, Decision, Kept, Outcome, Record, Recorder, record::Protocol},
    primitives::{ListenerName, RequestIds, Secret},
};

const LIMIT: Duration = Duration::from_secs(60);

fn record() -> Record {
    Record {
        id: RequestIds::new(1).next(),
        time: SystemTime::UNIX_EPOCH,
        started: Instant::now(),
        listener: ListenerName::parse("proxy").unwrap(),
        asked: Asked { method: Some(Method::GET), authority: Kept::default(), path: None, protocol: Protocol::Http11 },
        agent: Kept::default(),
        decision: Decision { allowed: Some(true), ..Decision::default() },
        credential: Kept::default(),
        token: None,
        outcome: Outcome::default(),
        traffic: Arc::default(),
    }
}

/// A server that hands out `first`, then `then`, and a broker that writes an audit log.
async fn audited(acts: Vec<Act>) -> (tempfile::TempDir, AuthServer, Broker, Recorder) {
    let server = AuthServer::start(move |_, number| acts[number.min(acts.len() - 1)].clone()).await;
    let (directory, spec) = server.spec("orders", Location::TokenEndpoint(server.url("/token")));
    let log = crate::observe::Settings { audit_log: Some(directory.path().join("audit.jsonl")), ..Default::default() };
    let recorder = Recorder::start(&log).unwrap();
    let mut shared = shared(settings());
    shared.recorder = recorder.clone();
    let broker = Broker::with_shared(vec![spec], shared).unwrap();
    (directory, server, broker, recorder)
}

/// The log's lines once there are `count` of them: events follow the wake-up of those who wait.
async fn lines(directory: &tempfile::TempDir, recorder: &Recorder, count: usize) -> Vec<serde_json::Value> {
    within(LIMIT, async {
        loop {
            recorder.flush();
            let text = std::fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
            if text.lines().count() >= count {
                return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn tokens_are_events_without_the_token() {
    let (directory, _server, broker, recorder) =
        audited(vec![token("canary-one", 3600), token("canary-two", 3600)]).await;
    within(LIMIT, broker.lease_bound(&binding("orders", 0), Asking::default())).await.unwrap();
    within(LIMIT, broker.refresh(&name("orders"))).await.unwrap();
    let lines = lines(&directory, &recorder, 2).await;
    for (line, (event, text)) in lines.iter().zip([("token.issued", "canary-one"), ("token.refreshed", "canary-two")]) {
        assert_eq!((line["event"].as_str(), line["credential"].as_str()), (Some(event), Some("orders")));
        assert_eq!(line["grant"], "client_credentials");
        assert_eq!(line["token_fingerprint"], Secret::new(text.to_owned()).fingerprint().to_string());
        assert!(!line.to_string().contains("canary"));
        // An hour after the tests' wall clock, 2027-01-15T08:00:00Z.
        assert!(line["expires_at"].as_str().is_some_and(|at| at.starts_with("2027-01-15T08:59:5")), "{line}");
    }
}

#[tokio::test]
async fn failures_are_events_in_clean_words() {
    let description = r"bad secret canary-s3cret%+ä\r\n{\u001b[31m";
    let body = format!(r#"{{"error":"invalid_client","error_description":"{description}"}}"#);
    let (directory, _server, broker, recorder) = audited(vec![answer(503, ""), answer(401, &body)]).await;
    within(LIMIT, broker.lease_bound(&binding("orders", 0), Asking::default())).await.unwrap_err();
    let lines = lines(&directory, &recorder, 2).await;
    let errors: Vec<&str> = lines.iter().filter_map(|line| line["error"].as_str()).collect();
    assert_eq!(errors, ["server_error", "invalid_client"], "one event an attempt");
    assert_eq!(lines[1]["detail"], "bad secret [secret]  { [31m");
    assert!(lines.iter().all(|line| line["event"] == "token.failed"));
}

#[tokio::test]
async fn leases_and_errors_note_themselves() {
    let acts = vec![token("t", 3600), answer(401, r#"{"error":"invalid_client"}"#)];
    let (_directory, server, broker, _recorder) = audited(acts).await;
    let mut good = record();
    let lease = good.note(within(LIMIT, broker.lease_bound(&binding("orders", 0), Asking::default())).await).unwrap();
    let used = good.token.unwrap();
    assert_eq!((good.credential.get(), used.generation), (Some(&name("orders")), 1));
    assert_eq!(used.fingerprint, Secret::new("t".to_owned()).fingerprint());
    assert!(used.wait > Duration::ZERO && lease.generation() == Some(1));

    let mut cached = record();
    cached.note(broker.lease_bound(&binding("orders", 0), Asking::default()).await).unwrap();
    assert_eq!((cached.token.unwrap().wait, server.token_requests()), (Duration::ZERO, 1));

    let mut bad = record();
    bad.note(within(LIMIT, broker.renew_bound(&binding("orders", 0), Asking::default(), &lease)).await.map(|_| lease))
        .unwrap_err();
    assert_eq!(bad.outcome.error, Some("credential_failed"));
    assert_eq!((bad.decision.allowed, bad.token.is_none()), (Some(true), true));
}
