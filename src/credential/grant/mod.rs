//! Grants: one RFC a file. Each writes the parameters of its request from its own settings
//! and from the inputs that were got for it. Knows no network and no client authentication.

pub mod ciba;
mod client_credentials;
pub mod http_source;
pub mod jwt_bearer;
pub mod login;
pub mod saml2_bearer;
pub mod token_exchange;

use crate::primitives::Secret;

use super::{
    Source,
    error::SettingsError,
    request::TokenRequest,
    step::{Assertion, Input, Step},
};

pub use ciba::Ciba;
pub use http_source::HttpSource;
pub use jwt_bearer::JwtBearer;
pub use login::{Login, LoginKind, Redirect};
pub use saml2_bearer::Saml2Bearer;
pub use token_exchange::{Subject, TokenExchange};

/// How a token is asked for, or made.
#[derive(Clone, Debug)]
pub enum Grant {
    /// RFC 6749 §4.4.
    ClientCredentials,
    /// A refresh token, however it was come by: RFC 6749 §6 and §4.1, RFC 8628.
    Login(Login),
    /// RFC 8693, and what resembles it.
    TokenExchange(Box<TokenExchange>),
    /// RFC 7523 §2.1.
    JwtBearer(JwtBearer),
    /// RFC 7522 §2.1.
    Saml2Bearer(Saml2Bearer),
    /// OpenID Connect CIBA Core 1.0, poll mode.
    Ciba(Box<Ciba>),
    /// An HTTP answer with a token in it that is no token endpoint's.
    Http(Box<HttpSource>),
    /// A JWT made here is the token (Google).
    SelfSignedJwt(Box<Assertion>),
    /// A secret is the token.
    Static { token: Source, name: &'static str },
}

impl Grant {
    /// The name in the config, in events and in metric labels.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::Login(login) => login.kind.name(),
            Self::TokenExchange(_) => "token_exchange",
            Self::JwtBearer(_) => "jwt_bearer",
            Self::Saml2Bearer(_) => "saml2_bearer",
            Self::Ciba(_) => "ciba",
            Self::Http(source) => source.name,
            Self::SelfSignedJwt(_) => "self_signed_jwt",
            Self::Static { name, .. } => name,
        }
    }

    /// What has to be got before the request can be written, in the order that the request
    /// wants them.
    pub fn inputs(&self) -> Vec<&Input> {
        match self {
            Self::TokenExchange(exchange) => exchange.inputs(),
            Self::JwtBearer(grant) => vec![&grant.assertion],
            Self::Http(source) => source.authorization.iter().collect(),
            Self::ClientCredentials
            | Self::Login(_)
            | Self::Saml2Bearer(_)
            | Self::Ciba(_)
            | Self::SelfSignedJwt(_)
            | Self::Static { .. } => Vec::new(),
        }
    }

    /// Whether its scopes were asked for when a human logged in. Those of a refresh token that
    /// comes from elsewhere say what this token is for: one API of many (Auth0).
    pub(crate) fn begins_with_a_login(&self) -> bool {
        matches!(self, Self::Login(login) if login.kind != LoginKind::RefreshToken)
    }

    /// Whether the assertion that is the grant says what the token is for.
    fn asserts_its_scopes(&self) -> bool {
        matches!(self, Self::JwtBearer(JwtBearer { assertion: Input::Jwt(made), .. }) if made.scope_claim)
    }

    /// Where its own secrets are, those of inputs apart.
    pub fn sources(&self) -> Vec<&Source> {
        match self {
            Self::Login(login) => login.seed.iter().collect(),
            Self::Saml2Bearer(grant) => vec![&grant.assertion],
            Self::SelfSignedJwt(assertion) => assertion.keys.iter().map(|key| &key.source).collect(),
            Self::Static { token, .. } => vec![token],
            Self::Ciba(ciba) => ciba.hint.source().into_iter().collect(),
            Self::ClientCredentials | Self::TokenExchange(_) | Self::JwtBearer(_) | Self::Http(_) => Vec::new(),
        }
    }
}

impl Step {
    /// The request before the client signs it; made anew for every attempt. `given`: the
    /// inputs of the grant, or the secret that it is about.
    pub(crate) fn request(&self, given: &[Secret], scopes: &[&str]) -> Result<TokenRequest, SettingsError> {
        let grant_type = match &self.grant {
            Grant::ClientCredentials => client_credentials::GRANT_TYPE,
            Grant::Login(_) => login::REFRESH_TOKEN,
            Grant::TokenExchange(exchange) => &exchange.grant_type,
            Grant::JwtBearer(grant) => &grant.grant_type,
            Grant::Saml2Bearer(_) => saml2_bearer::GRANT_TYPE,
            Grant::Ciba(_) => ciba::GRANT_TYPE,
            Grant::Http(_) | Grant::SelfSignedJwt(_) | Grant::Static { .. } => "",
        };
        let mut request = TokenRequest::new(grant_type, self.ask.body, self.ask.method.clone());
        match &self.grant {
            Grant::ClientCredentials | Grant::SelfSignedJwt(_) | Grant::Static { .. } => {}
            Grant::Login(_) => login::fill(&mut request, given)?,
            Grant::TokenExchange(exchange) => exchange.fill(&mut request, given)?,
            Grant::JwtBearer(_) => jwt_bearer::fill(&mut request, given)?,
            Grant::Saml2Bearer(_) => saml2_bearer::fill(&mut request, given)?,
            Grant::Ciba(_) => ciba::fill(&mut request, given)?,
            Grant::Http(source) => source.fill(&mut request, given)?,
        }
        // Google wants them in the JWT, and refuses a parameter that it doesn't expect.
        let scopes = if self.grant.asserts_its_scopes() { &[] } else { scopes };
        self.ask.fill(&mut request, scopes)?;
        Ok(request)
    }
}

impl super::step::Ask {
    /// What every grant may ask for.
    pub(crate) fn fill(&self, request: &mut TokenRequest, scopes: &[&str]) -> Result<(), SettingsError> {
        for audience in &self.audience {
            request.append("audience", audience);
        }
        if !scopes.is_empty() {
            request.set("scope", &scopes.join(" "))?;
        }
        for resource in &self.resource {
            request.append("resource", resource);
        }
        set_params(request, &self.params)?;
        for (name, value) in &self.headers {
            request.header(name.clone(), value.clone());
        }
        Ok(())
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

/// The one input that `given` has to hold.
fn only(given: &[Secret]) -> Result<&Secret, SettingsError> {
    given.first().ok_or(SettingsError::NoInput)
}
