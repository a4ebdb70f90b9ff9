//! HTTP/2 to an upstream (RFC 9113): many exchanges at a time on a connection that a task of its
//! own drives.
//!
//! ```text
//! exchange: head and body are written, interim answers and the head read
//!              -> Incoming: the body of the answer; dropped before its end, the stream is cancelled
//!              -> Upload: what is left of the request, in a task of its own, until the answer ends
//! ```

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, HOST},
    request::Parts,
    uri::{self, PathAndQuery},
};
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::AbortHandle,
    time::Instant,
};

use super::{
    Error, Incoming,
    body::{Patience, Tracked},
    client::{SendFailure, Sent},
    h1::MAX_INTERIM,
    pool::{ConnectionGuard, Leased, Limits, Slot, Target, lock},
};
use crate::http2::{Broken, Plain, Received, Sending};

/// Of an answer's head.
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// What one stream may hold that its reader hasn't taken yet: a reader that stalls costs no
/// more than this.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Never what stops a stream: else a few readers that stall would hold up all others on
/// their connection. What it may hold is bounded by its streams, which are counted.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// What the frames of all streams may take beyond what they hold: one of a byte costs two
/// hundred, and no window says so (threat 78).
const FRAMES_BUDGET: usize = 16 * 1024 * 1024;
/// What one stream holds that the peer's window doesn't admit yet.
const SEND_BUFFER: usize = 256 * 1024;

/// How long a connection may answer nobody and be joined by others.
const SILENT: Duration = Duration::from_secs(10);

/// What a peer's limit is called before its first `SETTINGS` (h2 then gives its number, or
/// `usize::MAX` where it sets none).
const UNSETTLED: usize = usize::MAX - 1;

/// A connection: as many exchanges at a time as both sides allow.
pub(super) struct H2 {
    sender: SendRequest<Bytes>,
    address: SocketAddr,
    in_flight: AtomicUsize,
    /// The peer has said how many streams it allows.
    settled: AtomicBool,
    /// Gets no new requests.
    retired: AtomicBool,
    idle_since: Mutex<Instant>,
    /// Requests since the last answer: of those whose agents left something may still wait here.
    unanswered: AtomicUsize,
    /// When the first of them was asked.
    asked: Mutex<Instant>,
    /// Nobody is on it, and it is counted among the connections at rest.
    rests: AtomicBool,
    limits: Arc<Limits>,
    home: Weak<Slot>,
}

/// What is left of a request whose answer has begun. Dropped with the answer: the rest isn't sent
/// any more (RFC 9113 §8.1, threat 64), and its stream is cancelled, since it didn't end.
#[derive(Debug)]
pub(super) struct Upload(AbortHandle);

/// A request on its way, until the head of its answer.
struct Exchange<'a, B> {
    asked: ResponseFuture,
    /// `None`: sent, or given up.
    upload: Option<Sending<B>>,
    /// Why it was given up; the answer may say more.
    broken: Option<Broken>,
    interim: usize,
    on_interim: &'a (dyn Fn(StatusCode, &HeaderMap) + Sync),
}

/// Begins to speak on a connection.
pub(super) async fn start<S>(stream: S) -> Result<SendRequest<Bytes>, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(UNSETTLED)
        .max_header_list_size(MAX_HEADER_BYTES)
        .data_frame_budget(FRAMES_BUDGET)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(stream)
        .await
        .map_err(|error| Error::Http2(error.into()))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %Plain(&error), "an upstream's connection ended badly");
        }
    });
    Ok(sender)
}

// === impl H2 ===

impl H2 {
    pub(super) fn new(sender: SendRequest<Bytes>, address: SocketAddr, limits: Arc<Limits>, home: Weak<Slot>) -> Self {
        Self {
            sender,
            address,
            in_flight: AtomicUsize::new(0),
            settled: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            idle_since: Mutex::new(Instant::now()),
            unanswered: AtomicUsize::new(0),
            asked: Mutex::new(Instant::now()),
            rests: AtomicBool::new(false),
            limits,
            home,
        }
    }

    /// Something on it went wrong that may be the connection's fault: those who are on
    /// it may end, nobody else gets on.
    fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_usable(&self) -> bool {
        let mut now = Context::from_waker(std::task::Waker::noop());
        // A peer that answers nothing for so long gets nothing more to keep.
        let most = self.limits.max_streams().saturating_mul(2);
        !self.retired.load(Ordering::Relaxed)
            && self.unanswered.load(Ordering::Relaxed) < most
            && (self.sender.current_max_send_streams() > 0 || self.in_flight.load(Ordering::Relaxed) > 0)
            && !matches!(self.sender.clone().poll_ready(&mut now), Poll::Ready(Err(_)))
    }

    pub(super) fn has_room(&self, max_streams: usize) -> bool {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let settled = self.settled.load(Ordering::Relaxed);
        if !settled {
            return in_flight == 0;
        }
        in_flight < max_streams && in_flight < self.sender.current_max_send_streams()
    }

    /// Whether nobody on it has got an answer for a while: its peer may be gone without a word. Those
    /// who are on it wait, others had better not.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0 && now.duration_since(*lock(&self.asked)) >= SILENT
    }

    #[cfg(test)]
    pub(super) fn age(&self, ago: Duration) {
        *lock(&self.asked) -= ago;
    }

    /// Lets others on it from now on.
    pub(super) fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_settled(&self) -> bool {
        self.sender.current_max_send_streams() != UNSETTLED
    }

    pub(super) fn idle_for(&self, limit: Duration) -> bool {
        self.in_flight.load(Ordering::Relaxed) == 0 && lock(&self.idle_since).elapsed() >= limit
    }

    pub(super) fn enter(self: &Arc<Self>) -> ConnectionGuard {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.wake();
        ConnectionGuard::new(Arc::clone(self) as Arc<dyn Leased>)
    }

    /// It is at rest no longer.
    fn wake(&self) {
        if self.rests.swap(false, Ordering::Relaxed) {
            self.limits.end_rest();
        }
    }
}

impl Leased for H2 {
    fn release(self: Arc<Self>) {
        if self.in_flight.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        *lock(&self.idle_since) = Instant::now();
        if self.limits.begin_rest() {
            self.rests.store(true, Ordering::Relaxed);
        } else if let Some(home) = self.home.upgrade() {
            // Closed with its last holder.
            home.forget(&self);
        }
    }
}

impl Drop for H2 {
    fn drop(&mut self) {
        self.wake();
    }
}

// === impl Exchange ===

/// Sends a request and returns when the head of its answer is there. Of the request's URI path
/// and query count; the rest is `target`'s. Dropped half-way, it cancels its stream.
pub(super) async fn exchange<B>(
    (h2, guard): (Arc<H2>, ConnectionGuard),
    target: &Target,
    (mut head, body): (Box<Parts>, Tracked<B>),
    patience: Patience,
    on_interim: &(dyn Fn(StatusCode, &HeaderMap) + Sync),
) -> Result<Sent, SendFailure<Tracked<B>>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let address = h2.address;
    if h2.unanswered.fetch_add(1, Ordering::Relaxed) == 0 {
        *lock(&h2.asked) = Instant::now();
    }
    let mut sender = h2.sender.clone();
    if let Err(error) = poll_fn(|cx| sender.poll_ready(cx)).await {
        return Err(SendFailure::unsent(Error::Http2(error.into()), Some(address), head, body));
    }
    let failed =
        |error, nothing_sent| SendFailure { error, address: Some(address), unsent: None, nothing_sent, head: None };
    fit(&mut head, &body, target);
    let has_ended = body.is_end_stream();
    let (asked, stream) = sender
        .send_request(Request::from_parts(*head, ()), has_ended)
        .map_err(|error| failed(Error::Http2(error.into()), true))?;
    let upload = (!has_ended).then(|| Sending::new(body, stream));
    let mut exchange = Exchange { asked, upload, broken: None, interim: 0, on_interim };
    let mut timer = pin!(patience.timer());
    let answer = poll_fn(|cx| match exchange.poll(cx) {
        Poll::Ready(answer) => Poll::Ready(answer.map_err(Error::Http2)),
        Poll::Pending => patience.poll(cx, timer.as_mut()).map(|()| Err(patience.error())),
    });
    match answer.await {
        Ok(response) => {
            h2.unanswered.store(0, Ordering::Relaxed);
            let upload = exchange.upload.map(Upload::go_on);
            let response = response.map(|body| Incoming::h2(body, (guard, upload)));
            Ok(Sent { response, ahead: Bytes::new(), address, arrived: Instant::now(), head: None })
        }
        Err(error) => {
            if matches!(error, Error::ResponseTimeout { .. }) {
                // A peer that is gone without a word would let the next ones wait, too.
                h2.retire();
            }
            let nothing_sent = matches!(&error, Error::Http2(broken) if broken.is_unprocessed());
            Err(failed(error, nothing_sent))
        }
    }
}

impl<B> Exchange<'_, B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Received>, Broken>> {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(sent) = Pin::new(upload).poll(cx)
        {
            self.upload = None;
            self.broken = sent.err();
        }
        while let Poll::Ready(Some(Ok(interim))) = self.asked.poll_informational(cx) {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Poll::Ready(Err(Broken::Refused("interim answers without end")));
            }
            // There is none in HTTP/2 (RFC 9113 §8.6), and over h1 it would be the answer itself.
            if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(Broken::Refused("a 101")));
            }
            (self.on_interim)(interim.status(), interim.headers());
        }
        Pin::new(&mut self.asked).poll(cx).map(|answer| match answer {
            Ok(answer) => {
                let (head, stream) = answer.into_parts();
                let body = Received::new(stream, &head.headers);
                Ok(Response::from_parts(head, body))
            }
            Err(error) => {
                let error = Broken::from(error);
                // What the answer's side says tells more, where the peer says that it did nothing, or
                // where the other one knows of the end and not whose it is.
                let is_first = error.is_unprocessed();
                let broken = self.broken.take().filter(|broken| !is_first && !matches!(broken, Broken::Reset(_)));
                Err(broken.unwrap_or(error))
            }
        })
    }
}

impl Upload {
    fn go_on<B>(rest: Sending<B>) -> Self
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let task = tokio::spawn(async move {
            if let Err(error) = rest.await {
                tracing::debug!(%error, "an upload broke off behind the head of its answer");
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes a request's head that of an HTTP/2 request: `:scheme` and `:authority` from what was
/// permitted, and no `Host` (RFC 9113 §8.3.1).
fn fit<B: Body>(head: &mut Parts, body: &B, target: &Target) {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(target.scheme.clone());
    parts.authority = Some(target.authority.clone());
    parts.path_and_query = Some(path(head));
    #[expect(clippy::expect_used, reason = "a URI with all three parts is one")]
    let uri = http::Uri::from_parts(parts).expect("scheme, authority and path");
    (head.uri, head.version) = (uri, Version::HTTP_2);
    head.headers.remove(HOST);
    // Servers want to hear of a length even where it is none (RFC 9110 §8.6).
    let expects_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    if let Some(length) = body.size_hint().exact()
        && (length > 0 || expects_body)
    {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
}

fn path(head: &mut Parts) -> PathAndQuery {
    let path = std::mem::take(&mut head.uri).into_parts().path_and_query;
    // `https://host` has an empty one, which no request line can hold.
    path.filter(|path| path.as_str() != "/").unwrap_or_else(|| PathAndQuery::from_static("/"))
}
