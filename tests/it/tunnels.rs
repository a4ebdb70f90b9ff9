//! Inside a `CONNECT`: the tunnel's host is the only one, whatever else a request names; what
//! isn't HTTP goes nowhere; and each request is judged by the rules of its own moment.

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;

use crate::{
    support::{API, Facts, Stage},
    wire::{WAYS, Way, Wire, basic, connect_head},
};

/// An h2 connection inside a tunnel.
async fn h2(stage: &Stage) -> SendRequest<Empty<Bytes>> {
    let wire = Wire::tunnel(stage).await.secure(stage, API, &["h2"]).await.unwrap();
    let io = TokioIo::new(wire.into_io());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn code_over_h2(sender: &mut SendRequest<Empty<Bytes>>, request: Request<Empty<Bytes>>) -> (u16, String) {
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let code = serde_json::from_slice::<Value>(&body).ok().and_then(|body| body["code"].as_str().map(str::to_owned));
    (status, code.unwrap_or_default())
}

fn request(method: Method, uri: &str) -> http::request::Builder {
    Request::builder().method(method).uri(uri).version(Version::HTTP_2)
}

fn errors(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["error"].as_str().unwrap_or("")).collect()
}

/// Threat 43 over h1: domain fronting for another host's token.
#[tokio::test]
async fn what_a_request_names_has_to_be_the_tunnels_host() {
    let stage = Stage::start().await;
    let (authority, port) = (stage.authority(), stage.facts.api_port);
    let get = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\n{host}\r\n");
    let mismatched = [
        get("/v1/orders", "Host: evil.test\r\n"),
        get("/v1/orders", &format!("Host: evil.test:{port}\r\n")),
        get("/v1/orders", "Host: orders.test\r\n"),
        get("/v1/orders", &format!("Host: orders.test:{}\r\n", port ^ 1)),
        get("/v1/orders", &format!("Host: sub.{authority}\r\n")),
        get("/v1/orders", &format!("Host: {authority}@evil.test\r\n")),
        get("/v1/orders", &format!("Host: x@{authority}\r\n")),
        get("/v1/orders", &format!("Host: {authority}, evil.test\r\n")),
        get("/v1/orders", &format!("Host: {authority}/\r\n")),
        get("/v1/orders", "Host:\r\n"),
        get(&format!("https://evil.test:{port}/v1/orders"), &format!("Host: {authority}\r\n")),
        get(&format!("http://{authority}/v1/orders"), &format!("Host: {authority}\r\n")),
        get(&format!("https://{authority}/v1/orders"), "Host: evil.test\r\n"),
        get(&format!("https://user@{authority}/v1/orders"), &format!("Host: {authority}\r\n")),
    ];
    let count = mismatched.len();
    for text in mismatched {
        let mut wire = Way::Tunnel.open(&stage).await;
        wire.send(&text).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, &*answer.code()), (400, "target_mismatch"), "{text}");
        assert_eq!(answer.field("connection"), "close", "{text}");
        wire.closed().await;
    }
    for text in [
        get("/v1/orders", ""),
        get("/v1/orders", &format!("Host: {authority}\r\nHost: {authority}\r\n")),
        get("/v1/orders", &format!("Host: {authority}\r\nHost: evil.test\r\n")),
    ] {
        let mut wire = Way::Tunnel.open(&stage).await;
        wire.send(&text).await;
        assert_eq!(wire.answer().await.code(), "bad_request", "{text}");
        wire.closed().await;
    }
    stage.assert_nothing_left();
    for text in [
        get("/v1/orders", &format!("Host: ORDERS.test.:{port}\r\n")),
        get(&format!("https://{authority}/v1/orders"), &format!("Host: {authority}\r\n")),
    ] {
        let mut wire = Way::Tunnel.open(&stage).await;
        wire.send(&text).await;
        assert_eq!(wire.answer().await.status, 200, "{text}");
    }
    assert!(stage.world.api().seen().iter().all(|seen| seen.authority == Some(authority.clone())));
    assert_eq!(stage.final_records().await.len(), count + 5);
}

/// Threats 43, 44 and 73 over h2.
#[tokio::test]
async fn what_an_h2_request_names_has_to_be_the_tunnels_host() {
    let stage = Stage::start().await;
    let (authority, port) = (stage.authority(), stage.facts.api_port);
    let mut sender = h2(&stage).await;
    let cases = [
        (format!("https://evil.test:{port}/v1/orders"), None, "target_mismatch"),
        ("https://orders.test/v1/orders".to_owned(), None, "target_mismatch"),
        (format!("http://{authority}/v1/orders"), None, "target_mismatch"),
        (format!("https://{authority}/v1/orders"), Some("evil.test"), "target_mismatch"),
        (format!("https://{authority}/v2/orders"), None, "path_not_allowed"),
        (format!("https://{authority}/v1/../v2"), None, "path_not_allowed"),
    ];
    for (uri, host, code) in &cases {
        let mut request = request(Method::GET, uri);
        if let Some(host) = host {
            request = request.header("host", *host);
        }
        let (status, found) = code_over_h2(&mut sender, request.body(Empty::new()).unwrap()).await;
        assert_eq!((status, &*found), (if *code == "target_mismatch" { 400 } else { 403 }, *code), "{uri} {host:?}");
    }
    // A refusal costs its stream alone.
    for method in [Method::TRACE, Method::CONNECT] {
        let uri = if method == Method::CONNECT { authority.clone() } else { format!("https://{authority}/v1/orders") };
        let answer = sender.send_request(request(method.clone(), &uri).body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 405, "{method}");
    }
    stage.assert_nothing_left();
    let uri = format!("https://{authority}/v1/orders");
    let (status, _) = code_over_h2(&mut sender, request(Method::GET, &uri).body(Empty::new()).unwrap()).await;
    assert_eq!(status, 200);
    drop(sender);
    assert_eq!(stage.final_records().await.len(), cases.len() + 3);
}

/// Threat 42.
#[tokio::test]
async fn another_server_name_gets_no_certificate() {
    let stage = Stage::start().await;
    for name in ["evil.test", "sub.orders.test", "test", "localhost"] {
        let failed = Wire::tunnel(&stage).await.secure(&stage, name, &["h2", "http/1.1"]).await;
        assert!(failed.is_err(), "{name}");
    }
    stage.assert_nothing_left();
    let records = stage.final_records().await;
    assert_eq!(errors(&records), ["agent_tls"; 4]);
    assert!(records.iter().all(|record| record["method"] == "CONNECT" && record["agent"] == "researcher"));
}

/// Threats 29, 30 and 46.
#[tokio::test]
async fn connect_takes_a_host_and_a_port_and_nothing_else() {
    let stage = Stage::start().await;
    let (authority, key) = (stage.authority(), basic("researcher", &stage.key));
    let mut refused = 0;
    let targets = [
        API.to_owned(),
        format!("{API}:0"),
        format!("{API}:99999"),
        format!("{authority}:443"),
        format!("user@{authority}"),
        format!("{authority}/v1/orders"),
        format!("{authority}?x"),
        format!("http://{authority}/"),
        format!("https://{authority}"),
        "/".to_owned(),
        "/v1/orders".to_owned(),
        "*".to_owned(),
        ":443".to_owned(),
    ];
    for target in targets {
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n")).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 400, "{target}: {answer:?}");
        assert_eq!(wire.closed().await, b"", "{target}");
        // What is no request at all has no record.
        refused += usize::from(answer.problem()["request_id"].is_string());
    }
    let hidden = format!("GET http://{authority}/v1/orders HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n");
    for framing in [format!("Content-Length: {}", hidden.len()), "Transfer-Encoding: chunked".to_owned()] {
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(format!(
            "CONNECT {authority} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n{framing}\r\n\r\n{hidden}"
        ))
        .await;
        assert_eq!(wire.answer().await.code(), "bad_request");
        assert_eq!(wire.closed().await, b"");
        refused += 1;
    }
    // Bytes behind a refusal are nobody's request.
    for target in ["unnamed.test:443", &format!("{API}:0")] {
        let mut wire = Wire::connect(stage.forward()).await;
        wire.send(format!(
            "CONNECT {target} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n\r\n{hidden}{hidden}"
        ))
        .await;
        assert!(matches!(wire.answer().await.status, 400 | 403));
        assert_eq!(wire.closed().await, b"");
        refused += 1;
    }
    stage.assert_nothing_left();
    assert_eq!(stage.final_records().await.len(), refused);
}

/// Clear HTTP inside a tunnel, as Node's fetch sends it for `http://` URLs; and data that comes
/// with the `CONNECT` (threat 46).
#[tokio::test]
async fn clear_http_in_a_tunnel_is_decided_request_by_request() {
    let stage = Stage::start().await;
    let mut wire = Wire::connect(stage.forward()).await;
    let get = |path: &str| Way::Tunnel.head(&stage, "GET", path) + "\r\n";
    wire.send(connect_head(&stage, &stage.authority()) + &get("/v1/orders")).await;
    assert_eq!(wire.answer().await.status, 200);
    assert_eq!(wire.answer().await.status, 200);
    for (path, status) in [("/v2/orders", 403), ("/v1/orders", 200), ("/v1/../x", 403), ("/v1/whoami", 200)] {
        wire.send(get(path)).await;
        assert_eq!(wire.answer().await.status, status, "{path}");
    }
    wire.send(format!("GET http://{0}/v1/orders HTTP/1.1\r\nHost: {0}\r\n\r\n", stage.authority())).await;
    assert_eq!(wire.answer().await.status, 200);
    wire.send("GET /v1/orders HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
    assert_eq!(wire.answer().await.code(), "target_mismatch");
    drop(wire);
    let seen = stage.world.api().seen();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|seen| seen.claims.is_some()));
    let records = stage.final_records().await;
    assert_eq!(records.len(), 7, "{records:#?}");
    assert_eq!(errors(&records).iter().filter(|error| error.is_empty()).count(), 4);
}

/// Threats 45 and 52: what isn't HTTP is closed and recorded, and panics nobody.
#[tokio::test]
async fn what_is_no_http_is_closed_and_recorded() {
    let stage = Stage::start().await;
    let cases: [(&[u8], &str); 9] = [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "tunnel_protocol"),
        (b"\0\0\0\0", "tunnel_protocol"),
        (b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n", "tunnel_protocol"),
        (b"EHLO x\n", "bad_request"),
        (b"get / http/1.1\r\n", "tunnel_protocol"),
        (b" GET / HTTP/1.1\r\n\r\n", "tunnel_protocol"),
        (b"\x16\x03\x01\x00\x05hello", "agent_tls"),
        (b"\x16\x03\x01\x00\x00", "agent_tls"),
        (b"\x16\x03\x09\x00\x05hello", "tunnel_protocol"),
    ];
    let mut expected = Vec::new();
    for (bytes, error) in cases {
        let mut wire = Wire::tunnel(&stage).await;
        wire.send(bytes).await;
        wire.closed().await;
        expected.push(error);
    }
    let mut wire = Wire::tunnel(&stage).await;
    wire.send("GET").await;
    drop(wire);
    expected.push("agent_gone");
    stage.assert_nothing_left();
    let records = stage.final_records().await;
    let mut found = errors(&records);
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// Threat 52: silence, before and in the middle of a handshake.
#[tokio::test]
async fn a_silent_tunnel_is_closed_in_time() {
    let limits = |facts: &Facts| facts.config() + "\n[limits]\nhandshake_timeout = \"300ms\"\n";
    let stage = Stage::with(Default::default(), limits).await;
    for bytes in [&b""[..], b"\x16\x03", b"GE", b"\x16\x03\x01\x02\x00\x01"] {
        let mut wire = Wire::tunnel(&stage).await;
        wire.send(bytes).await;
        assert_eq!(wire.closed().await, b"", "{bytes:?}");
    }
    stage.assert_nothing_left();
    assert_eq!(errors(&stage.final_records().await), ["handshake_timeout"; 4]);
}

/// Threat 106: rules are those of the moment, in open tunnels and on kept connections.
#[tokio::test]
async fn new_rules_hold_for_the_next_request_of_an_open_connection() {
    let stage = Stage::start().await;
    let config = stage.facts.config();
    let other_key = config.replace(&stage.facts.key_sha256, &"0".repeat(64));
    let other_agent = config.replace("researcher", "somebody");
    let hosts = format!("hosts = [\"{}\"]", stage.authority());
    let other_host = config.replace(&hosts, "hosts = [\"other.test\"]");
    let denied =
        format!("{config}\n[[routes]]\nname = \"no\"\nhosts = [\"{}\"]\neffect = \"deny\"\n", stage.authority());
    assert!(other_host.contains("other.test"));
    let mut count = 0;
    for (changed, status, code) in [
        (&config, 200, ""),
        (&config.replace("/v1/**", "/v2/**"), 403, "path_not_allowed"),
        (&other_host, 403, "host_not_allowed"),
        (&denied, 403, "denied_by_route"),
        (&other_key, 407, "agent_unknown"),
        (&other_agent, 407, "agent_unknown"),
    ] {
        stage.reload(&config);
        let mut wires = Vec::new();
        for way in WAYS {
            wires.push((way, way.open(&stage).await));
        }
        wires.push((Way::Tunnel, Wire::tunnel(&stage).await));
        let mut sender = h2(&stage).await;
        let uri = stage.url("/v1/orders");
        let get = || request(Method::GET, &uri).body(Empty::new()).unwrap();
        assert_eq!(code_over_h2(&mut sender, get()).await.0, 200);
        for (way, wire) in &mut wires {
            wire.send(way.head(&stage, "GET", "/v1/orders") + "\r\n").await;
            assert_eq!(wire.answer().await.status, 200, "{way:?}");
        }
        count += 1 + wires.len();

        stage.reload(changed);
        let tunnels_stay = ["", "path_not_allowed"].contains(&code);
        for (way, mut wire) in wires {
            // By its key alone the renamed agent would still be known.
            if code == "agent_unknown" && way == Way::Reverse && changed.contains("somebody") {
                continue;
            }
            if way == Way::Tunnel && !tunnels_stay {
                assert_eq!(wire.closed().await, b"", "{code}");
                continue;
            }
            wire.send(way.head(&stage, "GET", "/v1/orders") + "\r\n").await;
            let answer = wire.answer().await;
            assert_eq!((answer.status, answer.field("x-cupbearer-error")), (status, code), "{way:?}");
            count += 1;
        }
        if tunnels_stay {
            assert_eq!(code_over_h2(&mut sender, get()).await, (status, code.to_owned()));
            count += 1;
        } else {
            // It may still be on its way to an end, where refusals are readable.
            let refused = sender.send_request(get()).await;
            count += usize::from(refused.is_ok());
            assert!(refused.is_err() || refused.is_ok_and(|answer| answer.status() == status), "{code}");
        }
    }
    assert_eq!(stage.final_records().await.len(), count);
}
