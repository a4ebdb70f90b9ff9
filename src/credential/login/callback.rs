//! The loopback address that the browser comes back to (RFC 8252 §7.3, §8.3): one path, one
//! answer, one small page that says nothing. Everybody on this machine can connect here, and
//! so can every web page: whatever isn't our answer changes nothing, and who is slow makes
//! room for who isn't.
//!
//! ```text
//! accept -> head in time? -> Host ours? path ours? GET? -> state ours? -> first? -> Answer
//! ```

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::poll_fn,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use reqwest::Url;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use crate::{
    credential::grant::Redirect,
    primitives::{CredentialName, Secret},
};

/// Bytes of a request's head: browsers send the cookies of everything on this host along.
const MAX_HEAD: usize = 64 * 1024;
/// How often a free port is looked for that both loopback addresses have.
const TRIES: usize = 8;
/// After an accept that failed (no descriptors left): trying at once would only spin.
const PAUSE: Duration = Duration::from_millis(100);

const DONE: &str = "The answer is here. You can close this page; the terminal says how it went.";
const FOREIGN: &str = "This isn't the answer to a login that is under way. Look at the terminal.";
const USED: &str = "The answer has come already. Look at the terminal.";
const NOTHING: &str = "There is nothing here.";

/// How long and how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// For a human to log in (standards 1.F).
    pub(super) login: Duration,
    /// For a request's head.
    pub(super) head: Duration,
    /// For a connection, from its first byte to its last.
    pub(super) connection: Duration,
    /// At once; the oldest is cut for a new one.
    pub(super) connections: usize,
}

/// Listens for a browser.
#[derive(Debug)]
pub(super) struct Callback {
    listeners: Vec<TcpListener>,
    /// As the browser is told to come: `Host`.
    authority: String,
    path: String,
}

/// What the browser brought, with our `state`; not judged yet.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) code: Option<Secret>,
    pub(super) iss: Option<String>,
    pub(super) error: Option<String>,
    pub(super) error_description: Option<String>,
    /// A parameter that mustn't repeat did (RFC 6749 §3.1).
    pub(super) repeated: bool,
}

impl Callback {
    /// The path is this credential's alone: an answer that is for another one finds nobody.
    pub(super) async fn bind(redirect: &Redirect, name: &CredentialName) -> io::Result<Self> {
        let (host, listeners) = match redirect.localhost {
            false => ("127.0.0.1", vec![listen(Ipv4Addr::LOCALHOST, redirect.port.unwrap_or(0)).await?]),
            true => ("localhost", both(redirect.port).await?),
        };
        let port = listeners.first().ok_or(io::ErrorKind::AddrNotAvailable)?.local_addr()?.port();
        // A browser leaves the default port out.
        let authority = if port == 80 { host.to_owned() } else { format!("{host}:{port}") };
        Ok(Self { listeners, authority, path: format!("/cb/{name}") })
    }

    /// The redirect URI.
    pub(super) fn uri(&self) -> String {
        format!("http://{}{}", self.authority, self.path)
    }

    /// The first answer with `state`; from then on nobody listens. `None`: it didn't come.
    pub(super) async fn answer(self, state: &Secret, limits: Limits) -> Option<Answer> {
        let Self { listeners, authority, path } = self;
        let desk = Arc::new(Desk { authority, path, state: state.clone(), used: AtomicBool::new(false) });
        let mut connections = JoinSet::new();
        let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
        let end = Instant::now() + limits.login;
        loop {
            tokio::select! {
                biased;
                Some(ended) = connections.join_next() => {
                    oldest.retain(|connection| !connection.is_finished());
                    if let Ok(Some(answer)) = ended {
                        return Some(answer);
                    }
                }
                accepted = poll_fn(|context| accept(&listeners, context)) => match accepted {
                    Ok(stream) => {
                        if oldest.len() >= limits.connections && let Some(first) = oldest.pop_front() {
                            first.abort();
                        }
                        oldest.push_back(connections.spawn(converse(stream, desk.clone(), limits)));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the browser's connection can't be accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                () = tokio::time::sleep_until(end) => return None,
            }
        }
    }
}

async fn listen(host: impl Into<std::net::IpAddr>, port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::new(host.into(), port)).await
}

/// `localhost` is either of two addresses, and whoever had the other one would get our answer.
async fn both(port: Option<u16>) -> io::Result<Vec<TcpListener>> {
    let mut tries = 0;
    loop {
        let four = listen(Ipv4Addr::LOCALHOST, port.unwrap_or(0)).await?;
        match listen(Ipv6Addr::LOCALHOST, four.local_addr()?.port()).await {
            Ok(six) => return Ok(vec![four, six]),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                tries += 1;
                if port.is_some() || tries >= TRIES {
                    return Err(error);
                }
            }
            // A machine without IPv6.
            Err(_) => return Ok(vec![four]),
        }
    }
}

fn accept(listeners: &[TcpListener], context: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
    for listener in listeners {
        if let Poll::Ready(accepted) = listener.poll_accept(context) {
            return Poll::Ready(accepted.map(|(stream, _)| stream));
        }
    }
    Poll::Pending
}

/// One request, one page. The answer is handed on once the page is out.
async fn converse(stream: TcpStream, desk: Arc<Desk>, limits: Limits) -> Option<Answer> {
    let brought = Arc::new(Mutex::new(None));
    let service = service_fn(|request| {
        let page = desk.serve(&request, &brought);
        async { Ok::<_, Infallible>(page) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(limits.connection, connection).await;
    brought.lock().unwrap_or_else(PoisonError::into_inner).take()
}

// === impl Desk ===

/// Where the answer is taken.
struct Desk {
    authority: String,
    path: String,
    state: Secret,
    used: AtomicBool,
}

impl Desk {
    fn serve(&self, request: &Request<Incoming>, brought: &Mutex<Option<Answer>>) -> Response<Full<Bytes>> {
        let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
        if host != Some(self.authority.as_bytes()) || request.uri().path() != self.path {
            return page(StatusCode::NOT_FOUND, NOTHING);
        }
        if request.method() != Method::GET {
            let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, NOTHING);
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
            return refused;
        }
        let Some(answer) = self.read(request.uri().query().unwrap_or_default()) else {
            tracing::warn!("an answer that doesn't belong to this login was left alone: its `state` isn't ours");
            return page(StatusCode::BAD_REQUEST, FOREIGN);
        };
        if self.used.swap(true, Ordering::Relaxed) {
            return page(StatusCode::GONE, USED);
        }
        *brought.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        page(StatusCode::OK, DONE)
    }

    /// `None`: without our `state` nothing else in it is looked at.
    fn read(&self, query: &str) -> Option<Answer> {
        let mut url = Url::parse("http://127.0.0.1/").ok()?;
        url.set_query(Some(query));
        let mut states = url.query_pairs().filter(|(name, _)| name == "state").map(|(_, value)| value.into_owned());
        let (state, None) = (Secret::new(states.next()?), states.next()) else { return None };
        if !state.equals(&self.state) {
            return None;
        }
        let mut answer = Answer::default();
        for (name, value) in url.query_pairs() {
            let value = value.into_owned();
            let repeated = match &*name {
                "code" => answer.code.replace(Secret::new(value)).is_some(),
                "iss" => answer.iss.replace(value).is_some(),
                "error" => answer.error.replace(value).is_some(),
                "error_description" => answer.error_description.replace(value).is_some(),
                // RFC 6749 §4.1.2: what we don't know is ignored.
                _another => false,
            };
            answer.repeated |= repeated;
        }
        Some(answer)
    }
}

/// Small, static, and without a word of what was asked.
fn page(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    const FIELDS: [(header::HeaderName, &str); 6] = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::CONNECTION, "close"),
    ];
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    for (name, value) in FIELDS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            login: Duration::from_secs(300),
            head: Duration::from_secs(5),
            connection: Duration::from_secs(10),
            connections: 32,
        }
    }
}
