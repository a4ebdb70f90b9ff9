//! An assertion as a grant (RFC 7523 §2.1): the client's own, one of an issuer that vouches for
//! somebody, or an ID-JAG (draft-ietf-oauth-identity-assertion-authz-grant §4.4).

use serde_json::Value;

use crate::demo::{
    authorization_server::{
        AuthMethod, Endpoint, Shared, client_auth::Caller, consent::Consent, error::OAuthError, post::Reply,
        request::Params,
    },
    jwt::{Flaw, Jwt, SKEW, said},
};

use super::token_exchange::ID_JAG_TYPE;

/// Google's limit, in seconds.
const LONGEST_LIFE: u64 = 3600;

/// What an assertion gives: whose tokens these will be, and how far they may go.
struct Grant {
    subject: String,
    scopes: Vec<String>,
    audiences: Vec<String>,
}

impl Shared {
    pub(super) fn jwt_bearer(&self, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        let assertion = params.secret("assertion");
        let assertion = assertion.ok_or_else(|| OAuthError::invalid_request("assertion is missing"))?;
        let read = self.read_assertion(caller, assertion.expose());
        let grant = read.map_err(|Flaw(flaw)| OAuthError::invalid_grant(flaw))?;
        let client = &caller.client;
        let consent = Consent::out_of(client, &grant.subject, params, (&grant.scopes, &grant.audiences))?;
        self.grant(caller, consent, None)
    }

    fn read_assertion(&self, caller: &Caller, assertion: &str) -> Result<Grant, Flaw> {
        let client = &caller.client;
        let (issuer, subject) = (said(assertion, "iss"), said(assertion, "sub"));
        let vouched = client
            .foreign
            .iter()
            .find(|known| known.is(issuer.as_deref().unwrap_or_default(), subject.as_deref().unwrap_or_default()));
        let jwt = match vouched {
            Some(identity) => Jwt::signed_by_one(assertion, &identity.keys)?,
            None => self.vouched(client, assertion)?,
        };
        let id_jag = jwt.is_of_type(&[ID_JAG_TYPE]);
        if id_jag {
            self.check_id_jag(caller, &jwt)?;
        } else {
            self.check_plain(&jwt)?;
        }
        let words =
            jwt.text("scope").map(|scope| scope.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>());
        let mut scopes = client.scopes.clone();
        if let Some(words) = words {
            scopes.retain(|scope| words.contains(scope));
        }
        let audiences = match jwt.claim("resource") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => client.default_audience.iter().cloned().collect(),
        };
        if !audiences.iter().all(|audience| client.audiences.contains(audience)) {
            return Err(Flaw("the assertion is for a resource that the client may not use"));
        }
        let subject = jwt.text("sub").ok_or(Flaw("the assertion has no sub"))?.to_owned();
        Ok(Grant { subject, scopes, audiences })
    }

    /// It may be shown again while it lives (§4.4), by the client that it names.
    fn check_id_jag(&self, caller: &Caller, jwt: &Jwt) -> Result<(), Flaw> {
        if caller.method == AuthMethod::AssertionGrant {
            return Err(Flaw("with an ID-JAG the client has to authenticate"));
        }
        if jwt.text("aud") != Some(&self.issuer) {
            return Err(Flaw("the ID-JAG is for another server"));
        }
        if jwt.text("client_id") != Some(&caller.client.id) {
            return Err(Flaw("the ID-JAG is another client's"));
        }
        jwt.check_times(self.clock.unix_seconds(), None)
    }

    /// RFC 7523 §3. What is of another type was never meant as a grant.
    fn check_plain(&self, jwt: &Jwt) -> Result<(), Flaw> {
        if jwt.header().typ.is_some() && !jwt.is_of_type(&["JWT"]) {
            return Err(Flaw("the assertion is of another type"));
        }
        if jwt.text("iss") == Some(&self.issuer) {
            return Err(Flaw("a token of this server's own is no assertion"));
        }
        let now = self.clock.unix_seconds();
        if let (Some(issuer), Some(jti)) = (jwt.text("iss"), jwt.text("jti")) {
            let until = jwt.seconds("exp").unwrap_or(now).saturating_add(SKEW);
            if !self.assertions.is_first(issuer, jti, now, until) {
                return Err(Flaw("the assertion was used before"));
            }
        }
        jwt.check_times(now, Some(LONGEST_LIFE))?;
        self.check_assertion_audience(jwt, Endpoint::Token)
    }
}
