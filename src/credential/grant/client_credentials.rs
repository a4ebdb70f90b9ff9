//! `client_credentials` (RFC 6749 §4.4).

use crate::credential::{client_auth::Client, error::SettingsError, request::TokenRequest};

pub(super) const GRANT: &str = "client_credentials";

/// What the token request asks for.
#[derive(Clone, Debug)]
pub struct ClientCredentials {
    pub client: Client,
    pub audience: Option<String>,
    pub scopes: Vec<String>,
    /// RFC 8707; may repeat.
    pub resource: Vec<String>,
    /// Anything else the server wants.
    pub params: Vec<(String, String)>,
    pub body: BodyFormat,
}

/// How the token request's parameters are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BodyFormat {
    /// `application/x-www-form-urlencoded`, as RFC 6749 says.
    #[default]
    Form,
    /// `application/json`, which Auth0 takes too.
    Json,
}

impl ClientCredentials {
    /// The request before the client signs it.
    pub(super) fn request(&self) -> Result<TokenRequest, SettingsError> {
        let mut request = TokenRequest::new(GRANT, self.body);
        if let Some(audience) = &self.audience {
            request.set("audience", audience)?;
        }
        if !self.scopes.is_empty() {
            request.set("scope", &self.scopes.join(" "))?;
        }
        for resource in &self.resource {
            request.append("resource", resource);
        }
        super::set_params(&mut request, &self.params)?;
        Ok(request)
    }
}
