//! The request's body on its way out, watched so that the wait for an answer is
//! counted from its last byte and a long upload isn't taken for a slow answer.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Error;

/// A request's body that tells how far it is. One without a body is free of cost.
#[derive(Debug)]
pub(super) struct Tracked<B> {
    inner: B,
    progress: Option<Arc<Progress>>,
}

/// How far a request's body is.
#[derive(Debug)]
struct Progress {
    started: Instant,
    /// Microseconds from `started` to the last frame handed over; [`WAITING`] while
    /// the agent owes us the next one.
    last: AtomicU64,
}

const WAITING: u64 = u64::MAX;

impl<B: Body> Tracked<B> {
    pub(super) fn new(inner: B, started: Instant) -> Self {
        let progress = (!inner.is_end_stream()).then(|| Arc::new(Progress::new(started)));
        Self { inner, progress }
    }

    pub(super) fn into_inner(self) -> B {
        self.inner
    }
}

impl<B> Body for Tracked<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx).map_err(Into::into);
        let Some(progress) = &self.progress else { return frame };
        let last = if frame.is_pending() { WAITING } else { progress.started.elapsed().as_micros() as u64 };
        progress.last.store(last, Ordering::Relaxed);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How long an answer is waited for: until `limit` has passed since the last byte of the
/// request's body was handed over. While the agent itself is slow in sending, no time is
/// counted: its own limits hold for that.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    since: Instant,
    progress: Option<Arc<Progress>>,
}

impl Patience {
    pub(super) fn new<B>(limit: Duration, since: Instant, body: &Tracked<B>) -> Self {
        Self { limit, since, progress: body.progress.clone() }
    }

    /// What it is when the wait was for nothing.
    pub(super) fn error(&self) -> Error {
        Error::ResponseTimeout { limit: self.limit }
    }

    pub(super) fn timer(&self) -> Sleep {
        sleep_until(later(self.since, self.limit))
    }

    /// Ready: it is too late. The timer is looked at and not moved: it may be another wait's,
    /// whose end came before this one's.
    pub(super) fn poll(&self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<()> {
        loop {
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            let deadline = self.deadline(now);
            if deadline <= now {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }

    fn deadline(&self, now: Instant) -> Instant {
        let since = self.progress.as_ref().map_or(self.since, |progress| progress.last(now));
        later(since, self.limit)
    }
}

impl Progress {
    fn new(started: Instant) -> Self {
        Self { started, last: AtomicU64::new(0) }
    }

    /// When a frame was last handed over; now, while the agent owes one.
    fn last(&self, now: Instant) -> Instant {
        match self.last.load(Ordering::Relaxed) {
            WAITING => now,
            last => self.started + Duration::from_micros(last),
        }
    }
}

fn later(since: Instant, limit: Duration) -> Instant {
    /// Nothing waits that long.
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    since + limit.min(YEAR)
}
