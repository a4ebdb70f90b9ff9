//! The journal's entry for a request, and what became of it.

use http::{Method, Version, header, request::Parts};
use tokio::time::Instant;

use crate::{
    demo::{client_certificates::PeerCertificates, https::ConnectionId, jwt::Confirmation},
    primitives::Fingerprint,
};

use super::{
    AuthMethod,
    error::OAuthError,
    post::{ALIAS, Reply},
};

/// How the id and the secret stood in a Basic header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasicEncoding {
    /// Each form-urlencoded before base64, as RFC 6749 §2.3.1 says. Also said of a header
    /// that would be the same either way.
    Rfc6749,
    /// As they are, as Auth0 documents it.
    Raw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    Form,
    Json,
}

/// A request to the token endpoint, or to another that takes a form from a client, as a
/// test may look at it. Written when the request has arrived, completed when it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    pub at: Instant,
    pub connection: Option<ConnectionId>,
    pub method: Method,
    pub version: Version,
    /// In the order sent. The value of a secret one is its fingerprint.
    pub params: Vec<(String, String)>,
    pub format: Option<BodyFormat>,
    /// `None` where no client could be told from the request.
    pub client_id: Option<String>,
    pub auth_method: Option<AuthMethod>,
    /// Set once the client is known, and with Basic only.
    pub basic_encoding: Option<BasicEncoding>,
    pub user_agent: Option<String>,
    pub accept: Option<String>,
    /// Whether it came to the endpoint's alias for clients with certificates.
    pub at_alias: bool,
    /// The `x5t#S256` of the certificate that was shown on the connection.
    pub certificate: Option<String>,
    pub outcome: Outcome,
}

/// What became of a request. Nothing about whether the client has read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not done: under way, held before it was looked at, or given up by its sender.
    Pending,
    Granted(Granted),
    /// Done, and it was no token that was asked for.
    Done,
    Refused {
        status: u16,
        error: &'static str,
    },
    /// A fault answered; the request had no effect.
    Fault,
}

/// A token, without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Separated by spaces.
    pub scope: String,
    pub audiences: Vec<String>,
    pub access_token: Fingerprint,
    /// Of a new refresh token, the first one or a rotated one.
    pub refresh_token: Option<Fingerprint>,
    /// `Bearer` or `DPoP`.
    pub token_type: &'static str,
    pub bound_to: Confirmation,
}

// === impl TokenRequest ===

impl TokenRequest {
    /// What the headers alone say.
    pub(super) fn of(parts: &Parts) -> Self {
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self {
            at: Instant::now(),
            connection: parts.extensions.get().copied(),
            method: parts.method.clone(),
            version: parts.version,
            params: Vec::new(),
            format: None,
            client_id: None,
            auth_method: None,
            basic_encoding: None,
            user_agent: text(header::USER_AGENT),
            accept: text(header::ACCEPT),
            at_alias: parts.uri.path().starts_with(ALIAS),
            certificate: parts.extensions.get().map(PeerCertificates::thumbprint),
            outcome: Outcome::Pending,
        }
    }

    /// The first value of a parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn grant(&self) -> Option<&str> {
        self.param("grant_type")
    }

    /// The fingerprint of the refresh token that was sent.
    pub fn refresh_used(&self) -> Option<&str> {
        self.param("refresh_token")
    }

    /// The fingerprint of the refresh token that was given out.
    pub fn refresh_issued(&self) -> Option<String> {
        self.granted()?.refresh_token.map(|fingerprint| fingerprint.to_string())
    }

    pub fn granted(&self) -> Option<&Granted> {
        match &self.outcome {
            Outcome::Granted(granted) => Some(granted),
            Outcome::Pending | Outcome::Done | Outcome::Refused { .. } | Outcome::Fault => None,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    pub(super) fn of(result: &Result<Reply, OAuthError>) -> Self {
        match result {
            Ok(Reply { granted: Some(granted), .. }) => Self::Granted(granted.clone()),
            Ok(Reply { granted: None, .. }) => Self::Done,
            Err(error) => Self::Refused { status: error.status(), error: error.code() },
        }
    }
}
