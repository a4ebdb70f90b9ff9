//! The request's body on its way out, watched so that the wait for an answer is
//! counted from its last byte and a long upload isn't taken for a slow answer.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// A request's body that tells how far it is. One without a body is free of cost.
#[derive(Debug)]
pub(super) struct Tracked<B> {
    inner: B,
    progress: Option<Arc<Progress>>,
}

/// How far a request's body is.
#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    /// Microseconds from `started` to the last frame handed over; [`WAITING`] while
    /// the agent owes us the next one.
    last: AtomicU64,
}

const WAITING: u64 = u64::MAX;

impl<B: Body> Tracked<B> {
    pub(super) fn new(inner: B) -> Self {
        let progress =
            (!inner.is_end_stream()).then(|| Arc::new(Progress { started: Instant::now(), last: AtomicU64::new(0) }));
        Self { inner, progress }
    }

    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }

    pub(super) fn into_inner(self) -> B {
        self.inner
    }
}

impl<B> Body for Tracked<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let Some(progress) = &self.progress {
            let last = if frame.is_pending() { WAITING } else { progress.started.elapsed().as_micros() as u64 };
            progress.last.store(last, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Waits for `answer` until `limit` has passed since the last byte of the request's
/// body was handed over. While the agent itself is slow in sending, no time is
/// counted: its own limits hold for that.
///
/// `None`: too late.
pub(super) async fn within<F: Future>(
    limit: Duration,
    progress: Option<Arc<Progress>>,
    answer: F,
) -> Option<F::Output> {
    let mut answer = pin!(answer);
    let mut until = pin!(tokio::time::sleep(limit));
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return Some(answer),
            () = &mut until => {}
        }
        let progress = progress.as_ref()?;
        let deadline = match progress.last.load(Ordering::Relaxed) {
            WAITING => Instant::now() + limit,
            last => progress.started + Duration::from_micros(last) + limit,
        };
        if deadline <= Instant::now() {
            return None;
        }
        until.as_mut().reset(deadline);
    }
}
