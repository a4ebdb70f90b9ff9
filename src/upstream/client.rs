//! Sends a permitted request: over a pooled connection or a new one, on h1 or h2 as
//! the upstream chose. Knows nothing of what is in a request or an answer but its form.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, Uri, Version,
    header::{CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING, UPGRADE},
    uri::{self, PathAndQuery},
};
use http_body::Body;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
    rt::{Read, Write},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ipnet::IpNet;
use rustls::ClientConfig;
use tokio::task::AbortHandle;

use super::{
    ConnectionGuard, Destination, Dial, Error, Parent, Resolve, Settings, Stream, Wall,
    body::{Tracked, within},
    connect::Connector,
    pool::{Acquired, Connection, Loan, Opening, PeerLimit, Pool, Slot, Target, UNSETTLED, lock},
};
use crate::{
    observe::{Noted, Record},
    policy::Permit,
    primitives::Authority,
    route::Scheme,
};

/// Of an answer; hyper takes at most 100 fields on h1.
const MAX_HEADER_BYTES: u32 = 64 * 1024;
/// What one h1 connection reads ahead.
const H1_BUFFER: usize = 128 * 1024;
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
    /// Gives the connection back; to be dropped after the body.
    pub connection: ConnectionGuard,
}

/// A request that got no answer.
#[derive(Debug)]
pub struct SendFailure<B> {
    pub error: Error,
    /// Where the request went, as far as it got a connection.
    pub address: Option<SocketAddr>,
    /// The request, where not a byte of it was sent: safe to send again whatever its method.
    pub unsent: Option<Request<B>>,
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

    /// Sends over a pooled connection or a new one. `request` is complete but for its
    /// target: of its URI only path and query count, scheme and authority are the permit's,
    /// and so is `Host` on h1; on h2 it is absent.
    ///
    /// A request with `Upgrade`, which h2 doesn't have, goes over h1 whatever the upstream
    /// prefers.
    ///
    /// A pooled connection that turns out closed before a byte was sent is replaced
    /// without the caller's knowing. Nothing else is retried here. The wait for the
    /// answer's head is limited by the route's `response_timeout`, from the last byte
    /// of the request's body on. A caller that leaves ends the exchange at once.
    pub async fn send(&self, to: Destination<'_>, request: Request<B>) -> Result<Sent, SendFailure<B>> {
        let h1_only = to.h1_only || request.headers().contains_key(UPGRADE);
        let slot = self.pool.slot(&to, h1_only);
        let limit = to.permit.route().upstream.response_timeout;
        let mut request = request.map(Tracked::new);
        let mut again = false;
        loop {
            let loan = match self.acquire(&slot, to.permit, h1_only, again).await {
                Ok(loan) => loan,
                Err(error) => {
                    let unsent = Some(request.map(Tracked::into_inner));
                    return Err(SendFailure { error, address: None, unsent });
                }
            };
            if matches!(loan.connection, Connection::H2(_)) {
                (to.without_interim)();
            }
            match exchange(loan, &slot.target, request, limit).await {
                Ok(sent) => return Ok(sent),
                Err(Failure { unsent: Some(unsent), .. }) if !again => request = *unsent,
                Err(Failure { error, address, unsent }) => {
                    let unsent = unsent.map(|request| request.map(Tracked::into_inner));
                    return Err(SendFailure { error, address: Some(address), unsent });
                }
            }
            again = true;
        }
    }

    /// A raw connection for a blind tunnel, through the same wall. `allowed`: what of the
    /// special-purpose addresses it may reach; nothing, as a rule.
    pub async fn connect_raw(&self, to: &Authority, allowed: &[IpNet]) -> Result<(Stream, SocketAddr), Error> {
        let limit = self.connect_timeout;
        let opened = tokio::time::timeout(limit, self.connector.open(to, allowed, false)).await;
        opened.unwrap_or(Err(Error::ConnectTimeout { limit }))
    }

    async fn acquire(
        &self,
        slot: &Arc<Slot<B>>,
        permit: &Permit,
        h1_only: bool,
        again: bool,
    ) -> Result<Loan<B>, Error> {
        if let Some(loan) = slot.take(again) {
            return Ok(loan);
        }
        let limit = self.connect_timeout;
        // Boxed: else every request would carry the room that a TLS handshake needs.
        let acquired = Box::pin(tokio::time::timeout(limit, async {
            match slot.acquire(again).await? {
                Acquired::Pooled(loan) => Ok(loan),
                Acquired::Open(opening) => self.open(opening, permit, &slot.tls, h1_only).await,
            }
        }));
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
            Ok(Opened::H1(sender, driver, address)) => Ok(opening.h1(sender, driver, address)),
            Ok(Opened::H2(sender, peer_limit, address)) => Ok(opening.h2(sender, peer_limit, address)),
            Err(error) => Err(opening.failed(error)),
        }
    }

    async fn connect(&self, permit: &Permit, tls: &Arc<ClientConfig>, h1_only: bool) -> Result<Opened<B>, Error> {
        let (authority, upstream) = (permit.authority(), &permit.route().upstream);
        let (stream, address) = self.connector.open(authority, &upstream.private_addresses, upstream.direct).await?;
        match permit.scheme() {
            Scheme::Http => {
                let (sender, driver) = start_h1(TokioIo::new(stream)).await?;
                Ok(Opened::H1(sender, driver, address))
            }
            Scheme::Https => {
                let stream = self.connector.secure(stream, authority.host(), tls, h1_only).await?;
                let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                if is_h2 {
                    let (sender, peer_limit) = start_h2(TokioIo::new(stream)).await?;
                    Ok(Opened::H2(sender, peer_limit, address))
                } else {
                    let (sender, driver) = start_h1(TokioIo::new(stream)).await?;
                    Ok(Opened::H1(sender, driver, address))
                }
            }
        }
    }
}

enum Opened<B> {
    H1(http1::SendRequest<Tracked<B>>, AbortHandle, SocketAddr),
    H2(http2::SendRequest<Tracked<B>>, PeerLimit, SocketAddr),
}

async fn start_h1<B, S>(stream: S) -> Result<(http1::SendRequest<Tracked<B>>, AbortHandle), Error>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S: Read + Write + Send + Unpin + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(H1_BUFFER)
        .max_header_size(MAX_HEADER_BYTES as usize)
        .handshake(stream)
        .await
        .map_err(Error::Http)?;
    // Its error reaches the exchange that is on it, and matters to nobody else.
    let driver = tokio::spawn(async move { drop(connection.with_upgrades().await) });
    Ok((sender, driver.abort_handle()))
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

struct Failure<B> {
    error: Error,
    address: SocketAddr,
    unsent: Option<Box<Request<Tracked<B>>>>,
}

async fn exchange<B>(
    loan: Loan<B>,
    target: &Target,
    mut request: Request<Tracked<B>>,
    limit: Duration,
) -> Result<Sent, Failure<B>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Loan { connection, guard } = loan;
    let progress = request.body().progress();
    let (address, answer) = match &connection {
        Connection::H1(h1) => {
            into_h1(&mut request, target);
            let answer = lock(&h1.sender).try_send_request(request);
            (h1.address, within(limit, progress, answer).await)
        }
        Connection::H2(h2) => {
            into_h2(&mut request, target);
            let answer = lock(&h2.sender).try_send_request(request);
            (h2.address, within(limit, progress, answer).await)
        }
    };
    let failed = |error, unsent| Failure { error, address, unsent };
    match (answer, &connection) {
        (Some(Ok(response)), Connection::H1(_)) if !has_one_length(response.headers()) => {
            Err(failed(Error::Framing, None))
        }
        (Some(Ok(response)), _) => Ok(Sent { response, ahead: Bytes::new(), address, connection: guard }),
        (Some(Err(error)), _) => {
            let (error, unsent) = split(error);
            Err(failed(Error::Http(error), unsent))
        }
        (None, connection) => {
            // A peer that is gone without a word would let the next ones wait, too.
            if let Connection::H2(h2) = connection {
                h2.retire();
            }
            Err(failed(Error::ResponseTimeout { limit }, None))
        }
    }
}

fn split<T>(mut error: TrySendError<T>) -> (hyper::Error, Option<Box<T>>) {
    let unsent = error.take_message().map(Box::new);
    (error.into_error(), unsent)
}

/// Origin-form and `Host` (RFC 9112 §3.2), both from what was permitted.
fn into_h1<B>(request: &mut Request<B>, target: &Target) {
    *request.uri_mut() = Uri::from(path(request));
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().insert(HOST, target.host.clone());
    join_cookies(request.headers_mut());
}

/// An h2 client may cut its cookies into as many fields (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let mut all = fields.get_all(COOKIE).iter();
    if all.next().is_none() || all.next().is_none() {
        return;
    }
    let pieces: Vec<_> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        fields.insert(COOKIE, whole);
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

/// Whether an h1 answer says in one way only where it ends. hyper takes some that don't.
fn has_one_length(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (lengths.next(), codings.next()) {
        (None, None) => true,
        (Some(length), None) => lengths.next().is_none() && length.as_bytes().iter().all(u8::is_ascii_digit),
        (None, Some(coding)) => codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
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
