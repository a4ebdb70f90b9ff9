//! A client asks for itself (RFC 6749 §4.4): no user, no refresh token.

use crate::demo::authorization_server::{
    AuthMethod, Shared, client_auth::Caller, consent::Consent, error::OAuthError, post::Reply, request::Params,
};

impl Shared {
    pub(super) fn client_credentials(&self, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        if caller.method == AuthMethod::Public {
            return Err(OAuthError::bad_request("unauthorized_client", "a public client can't vouch for itself"));
        }
        let consent = Consent::asked_for(&caller.client, &caller.client.id, params)?;
        self.grant(caller, consent, None)
    }
}
