//! A login at another device (RFC 8628): the endpoint that begins it, the page where its user
//! says yes, and the grant that the client polls with.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    extract::{RawQuery, State},
    routing::get,
};
use http::StatusCode;
use serde_json::json;

use crate::demo::{
    authorization_server::{
        Endpoint, GrantType, Shared, client_auth::Caller, consent::Consent, error::OAuthError, form, poll::Waiting,
        post::Reply, request::Params,
    },
    journal::lock,
    random_id,
};

const ACTIVATE_PATH: &str = "/activate";

pub(in crate::demo::authorization_server) fn routes(shared: &Arc<Shared>) -> Router {
    Router::new().route(ACTIVATE_PATH, get(activate)).with_state(Arc::clone(shared))
}

/// The page: to open it with a code is to say yes.
async fn activate(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> (StatusCode, &'static str) {
    let params = Params::of_query(&query.unwrap_or_default());
    let known =
        params.is_ok_and(|params| params.get("user_code").is_some_and(|code| lock(&shared.devices).approve(code)));
    if known { (StatusCode::OK, "You can close this page.\n") } else { (StatusCode::NOT_FOUND, "No such code.\n") }
}

impl Shared {
    pub(in crate::demo::authorization_server) fn authorize_device(
        &self,
        caller: &Caller,
        params: &Params,
    ) -> Result<Reply, OAuthError> {
        if !caller.client.grants.contains(&GrantType::DeviceCode) {
            return Err(OAuthError::bad_request("unauthorized_client", "the client may not use this grant"));
        }
        let consent = Consent::of_user(&caller.client, params, self.clock.unix_seconds())?;
        let knobs = lock(&self.knobs).device.clone();
        let user_code = user_code().ok_or_else(OAuthError::server_error)?;
        let begun = lock(&self.devices).begin(consent, Some(user_code.clone()), &knobs);
        let device_code = begun.map_err(|_| OAuthError::server_error())?;
        let page = self.endpoints.at(ACTIVATE_PATH);
        let body = json!({
            "device_code": device_code.expose(),
            "user_code": user_code,
            "verification_uri": page,
            "verification_uri_complete": format!("{page}?{}", form::encode(&[("user_code", &user_code)])),
            "expires_in": knobs.lifetime.as_secs(),
            "interval": knobs.interval.as_secs(),
        });
        Ok(Reply { body, granted: None })
    }

    pub(super) fn device_code(&self, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        let code = params.secret("device_code");
        let code = code.ok_or_else(|| OAuthError::invalid_request("device_code is missing"))?;
        let auth0 = lock(&self.knobs).auth0_statuses;
        let consent = lock(&self.devices).poll(&code, &caller.client.id, auth0)?;
        Ok(self.grant_login(caller, consent)?.0)
    }

    /// The logins that begin at an endpoint.
    pub(in crate::demo::authorization_server) fn waiting(&self, endpoint: Endpoint) -> Option<&Mutex<Waiting>> {
        match endpoint {
            Endpoint::Device => Some(&self.devices),
            Endpoint::Backchannel => Some(&self.approvals),
            Endpoint::Token | Endpoint::Revocation => None,
        }
    }
}

/// Eight letters that are hard to mistake (RFC 8628 §6.1).
fn user_code() -> Option<String> {
    const LETTERS: &[u8] = b"BCDFGHJKLMNPQRSTVWXZ";
    let id = random_id().ok()?;
    let mut letters = id.bytes().map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
    let mut half = || letters.by_ref().take(4).collect::<String>();
    Some(format!("{}-{}", half(), half()))
}
