//! The token behind the requests: one for any number of first callers, renewed behind
//! running traffic, and what agents read where there is none to be had.

use std::time::Duration;

use cupbearer::demo::{
    WorldSettings,
    authorization_server::{AuthorizationServerHandle, Fault},
};
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::Instant};

use crate::{
    agents::{Agent, Way, empty, full, records, text},
    scripted::{PATIENCE, SILENCE, Scripted, Wire, soon},
    support::{API, Facts, Stage},
};

/// The tunnels of the thousand, and how many requests each takes at once.
const TUNNELS: usize = 10;
const EACH: usize = 100;

#[tokio::test]
async fn a_thousand_first_requests_make_one_token_request() {
    for workers in [1, 2] {
        let stage = Stage::with(Default::default(), |facts| {
            let config = facts.config().replace("workers = 1", &format!("workers = {workers}"));
            format!("{config}\n[limits]\nh2_streams = {}\n", EACH + 1)
        })
        .await;
        let server = stage.world.authorization_server();
        server.set_fault(Some(Fault::Hold));

        let mut agents = Vec::new();
        let mut waiting = JoinSet::new();
        for _ in 0..TUNNELS {
            let mut agent = Agent::of(&stage, Way::TunnelH2).await;
            for _ in 0..EACH {
                let request = agent.request(Method::GET, "/v1/orders").body(empty()).unwrap();
                let answer = agent.send(request);
                waiting.spawn(async move {
                    let answer = soon(answer).await.unwrap();
                    let status = answer.status();
                    text(answer).await;
                    status
                });
            }
            // A worker is one thread and takes a connection's requests in their order: once
            // this one is refused, those before it have asked for the token.
            assert_eq!(agent.get("/elsewhere").await.status(), StatusCode::FORBIDDEN);
            agents.push(agent);
        }
        soon(server.wait_for_token_requests(1)).await;
        assert_eq!(stage.world.api().seen_count(), 0);
        server.set_fault(None);

        while let Some(status) = waiting.join_next().await {
            assert_eq!(status.unwrap(), StatusCode::OK);
        }
        assert_eq!(server.token_request_count(), 1, "{workers} workers");
        assert_eq!(stage.world.api().seen_count(), TUNNELS * EACH);
        assert!(stage.world.api().seen().iter().all(|seen| seen.claims.is_some() && seen.refusal.is_none()));
        let records = records(&stage, TUNNELS * (EACH + 1)).await;
        let waited = records.iter().filter(|record| record["token_wait_us"].as_u64().is_some_and(|wait| wait > 0));
        assert_eq!(waited.count(), TUNNELS * EACH, "all were really waiting");
        assert!(records.iter().all(|record| record["status"] == 403 || record["token_generation"] == 1));
    }
}

/// Short: the window opens between 3 and 3.6 s, and the token is used until 5.7 s.
const SHORT_LIFE: Duration = Duration::from_secs(6);

fn short_lived() -> WorldSettings {
    WorldSettings { token_lifetime: SHORT_LIFE, ..WorldSettings::default() }
}

#[tokio::test]
async fn a_token_expires_under_load_and_nobody_notices() {
    let stage = Stage::with(short_lived(), |facts| facts.config().replace("workers = 1", "workers = 2")).await;
    let server = stage.world.authorization_server();
    let (stop, stopped) = watch::channel(false);
    let mut load = JoinSet::new();
    for way in Way::ALL {
        let mut agent = Agent::of(&stage, way).await;
        let stopped = stopped.clone();
        load.spawn(async move {
            let mut served = 0;
            while !*stopped.borrow() {
                let answer = agent.get("/v1/orders").await;
                assert_eq!(answer.status(), StatusCode::OK, "{way:?}");
                text(answer).await;
                served += 1;
            }
            served
        });
    }
    soon(server.wait_for_token_requests(1)).await;
    server.set_fault(Some(Fault::Hold));
    soon(server.wait_for_token_requests(2)).await;
    // The refresh hangs; the old token goes on serving.
    let before = stage.world.api().seen_count();
    soon(stage.world.api().wait_for_requests(before + 20)).await;
    assert_eq!(server.token_request_count(), 2, "one refresh at a time");
    server.set_fault(None);
    // Another one, that nothing holds up.
    soon(server.wait_for_token_requests(3)).await;
    let before = stage.world.api().seen_count();
    soon(stage.world.api().wait_for_requests(before + 20)).await;
    stop.send_replace(true);
    let mut served = 0;
    while let Some(count) = load.join_next().await {
        served += count.unwrap();
    }

    let records = records(&stage, served).await;
    assert_eq!(records.len(), served);
    for record in &records {
        assert_eq!(record["status"], 200);
        assert_eq!(record["retried"], false, "an expired token was sent: {record}");
        if record["token_generation"] != 1 {
            assert_eq!(record["token_wait_us"], 0, "{record}");
        }
    }
    let waited = records.iter().filter(|record| record["token_wait_us"] != 0).count();
    assert!((1..=Way::ALL.len()).contains(&waited), "{waited} waited: only the first flight has passengers");
    for generation in 1..=3 {
        assert!(records.iter().any(|record| record["token_generation"] == generation), "generation {generation}");
    }
    let events: Vec<_> = stage.log().into_iter().filter(|line| line["event"] == "token.refreshed").collect();
    assert!(events.len() >= 2, "{events:?}");
}

#[tokio::test]
async fn a_valid_token_serves_while_the_server_is_down_and_none_does_afterwards() {
    let stage = Stage::with(short_lived(), Facts::config).await;
    let server = stage.world.authorization_server();
    let mut agent = Agent::of(&stage, Way::TunnelH2).await;
    text(agent.get("/v1/orders").await).await;
    let started = Instant::now();
    server.set_fault(Some(Fault::Status { status: 500, body: String::new() }));

    let mut served = 1;
    let refused = loop {
        let answer = agent.get("/v1/orders").await;
        if answer.status() != StatusCode::OK {
            break answer;
        }
        text(answer).await;
        served += 1;
    };
    let lasted = started.elapsed();
    assert!(lasted > SHORT_LIFE * 3 / 4, "it was given up after {lasted:?}");
    assert!(server.token_request_count() > 1, "nobody tried to renew it");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["x-cupbearer-error"], "credential_unavailable");
    assert_eq!(stage.world.api().seen_count(), served);
    let records = records(&stage, served + 1).await;
    let (last, others) = records.split_last().unwrap();
    assert!(others[1..].iter().all(|record| record["token_wait_us"] == 0 && record["status"] == 200));
    assert_eq!(last["error"], "credential_unavailable");
    assert_eq!(last["token_fingerprint"], Value::Null);
}

#[tokio::test]
async fn a_refused_token_is_replaced_for_everybody() {
    let stage = Stage::start().await;
    let server = stage.world.authorization_server();
    let mut agent = Agent::of(&stage, Way::TunnelH2).await;
    assert_eq!(agent.get("/v1/orders").await.status(), StatusCode::OK);
    stage.world.revoke_issued_tokens();

    let mut answers = JoinSet::new();
    for _ in 0..50 {
        let request = agent.request(Method::POST, "/v1/orders").body(full("one order")).unwrap();
        answers.spawn(soon(agent.send(request)));
    }
    while let Some(answer) = answers.join_next().await {
        assert_eq!(answer.unwrap().unwrap().status(), StatusCode::CREATED);
    }
    assert_eq!(server.token_request_count(), 2, "one renewal for all");
    assert_eq!(stage.world.api().applied(), 50);
    let seen = stage.world.api().seen_count();
    assert_eq!(agent.get("/v1/orders").await.status(), StatusCode::OK);
    assert_eq!(stage.world.api().seen_count(), seen + 1, "the refused one is sent no more");
    let records = records(&stage, 52).await;
    assert!(records[1..].iter().all(|record| record["token_generation"] == 2));
}

#[tokio::test]
async fn a_server_that_refuses_every_token_costs_one_renewal_a_guard_period() {
    const GUARD: Duration = Duration::from_secs(1);
    let stage = Stage::with(Default::default(), |facts| {
        format!("{}\n[limits]\ntoken_storm_guard = \"{}s\"\n", facts.config(), GUARD.as_secs())
    })
    .await;
    let server = stage.world.authorization_server();
    stage.world.api().reject_next(usize::MAX);
    let mut agent = Agent::of(&stage, Way::TunnelH1).await;
    let started = Instant::now();
    let mut asked = 0;
    while server.token_request_count() < 3 {
        let answer = agent.post("/v1/orders", full("one order")).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let challenge = answer.headers()[header::WWW_AUTHENTICATE].to_str().unwrap();
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        assert!(!answer.headers().contains_key("x-cupbearer-error"), "it is the upstream's");
        text(answer).await;
        asked += 1;
        assert!(started.elapsed() < PATIENCE);
    }
    // The first token, the renewal, and one more when the guard's time was over.
    assert!(started.elapsed() >= GUARD, "{:?}", started.elapsed());
    assert_eq!(stage.world.api().seen_count(), asked + 2, "two replays in {asked} requests");
    assert!(asked > 2, "the guard stood between");
    assert_eq!(stage.world.api().applied(), 0);
}

#[tokio::test]
async fn a_lack_of_scope_is_no_reason_for_a_new_token() {
    let stage = Stage::with(Default::default(), |facts| {
        facts.config().replace("scopes = [\"read:orders\", \"write:orders\"]", "scopes = [\"read:orders\"]")
    })
    .await;
    for way in Way::ALL {
        let answer = Agent::of(&stage, way).await.post("/v1/orders", full("one order")).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{way:?}");
        let challenge = answer.headers()[header::WWW_AUTHENTICATE].to_str().unwrap();
        assert!(challenge.contains("error=\"insufficient_scope\", scope=\"write:orders\""), "{challenge}");
        assert!(!answer.headers().contains_key("x-cupbearer-error"));
        assert!(text(answer).await.contains("insufficient_scope"));
    }
    assert_eq!(stage.world.api().seen_count(), Way::ALL.len());
    assert_eq!(stage.world.authorization_server().token_request_count(), 1);
}

#[tokio::test]
async fn a_reload_keeps_the_token_unless_its_credential_changed() {
    let stage = Stage::start().await;
    let server = stage.world.authorization_server();
    let mut agent = Agent::of(&stage, Way::TunnelH2).await;
    let generations = async |count| -> Vec<Value> {
        let records = records(&stage, count).await;
        records.into_iter().map(|record| record["token_generation"].clone()).collect()
    };
    text(agent.get("/v1/orders").await).await;
    let more = stage.facts.config().replace("paths = [\"/v1/**\"]", "paths = [\"/**\"]");
    stage.reload(&more);
    text(agent.get("/v1/orders").await).await;
    assert_eq!(server.token_request_count(), 1);
    assert_eq!(generations(2).await, [1, 1]);

    let fewer = more.replace("\"read:orders\", \"write:orders\"", "\"read:orders\"");
    stage.reload(&fewer);
    text(agent.get("/v1/orders").await).await;
    assert_eq!(server.token_request_count(), 2);
    assert_eq!(server.token_requests()[1].param("scope"), Some("read:orders"));
    assert_eq!(generations(3).await, [1, 1, 2]);
}

#[tokio::test]
async fn a_caller_that_leaves_takes_nobody_s_token_along() {
    for way in Way::ALL {
        let stage = Stage::start().await;
        let server = stage.world.authorization_server();
        server.set_fault(Some(Fault::Hold));
        let mut leaving = Agent::of(&stage, way).await;
        let request = leaving.request(Method::GET, "/v1/orders").body(empty()).unwrap();
        let answer = leaving.send(request);
        let mut staying = Agent::of(&stage, Way::TunnelH2).await;
        let request = staying.request(Method::GET, "/v1/orders").body(empty()).unwrap();
        let other = tokio::spawn(soon(staying.send(request)));
        let answer = tokio::spawn(answer);
        soon(server.wait_for_token_requests(1)).await;
        answer.abort();
        drop(leaving);
        let gone = &records(&stage, 1).await[0];
        assert_eq!(gone["error"], "agent_gone", "{way:?}: {gone}");
        server.set_fault(None);
        assert_eq!(other.await.unwrap().unwrap().status(), StatusCode::OK);
        assert_eq!(server.token_request_count(), 1);
        assert_eq!(stage.world.api().seen_count(), 1);
    }
}

// === Trouble ===

/// Planted where an authorization server's words could leak.
const CANARY: &str = "c4n4ry-of-the-authorization-server";

/// What an agent has to get.
struct Expected {
    status: u16,
    code: &'static str,
    /// In seconds, where there has to be one.
    retry_after: Option<std::ops::RangeInclusive<u64>>,
    /// The class of the `token.failed` event.
    class: &'static str,
    /// How many token requests one flight makes.
    attempts: usize,
}

/// It will pass: 503.
fn passing(class: &'static str, attempts: usize) -> Expected {
    Expected { status: 503, code: "credential_unavailable", retry_after: Some(1..=8), class, attempts }
}

/// It will not: 502.
fn lasting(class: &'static str, attempts: usize) -> Expected {
    Expected { status: 502, code: "credential_failed", retry_after: None, class, attempts }
}

/// Asks through every way in. The failure stands for them all; the API sees nothing.
async fn expect_trouble(stage: &Stage, expected: Expected) {
    for (index, way) in Way::ALL.into_iter().enumerate() {
        let answer = Agent::of(stage, way).await.post("/v1/orders?secret=c4n4ry", full("one order")).await;
        let (parts, body) = answer.into_parts();
        let body = text(http::Response::new(body)).await;
        let record = records(stage, index + 1).await.pop().unwrap();
        check_refusal(&expected, &parts.headers, parts.status, &body, &record);
        let shown = format!("{:?}{body}", parts.headers);
        for inside in [CANARY, "c4n4ry", stage.world.client_secret().expose(), &stage.key, "127.0.0.1", "eyJ"] {
            assert!(!shown.contains(inside), "{inside} in {shown}");
        }
    }
    assert_eq!(stage.world.api().seen_count(), 0, "a request was forwarded without a token");
    // A slot rests for half a second at least: a slow machine may see another flight.
    let token_requests = stage.world.authorization_server().token_request_count();
    let flights = if expected.status == 503 { 1..=Way::ALL.len() } else { 1..=1 };
    assert!(flights.into_iter().any(|flights| token_requests == flights * expected.attempts), "{token_requests}");
    let failed = stage.log().into_iter().rfind(|line| line["event"] == "token.failed").expect("no event");
    assert_eq!(failed["error"], expected.class, "{failed}");
}

fn check_refusal(expected: &Expected, fields: &HeaderMap, status: StatusCode, body: &str, record: &Value) {
    assert_eq!(status.as_u16(), expected.status, "{body}");
    assert_eq!(fields["x-cupbearer-error"], expected.code);
    assert_eq!(fields[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(fields[header::CACHE_CONTROL], "no-store");
    assert!(fields["proxy-status"].to_str().unwrap().starts_with("cupbearer; error="), "{fields:?}");
    assert!(!fields.contains_key(header::WWW_AUTHENTICATE));
    let wait = fields.get(header::RETRY_AFTER).map(|wait| wait.to_str().unwrap().parse::<u64>().unwrap());
    match &expected.retry_after {
        Some(range) => assert!(range.contains(&wait.unwrap()), "{wait:?}"),
        None => assert_eq!(wait, None),
    }
    let problem: Map<String, Value> = serde_json::from_str(body).unwrap();
    let mut keys: Vec<_> = problem.keys().map(String::as_str).collect();
    keys.retain(|key| *key != "retry_after");
    assert_eq!(keys, ["code", "detail", "hint", "request_id", "route", "status", "title", "type"]);
    assert_eq!(problem.get("retry_after").and_then(Value::as_u64), wait);
    assert_eq!(problem["type"], format!("urn:cupbearer:problem:{}", expected.code));
    assert_eq!(problem["status"], expected.status);
    assert_eq!(problem["code"], expected.code);
    assert_eq!(problem["route"], "orders");
    assert_eq!(problem["request_id"], record["request_id"]);
    assert_eq!(record["status"], expected.status);
    assert_eq!(record["error"], expected.code);
    assert_eq!(record["decision"], "allow");
    assert_eq!(record["token_fingerprint"], Value::Null);
    assert_eq!(record["upstream_addr"], Value::Null);
}

/// The stage with this fault at its token endpoint.
async fn faulty(fault: Fault, expected: Expected) {
    let stage = Stage::start().await;
    stage.world.authorization_server().set_fault(Some(fault));
    expect_trouble(&stage, expected).await;
}

fn over(members: Value) -> Fault {
    match members {
        Value::Object(members) => Fault::Override(members),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_stopped_server() {
    let stage = Stage::start().await;
    stage.world.stop_authorization_server();
    soon(async {
        while tokio::net::TcpStream::connect(stage.world.authorization_server_address()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    expect_trouble(&stage, passing("unreachable", 0)).await;
}

#[tokio::test]
async fn a_server_that_breaks_the_connection() {
    faulty(Fault::Disconnect, passing("broken_connection", 3)).await;
}

#[tokio::test]
async fn a_slow_server() {
    let stage = Stage::with(Default::default(), |facts| {
        format!("{}\n[limits]\ntoken_exchange_timeout = \"400ms\"\n", facts.config())
    })
    .await;
    stage.world.authorization_server().set_fault(Some(Fault::Hang));
    let started = Instant::now();
    expect_trouble(&stage, passing("timeout", 1)).await;
    assert!(started.elapsed() >= Duration::from_millis(400));
}

/// The request's own patience is shorter than the flight's, which goes on without it.
#[tokio::test]
async fn a_server_slower_than_a_request_may_wait() {
    let stage =
        Stage::with(Default::default(), |facts| format!("{}\n[limits]\ntoken_wait = \"200ms\"\n", facts.config()))
            .await;
    let server = stage.world.authorization_server();
    server.set_fault(Some(Fault::Hold));
    let mut agent = Agent::of(&stage, Way::TunnelH2).await;
    let answer = agent.get("/v1/orders").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["x-cupbearer-error"], "credential_unavailable");
    assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
    assert_eq!(stage.world.api().seen_count(), 0);
    server.set_fault(None);
    soon(async { while agent.get("/v1/orders").await.status() != StatusCode::OK {} }).await;
    assert_eq!(server.token_request_count(), 1, "the flight landed");
}

#[tokio::test]
async fn a_server_error() {
    faulty(Fault::Status { status: 500, body: format!("{{\"message\":\"{CANARY}\"}}") }, passing("server_error", 3))
        .await;
    faulty(Fault::Status { status: 503, body: format!("<html>{CANARY}") }, passing("server_error", 3)).await;
}

#[tokio::test]
async fn a_server_that_wants_to_be_left_alone() {
    let expected = || Expected { retry_after: Some(7..=8), ..passing("too_many_requests", 1) };
    let stage = Stage::start().await;
    stage.world.authorization_server().set_fault(Some(Fault::RetryAfter { status: 429, seconds: 7 }));
    // Its OAuth error is `temporarily_unavailable`, which counts before the status (A14).
    expect_trouble(&stage, Expected { class: "temporarily_unavailable", ..expected() }).await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for status in [302, 307, 308] {
        let location = format!("https://{}/{CANARY}", elsewhere.local_addr().unwrap());
        faulty(Fault::Redirect { status, location }, lasting("redirect", 1)).await;
    }
    let came = tokio::time::timeout(SILENCE, elsewhere.accept()).await;
    assert!(came.is_err(), "the secret was sent elsewhere");
}

#[tokio::test]
async fn answers_that_are_no_token() {
    faulty(Fault::Garbage, lasting("invalid_answer", 1)).await;
    faulty(Fault::RawBody(String::new()), lasting("invalid_answer", 1)).await;
    faulty(Fault::RawBody(format!("[\"{CANARY}\"]")), lasting("invalid_answer", 1)).await;
    faulty(Fault::Status { status: 404, body: CANARY.to_owned() }, lasting("invalid_answer", 1)).await;
}

#[tokio::test]
async fn tokens_that_must_not_be_sent() {
    for kind in [json!("mac"), json!("N_A"), json!(7), Value::Null] {
        faulty(over(json!({ "token_type": kind })), lasting("invalid_answer", 1)).await;
    }
    // Bound to a key, and no key was shown.
    faulty(over(json!({ "token_type": "DPoP" })), lasting("dpop", 1)).await;
    for token in [
        json!(format!("good\r\nx-injected: {CANARY}")),
        json!(format!("good\n{CANARY}")),
        json!(format!("good {CANARY}")),
        json!("na\u{ef}ve"),
        json!(""),
        json!(17),
        Value::Null,
    ] {
        faulty(over(json!({ "access_token": token })), lasting("invalid_answer", 1)).await;
    }
    faulty(over(json!({ "scope": "read:orders" })), lasting("scope_mismatch", 1)).await;
}

#[tokio::test]
async fn a_refusal_of_the_client() {
    let body = json!({ "error": "invalid_client", "error_description": CANARY, "error_uri": CANARY }).to_string();
    faulty(Fault::Status { status: 401, body }, lasting("invalid_client", 1)).await;
    // Auth0's status for it; and a code that nobody knows.
    let body = json!({ "error": "access_denied", "error_description": CANARY }).to_string();
    faulty(Fault::Status { status: 403, body }, lasting("access_denied", 1)).await;
    let body = json!({ "error": CANARY }).to_string();
    faulty(Fault::Status { status: 400, body }, lasting("oauth_error", 1)).await;
}

#[tokio::test]
async fn an_unreadable_secret() {
    let stage = Stage::with(Default::default(), |facts| facts.config().replace("client-secret\"", "nowhere\"")).await;
    expect_trouble(&stage, lasting("secret_unreadable", 0)).await;
}

#[tokio::test]
async fn failing_discovery() {
    let failing = async |fault: Fault, expected: Expected| {
        let stage = Stage::start().await;
        stage.world.authorization_server().set_discovery_fault(Some(fault));
        expect_trouble(&stage, expected).await;
    };
    failing(Fault::Status { status: 500, body: CANARY.to_owned() }, passing("server_error", 0)).await;
    failing(Fault::Disconnect, passing("broken_connection", 0)).await;
    failing(Fault::Garbage, lasting("discovery", 0)).await;
    failing(Fault::Status { status: 404, body: CANARY.to_owned() }, lasting("discovery", 0)).await;
    failing(over(json!({ "issuer": format!("https://{CANARY}/") })), lasting("issuer_mismatch", 0)).await;
    failing(over(json!({ "token_endpoint": null })), lasting("discovery", 0)).await;
    failing(over(json!({ "token_endpoint": format!("http://{CANARY}/token") })), lasting("discovery", 0)).await;
}

#[tokio::test]
async fn a_discovery_that_leads_elsewhere_is_not_followed() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = Stage::start().await;
    let location = format!("https://{}/metadata", elsewhere.local_addr().unwrap());
    stage.world.authorization_server().set_discovery_fault(Some(Fault::Redirect { status: 302, location }));
    expect_trouble(&stage, lasting("discovery", 0)).await;
    assert!(tokio::time::timeout(SILENCE, elsewhere.accept()).await.is_err());
}

/// An issuer without the slash at the end is another issuer (RFC 8414 §3.3).
#[tokio::test]
async fn an_issuer_that_differs_by_a_slash() {
    let stage = Stage::with(Default::default(), |facts| {
        facts.config().replace(&format!("\"{}\"", facts.issuer), &format!("\"{}\"", facts.issuer.trim_end_matches('/')))
    })
    .await;
    expect_trouble(&stage, lasting("issuer_mismatch", 0)).await;
}

/// A server that answers with far more than a token, with and without saying so.
#[tokio::test]
async fn an_endless_answer_is_cut_short() {
    for announced in [true, false] {
        let server = Scripted::named("localhost", "http/1.1").await;
        let stage = Stage::with(Default::default(), |facts| {
            let config = facts.config().replace(
                &format!("issuer = \"{}\"", facts.issuer),
                &format!("token_endpoint = \"https://localhost:{}/token\"", server.port()),
            );
            config.replacen("ca = \"peers-ca.pem\"", &format!("ca = \"{}\"", server.ca()), 1)
        })
        .await;
        let flood = tokio::spawn(async move {
            let mut wire = server.accept().await;
            wire.head().await;
            wire.write("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n").await;
            soon(pour(&mut wire, announced)).await
        });
        expect_trouble(&stage, lasting("invalid_answer", 0)).await;
        let poured = flood.await.unwrap();
        // What fits into the kernel's buffers on the way may have been written, too.
        assert!(poured < 20 << 20, "{poured} bytes were taken of 200 MB");
    }
}

/// Sends 200 MB of JSON; says how much the peer took before it left.
async fn pour(wire: &mut Wire, announced: bool) -> usize {
    const ALL: usize = 200_000_000;
    let block = " ".repeat(0x4000);
    let head = if announced {
        format!("content-length: {ALL}\r\n\r\n")
    } else {
        "transfer-encoding: chunked\r\n\r\n".to_owned()
    };
    let mut poured = 0;
    let mut left = wire.try_write(head).await.is_err();
    while !left && poured < ALL {
        let block = if announced { block.clone() } else { format!("4000\r\n{block}\r\n") };
        left = wire.try_write(block).await.is_err();
        poured += 0x4000;
    }
    poured
}

/// The failure stands for later requests for as long as it should, and no longer than
/// until somebody changes something.
#[tokio::test]
async fn a_mended_server_serves_after_a_reload() {
    let stage = Stage::start().await;
    let server = stage.world.authorization_server();
    server.set_fault(Some(Fault::Garbage));
    let mut agent = Agent::of(&stage, Way::TunnelH2).await;
    for _ in 0..20 {
        let answer = agent.get("/v1/orders").await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        text(answer).await;
    }
    assert_eq!(server.token_request_count(), 1, "an agent that insists costs nothing");
    mend(server);
    stage.reload(&stage.facts.config());
    assert_eq!(agent.get("/v1/orders").await.status(), StatusCode::OK);
    assert_eq!(server.token_request_count(), 2);
}

fn mend(server: &AuthorizationServerHandle) {
    server.set_fault(None);
}

/// After an outage nobody has to do anything.
#[tokio::test]
async fn a_server_that_comes_back_is_asked_again() {
    let stage = Stage::start().await;
    let server = stage.world.authorization_server();
    server.set_fault(Some(Fault::Status { status: 503, body: String::new() }));
    let mut agent = Agent::of(&stage, Way::BaseUrl).await;
    let answer = agent.get("/v1/orders").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    text(answer).await;
    mend(server);
    soon(async {
        loop {
            let answer = agent.get("/v1/orders").await;
            let served = answer.status() == StatusCode::OK;
            text(answer).await;
            if served {
                return;
            }
        }
    })
    .await;
    assert_eq!(server.token_request_count(), 4, "three attempts that failed, one that didn't");
    assert_eq!(stage.world.api().seen_count(), 1);
    assert_eq!(
        stage.world.api().seen()[0].authority.as_deref(),
        Some(format!("{API}:{}", stage.facts.api_port).as_str())
    );
}
