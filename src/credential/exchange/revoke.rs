//! Tokens that are given back (RFC 7009): at a logout, at the end of a `run`, and one that an
//! answer gave away. A server that doesn't take them back keeps nobody from forgetting them.

use std::time::Duration;

use crate::{
    credential::{
        error::{Failure, Fault, Outage, Retry},
        metadata::EndpointKind,
        request::TokenRequest,
        response,
        vault::session_key,
    },
    primitives::Secret,
};

use super::{Exchange, ask::Question};

/// What a server that is busy may make us wait before it is asked once more.
const PATIENCE: Duration = Duration::from_secs(2);

/// What became of a login at its server; here it is forgotten.
#[derive(Debug)]
pub(crate) enum Revocation {
    Done,
    /// There was no refresh token to give back.
    Nothing,
    /// The server takes no token back, or none of this kind.
    Unsupported,
    /// The server may still take the refresh token.
    Failed(Fault),
}

impl Exchange {
    /// Revokes what there is of a login and forgets it, whatever the server says.
    pub(crate) async fn log_out(&self) -> Result<Revocation, Fault> {
        let owner = &self.spec.name;
        let key = session_key(owner);
        let _guard = self.tools.vault.lock(&key, self.limits.lock).await.map_err(Fault::store)?;
        let unsaved = self.tools.unsaved(owner);
        let session = match unsaved {
            Some(unsaved) => Some(unsaved),
            None => self.legible_session(owner).await?,
        };
        let number = self.login_step().map_or(0, |login| login.number);
        let revocation = match session.and_then(|session| session.refresh_token) {
            None => Revocation::Nothing,
            Some(token) => match self.revoke(number, &token, "refresh_token").await {
                Ok(true) => Revocation::Done,
                Ok(false) => Revocation::Unsupported,
                Err(fault) => Revocation::Failed(fault),
            },
        };
        self.tools.saved(owner);
        self.tools.vault.forget(key).await.map_err(Fault::store)?;
        Ok(revocation)
    }

    pub(super) async fn revoke_access_token(&self, token: &Secret) -> Result<bool, Fault> {
        let last = self.spec.steps.len().saturating_sub(1);
        if self.spec.is_local() { Ok(false) } else { self.revoke(last, token, "access_token").await }
    }

    pub(crate) fn revokes_after_run(&self) -> bool {
        self.limits.transient && self.spec.revoke_after_run && !self.spec.is_local()
    }

    /// Whether the server of the last step takes back what it gave.
    pub(super) async fn is_revocable(&self) -> bool {
        let Some(Some(endpoint)) = self.endpoints.last() else { return false };
        self.spec.revoke_after_run && endpoint.url(EndpointKind::Revocation, false).await.is_ok()
    }

    /// `Ok(false)`: the server can't. Busy, it is asked once more (RFC 7009 §2.2.1).
    async fn revoke(&self, number: usize, token: &Secret, hint: &str) -> Result<bool, Fault> {
        let Some(Some(endpoint)) = self.endpoints.get(number) else { return Ok(false) };
        if endpoint.metadata().await?.url(EndpointKind::Revocation, false).is_none() {
            return Ok(false);
        }
        let first = self.ask_to_revoke(number, token, hint).await;
        match first.as_ref().err().and_then(wait) {
            Some(wait) => {
                tokio::time::sleep(wait).await;
                self.ask_to_revoke(number, token, hint).await
            }
            None => first,
        }
    }

    /// §2.2: a server answers 200 also for a token it doesn't know.
    async fn ask_to_revoke(&self, number: usize, token: &Secret, hint: &str) -> Result<bool, Fault> {
        let step = &self.spec.steps[number];
        let question = Question { number, step, kind: EndpointKind::Revocation, scopes: &[], prover: None };
        let make = || {
            let mut request = TokenRequest::new("", step.ask.body, http::Method::POST);
            request.set_secret("token", token).map_err(Fault::settings)?;
            request.set("token_type_hint", hint).map_err(Fault::settings)?;
            Ok(request)
        };
        let revoked = self.question(question, &make, |heard, request, wall| {
            if heard.reply.status.is_success() {
                return Ok(true);
            }
            let fault = response::failed(&heard.answer(), request, wall);
            // §2.2.1: it revokes no tokens of this kind, which is no error of ours.
            if fault.code() == Some("unsupported_token_type") { Ok(false) } else { Err(fault) }
        });
        revoked.await.map(|(revoked, _)| revoked)
    }
}

/// How long to wait before a second try; `None`: it is no use, or takes too long.
fn wait(fault: &Fault) -> Option<Duration> {
    let busy = matches!(
        &fault.failure,
        Failure::Unavailable(Outage::Status(429 | 503) | Outage::Refused { status: 429 | 503, .. })
    );
    let Retry::After(wish) = fault.retry else { return None };
    let wait = wish.unwrap_or(Duration::from_secs(1));
    (busy && wait <= PATIENCE).then_some(wait)
}
