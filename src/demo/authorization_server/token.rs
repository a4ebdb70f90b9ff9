//! The token endpoint: from a grant to an answer (RFC 6749 §5.1).

use http::StatusCode;
use serde_json::json;

use crate::{
    demo::{
        Error,
        journal::lock,
        jwt::{ACCESS_TOKEN_TYPE, Claims, Confirmation},
        random_id,
    },
    primitives::Secret,
};

use super::{
    AuthMethod, GrantType, Shared, client_auth::Caller, consent::Consent, error::OAuthError, post::Reply,
    record::Granted, request::Params,
};

/// In seconds.
const ID_TOKEN_LIFE: u64 = 600;

impl Shared {
    pub(super) fn token(&self, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        let grant = params.get("grant_type").ok_or_else(|| OAuthError::invalid_request("grant_type is missing"))?;
        let grant = GrantType::of(grant)
            .ok_or_else(|| OAuthError::bad_request("unsupported_grant_type", "this server has no such grant"))?;
        if !caller.client.grants.contains(&grant) {
            return Err(OAuthError::bad_request("unauthorized_client", "the client may not use this grant"));
        }
        let redeemed = self.redeem(grant, caller, params);
        let auth0 = lock(&self.knobs).auth0_statuses;
        redeemed.map_err(|error| {
            let refused = auth0 && error.code() == "invalid_grant";
            if refused { error.with_status(StatusCode::FORBIDDEN) } else { error }
        })
    }

    pub(super) fn sign(&self, claims: &Claims) -> Result<Secret, Error> {
        self.key.sign(&self.key.header(ACCESS_TOKEN_TYPE), claims)
    }

    /// The first tokens of a login: with a refresh token, if the client may use one.
    pub(super) fn grant_login(&self, caller: &Caller, consent: Consent) -> Result<(Reply, Option<Secret>), OAuthError> {
        let refresh_token = caller.client.grants.contains(&GrantType::RefreshToken).then(|| {
            // A client that authenticates needn't prove a key as well (RFC 9449 §5).
            let public = caller.method == AuthMethod::Public;
            let holder = if public { caller.binding.clone() } else { Confirmation::default() };
            lock(&self.refresh_tokens).issue(Consent { holder, ..consent.clone() })
        });
        let refresh_token = refresh_token.transpose().map_err(|_| OAuthError::server_error())?;
        Ok((self.grant(caller, consent, refresh_token.clone())?, refresh_token))
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
        let id_token = self.id_token(&consent, iat)?;
        let login = consent.login;
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
            acr: login.as_ref().and_then(|login| login.acr.clone()),
            auth_time: login.map(|login| login.auth_time),
            act: consent.actor,
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
        if let Some(id_token) = &id_token {
            body["id_token"] = id_token.expose().into();
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

    /// For a user's login with `openid` (OpenID Connect Core §2, §12.2).
    fn id_token(&self, consent: &Consent, now: u64) -> Result<Option<Secret>, OAuthError> {
        let Some(login) = consent.login.as_ref().filter(|_| consent.scopes.iter().any(|scope| scope == "openid"))
        else {
            return Ok(None);
        };
        let mut claims = json!({
            "iss": self.issuer,
            "sub": consent.subject,
            "aud": consent.client_id,
            "iat": now,
            "exp": now.saturating_add(ID_TOKEN_LIFE),
            "auth_time": login.auth_time,
        });
        for (name, value) in [("nonce", &login.nonce), ("acr", &login.acr)] {
            if let Some(value) = value {
                claims[name] = value.as_str().into();
            }
        }
        self.key.sign(&self.key.header("JWT"), &claims).map(Some).map_err(|_| OAuthError::server_error())
    }
}
