//! A bounded cache of ready TLS server settings, one per intercepted host. Knows the
//! CA and the clock; not which hosts may be intercepted (that is decided before).
//!
//! A hit is a read lock, one hash and an `Arc` clone. A miss mints (about 50 µs)
//! with no lock held: connections that arrive at once for a new host may mint it once
//! a thread, and all of them then use the first one stored.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use rustls::{
    ServerConfig,
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::primitives::{Clock, Host};

use super::{CertificateAuthority, Error, Leaf, http_alpn, provider};

/// `ServerConfig`s under minted leaves, by host.
#[derive(Debug)]
pub struct LeafCache {
    authority: Arc<CertificateAuthority>,
    clock: Arc<dyn Clock>,
    /// All settings but the certificate; each host's are a copy of it, so that all
    /// names share one ticket key.
    template: ServerConfig,
    ring: RwLock<Ring>,
}

impl LeafCache {
    /// At most `capacity` hosts are kept (at least one).
    ///
    /// # Errors
    /// Where the system gives no random ticket key.
    pub fn new(authority: Arc<CertificateAuthority>, clock: Arc<dyn Clock>, capacity: usize) -> Result<Self, Error> {
        let template = template()?;
        Ok(Self { authority, clock, template, ring: RwLock::new(Ring::new(capacity.max(1))) })
    }

    /// Settings to terminate TLS for exactly `host`: ALPN `h2` and `http/1.1`.
    ///
    /// # Errors
    /// Those of [`CertificateAuthority::issue`].
    pub fn server_config(&self, host: &Host) -> Result<Arc<ServerConfig>, Error> {
        let now = self.clock.now();
        if let Some(config) = self.ring.read().unwrap_or_else(PoisonError::into_inner).find(host, now) {
            return Ok(config);
        }
        let leaf = self.authority.issue(host)?;
        let slot = Slot {
            host: host.clone(),
            config: Arc::new(self.config_under(host, &leaf)?),
            renew_at: leaf.renew_at,
            // Not yet: a flood of names that come once must not push out those that come again.
            used: AtomicBool::new(false),
        };
        Ok(self.ring.write().unwrap_or_else(PoisonError::into_inner).store(slot, now))
    }

    pub fn authority(&self) -> &CertificateAuthority {
        &self.authority
    }

    /// How many hosts are kept now.
    pub fn len(&self) -> usize {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn config_under(&self, host: &Host, leaf: &Leaf) -> Result<ServerConfig, Error> {
        let mut config = self.template.clone();
        config.cert_resolver = Arc::new(ForHost { host: host.clone(), key: leaf.certified_key.clone() });
        // rustls resumes a session only under the SNI it began with. Addresses have none, so
        // each gets ticket keys of its own, or a session could move from one to another.
        if host.name().is_none() {
            config.ticketer = ticketer()?;
        }
        Ok(config)
    }
}

fn template() -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(Error::Config)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(NoCertificate));
    server_defaults(&mut config, ticketer()?);
    Ok(config)
}

/// What the intercepting side and our own listeners have in common.
pub(super) fn server_defaults(config: &mut ServerConfig, ticketer: Arc<dyn ProducesTickets>) {
    config.alpn_protocols = http_alpn();
    // Else the client's wish for AES-256 would win over our order.
    config.ignore_client_order = true;
    // Tickets carry the state; without this each config would keep 256 sessions of its own.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ticketer;
    // Each resumed connection gets its next one.
    config.send_tls13_tickets = 1;
    // Early data can be replayed by anyone who recorded it.
    config.max_early_data_size = 0;
    // For our own streams, which have their records by themselves.
    config.enable_secret_extraction = true;
}

pub(super) fn ticketer() -> Result<Arc<dyn ProducesTickets>, Error> {
    rustls::crypto::aws_lc_rs::Ticketer::new().map_err(Error::Config)
}

/// Stands in the template, which never serves a connection.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// The leaf of a host, for those who ask for it or name nobody (threat 42).
#[derive(Debug)]
struct ForHost {
    host: Host,
    key: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ForHost {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let agrees = hello.server_name().is_none_or(|name| Host::parse(name).is_ok_and(|name| name == self.host));
        agrees.then(|| Arc::clone(&self.key))
    }
}

// === impl Ring ===

/// The clock algorithm: a full ring gives up the first slot that nobody used since the
/// hand last passed. A hit only sets a flag, so readers never wait for each other.
#[derive(Debug)]
struct Ring {
    capacity: usize,
    by_host: HashMap<Host, usize>,
    slots: Vec<Slot>,
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    host: Host,
    config: Arc<ServerConfig>,
    renew_at: SystemTime,
    used: AtomicBool,
}

impl Ring {
    fn new(capacity: usize) -> Self {
        Self { capacity, by_host: HashMap::new(), slots: Vec::new(), hand: 0 }
    }

    fn find(&self, host: &Host, now: SystemTime) -> Option<Arc<ServerConfig>> {
        let slot = &self.slots[*self.by_host.get(host)?];
        if now >= slot.renew_at {
            return None;
        }
        // Read first: a flag that is set already must not take the cache line from other cores.
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some(slot.config.clone())
    }

    /// Keeps `slot`, and gives back what is kept for its host: another thread's where
    /// that was faster.
    fn store(&mut self, slot: Slot, now: SystemTime) -> Arc<ServerConfig> {
        if let Some(existing) = self.find(&slot.host, now) {
            return existing;
        }
        let config = slot.config.clone();
        if let Some(&index) = self.by_host.get(&slot.host) {
            self.slots[index] = slot;
        } else if self.slots.len() < self.capacity {
            self.by_host.insert(slot.host.clone(), self.slots.len());
            self.slots.push(slot);
        } else {
            let index = self.victim();
            self.by_host.remove(&self.slots[index].host);
            self.by_host.insert(slot.host.clone(), index);
            self.slots[index] = slot;
        }
        config
    }

    /// Ends after two turns at most: the first one clears every flag.
    fn victim(&mut self) -> usize {
        loop {
            let index = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            if !self.slots[index].used.swap(false, Ordering::Relaxed) {
                return index;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use rustls::{ClientConfig, HandshakeKind, RootCertStore};
    use rustls_pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::{primitives::SystemClock, tls::client};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[derive(Debug)]
    struct Settable(Mutex<SystemTime>);

    impl Settable {
        fn advance(&self, by: Duration) {
            *self.0.lock().unwrap() += by;
        }
    }

    impl Clock for Settable {
        fn now(&self) -> SystemTime {
            *self.0.lock().unwrap()
        }
    }

    fn cache(capacity: usize) -> (LeafCache, tempfile::TempDir) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let directory = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::load_or_create(directory.path(), &clock).unwrap();
        (LeafCache::new(Arc::new(authority), clock, capacity).unwrap(), directory)
    }

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    fn trusting(cache: &LeafCache) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(cache.authority().root_der().clone()).unwrap();
        client::with_own_sessions(&client::upstream_config(roots))
    }

    struct Seen {
        alpn: Option<Vec<u8>>,
        suite: rustls::CipherSuite,
        kind: HandshakeKind,
        chain: usize,
    }

    async fn handshake(
        server: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
        name: &str,
    ) -> Result<Seen, std::io::Error> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let serving = async {
            let mut stream = TlsAcceptor::from(server).accept(far).await?;
            stream.write_all(b"ok").await?;
            stream.shutdown().await
        };
        let connecting = async {
            let mut stream = TlsConnector::from(client).connect(name, near).await?;
            // Reads to the end, so that the tickets behind the handshake are seen.
            stream.read_to_end(&mut Vec::new()).await?;
            let connection = stream.get_ref().1;
            Ok(Seen {
                alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
                suite: connection.negotiated_cipher_suite().unwrap().suite(),
                kind: connection.handshake_kind().unwrap(),
                chain: connection.peer_certificates().unwrap().len(),
            })
        };
        tokio::join!(serving, connecting).1
    }

    #[tokio::test]
    async fn a_client_that_trusts_the_root_accepts_the_right_host_only() {
        let (cache, _directory) = cache(8);
        let client = trusting(&cache);
        for name in ["api.example.com", "127.0.0.1", "::1"] {
            let bracketed = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
            let config = cache.server_config(&host(&bracketed)).unwrap();
            let seen = handshake(config, client.clone(), name).await.unwrap();
            assert_eq!(seen.alpn.as_deref(), Some(&b"h2"[..]), "{name}");
            assert_eq!(seen.suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
            assert_eq!(seen.chain, 2, "leaf and intermediate");
        }
        let config = cache.server_config(&host("api.example.com")).unwrap();
        for name in ["example.com", "other.example.com", "a.api.example.com", "127.0.0.1"] {
            let refused = handshake(config.clone(), client.clone(), name).await;
            let error = refused.map(|_| ()).unwrap_err().to_string();
            let expected = if name == "127.0.0.1" { "not valid for" } else { "AccessDenied" };
            assert!(error.contains(expected), "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn a_client_without_our_root_refuses() {
        let (cache, _directory) = cache(8);
        let (other, _other_directory) = self::cache(8);
        let config = cache.server_config(&host("api.example.com")).unwrap();
        assert!(handshake(config, trusting(&other), "api.example.com").await.is_err());
    }

    #[tokio::test]
    async fn sessions_resume_even_after_the_leaf_was_replaced() {
        let (cache, _directory) = cache(1);
        let client = trusting(&cache);
        let first = cache.server_config(&host("a.example")).unwrap();
        assert_eq!(handshake(first.clone(), client.clone(), "a.example").await.unwrap().kind, HandshakeKind::Full);
        cache.server_config(&host("b.example")).unwrap();
        let again = cache.server_config(&host("a.example")).unwrap();
        assert!(!Arc::ptr_eq(&first, &again), "the bound of one must have evicted it");
        assert_eq!(handshake(again, client, "a.example").await.unwrap().kind, HandshakeKind::Resumed);
    }

    #[tokio::test]
    async fn our_order_of_suites_beats_the_clients() {
        let (cache, _directory) = cache(1);
        let mut roots = RootCertStore::empty();
        roots.add(cache.authority().root_der().clone()).unwrap();
        let theirs = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(theirs)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = cache.server_config(&host("a.example")).unwrap();
        let seen = handshake(config, Arc::new(client), "a.example").await.unwrap();
        assert_eq!(seen.suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(seen.alpn, None);
    }

    #[test]
    fn a_hit_gives_the_same_settings() {
        let (cache, _directory) = cache(8);
        let first = cache.server_config(&host("a.example")).unwrap();
        assert!(Arc::ptr_eq(&first, &cache.server_config(&host("A.Example.")).unwrap()));
        assert_eq!(cache.len(), 1);
    }

    /// Threat 50.
    #[test]
    fn a_flood_of_names_stays_within_the_bound_and_keeps_what_is_used() {
        let (cache, _directory) = cache(4);
        let busy = cache.server_config(&host("busy.example")).unwrap();
        for n in 0..40 {
            cache.server_config(&host(&format!("h{n}.example"))).unwrap();
            assert!(cache.len() <= 4);
            assert!(Arc::ptr_eq(&busy, &cache.server_config(&host("busy.example")).unwrap()), "after {n}");
        }
        assert_eq!(cache.len(), 4);
    }

    #[test]
    fn a_leaf_is_renewed_at_half_of_its_life() {
        let settable = Arc::new(Settable(Mutex::new(SystemClock.now())));
        let clock: Arc<dyn Clock> = settable.clone();
        let directory = tempfile::tempdir().unwrap();
        let authority = Arc::new(CertificateAuthority::load_or_create(directory.path(), &clock).unwrap());
        let cache = LeafCache::new(authority, clock, 4).unwrap();
        let first = cache.server_config(&host("a.example")).unwrap();
        settable.advance(DAY * 7 / 2 - Duration::from_secs(60));
        assert!(Arc::ptr_eq(&first, &cache.server_config(&host("a.example")).unwrap()));
        settable.advance(Duration::from_secs(120));
        let renewed = cache.server_config(&host("a.example")).unwrap();
        assert!(!Arc::ptr_eq(&first, &renewed));
        assert!(Arc::ptr_eq(&renewed, &cache.server_config(&host("a.example")).unwrap()));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn many_threads_agree_on_one_leaf() {
        let (cache, _directory) = cache(16);
        let configs: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| cache.server_config(&host("a.example")).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(configs.iter().all(|config| Arc::ptr_eq(config, &configs[0])));
    }
}
