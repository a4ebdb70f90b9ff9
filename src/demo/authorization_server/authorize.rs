//! The authorization endpoint (RFC 6749 §4.1.1, RFC 7636 §4.3, RFC 9207): its one user consents
//! at once and is sent back with a code. A test's "browser" is a GET that reads `Location`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, StatusCode, Uri, header};

use crate::demo::journal::lock;

use super::{
    Client, GrantType, Returned, Shared,
    consent::Consent,
    error::{OAuthError, no_store},
    form,
    grant::{Code, is_challenge},
    request::Params,
};

pub(super) const AUTHORIZE_PATH: &str = "/authorize";

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    Router::new().route(AUTHORIZE_PATH, get(authorize)).with_state(Arc::clone(shared))
}

async fn authorize(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let read = Params::of_query(&query.unwrap_or_default());
    shared.authorization_requests.push(read.as_ref().map(Params::redacted).unwrap_or_default());
    // Whoever can't be sent back safely sees the error here (RFC 6749 §4.1.2.1).
    let known = read.and_then(|params| shared.way_back(&params).map(|(client, uri)| (params, client, uri)));
    match known {
        Ok((params, client, redirect_uri)) => shared.send_back(&client, &redirect_uri, &params),
        Err(error) => error.into_response(),
    }
}

impl Shared {
    fn way_back(&self, params: &Params) -> Result<(Client, String), OAuthError> {
        let client = params.get("client_id").and_then(|id| lock(&self.clients).get(id).cloned());
        let client = client.ok_or_else(|| OAuthError::invalid_request("the client is unknown"))?;
        let redirect_uri = params.get("redirect_uri").filter(|uri| client.may_return_to(uri)).map(str::to_owned);
        let redirect_uri =
            redirect_uri.ok_or_else(|| OAuthError::invalid_request("redirect_uri isn't a registered one"))?;
        Ok((client, redirect_uri))
    }

    fn send_back(&self, client: &Client, redirect_uri: &str, params: &Params) -> Response {
        let knobs = lock(&self.knobs).authorize.clone();
        let consented =
            if knobs.deny { Err(OAuthError::access_denied("the user said no")) } else { self.consent(client, params) };
        let code = consented.and_then(|consent| self.issue_code(consent, redirect_uri, params));
        let mut answer = match &code {
            Ok(code) => vec![("code", code.as_str())],
            Err(error) => vec![("error", error.code())],
        };
        let returned = [("state", &knobs.state, params.get("state")), ("iss", &knobs.iss, Some(&self.issuer))];
        for (name, knob, right) in returned {
            let value = match knob {
                Returned::Right => right,
                Returned::Missing => None,
                Returned::Wrong(wrong) => Some(wrong.as_str()),
            };
            answer.extend(value.map(|value| (name, value)));
        }
        let separator = if redirect_uri.contains('?') { '&' } else { '?' };
        match HeaderValue::try_from(format!("{redirect_uri}{separator}{}", form::encode(&answer))) {
            Ok(location) => (StatusCode::FOUND, no_store(), [(header::LOCATION, location)]).into_response(),
            Err(_) => OAuthError::server_error().into_response(),
        }
    }

    fn consent(&self, client: &Client, params: &Params) -> Result<Consent, OAuthError> {
        if params.get("response_type") != Some("code") {
            return Err(OAuthError::bad_request("unsupported_response_type", "only code is"));
        }
        if !client.grants.contains(&GrantType::AuthorizationCode) {
            return Err(OAuthError::bad_request("unauthorized_client", "the client may not use this grant"));
        }
        if params.get("code_challenge_method") != Some("S256")
            || !params.get("code_challenge").is_some_and(is_challenge)
        {
            return Err(OAuthError::invalid_request("a code_challenge of method S256 is wanted"));
        }
        Consent::of_user(client, params, self.clock.unix_seconds())
    }

    fn issue_code(&self, consent: Consent, redirect_uri: &str, params: &Params) -> Result<String, OAuthError> {
        let text = |name| params.get(name).unwrap_or_default().to_owned();
        let code = Code::new(consent, redirect_uri.to_owned(), text("code_challenge"))
            .bound_to(params.get("dpop_jkt").map(str::to_owned));
        let code = lock(&self.codes).issue(code).map_err(|_| OAuthError::server_error())?;
        Ok(code.expose().to_owned())
    }
}

// === impl Client ===

impl Client {
    fn may_return_to(&self, uri: &str) -> bool {
        self.redirect_uris.iter().any(|known| known == uri || is_same_on_loopback(known, uri))
    }
}

/// The same but for the port, which a native app can't choose beforehand (RFC 8252 §7.3).
fn is_same_on_loopback(known: &str, uri: &str) -> bool {
    let parts = |uri: &str| {
        let uri: Uri = uri.parse().ok()?;
        let loopback = uri.scheme_str() == Some("http") && matches!(uri.host(), Some("127.0.0.1" | "[::1]"));
        loopback.then(|| (uri.host().map(str::to_owned), uri.path_and_query().map(ToString::to_string)))
    };
    parts(known).is_some_and(|known| parts(uri) == Some(known))
}
