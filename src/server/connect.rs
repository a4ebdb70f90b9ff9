//! After a `CONNECT`'s 200: intercept, or copy blindly.
//!
//! ```text
//! proxy.open_tunnel -> Refused   -> the refusal
//!                   -> Intercept -> 200, peek: TLS (SNI = the tunnel's host, or no handshake) -> requests
//!                                              clear HTTP -> requests
//!                   -> Blind     -> 200, bytes both ways
//! ```

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{Response, request::Parts};
use tokio::time::timeout;

use crate::{
    http1::Peeked,
    observe::ConnectionState,
    primitives::Authority,
    proxy::{Body, Handshake, Ingress, Opening, Tunnel},
    tls::{self, TlsStream},
};

use super::{
    connection::{Io, Session, Version},
    h1::Reply,
    peek::{Carried, sniff},
    upgrade::Next,
};

/// Judges a `CONNECT`.
pub(super) async fn judge(session: &Session, head: &Parts) -> Reply<Next> {
    let next = match session.connections.proxy.open_tunnel(&session.ingress, session.place.seat(), head).await {
        Opening::Refused(response) => return Reply { response: *response, next: None },
        Opening::Intercept(tunnel, handshake) => Next::Intercept(tunnel, handshake),
        Opening::Blind(tunnel) => Next::Blind(tunnel),
    };
    Reply { response: Response::new(Body::empty()), next: Some(next) }
}

pub(super) async fn intercept<S: Io>(session: &Session, mut io: Peeked<S>, tunnel: Arc<Tunnel>, handshake: Handshake) {
    let counted = session.gauge.enter(ConnectionState::Handshake);
    let limit = session.connections.limits.handshake_timeout;
    let carried = match timeout(limit, sniff(&mut io)).await {
        Ok(Ok(Some(carried))) => carried,
        Ok(Ok(None) | Err(_)) => return handshake.failed("agent_gone"),
        Err(_) => return handshake.failed("handshake_timeout"),
    };
    let inside = |clear| Session {
        connections: Arc::clone(&session.connections),
        ingress: Ingress::Tunnel(Arc::clone(&tunnel)),
        clear,
        drain: session.drain.clone(),
        gauge: session.gauge.clone(),
        place: session.place.clone(),
    };
    match carried {
        Carried::ClearHttp | Carried::ClearH2 => {
            handshake.succeeded();
            drop(counted);
            let version = if carried == Carried::ClearH2 { Version::H2 } else { Version::H1 };
            inside(true).serve_tunnel(io, version).await;
        }
        Carried::Tls => match timeout(limit, terminate(session, io, tunnel.authority())).await {
            Ok(Ok(tls)) => {
                handshake.succeeded();
                drop(counted);
                let version = Version::of_tls(&tls);
                inside(false).serve_tunnel(Peeked::new(Bytes::new(), tls), version).await;
            }
            Ok(Err(error)) => {
                tracing::info!(host = %tunnel.authority(), %error, "the TLS handshake in a tunnel failed; does the agent trust the CA?");
                handshake.failed("agent_tls");
            }
            Err(_) => handshake.failed("handshake_timeout"),
        },
        // Never relayed to a host that has a route (threat 45).
        Carried::Other => handshake.failed("tunnel_protocol"),
    }
}

/// Terminates TLS in the name of the tunnel's host and of no other (threat 42): a handshake that
/// asks for another one fails.
async fn terminate<S: Io>(session: &Session, io: Peeked<S>, authority: &Authority) -> io::Result<TlsStream<S>> {
    let (ahead, io) = io.into_parts();
    let config = session.connections.leaves.server_config(authority.host()).map_err(io::Error::other)?;
    tls::accept(config, ahead, io).await
}
