//! What the tests of this room need: permits, bodies, origins in memory and over TLS.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, request::Parts};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt, DuplexStream},
    sync::mpsc,
};

use super::{Client, Destination, Dial, Resolve, SendFailure, Sent, Settings, Stream, Wall};
use crate::{
    identity::Agent,
    policy::Permit,
    primitives::{AgentName, Authority, RouteName},
    route::{AgentSet, Effect, Route, Scheme, Upstream},
    tls::provider,
};

pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn settings() -> Settings {
    Settings {
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(90),
        max_idle: 2,
        max_streams: 100,
    }
}

pub(super) fn upstream(tls: Arc<ClientConfig>, allowed: &[&str]) -> Arc<Upstream> {
    let private_addresses = allowed.iter().map(|net| net.parse().unwrap()).collect();
    Arc::new(Upstream { id: 0, tls, private_addresses, response_timeout: RESPONSE_TIMEOUT, direct: false })
}

pub(super) fn permit(agent: &str, upstream: &Arc<Upstream>, scheme: Scheme, authority: &str) -> Permit<'static> {
    let route = Route {
        name: RouteName::parse("test").unwrap(),
        hosts: Vec::new(),
        methods: Vec::new(),
        paths: Vec::new(),
        agents: AgentSet::Any,
        effect: Effect::Allow,
        credential: None,
        upgrade_http: false,
        upgrades: Vec::new(),
        danger_allow_plaintext: false,
        upstream: upstream.clone(),
    };
    // For as long as the tests run: rules would lend them.
    let agent = Box::leak(Box::new(Agent::for_test(AgentName::parse(agent).unwrap())));
    let authority = Authority::parse(authority, Some(scheme.default_port())).unwrap();
    Permit::for_test(agent, Box::leak(Box::new(route)), scheme, authority)
}

// === impl TestBody ===

/// A request's body: what is there, and what may yet come.
#[derive(Debug)]
pub(super) struct TestBody {
    ready: VecDeque<Bytes>,
    more: Option<mpsc::UnboundedReceiver<Bytes>>,
}

impl TestBody {
    pub(super) fn empty() -> Self {
        Self { ready: VecDeque::new(), more: None }
    }

    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self { ready: [bytes.into()].into(), more: None }
    }

    pub(super) fn channel() -> (mpsc::UnboundedSender<Bytes>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self { ready: VecDeque::new(), more: Some(receiver) })
    }
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(bytes) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match &mut self.more {
            Some(more) => more.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && self.more.is_none()
    }
}

/// A request's head and its body.
pub(super) type Unsent = (Box<Parts>, TestBody);

pub(super) fn get(uri: &str) -> Unsent {
    unsent(Request::get(uri).body(TestBody::empty()).unwrap())
}

pub(super) fn post(uri: &str, body: TestBody) -> Unsent {
    unsent(Request::post(uri).body(body).unwrap())
}

fn unsent(request: Request<TestBody>) -> Unsent {
    let (head, body) = request.into_parts();
    (Box::new(head), body)
}

/// Reads an answer to its end and gives the connection back.
pub(super) async fn finish(sent: Result<Sent, SendFailure<TestBody>>) -> String {
    let body = sent.unwrap().response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

// === impl Names ===

/// A resolver that gives its answers in turn, the last for ever.
#[derive(Debug)]
pub(super) struct Names {
    answers: Vec<Vec<IpAddr>>,
    pub(super) asked: AtomicUsize,
}

impl Names {
    pub(super) fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Self { answers: answers.iter().map(parse).collect(), asked: AtomicUsize::new(0) })
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, _host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>> {
        let index = self.asked.fetch_add(1, Ordering::Relaxed).min(self.answers.len() - 1);
        Box::pin(async move { Ok(self.answers[index].clone()) })
    }
}

// === impl Memory ===

/// Dials into the test itself.
#[derive(Debug)]
pub(super) struct Memory {
    accept: mpsc::UnboundedSender<DuplexStream>,
    pub(super) dialled: Mutex<Vec<SocketAddr>>,
    refused: Vec<IpAddr>,
    silent: Vec<IpAddr>,
}

impl Memory {
    pub(super) fn new(refused: &[&str], silent: &[&str]) -> (Arc<Self>, mpsc::UnboundedReceiver<DuplexStream>) {
        let (accept, accepted) = mpsc::unbounded_channel();
        let parse = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        let (refused, silent) = (parse(refused), parse(silent));
        (Arc::new(Self { accept, dialled: Mutex::default(), refused, silent }), accepted)
    }

    pub(super) fn dialled(&self) -> Vec<String> {
        self.dialled.lock().unwrap().iter().map(ToString::to_string).collect()
    }
}

impl Dial for Memory {
    fn dial<'a>(&'a self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>> {
        Box::pin(async move {
            self.dialled.lock().unwrap().push(address);
            if self.silent.contains(&address.ip()) {
                std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
            if self.refused.contains(&address.ip()) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (near, far) = tokio::io::duplex(64 * 1024);
            self.accept.send(far).unwrap();
            Ok(Stream::Memory(near))
        })
    }
}

/// A client whose every connection the test answers by hand, over `http://origin.test`.
pub(super) struct Rig {
    pub(super) client: Client,
    pub(super) dial: Arc<Memory>,
    pub(super) accepted: mpsc::UnboundedReceiver<DuplexStream>,
    pub(super) upstream: Arc<Upstream>,
}

impl Rig {
    pub(super) fn new() -> Self {
        let (dial, accepted) = Memory::new(&[], &[]);
        let names = Names::new(&[&["93.184.216.34"]]);
        let client = Client::new(settings(), Wall::default(), names, dial.clone());
        let upstream = upstream(TestCa::new().client(&[]), &[]);
        Self { client, dial, accepted, upstream }
    }

    pub(super) async fn send(&self, request: Unsent) -> Result<Sent, SendFailure<TestBody>> {
        self.send_as("agent", request).await
    }

    pub(super) async fn send_as(&self, agent: &str, request: Unsent) -> Result<Sent, SendFailure<TestBody>> {
        let permit = permit(agent, &self.upstream, Scheme::Http, "origin.test:80");
        self.client.send(Destination::new(&permit), request).await
    }

    pub(super) fn connections(&self) -> usize {
        self.dial.dialled.lock().unwrap().len()
    }
}

/// A request's head as it came, or what came of it before the end.
pub(super) async fn read_head(stream: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Whether the other side closes, now or within an instant.
pub(super) async fn is_closed(stream: &mut DuplexStream) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_millis(1), stream.read_to_end(&mut rest)).await.is_ok()
}

// === impl TestCa ===

pub(super) struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Trusts this authority only, and offers `alpn`.
    pub(super) fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_secret_extraction = true;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    pub(super) fn server(&self, name: &str, alpn: &[&str]) -> Arc<ServerConfig> {
        self.server_with(CertificateParams::new([name.to_owned()]).unwrap(), alpn)
    }

    pub(super) fn server_with(&self, params: CertificateParams, alpn: &[&str]) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
