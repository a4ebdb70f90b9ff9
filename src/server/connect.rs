//! After a `CONNECT`'s 200: intercept, or copy blindly.
//!
//! ```text
//! proxy.open_tunnel -> Refused   -> the refusal
//!                   -> Intercept -> 200, peek: TLS (SNI = the tunnel's host, or no handshake) -> requests
//!                                              clear HTTP -> requests
//!                   -> Blind     -> 200, bytes both ways
//! ```

use std::{future::Future, io, pin::Pin, sync::Arc};

use http::{Request, Response};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use rustls::server::Acceptor;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use crate::{
    observe::ConnectionState,
    primitives::{Authority, Host},
    proxy::{Body, Handshake, Ingress, Opening, Tunnel},
};

use super::{
    connection::{Io, Session, Version},
    interim::WithInterim,
    peek::{Carried, Peeked, sniff},
    relay::carry,
};

/// Judges a `CONNECT` and answers it; what follows the 200 runs in a task of its own.
pub(super) async fn answer<S: Io>(session: &Arc<Session>, mut request: Request<Incoming>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    match session.connections.proxy.open_tunnel(&session.ingress, session.place.seat(), &request).await {
        Opening::Refused(response) => return *response,
        Opening::Intercept(tunnel, handshake) => {
            let session = Arc::clone(session);
            tokio::spawn(async move {
                match upgrade.await {
                    Ok(upgraded) => entering::<S>(session, upgraded, tunnel, handshake).await,
                    Err(_) => handshake.failed("agent_gone"),
                }
            });
        }
        Opening::Blind(tunnel) => {
            let session = Arc::clone(session);
            tokio::spawn(async move {
                let _counted = session.gauge.enter(ConnectionState::Tunnel);
                let (upstream, record) = tunnel.split();
                match upgrade.await {
                    Ok(agent) => carry(&session, TokioIo::new(agent), upstream, record).await,
                    Err(_) => record.end(Some("agent_gone")),
                }
            });
        }
    }
    Response::new(Body::empty())
}

/// Boxed once a tunnel: a tunnel's h2 requests are answered by what answers `CONNECT`, and
/// the type of that circle can't be written down.
fn entering<S: Io>(
    session: Arc<Session>,
    upgraded: Upgraded,
    tunnel: Arc<Tunnel>,
    handshake: Handshake,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move { enter::<S>(&session, upgraded, tunnel, handshake).await })
}

/// Gets the connection's own stream back, so that bytes don't pass through a box.
async fn enter<S: Io>(session: &Session, upgraded: Upgraded, tunnel: Arc<Tunnel>, handshake: Handshake) {
    match upgraded.downcast::<TokioIo<WithInterim<S>>>() {
        Ok(parts) => {
            let io = parts.io.into_inner().into_inner();
            intercept(session, Peeked::new(parts.read_buf, io), tunnel, handshake).await;
        }
        // h2: the tunnel is a stream among others.
        Err(upgraded) => {
            intercept(session, Peeked::new(bytes::Bytes::new(), TokioIo::new(upgraded)), tunnel, handshake).await;
        }
    }
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
                let version = Version::by_alpn(tls.get_ref().1.alpn_protocol());
                inside(false).serve_tunnel(tls, version).await;
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

/// Terminates TLS in the name of the tunnel's host and of no other (threat 42).
async fn terminate<S: Io>(
    session: &Session,
    io: Peeked<S>,
    authority: &Authority,
) -> io::Result<tokio_rustls::server::TlsStream<Peeked<S>>> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
    let asked = start.client_hello().server_name().map(Host::parse);
    let agrees = match asked {
        None => true,
        Some(Ok(name)) => name == *authority.host(),
        Some(Err(_)) => false,
    };
    if !agrees {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the server name isn't the tunnel's host"));
    }
    let config = session.connections.leaves.server_config(authority.host()).map_err(io::Error::other)?;
    start.into_stream(config).await
}
