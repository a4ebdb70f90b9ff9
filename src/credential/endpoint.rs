//! The way to an authorization server: one HTTP client each, with its own roots, and the
//! exchanges on it. Never follows a redirect, never uses a proxy from the environment, and
//! reads no more of an answer than it may. Knows nothing of what is asked.

use std::{error::Error as _, net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH},
};
use reqwest::Url;
use zeroize::Zeroizing;

use super::{
    AuthorizationServer, Location, Settings,
    discovery::Discovery,
    error::{Fault, Misbehaviour, Outage, SettingsError},
    request::TokenRequest,
};

/// Longest answer to a token request, in bytes (threat 90).
const MAX_ANSWER: usize = 64 * 1024;

/// Longest metadata document, in bytes.
pub(super) const MAX_METADATA: usize = 256 * 1024;

/// An authorization server, ready to be asked.
#[derive(Debug)]
pub(crate) struct Endpoint {
    server: Arc<AuthorizationServer>,
    http: Http,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Known(Url),
    Discovered(Box<Discovery>),
}

impl Endpoint {
    pub(crate) fn new(server: Arc<AuthorizationServer>, settings: &Settings) -> Result<Self, SettingsError> {
        let http = Http::new(&server, settings)?;
        let place = match &server.location {
            Location::TokenEndpoint(text) => {
                Place::Known(http.permitted(text).ok_or_else(|| SettingsError::Url(text.clone()))?)
            }
            Location::Issuer(issuer) => Place::Discovered(Box::new(Discovery::new(issuer, &http)?)),
        };
        Ok(Self { server, http, place })
    }

    /// Whether this was made for `server`.
    pub(crate) fn is_for(&self, server: &Arc<AuthorizationServer>) -> bool {
        Arc::ptr_eq(&self.server, server)
    }

    /// Where token requests go; asks for the metadata where it isn't known.
    pub(crate) async fn token_url(&self) -> Result<Url, Fault> {
        match &self.place {
            Place::Known(url) => Ok(url.clone()),
            Place::Discovered(discovery) => discovery.token_endpoint(&self.http).await,
        }
    }

    /// The token endpoint made no sense: it may have moved.
    pub(crate) fn doubt(&self) {
        match &self.place {
            Place::Known(_) => {}
            Place::Discovered(discovery) => discovery.doubt(),
        }
    }

    /// One token request (RFC 6749 §3.2), and the whole answer.
    pub(crate) async fn post(&self, url: Url, request: &TokenRequest) -> Result<Reply, Fault> {
        let mut post = self
            .http
            .client
            .post(url)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .header(CONTENT_TYPE, request.content_type())
            .body(request.body());
        if let Some(authorization) = request.authorization() {
            post = post.header(AUTHORIZATION, authorization.clone());
        }
        self.http.send(post, MAX_ANSWER).await
    }
}

// === impl Http ===

/// A client that can't be led astray.
#[derive(Debug)]
pub(super) struct Http {
    client: reqwest::Client,
    limit: Duration,
    danger_allow_http: bool,
}

/// An answer, whole; its body is zeroed when dropped.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Http {
    fn new(server: &AuthorizationServer, settings: &Settings) -> Result<Self, SettingsError> {
        let mut tls = server.tls.clone();
        // reqwest leaves a config of ours as it is; a token request a few minutes gains nothing from h2.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .https_only(!server.danger_allow_http)
            .connect_timeout(settings.exchange_timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("cupbearer/", env!("CARGO_PKG_VERSION")));
        for (name, address) in &settings.resolve {
            builder = builder.resolve(name, SocketAddr::new(*address, 0));
        }
        let client = builder.build().map_err(SettingsError::Client)?;
        Ok(Self { client, limit: settings.exchange_timeout, danger_allow_http: server.danger_allow_http })
    }

    /// `text` as a URL that may be asked: https, or http to a loopback address where that is
    /// allowed (A2); no user information, no fragment.
    pub(super) fn permitted(&self, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok()?;
        let host = url.host_str()?;
        let scheme = match url.scheme() {
            "https" => true,
            "http" => self.danger_allow_http && is_loopback(host),
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
        match tokio::time::timeout(self.limit, exchange(request, cap)).await {
            Ok(result) => result,
            Err(_) => Err(Fault::outage(Outage::Slow(self.limit), None)),
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
    Ok(Reply { status: response.status(), headers: std::mem::take(response.headers_mut()), body })
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
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}
