//! Which rules name this request, and which credential each gives it. Pure: compiled
//! once from the config, immutable, no I/O and no clock. Knows nothing of keys, tokens
//! or connections, and decides nothing: that is `policy`'s.

pub mod parent;
mod path_pattern;
pub mod pattern;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tie;

use std::{sync::Arc, time::Duration};

use http::Method;
use ipnet::IpNet;
use rustls::ClientConfig;

use crate::primitives::{AgentName, Authority, CanonicalPath, CredentialName, RouteName};

pub use path_pattern::PathPattern;
pub use pattern::{HostPattern, PatternError};
pub use table::{Candidates, NoRoute, Rule, Table};
pub use tie::Tie;

/// What a request wants, in canonical form. The scheme is the one on the way out.
#[derive(Clone, Debug)]
pub struct Target {
    pub scheme: Scheme,
    pub authority: Authority,
    pub method: Method,
    pub path: CanonicalPath,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// One `[[routes]]` entry, parsed.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: RouteName,
    pub hosts: Vec<HostPattern>,
    /// Empty: any method.
    pub methods: Vec<Method>,
    /// Empty: any path.
    pub paths: Vec<PathPattern>,
    pub agents: AgentSet,
    pub effect: Effect,
    pub credential: Option<CredentialBinding>,
    /// `http://` from the agent goes out as `https://`.
    pub upgrade_http: bool,
    /// The protocols that an agent may change to (RFC 9110 §7.8), as tokens of `Upgrade`.
    pub upgrades: Vec<String>,
    /// A token may go over clear-text HTTP to a loopback address.
    pub danger_allow_plaintext: bool,
    pub upstream: Arc<Upstream>,
}

impl Route {
    /// Whether an agent may change to this protocol here. Tokens are compared without regard
    /// to case, as RFC 6455 §4.2.1 does.
    pub fn allows_upgrade(&self, token: &str) -> bool {
        self.upgrades.iter().any(|allowed| allowed.eq_ignore_ascii_case(token))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Allow,
    Deny,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentSet {
    /// `["*"]`.
    Any,
    /// Empty means nobody (threat 41).
    Named(Vec<AgentName>),
}

impl AgentSet {
    pub fn contains(&self, agent: &AgentName) -> bool {
        match self {
            Self::Any => true,
            Self::Named(names) => names.contains(agent),
        }
    }

    /// Whether there may be an agent in both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Any) => true,
            (Self::Any, Self::Named(names)) | (Self::Named(names), Self::Any) => !names.is_empty(),
            (Self::Named(names), other) => names.iter().any(|name| other.contains(name)),
        }
    }
}

/// The credential of a route, with the credential's own list of hosts: the second lock.
#[derive(Clone, Debug)]
pub struct CredentialBinding {
    pub name: CredentialName,
    /// Its place in the broker's list, so that a lease needs no look-up by name.
    pub id: CredentialId,
    /// Empty means nowhere (threat 41).
    pub hosts: Vec<HostPattern>,
    pub refresh_on: RefreshOn,
    /// Answers that repeat the token are cleaned of it (threat 15).
    pub scrub: bool,
    /// What the resource server believes its URL to begin with, for DPoP's `htu`.
    pub htu_base: Option<String>,
}

/// Which of the upstream's answers say that the token is no longer good (standards C5, C6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RefreshOn {
    /// 401 with a challenge that says `invalid_token` (RFC 6750 §3.1).
    #[default]
    InvalidToken,
    /// Any 401: APIs that send no challenge, or one of their own.
    Any401,
    /// No answer does.
    Never,
    /// One of these statuses, and, where it is named, this text at the beginning of the body.
    Answer { statuses: Vec<u16>, body: Option<String> },
}

/// Index into the list of credentials of one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CredentialId(pub usize);

/// How a route's upstream is reached. Routes with equal settings share one (by `Arc`).
#[derive(Debug)]
pub struct Upstream {
    /// Differs wherever two routes' connections may not be shared: part of the pool's key.
    pub id: u32,
    /// Roots and ALPN for the way out.
    pub tls: Arc<ClientConfig>,
    /// `danger_allow_private_addresses`.
    pub private_addresses: Vec<IpNet>,
    /// From the last byte sent to the head of the answer.
    pub response_timeout: Duration,
    /// Past the parent proxy, where there is one.
    pub direct: bool,
}
