//! The token endpoint: client authentication, grants, answers and errors (RFC 6749 §4.4, §5, §6).
//!
//! The audience comes from `audience` (as with Auth0) or else from `resource` (RFC 8707). One that
//! the client may not have is `403 access_denied` in the first case, as Auth0 answers, and
//! `400 invalid_target` in the second, as the RFC says; none at all is `403 access_denied`.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::to_bytes,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    demo::{journal::lock, jwt::Claims, random_id},
    primitives::Secret,
};

use super::{
    Client, GrantType, Shared,
    fault::{Afterwards, Verdict, disconnect},
    metadata::TOKEN_PATH,
    request::{AuthMethod, IdentityClaim, Params, Parsed, TokenRequest, blank_record, read},
};

const BODY_LIMIT: usize = 64 * 1024;

pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new().route(TOKEN_PATH, any(token)).with_state(shared)
}

async fn token(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_LIMIT).await;
    let mut record = blank_record(&parts);
    let parsed = match &body {
        Ok(body) => shared.recognise(&parts, body, &mut record),
        Err(_) => Err(OAuthError::invalid_request("the body is too long or broken")),
    };
    shared.token_requests.push(record);
    let afterwards = match shared.token_fault.meet().await {
        Verdict::Answer(answer) => return *answer,
        Verdict::Proceed(afterwards) => afterwards,
    };
    let mut answer = match parsed.and_then(|(client, params)| shared.grant(&client, &params)) {
        Ok(answer) => answer,
        Err(error) => return error.into_response(),
    };
    if matches!(afterwards, Afterwards::Lose) {
        return disconnect();
    }
    afterwards.apply(&mut answer);
    (no_store(), Json(answer)).into_response()
}

/// RFC 6749 §5.1.
fn no_store() -> [(header::HeaderName, HeaderValue); 2] {
    [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::PRAGMA, HeaderValue::from_static("no-cache")),
    ]
}

/// What a token is issued for.
struct Issue {
    audiences: Vec<String>,
    scopes: Vec<String>,
}

impl Shared {
    /// Reads a request and finds out whose it is.
    fn recognise(
        &self,
        parts: &http::request::Parts,
        body: &Bytes,
        record: &mut TokenRequest,
    ) -> Result<(Client, Params), OAuthError> {
        let Parsed { params, claim } = read(parts, body, record)?;
        let client = self.authenticate(&claim, record)?;
        Ok((client, params))
    }

    fn authenticate(&self, claim: &IdentityClaim, record: &mut TokenRequest) -> Result<Client, OAuthError> {
        let clients = lock(&self.clients);
        for candidate in &claim.candidates {
            let Some(client) = clients.get(&candidate.client_id) else { continue };
            let proved = client.secrets.iter().any(|secret| secret.equals(&candidate.secret));
            if proved && client.auth_methods.contains(&claim.method) {
                record.client_id = Some(client.id.clone());
                record.basic_encoding = candidate.encoding;
                return Ok(client.clone());
            }
        }
        Err(OAuthError::invalid_client(Some(claim.method)))
    }

    fn grant(&self, client: &Client, params: &Params) -> Result<Value, OAuthError> {
        let grant = match params.get("grant_type") {
            Some("client_credentials") => GrantType::ClientCredentials,
            Some("refresh_token") => GrantType::RefreshToken,
            Some(_) => return Err(OAuthError::bad_request("unsupported_grant_type", "this server has no such grant")),
            None => return Err(OAuthError::invalid_request("grant_type is missing")),
        };
        if !client.grants.contains(&grant) {
            return Err(OAuthError::bad_request("unauthorized_client", "the client may not use this grant"));
        }
        match grant {
            GrantType::ClientCredentials => {
                let default = client.default_audience.as_slice();
                let audiences = audiences(client, params, default)?;
                let scopes = scopes(params, &client.scopes)?;
                self.answer(client, Issue { audiences, scopes }, None)
            }
            GrantType::RefreshToken => {
                let token = params.get("refresh_token").map(|token| Secret::new(token.to_owned()));
                let token = token.ok_or_else(|| OAuthError::invalid_request("refresh_token is missing"))?;
                let (issue, next) = lock(&self.refresh_tokens).redeem(&token, &client.id, |granted| {
                    let audiences = audiences(client, params, &granted.audiences)?;
                    let scopes = scopes(params, &granted.scopes)?;
                    Ok(Issue { audiences, scopes })
                })?;
                self.answer(client, issue, next)
            }
        }
    }

    fn answer(&self, client: &Client, issue: Issue, refresh_token: Option<Secret>) -> Result<Value, OAuthError> {
        let lifetime = *lock(&self.token_lifetime);
        let lifetime = lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0);
        let iat = self.clock.unix_seconds();
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: client.id.clone(),
            aud: issue.audiences,
            client_id: client.id.clone(),
            scope: issue.scopes.join(" "),
            iat,
            nbf: None,
            // `iat` was rounded down: without the second more, a token would die before `expires_in` says.
            exp: iat.saturating_add(lifetime).saturating_add(1),
            jti: random_id().map_err(|_| OAuthError::server_error())?,
        };
        let token = self.signer.sign(&claims).map_err(|_| OAuthError::server_error())?;
        self.issued.push(claims.jti);
        let mut answer = json!({
            "access_token": token.expose(),
            "token_type": "Bearer",
            "expires_in": lifetime,
            "scope": claims.scope,
        });
        if let Some(refresh_token) = refresh_token {
            answer["refresh_token"] = refresh_token.expose().into();
        }
        Ok(answer)
    }
}

/// What the request names, else `default`. Each must be registered for the client.
fn audiences(client: &Client, params: &Params, default: &[String]) -> Result<Vec<String>, OAuthError> {
    let registered = |audience: &&str| client.audiences.iter().any(|known| known == audience);
    let named: Vec<&str> = params.all("audience").collect();
    if !named.is_empty() {
        let refused = || OAuthError::access_denied("the client may not use this audience");
        return named.iter().all(registered).then(|| owned(&named)).ok_or_else(refused);
    }
    let named: Vec<&str> = params.all("resource").collect();
    if !named.is_empty() {
        let refused = || OAuthError::bad_request("invalid_target", "the client may not use this resource");
        return named.iter().all(registered).then(|| owned(&named)).ok_or_else(refused);
    }
    if default.is_empty() {
        return Err(OAuthError::access_denied("no audience is given, and the client has no default one"));
    }
    Ok(default.to_vec())
}

/// What the request names, else all of `allowed` (RFC 6749 §3.3, §6).
fn scopes(params: &Params, allowed: &[String]) -> Result<Vec<String>, OAuthError> {
    let Some(wanted) = params.get("scope") else { return Ok(allowed.to_vec()) };
    let wanted: Vec<&str> = wanted.split_ascii_whitespace().collect();
    if wanted.iter().all(|scope| allowed.iter().any(|known| known == scope)) {
        Ok(owned(&wanted))
    } else {
        Err(OAuthError::bad_request("invalid_scope", "the scope is more than was granted to the client"))
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

// === impl OAuthError ===

/// An error answer (RFC 6749 §5.2).
#[derive(Debug)]
pub(super) struct OAuthError {
    status: StatusCode,
    error: &'static str,
    description: &'static str,
    header: Option<(header::HeaderName, HeaderValue)>,
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

    fn access_denied(description: &'static str) -> Self {
        Self { status: StatusCode::FORBIDDEN, ..Self::bad_request("access_denied", description) }
    }

    /// A client that tried a header is told the scheme; the others needn't be.
    pub(super) fn invalid_client(tried: Option<AuthMethod>) -> Self {
        let challenge = HeaderValue::from_static(r#"Basic realm="cupbearer demo", charset="UTF-8""#);
        let header = match tried {
            Some(AuthMethod::ClientSecretBasic) => Some((header::WWW_AUTHENTICATE, challenge)),
            Some(AuthMethod::ClientSecretPost) | None => None,
        };
        let description = "the client is unknown, or didn't prove who it is";
        Self { status: StatusCode::UNAUTHORIZED, header, ..Self::bad_request("invalid_client", description) }
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
