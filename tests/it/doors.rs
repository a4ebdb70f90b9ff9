//! The stage's rules behind doors of their own, whose way out is the test's: what is looked
//! up is noted, and where a dial leads is chosen.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
};

use cupbearer::{
    config,
    primitives::{Clock, ListenerName, SystemClock},
    proxy::{Ingress, Proxy},
    server::{Door, Drain, DrainHandle, Places, connection::Connections, listener::accept_loop},
    tls::{CertificateAuthority, LeafCache},
    upstream::{Client, Dial, Resolve, Stream, TcpDial, Wall},
};
use tokio::net::TcpListener;

use crate::support::Stage;

/// What every name resolves to, but for those that start with `private`.
pub const PUBLIC: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(93, 184, 216, 34));

pub struct OwnDoors {
    pub forward: SocketAddr,
    pub reverse: SocketAddr,
    pub socks: SocketAddr,
    names: Arc<Names>,
    _drain: DrainHandle,
}

impl OwnDoors {
    /// `far_end`: where every dial of [`PUBLIC`] leads; `None`: it is refused.
    pub async fn open(stage: &Stage, far_end: Option<SocketAddr>) -> Self {
        let settings =
            config::load(&stage.config_path()).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let names = Arc::new(Names::default());
        let upstream = Client::new(settings.upstream, Wall::default(), names.clone(), Arc::new(FarEnd(far_end)));
        let proxy = Proxy::new(Arc::clone(stage.proxy.shared()), upstream);
        let authority = Arc::new(CertificateAuthority::ephemeral(&clock).unwrap());
        let leaves = Arc::new(LeafCache::new(authority, clock, 10).unwrap());
        let connections = Arc::new(Connections { proxy, leaves, limits: settings.server.limits });
        let (handle, drain) = Drain::new();
        let name = |text| ListenerName::parse(text).unwrap();
        let mounts = settings.server.reverse[0].mounts.clone().into();
        let doors = [
            Ingress::Forward { listener: name("proxy") },
            Ingress::Reverse { listener: name("orders-base-url"), mounts },
            Ingress::Socks { listener: name("socks") },
        ];
        let mut addresses = Vec::new();
        for ingress in doors {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let gauge = stage.proxy.recorder().metrics().connections(&name("proxy"));
            let door = Door { ingress, tls: None, gauge, places: Places::new(100) };
            tokio::spawn(accept_loop(listener, door, Arc::clone(&connections), drain.clone()));
        }
        Self { forward: addresses[0], reverse: addresses[1], socks: addresses[2], names, _drain: handle }
    }

    /// The names that were looked up.
    pub fn asked(&self) -> Vec<String> {
        self.names.0.lock().unwrap().clone()
    }
}

#[derive(Debug, Default)]
struct Names(Mutex<Vec<String>>);

impl Resolve for Names {
    fn resolve<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>> {
        self.0.lock().unwrap().push(host.to_owned());
        let address = if host.starts_with("private") { [10, 0, 0, 1].into() } else { PUBLIC };
        Box::pin(async move { Ok(vec![address]) })
    }
}

#[derive(Debug)]
struct FarEnd(Option<SocketAddr>);

impl Dial for FarEnd {
    fn dial<'a>(&'a self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + 'a>> {
        assert_eq!(address.ip(), PUBLIC, "another address was dialled");
        Box::pin(async move {
            match self.0 {
                Some(far_end) => TcpDial.dial(far_end).await,
                None => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}
