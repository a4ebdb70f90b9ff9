//! Sends a permitted request: over a pooled connection or a new one, on h1 or h2 as
//! the upstream chose. Knows nothing of what is in a request or an answer but its form.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response, Uri, Version,
    header::HOST,
    request::Parts,
    uri::{self, PathAndQuery},
};
use http_body::Body;
use hyper::{
    client::conn::http2,
    rt::{Read, Write},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ipnet::IpNet;
use rustls::ClientConfig;
use tokio::time::Instant;

use super::{
    Destination, Dial, Error, Parent, Resolve, Settings, Stream, Wall,
    body::{Patience, Tracked},
    connect::Connector,
    h1::{self, Incoming},
    pool::{Acquired, ConnectionGuard, H2, Loan, Opening, PeerLimit, Pool, Slot, Target, UNSETTLED, lock},
    transport::Transport,
};
use crate::{
    http1::used,
    observe::{Noted, Record},
    policy::Permit,
    primitives::{Authority, boxed},
    route::Scheme,
};

/// Of an answer's head over h2.
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// What one h2 stream may hold that its reader hasn't taken yet: a reader that stalls
/// costs no more than this.
const H2_STREAM_WINDOW: u32 = 1024 * 1024;
/// Never what stops a stream: else a few readers that stall would hold up all others on
/// their connection. What it may hold is bounded by its streams, which are counted.
const H2_CONNECTION_WINDOW: u32 = 1 << 30;
/// What one h2 stream holds that the peer's window doesn't admit yet.
const H2_SEND_BUFFER: usize = 256 * 1024;

/// One worker's pool. `B` is the body of the requests it sends.
#[derive(Debug)]
pub struct Client<B> {
    connect_timeout: Duration,
    connector: Connector,
    pool: Arc<Pool<B>>,
}

/// The head of an answer, its body to be streamed.
#[derive(Debug)]
pub struct Sent {
    pub response: Response<Incoming>,
    /// What was read of the body already: it goes before the rest.
    pub ahead: Bytes,
    pub address: SocketAddr,
}

/// A request that got no answer.
#[derive(Debug)]
pub struct SendFailure<B> {
    pub error: Error,
    /// Where the request went, as far as it got a connection.
    pub address: Option<SocketAddr>,
    /// The request, where not a byte of it was sent nor taken of its body: safe to send again
    /// whatever its method.
    pub unsent: Option<(Box<Parts>, B)>,
    /// Not a byte of it was sent, whatever was taken of its body.
    pub nothing_sent: bool,
}

impl<B> Client<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub fn new(settings: Settings, wall: Wall, resolve: Arc<dyn Resolve>, dial: Arc<dyn Dial>) -> Self {
        Self {
            connect_timeout: settings.connect_timeout,
            connector: Connector { wall, resolve, dial, parent: None },
            pool: Arc::new(Pool::new(settings)),
        }
    }

    /// The same, by way of a parent proxy.
    #[must_use]
    pub fn through(mut self, parent: Option<Arc<Parent>>) -> Self {
        self.connector.parent = parent;
        self
    }

    /// Sends over a pooled connection or a new one. The request is complete but for its
    /// target: of its URI only path and query count, scheme and authority are the permit's,
    /// and so is `Host` on h1; on h2 it is absent.
    ///
    /// Over h1 the length or coding of its body is written anew, too.
    ///
    /// A pooled connection that turns out closed before a byte was sent is replaced
    /// without the caller's knowing. Nothing else is retried here. The wait for the
    /// answer's head is limited by the route's `response_timeout`, from the last byte
    /// of the request's body on. A caller that leaves ends the exchange at once.
    pub async fn send(&self, to: Destination<'_>, (mut head, body): (Box<Parts>, B)) -> Result<Sent, SendFailure<B>> {
        let slot = self.pool.slot(&to);
        let limit = to.permit.route().upstream.response_timeout;
        let mut body = Tracked::new(body, to.now);
        let (mut now, mut again) = (to.now, false);
        loop {
            let loan = match self.acquire(&slot, &to, (again, &mut now)).await {
                Ok(loan) => loan,
                Err(error) => return Err(SendFailure::unsent(error, None, head, body).map(Tracked::into_inner)),
            };
            let patience = Patience::new(limit, now, &body);
            let failure = match loan {
                Loan::H1(connection) => {
                    let address = connection.address();
                    let exchange = h1::exchange(connection, (&head, body), &slot.target.host, patience, to.on_interim);
                    match exchange.await {
                        Ok(response) => {
                            used::give_head(head);
                            return Ok(Sent { response, ahead: Bytes::new(), address });
                        }
                        Err(failed) => SendFailure::of_h1(failed, address, head),
                    }
                }
                Loan::H2(connection, guard) => {
                    (to.without_interim)();
                    let request = Request::from_parts(*head, body);
                    match boxed(|| exchange_h2((connection, guard), &slot.target, request, patience)).await {
                        Ok(sent) => return Ok(sent),
                        Err(failure) => failure,
                    }
                }
            };
            match failure {
                SendFailure { unsent: Some(unsent), .. } if !again => (head, body) = unsent,
                failure => return Err(failure.map(Tracked::into_inner)),
            }
            (again, now) = (true, Instant::now());
        }
    }

    /// A raw connection for a blind tunnel, through the same wall. `allowed`: what of the
    /// special-purpose addresses it may reach; nothing, as a rule.
    pub async fn connect_raw(&self, to: &Authority, allowed: &[IpNet]) -> Result<(Stream, SocketAddr), Error> {
        let limit = self.connect_timeout;
        let opened = tokio::time::timeout(limit, self.connector.open(to, allowed, false)).await;
        opened.unwrap_or(Err(Error::ConnectTimeout { limit }))
    }

    /// `now` is moved on, where it takes time.
    async fn acquire(
        &self,
        slot: &Arc<Slot<B>>,
        to: &Destination<'_>,
        (again, now): (bool, &mut Instant),
    ) -> Result<Loan<B>, Error> {
        if let Some(loan) = slot.take(again, *now) {
            return Ok(loan);
        }
        let loan = boxed(|| self.wait(slot, to.permit, to.h1_only, again)).await?;
        *now = Instant::now();
        Ok(loan)
    }

    async fn wait(&self, slot: &Arc<Slot<B>>, permit: &Permit, h1_only: bool, again: bool) -> Result<Loan<B>, Error> {
        let limit = self.connect_timeout;
        let acquired = tokio::time::timeout(limit, async {
            match slot.acquire(again).await? {
                Acquired::Pooled(loan) => Ok(loan),
                Acquired::Open(opening) => self.open(opening, permit, &slot.tls, h1_only).await,
            }
        });
        acquired.await.unwrap_or(Err(Error::ConnectTimeout { limit }))
    }

    async fn open(
        &self,
        opening: Opening<B>,
        permit: &Permit,
        tls: &Arc<ClientConfig>,
        h1_only: bool,
    ) -> Result<Loan<B>, Error> {
        match self.connect(permit, tls, h1_only).await {
            Ok(Opened::H1(transport, address)) => Ok(opening.h1(transport, address)),
            Ok(Opened::H2(sender, peer_limit, address)) => Ok(opening.h2(sender, peer_limit, address)),
            Err(error) => Err(opening.failed(error)),
        }
    }

    async fn connect(&self, permit: &Permit, tls: &Arc<ClientConfig>, h1_only: bool) -> Result<Opened<B>, Error> {
        let (authority, upstream) = (permit.authority(), &permit.route().upstream);
        let (stream, address) = self.connector.open(authority, &upstream.private_addresses, upstream.direct).await?;
        match permit.scheme() {
            Scheme::Http => Ok(Opened::H1(Transport::Clear(stream), address)),
            Scheme::Https => {
                let stream = self.connector.secure(stream, authority.host(), tls, h1_only).await?;
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                if is_h2 {
                    let (sender, peer_limit) = start_h2(TokioIo::new(stream)).await?;
                    Ok(Opened::H2(sender, peer_limit, address))
                } else {
                    Ok(Opened::H1(Transport::Tls(Box::new(stream)), address))
                }
            }
        }
    }
}

enum Opened<B> {
    H1(Transport, SocketAddr),
    H2(http2::SendRequest<Tracked<B>>, PeerLimit, SocketAddr),
}

async fn start_h2<B, S>(stream: S) -> Result<(http2::SendRequest<Tracked<B>>, PeerLimit), Error>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S: Read + Write + Send + Unpin + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .initial_max_send_streams(UNSETTLED)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buf_size(H2_SEND_BUFFER)
        .handshake(stream)
        .await
        .map_err(Error::Http)?;
    // Only the connection knows what its peer allows, and its task owns it.
    let connection = Arc::new(std::sync::Mutex::new(connection));
    let watched = Arc::downgrade(&connection);
    tokio::spawn(std::future::poll_fn(move |cx| std::pin::Pin::new(&mut *lock(&connection)).poll(cx).map(drop)));
    // Never waits for the lock: whoever holds it may be on its way to us.
    let peer_limit = move || watched.upgrade()?.try_lock().ok().map(|connection| connection.current_max_send_streams());
    Ok((sender, Box::new(peer_limit)))
}

async fn exchange_h2<B>(
    (h2, guard): (Arc<H2<B>>, ConnectionGuard),
    target: &Target,
    mut request: Request<Tracked<B>>,
    patience: Patience,
) -> Result<Sent, SendFailure<Tracked<B>>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    into_h2(&mut request, target);
    let (address, answered) = (h2.address, request.body().answered());
    let mut answer = pin!(lock(&h2.sender).try_send_request(request));
    let mut timer = pin!(patience.timer());
    let answer = poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Ok(answer)),
        Poll::Pending => patience.poll(cx, timer.as_mut()).map(|()| Err(patience.error())),
    });
    match answer.await {
        Ok(Ok(response)) => {
            let response = response.map(|body| Incoming::h2(body, (guard, answered)));
            Ok(Sent { response, ahead: Bytes::new(), address })
        }
        Ok(Err(mut error)) => {
            let unsent = error.take_message().map(Request::into_parts).map(|(head, body)| (Box::new(head), body));
            let (address, nothing_sent) = (Some(address), unsent.is_some());
            Err(SendFailure { error: Error::Http(error.into_error()), address, unsent, nothing_sent })
        }
        Err(error) => {
            // A peer that is gone without a word would let the next ones wait, too.
            h2.retire();
            Err(SendFailure { error, address: Some(address), unsent: None, nothing_sent: false })
        }
    }
}

/// `:scheme` and `:authority` from what was permitted, and no `Host` (RFC 9113 §8.3.1).
fn into_h2<B>(request: &mut Request<B>, target: &Target) {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(target.scheme.clone());
    parts.authority = Some(target.authority.clone());
    parts.path_and_query = Some(path(request));
    #[expect(clippy::expect_used, reason = "a URI with all three parts is one")]
    let uri = Uri::from_parts(parts).expect("scheme, authority and path");
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(HOST);
}

fn path<B>(request: &mut Request<B>) -> PathAndQuery {
    let path = std::mem::take(request.uri_mut()).into_parts().path_and_query;
    // `https://host` has an empty one, which no request line can hold.
    path.filter(|path| path.as_str() != "/").unwrap_or_else(|| PathAndQuery::from_static("/"))
}

impl<B> SendFailure<B> {
    fn unsent(error: Error, address: Option<SocketAddr>, head: Box<Parts>, body: B) -> Self {
        Self { error, address, unsent: Some((head, body)), nothing_sent: true }
    }

    fn map<C>(self, f: impl FnOnce(B) -> C) -> SendFailure<C> {
        let Self { error, address, unsent, nothing_sent } = self;
        SendFailure { error, address, unsent: unsent.map(|(head, body)| (head, f(body))), nothing_sent }
    }
}

impl<B> SendFailure<Tracked<B>> {
    fn of_h1(failed: h1::Failed<B>, address: SocketAddr, head: Box<Parts>) -> Self {
        let h1::Failed { error, unsent, nothing_sent } = failed;
        Self { error, address: Some(address), unsent: unsent.map(|body| (head, body)), nothing_sent }
    }
}

impl<B> Noted for SendFailure<B> {
    fn note(&self, record: &mut Record) {
        self.error.note(record);
        if self.address.is_some() {
            record.outcome.upstream_addr = self.address;
        }
    }
}

#[cfg(test)]
mod tests;
