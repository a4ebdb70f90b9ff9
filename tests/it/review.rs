//! What a hostile agent tries beyond the plain cases: each test here was a hole once.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use cupbearer::demo::WorldSettings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
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

/// Threat 106: also inside a connection that is open and in use. That one ends, and a client
/// that opens another hears why.
#[tokio::test]
async fn a_withdrawn_key_ends_an_open_tunnel() {
    let stage = Stage::start().await;
    let agent = stage.agent();
    assert_eq!(agent.get(stage.url("/v1/orders")).send().await.unwrap().status(), 200);
    let other = Facts { key_sha256: "ab".repeat(32), ..stage.facts.clone() };
    stage.reload(&other.config());
    let refused = agent.get(stage.url("/v1/orders")).send().await;
    assert!(refused.is_err() || refused.unwrap().status() == 407);
    let mut stream = connect(stage.forward()).await;
    ask(&stage, &mut stream, &format!("CONNECT {API}:{}", stage.facts.api_port)).await;
    let head = answer(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 407") && head.contains("agent_unknown"), "{head}");
    assert_eq!(stage.world.api().seen_count(), 1);
}

/// Threat 43: the record tells through which tunnel it was tried.
#[tokio::test]
async fn a_request_for_another_host_is_recorded_under_its_tunnels() {
    let stage = Stage::start().await;
    let mut stream = connect(stage.forward()).await;
    ask(&stage, &mut stream, &format!("CONNECT {API}:{}", stage.facts.api_port)).await;
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
    stream.write_all(b"GET /v1/orders HTTP/1.1\r\nhost: evil.test\r\n\r\n").await.unwrap();
    let mut refusal = String::new();
    stream.read_to_string(&mut refusal).await.unwrap();
    assert!(refusal.contains("target_mismatch"), "{refusal}");
    let records = stage.records();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["host"], API);
}

/// An agent that believed an interim answer's length would take the answer for its body.
#[tokio::test]
async fn an_interim_answer_has_no_length() {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = origin.local_addr().unwrap();
    let route = format!(
        "[[routes]]\nname = \"origin\"\nhosts = [\"{address}\"]\nagents = [\"researcher\"]\n\
         danger_allow_private_addresses = [\"127.0.0.1/32\"]\n"
    );
    let stage = Stage::with(WorldSettings::default(), |facts| format!("{}\n{route}", facts.config())).await;
    let mut stream = connect(stage.forward()).await;
    ask(&stage, &mut stream, &format!("GET http://{address}/")).await;
    let (mut upstream, _) = origin.accept().await.unwrap();
    answer(&mut upstream).await;
    let hints = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\ncontent-length: 17\r\n\r\n";
    upstream.write_all(hints).await.unwrap();
    assert_eq!(answer(&mut stream).await, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    upstream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 204"));
}
