//! Wires the rooms: settings in, a running proxy out. Owns the threads.
//!
//! ```text
//! control runtime (the caller's): token flights, admin, signals, reload
//! worker thread × cores: a single-threaded runtime, its listeners, its upstream pool
//! ```

pub mod hardening;
mod parent;
pub mod reload;
pub mod tokens;
pub mod unbound;
pub mod worker;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    admin, config,
    credential::{self, store::Store},
    identity::{self, Registry},
    observe::{self, Recorder},
    primitives::{Authority, Clock, ListenAddress, ListenerName, RequestIds},
    proxy::{Guesses, Ingress, Rules, Shared, Via},
    route::{Effect, HostPattern},
    server::{self, Door, Drain, DrainHandle, ListenerTls, SocketFile},
    tls::{self, CertificateAuthority, LeafCache},
    upstream::{SystemResolver, Wall},
};

pub use unbound::{Unbound, unbound};
use worker::{Listening, Socket, Worker};

/// How long the end waits for the audit log: its disk may stand still.
const FLUSH: Duration = Duration::from_secs(5);

/// What a refresh that is under way has at least: most servers answer within it.
const LAST_EXCHANGE: Duration = Duration::from_secs(1);

/// Why nothing could be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another program has the address, or it isn't this machine's.
    #[error("can't listen on {address}, which a `listen` of the config names")]
    Listen { address: ListenAddress, source: io::Error },
    #[error("can't open the audit log")]
    Audit(#[source] io::Error),
    #[error("can't use the admin key")]
    AdminKey(#[from] admin::KeyError),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error(transparent)]
    Credential(#[from] credential::Error),
    #[error("can't start a worker thread")]
    Thread(#[source] io::Error),
}

/// What is given from outside besides the config.
#[derive(Debug)]
pub struct Surroundings {
    pub authority: Arc<CertificateAuthority>,
    pub clock: Arc<dyn Clock>,
    /// Random; names this process in `Via` and in request ids.
    pub instance: u64,
    /// What outlives the process.
    pub store: Arc<dyn Store>,
}

/// A proxy that serves.
#[derive(Debug)]
pub struct Running {
    /// As bound: with the real port where the config said 0. In the config's order.
    pub forward: Vec<ListenAddress>,
    pub reverse: Vec<ListenAddress>,
    pub socks: Vec<ListenAddress>,
    /// `None` also where it is a socket file.
    pub admin: Option<SocketAddr>,
    files: Vec<SocketFile>,
    shared: Arc<Shared>,
    authority: Arc<CertificateAuthority>,
    drain: DrainHandle,
    finish: watch::Sender<bool>,
    workers: Vec<std::thread::JoinHandle<()>>,
    admin_task: Option<tokio::task::JoinHandle<()>>,
}

/// Starts serving. Runs on the control runtime, which must outlive the [`Running`].
pub fn start(settings: &config::Settings, surroundings: Surroundings) -> Result<Running, Error> {
    let count = settings.server.workers.unwrap_or_else(cores).max(1);
    let mut sockets = Sockets::bind(&settings.server, count)?;
    let admin_listener = settings.admin.as_ref().map(|admin| sockets.admin(&admin.listen)).transpose()?;
    let admin_address = admin_listener.as_ref().and_then(admin::Listener::tcp);
    let files = std::mem::take(&mut sockets.files);
    let wall = Wall::new(sockets.addresses().chain(admin_address).collect());
    confine(&surroundings.authority, settings);
    let worker = worker(settings, &surroundings, wall)?;
    let shared = Arc::clone(&worker.shared);
    let (drain_handle, drain) = Drain::new();
    let (finish, finished) = watch::channel(false);
    let admin_task = admin_listener.map(|listener| spawn_admin(listener, settings, &shared, drain.clone()));
    let admin_task = admin_task.transpose()?;
    let (forward, reverse, socks) = (sockets.forward.clone(), sockets.reverse.clone(), sockets.socks.clone());
    let workers = sockets.spawn(&settings.server, &worker, &drain, &finished)?;
    Ok(Running {
        forward,
        reverse,
        socks,
        admin: admin_address,
        files,
        shared,
        authority: surroundings.authority,
        drain: drain_handle,
        finish,
        workers,
        admin_task,
    })
}

impl Running {
    pub fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn authority(&self) -> &CertificateAuthority {
        &self.authority
    }

    /// Stops accepting and removes socket files, lets requests and refreshes finish within `limit`, then ends. `false`:
    /// some were cut.
    pub async fn shutdown(self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        // The next process may have the name at once.
        drop(self.files);
        let served = self.drain.drain(limit).await;
        let broker = self.shared.rules.load().broker.clone();
        // Requests that took all the time there was leave some for this: a login is worth it.
        let settled = timeout_at(end.max(Instant::now() + LAST_EXCHANGE), broker.settled()).await.is_ok();
        self.finish.send_replace(true);
        let join = move || self.workers.into_iter().for_each(|worker| drop(worker.join()));
        let _ = tokio::task::spawn_blocking(join).await;
        if let Some(task) = self.admin_task {
            task.abort();
            let _ = task.await;
        }
        let recorder = self.shared.recorder.clone();
        let _ = tokio::task::spawn_blocking(move || recorder.flush_within(FLUSH)).await;
        served && settled
    }
}

/// What the workers are made of.
fn worker(settings: &config::Settings, surroundings: &Surroundings, wall: Wall) -> Result<Worker, Error> {
    let Surroundings { authority, clock, instance, store } = surroundings;
    let recorder = Recorder::start(&settings.observe).map_err(Error::Audit)?;
    let rules = rules(settings, clock, &recorder, Arc::clone(store))?;
    let leaves = LeafCache::new(Arc::clone(authority), Arc::clone(clock), settings.server.limits.leaf_cache)?;
    let shared = Shared {
        rules: ArcSwap::from_pointee(rules),
        changed: watch::Sender::new(()),
        recorder,
        clock: Arc::clone(clock),
        ids: RequestIds::new(*instance),
        via: Via::new(*instance),
        guesses: Guesses::new(settings.proxy.wrong_keys),
        settings: settings.proxy.clone(),
    };
    Ok(Worker {
        shared: Arc::new(shared),
        leaves: Arc::new(leaves),
        upstream: settings.upstream.clone(),
        wall,
        resolve: Arc::new(SystemResolver::new(settings.resolve.clone())),
        parent: settings.tokens.parent.as_ref().map(parent::parent),
        limits: settings.server.limits.clone(),
    })
}

fn rules(
    settings: &config::Settings,
    clock: &Arc<dyn Clock>,
    recorder: &Recorder,
    store: Arc<dyn Store>,
) -> Result<Rules, Error> {
    let broker = credential::Broker::new(
        settings.credentials.clone(),
        settings.tokens.clone(),
        Arc::clone(clock),
        recorder.clone(),
        Handle::current(),
        store,
    )?;
    Ok(rules_with(settings, broker, &Registry::default()))
}

/// `former`: the registry that is replaced.
fn rules_with(settings: &config::Settings, broker: credential::Broker, former: &Registry) -> Rules {
    Rules {
        registry: Registry::succeeding(former, settings.agents.clone()),
        routes: settings.table.clone(),
        broker,
        unmatched: settings.server.unmatched,
        authorization_servers: authorization_servers(settings),
    }
}

/// The hosts whose names we may have to bear: those that a route lets agents to. `None`: no
/// bounds.
fn constraints(settings: &config::Settings) -> Option<tls::Constraints> {
    let allowing = settings.routes.iter().filter(|route| route.effect == Effect::Allow);
    let hosts = allowing.flat_map(|route| &route.hosts).map(HostPattern::top);
    tls::Constraints::new(hosts).filter(|_| settings.name_constraints)
}

/// A CA that can't be bound goes on as it is: clients trust it, and the operator reads why.
fn confine(authority: &CertificateAuthority, settings: &config::Settings) {
    if let Err(error) = authority.confine(constraints(settings)) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the issuing certificate can't be bound to the routes' hosts, or renewed; it stays as it is"
        );
    }
}

/// Where agents have no business.
pub fn authorization_servers(settings: &config::Settings) -> Vec<Authority> {
    let servers = settings.credentials.iter().flat_map(|spec| &spec.steps).filter_map(|step| step.server.as_deref());
    let urls = servers.flat_map(|server| {
        std::iter::once(server.location.url()).chain(server.endpoints.iter().map(|(_, url)| url.as_str()))
    });
    urls.filter_map(authority_of).collect()
}

fn authority_of(url: &str) -> Option<Authority> {
    let url: http::Uri = url.parse().ok()?;
    let port = if url.scheme_str() == Some("http") { 80 } else { 443 };
    Authority::parse(url.authority()?.as_str(), Some(port)).ok()
}

/// Names a process; no secret.
///
/// # Errors
/// The machine gives no random bytes.
pub fn random_instance() -> Result<u64, identity::NoRandomness> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| identity::NoRandomness)?;
    Ok(u64::from_le_bytes(bytes))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn spawn_admin(
    listener: admin::Listener,
    settings: &config::Settings,
    shared: &Arc<Shared>,
    drain: Drain,
) -> Result<tokio::task::JoinHandle<()>, Error> {
    let key = admin::load_or_create_key(&settings.state)?;
    let admin = tokens::admin(shared, key, drain.watch());
    drop(drain);
    Ok(tokio::spawn(async move {
        admin::serve(listener, admin, std::future::pending()).await;
    }))
}

/// The bound sockets of every listener, one of each for every worker.
#[derive(Default)]
struct Sockets {
    forward: Vec<ListenAddress>,
    reverse: Vec<ListenAddress>,
    socks: Vec<ListenAddress>,
    files: Vec<SocketFile>,
    /// By listener, then by worker.
    sockets: Vec<Vec<Listening>>,
}

impl Sockets {
    fn bind(settings: &server::Settings, count: usize) -> Result<Self, Error> {
        let mut bound = Self::default();
        for listener in &settings.forward {
            let address = bound.add(&listener.listen, count)?;
            bound.forward.push(address);
        }
        for listener in &settings.reverse {
            let address = bound.add(&listener.listen, count)?;
            bound.reverse.push(address);
        }
        for listener in &settings.socks {
            let address = bound.add(&listener.listen, count)?;
            bound.socks.push(address);
        }
        Ok(bound)
    }

    fn add(&mut self, address: &ListenAddress, count: usize) -> Result<ListenAddress, Error> {
        let failed = |source| Error::Listen { address: address.clone(), source };
        match address {
            ListenAddress::Tcp(tcp) => {
                let sockets = server::bind(*tcp, count).map_err(failed)?;
                let first = sockets.first().ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?;
                let bound = first.local_addr().map_err(failed)?;
                self.sockets.push(sockets.into_iter().map(Listening::Tcp).collect());
                Ok(bound.into())
            }
            ListenAddress::Unix(unix) => {
                let (file, sockets) = server::bind_unix(unix, count).map_err(failed)?;
                self.files.push(file);
                self.sockets.push(sockets.into_iter().map(Listening::Unix).collect());
                Ok(address.clone())
            }
        }
    }

    /// The operator's, which no worker serves.
    fn admin(&mut self, address: &ListenAddress) -> Result<admin::Listener, Error> {
        let failed = |source| Error::Listen { address: address.clone(), source };
        self.add(address, 1)?;
        let socket = self.sockets.pop().and_then(|mut sockets| sockets.pop());
        match socket.ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))? {
            Listening::Tcp(socket) => tokio::net::TcpListener::from_std(socket).map(admin::Listener::Tcp),
            Listening::Unix(socket) => tokio::net::UnixListener::from_std(socket).map(admin::Listener::Unix),
        }
        .map_err(failed)
    }

    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.forward.iter().chain(&self.reverse).chain(&self.socks).filter_map(ListenAddress::tcp)
    }

    fn spawn(
        self,
        settings: &server::Settings,
        worker: &Worker,
        drain: &Drain,
        finished: &watch::Receiver<bool>,
    ) -> Result<Vec<std::thread::JoinHandle<()>>, Error> {
        let doors = doors(settings, worker.shared.recorder.metrics())?;
        let count = self.sockets.iter().map(Vec::len).max().unwrap_or(0);
        let mut workers: Vec<Vec<Socket>> = (0..count).map(|_| Vec::new()).collect();
        for (sockets, door) in self.sockets.into_iter().zip(&doors) {
            for (socket, worker) in sockets.into_iter().zip(&mut workers) {
                worker.push(Socket { socket, door: door.clone() });
            }
        }
        let spawn = |sockets| worker.clone().spawn(sockets, drain.clone(), finished.clone());
        workers.into_iter().map(spawn).collect::<io::Result<_>>().map_err(Error::Thread)
    }
}

fn doors(settings: &server::Settings, metrics: &observe::metrics::Metrics) -> Result<Vec<Door>, Error> {
    let door = |name: &ListenerName, tls: Option<&ListenerTls>, ingress| -> Result<Door, Error> {
        let tls = tls.map(|tls| tls::server::listener_config(&tls.certificate, &tls.key)).transpose()?;
        let places = server::Places::new(settings.limits.connections);
        Ok(Door { ingress, tls, gauge: metrics.connections(name), places })
    };
    let forward = settings.forward.iter().map(|listener| {
        let ingress = Ingress::Forward { listener: listener.name.clone() };
        door(&listener.name, listener.tls.as_ref(), ingress)
    });
    let reverse = settings.reverse.iter().map(|listener| {
        let mounts = listener.mounts.clone().into();
        let ingress = Ingress::Reverse { listener: listener.name.clone(), mounts };
        door(&listener.name, listener.tls.as_ref(), ingress)
    });
    let socks = settings
        .socks
        .iter()
        .map(|listener| door(&listener.name, None, Ingress::Socks { listener: listener.name.clone() }));
    forward.chain(reverse).chain(socks).collect()
}
