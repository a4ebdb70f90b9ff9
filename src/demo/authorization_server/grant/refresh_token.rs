//! Refresh tokens with rotation and reuse detection (RFC 6749 §6, RFC 9700 §4.14.2).
//!
//! All tokens that descend from one login are a family. Each redemption makes the next
//! generation; a token of an older one is a sign of theft and ends the family.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::{
    demo::{
        Error,
        authorization_server::{
            Shared, client_auth::Caller, consent::Consent, error::OAuthError, post::Reply, request::Params,
        },
        journal::lock,
        random_secret,
    },
    primitives::{Secret, sha256},
};

/// Whether refresh tokens change with each use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// A refresh token can be used any number of times.
    Off,
    /// Each use gives a new one. The one before it still works for `leeway` (Auth0's
    /// "reuse interval"; zero: not at all); any older one ends the family at once.
    On { leeway: Duration },
}

/// A login whose refresh tokens are all dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedFamily {
    pub client_id: String,
    pub cause: Cause,
}

/// Why a family was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A token that had been replaced was used again.
    Reuse,
    /// The authorization code that the login came from was used again (RFC 6749 §4.1.2).
    CodeReuse,
    /// Its client revoked one of its tokens (RFC 7009).
    Revoked,
    /// A test asked for it.
    Told,
}

#[derive(Debug)]
struct Family {
    consent: Consent,
    generation: u64,
    rotated: Option<Instant>,
    revoked: Option<Cause>,
}

#[derive(Debug)]
pub(in crate::demo::authorization_server) struct RefreshTokens {
    rotation: Rotation,
    families: Vec<Family>,
    /// From a token's digest to its family and generation.
    tokens: HashMap<[u8; 32], (usize, u64)>,
}

impl Shared {
    pub(super) fn refresh(&self, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        let token = params.secret("refresh_token");
        let token = token.ok_or_else(|| OAuthError::invalid_request("refresh_token is missing"))?;
        let narrow = |consent: &Consent| {
            if !consent.holder.is_empty() && consent.holder != caller.binding {
                return Err(OAuthError::invalid_grant("the refresh token is bound to another key"));
            }
            consent.narrowed(&caller.client, params)
        };
        let (consent, next) = lock(&self.refresh_tokens).redeem(&token, &caller.client.id, narrow)?;
        self.grant(caller, consent, next)
    }
}

impl RefreshTokens {
    pub(in crate::demo::authorization_server) fn new(rotation: Rotation) -> Self {
        Self { rotation, families: Vec::new(), tokens: HashMap::new() }
    }

    pub(in crate::demo::authorization_server) fn set_rotation(&mut self, rotation: Rotation) {
        self.rotation = rotation;
    }

    /// The first token of a new family.
    pub(in crate::demo::authorization_server) fn issue(&mut self, consent: Consent) -> Result<Secret, Error> {
        let token = random_secret()?;
        let mut consent = consent;
        // It belongs to the first ID token only (OpenID Connect Core §12.2).
        if let Some(login) = &mut consent.login {
            login.nonce = None;
        }
        self.families.push(Family { consent, generation: 0, rotated: None, revoked: None });
        self.tokens.insert(sha256(token.expose().as_bytes()), (self.families.len() - 1, 0));
        Ok(token)
    }

    pub(in crate::demo::authorization_server) fn revoke_client(&mut self, client_id: &str) {
        for family in self.families.iter_mut().filter(|family| family.consent.client_id == client_id) {
            family.revoke(Cause::Told);
        }
    }

    /// What a token stands for, without spending it.
    pub(in crate::demo::authorization_server) fn look_up(&self, token: &Secret) -> Option<&Consent> {
        let (index, _) = self.tokens.get(&sha256(token.expose().as_bytes()))?;
        self.families.get(*index).filter(|family| family.revoked.is_none()).map(|family| &family.consent)
    }

    /// Ends the family that a token belongs to.
    pub(in crate::demo::authorization_server) fn revoke(&mut self, token: &Secret, cause: Cause) {
        let place = self.tokens.get(&sha256(token.expose().as_bytes()));
        if let Some(family) = place.and_then(|(index, _)| self.families.get_mut(*index)) {
            family.revoke(cause);
        }
    }

    pub(in crate::demo::authorization_server) fn revoked(&self) -> Vec<RevokedFamily> {
        let revoked = |family: &Family| {
            let client_id = family.consent.client_id.clone();
            family.revoked.map(|cause| RevokedFamily { client_id, cause })
        };
        self.families.iter().filter_map(revoked).collect()
    }

    /// Spends `token`. `check` sees the consent first and may refuse, which leaves the
    /// token unspent. Gives what `check` made, and the next refresh token where there is one.
    fn redeem<T>(
        &mut self,
        token: &Secret,
        client_id: &str,
        check: impl FnOnce(&Consent) -> Result<T, OAuthError>,
    ) -> Result<(T, Option<Secret>), OAuthError> {
        let unknown = OAuthError::invalid_grant("the refresh token is unknown, expired or revoked");
        let Some((index, generation)) = self.tokens.get(&sha256(token.expose().as_bytes())).copied() else {
            return Err(unknown);
        };
        let Some(family) = self.families.get_mut(index).filter(|family| family.consent.client_id == client_id) else {
            return Err(unknown);
        };
        if family.revoked.is_some() {
            return Err(unknown);
        }
        let now = Instant::now();
        if let Rotation::On { leeway } = self.rotation
            && !family.is_usable(generation, now, leeway)
        {
            family.revoke(Cause::Reuse);
            return Err(OAuthError::invalid_grant("the refresh token was used before; its family is revoked"));
        }
        let checked = check(&family.consent)?;
        if self.rotation == Rotation::Off {
            return Ok((checked, None));
        }
        let next = random_secret().map_err(|_| OAuthError::server_error())?;
        if generation == family.generation {
            family.generation += 1;
            family.rotated = Some(now);
        }
        self.tokens.insert(sha256(next.expose().as_bytes()), (index, family.generation));
        Ok((checked, Some(next)))
    }
}

// === impl Family ===

impl Family {
    /// The newest generation, or for `leeway` the one before.
    fn is_usable(&self, generation: u64, now: Instant, leeway: Duration) -> bool {
        let in_leeway = || self.rotated.is_some_and(|rotated| now.duration_since(rotated) < leeway);
        generation == self.generation || (generation + 1 == self.generation && in_leeway())
    }

    /// The first cause stands.
    fn revoke(&mut self, cause: Cause) {
        self.revoked.get_or_insert(cause);
    }
}

#[cfg(test)]
mod tests {
    use crate::demo::jwt::Confirmation;

    use super::*;

    fn consent() -> Consent {
        let text = || "client".to_owned();
        Consent {
            client_id: text(),
            subject: text(),
            scopes: Vec::new(),
            audiences: Vec::new(),
            login: None,
            actor: None,
            holder: Confirmation::default(),
        }
    }

    fn redeem(tokens: &mut RefreshTokens, token: &Secret) -> Option<Secret> {
        tokens.redeem(token, "client", |_| Ok(())).ok().and_then(|((), next)| next)
    }

    #[tokio::test(start_paused = true)]
    async fn the_leeway_forgives_the_token_before_and_no_older_one() {
        let leeway = Duration::from_secs(3);
        let mut tokens = RefreshTokens::new(Rotation::On { leeway });
        let first = tokens.issue(consent()).unwrap();
        let second = redeem(&mut tokens, &first).unwrap();
        let sibling = redeem(&mut tokens, &first).expect("inside the leeway");
        let third = redeem(&mut tokens, &sibling).unwrap();
        assert!(redeem(&mut tokens, &second).is_some(), "a sibling counts as the token before");
        assert_eq!(tokens.revoked(), []);
        assert!(redeem(&mut tokens, &first).is_none(), "older than the one before");
        assert!(redeem(&mut tokens, &third).is_none(), "the family is revoked");
        assert_eq!(tokens.revoked(), [RevokedFamily { client_id: "client".to_owned(), cause: Cause::Reuse }]);

        let first = tokens.issue(consent()).unwrap();
        let second = redeem(&mut tokens, &first).unwrap();
        tokio::time::advance(leeway).await;
        assert!(redeem(&mut tokens, &first).is_none(), "the leeway is over");
        assert!(redeem(&mut tokens, &second).is_none(), "the family is revoked");
    }

    #[tokio::test]
    async fn a_refused_check_and_a_foreign_client_spend_nothing() {
        let mut tokens = RefreshTokens::new(Rotation::On { leeway: Duration::ZERO });
        let token = tokens.issue(consent()).unwrap();
        assert!(tokens.redeem(&token, "other", |_| Ok(())).is_err());
        let refused: Result<((), _), _> = tokens.redeem(&token, "client", |_| Err(OAuthError::server_error()));
        assert!(refused.is_err());
        assert!(redeem(&mut tokens, &token).is_some());
    }
}
