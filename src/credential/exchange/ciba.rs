//! Asking a human (CIBA Core 1.0, poll mode), and the polling that it shares with the device
//! grant (RFC 8628 §3.5).

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    credential::{
        error::{Failure, Fault, Misbehaviour, Outage, Retry},
        grant::{Ciba, ciba},
        metadata::EndpointKind,
        request::TokenRequest,
        response::{self, Answer},
        step::Step,
    },
    primitives::Secret,
};

use super::{
    Exchange, Output,
    ask::{Heard, Make, Question, Reached},
};

/// RFC 8628 §3.2 and CIBA §7.3.
const INTERVAL: Duration = Duration::from_secs(5);
/// What `slow_down` adds, for good (RFC 8628 §3.5).
const SLOWER: Duration = Duration::from_secs(5);
/// No server makes us wait longer between two polls.
const SLOWEST: Duration = Duration::from_secs(300);

/// What was begun and is polled for.
pub(crate) struct Pending {
    pub(crate) interval: Duration,
    pub(crate) deadline: Instant,
}

#[derive(Deserialize)]
struct Begun {
    auth_req_id: String,
    expires_in: Option<Value>,
    interval: Option<Value>,
}

impl Exchange {
    /// A token that a human approved of.
    pub(super) async fn approved(
        &self,
        number: usize,
        step: &Step,
        ciba: &Ciba,
        scopes: &[&str],
    ) -> Result<Output, Fault> {
        let hint = match ciba.hint_source() {
            Some(source) => Some(self.tools.read(source).await?),
            None => None,
        };
        let question = Question { number, step, kind: EndpointKind::BackchannelAuthentication, scopes, prover: None };
        let make = || {
            let mut request = TokenRequest::new("", step.ask.body, http::Method::POST);
            ciba.ask(&mut request, hint.as_ref(), None).map_err(Fault::settings)?;
            step.ask.fill(&mut request, scopes).map_err(Fault::settings)?;
            Ok(request)
        };
        let (begun, _) = self.question(question, &make, begun).await?;
        let code = Secret::new(begun.auth_req_id);
        let pending = Pending {
            interval: seconds(begun.interval.as_ref()).unwrap_or(INTERVAL),
            deadline: Instant::now() + seconds(begun.expires_in.as_ref()).unwrap_or(Duration::from_secs(300)),
        };
        let prover = self.own_prover(step)?;
        let question = Question { kind: EndpointKind::Token, prover: prover.as_ref(), ..question };
        let code = std::slice::from_ref(&code);
        let reached = self.poll(question, &|| step.request(code, scopes).map_err(Fault::settings), pending).await?;
        self.output(step, scopes, reached)
    }

    /// Asks until there is an answer: never sooner than `interval` after the last one, and
    /// never twice at a time.
    pub(crate) async fn poll(
        &self,
        question: Question<'_>,
        make: &Make<'_>,
        pending: Pending,
    ) -> Result<Reached, Fault> {
        let Pending { mut interval, deadline } = pending;
        let mut backoff = Duration::ZERO;
        loop {
            tokio::time::sleep(interval + backoff).await;
            if Instant::now() >= deadline {
                return Err(Fault::terminal(Failure::NotApproved("no answer in time")));
            }
            let fault = match self.ask_for_token(question, make).await {
                Ok(reached) => return Ok(reached),
                Err(fault) => fault,
            };
            match fault.code() {
                Some("authorization_pending") => backoff = Duration::ZERO,
                Some("slow_down") => {
                    let wish = match fault.retry {
                        Retry::After(wish) => wish.unwrap_or_default(),
                        Retry::No => Duration::ZERO,
                    };
                    interval = (interval + SLOWER).max(wish).min(SLOWEST);
                    backoff = Duration::ZERO;
                }
                Some("access_denied") => return Err(Fault::terminal(Failure::NotApproved("it was denied"))),
                Some("expired_token") => return Err(Fault::terminal(Failure::NotApproved("no answer in time"))),
                // RFC 8628 §3.5: a connection that times out makes us slower, twice each time.
                _ if is_passing(&fault) => backoff = (backoff * 2).max(interval).min(SLOWEST),
                _ => return Err(fault),
            }
        }
    }
}

fn is_passing(fault: &Fault) -> bool {
    match &fault.failure {
        Failure::Unavailable(Outage::Refused { code, .. }) => *code != "slow_down",
        Failure::Unavailable(_) => true,
        _ => false,
    }
}

fn begun(heard: &Heard, request: &TokenRequest, wall: std::time::SystemTime) -> Result<Begun, Fault> {
    let reply = &heard.reply;
    if reply.status.is_success() {
        let begun: Option<Begun> = serde_json::from_slice(&reply.body).ok();
        let begun = begun.filter(|begun| !begun.auth_req_id.is_empty());
        return begun.ok_or_else(|| Fault::protocol(Misbehaviour::Lacks("auth_req_id")));
    }
    let answer = Answer { status: reply.status, headers: &reply.headers, body: &reply.body };
    Err(response::failed(&answer, request, wall))
}

/// A number of seconds, or a string that is one.
pub(crate) fn seconds(value: Option<&Value>) -> Option<Duration> {
    let seconds = match value? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    seconds.map(Duration::from_secs)
}

impl Ciba {
    fn hint_source(&self) -> Option<&crate::credential::Source> {
        match &self.hint {
            ciba::Hint::LoginHint(_) => None,
            ciba::Hint::LoginHintToken(source) | ciba::Hint::IdTokenHint(source) => Some(source),
        }
    }
}
