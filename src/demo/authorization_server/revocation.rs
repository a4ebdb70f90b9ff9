//! A client gives a token back (RFC 7009): a refresh token with all that descend from the same
//! login, an access token alone. What isn't known is as good as revoked.

use serde_json::Value;

use crate::demo::{
    journal::lock,
    jwt::{ACCESS_TOKEN_TYPE, Jwt},
};

use super::{Cause, Shared, client_auth::Caller, error::OAuthError, post::Reply, request::Params};

impl Shared {
    pub(super) fn revoke(&self, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        let token = params.secret("token").ok_or_else(|| OAuthError::invalid_request("token is missing"))?;
        let foreign = || OAuthError::invalid_grant("the token is another client's");
        let mut refresh_tokens = lock(&self.refresh_tokens);
        if let Some(consent) = refresh_tokens.look_up(&token) {
            if consent.client_id != caller.client.id {
                return Err(foreign());
            }
            refresh_tokens.revoke(&token, Cause::Revoked);
        } else if let Some((client_id, jti)) = self.own_access_token(token.expose()) {
            if client_id != caller.client.id {
                return Err(foreign());
            }
            lock(&self.revoked).insert(jti);
        }
        Ok(Reply { body: Value::Null, granted: None })
    }

    /// Whose it is, and its `jti`.
    fn own_access_token(&self, token: &str) -> Option<(String, String)> {
        let jwt = Jwt::signed_by_one(token, std::slice::from_ref(self.key.public())).ok()?;
        let is_one = jwt.is_of_type(&[ACCESS_TOKEN_TYPE]);
        Some((jwt.text("client_id")?.to_owned(), jwt.text("jti")?.to_owned())).filter(|_| is_one)
    }
}
