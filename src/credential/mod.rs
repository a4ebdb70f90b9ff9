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
mod dpop;
mod endpoint;
pub mod error;
mod exchange;
mod expiry;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod grant;
pub mod inject;
pub mod lease;
pub mod login;
pub mod metadata;
mod pace;
mod parent;
mod premises;
mod request;
mod response;
pub mod sign;
pub mod source;
pub mod step;
pub mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tools;
mod vault;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use rustls::ClientConfig;

use crate::primitives::{AuthorizationServerName, CredentialName};

pub use broker::{Asking, Broker, Trespass, subject_of};
pub use error::Error;
pub use inject::Injection;
pub use lease::{Lease, Recipient};
pub use metadata::EndpointKind;
pub use parent::{ParentLogin, ParentProxy};
pub use source::{Source, SourceError};
pub use step::Step;
pub use vault::VaultError;

/// How a token is got and sent: never a secret's value, only where it is.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: CredentialName,
    /// Each step's output may be the next one's subject; the last one's is the token.
    pub steps: Vec<Step>,
    /// Instead of the last step's, for a route that wants other ones.
    pub scopes: Option<Vec<String>>,
    /// What upstreams may make it ask for besides (`insufficient_scope`).
    pub max_scopes: Vec<String>,
    /// For an answer with neither `expires_in` nor a JWT `exp`.
    pub default_ttl: Duration,
    /// Fail where the server grants more scopes than were asked for.
    pub strict_scopes: bool,
    /// Access tokens that a `run` asked for are revoked when it ends.
    pub revoke_after_run: bool,
    pub injection: Injection,
}

impl Spec {
    /// Of the last step: the credential's name in events and metric labels.
    pub fn grant(&self) -> &'static str {
        self.steps.last().map_or("", Step::name)
    }

    /// No server is asked: nothing to share or to keep.
    pub(crate) fn is_local(&self) -> bool {
        self.steps.iter().all(|step| step.server.is_none())
    }

    /// Whether a token is for one agent's subject only.
    pub fn takes_the_agents_token(&self) -> bool {
        self.steps.iter().any(Step::takes_the_agents_token)
    }

    /// Whether tokens hold only on connections that show the client's certificate.
    pub fn binds_tokens(&self) -> bool {
        self.steps.last().is_some_and(|step| step.client.auth.binds_tokens())
    }
}

/// One `[authorization_servers.NAME]`.
#[derive(Clone, Debug)]
pub struct AuthorizationServer {
    pub name: AuthorizationServerName,
    pub location: Location,
    /// Endpoints that the operator names: they count before what the metadata says.
    pub endpoints: Vec<(EndpointKind, String)>,
    /// Roots for this server's certificate.
    pub tls: ClientConfig,
    pub clear_text: ClearText,
}

/// Whether `http` URLs are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClearText {
    #[default]
    Never,
    /// `danger_allow_http`: at a loopback address (A2).
    Loopback,
    /// The metadata server of a cloud, at a link-local address.
    Metadata,
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
    /// What this process asks for ends with it: `run`.
    pub transient: bool,
    /// Between us and authorization servers, and upstreams.
    pub parent: Option<ParentProxy>,
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
    /// What else the server said with the token, by the names of `answer.extra`.
    pub extra: BTreeMap<String, String>,
    /// What the server said of its limits.
    pub quota: Option<String>,
    /// Of the login that it uses.
    pub login: Option<LoginState>,
    pub last_error: Option<String>,
    pub next_attempt_in_seconds: Option<u64>,
}

/// What can be told of a login without telling the refresh token. Times are unix time.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LoginState {
    /// `valid`, `needed`, `expired`.
    pub state: &'static str,
    /// Whose it is: several credentials may use one login.
    pub credential: String,
    /// Counts logins and rotations of the refresh token; 0: there was none.
    pub generation: u64,
    /// Of the refresh token.
    pub fingerprint: Option<String>,
    pub scope: Option<String>,
    pub logged_in_at: Option<u64>,
    pub refreshed_at: Option<u64>,
    /// When a human has to log in again, where the server said so.
    pub ends_at: Option<u64>,
}
