//! A signed assertion in place of a secret (RFC 7523 §2.2, with RFC 10070's audience): by the
//! client with its secret or its key, or by an issuer that vouches for it.

use jsonwebtoken::{Algorithm, AlgorithmFamily, decode_header};

use crate::{
    demo::{
        authorization_server::{
            AssertionAudience, AuthMethod, Client, Endpoint, ForeignIdentity, Shared, error::OAuthError,
            request::Params,
        },
        journal::lock,
        jwt::{Flaw, Jwt, SKEW, said},
    },
    primitives::Secret,
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// Auth0's limits, and the strictest ones known.
const LONGEST_ASSERTION: usize = 2048;
const LONGEST_JTI: usize = 64;
const LONGEST_LIFE: u64 = 300;

/// An assertion as it was sent, and who it says it is from.
pub(super) struct Assertion {
    token: Secret,
    pub(super) client_id: String,
    pub(super) method: AuthMethod,
}

/// What an assertion says before anybody has checked it.
struct Says {
    algorithm: Algorithm,
    issuer: String,
    subject: String,
}

impl Assertion {
    /// `None` where the request has no assertion.
    pub(super) fn read(params: &Params) -> Result<Option<Self>, OAuthError> {
        let (kind, token) = match (params.get("client_assertion_type"), params.secret("client_assertion")) {
            (None, None) => return Ok(None),
            (Some(kind), Some(token)) => (kind, token),
            _ => return Err(OAuthError::invalid_request("an assertion and its type come together")),
        };
        if token.expose().len() > LONGEST_ASSERTION {
            return Err(OAuthError::invalid_request("the assertion is too long"));
        }
        let says = Says::read(token.expose()).ok_or_else(|| OAuthError::unproved("the assertion isn't a JWT"))?;
        let own = says.issuer == says.subject;
        let method = match kind {
            JWT_BEARER if own && says.algorithm.family() == AlgorithmFamily::Hmac => AuthMethod::ClientSecretJwt,
            JWT_BEARER if own => AuthMethod::PrivateKeyJwt,
            JWT_BEARER | JWT_SPIFFE => AuthMethod::ForeignAssertion,
            _ => return Err(OAuthError::invalid_request("no such type of assertion is known")),
        };
        let client_id = match (params.get("client_id"), method) {
            (Some(id), AuthMethod::ForeignAssertion) => id.to_owned(),
            (None, AuthMethod::ForeignAssertion) => {
                return Err(OAuthError::invalid_request("client_id is missing: a foreign assertion can't tell"));
            }
            (Some(id), _) if id != says.subject => {
                return Err(OAuthError::invalid_request("client_id isn't the assertion's subject"));
            }
            (_, _) => says.subject,
        };
        Ok(Some(Self { token, client_id, method }))
    }
}

impl Says {
    fn read(token: &str) -> Option<Self> {
        let algorithm = decode_header(token).ok()?.alg;
        // A SPIFFE workload's token needn't have an issuer.
        Some(Self { algorithm, issuer: said(token, "iss").unwrap_or_default(), subject: said(token, "sub")? })
    }
}

impl Shared {
    pub(super) fn check_assertion(
        &self,
        assertion: &Assertion,
        client: &Client,
        endpoint: Endpoint,
    ) -> Result<(), OAuthError> {
        let token = assertion.token.expose();
        let checked = match assertion.method {
            AuthMethod::ClientSecretJwt => {
                Jwt::signed_with_one(token, &client.secrets).and_then(|jwt| self.check_own(&jwt, client, endpoint))
            }
            AuthMethod::PrivateKeyJwt => {
                Jwt::signed_by_one(token, &client.keys).and_then(|jwt| self.check_own(&jwt, client, endpoint))
            }
            _ => self.check_foreign(token, &client.foreign, endpoint),
        };
        checked.map_err(|Flaw(flaw)| OAuthError::unproved(flaw))
    }

    /// `iss` and `sub` led here: both are the client's id.
    fn check_own(&self, jwt: &Jwt, client: &Client, endpoint: Endpoint) -> Result<(), Flaw> {
        let now = self.clock.unix_seconds();
        let jti = jwt.text("jti").ok_or(Flaw("the assertion has no jti"))?;
        if jti.len() > LONGEST_JTI {
            return Err(Flaw("the assertion's jti is too long"));
        }
        // Before anything else can refuse it: to send the same one again is wrong in any case.
        let until = jwt.seconds("exp").unwrap_or(now).saturating_add(SKEW);
        if !self.assertions.is_first(&client.id, jti, now, until) {
            return Err(Flaw("the assertion was used before"));
        }
        let untyped = jwt.header().typ.is_none();
        if !untyped && !jwt.is_of_type(&["JWT", "client-authentication+jwt"]) {
            return Err(Flaw("the assertion is of another type"));
        }
        jwt.check_times(now, Some(LONGEST_LIFE))?;
        self.check_assertion_audience(jwt, endpoint)
    }

    /// An issuer's token may be shown as often as one likes while it lives: workloads are given a
    /// new one every now and then only.
    fn check_foreign(&self, token: &str, known: &[ForeignIdentity], endpoint: Endpoint) -> Result<(), Flaw> {
        let says = Says::read(token).ok_or(Flaw("the assertion isn't a JWT"))?;
        let identity = known.iter().find(|identity| identity.is(&says.issuer, &says.subject));
        let identity = identity.ok_or(Flaw("nobody vouches for this subject"))?;
        let jwt = Jwt::signed_by_one(token, &identity.keys)?;
        jwt.check_times(self.clock.unix_seconds(), None)?;
        match &identity.audience {
            Some(audience) if jwt.audiences().contains(&audience.as_str()) => Ok(()),
            Some(_) => Err(Flaw("the assertion is for another audience")),
            None => self.check_assertion_audience(&jwt, endpoint),
        }
    }

    pub(in crate::demo::authorization_server) fn check_assertion_audience(
        &self,
        jwt: &Jwt,
        endpoint: Endpoint,
    ) -> Result<(), Flaw> {
        let named = jwt.audiences();
        let is_issuer = jwt.text("aud") == Some(self.issuer.as_str());
        let is_endpoint =
            [Endpoint::Token, endpoint].iter().any(|endpoint| named.contains(&self.endpoints.url(*endpoint).as_str()));
        let fits = match lock(&self.knobs).assertion_audience {
            AssertionAudience::Issuer => is_issuer,
            AssertionAudience::Endpoint => is_endpoint,
            AssertionAudience::Either => is_endpoint || named.contains(&self.issuer.as_str()),
        };
        if fits { Ok(()) } else { Err(Flaw("the assertion is for another audience")) }
    }
}
