//! The upstream of the matrix: it does whatever its path says, over the protocols of its kind,
//! and tells how each request reached it.

use std::{
    collections::HashMap,
    convert::Infallible,
    fs,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use cupbearer::{
    primitives::{Clock, Host, SystemClock},
    tls::{CertificateAuthority, LeafCache},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    agents::{empty, fed, full},
    scripted::{Body, Io},
    support::API,
};

use super::{Upstream, socket};

/// Of a long body, either way.
pub const LONG: u64 = 64 << 20;

pub const CASE: HeaderName = HeaderName::from_static("x-case");
pub const VERSION: HeaderName = HeaderName::from_static("x-version");
pub const TOKENS: HeaderName = HeaderName::from_static("x-tokens");

/// What the next answers of these cases say, fed by the tests.
type Bodies = Arc<Mutex<HashMap<String, Body>>>;

pub struct Origin {
    pub authority: String,
    pub ca: String,
    bodies: Bodies,
    _directory: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

impl Origin {
    pub async fn start(kind: Upstream) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let authority = Arc::new(CertificateAuthority::ephemeral(&clock).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        fs::write(&ca, authority.root_pem()).unwrap();
        let leaves = LeafCache::new(authority, clock, 1).unwrap();
        let mut tls = rustls::ServerConfig::clone(&leaves.server_config(&Host::parse(API).unwrap()).unwrap());
        tls.alpn_protocols = kind.alpn().iter().map(|name| name.as_bytes().to_vec()).collect();
        let tls = (kind != Upstream::Http).then(|| TlsAcceptor::from(Arc::new(tls)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = format!("{}:{}", kind.host(), listener.local_addr().unwrap().port());
        let bodies = Bodies::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, tls, Arc::clone(&bodies)));
        Self { authority, ca: ca.display().to_string(), bodies, _directory: directory, _tasks: tasks }
    }

    /// What `/v1/events` answers to this case.
    pub fn will_say(&self, case: &str, body: Body) {
        self.bodies.lock().unwrap().insert(case.to_owned(), body);
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, bodies: Bodies) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        connections.spawn(connection(stream, tls.clone(), Arc::clone(&bodies)));
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, bodies: Bodies) {
    let Some(tls) = tls else { return serve(stream, false, bodies).await };
    let stream = tls.accept(stream).await.unwrap();
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    serve(stream, is_h2, bodies).await;
}

async fn serve(stream: impl Io + 'static, is_h2: bool, bodies: Bodies) {
    let service = service_fn(move |request: Request<Incoming>| {
        let bodies = Arc::clone(&bodies);
        async move {
            let seen = request.headers().get_all(header::AUTHORIZATION).iter();
            let tokens = seen.filter(|value| value.as_bytes().starts_with(b"Bearer ")).count();
            let version = format!("{:?}", request.version());
            let mut answer = answer(request, &bodies).await;
            answer.headers_mut().insert(VERSION, HeaderValue::try_from(version).unwrap());
            answer.headers_mut().insert(TOKENS, HeaderValue::from(tokens));
            Ok::<_, Infallible>(answer)
        }
    });
    let io = TokioIo::new(stream);
    // A client that goes away is normal here.
    if is_h2 {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).with_upgrades().await;
    }
}

async fn answer(mut request: Request<Incoming>, bodies: &Bodies) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let of_type = |kind: &'static str, body: Body| {
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    };
    match path.as_str() {
        "/v1/small" => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            of_type("text/plain", full(body))
        }
        "/v1/up" => {
            let count = read_pattern(request.into_body()).await;
            of_type("text/plain", full(count.to_string()))
        }
        "/v1/down" => of_type("application/octet-stream", pattern(LONG)),
        "/v1/events" => {
            let case = request.headers()[CASE].to_str().unwrap();
            of_type("text/event-stream", bodies.lock().unwrap().remove(case).unwrap())
        }
        "/v1/bidi" => {
            assert_eq!(
                (request.version(), &request.headers()[header::TE]),
                (Version::HTTP_2, &"trailers".parse().unwrap())
            );
            of_type("application/grpc", echo(request.into_body()))
        }
        "/v1/socket" => {
            assert_eq!(request.headers()[header::UPGRADE], "websocket");
            let accept = socket::accept(request.headers()[header::SEC_WEBSOCKET_KEY].to_str().unwrap());
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move { socket::echo(TokioIo::new(upgrade.await.unwrap())).await });
            Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, "websocket")
                .header(header::SEC_WEBSOCKET_ACCEPT, accept)
                .body(empty())
                .unwrap()
        }
        other => panic!("{other}"),
    }
}

/// Each message as soon as it came, and a status at the end.
fn echo(mut incoming: Incoming) -> Body {
    let (feeder, body) = fed();
    tokio::spawn(async move {
        while let Some(frame) = incoming.frame().await {
            if let Ok(data) = frame.unwrap().into_data() {
                feeder.data(data).await;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        feeder.trailers(trailers).await;
    });
    body
}

// === Long bodies ===

/// Made on the fly: a block of bytes over and over, so that one that was lost, doubled or
/// changed shows.
const BLOCK: usize = 64 * 1024 - 1;

fn block() -> Bytes {
    static BYTES: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    BYTES.get_or_init(|| (0..BLOCK as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()).clone()
}

struct Pattern(u64);

pub fn pattern(length: u64) -> Body {
    Pattern(length).boxed_unsync()
}

impl http_body::Body for Pattern {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        let mut block = block();
        block.truncate(usize::try_from(self.0).unwrap_or(BLOCK));
        self.0 -= block.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(block))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

/// How many bytes of the pattern came, all of them right.
pub async fn read_pattern(mut body: Incoming) -> u64 {
    let (block, mut count) = (block(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame.unwrap().into_data() else { continue };
        while data.has_remaining() {
            let at = (count % BLOCK as u64) as usize;
            let length = data.len().min(BLOCK - at);
            assert!(data[..length] == block[at..at + length], "wrong bytes at {count}");
            data.advance(length);
            count += length as u64;
        }
    }
    assert!(body.is_end_stream());
    count
}
