//! What one agent may have under way at once (threat 87): connections and requests, whichever
//! doors they come through. A connection is the agent's who first showed a key on it.

use std::{sync::OnceLock, time::Duration};

use crate::{
    identity::{Agent, Counted, Unknown},
    observe::{Noted, Record},
};

use super::{Error, Peer, Settings, open::Open};

/// A connection's place among those of its agent.
#[derive(Debug, Default)]
pub struct Seat {
    counted: OnceLock<Counted>,
    peer: Peer,
}

/// An agent has as much under way as it may, or somebody has guessed too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    #[error("the agent has as many requests under way as it may")]
    Requests,
    #[error("the agent has as many connections as it may")]
    Connections,
    /// Of one place, in a minute (threat 4).
    #[error("too many wrong agent keys came from there")]
    WrongKeys {
        /// How long none is looked at.
        rest: Duration,
    },
}

impl Seat {
    pub fn new(peer: Peer) -> Self {
        Self { counted: OnceLock::new(), peer }
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    /// Counts the request for as long as its record is open, and its connection once. There is
    /// no place for one whose record couldn't be written (threat 108).
    pub(super) fn take(&self, agent: &Agent, settings: &Settings, open: &mut Open) -> Result<Seated, Error> {
        if !open.is_admitted() {
            return Err(Error::Unrecorded);
        }
        if self.counted.get().is_none() {
            let counted = agent.begin_connection(settings.agent_connections).ok_or(TooMany::Connections)?;
            // Nobody else can have been here: a connection's requests are one thread's.
            let _ = self.counted.set(counted);
        }
        open.hold(agent.begin_request(settings.agent_requests).ok_or(TooMany::Requests)?);
        Ok(Seated)
    }
}

/// The request is counted.
pub(super) struct Seated;

impl Noted for TooMany {
    fn note(&self, record: &mut Record) {
        match self {
            Self::WrongKeys { .. } => Unknown::Mismatch.note(record),
            Self::Requests | Self::Connections => {}
        }
    }
}

impl Noted for Seated {
    fn note(&self, _: &mut Record) {}
}
