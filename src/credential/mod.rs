//! Tokens: how each is got, kept and renewed. Knows nothing of the request but its
//! [`Permit`](crate::policy::Permit).
//!
//! ```text
//! lease(&permit) -> slot of the credential
//!   fresh                 -> Lease (one atomic load)
//!   in the refresh window -> Lease now, a flight starts behind it
//!   missing or expired    -> join the flight
//! a flight is its own task on the control runtime, owned by the broker: a caller that
//! leaves kills nobody's refresh
//! ```
//!
//! A flight: `exchange` walks the steps; `grant` writes the request, `client_auth` signs it,
//! `endpoint` sends it, `response` sorts the answer, `expiry` says how long it holds, `cache`
//! publishes it.

mod broker;
mod cache;
pub mod client_auth;
mod digest;
mod discovery;
mod endpoint;
pub mod error;
mod exchange;
mod expiry;
pub mod grant;
mod pace;
mod request;
mod response;
pub mod source;
pub mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::HeaderValue;
use rustls::ClientConfig;
use tokio::time::Instant;

use crate::{
    observe::{Noted, Record, TokenUse},
    primitives::{AuthorizationServerName, CredentialName, Fingerprint},
};

pub use broker::Broker;
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

impl Location {
    /// The URL that the config names.
    pub fn url(&self) -> &str {
        match self {
            Self::Issuer(url) | Self::TokenEndpoint(url) => url,
        }
    }
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
    pub resolve: Vec<(String, IpAddr)>,
}

/// The right to send one request with one token.
#[derive(Clone, Debug)]
pub struct Lease {
    token: Option<Arc<Token>>,
    wait: Duration,
}

impl Lease {
    fn new(token: Arc<Token>, wait: Duration) -> Self {
        Self { token: Some(token), wait }
    }

    /// For a route without a credential.
    fn none() -> Self {
        Self { token: None, wait: Duration::ZERO }
    }

    /// `Authorization`'s value, marked sensitive; built once a token.
    pub fn header(&self) -> Option<&HeaderValue> {
        self.token.as_ref().map(|token| &token.header)
    }

    pub fn generation(&self) -> Option<u64> {
        self.token.as_ref().map(|token| token.generation)
    }
}

impl Noted for Lease {
    fn note(&self, record: &mut Record) {
        record.token = self.token.as_ref().map(|token| TokenUse {
            credential: token.credential.clone(),
            fingerprint: token.fingerprint,
            generation: token.generation,
            wait: self.wait,
        });
    }
}

/// A token at hand.
pub(crate) struct Token {
    credential: CredentialName,
    header: HeaderValue,
    generation: u64,
    fingerprint: Fingerprint,
    /// As the server granted it, where it said so.
    scope: Option<String>,
    /// From here on a flight brings the next one.
    refresh_at: Instant,
    /// From here on it is not sent any more.
    expires_at: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({} #{}, {})", self.credential, self.generation, self.fingerprint)
    }
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
