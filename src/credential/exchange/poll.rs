//! Asking again and again until a human has decided: shared by the device grant (RFC 8628
//! §3.4, §3.5) and CIBA. Knows time and error codes, nothing of what is asked.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::credential::error::{Failure, Fault, Retry};

/// RFC 8628 §3.2 and CIBA §7.3.
const INTERVAL: Duration = Duration::from_secs(5);
/// A server that says 0 doesn't mean that we should never pause.
const FASTEST: Duration = Duration::from_secs(1);
/// What `slow_down` adds, for good (RFC 8628 §3.5).
const SLOWER: Duration = Duration::from_secs(5);
/// No server makes us wait longer between two polls.
const SLOWEST: Duration = Duration::from_secs(300);
/// For a server that doesn't say how long it waits.
const PATIENCE: Duration = Duration::from_secs(300);
/// No human is waited for longer.
const MOST_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// What was begun and is polled for.
#[derive(Debug)]
pub(crate) struct Pending {
    interval: Duration,
    deadline: Instant,
}

impl Pending {
    /// As the server says, in seconds, in the answer that came just now.
    pub(crate) fn new(interval: Option<&Value>, expires_in: Option<&Value>) -> Self {
        let patience = seconds(expires_in).unwrap_or(PATIENCE).min(MOST_PATIENCE);
        let interval = seconds(interval).unwrap_or(INTERVAL).clamp(FASTEST, SLOWEST);
        Self { interval, deadline: Instant::now() + patience }
    }

    /// Until a human has to have decided.
    pub(crate) fn patience(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Asks until there is an answer: never sooner than the interval after the last answer,
    /// and never twice at a time.
    pub(crate) async fn poll<T, F>(self, mut ask: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let Self { mut interval, deadline } = self;
        let mut backoff = Duration::ZERO;
        loop {
            let next = Instant::now() + interval + backoff;
            if next >= deadline {
                tokio::time::sleep_until(deadline).await;
                return Err(Fault::terminal(Failure::NotApproved("no answer in time")));
            }
            tokio::time::sleep_until(next).await;
            let fault = match ask().await {
                Ok(answer) => return Ok(answer),
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
    matches!(&fault.failure, Failure::Unavailable(_))
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
