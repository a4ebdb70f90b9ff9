//! A record that is still open. Whatever happens to the request (answered, refused,
//! or the agent left while it was under way), its record ends exactly once.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{
    identity::Counted,
    observe::{Record, Recorder},
};

use super::{Tunnel, standing::REVOKED};

/// Ends its record when dropped: as the agent's leaving, unless [`Open::end`] was called
/// or something else was wrong before.
#[derive(Debug)]
pub(super) struct Open {
    /// `None` only while dropping.
    record: Option<Box<Record>>,
    agent_stayed: bool,
    way: Way,
    /// Its place among those of its agent that are under way.
    counted: Option<Counted>,
}

/// Where it came through, which knows where its record goes.
#[derive(Debug)]
pub(super) enum Way {
    Door(Arc<Recorder>),
    Tunnel(Arc<Tunnel>),
}

impl Way {
    fn recorder(&self) -> &Recorder {
        match self {
            Self::Door(recorder) => recorder,
            Self::Tunnel(tunnel) => &tunnel.recorder,
        }
    }

    /// It was cut by us, perhaps, together with all that its tunnel carried.
    fn is_revoked(&self) -> bool {
        match self {
            Self::Door(_) => false,
            Self::Tunnel(tunnel) => tunnel.is_revoked(),
        }
    }
}

impl Open {
    pub(super) fn new(record: Box<Record>, way: Way) -> Self {
        Self { record: Some(record), agent_stayed: false, way, counted: None }
    }

    /// Whether the log takes records of its agent now.
    pub(super) fn is_admitted(&self) -> bool {
        self.way.recorder().admits(self.agent.get())
    }

    pub(super) fn hold(&mut self, counted: Counted) {
        self.counted = Some(counted);
    }

    /// The answer is through, or `error` (a stable code) broke it off. Returns when that was.
    pub(super) fn end(mut self, error: Option<&'static str>) -> Option<Instant> {
        self.agent_stayed = true;
        self.outcome.error = error.or(self.outcome.error);
        self.close()
    }

    fn close(&mut self) -> Option<Instant> {
        let mut record = self.record.take()?;
        if !self.agent_stayed {
            let revoked = self.way.is_revoked();
            // A refusal that the agent didn't wait for was a refusal all the same.
            record.outcome.error.get_or_insert(if revoked { REVOKED } else { "agent_gone" });
        }
        Some(self.way.recorder().end(record))
    }

    /// There is nothing to record: others hold the records of what came of it.
    pub(super) fn discard(mut self) {
        self.record = None;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close();
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

#[cfg(test)]
mod tests {
    use crate::{identity::testing::record, observe::Settings};

    use super::*;

    #[tokio::test]
    async fn a_record_ends_as_what_went_wrong_first() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("audit.jsonl");
        let recorder =
            Arc::new(Recorder::start(&Settings { audit_log: Some(log.clone()), ..Settings::default() }).unwrap());
        let open = || Open::new(record().into(), Way::Door(Arc::clone(&recorder)));
        drop(open());
        let mut refused = open();
        refused.outcome.error = Some("host_not_allowed");
        drop(refused);
        open().end(None);
        open().end(Some("upstream_timeout"));
        open().discard();
        recorder.flush();
        let text = std::fs::read_to_string(log).unwrap();
        let errors: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["error"].clone())
            .collect();
        let null = serde_json::Value::Null;
        assert_eq!(errors, ["agent_gone".into(), "host_not_allowed".into(), null, "upstream_timeout".into()]);
    }
}
