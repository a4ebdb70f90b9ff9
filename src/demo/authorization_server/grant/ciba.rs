//! Somebody is asked for consent on a device of their own (CIBA Core §7, §10, poll mode, with
//! Auth0's limits for the message).

use serde_json::{Value, json};

use crate::{
    demo::{
        authorization_server::{
            AuthMethod, GrantType, Shared,
            client_auth::Caller,
            consent::{Consent, USER},
            error::OAuthError,
            evidence::TOKEN_TYPE,
            post::Reply,
            request::Params,
        },
        journal::lock,
        jwt::Flaw,
    },
    primitives::Secret,
};

const LONGEST_MESSAGE: usize = 64;

impl Shared {
    pub(in crate::demo::authorization_server) fn authorize_backchannel(
        &self,
        caller: &Caller,
        params: &Params,
    ) -> Result<Reply, OAuthError> {
        if !caller.client.grants.contains(&GrantType::Ciba) || caller.method == AuthMethod::Public {
            return Err(OAuthError::bad_request("unauthorized_client", "the client may not use this grant"));
        }
        if !params.words("scope").is_some_and(|scopes| scopes.contains(&"openid")) {
            return Err(OAuthError::bad_request("invalid_scope", "openid is missing"));
        }
        if params.get("binding_message").is_some_and(|message| !can_be_shown(message)) {
            return Err(OAuthError::bad_request("invalid_binding_message", "it is too long or can't be shown"));
        }
        let mut knobs = lock(&self.knobs).backchannel.clone();
        if let Some(wish) = params.get("requested_expiry") {
            let seconds = wish.parse().ok().filter(|seconds| *seconds > 0).map(std::time::Duration::from_secs);
            let refused = || OAuthError::invalid_request("requested_expiry isn't a number of seconds");
            knobs.lifetime = seconds.ok_or_else(refused)?;
        }
        let subject = self.hinted(caller, params)?;
        let consent = Consent::of_user(&caller.client, params, self.clock.unix_seconds())?;
        let begun = lock(&self.approvals).begin(Consent { subject, ..consent }, None, &knobs);
        let id = begun.map_err(|_| OAuthError::server_error())?;
        let body = json!({
            "auth_req_id": id.expose(),
            "expires_in": knobs.lifetime.as_secs(),
            "interval": knobs.interval.as_secs(),
        });
        Ok(Reply { body, granted: None })
    }

    pub(super) fn ciba(&self, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        let id = params.secret("auth_req_id");
        let id = id.ok_or_else(|| OAuthError::invalid_request("auth_req_id is missing"))?;
        let auth0 = lock(&self.knobs).auth0_statuses;
        let consent = lock(&self.approvals).poll(&id, &caller.client.id, auth0)?;
        Ok(self.grant_login(caller, consent)?.0)
    }

    /// Who shall be asked: exactly one of three says it (CIBA Core §7.1).
    fn hinted(&self, caller: &Caller, params: &Params) -> Result<String, OAuthError> {
        let unknown = || OAuthError::bad_request("unknown_user_id", "the hint names nobody of this server");
        match (params.get("login_hint"), params.get("login_hint_token"), params.secret("id_token_hint")) {
            (Some(hint), None, None) => self.user_of(hint).ok_or_else(unknown),
            // An ecosystem would define what is in there.
            (None, Some(_), None) => Ok(USER.to_owned()),
            (None, None, Some(token)) => self.user_of_token(caller, &token),
            _ => Err(OAuthError::invalid_request("exactly one hint is wanted")),
        }
    }

    fn user_of_token(&self, caller: &Caller, token: &Secret) -> Result<String, OAuthError> {
        let evidence = self.evidence(&caller.client, token, &format!("{TOKEN_TYPE}id_token"));
        evidence.map(|evidence| evidence.subject).map_err(|Flaw(flaw)| OAuthError::invalid_request(flaw))
    }

    /// A plain name, or Auth0's `{"format":"iss_sub","iss":…,"sub":…}`.
    fn user_of(&self, hint: &str) -> Option<String> {
        let Ok(Value::Object(hint)) = serde_json::from_str(hint) else { return Some(hint.to_owned()) };
        let text = |name| hint.get(name).and_then(Value::as_str);
        let ours = text("format") == Some("iss_sub") && text("iss") == Some(&self.issuer);
        text("sub").filter(|_| ours).map(str::to_owned)
    }
}

fn can_be_shown(message: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || " +-_.,:#".contains(letter);
    message.len() <= LONGEST_MESSAGE && message.chars().all(plain)
}
