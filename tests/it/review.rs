//! What a hostile agent tries beyond the plain cases: each test here was a hole once.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use cupbearer::demo::WorldSettings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{API, Facts, Stage};

/// Long enough for an answer that comes, where none should.
const A_WHILE: Duration = Duration::from_millis(300);

async fn connect(proxy: SocketAddr) -> TcpStream {
    TcpStream::connect(proxy).await.unwrap()
}

/// Sends a request's head with the agent's key.
async fn ask(stage: &Stage, stream: &mut TcpStream, line: &str) {
    let key = BASE64_STANDARD.encode(format!("researcher:{}", stage.key));
    let host = line.split(' ').nth(1).unwrap();
    let head = format!("{line} HTTP/1.1\r\nhost: {host}\r\nproxy-authorization: Basic {key}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
}

/// The head of the next answer.
async fn answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn with(extra: &'static str) -> impl FnOnce(&Facts) -> String {
    move |facts| format!("{}\n{extra}", facts.config())
}

/// R5: what a route names is not to be had untouched at another port.
#[tokio::test]
async fn a_host_that_a_route_names_gets_no_blind_tunnel_at_any_port() {
    let config = |facts: &Facts| facts.config().replace("[proxy]\n", "[proxy]\nunmatched = \"tunnel\"\n");
    let stage = Stage::with(WorldSettings::default(), config).await;
    for authority in [format!("{API}:8443"), format!("{}.:443", API.to_uppercase())] {
        let mut stream = connect(stage.forward()).await;
        ask(&stage, &mut stream, &format!("CONNECT {authority}")).await;
        let head = answer(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 403") && head.contains("host_not_allowed"), "{head}");
    }
    // A host that no route names goes on to be dialled, where the wall stops it.
    let mut stream = connect(stage.forward()).await;
    ask(&stage, &mut stream, "CONNECT 10.1.2.3:443").await;
    assert!(answer(&mut stream).await.contains("address_not_allowed"));
}

/// Threat 87: a tunnel is a connection, too.
#[tokio::test]
async fn tunnels_count_as_connections() {
    let stage = Stage::with(WorldSettings::default(), with("[limits]\nconnections = 1\n")).await;
    let mut tunnel = connect(stage.forward()).await;
    ask(&stage, &mut tunnel, &format!("CONNECT {API}:{}", stage.facts.api_port)).await;
    assert!(answer(&mut tunnel).await.starts_with("HTTP/1.1 200"));

    let mut next = connect(stage.forward()).await;
    ask(&stage, &mut next, "GET http://elsewhere.test/").await;
    let early = timeout(A_WHILE, next.read_u8()).await;
    assert!(early.is_err(), "answered beside a tunnel that has the only place");
    drop(tunnel);
    assert!(answer(&mut next).await.starts_with("HTTP/1.1 403"));
}
