//! Who sends a request: what it shows, and whether that proves a registered client.
//!
//! One method a request (RFC 6749 §2.3). What is shown is read before a fault can come in
//! between, and judged after it, so that a request held or refused by a fault has no effect.

mod assertion;
mod certificate;
mod secret;

use http::{HeaderMap, header};

use crate::{
    demo::{
        client_certificates::PeerCertificates,
        journal::lock,
        jwt::{Confirmation, said},
    },
    primitives::Secret,
};

use super::{
    AuthMethod, Client, Endpoint, GrantType, Shared, error::OAuthError, record::BasicEncoding, request::Params,
};

/// Who a request says it is from, still to be proved.
pub(super) struct Claim(Shown);

enum Shown {
    /// In a header or in the body. More than one where a Basic header can be read in two ways.
    Secret(AuthMethod, Vec<secret::Candidate>),
    Assertion(assertion::Assertion),
    /// A client names itself and shows nothing, or nothing but its certificate.
    Bare(String),
    /// A client shows an assertion as its grant and nothing else: who it is, is in there.
    Grant(Secret),
}

/// A client that has proved who it is.
pub(super) struct Caller {
    pub(super) client: Client,
    pub(super) method: AuthMethod,
    pub(super) basic_encoding: Option<BasicEncoding>,
    /// What it has proved to hold besides, and what its tokens will be bound to.
    pub(super) binding: Confirmation,
}

// === impl Claim ===

impl Claim {
    pub(super) fn read(headers: &HeaderMap, params: &Params) -> Result<Self, OAuthError> {
        let header = headers.get(header::AUTHORIZATION);
        let assertion = assertion::Assertion::read(params)?;
        let shown = match (header, params.secret("client_secret"), assertion, params.get("client_id")) {
            (Some(header), None, None, client_id) => {
                Shown::Secret(AuthMethod::ClientSecretBasic, secret::basic(header, client_id)?)
            }
            (None, Some(secret), None, Some(id)) => {
                Shown::Secret(AuthMethod::ClientSecretPost, vec![secret::Candidate::post(id, secret)])
            }
            (None, None, Some(assertion), _) => Shown::Assertion(assertion),
            (None, None, None, Some(id)) => Shown::Bare(id.to_owned()),
            (None, None, None, None) if is_assertion_grant(params) => Shown::Grant(assertion_of(params)?),
            (None, _, None, None) => return Err(OAuthError::invalid_client(None)),
            _ => return Err(OAuthError::invalid_request("two ways of client authentication at once")),
        };
        Ok(Self(shown))
    }

    /// For the record, until it is proved.
    pub(super) fn client_id(&self) -> Option<&str> {
        match &self.0 {
            Shown::Secret(_, candidates) => candidates.first().map(|candidate| candidate.client_id.as_str()),
            Shown::Assertion(assertion) => Some(&assertion.client_id),
            Shown::Bare(id) => Some(id),
            Shown::Grant(_) => None,
        }
    }

    /// Likewise.
    pub(super) fn method(&self) -> AuthMethod {
        match &self.0 {
            Shown::Secret(method, _) => *method,
            Shown::Assertion(assertion) => assertion.method,
            Shown::Bare(_) => AuthMethod::Public,
            Shown::Grant(_) => AuthMethod::AssertionGrant,
        }
    }
}

impl Shared {
    pub(super) fn authenticate(
        &self,
        claim: &Claim,
        certificates: Option<&PeerCertificates>,
        endpoint: Endpoint,
    ) -> Result<Caller, OAuthError> {
        let method = claim.method();
        let refused = || OAuthError::invalid_client(Some(method));
        match &claim.0 {
            Shown::Secret(_, candidates) => {
                let clients = lock(&self.clients);
                let proved = candidates.iter().find_map(|candidate| {
                    let client = clients.get(&candidate.client_id)?;
                    let proved = client.may_use(method) && candidate.is_proved_by(&client.secrets);
                    proved.then(|| Caller { basic_encoding: candidate.encoding, ..Caller::new(client.clone(), method) })
                });
                proved.ok_or_else(refused)
            }
            Shown::Assertion(assertion) => {
                let caller = self.caller(&assertion.client_id, method).ok_or_else(refused)?;
                self.check_assertion(assertion, &caller.client, endpoint)?;
                Ok(caller)
            }
            Shown::Grant(assertion) => self.granted_to(assertion.expose()).ok_or_else(refused),
            Shown::Bare(id) => {
                let certified = certificates.and_then(|certificates| self.certified(id, certificates));
                certified.or_else(|| self.caller(id, AuthMethod::Public)).ok_or_else(refused)
            }
        }
    }

    /// The client whose own assertion this says to be, or that of a workload that acts as the
    /// client. The grant finds out whether it is.
    fn granted_to(&self, assertion: &str) -> Option<Caller> {
        let (issuer, subject) = (said(assertion, "iss")?, said(assertion, "sub")?);
        let clients = lock(&self.clients);
        let is_its_own =
            |client: &&Client| client.id == issuer || client.foreign.iter().any(|known| known.is(&issuer, &subject));
        let mut able = clients.values().filter(|client| client.may_use(AuthMethod::AssertionGrant));
        able.find(is_its_own).map(|client| Caller::new(client.clone(), AuthMethod::AssertionGrant))
    }

    /// The registered client of that id, if this is a method of its.
    fn caller(&self, client_id: &str, method: AuthMethod) -> Option<Caller> {
        let client = lock(&self.clients).get(client_id).filter(|client| client.may_use(method)).cloned()?;
        Some(Caller::new(client, method))
    }
}

fn is_assertion_grant(params: &Params) -> bool {
    params.get("grant_type") == Some(GrantType::JwtBearer.name())
}

fn assertion_of(params: &Params) -> Result<Secret, OAuthError> {
    params.secret("assertion").ok_or_else(|| OAuthError::invalid_request("assertion is missing"))
}

// === impl Caller ===

impl Caller {
    fn new(client: Client, method: AuthMethod) -> Self {
        Self { client, method, basic_encoding: None, binding: Confirmation::default() }
    }
}

// === impl Client ===

impl Client {
    fn may_use(&self, method: AuthMethod) -> bool {
        self.auth_methods.contains(&method)
    }
}
