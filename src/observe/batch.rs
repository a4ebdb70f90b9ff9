//! What ended, on the way to the collector: by value and in one piece of memory. What a request
//! owned alone, its record and its path among it, is freed where it was made: blocks that
//! another thread frees, tens of milliseconds later, cost an allocator several times as much.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use http::Method;
use tokio::time::Instant;

use super::{Asked, Decision, Event, Outcome, Record, TokenUse, line::cut_path, record::Protocol};
use crate::primitives::{AgentName, ListenerName, RequestId};

/// Of its texts a record may bring so many bytes for its place; it takes another one for as
/// many more.
const TEXT_OF_A_PLACE: usize = 512;
/// A full queue's second half has so many shares.
const SHARES: usize = 8;

/// Entries in the order of their end.
///
/// While the disk stands still, its first half is whoever's comes. Of the second half an agent
/// has a share, and those who showed no key have one together: whoever floods the log loses
/// records of its own, and not those of others (threat 108).
#[derive(Debug, Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    texts: Texts,
    /// Places taken.
    taken: usize,
    /// Those in the second half, by agent.
    shares: HashMap<Option<AgentName>, usize>,
}

/// For what there should be room besides a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    Nothing,
    OthersUnderWay,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are records, and a box for each would cost more")]
pub(super) enum Entry {
    Record(Ended),
    Event(Box<Event>, SystemTime),
}

/// A record whose request has ended; its texts are its batch's.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) id: RequestId,
    pub(super) time: SystemTime,
    pub(super) duration: Duration,
    pub(super) listener: ListenerName,
    pub(super) method: Option<Method>,
    pub(super) host: Option<Span>,
    pub(super) port: Option<u16>,
    pub(super) path: Option<Span>,
    pub(super) protocol: Protocol,
    pub(super) agent: Option<AgentName>,
    pub(super) decision: Decision,
    pub(super) token: Option<TokenUse>,
    pub(super) outcome: Outcome,
    pub(super) from_agent: u64,
    pub(super) to_agent: u64,
}

/// The hosts and paths of a batch's records.
#[derive(Debug, Default)]
pub(super) struct Texts(String);

#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether half of its `bound` places are taken, so that shares count.
    pub(super) fn is_crowded(&self, bound: usize) -> bool {
        self.taken >= bound / 2
    }

    /// Whether a record of this agent has room; with `ahead`, and others of it that are under
    /// way too.
    pub(super) fn has_room(&self, agent: Option<&AgentName>, bound: usize, ahead: Ahead) -> bool {
        let share = match ahead {
            Ahead::Nothing => bound / 2 / SHARES,
            Ahead::OthersUnderWay => bound / 4 / SHARES,
        };
        let used = || self.shares.get(&agent.cloned()).copied().unwrap_or_default();
        !self.is_crowded(bound) || (self.taken < bound && used() < share)
    }

    /// False: there was no room, and it is lost.
    pub(super) fn push_record(&mut self, record: Box<Record>, ended: Instant, bound: usize) -> bool {
        if !self.has_room(record.agent.as_ref(), bound, Ahead::Nothing) {
            return false;
        }
        let shares = self.is_crowded(bound).then(|| record.agent.clone());
        let before = self.texts.0.len();
        self.entries.push(Entry::Record(Ended::new(*record, ended, &mut self.texts)));
        let places = 1 + (self.texts.0.len() - before) / TEXT_OF_A_PLACE;
        self.taken += places;
        if let Some(agent) = shares {
            *self.shares.entry(agent).or_default() += places;
        }
        true
    }

    /// False: there was no room, and it is lost.
    pub(super) fn push_event(&mut self, event: Event, time: SystemTime, bound: usize) -> bool {
        if self.taken >= bound {
            return false;
        }
        self.entries.push(Entry::Event(Box::new(event), time));
        self.taken += 1;
        true
    }

    /// Its entries, one after the other; what isn't taken is dropped, and `self` is empty.
    pub(super) fn drain(&mut self) -> (impl Iterator<Item = Entry>, &Texts) {
        (self.entries.drain(..), &self.texts)
    }

    /// Gives back what `entries` don't need, after a surge.
    pub(super) fn reset(&mut self, entries: usize) {
        self.entries.clear();
        self.entries.shrink_to(entries);
        self.texts.0.clear();
        self.texts.0.shrink_to(entries * 64);
        self.taken = 0;
        self.shares = HashMap::new();
    }
}

impl Ended {
    fn new(record: Record, ended: Instant, texts: &mut Texts) -> Self {
        let Record { id, time, started, listener, asked, agent, decision, token, outcome, traffic } = record;
        let Asked { method, authority, path, protocol } = asked;
        Self {
            id,
            time,
            duration: ended.duration_since(started),
            listener,
            method,
            host: authority.as_ref().map(|authority| texts.add(authority.host_str())),
            port: authority.as_ref().map(|authority| authority.port()),
            path: path.map(|path| texts.add(&cut_path(path.as_str()))),
            protocol,
            agent,
            decision,
            token,
            outcome,
            from_agent: traffic.from_agent(),
            to_agent: traffic.to_agent(),
        }
    }
}

impl Texts {
    fn add(&mut self, text: &str) -> Span {
        // Far below four gigabytes: a batch is full long before.
        let start = self.0.len() as u32;
        self.0.push_str(text);
        Span { start, end: self.0.len() as u32 }
    }

    pub(super) fn at(&self, span: Span) -> &str {
        self.0.get(span.start as usize..span.end as usize).unwrap_or_default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        observe::line::tests::{failed, record, refused},
        primitives::CanonicalPath,
    };

    /// As the collector gets it, after no time at all.
    pub(in crate::observe) fn ended(record: Record) -> (Ended, Texts) {
        let mut texts = Texts::default();
        let started = record.started;
        (Ended::new(record, started, &mut texts), texts)
    }

    fn fill(batch: &mut Batch, record: &Record, bound: usize) -> usize {
        (0..).take_while(|_| batch.push_record(record.clone().into(), record.started, bound)).count()
    }

    #[test]
    fn long_paths_take_more_room() {
        let mut batch = Batch::default();
        let mut record = record();
        record.asked.path = CanonicalPath::parse(&format!("/{}", "a".repeat(60_000))).ok();
        let count = fill(&mut batch, &record, 65_536);
        assert!(count > 7_000 && count < 14_000, "{count}");
        assert!(batch.texts.0.len() < 65_536 * TEXT_OF_A_PLACE);
        batch.reset(10);
        assert!(batch.is_empty() && batch.texts.0.capacity() < 1000);
        assert_eq!(fill(&mut batch, &record, 4), 1);
    }

    /// Threat 108: who floods the log takes no room from others.
    #[test]
    fn a_flood_leaves_others_their_room() {
        const BOUND: usize = 1600;
        let mut batch = Batch::default();
        let (flood, mut other) = (refused(), record());
        assert_eq!(fill(&mut batch, &flood, BOUND), 800 + 100);
        assert!(!batch.has_room(None, BOUND, Ahead::Nothing));
        assert!(batch.has_room(other.agent.as_ref(), BOUND, Ahead::OthersUnderWay));
        for number in 0..7 {
            other.agent = AgentName::parse(&format!("agent-{number}")).ok();
            assert_eq!(fill(&mut batch, &other, BOUND), 100, "{number}");
        }
        other.agent = AgentName::parse("late").ok();
        assert_eq!(fill(&mut batch, &other, BOUND), 0);
        assert!(!batch.push_event(failed("no"), other.time, BOUND));
        batch.reset(0);
        assert_eq!(fill(&mut batch, &flood, BOUND), 900);
    }

    /// Requests that are let in have records that still find room at their end.
    #[test]
    fn requests_are_stopped_before_records_are_lost() {
        let mut batch = Batch::default();
        let agent = record().agent;
        while batch.has_room(agent.as_ref(), 1600, Ahead::OthersUnderWay) {
            assert!(batch.push_record(record().into(), record().started, 1600));
        }
        assert_eq!(batch.len(), 850);
        assert_eq!(fill(&mut batch, &record(), 1600), 50);
    }
}
