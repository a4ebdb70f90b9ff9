//! Past a limit: a clear refusal for who is past it, and everybody else is served.

use std::net::SocketAddr;

use cupbearer::{
    identity,
    primitives::{Secret, digest},
};
use http::{Method, header};
use http_body_util::BodyExt;
use tokio::net::TcpStream;

use crate::{
    agents::{Agent, Way, data, empty, fed, text},
    scripted::{Scripted, Wire, field, soon, status},
    support::Stage,
    wire::basic,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A stage with a second agent, for whom all else is the same. `limits`: lines of `[limits]`.
async fn with_two_agents(upstream: &Scripted, limits: &str) -> (Stage, Secret) {
    let (key, hash) = identity::generate_key().unwrap();
    let config = |facts: &_| {
        let config = upstream.config(facts).replace("agents = [\"researcher\"]", "agents = [\"*\"]");
        format!("{config}\n[agents.other]\nkey_sha256 = \"{}\"\n\n[limits]\n{limits}\n", digest::hex(&hash))
    };
    (Stage::with(Default::default(), config).await, key)
}

async fn connect(door: SocketAddr) -> Wire {
    Wire::new(TcpStream::connect(door).await.unwrap())
}

/// A request through the base URL.
fn request(name: &str, key: &str) -> String {
    format!("GET /v1/orders HTTP/1.1\r\nhost: x\r\nproxy-authorization: {}\r\n\r\n", basic(name, key))
}

/// The end of a whole answer with the length that it names.
async fn answer(wire: &mut Wire) -> (String, String) {
    let head = wire.head().await;
    let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    let body = wire.exactly(length).await;
    (head, String::from_utf8(body).unwrap())
}

/// Threat 87: the requests of one agent that are under way, over any connections.
#[tokio::test]
async fn an_agents_requests_under_way_are_limited() {
    let upstream = Scripted::start("http/1.1").await;
    let (stage, other) = with_two_agents(&upstream, "requests_per_agent = 2").await;
    let mine = request("researcher", &stage.key);
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut agent = connect(stage.reverse()).await;
        agent.write(&mine).await;
        let mut far = upstream.accept().await;
        far.head().await;
        busy.push((agent, far));
    }
    let mut third = connect(stage.reverse()).await;
    for _ in 0..2 {
        third.write(&mine).await;
        let (head, body) = answer(&mut third).await;
        assert_eq!((status(&head), field(&head, "x-cupbearer-error")), (429, Some("rate_limited")), "{head}");
        assert_eq!(field(&head, "retry-after"), Some("1"));
        assert!(body.contains("requests_per_agent"), "{body}");
    }
    let mut neighbour = connect(stage.reverse()).await;
    neighbour.write(request("other", other.expose())).await;
    let mut far = upstream.accept().await;
    far.head().await;
    far.write(OK).await;
    assert_eq!(status(&answer(&mut neighbour).await.0), 200, "nobody else is held up");

    // A body that is still coming is a request under way; when it is over there is room.
    let (mut agent, mut far) = busy.pop().unwrap();
    far.write(&OK[..OK.len() - 1]).await;
    agent.head().await;
    third.write(&mine).await;
    assert_eq!(status(&answer(&mut third).await.0), 429);
    far.write("k").await;
    agent.exactly(2).await;
    third.write(&mine).await;
    far.head().await;
    far.write(OK).await;
    assert_eq!(status(&answer(&mut third).await.0), 200);
    // One who leaves makes room, too.
    drop(busy);
    let records = stage.records();
    assert_eq!(records.iter().filter(|record| record["error"] == "rate_limited").count(), 3);
}

/// Threat 87: an agent's connections, tunnels among them, over all listeners.
#[tokio::test]
async fn an_agents_connections_are_limited() {
    let upstream = Scripted::start("http/1.1").await;
    let (stage, other) = with_two_agents(&upstream, "connections_per_agent = 2").await;
    let connect_head = |name: &str, key: &str| {
        let authority = upstream.authority();
        format!(
            "CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\nproxy-authorization: {}\r\n\r\n",
            basic(name, key)
        )
    };
    let mut tunnel = connect(stage.forward()).await;
    tunnel.write(connect_head("researcher", &stage.key)).await;
    assert_eq!(status(&tunnel.head().await), 200);
    let mut kept = connect(stage.reverse()).await;
    kept.write(request("researcher", &stage.key)).await;
    let mut far = upstream.accept().await;
    far.head().await;
    far.write(OK).await;
    assert_eq!(status(&answer(&mut kept).await.0), 200);

    for (door, head) in [
        (stage.forward(), connect_head("researcher", &stage.key)),
        (stage.reverse(), request("researcher", &stage.key)),
    ] {
        let mut third = connect(door).await;
        third.write(head).await;
        let (head, body) = answer(&mut third).await;
        assert_eq!((status(&head), field(&head, "x-cupbearer-error")), (429, Some("rate_limited")), "{head}");
        assert_eq!(field(&head, "connection"), Some("close"));
        assert!(body.contains("connections_per_agent"), "{body}");
        assert_eq!(third.rest().await, "");
    }
    // A connection that is counted is used again as often as one likes.
    kept.write(request("researcher", &stage.key)).await;
    far.head().await;
    far.write(OK).await;
    assert_eq!(status(&answer(&mut kept).await.0), 200);
    let mut neighbour = connect(stage.forward()).await;
    neighbour.write(connect_head("other", other.expose())).await;
    assert_eq!(status(&neighbour.head().await), 200, "nobody else is held up");

    // What ends makes room. That is a moment after its agent has left.
    drop(tunnel);
    soon(async {
        loop {
            let mut third = connect(stage.forward()).await;
            third.write(connect_head("researcher", &stage.key)).await;
            if status(&third.head().await) == 200 {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Threat 85: RFC 9110 §15.5.15 and RFC 6585 §5. hyper has its own words for h1's fields.
#[tokio::test]
async fn long_targets_and_many_fields_are_refused() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("request_target = \"1KiB\"\nrequest_fields = 20").await;
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let answer = agent.get(&format!("/v1/orders?q={}", "x".repeat(1024))).await;
        assert_eq!(answer.status(), 414, "{way:?}");
        assert_eq!(answer.headers()["x-cupbearer-error"], "bad_request");
        assert!(text(answer).await.contains("request_target"));

        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let fields = (0..21).fold(agent.request(Method::GET, "/v1/orders"), |request, number| {
            request.header(format!("x-field-{number}"), "1")
        });
        let answer = soon(agent.send(fields.body(empty()).unwrap())).await.unwrap();
        assert_eq!(answer.status(), 431, "{way:?}");
    }
    upstream.nobody().await;
}

/// A request's time is up, though something comes all the time.
#[tokio::test]
async fn a_request_that_never_ends_is_ended() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("request_timeout = \"1s\"").await;
    for way in Way::ALL {
        let mut agent = Agent::connect(&stage, &upstream.authority(), way).await;
        let request = agent.request(Method::GET, "/v1/stream").body(empty()).unwrap();
        let asked = tokio::spawn(agent.send(request));
        let mut far = upstream.accept().await;
        far.head().await;
        far.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let mut answer = soon(asked).await.unwrap().unwrap();
        far.write("3\r\n:\n\n\r\n").await;
        assert_eq!(data(&mut answer).await, ":\n\n");
        let dripping = tokio::spawn(async move {
            while far.try_write("3\r\n:\n\n\r\n").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        soon(answer.into_body().collect()).await.unwrap_err();
        soon(dripping).await.unwrap();
    }
    // … and so is an upload that goes on for ever.
    let mut agent = Agent::connect(&stage, &upstream.authority(), Way::BaseUrl).await;
    let (feeder, body) = fed();
    let request = agent.request(Method::POST, "/v1/orders").header(header::CONTENT_TYPE, "text/plain");
    let asked = tokio::spawn(agent.send(request.body(body).unwrap()));
    let dripping = tokio::spawn(async move {
        while feeder.data("x").await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let mut far = upstream.accept().await;
    far.head().await;
    assert_eq!(soon(asked).await.unwrap().unwrap().status(), 408);
    dripping.abort();
    let errors: Vec<_> = stage.records().into_iter().map(|record| record["error"].clone()).collect();
    assert_eq!(errors.iter().filter(|error| **error == "request_timeout").count(), Way::ALL.len(), "{errors:?}");
}

// === HTTP/2 ===

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET http://x/` in HPACK's static table.
const HEAD: &[u8] = b"\x82\x86\x84\x41\x01x";

/// The error of the GOAWAY that comes.
async fn goaway(wire: &mut Wire) -> u32 {
    loop {
        let head = wire.exactly(9).await;
        let payload = wire.exactly(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize).await;
        if head[3] == 7 {
            return u32::from_be_bytes(payload[4..8].try_into().unwrap());
        }
    }
}

const ENHANCE_YOUR_CALM: u32 = 11;

/// Threat 75: streams that are reset before anybody looked at them, and heads without end. Who
/// does that loses the connection; others are served.
#[tokio::test]
async fn floods_of_http_2_end_their_connection() {
    let upstream = Scripted::start("http/1.1").await;
    let stage = upstream.stage("h2_resets = 10").await;
    let resets = (0..50).flat_map(|number| {
        let stream = 2 * number + 1;
        [frame(1, 0b101, stream, HEAD), frame(3, 0, stream, &8u32.to_be_bytes())].concat()
    });
    let continued = (0..1000).flat_map(|_| frame(9, 0, 1, b""));
    let floods: [Vec<u8>; 2] = [resets.collect(), frame(1, 0b001, 1, HEAD).into_iter().chain(continued).collect()];
    for flood in floods {
        let mut wire = connect(stage.reverse()).await;
        wire.write([PREFACE, &flood].concat()).await;
        assert_eq!(goaway(&mut wire).await, ENHANCE_YOUR_CALM);
        let mut neighbour = connect(stage.reverse()).await;
        neighbour.write(request("researcher", &stage.key)).await;
        let mut far = upstream.accept().await;
        far.head().await;
        far.write(OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).await;
        assert_eq!(status(&answer(&mut neighbour).await.0), 200);
    }
}
