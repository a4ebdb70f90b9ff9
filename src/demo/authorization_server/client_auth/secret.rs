//! A shared secret, in the `Authorization` header or in the body (RFC 6749 §2.3.1).

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;

use crate::{
    demo::authorization_server::{AuthMethod, error::OAuthError, form, record::BasicEncoding},
    primitives::Secret,
};

/// An id and a secret that a request may have meant.
pub(super) struct Candidate {
    pub(super) client_id: String,
    secret: Secret,
    pub(super) encoding: Option<BasicEncoding>,
}

impl Candidate {
    pub(super) fn post(client_id: &str, secret: Secret) -> Self {
        Self { client_id: client_id.to_owned(), secret, encoding: None }
    }

    pub(super) fn is_proved_by(&self, secrets: &[Secret]) -> bool {
        secrets.iter().any(|secret| secret.equals(&self.secret))
    }
}

/// Both readings of a Basic header. A `client_id` in the body has to be the header's.
pub(super) fn basic(header: &HeaderValue, client_id: Option<&str>) -> Result<Vec<Candidate>, OAuthError> {
    let candidates = header.to_str().ok().and_then(readings).unwrap_or_default();
    if candidates.is_empty() {
        return Err(OAuthError::invalid_client(Some(AuthMethod::ClientSecretBasic)));
    }
    if client_id.is_some_and(|id| candidates.iter().all(|candidate| candidate.client_id != id)) {
        return Err(OAuthError::invalid_request("client_id isn't the one in the header"));
    }
    Ok(candidates)
}

fn readings(header: &str) -> Option<Vec<Candidate>> {
    let (scheme, credentials) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let credentials = Secret::new(String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?);
    let (id, secret) = credentials.expose().split_once(':')?;
    let raw = Candidate {
        client_id: id.to_owned(),
        secret: Secret::new(secret.to_owned()),
        encoding: Some(BasicEncoding::Raw),
    };
    let decoded = form::decode(id).zip(form::decode(secret)).map(|(client_id, secret)| Candidate {
        client_id,
        secret: Secret::new(secret),
        encoding: Some(BasicEncoding::Rfc6749),
    });
    Some(decoded.into_iter().chain([raw]).collect())
}
