//! The token endpoint: from a grant to an answer (RFC 6749 §5.1).

use serde_json::json;

use crate::{
    demo::{
        Error,
        journal::lock,
        jwt::{ACCESS_TOKEN_TYPE, Claims},
        random_id,
    },
    primitives::Secret,
};

use super::{
    GrantType, Shared, client_auth::Caller, consent::Consent, error::OAuthError, post::Reply, record::Granted,
    request::Params,
};

impl Shared {
    pub(super) fn token(&self, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        let grant = params.get("grant_type").ok_or_else(|| OAuthError::invalid_request("grant_type is missing"))?;
        let grant = GrantType::of(grant)
            .ok_or_else(|| OAuthError::bad_request("unsupported_grant_type", "this server has no such grant"))?;
        if !caller.client.grants.contains(&grant) {
            return Err(OAuthError::bad_request("unauthorized_client", "the client may not use this grant"));
        }
        self.redeem(grant, caller, params)
    }

    pub(super) fn sign(&self, claims: &Claims) -> Result<Secret, Error> {
        self.key.sign(&self.key.header(ACCESS_TOKEN_TYPE), claims)
    }

    /// An access token for what was consented to, and with it the refresh token, if there is one.
    pub(super) fn grant(
        &self,
        caller: &Caller,
        consent: Consent,
        refresh_token: Option<Secret>,
    ) -> Result<Reply, OAuthError> {
        let lifetime = lock(&self.knobs).token_lifetime;
        let lifetime = lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0);
        let iat = self.clock.unix_seconds();
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: consent.subject,
            aud: consent.audiences,
            client_id: consent.client_id,
            scope: consent.scopes.join(" "),
            iat,
            nbf: None,
            // `iat` was rounded down: without the second more, a token would die before `expires_in` says.
            exp: iat.saturating_add(lifetime).saturating_add(1),
            jti: random_id().map_err(|_| OAuthError::server_error())?,
            cnf: caller.binding.clone(),
        };
        let token_type = if claims.cnf.jkt.is_some() { "DPoP" } else { "Bearer" };
        let token = self.sign(&claims).map_err(|_| OAuthError::server_error())?;
        self.issued.push(claims.jti);
        let mut body = json!({
            "access_token": token.expose(),
            "token_type": token_type,
            "expires_in": lifetime,
            "scope": claims.scope,
        });
        if let Some(refresh_token) = &refresh_token {
            body["refresh_token"] = refresh_token.expose().into();
        }
        let granted = Granted {
            scope: claims.scope,
            audiences: claims.aud,
            access_token: token.fingerprint(),
            refresh_token: refresh_token.map(|token| token.fingerprint()),
            token_type,
            bound_to: claims.cnf,
        };
        Ok(Reply { body, granted: Some(granted) })
    }
}
