//! HTTP/2 at the doors themselves: by ALPN where they have TLS, by prior knowledge where they
//! don't, and `CONNECT` as a stream among others.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, sync::Arc};

use bytes::Bytes;
use cupbearer::tls;
use http::{Method, Request, StatusCode, Version, header};
use hyper::{
    client::conn::http2::{self, SendRequest},
    ext::Protocol,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::{
    agents::{Agent, Way, empty, full, text},
    scripted::{Body, Io, Scripted, Wire, soon, status},
    support::{API, Facts, Stage},
    wire::basic,
};

/// A certificate for the doors, and who trusts it.
pub struct DoorTls {
    directory: tempfile::TempDir,
    root: CertificateDer<'static>,
    pub pem: String,
}

impl DoorTls {
    pub const NAME: &str = "door.test";

    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed([Self::NAME.to_owned()]).unwrap();
        let pem = made.cert.pem();
        fs::write(directory.path().join("door.pem"), &pem).unwrap();
        fs::write(directory.path().join("door.key"), made.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(directory.path().join("door.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        Self { directory, root, pem }
    }

    /// The config with TLS at both doors.
    pub fn secure(&self, config: &str) -> String {
        let path = |name| self.directory.path().join(name).display().to_string();
        let line = format!("tls = {{ certificate = \"{}\", key = \"{}\" }}", path("door.pem"), path("door.key"));
        let secured = config
            .replace("[proxy]\n", &format!("[proxy]\n{line}\n"))
            .replace("[[reverse]]\n", &format!("[[reverse]]\n{line}\n"));
        assert_eq!(secured.matches(&line).count(), 2);
        secured
    }

    /// A TLS connection to a door.
    pub async fn connect(&self, door: SocketAddr, alpn: &str) -> Box<dyn Io> {
        let stream = TcpStream::connect(door).await.unwrap();
        stream.set_nodelay(true).unwrap();
        secure(stream, self.root.clone(), Self::NAME, alpn).await
    }
}

/// TLS over any stream, trusting this root alone.
pub async fn secure(io: impl Io + 'static, root: CertificateDer<'static>, name: &str, alpn: &str) -> Box<dyn Io> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = soon(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, io)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
    Box::new(stream)
}

pub async fn handshake(io: impl Io + 'static) -> SendRequest<Body> {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender
}

/// A tunnel that is a stream of an h2 connection.
pub async fn tunnel(stage: &Stage, sender: &mut SendRequest<Body>, authority: &str) -> Box<dyn Io> {
    let key = basic("researcher", &stage.key);
    let request = Request::connect(authority).header(header::PROXY_AUTHORIZATION, key).body(empty()).unwrap();
    let answer = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    Box::new(TokioIo::new(soon(hyper::upgrade::on(answer)).await.unwrap()))
}

/// The proxy's door by both ways to speak h2 to it.
async fn doors() -> [(Stage, SendRequest<Body>); 2] {
    let clear = Stage::start().await;
    let plain = handshake(TcpStream::connect(clear.forward()).await.unwrap()).await;
    let tls = DoorTls::new();
    let secured = Stage::with(Default::default(), |facts| tls.secure(&facts.config())).await;
    let other = handshake(tls.connect(secured.forward(), "h2").await).await;
    [(clear, plain), (secured, other)]
}

#[tokio::test]
async fn one_port_speaks_both_versions_by_prior_knowledge() {
    let stage = Stage::start().await;
    let body = "an order ".repeat(100_000);
    for way in [Way::AbsoluteFormH2, Way::AbsoluteForm, Way::BaseUrlH2, Way::BaseUrl] {
        let mut agent = Agent::of(&stage, way).await;
        assert_eq!(agent.get("/v1/orders").await.status(), StatusCode::OK, "{way:?}");
        let answer = agent.post("/v1/orders", full(body.clone())).await;
        assert!(text(answer).await.contains(&format!("\"body_length\":{}", body.len())), "{way:?}");
        let refused = agent.get("/v2/orders").await;
        assert_eq!(refused.headers()["x-cupbearer-error"], "path_not_allowed", "{way:?}");
    }
    let protocols: Vec<Value> = stage.final_records().await.iter().map(|record| record["protocol"].clone()).collect();
    assert_eq!(protocols, [["h2"; 3], ["http/1.1"; 3], ["h2"; 3], ["http/1.1"; 3]].concat());
}

/// Interception inside a stream of the proxy's own h2 connection, by both versions; and a
/// refusal ends its stream alone.
#[tokio::test]
async fn connect_over_h2_is_intercepted() {
    for (stage, mut sender) in doors().await {
        let authority = stage.authority();
        for alpn in ["h2", "http/1.1"] {
            let root = stage.proxy.authority().root_der().clone();
            let io = secure(tunnel(&stage, &mut sender, &authority).await, root, API, alpn).await;
            let uri = if alpn == "h2" { stage.url("/v1/orders") } else { "/v1/orders".to_owned() };
            let request = Request::get(uri);
            let answer = if alpn == "h2" {
                let request = request.version(Version::HTTP_2).body(empty()).unwrap();
                soon(handshake(io).await.send_request(request)).await.unwrap()
            } else {
                let (mut inner, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
                tokio::spawn(connection);
                let request = request.header(header::HOST, &authority).body(empty()).unwrap();
                soon(inner.send_request(request)).await.unwrap()
            };
            assert_eq!(answer.status(), StatusCode::OK, "{alpn}");
            assert!(text(answer).await.starts_with("["), "{alpn}");
        }
        for (target, key, expected) in [
            ("evil.test:443", basic("researcher", &stage.key), 403),
            (&*authority, basic("researcher", "wrong"), 407),
            ("user@evil.test:443", basic("researcher", &stage.key), 400),
        ] {
            let request = Request::connect(target).header(header::PROXY_AUTHORIZATION, key).body(empty()).unwrap();
            assert_eq!(soon(sender.send_request(request)).await.unwrap().status(), expected, "{target}");
        }
        tunnel(&stage, &mut sender, &authority).await;
        drop(sender);
        let records = stage.final_records().await;
        let count = |method: &str| records.iter().filter(|record| record["method"] == method).count();
        assert_eq!((count("GET"), count("CONNECT")), (2, 4), "{records:?}");
        assert!(records.iter().all(|record| record["protocol"] == "h2" || record["protocol"] == "http/1.1"));
    }
}

/// gRPC clients without TLS speak h2 at once, through a proxy too.
#[tokio::test]
async fn a_tunnel_may_carry_h2_in_the_clear() {
    let stage = Stage::start().await;
    let mut wire = Wire::new(TcpStream::connect(stage.forward()).await.unwrap());
    let (authority, key) = (stage.authority(), basic("researcher", &stage.key));
    wire.write(format!("CONNECT {authority} HTTP/1.1\r\nhost: x\r\nproxy-authorization: {key}\r\n\r\n")).await;
    assert_eq!(status(&wire.head().await), 200);
    let mut sender = handshake(wire.into_inner()).await;
    for (scheme, expected) in [("http", 200), ("https", 400)] {
        let request = Request::builder().method(Method::GET).uri(format!("{scheme}://{authority}/v1/orders"));
        let answer = soon(sender.send_request(request.body(empty()).unwrap())).await.unwrap();
        assert_eq!(answer.status(), expected, "{scheme}");
    }
    assert!(stage.world.api().seen()[0].headers[header::AUTHORIZATION].to_str().unwrap().starts_with("Bearer "));
}

#[tokio::test]
async fn a_blind_tunnel_may_be_a_stream() {
    let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = |facts: &Facts| facts.config().replace("[proxy]\n", "[proxy]\nunmatched = \"tunnel\"\n");
    let stage = Stage::with(Default::default(), config).await;
    let own = crate::doors::OwnDoors::open(&stage, Some(far.local_addr().unwrap())).await;
    let mut sender = handshake(TcpStream::connect(own.forward).await.unwrap()).await;
    let mut agent = Wire::new(tunnel(&stage, &mut sender, "elsewhere.test:443").await);
    let mut far = Wire::new(far.accept().await.unwrap().0);
    let long = Bytes::from(vec![7; 1 << 20]);
    let (_, echoed) = tokio::join!(agent.write(&long), far.exactly(long.len()));
    assert!(echoed == long);
    far.write("to the end").await;
    agent.finish().await;
    assert_eq!(far.rest().await, "");
    far.finish().await;
    assert_eq!(agent.rest().await, "to the end");
    let record = crate::agents::records(&stage, 1).await.remove(0);
    assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&(1 << 20).into(), &10.into()), "{record}");
    assert_eq!((&record["protocol"], &record["error"]), (&"tunnel".into(), &Value::Null), "{record}");
}

/// `HTTPS_PROXY=https://…`: a client's own TLS to the proxy, then what it asks for.
#[tokio::test]
async fn a_proxy_url_may_be_https() {
    let tls = DoorTls::new();
    let stage = Stage::with(Default::default(), |facts| tls.secure(&facts.config())).await;
    let certificate = |pem: &str| reqwest::Certificate::from_pem(pem.as_bytes()).unwrap();
    let roots = [certificate(&tls.pem), certificate(stage.proxy.authority().root_pem())];
    let url = format!("https://researcher:{}@{}:{}", stage.key, DoorTls::NAME, stage.forward().port());
    let agent = reqwest::Client::builder()
        .proxy(reqwest::Proxy::all(url).unwrap())
        .tls_certs_only(roots)
        .resolve(DoorTls::NAME, stage.forward())
        .build()
        .unwrap();
    for url in [stage.url("/v1/orders"), stage.url("/v1/orders").replace("https://", "http://")] {
        let answer = soon(agent.get(&url).send()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{url}");
    }
    assert_eq!(stage.world.api().seen_count(), 2);
}

/// Threat 86: ALPN alone is no HTTP/2, and nobody waits for it without end.
#[tokio::test]
async fn a_connection_that_never_begins_is_closed() {
    let tls = DoorTls::new();
    let config = |facts: &Facts| format!("{}\n[limits]\nhead_timeout = \"300ms\"\n", tls.secure(&facts.config()));
    let stage = Stage::with(Default::default(), config).await;
    for beginning in ["", "PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r", "GET / HTTP/1.1\r\n\r\n"] {
        let mut wire = Wire::new(tls.connect(stage.forward(), "h2").await);
        wire.write(beginning).await;
        assert_eq!(wire.rest().await, "", "{beginning:?}");
    }
}

/// RFC 8441 at both doors with TLS; and a WebSocket over HTTP/1.1 through them.
#[tokio::test]
async fn a_websocket_passes_a_door_with_tls() {
    let (tls, upstream) = (DoorTls::new(), Scripted::start("http/1.1").await);
    let stage = Stage::with(Default::default(), |facts| tls.secure(&upstream.config(facts))).await;
    let authority = upstream.authority();
    for (door, uri) in [
        (stage.forward(), format!("https://{authority}/v1/socket")),
        (stage.reverse(), format!("https://{}/v1/socket", DoorTls::NAME)),
    ] {
        let mut sender = handshake(tls.connect(door, "h2").await).await;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(&uri)
            .extension(Protocol::from_static("websocket"))
            .header(header::PROXY_AUTHORIZATION, basic("researcher", &stage.key));
        let (answer, mut far) = tokio::join!(sender.send_request(request.body(empty()).unwrap()), async {
            let mut far = upstream.accept().await;
            let head = far.head().await;
            assert!(head.starts_with("GET /v1/socket HTTP/1.1\r\n"), "{head}");
            far.write(crate::upgrades::agreed(&head)).await;
            far
        });
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{uri}");
        let mut agent = Wire::new(TokioIo::new(soon(hyper::upgrade::on(answer)).await.unwrap()));
        agent.write("ping").await;
        assert_eq!(far.exactly(4).await, b"ping");

        let mut agent = Wire::new(tls.connect(door, "http/1.1").await);
        let (target, key) = (uri.strip_prefix(&format!("https://{}", DoorTls::NAME)).unwrap_or(&uri), &stage.key);
        agent
            .write(format!(
                "GET {target} HTTP/1.1\r\nhost: {authority}\r\nproxy-authorization: {}\r\n\
                 connection: upgrade\r\nupgrade: websocket\r\n\r\n",
                basic("researcher", key)
            ))
            .await;
        let mut far = upstream.accept().await;
        far.head().await;
        far.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi").await;
        assert_eq!(status(&agent.head().await), 101, "{uri}");
        assert_eq!(agent.exactly(2).await, b"hi");
    }
}

/// Threat 87: they are its agent's connections like any other.
#[tokio::test]
async fn tunnels_on_streams_count_among_the_connections_of_their_agent() {
    let stage =
        Stage::with(Default::default(), |facts| format!("{}\n[limits]\nconnections_per_agent = 2\n", facts.config()))
            .await;
    let authority = format!("{API}:{}", stage.facts.api_port);
    let mut sender = handshake(TcpStream::connect(stage.forward()).await.unwrap()).await;
    let first = tunnel(&stage, &mut sender, &authority).await;
    let _second = tunnel(&stage, &mut sender, &authority).await;
    let key = basic("researcher", &stage.key);
    let another = || Request::connect(&authority).header(header::PROXY_AUTHORIZATION, &key).body(empty()).unwrap();
    assert_eq!(soon(sender.send_request(another())).await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    drop(first);
    soon(async { while sender.send_request(another()).await.unwrap().status() != StatusCode::OK {} }).await;
}
