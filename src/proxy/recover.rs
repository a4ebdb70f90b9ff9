//! What an upstream's answer calls for (standards 3.6, 1.C, 1.R.5, 1.M): another token, another
//! nonce, more scopes, a human; or nothing, and it goes to the agent as it is. Decides; sends
//! nothing.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::{
    credential::{Asking, Broker, Lease},
    policy::Permit,
    primitives::CredentialName,
    route::RefreshOn,
    upstream::Sent,
};

use super::{
    Error,
    challenge::{Complaint, complaint},
    scrub,
};

/// Bytes of a body that are looked at to find the text of `refresh_on`: as they come, and decoded.
const MAX_LOOK: usize = 8 * 1024;

/// … and how long they are waited for.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Attempts with another nonce: a server that hands out a new one with every answer may
/// have done so between our last answer and this request.
const MAX_NONCES: u32 = 4;

/// What was tried for a request.
#[derive(Debug, Default)]
pub(super) struct Tries {
    renewed: bool,
    stepped_up: bool,
    nonces: u32,
}

/// What to send the request again with.
pub(super) enum Remedy {
    /// As before, with a proof of its own. `contested`: the nonce that was just handed out was
    /// refused, too.
    SameToken {
        contested: bool,
    },
    Other(Lease),
}

/// The upstream wants a human to authenticate (RFC 9470).
#[derive(Debug)]
pub struct StepUp {
    pub credential: CredentialName,
    pub acr_values: Option<String>,
    pub max_age: Option<String>,
}

/// Bytes of what an upstream wants that are told: more is no name and no number.
const MOST_TOLD: usize = 64;

impl StepUp {
    /// What the upstream says is told, unless it says the token of `lease` (threat 15).
    fn new(credential: CredentialName, lease: &Lease, (acr_values, max_age): (Option<String>, Option<String>)) -> Self {
        let harmless =
            |text: &String| text.len() <= MOST_TOLD && !lease.traces().iter().any(|trace| trace.is_in(text.as_bytes()));
        Self { credential, acr_values: acr_values.filter(harmless), max_age: max_age.filter(harmless) }
    }
}

/// Whether [`Tries::remedy`] has to be asked: nearly no answer is of that kind.
pub(super) fn may_call_for_a_remedy(permit: &Permit<'_>, sent: &Sent) -> bool {
    let status = sent.response.status();
    permit.credential().is_some_and(|binding| match &binding.refresh_on {
        RefreshOn::Answer { statuses, .. } if statuses.contains(&status.as_u16()) => true,
        _any => status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN,
    })
}

impl Tries {
    /// `None`: the answer is the agent's. `large`: how many codings may be undone at once that
    /// take megabytes.
    pub(super) async fn remedy(
        &mut self,
        broker: &Broker,
        permit: &Permit<'_>,
        asking: Asking<'_>,
        lease: &Lease,
        sent: &mut Sent,
        large: &Semaphore,
    ) -> Result<Option<Remedy>, Error> {
        let Some(binding) = permit.credential().filter(|_| lease.is_some()) else { return Ok(None) };
        let status = sent.response.status();
        let is_refusal = status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN;
        let complaint = is_refusal.then(|| complaint(sent.response.headers(), lease.scheme())).flatten();
        match complaint {
            Some(Complaint::UseDpopNonce) if lease.is_bound_to_key() && self.nonces < MAX_NONCES => {
                self.nonces += 1;
                return Ok(Some(Remedy::SameToken { contested: self.nonces > 1 }));
            }
            Some(Complaint::InsufficientScope(wanted)) => {
                if std::mem::replace(&mut self.stepped_up, true) {
                    return Ok(None);
                }
                let other = broker.step_up(permit, asking, lease, &wanted).await;
                return Ok(or_none(other, "the upstream wants more scopes, and no token with them can be got"));
            }
            Some(Complaint::InsufficientAuthentication { acr_values, max_age }) => {
                let name = binding.name.clone();
                return Err(StepUp::new(name, lease, (acr_values, max_age)).into());
            }
            Some(Complaint::UseDpopNonce | Complaint::InvalidToken) | None => {}
        }
        let refused = match &binding.refresh_on {
            RefreshOn::InvalidToken => status == StatusCode::UNAUTHORIZED && complaint == Some(Complaint::InvalidToken),
            RefreshOn::Any401 => status == StatusCode::UNAUTHORIZED,
            RefreshOn::Never => false,
            RefreshOn::Answer { statuses, body } => {
                // Where nothing would come of it, the agent doesn't wait for the look.
                !self.renewed && statuses.contains(&status.as_u16()) && says(sent, body.as_deref(), large).await
            }
        };
        if !refused || std::mem::replace(&mut self.renewed, true) {
            return Ok(None);
        }
        // Where there is no other, the upstream's own 401 says more to the agent than our
        // failure would.
        let other = broker.renew(permit, asking, lease).await;
        Ok(or_none(other, "the upstream refused a token and no other could be got"))
    }
}

fn or_none(other: Result<Option<Lease>, crate::credential::Error>, otherwise: &str) -> Option<Remedy> {
    match other {
        Ok(other) => other.map(Remedy::Other),
        Err(error) => {
            tracing::warn!(%error, "{otherwise}");
            None
        }
    }
}

/// Whether `text` is in the beginning of the body, in whichever coding that is. What was read of
/// it goes to the agent all the same.
async fn says(sent: &mut Sent, text: Option<&str>, large: &Semaphore) -> bool {
    let Some(text) = text else { return true };
    read_ahead(sent).await;
    let (wanted, fields) = (text.as_bytes(), sent.response.headers());
    let read = scrub::beginning(fields, &sent.ahead, MAX_LOOK, large);
    !wanted.is_empty() && read.windows(wanted.len()).any(|part| part == wanted)
}

/// The beginning of the body, whether or not its length is known: many refusals are chunked.
async fn read_ahead(sent: &mut Sent) {
    let body = sent.response.body_mut();
    let mut read = BytesMut::new();
    // One that stalls is passed on as far as it came, and waited for as any other.
    let end = Instant::now() + LONGEST_LOOK;
    while read.len() < MAX_LOOK
        && let Ok(Some(frame)) = timeout_at(end, body.frame()).await
    {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                body.put_back_error(error);
                break;
            }
        };
        match frame.into_data() {
            Ok(data) => read.extend_from_slice(&data),
            Err(frame) => {
                // Nothing comes behind them, and the agent wants them, too.
                if let Ok(trailers) = frame.into_trailers() {
                    body.put_back(trailers);
                }
                break;
            }
        }
    }
    sent.ahead = Bytes::from(read);
}
