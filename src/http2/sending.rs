//! A body on its way into a stream, with back-pressure: no frame is taken from its source
//! before there is room for the one before it.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use super::small::Small;

/// Why it doesn't arrive whole. Its peer has been told.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the peer wants no more of it: {0}")]
    Reset(Reason),
    /// By what the peer did, which nobody else has to see again.
    #[error("the peer breaks HTTP/2: {0}")]
    Refused(&'static str),
    #[error("{}", Plain(.0))]
    Connection(h2::Error),
    /// Its source's side of it.
    #[error("the body broke off")]
    Body(#[source] Box<dyn StdError + Send + Sync>),
}

impl From<h2::Error> for Broken {
    fn from(error: h2::Error) -> Self {
        Self::Connection(error)
    }
}

impl Broken {
    /// The connection ended, or the stream by its peer's will; not by what one of us did wrong.
    pub fn is_broken_off(&self) -> bool {
        match self {
            Self::Reset(_) => true,
            Self::Refused(_) | Self::Body(_) => false,
            Self::Connection(error) => error.is_io() || (error.is_remote() && (error.is_go_away() || error.is_reset())),
        }
    }

    /// The peer says that it has done nothing of it (RFC 9113 §8.7).
    pub fn is_unprocessed(&self) -> bool {
        let Self::Connection(error) = self else { return false };
        error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
    }
}

/// A body; ready once its last frame was handed to the connection. Dropped before, it cancels its
/// stream, and what waits of it.
#[derive(Debug)]
pub struct Sending<B> {
    body: Option<B>,
    stream: SendStream<Bytes>,
    /// It waits for room.
    next: Option<Piece>,
    small: Small,
    has_ended: bool,
}

#[derive(Debug)]
struct Piece {
    data: Bytes,
    is_last: bool,
}

impl<B> Sending<B> {
    pub fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body: Some(body), stream, next: None, small: Small::default(), has_ended: false }
    }

    /// Whether something that was taken of the body waits for room.
    pub fn is_waiting(&self) -> bool {
        self.next.is_some()
    }

    /// Where it isn't through, its stream is cancelled.
    pub fn into_body(mut self) -> Option<B> {
        self.body.take()
    }

    /// Ready: there is room for so much.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        loop {
            match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(room) => drop(room?),
                    // The stream is closed; by whom, the next look at it tells.
                    None => return Poll::Ready(Err(Broken::Reset(Reason::STREAM_CLOSED))),
                },
                room => return Poll::Ready(Ok(room)),
            }
        }
    }

    /// Sends what waits, as far as there is room. Ready: nothing waits; if true, nor ever will.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        while self.next.is_some() {
            ready!(self.small.poll_room(cx));
            let room = ready!(self.poll_room(cx))?;
            let Some(Piece { data, is_last }) = &mut self.next else { break };
            // No more than there is room for: what is handed over counts as sent.
            let part = data.split_to(room.min(data.len()));
            let has_ended = *is_last && data.is_empty();
            if data.is_empty() {
                self.next = None;
            }
            self.stream.send_data(self.small.count(part), has_ended)?;
            if has_ended {
                return Poll::Ready(Ok(true));
            }
        }
        Poll::Ready(Ok(false))
    }
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            // Asked each time, so that whoever waits for the body or for room hears of it.
            if let Poll::Ready(reason) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(Broken::Reset(reason?)));
            }
            if ready!(self.poll_piece(cx))? {
                return Poll::Ready(Ok(()));
            }
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    // One that isn't the last says nothing; the end is told without room.
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        // Only now: what is asked for is withheld from other streams.
                        self.stream.reserve_capacity(data.len());
                        self.next = Some(Piece { data, is_last: body.is_end_stream() });
                    }
                    Err(frame) => {
                        self.stream.reserve_capacity(0);
                        if let Ok(trailers) = frame.into_trailers() {
                            return Poll::Ready(self.stream.send_trailers(trailers).map_err(Into::into));
                        }
                    }
                },
                Some(Err(error)) => {
                    let error = error.into();
                    self.stream.send_reset(reason(&*error));
                    return Poll::Ready(Err(Broken::Body(error)));
                }
                None => return Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(Into::into)),
            }
        }
    }
}

impl<B> Future for Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Output = Result<(), Broken>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let sent = ready!(self.poll_all(cx));
        self.has_ended = true;
        Poll::Ready(sent)
    }
}

impl<B> Drop for Sending<B> {
    fn drop(&mut self) {
        if !self.has_ended {
            // Said outright: of a stream that is merely forgotten the connection keeps what waits.
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

/// What the peer is told of a body that broke off: what was said of its stream on the other side,
/// where that means the same here. Never that all is well, which some take for the body's end
/// (threat 79), nor that nothing was done of it.
fn reason(error: &(dyn StdError + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let reason = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
        if let Some(reason @ (Reason::CANCEL | Reason::ENHANCE_YOUR_CALM)) = reason {
            return reason;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}

/// An error as a log may have it: without what the peer wrote to it, which can be anything that it
/// was sent (threat 19).
#[derive(Debug)]
pub struct Plain<'a>(pub &'a h2::Error);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(error) = self;
        match (error.get_io(), error.reason()) {
            (Some(io), _) => io.fmt(f),
            (None, Some(reason)) if error.is_remote() => write!(f, "the peer ended it: {reason}"),
            (None, Some(reason)) => write!(f, "ended: {reason}"),
            (None, None) => error.fmt(f),
        }
    }
}
