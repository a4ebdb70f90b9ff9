//! Answers that say in their body that the token is no longer good: read whether or not their
//! length is known, in whichever coding, and the agent's as they came where they say something else.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinHandle;

use crate::{
    agents::{Agent, Way, data, empty, fed, full, open, raw_head, records, text},
    scripted::{Scripted, Wire, field, soon, status},
    scrub::{all_of, brotli, gzip, zstd},
    support::Stage,
};

const MARKER: &str = "SESSION_ENDED";
/// What is read at most to find it.
const LOOK: usize = 8 * 1024;
/// Up to the fields that a test wants besides.
const REFUSED: &str = "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ntransfer-encoding: chunked\r\n";

/// A stage with this server as the API, whose 401 with the marker refuses a token.
async fn stage(upstream: &Scripted) -> Stage {
    Stage::with(Default::default(), |facts| {
        let rule = format!("credential = \"orders\"\nrefresh_on = {{ status = 401, body = \"{MARKER}\" }}");
        let config = upstream.config(facts).replace("credential = \"orders\"", &rule);
        format!("{config}\n[limits]\ntoken_storm_guard = \"0s\"\n")
    })
    .await
}

fn get(agent: &mut Agent) -> JoinHandle<hyper::Result<Response<Incoming>>> {
    let request = agent.request(Method::GET, "/v1/orders").header("te", "trailers").body(empty()).unwrap();
    tokio::spawn(agent.send(request))
}

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

fn token_requests(stage: &Stage) -> usize {
    stage.world.authorization_server().token_request_count()
}

/// What breaks off while it is read breaks off for the agent, too, and by whose doing is known.
#[tokio::test]
async fn a_refusal_whose_request_is_none_is_the_agents_doing() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = stage(&upstream).await;
    for (index, way) in Way::H1.into_iter().enumerate() {
        let mut agent = Wire::new(open(&stage, &upstream.authority(), way).await);
        let line = ("POST", "/v1/orders", "1.1");
        agent.write(raw_head(&stage, &upstream.authority(), way, line, "transfer-encoding: chunked\r\n")).await;
        let mut refusing = upstream.accept().await;
        refusing.head().await;
        refusing.write(format!("{REFUSED}\r\n4\r\ntold\r\n")).await;
        // It is looked at.
        agent.silence().await;
        agent.write("zz\r\n").await;
        assert_eq!(refusing.rest().await, "", "{way:?}");
        let head = agent.head().await;
        assert_eq!((status(&head), agent.rest().await.as_str()), (401, "4\r\ntold\r\n"), "{way:?}");
        let record = records(&stage, index + 1).await.pop().unwrap();
        assert_eq!(record["error"], "bad_request", "{way:?}: {record}");
    }
}

/// In chunks that cut the marker; the agent's request is applied once.
#[tokio::test]
async fn a_refusal_of_unknown_length_is_read() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = stage(&upstream).await;
    let told = format!("[{{\"message\":\"the session is over\",\"errorCode\":\"{MARKER}\"}}]");
    let bodies =
        [("identity", told.clone().into_bytes()), ("gzip", gzip(&told)), ("br", brotli(&told)), ("zstd", zstd(&told))];
    let mut renewed = 0;
    for way in Way::ALL {
        for (coding, body) in &bodies {
            let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
            let request = agent.request(Method::POST, "/v1/orders").body(full("one order")).unwrap();
            let asked = tokio::spawn(agent.send(request));
            let mut refusing = upstream.accept().await;
            let refused = refusing.head().await;
            assert_eq!(refusing.exactly(9).await, b"one order");
            refusing.write(format!("{REFUSED}content-encoding: {coding}\r\n\r\n")).await;
            for part in body.chunks(7) {
                refusing.write(chunk(part)).await;
            }
            refusing.write("0\r\n\r\n").await;

            let mut taking = upstream.accept().await;
            let again = taking.head().await;
            assert_ne!(field(&again, "authorization"), field(&refused, "authorization"), "{way:?}, {coding}");
            assert_eq!(taking.exactly(9).await, b"one order");
            taking.write("HTTP/1.1 201 Created\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
            assert_eq!(soon(asked).await.unwrap().unwrap().status(), StatusCode::CREATED, "{way:?}, {coding}");
            renewed += 1;
            assert_eq!(token_requests(&stage), 1 + renewed, "{way:?}, {coding}");
        }
    }
}

/// With its trailers; also where there is more of it than is looked at.
#[tokio::test]
async fn another_refusal_of_unknown_length_reaches_the_agent_whole() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = stage(&upstream).await;
    for way in Way::ALL {
        for length in [0, 20, LOOK - 1, LOOK, 5 * LOOK] {
            let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
            let asked = get(&mut agent);
            let mut wire = upstream.accept().await;
            wire.head().await;
            wire.write(format!("{REFUSED}content-type: text/plain\r\ntrailer: x-sum\r\n\r\n")).await;
            // The marker stands behind all that is looked at, or isn't there.
            let body = if length > LOOK { format!("{}{MARKER}", "x".repeat(length)) } else { "x".repeat(length) };
            for part in body.as_bytes().chunks(1024) {
                wire.write(chunk(part)).await;
            }
            wire.write("0\r\nx-sum: 1\r\n\r\n").await;
            let answer = soon(asked).await.unwrap().unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{way:?}, {length}");
            let (_, got, trailers) = all_of(answer).await;
            assert!(got == body, "{way:?}, {length}: {} bytes", got.len());
            assert_eq!(trailers.get("x-sum"), Some(&HeaderValue::from_static("1")), "{way:?}, {length}");
        }
    }
    upstream.nobody().await;
    assert_eq!(token_requests(&stage), 1);
}

/// The first is refused by the marker, the second taken, the third refused otherwise.
#[tokio::test]
async fn an_h2_upstream_need_not_say_how_long_its_refusal_is() {
    let mut upstream = Scripted::start("h2").await;
    let arrived = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&arrived);
    upstream.answer_h2(move |_: Request<Incoming>| {
        let (status, said): (u16, &'static str) = match count.fetch_add(1, Ordering::Relaxed) {
            0 => (401, MARKER),
            1 => (200, "taken"),
            _ => (401, "not that"),
        };
        async move {
            let (feeder, body) = fed();
            tokio::spawn(async move {
                feeder.data(said).await;
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", HeaderValue::from_static("1"));
                feeder.trailers(trailers).await;
            });
            Response::builder().status(status).body(body).unwrap()
        }
    });
    let stage = stage(&upstream).await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH2).await;
    for (status, said) in [(200, "taken"), (401, "not that")] {
        let answer = soon(get(&mut agent)).await.unwrap().unwrap();
        assert_eq!(answer.status(), status);
        let (_, body, trailers) = all_of(answer).await;
        assert_eq!((body.as_str(), &trailers["x-sum"]), (said, &HeaderValue::from_static("1")));
    }
    assert_eq!((arrived.load(Ordering::Relaxed), token_requests(&stage)), (3, 2));
}

/// The agent has what came of it after a while, and the rest as it comes.
#[tokio::test]
async fn a_refusal_that_stalls_is_handed_on() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = stage(&upstream).await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH1).await;
    let asked = get(&mut agent);
    let mut wire = upstream.accept().await;
    wire.head().await;
    wire.write(format!("{REFUSED}\r\n6\r\nfirst \r\n")).await;
    let mut answer = soon(asked).await.unwrap().unwrap();
    assert_eq!((answer.status(), data(&mut answer).await.as_ref()), (StatusCode::UNAUTHORIZED, &b"first "[..]));
    wire.write("4\r\nlast\r\n0\r\n\r\n").await;
    assert_eq!(text(answer).await, "last");
}

/// Nobody takes the half that came for the whole (threat 79).
#[tokio::test]
async fn a_refusal_that_breaks_off_stays_broken() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = stage(&upstream).await;
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::TunnelH1).await;
    let asked = get(&mut agent);
    let mut wire = upstream.accept().await;
    wire.head().await;
    wire.write(format!("{REFUSED}\r\n6\r\nfirst \r\n")).await;
    wire.finish().await;
    let answer = soon(asked).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    soon(answer.into_body().collect()).await.unwrap_err();
    assert_eq!(token_requests(&stage), 1);
}
