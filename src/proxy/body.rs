//! Bodies in both directions, streamed with back-pressure: [`RequestBody`] goes upstream,
//! [`Body`] back to the agent. Here is what they have in common.

mod agent;
mod request;
mod response;

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::upstream::IncomingError;

use super::{error::BadRequest, scrub::Undecodable};
use agent::AgentBodyError;

pub use agent::AgentBody;

pub use request::RequestBody;
pub(super) use request::{Limits, Rewinder};
pub use response::Body;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The agent broke off or broke HTTP.
    #[error("the body broke off")]
    Broken(#[from] AgentBodyError),
    /// The upstream did.
    #[error("the body broke off")]
    Upstream(#[from] IncomingError),
    #[error("no byte of the body came for {0:?}")]
    Idle(Duration),
    /// The request is older than any may be.
    #[error("the request's time is up")]
    Late,
    #[error(transparent)]
    Undecodable(#[from] Undecodable),
    /// The request is being sent again; this attempt's body is void.
    #[error("the request was sent again")]
    Superseded,
}

impl BodyError {
    /// For the record of an answer that it broke off.
    fn code(&self) -> &'static str {
        match self {
            Self::Idle(_) => "upstream_timeout",
            Self::Late => "request_timeout",
            Self::Undecodable(_) => "upstream_protocol",
            Self::Upstream(error) if error.is_the_requests() => BadRequest::CODE,
            Self::Broken(_) | Self::Upstream(_) | Self::Superseded => "upstream_broke_off",
        }
    }
}

// === impl IdleTimer ===

/// How long a body may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Without a byte.
    pub(super) idle: Duration,
    /// Whatever comes.
    pub(super) end: Instant,
}

/// Fires when nothing has passed for a while, or when there is no time left. Costs nothing
/// while bytes are at hand: the timer is armed only when a read has to wait.
#[derive(Debug)]
struct IdleTimer {
    times: Times,
    sleep: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl IdleTimer {
    fn new(times: Times) -> Self {
        Self { times, sleep: None, armed: false }
    }

    fn progress(&mut self) {
        self.armed = false;
    }

    /// Why to wait no longer.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let Times { idle, end } = self.times;
        let deadline = || end.min(Instant::now() + idle);
        let sleep = match &mut self.sleep {
            Some(sleep) => {
                if !self.armed {
                    sleep.as_mut().reset(deadline());
                }
                sleep
            }
            None => self.sleep.insert(Box::pin(sleep_until(deadline()))),
        };
        self.armed = true;
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(if end <= Instant::now() { BodyError::Late } else { BodyError::Idle(idle) })
    }
}
