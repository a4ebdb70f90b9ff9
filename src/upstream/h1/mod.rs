//! HTTP/1.1 to an upstream (RFC 9112): one exchange at a time on a connection that nobody
//! but the exchange drives. Between two exchanges it lies in the pool without a task.
//!
//! ```text
//! Connection -> Exchange: write head and body, read interim answers and the head
//!                  -> Incoming: read the body -> home, the pool, if both messages ended well
//! ```
//!
//! An answer whose end isn't sure, or that comes before the request was written, costs the
//! connection. An upload that outlives its answer's head goes on in a task of its own.

mod detached;
mod incoming;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::Weak,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, request::Parts};
use http_body::Body;
use tokio::time::{Instant, Sleep};

use super::{
    Error,
    body::{Patience, Tracked},
    transport::Transport,
};
use crate::http1::{
    Coding, Fault, Framing, Outgoing, Wire,
    head::{self, Answer},
};

pub use incoming::{Incoming, IncomingError};

/// Room for a head and a small body.
const FIRST_READ: usize = 8 * 1024;

/// Interim answers to one request: a server that never comes to its point is given up.
pub(super) const MAX_INTERIM: usize = 64;

/// Where a connection goes when its exchange has ended well.
pub(super) trait Home: Send + Sync {
    /// `since`: when it came to rest; `None`: now.
    fn take_in(&self, connection: Box<Connection>, since: Option<Instant>);
}

/// A connection; between two exchanges, or lent to one.
pub(super) struct Connection {
    wire: Wire<Transport>,
    address: SocketAddr,
    home: Weak<dyn Home>,
    /// Runs while an answer is waited for, and on: the next wait takes it as it is, which spares
    /// two operations on the runtime's wheel a request.
    timer: Option<Pin<Box<Sleep>>>,
}

/// A request that got no answer.
#[derive(Debug)]
pub(super) struct Failed<B> {
    pub(super) error: Error,
    /// Its body, where nothing of it was sent nor taken.
    pub(super) unsent: Option<Tracked<B>>,
    /// Not a byte of it was sent.
    pub(super) nothing_sent: bool,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(transport: Transport, address: SocketAddr, home: Weak<dyn Home>) -> Box<Self> {
        Box::new(Self { wire: Wire::new(transport, FIRST_READ), address, home, timer: None })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether another request may go over it, as far as is known.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.wire.read.is_empty() && (self.wire.io().is_silent() || self.wire.is_quiet())
    }

    /// Gives its memory back.
    pub(super) fn rest(&mut self) {
        self.timer = None;
        self.wire.rest();
    }

    /// Into the pool: `home`, where that is at hand.
    fn go_home(mut self: Box<Self>, home: Option<&dyn Home>, since: Option<Instant>) {
        if !self.wire.read.is_empty() {
            // More than was asked for: whoever came next would take it for an answer (threat 80).
            return;
        }
        self.wire.wrote_any = false;
        let found = if home.is_none() { self.home.upgrade() } else { None };
        if let Some(home) = home.or(found.as_deref()) {
            home.take_in(self, since);
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

// === The exchange ===

/// An exchange until the head of its answer.
struct Exchange<B> {
    connection: Box<Connection>,
    /// `None`: written, or given up.
    upload: Option<Outgoing<Tracked<B>>>,
    patience: Patience,
    /// The request can't be written any more; there may be an answer that says why.
    broken: Option<Fault>,
    searched: usize,
    interim: usize,
}

/// Sends a request and returns when the head of its answer is there. `host`: what is written as
/// such. Of the request's URI path and query count. Dropped half-way, it closes the connection.
pub(super) async fn exchange<B>(
    mut connection: Box<Connection>,
    (head, body): (&Parts, Tracked<B>),
    host: &HeaderValue,
    patience: Patience,
    on_interim: &(dyn Fn(StatusCode, &HeaderMap) + Sync),
) -> Result<Response<Incoming>, Failed<B>>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    let coding = length.map_or(Coding::Chunked, Coding::Length);
    head::write_request(&mut connection.wire.out, head, host, coding);
    let upload = Some(Outgoing::new(body, coding));
    let mut exchange = Exchange { connection, upload, patience, broken: None, searched: 0, interim: 0 };
    let answer = poll_fn(|cx| {
        let answer = exchange.poll_head(cx, on_interim).map_err(Error::from);
        if answer.is_pending() { exchange.poll_late(cx).map(Err) } else { answer }
    });
    match answer.await {
        Ok(answer) => exchange.finish(&head.method, answer).map_err(|fault| Failed {
            error: fault.into(),
            unsent: None,
            nothing_sent: false,
        }),
        Err(error) => Err(exchange.failed(error)),
    }
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        on_interim: &(dyn Fn(StatusCode, &HeaderMap) + Sync),
    ) -> Poll<Result<Answer, Fault>> {
        self.poll_upload(cx)?;
        loop {
            while let Some(answer) = head::read_answer(&mut self.connection.wire.read, &mut self.searched)? {
                let status = answer.response.status();
                if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(answer));
                }
                self.interim += 1;
                if self.interim > MAX_INTERIM {
                    return Poll::Ready(Err(Fault::TooLarge));
                }
                on_interim(status, answer.response.headers());
                // It may have been what the body waited for.
                self.poll_upload(cx)?;
            }
            match ready!(self.connection.wire.poll_read(cx)) {
                Ok(0) => return Poll::Ready(Err(self.broken.take().unwrap_or(Fault::Closed))),
                Ok(_) => {}
                Err(fault) => return Poll::Ready(Err(self.broken.take().unwrap_or(fault))),
            }
        }
    }

    /// A server that doesn't want the rest may say why before it closes (RFC 9112 §9.5).
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        match upload.poll(cx, &mut self.connection.wire) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.upload = None,
            Poll::Ready(Err(fault @ Fault::Io(_))) if self.connection.wire.wrote_any => {
                self.upload = None;
                self.broken = Some(fault);
            }
            Poll::Ready(Err(fault)) => return Err(fault),
        }
        Ok(())
    }

    fn finish(mut self, method: &Method, answer: Answer) -> Result<Response<Incoming>, Fault> {
        let Answer { response, terms } = answer;
        let (parts, ()) = response.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Response::from_parts(parts, Incoming::switched(self.connection)));
        }
        let Framing { decoder, keeps } = terms.framing(parts.status, parts.version, method)?;
        let keeps = keeps && self.broken.is_none();
        let body = match self.upload.take() {
            None => Incoming::h1(self.connection, decoder, keeps),
            // The server may take what it has not read of this request for the next one, and
            // answer that, too (threat 64): no other request may follow.
            Some(_) if decoder.is_done() => Incoming::h1(self.connection, decoder, false),
            Some(upload) => Incoming::detached(self.connection, decoder, upload),
        };
        Ok(Response::from_parts(parts, body))
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let timer = self.connection.timer.get_or_insert_with(|| Box::pin(self.patience.timer()));
        self.patience.poll(cx, timer.as_mut()).map(|()| self.patience.error())
    }

    fn failed(self, error: Error) -> Failed<B> {
        let nothing_sent = match &error {
            Error::ResponseTimeout { .. } | Error::Http1(Fault::Body(_)) => false,
            _broken => !self.connection.wire.wrote_any,
        };
        let unsent = self.upload.filter(|_| nothing_sent).and_then(Outgoing::into_untouched);
        Failed { error, unsent, nothing_sent }
    }
}
