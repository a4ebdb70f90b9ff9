//! Why a request isn't let in, and what it is told (RFC 6750 §3, RFC 9449 §7.1).

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::demo::{
    dpop::{self, ProofError},
    jwt::Flaw,
};

use super::verify::Scheme;

/// Why a request isn't let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// No token at all: 401 without an error code (RFC 6750 §3.1).
    NoToken(Scheme),
    /// More than one `Authorization` line: 400.
    Malformed,
    /// 401, with the reason.
    InvalidToken(Scheme, &'static str),
    /// 401; the token may be good, but what proves its holder isn't.
    InvalidProof(&'static str),
    /// 401; the next proof needs the nonce of this answer.
    NoNonce,
    /// 403; the token is good but lacks this scope.
    InsufficientScope(Scheme, &'static str),
    /// 503: the authorization server's keys can't be had.
    NoKeys,
}

impl Rejection {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::NoToken(_) => "unauthorized",
            Self::Malformed => "invalid_request",
            Self::InvalidToken(..) => "invalid_token",
            Self::InvalidProof(_) => "invalid_dpop_proof",
            Self::NoNonce => "use_dpop_nonce",
            Self::InsufficientScope(..) => "insufficient_scope",
            Self::NoKeys => "temporarily_unavailable",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::NoToken(_) | Self::InvalidToken(..) | Self::InvalidProof(_) | Self::NoNonce => {
                StatusCode::UNAUTHORIZED
            }
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::InsufficientScope(..) => StatusCode::FORBIDDEN,
            Self::NoKeys => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn challenge(self) -> Option<String> {
        let (scheme, detail) = match self {
            Self::NoToken(scheme) => (scheme, None),
            Self::Malformed => (Scheme::Bearer, None),
            Self::InvalidToken(scheme, reason) => (scheme, Some(("error_description", reason))),
            Self::InvalidProof(reason) => (Scheme::Dpop, Some(("error_description", reason))),
            Self::NoNonce => (Scheme::Dpop, Some(("error_description", "the proof needs the server's nonce"))),
            Self::InsufficientScope(scheme, scope) => (scheme, Some(("scope", scope))),
            Self::NoKeys => return None,
        };
        let mut challenge = format!(r#"{} realm="orders""#, scheme.name());
        if !matches!(self, Self::NoToken(_)) {
            challenge += &format!(r#", error="{}""#, self.code());
        }
        if let Some((name, value)) = detail {
            challenge += &format!(r#", {name}="{value}""#);
        }
        if scheme == Scheme::Dpop {
            let algorithms = dpop::ALGORITHMS.map(|algorithm| format!("{algorithm:?}"));
            challenge += &format!(r#", algs="{}""#, algorithms.join(" "));
        }
        Some(challenge)
    }
}

impl From<ProofError> for Rejection {
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::Invalid(Flaw(flaw)) => Self::InvalidProof(flaw),
            ProofError::Nonce => Self::NoNonce,
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(json!({ "error": self.code() }))).into_response();
        if let Some(challenge) = self.challenge().and_then(|text| HeaderValue::try_from(text).ok()) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
