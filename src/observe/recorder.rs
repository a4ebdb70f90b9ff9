//! The handle that rooms write to, and the collector thread behind it. Knows no format:
//! the lanes and the sinks do.
//!
//! ```text
//! end(record) -> its worker's lane: the line, the tally --first of a batch--> wake the collector
//!                                  gather 20 ms, take each lane's lines -> audit log
//!                                                         and its tally -> metrics
//! ```

use std::{
    cell::RefCell,
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Event, Record,
    audit::AuditLog,
    lane::{Ahead, Lane, Ledger, Lines, Pushed, Room},
    metrics::Metrics,
    record::Opening,
};
use crate::primitives::{AgentName, Clock, SystemClock};

/// Bytes that wait for the collector at most, in all lanes together: the disk has to stand still
/// for that. Some 70,000 requests.
const BOUND: usize = 48 << 20;
/// Gathering makes one wake-up and one write of what would be thousands under load.
const GATHER: Duration = Duration::from_millis(20);
/// A log that can't be written is tried again so often, though there be nothing new.
const RETRY: Duration = Duration::from_secs(1);
/// Ended records that a thread keeps, to be filled again.
const SPARES: usize = 128;

/// A record that was written. What goes round is its place: a list of records would copy them.
type Used = Box<Record>;

thread_local! {
    /// Records that were written, for this thread to fill again: the last one first, which is the
    /// one that the processor still has at hand.
    static SPARE: RefCell<Vec<Used>> = const { RefCell::new(Vec::new()) };
}

/// Where records go.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The audit log, JSON lines; `None`: no file (metrics are still kept).
    pub audit_log: Option<PathBuf>,
    /// While the log can't be written, requests are served all the same.
    pub danger_serve_unrecorded: bool,
}

/// A cheap handle; clones write to the same lane and the same sinks. Dropping the last one writes
/// what is left and ends the thread.
#[derive(Clone, Debug)]
pub struct Recorder {
    lane: Arc<Lane>,
    owner: Arc<Owner>,
}

impl Recorder {
    /// Opens the sinks and starts the collector thread.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        Self::start_with(settings, Arc::new(SystemClock))
    }

    /// As [`start`](Self::start), with the clock that dates events.
    pub fn start_with(settings: &Settings, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let audit = settings.audit_log.as_deref().map(AuditLog::open).transpose()?;
        let mut shared = Shared::new(clock, BOUND, audit.is_some());
        shared.refuses = audit.is_some() && !settings.danger_serve_unrecorded;
        let shared = Arc::new(shared);
        let lane = shared.lane();
        let sinks = Sinks::new(audit, Arc::clone(&shared));
        let thread = thread::Builder::new().name("cupbearer-audit".to_owned()).spawn(move || sinks.collect())?;
        Ok(Self { lane, owner: Arc::new(Owner { shared, thread: Mutex::new(Some(thread)) }) })
    }

    /// A handle for another thread that ends many records. What it writes, it writes into a lane
    /// of its own: it waits for no other one.
    pub fn for_worker(&self) -> Self {
        Self { lane: self.owner.shared.lane(), owner: Arc::clone(&self.owner) }
    }

    /// Whether a request of this agent may be let in: not where its record is to be written
    /// and couldn't be (threats 108 and R2). Costs a look at a flag as long as all is well.
    pub fn admits(&self, agent: Option<&AgentName>) -> bool {
        let shared = &self.owner.shared;
        !shared.refuses || !shared.strained.load(Ordering::Relaxed) || shared.has_room_for(&self.lane, agent)
    }

    /// Whether the log could be written when it was last tried.
    pub fn is_written(&self) -> bool {
        !self.owner.shared.failing.load(Ordering::Relaxed)
    }

    /// Whether requests are refused while it can't.
    pub fn refuses(&self) -> bool {
        self.owner.shared.refuses
    }

    /// A record to be filled and [ended](Self::end): one that was written already, where this
    /// thread has one.
    pub fn begin(opening: Opening<'_>) -> Box<Record> {
        let used = SPARE.try_with(|spare| spare.try_borrow_mut().ok()?.pop());
        match used.ok().flatten() {
            Some(mut record) => {
                record.reopen(opening);
                record
            }
            None => Box::new(Record::open(opening)),
        }
    }

    /// Writes a finished request's line; its duration ends here, at the moment that is returned.
    /// Never waits for a sink: past the bound the line is dropped and counted in
    /// `cupbearer_audit_dropped_total`.
    pub fn end(&self, mut record: Box<Record>) -> Instant {
        let shared = &self.owner.shared;
        let ended = Instant::now();
        let duration = ended.duration_since(record.started);
        shared.push(&self.lane, |ledger| ledger.push_record(&record, duration, &shared.room, &shared.metrics));
        // What the request owned alone is given back while it is at hand.
        (record.asked.path, record.asked.method) = (None, None);
        let _ = SPARE.try_with(|spare| match spare.try_borrow_mut() {
            Ok(mut spare) if spare.len() < SPARES => spare.push(record),
            Ok(_) | Err(_) => {}
        });
        ended
    }

    /// Hands over an event, dated now. Bounded like [`end`](Self::end).
    pub fn event(&self, event: Event) {
        let shared = &self.owner.shared;
        let time = shared.clock.now();
        shared.push(&self.lane, |ledger| ledger.push_event(event, time, &shared.room));
    }

    /// Returns when everything written before the call has reached the sinks. Blocks: not
    /// for the request path.
    pub fn flush(&self) {
        self.owner.shared.flush(None);
    }

    /// As [`flush`](Self::flush), but waits for `limit` at most: a disk may stand still.
    /// Returns whether everything has arrived.
    pub fn flush_within(&self, limit: Duration) -> bool {
        self.owner.shared.flush(Some(limit))
    }

    /// Writes what is left and ends the thread. What comes later is dropped and counted.
    pub fn shutdown(&self) {
        self.owner.shutdown();
    }

    pub fn metrics(&self) -> &Metrics {
        &self.owner.shared.metrics
    }
}

/// What the clones of a [`Recorder`] share; ends the thread when the last one goes.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Owner {
    fn shutdown(&self) {
        self.shared.lock().stopping = true;
        self.shared.wake.notify_one();
        // Held while joining, so that a second caller returns no earlier than the first.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the collector of records ended in a panic; records were lost");
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shutdown();
    }
}

// === What threads share ===

#[derive(Debug)]
struct Shared {
    lanes: Mutex<Lanes>,
    room: Room,
    /// A lane has something that the collector doesn't know of.
    waiting: AtomicBool,
    /// The collector has gathered enough: the room gets scarce.
    crowded: AtomicBool,
    control: Mutex<Control>,
    /// To the collector: a lane has something, a flush is wanted, or it is time to stop.
    wake: Condvar,
    /// To those who flush.
    flushed: Condvar,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    has_log: bool,
    /// Requests whose records couldn't be written are refused.
    refuses: bool,
    /// The last batch couldn't be written.
    failing: AtomicBool,
    /// The room is crowded, or the log fails: who asks has to look.
    strained: AtomicBool,
}

#[derive(Debug, Default)]
struct Lanes {
    all: Vec<Arc<Lane>>,
    /// What comes now is lost.
    closed: bool,
}

#[derive(Debug, Default)]
struct Control {
    /// Flushes asked for, and up to which one they are done.
    flush_wanted: u64,
    flush_done: u64,
    stopping: bool,
    /// The collector is gone, and so is the hope of those who flush.
    ended: bool,
}

impl Control {
    fn is_urgent(&self) -> bool {
        self.stopping || self.flush_done < self.flush_wanted
    }
}

impl Shared {
    fn new(clock: Arc<dyn Clock>, bound: usize, has_log: bool) -> Self {
        Self {
            lanes: Mutex::default(),
            room: Room::new(bound),
            waiting: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            control: Mutex::default(),
            wake: Condvar::new(),
            flushed: Condvar::new(),
            metrics: Metrics::default(),
            clock,
            has_log,
            refuses: false,
            failing: AtomicBool::new(false),
            strained: AtomicBool::new(false),
        }
    }

    /// A new one.
    fn lane(&self) -> Arc<Lane> {
        let mut lanes = self.lanes();
        let lane = Arc::new(Lane::new(self.has_log, lanes.closed, &self.metrics));
        lanes.all.push(Arc::clone(&lane));
        self.room.share_among(lanes.all.len());
        lane
    }

    fn push(&self, lane: &Lane, entry: impl FnOnce(&mut Ledger) -> Pushed) {
        let Pushed { is_kept, is_first, is_crowded } = entry(&mut lane.lock());
        if is_crowded {
            self.strained.store(true, Ordering::Relaxed);
        }
        if !is_kept {
            self.metrics.drop_audit(1);
        }
        let is_news = is_first && !self.waiting.swap(true, Ordering::AcqRel);
        if is_news || (is_crowded && !self.crowded.swap(true, Ordering::AcqRel)) {
            // Else it may just have found nothing, and not sleep yet.
            drop(self.lock());
            self.wake.notify_one();
        }
    }

    fn has_room_for(&self, lane: &Lane, agent: Option<&AgentName>) -> bool {
        !self.failing.load(Ordering::Relaxed) && lane.lock().has_room(agent, &self.room, Ahead::OthersUnderWay)
    }

    fn flush(&self, limit: Option<Duration>) -> bool {
        let mut control = self.lock();
        control.flush_wanted += 1;
        let ticket = control.flush_wanted;
        self.wake.notify_one();
        let waiting = |control: &mut Control| control.flush_done < ticket && !control.ended;
        let control = match limit {
            None => self.flushed.wait_while(control, waiting).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                self.flushed.wait_timeout_while(control, limit, waiting).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        control.flush_done >= ticket
    }

    /// A poisoned lock is taken all the same: what it holds is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === The collector ===

/// What the collector thread owns.
#[derive(Debug)]
struct Sinks {
    audit: Option<AuditLog>,
    shared: Arc<Shared>,
    /// The lanes' lines; between two batches, what they are to be exchanged for.
    batch: Vec<Lines>,
    /// How many of the lost lines the log itself tells of.
    told: u64,
    losing: bool,
}

impl Sinks {
    fn new(audit: Option<AuditLog>, shared: Arc<Shared>) -> Self {
        Self { audit, shared, batch: Vec::new(), told: 0, losing: false }
    }

    fn collect(mut self) {
        let shared = Arc::clone(&self.shared);
        // Also where a sink panics: nobody may wait for this thread in vain.
        let _ended = Ended(&shared);
        loop {
            let (flush, last) = self.wait();
            self.take(last);
            self.write();
            self.tell();
            if let Some(flush) = flush {
                shared.lock().flush_done = flush;
                shared.flushed.notify_all();
            }
            if last {
                return;
            }
        }
    }

    /// Tells those who ask how the writing went.
    fn tell(&self) {
        let Shared { failing, strained, room, .. } = &*self.shared;
        // First, so that who finds the room crowded meanwhile has the last word.
        strained.store(self.fails(), Ordering::Relaxed);
        failing.store(self.fails(), Ordering::Relaxed);
        if room.is_crowded() {
            strained.store(true, Ordering::Relaxed);
        }
    }

    fn fails(&self) -> bool {
        self.audit.as_ref().is_some_and(AuditLog::is_failing)
    }

    /// Waits for something to do; where the log fails, that is to try it again. Returns the flush that
    /// it fulfils, and whether it is the last time.
    fn wait(&self) -> (Option<u64>, bool) {
        let Shared { wake, waiting, crowded, .. } = &*self.shared;
        let idle = |control: &mut Control| !waiting.load(Ordering::Acquire) && !control.is_urgent();
        let control = self.shared.lock();
        let control = if self.fails() {
            wake.wait_timeout_while(control, RETRY, idle).unwrap_or_else(PoisonError::into_inner).0
        } else {
            wake.wait_while(control, idle).unwrap_or_else(PoisonError::into_inner)
        };
        let (control, _) = wake
            .wait_timeout_while(control, GATHER, |control| !control.is_urgent() && !crowded.load(Ordering::Acquire))
            .unwrap_or_else(PoisonError::into_inner);
        // Before any lane is looked at: what comes behind that look says so again.
        waiting.store(false, Ordering::Release);
        crowded.store(false, Ordering::Release);
        let flush = (control.flush_done < control.flush_wanted).then_some(control.flush_wanted);
        (flush, control.stopping)
    }

    /// Takes what the lanes have.
    fn take(&mut self, last: bool) {
        let Self { shared, batch, .. } = self;
        let mut lanes = shared.lanes();
        lanes.closed |= last;
        batch.resize_with(lanes.all.len(), Lines::default);
        for (lane, lines) in lanes.all.iter().zip(batch) {
            lane.lock().settle(lines, &shared.room, &shared.metrics, last);
        }
        // Only the list has those: nobody writes into them any more.
        lanes.all.retain(|lane| Arc::strong_count(lane) > 1 || !lane.lock().is_empty());
        shared.room.share_among(lanes.all.len());
    }

    fn write(&mut self) {
        let Some(audit) = &mut self.audit else { return };
        let metrics = &self.shared.metrics;
        let count = self.batch.iter().map(Lines::count).sum();
        let dropped = metrics.audit_dropped();
        let missing = dropped - self.told;
        if missing > 0 && !self.losing {
            tracing::error!(lines = missing, "the audit log has gaps: lines were lost");
        }
        self.losing = missing > 0;
        if missing + count == 0 {
            return;
        }
        audit.begin();
        let mut gap = Lines::default();
        if missing > 0 {
            let detail = format!("{missing} lines are missing before this one");
            gap.push_event(&Event::Alert { kind: "audit_dropped", detail }, self.shared.clock.now());
        }
        // What is lost is lost from some line on, and the line about the gap is the first.
        let lost: u64 = std::iter::once(&gap).chain(&self.batch).map(|lines| audit.write(lines)).sum();
        let batch_lost = lost.min(count);
        if lost == batch_lost {
            self.told = dropped;
        }
        metrics.drop_audit(batch_lost);
        self.batch.iter_mut().for_each(Lines::clear);
    }
}

/// Where a sink panicked, what it was about to write is lost, or may be.
impl Drop for Sinks {
    fn drop(&mut self) {
        self.shared.metrics.drop_audit(self.batch.iter().map(Lines::count).sum());
    }
}

/// Tells everyone that the collector is gone.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut lanes = self.0.lanes();
        lanes.closed = true;
        for lane in &lanes.all {
            let mut left = Lines::default();
            lane.lock().settle(&mut left, &self.0.room, &self.0.metrics, true);
            self.0.metrics.drop_audit(left.count());
        }
        drop(lanes);
        if thread::panicking() {
            // Nothing is written any more.
            self.0.strained.store(true, Ordering::Relaxed);
            self.0.failing.store(true, Ordering::Relaxed);
        }
        self.0.lock().ended = true;
        self.0.flushed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        sync::mpsc::{RecvTimeoutError, channel},
        time::SystemTime,
    };

    use super::*;
    use crate::observe::{
        Asked,
        line::tests::{failed, moment, record, refused},
    };

    /// A clock that stands still.
    #[derive(Debug)]
    struct Still;

    impl Clock for Still {
        fn now(&self) -> SystemTime {
            moment()
        }
    }

    fn started(directory: &Path) -> (Recorder, PathBuf) {
        let path = directory.join("audit.jsonl");
        let settings = Settings { audit_log: Some(path.clone()), ..Settings::default() };
        (Recorder::start_with(&settings, Arc::new(Still)).unwrap(), path)
    }

    fn length_of(record: &Record) -> usize {
        let (mut lines, metrics) = (Lines::default(), Metrics::default());
        let lane = Lane::new(true, false, &metrics);
        let room = Room::new(BOUND);
        lane.lock().push_record(record, Duration::ZERO, &room, &metrics);
        lane.lock().settle(&mut lines, &room, &metrics, false);
        lines.text().len()
    }

    fn length_of_an_event() -> usize {
        let mut lines = Lines::default();
        lines.push_event(&failed("no"), moment());
        lines.text().len()
    }

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn flush_returns_when_all_has_been_written() {
        let directory = tempfile::tempdir().unwrap();
        let (recorder, path) = started(directory.path());
        for round in 1..=3 {
            for _ in 0..100 {
                recorder.end(record().into());
            }
            recorder.event(failed("no"));
            recorder.flush();
            assert_eq!(lines(&path).len(), round * 101);
        }
        let last = lines(&path).pop().unwrap();
        assert_eq!(last["event"], "token.failed");
        assert_eq!(last["time"], "2026-11-23T22:24:05.000042Z");
        assert!(recorder.metrics().encode().contains("cupbearer_request_duration_seconds_count 300"));
        assert_eq!(recorder.metrics().audit_dropped(), 0);
    }

    #[test]
    fn what_is_written_arrives_without_a_flush() {
        let directory = tempfile::tempdir().unwrap();
        let (recorder, path) = started(directory.path());
        recorder.end(record().into());
        let (done, seen) = channel::<()>();
        let watcher = std::thread::spawn({
            let path = path.clone();
            move || {
                while lines(&path).is_empty() {
                    std::thread::yield_now();
                }
                drop(done);
            }
        });
        assert_eq!(seen.recv_timeout(Duration::from_secs(30)), Err(RecvTimeoutError::Disconnected));
        watcher.join().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_duration_ends_with_the_record() {
        let directory = tempfile::tempdir().unwrap();
        let (recorder, path) = started(directory.path());
        let record = record();
        tokio::time::advance(Duration::from_millis(1234)).await;
        recorder.end(record.into());
        tokio::time::advance(Duration::from_secs(9)).await;
        recorder.flush();
        assert_eq!(lines(&path)[0]["duration_us"], 1_234_000);
    }

    #[test]
    fn the_last_handle_writes_what_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let (recorder, path) = started(directory.path());
        let clone = recorder.clone();
        drop(recorder);
        for _ in 0..10 {
            clone.end(record().into());
        }
        drop(clone);
        assert_eq!(lines(&path).len(), 10);
    }

    #[test]
    fn after_the_shutdown_records_are_counted_as_lost() {
        let directory = tempfile::tempdir().unwrap();
        let (recorder, path) = started(directory.path());
        recorder.end(record().into());
        recorder.shutdown();
        recorder.shutdown();
        recorder.end(record().into());
        recorder.flush();
        assert!(!recorder.flush_within(Duration::from_secs(60)));
        assert_eq!(lines(&path).len(), 1);
        assert_eq!(recorder.metrics().audit_dropped(), 1);
    }

    #[test]
    fn past_the_bound_entries_are_dropped_and_counted() {
        let shared = Shared::new(Arc::new(Still), 3 * length_of_an_event(), true);
        let lane = shared.lane();
        for _ in 0..5 {
            shared.push(&lane, |ledger| ledger.push_event(failed("no"), moment(), &shared.room));
        }
        let mut lines = Lines::default();
        lane.lock().settle(&mut lines, &shared.room, &shared.metrics, false);
        assert_eq!(lines.count(), 3);
        assert_eq!(shared.metrics.audit_dropped(), 2);
        assert!(shared.metrics.encode().contains("cupbearer_audit_dropped_total 2"));
    }

    /// Threat 108: never silently. The log itself says where lines are missing, once.
    #[test]
    fn a_gap_is_told_in_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/audit.jsonl");
        let shared = Arc::new(Shared::new(Arc::new(Still), BOUND, true));
        let mut sinks = Sinks::new(Some(AuditLog::open(&path).unwrap()), Arc::clone(&shared));
        let lanes = [shared.lane(), shared.lane()];
        let mut write = |lines| {
            for lane in lanes.iter().cycle().take(lines) {
                shared.push(lane, |ledger| ledger.push_event(failed("no"), moment(), &shared.room));
            }
            sinks.take(false);
            sinks.write();
        };
        shared.metrics.drop_audit(2);
        // A file where the directory was: nothing can be written.
        fs::remove_dir_all(directory.path().join("state")).unwrap();
        fs::write(directory.path().join("state"), "").unwrap();
        write(2);
        write(1);
        assert_eq!(shared.metrics.audit_dropped(), 5);
        fs::remove_file(directory.path().join("state")).unwrap();
        write(1);
        write(1);
        let lines = lines(&path);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["event"], "alert.audit_dropped");
        assert_eq!(lines[0]["detail"], "5 lines are missing before this one");
        assert_eq!(shared.metrics.audit_dropped(), 5);
    }

    /// Threat 108: refused, if not told otherwise, as long as the log can't be written.
    #[test]
    fn while_the_log_fails_nobody_is_let_in() {
        for danger_serve_unrecorded in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let state = directory.path().join("state");
            let settings = Settings { audit_log: Some(state.join("audit.jsonl")), danger_serve_unrecorded };
            let recorder = Recorder::start(&settings).unwrap();
            assert!(recorder.admits(None) && recorder.is_written());
            fs::remove_dir_all(&state).unwrap();
            fs::write(&state, "").unwrap();
            // The first one tells.
            recorder.end(record().into());
            recorder.flush();
            assert_eq!((recorder.admits(None), recorder.is_written()), (danger_serve_unrecorded, false));
            fs::remove_file(&state).unwrap();
            // It is tried again without anyone's asking, too.
            recorder.flush();
            assert!(recorder.admits(None) && recorder.is_written());
            assert_eq!(lines(&state.join("audit.jsonl"))[0]["event"], "alert.audit_dropped");
        }
    }

    /// Threat 108: what the collector's end leaves is a log that can't be written.
    #[test]
    fn after_a_collector_that_panicked_nobody_is_let_in() {
        #[derive(Debug)]
        struct Broken;

        impl Clock for Broken {
            fn now(&self) -> SystemTime {
                panic!("on purpose: the collector dates the alert of a gap");
            }
        }

        let directory = tempfile::tempdir().unwrap();
        let settings = Settings { audit_log: Some(directory.path().join("audit.jsonl")), ..Settings::default() };
        let recorder = Recorder::start_with(&settings, Arc::new(Broken)).unwrap();
        assert!(recorder.admits(None));
        recorder.metrics().drop_audit(1);
        recorder.end(record().into());
        recorder.flush();
        assert!(!recorder.flush_within(Duration::from_secs(60)), "nobody waits for what never comes");
        assert!(!recorder.admits(None) && !recorder.is_written());
        recorder.end(record().into());
        recorder.shutdown();
        assert_eq!(recorder.metrics().audit_dropped(), 3, "the gap, what was about to be written, what came later");
    }

    #[test]
    fn a_log_that_fails_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let settings = Settings { audit_log: Some(state.join("audit.jsonl")), ..Settings::default() };
        let recorder = Recorder::start(&settings).unwrap();
        fs::remove_dir_all(&state).unwrap();
        fs::write(&state, "").unwrap();
        recorder.end(record().into());
        recorder.flush();
        fs::remove_file(&state).unwrap();
        while !recorder.is_written() {
            std::thread::yield_now();
        }
        assert_eq!(lines(&state.join("audit.jsonl")).len(), 1);
    }

    /// Threat 108: who floods a log that stands still is refused, and others aren't.
    #[test]
    fn a_crowded_log_lets_others_in() {
        let mut shared = Shared::new(Arc::new(Still), 1600 * length_of(&refused()), true);
        shared.refuses = true;
        let (lane, other) = (shared.lane(), shared.lane());
        let flood = |count| {
            for _ in 0..count {
                shared.push(&lane, |ledger| {
                    ledger.push_record(&refused(), Duration::ZERO, &shared.room, &shared.metrics)
                });
            }
        };
        let strained = || shared.strained.load(Ordering::Relaxed);
        flood(799);
        assert!(!strained() && !shared.crowded.load(Ordering::Relaxed));
        flood(200);
        // At once, and not after it has gathered.
        assert!(strained() && shared.crowded.load(Ordering::Relaxed));
        assert!((146..=149).contains(&shared.metrics.audit_dropped()), "{}", shared.metrics.audit_dropped());
        assert!(!shared.has_room_for(&lane, None));
        assert!(shared.has_room_for(&other, None));
        assert!(shared.has_room_for(&lane, record().agent.get()));
    }

    #[test]
    fn a_log_that_cannot_be_opened_stops_the_start() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        let settings = Settings { audit_log: Some(directory.path().join("file/audit.jsonl")), ..Settings::default() };
        assert!(Recorder::start(&settings).is_err());
    }

    #[test]
    fn without_a_file_the_metrics_are_kept() {
        let recorder = Recorder::start(&Settings::default()).unwrap();
        recorder.end(record().into());
        recorder.flush();
        assert!(recorder.metrics().encode().contains("cupbearer_request_duration_seconds_count 1"));
    }

    #[test]
    fn records_come_back_to_be_filled_again() {
        let recorder = Recorder::start(&Settings::default()).unwrap();
        let spare = || SPARE.with_borrow(|spare| spare.len());
        assert_eq!(spare(), 0);
        for _ in 0..2 * SPARES {
            recorder.end(record().into());
        }
        assert_eq!(spare(), SPARES);
        let Record { id, time, started, listener, asked: Asked { method, protocol, .. }, .. } = refused();
        let again =
            Recorder::begin(Opening { id, time, started, listener: &listener, method, authority: None, protocol });
        assert_eq!((spare(), again.agent.get()), (SPARES - 1, None));
    }

    #[test]
    fn many_threads_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (recorder, path) = started(directory.path());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let recorder = recorder.for_worker();
                scope.spawn(move || {
                    for _ in 0..500 {
                        recorder.end(record().into());
                    }
                });
            }
        });
        recorder.flush();
        assert_eq!(lines(&path).len(), 2000);
        assert!(recorder.metrics().encode().contains("cupbearer_request_duration_seconds_count 2000\n"));
        // Nobody writes into the threads' lanes any more.
        assert_eq!(recorder.owner.shared.lanes().all.len(), 1);
    }

    /// Each on its own, as workers do whose connections come and go.
    #[test]
    fn whatever_comes_while_the_collector_works_arrives_too() {
        let directory = tempfile::tempdir().unwrap();
        let (recorder, path) = started(directory.path());
        let workers: Vec<_> = (0..3).map(|_| recorder.for_worker()).collect();
        std::thread::scope(|scope| {
            for worker in &workers {
                scope.spawn(move || {
                    for _ in 0..100 {
                        worker.end(record().into());
                        worker.flush();
                    }
                });
            }
        });
        assert_eq!(lines(&path).len(), 300);
    }
}
