//! HTTP/2 from an agent (RFC 9113): the h2 crate's connection, whose streams are answered each
//! in a task of its own.
//!
//! ```text
//! Connection: handshake, then accept -> stream: judged and answered; meanwhile interim answers,
//!   |                                           100 Continue, the agent's leaving
//!   |                                     -> head and body, with back-pressure
//!   +- keep-alive, graceful end           -> or bytes both ways (CONNECT)
//! ```

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{self, Builder, Handshake, SendResponse},
};
use http::{
    HeaderMap, HeaderName, Method, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, TE, TRANSFER_ENCODING, UPGRADE},
    request,
};
use http_body::Body as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::{Sleep, sleep},
};

use super::{connection::Session, date, deadline::Deadline, upgrade::Next};
use crate::{
    http2::{Duplex, KeepAlive, Received, Sending},
    primitives::boxed,
    proxy::{AgentBody, AgentRequest, Body, Ends, InterimSink},
};

/// What one stream may hold of an upload that its upstream hasn't taken yet.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Never what stops a stream: else one upload that stalls would hold up all others on its
/// connection. What it may hold is bounded by its streams, which are counted.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// What the frames of all streams may take beyond what they hold: one of a byte costs two
/// hundred, and no window says so (threat 75).
const FRAMES_BUDGET: usize = 8 * 1024 * 1024;
/// What one stream holds that the agent's window doesn't admit yet.
const SEND_BUFFER: usize = 64 * 1024;

/// How long a peer that doesn't answer has to take the end of its connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// What goes with a connection and has no place in an answer (RFC 9113 §8.2.2).
const OF_THE_CONNECTION: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of a head, as HTTP/2 counts them.
    pub(super) head: usize,
    pub(super) streams: u32,
    /// Streams that the agent resets before they are looked at, and those that we have to.
    /// (threat 75).
    pub(super) resets: usize,
    pub(super) errors: usize,
    /// How often the agent is asked whether it is there, and how long its answer may take.
    pub(super) keep_alive: Duration,
}

/// A connection, driven by being polled. `accept` takes each request.
pub(super) struct Connection<IO, A> {
    state: State<IO>,
    accept: A,
    period: Duration,
    winds_up: bool,
    turns_away: bool,
    /// It is given up: until then what is left to be said may leave.
    left_at: Option<Pin<Box<Sleep>>>,
}

enum State<IO> {
    Begins(Handshake<IO, Bytes>),
    Serves(server::Connection<IO, Bytes>, Option<KeepAlive>),
}

impl<IO, A> Connection<IO, A>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    A: FnMut(Request<RecvStream>, SendResponse<Bytes>) + Unpin,
{
    pub(super) fn new(io: IO, limits: Limits, accept: A) -> Self {
        let handshake = Builder::new()
            .enable_connect_protocol()
            .max_concurrent_streams(limits.streams)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX))
            .data_frame_budget(FRAMES_BUDGET)
            .max_send_buffer_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(limits.resets)
            .max_local_error_reset_streams(Some(limits.errors))
            .handshake(io);
        Self {
            state: State::Begins(handshake),
            accept,
            period: limits.keep_alive,
            winds_up: false,
            turns_away: false,
            left_at: None,
        }
    }

    /// No other request is taken; it ends with the last that is under way.
    pub(super) fn wind_up(&mut self) {
        if let State::Serves(connection, _) = &mut self.state
            && !self.winds_up
        {
            connection.graceful_shutdown();
        }
        self.winds_up = true;
    }

    /// The same, for a peer that may not listen: what it still asks for is refused unread.
    pub(super) fn turn_away(&mut self) {
        self.wind_up();
        self.turns_away = true;
    }
}

impl<IO, A> Future for Connection<IO, A>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    A: FnMut(Request<RecvStream>, SendResponse<Bytes>) + Unpin,
{
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let this = &mut *self;
        if let State::Begins(handshake) = &mut this.state {
            let mut connection = ready!(Pin::new(handshake).poll(cx))?;
            if this.winds_up {
                connection.graceful_shutdown();
            }
            let keep_alive = connection.ping_pong().map(|ping| KeepAlive::new(ping, this.period));
            this.state = State::Serves(connection, keep_alive);
        }
        let State::Serves(connection, keep_alive) = &mut this.state else { return Poll::Pending };
        loop {
            if keep_alive.as_mut().is_some_and(|keep_alive| keep_alive.poll(cx).is_ready()) {
                tracing::debug!("an agent's connection doesn't answer any more");
                *keep_alive = None;
                connection.abrupt_shutdown(Reason::NO_ERROR);
                this.left_at = Some(Box::pin(sleep(FAREWELL)));
            }
            // Who reads nothing doesn't take that, either.
            if this.left_at.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Ok(()));
            }
            match ready!(connection.poll_accept(cx)) {
                Some(Ok((_, mut respond))) if this.turns_away => respond.send_reset(Reason::REFUSED_STREAM),
                Some(Ok((request, respond))) => (this.accept)(request, respond),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl Session {
    /// One request, to the end of its answer or of its tunnel. `over`: told where the answer is to be
    /// the connection's last.
    pub(super) async fn answer_stream(
        self: Arc<Self>,
        (request, mut respond): (Request<RecvStream>, SendResponse<Bytes>),
        over: Arc<Notify>,
    ) {
        let interim = InterimSink::default();
        let (head, stream) = request.into_parts();
        if head.method == Method::CONNECT && has_length(&head) {
            // Its bytes are the tunnel's (RFC 9110 §9.3.6).
            self.unreadable()(StatusCode::BAD_REQUEST);
            return respond.send_reset(Reason::PROTOCOL_ERROR);
        }
        let (body, tunnel) = split(&head, stream, &interim);
        let session = if tunnel.is_some() { Arc::new(self.for_a_tunnel()) } else { self };
        let request = AgentRequest { head: Box::new(head), body: AgentBody::H2(body) };
        // Boxed: an answer may take hours, and has no use for the room.
        let mut answering = boxed(|| session.answer(request, Some(&interim)));
        let reply = poll_fn(|cx| {
            if let Poll::Ready(reply) = answering.as_mut().poll(cx) {
                return Poll::Ready(Some(reply));
            }
            send_interim(&interim, &mut respond, Some(cx));
            respond.poll_reset(cx).map(|_| None)
        });
        let Some(reply) = reply.await else { return };
        drop(answering);
        send_interim(&interim, &mut respond, None);
        match (reply.next, tunnel) {
            (Some(next), Some(stream)) => Arc::clone(&session).tunnel(next, reply.response, respond, stream).await,
            (_, tunnel) => {
                let is_last = match reply.response.extensions().get() {
                    Some(Ends::Guesses) => true,
                    Some(Ends::Connection) => tunnel.is_none(),
                    Some(Ends::Nothing | Ends::Framing) | None => false,
                };
                if is_last {
                    // Before it is taken, for which the peer may take its time.
                    over.notify_one();
                }
                send(reply.response, respond).await;
            }
        }
    }

    async fn tunnel(
        self: Arc<Self>,
        next: Next,
        response: Response<Body>,
        mut respond: SendResponse<Bytes>,
        receiving: RecvStream,
    ) {
        let (mut head, _) = response.into_parts();
        fit(&mut head.headers);
        head.headers.remove(CONTENT_LENGTH);
        match respond.send_response(Response::from_parts(head, ()), false) {
            Ok(sending) => next.follow_on_h2(self, Duplex::new(sending, receiving)).await,
            Err(error) => {
                tracing::debug!(%error, "an agent left before its tunnel was open");
                next.agent_gone();
            }
        }
    }
}

fn has_length(head: &request::Parts) -> bool {
    head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

/// What of a stream is a request's body, and what a tunnel's.
fn split(head: &request::Parts, stream: RecvStream, interim: &InterimSink) -> (Received, Option<RecvStream>) {
    if head.method == Method::CONNECT {
        return (Received::none(), Some(stream));
    }
    let body = Received::new(stream, &head.headers);
    if !head.headers.contains_key(EXPECT) {
        return (body, None);
    }
    let interim = interim.clone();
    (body.on_wanted(move || interim.push(StatusCode::CONTINUE, &HeaderMap::new())), None)
}

/// Sends what goes before the answer: h2 queues it, so that the sink's limit is the whole
/// request's. `cx`: who is told of more.
fn send_interim(interim: &InterimSink, respond: &mut SendResponse<Bytes>, cx: Option<&Context<'_>>) {
    if let Some(cx) = cx {
        interim.watch(cx.waker());
    }
    for (status, fields) in interim.take() {
        let mut head = Response::new(());
        (*head.status_mut(), *head.headers_mut()) = (status, fields);
        if let Err(error) = respond.send_informational(head) {
            tracing::debug!(%error, "an interim answer can't be sent");
        }
    }
}

async fn send(response: Response<Body>, mut respond: SendResponse<Bytes>) {
    let (mut head, mut body) = response.into_parts();
    fit(&mut head.headers);
    let has_ended = body.is_end_stream();
    if !has_ended && let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    let stream = match respond.send_response(Response::from_parts(head, ()), has_ended) {
        Ok(_) if has_ended => return body.delivered(),
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "an agent can't be answered");
            return respond.send_reset(Reason::INTERNAL_ERROR);
        }
    };
    let mut deadline = Deadline::new(body.deadline());
    let mut sending = Sending::new(body, stream);
    let sent = poll_fn(|cx| match Pin::new(&mut sending).poll(cx) {
        Poll::Ready(sent) => Poll::Ready(Some(sent)),
        Poll::Pending => deadline.poll(cx).map(|()| None),
    });
    match sent.await {
        Some(Ok(())) => sending.into_body().iter_mut().for_each(Body::delivered),
        Some(Err(error)) => {
            tracing::debug!(%error, "an answer to an agent broke off");
            // Who knows the length may leave before the end is told.
            let has_room = !sending.is_waiting();
            sending.into_body().iter_mut().filter(|body| has_room && body.has_all()).for_each(Body::delivered);
        }
        None => sending.into_body().into_iter().for_each(Body::late),
    }
}

/// Makes an answer's fields those of an HTTP/2 answer.
fn fit(fields: &mut HeaderMap) {
    for name in &OF_THE_CONNECTION {
        fields.remove(name);
    }
    if !fields.contains_key(DATE) {
        fields.insert(DATE, date::value());
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt,
        time::{Instant, timeout},
    };

    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    fn serve(io: tokio::io::DuplexStream) -> impl Future<Output = Result<(), h2::Error>> {
        let limits = Limits { head: 1024, streams: 10, resets: 10, errors: 10, keep_alive: PERIOD };
        Connection::new(io, limits, |_, _| {})
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_no_more_is_left() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let serving = tokio::spawn(serve(near));
        let client = h2::client::handshake(far).await.unwrap();
        let begun = Instant::now();
        // Its connection is held and not driven.
        serving.await.unwrap().unwrap();
        assert_eq!(begun.elapsed().as_secs(), 2 * PERIOD.as_secs());
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn nor_is_one_waited_for_that_reads_nothing() {
        let (near, mut far) = tokio::io::duplex(64);
        let serving = tokio::spawn(serve(near));
        // It says how it begins, and takes nothing of what is said to it.
        far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        for _ in 0..8 {
            far.write_all(&ping).await.unwrap();
        }
        let begun = Instant::now();
        timeout(10 * PERIOD, serving).await.unwrap().unwrap().unwrap();
        assert_eq!(begun.elapsed(), 2 * PERIOD + FAREWELL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_is_not() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let mut serving = tokio::spawn(serve(near));
        let (sender, connection) = h2::client::handshake(far).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        assert!(timeout(100 * PERIOD, &mut serving).await.is_err());
        drop(sender);
        serving.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_turned_away_is_not_heard() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let limits = Limits { head: 1024, streams: 10, resets: 10, errors: 10, keep_alive: PERIOD };
        let mut connection = Connection::new(near, limits, |_, _| panic!("a request of theirs"));
        let (sender, client) = h2::client::handshake(far).await.unwrap();
        connection.turn_away();
        let mut sender = sender.ready().await.unwrap();
        // Before it can know.
        let (answer, _) = sender.send_request(Request::new(()), true).unwrap();
        let client = tokio::spawn(client);
        let serving = tokio::spawn(connection);
        assert_eq!(answer.await.unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
        // Who of the two closes first is left open.
        drop(serving.await.unwrap());
        drop(client.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn told_to_wind_up_it_ends_when_nothing_is_under_way() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let limits = Limits { head: 1024, streams: 10, resets: 10, errors: 10, keep_alive: PERIOD };
        let mut connection = Connection::new(near, limits, |_, _| {});
        let (sender, client) = h2::client::handshake(far).await.unwrap();
        // Also before the handshake is over.
        connection.wind_up();
        let client = tokio::spawn(client);
        // Who of the two closes first is left open.
        drop(timeout(PERIOD / 2, connection).await.unwrap());
        drop(client.await.unwrap());
        drop(sender);
    }
}
