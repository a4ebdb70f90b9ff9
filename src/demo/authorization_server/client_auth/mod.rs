//! Who sends a request: what it shows, and whether that proves a registered client.
//!
//! One method a request (RFC 6749 §2.3). What is shown is read before a fault can come in
//! between, and judged after it, so that a request held or refused by a fault has no effect.

mod secret;

use http::{HeaderMap, header};

use crate::demo::journal::lock;

use super::{AuthMethod, Client, Shared, error::OAuthError, record::BasicEncoding, request::Params};

/// Who a request says it is from, still to be proved.
pub(super) struct Claim {
    pub(super) method: AuthMethod,
    /// More than one where a Basic header can be read in two ways.
    candidates: Vec<secret::Candidate>,
}

/// A client that has proved who it is.
pub(super) struct Caller {
    pub(super) client: Client,
    pub(super) method: AuthMethod,
    pub(super) basic_encoding: Option<BasicEncoding>,
}

// === impl Claim ===

impl Claim {
    pub(super) fn read(headers: &HeaderMap, params: &Params) -> Result<Self, OAuthError> {
        let header = headers.get(header::AUTHORIZATION);
        let (method, candidates) = match (header, params.get("client_id"), params.secret("client_secret")) {
            (Some(_), _, Some(_)) => {
                return Err(OAuthError::invalid_request("two ways of client authentication at once"));
            }
            (Some(header), client_id, None) => (AuthMethod::ClientSecretBasic, secret::basic(header, client_id)?),
            (None, Some(id), Some(secret)) => (AuthMethod::ClientSecretPost, vec![secret::Candidate::post(id, secret)]),
            (None, ..) => return Err(OAuthError::invalid_client(None)),
        };
        Ok(Self { method, candidates })
    }

    /// For the record, until it is proved.
    pub(super) fn client_id(&self) -> Option<&str> {
        self.candidates.first().map(|candidate| candidate.client_id.as_str())
    }
}

impl Shared {
    pub(super) fn authenticate(&self, claim: &Claim) -> Result<Caller, OAuthError> {
        let clients = lock(&self.clients);
        for candidate in &claim.candidates {
            let Some(client) = clients.get(&candidate.client_id) else { continue };
            if client.auth_methods.contains(&claim.method) && candidate.is_proved_by(&client.secrets) {
                return Ok(Caller { client: client.clone(), method: claim.method, basic_encoding: candidate.encoding });
            }
        }
        Err(OAuthError::invalid_client(Some(claim.method)))
    }
}
