//! One connection: TLS if the door has it, then h2 or h1, then requests, until the
//! peer leaves, a limit is reached or the process winds up.

use std::{
    future::{Future, pending},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::timeout,
};

use crate::{
    http1::{Peeked, head},
    http2::Plain,
    observe::{ConnectionGauge, ConnectionState},
    primitives::{RequestId, boxed},
    proxy::{AgentRequest, Arrival, Ingress, InterimSink, Peer, Proxy, is_extended},
    tls::{self, LeafCache, TlsStream},
};

use super::{
    Limits, connect,
    drain::Drain,
    h1::{self, Reply},
    h2,
    listener::{Door, Place},
    peek::is_h2,
    rare::Rare,
    socks,
    together::{Driven, drive},
    upgrade::{self, Next},
};

/// From the end of a tunnel's permission to its own: so that a client can be told, and doesn't
/// find a connection broken that it was about to use.
const FAREWELL: Duration = Duration::from_secs(1);

/// A stream that requests can come over.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// What every connection of a worker needs.
#[derive(Debug)]
pub struct Connections {
    pub proxy: Proxy,
    pub leaves: Arc<LeafCache>,
    pub limits: Limits,
}

/// Where the requests of one connection come from.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connections: Arc<Connections>,
    pub(super) ingress: Ingress,
    /// Inside a tunnel that isn't TLS.
    pub(super) clear: bool,
    pub(super) drain: Drain,
    pub(super) gauge: ConnectionGauge,
    pub(super) place: Place,
}

impl Session {
    fn arrival<'a>(&'a self, interim: Option<&'a InterimSink>) -> Arrival<'a> {
        Arrival { ingress: &self.ingress, clear: self.clear, seat: self.place.seat(), interim }
    }
}

/// The protocol that ALPN chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    H1,
    H2,
}

impl Version {
    pub(super) fn of_tls<S>(stream: &TlsStream<S>) -> Self {
        if stream.is_h2() { Self::H2 } else { Self::H1 }
    }
}

impl Connections {
    /// Serves one connection to its end, over any stream; waits for a place first.
    pub async fn serve<S: Io>(self: Arc<Self>, stream: S, door: Arc<Door>, drain: Drain) {
        match door.places.take(Peer::Other).await {
            Ok(place) => self.serve_at(place, stream, door, drain).await,
            Err(error) => tracing::error!(%error, "a connection finds no place"),
        }
    }

    pub(super) async fn serve_at<S: Io>(self: Arc<Self>, place: Place, stream: S, door: Arc<Door>, drain: Drain) {
        let mut counted = door.gauge.enter(ConnectionState::Handshake);
        let limit = self.limits.handshake_timeout;
        let (ingress, gauge) = (door.ingress.clone(), door.gauge.clone());
        let session = Session { connections: self, ingress, clear: false, drain, gauge, place };
        if let Ingress::Socks { .. } = session.ingress {
            drop(counted);
            // Like all that few connections need.
            return boxed(|| socks::serve(&session, stream)).await;
        }
        let Some(tls) = &door.tls else {
            counted.set(ConnectionState::Serving);
            return session.serve_clear(stream).await;
        };
        let handshake = || tls::accept(Arc::clone(tls), Bytes::new(), stream);
        match boxed(|| timeout(limit, handshake())).await {
            Ok(Ok(stream)) => {
                counted.set(ConnectionState::Serving);
                let version = Version::of_tls(&stream);
                boxed(|| session.serve(Peeked::new(Bytes::new(), stream), version)).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "an agent's TLS handshake failed"),
            Err(_) => tracing::debug!("an agent's TLS handshake took too long"),
        }
    }

    fn h1(&self) -> h1::Limits {
        let (bytes, fields) = (self.limits.request_head, self.limits.request_fields);
        h1::Limits { head: head::Limits { bytes, fields, target: bytes }, head_timeout: self.limits.head_timeout }
    }

    fn h2(&self) -> h2::Limits {
        h2::Limits {
            head: self.limits.request_head,
            streams: self.limits.h2_streams,
            resets: self.limits.h2_resets,
            errors: self.limits.h2_errors,
            keep_alive: self.limits.head_timeout,
        }
    }
}

impl Session {
    /// Serves a connection without TLS, whose first bytes tell the protocol.
    async fn serve_clear<S: Io>(self, stream: S) {
        let mut io = Peeked::new(Bytes::new(), stream);
        match self.first_bytes(&mut io).await {
            Some(version) => self.serve(io, version).await,
            None => tracing::debug!("an agent's connection ended before its first request"),
        }
    }

    /// `None`: they didn't come, or not in time.
    async fn first_bytes<S: Io>(&self, io: &mut Peeked<S>) -> Option<Version> {
        let mut drain = self.drain.clone();
        tokio::select! {
            first = timeout(self.connections.limits.head_timeout, is_h2(io)) => {
                let is_h2 = first.ok()?.ok()?;
                Some(if is_h2 { Version::H2 } else { Version::H1 })
            }
            () = drain.stopped() => None,
        }
    }

    /// Serves a listener's connection: requests, and `CONNECT` where the door is a proxy.
    async fn serve<S: Io>(self, io: Peeked<S>, version: Version) {
        let session = Arc::new(self);
        if version == Version::H2 {
            return boxed(|| session.serve_h2(io)).await;
        }
        let interim = InterimSink::default();
        let serve = |request: AgentRequest| session.answer(request, Some(&interim));
        let mut drain = session.drain.clone();
        let ends = (&session.drain, Rare::new(drain.stopped()));
        // Boxed with all that follows: a connection at rest has no use for the room.
        let limits = session.connections.h1();
        if let Some((io, next)) = h1::converse(io, limits, &interim, ends, serve, session.unreadable()).await {
            boxed(|| next.follow(&session, io)).await;
        }
    }

    /// Serves the requests inside a tunnel, where the pipeline refuses `CONNECT`.
    pub(super) async fn serve_tunnel<S: Io>(self, io: Peeked<S>, version: Version) {
        let _counted = self.gauge.enter(ConnectionState::Serving);
        let session = Arc::new(self);
        if version == Version::H2 {
            return boxed(|| session.serve_h2(io)).await;
        }
        let interim = InterimSink::default();
        let serve = |request: AgentRequest| {
            let (session, interim) = (&session, &interim);
            async move {
                let answer = session.connections.proxy.serve(session.arrival(Some(interim)), request).await;
                Reply { response: answer.response, next: answer.switched }
            }
        };
        let stop = Rare::new(async {
            let mut drain = session.drain.clone();
            tokio::select! { () = drain.stopped() => {}, () = session.revoked() => {} }
        });
        let ends = (&session.drain, stop);
        let limits = session.connections.h1();
        let mut conversation = pin!(h1::converse(io, limits, &interim, ends, serve, session.unreadable()));
        let ended = tokio::select! {
            biased;
            ended = conversation.as_mut() => ended,
            () = Rare::new(session.revoked()) => timeout(FAREWELL, conversation).await.ok().flatten(),
        };
        if let Some((io, switched)) = ended {
            boxed(|| upgrade::switch(&session, io, *switched)).await;
        }
    }

    /// Returns once the tunnel that this is inside of couldn't be opened any more.
    async fn revoked(&self) {
        match &self.ingress {
            Ingress::Tunnel(tunnel) => self.connections.proxy.tunnel_revoked(tunnel).await,
            Ingress::Forward { .. } | Ingress::Reverse { .. } | Ingress::Socks { .. } => pending().await,
        }
    }

    async fn serve_h2<S: Io>(self: Arc<Self>, mut io: Peeked<S>) {
        // A preface would be waited for without end.
        if self.first_bytes(&mut io).await != Some(Version::H2) {
            return tracing::debug!("an agent's connection doesn't begin as HTTP/2");
        }
        let limits = self.connections.h2();
        let (requests, over) = (Arc::clone(&self), Arc::new(Notify::new()));
        let told = Arc::clone(&over);
        let connection = drive(io, |io| {
            h2::Connection::new(io, limits, move |request, respond| {
                tokio::spawn(Arc::clone(&requests).answer_stream((request, respond), Arc::clone(&told)));
            })
        });
        let end = |mut driven: Pin<&mut Driven<_, h2::Connection<_, _>>>, ending| match ending {
            Ending::Drain => driven.connection.wind_up(),
            Ending::Over => driven.connection.turn_away(),
        };
        run(connection, &self, &over, end).await;
    }

    pub(super) async fn answer(&self, request: AgentRequest, interim: Option<&InterimSink>) -> Reply<Next> {
        let is_proxy = matches!(self.ingress, Ingress::Forward { .. });
        if is_proxy && request.head.method == Method::CONNECT && !is_extended(&request.head) {
            return connect::judge(self, &request.head).await;
        }
        let answer = self.connections.proxy.serve(self.arrival(interim), request).await;
        Reply { response: answer.response, next: answer.switched.map(Next::Switched) }
    }

    /// For a tunnel on one of its streams: it counts among its agent's connections like one that
    /// came by itself.
    pub(super) fn for_a_tunnel(&self) -> Self {
        Self {
            connections: Arc::clone(&self.connections),
            ingress: self.ingress.clone(),
            clear: self.clear,
            drain: self.drain.clone(),
            gauge: self.gauge.clone(),
            place: self.place.nested(),
        }
    }

    /// Records what an agent is told about a request that can't be read.
    pub(super) fn unreadable(&self) -> impl FnOnce(StatusCode) -> RequestId {
        |status| self.connections.proxy.record_unreadable(&self.ingress, status)
    }
}

/// Why a connection takes no other request.
enum Ending {
    Drain,
    /// An answer was to be its last.
    Over,
}

/// Drives a connection to its end; told to wind up, it finishes what is under way, for which a
/// tunnel that the rules don't allow any more has a moment only. A peer that takes no notice of the
/// end doesn't answer pings any more, and is left for that.
async fn run<C>(connection: C, session: &Session, over: &Notify, mut end: impl FnMut(Pin<&mut C>, Ending))
where
    C: Future<Output = Result<(), ::h2::Error>>,
{
    let mut connection = pin!(connection);
    let mut drain = session.drain.clone();
    let mut drains = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = drain.stopped(), if !drains => {
                end(connection.as_mut(), Ending::Drain);
                drains = true;
            }
            () = over.notified() => end(connection.as_mut(), Ending::Over),
            () = session.revoked() => {
                end(connection.as_mut(), Ending::Drain);
                break timeout(FAREWELL, connection).await.unwrap_or(Ok(()));
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %Plain(&error), "an agent's connection ended badly");
    }
}
