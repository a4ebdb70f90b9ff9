//! Who may ask for what: the registered clients.

use crate::primitives::Secret;

/// A registered client. With `..Client::default()` only what matters has to be named; a
/// client that is given no method, grant or audience gets nothing.
#[derive(Clone, Debug, Default)]
pub struct Client {
    pub id: String,
    /// Any of them is accepted: several during a rotation.
    pub secrets: Vec<Secret>,
    pub auth_methods: Vec<AuthMethod>,
    pub grants: Vec<GrantType>,
    /// What it may ask for, and what it gets where it asks for nothing (RFC 6749 §3.3).
    pub scopes: Vec<String>,
    pub audiences: Vec<String>,
    /// Where a request names no audience. `None`: such a request is refused.
    pub default_audience: Option<String>,
    /// A refresh may name any of `audiences`, not only those that were granted first
    /// (Auth0's multi-resource refresh tokens).
    pub multi_resource_refresh: bool,
}

/// How a client shows who it is (the names of RFC 7591 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    ClientSecretBasic,
    ClientSecretPost,
}

/// A grant that this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantType {
    ClientCredentials,
    RefreshToken,
}

// === impl AuthMethod ===

impl AuthMethod {
    pub(super) const ALL: [Self; 2] = [Self::ClientSecretBasic, Self::ClientSecretPost];

    /// As metadata says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientSecretBasic => "client_secret_basic",
            Self::ClientSecretPost => "client_secret_post",
        }
    }
}

// === impl GrantType ===

impl GrantType {
    pub(super) const ALL: [Self; 2] = [Self::ClientCredentials, Self::RefreshToken];

    /// As `grant_type` and metadata say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::RefreshToken => "refresh_token",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant| grant.name() == name)
    }
}
