//! Host and path patterns, parsed once.

use http::Method;

use crate::primitives::{Authority, CanonicalPath, HostError};

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
/// scheme's default one. `*.x` matches neither `x` nor `evilx`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern {}

impl HostPattern {
    pub fn parse(_text: &str) -> Result<Self, PatternError> {
        todo!()
    }

    /// `scheme` gives the port that a pattern without one stands for; a `CONNECT`
    /// (scheme not known yet) passes `None`, and then 80 and 443 both match.
    pub fn matches(&self, _authority: &Authority, _scheme: Option<Scheme>) -> bool {
        todo!()
    }
}

/// `/v1/orders`, `/v1/*/items`, `/v1/orders/**` (also matches `/v1/orders`).
/// `*` is exactly one segment, `**` any number of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern {}

impl PathPattern {
    pub fn parse(_text: &str) -> Result<Self, PatternError> {
        todo!()
    }

    pub fn matches(&self, _path: &CanonicalPath) -> bool {
        todo!()
    }
}

#[expect(dead_code, reason = "skeleton")]
type Unused = Method;
