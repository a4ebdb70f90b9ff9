//! A body on its way into a stream, with back-pressure: no frame is taken from its source
//! before there is room for the one before it.

use std::{
    error::Error as StdError,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

/// Why it doesn't arrive whole. Its peer has been told.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the peer wants no more of it: {0}")]
    Reset(Reason),
    #[error(transparent)]
    Connection(#[from] h2::Error),
    /// Its source's side of it.
    #[error("the body broke off")]
    Body(#[source] Box<dyn StdError + Send + Sync>),
}

/// A body; ready once its last frame was handed to the connection.
#[derive(Debug)]
pub struct Sending<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// It waits for room.
    next: Option<Piece>,
}

#[derive(Debug)]
struct Piece {
    data: Bytes,
    is_last: bool,
}

impl<B> Sending<B> {
    pub fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, next: None }
    }

    /// Where it isn't through, its stream is cancelled.
    pub fn into_body(self) -> B {
        self.body
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
            let room = ready!(self.poll_room(cx))?;
            let Some(Piece { data, is_last }) = &mut self.next else { break };
            // No more than there is room for: what is handed over counts as sent.
            let part = data.split_to(room.min(data.len()));
            let has_ended = *is_last && data.is_empty();
            if data.is_empty() {
                self.next = None;
            }
            self.stream.send_data(part, has_ended)?;
            if has_ended {
                return Poll::Ready(Ok(true));
            }
        }
        Poll::Ready(Ok(false))
    }
}

impl<B> Future for Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Output = Result<(), Broken>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let this = &mut *self;
        loop {
            // Asked each time, so that whoever waits for the body or for room hears of it.
            if let Poll::Ready(reason) = this.stream.poll_reset(cx) {
                return Poll::Ready(Err(Broken::Reset(reason?)));
            }
            if ready!(this.poll_piece(cx))? {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    // One that isn't the last says nothing; the end is told without room.
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        // Only now: what is asked for is withheld from other streams.
                        this.stream.reserve_capacity(data.len());
                        this.next = Some(Piece { data, is_last: this.body.is_end_stream() });
                    }
                    Err(frame) => {
                        this.stream.reserve_capacity(0);
                        if let Ok(trailers) = frame.into_trailers() {
                            return Poll::Ready(this.stream.send_trailers(trailers).map_err(Into::into));
                        }
                    }
                },
                Some(Err(error)) => {
                    let error = error.into();
                    this.stream.send_reset(reason(&*error));
                    return Poll::Ready(Err(Broken::Body(error)));
                }
                None => return Poll::Ready(this.stream.send_data(Bytes::new(), true).map_err(Into::into)),
            }
        }
    }
}

/// What the peer is told of a body that broke off.
fn reason(error: &(dyn StdError + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(reason) = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return reason;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}
