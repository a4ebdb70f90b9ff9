//! Peers whose every byte a test decides: [`Wire`], one end of a connection, and
//! [`Scripted`], a TLS server in the API's (or the authorization server's) place.

use std::{convert::Infallible, fs, future::Future, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use cupbearer::{
    primitives::{Clock, Host, SystemClock},
    tls::{CertificateAuthority, LeafCache},
};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::support::{API, Facts, Stage};

/// Nothing that does come takes that long.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long a test listens for what must not come.
pub const SILENCE: Duration = Duration::from_millis(150);

/// A body of any making.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Any stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What `future` comes to; a test that would wait for ever fails instead.
#[track_caller]
pub fn soon<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move { timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("nothing happened at {place}")) }
}

// === impl Wire ===

/// One end of a connection, read and written as bytes.
pub struct Wire {
    io: Box<dyn Io>,
    read: BytesMut,
}

impl Wire {
    pub fn new(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), read: BytesMut::new() }
    }

    /// The stream, of which nothing was read too much.
    pub fn into_inner(self) -> Box<dyn Io> {
        assert!(self.read.is_empty());
        self.io
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).await.unwrap();
    }

    /// For a peer that may have left.
    pub async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.io.write_all(bytes.as_ref()).await?;
        self.io.flush().await
    }

    /// Nothing more is written; what comes can still be read.
    pub async fn finish(&mut self) {
        self.io.shutdown().await.unwrap();
    }

    /// The next head, with the empty line at its end.
    pub async fn head(&mut self) -> String {
        String::from_utf8(self.until(b"\r\n\r\n").await).unwrap()
    }

    pub async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                return self.read.split_to(at + end.len()).to_vec();
            }
            let read = soon(self.io.read_buf(&mut self.read)).await.unwrap();
            assert!(read > 0, "the peer left after {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            let read = soon(self.io.read_buf(&mut self.read)).await.unwrap();
            assert!(read > 0, "the peer left after {} of {count} bytes", self.read.len());
        }
        self.read.split_to(count).to_vec()
    }

    /// The data of the next `count` bytes of a chunked body, however they were cut.
    pub async fn chunks(&mut self, count: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < count {
            let chunk = self.chunk().await;
            assert!(!chunk.is_empty(), "the body ended after {} of {count} bytes", data.len());
            data.extend(chunk);
        }
        assert_eq!(data.len(), count, "{}", String::from_utf8_lossy(&data));
        data
    }

    /// The rest of a chunked body, and its trailers as they came.
    pub async fn chunked_rest(&mut self) -> (Vec<u8>, String) {
        let mut data = Vec::new();
        loop {
            let size = self.chunk_size().await;
            if size == 0 {
                break;
            }
            data.extend(self.exactly(size).await);
            self.exactly(2).await;
        }
        let mut trailers = String::new();
        loop {
            let line = String::from_utf8(self.until(b"\r\n").await).unwrap();
            if line == "\r\n" {
                return (data, trailers);
            }
            trailers.push_str(&line);
        }
    }

    async fn chunk(&mut self) -> Vec<u8> {
        let size = self.chunk_size().await;
        let data = self.exactly(size).await;
        self.exactly(2).await;
        data
    }

    async fn chunk_size(&mut self) -> usize {
        let line = String::from_utf8(self.until(b"\r\n").await).unwrap();
        usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("no chunk: {line:?}"))
    }

    /// What still comes, until the peer leaves.
    pub async fn rest(&mut self) -> String {
        while let Ok(read) = soon(self.io.read_buf(&mut self.read)).await
            && read > 0
        {}
        String::from_utf8_lossy(&self.read.split()).into_owned()
    }

    /// Nothing comes for a while, and the peer stays.
    #[track_caller]
    pub fn silence(&mut self) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            assert!(self.read.is_empty(), "at {place}: {:?}", String::from_utf8_lossy(&self.read));
            let read = timeout(SILENCE, self.io.read_buf(&mut self.read)).await;
            assert!(read.is_err(), "at {place}: {read:?}, {:?}", String::from_utf8_lossy(&self.read));
        }
    }
}

/// A field of a head, by its lower-case name.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The status of an answer's head.
pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no answer: {head:?}"))
}

// === impl Scripted ===

/// A TLS server on a free port of loopback that does nothing by itself.
pub struct Scripted {
    listener: Arc<TcpListener>,
    tls: TlsAcceptor,
    port: u16,
    directory: tempfile::TempDir,
    tasks: JoinSet<()>,
}

impl Scripted {
    /// An upstream of this protocol: `h2` or `http/1.1`.
    pub async fn start(protocol: &str) -> Self {
        Self::named(API, protocol).await
    }

    /// One whose certificate is for `name`.
    pub async fn named(name: &str, protocol: &str) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let authority = Arc::new(CertificateAuthority::ephemeral(&clock).unwrap());
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), authority.root_pem()).unwrap();
        let leaves = LeafCache::new(authority, clock, 1).unwrap();
        let mut tls = rustls::ServerConfig::clone(&leaves.server_config(&Host::parse(name).unwrap()).unwrap());
        tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self {
            listener: Arc::new(listener),
            tls: TlsAcceptor::from(Arc::new(tls)),
            port,
            directory,
            tasks: JoinSet::new(),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn authority(&self) -> String {
        format!("{API}:{}", self.port)
    }

    /// Whom to trust, as a config names it.
    pub fn ca(&self) -> String {
        self.directory.path().join("ca.pem").display().to_string()
    }

    /// The ordinary config, with this server as the API.
    pub fn config(&self, facts: &Facts) -> String {
        let ours = Facts { api_port: self.port, ..facts.clone() }.config();
        ours.replace("upstream_ca = \"peers-ca.pem\"", &format!("upstream_ca = \"{}\"", self.ca()))
    }

    /// A stage with this server as the API. `limits`: lines of `[limits]`.
    pub async fn stage(&self, limits: &str) -> Stage {
        Stage::with(Default::default(), |facts| format!("{}\n[limits]\n{limits}\n", self.config(facts))).await
    }

    /// The next connection, its handshake done.
    pub async fn accept(&self) -> Wire {
        Wire::new(soon(handshake(&self.listener, &self.tls)).await)
    }

    /// The head of the next request, over this connection or a new one, which then takes its place.
    pub async fn next(&self, wire: &mut Wire) -> String {
        tokio::select! {
            head = wire.head() => head,
            mut other = self.accept() => {
                let head = other.head().await;
                *wire = other;
                head
            }
        }
    }

    /// Nobody comes for a while.
    #[track_caller]
    pub fn nobody(&self) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move { assert!(timeout(SILENCE, self.listener.accept()).await.is_err(), "somebody came at {place}") }
    }

    /// From now on every connection speaks h2, and `answer` answers.
    pub fn answer_h2<F, A>(&mut self, answer: F)
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let (listener, tls) = (Arc::clone(&self.listener), self.tls.clone());
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let stream = handshake(&listener, &tls).await;
                let answer = answer.clone();
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                connections.spawn(async move {
                    // A client that goes away is normal here.
                    let _ =
                        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
    }

    /// Breaks all connections that [`answer_h2`](Self::answer_h2) serves, and serves no more.
    pub async fn cut(&mut self) {
        self.tasks.shutdown().await;
    }
}

async fn handshake(listener: &TcpListener, tls: &TlsAcceptor) -> TlsStream<TcpStream> {
    let (stream, _) = listener.accept().await.unwrap();
    stream.set_nodelay(true).unwrap();
    tls.accept(stream).await.unwrap()
}
