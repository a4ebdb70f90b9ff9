//! Logins at another device, which a client polls for: RFC 8628's and CIBA's. What the person
//! there does is a script.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;

use crate::{
    demo::{Error, random_secret},
    primitives::{Secret, sha256},
};

use super::{Poll, PollKnobs, consent::Consent, error::OAuthError};

/// What `slow_down` adds to the interval (RFC 8628 §3.5).
const SLOWER: Duration = Duration::from_secs(5);

/// By the digest of what the client polls with.
#[derive(Debug, Default)]
pub(super) struct Waiting(HashMap<[u8; 32], Login>);

#[derive(Debug)]
struct Login {
    consent: Consent,
    /// What the person types, where they type something.
    user_code: Option<String>,
    script: VecDeque<Poll>,
    interval: Duration,
    /// Where nobody decides until then.
    expires: Instant,
    polled: Option<Instant>,
    spent: bool,
}

impl Waiting {
    /// What the client will poll with.
    pub(super) fn begin(
        &mut self,
        consent: Consent,
        user_code: Option<String>,
        knobs: &PollKnobs,
    ) -> Result<Secret, Error> {
        let code = random_secret()?;
        let login = Login {
            consent,
            user_code,
            script: knobs.script.iter().copied().collect(),
            interval: knobs.interval,
            expires: Instant::now() + knobs.lifetime,
            polled: None,
            spent: false,
        };
        self.0.insert(sha256(code.expose().as_bytes()), login);
        Ok(code)
    }

    /// For every login that waits.
    pub(super) fn decide(&mut self, script: &[Poll]) {
        for login in self.0.values_mut() {
            login.script = script.iter().copied().collect();
        }
    }

    /// The person typed this code and says yes. `false`: nobody waits for it.
    pub(super) fn approve(&mut self, user_code: &str) -> bool {
        let login = self.0.values_mut().find(|login| login.user_code.as_deref() == Some(user_code) && !login.spent);
        login.map(|login| login.script = VecDeque::from([Poll::Approve])).is_some()
    }

    /// What was consented to, once and only if it was.
    pub(super) fn poll(&mut self, code: &Secret, client_id: &str, auth0: bool) -> Result<Consent, OAuthError> {
        let login = self.0.get_mut(&sha256(code.expose().as_bytes()));
        let login = login.filter(|login| login.consent.client_id == client_id && !login.spent);
        let login = login.ok_or_else(|| OAuthError::invalid_grant("the code is unknown or was used before"))?;
        login.poll(auth0)
    }
}

// === impl Login ===

impl Login {
    fn poll(&mut self, auth0: bool) -> Result<Consent, OAuthError> {
        let now = Instant::now();
        let too_early = self.polled.is_some_and(|polled| now.duration_since(polled) < self.interval);
        self.polled = Some(now);
        let met = match self.script.front().copied() {
            _ if now >= self.expires => Poll::Expire,
            _ if too_early => Poll::SlowDown,
            step => {
                if self.script.len() > 1 {
                    self.script.pop_front();
                }
                step.unwrap_or(Poll::Pending)
            }
        };
        let status = |error: OAuthError, status| if auth0 { error.with_status(status) } else { error };
        match met {
            Poll::Approve => {
                self.spent = true;
                Ok(self.consent.clone())
            }
            Poll::Pending => {
                let error = OAuthError::bad_request("authorization_pending", "nobody has decided yet");
                Err(status(error, StatusCode::FORBIDDEN))
            }
            Poll::SlowDown => {
                self.interval += SLOWER;
                // RFC 8628 §3.5 leaves it to the client to count; Auth0 tells it.
                let told = OAuthError::slow_down(self.interval.as_secs()).with_status(StatusCode::TOO_MANY_REQUESTS);
                Err(if auth0 { told } else { OAuthError::bad_request("slow_down", "polls come too fast") })
            }
            Poll::Deny => {
                Err(status(OAuthError::bad_request("access_denied", "the user said no"), StatusCode::FORBIDDEN))
            }
            Poll::Expire => {
                // Auth0 says it once, and then knows nothing of it.
                self.spent = auth0;
                let error = OAuthError::bad_request("expired_token", "nobody has decided in time");
                Err(status(error, StatusCode::FORBIDDEN))
            }
        }
    }
}
