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
    addition: Option<Addition>,
}

/// What an answer has besides its code.
#[derive(Clone, Copy, Debug)]
enum Addition {
    /// RFC 6749 §5.2: for those who tried the header.
    BasicChallenge,
    /// RFC 9110 §15.5.6.
    AllowPost,
    /// How long to wait between two polls from now on, in seconds.
    Interval(u64),
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
        Self { status: StatusCode::BAD_REQUEST, error, description, addition: None }
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
        let addition = (tried == Some(AuthMethod::ClientSecretBasic)).then_some(Addition::BasicChallenge);
        let description = "the client is unknown, or didn't prove who it is";
        Self { status: StatusCode::UNAUTHORIZED, addition, ..Self::bad_request("invalid_client", description) }
    }

    /// With the interval, in a member and in `Retry-After`.
    pub(super) fn slow_down(interval: u64) -> Self {
        let error = Self::bad_request("slow_down", "polls come too fast");
        Self { addition: Some(Addition::Interval(interval)), ..error }
    }

    /// As Auth0 would have it.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The same with what is wrong, for those whose claim is complicated enough.
    pub(super) fn unproved(description: &'static str) -> Self {
        Self { description, ..Self::invalid_client(None) }
    }

    pub(super) fn method_not_allowed() -> Self {
        let error = Self::invalid_request("a token request is a POST");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, addition: Some(Addition::AllowPost), ..error }
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
        let mut body = json!({ "error": self.error, "error_description": self.description });
        let header = match self.addition {
            None => None,
            Some(Addition::BasicChallenge) => {
                let challenge = HeaderValue::from_static(r#"Basic realm="cupbearer demo", charset="UTF-8""#);
                Some((header::WWW_AUTHENTICATE, challenge))
            }
            Some(Addition::AllowPost) => Some((header::ALLOW, HeaderValue::from_static("POST"))),
            Some(Addition::Interval(seconds)) => {
                body["interval"] = seconds.into();
                Some((header::RETRY_AFTER, HeaderValue::from(seconds)))
            }
        };
        let mut response = (self.status, no_store(), Json(body)).into_response();
        if let Some((name, value)) = header {
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
