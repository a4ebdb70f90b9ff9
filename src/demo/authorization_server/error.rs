//! What the server answers where it refuses (RFC 6749 §5.2), whichever endpoint was asked.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{self, HeaderName},
};
use serde_json::json;

use crate::demo::{dpop::ProofError, jwt::Flaw};

use super::AuthMethod;

pub(super) const USE_DPOP_NONCE: &str = "use_dpop_nonce";

/// An error answer. The client is at fault, but for [`OAuthError::server_error`].
#[derive(Debug)]
pub(super) struct OAuthError {
    status: StatusCode,
    error: &'static str,
    description: &'static str,
    header: Option<(HeaderName, HeaderValue)>,
}

impl From<ProofError> for OAuthError {
    /// RFC 9449 §5, §8.
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::Invalid(Flaw(flaw)) => Self::bad_request("invalid_dpop_proof", flaw),
            ProofError::Nonce => Self::bad_request(USE_DPOP_NONCE, "the proof needs the server's nonce"),
        }
    }
}

impl OAuthError {
    pub(super) fn bad_request(error: &'static str, description: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description, header: None }
    }

    pub(super) fn invalid_request(description: &'static str) -> Self {
        Self::bad_request("invalid_request", description)
    }

    pub(super) fn invalid_grant(description: &'static str) -> Self {
        Self::bad_request("invalid_grant", description)
    }

    pub(super) fn access_denied(description: &'static str) -> Self {
        Self { status: StatusCode::FORBIDDEN, ..Self::bad_request("access_denied", description) }
    }

    /// A client that tried a header is told the scheme; the others needn't be.
    pub(super) fn invalid_client(tried: Option<AuthMethod>) -> Self {
        let challenge = HeaderValue::from_static(r#"Basic realm="cupbearer demo", charset="UTF-8""#);
        let header = (tried == Some(AuthMethod::ClientSecretBasic)).then_some((header::WWW_AUTHENTICATE, challenge));
        let description = "the client is unknown, or didn't prove who it is";
        Self { status: StatusCode::UNAUTHORIZED, header, ..Self::bad_request("invalid_client", description) }
    }

    /// The same with what is wrong, for those whose claim is complicated enough.
    pub(super) fn unproved(description: &'static str) -> Self {
        Self { description, ..Self::invalid_client(None) }
    }

    pub(super) fn method_not_allowed() -> Self {
        let header = Some((header::ALLOW, HeaderValue::from_static("POST")));
        let error = Self::invalid_request("a token request is a POST");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, header, ..error }
    }

    pub(super) fn server_error() -> Self {
        let error = Self::bad_request("server_error", "the server couldn't make a token");
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, ..error }
    }

    pub(super) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    pub(super) fn code(&self) -> &'static str {
        self.error
    }
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.error, "error_description": self.description }));
        let mut response = (self.status, no_store(), body).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// RFC 6749 §5.1.
pub(super) fn no_store() -> [(HeaderName, HeaderValue); 2] {
    [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::PRAGMA, HeaderValue::from_static("no-cache")),
    ]
}
