//! A body on its way into a stream, with back-pressure: no frame is taken from its source
//! before there is room for the one before it.

use std::{
    error::Error as StdError,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

/// A piece smaller than that takes more memory on its way than it has bytes.
const SMALL: usize = 1024;

/// So many small pieces of a stream may be on their way: its window counts bytes only.
const MOST_SMALL: usize = 64;

/// The first small pieces of a stream aren't counted: most have no more.
const UNCOUNTED: usize = 16;

/// Why it doesn't arrive whole. Its peer has been told.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the peer wants no more of it: {0}")]
    Reset(Reason),
    /// By what the peer did, which nobody else has to see again.
    #[error("the peer breaks HTTP/2: {0}")]
    Refused(&'static str),
    #[error(transparent)]
    Connection(#[from] h2::Error),
    /// Its source's side of it.
    #[error("the body broke off")]
    Body(#[source] Box<dyn StdError + Send + Sync>),
}

impl Broken {
    /// The connection ended, or the stream by its peer's will; not by what one of us did wrong.
    pub fn is_broken_off(&self) -> bool {
        match self {
            Self::Reset(_) => true,
            Self::Refused(_) | Self::Body(_) => false,
            Self::Connection(error) => error.is_io() || error.is_go_away() || (error.is_remote() && error.is_reset()),
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

/// The small pieces that the connection still has.
#[derive(Debug, Default)]
struct Small {
    sent: usize,
    counted: Option<Arc<Counted>>,
}

#[derive(Debug, Default)]
struct Counted {
    count: AtomicUsize,
    waiting: Mutex<Option<Waker>>,
}

/// Counted until the connection has written it, or given it up.
struct Counting {
    data: Bytes,
    counted: Arc<Counted>,
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

impl Small {
    /// Ready: another piece may go, whatever its size.
    fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let Some(counted) = &self.counted else { return Poll::Ready(()) };
        if counted.count.load(Ordering::Acquire) < MOST_SMALL {
            return Poll::Ready(());
        }
        *counted.lock() = Some(cx.waker().clone());
        // Some may have gone in between.
        if counted.count.load(Ordering::Acquire) < MOST_SMALL { Poll::Ready(()) } else { Poll::Pending }
    }

    fn count(&mut self, data: Bytes) -> Bytes {
        if data.len() >= SMALL || data.is_empty() {
            return data;
        }
        self.sent += 1;
        if self.sent <= UNCOUNTED {
            return data;
        }
        let counted = Arc::clone(self.counted.get_or_insert_default());
        counted.count.fetch_add(1, Ordering::AcqRel);
        Bytes::from_owner(Counting { data, counted })
    }
}

impl Counted {
    /// Nothing panics while it is held.
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Counting {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if self.counted.count.fetch_sub(1, Ordering::AcqRel) <= MOST_SMALL
            && let Some(waiting) = self.counted.lock().take()
        {
            waiting.wake();
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

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use http::Request;
    use http_body::Frame;
    use tokio::time::timeout;

    use super::*;

    /// Pieces of a byte without end.
    struct Endless(Arc<AtomicUsize>);

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    /// Threats 75 and 78: a peer that opens its windows and reads nothing makes nobody keep
    /// frames without number; one that reads on gets all of them.
    #[tokio::test(start_paused = true)]
    async fn small_pieces_wait_for_those_before_them() {
        const ROOM: usize = 4096;
        let (near, far) = tokio::io::duplex(ROOM);
        let reading = tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            let builder = builder.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
            let mut connection = builder.handshake::<_, Bytes>(far).await.unwrap();
            let (request, _respond) = connection.accept().await.unwrap().unwrap();
            (connection, request.into_body(), _respond)
        });
        let (sender, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        let request = Request::post("https://a.test/").body(()).unwrap();
        let (_asked, stream) = sender.ready().await.unwrap().send_request(request, false).unwrap();
        let (mut connection, mut body, _respond) = reading.await.unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        let sending = tokio::spawn(Sending::new(Endless(Arc::clone(&taken)), stream));
        assert!(timeout(Duration::from_secs(1), std::future::pending::<()>()).await.is_err());
        // Ten bytes each in the pipe and in what h2 writes from, and what may be on its way.
        let most = (ROOM + 16 * 1024) / 10 + UNCOUNTED + MOST_SMALL + 10;
        let stalled = taken.load(Ordering::Relaxed);
        assert!((MOST_SMALL..most).contains(&stalled), "{stalled}");
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        for _ in 0..10 * most {
            let data = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        sending.abort();
    }
}
