//! Tokens: how each is got, kept and renewed. Knows nothing of the request but its
//! [`Permit`].
//!
//! ```text
//! lease(&permit) -> slot of the credential
//!   fresh                 -> Lease (one atomic load)
//!   in the refresh window -> Lease now, a flight starts behind it
//!   missing or expired    -> join the flight
//! a flight is its own task on the control runtime, owned by the broker: a caller that
//! leaves kills nobody's refresh
//! ```

pub mod cache;
pub mod client_auth;
pub mod endpoint;
pub mod error;
pub mod grant;
pub mod source;

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use rustls::ClientConfig;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    observe::{Noted, Record, Recorder},
    policy::Permit,
    primitives::{AuthorizationServerName, Clock, CredentialName, Fingerprint},
};

pub use error::Error;
pub use source::Source;

/// How a token is got: never a secret's value, only where it is.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: CredentialName,
    pub server: Arc<AuthorizationServer>,
    /// Each step's output may be the next one's subject; the last one's is the token.
    pub steps: Vec<grant::Step>,
    /// For an answer with neither `expires_in` nor a JWT `exp`.
    pub default_ttl: Duration,
    /// Fail where the server grants more scopes than were asked for.
    pub strict_scopes: bool,
}

/// One `[authorization_servers.NAME]`.
#[derive(Clone, Debug)]
pub struct AuthorizationServer {
    pub name: AuthorizationServerName,
    pub location: Location,
    /// Roots for this server's certificate.
    pub tls: ClientConfig,
    /// `danger_allow_http`: clear text, for a loopback address only (A2).
    pub danger_allow_http: bool,
}

/// Where the token endpoint is. URLs are `https`, checked by `config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Found by RFC 8414 or OIDC discovery; compared code point by code point.
    Issuer(String),
    TokenEndpoint(String),
}

/// Limits of token requests.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For one HTTP exchange with an authorization server.
    pub exchange_timeout: Duration,
    /// How long a request waits for a token at most.
    pub lease_timeout: Duration,
    /// A token got by a forced renewal is not renewed again by force for this long (C7).
    pub storm_guard: Duration,
    /// Names that resolve to fixed addresses instead of DNS: `[resolve]`.
    pub resolve: Vec<(String, std::net::IpAddr)>,
}

/// Gives leases. One for the process, shared by all workers.
#[derive(Clone, Debug)]
pub struct Broker {}

impl Broker {
    /// `runtime` is where flights run: the control runtime, not a worker's.
    pub fn new(
        _specs: Vec<Spec>,
        _settings: Settings,
        _clock: Arc<dyn Clock>,
        _recorder: Recorder,
        _runtime: Handle,
    ) -> Result<Self, Error> {
        todo!()
    }

    /// A broker for a new config. A credential whose settings didn't change keeps its token.
    pub fn reconfigured(&self, _specs: Vec<Spec>, _settings: Settings) -> Result<Self, Error> {
        todo!()
    }

    /// The token for a permitted request; an empty lease where the route has no credential.
    pub async fn lease(&self, _permit: &Permit) -> Result<Lease, Error> {
        todo!()
    }

    /// After an upstream refused `lease`'s token: drops that generation only and gets a
    /// different one. `Ok(None)`: there is none to be had now (storm guard), pass the answer on.
    pub async fn renew(&self, _permit: &Permit, _lease: &Lease) -> Result<Option<Lease>, Error> {
        todo!()
    }

    /// For `token list|show` and the metrics.
    pub fn states(&self) -> Vec<TokenState> {
        todo!()
    }

    /// `token refresh NAME` and `check --online`: one token request now, whatever is cached.
    pub async fn refresh(&self, _name: &CredentialName) -> Result<TokenState, Error> {
        todo!()
    }
}

/// The right to send one request with one token.
#[derive(Clone, Debug)]
pub struct Lease {
    token: Option<Arc<Token>>,
    wait: Duration,
}

impl Lease {
    /// `Authorization`'s value, marked sensitive; built once a token.
    pub fn header(&self) -> Option<&HeaderValue> {
        self.token.as_ref().map(|token| &token.header)
    }

    pub fn generation(&self) -> Option<u64> {
        self.token.as_ref().map(|token| token.generation)
    }
}

impl Noted for Lease {
    fn note(&self, _record: &mut Record) {
        let _ = self.wait;
        todo!()
    }
}

/// A token at hand.
#[derive(Debug)]
pub(crate) struct Token {
    header: HeaderValue,
    generation: u64,
    #[expect(dead_code, reason = "skeleton")]
    fingerprint: Fingerprint,
    #[expect(dead_code, reason = "skeleton")]
    expires_at: Instant,
}

/// What can be told of a credential's token without telling the token.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TokenState {
    pub credential: String,
    pub grant: &'static str,
    pub authorization_server: String,
    /// `none`, `valid`, `refreshing`, `expired`, `failing`.
    pub state: &'static str,
    pub expires_in_seconds: Option<u64>,
    pub generation: u64,
    pub fingerprint: Option<String>,
    pub scope: Option<String>,
    pub audience: Option<String>,
    pub last_error: Option<String>,
    pub next_attempt_in_seconds: Option<u64>,
}
