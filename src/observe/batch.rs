//! What ended, on the way to the collector, by its address. The records go round: those that the
//! collector has written are filled again by the threads that serve. What a request owned alone,
//! its record and its path among it, is freed or used again there, too: blocks that another
//! thread frees, tens of milliseconds later, cost an allocator several times as much.

use std::{collections::HashMap, ops::RangeInclusive, time::SystemTime};

use tokio::time::Instant;

use super::{Event, Record};
use crate::primitives::AgentName;

/// What the agent chose, path and method, may have so many bytes for its record's place; it takes
/// another one for as many more.
const TEXT_OF_A_PLACE: usize = 512;
/// A full queue's second half has so many shares.
const SHARES: usize = 8;
/// Written records that are kept: so many where few are under way, and never more than so many.
/// That is for batches of half as many: 60,000 requests a second, and a disk that is slow for a
/// moment. Some 400 bytes each, on either side of the swap: 7 MB.
const WRITTEN: RangeInclusive<usize> = 32..=8192;
/// So many are handed out at once.
const HANDFUL: usize = 16;

/// Entries in the order of their end.
///
/// While the disk stands still, its first half is whoever's comes. Of the second half an agent
/// has a share, and those who showed no key have one together: whoever floods the log loses
/// records of its own, and not those of others (threat 108).
#[derive(Debug, Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    /// Those of former batches, to be filled again.
    written: Vec<Used>,
    /// So many of those are kept: what batches of late would need, and as much again.
    keeps: usize,
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

/// A record that was written. What goes round is its place: a list of records would copy them.
pub(super) type Used = Box<Record>;

/// Small: a record stays where its request filled it.
#[derive(Debug)]
pub(super) enum Entry {
    /// And when it ended.
    Record(Box<Record>, Instant),
    Event(Box<Event>, SystemTime),
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
        if !self.has_room(record.agent.get(), bound, Ahead::Nothing) {
            return false;
        }
        let shares = self.is_crowded(bound).then(|| record.agent.get().cloned());
        let path = record.asked.path.as_ref().map_or(0, |path| path.as_str().len());
        let method = record.asked.method.as_ref().map_or(0, |method| method.as_str().len());
        let places = 1 + (path + method) / TEXT_OF_A_PLACE;
        self.entries.push(Entry::Record(record, ended));
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

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Gives away some records to be filled again.
    pub(super) fn hand_out(&mut self, to: &mut Vec<Used>) {
        let rest = self.written.len().saturating_sub(HANDFUL);
        to.extend(self.written.drain(rest..));
    }

    /// After it was written. Gives back what `entries` don't need, after a surge.
    pub(super) fn reset(&mut self, entries: usize) {
        // Batches come in all sizes: a small one is no sign that the next one is small.
        let wanted = (2 * self.entries.len()).max(self.keeps - self.keeps / 8);
        self.keeps = wanted.clamp(*WRITTEN.start(), *WRITTEN.end());
        self.written.truncate(self.keeps);
        for entry in self.entries.drain(..) {
            match entry {
                Entry::Record(mut record, _) if self.written.len() < self.keeps => {
                    record.asked.path.take_if(|path| path.as_str().len() > TEXT_OF_A_PLACE);
                    record.asked.method.take_if(|method| method.as_str().len() > TEXT_OF_A_PLACE);
                    self.written.push(record);
                }
                Entry::Record(..) | Entry::Event(..) => {}
            }
        }
        self.entries.shrink_to(entries);
        self.taken = 0;
        if !self.shares.is_empty() {
            self.shares = HashMap::new();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use http::Method;

    use super::*;
    use crate::{
        observe::line::tests::{failed, record, refused},
        primitives::CanonicalPath,
    };

    fn fill(batch: &mut Batch, record: &Record, bound: usize) -> usize {
        (0..).take_while(|_| batch.push_record(record.clone().into(), record.started, bound)).count()
    }

    #[test]
    fn long_texts_take_more_room() {
        let text = "A".repeat(60_000);
        let (mut with_path, mut with_method) = (record(), record());
        with_path.asked.path = CanonicalPath::parse(&format!("/{text}")).ok();
        with_method.asked.method = Method::from_bytes(text.as_bytes()).ok();
        for record in [with_path, with_method] {
            let mut batch = Batch::default();
            let count = fill(&mut batch, &record, 65_536);
            assert!(count * 60_000 < 65_536 * TEXT_OF_A_PLACE + 60_000, "{count}");
            assert!(count > 200, "{count}");
            batch.reset(10);
            assert!(batch.is_empty() && !batch.written.is_empty());
            // None is kept for its record's next request.
            let is_short = |record: &Used| {
                let (path, method) = (&record.asked.path, &record.asked.method);
                path.as_ref().is_none_or(|path| path.as_str().len() < 100)
                    && method.as_ref().is_none_or(|method| method.as_str().len() < 100)
            };
            assert!(batch.written.iter().all(is_short));
            assert_eq!(fill(&mut batch, &record, 4), 1);
        }
    }

    /// Threat 108: who floods the log takes no room from others.
    #[test]
    fn a_flood_leaves_others_their_room() {
        const BOUND: usize = 1600;
        let mut batch = Batch::default();
        let (flood, mut other) = (refused(), record());
        assert_eq!(fill(&mut batch, &flood, BOUND), 800 + 100);
        assert!(!batch.has_room(None, BOUND, Ahead::Nothing));
        assert!(batch.has_room(other.agent.get(), BOUND, Ahead::OthersUnderWay));
        for number in 0..7 {
            other.agent = AgentName::parse(&format!("agent-{number}")).ok().into();
            assert_eq!(fill(&mut batch, &other, BOUND), 100, "{number}");
        }
        other.agent = AgentName::parse("late").ok().into();
        assert_eq!(fill(&mut batch, &other, BOUND), 0);
        assert!(!batch.push_event(failed("no"), other.time, BOUND));
        batch.reset(0);
        assert_eq!(fill(&mut batch, &flood, BOUND), 900);
    }

    #[test]
    fn records_go_round_as_many_as_are_needed() {
        let mut batch = Batch::default();
        let mut handed = Vec::new();
        batch.hand_out(&mut handed);
        assert!(handed.is_empty());
        fill(&mut batch, &record(), 20_000);
        batch.reset(10);
        assert_eq!(batch.written.len(), *WRITTEN.end());
        batch.hand_out(&mut handed);
        assert_eq!(handed.len(), HANDFUL);
        for _ in 0..100 {
            assert!(batch.push_record(record().into(), record().started, 10));
            batch.reset(10);
        }
        assert_eq!(batch.written.len(), *WRITTEN.start());
        assert!(batch.entries.capacity() < 100);
    }

    /// Requests that are let in have records that still find room at their end.
    #[test]
    fn requests_are_stopped_before_records_are_lost() {
        let mut batch = Batch::default();
        let agent = record().agent;
        while batch.has_room(agent.get(), 1600, Ahead::OthersUnderWay) {
            assert!(batch.push_record(record().into(), record().started, 1600));
        }
        assert_eq!(batch.len(), 850);
        assert_eq!(fill(&mut batch, &record(), 1600), 50);
    }
}
