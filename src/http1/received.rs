//! The reading side of a server's connection, shared by the connection and the body of the
//! request that is on it: whoever wants the next bytes reads them.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};
use tokio::io::AsyncRead;

use super::{
    Decoded, Decoder, Fault, Wire,
    head::{self, Head, Limits},
};

/// Most heads of requests are smaller.
const FIRST_READ: usize = 4 * 1024;

/// Bytes behind a request that are kept while it is answered.
const MOST_AHEAD: usize = 64 * 1024;

/// A connection's reading side.
pub struct Receiver<R>(Arc<Mutex<State<R>>>);

struct State<R> {
    wire: Wire<R>,
    searched: usize,
    decoder: Decoder,
    /// Which request it is: a body of an earlier one reads nothing any more.
    message: u64,
    /// `Expect: 100-continue`, and nobody has asked for the body yet.
    withheld: bool,
    /// … and now somebody has.
    wanted: bool,
    /// Nobody reads the body any more; what comes of it is skipped.
    abandoned: bool,
    /// The peer left in the middle of a body.
    gone: bool,
    /// The connection, to be told that the body is wanted, or is nobody's any more.
    server: Option<Waker>,
    /// Who waits for the body.
    reader: Option<Waker>,
}

/// A request whose head is there.
#[derive(Debug)]
pub struct Arrived {
    pub head: Box<Parts>,
    pub body: Received,
    /// The peer wants to keep the connection.
    pub keeps: bool,
}

/// A request's body as it comes over HTTP/1.1.
pub struct Received {
    source: Option<Arc<dyn Source>>,
    message: u64,
}

trait Source: Send + Sync {
    fn poll_frame(&self, message: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>>;
    /// What is left of it, where that is known; zero: it has ended.
    fn left(&self, message: u64) -> Option<u64>;
    /// The body is dropped.
    fn abandon(&self, message: u64);
}

// === impl Receiver ===

impl<R: AsyncRead + Unpin + Send + 'static> Receiver<R> {
    /// `ahead`: what was read of the stream already.
    pub fn new(ahead: Bytes, io: R) -> Self {
        let mut wire = Wire::new(io, FIRST_READ);
        wire.read = ahead.into();
        Self(Arc::new(Mutex::new(State {
            wire,
            searched: 0,
            decoder: Decoder::none(),
            message: 0,
            withheld: false,
            wanted: false,
            abandoned: false,
            gone: false,
            server: None,
            reader: None,
        })))
    }

    /// The next request. `None`: the connection ended before a byte of it.
    pub fn poll_request(&self, cx: &mut Context<'_>, limits: Limits) -> Poll<Result<Option<Arrived>, Fault>> {
        let mut guard = self.lock();
        let state = &mut *guard;
        loop {
            if let Some(Head { parts: head, decoder, keeps, withholds }) =
                head::read_request(&mut state.wire.read, &mut state.searched, limits)?
            {
                state.message += 1;
                (state.withheld, state.wanted, state.abandoned) = (withholds, false, false);
                let source = (!decoder.is_done()).then(|| Arc::clone(&self.0) as Arc<dyn Source>);
                state.decoder = decoder;
                let body = Received { source, message: state.message };
                return Poll::Ready(Ok(Some(Arrived { head, body, keeps })));
            }
            match ready!(state.wire.poll_read(cx))? {
                0 if state.wire.read.iter().all(|byte| matches!(byte, b'\r' | b'\n')) => return Poll::Ready(Ok(None)),
                0 => return Poll::Ready(Err(Fault::Closed)),
                _ => {}
            }
        }
    }

    /// While a request is answered: ready once the peer has left. Reads what comes behind the
    /// request, up to a limit, but never what is its body's reader's. `wanted`: set where
    /// `100 Continue` has to be sent now, once.
    pub fn poll_departure(&self, cx: &mut Context<'_>, wanted: &mut bool) -> Poll<()> {
        let mut guard = self.lock();
        let state = &mut *guard;
        *wanted |= std::mem::take(&mut state.wanted);
        if state.gone {
            return Poll::Ready(());
        }
        if !state.abandoned && !state.decoder.is_done() {
            state.server = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // Else an agent that writes everything before it reads would wait for us, and we for it.
        while !state.decoder.is_done() {
            match state.decoder.decode(&mut state.wire.read) {
                Ok(Decoded::Data(_) | Decoded::Trailers(_)) => continue,
                Ok(Decoded::End) => break,
                Ok(Decoded::More) => {}
                Err(_) => state.wire.read.clear(),
            }
            match ready!(state.wire.poll_read(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        while state.wire.read.len() < MOST_AHEAD {
            match ready!(state.wire.poll_read(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// The request was answered: its body, if there is any left, is nobody's. True: another
    /// request may follow. What of the body was read already is skipped.
    pub fn finish(&self) -> bool {
        let mut state = self.lock();
        state.end_message();
        let State { wire, decoder, withheld, wanted, .. } = &mut *state;
        loop {
            match decoder.decode(&mut wire.read) {
                Ok(Decoded::Data(_) | Decoded::Trailers(_)) => {}
                Ok(Decoded::End) => return true,
                // A body that was never asked for may still come.
                Ok(Decoded::More) if *withheld || *wanted => return false,
                Ok(Decoded::More) => match wire.poll_read(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0) | Err(_)) | Poll::Pending => return false,
                },
                Err(_) => return false,
            }
        }
    }

    /// After [`finish`](Self::finish) said no: skips the rest of the body as it comes, up to
    /// `most` bytes. True: it has ended, and another request may follow.
    pub fn poll_skip(&self, cx: &mut Context<'_>, most: &mut usize) -> Poll<bool> {
        let mut guard = self.lock();
        let State { wire, decoder, .. } = &mut *guard;
        loop {
            match decoder.decode(&mut wire.read) {
                Ok(Decoded::Data(data)) => match most.checked_sub(data.len()) {
                    Some(left) => *most = left,
                    None => return Poll::Ready(false),
                },
                Ok(Decoded::Trailers(_)) => {}
                Ok(Decoded::End) => return Poll::Ready(true),
                Ok(Decoded::More) => match ready!(wire.poll_read(cx)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(false),
                },
                Err(_) => return Poll::Ready(false),
            }
        }
    }

    /// Whether another request may follow, for all that is known now: of a body that was never
    /// asked for, or that somebody wants of whom the agent wasn't told, nobody knows whether it
    /// comes, and of one that nobody wants no more than `most` bytes are read.
    pub fn may_go_on(&self, most: u64) -> bool {
        let state = self.lock();
        !state.withheld && !state.wanted && (!state.abandoned || state.decoder.left().is_none_or(|left| left <= most))
    }

    /// Reads and forgets; ready at the end of what comes.
    pub fn poll_discard(&self, cx: &mut Context<'_>, most: usize) -> Poll<()> {
        let mut state = self.lock();
        let mut discarded = 0;
        while discarded < most {
            state.wire.read.clear();
            match ready!(state.wire.poll_read(cx)) {
                Ok(read @ 1..) => discarded += read,
                Ok(0) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }

    /// Nothing has come of the next request.
    pub fn is_at_rest(&self) -> bool {
        self.lock().wire.read.is_empty()
    }

    /// Gives its memory back, where nothing was read ahead.
    pub fn rest(&self) {
        self.lock().wire.rest();
    }

    /// The stream and what was read ahead; `None` while a body holds on to it.
    pub fn into_parts(self) -> Option<(R, Bytes)> {
        let shared = Arc::clone(&self.0);
        drop(self);
        let state = Arc::into_inner(shared)?.into_inner().unwrap_or_else(PoisonError::into_inner);
        Some(state.wire.into_parts())
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        lock(&self.0)
    }
}

impl<R: AsyncRead + Unpin + Send> Source for Mutex<State<R>> {
    fn poll_frame(&self, message: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let mut guard = lock(self);
        let state = &mut *guard;
        if state.message != message {
            return Poll::Ready(Some(Err(Fault::Closed)));
        }
        if std::mem::take(&mut state.withheld) {
            // Unless it comes unasked.
            state.wanted = state.wire.read.is_empty();
            state.tell_server();
        }
        let frame = loop {
            match state.decoder.decode(&mut state.wire.read) {
                Ok(Decoded::Data(data)) => break Some(Ok(Frame::data(data))),
                Ok(Decoded::Trailers(trailers)) => break Some(Ok(Frame::trailers(trailers))),
                Ok(Decoded::End) => break None,
                Ok(Decoded::More) => {}
                Err(fault) => break Some(Err(fault)),
            }
            let Poll::Ready(read) = state.wire.poll_read(cx) else {
                state.reader = Some(cx.waker().clone());
                return Poll::Pending;
            };
            match read {
                Ok(1..) => continue,
                Ok(0) => break Some(Err(Fault::Closed)),
                Err(fault) => break Some(Err(fault)),
            }
        };
        state.reader = None;
        match &frame {
            Some(Err(Fault::Closed | Fault::Io(_))) => state.gone = true,
            Some(Err(_)) => state.abandoned = true,
            Some(Ok(_)) if !state.decoder.is_done() => return Poll::Ready(frame),
            Some(Ok(_)) | None => {}
        }
        // From now on the connection listens for the peer's leaving.
        state.tell_server();
        Poll::Ready(frame)
    }

    fn left(&self, message: u64) -> Option<u64> {
        let state = lock(self);
        if state.message == message { state.decoder.left() } else { None }
    }

    fn abandon(&self, message: u64) {
        let mut state = lock(self);
        if state.message == message {
            state.abandoned = true;
            state.tell_server();
        }
    }
}

impl<R> State<R> {
    /// A body of it that is still about reads nothing any more, and is told so.
    fn end_message(&mut self) {
        self.message += 1;
        self.server = None;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn tell_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.wake();
        }
    }
}

/// Nothing panics while it is held.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<R> Drop for Receiver<R> {
    fn drop(&mut self) {
        lock(&self.0).end_message();
    }
}

impl<R> fmt::Debug for Receiver<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

// === impl Received ===

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(source) = &self.source {
            source.abandon(self.message);
        }
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("ended", &self.is_end_stream()).finish_non_exhaustive()
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Some(source) = &self.source else { return Poll::Ready(None) };
        let frame = ready!(source.poll_frame(self.message, cx));
        if !matches!(frame, Some(Ok(_))) {
            self.source = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.as_ref().is_none_or(|source| source.left(self.message) == Some(0))
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.source.as_ref().map_or(Some(0), |source| source.left(self.message));
        left.map_or(SizeHint::default(), SizeHint::with_exact)
    }
}
