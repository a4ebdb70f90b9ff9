//! Reading a token request: its parameters, and who sends it (RFC 6749 §2.3, §3.2).

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method, Version, header, request::Parts};
use serde_json::{Map, Value};

use crate::primitives::{Secret, secret::Fingerprint};

use super::{form, token::OAuthError};

/// How a client shows who it is (the names of RFC 7591 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    ClientSecretBasic,
    ClientSecretPost,
}

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

/// A token request as a test may look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
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
}

impl TokenRequest {
    /// The first value of a parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What [`read`] makes of a request that can be read at all.
pub(super) struct Parsed {
    pub(super) params: Params,
    pub(super) claim: IdentityClaim,
}

/// Who a request says it is from; to be proved by one of the candidates.
pub(super) struct IdentityClaim {
    pub(super) method: AuthMethod,
    /// More than one where a Basic header can be read in two ways.
    pub(super) candidates: Vec<Candidate>,
}

pub(super) struct Candidate {
    pub(super) client_id: String,
    pub(super) secret: Secret,
    pub(super) encoding: Option<BasicEncoding>,
}

/// Fills `record` as far as it gets, so that a request that is refused is recorded too.
pub(super) fn read(parts: &Parts, body: &Bytes, record: &mut TokenRequest) -> Result<Parsed, OAuthError> {
    if parts.method != Method::POST {
        return Err(OAuthError::method_not_allowed());
    }
    if parts.uri.query().is_some_and(|query| !query.is_empty()) {
        return Err(OAuthError::invalid_request("parameters belong in the body"));
    }
    let params = read_params(&parts.headers, body, record)?;
    record.params = params.redacted();
    params.refuse_repeated()?;
    let claim = read_claim(&parts.headers, &params)?;
    record.auth_method = Some(claim.method);
    record.client_id = claim.candidates.first().map(|candidate| candidate.client_id.clone());
    Ok(Parsed { params, claim })
}

/// What the headers alone say.
pub(super) fn blank_record(parts: &Parts) -> TokenRequest {
    let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    TokenRequest {
        method: parts.method.clone(),
        version: parts.version,
        params: Vec::new(),
        format: None,
        client_id: None,
        auth_method: None,
        basic_encoding: None,
        user_agent: text(header::USER_AGENT),
        accept: text(header::ACCEPT),
    }
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

fn read_claim(headers: &HeaderMap, params: &Params) -> Result<IdentityClaim, OAuthError> {
    let header = headers.get(header::AUTHORIZATION);
    match (header, params.get("client_id"), params.get("client_secret")) {
        (Some(_), _, Some(_)) => Err(OAuthError::invalid_request("two ways of client authentication at once")),
        (Some(value), client_id, None) => {
            let candidates = value.to_str().ok().and_then(basic_candidates).unwrap_or_default();
            if candidates.is_empty() {
                return Err(OAuthError::invalid_client(Some(AuthMethod::ClientSecretBasic)));
            }
            if client_id.is_some_and(|id| candidates.iter().all(|candidate| candidate.client_id != id)) {
                return Err(OAuthError::invalid_request("client_id isn't the one in the header"));
            }
            Ok(IdentityClaim { method: AuthMethod::ClientSecretBasic, candidates })
        }
        (None, Some(client_id), Some(secret)) => {
            let (client_id, secret) = (client_id.to_owned(), Secret::new(secret.to_owned()));
            let candidates = vec![Candidate { client_id, secret, encoding: None }];
            Ok(IdentityClaim { method: AuthMethod::ClientSecretPost, candidates })
        }
        (None, ..) => Err(OAuthError::invalid_client(None)),
    }
}

fn basic_candidates(header: &str) -> Option<Vec<Candidate>> {
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

// === impl Params ===

/// Parameters whose values may hold secrets.
const SECRET_PARAMS: [&str; 9] = [
    "client_secret",
    "refresh_token",
    "client_assertion",
    "assertion",
    "subject_token",
    "actor_token",
    "code",
    "code_verifier",
    "password",
];

/// Those that a request may repeat: RFC 8707 §2, RFC 8693 §2.1.
const REPEATABLE: [&str; 2] = ["resource", "audience"];

/// The parameters of a request, secrets and all; has no `Debug`.
pub(super) struct Params(Vec<(String, String)>);

impl Params {
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

    fn refuse_repeated(&self) -> Result<(), OAuthError> {
        let mut names: Vec<_> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        names.retain(|name| !REPEATABLE.contains(name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        if names.len() == count { Ok(()) } else { Err(OAuthError::invalid_request("a parameter is repeated")) }
    }

    fn redacted(&self) -> Vec<(String, String)> {
        let redact = |(name, value): &(String, String)| {
            let secret = SECRET_PARAMS.contains(&name.as_str());
            let shown = if secret { Fingerprint::of(value.as_bytes()).to_string() } else { value.clone() };
            (name.clone(), shown)
        };
        self.0.iter().map(redact).collect()
    }
}
