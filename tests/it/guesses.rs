//! Threat 4: who guesses keys is held up and reported, and nobody else notices.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    scripted::soon,
    support::{Facts, Stage},
    wire::{Answer, Way, Wire, basic, connect_head},
};

const LIMIT: usize = 3;

fn config(facts: &Facts) -> String {
    format!("{}\n[socks]\nlisten = [\"127.0.0.1:0\"]\n\n[limits]\nwrong_keys_per_peer = {LIMIT}\n", facts.config())
}

async fn stage() -> Stage {
    Stage::with(Default::default(), config).await
}

/// With another key than the agent's.
fn guess(stage: &Stage, head: &str) -> String {
    let wrong = "x".repeat(stage.key.len());
    head.replace(&stage.key, &wrong).replace(&basic("researcher", &stage.key), &basic("researcher", &wrong))
}

async fn said(door: SocketAddr, head: &str) -> (Answer, Wire) {
    let mut wire = Wire::connect(door).await;
    wire.send(head).await;
    (wire.answer().await, wire)
}

/// Every door counts alike: a request, a `CONNECT`, a base URL, SOCKS.
#[tokio::test]
async fn wrong_keys_are_limited_and_reported_and_right_ones_pass() {
    let stage = stage().await;
    let heads = [
        (stage.forward(), Way::AbsoluteForm.head(&stage, "GET", "/v1/orders") + "\r\n"),
        (stage.forward(), connect_head(&stage, &stage.authority())),
        (stage.reverse(), Way::Reverse.head(&stage, "GET", "/v1/orders") + "\r\n"),
    ];
    for (door, head) in &heads {
        assert_eq!(said(*door, &guess(&stage, head)).await.0.code(), "agent_unknown");
    }
    for (door, head) in &heads {
        let (answer, mut wire) = said(*door, &guess(&stage, head)).await;
        assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limited"), "{answer:?}");
        let wait: u64 = answer.field("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        assert_eq!(answer.field("connection"), "close");
        assert_eq!(wire.closed().await, b"");
    }
    let mut socks = tokio::net::TcpStream::connect(stage.socks()).await.unwrap();
    socks.write_all(&[&[5, 1, 2, 1, 10][..], b"researcher", &[5], b"wrong"].concat()).await.unwrap();
    let mut answer = Vec::new();
    socks.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [5, 2, 1, 1]);

    for (door, head) in &heads {
        assert_eq!(said(*door, head).await.0.status, 200, "the right key, from the same address");
    }
    let alerts: Vec<_> = stage.log().into_iter().filter(|line| line["event"] == "alert.wrong_keys").collect();
    assert_eq!(alerts.len(), 1, "once a minute: {alerts:?}");
    assert!(alerts[0]["detail"].as_str().unwrap().contains("127.0.0.1"), "{}", alerts[0]);
    let refused = stage.records().into_iter().filter(|record| record["error"] == "rate_limited");
    assert_eq!(refused.filter(|record| record["reason"] == "agent_key_unknown").count(), 4);
    let metrics = format!("http://{}/metrics", stage.proxy.admin.unwrap());
    let metrics = stage.direct().get(metrics).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("cupbearer_denials_total{reason=\"rate_limited\"} 4"), "{metrics}");
    assert!(metrics.contains("{kind=\"wrong_keys\"} 1"), "{metrics}");
}

/// Over h2, where a connection has many requests, the last guess ends it, too.
#[tokio::test]
async fn over_h2_it_costs_the_connection() {
    let stage = stage().await;
    let url = format!("http://{}/v1/orders", stage.authority());
    let request = |key: &str| {
        let request = Request::get(&url).header("proxy-authorization", basic("researcher", key));
        request.body(()).unwrap()
    };
    let connect = async || {
        let io = TcpStream::connect(stage.forward()).await.unwrap();
        let (sender, connection) = h2::client::handshake(io).await.unwrap();
        (sender, tokio::spawn(connection))
    };
    let (mut sender, connection) = connect().await;
    for status in [407, 407, 407, 429] {
        sender = sender.ready().await.unwrap();
        let (answer, _) = sender.send_request(request("wrong"), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(
            (answer.status(), answer.headers().get("connection")),
            (StatusCode::from_u16(status).unwrap(), None)
        );
    }
    soon(connection).await.unwrap().unwrap();
    let (sender, _connection) = connect().await;
    let (answer, _) = sender.ready().await.unwrap().send_request(request(&stage.key), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK, "the right key, from the same address");
}

/// Who is there, and takes no notice of that end, is left.
#[tokio::test]
async fn nor_is_it_kept_for_who_goes_on() {
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    let config = |facts: &Facts| config(facts) + "head_timeout = \"50ms\"\n";
    let stage = Stage::with(Default::default(), config).await;
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    // `GET http://x/` in HPACK's static table, and a field by its name (RFC 7541 §6.2.2).
    let mut head = b"\x82\x86\x84\x41\x01x".to_vec();
    for (kind, text) in [(Some(0), "proxy-authorization"), (None, &*basic("researcher", "wrong"))] {
        head.extend(kind);
        head.push(u8::try_from(text.len()).unwrap());
        head.extend(text.as_bytes());
    }
    let mut io = TcpStream::connect(stage.forward()).await.unwrap();
    io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    for stream in [1, 3, 5, 7] {
        io.write_all(&frame(1, 5, stream, &head)).await.unwrap();
    }
    let mut kinds = Vec::new();
    let mut said = [0; 9];
    while soon(io.read_exact(&mut said)).await.is_ok() {
        let mut payload = vec![0; usize::from(said[1]) << 8 | usize::from(said[2])];
        io.read_exact(&mut payload).await.unwrap();
        kinds.push(said[3]);
        let is_the_end = kinds.ends_with(&[GOAWAY, PING]) && kinds.iter().filter(|kind| **kind == GOAWAY).count() == 1;
        if (said[3], said[4]) == (PING, 0) && !is_the_end {
            drop(io.write_all(&frame(PING, 1, 0, &payload)).await);
        }
    }
    assert_eq!(kinds.iter().filter(|kind| **kind == 1).count(), 4, "the answers: {kinds:?}");
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
}

/// An address of its own has a count of its own.
#[tokio::test]
async fn one_address_holds_up_no_other() {
    let stage = stage().await;
    let head = guess(&stage, &Way::AbsoluteForm.head(&stage, "GET", "/v1/orders")) + "\r\n";
    for _ in 0..LIMIT {
        said(stage.forward(), &head).await;
    }
    assert_eq!(said(stage.forward(), &head).await.0.status, 429);
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut neighbour = Wire::over(socket.connect(stage.forward()).await.unwrap());
    for _ in 0..LIMIT {
        neighbour.send(&head).await;
        assert_eq!(neighbour.answer().await.status, 407);
    }
    neighbour.send(Way::AbsoluteForm.head(&stage, "GET", "/v1/orders") + "\r\n").await;
    assert_eq!(neighbour.answer().await.status, 200);
}

/// git asks without a key first, and an SDK may send what isn't one: nothing was guessed.
#[tokio::test]
async fn no_key_is_no_wrong_key() {
    let stage = stage().await;
    let bare = format!("GET http://{}/v1/orders HTTP/1.1\r\nHost: x\r\n", stage.authority());
    for _ in 0..=LIMIT {
        assert_eq!(said(stage.forward(), &format!("{bare}\r\n")).await.0.status, 407);
        let odd = format!("{bare}Proxy-Authorization: Negotiate abc\r\n\r\n");
        assert_eq!(said(stage.forward(), &odd).await.0.status, 407);
    }
}
