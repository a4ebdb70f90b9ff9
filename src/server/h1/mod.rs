//! HTTP/1.1 from an agent (RFC 9112): one request after the other, each answered before the
//! next one is looked at. A connection at rest holds a socket and nothing else.
//!
//! ```text
//! wait: a request, in time -> answer: interim answers, 100 Continue, the agent's leaving
//!   ^                              -> send: head and body, with back-pressure
//!   +---- both messages ended -----+-> or the stream is handed over (CONNECT, 101)
//! ```
//!
//! What a request's head or body leaves in doubt ends the connection (threats 55 to 68).

mod refusal;
mod timer;

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{
    Method, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH},
};
use http_body::Body as _;
use tokio::time::{Instant, timeout};

use super::{connection::Io, date, deadline::Deadline, drain::Drain};
use crate::{
    http1::{Arrived, Coding, Fault, Outgoing, Peeked, Receiver, head, used},
    primitives::RequestId,
    proxy::{AgentBody, AgentRequest, Body, InterimSink},
};
use refusal::Refusal;
use timer::{Fired, Timer};

/// What an agent still sends when the connection is about to end is taken for so long, and so
/// much of it: closed at once, the connection would lose the answer (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(2);
const MOST_LINGERING: usize = 256 * 1024;

/// Bytes of a body that nobody wants which are read to keep the connection.
const MOST_SKIPPED: usize = 1024 * 1024;

/// How long a connection is at rest before it gives its memory back.
const REST: Duration = Duration::from_millis(500);

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) head: head::Limits,
    /// For a head to arrive, and for a kept connection to be used again.
    pub(super) head_timeout: Duration,
}

/// An answer, and what becomes of the connection behind it.
pub(super) struct Reply<N> {
    pub(super) response: Response<Body>,
    /// The stream is handed over with this; `None`: HTTP goes on.
    pub(super) next: Option<N>,
}

/// One connection.
struct Conversation<'a, S> {
    receiver: Receiver<S>,
    interim: &'a InterimSink,
    limits: Limits,
    /// What TLS had to say behind its handshake may still wait for company.
    is_new: bool,
    /// Whom interim answers call.
    told: Option<Waker>,
    /// When the last answer had left, if that is known.
    answered: Option<Instant>,
}

/// Of a request, what its answer has to know.
struct Asked {
    version: Version,
    is_head: bool,
    keeps: bool,
}

impl Asked {
    fn of(Arrived { head, body, keeps }: Arrived) -> (Self, AgentRequest) {
        let asked = Self { version: head.version, is_head: head.method == Method::HEAD, keeps };
        (asked, AgentRequest { head, body: AgentBody::H1(body) })
    }
}

/// Serves requests until the connection ends, or is handed over. After `stop` no other one is
/// waited for. What `serve` puts into `interim` goes before its answer; what can't be read and is
/// refused is recorded by `unreadable`.
pub(super) async fn converse<S, N, F>(
    io: Peeked<S>,
    limits: Limits,
    interim: &InterimSink,
    (drain, stop): (&Drain, impl Future<Output = ()>),
    mut serve: impl FnMut(AgentRequest) -> F,
    unreadable: impl FnOnce(StatusCode) -> RequestId,
) -> Option<(Peeked<S>, N)>
where
    S: Io,
    F: Future<Output = Reply<N>>,
{
    let mut conversation = Conversation::new(io, limits, interim);
    let mut stop = pin!(stop);
    let mut timer = Timer::default();
    // A request's future is large: it lies where the one before it lay, but not in a connection
    // at rest.
    let mut room: Option<Pin<Box<Option<F>>>> = None;
    // Most connections have one request and then nothing for long: those that are used again
    // keep their memory for a moment.
    let mut is_first = true;
    loop {
        let arrived = match conversation.wait(&mut timer, &mut room, stop.as_mut()).await {
            Ok(Some(request)) => request,
            Ok(None) => return None,
            Err(fault) => {
                conversation.refuse(&fault, unreadable).await;
                return None;
            }
        };
        let (asked, request) = Asked::of(arrived);
        let mut answering = room.take().unwrap_or_else(|| Box::pin(None));
        answering.set(Some(serve(request)));
        let reply = conversation.answer(answering.as_mut()).await?;
        answering.set(None);
        room = Some(answering);
        if let Some(next) = reply.next {
            return conversation.hand_over(reply.response).await.map(|io| (io, next));
        }
        if !conversation.send(&asked, drain, reply.response).await {
            return None;
        }
        if std::mem::take(&mut is_first) {
            conversation.receiver.wire.rest();
            room = None;
        }
    }
}

impl<'a, S: Io> Conversation<'a, S> {
    fn new(io: Peeked<S>, limits: Limits, interim: &'a InterimSink) -> Self {
        let (ahead, io) = io.into_parts();
        Self { receiver: Receiver::new(ahead, io), interim, limits, is_new: true, told: None, answered: None }
    }

    /// The next request. `None`: there is none.
    async fn wait<T>(
        &mut self,
        timer: &mut Timer,
        room: &mut Option<T>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<Arrived>, Fault> {
        timer.start(self.answered.take().unwrap_or_else(Instant::now), self.limits.head_timeout, REST);
        poll_fn(|cx| {
            if let Poll::Ready(request) = self.receiver.poll_request(cx, self.limits.head) {
                return Poll::Ready(request);
            }
            while let Poll::Ready(fired) = timer.poll(cx) {
                match fired {
                    Fired::Rest => {
                        self.receiver.wire.rest();
                        *room = None;
                    }
                    Fired::End => return Poll::Ready(Ok(None)),
                }
            }
            if std::mem::take(&mut self.is_new) {
                // Who doesn't take it now takes it with the first answer.
                let _ = self.receiver.wire.poll_flush(cx);
            }
            // A request that has begun is still served.
            if self.receiver.wire.read.is_empty() && stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(None));
            }
            Poll::Pending
        })
        .await
    }

    /// Drives `answering`. `None`: the agent has left, and with it the request.
    async fn answer<F: Future>(&mut self, mut answering: Pin<&mut Option<F>>) -> Option<F::Output> {
        poll_fn(|cx| {
            let Some(answering) = answering.as_mut().as_pin_mut() else { return Poll::Ready(None) };
            if let Poll::Ready(answer) = answering.poll(cx) {
                return Poll::Ready(Some(answer));
            }
            let mut is_wanted = false;
            let has_left = self.receiver.poll_departure(cx, &mut is_wanted).is_ready();
            if has_left || self.poll_interim(cx, is_wanted).is_err() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// Writes what goes before the answer. `is_wanted`: `100 Continue` among it.
    fn poll_interim(&mut self, cx: &mut Context<'_>, is_wanted: bool) -> Result<(), Fault> {
        // Whoever put something there has called, and has to be told again whom to call.
        if self.interim.has_any() || !self.told.as_ref().is_some_and(|told| told.will_wake(cx.waker())) {
            self.interim.watch(cx.waker());
            self.told = Some(cx.waker().clone());
        }
        if is_wanted {
            self.receiver.wire.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        loop {
            // What an agent doesn't read waits in the sink, which has a limit.
            if self.receiver.wire.unwritten().is_empty() {
                self.write_interim();
            }
            if self.receiver.wire.is_flushed() {
                return Ok(());
            }
            match self.receiver.wire.poll_write_out(cx) {
                // Who came while that was on its way has called already.
                Poll::Ready(Ok(())) if self.interim.has_any() => {}
                Poll::Ready(written) => return written,
                Poll::Pending => return Ok(()),
            }
        }
    }

    fn write_interim(&mut self) {
        if !self.interim.has_any() {
            return;
        }
        for (status, fields) in self.interim.take() {
            head::write_interim(&mut self.receiver.wire.out, status, &fields);
        }
        // Called again once it was written.
        self.interim.make_room();
    }

    /// Sends an answer. True: the next request may come.
    async fn send(&mut self, asked: &Asked, drain: &Drain, response: Response<Body>) -> bool {
        let (mut head, body) = response.into_parts();
        // Only refusals have one.
        let wants_end = head.headers.keys().any(|name| *name == CONNECTION);
        if wants_end {
            head.headers.remove(CONNECTION);
        }
        let coding = (!asked.is_head && may_have_body(head.status)).then(|| coding(&body, asked.version));
        if head.status == StatusCode::NO_CONTENT {
            head.headers.remove(CONTENT_LENGTH);
        }
        let keeps = asked.keeps
            && !wants_end
            && coding != Some(Coding::UntilClose)
            && self.receiver.may_go_on(MOST_SKIPPED as u64)
            && !drain.has_stopped();
        let connection = match (keeps, asked.version) {
            (true, Version::HTTP_10) => Some("keep-alive"),
            (true, _) => None,
            (false, _) => Some("close"),
        };
        // What came with the answer goes before it; behind it, it would be the next one's.
        self.write_interim();
        head::write_answer(&mut self.receiver.wire.out, &head, coding, connection, date::write);
        used::give_map(head.headers);
        match self.deliver(body, coding.unwrap_or(Coding::Length(0))).await {
            Ok(()) if keeps && (self.receiver.finish() || self.skip_body().await) => true,
            Ok(()) => {
                // Whoever still reads the body mustn't get it with a hole.
                self.receiver.finish();
                self.close().await;
                false
            }
            Err(error) => {
                tracing::debug!(%error, "an agent's connection ended badly");
                false
            }
        }
    }

    /// Sends what waits and a body, and tells the body what became of it.
    async fn deliver(&mut self, body: Body, coding: Coding) -> Result<(), Fault> {
        let mut deadline = Deadline::new(body.deadline());
        let mut outgoing = Outgoing::patient(body, coding);
        let mut waited = false;
        let sent = poll_fn(|cx| {
            // An upload that broke off breaks its answer, too, which would be heard first.
            if self.receiver.has_lost_its_peer() {
                return Poll::Ready(Some(Err(Fault::Closed)));
            }
            // Before the last frame leaves: who has the answer finds its record.
            if let Poll::Ready(sent) = outgoing.poll_telling(cx, &mut self.receiver.wire, Body::delivered) {
                return Poll::Ready(Some(sent));
            }
            if self.receiver.poll_departure(cx, &mut false).is_ready() {
                return Poll::Ready(Some(Err(Fault::Closed)));
            }
            waited = true;
            deadline.poll(cx).map(|()| None)
        });
        let sent = sent.await;
        let body = outgoing.into_body();
        if sent.is_none() {
            body.late();
        } else if !waited {
            // Its record's end is the next wait's beginning.
            self.answered = body.ended();
        }
        sent.unwrap_or(Err(Fault::Closed))
    }

    /// Of a request that was answered before it was read: its agent was told that the connection
    /// stays, and may have sent the next one.
    async fn skip_body(&mut self) -> bool {
        // The wait for the next one begins behind it.
        self.answered = None;
        let mut most = MOST_SKIPPED;
        let skipped = timeout(LINGER, poll_fn(|cx| self.receiver.poll_skip(cx, &mut most))).await;
        skipped.unwrap_or(false)
    }

    /// For a request that can't be read.
    async fn refuse(&mut self, fault: &Fault, unreadable: impl FnOnce(StatusCode) -> RequestId) {
        tracing::debug!(error = %fault, "an agent's request can't be read");
        let Some(refusal) = Refusal::of(fault) else { return };
        let id = unreadable(refusal.status);
        refusal.write(&mut self.receiver.wire.out, id, self.limits.head.bytes);
        let written = timeout(LINGER, poll_fn(|cx| self.receiver.wire.poll_write_out(cx))).await;
        if matches!(written, Ok(Ok(()))) {
            self.close().await;
        }
    }

    /// Ends the connection so that the last answer arrives.
    async fn close(&mut self) {
        let ending = async {
            if poll_fn(|cx| self.receiver.wire.poll_shutdown(cx)).await.is_ok() {
                poll_fn(|cx| self.receiver.poll_discard(cx, MOST_LINGERING)).await;
            }
        };
        let _ = timeout(LINGER, ending).await;
    }

    /// Sends the answer after which the stream is no longer HTTP's.
    async fn hand_over(mut self, response: Response<Body>) -> Option<Peeked<S>> {
        let (head, _) = response.into_parts();
        self.write_interim();
        head::write_answer(&mut self.receiver.wire.out, &head, None, None, date::write);
        let limit = self.limits.head_timeout;
        timeout(limit, poll_fn(|cx| self.receiver.wire.poll_write_out(cx))).await.ok()?.ok()?;
        let (io, ahead) = self.receiver.into_parts()?;
        Some(Peeked::new(ahead, io))
    }
}

/// RFC 9110 §6.4.1.
fn may_have_body(status: StatusCode) -> bool {
    !(status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED)
}

fn coding(body: &Body, version: Version) -> Coding {
    let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    match (length, version) {
        (Some(length), _) => Coding::Length(length),
        (None, Version::HTTP_10) => Coding::UntilClose,
        (None, _) => Coding::Chunked,
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use http::HeaderMap;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::Notify,
        time::sleep,
    };

    use super::*;
    use crate::primitives::RequestIds;

    const PIPE: usize = 64;

    async fn read(agent: &mut DuplexStream, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            text.push(char::from(timeout(LINGER, agent.read_u8()).await.expect(&text).unwrap()));
        }
        text
    }

    /// What comes while an agent takes its time isn't kept for the answer.
    #[tokio::test(start_paused = true)]
    async fn an_interim_answer_behind_one_that_waits_leaves_when_there_is_room() {
        let (mut agent, near) = duplex(PIPE);
        let (interim, end) = (InterimSink::default(), Arc::new(Notify::new()));
        let limits = Limits {
            head: head::Limits { bytes: 4096, fields: 100, target: 4096 },
            head_timeout: Duration::from_secs(60),
        };
        let (sink, ends) = (interim.clone(), Arc::clone(&end));
        // A task of its own: polled for what it waits for, and for nothing else.
        tokio::spawn(async move {
            let (_handle, drain) = Drain::new();
            let serve = |_request: AgentRequest| async {
                ends.notified().await;
                Reply { response: Response::new(Body::empty()), next: None::<()> }
            };
            let unreadable = |_| RequestIds::new(0).next();
            let io = Peeked::new(bytes::Bytes::new(), near);
            converse(io, limits, &sink, (&drain, pending()), serve, unreadable).await.is_some()
        });
        agent.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let link = |length: usize| HeaderMap::from_iter([(http::header::LINK, "x".repeat(length).parse().unwrap())]);
        // Time passes when nobody has anything to do.
        sleep(LINGER).await;
        interim.push(StatusCode::EARLY_HINTS, &link(2 * PIPE));
        sleep(LINGER).await;
        interim.push(StatusCode::PROCESSING, &link(1));
        sleep(LINGER).await;
        assert!(read(&mut agent, "\r\n\r\n").await.starts_with("HTTP/1.1 103 "));
        assert!(read(&mut agent, "\r\n\r\n").await.starts_with("HTTP/1.1 102 "));
        end.notify_one();
        assert!(read(&mut agent, "\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    }
}
