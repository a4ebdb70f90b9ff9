//! What follows the last answer on a connection that is HTTP's no longer: a tunnel behind
//! `CONNECT`, or another protocol behind a 101. The connection's place at its listener is
//! held, and a shutdown waits for it.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

use crate::{
    http1::Peeked,
    http2::Duplex,
    observe::ConnectionState,
    proxy::{Blind, Handshake, Switched, Tunnel},
};

use super::{
    connect,
    connection::{Io, Session},
    relay::carry,
};

/// What a stream becomes.
pub(super) enum Next {
    Intercept(Arc<Tunnel>, Handshake),
    Blind(Box<Blind>),
    Switched(Box<Switched>),
}

impl Next {
    /// To its end.
    pub(super) async fn follow<S: Io>(self, session: &Session, agent: Peeked<S>) {
        match self {
            Self::Intercept(tunnel, handshake) => connect::intercept(session, agent, tunnel, handshake).await,
            Self::Blind(tunnel) => {
                let _counted = session.gauge.enter(ConnectionState::Tunnel);
                let (upstream, record) = tunnel.split();
                carry(session, agent, upstream, record).await;
            }
            Self::Switched(switched) => switch(session, agent, *switched).await,
        }
    }

    /// The agent left before its answer was through.
    pub(super) fn agent_gone(self) {
        match self {
            Self::Intercept(_, handshake) => handshake.failed("agent_gone"),
            Self::Blind(tunnel) => tunnel.split().1.end(Some("agent_gone")),
            Self::Switched(switched) => switched.split().1.end(Some("agent_gone")),
        }
    }

    /// On a stream of an h2 connection, to its end.
    ///
    /// Boxed once a tunnel: a tunnel's h2 requests are answered by what answers `CONNECT`, and
    /// the type of that circle can't be written down.
    pub(super) fn follow_on_h2(self, session: Arc<Session>, agent: Duplex) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { self.follow(&session, Peeked::new(Bytes::new(), agent)).await })
    }
}

/// After a 101.
pub(super) async fn switch<S: Io>(session: &Session, agent: Peeked<S>, switched: Switched) {
    let _counted = session.gauge.enter(ConnectionState::Tunnel);
    let (upstream, record) = switched.split();
    match upstream {
        Some(upstream) => carry(session, agent, upstream, record).await,
        None => record.end(Some("upstream_broke_off")),
    }
}
