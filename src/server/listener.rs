//! Listening sockets and the accept loop, which outlives a lack of descriptors.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    primitives::boxed,
    proxy::{Ingress, Peer, Seat},
};

use super::{
    connection::{Connections, Io},
    drain::Drain,
};

/// Pending connections the kernel holds for a listener.
pub(super) const BACKLOG: i32 = 1024;

/// How long the accept loop waits when the machine can't give it a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An agent that takes none of the bytes we have for it for this long is given up, and so
/// is one that is gone without a word: nothing above TCP limits how long a write may wait.
const STUCK: Duration = Duration::from_secs(600);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// A listener: what comes in through it, and under which TLS settings.
#[derive(Clone)]
pub struct Door {
    pub ingress: Ingress,
    pub tls: Option<Arc<ServerConfig>>,
    pub gauge: crate::observe::ConnectionGauge,
    pub places: Places,
}

/// How many connections a listener holds at once, over all workers.
#[derive(Clone, Debug)]
pub struct Places(Arc<Semaphore>);

/// One connection's place; kept for as long as anything of it is alive, such as a tunnel
/// that began on it.
#[derive(Clone, Debug)]
pub(super) struct Place(Arc<Held>);

#[derive(Debug)]
struct Held {
    _room: Room,
    seat: Seat,
}

#[derive(Debug)]
enum Room {
    Own { _permit: OwnedSemaphorePermit },
    Of { _place: Place },
}

impl Place {
    /// The connection's place among those of its agent.
    pub(super) fn seat(&self) -> &Seat {
        &self.0.seat
    }

    /// That of a tunnel on one of the connection's streams: among its agent's connections it has
    /// one of its own, at the listener it hasn't.
    pub(super) fn nested(&self) -> Self {
        let seat = self.seat().nested();
        Self(Arc::new(Held { _room: Room::Of { _place: self.clone() }, seat }))
    }
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
    // Linux hands these on to each connection, which spares it five calls.
    prepare(SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    #[cfg(target_os = "linux")]
    if let Err(error) = speaking::only(&socket) {
        tracing::debug!(%error, %address, "connections are accepted before their agents say anything");
    }
    Ok(socket.into())
}

/// In each protocol that is spoken here the agent speaks first: a connection is handed over with
/// its first bytes, which spares a worker at rest one of two wake-ups. That of an agent that is
/// silent for longer comes without, and from then on the limits in time are its limits.
#[cfg(target_os = "linux")]
mod speaking {
    use nix::{libc, setsockopt_impl, sockopt_impl, sys::socket};
    use socket2::Socket;

    /// Seconds.
    const SILENT: i32 = 1;

    sockopt_impl!(DeferAccept, SetOnly, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, i32);

    pub(super) fn only(listener: &Socket) -> nix::Result<()> {
        socket::setsockopt(listener, DeferAccept, &SILENT)
    }
}

/// What each connection has to be.
fn prepare(socket: SockRef<'_>) -> io::Result<()> {
    // Without it Nagle's algorithm and delayed acknowledgements cost 40 ms a request.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(STUCK))?;
    Ok(())
}

/// Accepts until told to stop. Runs on a worker's own runtime.
pub async fn accept_loop(listener: impl Accept, door: Door, connections: Arc<Connections>, mut drain: Drain) {
    let door = Arc::new(door);
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.stopped() => return,
            accepted = accept(&listener, &door.places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let (connections, door, drain) = (Arc::clone(&connections), Arc::clone(&door), drain.clone());
                // Boxed: a task is moved several times before it lies where it stays.
                tokio::spawn(boxed(|| connections.serve_at(place, stream, door, drain)));
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for a connection first and for its place then: a worker to which nobody connects
/// must not hold a place that another one needs.
async fn accept<L: Accept>(listener: &L, places: &Places) -> io::Result<(L::Stream, Place)> {
    let (stream, peer) = listener.next().await?;
    let place = places.take(peer).await?;
    Ok((stream, place))
}

/// A listening socket of some kind.
pub trait Accept: Send + Sync + 'static {
    type Stream: Io;

    /// The next connection, ready to be served, and where it comes from.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = self.accept().await?;
        #[cfg(not(target_os = "linux"))]
        prepare(SockRef::from(&stream))?;
        Ok((stream, Peer::at(address.ip())))
    }
}

/// A local peer can't be gone without a word: the kernel closes for it.
impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.accept().await?;
        let peer = stream.peer_cred().map_or(Peer::Other, |user| Peer::User(user.uid()));
        Ok((stream, peer))
    }
}

// === impl Places ===

impl Places {
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))))
    }

    pub(super) async fn take(&self, peer: Peer) -> io::Result<Place> {
        let permit = Arc::clone(&self.0).acquire_owned().await.map_err(io::Error::other)?;
        Ok(Place(Arc::new(Held { _room: Room::Own { _permit: permit }, seat: Seat::new(peer) })))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn speaking(to: SocketAddr) -> TcpStream {
        let mut agent = TcpStream::connect(to).await.unwrap();
        agent.write_all(b"GET").await.unwrap();
        agent
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn who_speaks_comes_before_who_is_silent() {
        let mut sockets = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let listener = TcpListener::from_std(sockets.pop().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let connected = tokio::time::Instant::now();
        let silent = TcpStream::connect(address).await.unwrap();
        let speaking = speaking(address).await;
        let (_, first) = listener.accept().await.unwrap();
        // The kernel waits for a second, and this machine may have been busy for one.
        assert!(first == speaking.local_addr().unwrap() || connected.elapsed() >= Duration::from_millis(900));
        let (_, second) = listener.accept().await.unwrap();
        let both = [silent.local_addr().unwrap(), speaking.local_addr().unwrap()];
        assert!(first != second && both.contains(&second), "the silent one comes, too");
    }

    #[tokio::test]
    async fn a_place_is_shared_by_all_workers_and_given_back_with_its_last_holder() {
        let places = Places::new(1);
        let mut sockets = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let listener = TcpListener::from_std(sockets.pop().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let _agents = (speaking(address).await, speaking(address).await);

        let (_stream, place) = accept(&listener, &places).await.unwrap();
        let tunnel = place.clone();
        drop(place);
        let other_worker = places.clone();
        let mut next = tokio::spawn(async move { accept(&listener, &other_worker).await.map(drop) });
        let early = tokio::time::timeout(Duration::from_millis(50), &mut next).await;
        assert!(early.is_err(), "the tunnel has the only place");
        drop(tunnel);
        next.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_agent_that_reads_nothing_is_given_up_in_time() {
        let mut sockets = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let listener = TcpListener::from_std(sockets.pop().unwrap()).unwrap();
        let _agent = speaking(listener.local_addr().unwrap()).await;
        let (stream, _place) = accept(&listener, &Places::new(1)).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(STUCK));
    }
}
