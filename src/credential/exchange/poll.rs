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
            let wish = match fault.retry {
                Retry::After(wish) => wish.unwrap_or_default(),
                Retry::No => Duration::ZERO,
            };
            match fault.code() {
                Some("authorization_pending") => backoff = Duration::ZERO,
                Some("slow_down") => {
                    interval = (interval + SLOWER).max(wish).min(SLOWEST);
                    backoff = Duration::ZERO;
                }
                Some("access_denied") => return Err(Fault::terminal(Failure::NotApproved("it was denied"))),
                Some("expired_token") => return Err(Fault::terminal(Failure::NotApproved("no answer in time"))),
                // RFC 8628 §3.5: a connection that times out makes us slower, twice each time.
                _ if is_passing(&fault) => backoff = (backoff * 2).max(interval).max(wish).min(SLOWEST),
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

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::SystemTime};

    use http::{HeaderMap, HeaderValue, Method, StatusCode, header::RETRY_AFTER};

    use super::*;
    use crate::credential::{
        error::Misbehaviour,
        request::TokenRequest,
        response::{self, Answer},
        step::{AnswerFormat, BodyFormat},
    };

    /// A server's answer after that many seconds.
    #[derive(Clone, Copy)]
    enum Act {
        /// Status, `Retry-After`, body.
        Answer(u64, u16, &'static str, &'static str),
        /// None came.
        Silence(u64),
    }

    const PENDING: &str = r#"{"error":"authorization_pending"}"#;
    const GRANTED: &str = r#"{"access_token":"at","token_type":"Bearer"}"#;

    /// Polls along a script; the pauses in seconds, each from an answer to the next question.
    async fn play(interval: Option<u64>, expires_in: u64, script: &[Act]) -> (Vec<u64>, Result<(), Fault>) {
        let pauses = RefCell::new(Vec::new());
        let answered = RefCell::new(Instant::now());
        let value = |seconds: u64| Value::from(seconds);
        let pending = Pending::new(interval.map(value).as_ref(), Some(&value(expires_in)));
        let outcome = pending.poll(|| {
            pauses.borrow_mut().push(answered.borrow().elapsed().as_secs());
            let act = script[pauses.borrow().len() - 1];
            let answered = &answered;
            async move {
                let outcome = answer(act).await;
                *answered.borrow_mut() = Instant::now();
                outcome
            }
        });
        let outcome = outcome.await;
        (pauses.into_inner(), outcome)
    }

    async fn answer(act: Act) -> Result<(), Fault> {
        let (status, retry_after, body) = match act {
            Act::Silence(seconds) => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                return Err(Fault::outage(crate::credential::error::Outage::Slow(Duration::from_secs(seconds)), None));
            }
            Act::Answer(seconds, status, retry_after, body) => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                (StatusCode::from_u16(status).unwrap(), retry_after, body)
            }
        };
        let mut headers = HeaderMap::new();
        if !retry_after.is_empty() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(retry_after));
        }
        let request = TokenRequest::new("x", BodyFormat::Form, Method::POST);
        let answer = Answer { status, headers: &headers, body: body.as_bytes() };
        response::read(&answer, &AnswerFormat::default(), &request, SystemTime::UNIX_EPOCH).map(drop)
    }

    fn reason(outcome: Result<(), Fault>) -> String {
        outcome.unwrap_err().failure.to_string()
    }

    /// RFC 8628 §3.2: 5 s where the server says nothing; counted from the answer, however long
    /// it took to come.
    #[tokio::test(start_paused = true)]
    async fn the_interval_is_between_an_answer_and_the_next_question() {
        let script =
            [Act::Answer(3, 400, "", PENDING), Act::Answer(20, 400, "", PENDING), Act::Answer(0, 200, "", GRANTED)];
        for (interval, wanted) in [(None, 5), (Some(2), 2), (Some(0), 1)] {
            let (pauses, outcome) = play(interval, 600, &script).await;
            assert!(outcome.is_ok());
            assert_eq!(pauses, [wanted; 3]);
        }
    }

    /// §3.5: 5 s more, for good; never less than what the server names in any place (Auth0).
    #[tokio::test(start_paused = true)]
    async fn slow_down_is_for_good() {
        let script = [
            Act::Answer(0, 400, "", r#"{"error":"slow_down"}"#),
            Act::Answer(0, 403, "", PENDING),
            Act::Answer(0, 429, "12", r#"{"error":"slow_down"}"#),
            Act::Answer(0, 403, "", PENDING),
            Act::Answer(0, 429, "3", r#"{"error":"slow_down","interval":40}"#),
            Act::Answer(0, 403, "", PENDING),
            Act::Answer(0, 429, "", r#"{"error":"slow_down","interval":"2"}"#),
            Act::Answer(0, 200, "", GRANTED),
        ];
        let (pauses, outcome) = play(Some(1), 600, &script).await;
        assert!(outcome.is_ok());
        assert_eq!(pauses, [1, 6, 6, 12, 12, 40, 40, 45]);
    }

    /// §3.5: twice as slow after each silence, and as before once the server answers.
    #[tokio::test(start_paused = true)]
    async fn silence_makes_it_slower() {
        let script = [
            Act::Silence(10),
            Act::Answer(0, 503, "", ""),
            Act::Silence(10),
            Act::Answer(0, 429, "60", "Too many requests"),
            Act::Answer(0, 400, "", PENDING),
            Act::Answer(0, 200, "", GRANTED),
        ];
        let (pauses, outcome) = play(Some(5), 600, &script).await;
        assert!(outcome.is_ok());
        assert_eq!(pauses, [5, 10, 15, 25, 65, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_the_human_or_the_time_says_so() {
        let started = Instant::now();
        let (pauses, outcome) = play(Some(7), 20, &[Act::Answer(0, 400, "", PENDING); 9]).await;
        assert!(reason(outcome).contains("no answer in time"));
        assert_eq!((pauses.len(), started.elapsed().as_secs()), (2, 20));
        for (status, code, why) in [
            (400, "access_denied", "denied"),
            (403, "access_denied", "denied"),
            (400, "expired_token", "no answer in time"),
            (403, "expired_token", "no answer in time"),
            (403, "invalid_grant", "invalid_grant"),
            (401, "invalid_client", "invalid_client"),
            (400, "made_up", "made_up"),
        ] {
            let body: &'static str = format!(r#"{{"error":"{code}"}}"#).leak();
            let (pauses, outcome) = play(Some(1), 600, &[Act::Answer(0, status, "", body)]).await;
            assert!(reason(outcome).contains(why), "{code}");
            assert_eq!(pauses.len(), 1, "{code}");
        }
        let (pauses, outcome) = play(Some(1), 600, &[Act::Answer(0, 200, "", "<html>")]).await;
        let Failure::Protocol(Misbehaviour::NotJson) = outcome.unwrap_err().failure else { panic!("not JSON") };
        assert_eq!(pauses.len(), 1);
    }

    /// A server that means for ever doesn't make us wait for ever, nor overflow a clock.
    #[tokio::test(start_paused = true)]
    async fn senseless_times_are_cut() {
        let started = Instant::now();
        let (pauses, outcome) = play(Some(u64::MAX), u64::MAX, &[Act::Answer(0, 400, "", PENDING); 300]).await;
        assert!(reason(outcome).contains("no answer in time"));
        assert!(pauses.iter().all(|pause| *pause == 300), "{pauses:?}");
        assert_eq!(started.elapsed(), Duration::from_secs(24 * 3600));
    }
}
