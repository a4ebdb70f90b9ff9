//! Host patterns, parsed once, and what is wrong with a pattern. They know canonical
//! authorities only, and nothing of routes: which of two matching rules counts is
//! `table`'s business.

use std::{fmt, sync::Arc};

use crate::primitives::{Authority, Host, HostError};

use super::Scheme;

/// Why a pattern was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("{0}")]
    Host(#[from] HostError),
    #[error("`*` stands alone for the first label only, as in `*.example.com`")]
    Wildcard,
    #[error("a path pattern starts with `/`")]
    NotAbsolute,
    #[error("`*` and `**` stand for whole segments, as in `/v1/*/items/**`")]
    Glob,
    #[error("the path is not in its plain form")]
    AmbiguousPath,
}

/// `orders.example.com`, `*.example.com`, either with `:port`. Without a port, the
/// scheme's default one. `*.x` stands for one label or more before `.x`: it matches
/// neither `x` nor `evilx`, and no IP address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern {
    name: HostName,
    port: Option<u16>,
}

/// The host of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum HostName {
    Exact(Host),
    /// What follows `*.`, in canonical form.
    Below(Arc<str>),
}

// === impl HostPattern ===

impl HostPattern {
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (wildcard, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        if rest.contains('*') {
            return Err(PatternError::Wildcard);
        }
        let (host, port) = match Authority::parse(rest, None) {
            Ok(authority) => (authority.host().clone(), Some(authority.port())),
            Err(HostError::NoPort) => (Host::parse(rest)?, None),
            Err(error) => return Err(error.into()),
        };
        let name = match (wildcard, host) {
            (false, host) => HostName::Exact(host),
            (true, Host::Name(suffix)) => HostName::Below(suffix),
            (true, Host::Ip(_)) => return Err(PatternError::Wildcard),
        };
        Ok(Self { name, port })
    }

    /// `scheme` gives the port that a pattern without one stands for; a `CONNECT`
    /// (scheme not known yet) passes `None`, and then 80 and 443 both match.
    pub fn matches(&self, authority: &Authority, scheme: Option<Scheme>) -> bool {
        let port = match self.port {
            Some(port) => authority.port() == port,
            None => is_default_port(authority.port(), scheme),
        };
        port && self.names(authority.host())
    }

    /// The host that it names, or the one that all it names are below.
    pub fn top(&self) -> Host {
        match &self.name {
            HostName::Exact(host) => host.clone(),
            HostName::Below(suffix) => Host::Name(suffix.clone()),
        }
    }

    /// Whatever the port.
    pub(super) fn names(&self, host: &Host) -> bool {
        match (&self.name, host) {
            (HostName::Exact(own), host) => own == host,
            (HostName::Below(suffix), Host::Name(name)) => {
                // Label by label: what stands before the suffix ends with a dot (threat 27).
                name.strip_suffix(&**suffix).is_some_and(|before| before.ends_with('.'))
            }
            (HostName::Below(_), Host::Ip(_)) => false,
        }
    }

    pub(super) fn name(&self) -> &HostName {
        &self.name
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.port
    }
}

/// Whether `port` is the one that a URL of this scheme leaves out.
pub(super) fn is_default_port(port: u16, scheme: Option<Scheme>) -> bool {
    match scheme {
        Some(scheme) => port == scheme.default_port(),
        None => port == Scheme::Http.default_port() || port == Scheme::Https.default_port(),
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            HostName::Exact(host) => host.fmt(f)?,
            HostName::Below(suffix) => write!(f, "*.{suffix}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}
