//! A request's body on its way upstream. What has passed of it is kept, up to the replay
//! limit, so that the request can be sent again from the start (standards 3.6): a replay
//! first repeats what was kept and then goes on with what the agent still sends.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::observe::Traffic;

use super::{
    super::{error::BadRequest, headers},
    AgentBody, BodyError, IdleTimer, Times,
};

/// A request's body on its way upstream. Clones nothing but reference counts.
#[derive(Debug)]
pub struct RequestBody {
    source: Option<Arc<Mutex<Source>>>,
    /// Which attempt this body belongs to; only the newest may read.
    attempt: u32,
    /// How many of the kept bytes this attempt has sent.
    sent: usize,
    trailers_sent: bool,
}

/// Shared by the attempts of one request.
struct Source {
    incoming: AgentBody,
    limits: Limits,
    traffic: Arc<Traffic>,
    attempt: u32,
    /// A copy: a chunk of one byte may hold on to a whole read buffer.
    kept: BytesMut,
    /// More has passed than may be kept: there is no way back.
    overflowed: bool,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// The agent's side of it failed: what came is not the whole, and nothing more is said of it.
    broken: Option<BadRequest>,
    /// Who waits for the next frame.
    reader: Option<Waker>,
    gate: Gate,
    idle: IdleTimer,
    /// Which stands still then.
    answered: bool,
}

/// The limits of a request's body.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Limits {
    pub(in crate::proxy) replay: usize,
    pub(in crate::proxy) times: Times,
}

/// `Expect: 100-continue`: holds the body back until the upstream asks for it, or
/// until it had time enough to (RFC 9110 §10.1.1).
#[derive(Default)]
struct Gate {
    opens_at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
}

impl RequestBody {
    /// `continue_timeout`: how long to hold back a body that the agent announced with
    /// `Expect: 100-continue`; `None`: it isn't held.
    pub(in crate::proxy) fn new(
        incoming: AgentBody,
        traffic: &Arc<Traffic>,
        limits: Limits,
        continue_timeout: Option<Duration>,
    ) -> Self {
        if incoming.is_end_stream() {
            return Self::empty();
        }
        let source = Source {
            incoming,
            traffic: Arc::clone(traffic),
            attempt: 0,
            kept: BytesMut::new(),
            overflowed: false,
            trailers: None,
            ended: false,
            broken: None,
            reader: None,
            gate: Gate { opens_at: continue_timeout.map(|limit| Instant::now() + limit), ..Gate::default() },
            idle: IdleTimer::new(limits.times),
            answered: false,
            limits,
        };
        Self { source: Some(Arc::new(Mutex::new(source))), attempt: 0, sent: 0, trailers_sent: false }
    }

    fn empty() -> Self {
        Self { source: None, attempt: 0, sent: 0, trailers_sent: false }
    }

    /// A way to start over, to be asked once this body has been given away.
    pub(in crate::proxy) fn rewinder(&self) -> Rewinder {
        Rewinder { source: self.source.clone() }
    }
}

/// Makes the body of another attempt.
#[derive(Debug)]
pub(in crate::proxy) struct Rewinder {
    source: Option<Arc<Mutex<Source>>>,
}

impl Rewinder {
    /// The same body from its start, unless more of it has passed than was kept. The
    /// former attempt's body fails from now on.
    pub(in crate::proxy) fn rewind(&self) -> Option<RequestBody> {
        let Some(shared) = &self.source else { return Some(RequestBody::empty()) };
        let mut source = lock(shared);
        if source.overflowed || source.broken.is_some() {
            return None;
        }
        source.attempt += 1;
        source.gate.open();
        // Else a former attempt that waits for the agent (an upload over h2 outlives its
        // answer) would hold the agent's body for ever: nobody else wakes it.
        if let Some(former) = source.reader.take() {
            former.wake();
        }
        Some(RequestBody { source: Some(Arc::clone(shared)), attempt: source.attempt, sent: 0, trailers_sent: false })
    }

    /// What the agent did wrong, where it is at fault that the body has no end.
    pub(in crate::proxy) fn broken(&self) -> Option<BadRequest> {
        self.source.as_ref().and_then(|shared| lock(shared).broken)
    }

    /// Holds the body back until the upstream asks for it, at most for `limit`; no byte of it
    /// has passed yet, or all that has is kept.
    pub(in crate::proxy) fn hold(&self, limit: Duration) {
        if let Some(shared) = &self.source {
            lock(shared).gate.opens_at = Some(Instant::now() + limit);
        }
    }

    /// The answer has begun, and both may go on for long: an agent that listens may have nothing to
    /// say for hours (gRPC in both directions). From now on the answer's time is the request's.
    pub(in crate::proxy) fn answered(&self) {
        if let Some(shared) = &self.source {
            lock(shared).answered = true;
        }
    }

    /// There is no body at all.
    pub(in crate::proxy) fn is_empty(&self) -> bool {
        self.source.is_none()
    }

    /// The upstream said `100 Continue`.
    pub(in crate::proxy) fn continued(&self) {
        if let Some(shared) = &self.source {
            lock(shared).gate.open();
        }
    }
}

impl Gate {
    fn open(&mut self) {
        self.opens_at = None;
        self.timer = None;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(opens_at) = self.opens_at else { return Poll::Ready(()) };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(opens_at)));
        if timer.as_mut().poll(cx).is_ready() {
            self.open();
            return Poll::Ready(());
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Source {
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        ready!(self.gate.poll(cx));
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending if self.answered => return Poll::Pending,
            Poll::Pending => {
                let error = ready!(self.idle.poll(cx));
                self.broken = Some(BadRequest::BodyTimeout);
                return Poll::Ready(Some(Err(error)));
            }
        };
        self.idle.progress();
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(self.keep(frame))),
            Some(Err(error)) => {
                self.broken = Some(if error.is_departure() { BadRequest::AgentGone } else { BadRequest::Body });
                Some(Err(error.into()))
            }
            None => {
                self.ended = true;
                None
            }
        })
    }

    fn keep(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        if let Some(data) = frame.data_ref() {
            self.traffic.add_from_agent(data.len());
            if !self.overflowed {
                if self.kept.len() + data.len() > self.limits.replay {
                    self.overflowed = true;
                    self.kept = BytesMut::new();
                } else {
                    self.kept.extend_from_slice(data);
                }
            }
        }
        match frame.into_trailers() {
            Ok(mut trailers) => {
                headers::strip_trailers(&mut trailers);
                self.trailers = Some(trailers.clone());
                self.ended = true;
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(shared) = &this.source else { return Poll::Ready(None) };
        let mut source = lock(shared);
        if source.attempt != this.attempt {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if this.attempt > 0
            && let Some(rest) = source.kept.get(this.sent..).filter(|rest| !rest.is_empty())
        {
            let rest = Bytes::copy_from_slice(rest);
            this.sent += rest.len();
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        if source.ended {
            let trailers = source.trailers.clone().filter(|_| !std::mem::replace(&mut this.trailers_sent, true));
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let Poll::Ready(frame) = source.poll_incoming(cx) else {
            source.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if let Some(Ok(frame)) = &frame {
            this.trailers_sent |= frame.is_trailers();
            this.sent = source.kept.len();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            None => true,
            Some(shared) => {
                let source = lock(shared);
                let all_kept_sent = this_attempt_caught_up(self, &source);
                let trailers_sent = source.trailers.is_none() || self.trailers_sent;
                all_kept_sent && trailers_sent && (source.ended || source.incoming.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let Some(shared) = &self.source else { return SizeHint::with_exact(0) };
        let source = lock(shared);
        // With a length there would be no place for them.
        if source.trailers.is_some() && !self.trailers_sent {
            return SizeHint::default();
        }
        let resent = if self.attempt > 0 { source.kept.len().saturating_sub(self.sent) } else { 0 };
        let rest = source.incoming.size_hint();
        match rest.exact() {
            Some(exact) => SizeHint::with_exact(exact + resent as u64),
            None => SizeHint::default(),
        }
    }
}

fn this_attempt_caught_up(body: &RequestBody, source: &Source) -> bool {
    body.attempt == 0 || body.sent >= source.kept.len()
}

/// The lock is never contended (a worker is one thread) and nothing panics under it;
/// a poisoned one is as good as any.
fn lock(shared: &Mutex<Source>) -> MutexGuard<'_, Source> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("kept_bytes", &self.kept.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::BodyExt;
    use tokio::{
        io::{AsyncWriteExt, DuplexStream},
        sync::mpsc,
    };

    use super::*;
    use crate::http1::{Receiver, head};

    const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";

    /// The body of a request, and the agent's end of its connection.
    async fn uploaded(request: &str, replay: usize) -> (RequestBody, DuplexStream) {
        let (mut agent, server) = tokio::io::duplex(64 * 1024);
        agent.write_all(request.as_bytes()).await.unwrap();
        // With it the message would end.
        let receiver = Box::leak(Box::new(Receiver::new(Bytes::new(), server)));
        let limits = head::Limits { bytes: 4096, fields: 100, target: 4096 };
        let arrived = poll_fn(|cx| receiver.poll_request(cx, limits)).await.unwrap().unwrap();
        let idle = Duration::from_secs(60);
        let limits = Limits { replay, times: Times { idle, end: Instant::now() + 2 * idle } };
        (RequestBody::new(AgentBody::H1(arrived.body), &Arc::default(), limits, None), agent)
    }

    async fn data(body: &mut RequestBody) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test]
    async fn what_came_in_crumbs_is_kept_in_one_piece() {
        let crumbs = "1\r\nx\r\n".repeat(1000);
        let (mut first, _agent) = uploaded(&format!("{CHUNKED}{crumbs}3\r\nend\r\n0\r\n\r\n"), 2000).await;
        let mut passed = 0;
        while passed < 1003 {
            passed += data(&mut first).await.len();
        }
        let mut again = first.rewinder().rewind().unwrap();
        assert_eq!(data(&mut again).await, format!("{}end", "x".repeat(1000)));
        assert!(again.frame().await.is_none());
        assert!(again.is_end_stream());
    }

    #[tokio::test]
    async fn more_than_may_be_kept_is_not_sent_twice() {
        let (mut first, _agent) = uploaded(&format!("{CHUNKED}4\r\n1234\r\n4\r\n5678\r\n0\r\n\r\n"), 7).await;
        data(&mut first).await;
        data(&mut first).await;
        assert!(first.rewinder().rewind().is_none());
    }

    #[tokio::test]
    async fn a_replay_has_the_trailers_too() {
        let request = format!("{CHUNKED}2\r\nok\r\n0\r\nx-checksum: 1\r\nauthorization: Bearer smuggled\r\n\r\n");
        let (mut first, _agent) = uploaded(&request, 100).await;
        data(&mut first).await;
        // Nothing is asked for behind the trailers.
        let sent = first.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert!(first.is_end_stream());

        let mut again = first.rewinder().rewind().unwrap();
        assert_eq!(data(&mut again).await, "ok");
        assert!(!again.is_end_stream());
        assert_eq!(again.frame().await.unwrap().unwrap().into_trailers().unwrap(), sent);
        assert_eq!(sent.len(), 1);
        assert!(again.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_former_attempt_that_waits_ends_when_it_is_void() {
        let (mut first, mut agent) = uploaded(&format!("{CHUNKED}2\r\nok\r\n"), 100).await;
        data(&mut first).await;
        let rewinder = first.rewinder();
        let (waits, mut waiting) = mpsc::unbounded_channel();
        let former = tokio::spawn(async move {
            std::future::poll_fn(|cx| {
                let frame = Pin::new(&mut first).poll_frame(cx);
                let _ = waits.send(());
                frame
            })
            .await
        });
        waiting.recv().await.unwrap();
        let mut again = rewinder.rewind().unwrap();
        assert_eq!(data(&mut again).await, "ok");
        let next = tokio::spawn(async move { data(&mut again).await });
        assert!(matches!(former.await.unwrap(), Some(Err(BodyError::Superseded))));
        agent.write_all(b"4\r\nmore\r\n").await.unwrap();
        assert_eq!(next.await.unwrap(), "more");
    }

    /// An agent that listens may have nothing to say for hours.
    #[tokio::test(start_paused = true)]
    async fn behind_the_head_of_its_answer_silence_is_no_end() {
        for is_answered in [false, true] {
            let (mut body, mut agent) = uploaded(&format!("{CHUNKED}2\r\nok\r\n"), 100).await;
            data(&mut body).await;
            let begun = Instant::now();
            // It waits already when the head comes.
            tokio::time::timeout(Duration::from_secs(30), body.frame()).await.unwrap_err();
            if !is_answered {
                assert!(matches!(body.frame().await.unwrap().unwrap_err(), BodyError::Idle(_)));
                assert_eq!(begun.elapsed().as_secs(), 60);
                continue;
            }
            body.rewinder().answered();
            tokio::time::timeout(Duration::from_secs(3600), body.frame()).await.unwrap_err();
            agent.write_all(b"4\r\nmore\r\n").await.unwrap();
            assert_eq!(data(&mut body).await, "more");
        }
    }

    #[tokio::test]
    async fn a_replay_is_as_long_as_the_body() {
        let (mut first, mut agent) = uploaded("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc", 100).await;
        assert_eq!(first.size_hint().exact(), Some(6));
        data(&mut first).await;
        let mut again = first.rewinder().rewind().unwrap();
        assert_eq!(again.size_hint().exact(), Some(6));
        assert_eq!(data(&mut again).await, "abc");
        assert_eq!(again.size_hint().exact(), Some(3));
        assert!(!again.is_end_stream());
        agent.write_all(b"def").await.unwrap();
        assert_eq!(data(&mut again).await, "def");
        assert!(again.is_end_stream());
    }
}
