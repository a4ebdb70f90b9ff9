//! A worker: a thread with a single-threaded runtime, its own listeners and its own
//! upstream pool.

use std::{io, sync::Arc, thread::JoinHandle};

use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Runtime,
    sync::watch,
};

use crate::{
    proxy::{Proxy, Shared},
    server::{
        self, Door, Drain,
        connection::Connections,
        listener::{Accept, accept_loop},
    },
    tls::LeafCache,
    upstream::{self, Client, Dial, Parent, Resolve, TcpDial, Wall},
};

/// What a worker is made of; each gets a clone and builds its own pool from it.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) leaves: Arc<LeafCache>,
    pub(super) upstream: upstream::Settings,
    pub(super) wall: Wall,
    pub(super) resolve: Arc<dyn Resolve>,
    pub(super) parent: Option<Arc<Parent>>,
    pub(super) limits: server::Limits,
}

/// One of a worker's listening sockets.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) socket: Listening,
    pub(super) door: Door,
}

#[derive(Debug)]
pub(super) enum Listening {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Worker {
    /// Serves until `finished`; what is then still under way is cut.
    pub(super) fn spawn(
        self,
        sockets: Vec<Socket>,
        drain: Drain,
        finished: watch::Receiver<bool>,
    ) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || run_to_end(runtime, self.run(sockets, drain, finished)))
    }

    async fn run(self, sockets: Vec<Socket>, drain: Drain, mut finished: watch::Receiver<bool>) {
        let connections = self.connections(Arc::new(TcpDial));
        for Socket { socket, door } in sockets {
            match socket {
                Listening::Tcp(socket) => accept_on(TcpListener::from_std(socket), door, &connections, &drain),
                Listening::Unix(socket) => accept_on(UnixListener::from_std(socket), door, &connections, &drain),
            }
        }
        drop((connections, drain));
        let _ = finished.wait_for(|finished| *finished).await;
    }

    /// The corridor and its doors' limits, without a socket.
    pub(super) fn connections(self, dial: Arc<dyn Dial>) -> Arc<Connections> {
        let upstream = Client::new(self.upstream, self.wall, self.resolve, dial).through(self.parent);
        let proxy = Proxy::new(self.shared, upstream);
        Arc::new(Connections { proxy, leaves: self.leaves, limits: self.limits })
    }
}

fn accept_on(listener: io::Result<impl Accept>, door: Door, connections: &Arc<Connections>, drain: &Drain) {
    match listener {
        Ok(listener) => drop(tokio::spawn(accept_loop(listener, door, Arc::clone(connections), drain.clone()))),
        Err(error) => tracing::error!(%error, "a listening socket can't be used"),
    }
}

/// Ends everything when `work` is done. A name that is being resolved holds a thread that
/// nobody can end (`getaddrinfo`): it isn't waited for.
fn run_to_end(runtime: Runtime, work: impl Future<Output = ()>) {
    runtime.block_on(work);
    runtime.shutdown_background();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_end_waits_for_no_name_but_drops_every_task() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (_never, resolving) = mpsc::channel::<()>();
        let request = Arc::new(());
        let under_way = Arc::clone(&request);
        run_to_end(runtime, async move {
            tokio::task::spawn_blocking(move || resolving.recv());
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(under_way);
            });
            tokio::task::yield_now().await;
        });
        assert_eq!(Arc::strong_count(&request), 1, "a record would end after the recorder");
    }
}
