//! Listening sockets and the accept loop, which outlives a lack of descriptors.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use crate::proxy::Ingress;

use super::{connection::Connections, drain::Drain};

/// Pending connections the kernel holds for a listener.
const BACKLOG: i32 = 1024;

/// How long the accept loop waits when the machine can't give it a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener: what comes in through it, and under which TLS settings.
#[derive(Clone)]
pub struct Door {
    pub ingress: Ingress,
    pub tls: Option<Arc<ServerConfig>>,
    pub gauge: crate::observe::ConnectionGauge,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("ingress", &self.ingress).field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// Binds `count` sockets to one address, one for each worker. Port 0 picks a free port
/// for all of them.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    // With `SO_REUSEPORT` a second cupbearer would silently share the port; without it,
    // the first bind tells.
    let probe = open(address, false)?;
    let address = probe.local_addr()?;
    if count == 1 {
        return Ok(vec![probe]);
    }
    drop(probe);
    (0..count).map(|_| open(address, true)).collect()
}

fn open(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until told to stop. Runs on a worker's own runtime.
pub async fn accept_loop(listener: TcpListener, door: Door, connections: Arc<Connections>, mut drain: Drain) {
    let door = Arc::new(door);
    let limit = connections.limits.connections;
    let held = Arc::new(AtomicUsize::new(0));
    let free = Arc::new(tokio::sync::Notify::new());
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.stopped() => return,
            accepted = accept_within(&listener, &held, &free, limit) => accepted,
        };
        match accepted {
            Ok(stream) => {
                let slot = Slot::take(&held, &free);
                let serving = Arc::clone(&connections).serve(stream, Arc::clone(&door), drain.clone());
                tokio::spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_within(
    listener: &TcpListener,
    held: &AtomicUsize,
    free: &tokio::sync::Notify,
    limit: usize,
) -> io::Result<tokio::net::TcpStream> {
    while held.load(Ordering::Relaxed) >= limit {
        free.notified().await;
    }
    let (stream, _) = listener.accept().await?;
    // Without it Nagle's algorithm and delayed acknowledgements cost 40 ms a request.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One connection's place among those a listener may hold.
struct Slot {
    held: Arc<AtomicUsize>,
    free: Arc<tokio::sync::Notify>,
}

impl Slot {
    fn take(held: &Arc<AtomicUsize>, free: &Arc<tokio::sync::Notify>) -> Self {
        held.fetch_add(1, Ordering::Relaxed);
        Self { held: Arc::clone(held), free: Arc::clone(free) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
        self.free.notify_one();
    }
}
