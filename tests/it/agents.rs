//! Agents that hold every frame in their hands: a client's connection through each way
//! in, and bodies that a test feeds.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use cupbearer::tls;
use http::{HeaderMap, Method, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    ext::Protocol,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::Value;
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};

use crate::{
    scripted::{Body, Io, Wire, soon},
    support::{API, Stage},
};

/// The three ways in, by both protocols: h2 by ALPN inside a tunnel, else by prior knowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    AbsoluteForm,
    TunnelH1,
    TunnelH2,
    BaseUrl,
    AbsoluteFormH2,
    BaseUrlH2,
}

impl Way {
    /// The usual ones.
    pub const ALL: [Self; 4] = [Self::AbsoluteForm, Self::TunnelH1, Self::TunnelH2, Self::BaseUrl];
    /// Where an agent may speak HTTP/1.
    pub const H1: [Self; 3] = [Self::AbsoluteForm, Self::TunnelH1, Self::BaseUrl];
    pub const H2: [Self; 3] = [Self::AbsoluteFormH2, Self::TunnelH2, Self::BaseUrlH2];
}

// === bodies ===

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body, and the hand that feeds it; dropped, the body ends.
pub fn fed() -> (Feeder, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (Feeder(sender), Fed(receiver).boxed_unsync())
}

#[derive(Debug)]
pub struct Feeder(mpsc::Sender<Frame<Bytes>>);

impl Feeder {
    /// Returns once the frame before was taken. `false`: nobody takes any more.
    pub async fn data(&self, data: impl Into<Bytes>) -> bool {
        self.0.send(Frame::data(data.into())).await.is_ok()
    }

    pub async fn trailers(self, trailers: HeaderMap) {
        self.0.send(Frame::trailers(trailers)).await.unwrap();
    }

    /// Whoever took the body has let go of it.
    pub async fn abandoned(&self) {
        self.0.closed().await;
    }
}

struct Fed(mpsc::Receiver<Frame<Bytes>>);

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

// === impl Agent ===

/// A client's connection through one of the ways in.
pub struct Agent {
    way: Way,
    authority: String,
    key: String,
    sender: Sender,
    /// Drives the connection and ends with the value.
    _driver: JoinSet<()>,
}

enum Sender {
    H1(http1::SendRequest<Body>),
    H2(http2::SendRequest<Body>),
}

impl Agent {
    /// A connection for requests to `authority`, an API that the stage's config names.
    pub async fn connect(stage: &Stage, authority: &str, way: Way) -> Self {
        let io = TokioIo::new(open(stage, authority, way).await);
        let mut driver = JoinSet::new();
        let sender = if Way::H2.contains(&way) {
            let (sender, mut connection) = http2::Builder::new(TokioExecutor::new()).handshake(io).await.unwrap();
            // What the server offers, such as extended `CONNECT`.
            soon(poll_fn(|cx| {
                cx.waker().wake_by_ref();
                assert!(Pin::new(&mut connection).poll(cx).is_pending());
                if connection.is_extended_connect_protocol_enabled() { Poll::Ready(()) } else { Poll::Pending }
            }))
            .await;
            driver.spawn(async move { drop(connection.await) });
            Sender::H2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.unwrap();
            driver.spawn(async move { drop(connection.await) });
            Sender::H1(sender)
        };
        Self { way, authority: authority.to_owned(), key: stage.key.clone(), sender, _driver: driver }
    }

    /// A connection to the stage's own API.
    pub async fn of(stage: &Stage, way: Way) -> Self {
        Self::connect(stage, &format!("{API}:{}", stage.facts.api_port), way).await
    }

    /// A request with what this way in wants to see.
    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let Self { way, authority, key, .. } = self;
        let request = Request::builder().method(method);
        match way {
            Way::AbsoluteForm => request
                .uri(format!("http://{authority}{path}"))
                .header(header::HOST, authority)
                .header(header::PROXY_AUTHORIZATION, basic(key)),
            Way::TunnelH1 => request.uri(path).header(header::HOST, authority),
            Way::TunnelH2 => request.uri(format!("https://{authority}{path}")),
            Way::AbsoluteFormH2 => {
                request.uri(format!("http://{authority}{path}")).header(header::PROXY_AUTHORIZATION, basic(key))
            }
            Way::BaseUrlH2 => {
                request.uri(format!("http://base.test{path}")).header(header::AUTHORIZATION, format!("Bearer {key}"))
            }
            Way::BaseUrl => request
                .uri(path)
                .header(header::HOST, "base.test")
                .header(header::AUTHORIZATION, format!("Bearer {key}")),
        }
    }

    /// Sends at once, whether or not the answer is awaited.
    pub fn send(
        &mut self,
        request: Request<Body>,
    ) -> Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>> {
        match &mut self.sender {
            Sender::H1(sender) => Box::pin(sender.send_request(request)),
            Sender::H2(sender) => Box::pin(sender.send_request(request)),
        }
    }

    /// Sends once the connection is free, and waits for the answer's head.
    pub async fn ask(&mut self, request: Request<Body>) -> Response<Incoming> {
        soon(async {
            match &mut self.sender {
                Sender::H1(sender) => sender.ready().await.unwrap(),
                Sender::H2(sender) => sender.ready().await.unwrap(),
            }
            self.send(request).await.unwrap()
        })
        .await
    }

    /// Names another host from now on.
    pub fn claim(&mut self, authority: &str) {
        self.authority = authority.to_owned();
    }

    /// Asks for another protocol by extended `CONNECT` (RFC 8441), with these fields besides.
    pub async fn ask_for(&mut self, protocol: &'static str, path: &str, fields: &[(&str, &str)]) -> Response<Incoming> {
        let mut request = self.request(Method::CONNECT, path).extension(Protocol::from_static(protocol));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        self.ask(request.body(empty()).unwrap()).await
    }

    pub async fn get(&mut self, path: &str) -> Response<Incoming> {
        let request = self.request(Method::GET, path).body(empty()).unwrap();
        self.ask(request).await
    }

    pub async fn post(&mut self, path: &str, body: Body) -> Response<Incoming> {
        let request = self.request(Method::POST, path).body(body).unwrap();
        self.ask(request).await
    }
}

fn basic(key: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("researcher:{key}")))
}

pub async fn text(response: Response<Incoming>) -> String {
    let body = soon(response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// The bytes of the next frame of an answer, which has to be data.
pub async fn data(response: &mut Response<Incoming>) -> Bytes {
    let frame = soon(response.body_mut().frame()).await.expect("the body ended").unwrap();
    frame.into_data().expect("trailers")
}

/// The stream that a way in begins with: TLS in a tunnel, else plain.
pub async fn open(stage: &Stage, authority: &str, way: Way) -> Box<dyn Io> {
    let to = if matches!(way, Way::BaseUrl | Way::BaseUrlH2) { stage.reverse() } else { stage.forward() };
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let alpn = match way {
        Way::AbsoluteForm | Way::BaseUrl | Way::AbsoluteFormH2 | Way::BaseUrlH2 => return Box::new(stream),
        Way::TunnelH1 => "http/1.1",
        Way::TunnelH2 => "h2",
    };
    let mut wire = Wire::new(stream);
    wire.write(format!(
        "CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\nproxy-authorization: {}\r\n\r\n",
        basic(&stage.key)
    ))
    .await;
    let head = wire.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut roots = RootCertStore::empty();
    roots.add(stage.proxy.authority().root_der().clone()).unwrap();
    let mut tls = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let name = ServerName::try_from(API).unwrap();
    let stream = soon(tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, wire.into_inner())).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
    Box::new(stream)
}

/// The head of a raw HTTP/1.x request, to be sent over [`open`]: `version` is `1.1` or
/// `1.0`, `fields` are lines with their ends.
pub fn raw_head(stage: &Stage, authority: &str, way: Way, line: (&str, &str, &str), fields: &str) -> String {
    let (method, path, version) = line;
    let key = &stage.key;
    let (target, own) = match way {
        Way::AbsoluteForm => (
            format!("http://{authority}{path}"),
            format!("host: {authority}\r\nproxy-authorization: {}\r\n", basic(key)),
        ),
        Way::TunnelH1 => (path.to_owned(), format!("host: {authority}\r\n")),
        Way::TunnelH2 | Way::AbsoluteFormH2 | Way::BaseUrlH2 => panic!("h2 has no text"),
        Way::BaseUrl => (path.to_owned(), format!("host: base.test\r\nauthorization: Bearer {key}\r\n")),
    };
    format!("{method} {target} HTTP/{version}\r\n{own}{fields}\r\n")
}

// === records ===

/// The records of requests, once there are `count` of them: one ends when its last byte
/// has passed, which may be a moment after the agent had it.
pub async fn records(stage: &Stage, count: usize) -> Vec<Value> {
    soon(async {
        loop {
            let records = stage.records();
            if records.len() >= count {
                return records;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}
