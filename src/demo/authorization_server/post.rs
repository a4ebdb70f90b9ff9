//! The one way that every POST to this server goes, whichever endpoint it is for:
//!
//! ```text
//!   read -> journal -> fault? -> who is it? -> the endpoint's duty -> journal -> fault? -> answer
//! ```
//!
//! So each endpoint can be held before it does anything and after it has done everything.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::to_bytes,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use http::request::Parts;
use serde_json::Value;

use crate::demo::{
    client_certificates::PeerCertificates,
    dpop,
    journal::{Journal, lock},
    jwt::Confirmation,
};

use super::{
    Shared,
    client_auth::{Caller, Claim},
    error::{OAuthError, USE_DPOP_NONCE, no_store},
    fault::{self, Verdict},
    record::{Granted, Outcome, TokenRequest},
    request::{self, Params},
};

const BODY_LIMIT: usize = 64 * 1024;

/// An endpoint that takes a form from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Token,
    /// RFC 8628 §3.1.
    Device,
    /// CIBA Core §7.
    Backchannel,
    /// RFC 7009 §2.
    Revocation,
}

/// What stands before the path of an endpoint's alias.
pub(super) const ALIAS: &str = "/mtls";

impl Endpoint {
    pub(super) const ALL: [Self; 4] = [Self::Token, Self::Device, Self::Backchannel, Self::Revocation];

    /// As metadata says it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Token => "token_endpoint",
            Self::Device => "device_authorization_endpoint",
            Self::Backchannel => "backchannel_authentication_endpoint",
            Self::Revocation => "revocation_endpoint",
        }
    }

    pub(super) fn alias(self) -> String {
        format!("{ALIAS}{}", self.path())
    }

    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Token => "/oauth/token",
            Self::Device => "/oauth/device/code",
            Self::Backchannel => "/bc-authorize",
            Self::Revocation => "/oauth/revoke",
        }
    }
}

/// What belongs to an endpoint, and to no other.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) requests: Journal<TokenRequest>,
    pub(super) faults: fault::Switch,
}

/// What an endpoint answers where it doesn't refuse.
pub(super) struct Reply {
    /// `null`: none.
    pub(super) body: Value,
    pub(super) granted: Option<Granted>,
}

struct Form {
    params: Params,
    claim: Claim,
}

pub(super) fn routes(shared: &Arc<Shared>) -> Router {
    let mut router = Router::new();
    for endpoint in Endpoint::ALL {
        let handler = move |State(shared): State<Arc<Shared>>, request: Request| answer(shared, endpoint, request);
        router = router.route(endpoint.path(), any(handler)).route(&endpoint.alias(), any(handler));
    }
    router.with_state(Arc::clone(shared))
}

async fn answer(shared: Arc<Shared>, endpoint: Endpoint, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut record = TokenRequest::of(&parts);
    let form = match to_bytes(body, BODY_LIMIT).await {
        Ok(body) => Form::read(&parts, &body, &mut record),
        Err(_) => Err(OAuthError::invalid_request("the body is too long or broken")),
    };
    let desk = shared.desk(endpoint);
    let number = desk.requests.push(record);
    let afterwards = match desk.faults.meet().await {
        Verdict::Answer(answer) => {
            desk.requests.amend(number, |record| record.outcome = Outcome::Fault);
            return *answer;
        }
        Verdict::Proceed(afterwards) => afterwards,
    };

    // From here to the journal nothing waits: a client that goes away can't stop it half-way.
    let mut caller = None;
    let result = form.and_then(|form| {
        let certificates = shared.certificates(&parts);
        let caller = caller.insert(shared.authenticate(&form.claim, certificates, endpoint)?);
        caller.binding = shared.binding(caller, certificates, &parts)?;
        shared.serve(endpoint, caller, &form.params)
    });
    let lacks_nonce = result.as_ref().is_err_and(|error| error.code() == USE_DPOP_NONCE);
    let nonce = shared.dpop.nonce(lacks_nonce);
    desk.requests.amend(number, |record| {
        if let Some(caller) = &caller {
            record.know(caller);
        }
        record.outcome = Outcome::of(&result);
    });

    let mut answer = match result {
        // RFC 7009 §2.2.
        Ok(Reply { body: Value::Null, .. }) => no_store().into_response(),
        Ok(mut reply) => {
            afterwards.amend(&mut reply.body);
            (no_store(), Json(reply.body)).into_response()
        }
        Err(error) => error.into_response(),
    };
    if let Some(nonce) = nonce {
        answer.headers_mut().insert(dpop::NONCE, nonce);
    }
    desk.faults.release(afterwards, answer).await
}

impl Form {
    fn read(parts: &Parts, body: &Bytes, record: &mut TokenRequest) -> Result<Self, OAuthError> {
        let params = request::read(parts, body, record)?;
        let claim = Claim::read(&parts.headers, &params)?;
        record.auth_method = Some(claim.method());
        record.client_id = claim.client_id().map(str::to_owned);
        Ok(Self { params, claim })
    }
}

impl Shared {
    pub(super) fn desk(&self, endpoint: Endpoint) -> &Desk {
        match endpoint {
            Endpoint::Token => &self.token_desk,
            Endpoint::Device => &self.device_desk,
            Endpoint::Backchannel => &self.backchannel_desk,
            Endpoint::Revocation => &self.revocation_desk,
        }
    }

    /// What tokens will be bound to, by what came with the request besides the form.
    fn binding(
        &self,
        caller: &Caller,
        certificates: Option<&PeerCertificates>,
        parts: &Parts,
    ) -> Result<Confirmation, OAuthError> {
        let jkt = self.dpop.judge(parts, None)?;
        let downgrade = lock(&self.knobs).dpop_downgrade;
        Ok(Confirmation { jkt: jkt.filter(|_| !downgrade), x5t: caller.certificate(certificates)? })
    }

    fn certificates<'a>(&self, parts: &'a Parts) -> Option<&'a PeerCertificates> {
        let seen = !lock(&self.knobs).mtls_aliases || parts.uri.path().starts_with(ALIAS);
        parts.extensions.get().filter(|_| seen)
    }

    fn serve(&self, endpoint: Endpoint, caller: &Caller, params: &Params) -> Result<Reply, OAuthError> {
        match endpoint {
            Endpoint::Token => self.token(caller, params),
            Endpoint::Device => self.authorize_device(caller, params),
            Endpoint::Backchannel => self.authorize_backchannel(caller, params),
            Endpoint::Revocation => self.revoke(caller, params),
        }
    }
}

// === impl TokenRequest ===

impl TokenRequest {
    fn know(&mut self, caller: &Caller) {
        self.client_id = Some(caller.client.id.clone());
        self.auth_method = Some(caller.method);
        self.basic_encoding = caller.basic_encoding;
    }
}
