//! What one agent may have under way at once (threat 87): connections and requests, whichever
//! doors they come through. A connection is the agent's who first showed a key on it.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use crate::{
    identity::{Agent, Counted, Unknown},
    observe::{Noted, Record},
    primitives::{Authority, HostError},
};

use super::{Error, Peer, Settings, open::Open};

/// A connection's place among those of its agent.
#[derive(Debug, Default)]
pub struct Seat {
    counted: OnceLock<Counted>,
    peer: Peer,
    named: Mutex<Option<Named>>,
}

/// An authority as a request named it, and what that is in canonical form.
#[derive(Debug)]
struct Named {
    text: Box<str>,
    default_port: u16,
    authority: Authority,
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
        Self { peer, ..Self::default() }
    }

    /// That of another connection of the same peer.
    #[must_use]
    pub fn nested(&self) -> Self {
        Self::new(self.peer)
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    /// As [`Authority::parse`]. A connection's requests name one authority again and again, in
    /// one spelling.
    pub(super) fn authority(&self, text: &str, default_port: u16) -> Result<Authority, HostError> {
        // Nothing panics while it is held.
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(named) = named.as_ref().filter(|named| named.default_port == default_port && *named.text == *text) {
            return Ok(named.authority.clone());
        }
        let authority = Authority::parse(text, Some(default_port))?;
        *named = Some(Named { text: text.into(), default_port, authority: authority.clone() });
        Ok(authority)
    }

    /// Counts the request for as long as its record is open, and its connection once. There is
    /// no place for one whose record couldn't be written (threat 108).
    pub(super) fn take(&self, agent: &Agent, settings: &Settings, open: &mut Open) -> Result<(), Error> {
        if !open.is_admitted() {
            return Err(Error::Unrecorded);
        }
        if self.counted.get().is_none() {
            let counted = agent.begin_connection(settings.agent_connections).ok_or(TooMany::Connections)?;
            // Nobody else can have been here: a connection's requests are one thread's.
            let _ = self.counted.set(counted);
        }
        open.hold(agent.begin_request(settings.agent_requests).ok_or(TooMany::Requests)?);
        Ok(())
    }
}

impl Noted for TooMany {
    fn note(&self, record: &mut Record) {
        match self {
            Self::WrongKeys { .. } => Unknown::Mismatch.note(record),
            Self::Requests | Self::Connections => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_what_its_own_text_says() {
        let seat = Seat::default();
        for (text, port, is) in [
            ("a.example", 80, "a.example:80"),
            ("a.example", 80, "a.example:80"),
            ("a.example", 443, "a.example:443"),
            ("A.example:80", 443, "a.example:80"),
            ("b.example", 443, "b.example:443"),
        ] {
            assert_eq!(seat.authority(text, port).unwrap().as_str(), is);
        }
        assert!(seat.authority("b.example:", 443).is_err());
        assert_eq!(seat.authority("b.example", 443).unwrap().as_str(), "b.example:443");
    }
}
