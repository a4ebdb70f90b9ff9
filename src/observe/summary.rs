//! Totals of a process's life, in the two lines that `cupbearer run` ends with.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{Event, Record, counter::add, metrics::RequestOutcome};

/// Counted by the collector alone, read by anyone.
#[derive(Debug, Default)]
pub struct Summary {
    requests: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    from_agent: AtomicU64,
    to_agent: AtomicU64,
    issued: AtomicU64,
    refreshed: AtomicU64,
    token_failures: AtomicU64,
}

/// What some requests add to it.
#[derive(Debug, Default)]
pub(super) struct Totals {
    requests: u64,
    refused: u64,
    failed: u64,
    from_agent: u64,
    to_agent: u64,
}

impl Totals {
    pub(super) fn record(&mut self, record: &Record, outcome: RequestOutcome) {
        // git asks without its key first and comes back with it: nobody was refused.
        if record.outcome.error == Some("agent_unknown") {
            return;
        }
        self.requests += 1;
        match outcome {
            RequestOutcome::Refused => self.refused += 1,
            RequestOutcome::Failed => self.failed += 1,
            RequestOutcome::Ok
            | RequestOutcome::Upstream4xx
            | RequestOutcome::Upstream5xx
            | RequestOutcome::AgentGone => {}
        }
        self.from_agent = self.from_agent.wrapping_add(record.traffic.from_agent());
        self.to_agent = self.to_agent.wrapping_add(record.traffic.to_agent());
    }
}

impl Summary {
    pub(super) fn add(&self, totals: &Totals) {
        let Totals { requests, refused, failed, from_agent, to_agent } = totals;
        add(&self.requests, *requests);
        add(&self.refused, *refused);
        add(&self.failed, *failed);
        add(&self.from_agent, *from_agent);
        add(&self.to_agent, *to_agent);
    }

    pub(super) fn event(&self, event: &Event) {
        match event {
            Event::TokenIssued(_) => add(&self.issued, 1),
            Event::TokenRefreshed(_) => add(&self.refreshed, 1),
            Event::TokenFailed { .. } => add(&self.token_failures, 1),
            Event::TokenLoaded(_)
            | Event::TokenRevoked { .. }
            | Event::Login { .. }
            | Event::Logout { .. }
            | Event::ConfigReloaded { .. }
            | Event::Alert { .. } => {}
        }
    }
}

/// Two lines.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let plural = |number: u64, noun: &str| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
        writeln!(
            f,
            "cupbearer: {}, {} refused, {} failed; {} sent, {} received",
            plural(count(&self.requests), "request"),
            count(&self.refused),
            count(&self.failed),
            Bytes(count(&self.from_agent)),
            Bytes(count(&self.to_agent)),
        )?;
        write!(
            f,
            "cupbearer: {} issued, {} refreshed ahead of expiry, {}",
            plural(count(&self.issued), "token"),
            count(&self.refreshed),
            plural(count(&self.token_failures), "failed token request"),
        )
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    #[expect(clippy::cast_precision_loss, reason = "one digit behind the point is shown")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < units.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_two_lines_in_plain_words() {
        let (summary, mut totals) = (Summary::default(), Totals::default());
        let mut record = crate::observe::line_tests::record();
        record.traffic = std::sync::Arc::default();
        record.traffic.add_to_agent(1536);
        totals.record(&record, RequestOutcome::Ok);
        totals.record(&record, RequestOutcome::Refused);
        summary.add(&totals);
        assert_eq!(
            summary.to_string(),
            "cupbearer: 2 requests, 1 refused, 0 failed; 0 B sent, 3.0 KiB received\n\
             cupbearer: 0 tokens issued, 0 refreshed ahead of expiry, 0 failed token requests"
        );
    }
}
