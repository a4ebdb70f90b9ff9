//! Refresh tokens with rotation and reuse detection (RFC 6749 §6, RFC 9700 §4.14.2).
//!
//! All tokens that descend from one login are a family. Each redemption makes the next
//! generation; a token of an older one is a sign of theft and ends the family.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::{
    demo::{Error, random_secret},
    primitives::{Secret, sha256},
};

use super::token::OAuthError;

/// Whether refresh tokens change with each use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// A refresh token can be used any number of times.
    Off,
    /// Each use gives a new one. The one before it still works for `leeway` (Auth0's
    /// "reuse interval"; zero: not at all); any older one ends the family at once.
    On { leeway: Duration },
}

/// What a refresh token stands for.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) client_id: String,
    pub(super) scopes: Vec<String>,
    pub(super) audiences: Vec<String>,
}

#[derive(Debug)]
struct Family {
    grant: Grant,
    generation: u64,
    rotated: Option<Instant>,
    revoked: bool,
}

#[derive(Debug)]
pub(super) struct RefreshTokens {
    rotation: Rotation,
    families: Vec<Family>,
    /// From a token's digest to its family and generation.
    tokens: HashMap<[u8; 32], (usize, u64)>,
}

impl RefreshTokens {
    pub(super) fn new(rotation: Rotation) -> Self {
        Self { rotation, families: Vec::new(), tokens: HashMap::new() }
    }

    pub(super) fn set_rotation(&mut self, rotation: Rotation) {
        self.rotation = rotation;
    }

    pub(super) fn issue(&mut self, grant: Grant) -> Result<Secret, Error> {
        let token = random_secret()?;
        self.families.push(Family { grant, generation: 0, rotated: None, revoked: false });
        self.tokens.insert(sha256(token.expose().as_bytes()), (self.families.len() - 1, 0));
        Ok(token)
    }

    pub(super) fn revoke_client(&mut self, client_id: &str) {
        for family in self.families.iter_mut().filter(|family| family.grant.client_id == client_id) {
            family.revoked = true;
        }
    }

    /// Spends `token`. `check` sees the grant first and may refuse, which leaves the
    /// token unspent. Gives what `check` made, and the next refresh token where there is one.
    pub(super) fn redeem<T>(
        &mut self,
        token: &Secret,
        client_id: &str,
        check: impl FnOnce(&Grant) -> Result<T, OAuthError>,
    ) -> Result<(T, Option<Secret>), OAuthError> {
        let unknown = OAuthError::invalid_grant("the refresh token is unknown, expired or revoked");
        let Some((index, generation)) = self.tokens.get(&sha256(token.expose().as_bytes())).copied() else {
            return Err(unknown);
        };
        let Some(family) = self.families.get_mut(index).filter(|family| family.grant.client_id == client_id) else {
            return Err(unknown);
        };
        if family.revoked {
            return Err(unknown);
        }
        let now = Instant::now();
        if let Rotation::On { leeway } = self.rotation
            && generation != family.generation
        {
            let in_leeway = generation + 1 == family.generation
                && family.rotated.is_some_and(|rotated| now.duration_since(rotated) < leeway);
            if !in_leeway {
                family.revoked = true;
                return Err(OAuthError::invalid_grant("the refresh token was used before; its family is revoked"));
            }
        }
        let checked = check(&family.grant)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant { client_id: "client".to_owned(), scopes: Vec::new(), audiences: Vec::new() }
    }

    fn redeem(tokens: &mut RefreshTokens, token: &Secret) -> Option<Secret> {
        tokens.redeem(token, "client", |_| Ok(())).ok().and_then(|((), next)| next)
    }

    #[tokio::test(start_paused = true)]
    async fn the_leeway_forgives_the_token_before_and_no_older_one() {
        let leeway = Duration::from_secs(3);
        let mut tokens = RefreshTokens::new(Rotation::On { leeway });
        let first = tokens.issue(grant()).unwrap();
        let second = redeem(&mut tokens, &first).unwrap();
        let sibling = redeem(&mut tokens, &first).expect("inside the leeway");
        let third = redeem(&mut tokens, &sibling).unwrap();
        assert!(redeem(&mut tokens, &second).is_some(), "a sibling counts as the token before");
        assert!(redeem(&mut tokens, &first).is_none(), "older than the one before");
        assert!(redeem(&mut tokens, &third).is_none(), "the family is revoked");

        let first = tokens.issue(grant()).unwrap();
        let second = redeem(&mut tokens, &first).unwrap();
        tokio::time::advance(leeway).await;
        assert!(redeem(&mut tokens, &first).is_none(), "the leeway is over");
        assert!(redeem(&mut tokens, &second).is_none(), "the family is revoked");
    }

    #[tokio::test]
    async fn a_refused_check_and_a_foreign_client_spend_nothing() {
        let mut tokens = RefreshTokens::new(Rotation::On { leeway: Duration::ZERO });
        let token = tokens.issue(grant()).unwrap();
        assert!(tokens.redeem(&token, "other", |_| Ok(())).is_err());
        let refused: Result<((), _), _> = tokens.redeem(&token, "client", |_| Err(OAuthError::server_error()));
        assert!(refused.is_err());
        assert!(redeem(&mut tokens, &token).is_some());
    }
}
