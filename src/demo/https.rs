//! Serves an axum router over TLS, HTTP/2 or HTTP/1.1 by ALPN, until it is told to
//! stop or is dropped. Knows neither tokens nor orders.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{Error, client_certificates::PeerCertificates};

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// For requests under way when the server is told to stop.
const GRACE: Duration = Duration::from_secs(1);

/// What a server offers by ALPN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocols {
    #[default]
    Http2AndHttp1,
    Http1,
    Http2,
}

impl Protocols {
    pub(super) fn alpn(self) -> Vec<Vec<u8>> {
        let (h2, h1) = (b"h2".to_vec(), b"http/1.1".to_vec());
        match self {
            Self::Http2AndHttp1 => vec![h2, h1],
            Self::Http1 => vec![h1],
            Self::Http2 => vec![h2],
        }
    }
}

/// Which of a server's connections a request came on, counted from 1. A request
/// carries it as an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Put into a response's extensions, it makes the server break the connection (h1) or
/// the stream (h2) instead of answering.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disconnect;

#[derive(Debug, thiserror::Error)]
enum Break {
    #[error("told to disconnect")]
    Told,
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Must be called inside a tokio runtime. `h2_streams` limits the requests at once on
    /// one h2 connection; `None` leaves hyper's default.
    pub(super) fn start(
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        h2_streams: Option<u32>,
        router: Router,
    ) -> Result<Self, Error> {
        let address = listener.local_addr().map_err(Error::Listen)?;
        let (stop, stopped) = watch::channel(false);
        let door = Door { acceptor: TlsAcceptor::from(tls), h2_streams, router, next: AtomicU64::new(1) };
        tokio::spawn(accept(listener, Arc::new(door), stopped));
        Ok(Self { address, stop })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nothing more, lets requests under way end for a second, then cuts them.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }
}

struct Door {
    acceptor: TlsAcceptor,
    h2_streams: Option<u32>,
    router: Router,
    next: AtomicU64,
}

async fn accept(listener: TcpListener, door: Arc<Door>, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = told_to_stop(&mut stopped) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => {
                    connections.spawn(connection(stream, Arc::clone(&door), stopped.clone()));
                }
                // Out of descriptors: the loop must outlive that.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    // What hasn't ended by then is aborted with the set.
    let _ = timeout(GRACE, all_ended).await;
}

/// A dropped sender says stop, too.
async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// A connection's errors are its peer's business: a client that goes away is normal here.
async fn connection(stream: TcpStream, door: Arc<Door>, mut stopped: watch::Receiver<bool>) {
    // Refused only on a socket that is already dead.
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = timeout(HANDSHAKE_LIMIT, door.acceptor.accept(stream)).await else { return };
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let id = ConnectionId(door.next.fetch_add(1, Ordering::Relaxed));
    let certificates = stream.get_ref().1.peer_certificates().map(PeerCertificates::new);
    let router = TowerToHyperService::new(door.router.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(id);
        if let Some(certificates) = &certificates {
            request.extensions_mut().insert(certificates.clone());
        }
        let answer = router.call(request.map(Body::new));
        async move { break_if_told(answer.await) }
    });
    let io = TokioIo::new(stream);
    if is_h2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        if let Some(streams) = door.h2_streams {
            builder.max_concurrent_streams(streams);
        }
        let mut served = pin!(builder.serve_connection(io, service));
        tokio::select! {
            _ = served.as_mut() => return,
            () = told_to_stop(&mut stopped) => served.as_mut().graceful_shutdown(),
        }
        let _ = served.await;
    } else {
        let mut served = pin!(http1::Builder::new().timer(TokioTimer::new()).serve_connection(io, service));
        tokio::select! {
            _ = served.as_mut() => return,
            () = told_to_stop(&mut stopped) => served.as_mut().graceful_shutdown(),
        }
        let _ = served.await;
    }
}

fn break_if_told(answer: Result<Response<Body>, std::convert::Infallible>) -> Result<Response<Body>, Break> {
    let Ok(response) = answer;
    match response.extensions().get::<Disconnect>() {
        Some(Disconnect) => Err(Break::Told),
        None => Ok(response),
    }
}
