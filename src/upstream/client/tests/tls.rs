//! Against real origins: hyper servers behind rustls, on loopback sockets.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::CertificateParams;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Barrier, mpsc},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::super::super::{
    Client, Destination, Error, SendFailure, Sent, Settings, TcpDial, Wall,
    testing::{Names, TestBody, TestCa, Unsent, finish, get, permit, post, settings, upstream},
};
use crate::{policy::Permit, route::Scheme};

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;
type Handler = Arc<dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

const H2: &[&str] = &["h2", "http/1.1"];

/// An HTTPS server that counts.
struct Origin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    resumed: Arc<AtomicUsize>,
}

impl Origin {
    async fn start(tls: Arc<ServerConfig>, max_streams: u32, handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
            resumed: Arc::default(),
        };
        let (connections, resumed) = (origin.connections.clone(), origin.resumed.clone());
        let requests = origin.requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let acceptor = TlsAcceptor::from(tls.clone());
                let (handler, requests, resumed) = (handler.clone(), requests.clone(), resumed.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let kind = stream.get_ref().1.handshake_kind();
                        resumed.fetch_add(usize::from(kind == Some(HandshakeKind::Resumed)), Ordering::Relaxed);
                        serve(stream, max_streams, handler, requests).await;
                    }
                });
            }
        });
        origin
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn authority(&self) -> String {
        format!("origin.test:{}", self.address.port())
    }
}

async fn serve(
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    max_streams: u32,
    handler: Handler,
    requests: Arc<AtomicUsize>,
) {
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| {
        requests.fetch_add(1, Ordering::Relaxed);
        let answer = handler(request);
        async move { Ok::<_, io::Error>(answer.await) }
    });
    let stream = TokioIo::new(stream);
    if h2 {
        let mut builder = conn::http2::Builder::new(TokioExecutor::new());
        drop(builder.max_concurrent_streams(max_streams).serve_connection(stream, service).await);
    } else {
        drop(conn::http1::Builder::new().serve_connection(stream, service).await);
    }
}

fn full(text: String) -> Answer {
    Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync())
}

/// Answers with what it saw.
fn mirror() -> Handler {
    Arc::new(|request| {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let host = head.headers.get("host").map(|host| host.to_str().unwrap().to_owned());
            full(format!("{:?} {} {} {host:?} {}", head.version, head.method, head.uri, body.len()))
        })
    })
}

/// Holds each request until `count` are there together.
fn together(count: usize) -> Handler {
    let barrier = Arc::new(Barrier::new(count));
    Arc::new(move |_| {
        let barrier = barrier.clone();
        Box::pin(async move {
            barrier.wait().await;
            full("ok".into())
        })
    })
}

fn client(settings: Settings) -> Arc<Client> {
    Arc::new(Client::new(settings, Wall::default(), Names::new(&[&["127.0.0.1"]]), Arc::new(TcpDial)))
}

fn to(origin: &Origin, tls: Arc<ClientConfig>) -> Permit<'static> {
    permit("agent", &upstream(tls, &["127.0.0.0/8"]), Scheme::Https, &origin.authority())
}

async fn send(client: &Client, permit: &Permit<'_>, request: Unsent) -> Result<Sent, SendFailure<TestBody>> {
    // A bug shows as a failure and not as a test that hangs.
    tokio::time::timeout(Duration::from_secs(20), client.send(Destination::new(permit), request)).await.unwrap()
}

/// `count` requests at once; each gives its connection back at its end.
async fn burst(client: &Arc<Client>, permit: &Permit<'static>, count: usize) {
    let mut sending = JoinSet::new();
    for _ in 0..count {
        let (client, permit) = (client.clone(), permit.clone());
        sending.spawn(async move {
            let sent = send(&client, &permit, get("https://origin.test/")).await;
            assert_eq!(finish(sent).await, "ok");
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent.unwrap();
    }
}

#[tokio::test]
async fn h1_over_tls_is_reused() {
    let ca = TestCa::new();
    let origin = Origin::start(ca.server("origin.test", &["http/1.1"]), 100, mirror()).await;
    let (client, permit) = (client(settings()), to(&origin, ca.client(H2)));
    for size in [0, 5, 100_000] {
        let request = post("https://elsewhere/a?b", TestBody::full(vec![b'x'; size]));
        let port = origin.address.port();
        let expected = format!("HTTP/1.1 POST /a?b Some(\"origin.test:{port}\") {size}");
        assert_eq!(finish(send(&client, &permit, request).await).await, expected);
    }
    assert_eq!(origin.connections(), 1);
}

/// Threat 54: a TLS session is resumed by the agent that began it only, and at that port only.
#[tokio::test]
async fn sessions_are_resumed_by_nobody_else() {
    let ca = TestCa::new();
    let server = ca.server("origin.test", &["http/1.1"]);
    let closing: Handler = Arc::new(|_| {
        Box::pin(async {
            let mut answer = full("ok".into());
            answer.headers_mut().insert("connection", "close".parse().unwrap());
            answer
        })
    });
    let here = Origin::start(server.clone(), 100, closing.clone()).await;
    let there = Origin::start(server, 100, closing).await;
    let client = client(settings());
    let upstream = upstream(ca.client(H2), &["127.0.0.0/8"]);
    for (agent, origin, resumed) in
        [("one", &here, 0), ("one", &here, 1), ("two", &here, 1), ("one", &there, 0), ("two", &here, 2)]
    {
        let permit = permit(agent, &upstream, Scheme::Https, &origin.authority());
        assert_eq!(finish(send(&client, &permit, get("https://origin.test/")).await).await, "ok");
        assert_eq!(origin.resumed.load(Ordering::Relaxed), resumed, "{agent}");
    }
    assert_eq!((here.connections(), there.connections()), (4, 1));
}

#[tokio::test]
async fn h2_names_its_authority_and_no_host() {
    let ca = TestCa::new();
    let origin = Origin::start(ca.server("origin.test", H2), 100, mirror()).await;
    let (client, permit) = (client(settings()), to(&origin, ca.client(H2)));
    let mut request = post("https://elsewhere/a?b", TestBody::full(vec![b'x'; 300_000]));
    request.0.headers.insert("host", "elsewhere".parse().unwrap());
    let expected = format!("HTTP/2.0 POST https://{}/a?b None 300000", origin.authority());
    assert_eq!(finish(send(&client, &permit, request).await).await, expected);
}

/// An agent with a wildcard route can make as many pool keys as it likes: beyond a limit nothing
/// is kept.
#[tokio::test]
async fn an_h2_connection_for_which_there_is_no_room_at_rest_is_closed() {
    let ca = TestCa::new();
    let origin = Origin::start(ca.server("origin.test", H2), 100, mirror()).await;
    let (client, permit) = (client(settings()), to(&origin, ca.client(H2)));
    let mut connections = Vec::new();
    for number in 0..6 {
        match number {
            2 => client.pool.crowd(true),
            4 => client.pool.crowd(false),
            _ => {}
        }
        finish(send(&client, &permit, get("https://origin.test/")).await).await;
        connections.push(origin.connections());
    }
    assert_eq!(connections, [1, 1, 1, 2, 3, 3]);
}

/// h2 has no `Upgrade`: a WebSocket's handshake goes over h1, beside the h2 connection.
#[tokio::test]
async fn an_upgrade_goes_over_h1() {
    let ca = TestCa::new();
    let origin = Origin::start(ca.server("origin.test", H2), 100, mirror()).await;
    let (client, permit) = (client(settings()), to(&origin, ca.client(H2)));
    for (upgrade, version) in [(false, "HTTP/2.0"), (true, "HTTP/1.1"), (false, "HTTP/2.0"), (true, "HTTP/1.1")] {
        let mut request = get("https://origin.test/");
        if upgrade {
            request.0.headers.insert("connection", "upgrade".parse().unwrap());
            request.0.headers.insert("upgrade", "websocket".parse().unwrap());
        }
        let to = Destination { h1_only: upgrade, ..Destination::new(&permit) };
        let answer = finish(client.send(to, request).await).await;
        assert!(answer.starts_with(version), "{answer}");
    }
    assert_eq!(origin.connections(), 2);
}

/// A peer that is gone without a word would let all that come meanwhile wait with the first.
#[tokio::test]
async fn nobody_joins_those_who_wait_in_vain_on_an_h2_connection() {
    let ca = TestCa::new();
    // All three are answered once they are there.
    let origin = Origin::start(ca.server("origin.test", H2), 100, together(3)).await;
    let (client, permit) = (client(settings()), to(&origin, ca.client(H2)));
    let mut connections = Vec::new();
    let mut asked = JoinSet::new();
    for (number, seconds) in [0, 9, 2].into_iter().enumerate() {
        client.pool.age(Duration::from_secs(seconds));
        let (client, permit) = (client.clone(), permit.clone());
        asked.spawn(async move { finish(send(&client, &permit, get("https://origin.test/")).await).await });
        while origin.requests.load(Ordering::Relaxed) <= number {
            tokio::task::yield_now().await;
        }
        connections.push(origin.connections());
    }
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.unwrap(), "ok");
    }
    assert_eq!(connections, [1, 1, 2]);
}

/// A hundred first requests to an h2 upstream make one connection, not a hundred.
#[tokio::test]
async fn a_burst_shares_one_h2_connection() {
    let ca = TestCa::new();
    let origin = Origin::start(ca.server("origin.test", H2), 200, together(100)).await;
    let (client, permit) = (client(settings()), to(&origin, ca.client(H2)));
    burst(&client, &permit, 100).await;
    assert_eq!(origin.connections(), 1);
    burst(&client, &permit, 100).await;
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_burst_over_h1_is_not_serialised() {
    let ca = TestCa::new();
    let origin = Origin::start(ca.server("origin.test", &["http/1.1"]), 100, together(5)).await;
    let (client, permit) = (client(settings()), to(&origin, ca.client(H2)));
    burst(&client, &permit, 5).await;
    assert_eq!(origin.connections(), 5);
}

#[tokio::test]
async fn full_h2_connections_get_another_beside_them() {
    let ca = TestCa::new();
    let origin = Origin::start(ca.server("origin.test", H2), 100, together(5)).await;
    let (client, permit) = (client(Settings { max_streams: 2, ..settings() }), to(&origin, ca.client(H2)));
    burst(&client, &permit, 5).await;
    assert_eq!(origin.connections(), 3);
}

/// The peer's own limit counts, too, and in the very first burst: two requests on each
/// connection, or the third would wait for ever.
#[tokio::test]
async fn the_peers_stream_limit_is_obeyed() {
    let ca = TestCa::new();
    let origin = Origin::start(ca.server("origin.test", H2), 2, together(5)).await;
    let (client, permit) = (client(settings()), to(&origin, ca.client(H2)));
    burst(&client, &permit, 5).await;
    assert_eq!(origin.connections(), 3);
}

/// Threat 83, and the connection lives on for the others.
#[tokio::test]
async fn a_body_nobody_wants_resets_its_h2_stream() {
    let ca = TestCa::new();
    let (gone, mut was_gone) = mpsc::unbounded_channel();
    let handler: Handler = Arc::new(move |_| {
        let gone = gone.clone();
        Box::pin(async move { Response::new(Endless(gone).boxed_unsync()) })
    });
    let origin = Origin::start(ca.server("origin.test", H2), 100, handler).await;
    let (client, permit) = (client(settings()), to(&origin, ca.client(H2)));
    for _ in 0..2 {
        let sent = send(&client, &permit, get("https://origin.test/")).await.unwrap();
        let mut body = sent.response.into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        tokio::time::timeout(Duration::from_secs(20), was_gone.recv()).await.unwrap().unwrap();
    }
    assert_eq!(origin.connections(), 1);
}

/// A body without end, that tells when it is dropped.
struct Endless(mpsc::UnboundedSender<()>);

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, io::Error>>> {
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(&[b'x'; 4096])))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// Threat 83.
#[tokio::test]
async fn a_caller_that_leaves_ends_its_request() {
    for alpn in [H2, &["http/1.1"]] {
        let ca = TestCa::new();
        let (event, mut events) = mpsc::unbounded_channel();
        let handler: Handler = Arc::new(move |_| {
            let endless = Endless(event.clone());
            let _ = event.send(());
            Box::pin(async move {
                let _held = endless;
                std::future::pending().await
            })
        });
        let origin = Origin::start(ca.server("origin.test", alpn), 100, handler).await;
        let (client, permit) = (client(settings()), to(&origin, ca.client(H2)));
        tokio::select! {
            sent = send(&client, &permit, get("https://origin.test/")) => panic!("{sent:?}"),
            arrived = events.recv() => arrived.unwrap(),
        }
        let ended = tokio::time::timeout(Duration::from_secs(20), events.recv()).await;
        ended.expect("the handler is dropped").unwrap();
    }
}

/// Threat 47: refused before any byte of HTTP.
#[tokio::test]
async fn a_bad_certificate_is_refused() {
    let ca = TestCa::new();
    let mut expired = CertificateParams::new(["origin.test".to_owned()]).unwrap();
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let mut early = CertificateParams::new(["origin.test".to_owned()]).unwrap();
    early.not_before = rcgen::date_time_ymd(2100, 1, 1);
    early.not_after = rcgen::date_time_ymd(2101, 1, 1);
    for (what, tls) in [
        ("another host", ca.server("other.test", H2)),
        ("expired", ca.server_with(expired, H2)),
        ("not yet valid", ca.server_with(early, H2)),
        ("an unknown authority", TestCa::new().server("origin.test", H2)),
    ] {
        let origin = Origin::start(tls, 100, mirror()).await;
        let client = client(settings());
        let permit = to(&origin, ca.client(H2));
        let failure = send(&client, &permit, get("https://origin.test/")).await.expect_err(what);
        assert!(matches!(&failure.error, Error::Tls { host, .. } if host == "origin.test"), "{what}: {failure:?}");
        assert_eq!(failure.error.proxy_status(), "tls_certificate_error", "{what}");
        assert!(failure.unsent.is_some(), "{what}");
        assert_eq!(origin.requests.load(Ordering::Relaxed), 0, "{what}");
    }
}

/// Threat 48: no TLS at all, and none that says a word.
#[tokio::test]
async fn clear_text_and_silence_on_a_tls_port_are_errors() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = format!("origin.test:{}", listener.local_addr().unwrap().port());
    let (bytes, mut received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        first.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        let _ = second.read_to_end(&mut seen).await;
        let _ = bytes.send(seen);
    });
    let settings = Settings { connect_timeout: Duration::from_millis(300), ..settings() };
    let client = client(settings);
    let upstream = upstream(TestCa::new().client(H2), &["127.0.0.0/8"]);
    let permit = permit("agent", &upstream, Scheme::Https, &authority);

    let failure = send(&client, &permit, get("https://origin.test/secret")).await.expect_err("clear text");
    assert_eq!(failure.error.proxy_status(), "tls_protocol_error", "{failure:?}");
    let failure = send(&client, &permit, get("https://origin.test/secret")).await.expect_err("silence");
    assert!(matches!(failure.error, Error::ConnectTimeout { .. }), "{failure:?}");
    let seen = received.recv().await.unwrap();
    assert_eq!(seen.first(), Some(&0x16), "a ClientHello and nothing else");
    assert!(!seen.windows(6).any(|window| window == b"secret"));
}

#[tokio::test]
async fn an_ip_literal_is_verified_as_one() {
    let ca = TestCa::new();
    let origin = Origin::start(ca.server("127.0.0.1", H2), 100, mirror()).await;
    let client = client(settings());
    let upstream = upstream(ca.client(H2), &["127.0.0.0/8"]);
    let authority = origin.address.to_string();
    let literal = permit("agent", &upstream, Scheme::Https, &authority);
    let answer = finish(send(&client, &literal, get("https://x/")).await).await;
    assert_eq!(answer, format!("{:?} {} https://{authority}/ None 0", Version::HTTP_2, Method::GET));

    let name = permit("agent", &upstream, Scheme::Https, &origin.authority());
    let failure = send(&client, &name, get("https://x/")).await.expect_err("a name that isn't in it");
    assert_eq!(failure.error.proxy_status(), "tls_certificate_error");
}

/// Threat 39: the proxy's own listener, on a route that allows the whole of loopback.
#[tokio::test]
async fn our_own_listener_is_not_reached() {
    let ca = TestCa::new();
    let origin = Origin::start(ca.server("origin.test", H2), 100, mirror()).await;
    let own = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), origin.address.port());
    let names = Names::new(&[&["127.0.0.1"]]);
    let client: Client = Client::new(settings(), Wall::new(vec![own]), names, Arc::new(TcpDial));
    let failure = send(&client, &to(&origin, ca.client(H2)), get("https://x/")).await.expect_err("our own");
    assert!(matches!(failure.error, Error::AddressNotAllowed { .. }), "{failure:?}");
    assert_eq!(origin.connections(), 0);
}

/// RFC 9209 §2.3: an upstream that leaves is another failure than one that doesn't speak HTTP/2.
#[tokio::test]
async fn broken_http2_is_named_by_who_broke_it() {
    fn frame(kind: u8, flags: u8, code: u8) -> Vec<u8> {
        vec![0, 0, 4, kind, flags, 0, 0, 0, 1, 0, 0, 0, code]
    }
    let ca = TestCa::new();
    // CANCEL of the stream, no answer at all, the connection's end with a reason in words, and an
    // answer of what is no HPACK.
    let mut goaway = vec![0, 0, 22, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
    goaway.extend(b"Bearer a-token");
    let cases = [
        (frame(3, 0, 8), "connection_terminated"),
        (Vec::new(), "connection_terminated"),
        (goaway, "connection_terminated"),
        (frame(1, 5, 0), "http_protocol_error"),
    ];
    for ((said, status), has_body) in cases.into_iter().flat_map(|case| [(case.clone(), false), (case, true)]) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = format!("origin.test:{}", listener.local_addr().unwrap().port());
        let tls = ca.server("origin.test", H2);
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = TlsAcceptor::from(tls).accept(stream).await.unwrap();
            // The preface, and frames until one of HEADERS, whose type is 1.
            let mut head = vec![0; 24];
            stream.read_exact(&mut head).await.unwrap();
            loop {
                head.resize(9, 0);
                stream.read_exact(&mut head).await.unwrap();
                let (length, kind) = (u32::from_be_bytes([0, head[0], head[1], head[2]]), head[3]);
                head.resize(length as usize, 0);
                stream.read_exact(&mut head).await.unwrap();
                if kind == 1 {
                    break;
                }
            }
            // SETTINGS come first (RFC 9113 §3.4).
            stream.write_all(&[&[0, 0, 0, 4, 0, 0, 0, 0, 0], &said[..]].concat()).await.unwrap();
            // Whoever announces an end may still answer what came before.
            if said.get(3).is_none_or(|kind| *kind == 7) {
                return stream.shutdown().await.unwrap();
            }
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        });
        let (client, upstream) = (client(settings()), upstream(ca.client(H2), &["127.0.0.0/8"]));
        let permit = permit("agent", &upstream, Scheme::Https, &authority);
        // One that never ends: its side hears of the end, too, and knows less of it.
        let (_more, body) = TestBody::channel();
        let request = if has_body { post("https://origin.test/", body) } else { get("https://origin.test/") };
        let failure = send(&client, &permit, request).await.expect_err(status);
        assert!(matches!(failure.error, Error::Http2(_)), "{failure:?}");
        assert_eq!(failure.error.proxy_status(), status, "{has_body}: {failure:?}");
        // Threat 19: what is said of it.
        let mut cause: Option<&dyn std::error::Error> = Some(&failure.error);
        while let Some(error) = cause {
            assert!(!error.to_string().contains("a-token"), "{error}");
            cause = error.source();
        }
        serving.abort();
    }
}

/// A restarted upstream: what was pooled is closed, and the next request doesn't notice.
#[tokio::test]
async fn an_h2_connection_that_ended_is_replaced() {
    let ca = TestCa::new();
    let handler: Handler = Arc::new(|_| Box::pin(async { full("ok".into()) }));
    let tls = ca.server("origin.test", H2);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = format!("origin.test:{}", listener.local_addr().unwrap().port());
    let served = tokio::spawn(async move {
        let mut count = 0;
        while count < 2 {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = TlsAcceptor::from(tls.clone()).accept(stream).await.unwrap();
            count += 1;
            let (done, mut is_done) = mpsc::unbounded_channel();
            let handler = handler.clone();
            let service = service_fn(move |request| {
                let (answer, done) = (handler(request), done.clone());
                async move {
                    let _ = done.send(());
                    Ok::<_, io::Error>(answer.await)
                }
            });
            let connection =
                conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = &mut connection => {}
                _ = is_done.recv() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        }
        count
    });
    let client = client(settings());
    let permit = permit("agent", &upstream(ca.client(H2), &["127.0.0.0/8"]), Scheme::Https, &authority);
    for _ in 0..2 {
        let sent = send(&client, &permit, post("https://origin.test/", TestBody::full("x"))).await;
        assert_eq!(finish(sent).await, "ok");
    }
    assert_eq!(served.await.unwrap(), 2);
}
