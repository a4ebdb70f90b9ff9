//! What no client library would send: bytes as they are, through each of the three ways in;
//! and an origin that shows the bytes it got.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use cupbearer::tls;
use http::{HeaderMap, HeaderName, HeaderValue};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::{API, Facts, Stage};

/// Far longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

// === The agent's side ===

/// A connection to the proxy.
pub struct Wire {
    io: Box<dyn Io>,
    read: Vec<u8>,
}

/// One HTTP/1 answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: Vec<u8>,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    pub fn over(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), read: Vec::new() }
    }

    /// A tunnel to the API, the 200 already read; nothing inside yet.
    pub async fn tunnel(stage: &Stage) -> Self {
        let mut wire = Self::connect(stage.forward()).await;
        wire.send(connect_head(stage, &stage.authority())).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        wire
    }

    /// TLS over what is there, trusting the proxy's authority. `name`: the SNI.
    pub async fn secure(self, stage: &Stage, name: &str, alpn: &[&str]) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(stage.proxy.authority().root_der().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        assert!(self.read.is_empty());
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, self.io);
        let io = timeout(PATIENCE, connecting).await.expect("a handshake that ends")?;
        Ok(Self::over(io))
    }

    /// Errors are left to whoever reads the answer: the proxy may close early.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.io.write_all(bytes.as_ref()).await;
        let _ = self.io.flush().await;
    }

    /// The next answer but for interim ones.
    pub async fn answer(&mut self) -> Answer {
        self.next(false).await.expect("an answer")
    }

    pub async fn answer_to_head(&mut self) -> Answer {
        self.next(true).await.expect("an answer")
    }

    /// `None`: the connection ended first.
    pub async fn try_answer(&mut self) -> Option<Answer> {
        self.next(false).await
    }

    /// What comes until the proxy closes, which it has to.
    pub async fn closed(&mut self) -> Vec<u8> {
        while self.fill().await > 0 {}
        std::mem::take(&mut self.read)
    }

    /// Nothing more is said; what comes can still be read.
    pub async fn finish(&mut self) {
        let _ = self.io.shutdown().await;
    }

    pub fn into_io(self) -> Box<dyn Io> {
        assert!(self.read.is_empty());
        self.io
    }

    async fn next(&mut self, to_head: bool) -> Option<Answer> {
        loop {
            let head = self.until(b"\r\n\r\n").await?;
            let head = String::from_utf8(head).unwrap();
            let mut lines = head.trim_end().split("\r\n");
            let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
            let mut fields = HeaderMap::new();
            for line in lines {
                let (name, value) = line.split_once(':').unwrap();
                fields.append(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value.trim()).unwrap(),
                );
            }
            if status / 100 == 1 && status != 101 {
                continue;
            }
            let body = if to_head { Vec::new() } else { self.body(&fields).await };
            return Some(Answer { status, fields, body });
        }
    }

    async fn body(&mut self, fields: &HeaderMap) -> Vec<u8> {
        if let Some(length) = fields.get("content-length") {
            let length = length.to_str().unwrap().parse().unwrap();
            return self.exactly(length).await;
        }
        let mut body = Vec::new();
        if fields.contains_key("transfer-encoding") {
            loop {
                let line = self.until(b"\r\n").await.expect("a chunk's size");
                let size = usize::from_str_radix(String::from_utf8(line).unwrap().trim(), 16).unwrap();
                body.extend(self.exactly(size).await);
                self.exactly(2).await;
                if size == 0 {
                    return body;
                }
            }
        }
        body
    }

    async fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(mark.len()).position(|window| window == mark) {
                return Some(self.read.drain(..at + mark.len()).collect());
            }
            if self.fill().await == 0 {
                return None;
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length {
            assert_ne!(self.fill().await, 0, "the body broke off");
        }
        self.read.drain(..length).collect()
    }

    async fn fill(&mut self) -> usize {
        let reading = self.io.read_buf(&mut self.read);
        timeout(PATIENCE, reading).await.expect("an answer or an end, not silence").unwrap_or(0)
    }
}

impl Answer {
    /// The stable code, which has to be the same in the field and in the body.
    pub fn code(&self) -> String {
        let field = self.field("x-cupbearer-error").to_owned();
        if !self.body.is_empty() {
            assert_eq!(self.problem()["code"], field.as_str());
        }
        field
    }

    pub fn problem(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no problem+json: {self:?}"))
    }

    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// `Proxy-Authorization` of an agent.
pub fn basic(name: &str, key: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{key}")))
}

pub fn connect_head(stage: &Stage, authority: &str) -> String {
    let key = basic("researcher", &stage.key);
    format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: {key}\r\n\r\n")
}

/// The three ways in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    AbsoluteForm,
    Tunnel,
    Reverse,
}

pub const WAYS: [Way; 3] = [Way::AbsoluteForm, Way::Tunnel, Way::Reverse];

impl Way {
    /// A connection on which requests for the API may be sent.
    pub async fn open(self, stage: &Stage) -> Wire {
        match self {
            Self::AbsoluteForm => Wire::connect(stage.forward()).await,
            Self::Tunnel => Wire::tunnel(stage).await.secure(stage, API, &["http/1.1"]).await.unwrap(),
            Self::Reverse => Wire::connect(stage.reverse()).await,
        }
    }

    /// A request's head without the blank line at its end.
    pub fn head(self, stage: &Stage, method: &str, path: &str) -> String {
        let authority = stage.authority();
        match self {
            Self::AbsoluteForm => {
                let key = basic("researcher", &stage.key);
                format!(
                    "{method} http://{authority}{path} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: {key}\r\n"
                )
            }
            Self::Tunnel => format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n"),
            Self::Reverse => {
                format!("{method} {path} HTTP/1.1\r\nHost: base-url.test\r\nAuthorization: Bearer {}\r\n", stage.key)
            }
        }
    }
}

impl Stage {
    /// The API's `host:port`.
    pub fn authority(&self) -> String {
        format!("{API}:{}", self.facts.api_port)
    }

    /// The records of requests, all of them: the proxy has ended.
    pub async fn final_records(self) -> Vec<Value> {
        let Self { proxy, directory, .. } = self;
        assert!(proxy.shutdown(Duration::from_secs(10)).await, "something was still under way");
        let text = fs::read_to_string(directory.path().join("state/audit.jsonl")).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line.get("event").is_none()).collect()
    }

    /// That the API and the authorization server saw nothing at all.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.world.api().seen_count(), 0, "the API saw {:#?}", self.world.api().seen());
        assert_eq!(self.world.authorization_server().token_request_count(), 0, "a token was asked for");
    }
}

// === The upstream's side ===

/// An origin for `origin.test` that keeps every byte of a request and answers `200 ok` to each.
pub struct Origin {
    pub address: SocketAddr,
    authority: TestAuthority,
    log: watch::Receiver<Log>,
}

/// What the origin saw of its connections.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub connections: usize,
    /// Those that are over.
    pub ended: usize,
    /// Handshakes that failed, by the server's view.
    pub failed_handshakes: usize,
    pub bytes: Vec<u8>,
}

/// What is wrong with an origin's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    SelfSigned,
    OtherName,
    Expired,
    NotYetValid,
    /// No TLS at all: HTTP in clear text.
    ClearText,
}

pub const ORIGIN: &str = "origin.test";

impl Origin {
    pub async fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let authority = TestAuthority::new();
        let acceptor = (fault != Fault::ClearText).then(|| TlsAcceptor::from(authority.server_config(fault)));
        let (log, seen) = watch::channel(Log::default());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                log.send_modify(|log| log.connections += 1);
                tokio::spawn(origin_connection(stream, acceptor.clone(), log.clone()));
            }
        });
        Self { address, authority, log: seen }
    }

    pub fn log(&self) -> Log {
        self.log.borrow().clone()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.log().bytes).unwrap()
    }

    /// Returns when this text has come.
    pub async fn saw(&mut self, text: &str) {
        let there = |log: &Log| log.bytes.windows(text.len()).any(|window| window == text.as_bytes());
        timeout(PATIENCE, self.log.wait_for(there)).await.expect("those bytes").unwrap();
    }

    /// Returns when all connections, of which there must be some, are over.
    pub async fn all_ended(&mut self) -> Log {
        let over = self.log.wait_for(|log| log.connections > 0 && log.connections == log.ended);
        timeout(PATIENCE, over).await.expect("an end").unwrap().clone()
    }

    /// The stage's config with a route to this origin, which the token may go to, too.
    pub fn config(&self, facts: &Facts) -> String {
        let port = self.address.port();
        let hosts = format!("hosts = [\"{API}:{}\"]\n\n[agents", facts.api_port);
        let more = format!("hosts = [\"{API}:{}\", \"{ORIGIN}:{port}\"]\n\n[agents", facts.api_port);
        let config = facts.config().replace(&hosts, &more);
        assert!(config.contains(&more));
        let ca = self.authority.file.display();
        format!(
            r#"{config}"{ORIGIN}" = "127.0.0.1"

[[routes]]
name = "origin"
hosts = ["{ORIGIN}:{port}"]
agents = ["researcher"]
credential = "orders"
upgrade_http = true
upstream_ca = "{ca}"
danger_allow_private_addresses = ["127.0.0.0/8"]
"#
        )
    }

    /// A forward request's head for this origin, without the blank line.
    pub fn head(&self, stage: &Stage, method: &str, path: &str) -> String {
        let (port, key) = (self.address.port(), basic("researcher", &stage.key));
        format!("{method} http://{ORIGIN}:{port}{path} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {key}\r\n")
    }
}

async fn origin_connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, log: watch::Sender<Log>) {
    let served = async {
        let mut io: Box<dyn Io> = match acceptor {
            None => {
                let mut stream = stream;
                let mut hello = vec![0; 16 * 1024];
                let read = stream.read(&mut hello).await.unwrap_or(0);
                log.send_modify(|log| log.bytes.extend_from_slice(&hello[..read]));
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
                Box::new(stream)
            }
            Some(acceptor) => match acceptor.accept(stream).await {
                Ok(stream) => Box::new(stream),
                Err(_) => return log.send_modify(|log| log.failed_handshakes += 1),
            },
        };
        let mut buffer = vec![0; 16 * 1024];
        let mut answered = 0;
        while let Ok(read @ 1..) = io.read(&mut buffer).await {
            log.send_modify(|log| log.bytes.extend_from_slice(&buffer[..read]));
            let seen = log.borrow().bytes.clone();
            // One answer for each head or last chunk, as the requests here need it.
            let requests = whole_requests(&seen);
            for _ in answered..requests {
                let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
            answered = answered.max(requests);
        }
    };
    served.await;
    log.send_modify(|log| log.ended += 1);
}

/// How many requests came whole, by their framing.
pub fn whole_requests(mut bytes: &[u8]) -> usize {
    let find = |bytes: &[u8], mark: &[u8]| bytes.windows(mark.len()).position(|window| window == mark);
    let mut count = 0;
    while let Some(end) = find(bytes, b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        bytes = &bytes[end + 4..];
        if let Some(at) = head.find("\r\ncontent-length: ") {
            let digits = head[at + 18..].lines().next().unwrap();
            let length: usize = digits.parse().unwrap();
            if bytes.len() < length {
                return count;
            }
            bytes = &bytes[length..];
        } else if head.contains("\r\ntransfer-encoding: chunked") {
            let Some(end) = find(bytes, b"0\r\n\r\n") else { return count };
            bytes = &bytes[end + 5..];
        }
        count += 1;
    }
    count
}

/// An authority for one origin, its root in a file for `upstream_ca`.
struct TestAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl TestAuthority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("origin-ca.pem");
        fs::write(&file, issuer.pem()).unwrap();
        Self { issuer, file, _directory: directory }
    }

    fn server_config(&self, fault: Fault) -> Arc<ServerConfig> {
        let name = if fault == Fault::OtherName { "another.test" } else { ORIGIN };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let now = cupbearer::primitives::Clock::now(&cupbearer::primitives::SystemClock);
        let day = Duration::from_secs(24 * 60 * 60);
        let (from, to): (SystemTime, SystemTime) = match fault {
            Fault::Expired => (now - 3 * day, now - day),
            Fault::NotYetValid => (now + day, now + 3 * day),
            _ => (now - day, now + day),
        };
        (params.not_before, params.not_after) = (from.into(), to.into());
        let key = KeyPair::generate().unwrap();
        let leaf = match fault {
            Fault::SelfSigned => params.self_signed(&key).unwrap(),
            _ => params.signed_by(&key, &self.issuer).unwrap(),
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A listener that nobody may connect to.
pub struct Trap {
    listener: std::net::TcpListener,
    pub address: SocketAddr,
}

impl Trap {
    pub fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// The kernel would hold a connection for us even if we never asked.
    pub fn assert_untouched(&self) {
        let error = self.listener.accept().expect_err("somebody connected");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}
