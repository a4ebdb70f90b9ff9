//! What ended on one worker, on the way to the collector: the lines of the audit log, and what the
//! requests came to for the metrics. Each worker writes into a lane of its own, so that nobody
//! waits for another one; and it does so as soon as a request ends, while all that its record
//! names is at hand. So a record is free for the next request at once, too.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use super::{
    Event, Record,
    line::{self, Scribe},
    metrics::Metrics,
    tally::Tally,
};
use crate::primitives::AgentName;

/// The second half of a full lane has so many shares.
const SHARES: usize = 8;
/// Memory above this many bytes is given back as soon as a batch needs less than a quarter of it.
const KEPT: usize = 256 * 1024;
/// Events that wait to be counted at most.
const MOST_EVENTS: usize = 4096;

/// Of one worker, or of all who have none.
#[derive(Debug)]
pub(super) struct Lane(Mutex<Ledger>);

/// Lines in the order of their requests' ends, and what else is to be told.
///
/// While the disk stands still, the first half of its bytes is whoever's comes. Of the second half
/// an agent has a share, and those who showed no key have one together: whoever floods the log
/// loses records of its own, and not those of others (threat 108).
#[derive(Debug)]
pub(super) struct Ledger {
    /// `None`: there is no log.
    scribe: Option<Scribe>,
    lines: Lines,
    /// Bytes in the second half, by agent.
    shares: HashMap<Option<AgentName>, usize>,
    tally: Tally,
    events: Vec<Event>,
    /// Nothing has come since the collector was here.
    is_empty: bool,
    /// The collector was here for the last time: what comes now is lost.
    is_closed: bool,
}

/// Whole lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// … and behind them room that was written before: to clear it anew costs as much as a line.
    text: Vec<u8>,
    end: usize,
    count: u64,
}

/// For what there should be room besides a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    Nothing,
    OthersUnderWay,
}

/// What became of what was pushed.
#[derive(Debug)]
pub(super) struct Pushed {
    /// False: there was no room, and its line is lost.
    pub(super) is_kept: bool,
    /// The collector knows nothing of the lane yet.
    pub(super) is_first: bool,
    pub(super) is_crowded: bool,
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(has_log: bool, is_closed: bool, metrics: &Metrics) -> Self {
        Self(Mutex::new(Ledger {
            scribe: has_log.then(Scribe::new),
            lines: Lines::default(),
            shares: HashMap::new(),
            tally: Tally::new(metrics),
            events: Vec::new(),
            is_empty: true,
            is_closed,
        }))
    }

    /// A poisoned lock is taken all the same: lines are whole between any two statements.
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Ledger ===

impl Ledger {
    /// `bound` is in bytes, as everywhere here.
    pub(super) fn push_record(
        &mut self,
        record: &Record,
        duration: Duration,
        bound: usize,
        metrics: &Metrics,
    ) -> Pushed {
        self.push(bound, |ledger| {
            ledger.tally.record(record, duration, metrics);
            if ledger.scribe.is_none() {
                return true;
            }
            let agent = record.agent.get();
            if !ledger.has_room(agent, bound, Ahead::Nothing) {
                return false;
            }
            let share = ledger.is_crowded(bound).then(|| agent.cloned());
            let before = ledger.lines.end;
            if let Some(scribe) = &mut ledger.scribe {
                scribe.write_record(&mut ledger.lines, record, duration);
            }
            if let Some(agent) = share {
                *ledger.shares.entry(agent).or_default() += ledger.lines.end - before;
            }
            true
        })
    }

    pub(super) fn push_event(&mut self, event: Event, time: SystemTime, bound: usize) -> Pushed {
        self.push(bound, |ledger| {
            if ledger.lines.end >= bound || ledger.events.len() >= MOST_EVENTS {
                return false;
            }
            if ledger.scribe.is_some() {
                ledger.lines.push_event(&event, time);
            }
            ledger.events.push(event);
            true
        })
    }

    fn push(&mut self, bound: usize, entry: impl FnOnce(&mut Self) -> bool) -> Pushed {
        let is_first = std::mem::replace(&mut self.is_empty, false);
        let is_kept = !self.is_closed && entry(self);
        Pushed { is_kept, is_first, is_crowded: self.is_crowded(bound) }
    }

    /// Whether half of its room is taken, so that shares count.
    pub(super) fn is_crowded(&self, bound: usize) -> bool {
        self.lines.end >= bound / 2
    }

    /// Whether a record of this agent has room; with `ahead`, and others of it that are under
    /// way too.
    pub(super) fn has_room(&self, agent: Option<&AgentName>, bound: usize, ahead: Ahead) -> bool {
        let share = match ahead {
            Ahead::Nothing => bound / 2 / SHARES,
            Ahead::OthersUnderWay => bound / 4 / SHARES,
        };
        let used = || self.shares.get(&agent.cloned()).copied().unwrap_or_default();
        !self.is_crowded(bound) || (self.lines.end < bound && used() < share)
    }

    /// Whether it has something that the collector doesn't know of.
    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Gives its lines in exchange for `empty` ones, and the rest to the metrics. `close`: for the
    /// last time.
    pub(super) fn settle(&mut self, empty: &mut Lines, metrics: &Metrics, close: bool) {
        self.is_closed |= close;
        if std::mem::replace(&mut self.is_empty, true) {
            return;
        }
        std::mem::swap(&mut self.lines, empty);
        if !self.shares.is_empty() {
            self.shares = HashMap::new();
        }
        self.tally.settle(metrics);
        self.events.drain(..).for_each(|event| metrics.event(&event));
    }
}

// === impl Lines ===

impl Lines {
    pub(super) fn text(&self) -> &[u8] {
        &self.text[..self.end]
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Adds one, which `fill` writes into room of at least `room` bytes: it gives how many were
    /// left, or nothing where that was too little.
    pub(super) fn push_with(&mut self, mut room: usize, mut fill: impl FnMut(&mut [u8]) -> Option<usize>) {
        loop {
            if self.text.len() < self.end + room {
                // A quarter more: while the disk stands still, what is reserved is no multiple of the bound.
                self.text.resize((self.end + room).max(self.text.len() + self.text.len() / 4), 0);
            }
            if let Some(left) = fill(&mut self.text[self.end..]) {
                self.end = self.text.len() - left;
                self.count += 1;
                return;
            }
            room *= 2;
        }
    }

    pub(super) fn push_event(&mut self, event: &Event, time: SystemTime) {
        self.text.truncate(self.end);
        line::write_event(&mut self.text, event, time);
        (self.end, self.count) = (self.text.len(), self.count + 1);
    }

    /// They were written.
    pub(super) fn clear(&mut self) {
        if self.text.len() > KEPT && self.end < self.text.len() / 4 {
            self.text = Vec::new();
        }
        (self.end, self.count) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::line::tests::{failed, moment, record, refused};

    fn ledger(metrics: &Metrics) -> Ledger {
        Lane::new(true, false, metrics).0.into_inner().unwrap()
    }

    /// How many records find room.
    fn fill(ledger: &mut Ledger, record: &Record, bound: usize) -> usize {
        let metrics = Metrics::default();
        (0..).take_while(|_| ledger.push_record(record, Duration::ZERO, bound, &metrics).is_kept).count()
    }

    /// Bytes of a record's line.
    fn length(record: &Record) -> usize {
        let mut ledger = ledger(&Metrics::default());
        assert_eq!(fill(&mut ledger, record, 2), 1);
        ledger.lines.text().len()
    }

    /// Threat 108: who floods the log takes no room from others.
    #[test]
    fn a_flood_leaves_others_their_room() {
        let (flood, mut other) = (refused(), record());
        other.agent = crate::primitives::AgentName::parse("agent-0").ok().into();
        let bound = 1600 * length(&flood);
        let its_share = (100 * length(&flood)).div_ceil(length(&other));
        let mut ledger = ledger(&Metrics::default());
        assert_eq!(fill(&mut ledger, &flood, bound), 800 + 100);
        assert!(!ledger.has_room(None, bound, Ahead::Nothing));
        assert!(ledger.has_room(other.agent.get(), bound, Ahead::OthersUnderWay));
        for number in 0..7 {
            other.agent = AgentName::parse(&format!("agent-{number}")).ok().into();
            let found = fill(&mut ledger, &other, bound);
            assert!(found == its_share || number == 6 && found > its_share - 7, "{number}: {found} of {its_share}");
        }
        other.agent = AgentName::parse("late").ok().into();
        assert_eq!(fill(&mut ledger, &other, bound), 0);
        assert!(!ledger.push_event(failed("no"), other.time, bound).is_kept);
        ledger.settle(&mut Lines::default(), &Metrics::default(), false);
        assert_eq!(fill(&mut ledger, &flood, bound), 900);
    }

    /// Requests that are let in have records that still find room at their end.
    #[test]
    fn requests_are_stopped_before_records_are_lost() {
        let (record, metrics) = (record(), Metrics::default());
        let bound = 1600 * length(&record);
        let mut ledger = ledger(&metrics);
        while ledger.has_room(record.agent.get(), bound, Ahead::OthersUnderWay) {
            assert!(ledger.push_record(&record, Duration::ZERO, bound, &metrics).is_kept);
        }
        assert_eq!(ledger.lines.count(), 850);
        assert_eq!(fill(&mut ledger, &record, bound), 50);
    }

    #[test]
    fn lines_are_as_long_as_they_have_to_be() {
        let (mut lines, mut expected) = (Lines::default(), Vec::new());
        for length in [1, 5, 767, 768, 769, 5000, 1] {
            let line = vec![b'a'; length];
            lines.push_with(768, |room| {
                let rest = room.len().checked_sub(length)?;
                room[..length].copy_from_slice(&line);
                Some(rest)
            });
            expected.extend_from_slice(&line);
            lines.push_event(&failed("no"), moment());
            line::write_event(&mut expected, &failed("no"), moment());
            assert_eq!(lines.text(), expected);
        }
        assert_eq!(lines.count(), 14);
        lines.clear();
        assert_eq!((lines.text(), lines.count()), (&b""[..], 0));
    }

    #[test]
    fn a_surges_memory_is_given_back() {
        let metrics = Metrics::default();
        let (mut ledger, mut lines) = (ledger(&metrics), Lines::default());
        for (count, is_kept) in [(1, true), (20_000, true), (20_000, true), (1, false), (1, true)] {
            for _ in 0..count {
                assert!(ledger.push_record(&record(), Duration::ZERO, usize::MAX, &metrics).is_kept);
            }
            ledger.settle(&mut lines, &metrics, false);
            assert_eq!(lines.count(), count);
            lines.clear();
            // The next one goes into the same room.
            std::mem::swap(&mut ledger.lines, &mut lines);
            assert_eq!(!ledger.lines.text.is_empty(), is_kept, "{count}");
        }
    }

    /// Where records are nowhere written, they are counted.
    #[test]
    fn without_a_log_nothing_is_kept() {
        let metrics = Metrics::default();
        let mut ledger = Lane::new(false, false, &metrics).0.into_inner().unwrap();
        let mut lines = Lines::default();
        for _ in 0..9 {
            assert!(ledger.push_record(&record(), Duration::ZERO, 2, &metrics).is_kept);
            assert!(ledger.push_event(failed("no"), moment(), 2).is_kept);
        }
        ledger.settle(&mut lines, &metrics, false);
        assert_eq!(lines.count(), 0);
        assert!(metrics.encode().contains("cupbearer_request_duration_seconds_count 9\n"));
        assert!(metrics.encode().contains("cupbearer_token_request_duration_seconds_count 9\n"));
    }
}
