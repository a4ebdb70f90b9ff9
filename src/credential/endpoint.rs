//! The way to an authorization server: one HTTP client each, with its own roots, and the
//! exchanges on it. Never follows a redirect, never uses a proxy but the config's, and
//! reads no more of an answer than it may. Knows nothing of what is asked.

mod search;

use std::{
    error::Error as _,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, IF_NONE_MATCH},
};
use reqwest::Url;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};
use zeroize::Zeroizing;

use crate::{primitives::is_metadata_service, tls::ClientIdentity};

use super::{
    AuthorizationServer, ClearText, Location, ParentProxy, Settings,
    discovery::Discovery,
    error::{Failure, Fault, Misbehaviour, Outage, SettingsError},
    metadata::{EndpointKind, Metadata},
    premises::Premises,
    request::TokenRequest,
};

use search::{Search, Searching};

/// Longest answer to a token request, in bytes (threat 90).
const MAX_ANSWER: usize = 64 * 1024;

/// Idle connections kept to one server.
const IDLE: usize = 4;

/// Longest wait for a turn.
const TURN_WAIT: Duration = Duration::from_secs(2);

/// How long a server whose metadata couldn't be had isn't asked for it but for a token.
const REST: Duration = Duration::from_secs(30);

/// Longest metadata document, in bytes.
pub(super) const MAX_METADATA: usize = 256 * 1024;

/// An authorization server, ready to be asked.
#[derive(Debug)]
pub(crate) struct Endpoint {
    server: Arc<AuthorizationServer>,
    http: Http,
    place: Place,
    /// Guards no data: see [`Endpoint::turn`].
    turn: Semaphore,
    /// Until when [`Endpoint::find`] asks no more.
    rest: tokio::sync::Mutex<Option<Instant>>,
    search: Search,
}

#[derive(Debug)]
enum Place {
    Known(Arc<Metadata>),
    Discovered(Box<Discovery>),
}

impl Endpoint {
    pub(crate) fn new(server: Arc<AuthorizationServer>, settings: &Settings) -> Result<Self, SettingsError> {
        let http = Http::new(&server, settings)?;
        let url = |text: &String| http.permitted(text).ok_or_else(|| SettingsError::Url(text.clone()));
        let fixed = server.endpoints.iter().map(|(kind, text)| Ok((*kind, url(text)?)));
        let fixed: Vec<(EndpointKind, Url)> = fixed.collect::<Result<_, SettingsError>>()?;
        let place = match &server.location {
            Location::TokenEndpoint(text) => {
                let mut metadata = Metadata::default();
                metadata.set(EndpointKind::Token, url(text)?);
                fixed.into_iter().for_each(|(kind, url)| metadata.set(kind, url));
                Place::Known(Arc::new(metadata))
            }
            Location::Issuer(issuer) => Place::Discovered(Box::new(Discovery::new(issuer, fixed, &http)?)),
        };
        match &place {
            Place::Known(metadata) => http.premises.learn(metadata),
            Place::Discovered(_) => {}
        }
        let turn = Semaphore::new(1);
        Ok(Self { server, http, place, turn, rest: tokio::sync::Mutex::default(), search: Search::default() })
    }

    /// Whether this was made for `server`.
    pub(crate) fn is_for(&self, server: &Arc<AuthorizationServer>) -> bool {
        Arc::ptr_eq(&self.server, server)
    }

    pub(crate) fn name(&self) -> &str {
        self.server.name.as_str()
    }

    /// As configured: it needs no look-up.
    pub(crate) fn issuer(&self) -> Option<&str> {
        match &self.place {
            Place::Known(_) => None,
            Place::Discovered(discovery) => Some(discovery.issuer()),
        }
    }

    /// Asks for the metadata where it isn't known.
    pub(crate) async fn metadata(&self) -> Result<Arc<Metadata>, Fault> {
        match &self.place {
            Place::Known(metadata) => Ok(metadata.clone()),
            Place::Discovered(discovery) => {
                let metadata = discovery.metadata(&self.http).await?;
                self.http.premises.learn(&metadata);
                Ok(metadata)
            }
        }
    }

    /// What is known of where it is.
    pub(crate) fn premises(&self) -> &Premises {
        &self.http.premises
    }

    /// Asks for the metadata where it isn't known, though no token is wanted: not by each who
    /// would like to know, when the server is away.
    pub(crate) async fn find(&self) {
        let mut rest = self.rest.lock().await;
        let resting = rest.is_some_and(|until| Instant::now() < until);
        if !resting && self.premises().is_incomplete() && self.metadata().await.is_err() {
            *rest = Some(Instant::now() + REST);
        }
    }

    /// Whether a look-up would tell no more: a connection has told the server's addresses, or
    /// a parent proxy does the looking up.
    pub(crate) fn is_located(&self) -> bool {
        self.http.plan.parent.is_some() || self.premises().unlocated().is_empty()
    }

    /// Has the server's addresses looked up, where they aren't known: by one for all who would
    /// like to know, and for a while by nobody when it was in vain. Says whether
    /// [`located`](Self::located) is worth the wait.
    pub(crate) fn locate_behind(self: &Arc<Self>, runtime: &Handle) -> bool {
        if self.is_located() || self.search.rests() {
            return false;
        }
        if let Some(begun) = Searching::begin(self) {
            // A task of its own: when all have left who asked, it is still the only one.
            runtime.spawn(async move { begun.endpoint().look_up().await });
        }
        true
    }

    /// Returns when nobody looks for its addresses any more.
    pub(crate) async fn located(&self) {
        self.search.over().await;
    }

    async fn look_up(&self) {
        let plan = &self.http.plan;
        for name in self.premises().unlocated() {
            match plan.resolve.iter().find(|(known, _)| **known == *name) {
                Some((_, address)) => self.premises().reached(*address),
                None => {
                    let found = timeout(plan.limit, tokio::net::lookup_host((&*name, 0))).await;
                    let found = found.into_iter().flatten().flatten();
                    found.for_each(|address| self.premises().reached(address.ip()));
                }
            }
        }
    }

    /// As [`find`](Self::find), behind the caller's back, unless somebody does so already.
    pub(crate) fn find_behind(self: &Arc<Self>, runtime: &Handle) {
        if !self.premises().is_incomplete() {
            return;
        }
        let resting = self.rest.try_lock().map(|rest| rest.is_some_and(|until| Instant::now() < until));
        if matches!(resting, Ok(false)) {
            let endpoint = Arc::clone(self);
            runtime.spawn(async move { endpoint.find().await });
        }
    }

    /// Where requests of this kind go.
    pub(crate) async fn url(&self, kind: EndpointKind, mtls: bool) -> Result<Url, Fault> {
        let metadata = self.metadata().await?;
        metadata.url(kind, mtls).cloned().ok_or_else(|| Fault::protocol(Misbehaviour::NoEndpoint(kind.as_str())))
    }

    /// One's turn with a DPoP nonce. A server that takes its newest only would refuse each of
    /// several credentials for the nonce that it has just told another one. `None`: who has it
    /// is slow, and a nonce is worth another try.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        timeout(TURN_WAIT, self.turn.acquire()).await.ok()?.ok()
    }

    /// The token endpoint made no sense: it may have moved.
    pub(crate) fn doubt(&self) {
        match &self.place {
            Place::Known(_) => {}
            Place::Discovered(discovery) => discovery.doubt(),
        }
    }

    /// One request (RFC 6749 §3.2), and the whole answer. `identity`: what the connection
    /// shows of us (RFC 8705).
    pub(crate) async fn send(
        &self,
        url: Url,
        request: &TokenRequest,
        identity: Option<&Arc<ClientIdentity>>,
    ) -> Result<Reply, Fault> {
        let client = match identity {
            Some(identity) => self.http.showing(identity)?,
            None => self.http.client.clone(),
        };
        let mut sent =
            client.request(request.method().clone(), url).header(ACCEPT, HeaderValue::from_static("application/json"));
        match request.content_type() {
            Some(content_type) => sent = sent.header(CONTENT_TYPE, content_type).body(request.body()),
            // RFC 9110 §8.6. GitHub answers 411 where nothing says that nothing comes.
            None if *request.method() != Method::GET => {
                sent = sent.header(CONTENT_LENGTH, HeaderValue::from_static("0"))
            }
            None => {}
        }
        if let Some(authorization) = request.authorization() {
            sent = sent.header(AUTHORIZATION, authorization.clone());
        }
        let mut fields = HeaderMap::new();
        for (name, value) in request.headers() {
            fields.insert(name.clone(), value.clone());
        }
        // Replaces what stands there: the operator's `Accept` counts.
        self.http.send(sent.headers(fields), MAX_ANSWER).await
    }
}

// === impl Http ===

/// A client that can't be led astray.
#[derive(Debug)]
pub(super) struct Http {
    plan: Plan,
    client: reqwest::Client,
    premises: Premises,
    /// Clients that show an identity, the newest last: two while one replaces the other.
    showing: Mutex<Vec<(u64, reqwest::Client)>>,
}

/// How clients to one server are made.
#[derive(Debug)]
struct Plan {
    limit: Duration,
    clear_text: ClearText,
    /// Without an identity.
    tls: rustls::ClientConfig,
    resolve: Vec<(String, IpAddr)>,
    parent: Option<ParentProxy>,
}

impl Plan {
    fn client(&self, tls: rustls::ClientConfig, idle: usize) -> Result<reqwest::Client, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .https_only(self.clear_text == ClearText::Never)
            .connect_timeout(self.limit)
            .pool_max_idle_per_host(idle)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("cupbearer/", env!("CARGO_PKG_VERSION")));
        for (name, address) in &self.resolve {
            builder = builder.resolve(name, SocketAddr::new(*address, 0));
        }
        if let Some(parent) = &self.parent {
            builder = builder.proxy(parent.for_requests());
        }
        builder.build()
    }
}

/// An answer, whole; its body is zeroed when dropped.
#[derive(Debug)]
pub(crate) struct Reply {
    from: Option<SocketAddr>,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Http {
    fn new(server: &AuthorizationServer, settings: &Settings) -> Result<Self, SettingsError> {
        let mut tls = server.tls.clone();
        // reqwest leaves a config of ours as it is; a token request a few minutes gains nothing from h2.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let plan = Plan {
            limit: settings.exchange_timeout,
            clear_text: server.clear_text,
            tls,
            resolve: settings.resolve.clone(),
            parent: settings.parent.clone(),
        };
        let client = plan.client(plan.tls.clone(), IDLE).map_err(SettingsError::Client)?;
        let premises = match &server.location {
            Location::Issuer(issuer) => Premises::of_issuer(issuer),
            Location::TokenEndpoint(_) => Premises::default(),
        };
        Ok(Self { plan, client, premises, showing: Mutex::default() })
    }

    /// A client whose connections show `identity`. They aren't kept: a server that stops
    /// taking a certificate looks at it in a handshake only.
    fn showing(&self, identity: &Arc<ClientIdentity>) -> Result<reqwest::Client, Fault> {
        let mut showing = self.showing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = showing.iter().find(|(id, _)| *id == identity.id()) {
            return Ok(client.clone());
        }
        let client = self.plan.client(identity.shown_by(&self.plan.tls), 0);
        let client = client.map_err(|error| Fault::settings(SettingsError::Client(error)))?;
        if showing.len() >= 4 {
            showing.remove(0);
        }
        showing.push((identity.id(), client.clone()));
        Ok(client)
    }

    /// `text` as a URL that may be asked: https, or http to an address of this machine where
    /// that is allowed (A2); no user information, no fragment.
    pub(super) fn permitted(&self, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok()?;
        let host = url.host_str()?;
        let scheme = match url.scheme() {
            "https" => true,
            "http" => match self.plan.clear_text {
                ClearText::Never => false,
                ClearText::Loopback => is_loopback(host),
                ClearText::Metadata => is_loopback(host) || is_metadata(host),
            },
            _ => false,
        };
        let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        (scheme && plain).then_some(url)
    }

    /// One GET of a metadata document.
    pub(super) async fn get(&self, url: Url, etag: Option<&HeaderValue>) -> Result<Reply, Fault> {
        let mut get = self.client.get(url).header(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(etag) = etag {
            get = get.header(IF_NONE_MATCH, etag.clone());
        }
        self.send(get, MAX_METADATA).await
    }

    /// The limit spans everything from the connect to the last byte, so that an answer that
    /// drips ends too.
    async fn send(&self, request: reqwest::RequestBuilder, cap: usize) -> Result<Reply, Fault> {
        if let Some(parent) = &self.plan.parent {
            parent.prepare().await.map_err(|error| Fault::terminal(Failure::Source(error)))?;
        }
        let limit = self.plan.limit;
        match timeout(limit, exchange(request, cap)).await {
            Ok(result) => {
                let address = result.as_ref().ok().and_then(|reply| reply.from);
                // By way of a parent it is the parent's.
                if let Some(address) = address.filter(|_| self.plan.parent.is_none()) {
                    self.premises.reached(address.ip());
                }
                result
            }
            Err(_) => Err(Fault::outage(Outage::Slow(limit), None)),
        }
    }
}

async fn exchange(request: reqwest::RequestBuilder, cap: usize) -> Result<Reply, Fault> {
    let mut response = request.send().await.map_err(sort)?;
    let too_large = || Fault::protocol(Misbehaviour::TooLarge(cap));
    if response.content_length().is_some_and(|length| length > cap as u64) {
        return Err(too_large());
    }
    // Made whole at once: a buffer that grows leaves copies behind that nobody zeroes.
    let mut body = Zeroizing::new(Vec::with_capacity(cap));
    while let Some(chunk) = response.chunk().await.map_err(sort)? {
        if body.len() + chunk.len() > cap {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    let headers = std::mem::take(response.headers_mut());
    Ok(Reply { from: response.remote_addr(), status: response.status(), headers, body })
}

/// A certificate that doesn't verify is no outage: it is no use to try again at once.
fn sort(error: reqwest::Error) -> Fault {
    let error = error.without_url();
    if is_untrusted(&error) {
        Fault::protocol(Misbehaviour::Tls(error))
    } else if error.is_builder() {
        Fault::protocol(Misbehaviour::Request(error))
    } else if error.is_connect() {
        Fault::outage(Outage::Connect(error), None)
    } else {
        Fault::outage(Outage::Broken(error), None)
    }
}

fn is_untrusted(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return matches!(
                error,
                rustls::Error::InvalidCertificate(_)
                    | rustls::Error::NoCertificatesPresented
                    | rustls::Error::UnsupportedNameType
                    | rustls::Error::PeerIncompatible(_)
            );
        }
        // An `io::Error` steps over what it wraps when asked for its source.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || address(host).is_some_and(|address| address.is_loopback())
}

/// The metadata server of a cloud: a link-local address, an IPv6 address that clouds give it, or
/// the name that Google does.
fn is_metadata(host: &str) -> bool {
    let is_one = |address| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || is_metadata_service(address),
    };
    host == "metadata.google.internal" || address(host).is_some_and(is_one)
}

fn address(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_text_is_for_metadata_servers() {
        for host in ["169.254.169.254", "[fe80::1]", "[fd00:ec2::254]", "[fd20:ce::254]", "metadata.google.internal"] {
            assert!(is_metadata(host), "{host}");
        }
        for host in ["[fd12::1]", "[fd00:ec2::253]", "10.0.0.1", "[2001:db8::1]", "metadata.google.example"] {
            assert!(!is_metadata(host), "{host}");
        }
    }
}
