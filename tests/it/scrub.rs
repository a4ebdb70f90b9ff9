//! Answers that repeat the token (threat 15): fields, bodies in every coding, cut anywhere,
//! events, trailers, interim answers, over h1 and h2. The agent gets asterisks, the log an
//! alert, and the next request another token.

use std::io::Write;

use flate2::{Compression, write};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinHandle;

use crate::{
    agents::{Agent, Way, data, empty, fed, open, raw_head, text},
    scripted::{Scripted, Wire, field, soon, status},
    support::Stage,
};

type Answer = JoinHandle<hyper::Result<Response<Incoming>>>;

fn get(agent: &mut Agent, fields: &[(&str, &str)]) -> Answer {
    let request = fields
        .iter()
        .fold(agent.request(Method::GET, "/v1/orders"), |request, (name, value)| request.header(*name, *value));
    tokio::spawn(agent.send(request.body(empty()).unwrap()))
}

async fn answer(asked: Answer) -> Response<Incoming> {
    soon(asked).await.unwrap().unwrap()
}

/// The token that came with a request.
fn token(head: &str) -> String {
    field(head, "authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned()
}

fn stars(token: &str) -> String {
    "*".repeat(token.len())
}

/// Every alert so far.
fn alerts(stage: &Stage) -> Vec<String> {
    let log = stage.log().into_iter().filter(|line| line["event"] == "alert.token_in_response");
    log.map(|line| line["detail"].as_str().unwrap().to_owned()).collect()
}

pub fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = write::GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// RFC 7932 §9.2: as it is, in one meta-block.
pub fn brotli(text: &str) -> Vec<u8> {
    let head = (u32::try_from(text.len()).unwrap() - 1) << 4 | 1 << 20;
    [&head.to_le_bytes()[..3], text.as_bytes(), &[0b11]].concat()
}

pub fn zstd(text: &str) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
}

/// What an agent has in hands of an answer.
pub async fn all_of(answer: Response<Incoming>) -> (HeaderMap, String, HeaderMap) {
    let (head, body) = answer.into_parts();
    let body = soon(body.collect()).await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    (head.headers, String::from_utf8(body.to_bytes().to_vec()).unwrap(), trailers)
}

#[tokio::test]
async fn an_agent_never_sees_the_token_that_an_h1_upstream_repeats() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("token_storm_guard = \"0s\"").await;
    let mut former = String::new();
    for (number, way) in Way::ALL.into_iter().enumerate() {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = get(&mut agent, &[]);
        let mut wire = upstream.accept().await;
        let token = token(&wire.head().await);
        assert_ne!(token, former, "{way:?}: another one, since that was seen in an answer");
        let body = format!("{{\"headers\": {{\"Authorization\": \"Bearer {token}\"}}, \"again\": \"{token}\"}}");
        wire.write(format!(
            "HTTP/1.1 200 {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\
             location: /cb?access_token={token}#{token}\r\netag: \"1\"\r\n\r\n{body}",
            body.len()
        ))
        .await;
        let (fields, got, _) = all_of(answer(asked).await).await;
        assert_eq!(got, body.replace(&token, &stars(&token)), "{way:?}");
        assert_eq!(fields[header::CONTENT_LENGTH], body.len().to_string());
        assert_eq!(fields[header::LOCATION], format!("/cb?access_token={0}#{0}", stars(&token)));
        assert_eq!(fields[header::ETAG], "\"1\"");
        assert_eq!(alerts(&stage).len(), number + 1, "once an answer");
        former = token;
    }
    let record = stage.records().pop().unwrap();
    let alert = alerts(&stage).pop().unwrap();
    assert!(alert.contains(record["request_id"].as_str().unwrap()), "{alert}");
    assert!(alert.contains(record["token_fingerprint"].as_str().unwrap()), "{alert}");
    assert!(!alert.contains(&former));
    let metrics = stage.proxy.recorder().metrics().encode();
    let counted = format!("cupbearer_alerts_total{{kind=\"token_in_response\"}} {}", Way::ALL.len());
    assert!(metrics.contains(&counted), "{metrics}");
}

/// In the body, cut in two at a byte of the token, and in the trailers.
#[tokio::test]
async fn an_agent_never_sees_the_token_that_an_h2_upstream_repeats() {
    let mut upstream = Scripted::start("h2").await;
    upstream.answer_h2(|request: Request<Incoming>| async move {
        let value = request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned();
        let (feeder, body) = fed();
        tokio::spawn(async move {
            let (one, two) = value.split_at(value.len() / 2);
            feeder.data(format!("you sent {one}")).await;
            feeder.data(format!("{two}.")).await;
            let mut trailers = HeaderMap::new();
            trailers.insert("x-debug", HeaderValue::from_str(&value).unwrap());
            feeder.trailers(trailers).await;
        });
        Response::builder().header("content-type", "text/plain").header("trailer", "x-debug").body(body).unwrap()
    });
    let stage = upstream.stage("").await;
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = get(&mut agent, &[("te", "trailers")]);
        let (_, body, trailers) = all_of(answer(asked).await).await;
        let filled = body.strip_prefix("you sent Bearer ").and_then(|rest| rest.strip_suffix('.')).unwrap();
        assert!(filled.len() > 100 && filled.bytes().all(|byte| byte == b'*'), "{way:?}: {body}");
        assert_eq!(trailers["x-debug"], format!("Bearer {filled}"), "{way:?}");
    }
    assert_eq!(alerts(&stage).len(), Way::ALL.len());
}

/// Nothing waits for an event that has no beginning of the token at its end; and a token in
/// crumbs is found.
#[tokio::test]
async fn events_pass_at_once_and_without_the_token() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = get(&mut agent, &[("accept", "text/event-stream")]);
        let mut wire = upstream.accept().await;
        let token = token(&wire.head().await);
        wire.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let mut answer = answer(asked).await;
        for number in 1..=3 {
            let event = format!("data: {number}\n\n");
            wire.write(format!("{:x}\r\n{event}\r\n", event.len())).await;
            assert_eq!(data(&mut answer).await, event, "{way:?}");
        }
        // The first bytes would pass after a moment, on a slow machine.
        wire.write(format!("8\r\n{}\r\n", &token[..8])).await;
        for byte in token[8..].bytes() {
            wire.write([b"1\r\n", &[byte][..], b"\r\n"].concat()).await;
        }
        assert_eq!(data(&mut answer).await, stars(&token), "{way:?}");
        // A beginning that comes to nothing.
        let (event, begun) = (format!("data: {}", &token[..20]), "data: ");
        wire.write(format!("{:x}\r\n{event}\r\n", event.len())).await;
        assert_eq!(data(&mut answer).await, begun, "{way:?}");
        wire.write("2\r\n\n\n\r\n0\r\n\r\n").await;
        assert_eq!(text(answer).await, format!("{}\n\n", &token[..20]), "{way:?}");
    }
}

/// Asked for gzip at most, upstreams may send what they like: the agent gets it decoded.
#[tokio::test]
async fn codings_are_undone_to_look_through_them() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::ALL {
        for coding in ["gzip", "br", "zstd"] {
            let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
            let asked = get(&mut agent, &[("accept-encoding", "br, zstd, gzip;q=0.5")]);
            let mut wire = upstream.accept().await;
            let head = wire.head().await;
            assert_eq!(field(&head, "accept-encoding"), Some("gzip"));
            let token = token(&head);
            let plain = format!("{{\"filler\": \"{}\", \"token\": \"{token}\"}}", "0123456789".repeat(5000));
            let coded = match coding {
                "gzip" => gzip(&plain),
                "br" => brotli(&plain),
                _ => zstd(&plain),
            };
            wire.write(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: {coding}\r\nconnection: close\r\n\
                 content-length: {}\r\nvary: accept-encoding\r\ncontent-digest: sha-256=:x:\r\netag: \"1\"\r\n\r\n",
                coded.len()
            ))
            .await;
            for piece in coded.chunks(1000) {
                wire.write(piece).await;
            }
            let (fields, got, _) = all_of(answer(asked).await).await;
            assert_eq!(got, plain.replace(&token, &stars(&token)), "{way:?}, {coding}");
            for gone in ["content-encoding", "content-digest"] {
                assert!(!fields.contains_key(gone), "{gone}");
            }
            assert_eq!(
                (&fields["vary"], &fields["etag"]),
                (&"accept-encoding".parse().unwrap(), &"\"1\"".parse().unwrap())
            );
        }
    }
    let record = stage.records().pop().unwrap();
    assert_eq!((&record["status"], &record["error"]), (&200.into(), &serde_json::Value::Null), "{record}");
}

/// Events in gzip come out one by one, too.
#[tokio::test]
async fn coded_events_pass_at_once() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
    let asked = get(&mut agent, &[("accept-encoding", "gzip")]);
    let mut wire = upstream.accept().await;
    wire.head().await;
    wire.write(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n",
    )
    .await;
    let mut answer = answer(asked).await;
    let mut encoder = write::GzEncoder::new(Vec::new(), Compression::default());
    for number in 1..=3 {
        let event = format!("data: {number}\n\n");
        encoder.write_all(event.as_bytes()).unwrap();
        encoder.flush().unwrap();
        let coded = std::mem::take(encoder.get_mut());
        wire.write([format!("{:x}\r\n", coded.len()).as_bytes(), &coded, b"\r\n"].concat()).await;
        assert_eq!(data(&mut answer).await, event);
    }
}

/// One that says gzip and sends something else, or half of it, has its answer cut.
#[tokio::test]
async fn what_cannot_be_decoded_is_cut() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    let whole = gzip("a text that is long enough to be cut in two");
    let broken: [&[u8]; 2] = [b"this is no gzip at all", &whole[..whole.len() - 6]];
    for body in broken {
        let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
        let asked = get(&mut agent, &[]);
        let mut wire = upstream.accept().await;
        wire.head().await;
        let length = body.len();
        wire.write(format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\n\r\n")).await;
        let answer = answer(asked).await;
        wire.write(body).await;
        soon(answer.into_body().collect()).await.unwrap_err();
        assert_eq!(stage.records().pop().unwrap()["error"], "upstream_protocol");
    }
}

/// Nobody can tell whether the token is in it.
#[tokio::test]
async fn codings_that_cannot_be_undone_are_refused() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (head, range) in [
        ("200 OK\r\ncontent-encoding: dcb\r\ncontent-type: text/html", ""),
        ("200 OK\r\ncontent-encoding: gzip, br\r\ncontent-type: text/html", ""),
        (
            "206 Partial Content\r\ncontent-range: bytes 0-3/9\r\ncontent-encoding: gzip\r\ncontent-type: text/html",
            "bytes=0-3",
        ),
    ] {
        let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
        let asks: &[_] = &[("accept-encoding", "gzip"), ("range", range)];
        let asked = get(&mut agent, if range.is_empty() { &asks[..1] } else { asks });
        let mut wire = upstream.accept().await;
        let asked_for = if range.is_empty() { "gzip" } else { "identity" };
        assert_eq!(field(&wire.head().await, "accept-encoding"), Some(asked_for));
        wire.write(format!("HTTP/1.1 {head}\r\ncontent-length: 4\r\n\r\nbody")).await;
        let answer = answer(asked).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["x-cupbearer-error"]),
            (502, &"upstream_protocol".parse().unwrap())
        );
        assert_eq!(stage.records().pop().unwrap()["status"], 502);
    }
}

/// Answers without a body say the same of it as those with one would.
#[tokio::test]
async fn heads_alone_tell_of_no_coding() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (method, head) in
        [(Method::HEAD, "200 OK\r\ncontent-length: 300\r\ncontent-type: text/html"), (Method::GET, "304 Not Modified")]
    {
        let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH1).await;
        let request = agent.request(method, "/v1/orders").body(empty()).unwrap();
        let asked = tokio::spawn(agent.send(request));
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.write(format!("HTTP/1.1 {head}\r\ncontent-encoding: gzip\r\netag: \"1\"\r\n\r\n")).await;
        let answer = answer(asked).await;
        assert!(!answer.headers().contains_key("content-encoding"));
        assert!(!answer.headers().contains_key("content-length"));
        assert_eq!(answer.headers()["etag"], "\"1\"");
    }
}

/// Over h2 an upstream can send a body where HTTP has none (RFC 9110 §15.4.5).
#[tokio::test]
async fn a_body_where_there_is_none_is_looked_through_too() {
    let upstream = Scripted::start("h2").await;
    let stage = upstream.stage("").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
    let asked = get(&mut agent, &[]);
    let mut connection = soon(h2::server::handshake(upstream.accept().await.into_inner())).await.unwrap();
    let (request, mut respond) = soon(connection.accept()).await.unwrap().unwrap();
    let driver = tokio::spawn(async move { drop(connection.accept().await) });
    let value = request.headers()[header::AUTHORIZATION].to_str().unwrap();
    let head = Response::builder().status(304).header("content-type", "text/plain").body(()).unwrap();
    let mut sending = respond.send_response(head, false).unwrap();
    sending.send_data(format!("you sent {value}").into(), true).unwrap();
    let (_, body, _) = all_of(answer(asked).await).await;
    assert_eq!(body, format!("you sent Bearer {}", stars(value.strip_prefix("Bearer ").unwrap())));
    assert_eq!(alerts(&stage).len(), 1);
    driver.abort();
}

#[tokio::test]
async fn interim_answers_are_looked_through() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    let way = Way::TunnelH1;
    let mut agent = Wire::new(open(&stage, &upstream.authority(), way).await);
    agent.write(raw_head(&stage, &upstream.authority(), way, ("GET", "/v1/orders", "1.1"), "")).await;
    let mut wire = upstream.accept().await;
    let token = token(&wire.head().await);
    wire.write(format!("HTTP/1.1 103 Early Hints\r\nlink: </{token}>\r\n\r\n")).await;
    let hints = agent.head().await;
    assert_eq!((status(&hints), field(&hints, "link")), (103, Some(&*format!("</{}>", stars(&token)))));
    // Told at once, and once: the answer may never come, or have another token.
    wire.write(format!("HTTP/1.1 103 Early Hints\r\nlink: </{token}>\r\n\r\n")).await;
    assert_eq!(status(&agent.head().await), 103);
    assert!(alerts(&stage)[0].contains("in an interim answer"), "{:?}", alerts(&stage));
    wire.write(
        "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer error=\"invalid_token\"\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let other = self::token(&wire.head().await);
    assert_ne!(other, token);
    assert_eq!(alerts(&stage).len(), 1);
    wire.write(format!("HTTP/1.1 103 Early Hints\r\nlink: </{other}>\r\n\r\n")).await;
    assert_eq!(field(&agent.head().await, "link"), Some(&*format!("</{}>", stars(&other))));
    wire.write("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(status(&agent.head().await), 204);
    assert_eq!(alerts(&stage).len(), 2, "one a token");
}

/// Threat 15 behind a change of protocol: no compression is agreed on, and messages are filled.
#[tokio::test]
async fn websocket_messages_are_looked_through() {
    const ASKS: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                        sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n";
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (number, way) in Way::H1.into_iter().enumerate() {
        let mut agent = Wire::new(open(&stage, &upstream.authority(), way).await);
        agent.write(raw_head(&stage, &upstream.authority(), way, ("GET", "/v1/socket", "1.1"), ASKS)).await;
        let mut far = upstream.accept().await;
        let head = far.head().await;
        assert_eq!(field(&head, "sec-websocket-extensions"), None);
        let token = token(&head);
        far.write(format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nx-debug: {token}\r\n\r\n"
        ))
        .await;
        let answer = agent.head().await;
        assert_eq!((status(&answer), field(&answer, "x-debug")), (101, Some(&*stars(&token))), "{way:?}");
        let (one, two) = token.split_at(100);
        far.write([&[0x01, 100][..], one.as_bytes()].concat()).await;
        let length = u16::try_from(two.len()).unwrap().to_be_bytes();
        far.write([&[0x80, 126][..], &length, two.as_bytes(), &[0x81, 3], b"one"].concat()).await;
        let stars = stars(&token);
        let messages = [&[0x01, 100][..], &stars.as_bytes()[..100], &[0x80, 126], &length, &stars.as_bytes()[100..]];
        let messages = [&messages.concat()[..], &[0x81, 3], b"one"].concat();
        assert_eq!(agent.exactly(messages.len()).await, messages, "{way:?}");
        agent.write([&[0x81, 100][..], one.as_bytes()].concat()).await;
        assert_eq!(&far.exactly(102).await[2..], one.as_bytes(), "what the agent sends is its own");
        assert_eq!(alerts(&stage).len(), 2 * number + 2, "of the fields and of a message");
    }
}

/// The agent could read compressed messages, and find the token behind what is no frame.
#[tokio::test]
async fn a_websocket_hides_nothing() {
    const ASKS: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                        Sec_WebSocket_Extensions: permessage-deflate\r\n";
    const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket,\r\nconnection: upgrade\r\n\
                          sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::H1 {
        for extends in [true, false] {
            let mut agent = Wire::new(open(&stage, &upstream.authority(), way).await);
            agent.write(raw_head(&stage, &upstream.authority(), way, ("GET", "/v1/socket", "1.1"), ASKS)).await;
            let mut far = upstream.accept().await;
            let head = far.head().await;
            assert!(!head.to_ascii_lowercase().contains("extensions"), "{head}");
            let extension = if extends { "sec-websocket-extensions: permessage-deflate\r\n" } else { "" };
            far.write(format!("{AGREED}{extension}\r\n")).await;
            let answer = agent.head().await;
            if extends {
                assert_eq!(status(&answer), 502, "{way:?}");
                continue;
            }
            assert_eq!(status(&answer), 101, "{way:?}");
            let token = token(&head);
            let sent = |text: &str| [&[0x81, 2][..], b"hi", &[0xc1, 1, b'x'], &[0x81, 3], text.as_bytes()].concat();
            far.write(sent(&token)).await;
            far.finish().await;
            let clean = sent(&stars(&token));
            assert_eq!(agent.exactly(clean.len()).await, clean, "{way:?}");
        }
    }
}

/// gRPC says in trailers what went wrong, behind bodies that are no text.
#[tokio::test]
async fn trailers_are_looked_through_behind_any_body() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (number, way) in Way::ALL.into_iter().enumerate() {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = get(&mut agent, &[("te", "trailers")]);
        let mut wire = upstream.accept().await;
        let token = token(&wire.head().await);
        wire.write("HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n").await;
        wire.write(format!("{:x}\r\n{token}\r\n0\r\ngrpc-message: bad {token}\r\n\r\n", token.len())).await;
        let (_, body, trailers) = all_of(answer(asked).await).await;
        assert_eq!(body, token, "the body passes as it is");
        assert_eq!(trailers["grpc-message"], format!("bad {}", stars(&token)), "{way:?}");
        assert_eq!(alerts(&stage).len(), number + 1);
    }
}

/// A digest behind a body is of the bytes in their coding, which the agent doesn't get.
#[tokio::test]
async fn trailers_about_a_coding_that_is_undone_are_gone() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    let coded = gzip("{}");
    for way in Way::ALL {
        for is_coded in [true, false] {
            let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
            let asked = get(&mut agent, &[("te", "trailers"), ("accept-encoding", "gzip")]);
            let mut wire = upstream.accept().await;
            wire.head().await;
            let (field, body) = if is_coded { ("content-encoding: gzip\r\n", &*coded) } else { ("", &b"{}"[..]) };
            wire.write(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{field}connection: close\r\n\
                 transfer-encoding: chunked\r\n\r\n{:x}\r\n",
                body.len()
            ))
            .await;
            wire.write(body).await;
            wire.write("\r\n0\r\ncontent-digest: sha-256=:x:\r\nx-status: done\r\n\r\n").await;
            let (_, got, trailers) = all_of(answer(asked).await).await;
            assert_eq!((&*got, &trailers["x-status"]), ("{}", &"done".parse().unwrap()), "{way:?}");
            assert_eq!(trailers.contains_key("content-digest"), !is_coded, "{way:?}");
        }
    }
}

/// Of a request that was sent twice, both tokens are looked for.
#[tokio::test]
async fn the_token_of_a_former_attempt_does_not_come_back_either() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("token_storm_guard = \"0s\"").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH1).await;
    let asked = get(&mut agent, &[]);
    let mut wire = upstream.accept().await;
    let first = token(&wire.head().await);
    wire.write(
        "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer error=\"invalid_token\"\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let second = token(&upstream.next(&mut wire).await);
    assert_ne!(first, second);
    let text = format!("{first} and {second}");
    wire.write(format!("HTTP/1.1 200 OK\r\nx-was: {first}\r\ncontent-length: {}\r\n\r\n{text}", text.len())).await;
    let (fields, body, _) = all_of(answer(asked).await).await;
    assert_eq!(body, format!("{} and {}", stars(&first), stars(&second)));
    assert_eq!(fields["x-was"], stars(&first));
}

/// RFC 9470: what the upstream asks for is told, but not what it repeats.
#[tokio::test]
async fn our_own_refusal_does_not_repeat_the_token() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH1).await;
    let asked = get(&mut agent, &[]);
    let mut wire = upstream.accept().await;
    let token = token(&wire.head().await);
    wire.write(format!(
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nwww-authenticate: Bearer \
         error=\"insufficient_user_authentication\", acr_values=\"{token}\", max_age=\"5\"\r\n\r\n"
    ))
    .await;
    let (_, problem, _) = all_of(answer(asked).await).await;
    assert!(problem.contains("--param max_age=5") && !problem.contains(&token), "{problem}");
}

/// What is no text passes as it is, and so does everything where the route says so; and no
/// upstream is asked for anything else there.
#[tokio::test]
async fn where_it_does_not_apply_nothing_is_touched() {
    let upstream = Scripted::start("http/1.1").await;
    let stages = [
        (upstream.stage("").await, "image/png", "gzip"),
        (
            Stage::with(Default::default(), |facts| {
                upstream.config(facts).replace("credential = \"orders\"", "credential = \"orders\"\nscrub = false")
            })
            .await,
            "text/plain",
            "br, gzip",
        ),
    ];
    for (stage, kind, asked_for) in stages {
        for way in Way::ALL {
            let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
            let asked = get(&mut agent, &[("accept-encoding", "br, gzip")]);
            let mut wire = upstream.accept().await;
            let head = wire.head().await;
            assert_eq!(field(&head, "accept-encoding"), Some(asked_for));
            let body = gzip(&token(&head));
            let length = body.len();
            wire.write(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\n\r\n"
            ))
            .await;
            wire.write(&body).await;
            let answer = answer(asked).await;
            assert_eq!(answer.headers()["content-encoding"], "gzip", "{way:?}");
            assert_eq!(soon(answer.into_body().collect()).await.unwrap().to_bytes(), body, "{way:?}");
        }
        assert_eq!(alerts(&stage), [""; 0]);
    }
}
