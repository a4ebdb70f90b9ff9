//! The handle that rooms write to, and the collector thread behind it. Knows no format:
//! the sinks do.
//!
//! ```text
//! end(record) -> [lock, push] --first of a batch--> wake the collector
//!                                                   gather 20 ms, swap the batch out
//!                                                   audit log, metrics
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
    batch::{Ahead, Batch, Entry, Used},
    metrics::Metrics,
    recent::RecentCounters,
    record::Opening,
};
use crate::primitives::{AgentName, Clock, SystemClock};

/// Entries that wait for the collector at most. Some 60 MB at worst, with their paths: the
/// disk has to stand still for that.
const BOUND: usize = 65_536;
/// Gathering makes one wake-up and one write of what would be thousands under load.
const GATHER: Duration = Duration::from_millis(20);
/// A log that can't be written is tried again so often, though there be nothing new.
const RETRY: Duration = Duration::from_secs(1);
/// A batch's memory above this many entries is given back after a surge.
const KEPT: usize = 8192;

thread_local! {
    /// Records that were written, for this thread to fill again.
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

/// A cheap handle; clones write to the same sinks. Dropping the last one writes what is
/// left and ends the thread.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Owner>);

impl Recorder {
    /// Opens the sinks and starts the collector thread.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        Self::start_with(settings, Arc::new(SystemClock))
    }

    /// As [`start`](Self::start), with the clock that dates events.
    pub fn start_with(settings: &Settings, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let audit = settings.audit_log.as_deref().map(AuditLog::open).transpose()?;
        let mut shared = Shared::new(clock, BOUND);
        shared.refuses = audit.is_some() && !settings.danger_serve_unrecorded;
        let shared = Arc::new(shared);
        let sinks = Sinks::new(audit, Arc::clone(&shared));
        let thread = thread::Builder::new().name("cupbearer-audit".to_owned()).spawn(move || sinks.collect())?;
        Ok(Self(Arc::new(Owner { shared, thread: Mutex::new(Some(thread)) })))
    }

    /// Whether a request of this agent may be let in: not where its record is to be written
    /// and couldn't be (threats 108 and R2). Costs a look at a flag as long as all is well.
    pub fn admits(&self, agent: Option<&AgentName>) -> bool {
        let shared = &self.0.shared;
        !shared.refuses || !shared.strained.load(Ordering::Relaxed) || shared.has_room_for(agent)
    }

    /// Whether the log could be written when it was last tried.
    pub fn is_written(&self) -> bool {
        !self.0.shared.strained.load(Ordering::Relaxed) || !self.0.shared.lock().failing
    }

    /// Whether requests are refused while it can't.
    pub fn refuses(&self) -> bool {
        self.0.shared.refuses
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

    /// Hands over a finished request; its duration ends here. Never waits for a sink: past
    /// the bound the record is dropped and counted in `cupbearer_audit_dropped_total`.
    pub fn end(&self, record: Box<Record>) {
        let ended = Instant::now();
        self.0.shared.push(|batch, bound| {
            let _ = SPARE.try_with(|spare| match spare.try_borrow_mut() {
                Ok(mut spare) if spare.is_empty() => batch.hand_out(&mut spare),
                Ok(_) | Err(_) => {}
            });
            batch.push_record(record, ended, bound)
        });
    }

    /// Hands over an event, dated now. Bounded like [`end`](Self::end).
    pub fn event(&self, event: Event) {
        let time = self.0.shared.clock.now();
        self.0.shared.push(|batch, bound| batch.push_event(event, time, bound));
    }

    /// Returns when everything written before the call has reached the sinks. Blocks: not
    /// for the request path.
    pub fn flush(&self) {
        self.0.shared.flush(None);
    }

    /// As [`flush`](Self::flush), but waits for `limit` at most: a disk may stand still.
    /// Returns whether everything has arrived.
    pub fn flush_within(&self, limit: Duration) -> bool {
        self.0.shared.flush(Some(limit))
    }

    /// Writes what is left and ends the thread. What comes later is dropped and counted.
    pub fn shutdown(&self) {
        self.0.shutdown();
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.shared.metrics
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

// === The queue ===

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// To the collector: a batch has begun, a flush is wanted, or it is time to stop.
    wake: Condvar,
    /// To those who flush.
    flushed: Condvar,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    bound: usize,
    /// Requests whose records couldn't be written are refused.
    refuses: bool,
    /// The queue is crowded, or the log fails: who asks has to look.
    strained: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    batch: Batch,
    /// The last batch couldn't be written.
    failing: bool,
    /// Flushes asked for, and up to which one they are done.
    flush_wanted: u64,
    flush_done: u64,
    stopping: bool,
    /// The last batch was taken: what comes now is lost.
    closed: bool,
    /// The collector is gone, and so is the hope of those who flush.
    ended: bool,
}

impl Shared {
    fn new(clock: Arc<dyn Clock>, bound: usize) -> Self {
        Self {
            queue: Mutex::default(),
            wake: Condvar::new(),
            flushed: Condvar::new(),
            metrics: Metrics::default(),
            clock,
            bound,
            refuses: false,
            strained: AtomicBool::new(false),
        }
    }

    fn push(&self, entry: impl FnOnce(&mut Batch, usize) -> bool) {
        let mut queue = self.lock();
        let first = queue.batch.is_empty();
        let taken = !queue.closed && entry(&mut queue.batch, self.bound);
        if queue.batch.is_crowded(self.bound) {
            self.strained.store(true, Ordering::Relaxed);
        }
        drop(queue);
        if !taken {
            self.metrics.drop_audit(1);
        } else if first {
            self.wake.notify_one();
        }
    }

    fn has_room_for(&self, agent: Option<&AgentName>) -> bool {
        let queue = self.lock();
        !queue.failing && queue.batch.has_room(agent, self.bound, Ahead::OthersUnderWay)
    }

    fn flush(&self, limit: Option<Duration>) -> bool {
        let mut queue = self.lock();
        queue.flush_wanted += 1;
        let ticket = queue.flush_wanted;
        self.wake.notify_one();
        let waiting = |queue: &mut Queue| queue.flush_done < ticket && !queue.ended;
        let queue = match limit {
            None => self.flushed.wait_while(queue, waiting).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                self.flushed.wait_timeout_while(queue, limit, waiting).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        queue.flush_done >= ticket
    }

    /// A poisoned lock is taken all the same: the queue is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === The collector ===

/// What the collector thread owns.
#[derive(Debug)]
struct Sinks {
    audit: Option<AuditLog>,
    counters: RecentCounters,
    shared: Arc<Shared>,
    /// How many of the lost lines the log itself tells of.
    told: u64,
    losing: bool,
}

impl Sinks {
    fn new(audit: Option<AuditLog>, shared: Arc<Shared>) -> Self {
        Self { audit, counters: RecentCounters::default(), shared, told: 0, losing: false }
    }

    fn collect(mut self) {
        let shared = Arc::clone(&self.shared);
        // Also where a sink panics: nobody may wait for this thread in vain.
        let _ended = Ended(&shared);
        let mut batch = Batch::default();
        loop {
            let (flush, last) = self.take(&mut batch);
            self.write(&batch);
            batch.reset(KEPT);
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
        let mut queue = self.shared.lock();
        queue.failing = self.fails();
        let strained = queue.failing || queue.batch.is_crowded(self.shared.bound);
        self.shared.strained.store(strained, Ordering::Relaxed);
    }

    fn fails(&self) -> bool {
        self.audit.as_ref().is_some_and(AuditLog::is_failing)
    }

    /// Waits for a batch; an empty one is there to try the log again. Returns the flush that it fulfils, and whether it is the last one.
    fn take(&self, batch: &mut Batch) -> (Option<u64>, bool) {
        let urgent = |queue: &Queue| queue.stopping || queue.flush_done < queue.flush_wanted;
        let wake = &self.shared.wake;
        let idle = |queue: &mut Queue| queue.batch.is_empty() && !urgent(queue);
        let queue = self.shared.lock();
        let queue = if self.fails() {
            wake.wait_timeout_while(queue, RETRY, idle).unwrap_or_else(PoisonError::into_inner).0
        } else {
            wake.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner)
        };
        let (mut queue, _) =
            wake.wait_timeout_while(queue, GATHER, |queue| !urgent(queue)).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut queue.batch, batch);
        queue.closed = queue.stopping;
        let flush = (queue.flush_done < queue.flush_wanted).then_some(queue.flush_wanted);
        (flush, queue.closed)
    }

    fn write(&mut self, batch: &Batch) {
        let count = batch.len() as u64;
        let dropped = self.shared.metrics.audit_dropped();
        self.begin(dropped - self.told, batch.is_empty());
        let metrics = &self.shared.metrics;
        for entry in batch.entries() {
            match entry {
                Entry::Record(record, ended) => {
                    let duration = ended.duration_since(record.started);
                    metrics.record(record, duration, &mut self.counters);
                    if let Some(audit) = &mut self.audit {
                        audit.record(record, duration);
                    }
                }
                Entry::Event(event, time) => {
                    metrics.event(event);
                    if let Some(audit) = &mut self.audit {
                        audit.event(event, *time);
                    }
                }
            }
        }
        let Some(audit) = &mut self.audit else { return };
        let lost = audit.finish();
        // A batch is lost from some line on, and the line about the gap is its first.
        let batch_lost = lost.min(count);
        if lost == batch_lost {
            self.told = dropped;
        }
        metrics.drop_audit(batch_lost);
    }

    /// Before a batch: tells of the lines that are `missing`, in both logs.
    fn begin(&mut self, missing: u64, nothing_else: bool) {
        let Some(audit) = &mut self.audit else { return };
        if missing > 0 && !self.losing {
            tracing::error!(lines = missing, "the audit log has gaps: lines were lost");
        }
        self.losing = missing > 0;
        if nothing_else && missing == 0 {
            return;
        }
        audit.begin();
        if missing > 0 {
            let detail = format!("{missing} lines are missing before this one");
            audit.event(&Event::Alert { kind: "audit_dropped", detail }, self.shared.clock.now());
        }
    }
}

/// Tells everyone that the collector is gone.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        (queue.closed, queue.ended) = (true, true);
        let left = std::mem::take(&mut queue.batch).len() as u64;
        drop(queue);
        self.0.metrics.drop_audit(left);
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
        let shared = Shared::new(Arc::new(Still), 3);
        for _ in 0..5 {
            shared.push(|batch, bound| batch.push_event(failed("no"), moment(), bound));
        }
        assert_eq!(shared.lock().batch.len(), 3);
        assert_eq!(shared.metrics.audit_dropped(), 2);
        assert!(shared.metrics.encode().contains("cupbearer_audit_dropped_total 2"));
    }

    /// Threat 108: never silently. The log itself says where lines are missing, once.
    #[test]
    fn a_gap_is_told_in_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/audit.jsonl");
        let shared = Arc::new(Shared::new(Arc::new(Still), 3));
        let mut sinks = Sinks::new(Some(AuditLog::open(&path).unwrap()), Arc::clone(&shared));
        let batch = |records| {
            let mut batch = Batch::default();
            (0..records).for_each(|_| assert!(batch.push_record(record().into(), Instant::now(), 9)));
            batch
        };
        shared.metrics.drop_audit(2);
        // A file where the directory was: nothing can be written.
        fs::remove_dir_all(directory.path().join("state")).unwrap();
        fs::write(directory.path().join("state"), "").unwrap();
        sinks.write(&batch(2));
        sinks.write(&batch(1));
        assert_eq!(shared.metrics.audit_dropped(), 5);
        fs::remove_file(directory.path().join("state")).unwrap();
        sinks.write(&batch(1));
        sinks.write(&batch(1));
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

    /// Threat 108: who floods a queue that stands still is refused, and others aren't.
    #[test]
    fn a_crowded_queue_lets_others_in() {
        let mut shared = Shared::new(Arc::new(Still), 1600);
        shared.refuses = true;
        let strained = |shared: &Shared| shared.strained.load(Ordering::Relaxed);
        for _ in 0..799 {
            shared.push(|batch, bound| batch.push_record(refused().into(), Instant::now(), bound));
        }
        assert!(!strained(&shared));
        for _ in 0..200 {
            shared.push(|batch, bound| batch.push_record(refused().into(), Instant::now(), bound));
        }
        assert!(strained(&shared));
        assert_eq!(shared.metrics.audit_dropped(), 99);
        assert!(!shared.has_room_for(None));
        assert!(shared.has_room_for(record().agent.get()));
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
        for _ in 0..5 {
            recorder.end(record().into());
            recorder.flush();
        }
        let came_back = spare();
        assert!(came_back > 0);
        let Record { id, time, started, listener, asked: Asked { method, protocol, .. }, .. } = refused();
        let again =
            Recorder::begin(Opening { id, time, started, listener: &listener, method, authority: None, protocol });
        assert_eq!((spare(), again.agent.get()), (came_back - 1, None));
    }

    #[test]
    fn many_threads_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (recorder, path) = started(directory.path());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let recorder = recorder.clone();
                scope.spawn(move || (0..500).for_each(|_| recorder.end(record().into())));
            }
        });
        recorder.flush();
        assert_eq!(lines(&path).len(), 2000);
    }
}
