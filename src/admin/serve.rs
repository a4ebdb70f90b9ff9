//! The accept loop of the admin listener: HTTP/1.1 only, with limits, since an agent on
//! this machine can connect too.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
};

use super::{Admin, api};

/// Connections at once; more wait in the backlog.
const CONNECTIONS: usize = 256;
/// For a request's head to arrive, and for a kept connection to be used again.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests under way at the end have this long.
const DRAIN: Duration = Duration::from_secs(5);
/// After an accept that failed (no descriptors left): trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the operator comes in.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection of either kind.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// The address, where it has one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// Serves until `shutdown` resolves, then ends connections as they become idle, within five
/// seconds. Accept errors are logged and survived.
pub async fn serve(listener: Listener, admin: Admin, shutdown: impl Future<Output = ()> + Send) {
    let router = api::router(admin, listener.tcp());
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (ending, ended) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let (router, ended) = (router.clone(), ended.clone());
                match stream {
                    Stream::Tcp(stream) => connections.spawn(converse(stream, place, router, ended)),
                    Stream::Unix(stream) => connections.spawn(converse(stream, place, router, ended)),
                };
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    ending.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is left after that is cut off with the set.
    let _ = tokio::time::timeout(DRAIN, drained).await;
}

async fn accept(listener: &Listener, places: &Arc<Semaphore>) -> io::Result<(Stream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?, place))
}

async fn converse<S>(stream: S, place: OwnedSemaphorePermit, router: Router, mut ended: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async { ended.wait_for(|ended| *ended).await.map_or((), drop) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection to the admin listener ended early");
    }
    drop(place);
}
