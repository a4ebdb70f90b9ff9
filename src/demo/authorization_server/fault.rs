//! Ways to misbehave, for tests of clients, and the switch that turns them on.

use std::{future::pending, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};
use tokio::{sync::watch, time::sleep};

use crate::demo::https::Disconnect;

/// What an endpoint does instead of, or besides, its duty. Requests are recorded all the same.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// This status with this body, said to be JSON.
    Status { status: u16, body: String },
    /// This status with `Retry-After` and an OAuth error.
    RetryAfter { status: u16, seconds: u64 },
    /// This status (302, 307, …) with `Location`.
    Redirect { status: u16, location: String },
    /// Never answers.
    Hang,
    /// Does nothing until another fault, or none, is set, and then meets that one: with `None` it is
    /// answered properly; [`Disconnect`](Self::Disconnect) lets it go without any effect.
    Hold,
    /// Does what was asked at once, but keeps the answer back, to its first byte, until another
    /// fault, or none, is set. If that one breaks connections, the answer is lost.
    HoldAnswer,
    /// Answers properly after this long.
    Delay(Duration),
    /// 200 with a page of HTML that says it is JSON.
    Garbage,
    /// 200 with exactly this, said to be JSON.
    RawBody(String),
    /// Breaks the connection (in h2: resets the stream) before the request has any effect.
    Disconnect,
    /// Does what was asked, then breaks the connection likewise: a rotated refresh token is lost on the way.
    LoseAnswer,
    /// Does what was asked and answers, with these members put over the answer's own;
    /// `null` removes one. For `token_type`, `expires_in`, `scope`, a token with CR LF in it ….
    Override(Map<String, Value>),
}

/// What is left to do after the fault had its way.
pub(super) enum Verdict {
    /// Nothing: this is the answer.
    Answer(Box<Response>),
    /// The endpoint's duty, and then [`Afterwards`].
    Proceed(Afterwards),
}

/// What happens to a proper answer.
pub(super) enum Afterwards {
    Keep,
    Lose,
    /// Until the switch has left this turn.
    Hold(u64),
    Override(Map<String, Value>),
}

impl Afterwards {
    /// Of a success; an error's answer stays as it is.
    pub(super) fn amend(&self, answer: &mut Value) {
        let (Self::Override(members), Value::Object(answer)) = (self, answer) else { return };
        for (name, value) in members {
            if value.is_null() {
                answer.remove(name);
            } else {
                answer.insert(name.clone(), value.clone());
            }
        }
    }
}

// === impl Fault ===

impl Fault {
    async fn judge(self, turn: u64) -> Verdict {
        let answer = match self {
            Self::Status { status, body } => json(status, body),
            Self::RetryAfter { status, seconds } => {
                let mut answer = json(status, r#"{"error":"temporarily_unavailable"}"#.to_owned());
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                answer
            }
            Self::Redirect { status, location } => match HeaderValue::try_from(location) {
                Ok(location) => (status_code(status), [(header::LOCATION, location)]).into_response(),
                Err(_) => status_code(500).into_response(),
            },
            Self::Hang | Self::Hold => pending().await,
            Self::Garbage => json(200, "<!doctype html><title>Maintenance</title>".to_owned()),
            Self::RawBody(body) => json(200, body),
            Self::Disconnect => disconnect(),
            Self::Delay(time) => {
                sleep(time).await;
                return Verdict::Proceed(Afterwards::Keep);
            }
            Self::HoldAnswer => return Verdict::Proceed(Afterwards::Hold(turn)),
            Self::LoseAnswer => return Verdict::Proceed(Afterwards::Lose),
            Self::Override(members) => return Verdict::Proceed(Afterwards::Override(members)),
        };
        Verdict::Answer(Box::new(answer))
    }
}

// === impl Switch ===

/// Holds the fault in force. Each request takes it at most once.
#[derive(Debug, Default)]
pub(super) struct Switch(watch::Sender<Armed>);

#[derive(Debug, Default)]
struct Armed {
    fault: Option<Fault>,
    /// Requests it still applies to; `None`: all.
    remaining: Option<usize>,
    /// Grows with each `set`, so that whatever is held notices one to the same value.
    turn: u64,
}

impl Switch {
    pub(super) fn set(&self, fault: Option<Fault>, requests: Option<usize>) {
        self.0.send_modify(|armed| *armed = Armed { fault, remaining: requests, turn: armed.turn + 1 });
    }

    /// Lets the fault in force, if there is one, have its way with a request.
    pub(super) async fn meet(&self) -> Verdict {
        loop {
            return match self.take() {
                None => Verdict::Proceed(Afterwards::Keep),
                Some((Fault::Hold, turn)) => {
                    self.leave(turn).await;
                    continue;
                }
                Some((fault, turn)) => fault.judge(turn).await,
            };
        }
    }

    /// Once the duty is done: keeps the answer back, or loses it, where the fault says so.
    pub(super) async fn release(&self, afterwards: Afterwards, answer: Response) -> Response {
        match afterwards {
            Afterwards::Keep | Afterwards::Override(_) => answer,
            Afterwards::Lose => disconnect(),
            Afterwards::Hold(turn) => {
                self.leave(turn).await;
                match self.0.borrow().fault {
                    Some(Fault::Disconnect | Fault::LoseAnswer) => disconnect(),
                    _ => answer,
                }
            }
        }
    }

    async fn leave(&self, turn: u64) {
        let mut armed = self.0.subscribe();
        // It can't fail: `self` holds the sender.
        let _ = armed.wait_for(|armed| armed.turn != turn).await;
    }

    fn take(&self) -> Option<(Fault, u64)> {
        let mut taken = None;
        self.0.send_if_modified(|armed| {
            taken = armed.fault.clone().map(|fault| (fault, armed.turn));
            if let Some(remaining) = &mut armed.remaining {
                *remaining = remaining.saturating_sub(1);
                if *remaining == 0 {
                    armed.fault = None;
                }
            }
            false
        });
        taken
    }
}

/// A response that makes the server break the connection.
fn disconnect() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Disconnect);
    response
}

fn json(status: u16, body: String) -> Response {
    let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (status_code(status), [json, no_store], body).into_response()
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
