//! What one agent may have under way at once (threat 87): connections and requests, whichever
//! doors they come through. A connection is the agent's who first showed a key on it.

use std::sync::OnceLock;

use crate::{
    identity::{Agent, Counted},
    observe::{Noted, Record},
};

use super::{Error, Settings, open::Open};

/// A connection's place among those of its agent.
#[derive(Debug, Default)]
pub struct Seat(OnceLock<Counted>);

/// An agent has as much under way as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    #[error("the agent has as many requests under way as it may")]
    Requests,
    #[error("the agent has as many connections as it may")]
    Connections,
}

impl Seat {
    /// Counts the request for as long as its record is open, and its connection once.
    pub(super) fn take(&self, agent: &Agent, settings: &Settings, open: &mut Open) -> Result<Seated, Error> {
        if self.0.get().is_none() {
            let counted = agent.begin_connection(settings.agent_connections).ok_or(TooMany::Connections)?;
            // Nobody else can have been here: a connection's requests are one thread's.
            let _ = self.0.set(counted);
        }
        open.hold(agent.begin_request(settings.agent_requests).ok_or(TooMany::Requests)?);
        Ok(Seated)
    }
}

/// The request is counted.
pub(super) struct Seated;

impl Noted for Seated {
    fn note(&self, _: &mut Record) {}
}
