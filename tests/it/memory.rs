//! The stage in memory: the proxy as `serve` wires it, between agents and upstreams that are
//! `tokio::io::duplex` streams. Only the token comes over a real socket, once, before
//! anything else happens. The benchmark of the whole pipeline stands on it, too.

use std::{convert::Infallible, fs, future::Future, io, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use cupbearer::{
    app::{self, Surroundings, Unbound},
    config,
    credential::store::Memory,
    demo::{World, WorldSettings, world::CLIENT_ID},
    identity,
    primitives::{Clock, CredentialName, Host, SystemClock, digest},
    tls::{self, CertificateAuthority, LeafCache},
    upstream::{Dial, Stream},
};
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1::SendRequest, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    runtime::Runtime,
};

/// Speaks TLS, at 443.
pub(crate) const SECURE: &str = "orders.test";
/// Speaks clear text.
pub(crate) const CLEAR: &str = "127.0.0.1:8080";

/// The three ways in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `GET http://host/path` to the forward proxy; clear text on both sides.
    AbsoluteForm,
    /// A base URL; clear text on both sides.
    Reverse,
    /// Inside a `CONNECT`; TLS on both sides.
    Intercepted,
}

pub(crate) type Agent = SendRequest<Full<Bytes>>;

/// The proxy, the world that gives it a token, and an agent's key.
pub(crate) struct MemoryStage {
    pub(crate) proxy: Unbound,
    pub(crate) world: World,
    pub(crate) key: String,
    directory: tempfile::TempDir,
    /// Where the world and the token flights are, in real time.
    control: Option<Runtime>,
}

/// For files that nobody else may read.
fn private_directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

impl MemoryStage {
    /// Everything up, with a token at hand.
    pub(crate) async fn start() -> Self {
        let control = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let world = control.spawn(World::start(WorldSettings::default())).await.unwrap().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let origin = Origin::new(&clock);
        let (key, hash) = identity::generate_key().unwrap();
        let directory = private_directory();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("world-ca.pem", world.ca_pem());
        write("origin-ca.pem", origin.authority().root_pem());
        write("client-secret", world.client_secret().expose());
        write("proxy.toml", &config_text(world.issuer(), &digest::hex(&hash)));
        let settings = config::load(&directory.path().join("proxy.toml"))
            .unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        let authority = Arc::new(CertificateAuthority::ephemeral(&clock).unwrap());
        let surroundings = Surroundings {
            authority,
            clock,
            instance: app::random_instance().unwrap(),
            store: Arc::new(Memory::default()),
        };
        let proxy = {
            let _on_control = control.enter();
            app::unbound(&settings, &surroundings, Arc::new(origin)).unwrap()
        };
        let rules = proxy.shared().rules.load_full();
        let first = async move { rules.broker.refresh(&CredentialName::parse("orders").unwrap()).await };
        control.spawn(first).await.unwrap().unwrap();
        Self { proxy, world, key: key.expose().to_owned(), directory, control: Some(control) }
    }

    /// A connection of an agent, ready for requests.
    pub(crate) async fn connect(&self, way: Way) -> Agent {
        match way {
            Way::AbsoluteForm => h1(self.stream(0)).await,
            Way::Reverse => h1(self.stream(1)).await,
            Way::Intercepted => h1(self.tunnel().await).await,
        }
    }

    /// The agent's end of a stream that the listener at this place of the config has.
    pub(crate) fn stream(&self, door: usize) -> DuplexStream {
        let (near, far) = duplex();
        tokio::spawn(self.proxy.serve(door, far).unwrap());
        near
    }

    async fn tunnel(&self) -> impl AsyncRead + AsyncWrite + Send + Unpin + use<> {
        let mut stream = self.stream(0);
        let head = format!("CONNECT {SECURE}:443 HTTP/1.1\r\nhost: {SECURE}:443\r\nproxy-authorization: ");
        let head = format!("{head}{}\r\n\r\n", self.proxy_authorization().to_str().unwrap());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        secure(stream, self.proxy.authority().root_der().clone()).await
    }

    /// What an SDK sends: a dozen fields, and in reverse mode the key where it has its own.
    pub(crate) fn request(&self, way: Way, path: &str) -> Request<Full<Bytes>> {
        let target = match way {
            Way::AbsoluteForm => format!("http://{CLEAR}{path}"),
            Way::Reverse | Way::Intercepted => path.to_owned(),
        };
        let mut request = sdk_request(&target);
        let fields = request.headers_mut();
        match way {
            Way::AbsoluteForm => {
                fields.insert(header::PROXY_AUTHORIZATION, self.proxy_authorization());
            }
            Way::Reverse => {
                fields.insert(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {}", self.key)).unwrap());
            }
            Way::Intercepted => {}
        }
        let host = if way == Way::Intercepted { SECURE } else { CLEAR };
        fields.insert(header::HOST, HeaderValue::from_static(host));
        request
    }

    fn proxy_authorization(&self) -> HeaderValue {
        use base64::{Engine, engine::general_purpose::STANDARD};
        HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("researcher:{}", self.key)))).unwrap()
    }

    /// The records of requests so far, without events.
    pub(crate) fn records(&self) -> Vec<serde_json::Value> {
        self.proxy.shared().recorder.flush();
        let text = fs::read_to_string(self.directory.path().join("state/audit.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter(|line| line.get("event").is_none()).collect()
    }
}

/// A runtime can't be dropped where another one runs, but it can be sent away.
impl Drop for MemoryStage {
    fn drop(&mut self) {
        if let Some(control) = self.control.take() {
            control.shutdown_background();
        }
    }
}

fn config_text(issuer: &str, key_sha256: &str) -> String {
    format!(
        r#"
[proxy]
listen = ["127.0.0.1:0"]

[state]
directory = "state"

[authorization_servers.main]
issuer = "{issuer}"
ca = "world-ca.pem"

[credentials.orders]
grant = "client_credentials"
authorization_server = "main"
client_id = "{CLIENT_ID}"
client_auth = {{ method = "client_secret_basic", secret = {{ file = "client-secret" }} }}
audience = "https://orders.demo.test/"
scopes = ["read:orders"]
hosts = ["{CLEAR}", "{SECURE}"]

[agents.researcher]
key_sha256 = "{key_sha256}"

[[routes]]
name = "clear"
hosts = ["{CLEAR}"]
paths = ["/v1/**"]
agents = ["researcher"]
credential = "orders"
danger_allow_plaintext = true
danger_allow_private_addresses = ["127.0.0.0/8"]

[[routes]]
name = "secure"
hosts = ["{SECURE}"]
paths = ["/v1/**"]
agents = ["researcher"]
credential = "orders"
upstream_ca = "origin-ca.pem"
danger_allow_private_addresses = ["127.0.0.0/8"]

[[reverse]]
name = "base-url"
listen = "127.0.0.1:0"
upstream = "http://{CLEAR}"

[resolve]
"{SECURE}" = "127.0.0.1"
"#
    )
}

/// A request with what an SDK puts into it, and no key.
pub(crate) fn sdk_request(target: &str) -> Request<Full<Bytes>> {
    Request::get(target)
        .header("accept", "application/json")
        .header("accept-encoding", "gzip, deflate, br, zstd")
        .header("connection", "keep-alive")
        .header("user-agent", "ExampleSDK/Python 2.31.0")
        .header("x-stainless-arch", "x64")
        .header("x-stainless-async", "false")
        .header("x-stainless-lang", "python")
        .header("x-stainless-os", "Linux")
        .header("x-stainless-package-version", "2.31.0")
        .header("x-stainless-retry-count", "0")
        .header("x-stainless-runtime", "CPython")
        .header("x-stainless-runtime-version", "3.13.2")
        .body(Full::default())
        .unwrap()
}

// === Streams ===

pub(crate) fn duplex() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(64 * 1024)
}

/// A client's h1 connection over a stream.
pub(crate) async fn h1(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Agent {
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A client's TLS to [`SECURE`], trusting one root.
pub(crate) async fn secure(
    stream: DuplexStream,
    root: rustls::pki_types::CertificateDer<'static>,
) -> tokio_rustls::client::TlsStream<DuplexStream> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let tls = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(SECURE).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap()
}

// === impl Origin ===

/// The upstream: an h1 server behind every dial, under TLS at port 443.
#[derive(Debug)]
pub(crate) struct Origin {
    authority: Arc<CertificateAuthority>,
    tls: Arc<ServerConfig>,
}

impl Origin {
    pub(crate) fn new(clock: &Arc<dyn Clock>) -> Self {
        let authority = Arc::new(CertificateAuthority::ephemeral(clock).unwrap());
        let leaves = LeafCache::new(Arc::clone(&authority), Arc::clone(clock), 1).unwrap();
        let mut tls = ServerConfig::clone(&leaves.server_config(&Host::parse(SECURE).unwrap()).unwrap());
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { authority, tls: Arc::new(tls) }
    }

    /// Whose root it is to be trusted by.
    pub(crate) fn authority(&self) -> &CertificateAuthority {
        &self.authority
    }

    /// The other end of a new connection to the server.
    pub(crate) fn open(&self, is_secure: bool) -> DuplexStream {
        let (near, far) = duplex();
        if is_secure {
            let tls = Arc::clone(&self.tls);
            tokio::spawn(async move {
                let stream = tokio_rustls::TlsAcceptor::from(tls).accept(far).await.unwrap();
                serve(stream).await;
            });
        } else {
            tokio::spawn(serve(far));
        }
        near
    }
}

impl Dial for Origin {
    fn dial<'a>(&'a self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>> {
        Box::pin(async move { Ok(Stream::Memory(self.open(address.port() == 443))) })
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin) {
    // A client that goes away is normal here.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
}

/// Shows what arrived; `/v1/silent` is never answered.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/v1/silent" {
        std::future::pending::<()>().await;
    }
    let seen = request
        .headers()
        .get(header::AUTHORIZATION)
        .map_or(Bytes::new(), |value| Bytes::copy_from_slice(value.as_bytes()));
    let mut response = Response::new(Full::new(seen));
    let fields = response.headers_mut();
    // No text, which would be searched for the token.
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    fields.insert("x-request-id", HeaderValue::from_static("req_0123456789abcdef"));
    fields.insert("x-ratelimit-remaining", HeaderValue::from_static("4999"));
    Ok(response)
}
