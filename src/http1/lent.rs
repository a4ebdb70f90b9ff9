//! A connection's stream while a request's body is still to come: whoever wants the next bytes
//! reads them, the body or the connection, and the answer is written meanwhile. What is shared
//! is locked; so it is for as long as there is something to share, which for most requests is
//! never.

use std::{
    fmt, io,
    io::IoSlice,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Decoded, Decoder, Fault, Wire};

/// A connection's stream.
#[derive(Debug)]
pub enum Line<S> {
    Own(S),
    Lent(Loan<S>),
}

/// The connection's end of what is shared. Dropped, it ends it.
pub struct Loan<S>(Arc<Mutex<Lent<S>>>);

enum Lent<S> {
    Out(Out<S>),
    /// Of `ended` the reader has got all.
    Back {
        ended: bool,
    },
}

struct Out<S> {
    /// Read by it; the connection writes what it has to write into the stream at once.
    wire: Wire<S>,
    rest: Rest,
    /// The peer left in the middle of the body.
    gone: bool,
    /// The connection, to be told that the body is wanted, or is nobody's any more.
    server: Option<Waker>,
    /// Who waits for the body.
    reader: Option<Waker>,
}

/// What is left of a request's body.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) decoder: Decoder,
    /// `Expect: 100-continue`, and nobody has asked for the body yet.
    pub(super) withheld: bool,
    /// … and now somebody has.
    pub(super) wanted: bool,
    /// Nobody reads the body any more; what comes of it is skipped.
    pub(super) abandoned: bool,
}

/// How far a body is for the connection.
pub(super) enum Progress {
    /// Its reader reads on.
    Reading,
    /// The peer has left.
    Gone,
    /// It has ended, or its reader doesn't want it.
    Over,
}

/// A request's body as it comes over HTTP/1.1.
pub struct Received(Source);

enum Source {
    Ended,
    /// It came with the head.
    Whole(Bytes),
    Lent(Arc<dyn Shared>),
}

trait Shared: Send + Sync {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>>;
    /// What is left of it, where that is known; zero: it has ended.
    fn left(&self) -> Option<u64>;
    /// The body is dropped.
    fn abandon(&self);
}

// === Lending ===

impl<S: AsyncRead + Unpin + Send + 'static> Wire<Line<S>> {
    /// Lends what is read to a body.
    pub(super) fn lend(&mut self, rest: Rest) -> Received {
        let shared = Arc::new(Mutex::new(Lent::Back { ended: false }));
        if let Line::Own(io) = self.replace_io(Line::Lent(Loan(Arc::clone(&shared)))) {
            let wire = self.hand_reading_to(io);
            *lock(&shared) = Lent::Out(Out { wire, rest, gone: false, server: None, reader: None });
        }
        Received(Source::Lent(shared))
    }
}

impl<S> Wire<Line<S>> {
    /// What is left of the body that it was lent to; `None`: it wasn't, or isn't any more.
    pub(super) fn take_back(&mut self) -> Option<Rest> {
        let Line::Lent(loan) = self.io() else { return None };
        let (wire, rest) = loan.end()?;
        let io = self.take_reading_of(wire);
        self.replace_io(Line::Own(io));
        Some(rest)
    }
}

impl Rest {
    pub(super) fn none() -> Self {
        Self { decoder: Decoder::none(), withheld: false, wanted: false, abandoned: false }
    }

    pub(super) fn may_go_on(&self, most: u64) -> bool {
        !self.withheld && !self.wanted && (!self.abandoned || self.decoder.left().is_none_or(|left| left <= most))
    }
}

// === impl Loan ===

impl<S> Loan<S> {
    /// `Reading`: whoever asks is woken when that changes. `wanted`: set where `100 Continue`
    /// has to be sent now, once.
    pub(super) fn progress(&self, cx: &mut Context<'_>, wanted: &mut bool) -> Progress {
        let mut lent = lock(&self.0);
        let Lent::Out(out) = &mut *lent else { return Progress::Over };
        *wanted |= std::mem::take(&mut out.rest.wanted);
        if out.gone {
            return Progress::Gone;
        }
        if out.rest.abandoned || out.rest.decoder.is_done() {
            return Progress::Over;
        }
        if !out.server.as_ref().is_some_and(|server| server.will_wake(cx.waker())) {
            out.server = Some(cx.waker().clone());
        }
        Progress::Reading
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(&*lock(&self.0), Lent::Out(Out { gone: true, .. }))
    }

    pub(super) fn may_go_on(&self, most: u64) -> bool {
        match &*lock(&self.0) {
            Lent::Out(out) => out.rest.may_go_on(most),
            Lent::Back { .. } => false,
        }
    }

    /// A body that is still about reads nothing any more, and is told so.
    fn end(&self) -> Option<(Wire<S>, Rest)> {
        let mut lent = lock(&self.0);
        let ended = match &*lent {
            Lent::Out(out) => out.rest.decoder.is_done(),
            Lent::Back { .. } => return None,
        };
        let former = std::mem::replace(&mut *lent, Lent::Back { ended });
        drop(lent);
        let Lent::Out(Out { wire, rest, reader, .. }) = former else { return None };
        if let Some(reader) = reader {
            reader.wake();
        }
        Some((wire, rest))
    }

    fn with<T>(&self, act: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>>
    where
        S: Unpin,
    {
        match &mut *lock(&self.0) {
            Lent::Out(out) => act(Pin::new(out.wire.io_mut())),
            Lent::Back { .. } => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<S> Drop for Loan<S> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<S> fmt::Debug for Loan<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan").finish_non_exhaustive()
    }
}

/// Nothing panics while it is held.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Line ===

impl<S: AsyncRead + Unpin> AsyncRead for Line<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_read(cx, buf),
            Self::Lent(loan) => loan.with(|io| io.poll_read(cx, buf)),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Line<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_write(cx, data),
            Self::Lent(loan) => loan.with(|io| io.poll_write(cx, data)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Self::Lent(loan) => loan.with(|io| io.poll_write_vectored(cx, slices)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_flush(cx),
            Self::Lent(loan) => loan.with(|io| io.poll_flush(cx)),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(io) => Pin::new(io).poll_shutdown(cx),
            Self::Lent(loan) => loan.with(|io| io.poll_shutdown(cx)),
        }
    }
}

// === impl Out ===

impl<S: AsyncRead + Unpin> Out<S> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if std::mem::take(&mut self.rest.withheld) {
            // Unless it comes unasked.
            self.rest.wanted = self.wire.read.is_empty();
            self.tell_server();
        }
        let frame = loop {
            match self.rest.decoder.decode(&mut self.wire.read) {
                Ok(Decoded::Data(data)) => break Some(Ok(Frame::data(data))),
                Ok(Decoded::Trailers(trailers)) => break Some(Ok(Frame::trailers(trailers))),
                Ok(Decoded::End) => break None,
                Ok(Decoded::More) => {}
                Err(fault) => break Some(Err(fault)),
            }
            let Poll::Ready(read) = self.wire.poll_read(cx) else {
                self.reader = Some(cx.waker().clone());
                return Poll::Pending;
            };
            match read {
                Ok(1..) => continue,
                Ok(0) => break Some(Err(Fault::Closed)),
                Err(fault) => break Some(Err(fault)),
            }
        };
        self.reader = None;
        match &frame {
            Some(Err(Fault::Closed | Fault::Io(_))) => self.gone = true,
            Some(Err(_)) => self.rest.abandoned = true,
            Some(Ok(_)) if !self.rest.decoder.is_done() => return Poll::Ready(frame),
            Some(Ok(_)) | None => {}
        }
        // From now on the connection listens for the peer's leaving.
        self.tell_server();
        Poll::Ready(frame)
    }
}

impl<S> Out<S> {
    fn tell_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.wake();
        }
    }
}

impl<S: AsyncRead + Unpin + Send> Shared for Mutex<Lent<S>> {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match &mut *lock(self) {
            Lent::Out(out) => out.poll_frame(cx),
            Lent::Back { ended: true } => Poll::Ready(None),
            Lent::Back { ended: false } => Poll::Ready(Some(Err(Fault::Closed))),
        }
    }

    fn left(&self) -> Option<u64> {
        match &*lock(self) {
            Lent::Out(out) => out.rest.decoder.left(),
            Lent::Back { ended } => ended.then_some(0),
        }
    }

    fn abandon(&self) {
        if let Lent::Out(out) = &mut *lock(self) {
            out.rest.abandoned = true;
            out.tell_server();
        }
    }
}

// === impl Received ===

impl Received {
    pub(super) fn none() -> Self {
        Self(Source::Ended)
    }

    pub(super) fn whole(data: Bytes) -> Self {
        Self(Source::Whole(data))
    }

    fn left(&self) -> Option<u64> {
        match &self.0 {
            Source::Ended => Some(0),
            Source::Whole(data) => Some(data.len() as u64),
            Source::Lent(shared) => shared.left(),
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Source::Lent(shared) = &self.0 {
            shared.abandon();
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
        let frame = match &mut self.0 {
            Source::Ended => return Poll::Ready(None),
            Source::Whole(data) => {
                let data = std::mem::take(data);
                self.0 = Source::Ended;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Source::Lent(shared) => ready!(shared.poll_frame(cx)),
        };
        if !matches!(frame, Some(Ok(_))) {
            self.0 = Source::Ended;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.left() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left().map_or(SizeHint::default(), SizeHint::with_exact)
    }
}
