//! What ended on one worker, on the way to the collector: the lines of the audit log, and what the
//! requests came to for the metrics. Each worker writes into a lane of its own, so that nobody
//! waits for another one; and it does so as soon as a request ends, while all that its record
//! names is at hand. So a record is free for the next request at once, too.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{
    Event, Record,
    line::{self, Scribe},
    metrics::Metrics,
    tally::Tally,
};
use crate::primitives::AgentName;

/// The second half of the room has so many shares.
const SHARES: usize = 8;
/// In such parts of it is counted what is taken: a count that all workers move would cost each
/// request more than its line.
const PARTS: usize = 1024;
/// Memory above this many bytes is given back as soon as a batch needs less than a quarter of it.
const KEPT: usize = 256 * 1024;
/// Events that wait to be counted at most.
const MOST_EVENTS: usize = 4096;

/// Of one worker, or of all who have none.
#[derive(Debug)]
pub(super) struct Lane(Mutex<Ledger>);

/// The memory for all lanes' lines.
///
/// While the disk stands still, the first half of its bytes is whoever's comes. Of the second half
/// an agent has a share in each lane, and those who showed no key have one together: whoever
/// floods the log loses records of its own, and not those of others (threat 108).
#[derive(Debug)]
pub(super) struct Room {
    bound: usize,
    taken: AtomicUsize,
    lanes: AtomicUsize,
}

/// Lines in the order of their requests' ends, and what else is to be told.
#[derive(Debug)]
pub(super) struct Ledger {
    /// `None`: there is no log.
    scribe: Option<Scribe>,
    lines: Lines,
    /// So many bytes of them are counted in the room.
    counted: usize,
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

// === impl Room ===

impl Room {
    /// Of so many bytes.
    pub(super) fn new(bound: usize) -> Self {
        Self { bound, taken: AtomicUsize::new(0), lanes: AtomicUsize::new(1) }
    }

    pub(super) fn share_among(&self, lanes: usize) {
        self.lanes.store(lanes.max(1), Ordering::Relaxed);
    }

    /// Whether half of it is taken, so that shares count.
    pub(super) fn is_crowded(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.bound / 2
    }

    fn is_full(&self) -> bool {
        self.taken.load(Ordering::Relaxed) >= self.bound
    }

    /// An agent's, in one lane.
    fn share(&self) -> usize {
        self.bound / 2 / SHARES / self.lanes.load(Ordering::Relaxed)
    }
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(has_log: bool, is_closed: bool, metrics: &Metrics) -> Self {
        Self(Mutex::new(Ledger {
            scribe: has_log.then(Scribe::new),
            lines: Lines::default(),
            counted: 0,
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
    pub(super) fn push_record(
        &mut self,
        record: &Record,
        duration: Duration,
        room: &Room,
        metrics: &Metrics,
    ) -> Pushed {
        self.push(room, |ledger| {
            ledger.tally.record(record, duration, metrics);
            if ledger.scribe.is_none() {
                return true;
            }
            let agent = record.agent.get();
            if !ledger.has_room(agent, room, Ahead::Nothing) {
                return false;
            }
            let share = room.is_crowded().then(|| agent.cloned());
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

    pub(super) fn push_event(&mut self, event: Event, time: SystemTime, room: &Room) -> Pushed {
        self.push(room, |ledger| {
            if room.is_full() || ledger.events.len() >= MOST_EVENTS {
                return false;
            }
            if ledger.scribe.is_some() {
                ledger.lines.push_event(&event, time);
            }
            ledger.events.push(event);
            true
        })
    }

    fn push(&mut self, room: &Room, entry: impl FnOnce(&mut Self) -> bool) -> Pushed {
        let is_first = std::mem::replace(&mut self.is_empty, false);
        let is_kept = !self.is_closed && entry(self);
        let more = self.lines.end - self.counted;
        if more > room.bound / PARTS {
            room.taken.fetch_add(more, Ordering::Relaxed);
            self.counted = self.lines.end;
        }
        Pushed { is_kept, is_first, is_crowded: room.is_crowded() }
    }

    /// Whether a record of this agent has room; with `ahead`, and others of it that are under
    /// way too.
    pub(super) fn has_room(&self, agent: Option<&AgentName>, room: &Room, ahead: Ahead) -> bool {
        let share = match ahead {
            Ahead::Nothing => room.share(),
            Ahead::OthersUnderWay => room.share() / 2,
        };
        let used = || self.shares.get(&agent.cloned()).copied().unwrap_or_default();
        !room.is_crowded() || (!room.is_full() && used() < share)
    }

    /// Whether it has something that the collector doesn't know of.
    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Gives its lines in exchange for `empty` ones, and the rest to the metrics. `close`: for the
    /// last time.
    pub(super) fn settle(&mut self, empty: &mut Lines, room: &Room, metrics: &Metrics, close: bool) {
        self.is_closed |= close;
        if std::mem::replace(&mut self.is_empty, true) {
            // At rest: others have something to tell.
            return self.lines.clear();
        }
        std::mem::swap(&mut self.lines, empty);
        room.taken.fetch_sub(std::mem::take(&mut self.counted), Ordering::Relaxed);
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
    fn fill(ledger: &mut Ledger, record: &Record, room: &Room) -> usize {
        let metrics = Metrics::default();
        (0..).take_while(|_| ledger.push_record(record, Duration::ZERO, room, &metrics).is_kept).count()
    }

    /// Bytes of a record's line.
    fn length(record: &Record) -> usize {
        let mut ledger = ledger(&Metrics::default());
        assert_eq!(fill(&mut ledger, record, &Room::new(2)), 1);
        ledger.lines.text().len()
    }

    /// But for what isn't counted yet: two lines at most.
    #[track_caller]
    fn assert_near(found: usize, expected: usize) {
        assert!((expected..=expected + 3).contains(&found), "{found} and not {expected}");
    }

    /// Threat 108: who floods the log takes no room from others.
    #[test]
    fn a_flood_leaves_others_their_room() {
        let (flood, mut other) = (refused(), record());
        other.agent = AgentName::parse("agent-0").ok().into();
        let room = Room::new(1600 * length(&flood));
        let its_share = (100 * length(&flood)).div_ceil(length(&other));
        let mut ledger = ledger(&Metrics::default());
        assert_near(fill(&mut ledger, &flood, &room), 800 + 100);
        assert!(!ledger.has_room(None, &room, Ahead::Nothing));
        assert!(ledger.has_room(other.agent.get(), &room, Ahead::OthersUnderWay));
        for number in 0..6 {
            other.agent = AgentName::parse(&format!("agent-{number}")).ok().into();
            assert_eq!(fill(&mut ledger, &other, &room), its_share, "{number}");
        }
        for name in ["last", "too-late"] {
            other.agent = AgentName::parse(name).ok().into();
            let found = fill(&mut ledger, &other, &room);
            assert_eq!(found > 0, name == "last", "{name}: {found}");
        }
        assert!(!ledger.push_event(failed("no"), other.time, &room).is_kept);
        ledger.settle(&mut Lines::default(), &room, &Metrics::default(), false);
        assert!(!room.is_crowded());
        assert_near(fill(&mut ledger, &flood, &room), 900);
    }

    /// One lane's load may need what the others don't.
    #[test]
    fn room_is_for_whichever_lane_needs_it() {
        let room = Room::new(1600 * length(&refused()));
        room.share_among(4);
        let [mut busy, mut quiet] = [(), ()].map(|()| ledger(&Metrics::default()));
        // Half of all, and a quarter of an agent's share.
        assert_near(fill(&mut busy, &refused(), &room), 800 + 25);
        assert_near(fill(&mut quiet, &refused(), &room), 25);
        let mut lines = Lines::default();
        busy.settle(&mut lines, &room, &Metrics::default(), false);
        assert!(quiet.has_room(None, &room, Ahead::OthersUnderWay));
        quiet.settle(&mut lines, &room, &Metrics::default(), false);
        assert_eq!(room.taken.load(Ordering::Relaxed), 0);
    }

    /// Requests that are let in have records that still find room at their end.
    #[test]
    fn requests_are_stopped_before_records_are_lost() {
        let (record, metrics) = (record(), Metrics::default());
        let room = Room::new(1600 * length(&record));
        let mut ledger = ledger(&metrics);
        while ledger.has_room(record.agent.get(), &room, Ahead::OthersUnderWay) {
            assert!(ledger.push_record(&record, Duration::ZERO, &room, &metrics).is_kept);
        }
        assert_near(usize::try_from(ledger.lines.count()).unwrap(), 850);
        assert_eq!(fill(&mut ledger, &record, &room), 50);
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
        let (mut ledger, mut lines, room) = (ledger(&metrics), Lines::default(), Room::new(usize::MAX));
        for (count, is_kept) in [(1, true), (20_000, true), (20_000, true), (1, false), (1, true)] {
            for _ in 0..count {
                assert!(ledger.push_record(&record(), Duration::ZERO, &room, &metrics).is_kept);
            }
            ledger.settle(&mut lines, &room, &metrics, false);
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
        let (mut lines, room) = (Lines::default(), Room::new(2));
        for _ in 0..9 {
            assert!(ledger.push_record(&record(), Duration::ZERO, &room, &metrics).is_kept);
            assert!(ledger.push_event(failed("no"), moment(), &room).is_kept);
        }
        ledger.settle(&mut lines, &room, &metrics, false);
        assert_eq!(lines.count(), 0);
        assert!(metrics.encode().contains("cupbearer_request_duration_seconds_count 9\n"));
        assert!(metrics.encode().contains("cupbearer_token_request_duration_seconds_count 9\n"));
    }
}
