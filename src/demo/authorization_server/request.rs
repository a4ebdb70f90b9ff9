//! Reading a request: a POST whose body is a form (RFC 6749 §3.2) or, as Auth0 takes it, JSON.

use bytes::Bytes;
use http::{HeaderMap, Method, header, request::Parts};
use serde_json::{Map, Value};

use crate::primitives::{Secret, secret::Fingerprint};

use super::{
    error::OAuthError,
    form,
    record::{BodyFormat, TokenRequest},
};

/// Parameters whose values may hold secrets.
const SECRET_PARAMS: [&str; 14] = [
    "client_secret",
    "refresh_token",
    "client_assertion",
    "assertion",
    "subject_token",
    "actor_token",
    "code",
    "code_verifier",
    "device_code",
    "auth_req_id",
    "token",
    "id_token_hint",
    "login_hint_token",
    "password",
];

/// Those that a request may repeat: RFC 8707 §2, RFC 8693 §2.1.
const REPEATABLE: [&str; 2] = ["resource", "audience"];

/// The parameters of a request, secrets and all; has no `Debug`.
pub(super) struct Params(Vec<(String, String)>);

/// Fills `record` as far as it gets, so that a request that is refused is recorded too.
pub(super) fn read(parts: &Parts, body: &Bytes, record: &mut TokenRequest) -> Result<Params, OAuthError> {
    if parts.method != Method::POST {
        return Err(OAuthError::method_not_allowed());
    }
    if parts.uri.query().is_some_and(|query| !query.is_empty()) {
        return Err(OAuthError::invalid_request("parameters belong in the body"));
    }
    let params = read_params(&parts.headers, body, record)?;
    record.params = params.redacted();
    params.refuse_repeated()?;
    Ok(params)
}

fn read_params(headers: &HeaderMap, body: &Bytes, record: &mut TokenRequest) -> Result<Params, OAuthError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        "application/x-www-form-urlencoded" => {
            record.format = Some(BodyFormat::Form);
            let pairs = std::str::from_utf8(body).ok().and_then(form::parse);
            pairs.map(Params).ok_or_else(|| OAuthError::invalid_request("the body isn't a form"))
        }
        "application/json" => {
            record.format = Some(BodyFormat::Json);
            let object: Map<String, Value> = serde_json::from_slice(body)
                .map_err(|_| OAuthError::invalid_request("the body isn't a JSON object"))?;
            Ok(Params::from_json(object))
        }
        _ => Err(OAuthError::invalid_request("the body must be a form or JSON")),
    }
}

// === impl Params ===

impl Params {
    /// Of a GET. Refused like a form where it can't be read or names a parameter twice.
    pub(super) fn of_query(query: &str) -> Result<Self, OAuthError> {
        let params = Self(form::parse(query).ok_or_else(|| OAuthError::invalid_request("the query can't be read"))?);
        params.refuse_repeated()?;
        Ok(params)
    }

    /// JSON lists stand for repeated parameters; other values are taken as their text.
    fn from_json(object: Map<String, Value>) -> Self {
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let mut pairs = Vec::new();
        for (name, value) in object {
            match value {
                Value::Array(values) => pairs.extend(values.into_iter().map(|value| (name.clone(), text(value)))),
                value => pairs.push((name, text(value))),
            }
        }
        Self(pairs)
    }

    /// A parameter without a value counts as absent (RFC 6749 §3.2).
    pub(super) fn get(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(super) fn secret(&self, name: &'static str) -> Option<Secret> {
        self.get(name).map(|value| Secret::new(value.to_owned()))
    }

    /// The values of a parameter that is a list separated by spaces.
    pub(super) fn words(&self, name: &'static str) -> Option<Vec<&str>> {
        self.get(name).map(|value| value.split_ascii_whitespace().collect())
    }

    fn refuse_repeated(&self) -> Result<(), OAuthError> {
        let mut names: Vec<_> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        names.retain(|name| !REPEATABLE.contains(name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        if names.len() == count { Ok(()) } else { Err(OAuthError::invalid_request("a parameter is repeated")) }
    }

    pub(super) fn redacted(&self) -> Vec<(String, String)> {
        let redact = |(name, value): &(String, String)| {
            let secret = SECRET_PARAMS.contains(&name.as_str());
            let shown = if secret { Fingerprint::of(value.as_bytes()).to_string() } else { value.clone() };
            (name.clone(), shown)
        };
        self.0.iter().map(redact).collect()
    }
}
