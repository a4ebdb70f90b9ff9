//! `client_credentials` (RFC 6749 §4.4).

use crate::credential::client_auth::Client;

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
