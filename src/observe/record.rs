//! The record of one request, and the events that stand beside records in the log.
//!
//! A record is filled as the request walks the pipeline: each stage's result notes
//! itself ([`Noted`]). It never holds a query, a header value or a secret.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
    time::{Duration, SystemTime},
};

use http::Method;
use tokio::time::Instant;

use super::{Kept, counter::add};
use crate::primitives::{
    AgentName, Authority, CanonicalPath, CredentialName, Fingerprint, ListenerName, RequestId, RouteName, Shared,
};

/// One request, from its first header byte to the last byte of its answer.
#[derive(Clone, Debug)]
pub struct Record {
    pub id: RequestId,
    pub time: SystemTime,
    pub started: Instant,
    pub listener: ListenerName,
    pub asked: Asked,
    pub agent: Kept<AgentName>,
    pub decision: Decision,
    /// Whose token went along.
    pub credential: Kept<CredentialName>,
    pub token: Option<TokenUse>,
    pub outcome: Outcome,
    pub traffic: Arc<Traffic>,
}

/// What is known of a request as it begins.
#[derive(Debug)]
pub struct Opening<'a> {
    pub id: RequestId,
    pub time: SystemTime,
    pub started: Instant,
    pub listener: &'a ListenerName,
    pub method: Option<Method>,
    /// As far as it is known from where the request came through.
    pub authority: Option<&'a Authority>,
    pub protocol: Protocol,
}

/// What the agent asked for, as far as it could be understood.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `None`: what came was no request that could be read.
    pub method: Option<Method>,
    pub authority: Kept<Authority>,
    pub path: Option<CanonicalPath>,
    pub protocol: Protocol,
}

/// How the request reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http10,
    Http11,
    Http2,
    /// A tunnel asked for at a SOCKS door, as long as nothing is known of what is inside.
    Socks5,
    /// Bytes of a blind tunnel: `CONNECT` that isn't intercepted.
    Tunnel,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "http/1.0",
            Self::Http11 => "http/1.1",
            Self::Http2 => "h2",
            Self::Socks5 => "socks5",
            Self::Tunnel => "tunnel",
        }
    }
}

/// What policy said, and why.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// `None` as long as the request was refused before any decision (bad request, unknown agent).
    pub allowed: Option<bool>,
    pub route: Kept<RouteName>,
    pub reason: Cow<'static, str>,
}

/// Which token went along. Never the token.
#[derive(Clone, Copy, Debug)]
pub struct TokenUse {
    pub fingerprint: Fingerprint,
    pub generation: u64,
    /// How long the request waited for the token; zero where one was at hand.
    pub wait: Duration,
}

/// How it ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub upstream_addr: Option<SocketAddr>,
    /// From sending the request upstream to the head of the answer.
    pub upstream_time: Option<Duration>,
    pub status: Option<u16>,
    pub retried: bool,
    /// A stable code (`upstream_timeout`), or `agent_gone` where the agent left before the end.
    pub error: Option<&'static str>,
}

/// Body bytes in both directions, counted where they pass.
#[derive(Debug, Default)]
pub struct Traffic {
    from_agent: AtomicU64,
    to_agent: AtomicU64,
}

impl Traffic {
    fn reopen(this: &mut Arc<Self>) {
        // Nobody has a weak one, so that a look at the count is enough: an exclusive loan would
        // have to lock it.
        if Arc::strong_count(this) > 1 {
            // An upload that its answer didn't wait for still counts there.
            *this = Arc::default();
            return;
        }
        // After all that the others counted before they let go.
        fence(Ordering::Acquire);
        this.from_agent.store(0, Ordering::Relaxed);
        this.to_agent.store(0, Ordering::Relaxed);
    }

    /// As with [`add_to_agent`](Self::add_to_agent), one counts at a time: whoever holds the
    /// agent's body.
    pub fn add_from_agent(&self, bytes: usize) {
        add(&self.from_agent, bytes as u64);
    }

    /// Not to be called twice at once: whoever passes the answer on counts, and nobody else.
    pub fn add_to_agent(&self, bytes: usize) {
        add(&self.to_agent, bytes as u64);
    }

    pub fn from_agent(&self) -> u64 {
        self.from_agent.load(Ordering::Relaxed)
    }

    pub fn to_agent(&self) -> u64 {
        self.to_agent.load(Ordering::Relaxed)
    }
}

// === impl Record ===

impl Record {
    pub(super) fn open(opening: Opening<'_>) -> Self {
        let Opening { id, time, started, listener, method, authority, protocol } = opening;
        Self {
            id,
            time,
            started,
            listener: listener.clone(),
            asked: Asked { method, authority: authority.cloned().into(), path: None, protocol },
            agent: Kept::default(),
            decision: Decision::default(),
            credential: Kept::default(),
            token: None,
            outcome: Outcome::default(),
            traffic: Arc::default(),
        }
    }

    /// As [`open`](Self::open), in the place of another request's; nothing of that is seen.
    pub(super) fn reopen(&mut self, opening: Opening<'_>) {
        let Self { id, time, started, listener, asked, agent, decision, credential, token, outcome, traffic } = self;
        (*id, *time, *started) = (opening.id, opening.time, opening.started);
        if !listener.is_same(opening.listener) {
            *listener = opening.listener.clone();
        }
        asked.reopen(opening.method, opening.authority, opening.protocol);
        agent.clear();
        decision.reopen();
        credential.clear();
        (*token, *outcome) = (None, Outcome::default());
        Traffic::reopen(traffic);
    }
}

impl Asked {
    fn reopen(&mut self, now: Option<Method>, known: Option<&Authority>, through: Protocol) {
        let Self { method, authority, path, protocol } = self;
        (*method, *path, *protocol) = (now, None, through);
        authority.set_or_clear(known);
    }
}

impl Decision {
    fn reopen(&mut self) {
        let Self { allowed, route, reason } = self;
        (*allowed, *reason) = (None, Cow::Borrowed(""));
        route.clear();
    }
}

// === impl Noted ===

/// A stage's result that writes itself into the record.
pub trait Noted {
    fn note(&self, record: &mut Record);
}

/// A stage that came to nothing but that all is well.
impl Noted for () {
    fn note(&self, _: &mut Record) {}
}

impl<T: Noted> Noted for &T {
    fn note(&self, record: &mut Record) {
        (*self).note(record);
    }
}

impl Record {
    /// Writes a stage's result, good or bad, and hands it on.
    pub fn note<T: Noted, E: Noted>(&mut self, result: Result<T, E>) -> Result<T, E> {
        match &result {
            Ok(value) => value.note(self),
            Err(error) => error.note(self),
        }
        result
    }
}

// === impl Event ===

/// Something that is no request but belongs in the same log.
#[derive(Clone, Debug)]
pub enum Event {
    /// A first token, or one after an expiry.
    TokenIssued(TokenEvent),
    /// A token that replaces one still valid.
    TokenRefreshed(TokenEvent),
    TokenFailed {
        credential: CredentialName,
        grant: &'static str,
        /// A stable class: `invalid_client`, `timeout`, …
        error: &'static str,
        /// The authorization server's own words, cut to a sane length and cleaned of
        /// control characters; never a secret.
        detail: String,
        duration: Duration,
        retry_in: Option<Duration>,
    },
    /// A token that another process asked for, or this one before it was started again.
    TokenLoaded(TokenEvent),
    /// Taken back at its server (RFC 7009).
    TokenRevoked {
        credential: CredentialName,
        fingerprint: Fingerprint,
    },
    /// A human logged in.
    Login {
        credential: CredentialName,
        grant: &'static str,
        fingerprint: Fingerprint,
    },
    /// A login was given up; `revoked`: its server said that it took it back.
    Logout {
        credential: CredentialName,
        revoked: bool,
    },
    ConfigReloaded {
        accepted: bool,
        detail: String,
    },
    Alert {
        /// A stable code, such as `audit_dropped`.
        kind: &'static str,
        detail: String,
    },
}

/// The facts of a token that was got.
#[derive(Clone, Debug)]
pub struct TokenEvent {
    pub credential: CredentialName,
    pub grant: &'static str,
    pub fingerprint: Fingerprint,
    pub generation: u64,
    pub expires_at: SystemTime,
    pub duration: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::line::tests::{record, refused};

    /// Or it would tell of another agent's request.
    #[test]
    fn a_record_that_is_filled_again_is_as_good_as_new() {
        let started = Instant::now();
        let known = refused();
        let opening = || Opening {
            id: known.id,
            time: known.time,
            started,
            listener: &known.listener,
            method: known.asked.method.clone(),
            authority: None,
            protocol: known.asked.protocol,
        };
        let fresh = format!("{:?}", Record::open(opening()));
        let mut again = record();
        assert_ne!(format!("{again:?}"), fresh);
        again.reopen(opening());
        assert_eq!(format!("{again:?}"), fresh);
        // Where an upload still counts.
        let mut again = record();
        let upload = Arc::clone(&again.traffic);
        again.reopen(opening());
        upload.add_from_agent(7);
        assert_eq!(format!("{again:?}"), fresh);
    }
}
