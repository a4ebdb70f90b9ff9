//! Tokens that a client shows as evidence of who somebody is (RFC 8693 §2.1, §3): this server's
//! own, those of issuers that it trusts, and what the client itself has signed.

use serde_json::Value;

use crate::{
    demo::{
        journal::lock,
        jwt::{ACCESS_TOKEN_TYPE, Flaw, Jwt, said},
    },
    primitives::Secret,
};

use super::{Client, Shared};

/// What all names of token types begin with.
pub(super) const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:";

/// Somebody whom a token speaks of.
#[derive(Debug)]
pub(super) struct Evidence {
    pub(super) subject: String,
    /// Who acts for them already.
    pub(super) actor: Option<Value>,
}

impl Shared {
    pub(super) fn evidence(&self, client: &Client, token: &Secret, token_type: &str) -> Result<Evidence, Flaw> {
        let jwt = match token_type.strip_prefix(TOKEN_TYPE) {
            Some("refresh_token") => return self.login_of(client, token),
            Some("saml2") => {
                let known = client.saml_assertion(token).ok_or(Flaw("the assertion isn't known"))?;
                return Ok(Evidence { subject: known.subject.clone(), actor: None });
            }
            // A type that the client's operator has made up comes without the prefix.
            Some("jwt") | None => self.vouched(client, token.expose())?,
            Some("access_token") => {
                let jwt = self.vouched(client, token.expose())?;
                jwt.is_of_type(&[ACCESS_TOKEN_TYPE]).then_some(jwt).ok_or(Flaw("it isn't an access token"))?
            }
            Some("id_token") => {
                let jwt = self.vouched(client, token.expose())?;
                let for_client = jwt.text("iss") != Some(&self.issuer) || jwt.audiences() == [client.id.as_str()];
                let is_one = jwt.header().typ.is_none() || jwt.is_of_type(&["JWT"]);
                (is_one && for_client).then_some(jwt).ok_or(Flaw("it isn't an ID token for this client"))?
            }
            Some(_) => return Err(Flaw("tokens of this type aren't taken")),
        };
        let subject = jwt.text("sub").ok_or(Flaw("the token has no sub"))?.to_owned();
        Ok(Evidence { subject, actor: jwt.claim("act").cloned() })
    }

    fn login_of(&self, client: &Client, token: &Secret) -> Result<Evidence, Flaw> {
        let tokens = lock(&self.refresh_tokens);
        let consent = tokens.look_up(token).filter(|consent| consent.client_id == client.id);
        let consent = consent.ok_or(Flaw("the refresh token is unknown, revoked or another client's"))?;
        Ok(Evidence { subject: consent.subject.clone(), actor: consent.actor.clone() })
    }

    /// A JWT in force, of somebody who is believed.
    pub(super) fn vouched(&self, client: &Client, token: &str) -> Result<Jwt, Flaw> {
        let issuer = said(token, "iss").ok_or(Flaw("it isn't a JWT with an issuer"))?;
        let keys = if issuer == self.issuer {
            vec![self.key.public().clone()]
        } else if issuer == client.id {
            client.keys.clone()
        } else {
            lock(&self.trusted).get(&issuer).cloned().ok_or(Flaw("its issuer isn't trusted"))?
        };
        let jwt = Jwt::signed_by_one(token, &keys)?;
        jwt.check_times(self.clock.unix_seconds(), None)?;
        let jti = jwt.text("jti").filter(|_| issuer == self.issuer);
        if jti.is_some_and(|jti| lock(&self.revoked).contains(jti)) {
            return Err(Flaw("it was revoked"));
        }
        Ok(jwt)
    }
}
