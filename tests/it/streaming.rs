//! What passes through while it is under way: events one by one, bodies of any size with
//! back-pressure, trailers, interim answers, and ends of every kind.

use std::time::Duration;

use bytes::Bytes;
use cupbearer::demo::{Protocols, WorldSettings};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    agents::{Agent, Way, data, empty, fed, full, open, raw_head, records, text},
    scripted::{Body, SILENCE, Scripted, Wire, field, soon, status},
    support::{API, Facts, Stage},
};

const MIB: usize = 1 << 20;

type Answer = JoinHandle<hyper::Result<Response<Incoming>>>;

/// A request on its way.
fn start(agent: &mut Agent, method: Method, path: &str, body: Body) -> Answer {
    let request = agent.request(method, path).body(body).unwrap();
    tokio::spawn(agent.send(request))
}

async fn answer(asked: Answer) -> Response<Incoming> {
    soon(asked).await.unwrap().unwrap()
}

/// An h2 upstream whose requests a test takes one by one.
fn taking(upstream: &mut Scripted) -> mpsc::UnboundedReceiver<Taken> {
    let (arrived, arrivals) = mpsc::unbounded_channel();
    upstream.answer_h2(move |request: Request<Incoming>| {
        let (done, answered) = tokio::sync::oneshot::channel();
        arrived.send(Taken { request, done }).unwrap();
        async move { answered.await.unwrap() }
    });
    arrivals
}

struct Taken {
    request: Request<Incoming>,
    done: tokio::sync::oneshot::Sender<Response<Body>>,
}

/// Nothing of the body is left. (hyper's client shows the empty frame that ends an h2 stream.)
async fn ended(answer: Response<Incoming>) {
    let rest = soon(answer.into_body().collect()).await.unwrap();
    assert!(rest.trailers().is_none());
    assert_eq!(rest.to_bytes(), "");
}

/// Of an echo, in as many pieces as it takes: tokens begin with `e`, too, and an end like that comes
/// a moment later.
async fn so_many(answer: &mut Response<Incoming>, count: usize) -> Vec<u8> {
    let mut got = data(answer).await.to_vec();
    while got.len() < count {
        got.extend(data(answer).await);
    }
    got
}

// === Events ===

/// An event is sent only after the agent had the one before.
#[tokio::test]
async fn events_of_an_h1_upstream_arrive_one_by_one() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = start(&mut agent, Method::GET, "/v1/stream", empty());
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let mut answer = answer(asked).await;
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
        for number in 1..=5 {
            let event = format!("data: {number}\n\n");
            wire.write(format!("{:x}\r\n{event}\r\n", event.len())).await;
            assert_eq!(data(&mut answer).await, event, "{way:?}");
        }
        wire.write("0\r\n\r\n").await;
        ended(answer).await;
    }
}

#[tokio::test]
async fn events_of_an_h2_upstream_arrive_one_by_one() {
    let mut upstream = Scripted::start("h2").await;
    let mut arrivals = taking(&mut upstream);
    let stage = upstream.stage("").await;
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = start(&mut agent, Method::GET, "/v1/stream", empty());
        let (feeder, body) = fed();
        soon(arrivals.recv()).await.unwrap().done.send(Response::new(body)).unwrap();
        let mut answer = answer(asked).await;
        for number in 1..=5 {
            let event = format!("data: {number}\n\n");
            assert!(feeder.data(event.clone()).await);
            assert_eq!(data(&mut answer).await, event, "{way:?}");
        }
        drop(feeder);
        ended(answer).await;
    }
}

/// What an agent writes arrives before it writes on: both directions at once.
#[tokio::test]
async fn both_directions_flow_at_once() {
    for upstream in [Protocols::Http1, Protocols::Http2] {
        let world = WorldSettings { api_protocols: upstream, ..WorldSettings::default() };
        let stage = Stage::with(world, crate::support::Facts::config).await;
        for way in Way::ALL {
            let mut agent = Agent::of(&stage, way).await;
            let (feeder, body) = fed();
            let asked = start(&mut agent, Method::POST, "/v1/echo", body);
            assert!(feeder.data("hello").await);
            let mut answer = answer(asked).await;
            assert_eq!(data(&mut answer).await, "hello", "{upstream:?}, {way:?}");
            for word in ["how", "are", "you"] {
                assert!(feeder.data(word).await);
                assert_eq!(so_many(&mut answer, word.len()).await, word.as_bytes(), "{upstream:?}, {way:?}");
            }
            drop(feeder);
            ended(answer).await;
        }
    }
}

/// gRPC in both directions: who listens may have nothing to say for long.
#[tokio::test]
async fn an_agent_that_listens_may_be_silent() {
    for upstream in [Protocols::Http1, Protocols::Http2] {
        let world = WorldSettings { api_protocols: upstream, ..WorldSettings::default() };
        let config = |facts: &Facts| facts.config() + "\n[limits]\nrequest_idle_timeout = \"100ms\"\n";
        let stage = Stage::with(world, config).await;
        for way in Way::ALL {
            let mut agent = Agent::of(&stage, way).await;
            let (feeder, body) = fed();
            let asked = start(&mut agent, Method::POST, "/v1/echo", body);
            assert!(feeder.data("hello").await);
            let mut answer = answer(asked).await;
            assert_eq!(data(&mut answer).await, "hello", "{upstream:?}, {way:?}");
            // Somebody else, who has no answer yet, is given up meanwhile.
            let mut other = Agent::of(&stage, Way::BaseUrl).await;
            let (silent, body) = fed();
            let given_up = start(&mut other, Method::POST, "/v1/sink", body);
            assert!(silent.data("x").await);
            assert_eq!(soon(given_up).await.unwrap().unwrap().status(), 408);
            assert!(feeder.data("bye").await);
            assert_eq!(so_many(&mut answer, 3).await, b"bye", "{upstream:?}, {way:?}");
            drop(feeder);
            ended(answer).await;
        }
    }
}

// === Size ===

const BIG: usize = 64 * MIB;

#[tokio::test]
async fn big_uploads_pass_and_are_counted() {
    let stage = Stage::start().await;
    let block = Bytes::from(vec![7; MIB]);
    for (index, way) in Way::ALL.into_iter().enumerate() {
        let mut agent = Agent::of(&stage, way).await;
        let (feeder, body) = fed();
        let asked = start(&mut agent, Method::POST, "/v1/sink", body);
        for _ in 0..BIG / MIB {
            assert!(soon(feeder.data(block.clone())).await);
        }
        drop(feeder);
        assert_eq!(text(answer(asked).await).await, format!("{{\"bytes\":{BIG}}}"), "{way:?}");
        let record = records(&stage, index + 1).await.pop().unwrap();
        assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&BIG.into(), &18.into()), "{way:?}: {record}");
        assert_eq!(record["error"], Value::Null);
    }
}

#[tokio::test]
async fn big_downloads_pass_and_are_counted() {
    let stage = Stage::start().await;
    for (index, way) in Way::ALL.into_iter().enumerate() {
        let mut agent = Agent::of(&stage, way).await;
        let mut answer = agent.get(&format!("/v1/bytes/{BIG}")).await;
        assert_eq!(answer.headers()[header::CONTENT_LENGTH], BIG.to_string());
        let mut got = 0;
        while let Some(frame) = soon(answer.body_mut().frame()).await {
            got += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!(got, BIG, "{way:?}");
        let record = records(&stage, index + 1).await.pop().unwrap();
        assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&0.into(), &BIG.into()), "{way:?}: {record}");
        assert_eq!(record["error"], Value::Null);
    }
}

/// Both sockets' buffers on loopback, our own, and TLS records under way; far from [`FLOOD`].
const BUFFERS: usize = 32 * MIB;
const FLOOD: usize = 512 * MIB;

/// A slow reader keeps the upstream waiting; nothing piles up in between.
#[tokio::test]
async fn an_agent_that_does_not_read_stops_the_upstream() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = start(&mut agent, Method::GET, "/v1/bytes", empty());
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {FLOOD}\r\n\r\n")).await;
        let mut answer = answer(asked).await;
        let block = vec![1; 256 << 10];
        let mut written = 0;
        while timeout(SILENCE * 3, wire.try_write(&block)).await.is_ok_and(|wrote| wrote.is_ok()) {
            written += block.len();
            assert!(written < BUFFERS, "{way:?}: nobody reads, and {written} bytes were taken");
        }
        assert!(written > 0);
        // A write that was given up may have gone out in part: count what comes instead.
        let mut got = 0;
        let flowing = tokio::spawn(async move { while wire.try_write(&block).await.is_ok() {} });
        while got < 2 * written {
            got += data(&mut answer).await.len();
        }
        drop((answer, agent));
        soon(flowing).await.unwrap();
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_read_stops_the_agent() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let (feeder, body) = fed();
        let asked = start(&mut agent, Method::POST, "/v1/orders", body);
        let mut wire = upstream.accept().await;
        wire.head().await;
        let block = Bytes::from(vec![1; 256 << 10]);
        let mut written = 0;
        while timeout(SILENCE * 3, feeder.data(block.clone())).await.is_ok_and(|taken| taken) {
            written += block.len();
            assert!(written < BUFFERS, "{way:?}: nobody reads, and {written} bytes were taken");
        }
        let reading = tokio::spawn(async move {
            let (body, _) = wire.chunked_rest().await;
            wire.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
            body.len()
        });
        assert!(soon(feeder.data(block.clone())).await);
        drop(feeder);
        assert_eq!(answer(asked).await.status(), StatusCode::OK);
        assert_eq!(soon(reading).await.unwrap(), written + block.len(), "{way:?}");
    }
}

/// The same where HTTP/2's windows do it.
#[tokio::test]
async fn an_agent_that_does_not_read_stops_an_h2_upstream() {
    let mut upstream = Scripted::start("h2").await;
    let mut arrivals = taking(&mut upstream);
    let stage = upstream.stage("").await;
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = start(&mut agent, Method::GET, "/v1/bytes", empty());
        let (feeder, body) = fed();
        soon(arrivals.recv()).await.unwrap().done.send(Response::new(body)).unwrap();
        let mut answer = answer(asked).await;
        let block = Bytes::from(vec![1; 256 << 10]);
        let mut written = 0;
        while timeout(SILENCE * 3, feeder.data(block.clone())).await.is_ok_and(|taken| taken) {
            written += block.len();
            assert!(written < BUFFERS, "{way:?}: nobody reads, and {written} bytes were taken");
        }
        let mut got = 0;
        let flowing = tokio::spawn(async move { while feeder.data(block.clone()).await {} });
        while got < 2 * written {
            got += data(&mut answer).await.len();
        }
        drop((answer, agent));
        soon(flowing).await.unwrap();
    }
}

/// Those who don't read hold up nobody else's answer, though all share an upstream connection.
#[tokio::test]
async fn answers_that_nobody_reads_hold_up_no_other() {
    let mut upstream = Scripted::start("h2").await;
    let mut arrivals = taking(&mut upstream);
    let stage = upstream.stage("").await;
    let block = Bytes::from(vec![1; 256 << 10]);
    let mut unread = Vec::new();
    for _ in 0..8 {
        let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
        let asked = start(&mut agent, Method::GET, "/v1/bytes", empty());
        let (feeder, body) = fed();
        soon(arrivals.recv()).await.unwrap().done.send(Response::new(body)).unwrap();
        let answer = answer(asked).await;
        while timeout(SILENCE, feeder.data(block.clone())).await.is_ok_and(|taken| taken) {}
        unread.push((agent, answer, feeder));
    }
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
    let asked = start(&mut agent, Method::GET, "/v1/orders", empty());
    soon(arrivals.recv()).await.unwrap().done.send(Response::new(full("coffee beans"))).unwrap();
    assert_eq!(text(answer(asked).await).await, "coffee beans");
}

/// On one connection of an h2 agent, an upload that nobody takes holds up no other.
#[tokio::test]
async fn an_upload_that_nobody_takes_holds_up_no_other() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
    let (feeder, body) = fed();
    let _stuck = start(&mut agent, Method::POST, "/v1/orders/1", body);
    let mut deaf = upstream.accept().await;
    deaf.head().await;
    let block = Bytes::from(vec![1; 256 << 10]);
    while timeout(SILENCE * 3, feeder.data(block.clone())).await.is_ok_and(|taken| taken) {}

    let asked = start(&mut agent, Method::POST, "/v1/orders/2", full("one order"));
    let mut wire = upstream.accept().await;
    wire.head().await;
    assert_eq!(wire.exactly(9).await, b"one order");
    wire.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
    assert_eq!(text(answer(asked).await).await, "done");
}

// === Trailers ===

fn checksum() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("0123"));
    trailers
}

async fn with_trailers(answer: Response<Incoming>) -> (Bytes, Option<HeaderMap>) {
    let all = soon(answer.into_body().collect()).await.unwrap();
    let trailers = all.trailers().cloned();
    (all.to_bytes(), trailers)
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    for upstream in [Protocols::Http1, Protocols::Http2] {
        let world = WorldSettings { api_protocols: upstream, ..WorldSettings::default() };
        let stage = Stage::with(world, crate::support::Facts::config).await;
        for way in Way::ALL {
            let mut agent = Agent::of(&stage, way).await;
            let (feeder, body) = fed();
            // HTTP/1 wants them announced; and only who says so gets any.
            let request = agent.request(Method::POST, "/v1/echo").header("trailer", "x-checksum");
            let request = request.header("te", "trailers").body(body).unwrap();
            let asked = tokio::spawn(agent.send(request));
            feeder.data("body").await;
            feeder.trailers(checksum()).await;
            let (body, trailers) = with_trailers(answer(asked).await).await;
            assert_eq!(body, "body", "{upstream:?}, {way:?}");
            assert_eq!(trailers, Some(checksum()), "{upstream:?}, {way:?}");
        }
    }
}

/// gRPC: h2 on both sides, nothing announced, sometimes nothing but trailers.
#[tokio::test]
async fn grpc_has_its_trailers() {
    let mut upstream = Scripted::start("h2").await;
    let mut arrivals = taking(&mut upstream);
    let stage = upstream.stage("").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
    for message in ["message", ""] {
        let request = agent.request(Method::POST, "/v1/grpc").header("te", "trailers");
        let request = request.header("content-type", "application/grpc").body(full("call")).unwrap();
        let asked = tokio::spawn(agent.send(request));
        let taken = soon(arrivals.recv()).await.unwrap();
        assert_eq!(taken.request.headers()[header::TE], "trailers");
        assert_eq!(soon(taken.request.into_body().collect()).await.unwrap().to_bytes(), "call");
        let (feeder, body) = fed();
        taken.done.send(Response::new(body)).unwrap();
        if !message.is_empty() {
            feeder.data(message).await;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        feeder.trailers(trailers.clone()).await;
        assert_eq!(with_trailers(answer(asked).await).await, (message.into(), Some(trailers)));
    }
}

/// Trailers may not say what only a head may.
#[tokio::test]
async fn trailers_smuggle_nothing() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::H1 {
        let mut agent = Wire::new(open(&stage, &upstream.authority(), way).await);
        let fields = "transfer-encoding: chunked\r\ntrailer: x-checksum, authorization, host\r\n";
        let head = raw_head(&stage, &upstream.authority(), way, ("POST", "/v1/orders", "1.1"), fields);
        agent.write(head).await;
        agent.write("2\r\nok\r\n0\r\nx-checksum: 1\r\nauthorization: Bearer mine\r\nhost: evil\r\n\r\n").await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        assert_eq!(wire.chunked_rest().await, (b"ok".to_vec(), "x-checksum: 1\r\n".to_owned()), "{way:?}");
    }
}

// === Leaving ===

async fn gone(stage: &Stage, count: usize) -> Value {
    let record = records(stage, count).await.pop().unwrap();
    assert_eq!(record["error"], "agent_gone", "{record}");
    record
}

#[tokio::test]
async fn an_agent_that_leaves_in_a_download_ends_it() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (index, way) in Way::ALL.into_iter().enumerate() {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = start(&mut agent, Method::GET, "/v1/stream", empty());
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ntick\r\n").await;
        let mut answer = answer(asked).await;
        assert_eq!(data(&mut answer).await, "tick");
        if way == Way::TunnelH2 {
            // One stream of many: the connection stays.
            drop(answer);
            assert_eq!(wire.rest().await, "");
            assert_eq!(agent.get("/elsewhere").await.status(), StatusCode::FORBIDDEN);
        } else {
            drop((answer, agent));
            assert_eq!(wire.rest().await, "", "{way:?}: the upstream is told");
        }
        let records = records(&stage, index + 1 + usize::from(index >= 2)).await;
        let record = records.iter().rfind(|record| record["path"] == "/v1/stream").unwrap();
        assert_eq!((&record["error"], &record["status"]), (&"agent_gone".into(), &200.into()), "{way:?}: {record}");
        assert_eq!(record["bytes_out"], 4);
    }
}

/// Its upload breaks the answer, too: it is the agent's doing, and not the upstream's.
#[tokio::test]
async fn an_agent_that_leaves_in_an_upload_that_is_answered_has_left() {
    let mut upstream = Scripted::start("h2").await;
    let mut arrivals = taking(&mut upstream);
    let stage = upstream.stage("").await;
    for (index, way) in Way::H1.into_iter().enumerate() {
        let mut agent = Wire::new(open(&stage, &upstream.authority(), way).await);
        let line = ("POST", "/v1/upload", "1.1");
        agent.write(raw_head(&stage, &upstream.authority(), way, line, "content-length: 1000\r\n")).await;
        agent.write("some").await;
        let Taken { request: _upload, done } = soon(arrivals.recv()).await.unwrap();
        let (_feeder, body) = fed();
        done.send(Response::new(body)).unwrap();
        agent.head().await;
        drop(agent);
        gone(&stage, index + 1).await;
    }
}

/// Neither the upstream nor the agent is to take the one's part for the whole.
#[tokio::test]
async fn an_upload_that_is_no_http_breaks_its_answer() {
    let h1 = Scripted::start("http/1.1").await;
    let stage = h1.stage("").await;
    for (index, way) in Way::H1.into_iter().enumerate() {
        let mut agent = Wire::new(open(&stage, &h1.authority(), way).await);
        let line = ("POST", "/v1/upload", "1.1");
        agent.write(raw_head(&stage, &h1.authority(), way, line, "transfer-encoding: chunked\r\n")).await;
        let mut wire = h1.accept().await;
        wire.head().await;
        wire.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ntick\r\n").await;
        agent.head().await;
        assert_eq!(agent.chunks(4).await, b"tick");
        agent.write("zz\r\n").await;
        assert_eq!(wire.rest().await, "", "{way:?}: cut, and not ended");
        assert_eq!(agent.rest().await, "", "{way:?}: cut, and not ended");
        let record = records(&stage, index + 1).await.pop().unwrap();
        assert_eq!((&record["error"], &record["status"]), (&"bad_request".into(), &200.into()), "{way:?}: {record}");
    }
    let mut h2 = Scripted::start("h2").await;
    let mut arrivals = taking(&mut h2);
    let stage = h2.stage("").await;
    for (index, way) in Way::H1.into_iter().enumerate() {
        let mut agent = Wire::new(open(&stage, &h2.authority(), way).await);
        let line = ("POST", "/v1/upload", "1.1");
        agent.write(raw_head(&stage, &h2.authority(), way, line, "transfer-encoding: chunked\r\n")).await;
        let Taken { mut request, done } = soon(arrivals.recv()).await.unwrap();
        let (feeder, body) = fed();
        done.send(Response::new(body)).unwrap();
        agent.head().await;
        assert!(feeder.data("tick").await);
        assert_eq!(agent.chunks(4).await, b"tick");
        agent.write("zz\r\n").await;
        assert!(soon(request.body_mut().frame()).await.unwrap().is_err());
        assert_eq!(agent.rest().await, "", "{way:?}: cut, and not ended");
        let record = records(&stage, index + 1).await.pop().unwrap();
        assert_eq!((&record["error"], &record["status"]), (&"bad_request".into(), &200.into()), "{way:?}: {record}");
    }
}

/// RFC 9113 §7: what it is called off for is the upstream's to know.
#[tokio::test]
async fn a_request_that_is_called_off_is_called_off_upstream() {
    let mut upstream = Scripted::start("h2").await;
    let mut arrivals = taking(&mut upstream);
    let stage = upstream.stage("").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
    let (feeder, body) = fed();
    let asked = start(&mut agent, Method::POST, "/v1/upload", body);
    assert!(feeder.data("some").await);
    let Taken { mut request, done: _done } = soon(arrivals.recv()).await.unwrap();
    let frame = soon(request.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "some");
    asked.abort();
    drop(feeder);
    let error = soon(request.body_mut().frame()).await.unwrap().unwrap_err();
    assert_eq!(reason(&error), Some(h2::Reason::CANCEL));
}

#[tokio::test]
async fn an_agent_that_leaves_before_the_answer_ends_the_request() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (index, way) in Way::ALL.into_iter().enumerate() {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = start(&mut agent, Method::GET, "/v1/orders", empty());
        let mut wire = upstream.accept().await;
        wire.head().await;
        asked.abort();
        drop(agent);
        assert_eq!(wire.rest().await, "", "{way:?}");
        let record = gone(&stage, index + 1).await;
        assert_eq!(record["status"], Value::Null);
    }
    upstream.nobody().await;
}

#[tokio::test]
async fn an_agent_that_leaves_in_an_upload_ends_it() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (index, way) in Way::ALL.into_iter().enumerate() {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let (feeder, body) = fed();
        let asked = start(&mut agent, Method::POST, "/v1/orders", body);
        feeder.data("half of ").await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        assert_eq!(wire.chunks(8).await, b"half of ");
        asked.abort();
        drop(agent);
        soon(feeder.abandoned()).await;
        assert_eq!(wire.rest().await, "", "{way:?}: cut, and not ended as if it were whole");
        assert_eq!(gone(&stage, index + 1).await["bytes_in"], 8);
    }
    upstream.nobody().await;
}

/// What was sent is half of a request: nothing to be sent again, whatever its method.
#[tokio::test]
async fn half_a_request_is_not_sent_again() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let (feeder, body) = fed();
        let asked = start(&mut agent, Method::PUT, "/v1/orders", body);
        feeder.data("half").await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.chunks(4).await;
        asked.abort();
        drop(agent);
        assert_eq!(wire.rest().await, "", "{way:?}");
    }
    upstream.nobody().await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_no_whole_answer() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (index, way) in Way::ALL.into_iter().enumerate() {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = start(&mut agent, Method::GET, "/v1/orders", empty());
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
        let mut answer = answer(asked).await;
        assert_eq!(data(&mut answer).await, "half");
        drop(wire);
        assert!(soon(answer.body_mut().frame()).await.unwrap().is_err(), "{way:?}");
        let record = records(&stage, index + 1).await.pop().unwrap();
        assert_eq!((&record["error"], &record["bytes_out"]), (&"upstream_broke_off".into(), &4.into()), "{record}");
    }
}

/// Of an h2 stream that was reset.
fn reason(error: &hyper::Error) -> Option<h2::Reason> {
    std::error::Error::source(error)?.downcast_ref::<h2::Error>()?.reason()
}

/// Threat 79: a reset is the end of an answer only where the answer was whole, whatever its
/// reason is. What it was called off for is passed on; that all is well isn't.
#[tokio::test]
async fn an_upstream_that_resets_its_stream_is_no_whole_answer() {
    use h2::Reason;
    let upstream = Scripted::start("h2").await;
    let stage = upstream.stage("").await;
    for (way, said, heard) in [
        (Way::TunnelH2, Reason::NO_ERROR, Some(Reason::INTERNAL_ERROR)),
        (Way::TunnelH2, Reason::REFUSED_STREAM, Some(Reason::INTERNAL_ERROR)),
        (Way::TunnelH2, Reason::CANCEL, Some(Reason::CANCEL)),
        (Way::TunnelH2, Reason::ENHANCE_YOUR_CALM, Some(Reason::ENHANCE_YOUR_CALM)),
        (Way::TunnelH1, Reason::CANCEL, None),
    ] {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = start(&mut agent, Method::GET, "/v1/cut", empty());
        let mut connection = soon(h2::server::handshake(upstream.accept().await.into_inner())).await.unwrap();
        let (_, mut respond) = soon(connection.accept()).await.unwrap().unwrap();
        let driver = tokio::spawn(async move { drop(connection.accept().await) });
        let mut sending = respond.send_response(Response::new(()), false).unwrap();
        sending.send_data(Bytes::from_static(b"half"), false).unwrap();
        let mut answer = answer(asked).await;
        assert_eq!(data(&mut answer).await, "half");
        sending.send_reset(said);
        let error = soon(answer.body_mut().frame()).await.unwrap().unwrap_err();
        assert_eq!(reason(&error), heard, "{way:?}, {said:?}");
        driver.abort();
    }
}

// === Answers before the request's end ===

/// Threat 64, RFC 9113 §8.1: what is left of a request that has its answer is not sent.
#[tokio::test]
async fn an_answer_over_h2_ends_the_upload() {
    let mut upstream = Scripted::start("h2").await;
    let mut arrivals = taking(&mut upstream);
    let stage = upstream.stage("").await;
    for way in [Way::AbsoluteForm, Way::TunnelH1, Way::TunnelH2, Way::BaseUrlH2] {
        for text_of_answer in ["", "enough"] {
            let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
            let (feeder, body) = fed();
            let asked = start(&mut agent, Method::POST, "/v1/upload", body);
            assert!(feeder.data("some").await);
            let Taken { mut request, done } = soon(arrivals.recv()).await.unwrap();
            let frame = soon(request.body_mut().frame()).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "some");
            done.send(Response::new(full(text_of_answer))).unwrap();
            assert_eq!(text(answer(asked).await).await, text_of_answer, "{way:?}");
            let error = soon(request.body_mut().frame()).await.unwrap().unwrap_err();
            let reset = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<h2::Error>());
            assert_eq!(reset.and_then(h2::Error::reason), Some(h2::Reason::CANCEL), "{way:?}");
            soon(feeder.abandoned()).await;
        }
    }
}

/// Whatever reason it gives: the upstream mustn't take what came for the whole.
#[tokio::test]
async fn an_upload_that_its_agent_resets_is_not_whole() {
    for reason in [h2::Reason::NO_ERROR, h2::Reason::CANCEL] {
        let upstream = Scripted::start("http/1.1").await;
        let stage = upstream.stage("").await;
        let (agent, mut sender) = h2_agent(&stage, &upstream.authority(), Way::TunnelH2).await;
        let request = agent.request(Method::POST, "/v1/upload").body(()).unwrap();
        let (_asked, mut upload) = sender.send_request(request, false).unwrap();
        upload.send_data(Bytes::from_static(b"some"), false).unwrap();
        let mut wire = upstream.accept().await;
        wire.head().await;
        assert_eq!(wire.chunks(4).await, b"some");
        upload.send_reset(reason);
        assert_eq!(wire.rest().await, "", "{reason:?}: the last chunk");
    }
}

/// The agent learns that nothing was wrong with its request, whatever the upstream speaks.
#[tokio::test]
async fn an_h2_agent_is_told_to_stop_its_upload() {
    for protocol in ["h2", "http/1.1"] {
        let mut upstream = Scripted::start(protocol).await;
        let stage = upstream.stage("").await;
        let authority = upstream.authority();
        let io = open(&stage, &authority, Way::TunnelH2).await;
        let (sender, connection) = soon(h2::client::handshake(io)).await.unwrap();
        let driver = tokio::spawn(async move { drop(connection.await) });
        let request = Request::post(format!("https://{authority}/v1/upload")).body(()).unwrap();
        let (asked, mut upload) = soon(sender.ready()).await.unwrap().send_request(request, false).unwrap();
        upload.send_data(Bytes::from_static(b"some"), false).unwrap();
        let mut held = (None, None);
        if protocol == "h2" {
            let mut taken = soon(taking(&mut upstream).recv()).await.unwrap();
            assert!(soon(taken.request.body_mut().frame()).await.unwrap().unwrap().is_data());
            taken.done.send(Response::new(full("enough"))).unwrap();
            held.0 = Some(taken.request);
        } else {
            let mut wire = upstream.accept().await;
            wire.head().await;
            assert_eq!(wire.chunks(4).await, b"some");
            wire.write("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nenough").await;
            held.1 = Some(wire);
        }
        let mut answer = soon(asked).await.unwrap().into_body();
        let mut whole = Vec::new();
        while let Some(data) = soon(answer.data()).await {
            whole.extend_from_slice(&data.unwrap());
        }
        assert_eq!(whole, b"enough", "{protocol}");
        let reason = soon(std::future::poll_fn(|cx| upload.poll_reset(cx))).await.unwrap();
        assert_eq!(reason, h2::Reason::NO_ERROR, "{protocol}");
        driver.abort();
    }
}

// === Expect: 100-continue ===

const EXPECTING: &str = "expect: 100-continue\r\ncontent-length: 5\r\n";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
/// So long that no test comes to it.
const NO_TIMEOUT: &str = "continue_timeout = \"1h\"";

/// An agent that has announced a body, and the upstream that has read of it.
async fn expecting(stage: &Stage, upstream: &Scripted, way: Way) -> (Wire, Wire) {
    let mut agent = Wire::new(open(stage, &upstream.authority(), way).await);
    agent.write(raw_head(stage, &upstream.authority(), way, ("POST", "/v1/orders", "1.1"), EXPECTING)).await;
    let mut wire = upstream.accept().await;
    let head = wire.head().await;
    assert_eq!(field(&head, "expect"), Some("100-continue"), "{head}");
    assert_eq!(field(&head, "content-length"), Some("5"), "{head}");
    (agent, wire)
}

#[tokio::test]
async fn an_agent_is_told_to_continue_when_the_upstream_says_so() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage(NO_TIMEOUT).await;
    for way in Way::H1 {
        let (mut agent, mut wire) = expecting(&stage, &upstream, way).await;
        agent.silence().await;
        wire.write(CONTINUE).await;
        assert_eq!(agent.head().await, CONTINUE, "{way:?}");
        wire.silence().await;
        agent.write("hello").await;
        assert_eq!(wire.exactly(5).await, b"hello");
        wire.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(status(&agent.head().await), 200, "{way:?}");
    }
}

/// An agent that wasn't told to continue doesn't know whether its body is waited for: what it
/// sends next could be taken for that.
#[tokio::test]
async fn a_final_answer_that_overtakes_the_continue_ends_the_connection() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage(NO_TIMEOUT).await;
    for way in Way::H1 {
        let (mut agent, mut wire) = expecting(&stage, &upstream, way).await;
        wire.write(format!("{CONTINUE}HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")).await;
        let head = agent.head().await;
        assert_eq!((status(&head), field(&head, "connection")), (404, Some("close")), "{way:?}: {head}");
        assert_eq!(agent.rest().await, "");
    }
}

/// The body that nobody wanted is never sent, and never taken for the next request.
#[tokio::test]
async fn a_final_answer_spares_the_body() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage(NO_TIMEOUT).await;
    for (index, way) in Way::H1.into_iter().enumerate() {
        let (mut agent, mut wire) = expecting(&stage, &upstream, way).await;
        wire.write("HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nno\n").await;
        let head = agent.head().await;
        assert_eq!(status(&head), 413, "{way:?}: {head}");
        assert_eq!(agent.exactly(3).await, b"no\n");
        assert_eq!(wire.rest().await, "", "{way:?}: the body, or another request");
        let record = records(&stage, index + 1).await.pop().unwrap();
        assert_eq!((&record["status"], &record["bytes_in"]), (&413.into(), &0.into()), "{record}");
    }
}

#[tokio::test]
async fn a_refusal_spares_the_body_too() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage(NO_TIMEOUT).await;
    for way in Way::H1 {
        let mut agent = Wire::new(open(&stage, &upstream.authority(), way).await);
        agent.write(raw_head(&stage, &upstream.authority(), way, ("POST", "/v2", "1.1"), EXPECTING)).await;
        let head = agent.head().await;
        assert_eq!(status(&head), 403, "{way:?}: {head}");
    }
    upstream.nobody().await;
}

/// RFC 9110 §10.1.1: an agent may not wait for ever for an upstream that knows nothing of it.
#[tokio::test]
async fn an_upstream_that_never_says_continue_gets_the_body_in_the_end() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("continue_timeout = \"300ms\"").await;
    for way in Way::H1 {
        let begun = Instant::now();
        let (mut agent, mut wire) = expecting(&stage, &upstream, way).await;
        assert_eq!(agent.head().await, CONTINUE);
        assert!(begun.elapsed() >= Duration::from_millis(300), "{way:?}: not before its time");
        agent.write("hello").await;
        assert_eq!(wire.exactly(5).await, b"hello");
        wire.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(status(&agent.head().await), 200, "{way:?}");
    }
}

/// After a 401 the renewed request may be asked for the body, which was never sent.
#[tokio::test]
async fn an_expectation_survives_the_renewal_of_the_token() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage(&format!("{NO_TIMEOUT}\ntoken_storm_guard = \"0s\"")).await;
    for way in Way::H1 {
        let (mut agent, mut refusing) = expecting(&stage, &upstream, way).await;
        let refused = "www-authenticate: Bearer error=\"invalid_token\"\r\ncontent-length: 0\r\n\r\n";
        refusing.write(format!("HTTP/1.1 401 Unauthorized\r\n{refused}")).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        assert_eq!(agent.head().await, CONTINUE);
        agent.write("hello").await;
        assert_eq!(wire.exactly(5).await, b"hello");
        wire.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(status(&agent.head().await), 200, "{way:?}");
        assert_eq!(refusing.rest().await, "");
    }
}

// === Other interim answers ===

#[tokio::test]
async fn early_hints_reach_the_agent_before_the_answer() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::H1 {
        let mut agent = Wire::new(open(&stage, &upstream.authority(), way).await);
        agent.write(raw_head(&stage, &upstream.authority(), way, ("GET", "/v1/page", "1.1"), "")).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        for number in 1..=2 {
            let link = format!("</{number}.css>; rel=preload");
            wire.write(format!("HTTP/1.1 103 Early Hints\r\nlink: {link}\r\nconnection: x\r\nx: y\r\n\r\n")).await;
            let hints = agent.head().await;
            assert_eq!(status(&hints), 103, "{way:?}: {hints}");
            assert_eq!(field(&hints, "link"), Some(link.as_str()));
            assert_eq!((field(&hints, "connection"), field(&hints, "x")), (None, None), "{hints}");
        }
        wire.write("HTTP/1.1 102 Processing\r\n\r\n").await;
        assert_eq!(status(&agent.head().await), 102);
        wire.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\npage").await;
        assert_eq!(status(&agent.head().await), 200);
        assert_eq!(agent.exactly(4).await, b"page", "{way:?}");
    }
}

/// An agent that sees interim answers over h2, and its requests as a way in wants them.
async fn h2_agent(stage: &Stage, authority: &str, way: Way) -> (Agent, h2::client::SendRequest<Bytes>) {
    let io = open(stage, authority, way).await;
    let (sender, connection) = soon(h2::client::handshake(io)).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    (Agent::connect(stage, authority, way).await, soon(sender.ready()).await.unwrap())
}

/// The next interim answer.
async fn interim(asked: &mut h2::client::ResponseFuture) -> Response<()> {
    soon(std::future::poll_fn(|cx| asked.poll_informational(cx))).await.unwrap().unwrap()
}

#[tokio::test]
async fn early_hints_reach_an_h2_agent() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::H2 {
        let (agent, mut sender) = h2_agent(&stage, &upstream.authority(), way).await;
        let request = agent.request(Method::GET, "/v1/page").body(()).unwrap();
        let (mut asked, _) = sender.send_request(request, true).unwrap();
        let mut wire = upstream.accept().await;
        wire.head().await;
        for number in 1..=2 {
            let link = format!("</{number}.css>; rel=preload");
            wire.write(format!("HTTP/1.1 103 Early Hints\r\nlink: {link}\r\nconnection: x\r\nx: y\r\n\r\n")).await;
            let hints = interim(&mut asked).await;
            assert_eq!(hints.status(), 103, "{way:?}: {hints:?}");
            assert_eq!(hints.headers()["link"], link);
            assert_eq!(hints.headers().len(), 1, "{hints:?}");
        }
        wire.write("HTTP/1.1 102 Processing\r\n\r\n").await;
        assert_eq!(interim(&mut asked).await.status(), 102);
        wire.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\npage").await;
        let mut answer = soon(asked).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(soon(answer.body_mut().data()).await.unwrap().unwrap(), "page", "{way:?}");
    }
}

#[tokio::test]
async fn an_h2_agent_is_told_to_continue_when_the_body_is_wanted() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage(NO_TIMEOUT).await;
    for way in Way::H2 {
        let (agent, mut sender) = h2_agent(&stage, &upstream.authority(), way).await;
        let expecting = |path| {
            let request = agent.request(Method::POST, path).header("expect", "100-continue");
            request.header("content-length", "5").body(()).unwrap()
        };
        let (refused, _upload) = sender.send_request(expecting("/v2"), false).unwrap();
        assert_eq!(soon(refused).await.unwrap().status(), 403, "{way:?}");
        let (mut asked, mut upload) = sender.send_request(expecting("/v1/orders"), false).unwrap();
        let mut wire = upstream.accept().await;
        assert_eq!(field(&wire.head().await, "expect"), Some("100-continue"));
        wire.write(CONTINUE).await;
        assert_eq!(interim(&mut asked).await.status(), 100, "{way:?}");
        upload.send_data(Bytes::from_static(b"hello"), true).unwrap();
        assert_eq!(wire.exactly(5).await, b"hello");
        wire.write("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(soon(asked).await.unwrap().status(), 200, "{way:?}");
    }
}

#[tokio::test]
async fn an_unasked_switch_of_protocols_is_refused() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let asked = start(&mut agent, Method::GET, "/v1/orders", empty());
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await;
        let answer = answer(asked).await;
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "{way:?}");
        assert_eq!(answer.headers()["x-cupbearer-error"], "upstream_protocol");
        assert_eq!(wire.rest().await, "", "{way:?}");
    }
}

// === Answers without a body ===

/// Each of them on one connection, so that a wrong length would spoil the next.
#[tokio::test]
async fn answers_without_a_body_end_where_they_should() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    let cases = [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", 200, Some("1000")),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        ("GET", "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\ncontent-length: 1000\r\n\r\n", 304, Some("1000")),
        ("HEAD", "HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n", 404, None),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, Some("0")),
    ];
    for way in Way::H1 {
        let mut agent = Wire::new(open(&stage, &upstream.authority(), way).await);
        let mut wire = None;
        for (method, says, code, length) in cases {
            agent.write(raw_head(&stage, &upstream.authority(), way, (method, "/v1/orders", "1.1"), "")).await;
            let wire = match &mut wire {
                Some(wire) => wire,
                none => none.insert(upstream.accept().await),
            };
            assert!(wire.head().await.starts_with(method));
            wire.write(says).await;
            let head = agent.head().await;
            assert_eq!(status(&head), code, "{way:?}: {head}");
            assert_eq!(field(&head, "content-length"), length, "{way:?}, {method}: {head}");
        }
        agent.silence().await;
    }
    // The records ended, too, each at its time.
    let records = records(&stage, cases.len() * Way::H1.len()).await;
    assert!(records.iter().all(|record| record["error"].is_null() && record["bytes_out"] == 0), "{records:#?}");
}

#[tokio::test]
async fn an_h2_agent_has_answers_without_a_body_too() {
    let stage = Stage::start().await;
    let mut agent = Agent::of(&stage, Way::TunnelH2).await;
    for way in [Way::TunnelH2, Way::TunnelH1] {
        let mut other = Agent::of(&stage, way).await;
        let request = other.request(Method::HEAD, "/v1/bytes/1000").body(empty()).unwrap();
        let answer = other.ask(request).await;
        assert_eq!(answer.headers()[header::CONTENT_LENGTH], "1000");
        assert_eq!(text(answer).await, "");
    }
    assert_eq!(text(agent.get("/v1/bytes/0").await).await, "");
}

// === Redirects ===

#[tokio::test]
async fn redirects_are_handed_back_untouched() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for way in Way::ALL {
        for code in [301, 302, 303, 307, 308] {
            let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
            let asked = start(&mut agent, Method::POST, "/v1/orders", full("one order"));
            let mut wire = upstream.accept().await;
            wire.head().await;
            wire.exactly(9).await;
            let location = format!("https://elsewhere.test/{code}?a=b#c");
            wire.write(format!(
                "HTTP/1.1 {code} Elsewhere\r\nlocation: {location}\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
                 connection: close\r\ncontent-length: 4\r\n\r\ngo!\n"
            ))
            .await;
            let answer = answer(asked).await;
            assert_eq!(answer.status(), code, "{way:?}");
            assert_eq!(answer.headers()[header::LOCATION], location);
            assert_eq!(answer.headers().get_all(header::SET_COOKIE).iter().count(), 2);
            assert_eq!(text(answer).await, "go!\n");
        }
    }
    upstream.nobody().await;
}

// === HTTP/1.0 ===

#[tokio::test]
async fn an_agent_of_http_1_0_is_served() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("").await;
    for (index, way) in Way::H1.into_iter().enumerate() {
        let mut agent = Wire::new(open(&stage, &upstream.authority(), way).await);
        agent.write(raw_head(&stage, &upstream.authority(), way, ("GET", "/v1/orders", "1.0"), "")).await;
        let mut wire = upstream.accept().await;
        let head = wire.head().await;
        assert!(head.starts_with("GET /v1/orders HTTP/1.1\r\n"), "{head}");
        assert!(field(&head, "via").unwrap().starts_with("1.0 cupbearer-"), "{head}");
        // It knows neither interim answers nor chunks.
        wire.write("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n").await;
        wire.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await;
        let head = agent.head().await;
        assert_eq!(status(&head), 200, "{way:?}: {head}");
        assert_eq!(field(&head, "transfer-encoding"), None, "{head}");
        assert_eq!(agent.exactly(3).await, b"one");
        wire.write("3\r\ntwo\r\n0\r\n\r\n").await;
        assert_eq!(agent.rest().await, "two", "{way:?}: the end of the connection ends the body");
        let record = records(&stage, index + 1).await.pop().unwrap();
        assert_eq!((&record["protocol"], &record["error"]), (&"http/1.0".into(), &Value::Null), "{record}");
    }
}

#[tokio::test]
async fn an_agent_of_http_1_0_may_keep_its_connection() {
    let stage = Stage::start().await;
    let authority = format!("{API}:{}", stage.facts.api_port);
    let mut agent = Wire::new(open(&stage, &authority, Way::BaseUrl).await);
    for _ in 0..2 {
        let line = ("GET", "/v1/bytes/5", "1.0");
        agent.write(raw_head(&stage, &authority, Way::BaseUrl, line, "connection: keep-alive\r\n")).await;
        let head = agent.head().await;
        assert_eq!((status(&head), field(&head, "connection")), (200, Some("keep-alive")), "{head}");
        assert_eq!(agent.exactly(5).await, [0; 5]);
    }
}

#[tokio::test]
async fn early_hints_of_an_h2_upstream_reach_every_agent() {
    let upstream = Scripted::start("h2").await;
    let stage = upstream.stage("").await;
    let hint = || {
        let hint = Response::builder().status(103).header("link", "</a.css>; rel=preload").header("alt-svc", "x");
        hint.body(()).unwrap()
    };
    let serve = async {
        // One connection for both agents, or one for each.
        loop {
            let io = upstream.accept().await.into_inner();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(io).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_informational(hint()).unwrap();
                    respond.send_informational(hint()).unwrap();
                    respond.send_response(Response::new(()), true).unwrap();
                }
            });
        }
    };
    let asking = async {
        let mut agent = Wire::new(open(&stage, &upstream.authority(), Way::TunnelH1).await);
        agent.write(raw_head(&stage, &upstream.authority(), Way::TunnelH1, ("GET", "/v1/page", "1.1"), "")).await;
        for _ in 0..2 {
            let hints = agent.head().await;
            assert_eq!((status(&hints), field(&hints, "link")), (103, Some("</a.css>; rel=preload")), "{hints}");
            assert_eq!(field(&hints, "alt-svc"), None);
        }
        assert_eq!(status(&agent.head().await), 200);
        let (agent, mut sender) = h2_agent(&stage, &upstream.authority(), Way::TunnelH2).await;
        let (mut asked, _) =
            sender.send_request(agent.request(Method::GET, "/v1/page").body(()).unwrap(), true).unwrap();
        for _ in 0..2 {
            let hints = interim(&mut asked).await;
            assert_eq!((hints.status().as_u16(), hints.headers().len()), (103, 1), "{hints:?}");
        }
        assert_eq!(soon(asked).await.unwrap().status(), 200);
    };
    tokio::select! { () = asking => {}, () = serve => {} }
}

/// Threat 78.
#[tokio::test]
async fn endless_interim_answers_over_h2_end_in_time() {
    let upstream = Scripted::start("h2").await;
    let stage = upstream.stage("").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
    let asked = start(&mut agent, Method::POST, "/v1/page", empty());
    let mut connection = soon(h2::server::handshake(upstream.accept().await.into_inner())).await.unwrap();
    let (_, mut respond) = soon(connection.accept()).await.unwrap().unwrap();
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let hint = || Response::builder().status(103).body(()).unwrap();
    while respond.send_informational(hint()).is_ok() && !asked.is_finished() {
        tokio::task::yield_now().await;
    }
    assert_eq!(answer(asked).await.status(), 502);
}

/// Threat 65: there is no 101 in HTTP/2, and over h1 it would be taken for the answer.
#[tokio::test]
async fn a_101_over_h2_is_no_interim_answer() {
    let upstream = Scripted::start("h2").await;
    let stage = upstream.stage("").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH1).await;
    let asked = start(&mut agent, Method::GET, "/v1/page", empty());
    let mut connection = soon(h2::server::handshake(upstream.accept().await.into_inner())).await.unwrap();
    let (_, mut respond) = soon(connection.accept()).await.unwrap().unwrap();
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    respond.send_informational(Response::builder().status(101).header("x-note", "hi").body(()).unwrap()).unwrap();
    let _ = respond.send_response(Response::new(()), true);
    assert_eq!(answer(asked).await.status(), 502);
}

/// An upstream that answers without ever making room for the body mustn't hold its agent.
#[tokio::test]
async fn an_answer_ends_an_upload_for_which_there_was_no_room() {
    let upstream = Scripted::start("h2").await;
    let stage = upstream.stage("").await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH1).await;
    // One request before it, so that it is known that there is no room.
    let first = start(&mut agent, Method::GET, "/v1/orders", empty());
    let io = upstream.accept().await.into_inner();
    let mut builder = h2::server::Builder::new();
    let mut connection = soon(builder.initial_window_size(0).handshake::<_, Bytes>(io)).await.unwrap();
    let (_, mut respond) = soon(connection.accept()).await.unwrap().unwrap();
    respond.send_response(Response::new(()), true).unwrap();
    let next = async {
        assert_eq!(answer(first).await.status(), 200);
        Some(start(&mut agent, Method::POST, "/v1/orders", full("hello")))
    };
    let (asked, arrived) = tokio::join!(next, soon(connection.accept()));
    let asked = asked.unwrap();
    let (request, mut respond) = arrived.unwrap().unwrap();
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(answer(asked).await.status(), 200);
    let reason = soon(std::future::poll_fn(|cx| respond.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, h2::Reason::CANCEL);
    drop(request);
}

// === Agents that take nothing ===

/// An h2 agent whose window is closed from the start.
async fn closed_window(stage: &Stage, authority: &str) -> (Agent, h2::client::SendRequest<Bytes>) {
    let io = open(stage, authority, Way::TunnelH2).await;
    let (sender, connection) =
        soon(h2::client::Builder::new().initial_window_size(0).handshake::<_, Bytes>(io)).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    (Agent::connect(stage, authority, Way::TunnelH2).await, soon(sender.ready()).await.unwrap())
}

/// `request_timeout` holds whatever moves, and whatever doesn't.
#[tokio::test]
async fn an_answer_that_its_agent_does_not_take_ends_in_time() {
    let upstream = Scripted::start("http/1.1").await;
    for over_h2 in [true, false] {
        let stage = upstream.stage("request_timeout = \"1s\"").await;
        let (mut _agents, mut wire);
        if over_h2 {
            let (agent, mut sender) = closed_window(&stage, &upstream.authority()).await;
            let (asked, _) =
                sender.send_request(agent.request(Method::GET, "/v1/big").body(()).unwrap(), true).unwrap();
            wire = upstream.accept().await;
            wire.head().await;
            wire.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfull").await;
            _agents = (Some((agent, sender, soon(asked).await.unwrap())), None);
        } else {
            let mut agent = Wire::new(open(&stage, &upstream.authority(), Way::TunnelH1).await);
            agent.write(raw_head(&stage, &upstream.authority(), Way::TunnelH1, ("GET", "/v1/big", "1.1"), "")).await;
            wire = upstream.accept().await;
            wire.head().await;
            wire.write("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
            // Until nobody takes any more of it.
            while timeout(SILENCE, wire.write(vec![b'x'; MIB])).await.is_ok() {}
            _agents = (None, Some(agent));
        }
        let record = records(&stage, 1).await.pop().unwrap();
        assert_eq!((&record["status"], &record["error"]), (&200.into(), &"request_timeout".into()), "{record}");
    }
}

/// A request is under way until its answer is with its agent, and its record says so.
#[tokio::test]
async fn an_answer_that_was_never_taken_is_not_recorded_as_delivered() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("requests_per_agent = 1").await;
    let (agent, mut sender) = closed_window(&stage, &upstream.authority()).await;
    let request = || agent.request(Method::GET, "/v1/orders").body(()).unwrap();
    let (asked, _) = sender.send_request(request(), true).unwrap();
    let mut wire = upstream.accept().await;
    wire.head().await;
    wire.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsome").await;
    let answer = soon(asked).await.unwrap();
    let (second, _) = sender.send_request(request(), true).unwrap();
    assert_eq!(soon(second).await.unwrap().status(), 429);
    // Cancels the stream.
    drop(answer);
    let gone = soon(async {
        loop {
            let found = stage.records().into_iter().find(|record| record["status"] == 200);
            match found {
                Some(record) => break record,
                None => tokio::task::yield_now().await,
            }
        }
    });
    assert_eq!(gone.await["error"], "agent_gone");
}

/// Who knows how long an answer is may leave before its end is told.
#[tokio::test]
async fn an_agent_that_leaves_with_the_last_byte_has_its_answer() {
    let upstream = Scripted::start("h2").await;
    let stage = upstream.stage("").await;
    let (agent, mut sender) = h2_agent(&stage, &upstream.authority(), Way::TunnelH2).await;
    let (asked, _) = sender.send_request(agent.request(Method::GET, "/v1/orders").body(()).unwrap(), true).unwrap();
    let mut connection = soon(h2::server::handshake(upstream.accept().await.into_inner())).await.unwrap();
    let (_, mut respond) = soon(connection.accept()).await.unwrap().unwrap();
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let head = Response::builder().header("content-length", "4").body(()).unwrap();
    let mut sending = respond.send_response(head, false).unwrap();
    sending.send_data(Bytes::from_static(b"some"), false).unwrap();
    let mut answer = soon(asked).await.unwrap();
    assert_eq!(soon(answer.body_mut().data()).await.unwrap().unwrap(), "some");
    drop((answer, sender));
    let record = records(&stage, 1).await.pop().unwrap();
    assert_eq!((&record["status"], &record["error"]), (&200.into(), &Value::Null), "{record}");
}

/// Threat 75: a frame of one byte takes two hundred, and no window says so.
#[tokio::test]
async fn small_frames_that_nobody_takes_end_their_connection() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage(NO_TIMEOUT).await;
    let (agent, mut sender) = h2_agent(&stage, &upstream.authority(), Way::TunnelH2).await;
    // Nobody asks for its body.
    let request = agent.request(Method::POST, "/v1/orders").header("expect", "100-continue").body(()).unwrap();
    let (_asked, mut upload) = sender.send_request(request, false).unwrap();
    let mut wire = upstream.accept().await;
    wire.head().await;
    for _ in 0..60_000 {
        if upload.send_data(Bytes::from_static(b"x"), false).is_err() {
            break;
        }
    }
    let ended = soon(std::future::poll_fn(|cx| upload.poll_reset(cx))).await;
    let ended = ended.unwrap_err();
    // It may find the connection closed before it reads why.
    assert!(ended.is_io() || ended.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM), "{ended:?}");
}
