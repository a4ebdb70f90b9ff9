//! Grants: one RFC a file. A credential is a list of steps; a step makes its request from
//! its own settings (and, later, from the token of the step before it). Knows no network.

pub mod client_credentials;

pub use client_credentials::ClientCredentials;

use super::{client_auth::Client, error::SettingsError, request::TokenRequest};

/// One exchange with an authorization server.
#[derive(Clone, Debug)]
pub enum Step {
    /// RFC 6749 §4.4.
    ClientCredentials(ClientCredentials),
}

impl Step {
    /// The name in the config, in events and in metric labels.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ClientCredentials(_) => client_credentials::GRANT,
        }
    }

    pub fn scopes(&self) -> &[String] {
        match self {
            Self::ClientCredentials(grant) => &grant.scopes,
        }
    }

    pub fn audience(&self) -> Option<&str> {
        match self {
            Self::ClientCredentials(grant) => grant.audience.as_deref(),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        match self {
            Self::ClientCredentials(grant) => &grant.client,
        }
    }

    /// The request before the client signs it; made anew for every attempt.
    pub(crate) fn request(&self) -> Result<TokenRequest, SettingsError> {
        match self {
            Self::ClientCredentials(grant) => grant.request(),
        }
    }
}

/// The operator's own parameters. Those that decide who asks for what by which method have
/// settings of their own: through `params` they would evade the cache key or be sent twice.
fn set_params(request: &mut TokenRequest, params: &[(String, String)]) -> Result<(), SettingsError> {
    const RESERVED: &[&str] =
        &["grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "resource"];
    for (name, value) in params {
        if RESERVED.contains(&name.as_str()) {
            return Err(SettingsError::ReservedParameter(name.clone()));
        }
        request.set(name, value)?;
    }
    Ok(())
}
