//! Changes of protocol: only what was asked for and is allowed, only after the upstream's 101,
//! and the token with the handshake alone (threat 65).

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use http::{Method, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::{
    agents::{Agent, Way, empty, open, raw_head, records, text},
    scripted::{Scripted, Wire, field, soon, status},
    support::{Facts, Stage},
};

const HANDSHAKE: &str = "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: chat\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                      sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: chat\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An agent that asks with these fields, and the upstream's connection with the head it got.
async fn ask(stage: &Stage, upstream: &Scripted, way: Way, fields: &str) -> (Wire, Wire, String) {
    let mut agent = Wire::new(open(stage, &upstream.authority(), way).await);
    agent.write(raw_head(stage, &upstream.authority(), way, ("GET", "/v1/socket", "1.1"), fields)).await;
    let mut far = upstream.accept().await;
    let head = far.head().await;
    (agent, far, head)
}

/// The stage with this in its only route.
async fn with_route(upstream: &Scripted, lines: &str) -> Stage {
    let config = |facts: &Facts| {
        upstream.config(facts).replace("upgrade_http = true\n", &format!("upgrade_http = true\n{lines}\n"))
    };
    Stage::with(Default::default(), config).await
}

#[tokio::test]
async fn a_websocket_passes_through_every_way_in() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (index, way) in Way::H1.into_iter().enumerate() {
        let (mut agent, mut far, head) = ask(&stage, &upstream, way, HANDSHAKE).await;
        assert_eq!(field(&head, "upgrade"), Some("websocket"), "{way:?}");
        assert_eq!(field(&head, "connection"), Some("upgrade"));
        assert_eq!(field(&head, "sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(field(&head, "authorization").unwrap().starts_with("Bearer "));

        // What comes behind the request waits for the 101.
        agent.write("too early, ").await;
        far.silence().await;
        far.write(format!("{AGREED}first, ")).await;
        let answer = agent.head().await;
        assert_eq!(status(&answer), 101, "{way:?}");
        assert_eq!(field(&answer, "upgrade"), Some("websocket"));
        assert_eq!(field(&answer, "connection"), Some("upgrade"));
        assert_eq!(field(&answer, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(field(&answer, "sec-websocket-protocol"), Some("chat"));
        assert_eq!(agent.exactly(7).await, b"first, ");
        assert_eq!(far.exactly(11).await, b"too early, ");
        for _ in 0..3 {
            agent.write([0x81, 0x02, b'h', b'i']).await;
            assert_eq!(far.exactly(4).await, [0x81, 0x02, b'h', b'i']);
            far.write([0x81, 0x00]).await;
            assert_eq!(agent.exactly(2).await, [0x81, 0x00]);
        }
        assert_eq!(stage.records().len(), index, "it is still under way");

        // One side may end while the other goes on.
        agent.finish().await;
        assert_eq!(far.rest().await, "");
        far.write("goodbye").await;
        far.finish().await;
        assert_eq!(agent.rest().await, "goodbye", "{way:?}");
        let record = records(&stage, index + 1).await.pop().unwrap();
        assert_eq!((&record["status"], &record["error"]), (&Value::from(101), &Value::Null), "{record}");
        assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&Value::from(23), &Value::from(20)), "{record}");
    }
    assert_eq!(stage.final_records().await.len(), 3, "each ended once");
}

/// Threat 65: what isn't a 101 to what was asked switches nothing, and what the agent sent
/// behind its request is no part of it.
#[tokio::test]
async fn only_a_matching_101_switches() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket, h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket/13\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n",
    ] {
        for way in Way::H1 {
            let (mut agent, mut far, _) = ask(&stage, &upstream, way, HANDSHAKE).await;
            agent.write("smuggled").await;
            far.write(answer).await;
            let refusal = agent.head().await;
            assert_eq!(status(&refusal), 502, "{way:?}: {answer}");
            assert_eq!(field(&refusal, "x-cupbearer-error"), Some("upstream_protocol"));
            assert_eq!(far.rest().await, "", "{way:?}: {answer}");
        }
    }
    // A 200 leaves the connection what it was: a request behind it is judged and sent as one.
    for way in Way::H1 {
        let (mut agent, mut far, _) = ask(&stage, &upstream, way, HANDSHAKE).await;
        agent.write(raw_head(&stage, &upstream.authority(), way, ("GET", "/v1/next", "1.1"), "")).await;
        far.silence().await;
        far.write(OK).await;
        assert_eq!(status(&agent.head().await), 200, "{way:?}");
        assert_eq!(agent.exactly(2).await, b"ok");
        let next = upstream.next(&mut far).await;
        assert!(next.starts_with("GET /v1/next HTTP/1.1\r\n"), "{way:?}: {next}");
        assert!(field(&next, "authorization").unwrap().starts_with("Bearer "));
        far.write(OK).await;
        assert_eq!(status(&agent.head().await), 200, "{way:?}");
    }
}

/// Threats 65 and 66: what isn't allowed, or wasn't asked for in the right way, is not asked.
#[tokio::test]
async fn an_upgrade_that_is_not_allowed_is_not_asked_for() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    let websocket = "upgrade: websocket\r\n";
    for (version, fields) in [
        ("1.1", "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"),
        ("1.1", "connection: upgrade\r\nupgrade: TLS/1.0\r\n"),
        ("1.1", "connection: upgrade\r\nupgrade: websocket/13\r\n"),
        // Not named by `Connection`, before a body, or in a version that has none.
        ("1.1", websocket),
        ("1.1", &format!("connection: close\r\n{websocket}")),
        ("1.1", &format!("connection: upgrade\r\n{websocket}content-length: 2\r\n\r\nhi")),
        ("1.0", &format!("connection: upgrade\r\n{websocket}")),
    ] {
        let mut agent = Wire::new(open(&stage, &upstream.authority(), Way::TunnelH1).await);
        let line = ("GET", "/v1/socket", version);
        agent.write(raw_head(&stage, &upstream.authority(), Way::TunnelH1, line, fields)).await;
        let mut far = upstream.accept().await;
        let head = far.head().await.to_ascii_lowercase();
        assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{fields}: {head}");
        far.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
        assert_eq!(status(&agent.head().await), 502, "{fields}");
    }
    // Of a list, what is allowed.
    let list = "connection: upgrade\r\nupgrade: h2c, WebSocket, proto/1\r\n";
    let (_agent, _far, head) = ask(&stage, &upstream, Way::BaseUrl, list).await;
    assert_eq!(field(&head, "upgrade"), Some("WebSocket"));
}

#[tokio::test]
async fn a_route_says_which_protocols_it_allows() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = with_route(&upstream, "upgrades = []").await;
    for way in Way::H1 {
        let mut agent = Wire::new(open(&stage, &upstream.authority(), way).await);
        let line = ("GET", "/v1/socket", "1.1");
        agent.write(raw_head(&stage, &upstream.authority(), way, line, HANDSHAKE)).await;
        let refusal = agent.head().await;
        assert_eq!(status(&refusal), 403, "{way:?}");
        assert_eq!(field(&refusal, "x-cupbearer-error"), Some("upgrade_not_allowed"));
    }
    upstream.nobody().await;
    assert_eq!(stage.world.authorization_server().token_request_count(), 0);
    let records = stage.final_records().await;
    assert_eq!(records.len(), 3);
    assert!(records.iter().all(|record| record["reason"] == "upgrade_not_allowed" && record["decision"] == "deny"));

    let stage = with_route(&upstream, "upgrades = [\"proto/1.0\"]").await;
    let fields = "connection: upgrade\r\nupgrade: proto/1.0\r\n";
    let (mut agent, mut far, head) = ask(&stage, &upstream, Way::TunnelH1, fields).await;
    assert_eq!(field(&head, "upgrade"), Some("proto/1.0"));
    far.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: proto/1.0\r\n\r\nhi").await;
    assert_eq!(status(&agent.head().await), 101);
    assert_eq!(agent.exactly(2).await, b"hi");
}

#[tokio::test]
async fn a_handshake_refused_for_its_token_is_made_again_with_another() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    let (mut agent, mut far, first) = ask(&stage, &upstream, Way::AbsoluteForm, HANDSHAKE).await;
    far.write(
        "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer error=\"invalid_token\"\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let second = upstream.next(&mut far).await;
    assert_eq!(field(&second, "upgrade"), Some("websocket"));
    assert_ne!(field(&second, "authorization"), field(&first, "authorization"));
    far.write(AGREED).await;
    assert_eq!(status(&agent.head().await), 101);
    agent.write("ping").await;
    assert_eq!(far.exactly(4).await, b"ping");
    far.finish().await;
    drop(agent);
    let record = stage.final_records().await.pop().unwrap();
    assert_eq!((&record["status"], &record["retried"]), (&Value::from(101), &Value::from(true)));
}

#[tokio::test]
async fn a_silent_websocket_is_closed_in_time() {
    for (limits, error) in
        [("tunnel_idle_timeout = \"200ms\"", "tunnel_idle"), ("tunnel_timeout = \"200ms\"", "tunnel_timeout")]
    {
        let upstream = Scripted::start("http/1.1").await;
        let stage = upstream.stage(limits).await;
        let (mut agent, mut far, _) = ask(&stage, &upstream, Way::TunnelH1, HANDSHAKE).await;
        far.write(AGREED).await;
        agent.head().await;
        assert_eq!(agent.rest().await, "");
        assert_eq!(far.rest().await, "");
        let records = stage.final_records().await;
        assert_eq!(records.len(), 1);
        assert_eq!(records[0]["error"], error);
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_a_websocket_and_not_for_ever() {
    let upstream = Scripted::start("http/1.1").await;
    for (limit, leaves, in_time) in [(20, true, true), (0, false, false)] {
        let stage = upstream.stage("").await;
        let (mut agent, mut far, _) = ask(&stage, &upstream, Way::BaseUrl, HANDSHAKE).await;
        far.write(AGREED).await;
        agent.head().await;
        let Stage { proxy, directory, .. } = stage;
        let ending = tokio::spawn(proxy.shutdown(Duration::from_secs(limit)));
        if leaves {
            agent.write("still there").await;
            assert_eq!(far.exactly(11).await, b"still there");
            drop((agent, far));
        }
        assert_eq!(ending.await.unwrap(), in_time);
        let text = std::fs::read_to_string(directory.path().join("state/audit.jsonl")).unwrap();
        assert_eq!(text.matches("\"status\":101").count(), 1, "{text}");
    }
}

// === Extended CONNECT ===

/// RFC 6455 §4.2.2.
fn accept(key: &str) -> String {
    let both = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, both.as_bytes());
    BASE64_STANDARD.encode(digest)
}

/// The 101 to a handshake that the proxy made itself.
pub fn agreed(head: &str) -> String {
    AGREED.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &accept(field(head, "sec-websocket-key").unwrap()))
}

/// An h2 agent that asks for a WebSocket, and the upstream's connection with the head it got.
async fn ask_h2(
    stage: &Stage,
    upstream: &Scripted,
    way: Way,
) -> (tokio::task::JoinHandle<Response<Incoming>>, Wire, String) {
    let mut agent = Agent::connect(stage, &upstream.authority(), way).await;
    let asking = tokio::spawn(async move {
        let fields = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")];
        let answer = agent.ask_for("websocket", "/v1/socket?room=1", &fields).await;
        // The connection outlives the answer.
        tokio::spawn(async move {
            let _agent = agent;
            std::future::pending::<()>().await;
        });
        answer
    });
    let mut far = upstream.accept().await;
    let head = far.head().await;
    (asking, far, head)
}

/// RFC 9113 §8.5: a reset ends both directions, also the one that had ended and is read no more.
#[tokio::test]
async fn a_reset_behind_a_half_close_ends_the_tunnel() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (index, way) in Way::H2.into_iter().enumerate() {
        let (asking, mut far, head) = ask_h2(&stage, &upstream, way).await;
        far.write(agreed(&head)).await;
        let mut agent = Wire::new(TokioIo::new(soon(hyper::upgrade::on(asking.await.unwrap())).await.unwrap()));
        agent.finish().await;
        assert_eq!(far.rest().await, "", "{way:?}: the half-close is passed on");
        drop(agent);
        // The upstream says nothing and keeps its side open.
        let record = records(&stage, index + 1).await.pop().unwrap();
        assert_eq!(record["error"], "tunnel_broke_off", "{way:?}: {record}");
    }
}

/// RFC 8441: mapped to the upgrade that an HTTP/1.1 upstream knows.
#[tokio::test]
async fn a_websocket_over_h2_becomes_an_upgrade() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (index, way) in Way::H2.into_iter().enumerate() {
        let (asking, mut far, head) = ask_h2(&stage, &upstream, way).await;
        assert!(head.starts_with("GET /v1/socket?room=1 HTTP/1.1\r\n"), "{way:?}: {head}");
        assert_eq!(field(&head, "host"), Some(&*upstream.authority()));
        assert_eq!(field(&head, "upgrade"), Some("websocket"));
        assert_eq!(field(&head, "connection"), Some("upgrade"));
        assert_eq!(field(&head, "sec-websocket-version"), Some("13"));
        assert_eq!(BASE64_STANDARD.decode(field(&head, "sec-websocket-key").unwrap()).unwrap().len(), 16);
        assert!(field(&head, "authorization").unwrap().starts_with("Bearer "));
        far.write(format!("{}first", agreed(&head))).await;
        let answer = asking.await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{way:?}");
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        for gone in ["sec-websocket-accept", "upgrade", "connection"] {
            assert!(!answer.headers().contains_key(gone), "{gone}");
        }
        let mut agent = Wire::new(TokioIo::new(soon(hyper::upgrade::on(answer)).await.unwrap()));
        assert_eq!(agent.exactly(5).await, b"first");
        for _ in 0..3 {
            agent.write("ping").await;
            assert_eq!(far.exactly(4).await, b"ping");
            far.write("pong").await;
            assert_eq!(agent.exactly(4).await, b"pong");
        }
        far.finish().await;
        assert_eq!(agent.rest().await, "");
        agent.finish().await;
        assert_eq!(far.rest().await, "");
        let record = records(&stage, index + 1).await.pop().unwrap();
        assert_eq!((&record["method"], &record["path"]), (&"GET".into(), &"/v1/socket".into()), "{record}");
        assert_eq!((&record["status"], &record["error"]), (&Value::from(101), &Value::Null), "{record}");
        assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&Value::from(12), &Value::from(17)), "{record}");
    }
}

/// Threat 65 over h2, where every 2xx means yes.
#[tokio::test]
async fn only_the_right_answer_opens_a_websocket_over_h2() {
    const LAST: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::H2 {
        for (answer, expected) in [
            (LAST.to_owned(), 502),
            ("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned(), 502),
            (AGREED.to_owned(), 502),
            (AGREED.replace("sec-websocket-accept", "x-accept"), 502),
            (AGREED.replace("upgrade: websocket", "upgrade: h2c"), 502),
            (LAST.replace("200 OK", "403 Forbidden"), 403),
            (LAST.replace("200 OK", "302 Found"), 302),
        ] {
            let (asking, mut far, _) = ask_h2(&stage, &upstream, way).await;
            far.write(&answer).await;
            let found = asking.await.unwrap();
            assert_eq!(found.status().as_u16(), expected, "{way:?}: {answer}");
            if expected == 502 {
                assert_eq!(found.headers()["x-cupbearer-error"], "upstream_protocol", "{way:?}: {answer}");
                assert_eq!(far.rest().await, "", "{way:?}: {answer}");
            } else {
                assert_eq!(text(found).await, "ok");
            }
        }
    }
}

/// Threat 44: an extended `CONNECT` is a request like others, for the tunnel's own host, and
/// opens nothing but what a route allows.
#[tokio::test]
async fn extended_connect_opens_no_other_way() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::H2 {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let mut refused = async |protocol, path: &str| {
            let answer = agent.ask_for(protocol, path, &[]).await;
            (answer.status().as_u16(), answer.headers()["x-cupbearer-error"].to_str().unwrap().to_owned())
        };
        for protocol in ["connect-udp", "connect-ip", "h2c", "websockets"] {
            assert_eq!(refused(protocol, "/v1/socket").await, (403, "upgrade_not_allowed".into()), "{way:?}");
        }
        assert_eq!(refused("websocket", "/v2/socket").await, (403, "path_not_allowed".into()), "{way:?}");
    }
    let mut agent = Agent::connect(&stage, "evil.test", Way::AbsoluteFormH2).await;
    assert_eq!(agent.ask_for("websocket", "/v1/socket", &[]).await.status(), 403);
    // In a tunnel to the one host, for another.
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
    agent.claim("evil.test");
    assert_eq!(agent.ask_for("websocket", "/v1/socket", &[]).await.headers()["x-cupbearer-error"], "target_mismatch");
    upstream.nobody().await;
    assert_eq!(stage.world.authorization_server().token_request_count(), 0);

    let stage = with_route(&upstream, "methods = [\"POST\"]").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
    assert_eq!(
        agent.ask_for("websocket", "/v1/socket", &[]).await.headers()["x-cupbearer-error"],
        "method_not_allowed"
    );
    upstream.nobody().await;
}

/// RFC 9113 §8.2.3: an h2 agent may cut its cookies, HTTP/1.1 has one field for them.
#[tokio::test]
async fn cookies_that_came_in_pieces_leave_as_one_field() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::H2 {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let request =
            agent.request(Method::GET, "/v1/orders").header(header::COOKIE, "a=b").header(header::COOKIE, "c=d");
        let asked = tokio::spawn(agent.send(request.body(empty()).unwrap()));
        let mut far = upstream.accept().await;
        let head = far.head().await;
        assert_eq!(head.matches("cookie: a=b; c=d\r\n").count(), 1, "{way:?}: {head}");
        assert_eq!(head.matches("cookie").count(), 1, "{way:?}: {head}");
        far.write(OK).await;
        assert_eq!(soon(asked).await.unwrap().unwrap().status(), StatusCode::OK);
    }
}
