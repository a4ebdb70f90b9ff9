//! A record that is still open. Whatever happens to the request (answered, refused,
//! or the agent left while it was under way), its record ends exactly once.

use std::ops::{Deref, DerefMut};

use crate::observe::{Record, Recorder};

/// Ends its record when dropped: as the agent's leaving, unless [`Open::end`] was called.
#[derive(Debug)]
pub(super) struct Open {
    /// `None` only while dropping.
    record: Option<Box<Record>>,
    recorder: Recorder,
    agent_stayed: bool,
}

impl Open {
    pub(super) fn new(record: Record, recorder: Recorder) -> Self {
        Self { record: Some(Box::new(record)), recorder, agent_stayed: false }
    }

    /// The answer is through, or `error` (a stable code) broke it off.
    pub(super) fn end(mut self, error: Option<&'static str>) {
        self.agent_stayed = true;
        self.outcome.error = error.or(self.outcome.error);
    }

    /// There is nothing to record: others hold the records of what came of it.
    pub(super) fn discard(mut self) {
        self.record = None;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            if !self.agent_stayed {
                record.outcome.error = Some("agent_gone");
            }
            self.recorder.end(*record);
        }
    }
}

impl Deref for Open {
    type Target = Record;

    #[expect(clippy::expect_used, reason = "taken in drop only, after which nothing can ask")]
    fn deref(&self) -> &Record {
        self.record.as_ref().expect("the record is open until the drop")
    }
}

impl DerefMut for Open {
    #[expect(clippy::expect_used, reason = "taken in drop only, after which nothing can ask")]
    fn deref_mut(&mut self) -> &mut Record {
        self.record.as_mut().expect("the record is open until the drop")
    }
}
