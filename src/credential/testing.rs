//! For tests: an authorization server over real TLS that answers as a script says, and
//! specs that point at it.

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::{net::TcpListener, runtime::Handle, sync::Semaphore, time::Interval};
use tokio_rustls::TlsAcceptor;

use super::{
    AuthorizationServer, Broker, ClearText, Injection, Lease, Location, Settings, Source, Spec,
    cache::Shared,
    client_auth::{Client, ClientAuth, assertion::Occasion},
    grant::Grant,
    pace::Pace,
    step::{AnswerFormat, Ask, DpopUse, Step},
    tools::Tools,
    vault::Vault,
};
use crate::{
    observe::{self, Recorder},
    primitives::{AuthorizationServerName, Clock, CredentialName},
    route::{CredentialBinding, CredentialId, RefreshOn},
};

/// The client secret that no output may show.
pub(super) const SECRET: &str = "canary-s3cret%+ä";

/// The name that resolves to the scripted server.
pub(super) const HOST: &str = "as.example";

// === specs ===

pub(super) fn name(text: &str) -> CredentialName {
    CredentialName::parse(text).unwrap()
}

pub(super) fn binding(text: &str, id: usize) -> CredentialBinding {
    CredentialBinding {
        name: name(text),
        id: CredentialId(id),
        hosts: Vec::new(),
        refresh_on: RefreshOn::default(),
        scrub: true,
        htu_base: None,
    }
}

pub(super) fn server(location: Location) -> Arc<AuthorizationServer> {
    server_with(location, RootCertStore::empty())
}

pub(super) fn server_with(location: Location, roots: RootCertStore) -> Arc<AuthorizationServer> {
    let name = AuthorizationServerName::parse("as").unwrap();
    let (endpoints, tls, clear_text) = (Vec::new(), client_tls(roots), ClearText::Never);
    Arc::new(AuthorizationServer { name, location, endpoints, tls, clear_text })
}

fn client_tls(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(super) fn spec(credential: &str, server: Arc<AuthorizationServer>) -> Spec {
    let secrets = vec![Source::File(PathBuf::from("/nonexistent"))];
    let client = Client { id: "client-1".to_owned(), auth: ClientAuth::SecretPost { secrets } };
    let ask = Ask {
        audience: vec!["https://orders.example.com".to_owned()],
        scopes: vec!["read:orders".to_owned(), "list".to_owned()],
        ..Ask::default()
    };
    let step = Step {
        grant: Grant::ClientCredentials,
        server: Some(server),
        client,
        ask,
        answer: AnswerFormat::default(),
        dpop: DpopUse::Off,
    };
    Spec {
        name: name(credential),
        steps: vec![step],
        scopes: None,
        max_scopes: Vec::new(),
        default_ttl: Duration::from_secs(600),
        strict_scopes: false,
        revoke_after_run: true,
        injection: Injection::default(),
    }
}

/// The one step of a spec.
pub(super) fn step(spec: &mut Spec) -> &mut Step {
    &mut spec.steps[0]
}

/// What the token's field says.
pub(super) fn field(lease: &Lease) -> &str {
    lease.field().unwrap().1.to_str().unwrap()
}

pub(super) fn tools() -> Tools {
    Tools::new(Arc::new(WallClock::default()), Vault::default())
}

pub(super) fn occasion() -> Occasion<'static> {
    Occasion {
        client: None,
        issuer: Some("https://as.example/"),
        token_endpoint: "https://as.example/token",
        endpoint: "https://as.example/revoke",
        scopes: &[],
        now: 1_800_000_000,
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        exchange_timeout: Duration::from_secs(10),
        lease_timeout: Duration::from_secs(15),
        storm_guard: Duration::from_secs(30),
        resolve: vec![(HOST.to_owned(), IpAddr::V4(Ipv4Addr::LOCALHOST))],
        transient: false,
        parent: None,
    }
}

pub(super) fn shared(settings: Settings) -> Shared {
    let recorder = Recorder::start(&observe::Settings::default()).unwrap();
    let pace = Pace { between_attempts: Duration::from_millis(2), ..Pace::default() };
    Shared { clock: Arc::new(WallClock::default()), recorder, runtime: Handle::current(), settings, pace }
}

/// Wall time that tests set.
#[derive(Debug)]
pub(super) struct WallClock(Mutex<SystemTime>);

impl Default for WallClock {
    fn default() -> Self {
        Self(Mutex::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)))
    }
}

impl WallClock {
    pub(super) fn set(&self, unix_seconds: u64) {
        *self.0.lock().unwrap() = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds);
    }
}

impl Clock for WallClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

// === the scripted server ===

/// What the server saw of a request.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Seen {
    /// The form's parameters, each of which stands there once.
    pub(super) fn form(&self) -> HashMap<String, String> {
        let url = reqwest::Url::parse(&format!("https://x/?{}", self.body)).unwrap();
        let mut form = HashMap::new();
        for (name, value) in url.query_pairs() {
            assert!(form.insert(name.clone().into_owned(), value.into_owned()).is_none(), "{name} repeats");
        }
        form
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// What it does about it.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The same, once the test lets it.
    Held(Box<Act>),
    Hang,
    /// A body that never ends, a byte a millisecond.
    Drip,
    /// A body that never ends, as fast as it goes.
    Flood,
    /// A body that says that it is long, and drips.
    Long,
    /// Closes the connection without a word.
    Close,
}

pub(super) fn answer(status: u16, body: &str) -> Act {
    Act::Answer(status, Vec::new(), body.to_owned())
}

pub(super) fn token(token: &str, expires_in: u64) -> Act {
    answer(200, &format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{expires_in}}}"#))
}

type Script = dyn Fn(&Seen, usize) -> Act + Send + Sync;

/// An authorization server on a loopback port; gone when dropped.
pub(super) struct AuthServer {
    pub(super) address: SocketAddr,
    pub(super) roots: RootCertStore,
    state: Arc<ServerState>,
    accept: tokio::task::JoinHandle<()>,
}

struct ServerState {
    seen: Mutex<Vec<Seen>>,
    script: Box<Script>,
    gate: Semaphore,
}

impl AuthServer {
    /// `script` gets each request and its number, from 0.
    pub(super) async fn start(script: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static) -> Self {
        let certified = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certified.cert.der().clone()).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ServerState { seen: Mutex::default(), script: Box::new(script), gate: Semaphore::new(0) });
        let accept = tokio::spawn(accept(listener, acceptor, state.clone()));
        Self { address, roots, state, accept }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.address.port())
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Requests to `/token`.
    pub(super) fn token_requests(&self) -> usize {
        self.seen().iter().filter(|seen| seen.path == "/token").count()
    }

    pub(super) fn release(&self, answers: usize) {
        self.state.gate.add_permits(answers);
    }

    /// A spec whose secret is in a file, which lives as long as the returned directory.
    pub(super) fn spec(&self, credential: &str, location: Location) -> (tempfile::TempDir, Spec) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, SECRET).unwrap();
        let mut spec = spec(credential, server_with(location, self.roots.clone()));
        step(&mut spec).client.auth = ClientAuth::SecretPost { secrets: vec![Source::File(path)] };
        (directory, spec)
    }

    /// A broker with one credential, `orders`, whose token endpoint is `/token`.
    pub(super) fn broker(&self, settings: Settings) -> (tempfile::TempDir, Broker) {
        let (directory, spec) = self.spec("orders", Location::TokenEndpoint(self.url("/token")));
        (directory, Broker::with_shared(vec![spec], shared(settings)).unwrap())
    }
}

impl Drop for AuthServer {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<ServerState>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, state) = (acceptor.clone(), state.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| serve(request, &state));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn serve(
    request: Request<Incoming>,
    state: &ServerState,
) -> Result<Response<BoxBody<Bytes, std::convert::Infallible>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    let number = {
        let mut all = state.seen.lock().unwrap();
        all.push(seen.clone());
        all.len() - 1
    };
    let mut act = (state.script)(&seen, number);
    if let Act::Held(inner) = act {
        state.gate.acquire().await.unwrap().forget();
        act = *inner;
    }
    match act {
        Act::Answer(status, headers, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::new(Bytes::from(body)).boxed()).unwrap())
        }
        Act::Held(_) => unreachable!("held twice"),
        Act::Hang => std::future::pending().await,
        Act::Drip => Ok(Response::new(drip().boxed())),
        Act::Long => Ok(Response::builder().header("content-length", "200000000").body(drip().boxed()).unwrap()),
        Act::Flood => Ok(Response::new(Endless { every: None }.boxed())),
        Act::Close => Err(std::io::Error::other("close")),
    }
}

fn drip() -> Endless {
    Endless { every: Some(tokio::time::interval(Duration::from_millis(1))) }
}

struct Endless {
    every: Option<Interval>,
}

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.every {
            Some(every) => every.poll_tick(context).map(|_| Some(Ok(Frame::data(Bytes::from_static(b" "))))),
            None => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 16 * 1024]))))),
        }
    }
}

/// Drives `future` while real time passes; for tests that must not hang.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.expect("took too long")
}
