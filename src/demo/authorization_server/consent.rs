//! What a token is for, and how a request narrows it.
//!
//! The audience comes from `audience` (as with Auth0) or else from `resource` (RFC 8707). One that
//! the client may not have is `403 access_denied` in the first case, as Auth0 answers, and
//! `400 invalid_target` in the second, as the RFC says; none at all is `403 access_denied`.

use serde_json::Value;

use crate::demo::jwt::Confirmation;

use super::{Client, error::OAuthError, request::Params};

/// What somebody has consented to. A refresh token stands for one of these.
#[derive(Clone, Debug)]
pub(super) struct Consent {
    pub(super) client_id: String,
    /// Who consented: the token's `sub`. A client that acts for itself is its own subject.
    pub(super) subject: String,
    pub(super) scopes: Vec<String>,
    pub(super) audiences: Vec<String>,
    /// `None` where a client acts for itself.
    pub(super) login: Option<Login>,
    /// Who acts for the subject (RFC 8693 §4.1).
    pub(super) actor: Option<Value>,
    /// What the sender of the refresh token has to prove (RFC 9449 §5). Empty where the client
    /// has to authenticate anyway.
    pub(super) holder: Confirmation,
}

/// Who logs in here.
pub const USER: &str = "demo-user";

/// How and when a user proved who they are.
#[derive(Clone, Debug)]
pub(super) struct Login {
    /// The first of the `acr_values` that were asked for (RFC 9470 §5).
    pub(super) acr: Option<String>,
    pub(super) auth_time: u64,
    /// For the ID token.
    pub(super) nonce: Option<String>,
}

impl Consent {
    /// What a client asks for out of all that is registered for it.
    pub(super) fn asked_for(client: &Client, subject: &str, params: &Params) -> Result<Self, OAuthError> {
        Self::out_of(client, subject, params, (&client.scopes, client.default_audience.as_slice()))
    }

    /// The same where something other than the client's registration says which scopes and
    /// audiences there are if the request names none.
    pub(super) fn out_of(
        client: &Client,
        subject: &str,
        params: &Params,
        (offered, default): (&[String], &[String]),
    ) -> Result<Self, OAuthError> {
        Ok(Self {
            client_id: client.id.clone(),
            subject: subject.to_owned(),
            scopes: scopes(params, offered)?,
            audiences: audiences(params, &client.audiences, default)?,
            login: None,
            actor: None,
            holder: Confirmation::default(),
        })
    }

    /// What this server's only user consents to, having logged in just now.
    pub(super) fn of_user(client: &Client, params: &Params, now: u64) -> Result<Self, OAuthError> {
        let acr = params.words("acr_values").and_then(|values| values.first().map(|value| (*value).to_owned()));
        let login = Login { acr, auth_time: now, nonce: params.get("nonce").map(str::to_owned) };
        Ok(Self { login: Some(login), ..Self::asked_for(client, USER, params)? })
    }

    /// What a client asks for out of what it was granted before (RFC 6749 §6).
    pub(super) fn narrowed(&self, client: &Client, params: &Params) -> Result<Self, OAuthError> {
        let allowed = if client.multi_resource_refresh { &client.audiences } else { &self.audiences };
        Ok(Self {
            scopes: scopes(params, &self.scopes)?,
            audiences: audiences(params, allowed, &self.audiences)?,
            ..self.clone()
        })
    }
}

/// What the request names, else `default`.
fn audiences(params: &Params, allowed: &[String], default: &[String]) -> Result<Vec<String>, OAuthError> {
    let is_allowed = |audience: &&str| allowed.iter().any(|known| known == audience);
    let named: Vec<&str> = params.all("audience").collect();
    if !named.is_empty() {
        let refused = || OAuthError::access_denied("the client may not use this audience");
        return named.iter().all(is_allowed).then(|| owned(&named)).ok_or_else(refused);
    }
    let named: Vec<&str> = params.all("resource").collect();
    if !named.is_empty() {
        let refused = || OAuthError::bad_request("invalid_target", "the client may not use this resource");
        return named.iter().all(is_allowed).then(|| owned(&named)).ok_or_else(refused);
    }
    if default.is_empty() {
        return Err(OAuthError::access_denied("no audience is given, and the client has no default one"));
    }
    Ok(default.to_vec())
}

/// What the request names, else all of `allowed` (RFC 6749 §3.3, §6).
pub(super) fn scopes(params: &Params, allowed: &[String]) -> Result<Vec<String>, OAuthError> {
    let Some(wanted) = params.words("scope") else { return Ok(allowed.to_vec()) };
    if wanted.iter().all(|scope| allowed.iter().any(|known| known == scope)) {
        Ok(owned(&wanted))
    } else {
        Err(OAuthError::bad_request("invalid_scope", "the scope is more than was granted to the client"))
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
