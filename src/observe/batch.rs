//! What ended, on the way to the collector: by value and in one piece of memory. What a request
//! owned alone, its record and its path among it, is freed where it was made: blocks that
//! another thread frees, tens of milliseconds later, cost an allocator several times as much.

use std::time::{Duration, SystemTime};

use http::Method;
use tokio::time::Instant;

use super::{Asked, Decision, Event, Outcome, Record, TokenUse, line::cut_path, record::Protocol};
use crate::primitives::{AgentName, ListenerName, RequestId};

/// Bytes of hosts and paths that wait at most, however long the paths are.
const MOST_TEXT: usize = 32 * 1024 * 1024;

/// Entries in the order of their end.
#[derive(Debug, Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    texts: Texts,
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
    pub(super) method: Method,
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

    /// Whether it has more than `bound` entries, or texts that are as good as that.
    pub(super) fn is_full(&self, bound: usize) -> bool {
        self.entries.len() >= bound || self.texts.0.len() >= MOST_TEXT
    }

    pub(super) fn push_record(&mut self, record: Box<Record>, ended: Instant) {
        self.entries.push(Entry::Record(Ended::new(*record, ended, &mut self.texts)));
    }

    pub(super) fn push_event(&mut self, event: Event, time: SystemTime) {
        self.entries.push(Entry::Event(Box::new(event), time));
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

    /// As the collector gets it, after no time at all.
    pub(in crate::observe) fn ended(record: Record) -> (Ended, Texts) {
        let mut texts = Texts::default();
        let started = record.started;
        (Ended::new(record, started, &mut texts), texts)
    }

    #[test]
    fn long_paths_fill_it_too() {
        let mut batch = Batch::default();
        let mut record = crate::observe::line::tests::record();
        record.asked.path = crate::primitives::CanonicalPath::parse(&format!("/{}", "a".repeat(60_000))).ok();
        while !batch.is_full(65_536) {
            batch.push_record(record.clone().into(), record.started);
        }
        assert!(batch.len() > 10_000 && batch.len() < 20_000, "{}", batch.len());
        batch.reset(10);
        assert!(batch.is_empty() && !batch.is_full(1));
        assert!(batch.texts.0.capacity() < 1000);
    }
}
